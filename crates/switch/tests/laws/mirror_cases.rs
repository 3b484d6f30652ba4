//! Law 7 in single cases: who gets a copy, captures that come and go, and which mirrors are refused.

use std::fmt::Write;

use expect_test::expect;
use weft_switch::{
    Config, Direction, Mirror, MirrorFilter, MirrorId, MirrorTarget, PortConfig, Role, Segment, Switch, Traffic,
    VSwitchId, Vlans,
};
use weft_types::{IpNet, PortId, Provenance, VlanId};
use weft_wire::Protocol;

use crate::world::{Frame, mac, vswitches};
use crate::{NOW, packet};

fn vlan(raw: u16) -> Segment {
    Segment::Vlan(VlanId::try_from(raw).unwrap())
}

/// Ports 1 and 2 in VLAN 10, 3 in VLAN 20, the trunk 4 and the gateway 5, each with the MAC address of its number.
fn world(mirrors: Vec<Mirror>) -> Config {
    let trunk = Vlans::Trunk {
        allowed: [10, 20].map(|raw| VlanId::try_from(raw).unwrap()).into_iter().collect(),
        native: None,
    };
    let port = |id: u32, role: Role, vlans: Vlans| {
        let place = Provenance::file("lab.toml", id);
        let port = PortConfig::new(PortId(id), format!("p{id}").parse().unwrap(), VSwitchId(0), role, place);
        PortConfig { macs: vec![mac(id as u8)], vlans, ..port }.into()
    };
    let ports = vec![
        port(1, Role::Vnic, Vlans::Access(vlan(10))),
        port(2, Role::Vnic, Vlans::Access(vlan(10))),
        port(3, Role::Vnic, Vlans::Access(vlan(20))),
        port(4, Role::Vnic, trunk),
        port(5, Role::Gateway, Vlans::Access(vlan(10))),
    ];
    let mut config = Config { vswitches: vswitches(), ports, ..Config::default() };
    config.vswitches[0].mirrors = mirrors;
    config
}

fn mirror(number: u32, ports: &[u32], direction: Direction, to: MirrorTarget) -> Mirror {
    Mirror {
        id: MirrorId(number),
        name: format!("m{number}"),
        ports: ports.iter().copied().map(PortId).collect(),
        segments: Vec::new(),
        direction,
        filter: None,
        snap_bytes: None,
        to,
        provenance: Provenance::file("lab.toml", 50 + number),
    }
}

fn send(switch: &mut Switch, frame: &Frame) -> String {
    let fate = match switch.forward(NOW, frame.ingress, &frame.head, frame.len) {
        weft_switch::Verdict::Forward(outputs) => {
            outputs.iter().map(|output| output.port.to_string()).collect::<Vec<_>>().join(" ")
        }
        weft_switch::Verdict::Drop(reason) => reason.to_string(),
    };
    let mut line = format!("{fate} |");
    for copy in switch.copies() {
        write!(line, " {}:{:?}:{:?}", copy.mirror.0, copy.to, copy.edit).unwrap();
    }
    line
}

