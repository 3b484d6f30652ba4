use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// A set of descriptors that is itself one descriptor: readable when one of them is ready. So a port shows
/// its worker one descriptor for life, whatever comes and goes behind it.
#[derive(Debug)]
pub(crate) struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { fd: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Adds `fd`; the caller keeps it open until it is removed.
    pub(crate) fn add(&self, fd: impl AsFd, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, EventData::new_u64(0), flags)?)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.fd, fd, EventData::new_u64(0), flags)?)
    }

    /// Takes `fd` out. Needed before closing it, too: while a peer holds a duplicate, closing does not.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.fd, fd);
    }

    /// Acknowledges the edges that came.
    pub(crate) fn clear_edges(&self) {
        let mut events = [MaybeUninit::<Event>::uninit(); 4];
        let _ = epoll::wait(&self.fd, &mut events, Some(&Timespec::default()));
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
