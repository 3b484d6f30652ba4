use weft_types::{IpNet, PortId, Provenance};

use crate::{Segment, Traffic};

/// The most mirrors that a vSwitch can have.
pub const MAX_MIRRORS: usize = 32;

/// A mirror's number, unique within one switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MirrorId(pub u32);

/// What is copied to whom. Each mirror gets one copy of a frame, as it came in, by however many of its ports it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Its number.
    pub id: MirrorId,
    /// Its name, unique on its vSwitch.
    pub name: String,
    /// Whose frames; none named: those of all ports of the vSwitch.
    pub ports: Vec<PortId>,
    /// In which segments; none named: in all of them.
    pub segments: Vec<Segment>,
    /// Which of them.
    pub direction: Direction,
    /// Of those, which packets; `None`: all frames.
    pub filter: Option<MirrorFilter>,
    /// How many bytes of each are copied at most; `None`: all.
    pub snap_bytes: Option<u32>,
    /// Who gets the copies.
    pub to: MirrorTarget,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// Which way a mirrored frame goes at a port, as the switch sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// In by it, also when it is dropped then.
    In,
    /// Out by it.
    Out,
    /// Either.
    #[default]
    Both,
}

/// Which packets are mirrored: those between two ends, whoever sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorFilter {
    /// The addresses at one end; `None`: any.
    pub from: Option<IpNet>,
    /// The addresses at the other.
    pub to: Option<IpNet>,
    /// Of what kind they are, as the first end says it. What answers it is meant, too; of ICMP, only this type is.
    pub traffic: Traffic,
}

/// Who gets a mirror's copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MirrorTarget {
    /// What stands behind a port of the same vSwitch, an intrusion detection system for example. A frame that goes
    /// there anyway is not copied; what is sent there is as any frame.
    Port(PortId),
    /// Somebody outside of the switch, to whom its caller knows the way.
    Outside,
}