#[test]
fn copies_go_to_who_looks_and_nowhere_twice() {
    let (outside, ids) = (MirrorTarget::Outside, MirrorTarget::Port(PortId(4)));
    let mirrors = vec![
        mirror(1, &[1], Direction::In, outside),
        mirror(2, &[1], Direction::Out, ids),
        Mirror { segments: vec![vlan(20)], ..mirror(3, &[], Direction::Both, outside) },
        Mirror { snap_bytes: Some(64), ..mirror(4, &[2], Direction::Both, ids) },
    ];
    let mut switch = Switch::new(7);
    switch.configure(world(mirrors)).unwrap();
    let mut lines = String::new();
    for (ingress, src, dst, tags) in [
        (1, 1, 2, &[][..]),
        (1, 1, 2, &[]), // the same from the cache
        (2, 2, 1, &[]),
        (1, 1, 9, &[]),             // dropped, and seen all the same
        (1, 1, 255, &[]),           // the target gets it anyway
        (4, 4, 1, &[(0x8100, 10)]), // nobody gets back what it sends
        (3, 3, 4, &[]),
        (1, 1, 2, &[(0x8100, 10)]), // in no segment
    ] {
        writeln!(lines, "{ingress} {src}>{dst} {tags:?}: {}", send(&mut switch, &Frame::new(ingress, src, dst, tags)))
            .unwrap();
    }
    expect![[r#"
        1 1>2 []: #2 | 1:Outside:Keep 4:Port(PortId(4)):Push(10)
        1 1>2 []: #2 | 1:Outside:Keep 4:Port(PortId(4)):Push(10)
        2 2>1 []: #1 | 2:Port(PortId(4)):Push(10) 4:Port(PortId(4)):Push(10)
        1 1>9 []: unknown-unicast | 1:Outside:Keep
        1 1>255 []: #2 #5 #4 | 1:Outside:Keep
        4 4>1 [(33024, 10)]: #1 |
        3 3>4 []: #4 | 3:Outside:Keep
        1 1>2 [(33024, 10)]: tagged | 1:Outside:Keep
    "#]]
    .assert_eq(&lines);
}

#[test]
fn a_filter_means_both_ways() {
    let web = Traffic::Ports { protocol: Protocol::TCP, src: 0..=u16::MAX, dst: 80..=80 };
    let to = Some("10.0.0.2/32".parse::<IpNet>().unwrap());
    let filter = Some(MirrorFilter { from: None, to, traffic: web });
    let mut switch = Switch::new(7);
    switch.configure(world(vec![Mirror { filter, ..mirror(1, &[], Direction::Both, MirrorTarget::Outside) }])).unwrap();
    let mut is_copied = |src: u8, dst: u8, packet: &[u8]| {
        let frame = Frame::with(src.into(), src, dst, &[], packet);
        [send(&mut switch, &frame), send(&mut switch, &frame)].iter().all(|line| line.ends_with("Keep"))
    };
    assert!(is_copied(1, 2, &packet::between(1, 2, 6, (5000, 80))));
    assert!(is_copied(2, 1, &packet::between(2, 1, 6, (80, 5000))));
    assert!(!is_copied(1, 2, &packet::between(1, 2, 6, (80, 5000))));
    assert!(!is_copied(1, 2, &packet::between(1, 2, 17, (5000, 80))));
    assert!(!is_copied(1, 2, &packet::between(1, 3, 6, (5000, 80))));
    assert!(!is_copied(1, 2, &[0x88, 0xb5]));
}

#[test]
fn captures_come_and_go_and_outlast_configurations() {
    let mut switch = Switch::new(7);
    switch.configure(world(Vec::new())).unwrap();
    let frame = Frame::new(1, 1, 2, &[]);
    let capture = mirror(9, &[1], Direction::Both, MirrorTarget::Outside);
    assert_eq!(send(&mut switch, &frame), "#2 |");
    switch.start_capture(VSwitchId(0), capture.clone()).unwrap();
    assert_eq!(send(&mut switch, &frame), "#2 | 9:Outside:Keep");
    switch.configure(world(Vec::new())).unwrap();
    assert_eq!(send(&mut switch, &frame), "#2 | 9:Outside:Keep");
    switch.stop_capture(MirrorId(9));
    switch.stop_capture(MirrorId(9));
    assert_eq!(send(&mut switch, &frame), "#2 |");
    assert_eq!(switch.start_capture(VSwitchId(8), capture.clone()), Err(None));
    let lost = Mirror { ports: vec![PortId(77)], ..capture };
    let problem = switch.start_capture(VSwitchId(0), lost).unwrap_err().unwrap();
    expect!["mirror `m9` (lab.toml:59) is about port #77, which is not on its network"].assert_eq(&problem.to_string());
}

#[test]
fn mirrors_that_cannot_be_are_refused() {
    let target = |port| MirrorTarget::Port(PortId(port));
    let both = Direction::Both;
    let mirrors = vec![
        mirror(1, &[1], both, target(1)),
        mirror(1, &[1, 77], both, target(2)),
        mirror(2, &[1], both, target(5)),
        mirror(3, &[], both, target(78)),
    ];
    let mut config = world(mirrors);
    config.vswitches[1].mirrors =
        (0..33).map(|number| mirror(100 + number, &[], both, MirrorTarget::Outside)).collect();
    let problems = Switch::new(7).configure(config).unwrap_err();
    assert!(problems.iter().all(|problem| !problem.hint().is_empty()));
    let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
    expect![[r#"
        mirror `m1` is declared twice: at lab.toml:51 and at lab.toml:51
        mirror `m1` (lab.toml:51) cannot copy to `p1`
        mirror `m1` (lab.toml:51) is about port #77, which is not on its network
        mirror `m2` (lab.toml:52) cannot copy to `p5`
        mirror `m3` (lab.toml:53) is about port #78, which is not on its network
        network `n1` (lab.toml:101) has 33 mirrors, and 32 is the most"#]]
    .assert_eq(&text.join("\n"));
}
