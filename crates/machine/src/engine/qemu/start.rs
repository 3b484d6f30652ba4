//! Starting QEMU.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use weft_model::{Arch, Firmware};

use super::super::start::{self as common, Program, exited, silent};
use super::super::{Accelerator, Running, kvm_state, stop};
use super::argv::{Abilities, argv};
use super::firmware::{Uefi, uefi};
use super::{QMP, Qemu, Qmp, QmpError, VARIABLES};
use crate::host::{self, KvmState};
use crate::spec::{Boot, LaunchSpec};
use crate::whole::write_whole;
use crate::{MachineError, Process};

/// How long QEMU may take until its monitor answers. It waits for the switch as part of that.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether the monitor's socket is there.
const INTERVAL: Duration = Duration::from_millis(5);

/// Whether QEMU's system call filter has turned out not to work on this host.
static SANDBOX_BROKEN: AtomicBool = AtomicBool::new(false);

/// Starts QEMU, and returns when its monitor answers.
pub(super) fn start(spec: &LaunchSpec) -> Result<Running, MachineError> {
    let qemu = host::qemu(spec.arch)?;
    let accelerator = match kvm_state() {
        KvmState::Usable if spec.arch == Arch::X86 => Accelerator::Kvm,
        _ => Accelerator::Tcg,
    };
    let uefi = match spec.boot {
        Boot::Firmware(Firmware::Uefi) => Some(uefi(spec.arch)?),
        _ => None,
    };
    let sandbox = !SANDBOX_BROKEN.load(Ordering::Relaxed);
    let abilities = Abilities { accelerator, sandbox, version: qemu.version_numbers() };
    start_with(spec, &qemu.path, uefi.as_ref(), abilities, PATIENCE)
}

/// Tries, and tries once more without the system call filter where that is what does not work.
fn start_with(
    spec: &LaunchSpec,
    qemu: &Path,
    uefi: Option<&Uefi>,
    mut abilities: Abilities,
    patience: Duration,
) -> Result<Running, MachineError> {
    loop {
        let error = match launch(spec, qemu, uefi, abilities, patience) {
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
fn launch(
    spec: &LaunchSpec,
    qemu: &Path,
    uefi: Option<&Uefi>,
    abilities: Abilities,
    patience: Duration,
) -> Result<Running, MachineError> {
    let program = Program { path: qemu, args: argv(spec, uefi, abilities)?, accelerator: abilities.accelerator };
    common::prepare(spec)?;
    if let Some(uefi) = uefi {
        keep_variables(spec, uefi)?;
    }
    common::launch(spec, &Qemu, &program, |process| await_monitor(spec, process, patience))
}

/// Gives the machine a store of its own for its firmware's variables, unless it has one.
fn keep_variables(spec: &LaunchSpec, uefi: &Uefi) -> Result<(), MachineError> {
    let (template, own) = (&uefi.variables.path, spec.state_dir.join(VARIABLES));
    if own.exists() {
        return Ok(());
    }
    let empty = fs::read(template).map_err(MachineError::io("read", template))?;
    write_whole(&own, &empty).map_err(MachineError::io("write", &own))
}

/// Waits until the monitor answers a question; by then every device is set up.
pub(super) fn await_monitor(spec: &LaunchSpec, process: Process, patience: Duration) -> Result<(), MachineError> {
    let deadline = Instant::now() + patience;
    let socket = spec.run_dir.join(QMP);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = Qmp::connect(&socket, left).and_then(|mut qmp| qmp.execute("query-status", json!({}), left));
        if answer.is_ok() {
            return Ok(());
        }
        if let Some(exit) = process.wait_exit(INTERVAL.min(left)) {
            return Err(exited(spec, &Qemu, exit));
        }
        if left.is_zero() {
            return Err(silent(spec, &Qemu, patience));
        }
        if let Err(error @ QmpError::Refused { .. }) = answer {
            return Err(error.into());
        }
    }
}

#[cfg(test)]
mod tests {
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
                engine: None,
                arch: Arch::X86,
                display: None,
                memory: ByteSize::from_mib(16),
                cpus: 1,
                boot: Boot::Kernel { kernel, initrd: None, cmdline: String::new() },
                disk: None,
                nics: Vec::new(),
                state_dir: dir.path().join("state"),
                run_dir: dir.path().join("run"),
                cache_dir: "/none".into(),
                weft: "/none/weft".into(),
            };
            Self { dir, qemu, spec }
        }

        fn start(&self) -> MachineError {
            let abilities = Abilities { accelerator: Accelerator::Tcg, sandbox: true, version: (7, 2) };
            let error = start_with(&self.spec, &self.qemu, None, abilities, Duration::from_millis(300)).unwrap_err();
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
}
