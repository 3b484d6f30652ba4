//! One command: its process, and our ends of its streams.

use std::fmt::Display;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use rustix::fs::{Access, access};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetpgrp, tcsetwinsize};
use weft_agent::message::{Exec, ExitStatus, Size, Tty};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const HOME: &str = "/root";

/// The last signal with a meaning of its own; those behind it are an application's.
const LAST_SIGNAL: i32 = 31;

/// A running command, in a session and process group of its own.
pub(crate) struct Process {
    child: Child,
    pid: Pid,
    /// Becomes readable when the command ends.
    pub(crate) pidfd: OwnedFd,
    /// The terminal's other end, if it has one.
    terminal: Option<OwnedFd>,
}

/// Our ends of a command's streams; none of them blocks.
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Why a command did not start.
pub(crate) enum SpawnError {
    /// The command's own fault: what a shell would say, and the exit code that it would give.
    Command(String, u8),
    /// The guest is out of something.
    Guest(String),
}

/// Starts a command.
pub(crate) fn spawn(exec: &Exec) -> Result<(Process, Streams), SpawnError> {
    let (program, arguments) =
        exec.argv.split_first().ok_or_else(|| SpawnError::Guest("no command was named".to_owned()))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command.envs([("PATH", PATH), ("HOME", HOME), ("USER", "root"), ("LOGNAME", "root"), ("SHELL", "/bin/sh")]);
    if let Some(tty) = &exec.tty {
        command.env("TERM", &tty.term);
    }
    command.envs(exec.env.iter().map(|(name, value)| (name, value)));
    match &exec.cwd {
        Some(cwd) => command.current_dir(enter(cwd)?),
        None => command.current_dir(enter(HOME).unwrap_or("/")),
    };
    let terminal = exec.tty.as_ref().map(|tty| open_terminal(&mut command, tty)).transpose().map_err(|error| {
        SpawnError::Guest(format!("the guest has no terminal to give (is devpts mounted?): {error}"))
    })?;
    if terminal.is_none() {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    lead_session(&mut command, terminal.is_some());
    let child = command.spawn().map_err(|error| not_run(program, &error))?;
    adopt(child, terminal).map_err(|error| SpawnError::Guest(format!("the guest cannot watch the command: {error}")))
}

/// Looks before the child leaps: its error would be taken for the program's.
fn enter(folder: &str) -> Result<&str, SpawnError> {
    let refused = |why: &dyn Display| SpawnError::Command(format!("weft: cannot enter `{folder}`: {why}\n"), 126);
    match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => Err(refused(&"it is not a folder")),
        Ok(_) => access(folder, Access::EXEC_OK).map(|()| folder).map_err(|error| refused(&io::Error::from(error))),
        Err(error) => Err(refused(&error)),
    }
}

/// The exit codes are those of a POSIX shell (XCU 2.8.2).
fn not_run(program: &str, error: &io::Error) -> SpawnError {
    match error.kind() {
        io::ErrorKind::NotFound => SpawnError::Command(format!("weft: `{program}`: command not found\n"), 127),
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
            SpawnError::Guest(format!("the guest cannot start another process: {error}"))
        }
        _ => SpawnError::Command(format!("weft: `{program}` cannot be run: {error}\n"), 126),
    }
}

/// Gives the command a new terminal; returns its other end.
fn open_terminal(command: &mut Command, tty: &Tty) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    tcsetwinsize(&master, winsize(tty.size))?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    Ok(master)
}

#[expect(unsafe_code, reason = "only code between fork and exec can make a process lead a session")]
fn lead_session(command: &mut Command, has_terminal: bool) {
    let lead = move || {
        // Whatever started the agent may have ignored some, as a shell does for what runs in its background.
        for number in 1..=LAST_SIGNAL {
            // SAFETY: no handler is installed; a number that cannot be changed is refused.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
        rustix::process::setsid()?;
        if has_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    };
    // SAFETY: `lead` makes system calls only, neither allocates nor takes a lock, and it touches no memory but its own.
    unsafe { command.pre_exec(lead) };
}

fn adopt(mut child: Child, terminal: Option<OwnedFd>) -> io::Result<(Process, Streams)> {
    let streams = match &terminal {
        Some(master) => Streams { stdin: master.try_clone()?, stdout: master.try_clone()?, stderr: None },
        None => {
            let missing = || io::Error::other("a pipe is missing");
            Streams {
                stdin: child.stdin.take().ok_or_else(missing)?.into(),
                stdout: child.stdout.take().ok_or_else(missing)?.into(),
                stderr: Some(child.stderr.take().ok_or_else(missing)?.into()),
            }
        }
    };
    for stream in [Some(&streams.stdin), Some(&streams.stdout), streams.stderr.as_ref()].into_iter().flatten() {
        rustix::io::ioctl_fionbio(stream, true)?;
    }
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok((Process { child, pid, pidfd, terminal }, streams))
}

fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Process {
    /// How it ended, if it has. Afterwards it must not be signalled: its number may belong to another.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        let status = match self.child.try_wait() {
            Ok(status) => status?,
            // Somebody else has waited for it; what it returned is lost.
            Err(_) => return Some(ExitStatus::Code(u8::MAX)),
        };
        Some(match (status.code(), status.signal()) {
            (Some(code), _) => ExitStatus::Code(code as u8),
            (None, signal) => ExitStatus::Signal(signal.unwrap_or(0) as u8),
        })
    }

    /// Signals its process group; on a terminal the one in front, as the terminal itself would.
    pub(crate) fn signal(&self, number: u8) {
        let Some(signal) = Signal::from_named_raw(number.into()) else { return };
        let front = self.terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal).ok());
        let _ = kill_process_group(front.unwrap_or(self.pid), signal);
    }

    /// Says that the client is gone, as a lost terminal line would.
    pub(crate) fn hang_up(&mut self) {
        self.terminal = None;
        for signal in [Signal::HUP, Signal::CONT] {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Ends its process group for certain.
    pub(crate) fn kill(&self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    pub(crate) fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    pub(crate) fn resize(&self, size: Size) {
        if let Some(terminal) = &self.terminal {
            // The kernel sends SIGWINCH itself.
            let _ = tcsetwinsize(terminal.as_fd(), winsize(size));
        }
    }
}
