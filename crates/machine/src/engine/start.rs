//! Starting a machine.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::argv::{Abilities, argv};
use super::record::{self, Record};
use super::{Accelerator, Qmp, QmpError, Running, engine_words, files, log, stop};
use crate::host::{self, KvmState};
use crate::spec::{Boot, LaunchSpec};
use crate::{Exit, MachineError, Process, disk};

/// How long QEMU may take until its monitor answers. It waits for the switch as part of that.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether the monitor's socket is there.
const INTERVAL: Duration = Duration::from_millis(5);

/// Whether QEMU's system call filter has turned out not to work on this host.
static SANDBOX_BROKEN: AtomicBool = AtomicBool::new(false);

/// Makes ready what the machine needs on disk: its folders, and for a disk the overlay and the seed.
///
/// Can be done again without harm: an overlay that is there already is kept, with what the machine has written to it,
/// unless it belongs to another disk.
pub fn prepare(spec: &LaunchSpec) -> Result<(), MachineError> {
    for dir in [&spec.state_dir, &spec.run_dir] {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(MachineError::io("create", dir))?;
    }
    match &spec.boot {
        Boot::Kernel { kernel, initrd, .. } => {
            disk::check_file("kernel", kernel)?;
            initrd.as_deref().map_or(Ok(()), |initrd| disk::check_file("initrd", initrd))
        }
        Boot::Disk { base, format, size, seed } => {
            disk::ensure_overlay(&spec.state_dir, base, *format, *size)?;
            match seed {
                Some(seed) => disk::write_seed(&spec.state_dir, seed, spec.uuid),
                None => Ok(()),
            }
        }
    }
}

/// Starts the machine as a process of its own, and returns when its monitor answers.
///
/// If it runs already it is left as it is. When this fails nothing is left running.
#[tracing::instrument(target = "weft::machine", skip_all, err, fields(vm = %spec.name))]
pub fn start(spec: &LaunchSpec) -> Result<Running, MachineError> {
    if let Some(running) = record::find(&spec.run_dir) {
        await_monitor(spec, running.process, PATIENCE)?;
        return Ok(running);
    }
    let qemu = host::qemu()?;
    enough_memory(spec)?;
    record::bury(&spec.run_dir);
    let accelerator = match super::kvm_state() {
        KvmState::Usable => Accelerator::Kvm,
        _ => Accelerator::Tcg,
    };
    let sandbox = !SANDBOX_BROKEN.load(Ordering::Relaxed);
    start_with(spec, &qemu.path, Abilities { accelerator, sandbox, version: qemu.version_numbers() }, PATIENCE)
}

/// Tries, and tries once more without the system call filter where that is what does not work.
fn start_with(
    spec: &LaunchSpec,
    qemu: &Path,
    mut abilities: Abilities,
    patience: Duration,
) -> Result<Running, MachineError> {
    loop {
        let error = match launch(spec, qemu, abilities, patience) {
            Ok(running) => return Ok(running),
            Err(error) => error,
        };
        stop::clear(&spec.run_dir);
        match &error {
            MachineError::EngineExited { words, .. }
                if abilities.sandbox && (words.contains("seccomp") || words.contains("sandbox")) =>
            {
                tracing::warn!(target: "weft::machine", %words, "QEMU's system call filter does not work here");
                SANDBOX_BROKEN.store(true, Ordering::Relaxed);
                abilities.sandbox = false;
            }
            _ => return Err(error),
        }
    }
}

/// One try.
fn launch(spec: &LaunchSpec, qemu: &Path, abilities: Abilities, patience: Duration) -> Result<Running, MachineError> {
    let accelerator = abilities.accelerator;
    let args = argv(spec, abilities)?;
    prepare(spec)?;
    log::rotate(&spec.state_dir)?;
    Record::new(accelerator, None).write(&spec.run_dir)?;
    let process = spawn(spec, qemu, &args)?;
    let outcome = Record::new(accelerator, Some(process))
        .write(&spec.run_dir)
        .and_then(|()| await_monitor(spec, process, patience))
        .map(|()| Running { process, accelerator });
    if outcome.is_err() {
        let _ = process.kill();
        process.wait_exit(Duration::from_secs(5));
    }
    outcome
}

/// Runs QEMU in a session of its own, so that no terminal's end reaches it, with `engine.log` for its words.
fn spawn(spec: &LaunchSpec, qemu: &Path, args: &[std::ffi::OsString]) -> Result<Process, MachineError> {
    let path = spec.state_dir.join(files::ENGINE_LOG);
    let log = File::options().create(true).append(true).open(&path).map_err(MachineError::io("write", &path))?;
    let stderr = log.try_clone().map_err(MachineError::io("write", &path))?;
    let child = Command::new("setsid")
        .arg(qemu)
        .args(args)
        .current_dir("/")
        .env_clear()
        .envs(["PATH", "TMPDIR"].into_iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value))))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(stderr)
        .spawn()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => MachineError::ToolMissing { tool: "setsid", needed_for: "starting a machine" },
            _ => MachineError::Run { program: qemu.to_owned(), source },
        })?;
    // `setsid` becomes QEMU in place: the process stays the same.
    Process::of_child(&child).ok_or_else(|| exited(spec, Exit::Unknown))
}

fn exited(spec: &LaunchSpec, exit: Exit) -> MachineError {
    let words = engine_words(&spec.state_dir);
    MachineError::EngineExited { vm: spec.name.to_string(), exit, words }
}

