//! A network adapter (virtio 1.2, section 5.1) whose queues a virtual switch serves, in its own process, by
//! vhost-user: this end only tells it where memory and rings are.
//!
//! When the switch goes away, the adapter stays: the guest sends into a ring that nobody empties, until a switch
//! is there again. That one begins behind what its predecessor gave back, which the used ring says: frames are
//! lost, none is repeated.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use serde_json::{Value, json};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{GuestAddress, GuestMemoryBackend as _};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, Device, DeviceKind, Service};
use super::queue::{Queue, QueueError};
use crate::event::counter;
use crate::memory::GuestMemory;

const QUEUES: usize = 2;
/// How long the switch may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long to wait until a switch that is away is looked for again, in milliseconds.
const RETRY_MS: u32 = 100;

const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
/// What the switch may offer and the guest may have: checksums, segmentation, mergeable buffers, order.
const OFFLOADS: u64 = 0xbb83 | 1 << 35 | 0b111 << 54;
/// What a switch must offer, because it is not asked before the queues are: indirect descriptors, event indexes
/// and virtio 1.
const REQUIRED: u64 = 1 << 28 | 1 << 29 | 1 << 32;
/// `VHOST_USER_F_PROTOCOL_FEATURES`
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Why there is no adapter.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Nobody answers as a switch at the socket.
    #[error("Cannot reach the switch at {path}: {source}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The switch is no switch of our kind.
    #[error("The switch at {0} lacks indirect descriptors, event indexes or virtio 1")]
    Features(PathBuf),
    /// The process has no descriptors left.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// A network adapter.
pub struct Net {
    socket: PathBuf,
    mac: [u8; 6],
    mtu: Option<u16>,
    offered: u64,
    link: Option<Link>,
    /// What the switch is to do, as long as the driver is ready.
    setup: Option<Setup>,
    /// Ready when the switch hangs up.
    ready: OwnedFd,
    reconnects: u64,
    last_error: Option<String>,
}

/// A connection to a switch.
struct Link {
    frontend: Frontend,
    /// The rings are its business.
    started: bool,
}

/// All that a switch is told.
struct Setup {
    features: u64,
    memory: GuestMemory,
    queues: Vec<Queue>,
    doorbells: Vec<EventFd>,
    interrupts: Vec<EventFd>,
}

impl Net {
    /// An adapter at the switch that listens at `socket`.
    ///
    /// # Errors
    /// When no switch answers.
    pub fn new(socket: &Path, mac: [u8; 6], mtu: Option<u16>) -> Result<Self, NetError> {
        let unreachable = |source| NetError::Unreachable { path: socket.into(), source };
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        let (link, features) = Link::connect(socket, &ready).map_err(unreachable)?;
        if features & REQUIRED != REQUIRED {
            return Err(NetError::Features(socket.into()));
        }
        let mtu = mtu.filter(|_| features & F_MTU != 0);
        let offered = features & OFFLOADS | F_MAC | if mtu.is_some() { F_MTU } else { 0 };
        Ok(Self {
            socket: socket.into(),
            mac,
            mtu,
            offered,
            link: Some(link),
            setup: None,
            ready,
            reconnects: 0,
            last_error: None,
        })
    }

    /// Forgets a switch that hung up. Where it was with the rings stands in them.
    fn look(&mut self) -> Result<(), QueueError> {
        let mut room = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let hung_up = epoll::wait(&self.ready, room.as_mut_slice(), Some(&now)).is_ok_and(|count| count > 0);
        if hung_up { self.unlink() } else { Ok(()) }
    }

    fn unlink(&mut self) -> Result<(), QueueError> {
        let started = self.link.take().is_some_and(|link| link.started);
        if let (true, Some(setup)) = (started, &mut self.setup) {
            for queue in setup.queues.iter_mut().filter(|queue| queue.ready) {
                queue.next_available = queue.used_index(&setup.memory)?;
            }
        }
        Ok(())
    }

    /// Finds a switch if there is none, and has it serve the rings if they are ready.
    fn connect(&mut self) -> io::Result<()> {
        if self.link.is_none() {
            let (link, features) = Link::connect(&self.socket, &self.ready)?;
            let wanted = self.offered & !F_MAC | REQUIRED;
            if features & wanted != wanted {
                return Err(io::Error::other("it offers less than its predecessor"));
            }
            self.link = Some(link);
            self.reconnects += 1;
        }
        if let (Some(link), Some(setup)) = (&mut self.link, &self.setup)
            && !link.started
        {
            link.start(setup)?;
        }
        Ok(())
    }
}

