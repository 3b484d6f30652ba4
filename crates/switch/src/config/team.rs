use weft_types::PortId;

/// The uplinks of a vSwitch that has several: they are one way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    /// Who of them takes a frame.
    pub mode: TeamMode,
    /// All uplinks of the vSwitch, the preferred one first.
    pub members: Vec<PortId>,
}

/// Who of a team takes a frame, of those that carry its VLAN and whose link is up; where none is, of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TeamMode {
    /// The first. The others wait, and what comes in by them is dropped.
    #[default]
    ActiveStandby,
    /// One for each flow: its addresses, protocol and ports choose. The adjacent switch must take the links for one
    /// (a link aggregation group, IEEE 802.1AX).
    FlowHash,
}
