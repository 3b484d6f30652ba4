//! The `weft switch` process: started detached, found again by process id and start time, asked over its socket.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weft_dataplane_protocol::{
    AclStatus, CaptureRequest, Client, DataplaneConfig, ExplainRequest, Explanation, History, Request, Response,
    SwitchStatus,
};
use weft_machine::Process;

use crate::Paths;
use crate::host::Trouble;
use crate::real_host::{io_trouble, last_lines, write_whole};

/// How long a new switch may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it does.
const START_INTERVAL: Duration = Duration::from_millis(2);
/// How long a switch may take to end after it has said that it will, before it is killed.
const END_PATIENCE: Duration = Duration::from_millis(500);
/// How long the kernel may take to end a killed process.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How long a status may take; whoever looks at the world waits for it.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// How large its log may grow, in bytes.
const MAX_LOG_BYTES: u64 = 8 << 20;

/// The switch's process, whether it runs or not.
pub(crate) struct SwitchProcess {
    paths: Paths,
    exe: PathBuf,
}

impl SwitchProcess {
    pub(crate) fn new(paths: Paths, exe: PathBuf) -> Self {
        Self { paths, exe }
    }

    /// The process, if it runs.
    pub(crate) fn find(&self) -> Option<Process> {
        let recorded = fs::read(self.paths.switch_process()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match recorded.filter(Process::alive) {
            Some(process) => Some(process),
            // Whoever started it may not have lived to write it down; but it can be asked.
            None => Process::of_pid(self.status().ok()?.pid),
        }
    }

    /// Whether anything is left of it, if it runs or not.
    pub(crate) fn remains(&self) -> bool {
        [self.paths.port_sockets(), self.paths.switch_state(), self.paths.switch_socket(), self.paths.switch_process()]
            .iter()
            .any(|path| path.symlink_metadata().is_ok())
    }

    /// Starts it unless it runs, and waits until it answers.
    pub(crate) fn start(&self) -> Result<Process, Trouble> {
        if let Some(process) = self.find() {
            return self.await_answer(process);
        }
        for folder in [self.paths.port_sockets(), self.paths.switch_state()] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(|error| io_trouble("create", &folder, &error))?;
        }
        let log_path = self.paths.switch_log();
        let log = File::options().create(true).append(true).mode(0o600).open(&log_path);
        let log = log.map_err(|error| io_trouble("write", &log_path, &error))?;
        let stderr = log.try_clone().map_err(|error| io_trouble("write", &log_path, &error))?;
        let child = Command::new(&self.exe)
            .args(["switch", "serve"])
            .arg("--control")
            .arg(self.paths.switch_socket())
            .arg("--state")
            .arg(self.paths.switch_state())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(stderr)
            .process_group(0) // what ends the daemon's terminal must not end the switch
            .spawn()
            .map_err(|error| io_trouble("run", &self.exe, &error))?;
        match Process::of_pid(child.id()) {
            Some(process) => {
                self.record(process)?;
                self.await_answer(process)
            }
            None => Err(self.ended()),
        }
    }

    fn record(&self, process: Process) -> Result<(), Trouble> {
        let path = self.paths.switch_process();
        let bytes = serde_json::to_vec(&process).unwrap_or_default();
        write_whole(&path, &bytes).map_err(|error| io_trouble("write", &path, &error))
    }

