//! The thread that serves a device: it waits for doorbells and for what the device waits for.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{Timespec, epoll};
use vmm_sys_util::eventfd::EventFd;

use super::transport::Transport;
use crate::bus::{Shared, lock};
use crate::event::descriptor;

/// Why a device has no thread.
#[derive(Debug, thiserror::Error)]
#[error("Cannot start the thread of a device: {0}")]
pub struct WorkerError(#[from] io::Error);

const WAKE: u64 = u64::MAX;
const SOURCE: u64 = u64::MAX - 1;
/// A device's thread calls nothing deep.
const STACK_BYTES: usize = 128 << 10;

/// The thread of a device; it ends when this is dropped.
pub struct Worker {
    thread: Option<JoinHandle<()>>,
    wake: EventFd,
    end: Arc<AtomicBool>,
}

impl Worker {
    /// Starts to serve a device; `prepare` runs first in the new thread, and jails it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start(transport: Shared<Transport>, prepare: impl FnOnce() + Send + 'static) -> Result<Self, WorkerError> {
        let end = Arc::new(AtomicBool::new(false));
        let name = lock(&transport).device().kind().name();
        let (doorbells, wake) = lock(&transport).events()?;
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        watch(&ready, descriptor(&wake), WAKE)?;
        if lock(&transport).device().serves_queues() {
            for (index, doorbell) in doorbells.iter().enumerate() {
                watch(&ready, descriptor(doorbell), index as u64)?;
            }
        }
        if let Some(source) = lock(&transport).device().source() {
            watch(&ready, source, SOURCE)?;
        }
        let job = Job { transport, doorbells, wake: wake.try_clone()?, ready, end: end.clone() };
        let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(move || {
            prepare();
            job.run();
        })?;
        Ok(Self { thread: Some(thread), wake, end })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            // What it panicked about was said; there is nothing to be done here.
            let _ = thread.join();
        }
    }
}

struct Job {
    transport: Shared<Transport>,
    doorbells: Arc<[EventFd]>,
    wake: EventFd,
    ready: OwnedFd,
    end: Arc<AtomicBool>,
}

impl Job {
    fn run(self) {
        let mut room = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 8];
        loop {
            let interval = lock(&self.transport)
                .device()
                .interval_ms()
                .map(|ms| Timespec { tv_sec: i64::from(ms / 1000), tv_nsec: i64::from(ms % 1000) * 1_000_000 });
            let count = epoll::wait(&self.ready, room.as_mut_slice(), interval.as_ref()).unwrap_or(0);
            if self.end.load(Ordering::Acquire) {
                return;
            }
            let mut tend = count == 0;
            for event in room.iter().take(count) {
                match event.data.u64() {
                    WAKE => {
                        let _ = self.wake.read();
                        tend = true;
                    }
                    SOURCE => tend = true,
                    index => {
                        let _ = self.doorbells[index as usize].read();
                        lock(&self.transport).serve(index as usize);
                    }
                }
            }
            if tend {
                lock(&self.transport).tend();
            }
        }
    }
}

fn watch(ready: &OwnedFd, event: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    Ok(epoll::add(ready, event, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?)
}
