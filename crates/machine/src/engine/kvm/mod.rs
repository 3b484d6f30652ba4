//! The KVM engine: Weft's own VMM, the role `weft vmm` of our own program. It boots kernels for x86-64 on hardware
//! virtualization, and nothing else. All talk with it is one JSON object a line, and one in answer (docs/VMM.md).

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use weft_model::{DiskFormat, EngineKind};

use super::start::{Role, await_set_up, socket_path};
use super::{Accelerator, Engine, Running, files, kvm_state};
use crate::host::KvmState;
use crate::spec::{Boot, LaunchSpec};
use crate::{MachineError, Process, disk, image};

/// Where the machine is controlled, in the run folder.
const CONTROL: &str = "control.sock";
/// What the machine is, in the run folder.
const DESCRIPTION: &str = "vmm.json";
const ROLE: Role = Role { name: "vmm", description: DESCRIPTION, accelerator: Accelerator::Kvm };

/// How long the process may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take to answer what it is asked once it runs.
const ANSWER_PATIENCE: Duration = Duration::from_millis(500);
/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// Memory comes in such pieces, in MiB, and there is so much of it at least.
const MEMORY_GRANULE_MIB: u64 = 2;
const MIN_MEMORY_MIB: u64 = 16;
/// The most processors that it has numbers for.
const MAX_CPUS: u16 = 254;
/// The most adapters that have room beside the other devices.
const MAX_NICS: usize = 24;

/// What it lacks for disks that boot by themselves.
const NO_FIRMWARE: &str = "boots kernels, and has no firmware that boots disks";

/// The engine.
pub(super) struct Kvm;

impl Engine for Kvm {
    fn kind(&self) -> EngineKind {
        EngineKind::Kvm
    }

    fn title(&self) -> &'static str {
        "Weft's VMM"
    }

    fn files(&self) -> &'static [&'static str] {
        &[CONTROL, DESCRIPTION]
    }

    fn is_process_of(&self, command_line: &[u8], run_dir: &Path) -> bool {
        ROLE.is_played_by(command_line, run_dir)
    }

    fn start(&self, spec: &LaunchSpec) -> Result<Running, MachineError> {
        start(spec, PATIENCE)
    }

    fn await_ready(&self, spec: &LaunchSpec, process: Process) -> Result<(), MachineError> {
        await_answer(spec, process, PATIENCE)
    }

    fn press_power_button(&self, run_dir: &Path) -> bool {
        ask(run_dir, "power-button", ANSWER_PATIENCE).is_ok()
    }

    fn quit(&self, run_dir: &Path) -> bool {
        ask(run_dir, "quit", ANSWER_PATIENCE).is_ok()
    }
}

/// Why this engine cannot run a machine, in words that go on from "it"; `None` if it can.
pub(super) fn why_not(spec: &LaunchSpec, kvm: &KvmState) -> Option<String> {
    match kvm {
        KvmState::Usable => {}
        KvmState::Unusable(why) => return Some(format!("needs hardware virtualization, and {why}")),
        KvmState::Absent => return Some("needs hardware virtualization, and there is no /dev/kvm".to_owned()),
        KvmState::NoPermission => return Some("needs /dev/kvm, which this user may not open".to_owned()),
    }
    if cfg!(not(target_arch = "x86_64")) {
        return Some("runs on x86-64 only".to_owned());
    }
    let Boot::Kernel { kernel, .. } = &spec.boot else {
        return Some(NO_FIRMWARE.to_owned());
    };
    if let Some(lack) = lacks(spec) {
        return Some(lack.to_owned());
    }
    if spec.cpus > MAX_CPUS {
        return Some(format!("has at most {MAX_CPUS} processors"));
    }
    if spec.nics.len() > MAX_NICS {
        return Some(format!("has at most {MAX_NICS} adapters"));
    }
    let mut head = Vec::new();
    // A kernel that cannot be read is told of by whoever reads it next.
    let _ = fs::File::open(kernel).map(|file| file.take(0x238).read_to_end(&mut head));
    (!is_64_bit_kernel(&head)).then(|| "boots kernels for x86-64 only, which this one is not".to_owned())
}

