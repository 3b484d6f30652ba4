//! Weft's own virtual machine monitor: one process for one machine, on KVM.
//!
//! ```text
//! run      opens everything, gives up privileges, attends to the machine
//! vm       the machine on KVM: memory slots, processors, routes of interrupts; only this room knows KVM
//! boot     what is in memory when the first processor begins
//! devices  serial port, power, panic
//! virtio   queues, the transport on PCI, and devices;  pci  configuration, MSI-X
//! bus      from an address to a device;  memory  the guest's memory, large_pages;  layout  what is where
//! ```
//!
//! The guest is hostile: it may write anything to every register, ring and buffer, at any time, from several
//! processors. So whatever it says is read once and checked, every address is looked up in guest memory, every
//! list has an end, and nothing that it does makes this process panic. Devices, queues and PCI need no KVM: tests
//! and fuzz targets run them against plain memory.

pub mod boot;
pub mod bus;
mod config;
mod control;
pub mod devices;
mod event;
mod jail;
mod large_pages;
pub mod layout;
pub mod memory;
pub mod pci;
mod probe;
mod run;
mod terminal;
pub mod virtio;
pub mod vm;

pub use config::{Config, ConfigError, DiskConfig, Mac, MacError, NetConfig, PortConfig, TerminalConfig};
pub use control::{Reply, Request};
pub use devices::Ending;
#[doc(hidden)]
pub use probe::{probe_devices, probe_disk};
pub use run::{RunError, abort_on_panic, run};
pub use terminal::Terminal;
