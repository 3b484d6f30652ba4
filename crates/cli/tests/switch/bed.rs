//! A folder with a switch's file, and the switch that runs from it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take, on a host that is busy, or emulated.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where a switch runs, and the switch.
pub(crate) struct Bed {
    folder: TempDir,
    running: Option<(Child, BufReader<ChildStderr>)>,
}

impl Bed {
    /// A switch that runs from this file.
    pub(crate) fn run(file: &str) -> Self {
        let mut bed = Self::new(file);
        bed.start();
        bed
    }

    /// The file alone.
    pub(crate) fn new(file: &str) -> Self {
        let bed = Self { folder: tempfile::tempdir().unwrap(), running: None };
        bed.edit(file);
        bed
    }

    /// Starts the switch, and waits until it says that it runs.
    pub(crate) fn start(&mut self) {
        let mut child = self.weft(&["switch", "run", "lab.toml"]).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        self.running = Some((child, said));
        self.hears("runs:");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives the file new contents, as editors do: by another file that takes its place.
    pub(crate) fn edit(&self, file: &str) {
        fs::write(self.path("new"), file).unwrap();
        fs::rename(self.path("new"), self.path("lab.toml")).unwrap();
    }

    /// The binary, in this folder and with a home in it.
    pub(crate) fn weft(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(args).current_dir(self.folder.path()).env("WEFT_HOME", self.path("home"));
        command.env_remove("CLICOLOR_FORCE").stdin(Stdio::null());
        command
    }

    /// What it says, with its exit code, and this folder taken out.
    pub(crate) fn said(&self, args: &[&str]) -> String {
        let output = self.weft(args).output().unwrap();
        let text =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&self.folder.path().display().to_string(), "LAB");
        format!("exit {}\n{}{}", output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    /// Waits until the switch says a line with `what` in it, and returns all lines up to there.
    pub(crate) fn hears(&mut self, what: &str) -> String {
        let (_, said) = self.running.as_mut().unwrap();
        let mut lines = String::new();
        while !lines.contains(what) {
            assert!(said.read_line(&mut lines).unwrap() > 0, "it ended and said: {lines}");
        }
        lines
    }

    /// Tells the switch something by a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let (child, _) = self.running.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// How long the switch has worked.
    pub(crate) fn cpu_time(&self) -> Duration {
        let (child, _) = self.running.as_ref().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_ascii_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10) // a hundred a second, for programs
    }

    /// Ends the switch by a signal.
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.running.take().unwrap().0.wait().unwrap()
    }

    /// A counter or another value of a port, as `weft switch show --json` tells it.
    pub(crate) fn port(&self, name: &str) -> serde_json::Value {
        let output = self.weft(&["switch", "show", "lab.toml", name, "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn wait_until_up(&self, name: &str) {
        eventually(name, || self.port(name)["up"] == true);
    }

    /// What the switch keeps while it runs.
    pub(crate) fn leftovers(&self) -> usize {
        let folder: &Path = &self.path("home/run/switch");
        fs::read_dir(folder).map_or(0, Iterator::count)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for something that happens soon.
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
