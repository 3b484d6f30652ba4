//! The DHCPv4 server (RFC 2131, RFC 2132).

mod journal;
mod leases;
mod message;
mod record;
mod server;

pub(crate) use journal::{Grant, Journal, record};
pub(crate) use leases::{Change, Leases, Pool, is_station};
pub(crate) use message::Request;
pub use record::{Lease, LeaseRecord, LeaseState, PersistRequest};
pub(crate) use server::{ReplyTo, Server};

/// The UDP ports of servers and clients.
pub(crate) const SERVER_PORT: u16 = 67;
pub(crate) const CLIENT_PORT: u16 = 68;
