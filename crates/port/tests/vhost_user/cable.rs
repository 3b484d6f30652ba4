//! Two vhost-user ports, and a worker that joins them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use weft_port::{Link, Port, SendError, Side, VhostUserPort};

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What one port's side of the worker has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) links: [Option<Link>; 2],
    pub(crate) malformed: [u32; 2],
    pub(crate) full: u32,
}

/// A worker that carries every frame from either port to the other one, and sleeps in between.
pub(crate) struct Cable {
    directory: TempDir,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl Cable {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let open = |name| VhostUserPort::open(&directory.path().join(name), Side::Listen).unwrap();
        let mut ports = [open("a"), open("b")];
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (notes, stopped) = (seen.clone(), stop.clone());
        let worker = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if !carry(&mut ports, &notes) && ports.iter_mut().all(Port::sleep) {
                    let mut fds = ports.each_ref().map(|port| PollFd::from_borrowed_fd(port.fd(), PollFlags::IN));
                    let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 }));
                    ports.iter_mut().for_each(Port::wake);
                }
            }
        });
        Self { directory, seen, stop, worker: Some(worker) }
    }

    pub(crate) fn socket(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until what was seen is as `wanted`.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.seen();
            if wanted(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what}: {seen:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.worker.take().unwrap().join();
        assert!(result.is_ok() || thread::panicking(), "a hostile guest made the worker panic");
    }
}

fn carry([a, b]: &mut [VhostUserPort; 2], notes: &Mutex<Seen>) -> bool {
    let mut busy = false;
    let mut notes = notes.lock().unwrap();
    for side in 0..2 {
        let (from, to) = if side == 0 { (&mut *a, &mut *b) } else { (&mut *b, &mut *a) };
        let lent = from.recv();
        busy |= lent.frames > 0;
        notes.malformed[side] += lent.malformed;
        for index in 0..lent.frames {
            if to.send(&from.frame(index)) == Err(SendError::Full) {
                notes.full += 1;
            }
        }
        from.release();
        to.flush();
        notes.links[side] = Some(from.link());
    }
    busy
}
