//! Names at the gateway (RFC 1035).

/// A query for one of the host's resolvers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsForward {
    /// Names the query in [`Services::dns_answer`](crate::Services::dns_answer).
    pub id: u64,
    /// The message, to be sent over UDP as it is.
    pub message: Vec<u8>,
}
