use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use weft_types::{MacAddr, NetworkName, VmName};

/// What has become of one address: one entry of the lease journal.
///
/// The last record of a `(network, ip)` pair counts; earlier ones may be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The network, by name: it outlives every id.
    pub network: NetworkName,
    /// The address.
    pub ip: Ipv4Addr,
    /// The adapter that holds it, or did.
    pub mac: MacAddr,
    /// What the address is now.
    pub state: LeaseState,
    /// When that ends, in seconds since the Unix epoch.
    pub expires_unix_s: u64,
    /// The name the client gave itself, cleaned of everything but printable ASCII.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
}

/// What an address is to the adapter of its [`LeaseRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseState {
    /// Leased until the record expires.
    Held,
    /// Free again; remembered because clients like to get their old address back.
    Released,
    /// Found in use by somebody unknown: not given to anyone until the record expires (RFC 2131, section 3.1.5).
    Declined,
}

/// Lease records that have to be durable before the clients may hear of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistRequest {
    /// Names the request in [`Services::persisted`](crate::Services::persisted).
    pub token: u64,
    /// What changed: of each `(network, ip)` the last word only, so that their order does not matter.
    pub records: Vec<LeaseRecord>,
}

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The network.
    pub network: NetworkName,
    /// The address.
    pub ip: Ipv4Addr,
    /// The adapter.
    pub mac: MacAddr,
    /// The VM it belongs to, if it is one of ours.
    pub vm: Option<VmName>,
    /// The name the client gave itself, cleaned of everything but printable ASCII.
    pub client_name: Option<String>,
    /// When it ends, in seconds since the Unix epoch.
    pub expires_unix_s: u64,
}
