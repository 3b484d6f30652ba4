//! The conversation with one VMM.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use weft_types::MacAddr;

use super::features::Features;
use super::handover::{Command, Handover};
use super::message::{MAX_DESCRIPTORS, Message, MessageError, request};
use super::regions::{RegionInfo, Regions};
use super::ring::{RingError, RingLayout};
use super::{QUEUES, RX_QUEUE, TX_QUEUE};
use crate::guest_memory::{DirtyLog, MemoryError};

/// `VHOST_USER_PROTOCOL_F_LOG_SHMFD`
const LOG_SHMFD: u64 = 1 << 1;
/// `VHOST_USER_PROTOCOL_F_RARP`
const RARP: u64 = 1 << 2;
/// `VHOST_USER_PROTOCOL_F_REPLY_ACK`
const REPLY_ACK: u64 = 1 << 3;
/// `VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS`
const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
const PROTOCOL_FEATURES: u64 = LOG_SHMFD | RARP | REPLY_ACK | CONFIGURE_MEM_SLOTS;

/// `VHOST_VRING_F_LOG`: writes to the used ring are noted, too.
const LOG_USED: u32 = 1;

/// In the body of a request that hands a descriptor over: there is none.
const NO_DESCRIPTOR: u64 = 0x100;
const RING_INDEX: u64 = 0xff;

/// Why a VMM is sent away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
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
    #[error("the VMM starts its guest at a port that another guest has")]
    Taken,
    #[error("the port is closed")]
    Closed,
}

pub(crate) type Result<T, E = SessionError> = std::result::Result<T, E>;

/// What one VMM has said so far.
pub(crate) struct Session<'a> {
    handover: &'a Handover,
    /// The worker serves this VMM's guest. As long as it does not, what the VMM says is only kept.
    has_port: bool,
    features: Features,
    /// Requests that have no answer are acknowledged when the VMM wants it.
    acknowledges: bool,
    regions: Regions,
    /// Where it is noted what we write, when the features say so.
    log: Option<Arc<DirtyLog>>,
    rings: [RingSetup; QUEUES],
}

#[derive(Default)]
struct RingSetup {
    size: u32,
    base: u16,
    /// Where the VMM sees descriptors, available and used ring.
    addresses: Option<[u64; 3]>,
    used_log: Option<u64>,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    enabled: bool,
    started: bool,
}

/// What a request is answered with.
enum Answer {
    /// Nothing but an acknowledgement.
    Done,
    Word(u64),
}

impl<'a> Session<'a> {
    /// A VMM that has said nothing yet.
    pub(crate) fn new(handover: &'a Handover) -> Self {
        Self {
            handover,
            has_port: false,
            features: Features::default(),
            acknowledges: false,
            regions: Regions::default(),
            log: None,
            rings: Default::default(),
        }
    }

    pub(crate) fn has_port(&self) -> bool {
        self.has_port
    }

    /// Whether the guest may be sending or receiving.
    pub(crate) fn runs(&self) -> bool {
        self.rings.iter().any(|ring| ring.started)
    }

    /// Tells the worker what the VMM has said so far.
    pub(crate) fn take_port(&mut self) -> Result<()> {
        self.has_port = true;
        self.ask(Command::Features(self.features))?;
        self.lend(&self.regions)?;
        for (index, ring) in self.rings.iter().enumerate() {
            self.ask(Command::Enable { index, enabled: ring.enabled })?;
        }
        Ok(())
    }

    /// The worker is about to serve another VMM's guest.
    pub(crate) fn lose_port(&mut self) {
        self.has_port = false;
    }

    /// Does what a message says and answers it.
    pub(crate) fn serve(&mut self, message: &mut Message, stream: &UnixStream) -> Result<()> {
        let answer = self.obey(message);
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
                let features = Features::accepted(bits).ok_or(SessionError::NotOffered)?;
                let before = std::mem::replace(&mut self.features, features);
                self.ask(Command::Features(features))?;
                if features.log_all() != before.log_all() {
                    self.lend(&self.regions)?;
                }
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
                self.lend(&self.regions)?;
            }
            request::REM_MEM_REG => {
                let [_, guest_addr, len, vmm_addr, _] = message.words()?;
                self.regions.remove(guest_addr, len, vmm_addr)?;
                self.lend(&self.regions)?;
            }
            request::SET_LOG_BASE => {
                let [len, offset] = message.words()?;
                self.log = Some(Arc::new(DirtyLog::map(&message.descriptor()?.into(), offset, len)?));
                self.lend(&self.regions)?;
                return Ok(Answer::Word(0)); // with a log that is shared it has an answer, whatever was negotiated
            }
            request::SET_LOG_FD => {
                message.descriptor()?; // VMMs look at the log when they want to
            }
            request::SEND_RARP => {
                let [word] = message.words()?;
                let [a, b, c, d, e, f, ..] = word.to_le_bytes();
                self.ask(Command::Announce(MacAddr::new([a, b, c, d, e, f])))?;
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
                let enabled = enabled != 0;
                self.ring(index)?.enabled = enabled;
                self.ask(Command::Enable { index, enabled })?;
            }
            unknown => return Err(SessionError::UnknownRequest(unknown)),
        }
        Ok(Answer::Done)
    }

    fn ask(&self, command: Command) -> Result<u16> {
        if !self.has_port {
            return Ok(0);
        }
        self.handover.ask(command).ok_or(SessionError::Closed)?.map_err(SessionError::Ring)
    }

    /// Has the worker use this memory, and note what it writes if that is wanted.
    fn lend(&self, regions: &Regions) -> Result<()> {
        let log = self.log.clone().filter(|_| self.features.log_all());
        self.ask(Command::Memory(regions.memory().logged_to(log)?))?;
        Ok(())
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
        self.lend(&regions)?;
        self.regions = regions;
        Ok(())
    }

    fn set_ring_addresses(&mut self, message: &Message) -> Result<()> {
        let [index_and_flags, descriptors, used, available, log] = message.words()?;
        let addresses = Some([descriptors, available, used]);
        let (index, flags) = (index_and_flags as u32 as usize, (index_and_flags >> 32) as u32);
        let ring = self.ring(index)?;
        // A VMM may repeat itself, to have the ring's own pages noted or not.
        if ring.started && ring.addresses != addresses {
            return Err(SessionError::RingRuns);
        }
        ring.addresses = addresses;
        ring.used_log = (flags & LOG_USED != 0).then_some(log);
        if ring.started {
            let address = ring.used_log;
            self.ask(Command::LogUsed { index, address })?;
        }
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
            used_log: ring.used_log,
        };
        let (kick, call) = (duplicate(&ring.kick)?, duplicate(&ring.call)?);
        self.ask(Command::Start { index, layout, kick, call })?;
        self.rings[index].started = true;
        if !self.features.protocol_features() {
            self.rings[index].enabled = true;
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
