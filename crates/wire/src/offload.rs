//! What a sender left for the receiver to do, as the virtio-net header says it (virtio 1.2, section 5.1.6).

/// Checksum and segmentation work that still has to be done on a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offload {
    /// The state of the transport checksum.
    pub csum: Csum,
    /// Set when the frame is larger than the MTU and stands for several.
    pub gso: Option<Gso>,
}

/// The state of a frame's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Csum {
    /// Complete, and not checked by anyone yet.
    #[default]
    Unverified,
    /// Already found right (`VIRTIO_NET_HDR_F_DATA_VALID`).
    Valid,
    /// Holds only the pseudo-header's sum; whoever sends it to a wire completes it
    /// (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// Where summing starts, in bytes from the frame's first.
        start: u16,
        /// Where the sum belongs, in bytes from `start`.
        offset: u16,
    },
}

/// Generic segmentation offload: one frame that stands for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gso {
    /// How to cut it.
    pub kind: GsoKind,
    /// Payload bytes per segment, not zero.
    pub size: u16,
}

/// The protocols that can be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GsoKind {
    /// TCP over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`); `ecn` when the CWR rule of RFC 3168 applies.
    Tcp4 {
        /// `VIRTIO_NET_HDR_GSO_ECN`
        ecn: bool,
    },
    /// TCP over IPv6.
    Tcp6 {
        /// `VIRTIO_NET_HDR_GSO_ECN`
        ecn: bool,
    },
    /// UDP, cut into datagrams (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    UdpL4,
}
