//! Every dropped frame has one named reason.

use std::fmt;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a frame goes no further. The names are stable: they appear in listings, metrics and scripts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The reason's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before its header does.
    Malformed = "malformed",
    /// The port is not part of the configuration in force.
    UnknownPort = "unknown-port",
    /// The source is a group's address or none.
    BadSource = "bad-source",
    /// The source is not registered for the port, and the port may not forge.
    ForgedMac = "forged-mac",
    /// A VLAN tag on a port that carries none.
    Tagged = "tagged",
    /// A group address that bridges never forward (IEEE 802.1Q, table 8-1).
    LinkLocalGroup = "link-local-group",
    /// Nobody on the network has the address, and there is no uplink.
    UnknownUnicast = "unknown-unicast",
    /// The address is behind the port that the frame came from.
    NotForOthers = "not-for-others",
    /// The frame is for a group, and no other port is there.
    NoReceiver = "no-receiver",
    /// The receiver took no more frames.
    EgressFull = "egress-full",
    /// The receiver is not connected.
    EgressDown = "egress-down",
    /// The receiver cannot take a frame of this size or kind.
    EgressUnfit = "egress-unfit",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A port's dropped frames, by reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    #[inline]
    pub(crate) fn count(&mut self, reason: DropReason, frames: u64) {
        self.0[reason as usize] += frames;
    }

    /// The reasons that happened.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|reason| (*reason, self.0[*reason as usize])).filter(|(_, frames)| *frames > 0)
    }
}
