use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use weft_wire::virtio_net::HEADER_BYTES;

use crate::Caps;

/// `VHOST_F_LOG_ALL`: what we write is noted, for the guest migrates.
const LOG_ALL: u32 = 26;

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const PROTOCOL_FEATURES: u32 = 30;

/// UDP segmentation offload (virtio 1.3, section 5.1.3).
const GUEST_USO4: u32 = 54;
const GUEST_USO6: u32 = 55;
const HOST_USO: u32 = 56;

/// The header without `num_buffers`, of drivers from before virtio 1.0.
const LEGACY_HEADER_BYTES: usize = HEADER_BYTES - 2;

/// Feature bits that a driver accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features(u64);

impl Features {
    /// All that we offer.
    pub(crate) const OFFERED: Self = {
        let bits = [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_GUEST_ECN,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_ECN,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_MTU, // the value stands in the VMM's configuration space; it asks whether we mind
            GUEST_USO4,
            GUEST_USO6,
            HOST_USO,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
            LOG_ALL,
            PROTOCOL_FEATURES,
            VIRTIO_F_VERSION_1,
            VIRTIO_F_IN_ORDER, // it is so for everybody; a driver that knows can do with less work
        ];
        let mut set = 0;
        let mut index = 0;
        while index < bits.len() {
            set |= 1u64 << bits[index];
            index += 1;
        }
        Self(set)
    };

    /// What a driver accepted; `None` when it took what was not offered.
    pub(crate) fn accepted(bits: u64) -> Option<Self> {
        (bits & !Self::OFFERED.0 == 0).then_some(Self(bits))
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    fn has(self, bit: u32) -> bool {
        self.0 >> bit & 1 != 0
    }

    /// Whether written pages are to be noted.
    pub(crate) fn log_all(self) -> bool {
        self.has(LOG_ALL)
    }

    /// Whether the VMM enables rings one by one; otherwise they are enabled from the start.
    pub(crate) fn protocol_features(self) -> bool {
        self.has(PROTOCOL_FEATURES)
    }

    pub(crate) fn event_idx(self) -> bool {
        self.has(VIRTIO_RING_F_EVENT_IDX)
    }

    /// Whether the driver knows that chains are given back in the order in which it made them available.
    pub(crate) fn in_order(self) -> bool {
        self.has(VIRTIO_F_IN_ORDER)
    }

    /// Whether a frame may be spread over several of the guest's buffers.
    pub(crate) fn mergeable(self) -> bool {
        self.has(VIRTIO_NET_F_MRG_RXBUF)
    }

    /// The length of the header before each frame.
    pub(crate) fn header_bytes(self) -> usize {
        if self.has(VIRTIO_F_VERSION_1) || self.mergeable() { HEADER_BYTES } else { LEGACY_HEADER_BYTES }
    }

    /// What the guest takes without help; large frames need partial checksums (virtio 1.2, section 5.1.3.1).
    pub(crate) fn caps(self) -> Caps {
        let csum = self.has(VIRTIO_NET_F_GUEST_CSUM);
        Caps {
            csum,
            tso4: csum && self.has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: csum && self.has(VIRTIO_NET_F_GUEST_TSO6),
            ecn: csum && self.has(VIRTIO_NET_F_GUEST_ECN),
            uso: csum && self.has(GUEST_USO4) && self.has(GUEST_USO6),
        }
    }
}
