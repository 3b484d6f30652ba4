//! Each law of the virtual switch, as docs/ARCHITECTURE.md numbers them, against a model without cleverness.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weft_switch::{Config, DropReason, Outcome, Policy, PortConfig, Role, Switch, VSwitchConfig, VSwitchId, Verdict};
use weft_types::{Instant, MacAddr, PortId, Provenance};

const NOW: Instant = Instant::ZERO;
const ROLES: [Role; 4] = [Role::Vnic, Role::Gateway, Role::HostAdapter, Role::Uplink];

fn mac(n: u8) -> MacAddr {
    match n {
        0 => MacAddr::ZERO,
        250 => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x0e]),
        251..=253 => MacAddr::new([0x33, 0x33, 0, 0, 0, n]),
        254.. => MacAddr::BROADCAST,
        n => MacAddr::new([2, 0, 0, 0, 0, n]),
    }
}

#[derive(Clone, Debug)]
struct Frame {
    from: u32,
    destination: u8,
    source: u8,
    tag: Option<u16>,
    cut: Option<usize>,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [mac(self.destination).octets(), mac(self.source).octets()].concat();
        if let Some(tag) = self.tag {
            bytes.extend([0x81, 0x00]);
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend([0x08, 0x00]);
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes.extend(std::iter::repeat_n(0, if self.cut.is_some() { 0 } else { 46 }));
        bytes
    }
}

/// The laws, word by word.
fn model(config: &Config, frame: &Frame) -> Result<Vec<PortId>, DropReason> {
    let find = |id: PortId| config.ports.iter().find(|port| port.id == id);
    let ingress = find(PortId(frame.from)).ok_or(DropReason::UnknownPort)?;
    let header_bytes = if frame.tag.is_some() { 18 } else { 14 };
    if frame.cut.is_some_and(|cut| cut < header_bytes) {
        return Err(DropReason::Malformed);
    }
    let (source, destination) = (mac(frame.source), mac(frame.destination));
    if frame.tag.is_some() {
        return Err(DropReason::Tagged);
    }
    if !source.is_station() {
        return Err(DropReason::BadSource);
    }
    if !ingress.macs.contains(&source) && !ingress.policy.forged_macs && ingress.role != Role::Uplink {
        return Err(DropReason::ForgedMac);
    }
    let neighbours: Vec<_> = config.ports.iter().filter(|port| port.vswitch == ingress.vswitch).collect();
    let owner = neighbours.iter().find(|port| port.macs.contains(&destination));
    let uplink = neighbours.iter().find(|port| port.role == Role::Uplink);
    let wants = |port: &PortConfig| {
        if destination.is_group() {
            return true;
        }
        let is_target = match (owner, uplink) {
            (Some(owner), _) => owner.id == port.id,
            (None, Some(uplink)) if ingress.role != Role::Uplink => uplink.id == port.id,
            _ => false,
        };
        is_target || port.policy.promiscuous
    };
    if destination == mac(250) {
        return Err(DropReason::LinkLocalGroup);
    }
    if !destination.is_group() {
        match (owner, uplink) {
            (Some(owner), _) if owner.id == ingress.id => return Err(DropReason::NotForOthers),
            (None, Some(_)) if ingress.role != Role::Uplink => {}
            (None, _) => return Err(DropReason::UnknownUnicast),
            _ => {}
        }
    }
    let mut egress: Vec<_> =
        neighbours.iter().filter(|port| port.id != ingress.id && wants(port)).map(|port| port.id).collect();
    egress.sort();
    if egress.is_empty() { Err(DropReason::NoReceiver) } else { Ok(egress) }
}

fn actual(switch: &mut Switch, frame: &Frame) -> Result<Vec<PortId>, DropReason> {
    match switch.forward(NOW, PortId(frame.from), &frame.bytes()) {
        Verdict::Drop(reason) => Err(reason),
        Verdict::Forward(egress) => {
            let mut ports: Vec<_> = egress.iter().collect();
            ports.sort();
            Ok(ports)
        }
    }
}

fn explained(switch: &Switch, frame: &Frame) -> Result<Vec<PortId>, DropReason> {
    let trace = switch.explain(NOW, PortId(frame.from), &frame.bytes());
    match trace.outcome {
        Outcome::Drop(reason) => Err(reason),
        Outcome::Forward => {
            let mut ports: Vec<_> = trace.egress.iter().map(|port| port.id).collect();
            ports.sort();
            Ok(ports)
        }
    }
}