/// What a machine has that only QEMU has, in words that go on from "it".
fn lacks(spec: &LaunchSpec) -> Option<&'static str> {
    match spec {
        LaunchSpec { display: Some(_), .. } => Some("has no screen"),
        LaunchSpec { disk: Some(disk), .. } if disk.format == DiskFormat::Iso => Some("has no drive for CDs"),
        _ => None,
    }
}

/// Whether a file that begins like this is a bzImage with a 64-bit entry (the kernel's Documentation/arch/x86/boot.rst), or
/// a 64-bit ELF file for x86-64.
fn is_64_bit_kernel(head: &[u8]) -> bool {
    const XLF_KERNEL_64: u8 = 1;
    const FLAGS_SINCE: u16 = 0x20c;
    const ELF_64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
    const X86_64: &[u8] = &[62, 0];
    match head.get(0x202..0x208) {
        Some([b'H', b'd', b'r', b'S', low, high]) => {
            let flags = head.get(0x236).copied().unwrap_or(0);
            u16::from_le_bytes([*low, *high]) >= FLAGS_SINCE && flags & XLF_KERNEL_64 != 0
        }
        _ => head.starts_with(ELF_64_LITTLE) && head.get(18..20) == Some(X86_64),
    }
}

fn start(spec: &LaunchSpec, patience: Duration) -> Result<Running, MachineError> {
    if let Some(why) = why_not(spec, &kvm_state()) {
        return Err(MachineError::EngineUnfit { engine: Kvm.title(), vm: spec.name.to_string(), why });
    }
    start_anyway(spec, patience)
}

fn start_anyway(spec: &LaunchSpec, patience: Duration) -> Result<Running, MachineError> {
    let description = describe(spec)?.to_string();
    ROLE.launch(spec, &Kvm, description.as_bytes(), |process| await_answer(spec, process, patience))
}

/// The description that `weft vmm` reads.
fn describe(spec: &LaunchSpec) -> Result<Value, MachineError> {
    let Boot::Kernel { kernel, initrd, cmdline } = &spec.boot else {
        let why = NO_FIRMWARE.to_owned();
        return Err(MachineError::EngineUnfit { engine: Kvm.title(), vm: spec.name.to_string(), why });
    };
    let run = |file: &str| socket(&spec.run_dir.join(file));
    let nic = |nic: &crate::LaunchNic| {
        Ok(json!({ "socket": socket(&nic.socket)?, "mac": nic.mac.to_string(), "mtu": nic.mtu }))
    };
    Ok(json!({
        "cpus": spec.cpus,
        "memory-mib": spec.memory.mib().next_multiple_of(MEMORY_GRANULE_MIB).max(MIN_MEMORY_MIB),
        "kernel": text(&image::unpacked(kernel, &spec.cache_dir))?,
        "initrd": initrd.as_deref().map(text).transpose()?,
        "command-line": spec.words_for_kernel(cmdline),
        "serial": { "socket": run(files::CONSOLE)?, "log": text(&spec.state_dir.join(files::CONSOLE_LOG))? },
        "ports": [
            { "name": weft_agent::PORT_NAME, "socket": run(files::AGENT)? },
            { "name": "org.qemu.guest_agent.0", "socket": run(files::QGA)? },
        ],
        "disks": disks(spec)?,
        "nets": spec.nics.iter().map(nic).collect::<Result<Vec<_>, MachineError>>()?,
        "control": run(CONTROL)?,
    }))
}

/// The disk's overlay, and the seed behind it, in the order in which guests find them.
fn disks(spec: &LaunchSpec) -> Result<Vec<Value>, MachineError> {
    let file = |name: &str| spec.state_dir.join(name);
    let Some(disk) = &spec.disk else { return Ok(Vec::new()) };
    // The lower disk is said here, and what the overlay's own header says is not followed.
    let base = json!({ "path": text(&disk.base)?, "format": disk.format.as_str() });
    let overlay = json!({ "path": text(&file(disk::OVERLAY))?, "format": "qcow2", "id": "disk", "backing": base });
    let mut disks = vec![overlay];
    if disk.seed.is_some() {
        disks.push(json!({ "path": text(&file(disk::SEED))?, "read-only": true, "id": "seed" }));
    }
    Ok(disks)
}

