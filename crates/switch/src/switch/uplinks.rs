//! Who of a team takes frames (law 8), said without one.

use weft_types::PortId;

use super::Switch;
use crate::table::{PortIndex, VSwitch};
use crate::{Role, Segment, Step, Team, TeamMode, Vlans};

impl Switch {
    /// Whether an uplink of a team takes frames; `None` for any other port. One that is down does only when the others
    /// of its VLANs are, too.
    pub fn is_active_uplink(&self, port: PortId) -> Option<bool> {
        let index = self.tables.index(port)?;
        let (port, vswitch) = (self.tables.port(index), self.tables.vswitch(self.tables.port(index).vswitch));
        let team = vswitch.config.team.as_ref().filter(|_| port.config.role == Role::Uplink)?;
        let mut segments: Box<dyn Iterator<Item = Segment>> = match &port.config.vlans {
            Vlans::Access(segment) => Box::new(std::iter::once(*segment)),
            Vlans::Trunk { allowed, native } => {
                Box::new(native.iter().copied().chain(allowed.iter().map(Segment::Vlan)))
            }
        };
        Some(segments.any(|segment| self.takes(vswitch, team, segment, index)))
    }

    /// Whether an uplink takes frames of a segment that it carries.
    fn takes(&self, vswitch: &VSwitch, team: &Team, segment: Segment, uplink: PortIndex) -> bool {
        let is_up = |uplink: &PortIndex| self.tables.port(*uplink).is_up;
        let mut carrying = vswitch.uplinks.iter().copied().filter(|other| self.tables.port(*other).carries(segment));
        let mut live = carrying.clone().filter(is_up);
        match (team.mode, live.next()) {
            (_, None) => carrying.next() == Some(uplink),
            (TeamMode::ActiveStandby, first) => first == Some(uplink),
            (TeamMode::FlowHash, _) => is_up(&uplink),
        }
    }

    /// Why a frame leaves by this one of several uplinks.
    pub(super) fn uplink_step(&self, uplink: PortIndex) -> Option<Step> {
        let port = self.tables.port(uplink);
        let vswitch = self.tables.vswitch(port.vswitch);
        let team = vswitch.config.team.as_ref().filter(|_| port.config.role == Role::Uplink)?;
        let others = vswitch.uplinks.iter().filter(|other| **other != uplink).map(|other| {
            let other = self.tables.port(*other);
            match (other.is_up, team.mode) {
                (false, _) => format!("`{}` is down", other.config.name),
                (true, TeamMode::ActiveStandby) => format!("`{}` waits", other.config.name),
                (true, TeamMode::FlowHash) => format!("`{}` takes other flows", other.config.name),
            }
        });
        let others: Vec<_> = others.collect();
        let name = &port.config.name;
        let mut finding = match (team.mode, port.is_up) {
            (_, false) => format!("no uplink is up, so `{name}` is tried"),
            (TeamMode::ActiveStandby, true) => format!("`{name}` is the active uplink: the first that is up"),
            (TeamMode::FlowHash, true) => format!("`{name}` takes this flow"),
        };
        if !others.is_empty() {
            finding = format!("{finding}; {}", others.join(", "));
        }
        Some(Step { stage: "team", finding, because: Some(vswitch.config.provenance.clone()) })
    }
}
