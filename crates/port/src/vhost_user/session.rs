//! The conversation with a VMM, on a thread of its own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::features::Features;
use super::handover::{Command, Handover};
use super::message::{MAX_DESCRIPTORS, Message, MessageError};
use super::regions::{RegionInfo, Regions};
use super::ring::{RingError, RingLayout};
use super::{QUEUES, RX_QUEUE, TX_QUEUE};
use crate::guest_memory::MemoryError;
use crate::socket::{REDIAL, dial};

/// The requests that we understand, by the standard's names.
mod request {
    pub(super) const GET_FEATURES: u32 = 1;
    pub(super) const SET_FEATURES: u32 = 2;
    pub(super) const SET_OWNER: u32 = 3;
    pub(super) const RESET_OWNER: u32 = 4;
    pub(super) const SET_MEM_TABLE: u32 = 5;
    pub(super) const SET_VRING_NUM: u32 = 8;
    pub(super) const SET_VRING_ADDR: u32 = 9;
    pub(super) const SET_VRING_BASE: u32 = 10;
    pub(super) const GET_VRING_BASE: u32 = 11;
    pub(super) const SET_VRING_KICK: u32 = 12;
    pub(super) const SET_VRING_CALL: u32 = 13;
    pub(super) const SET_VRING_ERR: u32 = 14;
    pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(super) const GET_QUEUE_NUM: u32 = 17;
    pub(super) const SET_VRING_ENABLE: u32 = 18;
    pub(super) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(super) const ADD_MEM_REG: u32 = 37;
    pub(super) const REM_MEM_REG: u32 = 38;
}

/// `VHOST_USER_PROTOCOL_F_REPLY_ACK`
const REPLY_ACK: u64 = 1 << 3;
/// `VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS`
const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
const PROTOCOL_FEATURES: u64 = REPLY_ACK | CONFIGURE_MEM_SLOTS;

/// In the body of a request that hands a descriptor over: there is none.
const NO_DESCRIPTOR: u64 = 0x100;
const RING_INDEX: u64 = 0xff;

/// Why a VMM is sent away.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("the VMM's ring is unusable: {0}")]
    Ring(#[from] RingError),
    #[error("the VMM makes request {0}, which we do not understand")]
    UnknownRequest(u32),
    #[error("the VMM speaks of ring {0}, and there are two")]
    NoSuchRing(usize),
    #[error("the VMM accepted features that were not offered")]
    NotOffered,
    #[error("the VMM changes a ring that runs")]
    RingRuns,
    #[error("the VMM starts a ring that has no place")]
    RingWithoutPlace,
    #[error("the VMM lends more memory regions than {MAX_DESCRIPTORS}")]
    TooManyRegions,
    #[error("the VMM hands over a descriptor that is no event counter")]
    NoEventCounter,
    #[error("the VMM's descriptors cannot be used: {0}")]
    System(#[from] io::Error),
    #[error("the port is closed")]
    Closed,
}

type Result<T, E = SessionError> = std::result::Result<T, E>;

/// Where VMMs come from.
pub(crate) enum Door {
    /// They connect to this socket.
    Listener(OwnedFd),
    /// There is one, which listens here.
    Peer(PathBuf),
}

/// Serves one VMM after the other until the port is closed.
pub(crate) fn serve(door: &Door, handover: &Handover) {
    let next = || match door {
        Door::Listener(listener) => next_peer(listener, &handover.shared.stop),
        Door::Peer(path) => dial_until(path, &handover.shared.stop),
    };
    while let Some(stream) = next() {
        let Ok(handle) = stream.try_clone() else { continue };
        handover.shared.set_peer(Some(handle));
        // A panic would be a bug of ours; not even that may cost more than the connection.
        let error = catch_unwind(AssertUnwindSafe(|| converse(stream, handover)));
        handover.shared.set_peer(None);
        let reason = error.map_or_else(|_| "serving the VMM failed for a reason of our own".into(), |e| e.to_string());
        tracing::debug!(target: "weft::port", reason, "VMM disconnected");
        if handover.ask(Command::Detach { reason }).is_none() {
            return;
        }
    }
}

/// Waits for a VMM; `None` when the port is closed.
fn next_peer(listener: &OwnedFd, stop: &OwnedFd) -> Option<UnixStream> {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) if !fds[1].revents().is_empty() => return None,
            Ok(_) => {}
        }
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(stream) => return Some(stream.into()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Out of descriptors, most likely: the peer stays in the backlog.
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Connects to the VMM as soon as it listens; `None` when the port is closed.
fn dial_until(path: &Path, stop: &OwnedFd) -> Option<UnixStream> {
    let pause = Timespec { tv_sec: 0, tv_nsec: REDIAL.subsec_nanos().into() };
    loop {
        match poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&pause)) {
            Ok(0) | Err(Errno::INTR) => {}
            _ => return None,
        }
        if let Some(stream) = dial(path, SocketFlags::empty()) {
            return Some(stream.into());
        }
    }
}

