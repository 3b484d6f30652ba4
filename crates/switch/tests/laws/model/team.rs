//! Law 8: several uplinks are one.

use std::sync::Arc;

use weft_switch::{DropReason, Mode, PortConfig, Role, Team, TeamMode, VSwitchId};
use weft_types::{MacAddr, PortId};

use super::acl::ports;
use super::guard::{be16, packet};
use super::{Model, vlan};

/// How much the flow of a frame likes an uplink: FNV-1a over the uplink's number and what tells flows apart.
fn score(uplink: PortId, frame: &[u8]) -> u64 {
    let at = if vlan::is_tag(&frame[12..]) { 16 } else { 12 };
    let mut bytes = [&uplink.0.to_be_bytes()[..], &frame[6..12], &frame[..6]].concat();
    let number = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => u128::from(ip.to_bits()).to_be_bytes(),
        std::net::IpAddr::V6(ip) => ip.to_bits().to_be_bytes(),
    };
    match packet(be16(&frame[at..]), &frame[at + 2..]) {
        Some(packet) => {
            bytes.extend(number(packet.src.unwrap()));
            bytes.extend(number(packet.dst));
            bytes.push(packet.protocol);
            let (from, to) = ports(&packet).filter(|_| !packet.is_piece).unwrap_or_default();
            bytes.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
        }
        None => bytes.extend([0; 37]),
    }
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Model {
    pub(crate) fn set_link(&mut self, port: PortId, is_up: bool) {
        if is_up {
            self.down.remove(&port);
        } else if self.config.ports.iter().any(|known| known.id == port) {
            self.down.insert(port);
        }
    }

    fn team(&self, vswitch: VSwitchId) -> Option<&Team> {
        self.config.vswitches.iter().find(|known| known.id == vswitch)?.team.as_ref()
    }

    /// The uplink that takes a frame.
    pub(super) fn uplink(&self, vswitch: VSwitchId, segment: u16, frame: &[u8]) -> Option<PortId> {
        let is_uplink = |port: &&Arc<PortConfig>| {
            port.vswitch == vswitch && port.role == Role::Uplink && vlan::carries(&port.vlans, segment)
        };
        let mut uplinks: Vec<_> = self.config.ports.iter().filter(is_uplink).map(|port| port.id).collect();
        let Some(team) = self.team(vswitch) else { return uplinks.first().copied() };
        uplinks.sort_by_key(|uplink| team.members.iter().position(|member| member == uplink));
        let live: Vec<_> = uplinks.iter().copied().filter(|uplink| !self.down.contains(uplink)).collect();
        match team.mode {
            TeamMode::ActiveStandby => live.first().or(uplinks.first()).copied(),
            TeamMode::FlowHash => {
                live.into_iter().max_by_key(|uplink| score(*uplink, frame)).or(uplinks.first().copied())
            }
        }
    }

    /// What may come in by an uplink of a team.
    pub(super) fn check_team(
        &self,
        from: &PortConfig,
        segment: u16,
        frame: &[u8],
        src: MacAddr,
    ) -> Result<(), DropReason> {
        let Some(team) = self.team(from.vswitch).filter(|_| from.role == Role::Uplink) else { return Ok(()) };
        if team.mode == TeamMode::ActiveStandby && self.uplink(from.vswitch, segment, frame) != Some(from.id) {
            return Err(DropReason::StandbyUplink);
        }
        let is_veb = self.config.vswitches.iter().any(|it| it.id == from.vswitch && it.mode == Mode::Veb);
        let is_owner = |port: &Arc<PortConfig>| {
            port.vswitch == from.vswitch && port.role != Role::Uplink && self.is_registered(port, segment, src)
        };
        if is_veb && self.config.ports.iter().any(is_owner) { Err(DropReason::Returned) } else { Ok(()) }
    }
}
