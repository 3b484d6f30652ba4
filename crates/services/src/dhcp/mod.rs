//! The DHCPv4 server (RFC 2131, RFC 2132).

mod code;
mod journal;
mod leases;
mod pool;
mod probes;
mod record;
mod reply;
mod request;
mod server;

pub(crate) use journal::{Grant, Journal, record};
pub(crate) use leases::{Change, Leases};
pub(crate) use pool::{Pool, is_station};
pub(crate) use probes::{Probe, Probes};
pub use record::{Lease, LeaseRecord, LeaseState, PersistRequest};
pub(crate) use request::Request;
pub(crate) use server::{Reply, ReplyTo, Server};

/// The UDP ports of servers and clients.
pub(crate) const SERVER_PORT: u16 = 67;
pub(crate) const CLIENT_PORT: u16 = 68;