/// Does what the VMM says until it leaves, or says something that cannot be.
fn converse(mut stream: UnixStream, handover: &Handover) -> SessionError {
    let mut session = Session {
        handover,
        features: Features::default(),
        acknowledges: false,
        regions: Regions::default(),
        rings: Default::default(),
    };
    loop {
        if let Err(error) = session.serve_one(&mut stream) {
            return error;
        }
    }
}

/// What one VMM has said so far.
struct Session<'a> {
    handover: &'a Handover,
    features: Features,
    /// Requests that have no answer are acknowledged when the VMM wants it.
    acknowledges: bool,
    regions: Regions,
    rings: [RingSetup; QUEUES],
}

#[derive(Default)]
struct RingSetup {
    size: u32,
    base: u16,
    /// Where the VMM sees descriptors, available and used ring.
    addresses: Option<[u64; 3]>,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    started: bool,
}

/// What a request is answered with.
enum Answer {
    /// Nothing but an acknowledgement.
    Done,
    Word(u64),
}

impl Session<'_> {
    fn serve_one(&mut self, stream: &mut UnixStream) -> Result<()> {
        let mut message = Message::recv(stream)?;
        let answer = self.obey(&mut message);
        match &answer {
            Ok(Answer::Word(word)) => message.reply(stream, &word.to_le_bytes())?,
            _ if message.needs_reply && self.acknowledges => {
                message.reply(stream, &u64::from(answer.is_err()).to_le_bytes())?;
            }
            _ => {}
        }
        answer.map(|_| ())
    }

    fn obey(&mut self, message: &mut Message) -> Result<Answer> {
        match message.request {
            request::GET_FEATURES => return Ok(Answer::Word(Features::OFFERED.bits())),
            request::GET_PROTOCOL_FEATURES => return Ok(Answer::Word(PROTOCOL_FEATURES)),
            request::GET_QUEUE_NUM => return Ok(Answer::Word(1)),
            request::GET_MAX_MEM_SLOTS => return Ok(Answer::Word(MAX_DESCRIPTORS as u64)),
            request::GET_VRING_BASE => {
                let (index, _) = message.ring_state()?;
                let base = self.stop(index)?;
                return Ok(Answer::Word(index as u64 | u64::from(base) << 32));
            }
            request::SET_OWNER => {}
            request::RESET_OWNER => {
                self.stop(RX_QUEUE)?;
                self.stop(TX_QUEUE)?;
            }
            request::SET_FEATURES => {
                let [bits] = message.words()?;
                self.features = Features::accepted(bits).ok_or(SessionError::NotOffered)?;
                self.ask(Command::Features(self.features))?;
            }
            request::SET_PROTOCOL_FEATURES => {
                let [bits] = message.words()?;
                if bits & !PROTOCOL_FEATURES != 0 {
                    return Err(SessionError::NotOffered);
                }
                self.acknowledges = bits & REPLY_ACK != 0;
            }
            request::SET_MEM_TABLE => self.set_memory(message)?,
            request::ADD_MEM_REG => {
                let [_, guest_addr, len, vmm_addr, file_offset] = message.words()?;
                let info = RegionInfo { guest_addr, len, vmm_addr, file_offset };
                add_region(&mut self.regions, info, message.descriptor()?)?;
                self.ask(Command::Memory(self.regions.memory()))?;
            }
            request::REM_MEM_REG => {
                let [_, guest_addr, len, vmm_addr, _] = message.words()?;
                self.regions.remove(guest_addr, len, vmm_addr)?;
                self.ask(Command::Memory(self.regions.memory()))?;
            }
            request::SET_VRING_NUM => {
                let (index, size) = message.ring_state()?;
                self.idle_ring(index)?.size = size;
            }
            request::SET_VRING_BASE => {
                let (index, base) = message.ring_state()?;
                self.idle_ring(index)?.base = u16::try_from(base).map_err(|_| RingError::Base(base))?;
            }
            request::SET_VRING_ADDR => self.set_ring_addresses(message)?,
            request::SET_VRING_KICK => {
                let (index, kick) = event_counter(message)?;
                self.stop(index)?;
                self.ring(index)?.kick = kick;
                self.start(index)?;
            }
            request::SET_VRING_CALL => {
                let (index, call) = event_counter(message)?;
                let copy = duplicate(&call)?;
                let ring = self.ring(index)?;
                ring.call = call;
                if ring.started {
                    self.ask(Command::Call { index, call: copy })?;
                }
            }
            request::SET_VRING_ERR => {
                let (index, _) = event_counter(message)?;
                self.ring(index)?; // our errors end the connection, which is louder
            }
            request::SET_VRING_ENABLE => {
                // QEMU says so before it has said which features it takes, and not again.
                let (index, enabled) = message.ring_state()?;
                self.ring(index)?;
                self.ask(Command::Enable { index, enabled: enabled != 0 })?;
            }
            unknown => return Err(SessionError::UnknownRequest(unknown)),
        }
        Ok(Answer::Done)
    }

    fn ask(&self, command: Command) -> Result<u16> {
        self.handover.ask(command).ok_or(SessionError::Closed)?.map_err(SessionError::Ring)
    }

    fn ring(&mut self, index: usize) -> Result<&mut RingSetup> {
        self.rings.get_mut(index).ok_or(SessionError::NoSuchRing(index))
    }

    /// The same, for what may be said only about a ring that stands still.
    fn idle_ring(&mut self, index: usize) -> Result<&mut RingSetup> {
        let ring = self.ring(index)?;
        if ring.started { Err(SessionError::RingRuns) } else { Ok(ring) }
    }

    fn set_memory(&mut self, message: &mut Message) -> Result<()> {
        let malformed = || MessageError::Body(message.request);
        let (words, _) = message.body.as_chunks::<8>();
        let (count, words) = words.split_first().ok_or_else(malformed)?;
        let (infos, rest) = words.as_chunks::<4>();
        // The upper half of the first word is padding.
        if u64::from_le_bytes(*count) as u32 as usize != infos.len() || !rest.is_empty() {
            return Err(malformed().into());
        }
        if infos.len() != message.descriptors.len() {
            return Err(MessageError::Descriptors(message.request).into());
        }
        let mut regions = Regions::default();
        for (words, file) in infos.iter().zip(message.descriptors.drain(..)) {
            let [guest_addr, len, vmm_addr, file_offset] = words.map(u64::from_le_bytes);
            add_region(&mut regions, RegionInfo { guest_addr, len, vmm_addr, file_offset }, file)?;
        }
        self.ask(Command::Memory(regions.memory()))?;
        self.regions = regions;
        Ok(())
    }

    fn set_ring_addresses(&mut self, message: &Message) -> Result<()> {
        let [index_and_flags, descriptors, used, available, _log] = message.words()?;
        let addresses = Some([descriptors, available, used]);
        let ring = self.ring(index_and_flags as u32 as usize)?;
        // A VMM may repeat itself, to change flags that mean nothing to us.
        if ring.started && ring.addresses != addresses {
            return Err(SessionError::RingRuns);
        }
        ring.addresses = addresses;
        Ok(())
    }

    fn start(&mut self, index: usize) -> Result<()> {
        let ring = &self.rings[index];
        let addresses = ring.addresses.ok_or(SessionError::RingWithoutPlace)?;
        let mut guest = [0; 3];
        for (guest, vmm) in guest.iter_mut().zip(addresses) {
            *guest = self.regions.guest_address(vmm).ok_or(RingError::RingOutside)?;
        }
        let [descriptors, available, used] = guest;
        let layout = RingLayout {
            size: u16::try_from(ring.size).map_err(|_| RingError::Size(ring.size))?,
            descriptors,
            available,
            used,
            base: ring.base,
            event_idx: self.features.event_idx(),
        };
        let (kick, call) = (duplicate(&ring.kick)?, duplicate(&ring.call)?);
        self.ask(Command::Start { index, layout, kick, call })?;
        self.rings[index].started = true;
        if !self.features.protocol_features() {
            self.ask(Command::Enable { index, enabled: true })?;
        }
        Ok(())
    }

    /// Stops a ring if it runs, and says where it stands.
    fn stop(&mut self, index: usize) -> Result<u16> {
        if std::mem::take(&mut self.ring(index)?.started) {
            let base = self.ask(Command::Stop { index })?;
            let ring = self.ring(index)?;
            (ring.base, ring.kick) = (base, None);
        }
        Ok(self.ring(index)?.base)
    }
}

fn add_region(regions: &mut Regions, info: RegionInfo, file: OwnedFd) -> Result<()> {
    if regions.count() == MAX_DESCRIPTORS {
        return Err(SessionError::TooManyRegions);
    }
    Ok(regions.add(info, &File::from(file))?)
}

fn duplicate(descriptor: &Option<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    descriptor.as_ref().map(OwnedFd::try_clone).transpose()
}

/// The ring that a request is about and the event counter that it hands over, if it does. Anything else than an
/// event counter could make the worker wait when it is polled or written to. QEMU's do not block; that is
/// restored for one that does.
fn event_counter(message: &mut Message) -> Result<(usize, Option<OwnedFd>)> {
    let [word] = message.words()?;
    let index = (word & RING_INDEX) as usize;
    if word & NO_DESCRIPTOR != 0 {
        return Ok((index, None));
    }
    let descriptor = message.descriptor()?;
    let link = format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd());
    if std::fs::read_link(link)?.as_os_str() != "anon_inode:[eventfd]" {
        return Err(SessionError::NoEventCounter);
    }
    let flags = fcntl_getfl(&descriptor).map_err(io::Error::from)?;
    fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
    Ok((index, Some(descriptor)))
}
