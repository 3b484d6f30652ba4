//! The UML engine: User-Mode Linux, a kernel that is a program of the host's, for hosts without hardware virtualization.
//! Its guests' processes run on the processor itself. A process of our own program, `weft keeper`, is its parent and the
//! machine's process; what there is to say to the guest's kernel goes to its management console.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use weft_keeper::{Config, NicConfig};
use weft_model::EngineKind;

use super::start::{Role, await_set_up, socket_path};
use super::{Accelerator, Engine, Running, files, record};
use crate::spec::{Boot, LaunchSpec};
use crate::{MachineError, Process};

/// The keeper's own folder, in the run folder.
const FOLDER: &str = "uml";
/// What the machine is, in the run folder.
const DESCRIPTION: &str = "keeper.json";
const ROLE: Role = Role { name: "keeper", description: DESCRIPTION, accelerator: Accelerator::Ptrace };

/// How long the process may take until its sockets are there.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kernel with less has no room for its first program.
const MIN_MEMORY_MIB: u64 = 48;

/// A request to the management console, `struct mconsole_request` of Linux's `arch/um`: a magic number, a version, a length,
/// and room for the words.
const MAGIC: u32 = 0xcafe_babe;
const VERSION: u32 = 2;
const ROOM: usize = 512;

/// The engine.
pub(super) struct Uml;

impl Engine for Uml {
    fn kind(&self) -> EngineKind {
        EngineKind::Uml
    }

    fn title(&self) -> &'static str {
        "User-Mode Linux"
    }

    fn files(&self) -> &'static [&'static str] {
        &[FOLDER, DESCRIPTION]
    }

    fn is_process_of(&self, command_line: &[u8], run_dir: &Path) -> bool {
        ROLE.is_played_by(command_line, run_dir)
    }

    fn start(&self, spec: &LaunchSpec) -> Result<Running, MachineError> {
        if let Some(why) = why_not(spec).or_else(namespaces) {
            return Err(MachineError::EngineUnfit { engine: self.title(), vm: spec.name.to_string(), why });
        }
        let description = serde_json::to_vec(&describe(spec)?).unwrap_or_default();
        ROLE.launch(spec, self, &description, |process| self.await_ready(spec, process))
    }

    /// By the time its management console is there, the kernel runs.
    fn await_ready(&self, spec: &LaunchSpec, process: Process) -> Result<(), MachineError> {
        await_set_up(spec, self, process, PATIENCE, |_| management_socket(&spec.run_dir).exists())
    }

    /// Ctrl-Alt-Del, which micro guests are told to take for a power button.
    fn press_power_button(&self, run_dir: &Path) -> bool {
        let socket = management_socket(run_dir);
        UnixDatagram::unbound().and_then(|ours| ours.send_to(&request("cad"), socket)).is_ok()
    }

    fn quit(&self, run_dir: &Path) -> bool {
        record::find(run_dir).is_some_and(|running| running.process.terminate().is_ok())
    }
}

/// Why this engine cannot run a machine, in words that go on from "it"; `None` if it can.
pub(super) fn why_not(spec: &LaunchSpec) -> Option<String> {
    if spec.cpus > 1 {
        return Some(format!("has one CPU, and the machine asks for {}", spec.cpus));
    }
    if spec.memory.mib() < MIN_MEMORY_MIB {
        return Some(format!("needs {MIN_MEMORY_MIB}MiB of memory"));
    }
    if spec.display.is_some() {
        return Some("has no screen".to_owned());
    }
    if spec.disk.is_some() {
        return Some("has no disks".to_owned());
    }
    let Boot::Kernel { kernel, initrd: Some(_), .. } = &spec.boot else {
        return Some("boots a kernel with an initrd, and no disk images".to_owned());
    };
    let mut head = [0; 18];
    // One that cannot be read is told of by whoever reads it next.
    let read = fs::File::open(kernel).and_then(|mut file| file.read_exact(&mut head));
    let is_program = head.starts_with(b"\x7fELF") && matches!(head[16], 2 | 3);
    let runs = is_program && rustix::fs::access(kernel, rustix::fs::Access::EXEC_OK).is_ok();
    (read.is_ok() && !runs).then(|| "boots kernels that are programs, which this one is not".to_owned())
}

/// Why this host cannot put guests into namespaces of their own, without which nobody could be sure to end them whole;
/// `None` if it can. It is tried once in a process.
pub(crate) fn namespaces() -> Option<String> {
    static VERDICT: OnceLock<Option<String>> = OnceLock::new();
    let attempt = || {
        let words = weft_keeper::confinement();
        let tried = Command::new(words[0]).args(&words[1..]).arg("true").stdin(Stdio::null()).output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Some(format!("needs user namespaces, and this host refuses them: {}", said.trim()))
            }
            Err(error) => Some(format!("needs setpriv and unshare (util-linux): {error}")),
        }
    };
    VERDICT.get_or_init(attempt).clone()
}

