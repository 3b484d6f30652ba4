use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why the services did not answer a frame, or answered it with a refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable name, for counters and explanations.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// The frame is of a network that is not configured, so that nobody's counters have it.
    UnknownNetwork = "unknown-network",
    /// Too short, or with lengths that contradict each other.
    Malformed = "malformed",
    /// An IPv4 header, UDP or ICMP checksum that is wrong.
    BadChecksum = "bad-checksum",
    /// Not for the gateway's MAC address, and not for everyone.
    NotForGateway = "not-for-gateway",
    /// Neither ARP nor an IP version that the network speaks.
    EtherType = "ether-type",
    /// An ARP packet that asks for nobody of ours, or that is no request.
    ArpIgnored = "arp-ignored",
    /// A neighbour discovery message that cannot be read, or not from this link.
    NdMalformed = "nd-malformed",
    /// A neighbour discovery message about nobody of ours.
    NdIgnored = "nd-ignored",
    /// A station that is no router and says that it is one.
    NdRogue = "nd-rogue-router",
    /// A source address that no station of this network can have.
    ForgedSource = "forged-source",
    /// A multicast or broadcast packet that no service wants.
    Multicast = "multicast",
    /// A fragment for the gateway itself, which puts nothing together.
    Fragment = "fragment",
    /// The packet's time to live ended at the gateway.
    TtlExpired = "ttl-expired",
    /// A packet that a router's rules, or its default, do not let pass.
    RouterDenied = "router-denied",
    /// A packet that a router's rules do not let pass, of which its sender is told.
    RouterRejected = "router-rejected",
    /// A packet that would begin one connection too many across a router.
    RouterLimit = "router-connection-limit",
    /// A packet that asks for a way of its own across a router.
    RouterSourceRoute = "router-source-route",
    /// A packet across a router that is larger than the other network takes, and may not be cut.
    RouterTooLong = "router-too-long",
    /// A packet across a router for somebody who is not there.
    RouterNobody = "router-nobody",
    /// A packet for the outside, on a network that has none.
    NoRoute = "no-route",
    /// A TCP or UDP port, or a protocol, of the gateway at which nothing answers.
    NoService = "no-service",
    /// An ICMP message that asks for nothing.
    IcmpIgnored = "icmp-ignored",
    /// An ICMP answer that was not sent because there were too many already.
    IcmpRateLimited = "icmp-rate-limited",
    /// A DHCP message that cannot be read or that contradicts itself.
    DhcpMalformed = "dhcp-malformed",
    /// A DHCP message for another server.
    DhcpForeign = "dhcp-foreign",
    /// A DHCP message that a relay passed on from another subnet.
    DhcpOtherSubnet = "dhcp-other-subnet",
    /// A DHCP client that wants to keep an address of which nothing is known here.
    DhcpUnknownClient = "dhcp-unknown-client",
    /// A DHCP message that needs no answer or deserves none.
    DhcpIgnored = "dhcp-ignored",
    /// A DHCP request for an address that the client may not have.
    DhcpRefused = "dhcp-refused",
    /// A DHCP client that found no free address.
    DhcpPoolExhausted = "dhcp-pool-exhausted",
    /// An address that a client found in use by somebody else.
    DhcpDeclined = "dhcp-declined",
    /// An address that answered when it was about to be offered.
    DhcpConflict = "dhcp-conflict",
    /// A DHCP message that came while too many waited for the disk.
    DhcpBusy = "dhcp-busy",
    /// A DHCPv6 message that cannot be read or that contradicts itself.
    Dhcp6Malformed = "dhcp6-malformed",
    /// A DHCPv6 message that needs no answer, or for another server.
    Dhcp6Ignored = "dhcp6-ignored",
    /// A DNS message that cannot be read.
    DnsMalformed = "dns-malformed",
    /// A DNS query that this network may not ask the outside.
    DnsRefused = "dns-refused",
    /// A DNS query that came while too many waited for an answer.
    DnsBusy = "dns-busy",
    /// A DNS query that no server of the host answered.
    DnsTimeout = "dns-timeout",
    /// An answer from outside that does not fit its question.
    DnsBadAnswer = "dns-bad-answer",
    /// A frame for which the queue to the switch had no room.
    QueueFull = "queue-full",
}

/// How often each [`Reason`] occurred.
#[derive(Clone, PartialEq, Eq)]
pub struct Counters([u64; Reason::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Reason::ALL.len()])
    }
}

impl Counters {
    /// How often `reason` occurred.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }

    pub(crate) fn count(&mut self, reason: Reason) {
        self.0[reason as usize] += 1;
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().filter(|(_, n)| *n > 0).map(|(r, n)| (r.name(), n))).finish()
    }
}