impl Device for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256; QUEUES]
    }

    /// `struct virtio_net_config`, section 5.1.4.
    fn config(&self) -> Vec<u8> {
        let mut config = self.mac.to_vec();
        config.extend_from_slice(&[1, 0, 1, 0]); // the link is up, and there is one pair of queues
        config.extend_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        config
    }

    fn start(&mut self, activation: &Activation<'_>) {
        let copies = || -> io::Result<Setup> {
            let interrupt = |event: &Option<&EventFd>| match event {
                Some(event) => event.try_clone(),
                None => counter(),
            };
            Ok(Setup {
                features: activation.features & !F_MAC,
                memory: activation.memory.clone(),
                queues: activation.queues.to_vec(),
                doorbells: activation.doorbells.iter().map(EventFd::try_clone).collect::<io::Result<_>>()?,
                interrupts: activation.interrupts.iter().map(interrupt).collect::<io::Result<_>>()?,
            })
        };
        // The device's thread tells the switch: the guest does not wait for that.
        match copies() {
            Ok(setup) => self.setup = Some(setup),
            Err(error) => self.last_error = Some(error.to_string()),
        }
    }

    fn stop(&mut self, memory: &GuestMemory, queues: &mut [Queue]) {
        let started = self.link.as_mut().and_then(|link| std::mem::take(&mut link.started).then_some(&link.frontend));
        let Some(setup) = self.setup.take() else { return };
        let mut hung_up = false;
        for (index, queue) in queues.iter_mut().enumerate().filter(|(_, queue)| queue.ready) {
            let used = queue.used_index(memory).unwrap_or(queue.next_used);
            let stopped = started.and_then(|frontend| frontend.get_vring_base(index).ok());
            hung_up |= started.is_some() && stopped.is_none();
            let before = setup.queues.get(index).map_or(used, |queue| queue.next_available);
            queue.next_available = match (stopped, started) {
                (Some(base), _) => base as u16,
                (None, Some(_)) => used,
                (None, None) => before,
            };
            queue.next_used = queue.used_index(memory).unwrap_or(used);
        }
        if hung_up {
            self.link = None;
        }
    }

    fn serves_queues(&self) -> bool {
        false
    }

    fn serve(&mut self, _: usize, _: &mut Service<'_>) -> Result<(), QueueError> {
        Ok(())
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn ready(&mut self, _: &mut Service<'_>) -> Result<(), QueueError> {
        self.look()?;
        if let Err(error) = self.connect() {
            self.last_error = Some(error.to_string());
            self.link = None; // whatever half of it was said is void
        }
        Ok(())
    }

    fn interval_ms(&self) -> Option<u32> {
        self.link.is_none().then_some(RETRY_MS)
    }

    fn state(&self) -> Value {
        json!({
            "connected": self.link.is_some(),
            "reconnects": self.reconnects,
            "last-error": self.last_error,
        })
    }
}

impl Link {
    /// Connects and learns what the switch offers.
    fn connect(socket: &Path, ready: &OwnedFd) -> io::Result<(Self, u64)> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        epoll::add(ready, &stream, epoll::EventData::new_u64(0), epoll::EventFlags::RDHUP)?;
        let mut frontend = Frontend::from_stream(stream, QUEUES as u64);
        frontend.set_owner().map_err(io::Error::other)?;
        let features = frontend.get_features().map_err(io::Error::other)?;
        if features & PROTOCOL_FEATURES != 0 {
            let offered = frontend.get_protocol_features().map_err(io::Error::other)?;
            let acknowledged = offered & VhostUserProtocolFeatures::REPLY_ACK;
            frontend.set_protocol_features(acknowledged).map_err(io::Error::other)?;
            if !acknowledged.is_empty() {
                frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
        }
        Ok((Self { frontend, started: false }, features))
    }

    /// Hands memory and rings over.
    fn start(&mut self, setup: &Setup) -> io::Result<()> {
        let frontend = &mut self.frontend;
        let features = frontend.get_features().map_err(io::Error::other)?;
        frontend.set_features(setup.features | features & PROTOCOL_FEATURES).map_err(io::Error::other)?;
        let regions = setup.memory.iter().map(VhostUserMemoryRegionInfo::from_guest_region);
        let regions = regions.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
        frontend.set_mem_table(&regions).map_err(io::Error::other)?;
        self.started = true; // from the first kick on, the switch may write
        for (index, queue) in setup.queues.iter().enumerate().filter(|(_, queue)| queue.ready) {
            let here = |at| -> io::Result<u64> {
                Ok(setup.memory.get_host_address(GuestAddress(at)).map_err(io::Error::other)? as u64)
            };
            let place = VringConfigData {
                queue_max_size: queue.max_size,
                queue_size: queue.size,
                flags: 0,
                desc_table_addr: here(queue.descriptors)?,
                used_ring_addr: here(queue.used)?,
                avail_ring_addr: here(queue.available)?,
                log_addr: None,
            };
            frontend.set_vring_num(index, queue.size).map_err(io::Error::other)?;
            frontend.set_vring_addr(index, &place).map_err(io::Error::other)?;
            frontend.set_vring_base(index, queue.next_available).map_err(io::Error::other)?;
            frontend.set_vring_call(index, &setup.interrupts[index]).map_err(io::Error::other)?;
            frontend.set_vring_kick(index, &setup.doorbells[index]).map_err(io::Error::other)?;
            if features & PROTOCOL_FEATURES != 0 {
                frontend.set_vring_enable(index, true).map_err(io::Error::other)?;
            }
            // What waited for a switch is looked at, and what one gave back without saying so.
            for event in [&setup.doorbells[index], &setup.interrupts[index]] {
                let _ = event.write(1);
            }
        }
        Ok(())
    }
}
