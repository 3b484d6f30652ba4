//! Validated newtypes and units that every room of Weft shares.
//!
//! A value of a type in this crate is legal by construction: parsing is the only way in, and each error
//! names the value and the legal range. Nothing here does I/O or reads a clock.

mod bytes;
mod instant;
mod mac;
mod name;
mod place;
mod port;
#[cfg(feature = "schema")]
mod schema;
mod vlan;

pub use bytes::{ByteSize, ByteSizeError};
pub use instant::Instant;
pub use ipnet::Ipv4Net;
pub use mac::{MacAddr, MacAddrError};
pub use name::{Label, LabelError, NetworkName, PortName, VmName};
pub use place::Provenance;
pub use port::PortId;
pub use vlan::{VlanId, VlanIdError};
