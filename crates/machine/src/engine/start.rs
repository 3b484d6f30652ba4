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
            disk::readable("kernel", kernel)?;
            initrd.as_deref().map_or(Ok(()), |initrd| disk::readable("initrd", initrd))
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
        await_monitor(spec, running.process)?;
        return Ok(running);
    }
    let qemu = host::qemu()?;
    enough_memory(spec)?;
    record::bury(&spec.run_dir);
    let accelerator = match super::kvm_state(&qemu.path) {
        KvmState::Usable => Accelerator::Kvm,
        _ => Accelerator::Tcg,
    };
    let mut abilities =
        Abilities { accelerator, sandbox: !SANDBOX_BROKEN.load(Ordering::Relaxed), version: qemu.version_numbers() };
    loop {
        let error = match launch(spec, &qemu.path, abilities) {
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
fn launch(spec: &LaunchSpec, qemu: &Path, abilities: Abilities) -> Result<Running, MachineError> {
    let accelerator = abilities.accelerator;
    let args = argv(spec, abilities)?;
    prepare(spec)?;
    log::rotate(&spec.state_dir)?;
    Record::new(accelerator, None).write(&spec.run_dir)?;
    let process = spawn(spec, qemu, &args)?;
    let outcome = Record::new(accelerator, Some(process))
        .write(&spec.run_dir)
        .and_then(|()| await_monitor(spec, process))
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
fn await_monitor(spec: &LaunchSpec, process: Process) -> Result<(), MachineError> {
    let deadline = Instant::now() + PATIENCE;
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
            return Err(silent(spec));
        }
        if let Err(error @ QmpError::Refused { .. }) = answer {
            return Err(error.into());
        }
    }
}

/// Why the monitor does not answer: as a rule because the engine waits for the switch.
fn silent(spec: &LaunchSpec) -> MachineError {
    let vm = spec.name.to_string();
    let words = engine_words(&spec.state_dir);
    match spec.nics.iter().find(|nic| !nic.socket.exists()) {
        Some(nic) => MachineError::SwitchAbsent { vm, socket: nic.socket.clone() },
        None => MachineError::EngineSilent { vm, seconds: PATIENCE.as_secs(), words },
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
