//! What is decided about a frame.

use std::fmt;

use weft_types::PortId;
use weft_wire::TagEdit;

use crate::{MirrorId, MirrorTarget};

/// The decision about one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It leaves by these ports: at least one, each of them once, never the one by which it came in.
    Forward(&'a [Output]),
    /// It goes nowhere, and has been counted.
    Drop(DropReason),
}

/// A port by which a frame leaves, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Output {
    /// The port.
    pub port: PortId,
    /// What is done to its tag on the way out.
    pub edit: TagEdit,
}

const _: () = assert!(size_of::<Output>() == 8);

/// A copy of a frame for a mirror (law 7). It is never mirrored again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MirrorCopy {
    /// The mirror.
    pub mirror: MirrorId,
    /// Who gets it.
    pub to: MirrorTarget,
    /// What is done to its tag on the way to a port.
    pub edit: TagEdit,
    /// How many bytes of it are copied at most, as it came in.
    pub snap_bytes: Option<u32>,
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
    /// It has no VLAN tag, and the port is a trunk without a native VLAN.
    Untagged = "untagged",
    /// The trunk port does not carry its VLAN.
    VlanNotAllowed = "vlan-not-allowed",
    /// Its tag names VLAN 4095, which no frame may be in (IEEE 802.1Q, table 9-2).
    ReservedVlan = "reserved-vlan",
    /// It would leave without its outer tag, and the tag below would carry it into another VLAN.
    DoubleTagged = "double-tagged",
    /// Its source is a group address, or zero: no station can have sent it.
    InvalidSource = "invalid-source",
    /// Its source is not registered for the port by which it came in.
    ForgedMac = "forged-mac",
    /// Its source is new, and the port has as many learned stations as it may have.
    LearnLimit = "learn-limit",
    /// Its IPv4 source is no address of the port by which it came in.
    ForgedIpv4 = "forged-ipv4",
    /// Its IPv6 source is no address of the port by which it came in.
    ForgedIpv6 = "forged-ipv6",
    /// It says in ARP that its sender has what is not its own.
    ForgedArp = "forged-arp",
    /// It says in neighbour discovery that its sender has what is not its own, or cannot be read whole.
    ForgedNeighbour = "forged-neighbour",
    /// It comes from a DHCP server, and there may be none behind the port.
    RogueDhcpServer = "rogue-dhcp-server",
    /// It is a router advertisement or redirect, and there may be no router behind the port.
    RogueRouter = "rogue-router",
    /// Its extension headers hide whether it is what the port may not send.
    Unreadable = "unreadable",
    /// It goes to an adapter of the host, and its IP destination is no address of that: the host would forward it.
    NotForHost = "not-for-host",
    /// Its destination is one of the group addresses that a bridge never forwards (IEEE 802.1Q, table 8-1).
    ReservedGroup = "reserved-group",
    /// A rule of the network's access list, or its default, denies it.
    AclDenied = "acl-denied",
    /// A rule of the network's access list, or its default, rejects it: its sender may be told.
    AclRejected = "acl-rejected",
    /// It would begin a connection, and the port has begun as many as it may.
    ConnectionLimit = "connection-limit",
    /// Its destination is registered nowhere on the network, and no uplink leads to where it could be.
    UnknownUnicast = "unknown-unicast",
    /// All frames of the network leave by its uplink, and none carries the frame's VLAN.
    NoUplink = "no-uplink",
    /// It came in by an uplink of a team that is not the active one.
    StandbyUplink = "standby-uplink",
    /// It came in by an uplink of a team, and was sent from here.
    Returned = "returned",
    /// Its destination is registered for the very port by which it came in.
    SamePort = "same-port",
    /// It is for a group, and there is no other port.
    NoReceiver = "no-receiver",
    /// The ports by which it should leave have no room.
    EgressFull = "egress-full",
    /// The ports by which it should leave have no peer.
    EgressDown = "egress-down",
    /// The port by which it came in sends faster than it may.
    OverRate = "over-rate",
    /// The ports by which it should leave are sent to faster than they may be.
    EgressOverRate = "egress-over-rate",
    /// It came too fast for the port by which it came in, or for those by which it should leave, and too much waits there.
    QueueFull = "queue-full",
    /// It is longer than the ports by which it should leave can send.
    EgressTooLong = "egress-too-long",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
