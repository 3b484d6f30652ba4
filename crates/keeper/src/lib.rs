//! `weft keeper`: one small process beside each machine that User-Mode Linux runs.
//!
//! User-Mode Linux is a kernel that is an ordinary program: its guests' processes are processes of the host's, which it
//! watches by `ptrace(2)`. The keeper is its parent. It holds the lines of the guest's console and agent, and the sockets of
//! its network adapters, which the guest would give up if they closed (`adapter`).
//!
//! The guest lives in namespaces of its own, of which it is the first process: when it ends, for whatever reason, the
//! kernel ends all that belongs to it; and when the keeper does, it ends the guest (`parent-death signal`). So nothing is
//! left of either, whichever is killed.

mod adapter;
mod config;
mod line;
mod message;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open, set_child_subreaper, wait,
};

use adapter::Adapter;
pub use config::{Config, NicConfig};
use line::{Line, Unread};
pub use message::fuzz as fuzz_message;

/// The name under which the guest's kernel listens for its management console, below the keeper's folder.
const UMID: &str = "m";

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A file could not be made or opened.
    #[error("Cannot {action} {path}")]
    File {
        /// What was to be done with it.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The kernel's program could not be started.
    #[error("Cannot start User-Mode Linux")]
    Start(#[source] io::Error),
    /// The system refuses what a process needs.
    #[error("The system refuses a descriptor or a thread")]
    System(#[from] io::Error),
}

impl KeeperError {
    /// What can be done about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "look whether the folder exists, belongs to you and has room",
            Self::Start(_) => "util-linux (setpriv, unshare) must be installed, and user namespaces allowed",
            Self::System(_) => "raise the limits of processes and descriptors (ulimit)",
        }
    }

    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }
}

/// The socket at which a guest's kernel takes orders (`mconsole`), below its keeper's folder.
pub fn management_socket(folder: &Path) -> PathBuf {
    folder.join(UMID).join("mconsole")
}

/// The words with which a program is put into namespaces of its own, in which it is the first process, and which end with
/// whoever starts it.
pub fn confinement() -> Vec<&'static str> {
    let parent = ["setpriv", "--pdeathsig", "KILL"];
    let namespaces = ["unshare", "--user", "--map-current-user", "--pid", "--net", "--ipc", "--fork", "--kill-child"];
    [&parent[..], &namespaces, &["--"]].concat()
}

/// Runs a machine until it ends, and says how it ended. A `SIGTERM` ends it at once.
///
/// # Errors
/// When it cannot be started.
pub fn run(config: &Config) -> Result<ExitStatus, KeeperError> {
    let folder = &config.folder;
    let _ = fs::remove_dir_all(folder);
    DirBuilder::new().mode(0o700).create(folder).map_err(KeeperError::file("create", folder))?;
    let initrd = folder.join("initrd");
    symlink(&config.initrd, &initrd).map_err(KeeperError::file("create", &initrd))?;

    let (ends, end_of_signals) = UnixStream::pair()?;
    ends.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(rustix::process::Signal::TERM.as_raw(), end_of_signals)?;
    // What a guest leaves behind that is killed comes to us.
    set_child_subreaper(Some(getpid())).map_err(io::Error::from)?;

    let log = &config.console_log;
    let log = File::options().create(true).append(true).open(log).map_err(KeeperError::file("write", log))?;
    let line =
        |socket: &Path, log, unread| Line::new(socket, log, unread).map_err(KeeperError::file("listen at", socket));
    let (console, console_end) = line(&config.console, Some(log), Unread::Lost)?;
    let (agent, agent_end) = line(&config.agent, None, Unread::Waits)?;
    for (index, nic) in config.nics.iter().enumerate() {
        let socket = folder.join(nic_socket(index));
        let listener = UnixListener::bind(&socket).map_err(KeeperError::file("listen at", &socket))?;
        let adapter = Adapter::new(nic.clone(), listener)?;
        thread::Builder::new().name(nic.name.clone()).spawn(move || adapter.run())?;
    }

    let child = start(config, [&console_end, &agent_end])?;
    drop((console_end, agent_end));
    serve(child, ends, [console, agent])
}

fn nic_socket(index: usize) -> String {
    format!("nic{index}")
}

/// Starts the guest, which inherits its ends of the lines.
fn start(config: &Config, lines: [&UnixStream; 2]) -> Result<Pid, KeeperError> {
    for line in lines {
        fcntl_setfd(line, FdFlags::empty()).map_err(io::Error::from)?;
    }
    let words = confinement();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(&config.kernel).args(arguments(config, lines.map(|line| line.as_raw_fd())));
    command.current_dir(&config.folder).stdin(Stdio::null()).env("HOME", &config.folder);
    let child = command.spawn().map_err(KeeperError::Start)?;
    Pid::from_raw(child.id() as i32).ok_or_else(|| KeeperError::Start(io::ErrorKind::NotFound.into()))
}

/// The kernel's command line. No path is in it: the kernel would take a space for its end.
fn arguments(config: &Config, [console, agent]: [i32; 2]) -> Vec<String> {
    let mut words = vec![
        format!("mem={}M", config.memory_mib),
        "initrd=initrd".to_owned(),
        "uml_dir=./".to_owned(),
        format!("umid={UMID}"),
        "con=null".to_owned(),
        "ssl=null".to_owned(),
        format!("ssl0=fd:{console}"),
        format!("ssl1=fd:{agent}"),
        "console=ttyS0".to_owned(),
        "weft.agent=ttyS1".to_owned(),
    ];
    // 1 is the number of network adapters (virtio 1.2, section 5).
    words.extend((0..config.nics.len()).map(|index| format!("virtio_uml.device={}:1", nic_socket(index))));
    words.extend(config.cmdline.split_whitespace().map(str::to_owned));
    words
}

/// Moves what is said until the guest has ended.
fn serve(child: Pid, mut ends: UnixStream, mut lines: [Line; 2]) -> Result<ExitStatus, KeeperError> {
    let ended = pidfd_open(child, PidfdFlags::empty()).map_err(io::Error::from)?;
    loop {
        let watched_lines = lines.each_ref().map(Line::watched);
        let [[a, b], [c, d]] = watched_lines;
        let mut watched =
            [PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN), PollFd::new(&ends, PollFlags::IN), a, b, c, d];
        match poll(&mut watched, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let [ended, told, a, b, c, d] = watched.each_ref().map(|watched| !watched.revents().is_empty());
        lines[0].serve([a, b]);
        lines[1].serve([c, d]);
        if told && ends.read(&mut [0; 16]).is_ok() {
            let _ = kill_process(child, Signal::KILL);
        }
        if ended {
            lines.iter_mut().for_each(Line::finish);
            return Ok(bury(child)?);
        }
    }
}

/// Waits until nothing is left of the guest; how it ended.
fn bury(child: Pid) -> io::Result<ExitStatus> {
    let mut outcome = ExitStatus::default();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                outcome = std::os::unix::process::ExitStatusExt::from_raw(status.as_raw());
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(outcome),
            Err(error) => return Err(error.into()),
        }
    }
}
