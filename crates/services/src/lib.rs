//! What stands behind a network's gateway, sans-IO: ARP, neighbour discovery, router advertisements, DHCP, DNS,
//! metadata, ICMP echo, the NAT device and routers.
//!
//! [`Services`] takes frames and time in and gives frames and host operations out. It never sees a socket, a
//! clock or a disk: what must be durable leaves by [`Services::poll_persist`], what must be asked of the host's
//! resolvers by [`Services::poll_dns`], and what reaches the host's network goes through [`Services::nat_mut`].
//! Frames, and the answers of resolvers, are hostile input.

mod budget;
mod counters;
mod dhcp;
mod dhcp6;
mod dns;
mod forward;
mod frame;
mod gateway;
mod ipv6;
mod leasing;
mod local;
mod metadata;
mod names;
pub mod nat;
mod network;
mod random;
mod router;
mod services;
mod streams;

pub use counters::{Counters, Reason};
pub use dhcp::{Lease, LeaseRecord, LeaseState, PersistRequest};
pub use dns::DnsForward;
pub use frame::OutFrame;
pub use ipv6::{LINK_LOCAL, Station, gateway_address};
pub use network::{DhcpServer, Forward, NetworkId, NetworkServices, Reservation};
pub use router::{JoinedNetwork, RouteEnd, RouteRule, Router, RouterConfig, RouterStep, RouterTrace};
pub use services::Services;
