//! Starting a machine: what is the same with every engine.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::choice::choose;
use super::record::{self, Record};
use super::{Accelerator, Engine, Running, engine, engine_words, files, kvm_state, log, stop};
use crate::spec::{Boot, DiskSpec, LaunchSpec};
use crate::whole::write_whole;
use crate::{Exit, MAX_SOCKET_PATH_BYTES, MachineError, Process, disk, host};

/// How long an engine that was killed may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether a machine is set up.
const INTERVAL: Duration = Duration::from_millis(5);

/// Makes ready what the machine needs on disk: its folders, and for a disk the overlay and the seed.
///
/// Can be done again without harm: an overlay that is there already is kept, with what the machine has written to it,
/// unless it belongs to another disk.
pub fn prepare(spec: &LaunchSpec) -> Result<(), MachineError> {
    for dir in [&spec.state_dir, &spec.run_dir] {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(MachineError::io("create", dir))?;
    }
    if let Boot::Kernel { kernel, initrd, .. } = &spec.boot {
        disk::check_file("kernel", kernel)?;
        initrd.as_deref().map_or(Ok(()), |initrd| disk::check_file("initrd", initrd))?;
    }
    let Some(DiskSpec { base, format, size, seed }) = &spec.disk else { return Ok(()) };
    disk::ensure_overlay(&spec.state_dir, base, *format, *size)?;
    seed.as_ref().map_or(Ok(()), |seed| disk::write_seed(&spec.state_dir, seed, spec.uuid))
}

/// Starts the machine as a process of its own, and returns when its engine has set it up.
///
/// If it runs already it is left as it is. When this fails nothing is left running.
#[tracing::instrument(target = "weft::machine", skip_all, err, fields(vm = %spec.name))]
pub fn start(spec: &LaunchSpec) -> Result<Running, MachineError> {
    if let Some(running) = record::find(&spec.run_dir) {
        engine(running.engine).await_ready(spec, running.process)?;
        return Ok(running);
    }
    enough_memory(spec)?;
    record::bury(&spec.run_dir);
    engine(choose(spec, &kvm_state())).start(spec)
}

/// A program that is an engine, and its arguments.
pub(super) struct Program<'a> {
    pub(super) path: &'a Path,
    pub(super) args: Vec<OsString>,
    /// How it will run the guest's instructions.
    pub(super) accelerator: Accelerator,
}

/// Starts an engine's process for a machine that is prepared, writes down which it is, and has `await_ready` wait until the
/// machine is set up. When that fails, the process is ended.
pub(super) fn launch(
    spec: &LaunchSpec,
    engine: &dyn Engine,
    program: &Program<'_>,
    await_ready: impl FnOnce(Process) -> Result<(), MachineError>,
) -> Result<Running, MachineError> {
    let Program { accelerator, .. } = *program;
    log::rotate(&spec.state_dir)?;
    Record::new(engine.kind(), accelerator, None).write(&spec.run_dir)?;
    let process = spawn(spec, engine, program)?;
    let outcome = Record::new(engine.kind(), accelerator, Some(process))
        .write(&spec.run_dir)
        .and_then(|()| await_ready(process))
        .map(|()| Running { process, engine: engine.kind(), accelerator });
    if outcome.is_err() {
        let _ = process.kill();
        process.wait_exit(KILL_PATIENCE);
    }
    outcome
}

/// A role of our own program that is an engine.
pub(super) struct Role {
    /// The role's name on the command line.
    pub(super) name: &'static str,
    /// The file that tells it what the machine is, in the run folder.
    pub(super) description: &'static str,
    /// How it runs the guest's instructions.
    pub(super) accelerator: Accelerator,
}

impl Role {
    /// Whether a process with this command line, its words ended by zeros, plays it for the machine of this run folder.
    pub(super) fn is_played_by(&self, command_line: &[u8], run_dir: &Path) -> bool {
        let description = run_dir.join(self.description);
        let mut words = command_line.split(|byte| *byte == 0);
        words.any(|word| word == self.name.as_bytes()) && words.next() == Some(description.as_os_str().as_bytes())
    }

    /// Starts a machine that is described so, as [`launch`] does; when that fails nothing of it stays.
    pub(super) fn launch(
        &self,
        spec: &LaunchSpec,
        engine: &dyn Engine,
        description: &[u8],
        await_ready: impl FnOnce(Process) -> Result<(), MachineError>,
    ) -> Result<Running, MachineError> {
        let path = spec.run_dir.join(self.description);
        prepare(spec)?;
        write_whole(&path, description).map_err(MachineError::io("write", &path))?;
        let program =
            Program { path: &spec.weft, args: vec![self.name.into(), path.into()], accelerator: self.accelerator };
        let outcome = launch(spec, engine, &program, await_ready);
        if outcome.is_err() {
            stop::clear(&spec.run_dir);
        }
        outcome
    }
}

