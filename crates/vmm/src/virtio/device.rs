//! What a virtio device is to the transport and to the thread that serves it.

use std::os::fd::BorrowedFd;

use serde_json::Value;
use vmm_sys_util::eventfd::EventFd;

use super::queue::{Queue, QueueError};
use crate::memory::GuestMemory;

/// Device types (virtio 1.2, section 5), with the PCI class that goes with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A network adapter.
    Net,
    /// A disk.
    Block,
    /// A console.
    Console,
    /// A source of randomness.
    Rng,
}

impl DeviceKind {
    /// The type's number.
    pub fn id(self) -> u16 {
        match self {
            Self::Net => 1,
            Self::Block => 2,
            Self::Console => 3,
            Self::Rng => 4,
        }
    }

    /// PCI's base class, subclass and interface.
    pub fn class(self) -> [u8; 3] {
        match self {
            Self::Net => [0x02, 0x00, 0x00],
            Self::Block => [0x01, 0x80, 0x00],
            Self::Console => [0x07, 0x80, 0x00],
            Self::Rng => [0xff, 0x00, 0x00],
        }
    }

    /// What the device is called in logs and threads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Block => "block",
            Self::Console => "console",
            Self::Rng => "rng",
        }
    }
}

/// What a device gets when its driver is ready.
pub struct Activation<'a> {
    /// The features that both sides have.
    pub features: u64,
    /// The guest's memory.
    pub memory: &'a GuestMemory,
    /// The queues, as the driver configured them; one that it did not enable is not ready.
    pub queues: &'a [Queue],
    /// What the driver counts on to tell about each queue.
    pub doorbells: &'a [EventFd],
    /// What is counted on to interrupt for each queue, if the driver wants interrupts.
    pub interrupts: Vec<Option<&'a EventFd>>,
}

/// What a device works on when it serves a queue.
pub struct Service<'a> {
    /// The guest's memory.
    pub memory: &'a GuestMemory,
    /// All queues of the device.
    pub queues: &'a mut [Queue],
}

/// A virtio device, without transport: configuration, and what becomes of requests.
pub trait Device: Send {
    /// What it is.
    fn kind(&self) -> DeviceKind;

    /// The features that it offers, beyond those of every queue.
    fn features(&self) -> u64;

    /// The largest size of each queue.
    fn queue_sizes(&self) -> &[u16];

    /// The configuration space, of which a driver may read any part; nothing in it can be written.
    fn config(&self) -> Vec<u8>;

    /// The driver is ready, or the machine goes on after a pause.
    fn start(&mut self, activation: &Activation<'_>) {
        let _ = activation;
    }

    /// The driver is not ready any more, or the machine pauses: memory and queues do not change after this. A
    /// device whose queues somebody else serves says in them how far that is.
    fn stop(&mut self, memory: &GuestMemory, queues: &mut [Queue]) {
        let _ = (memory, queues);
    }

    /// The driver begins anew: what it was told and what it said is void.
    fn reset(&mut self) {}

    /// Whether the queues are served here; otherwise another process listens to the doorbells.
    fn serves_queues(&self) -> bool {
        true
    }

    /// Does what waits in a queue, and no more than it has room for at a time: other things wait, too.
    ///
    /// # Errors
    /// When the driver broke the rules so that nothing can be done but to reset the device.
    fn serve(&mut self, queue: usize, service: &mut Service<'_>) -> Result<(), QueueError>;

    /// Whether a queue is to be served again at once if it is not empty after it was served; not where its
    /// chains wait for something else.
    fn serves_again(&self, queue: usize) -> bool {
        let _ = queue;
        true
    }

    /// What else the device's thread is to wait for.
    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Does what is to be done when the source is ready, the interval is over, or the driver started or stopped.
    ///
    /// # Errors
    /// Like [`Device::serve`].
    fn ready(&mut self, service: &mut Service<'_>) -> Result<(), QueueError> {
        let _ = service;
        Ok(())
    }

    /// How long to wait at most until [`Device::ready`], in milliseconds.
    fn interval_ms(&self) -> Option<u32> {
        None
    }

    /// What there is to be known beyond queues and features.
    fn state(&self) -> Value {
        Value::Null
    }
}

/// A part of a configuration space, with zeroes behind its end.
pub(super) fn read_config(config: &[u8], offset: u64, data: &mut [u8]) {
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = usize::try_from(offset).ok().and_then(|offset| config.get(offset + index)).copied().unwrap_or(0);
    }
}
