//! Whose an IP address is: leases from before the switch began, and ports of which no address is known.

use std::net::{IpAddr, Ipv4Addr};

use weft_switch::{
    Addresses, Config, DropReason, PortConfig, Role, Segment, Switch, VSwitchConfig, VSwitchId, Verdict,
};
use weft_types::{Instant, MacAddr, PortId, Provenance};

const GATEWAY: PortId = PortId(0);
const WEB: PortId = PortId(1);
const DB: PortId = PortId(2);
const TAP: PortId = PortId(3);

fn mac(port: PortId) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, port.0 as u8])
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn switch() -> Switch {
    let place = || Provenance::command("test");
    let known =
        |fixed: &[u8], learn| Addresses::Known { fixed: fixed.iter().map(|last| ip(*last).into()).collect(), learn };
    let port = |id: PortId, name: &str, role, addresses| PortConfig {
        macs: vec![mac(id)],
        addresses,
        ..PortConfig::new(id, name.parse().unwrap(), VSwitchId(0), role, place())
    };
    let ports = vec![
        port(GATEWAY, "gateway", Role::Gateway, known(&[1], 0)),
        port(WEB, "web", Role::Vnic, known(&[], 2)),
        port(DB, "db", Role::Vnic, known(&[20], 2)),
        port(TAP, "tap", Role::HostAdapter, Addresses::Any),
    ];
    let vswitches = vec![VSwitchConfig::new(VSwitchId(0), "office".parse().unwrap(), place())];
    let mut switch = Switch::new(7);
    switch.configure(Config { generation: 1, vswitches, ports: ports.into_iter().map(Into::into).collect() }).unwrap();
    switch
}

#[test]
fn who_may_have_any_address_has_none_that_was_configured_for_another() {
    let mut switch = switch();
    for (last, may) in [(77, true), (20, false), (78, true), (20, false), (1, false), (77, true)] {
        assert_eq!(passes(&mut switch, TAP, last), may, "{last}");
    }
    let mut says = |last: u8| {
        let mut frame = [&[255; 6], &mac(TAP).octets()[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
        frame.extend([&mac(TAP).octets()[..], &[10, 0, 0, last], &[0; 6], &[10, 0, 0, 9]].concat());
        matches!(switch.forward(Instant::ZERO, TAP, &frame, frame.len()), Verdict::Forward(_))
    };
    assert_eq!([says(77), says(20), says(1)], [true, false, false]);
    let drops: Vec<_> = switch.drops(TAP).collect();
    assert_eq!(drops, [(DropReason::ForgedIpv4, 3), (DropReason::ForgedArp, 2)]);
}

/// Whether a packet from an address of 10.0.0.0/24 passes from `from` to the gateway.
fn passes(switch: &mut Switch, from: PortId, last: u8) -> bool {
    let mut frame =
        [&mac(GATEWAY).octets()[..], &mac(from).octets(), &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
    frame.extend([10, 0, 0, last, 10, 0, 0, 1, 0, 9, 0, 9, 0, 8, 0, 0]);
    match switch.forward(Instant::ZERO, from, &frame, frame.len()) {
        Verdict::Forward(_) => true,
        Verdict::Drop(reason) => {
            assert_eq!(reason, DropReason::ForgedIpv4);
            false
        }
    }
}

#[test]
fn a_lease_is_the_ports_own_unless_it_is_fixed_elsewhere() {
    let mut switch = switch();
    assert!(!passes(&mut switch, WEB, 10));
    for (who, last) in [(WEB, 10), (WEB, 20), (WEB, 1), (GATEWAY, 11), (PortId(9), 12)] {
        switch.note_lease(GATEWAY, mac(who), ip(last));
    }
    assert_eq!(switch.learned_addresses(WEB).collect::<Vec<_>>(), [ip(10)]);
    assert!(passes(&mut switch, WEB, 10) && !passes(&mut switch, WEB, 20) && !passes(&mut switch, WEB, 1));
    assert!(!passes(&mut switch, DB, 10) && passes(&mut switch, DB, 20));
    // What somebody loses is not heard from there any more, cached or not.
    switch.note_lease(GATEWAY, mac(DB), ip(10));
    assert!(!passes(&mut switch, WEB, 10) && passes(&mut switch, DB, 10));
    for last in [31, 32, 31] {
        switch.note_lease(GATEWAY, mac(DB), ip(last));
    }
    assert_eq!(switch.learned_addresses(DB).collect::<Vec<_>>(), [ip(31), ip(32)], "the oldest gave way");
}

/// What a port had before the switch began is its own again, unless it is somebody else's now.
#[test]
fn addresses_from_before() {
    let mut before = switch();
    before.note_lease(GATEWAY, mac(WEB), ip(7));
    before.note_lease(GATEWAY, mac(WEB), ip(8));
    assert!(passes(&mut before, WEB, 7) && before.address_changes() == 2);
    let known: Vec<_> = before.learned_in_segments(WEB).collect();
    assert_eq!(known, [(Segment::Untagged, ip(7)), (Segment::Untagged, ip(8))]);

    let mut after = switch();
    assert!(!passes(&mut after, WEB, 7));
    for (segment, address) in known {
        after.restore_address(WEB, segment, address);
    }
    assert!(passes(&mut after, WEB, 7) && passes(&mut after, WEB, 8));
    after.restore_address(DB, Segment::Untagged, ip(7)); // `web` has it
    after.restore_address(WEB, Segment::Untagged, ip(20)); // configured for `db`
    after.restore_address(GATEWAY, Segment::Untagged, ip(9)); // which learns none
    after.restore_address(WEB, Segment::Vlan(7u16.try_into().unwrap()), ip(9)); // where it is not
    after.restore_address(PortId(99), Segment::Untagged, ip(9));
    assert!(!passes(&mut after, DB, 7) && !passes(&mut after, WEB, 20) && !passes(&mut after, WEB, 9));
    assert_eq!(after.address_changes(), 2);
}