/// A path as text: JSON has no other.
fn text(path: &Path) -> Result<&str, MachineError> {
    let why = "it is not UTF-8";
    path.to_str().ok_or_else(|| MachineError::PathText { path: path.to_owned(), why })
}

fn socket(path: &Path) -> Result<String, MachineError> {
    text(socket_path(path)?).map(str::to_owned)
}

/// Waits until the process answers; by then every device is set up.
fn await_answer(spec: &LaunchSpec, process: Process, patience: Duration) -> Result<(), MachineError> {
    let answers = |left: Duration| !left.is_zero() && ask(&spec.run_dir, "status", left).is_ok();
    await_set_up(spec, &Kvm, process, patience, answers)
}

/// Has the machine do something, and waits until it says that it is done.
fn ask(run_dir: &Path, what: &str, patience: Duration) -> io::Result<Value> {
    let mut stream = UnixStream::connect(run_dir.join(CONTROL))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(format!("{}\n", json!({ "do": what })).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_line(&mut line)?;
    read_answer(&line)
}

fn read_answer(line: &str) -> io::Result<Value> {
    let mut answer: Value = serde_json::from_str(line)?;
    match answer.get_mut("ok") {
        Some(value) => Ok(value.take()),
        None => Err(io::Error::other(answer["error"].as_str().unwrap_or("it answered nonsense").to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use weft_model::Arch;

    use expect_test::expect;

    use super::*;
    use crate::spec::{DiskSpec, LaunchNic, Seed, Uuid};

    fn spec(dir: &Path) -> LaunchSpec {
        LaunchSpec {
            name: "web".parse().unwrap(),
            uuid: Uuid::derive("web"),
            engine: Some(EngineKind::Kvm),
            arch: Arch::X86,
            display: None,
            memory: "129MiB".parse().unwrap(),
            cpus: 2,
            boot: Boot::Kernel { kernel: dir.join("k"), initrd: Some(dir.join("i")), cmdline: "quiet".into() },
            disk: Some(DiskSpec {
                base: "/d/base".into(),
                format: weft_model::DiskFormat::Raw,
                size: None,
                seed: Some(Seed { hostname: "web".into(), ssh_key: None, user_data: None, nics: Vec::new() }),
            }),
            nics: vec![LaunchNic { mac: "02:00:00:00:00:01".parse().unwrap(), socket: "/r/0.sock".into(), mtu: 1500 }],
            state_dir: dir.join("s"),
            run_dir: dir.join("r"),
            cache_dir: dir.join("cache"),
            weft: dir.join("weft"),
        }
    }

    #[test]
    fn a_description() {
        let text = serde_json::to_string_pretty(&describe(&spec(Path::new("/d"))).unwrap()).unwrap();
        expect![[r#"
            {
              "command-line": "quiet weft.hostname=web",
              "control": "/d/r/control.sock",
              "cpus": 2,
              "disks": [
                {
                  "backing": {
                    "format": "raw",
                    "path": "/d/base"
                  },
                  "format": "qcow2",
                  "id": "disk",
                  "path": "/d/s/disk.qcow2"
                },
                {
                  "id": "seed",
                  "path": "/d/s/seed.img",
                  "read-only": true
                }
              ],
              "initrd": "/d/i",
              "kernel": "/d/k",
              "memory-mib": 130,
              "nets": [
                {
                  "mac": "02:00:00:00:00:01",
                  "mtu": 1500,
                  "socket": "/r/0.sock"
                }
              ],
              "ports": [
                {
                  "name": "org.weft.agent.0",
                  "socket": "/d/r/agent.sock"
                },
                {
                  "name": "org.qemu.guest_agent.0",
                  "socket": "/d/r/qga.sock"
                }
              ],
              "serial": {
                "log": "/d/s/console.log",
                "socket": "/d/r/console.sock"
              }
            }"#]]
        .assert_eq(&text);
        let mut long = spec(Path::new("/d"));
        long.run_dir = format!("/{}", "x".repeat(100)).into();
        assert_eq!(describe(&long).unwrap_err().code(), "socket-path-too-long");
    }

    #[test]
    fn kernels() {
        let image = |version: u16, flags: u8| {
            let mut head = vec![0; 0x238];
            head[0x202..0x206].copy_from_slice(b"HdrS");
            head[0x206..0x208].copy_from_slice(&version.to_le_bytes());
            head[0x236] = flags;
            head
        };
        assert!(is_64_bit_kernel(&image(0x20f, 0x7f)));
        assert!(!is_64_bit_kernel(&image(0x20f, 0x7e)), "a 32-bit kernel");
        assert!(!is_64_bit_kernel(&image(0x20a, 0x7f)), "too old to say so");
        let elf = |class: u8, machine: u8| [&[0x7f, b'E', b'L', b'F', class, 1][..], &[0; 12], &[machine, 0]].concat();
        assert!(is_64_bit_kernel(&elf(2, 62)));
        assert!(!is_64_bit_kernel(&elf(1, 3)) && !is_64_bit_kernel(&elf(2, 183)));
        assert!(!is_64_bit_kernel(b"") && !is_64_bit_kernel(b"#!/bin/sh"));
    }

    #[test]
    fn what_it_cannot_run_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(dir.path());
        let why = |spec: &LaunchSpec, kvm: &KvmState| why_not(spec, kvm).unwrap_or_default();
        assert!(why(&spec, &KvmState::Absent).contains("no /dev/kvm"));
        assert!(why(&spec, &KvmState::Unusable("guests crawl".to_owned())).ends_with("and guests crawl"));
        assert!(why(&spec, &KvmState::Usable).contains("x86-64 only"), "there is no kernel");
        fs::write(dir.path().join("k"), [&b"\x7fELF\x02\x01"[..], &[0; 12], &[62, 0]].concat()).unwrap();
        assert_eq!(why(&spec, &KvmState::Usable), "");
        let many = LaunchSpec { cpus: 255, ..spec.clone() };
        assert!(why(&many, &KvmState::Usable).contains("254 processors"));
    }

    #[test]
    fn processes_are_known_by_their_description() {
        let run = Path::new("/r");
        assert!(Kvm.is_process_of(b"/usr/bin/weft\0vmm\0/r/vmm.json\0", run));
        assert!(!Kvm.is_process_of(b"/usr/bin/weft\0vmm\0/r2/vmm.json\0", run));
        assert!(!Kvm.is_process_of(b"vi\0/r/vmm.json\0", run));
        assert!(!Kvm.is_process_of(b"", run));
    }

    #[test]
    fn answers() {
        assert_eq!(read_answer("{\"ok\":{\"running\":true}}\n").unwrap()["running"], true);
        for (line, why) in [("", "EOF"), ("7", "nonsense"), ("{\"error\":\"no\"}", "no"), ("{", "EOF")] {
            assert!(read_answer(line).unwrap_err().to_string().contains(why), "{line}");
        }
    }

    #[test]
    fn a_process_that_ends_at_once_is_quoted_and_leaves_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let spec = LaunchSpec { disk: None, ..spec(dir.path()) };
        for name in ["k", "i"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::write(&spec.weft, "#!/bin/sh\necho 'error: Cannot open /dev/kvm' >&2\nexit 1\n").unwrap();
        fs::set_permissions(&spec.weft, fs::Permissions::from_mode(0o755)).unwrap();
        let error = start_anyway(&spec, Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.to_string(), "Weft's VMM exited with code 1 before `web` ran: Cannot open /dev/kvm");
        assert!(!spec.run_dir.exists());
    }
}
