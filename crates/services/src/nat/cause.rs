macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why the NAT device dropped, refused or ended something.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Cause {
            $($(#[$doc])* $variant,)*
        }

        impl Cause {
            /// Every cause, in the order of their declaration.
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

causes! {
    /// Too short, or with lengths that contradict each other.
    Malformed = "malformed",
    /// A checksum that is wrong.
    BadChecksum = "bad-checksum",
    /// From a network that has no NAT, so that nobody's counters have it.
    UnknownNetwork = "unknown-network",
    /// Neither TCP nor UDP nor an ICMP echo request.
    Protocol = "protocol",
    /// A fragment of a packet that is not put together.
    Fragment = "fragment",
    /// For an address that nobody may reach: another network's, the host's loopback, a reserved one.
    Prohibited = "prohibited",
    /// For the gateway, on a network without `host_access`.
    NoHostAccess = "no-host-access",
    /// The host may have no more flows.
    FlowLimit = "flow-limit",
    /// The guest may have no more flows.
    GuestLimit = "guest-limit",
    /// A UDP mapping or an echo that made room for a newer one.
    Evicted = "evicted",
    /// A TCP segment of no connection.
    NoConnection = "no-connection",
    /// A TCP segment that comes before something else that is missing.
    OutOfOrder = "out-of-order",
    /// A TCP segment outside of the window, or that acknowledges what was never sent.
    OutsideWindow = "outside-window",
    /// A TCP segment that was sent again.
    Retransmitted = "retransmitted",
    /// A guest that fell silent in the middle of a TCP connection.
    GuestSilent = "guest-silent",
    /// A guest that nobody at the address of a forward says to be.
    NoNeighbour = "no-neighbour",
    /// A forward to a machine that has no address.
    NoAddress = "no-address",
    /// A guest that refused the connection of a forward's client.
    GuestRefused = "guest-refused",
    /// What came from outside to a UDP port or an echo, from somebody whom the guest never wrote to.
    Unsolicited = "unsolicited",
    /// The remote side refused or reset.
    HostRefused = "host-refused",
    /// The host found no way to the remote side.
    HostUnreachable = "host-unreachable",
    /// A packet that was too long for the host's network, and not to be cut.
    TooLong = "too-long",
    /// A packet whose time to live ended in the host's network.
    Expired = "expired",
    /// The remote side did not answer in time.
    HostTimeout = "host-timeout",
    /// The host gave no socket.
    HostExhausted = "host-exhausted",
    /// ICMP sockets are closed to Weft on this host.
    EchoClosed = "echo-closed",
    /// An ICMP error that was not sent because there were too many already.
    IcmpRateLimited = "icmp-rate-limited",
    /// A frame or datagram for which a queue had no room.
    QueueFull = "queue-full",
    /// Bytes of a guest for which there was no memory; it sends them again.
    Memory = "memory",
}

/// How often each [`Cause`] occurred.
#[derive(Clone, Debug)]
pub struct Counters([u64; Cause::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Cause::ALL.len()])
    }
}

impl Counters {
    /// How often `cause` occurred.
    pub fn get(&self, cause: Cause) -> u64 {
        self.0[cause as usize]
    }

    /// Every cause with its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, u64)> + '_ {
        Cause::ALL.iter().map(|&cause| (cause, self.get(cause)))
    }

    pub(super) fn count(&mut self, cause: Cause) {
        self.0[cause as usize] += 1;
    }
}