    fn await_answer(&self, process: Process) -> Result<Process, Trouble> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match self.status() {
                Ok(status) if status.pid == process.pid => return Ok(process),
                // Another one was faster; ours will see that and end.
                Ok(status) => {
                    if let Some(other) = Process::of_pid(status.pid) {
                        self.record(other)?;
                        return Ok(other);
                    }
                }
                Err(_) => {}
            }
            if process.wait_exit(START_INTERVAL).is_some() && self.status().is_err() {
                return Err(self.ended());
            }
            if Instant::now() >= deadline {
                let title = format!("the switch (process {}) does not answer", process.pid);
                let hint = format!("see {}; end the process if it hangs", self.paths.switch_log().display());
                return Err(Trouble::new("switch-silent", title, hint));
            }
        }
    }

    /// Why a switch that has ended did so.
    fn ended(&self) -> Trouble {
        let said = last_lines(&self.paths.switch_log());
        let title = "the switch ended as soon as it was started";
        let hint = format!("see {}", self.paths.switch_log().display());
        Trouble { detail: said.last().cloned().unwrap_or_default(), ..Trouble::new("switch-ended", title, hint) }
    }

    fn call(&self, request: &Request, patience: Option<Duration>) -> Result<Response, Trouble> {
        let mut client = Client::connect(&self.paths.switch_socket())?;
        if let Some(patience) = patience {
            client = client.with_timeout(patience);
        }
        match client.call(request)? {
            Response::Refused(refusal) => Err(refusal.into()),
            answer => Ok(answer),
        }
    }

    pub(crate) fn status(&self) -> Result<SwitchStatus, Trouble> {
        match self.call(&Request::Status, Some(STATUS_PATIENCE))? {
            Response::Status(status) => Ok(status),
            _ => Err(nonsense()),
        }
    }

    pub(crate) fn apply(&self, config: &DataplaneConfig) -> Result<(), Trouble> {
        match self.call(&Request::Apply(config.clone()), None)? {
            Response::Done => Ok(()),
            _ => Err(nonsense()),
        }
    }

    pub(crate) fn rules(&self) -> Result<Vec<AclStatus>, Trouble> {
        match self.call(&Request::Rules, None)? {
            Response::Rules(rules) => Ok(rules),
            _ => Err(nonsense()),
        }
    }

    pub(crate) fn history(&self) -> Result<History, Trouble> {
        match self.call(&Request::History, None)? {
            Response::History(history) => Ok(history),
            _ => Err(nonsense()),
        }
    }

    /// Starts a capture; its reading end.
    pub(crate) fn capture(&self, request: &CaptureRequest) -> Result<UnixStream, Trouble> {
        let pair = UnixStream::pair();
        let (ours, theirs) = pair.map_err(|error| Trouble::new("no-socket", error.to_string(), "see `ulimit -n`"))?;
        let request = Request::Capture(request.clone());
        match Client::connect(&self.paths.switch_socket())?.call_with(&request, &[theirs.as_fd()])? {
            Response::Done => Ok(ours),
            Response::Refused(refusal) => Err(refusal.into()),
            _ => Err(nonsense()),
        }
    }

    pub(crate) fn explain(&self, request: &ExplainRequest) -> Result<Explanation, Trouble> {
        match self.call(&Request::Explain(request.clone()), None)? {
            Response::Explained(explanation) => Ok(explanation),
            _ => Err(nonsense()),
        }
    }

    /// Ends it and removes everything that it and its predecessors have left.
    pub(crate) fn stop(&self) -> Result<(), Trouble> {
        if let Some(process) = self.find() {
            let told = self.call(&Request::Shutdown { forget: true }, Some(END_PATIENCE));
            let patience = if told.is_ok() { END_PATIENCE } else { Duration::ZERO };
            if process.wait_exit(patience).is_none() {
                tracing::warn!(pid = process.pid, "the switch does not end by itself and is killed");
                let killed = process.kill();
                if process.wait_exit(KILL_PATIENCE).is_none() {
                    let detail = killed.err().map_or_else(String::new, |error| error.to_string());
                    let title = format!("the switch (process {}) does not end, even when killed", process.pid);
                    return Err(Trouble { detail, ..Trouble::new("does-not-end", title, "") });
                }
            }
        }
        for folder in [self.paths.port_sockets(), self.paths.switch_state()] {
            ignore_absent(fs::remove_dir_all(&folder)).map_err(|error| io_trouble("remove", &folder, &error))?;
        }
        for file in [self.paths.switch_socket(), self.paths.switch_process()] {
            ignore_absent(fs::remove_file(&file)).map_err(|error| io_trouble("remove", &file, &error))?;
        }
        Ok(())
    }

    /// Keeps the log from filling the disk.
    pub(crate) fn bound_log(&self) {
        let path = self.paths.switch_log();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
            // The switch appends: after this it goes on from the beginning.
            let emptied = File::options().write(true).open(&path).and_then(|file| file.set_len(0));
            if let Err(error) = emptied {
                tracing::warn!(%error, "the switch's log cannot be shortened");
            }
        }
    }
}

fn nonsense() -> Trouble {
    let hint = "end the switch process: a new one is started at once, and no VM stops";
    Trouble::new("switch-nonsense", "the switch answers something else than was asked", hint)
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A home whose switch is a script that speaks the protocol.
    struct Bed {
        switch: SwitchProcess,
        paths: Paths,
        _home: tempfile::TempDir,
    }

    impl Bed {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let paths = Paths::of_home(home.path()).unwrap();
            paths.create().unwrap();
            let exe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-switch");
            Self { switch: SwitchProcess::new(paths.clone(), exe), paths, _home: home }
        }

        /// Leaves a word for the script.
        fn tell(&self, word: &str) {
            fs::create_dir_all(self.paths.switch_state()).unwrap();
            fs::write(self.paths.switch_state().join(word), "").unwrap();
        }
    }

    impl Drop for Bed {
        fn drop(&mut self) {
            self.switch.stop().unwrap();
        }
    }

    #[test]
    fn it_is_started_once_and_leaves_nothing() {
        let bed = Bed::new();
        assert_eq!((bed.switch.find(), bed.switch.remains()), (None, false));
        let process = bed.switch.start().unwrap();
        assert_eq!(bed.switch.start().unwrap(), process);
        bed.switch.apply(&DataplaneConfig { revision: 7, ..DataplaneConfig::default() }).unwrap();
        assert_eq!(bed.switch.status().unwrap().revision, 7);
        let stale = bed.switch.apply(&DataplaneConfig { revision: 6, ..DataplaneConfig::default() });
        assert_eq!(stale.unwrap_err().code, crate::host::STALE);
        bed.switch.stop().unwrap();
        assert_eq!((bed.switch.find(), bed.switch.remains(), process.alive()), (None, false, false));
    }

    #[test]
    fn one_that_nobody_wrote_down_is_found_by_asking() {
        let bed = Bed::new();
        let process = bed.switch.start().unwrap();
        fs::remove_file(bed.paths.switch_process()).unwrap();
        assert_eq!(bed.switch.find(), Some(process));
        assert_eq!(bed.switch.start().unwrap(), process);
    }

    #[test]
    fn a_dead_one_is_replaced() {
        let bed = Bed::new();
        let first = bed.switch.start().unwrap();
        first.kill().unwrap();
        first.wait_exit(KILL_PATIENCE).unwrap();
        assert_eq!(bed.switch.find(), None);
        let second = bed.switch.start().unwrap();
        assert!(second != first && second.alive());
    }

    #[test]
    fn one_that_ends_at_once_is_quoted() {
        let bed = Bed::new();
        bed.tell("broken");
        let trouble = bed.switch.start().unwrap_err();
        assert_eq!((trouble.code.as_str(), trouble.detail.as_str()), ("switch-ended", "the moon is wrong"));
    }

    #[test]
    fn a_stubborn_one_is_killed() {
        let bed = Bed::new();
        bed.tell("stubborn");
        let process = bed.switch.start().unwrap();
        bed.switch.stop().unwrap();
        assert!(!process.alive() && !bed.switch.remains());
    }
}
