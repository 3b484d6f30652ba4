use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// SIGTERM and SIGINT as a descriptor that becomes readable; SIGHUP is ignored, for a switch outlives the
/// terminal that it was started from. SIGPIPE is ignored by every Rust program.
#[derive(Debug)]
pub(crate) struct Signals {
    readable: UnixStream,
    caught: [SigId; 3],
}

impl Signals {
    pub(crate) fn catch() -> io::Result<Self> {
        let (readable, written) = UnixStream::pair()?;
        let end = |signal| signal_hook::low_level::pipe::register(signal, written.try_clone()?);
        let ignored = signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
        Ok(Self { caught: [end(SIGTERM)?, end(SIGINT)?, ignored], readable })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.caught {
            signal_hook::low_level::unregister(id);
        }
    }
}
