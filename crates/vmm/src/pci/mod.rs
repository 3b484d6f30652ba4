//! PCI: one bus of functions, their configuration, and interrupts by messages.

mod config;
mod msix;
mod root;

pub use config::{Capability, ConfigSpace, Identity};
pub use msix::{Message, Msix, Platform};
pub use root::{ConfigPorts, Ecam, Function, PciRoot, Windows};
