use std::fmt;

use weft_types::{VlanId, VlanSet};
use weft_wire::ethernet::Tag;
use weft_wire::{EtherType, TagEdit};

use crate::DropReason;

/// One broadcast domain of a vSwitch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// That of the ports for which no VLAN was named.
    #[default]
    Untagged,
    /// A VLAN.
    Vlan(VlanId),
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged => f.write_str("the untagged segment"),
            Self::Vlan(vlan) => write!(f, "VLAN {vlan}"),
        }
    }
}

/// Which VLANs a port's frames are in, and how they say so (IEEE 802.1Q).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vlans {
    /// All its frames are in one segment and have no tag; what stands behind it knows nothing of VLANs.
    Access(Segment),
    /// Frames say by their tag in which VLAN they are.
    Trunk {
        /// The VLANs that may pass.
        allowed: VlanSet,
        /// The segment of frames without a tag, which passes too; without one they are dropped.
        native: Option<Segment>,
    },
}

impl Default for Vlans {
    fn default() -> Self {
        Self::Access(Segment::Untagged)
    }
}

impl Vlans {
    /// The segment of a frame that came in with this outermost `tag`, which another tag may follow.
    pub(crate) fn classify(&self, tag: Option<Tag>, is_double: bool) -> Result<Segment, DropReason> {
        let untagged = match self {
            Self::Access(segment) => Some(*segment),
            Self::Trunk { native, .. } => *native,
        };
        match (tag, self) {
            (None, _) => untagged.ok_or(DropReason::Untagged),
            // A tag with VLAN 0 carries a priority and nothing else (clause 6.9.1), so it must not hide another tag.
            (Some(tag), _) if tag.control & 0xfff == 0 => match self {
                Self::Access(_) if is_double || tag.kind != EtherType::C_TAG => Err(DropReason::Tagged),
                Self::Trunk { .. } if is_double => Err(DropReason::DoubleTagged),
                Self::Access(_) | Self::Trunk { .. } => untagged.ok_or(DropReason::Untagged),
            },
            (Some(_), Self::Access(_)) => Err(DropReason::Tagged),
            (Some(tag), Self::Trunk { .. }) => {
                let segment = Segment::Vlan(tag.vlan().ok_or(DropReason::ReservedVlan)?);
                if self.carries(segment) { Ok(segment) } else { Err(DropReason::VlanNotAllowed) }
            }
        }
    }

    /// Whether frames of `segment` pass.
    pub(crate) fn carries(&self, segment: Segment) -> bool {
        match self {
            Self::Access(own) => *own == segment,
            Self::Trunk { allowed, native } => {
                *native == Some(segment) || matches!(segment, Segment::Vlan(vlan) if allowed.contains(vlan))
            }
        }
    }

    /// How a frame of `segment`, which passes, leaves that came in with `tag`.
    pub(crate) fn edit(&self, segment: Segment, tag: Option<Tag>) -> TagEdit {
        let tagged = match (self, segment) {
            (Self::Trunk { native, .. }, Segment::Vlan(vlan)) if *native != Some(segment) => Some(vlan),
            _ => None,
        };
        match (tagged.map(u16::from), tag) {
            (None, None) => TagEdit::Keep,
            (None, Some(_)) => TagEdit::Pop,
            (Some(vlan), None) => TagEdit::Push(vlan),
            (Some(vlan), Some(tag)) if tag.control & 0xfff == vlan => TagEdit::Keep,
            (Some(vlan), Some(tag)) => TagEdit::Retag(tag.control & 0xf000 | vlan),
        }
    }

    /// Whether a segment passes both.
    pub(crate) fn overlap(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Access(segment), vlans) | (vlans, Self::Access(segment)) => vlans.carries(*segment),
            (Self::Trunk { allowed, native }, Self::Trunk { allowed: others, native: their }) => {
                allowed.intersects(others)
                    || native.is_some_and(|segment| other.carries(segment))
                    || their.is_some_and(|segment| self.carries(segment))
            }
        }
    }
}
