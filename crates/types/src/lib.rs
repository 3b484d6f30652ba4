//! Validated newtypes and units that every room of Weft shares.
//!
//! A value of a type in this crate is legal by construction: parsing is the only way in, and each error
//! names the value and the legal range. Nothing here does I/O or reads a clock.

mod allowance;
mod attach;
mod bytes;
mod dhcp;
mod dhcp6;
mod domain;
mod forward;
mod instant;
mod mac;
mod mac_range;
mod metadata;
mod mirror;
mod name;
mod nic_driver;
mod place;
mod port;
mod port_vlans;
mod rate;
#[cfg(feature = "schema")]
mod schema;
mod shares;
mod traffic;
mod vlan;
mod vlan_set;

pub use allowance::{Allowance, AllowanceError};
pub use attach::Attach;
pub use bytes::{ByteSize, ByteSizeError};
pub use dhcp::{Boot, ClientKey, ClientKeyError, Ipv4Run, Ipv4RunError, parse_hex};
pub use dhcp6::Dhcp6;
pub use domain::{DnsNames, DomainName, DomainNameError};
pub use forward::{ForwardError, ForwardHost, ForwardTarget, Listen, Transport};
pub use instant::Instant;
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use mac::{MacAddr, MacAddrError};
pub use mac_range::{MacRange, MacRangeError};
pub use metadata::{Metadata, UserData};
pub use mirror::{Collector, CollectorError, Direction, DirectionError, MirrorFilter};
pub use name::{Label, LabelError, NetworkName, PortName, VmName};
pub use nic_driver::{NicDriver, NicDriverError};
pub use place::Provenance;
pub use port::PortId;
pub use port_vlans::{Native, PortVlans};
pub use rate::{BitRate, BitRateError, Excess, PortRates};
pub use shares::{CpuLimit, CpuLimitError, CpuSet, CpuSetError, Shares};
pub use traffic::{Permission, Traffic};
pub use vlan::{VlanId, VlanIdError};
pub use vlan_set::{VlanSet, VlanSetError};
