//! Tells when processes end: one thread, asleep in `poll(2)` on a pidfd for each.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use weft_machine::{Exit, Process};

use crate::host::OnExit;

/// Tells when processes end.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
}

struct Shared {
    /// Processes that the thread does not know yet.
    new: Mutex<Inbox>,
    /// Readable when there are some, or when the thread is to end.
    wake: OwnedFd,
}

#[derive(Default)]
struct Inbox {
    watched: Vec<Watched>,
    closed: bool,
}

struct Watched {
    process: Process,
    pidfd: OwnedFd,
    on_exit: OnExit,
}

impl Watcher {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { new: Mutex::default(), wake });
        let theirs = shared.clone();
        std::thread::Builder::new().name("watch".to_owned()).stack_size(128 << 10).spawn(move || theirs.run())?;
        Ok(Self { shared })
    }

    /// Calls `on_exit` once when the process has ended; at once if it has already.
    pub(crate) fn watch(&self, process: Process, on_exit: OnExit) {
        match process.pidfd() {
            Ok(Some(pidfd)) => {
                let mut inbox = self.shared.new.lock().unwrap_or_else(PoisonError::into_inner);
                inbox.watched.push(Watched { process, pidfd, on_exit });
                drop(inbox);
                self.shared.wake();
            }
            Ok(None) => on_exit(exit_of(process)),
            Err(error) => {
                // A sandbox without pidfds: a thread that looks now and then is worse, but it works.
                tracing::debug!(%error, pid = process.pid, "no pidfd");
                std::thread::spawn(move || {
                    let exit = loop {
                        if let Some(exit) = process.wait_exit(Duration::from_secs(3600)) {
                            break exit;
                        }
                    };
                    on_exit(exit);
                });
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.new.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.wake();
    }
}

impl Shared {
    fn wake(&self) {
        // Only a counter at its limit would refuse, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn run(&self) {
        let mut watched: Vec<Watched> = Vec::new();
        loop {
            let mut ready: Vec<PollFd<'_>> = std::iter::once(&self.wake)
                .chain(watched.iter().map(|w| &w.pidfd))
                .map(|fd| PollFd::new(fd, PollFlags::IN))
                .collect();
            match poll(&mut ready, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "processes cannot be watched any more");
                    return;
                }
                Ok(_) => {}
            }
            let ended: Vec<bool> = ready[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(ready);
            let mut ended = ended.into_iter();
            let (gone, stay): (Vec<_>, Vec<_>) = watched.into_iter().partition(|_| ended.next().unwrap_or(false));
            watched = stay;
            for Watched { process, on_exit, .. } in gone {
                on_exit(exit_of(process));
            }
            let mut inbox = self.new.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = rustix::io::read(&self.wake, &mut [0u8; 8]); // resets the counter; empty if nobody called
            if inbox.closed {
                return;
            }
            watched.append(&mut inbox.watched);
        }
    }
}

/// How a process that has ended did so.
fn exit_of(process: Process) -> Exit {
    process.wait_exit(Duration::ZERO).unwrap_or(Exit::Unknown)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn each_end_is_told_once() {
        let watcher = Watcher::start().unwrap();
        let (sender, receiver) = mpsc::channel();
        let watch = |name: &'static str, process: Process| {
            let sender = sender.clone();
            watcher.watch(process, Box::new(move |exit| sender.send((name, exit)).unwrap()));
        };
        let start =
            |script: &str| Process::of_pid(Command::new("sh").args(["-c", script]).spawn().unwrap().id()).unwrap();
        let long = start("exec sleep 60");
        watch("long", long);
        watch("short", start("sleep 0.05; exit 3"));
        let next = || receiver.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(next(), ("short", Exit::Code(3)));
        long.kill().unwrap();
        assert_eq!(next(), ("long", Exit::Signal(9)));
        watch("gone", long);
        assert_eq!(next(), ("gone", Exit::Unknown));
        assert!(receiver.try_recv().is_err());
    }
}
