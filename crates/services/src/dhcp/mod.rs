//! The DHCPv4 server (RFC 2131, RFC 2132).

mod record;

pub use record::{Lease, LeaseRecord, LeaseState, PersistRequest};
