//! The laws of docs/ARCHITECTURE.md, word for word: no tables, no cache, no stages, nothing shared with the switch but
//! what it takes in and gives out.

use std::collections::BTreeSet;

use weft_switch::{Config, DropReason, PortConfig, Role};
use weft_types::{MacAddr, PortId};

/// The ports by which a frame leaves, or why it does not.
pub(crate) fn decide(
    config: &Config,
    ingress: PortId,
    frame: &[u8],
    frame_len: usize,
) -> Result<BTreeSet<PortId>, DropReason> {
    if frame_len > 18 + 65_535 {
        return Err(DropReason::TooLong);
    }
    if frame.len() < 14 {
        return Err(DropReason::Malformed);
    }
    let mac = |at: usize| MacAddr::new(frame[at..at + 6].try_into().expect("six octets"));
    let (dst, src) = (mac(0), mac(6));
    let is_tagged = [[0x81, 0x00], [0x88, 0xa8]].contains(&[frame[12], frame[13]]);
    if is_tagged && frame.len() < 18 {
        return Err(DropReason::Malformed);
    }
    let from = config.ports.iter().find(|port| port.id == ingress).ok_or(DropReason::UnknownPort)?;
    if is_tagged {
        return Err(DropReason::Tagged);
    }
    if src.is_group() || src == MacAddr::ZERO {
        return Err(DropReason::InvalidSource);
    }
    if !from.macs.contains(&src) && from.role != Role::Uplink && !from.policy.forged_macs {
        return Err(DropReason::ForgedMac);
    }
    if frame[..5] == [0x01, 0x80, 0xc2, 0, 0] && frame[5] < 0x10 {
        return Err(DropReason::ReservedGroup);
    }

    let others: Vec<&PortConfig> =
        config.ports.iter().filter(|port| port.vswitch == from.vswitch && port.id != ingress).collect();
    if dst.is_group() {
        // Broadcast goes to all ports; so does multicast, because which groups a port asked for is not known.
        let all: BTreeSet<_> = others.iter().map(|port| port.id).collect();
        return if all.is_empty() { Err(DropReason::NoReceiver) } else { Ok(all) };
    }
    if from.macs.contains(&dst) {
        return Err(DropReason::SamePort);
    }
    let owner = others.iter().find(|port| port.macs.contains(&dst));
    let uplink = others.iter().find(|port| port.role == Role::Uplink);
    let target = owner.or(uplink).ok_or(DropReason::UnknownUnicast)?;
    let listeners = others.iter().filter(|port| port.policy.promiscuous).map(|port| port.id);
    Ok(listeners.chain([target.id]).collect())
}
