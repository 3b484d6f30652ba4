//! virtio 1.2: queues, the transport on PCI, and devices. Nothing here knows KVM: memory is `vm-memory`'s, and
//! interrupts and notifications are event counters.

mod block;
mod chain;
mod console;
mod device;
mod image;
mod net;
mod ports;
mod queue;
mod rng;
mod transport;
mod worker;

pub use block::{Block, DiskError};
pub use chain::{Chain, Segment};
pub use console::Console;
pub use device::{Activation, Device, DeviceKind, Service};
pub(crate) use image::Direction;
pub use image::{Image, Layer};
pub use net::{Net, NetError};
pub use ports::Ports;
pub use queue::{Queue, QueueError};
pub use rng::Rng;
pub use transport::{Transport, TransportState};
pub use worker::{Worker, WorkerError};