fn management_socket(run_dir: &Path) -> PathBuf {
    weft_keeper::management_socket(&run_dir.join(FOLDER))
}

/// A request to the management console.
fn request(words: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = [MAGIC, VERSION, words.len() as u32].into_iter().flat_map(u32::to_ne_bytes).collect();
    bytes.extend_from_slice(words.as_bytes());
    bytes.resize(12 + ROOM, 0);
    bytes
}

/// The description that `weft keeper` reads.
fn describe(spec: &LaunchSpec) -> Result<Config, MachineError> {
    let Boot::Kernel { kernel, initrd: Some(initrd), cmdline } = &spec.boot else {
        let why = "boots a kernel with an initrd, and no disk images".to_owned();
        return Err(MachineError::EngineUnfit { engine: Uml.title(), vm: spec.name.to_string(), why });
    };
    socket(management_socket(&spec.run_dir))?; // the longest of its own
    let nics = spec.nics.iter().enumerate().map(|(index, nic)| {
        let name = format!("{}-{index}", spec.name);
        Ok(NicConfig { name, mac: nic.mac.octets(), mtu: nic.mtu, socket: socket(nic.socket.clone())? })
    });
    Ok(Config {
        kernel: kernel.clone(),
        initrd: initrd.clone(),
        cmdline: format!("{cmdline} weft.hostname={} weft.ctrlaltdel=poweroff", spec.name),
        memory_mib: spec.memory.mib(),
        folder: spec.run_dir.join(FOLDER),
        console: socket(spec.run_dir.join(files::CONSOLE))?,
        agent: socket(spec.run_dir.join(files::AGENT))?,
        console_log: spec.state_dir.join(files::CONSOLE_LOG),
        nics: nics.collect::<Result<_, MachineError>>()?,
    })
}

fn socket(path: PathBuf) -> Result<PathBuf, MachineError> {
    socket_path(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::spec::Uuid;

    #[test]
    fn what_it_cannot_run_gets_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let [program, data] = ["linux", "vmlinuz"].map(|name| dir.path().join(name));
        fs::write(&program, [&b"\x7fELF\x02\x01"[..], &[0; 10], &[2, 0]].concat()).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&data, [0; 64]).unwrap();
        let kernel = |kernel: &Path, initrd: Option<&str>| Boot::Kernel {
            kernel: kernel.to_owned(),
            initrd: initrd.map(PathBuf::from),
            cmdline: String::new(),
        };
        let micro = LaunchSpec {
            name: "web".parse().unwrap(),
            uuid: Uuid::derive("web"),
            engine: Some(EngineKind::Uml),
            arch: weft_model::Arch::X86,
            display: None,
            memory: "128MiB".parse().unwrap(),
            cpus: 1,
            boot: kernel(&program, Some("/i")),
            disk: None,
            nics: Vec::new(),
            state_dir: "/s".into(),
            run_dir: "/r".into(),
            cache_dir: "/none".into(),
            weft: "/weft".into(),
        };
        let no_disk = "boots a kernel with an initrd, and no disk images";
        for (spec, expected) in [
            (micro.clone(), None),
            (LaunchSpec { cpus: 2, ..micro.clone() }, Some("has one CPU, and the machine asks for 2")),
            (LaunchSpec { memory: "32MiB".parse().unwrap(), ..micro.clone() }, Some("needs 48MiB of memory")),
            (LaunchSpec { boot: kernel(&program, None), ..micro.clone() }, Some(no_disk)),
            (
                LaunchSpec { boot: kernel(&data, Some("/i")), ..micro.clone() },
                Some("boots kernels that are programs, which this one is not"),
            ),
            (LaunchSpec { boot: kernel(Path::new("/none"), Some("/i")), ..micro.clone() }, None),
        ] {
            assert_eq!(why_not(&spec).as_deref(), expected, "{spec:?}");
        }
        let config = describe(&micro).unwrap();
        assert_eq!(config.cmdline, " weft.hostname=web weft.ctrlaltdel=poweroff");
        assert_eq!(management_socket(&micro.run_dir), Path::new("/r/uml/m/mconsole"));
    }

    #[test]
    fn its_process_is_found_by_its_command_line() {
        let run = Path::new("/r");
        assert!(Uml.is_process_of(b"/weft\0keeper\0/r/keeper.json\0", run));
        assert!(!Uml.is_process_of(b"/weft\0keeper\0/r2/keeper.json\0", run));
        assert!(!Uml.is_process_of(b"vi\0/r/keeper.json\0", run));
    }

    #[test]
    fn orders_have_their_length_in_front() {
        let bytes = request("cad");
        assert_eq!((bytes.len(), &bytes[..4], &bytes[8..15]), (524, &MAGIC.to_ne_bytes()[..], &b"\x03\0\0\0cad"[..]));
    }
}
