//! Law 4. Segments are numbers here: 0 is the untagged one.

use weft_switch::{DropReason, Segment, Vlans};
use weft_types::VlanId;

pub(crate) fn is_tag(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x81, 0x00]) || bytes.starts_with(&[0x88, 0xa8])
}

pub(crate) fn number(segment: Segment) -> u16 {
    match segment {
        Segment::Untagged => 0,
        Segment::Vlan(vlan) => vlan.into(),
    }
}

/// The segment of frames without a tag.
fn untagged(vlans: &Vlans) -> Option<u16> {
    match vlans {
        Vlans::Access(segment) => Some(number(*segment)),
        Vlans::Trunk { native, .. } => native.map(number),
    }
}

pub(crate) fn carries(vlans: &Vlans, segment: u16) -> bool {
    let is_allowed = |vlan: VlanId| matches!(vlans, Vlans::Trunk { allowed, .. } if allowed.contains(vlan));
    untagged(vlans) == Some(segment) || VlanId::try_from(segment).is_ok_and(is_allowed)
}

pub(crate) fn overlap(one: &Vlans, other: &Vlans) -> bool {
    (0..4095).any(|segment| carries(one, segment) && carries(other, segment))
}

/// The segment of a frame that came in.
pub(crate) fn classify(vlans: &Vlans, frame: &[u8]) -> Result<u16, DropReason> {
    let is_access = matches!(vlans, Vlans::Access(_));
    if !is_tag(&frame[12..]) {
        return untagged(vlans).ok_or(DropReason::Untagged);
    }
    let vlan = u16::from_be_bytes([frame[14] & 0x0f, frame[15]]);
    let is_double = is_tag(&frame[16..]);
    if is_access && (vlan != 0 || is_double || frame[12] != 0x81) {
        return Err(DropReason::Tagged);
    }
    match vlan {
        0 if is_double => Err(DropReason::DoubleTagged),
        0 => untagged(vlans).ok_or(DropReason::Untagged),
        4095 => Err(DropReason::ReservedVlan),
        vlan if carries(vlans, vlan) => Ok(vlan),
        _ => Err(DropReason::VlanNotAllowed),
    }
}

/// The frame as it leaves; `None` where a tag below the outermost would become the outermost.
pub(crate) fn leaves(vlans: &Vlans, segment: u16, frame: &[u8]) -> Option<Vec<u8>> {
    let has_tag = is_tag(&frame[12..]);
    let priority = if has_tag { frame[14] & 0xf0 } else { 0 };
    let kind = if has_tag { [frame[12], frame[13]] } else { [0x81, 0x00] };
    let rest = &frame[if has_tag { 16 } else { 12 }..];
    if untagged(vlans) == Some(segment) {
        return (!has_tag || !is_tag(rest)).then(|| [&frame[..12], rest].concat());
    }
    let [high, low] = segment.to_be_bytes();
    Some([&frame[..12], &kind, &[priority | high, low], rest].concat())
}
