/// Why bytes are not the frame that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// The frame ends inside of a header.
    #[error("the frame ends inside of a header")]
    Truncated,
    /// The IPv4 header contradicts itself.
    #[error("the IPv4 header contradicts itself")]
    Ipv4,
    /// The IPv6 header contradicts itself.
    #[error("the IPv6 header contradicts itself")]
    Ipv6,
    /// The work that is left to do does not fit the frame.
    #[error("the offload that is asked for does not fit the frame")]
    Offload,
}
