//! What the NAT device asks of the host's sockets, and what it hears from them.

use std::net::{IpAddr, SocketAddr};

use weft_wire::icmpv4::Unreachable;
use weft_wire::icmpv6;

use super::Cause;
use super::flows::FlowId;
use super::forward::ForwardId;
use super::packet::Packet;

/// Work for the driver of the host's sockets. Each flow has at most one socket; a flow's socket does not survive
/// its `…Close`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostOp {
    /// Open a TCP socket and connect it; answered by [`Nat::tcp_connected`] or [`Nat::tcp_failed`].
    ///
    /// [`Nat::tcp_connected`]: super::Nat::tcp_connected
    /// [`Nat::tcp_failed`]: super::Nat::tcp_failed
    TcpConnect {
        /// The flow.
        flow: FlowId,
        /// Where to.
        to: SocketAddr,
    },
    /// There are bytes for the socket ([`Nat::tcp_outgoing`]), there is room again for bytes from it
    /// ([`Nat::tcp_room`]), or its sending half is to be shut.
    ///
    /// [`Nat::tcp_outgoing`]: super::Nat::tcp_outgoing
    /// [`Nat::tcp_room`]: super::Nat::tcp_room
    TcpProgress {
        /// The flow.
        flow: FlowId,
    },
    /// Close the socket.
    TcpClose {
        /// The flow.
        flow: FlowId,
        /// Whether the remote side is to see a reset instead of an orderly end.
        reset: bool,
    },
    /// Send a datagram, from the flow's own socket, which is opened for the first one.
    UdpSend {
        /// The flow.
        flow: FlowId,
        /// Where to.
        to: SocketAddr,
        /// How the guest sent it.
        transit: Transit,
        /// What.
        payload: Vec<u8>,
    },
    /// Close the socket.
    UdpClose {
        /// The flow.
        flow: FlowId,
    },
    /// Send a datagram from the socket of a forward, to one of its clients.
    UdpAnswer {
        /// The forward.
        forward: ForwardId,
        /// Which of its ports, counted from the first.
        offset: u16,
        /// The client.
        to: SocketAddr,
        /// What.
        payload: Vec<u8>,
    },
    /// Send an ICMP echo request (an ICMPv6 one to an IPv6 address), with an identifier of the driver's choosing that belongs to this flow.
    EchoSend {
        /// The flow.
        flow: FlowId,
        /// Where to.
        to: IpAddr,
        /// How the guest sent it.
        transit: Transit,
        /// The sequence number, to be kept.
        sequence: u16,
        /// What follows the sequence number.
        payload: Vec<u8>,
    },
    /// Forget the identifier.
    EchoClose {
        /// The flow.
        flow: FlowId,
    },
}

/// What a guest's packet says about its own way, for it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transit {
    /// The time to live, or hop limit, that is left.
    pub ttl: u8,
    /// Whether it may not be cut: then the sender wants to hear where it is too long.
    pub dont_fragment: bool,
}

impl Transit {
    /// Of a packet that passes the gateway, which is a router to its guests.
    pub(super) fn of(packet: &Packet<'_>) -> Self {
        Self { ttl: packet.ttl.saturating_sub(1).max(1), dont_fragment: packet.dont_fragment }
    }
}

/// What somebody says by ICMP about a packet that went out for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Who says it: a router, the target; the host itself by its loopback address.
    pub from: IpAddr,
    /// What became of the packet.
    pub fate: PacketFate,
}

/// What became of a packet that did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketFate {
    /// Its target cannot be reached, for any reason but the next one.
    Unreachable(Unreachable),
    /// The same, of IPv6.
    UnreachableV6(icmpv6::Unreachable),
    /// It may not be cut, and is too long.
    TooLong {
        /// What would pass.
        mtu: u16,
    },
    /// It was under way for too long.
    Expired {
        /// As in [`weft_wire::icmpv4::Message::TimeExceeded`].
        code: u8,
    },
}

impl PacketFate {
    /// What an ICMP message of this type and code says, with the MTU that it may name; `None` when it is no error that
    /// a guest need know.
    pub fn of_message(kind: u8, code: u8, mtu: u32) -> Option<Self> {
        match (kind, Unreachable(code)) {
            (3, Unreachable::FRAGMENTATION_NEEDED) => {
                Some(Self::TooLong { mtu: u16::try_from(mtu).unwrap_or(u16::MAX) })
            }
            (3, code) => Some(Self::Unreachable(code)),
            (11, _) => Some(Self::Expired { code }),
            _ => None,
        }
    }

    /// The same for a message of ICMPv6.
    pub fn of_message_v6(kind: u8, code: u8, mtu: u32) -> Option<Self> {
        match kind {
            1 => Some(Self::UnreachableV6(icmpv6::Unreachable(code))),
            2 => Some(Self::TooLong { mtu: u16::try_from(mtu).unwrap_or(u16::MAX) }),
            3 => Some(Self::Expired { code }),
            _ => None,
        }
    }

    /// What counts it.
    pub(super) fn cause(self) -> Cause {
        match self {
            Self::Unreachable(Unreachable::PORT) | Self::UnreachableV6(icmpv6::Unreachable::PORT) => Cause::HostRefused,
            Self::Unreachable(_) | Self::UnreachableV6(_) => Cause::HostUnreachable,
            Self::TooLong { .. } => Cause::TooLong,
            Self::Expired { .. } => Cause::Expired,
        }
    }
}

/// Why a socket failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// Refused, or reset.
    Refused,
    /// No way to the host.
    HostUnreachable,
    /// No way to the network.
    NetUnreachable,
    /// The host's own rules forbid it.
    Prohibited,
    /// No answer.
    TimedOut,
    /// The host has no socket, port or memory left.
    Exhausted,
}

impl HostError {
    /// What counts it.
    pub(super) fn cause(self) -> Cause {
        match self {
            Self::Refused => Cause::HostRefused,
            Self::HostUnreachable | Self::NetUnreachable => Cause::HostUnreachable,
            Self::Prohibited => Cause::Prohibited,
            Self::TimedOut => Cause::HostTimeout,
            Self::Exhausted => Cause::HostExhausted,
        }
    }
}

/// What the host can bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// All flows together.
    pub flows: usize,
    /// The flows of one guest: of an IPv4 address, and of an adapter by IPv6.
    pub flows_per_guest: usize,
    /// Whether ICMP echo requests can be sent.
    pub echo: bool,
    /// The same of ICMPv6.
    pub echo_v6: bool,
}

impl Default for HostLimits {
    /// What fits into the usual 1024 open files.
    fn default() -> Self {
        Self { flows: 768, flows_per_guest: 256, echo: false, echo_v6: false }
    }
}
