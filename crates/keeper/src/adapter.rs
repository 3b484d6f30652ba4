//! A network adapter between its guest and the switch. To User-Mode Linux, whose driver gives an adapter up for good as
//! soon as its socket closes, this is the vhost-user back end that never goes away; to the switch it is the front end,
//! and it plugs in again whenever the switch was away. Memory and rings are handed on: no frame passes here.
//!
//! Two things do. Interrupts: the guest wants them in a stream, of which it holds both ends and could make a writer wait,
//! while the switch writes to event counters only; and the adapter's configuration, which the switch knows nothing of.
//!
//! A switch begins behind what its predecessor gave back, which the used ring says: frames are lost, none is repeated.
//! What the guest says is hostile; whatever is wrong with it ends its connection, and so its adapter, and nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{SendFlags, send};

use crate::config::NicConfig;
use crate::message::{Message, malformed, request};

const QUEUES: usize = 2;
/// How long either side may take to answer, or to finish a message.
const ANSWER: Duration = Duration::from_secs(2);
/// How long until a switch that is away is looked for again.
const RETRY: Duration = Duration::from_millis(100);

const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
/// What the switch may offer and the guest may have: checksums, segmentation, mergeable buffers, order, indirect
/// descriptors, event indexes and virtio 1.
const OFFLOADS: u64 = 0xbb83 | 0b11 << 28 | 1 << 32 | 1 << 35 | 0b111 << 54;
/// `VHOST_USER_F_PROTOCOL_FEATURES`
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VHOST_USER_PROTOCOL_F_CONFIG`, and `…_SLAVE_REQ`: a way for requests of ours. There are none, but Linux 6.1 only asks
/// for an interrupt of the adapter's own where there is such a way, and otherwise takes the timer's, in vain.
const PROTOCOL: u64 = 1 << 9 | 1 << 5;
/// The bytes of a configuration space that anybody asks for.
const MAX_CONFIG_BYTES: usize = 256;
/// In the body of a request that hands a descriptor over: there is none.
const NO_DESCRIPTOR: u64 = 0x100;

/// One adapter.
pub(crate) struct Adapter {
    config: NicConfig,
    listener: UnixListener,
    guest: Option<UnixStream>,
    /// By which requests of ours could go.
    back_channel: Option<OwnedFd>,
    switch: Option<UnixStream>,
    /// When the switch is looked for again.
    retry_at: Instant,
    setup: Setup,
    /// By which the switch interrupts.
    interrupts: [OwnedFd; QUEUES],
}

/// All that a switch is told.
#[derive(Default)]
struct Setup {
    features: u64,
    memory: Vec<Region>,
    rings: [Ring; QUEUES],
}

/// A piece of the guest's memory, with the words that describe it.
struct Region {
    words: [u64; 4],
    file: File,
}

#[derive(Default)]
struct Ring {
    size: u32,
    /// Where the guest sees descriptors, used and available ring, and the log.
    addresses: Option<[u64; 4]>,
    kick: Option<OwnedFd>,
    /// The socket for interrupts.
    call: Option<OwnedFd>,
    enabled: bool,
}

impl Adapter {
    /// An adapter for the guest that connects to `listener`.
    pub(crate) fn new(config: NicConfig, listener: UnixListener) -> io::Result<Self> {
        let counter = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self {
            config,
            listener,
            guest: None,
            back_channel: None,
            switch: None,
            retry_at: Instant::now(),
            setup: Setup::default(),
            interrupts: [counter()?, counter()?],
        })
    }

    /// Serves it until the process ends.
    pub(crate) fn run(mut self) {
        loop {
            if let Err(error) = self.turn() {
                eprintln!("adapter {}: {error}", self.config.name);
                self.drop_guest();
            }
        }
    }

    /// Waits for something to do, and does it. An error is the guest's.
    fn turn(&mut self) -> io::Result<()> {
        self.plug_in();
        let waits_for_switch = self.switch.is_none() && self.setup.is_ready();
        let source = self.guest.as_ref().map_or(self.listener.as_fd(), |guest| guest.as_fd());
        let mut watched = vec![PollFd::from_borrowed_fd(source, PollFlags::IN)];
        watched.extend(self.interrupts.iter().map(|counter| PollFd::new(counter, PollFlags::IN)));
        // A switch that was told everything says nothing more: whatever is heard is its end.
        watched.extend(self.switch.iter().map(|switch| PollFd::new(switch, PollFlags::IN | PollFlags::RDHUP)));
        let patience = waits_for_switch.then_some(Timespec { tv_sec: 0, tv_nsec: RETRY.subsec_nanos().into() });
        match poll(&mut watched, patience.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            outcome => outcome?,
        };
        let ready: Vec<bool> = watched.iter().map(|watched| !watched.revents().is_empty()).collect();
        drop(watched);
        for index in 0..QUEUES {
            if ready[1 + index] {
                self.interrupt(index);
            }
        }
        if ready.get(1 + QUEUES) == Some(&true) {
            self.switch = None;
            self.retry_at = Instant::now() + RETRY;
        }
        match (ready[0], &self.guest) {
            (true, Some(guest)) => match Message::receive(guest)? {
                Some(message) => self.obey(message)?,
                None => self.drop_guest(),
            },
            (true, None) => self.greet()?,
            _ => {}
        }
        Ok(())
    }

    fn greet(&mut self) -> io::Result<()> {
        let (guest, _) = self.listener.accept()?;
        limit(&guest)?;
        self.guest = Some(guest);
        Ok(())
    }

    /// The guest reboots, has unloaded its driver, or talks nonsense.
    fn drop_guest(&mut self) {
        self.unplug();
        self.setup = Setup::default();
        (self.guest, self.back_channel) = (None, None);
    }

    fn obey(&mut self, mut message: Message) -> io::Result<()> {
        let guest = self.guest.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        match message.request {
            request::GET_FEATURES => return message.reply(guest, &self.offered()?.to_le_bytes()),
            request::GET_PROTOCOL_FEATURES => return message.reply(guest, &PROTOCOL.to_le_bytes()),
            request::GET_CONFIG => return message.reply(guest, &self.configuration(&message)?),
            request::SET_OWNER => return Ok(()),
            request::SET_PROTOCOL_FEATURES => {
                let [features] = message.words()?;
                return if features & !PROTOCOL == 0 { Ok(()) } else { Err(malformed("features not offered")) };
            }
            request::SET_BACK_CHANNEL => {
                self.back_channel = Some(message.descriptor()?);
                return Ok(());
            }
            request::GET_VRING_BASE => {
                let (index, _) = message.ring_state()?;
                self.unplug();
                let ring = self.setup.rings.get(index).ok_or_else(no_ring)?;
                let base = u64::from(ring.used_index(&self.setup.memory)?);
                self.setup.rings[index].enabled = false;
                let guest = self.guest.as_ref().ok_or(io::ErrorKind::NotConnected)?;
                return message.reply(guest, &(index as u64 | base << 32).to_le_bytes());
            }
            _ => {}
        }
        // From here on the switch must know what is different: it is told all of it again.
        self.unplug();
        match message.request {
            request::SET_FEATURES => [self.setup.features] = message.words()?,
            request::SET_MEM_TABLE => self.setup.memory = regions(&mut message)?,
            request::SET_VRING_NUM => {
                let (index, size) = message.ring_state()?;
                self.setup.ring(index)?.size = size;
            }
            request::SET_VRING_ADDR => {
                let [index, addresses @ ..] = message.words::<5>()?;
                self.setup.ring(index as u32 as usize)?.addresses = Some(addresses);
            }
            request::SET_VRING_BASE => {
                message.ring_state()?; // a ring begins where its used ring says
            }
            request::SET_VRING_KICK => {
                let (index, kick) = handed_over(&mut message)?;
                self.setup.ring(index)?.kick = kick;
            }
            request::SET_VRING_CALL => {
                let (index, call) = handed_over(&mut message)?;
                self.setup.ring(index)?.call = call;
            }
            request::SET_VRING_ENABLE => {
                let (index, enabled) = message.ring_state()?;
                self.setup.ring(index)?.enabled = enabled != 0;
            }
            _ => return Err(malformed("a request that is not understood")),
        }
        Ok(())
    }

    /// What the guest may accept: it waits until there is a switch to ask.
    fn offered(&self) -> io::Result<u64> {
        loop {
            match connect(self.config.socket.as_ref()) {
                Ok((_, features)) => {
                    return Ok(features & (OFFLOADS | F_MTU) | F_MAC | PROTOCOL_FEATURES);
                }
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }

    /// Answers a question about `struct virtio_net_config` (virtio 1.2, section 5.1.4).
    fn configuration(&self, message: &Message) -> io::Result<Vec<u8>> {
        let (head, room) = message.body.split_first_chunk::<12>().ok_or_else(|| malformed("half a question"))?;
        let [offset, size] = [0, 4].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        let (offset, size) = (offset as usize, size as usize);
        if size != room.len() || offset.saturating_add(size) > MAX_CONFIG_BYTES {
            return Err(malformed("a question beyond the configuration"));
        }
        let mut config = self.config.mac.to_vec();
        config.extend_from_slice(&[1, 0, 1, 0]); // the link is up, and there is one pair of queues
        config.extend_from_slice(&self.config.mtu.to_le_bytes());
        config.resize(MAX_CONFIG_BYTES, 0);
        let mut answer = head.to_vec();
        answer.extend_from_slice(&config[offset..offset + size]);
        Ok(answer)
    }

    /// Has a switch serve the rings, if they are ready and none does.
    fn plug_in(&mut self) {
        if self.switch.is_some() || !self.setup.is_ready() || Instant::now() < self.retry_at {
            return;
        }
        self.retry_at = Instant::now() + RETRY;
        let plugged = connect(self.config.socket.as_ref()).and_then(|(switch, features)| {
            let wanted = self.setup.features & !(F_MAC | PROTOCOL_FEATURES);
            if features & wanted != wanted {
                return Err(io::Error::other("the switch offers less than its predecessor"));
            }
            self.setup.tell(&switch, self.interrupts.each_ref().map(|counter| counter.as_fd()))?;
            Ok(switch)
        });
        // One that is not there yet is looked for again.
        self.switch = plugged.ok();
        for (index, ring) in self.setup.rings.iter().enumerate() {
            // What waited for a switch is looked at, and what one gave back without saying so.
            if let Some(kick) = &ring.kick {
                let _ = rustix::io::write(kick, &1u64.to_ne_bytes());
            }
            let _ = rustix::io::write(&self.interrupts[index], &1u64.to_ne_bytes());
        }
    }

    /// Takes the rings back from the switch, and waits until it has let go of them.
    fn unplug(&mut self) {
        if let Some(switch) = self.switch.take() {
            for index in 0..QUEUES {
                let _ = Message::ask(&switch, request::GET_VRING_BASE, &[index as u64]);
            }
            self.retry_at = Instant::now();
        }
    }

    /// Passes an interrupt on. A socket that is full says as much as one more in it would, and what is no socket says nothing.
    fn interrupt(&mut self, index: usize) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.interrupts[index], &mut count);
        if let Some(call) = &self.setup.rings[index].call {
            let _ = send(call, &1u64.to_ne_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

impl Setup {
    fn ring(&mut self, index: usize) -> io::Result<&mut Ring> {
        self.rings.get_mut(index).ok_or_else(no_ring)
    }

    /// Whether the guest has said everything.
    fn is_ready(&self) -> bool {
        !self.memory.is_empty()
            && self.rings.iter().all(|ring| ring.enabled && ring.addresses.is_some() && ring.kick.is_some())
    }

    /// Tells a switch all of it.
    fn tell(&self, switch: &UnixStream, interrupts: [BorrowedFd<'_>; QUEUES]) -> io::Result<()> {
        let say = |request, words: &[u64], with: &[BorrowedFd<'_>]| Message::request(switch, request, words, with);
        say(request::SET_FEATURES, &[self.features & !F_MAC | PROTOCOL_FEATURES], &[])?;
        let mut table = vec![self.memory.len() as u64];
        table.extend(self.memory.iter().flat_map(|region| region.words));
        let files: Vec<_> = self.memory.iter().map(|region| region.file.as_fd()).collect();
        say(request::SET_MEM_TABLE, &table, &files)?;
        for (index, (ring, interrupt)) in self.rings.iter().zip(interrupts).enumerate() {
            let number = index as u64;
            let (Some([descriptors, used, available, log]), Some(kick)) = (ring.addresses, &ring.kick) else {
                continue;
            };
            let base = ring.used_index(&self.memory)?;
            say(request::SET_VRING_NUM, &[number | u64::from(ring.size) << 32], &[])?;
            say(request::SET_VRING_ADDR, &[number, descriptors, used, available, log], &[])?;
            say(request::SET_VRING_BASE, &[number | u64::from(base) << 32], &[])?;
            say(request::SET_VRING_CALL, &[number], &[interrupt])?;
            say(request::SET_VRING_KICK, &[number], &[kick.as_fd()])?;
            say(request::SET_VRING_ENABLE, &[number | 1 << 32], &[])?;
        }
        Ok(())
    }
}

impl Ring {
    /// How far a switch has come with the ring: the used ring's index (virtio 1.2, section 2.7.8).
    fn used_index(&self, memory: &[Region]) -> io::Result<u16> {
        let [_, used, ..] = self.addresses.ok_or_else(|| malformed("a ring without a place"))?;
        let place = memory.iter().find_map(|region| {
            let [_, len, address, offset] = region.words;
            let at = used.checked_sub(address).filter(|at| *at < len)?;
            Some((&region.file, offset.checked_add(at)?.checked_add(2)?))
        });
        let (file, at) = place.ok_or_else(|| malformed("a ring outside of the memory"))?;
        let mut index = [0; 2];
        file.read_exact_at(&mut index, at)?;
        Ok(u16::from_le_bytes(index))
    }
}

/// Connects to the switch and learns what it offers.
fn connect(socket: &std::path::Path) -> io::Result<(UnixStream, u64)> {
    let stream = UnixStream::connect(socket)?;
    limit(&stream)?;
    Message::request(&stream, request::SET_OWNER, &[], &[])?;
    let features = Message::ask(&stream, request::GET_FEATURES, &[])?;
    Message::request(&stream, request::SET_PROTOCOL_FEATURES, &[0], &[])?;
    Ok((stream, features))
}

/// Nobody waits for the rest of a message for ever.
fn limit(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))
}

fn no_ring() -> io::Error {
    malformed("a ring that does not exist")
}

/// The pieces of memory that a message lends.
fn regions(message: &mut Message) -> io::Result<Vec<Region>> {
    let (words, rest) = message.body.as_chunks::<8>();
    let (count, words) = words.split_first().ok_or_else(|| malformed("no regions"))?;
    let (infos, more) = words.as_chunks::<4>();
    let (count, even) = (u64::from_le_bytes(*count) as u32 as usize, more.is_empty() && rest.is_empty());
    // The table may have room for more regions than there are.
    let infos = infos.get(..count).filter(|_| even && count == message.descriptors.len());
    let infos = infos.ok_or_else(|| malformed("a table of memory that does not fit"))?;
    let files = message.descriptors.drain(..).map(File::from);
    Ok(infos
        .iter()
        .map(|words| words.map(u64::from_le_bytes))
        .zip(files)
        .map(|(words, file)| Region { words, file })
        .collect())
}

/// The ring that a request is about and the descriptor that it hands over, if it does.
fn handed_over(message: &mut Message) -> io::Result<(usize, Option<OwnedFd>)> {
    let [word] = message.words()?;
    let index = (word & 0xff) as usize;
    Ok((index, if word & NO_DESCRIPTOR == 0 { Some(message.descriptor()?) } else { None }))
}

#[cfg(test)]
#[path = "adapter_tests.rs"]
mod tests;
