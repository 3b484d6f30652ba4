//! A process by identity: its id *and* its start time, so that a recycled id is never mistaken for it.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};

/// How long a process that was killed may take to end.
const DYING_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const DYING_INTERVAL: Duration = Duration::from_millis(2);

/// A process by identity. It need not be a child of this one, and it may have ended since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it was started, in clock ticks since the host booted (`proc_pid_stat(5)`, field 22).
    pub start_ticks: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// Through this signal.
    Signal(i32),
    /// Nobody knows: only its parent was told, and that was not this process.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(9) => write!(f, "was killed (signal 9)"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::Unknown => write!(f, "ended"),
        }
    }
}

impl Process {
    /// The process that has the id `pid` now; `None` if there is none, or only what is left of one that ended.
    pub fn of_pid(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        stat.runs().then_some(Self { pid, start_ticks: stat.start_ticks })
    }

    /// A child, which may have ended but is yet to be reaped.
    pub(crate) fn of_child(child: &Child) -> Option<Self> {
        Stat::read(child.id()).map(|stat| Self { pid: child.id(), start_ticks: stat.start_ticks })
    }

    /// Whether it still runs. One that has ended and only waits for its parent does not.
    pub fn alive(&self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.runs() && stat.start_ticks == self.start_ticks)
    }

    /// Whether it runs, and goes on to: one that was killed a moment ago is waited for, and not reaped.
    pub fn stays(&self) -> bool {
        let deadline = Instant::now() + DYING_PATIENCE;
        while self.is_dying() && Instant::now() < deadline {
            std::thread::sleep(DYING_INTERVAL);
        }
        self.alive()
    }

    /// Whether it is between the signal that kills it and its end, in which much memory is given back.
    fn is_dying(&self) -> bool {
        let Some(stat) = Stat::read(self.pid).filter(|stat| stat.start_ticks == self.start_ticks) else { return false };
        stat.runs() && (stat.is_ending() || is_killed(self.pid))
    }

    /// Ends it at once (SIGKILL). One that has ended already is no error.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let sent = match self.pidfd() {
            Ok(Some(pidfd)) => pidfd_send_signal(pidfd, signal),
            Ok(None) => return Ok(()),
            // A kernel or a sandbox without pidfds: the identity was checked a moment ago.
            Err(_) => match (self.alive(), self.raw()) {
                (true, Some(pid)) => kill_process(pid, signal),
                _ => return Ok(()),
            },
        };
        match sent {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A descriptor that becomes readable when the process ends (`pidfd_open(2)`); `None` if it has ended.
    pub fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = self.raw() else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // The descriptor is of whoever had the id when it was opened: only now can the identity be checked.
            Ok(pidfd) => Ok(self.alive().then_some(pidfd)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended, for at most `timeout`; `None` if it still runs then.
    pub fn wait_exit(&self, timeout: Duration) -> Option<Exit> {
        let deadline = Instant::now() + timeout;
        let pidfd = self.pidfd();
        while self.alive() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            match &pidfd {
                Ok(Some(pidfd)) => {
                    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
                    // Interrupted or not: the loop looks again.
                    let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left));
                }
                _ => std::thread::sleep(left.min(Duration::from_millis(5))),
            }
        }
        Some(self.reap())
    }

    /// Takes the exit status of a child that has ended, so that nothing is left of it.
    fn reap(&self) -> Exit {
        let same = Stat::read(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks);
        let Some(pid) = self.raw().filter(|_| same) else { return Exit::Unknown };
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            },
            _ => Exit::Unknown,
        }
    }

    fn raw(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    flags: u32,
    threads: u32,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Field 2, the program's name in parentheses, may itself hold parentheses and spaces: the last one counts.
    fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|b| *b == b')')?;
        let mut fields = std::str::from_utf8(line.get(end + 1..)?).ok()?.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let flags = fields.nth(5)?.parse().ok()?;
        let threads = fields.nth(10)?.parse().ok()?;
        let start_ticks = fields.nth(1)?.parse().ok()?;
        Some(Self { state, flags, threads, start_ticks })
    }

    /// Whether it is neither a zombie nor dead. While a process is killed its first thread may be a zombie before the
    /// others have ended: then it still holds its files, and its parent is not told yet.
    fn runs(&self) -> bool {
        match self.state {
            b'Z' => self.threads > 1,
            state => !matches!(state, b'X' | b'x'),
        }
    }

    /// Whether its first thread is on its way out.
    fn is_ending(&self) -> bool {
        /// `include/linux/sched.h`: getting shut down.
        const PF_EXITING: u32 = 0x4;
        self.state == b'Z' || self.flags & PF_EXITING != 0
    }
}

/// Whether a SIGKILL waits to be seen by a process (`proc_pid_status(5)`, pending signals).
fn is_killed(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let masks = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    let kill = 1u64 << (Signal::KILL.as_raw() - 1);
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & kill != 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let line = b"42 (a) R 1 (x) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 2 3";
        assert_eq!(Stat::parse(line), Some(Stat { state: b'S', flags: 4_194_560, threads: 1, start_ticks: 777 }));
        for bad in [&b""[..], b"42", b"42 (a)", b"42 (a) S 1 2 3", b"42 (a) S \xff"] {
            assert_eq!(Stat::parse(bad), None);
        }
    }

    #[test]
    fn a_process_runs_until_its_last_thread_has_ended() {
        for (state, threads, runs) in [(b'S', 3, true), (b'Z', 3, true), (b'Z', 1, false), (b'X', 1, false)] {
            assert_eq!(Stat { state, flags: 0, threads, start_ticks: 1 }.runs(), runs, "{} {threads}", state as char);
        }
    }

    /// Memory takes time to give back: a process with much of it is there for a while after it was killed.
    #[test]
    #[expect(clippy::zombie_processes, reason = "wait_exit is what reaps here")]
    fn a_process_that_was_killed_does_not_stay() {
        for _ in 0..5 {
            let script = "import sys; m = bytearray(b'x') * (256 << 20); print(len(m), flush=True); sys.stdin.read()";
            let mut child = Command::new("python3")
                .args(["-c", script])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let process = Process::of_pid(child.id()).unwrap();
            std::io::Read::read(child.stdout.as_mut().unwrap(), &mut [0; 16]).unwrap();
            assert!(process.stays());
            process.kill().unwrap();
            assert!(!process.stays());
            assert_eq!(process.wait_exit(Duration::ZERO), Some(Exit::Signal(9)), "its parent is still told");
        }
    }

    #[test]
    fn a_recycled_id_is_another_process() {
        let me = Process::of_pid(std::process::id()).unwrap();
        assert!(me.alive());
        let stranger = Process { start_ticks: me.start_ticks + 1, ..me };
        assert!(!stranger.alive());
        assert!(stranger.kill().is_ok(), "and must not be killed: this test still runs");
        assert!(stranger.pidfd().unwrap().is_none());
        assert_eq!(stranger.wait_exit(Duration::ZERO), Some(Exit::Unknown));
        assert!(!Process { pid: 0, start_ticks: 0 }.alive());
        assert!(Process { pid: u32::MAX, start_ticks: 0 }.kill().is_ok());
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "wait_exit is what reaps here")]
    fn the_parent_learns_how_a_child_ended() {
        let sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of_pid(sleeper.id()).unwrap();
        assert_eq!(process.wait_exit(Duration::from_millis(10)), None);
        process.kill().unwrap();
        assert_eq!(process.wait_exit(Duration::from_secs(10)), Some(Exit::Signal(9)));
        assert!(Process::of_pid(process.pid).is_none(), "reaped");
    }
}
