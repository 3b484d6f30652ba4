//! What is decided about a frame.

use std::fmt;

use weft_types::PortId;

/// The decision about one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It leaves by these ports: at least one, each of them once, never the one by which it came in.
    Forward(&'a [PortId]),
    /// It goes nowhere, and has been counted.
    Drop(DropReason),
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a frame went nowhere. Each dropped frame has exactly one reason, counted on the port by which it came
        /// in. The names are stable: listings, metrics and scripts use them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of their declaration.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// The reason's stable name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// The port by which it came in is not (any more) a port of the switch, so nobody is left to count it.
    UnknownPort = "unknown-port",
    /// It is shorter than an Ethernet header, or its tag is cut off.
    Malformed = "malformed",
    /// It is longer than any frame can be.
    TooLong = "too-long",
    /// Its virtio-net header asks for work that contradicts the frame.
    BadOffload = "bad-offload",
    /// It has a VLAN tag, and the port is an access port.
    Tagged = "tagged",
    /// Its source is a group address, or zero: no station can have sent it.
    InvalidSource = "invalid-source",
    /// Its source is not registered for the port by which it came in.
    ForgedMac = "forged-mac",
    /// Its destination is one of the group addresses that a bridge never forwards (IEEE 802.1Q, table 8-1).
    ReservedGroup = "reserved-group",
    /// Its destination is registered nowhere on the network, and no uplink leads to where it could be.
    UnknownUnicast = "unknown-unicast",
    /// Its destination is registered for the very port by which it came in.
    SamePort = "same-port",
    /// It is for a group, and there is no other port.
    NoReceiver = "no-receiver",
    /// The ports by which it should leave have no room.
    EgressFull = "egress-full",
    /// The ports by which it should leave have no peer.
    EgressDown = "egress-down",
    /// It is longer than the ports by which it should leave can send.
    EgressTooLong = "egress-too-long",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
