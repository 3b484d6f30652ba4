//! Where VMMs come from, and whose guest has the port.
//!
//! A guest that migrates has two VMMs for a while: the one to which it goes connects and speaks long before the other
//! lets go of it. So two are served at once, at the same socket. The port is theirs whose rings were started last; what
//! the other says is kept for later. Rings of both never run together: who starts some while the other's run is sent
//! away.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::handover::{Command, Handover};
use super::message::Inbox;
use super::session::{Result, Session, SessionError};
use crate::socket::{REDIAL, dial};

/// A guest's VMM, and the one to which it migrates. Whoever else comes waits at the door.
const MAX_VISITORS: usize = 2;

/// Where VMMs come from.
pub(crate) enum Door {
    /// They connect to this socket.
    Listener(OwnedFd),
    /// There is one, which listens here.
    Peer(PathBuf),
}

/// Serves VMMs until the port is closed.
pub(crate) fn serve(door: &Door, handover: &Handover) {
    let mut house = House { handover, visitors: Vec::new() };
    while !handover.shared.is_closed() {
        let Some(has_spoken) = house.wait(door) else { continue };
        if handover.shared.take_broken() {
            house.visitors.retain(|visitor| !visitor.session.has_port());
            house.detach("the guest broke its ring");
            continue;
        }
        for index in (0..house.visitors.len()).rev().filter(|index| has_spoken[*index]) {
            // A panic would be a bug of ours; not even that may cost more than the connection.
            match catch_unwind(AssertUnwindSafe(|| house.hear(index))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => house.send_away(index, &error.to_string()),
                Err(_) => house.send_away(index, "serving the VMM failed for a reason of our own"),
            }
        }
        if house.has_room(door)
            && let Some(stream) = door.open()
        {
            house.visitors.push(Visitor { stream, inbox: Inbox::default(), session: Session::new(handover) });
        }
    }
}

impl Door {
    /// Who stands before it.
    fn open(&self) -> Option<UnixStream> {
        match self {
            Self::Listener(listener) => match accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(stream) => Some(stream.into()),
                Err(Errno::AGAIN | Errno::INTR) => None,
                Err(_) => {
                    // Out of descriptors, most likely: the peer stays in the backlog.
                    thread::sleep(Duration::from_millis(100));
                    None
                }
            },
            Self::Peer(path) => Some(dial(path, SocketFlags::empty())?.into()),
        }
    }
}

/// A VMM that is connected.
struct Visitor<'a> {
    stream: UnixStream,
    inbox: Inbox,
    session: Session<'a>,
}

impl Visitor<'_> {
    /// Whether it has left, whatever it said before.
    fn has_left(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok() && !fds[0].revents().is_empty()
    }
}

/// All VMMs that are connected.
struct House<'a> {
    handover: &'a Handover,
    visitors: Vec<Visitor<'a>>,
}

impl House<'_> {
    fn has_room(&self, door: &Door) -> bool {
        match door {
            Door::Listener(_) => self.visitors.len() < MAX_VISITORS,
            Door::Peer(_) => self.visitors.is_empty(),
        }
    }

    /// Waits until somebody says something, comes or goes; which of the visitors did. `None` for nothing.
    fn wait(&self, door: &Door) -> Option<[bool; MAX_VISITORS]> {
        let bell = &self.handover.shared.bell;
        let mut fds = vec![PollFd::new(bell, PollFlags::IN)];
        fds.extend(self.visitors.iter().map(|visitor| PollFd::new(&visitor.stream, PollFlags::IN)));
        let mut timeout = None;
        if self.has_room(door) {
            match door {
                Door::Listener(listener) => fds.push(PollFd::new(listener, PollFlags::IN)),
                Door::Peer(_) => timeout = Some(Timespec { tv_sec: 0, tv_nsec: REDIAL.subsec_nanos().into() }),
            }
        }
        poll(&mut fds, timeout.as_ref()).ok()?;
        let _ = rustix::io::read(bell, &mut [0; 8]);
        let mut has_spoken = [false; MAX_VISITORS];
        for (has_spoken, fd) in has_spoken.iter_mut().zip(&fds[1..=self.visitors.len()]) {
            *has_spoken = !fd.revents().is_empty();
        }
        Some(has_spoken)
    }

    /// Does what a VMM says next, if all of it is there.
    fn hear(&mut self, index: usize) -> Result<()> {
        let visitor = &mut self.visitors[index];
        let Some(mut message) = visitor.inbox.recv(&visitor.stream)? else { return Ok(()) };
        if message.starts_ring() && !visitor.session.has_port() {
            self.give_port_to(index)?;
        }
        let visitor = &mut self.visitors[index];
        visitor.session.serve(&mut message, &visitor.stream)
    }

    fn give_port_to(&mut self, index: usize) -> Result<()> {
        if let Some(holder) = self.visitors.iter_mut().find(|visitor| visitor.session.has_port()) {
            if holder.session.runs() && !holder.has_left() {
                return Err(SessionError::Taken);
            }
            holder.session.lose_port();
            self.detach("the guest moves to another VMM");
        }
        self.visitors[index].session.take_port()
    }

    fn send_away(&mut self, index: usize, reason: &str) {
        tracing::debug!(target: "weft::port", reason, "VMM disconnected");
        let had_port = self.visitors.remove(index).session.has_port();
        // Of a VMM beside the one whose guest has the port, users of the port need not hear.
        if had_port || !self.visitors.iter().any(|visitor| visitor.session.has_port()) {
            self.detach(reason);
        }
    }

    /// Has the worker let go of the guest.
    fn detach(&self, reason: &str) {
        self.handover.ask(Command::Detach { reason: reason.to_owned() });
    }
}