prop_compose! {
    fn any_port()(
        id in 0u32..12, vswitch in 0u32..3, role in prop::sample::select(&ROLES[..]),
        macs in prop::collection::vec(1u8..20, 0..3), forged_macs in any::<bool>(), promiscuous in prop::bool::weighted(0.2),
    ) -> PortConfig {
        PortConfig {
            id: PortId(id),
            name: format!("p{id}").parse().unwrap(),
            vswitch: VSwitchId(vswitch),
            role,
            macs: macs.into_iter().map(mac).collect(),
            policy: Policy { forged_macs, promiscuous },
            provenance: Provenance::file("lab.toml", id),
        }
    }
}

/// Worlds that are right: what would be refused is left out.
fn any_config() -> impl Strategy<Value = Config> {
    prop::collection::vec(any_port(), 0..12).prop_map(|candidates| {
        let vswitches = (0..3).map(|n| VSwitchConfig {
            id: VSwitchId(n),
            name: format!("n{n}").parse().unwrap(),
            provenance: Provenance::file("lab.toml", n),
        });
        let mut config = Config { vswitches: vswitches.collect(), ports: Vec::new() };
        for mut port in candidates {
            let rivals: Vec<_> = config.ports.iter().filter(|other| other.vswitch == port.vswitch).collect();
            port.macs.sort();
            port.macs.dedup();
            port.macs.retain(|mac| !rivals.iter().any(|rival| rival.macs.contains(mac)));
            if port.role == Role::Uplink && rivals.iter().any(|rival| rival.role == Role::Uplink) {
                port.role = Role::Vnic;
            }
            if !config.ports.iter().any(|other| other.id == port.id) {
                config.ports.push(port);
            }
        }
        config
    })
}

