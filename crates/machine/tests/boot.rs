//! A real machine: the image `micro` is built from Debian's packages and boots under QEMU.
//!
//! Skips, and says why, where QEMU or the packages cannot be had. The image is kept among the test's files, so it is
//! downloaded once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use weft_machine::{
    Boot, Built, DiskSpec, Exit, Images, LaunchSpec, MachineError, Process, Qmp, Seed, StopOutcome, Uuid, adopt,
    console_log, find, monitor_socket, remove, start, stop,
};
use weft_model::{Arch, DiskFormat, EngineKind, Firmware};

/// How long a guest may take to boot on a host that is busy with other tests and emulates its processor.
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

/// The image, or `None` where it cannot be built.
fn micro() -> Option<Built> {
    if let Err(error) = weft_machine::probe().qemu {
        eprintln!("SKIPPED: {error}");
        return None;
    }
    let began = Instant::now();
    match Images::new(env!("CARGO_TARGET_TMPDIR")).ensure("micro", &|step| eprintln!("micro: {step}")) {
        Ok(built) => {
            eprintln!("micro: ready after {:?}", began.elapsed());
            Some(built)
        }
        Err(error @ (MachineError::Download { .. } | MachineError::ToolMissing { .. })) => {
            eprintln!("SKIPPED: {error}; {}", error.hint());
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// A machine that is removed when it is let go, whatever the test did.
struct Bed {
    dir: tempfile::TempDir,
    spec: LaunchSpec,
}

impl Bed {
    fn new(built: &Built) -> Self {
        Self::with(Boot::Kernel {
            kernel: built.kernel.clone(),
            initrd: Some(built.initrd.clone()),
            cmdline: built.cmdline.clone(),
        })
    }

    fn with(boot: Boot) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = LaunchSpec {
            name: "web".parse().unwrap(),
            uuid: Uuid::derive("test/web"),
            engine: Some(EngineKind::Qemu),
            arch: Arch::X86,
            display: None,
            memory: "160MiB".parse().unwrap(),
            cpus: 1,
            boot,
            disk: None,
            nics: Vec::new(),
            state_dir: dir.path().join("state"),
            run_dir: dir.path().join("run"),
            cache_dir: "/none".into(),
            weft: "/none/weft".into(),
        };
        Self { dir, spec }
    }

    /// One that boots a disk.
    fn with_disk(disk: DiskSpec) -> Self {
        let mut bed = Self::with(Boot::Firmware(Firmware::Bios));
        bed.spec.disk = Some(disk);
        bed
    }

    fn run_dir(&self) -> &Path {
        &self.spec.run_dir
    }

    /// Waits until the console has said `words`, and says how long that took.
    fn console_says(&self, words: &str) -> Duration {
        let began = Instant::now();
        loop {
            let text = String::from_utf8_lossy(&fs::read(console_log(&self.spec.state_dir)).unwrap()).into_owned();
            if text.contains(words) {
                return began.elapsed();
            }
            assert!(began.elapsed() < BOOT_PATIENCE, "the console never said {words:?} but {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = remove(&self.spec.state_dir, &self.spec.run_dir);
    }
}

#[test]
fn micro_boots_is_adopted_and_shuts_down_when_asked() {
    let Some(built) = micro() else { return };
    let bed = Bed::new(&built);
    let ours = tempfile::NamedTempFile::new().unwrap();
    let running = start(&bed.spec).unwrap();
    assert_eq!(start(&bed.spec).unwrap(), running, "starting it again changes nothing");
    assert_eq!(find(bed.run_dir()), Some(running.process));
    assert_is_detached(running.process, ours.path());

    eprintln!(
        "banner after {:?} ({})",
        bed.console_says("This is a micro guest of Weft"),
        running.accelerator.as_str()
    );
    eprintln!("prompt after {:?} more", bed.console_says("web:/root# "));

    // As after a kill between the start and the record of it: only the intent is known.
    let record = bed.run_dir().join("process.json");
    let text = fs::read_to_string(&record).unwrap();
    let (intent, _) = text.split_once(",\"process\"").unwrap();
    fs::write(&record, format!("{intent},\"process\":null}}")).unwrap();
    assert_eq!(adopt(bed.run_dir()), Some(running));

    let began = Instant::now();
    assert_eq!(stop(bed.run_dir(), Duration::from_secs(20), &|| true).unwrap(), StopOutcome::Shutdown);
    eprintln!("shut down after {:?}", began.elapsed());
    assert!(!running.process.alive() && !bed.run_dir().exists());
    assert_eq!(stop(bed.run_dir(), Duration::ZERO, &|| true).unwrap(), StopOutcome::NotRunning);
}

#[test]
fn a_machine_that_is_killed_is_noticed_and_starts_again() {
    let Some(built) = micro() else { return };
    let bed = Bed::new(&built);
    let first = start(&bed.spec).unwrap();
    first.process.kill().unwrap();
    assert_eq!(first.process.wait_exit(Duration::from_secs(10)), Some(Exit::Signal(9)));
    assert_eq!(find(bed.run_dir()), None);
    let second = start(&bed.spec).unwrap();
    assert_ne!(first.process, second.process);
    assert_eq!(
        stop(bed.run_dir(), Duration::ZERO, &|| true).unwrap(),
        StopOutcome::Quit,
        "no grace: the guest is not asked"
    );
    remove(&bed.spec.state_dir, &bed.spec.run_dir).unwrap();
    assert_eq!(fs::read_dir(bed.dir.path()).unwrap().count(), 0, "nothing stays");
}

#[test]
fn what_a_machine_writes_to_its_disk_stays_its_own() {
    if let Err(error) = weft_machine::probe().qemu {
        eprintln!("SKIPPED: {error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base, with a comma.img");
    fs::write(&base, vec![0x11; 1 << 20]).unwrap();
    let seed = Seed { hostname: "web".to_owned(), ssh_key: None, user_data: None, nics: Vec::new() };
    let bed = Bed::with_disk(DiskSpec {
        base: base.clone(),
        format: DiskFormat::Raw,
        size: Some("8MiB".parse().unwrap()),
        seed: Some(seed),
    });
    // Runs these commands of QEMU's own tool for reading and writing disks, and says how many of them did what they say.
    let disk_io = |commands: &[&str]| {
        start(&bed.spec).unwrap();
        let mut qmp = Qmp::connect(&monitor_socket(bed.run_dir()), Duration::from_secs(10)).unwrap();
        for command in commands {
            let arguments =
                json!({ "command-line": format!("qemu-io -d /machine/peripheral/disk/virtio-backend \"{command}\"") });
            qmp.execute("human-monitor-command", arguments, Duration::from_secs(10)).unwrap();
        }
        drop(qmp);
        stop(bed.run_dir(), Duration::ZERO, &|| true).unwrap();
        let words = fs::read_to_string(bed.spec.state_dir.join("engine.log")).unwrap();
        assert!(!words.contains("failed"), "{words}");
        words.matches("65536/65536").count()
    };
    let beyond_the_base = "write -P 0x33 7M 64k";
    assert_eq!(disk_io(&["read -P 0x11 64k 64k", "write -P 0x22 4k 64k", beyond_the_base]), 3);
    assert_eq!(disk_io(&["read -P 0x22 4k 64k", "read -P 0x11 128k 64k", "read -P 0x33 7M 64k"]), 3);
    assert!(fs::read(&base).unwrap().iter().all(|byte| *byte == 0x11), "nobody writes to the base");
}

/// A disk whose boot sector says `boots` on the serial line and halts: for a real-mode processor, loaded to 0x7c00.
fn speaking_disk() -> Vec<u8> {
    let code = [
        0xfc, // cld
        0x31, 0xc0, 0x8e, 0xd8, // ds = 0
        0xbe, 0x16, 0x7c, // si = the text
        0xac, 0x84, 0xc0, 0x74, 0x06, // next: load a byte, go to the end if it is zero
        0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, // write it to the first serial port, go to next
        0xf4, 0xeb, 0xfd, // end: halt, for ever
    ];
    let mut disk = [&code[..], b"boots\0"].concat();
    disk.resize(1 << 20, 0);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

#[test]
fn disks_of_both_formats_boot() {
    if let Err(error) = weft_machine::probe().qemu {
        eprintln!("SKIPPED: {error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [raw, qcow2] = ["disk.img", "disk.qcow2"].map(|name| dir.path().join(name));
    fs::write(&raw, speaking_disk()).unwrap();
    let boots = |base: &Path, format| {
        let bed = Bed::with_disk(DiskSpec { base: base.to_owned(), format, size: None, seed: None });
        start(&bed.spec).unwrap();
        eprintln!("{} boots after {:?}", base.display(), bed.console_says("boots"));
        // Nobody hears the power button, and nobody waits for ever.
        assert_eq!(stop(bed.run_dir(), Duration::from_millis(100), &|| true).unwrap(), StopOutcome::Quit);
    };
    boots(&raw, DiskFormat::Raw);
    let convert = Command::new("qemu-img").args(["convert", "-c", "-O", "qcow2"]).arg(&raw).arg(&qcow2).status();
    match convert {
        Ok(status) => assert!(status.success()),
        Err(error) => return eprintln!("SKIPPED: qemu-img: {error}"),
    }
    boots(&qcow2, DiskFormat::Qcow2);
}

/// QEMU has no file of ours open.
fn assert_is_detached(process: Process, ours: &Path) {
    let proc = PathBuf::from(format!("/proc/{}", process.pid));
    let open = fs::read_dir(proc.join("fd")).unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let open: Vec<_> = open.collect();
    assert!(!open.is_empty() && !open.iter().any(|file| file == ours), "{open:?}");
    // Fields 5 and 6 are the process group and the session: its own.
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').skip(2).take(2).map(str::to_owned).collect();
    assert_eq!(fields, [process.pid.to_string(), process.pid.to_string()]);
}