/// Waits until the monitor answers a question; by then every device is set up.
fn await_monitor(spec: &LaunchSpec, process: Process, patience: Duration) -> Result<(), MachineError> {
    let deadline = Instant::now() + patience;
    let socket = spec.run_dir.join(files::QMP);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = Qmp::connect(&socket, left).and_then(|mut qmp| qmp.execute("query-status", json!({}), left));
        if answer.is_ok() {
            return Ok(());
        }
        if let Some(exit) = process.wait_exit(INTERVAL.min(left)) {
            return Err(exited(spec, exit));
        }
        if left.is_zero() {
            return Err(silent(spec, patience));
        }
        if let Err(error @ QmpError::Refused { .. }) = answer {
            return Err(error.into());
        }
    }
}

/// Why the monitor does not answer: as a rule because the engine waits for the switch.
fn silent(spec: &LaunchSpec, patience: Duration) -> MachineError {
    let vm = spec.name.to_string();
    let words = engine_words(&spec.state_dir);
    match spec.nics.iter().find(|nic| !nic.socket.exists()) {
        Some(nic) => MachineError::SwitchAbsent { vm, socket: nic.socket.clone() },
        None => MachineError::EngineSilent { vm, seconds: patience.as_secs(), words },
    }
}

/// Refuses what the host could not hold. A guest's memory is taken only as it is used, so this is a check of
/// intentions, and the machines that run already have a part of theirs yet to take.
fn enough_memory(spec: &LaunchSpec) -> Result<(), MachineError> {
    match host::memory_available() {
        Some(available) if available < spec.memory => {
            Err(MachineError::NoMemory { vm: spec.name.to_string(), asked: spec.memory, available })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use weft_types::ByteSize;

    use super::*;
    use crate::spec::{LaunchNic, Uuid};

    /// Folders, a kernel, and a program in QEMU's place.
    struct Bed {
        dir: tempfile::TempDir,
        qemu: PathBuf,
        spec: LaunchSpec,
    }

    impl Bed {
        fn new(script: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let [qemu, kernel] = ["qemu", "kernel"].map(|name| dir.path().join(name));
            fs::write(&qemu, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
            fs::write(&kernel, "kernel").unwrap();
            let spec = LaunchSpec {
                name: "web".parse().unwrap(),
                uuid: Uuid::derive("web"),
                memory: ByteSize::from_mib(16),
                cpus: 1,
                boot: Boot::Kernel { kernel, initrd: None, cmdline: String::new() },
                nics: Vec::new(),
                state_dir: dir.path().join("state"),
                run_dir: dir.path().join("run"),
            };
            Self { dir, qemu, spec }
        }

        fn start(&self) -> MachineError {
            let abilities = Abilities { accelerator: Accelerator::Tcg, sandbox: true, version: (7, 2) };
            let error = start_with(&self.spec, &self.qemu, abilities, Duration::from_millis(300)).unwrap_err();
            assert!(!self.spec.run_dir.exists(), "nothing stays");
            error
        }
    }

    #[test]
    fn an_engine_that_exits_at_once_is_quoted() {
        let bed = Bed::new(
            "echo \"qemu-system-x86_64: cannot set up guest memory 'ram': Cannot allocate memory\" >&2; exit 1",
        );
        assert_eq!(
            bed.start().to_string(),
            "QEMU exited with code 1 before `web` ran: cannot set up guest memory 'ram': Cannot allocate memory"
        );
        let crash = Bed::new("kill -SEGV $$");
        assert_eq!(crash.start().to_string(), "QEMU was ended by signal 11 before `web` ran");
    }

    #[test]
    fn an_engine_that_says_nothing_is_ended() {
        let mut bed = Bed::new("echo $$ >\"$(dirname \"$0\")/pid\"; exec sleep 60");
        assert_eq!(bed.start().code(), "engine-silent");
        let pid = fs::read_to_string(bed.dir.path().join("pid")).unwrap();
        assert_eq!(Process::of_pid(pid.trim().parse().unwrap()), None);
        bed.spec.nics.push(LaunchNic { mac: "02:00:00:00:00:01".parse().unwrap(), socket: "/none".into(), mtu: 1500 });
        assert_eq!(bed.start().to_string(), "QEMU waits for the switch at `/none`, where `web` plugs in");
    }

    #[test]
    fn without_a_working_filter_it_is_tried_again() {
        let bed = Bed::new(
            "case \"$*\" in *-sandbox*) echo 'failed to install seccomp filter' >&2;; *) echo other >&2;; esac; exit 1",
        );
        assert_eq!(bed.start().to_string(), "QEMU exited with code 1 before `web` ran: other");
    }

    #[test]
    fn an_image_that_is_not_there() {
        let mut bed = Bed::new("exit 0");
        bed.spec.boot = Boot::Kernel { kernel: "/none/vmlinuz".into(), initrd: None, cmdline: String::new() };
        let error = prepare(&bed.spec).unwrap_err();
        assert_eq!(
            (error.code(), error.to_string()),
            ("image-file-missing", "the kernel `/none/vmlinuz` does not exist".into())
        );
    }

    #[test]
    fn more_memory_than_there_is() {
        let mut bed = Bed::new("exit 0");
        bed.spec.memory = ByteSize::from_mib(1 << 40);
        assert_eq!(enough_memory(&bed.spec).unwrap_err().code(), "no-memory");
    }
}