prop_compose! {
    fn any_frame()(
        from in 0u32..13, destination in prop_oneof![6 => 0u8..24, 1 => 249u8..=255], source in prop_oneof![9 => 1u8..20, 1 => any::<u8>()],
        tag in prop::option::weighted(0.1, any::<u16>()), cut in prop::option::weighted(0.05, 0usize..20),
    ) -> Frame {
        Frame { from, destination, source, tag, cut }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_switch_is_its_model_cached_and_uncached_and_explained(
        worlds in prop::collection::vec((any_config(), prop::collection::vec(any_frame(), 1..80)), 1..4), seed in any::<u64>(),
    ) {
        // Two flows' room makes for many replacements.
        let mut switches = [Switch::new(seed), Switch::with_capacity(seed, 2), Switch::without_cache(seed)];
        for (config, frames) in worlds {
            for switch in &mut switches {
                switch.configure(config.clone()).unwrap();
            }
            for frame in frames.iter().chain(&frames) {
                let expected = model(&config, frame);
                for switch in &mut switches {
                    prop_assert_eq!(explained(switch, frame), expected.clone(), "{:?}", frame);
                    prop_assert_eq!(actual(switch, frame), expected.clone(), "{:?}", frame);
                }
            }
        }
    }

    #[test]
    fn law_2_no_frame_crosses_to_another_vswitch_or_goes_back(config in any_config(), frames in prop::collection::vec(any_frame(), 1..80)) {
        let mut switch = Switch::new(1);
        switch.configure(config.clone()).unwrap();
        let home: BTreeMap<_, _> = config.ports.iter().map(|port| (port.id, port.vswitch)).collect();
        for frame in &frames {
            for port in actual(&mut switch, frame).unwrap_or_default() {
                prop_assert_ne!(port, PortId(frame.from));
                prop_assert_eq!(home[&port], home[&PortId(frame.from)]);
            }
        }
    }

    #[test]
    fn every_dropped_frame_is_counted_once(config in any_config(), frames in prop::collection::vec(any_frame(), 1..80)) {
        let mut switch = Switch::new(1);
        switch.configure(config.clone()).unwrap();
        let mut expected: BTreeMap<(PortId, DropReason), u64> = BTreeMap::new();
        for frame in &frames {
            if let Err(reason) = actual(&mut switch, frame) && reason != DropReason::UnknownPort {
                *expected.entry((PortId(frame.from), reason)).or_default() += 1;
            }
        }
        let counted = config.ports.iter().flat_map(|port| switch.drops(port.id).map(move |(reason, n)| ((port.id, reason), n)));
        prop_assert_eq!(counted.collect::<BTreeMap<_, _>>(), expected);
    }
}

fn world() -> Config {
    let port = |id: u32, role, macs: &[u8]| PortConfig {
        id: PortId(id),
        name: format!("p{id}").parse().unwrap(),
        vswitch: VSwitchId(0),
        role,
        macs: macs.iter().map(|n| mac(*n)).collect(),
        policy: Policy::default(),
        provenance: Provenance::file("lab.toml", id),
    };
    let vswitch =
        VSwitchConfig { id: VSwitchId(0), name: "lan".parse().unwrap(), provenance: Provenance::file("lab.toml", 1) };
    Config { vswitches: vec![vswitch], ports: vec![port(1, Role::Vnic, &[1]), port(2, Role::Vnic, &[2]), port(3, Role::Uplink, &[])] }
}

fn frame(from: u32, source: u8, destination: u8) -> Frame {
    Frame { from, destination, source, tag: None, cut: None }
}

#[test]
fn law_1_nothing_is_learned() {
    let mut switch = Switch::new(7);
    switch.configure(world()).unwrap();
    // Address 9 speaks from the uplink, and is still unknown to it.
    assert_eq!(actual(&mut switch, &frame(3, 9, 1)), Ok(vec![PortId(1)]));
    assert_eq!(actual(&mut switch, &frame(3, 8, 9)), Err(DropReason::UnknownUnicast));
}

#[test]
fn law_3_unknown_unicast_goes_to_the_uplink_only() {
    let mut switch = Switch::new(7);
    switch.configure(world()).unwrap();
    assert_eq!(actual(&mut switch, &frame(1, 1, 9)), Ok(vec![PortId(3)]));
    assert_eq!(actual(&mut switch, &frame(1, 1, 255)), Ok(vec![PortId(2), PortId(3)]));
    assert_eq!(actual(&mut switch, &frame(1, 2, 255)), Err(DropReason::ForgedMac));
}

#[test]
fn a_wrong_configuration_changes_nothing_and_is_told_whole() {
    let mut switch = Switch::new(7);
    switch.configure(world()).unwrap();
    actual(&mut switch, &frame(1, 2, 255)).unwrap_err();
    let mut wrong = world();
    wrong.ports[1].macs = vec![mac(1), mac(255)];
    wrong.ports[1].role = Role::Uplink;
    wrong.ports.push(PortConfig { vswitch: VSwitchId(9), ..wrong.ports[0].clone() });
    let errors = switch.configure(wrong).unwrap_err();
    assert_eq!(errors.len(), 6, "{errors:#?}");
    assert_eq!(actual(&mut switch, &frame(1, 1, 2)), Ok(vec![PortId(2)]));
    assert_eq!(switch.drops(PortId(1)).collect::<Vec<_>>(), [(DropReason::ForgedMac, 1)]);
}

#[test]
fn explain_names_the_declaration() {
    let mut switch = Switch::new(7);
    switch.configure(world()).unwrap();
    let trace = switch.explain(NOW, PortId(1), &frame(1, 1, 2).bytes());
    assert_eq!(
        trace.to_string(),
        "ingress-policy: the source 02:00:00:00:00:01 is registered for `p1` (lab.toml:1)\n\
         mac-table: 02:00:00:00:00:02 is behind `p2` (lab.toml:2)\n\
         forwarded to `p2`"
    );
}

#[test]
fn a_flow_is_decided_once_a_configuration() {
    let mut switch = Switch::new(7);
    switch.configure(world()).unwrap();
    for _ in 0..3 {
        actual(&mut switch, &frame(1, 1, 2)).unwrap();
    }
    assert_eq!((switch.stats().hits, switch.stats().misses, switch.stats().flows), (2, 1, 1));
    switch.configure(world()).unwrap();
    actual(&mut switch, &frame(1, 1, 2)).unwrap();
    assert_eq!((switch.stats().hits, switch.stats().misses, switch.stats().flows), (2, 2, 1));
}