/// Waits until `is_set_up`, which is told how long there is, says that a machine is.
pub(super) fn await_set_up(
    spec: &LaunchSpec,
    engine: &dyn Engine,
    process: Process,
    patience: Duration,
    is_set_up: impl Fn(Duration) -> bool,
) -> Result<(), MachineError> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if is_set_up(left) {
            return Ok(());
        }
        if let Some(exit) = process.wait_exit(INTERVAL.min(left)) {
            return Err(exited(spec, engine, exit));
        }
        if left.is_zero() {
            return Err(silent(spec, engine, patience));
        }
    }
}

/// The path of a socket, if it is not too long for one.
pub(super) fn socket_path(path: &Path) -> Result<&Path, MachineError> {
    match path.as_os_str().len() {
        length if length > MAX_SOCKET_PATH_BYTES => Err(MachineError::SocketPath { path: path.to_owned(), length }),
        _ => Ok(path),
    }
}

/// Runs an engine in a session of its own, so that no terminal's end reaches it, with `engine.log` for its words.
fn spawn(spec: &LaunchSpec, engine: &dyn Engine, program: &Program<'_>) -> Result<Process, MachineError> {
    let path = spec.state_dir.join(files::ENGINE_LOG);
    let log = File::options().create(true).append(true).open(&path).map_err(MachineError::io("write", &path))?;
    let stderr = log.try_clone().map_err(MachineError::io("write", &path))?;
    let child = Command::new("setsid")
        .arg(program.path)
        .args(&program.args)
        .current_dir("/")
        .env_clear()
        .envs(["PATH", "TMPDIR"].into_iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value))))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(stderr)
        .spawn()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => MachineError::ToolMissing { tool: "setsid", needed_for: "starting a machine" },
            _ => MachineError::Run { program: program.path.to_owned(), source },
        })?;
    // `setsid` becomes the engine in place: the process stays the same.
    Process::of_child(&child).ok_or_else(|| exited(spec, engine, Exit::Unknown))
}

/// The error for an engine that ended before its machine was set up.
pub(super) fn exited(spec: &LaunchSpec, engine: &dyn Engine, exit: Exit) -> MachineError {
    let words = engine_words(&spec.state_dir);
    MachineError::EngineExited { engine: engine.title(), vm: spec.name.to_string(), exit, words }
}

/// The error for an engine that does not answer: as a rule because it waits for the switch.
pub(super) fn silent(spec: &LaunchSpec, engine: &dyn Engine, patience: Duration) -> MachineError {
    let vm = spec.name.to_string();
    let words = engine_words(&spec.state_dir);
    let engine = engine.title();
    match spec.nics.iter().find(|nic| !nic.socket.exists()) {
        Some(nic) => MachineError::SwitchAbsent { engine, vm, socket: nic.socket.clone() },
        None => MachineError::EngineSilent { engine, vm, seconds: patience.as_secs(), words },
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
    use weft_model::Arch;
    use weft_types::ByteSize;

    use super::*;
    use crate::spec::Uuid;

    fn spec(dir: &Path) -> LaunchSpec {
        LaunchSpec {
            name: "web".parse().unwrap(),
            uuid: Uuid::derive("web"),
            engine: None,
            arch: Arch::X86,
            display: None,
            memory: ByteSize::from_mib(16),
            cpus: 1,
            boot: Boot::Kernel { kernel: "/none/vmlinuz".into(), initrd: None, cmdline: String::new() },
            disk: None,
            nics: Vec::new(),
            state_dir: dir.join("state"),
            run_dir: dir.join("run"),
            cache_dir: "/none".into(),
            weft: "/none/weft".into(),
        }
    }

    #[test]
    fn an_image_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let error = prepare(&spec(dir.path())).unwrap_err();
        assert_eq!(
            (error.code(), error.to_string()),
            ("image-file-missing", "the kernel `/none/vmlinuz` does not exist".into())
        );
    }

    #[test]
    fn more_memory_than_there_is() {
        let spec = LaunchSpec { memory: ByteSize::from_mib(1 << 40), ..spec(Path::new("/none")) };
        assert_eq!(enough_memory(&spec).unwrap_err().code(), "no-memory");
    }
}
