//! The laws of the virtual switch as properties, each named after its number in docs/ARCHITECTURE.md, and the switch
//! against a model without cleverness.

mod acl_cases;
mod cases;
mod meter_cases;
mod mirror_cases;
mod model;
mod packet;
mod shaper_cases;
mod team_cases;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use weft_switch::{
    Acl, Addresses, Config, ConfigError, DropReason, Endpoint, MirrorCopy, MirrorTarget, Outcome, Output, Permission,
    Rates, ReceiveFilter, Role, Rule, Segment, Switch, Traffic, Verdict, Vlans,
};
use weft_types::{Instant, PortId};

use crate::model::mirror::Copies;
use crate::model::{Fate, Model};
use crate::world::{Event, Frame, any_change, any_config, any_frame, any_life, any_ports, vswitches};

const NOW: Instant = Instant::ZERO;

/// How a frame leaves, in the model's terms.
fn left(frame: &Frame, port: PortId, edit: weft_wire::TagEdit) -> (PortId, Vec<u8>) {
    let mut head = frame.head.clone();
    edit.apply(&mut head).expect("an edit that fits the frame");
    (port, head)
}

/// A switch's decision, in the model's terms; a list that names a port twice is no decision.
fn decided_at(switch: &mut Switch, now: Instant, frame: &Frame) -> Fate {
    match switch.forward(now, frame.ingress, &frame.head, frame.len) {
        Verdict::Drop(reason) => Err(reason),
        Verdict::Forward(outputs) => {
            let set: BTreeSet<_> = outputs.iter().map(|Output { port, edit }| left(frame, *port, *edit)).collect();
            let ports: BTreeSet<_> = outputs.iter().map(|output| output.port).collect();
            assert!(!outputs.is_empty() && ports.len() == outputs.len(), "{outputs:?}");
            Ok(set)
        }
    }
}

/// The ports by which a frame leaves.
fn decided(switch: &mut Switch, frame: &Frame) -> Result<BTreeSet<PortId>, DropReason> {
    Ok(decided_at(switch, NOW, frame)?.into_iter().map(|(port, _)| port).collect())
}

fn explained(switch: &Switch, now: Instant, frame: &Frame) -> Fate {
    let trace = switch.explain(now, frame.ingress, &frame.head, frame.len);
    assert!(!trace.steps.is_empty());
    match trace.outcome {
        Outcome::Drop(reason) => Err(reason),
        Outcome::Forward => Ok(trace.egress.iter().map(|egress| left(frame, egress.id, egress.edit)).collect()),
    }
}

/// The copies of the last frame, in the model's terms.
fn copied(copies: &[MirrorCopy], frame: &Frame) -> Copies {
    let copy = |copy: &MirrorCopy| {
        let mut head = frame.head.clone();
        copy.edit.apply(&mut head).expect("an edit that fits the frame");
        match copy.to {
            MirrorTarget::Port(port) => (copy.mirror, Some(port), head),
            MirrorTarget::Outside => (copy.mirror, None, head),
        }
    };
    let set: Copies = copies.iter().map(copy).collect();
    assert_eq!(set.len(), copies.len(), "a mirror gets one copy");
    set
}

/// What follows a frame's outermost tag.
fn payload(frame: &[u8]) -> &[u8] {
    &frame[if model::vlan::is_tag(&frame[12..]) { 16 } else { 12 }..]
}

fn configured(config: Config) -> Switch {
    let mut switch = Switch::new(7);
    switch.configure(config).expect("the world is right");
    switch
}

fn all_drops(switch: &Switch, config: &Config) -> BTreeMap<(PortId, DropReason), u64> {
    let ports = config.ports.iter().map(|port| port.id);
    ports.flat_map(|port| switch.drops(port).map(move |(reason, frames)| ((port, reason), frames))).collect()
}

/// Has a switch live through an event that is no frame.
fn happen(switch: &mut Switch, event: &Event) {
    match event {
        Event::Configure(config) => switch.configure(config.clone()).expect("the world is right"),
        Event::Filter(port, filter) => drop(switch.set_receive_filter(*port, filter)),
        Event::Link(port, is_up) => drop(switch.set_link(*port, *is_up)),
        Event::Wait(_) | Event::Frame(_) => {}
    }
}

proptest! {
    #[test]
    fn switch_equals_model(life in any_life(), seed: u64) {
        let (mut switch, mut model, mut now) = (Switch::new(seed), Model::default(), NOW);
        for event in life {
            happen(&mut switch, &event);
            match event {
                Event::Configure(config) => model.configure(config),
                Event::Filter(port, filter) => model.set_filter(port, &filter),
                Event::Link(port, is_up) => model.set_link(port, is_up),
                Event::Wait(span) => now += span,
                // Twice: undecided, and decided before.
                Event::Frame(frame) => for _ in 0..2 {
                    let foretold = explained(&switch, now, &frame);
                    let trace = switch.explain(now, frame.ingress, &frame.head, frame.len);
                    let (expected, copies) = model.decide(now, frame.ingress, &frame.head, frame.len);
                    prop_assert_eq!(&foretold, &expected, "{:?} {}", frame, trace);
                    prop_assert_eq!(&decided_at(&mut switch, now, &frame), &expected, "{:?}", frame);
                    prop_assert_eq!(copied(switch.copies(), &frame), copies, "{:?}", frame);
                },
            }
        }
    }

    #[test]
    fn cached_equals_uncached(life in any_life(), seed: u64) {
        // Room for one set of flows makes for many replacements.
        let mut switches = [Switch::new(seed), Switch::with_capacity(seed, 1), Switch::new(seed).without_cache()];
        let (mut now, mut config) = (NOW, Config::default());
        for event in life {
            switches.iter_mut().for_each(|switch| happen(switch, &event));
            match event {
                Event::Configure(new) => config = new,
                Event::Filter(..) | Event::Link(..) => {}
                Event::Wait(span) => now += span,
                Event::Frame(frame) => for _ in 0..2 {
                    let [cached, tiny, plain] = &mut switches;
                    let expected = decided_at(plain, now, &frame);
                    prop_assert_eq!(&decided_at(cached, now, &frame), &expected, "{:?}", frame);
                    prop_assert_eq!(&decided_at(tiny, now, &frame), &expected, "{:?}", frame);
                    prop_assert_eq!(cached.copies(), plain.copies());
                    prop_assert_eq!(tiny.copies(), plain.copies());
                },
            }
            let [cached, tiny, plain] = &switches;
            prop_assert_eq!(all_drops(cached, &config), all_drops(plain, &config));
            prop_assert_eq!(all_drops(tiny, &config), all_drops(plain, &config));
            prop_assert!(tiny.stats().flows <= 8 && plain.stats().flows == 0);
        }
    }

    #[test]
    fn whole_equals_a_sequence_of_differences(
        config in any_config(), changes in prop::collection::vec(any_change(), 1..20),
        frames in prop::collection::vec(any_frame(), 1..40),
    ) {
        // What the tables hold is compared with those of one piece in every configuration, where assertions are on.
        let (mut config, mut switch) = (config.clone(), configured(config));
        for change in changes {
            let wrong = change.of(&config);
            prop_assert_eq!(switch.problems(&wrong), Switch::new(0).problems(&wrong));
            config = change.of_right(&config);
            switch.configure(config.clone()).expect("the world is right");
        }
        let whole = configured(config);
        for frame in &frames {
            prop_assert_eq!(explained(&switch, NOW, frame), explained(&whole, NOW, frame));
        }
    }

    #[test]
    fn law_1_nothing_is_learned_where_nobody_asks(
        config in any_config(), past in prop::collection::vec(any_frame(), 0..60), frame in any_frame(),
    ) {
        let mut config = config;
        // Addresses and connections are learned too, by laws 5 and 6.
        config.vswitches[0].acl = None;
        config.vswitches[1].mode = weft_switch::Mode::Veb;
        config.ports.iter_mut().map(Arc::make_mut).for_each(|port| (port.learn, port.addresses, port.rates) = (0, Addresses::Any, Rates::default()));
        let mut fresh = configured(config.clone());
        let mut experienced = configured(config);
        for earlier in &past {
            let _ = decided(&mut experienced, earlier);
        }
        prop_assert_eq!(decided(&mut experienced, &frame), decided(&mut fresh, &frame));
    }

    #[test]
    fn law_1_registered_stations_are_never_taken(
        config in any_config(), past in prop::collection::vec(any_frame(), 0..60),
        filters in prop::collection::vec((0..12u32, prop::collection::vec(1u8..24, 0..4)), 0..6), frame in any_frame(),
    ) {
        // Whatever others send and ask for, what was configured for a port and is not given up by it leads there.
        let mut config = config;
        config.vswitches[0].acl = None;
        config.vswitches[1].mode = weft_switch::Mode::Veb;
        let mut switch = configured(config.clone());
        let is_settled = |id: PortId| filters.iter().all(|(port, _)| PortId(*port) != id);
        for (port, stations) in &filters {
            let stations = stations.iter().map(|number| world::mac(*number)).collect();
            switch.set_receive_filter(PortId(*port), &ReceiveFilter { stations, ..ReceiveFilter::default() });
        }
        for earlier in &past {
            let _ = decided(&mut switch, earlier);
        }
        let Ok(ports) = decided(&mut switch, &frame) else { return Ok(()) };
        let from = config.ports.iter().find(|port| port.id == frame.ingress).unwrap();
        if let Vlans::Access(segment) = from.vlans {
            let in_segment = |vlans: &Vlans| *vlans == Vlans::Access(segment);
            let owner = config.ports.iter().find(|port| {
                port.vswitch == from.vswitch && in_segment(&port.vlans)
                    && port.macs.iter().any(|mac| mac.octets() == frame.head[..6])
            });
            if let Some(owner) = owner.filter(|owner| is_settled(owner.id)) {
                prop_assert!(ports.contains(&owner.id));
            }
        }
    }

    #[test]
    fn law_4_frames_stay_in_their_segment(config in any_config(), frames in prop::collection::vec(any_frame(), 1..80)) {
        let mut switch = configured(config.clone());
        let segment_at = |port: PortId, head: &[u8]| {
            let vlans = &config.ports.iter().find(|config| config.id == port).unwrap().vlans;
            model::vlan::classify(vlans, head)
        };
        for frame in &frames {
            let Ok(left) = decided_at(&mut switch, NOW, frame) else { continue };
            let segment = segment_at(frame.ingress, &frame.head);
            for (port, head) in left {
                // The port would take the frame as one of the same segment, and nothing below the tag has changed.
                prop_assert_eq!(segment_at(port, &head), segment);
                prop_assert_eq!(payload(&head), payload(&frame.head));
                let access = config.ports.iter().find(|config| config.id == port && matches!(config.vlans, Vlans::Access(_)));
                prop_assert!(access.is_none() || !model::vlan::is_tag(&head[12..]));
            }
        }
    }

    #[test]
    fn law_4_one_address_in_two_vlans_is_two_hosts(number in 1u8..20, sender in 20u8..24, tag in prop::sample::select(vec![10u16, 20])) {
        let port = |id: u32, vlans: Vlans| {
            let name = format!("p{id}").parse().unwrap();
            let place = weft_types::Provenance::file("lab.toml", id);
            weft_switch::PortConfig { vlans, ..weft_switch::PortConfig::new(PortId(id), name, weft_switch::VSwitchId(0), Role::Vnic, place) }
        };
        let vlan = |raw| weft_types::VlanId::try_from(raw).unwrap();
        let mut ports = vec![
            port(10, Vlans::Access(Segment::Vlan(vlan(10)))),
            port(20, Vlans::Access(Segment::Vlan(vlan(20)))),
            port(0, Vlans::Trunk { allowed: [vlan(10), vlan(20)].into_iter().collect(), native: None }),
        ];
        ports[0].macs.push(world::mac(number));
        ports[1].macs.push(world::mac(number));
        ports[2].macs.push(world::mac(sender));
        let ports = ports.into_iter().map(Arc::new).collect();
        let mut switch = configured(Config { vswitches: vswitches(), ports, ..Config::default() });
        let frame = Frame::new(0, sender, number, &[(0x8100, tag)]);
        prop_assert_eq!(decided(&mut switch, &frame), Ok([PortId(tag.into())].into()));
    }

    #[test]
    fn law_5_ports_speak_for_themselves(config in any_config(), frames in prop::collection::vec(any_frame(), 1..80)) {
        // Where everything is denied and known, what passes says nothing that is not the port's.
        let mut config = config;
        for port in config.ports.iter_mut().map(Arc::make_mut) {
            (port.policy, port.learn) = (Default::default(), 0);
            if port.addresses == Addresses::Any {
                port.addresses = Addresses::Known { fixed: Vec::new(), learn: 0 };
            }
        }
        let mut switch = configured(config.clone());
        for frame in &frames {
            if decided(&mut switch, frame).is_err() {
                continue;
            }
            let port = config.ports.iter().find(|port| port.id == frame.ingress).unwrap();
            if matches!(port.role, Role::Uplink | Role::Gateway) {
                continue;
            }
            let src = weft_types::MacAddr::new(frame.head[6..12].try_into().unwrap());
            prop_assert!(port.macs.contains(&src) || port.mac_ranges.iter().any(|range| range.contains(src)));
            let Ok(headers) = weft_wire::Headers::parse(&frame.head, frame.len) else { continue };
            let Addresses::Known { fixed, .. } = &port.addresses else { unreachable!() };
            let is_own = |ip: std::net::IpAddr| fixed.iter().any(|prefix| prefix.contains(&ip)) || ip.is_unspecified()
                || ip.to_string().starts_with("fe80:");
            if headers.inner_tag.is_some() {
                continue;
            }
            if let Some(Ok(ip)) = headers.ip {
                prop_assert!(is_own(ip.src), "{headers}");
                let server = if ip.src.is_ipv4() { 67 } else { 547 };
                prop_assert!(ip.protocol != weft_wire::Protocol::UDP || ip.ports.is_none_or(|ports| ports.src != server));
            }
            let arp = weft_wire::arp::parse(&frame.head[headers.link.len_bytes()..]);
            if let (weft_wire::EtherType::ARP, Ok(arp)) = (headers.ethertype, arp) {
                prop_assert!(arp.sender_mac == src && is_own(arp.sender_ip.into()));
            }
        }
    }

    #[test]
    fn law_6_who_may_begin_is_answered_and_nobody_else_begins(
        client in 1024u16.., server in 100u16..110, allowed in 100u16..110, protocol in prop::sample::select(vec![6u8, 17]),
    ) {
        let rule = Rule {
            name: "web-to-db".into(),
            permission: Permission::Allow,
            from: Endpoint::Ports(vec![PortId(1)]),
            to: Endpoint::Ports(vec![PortId(2)]),
            traffic: Traffic::Ports { protocol: weft_wire::Protocol(protocol), src: 0..=u16::MAX, dst: allowed..=allowed },
            log: false,
            provenance: weft_types::Provenance::file("lab.toml", 7),
        };
        let mut vswitches = vswitches();
        vswitches[0].acl = Some(Acl { rules: vec![rule], default: Permission::Deny, connections: 1 }.into());
        let port = |id: u32| {
            let place = weft_types::Provenance::file("lab.toml", id);
            let name = format!("p{id}").parse().unwrap();
            let port = weft_switch::PortConfig::new(PortId(id), name, vswitches[0].id, Role::Vnic, place);
            weft_switch::PortConfig { macs: vec![world::mac(id as u8)], ..port }.into()
        };
        let config = Config { ports: vec![port(1), port(2)], vswitches: vswitches.clone(), ..Config::default() };
        let mut switch = configured(config.clone());
        let between = |from: u8, to: u8, ports| {
            let packet = packet::between(from, to, protocol, ports);
            Frame::with(from.into(), from, to, &[], &packet)
        };
        let (ask, answer) = (between(1, 2, (client, server)), between(2, 1, (server, client)));
        prop_assert_eq!(decided(&mut switch, &answer), Err(DropReason::AclDenied), "nobody asked");
        let is_allowed = server == allowed;
        prop_assert_eq!(decided(&mut switch, &ask).is_ok(), is_allowed);
        prop_assert_eq!(decided(&mut switch, &answer).is_ok(), is_allowed);
        if is_allowed {
            let more = between(1, 2, (client ^ 1, server));
            prop_assert_eq!(decided(&mut switch, &more), Err(DropReason::ConnectionLimit));
            prop_assert_eq!(switch.rule_counts(vswitches[0].id), &[2]);
            // A rule that is gone ends what it let begin.
            let mut config = config;
            config.vswitches[0].acl = Some(Acl { rules: Vec::new(), default: Permission::Deny, connections: 1 }.into());
            switch.configure(config).unwrap();
            prop_assert_eq!(decided(&mut switch, &answer), Err(DropReason::AclDenied));
        }
    }

    #[test]
    fn law_6_rules_count_and_log_what_they_decide(life in any_life()) {
        // Without a cache, so that the switch thinks about every frame, as the model does.
        let (mut switch, mut model, mut now) = (Switch::new(7).without_cache(), Model::default(), NOW);
        let mut logged = 0;
        for event in life {
            happen(&mut switch, &event);
            match event {
                Event::Configure(config) => {
                    model.configure(config);
                    logged = switch.rule_log().decisions().count() as u64 + switch.rule_log().lost();
                }
                Event::Filter(port, filter) => model.set_filter(port, &filter),
                Event::Link(port, is_up) => model.set_link(port, is_up),
                Event::Wait(span) => now += span,
                Event::Frame(frame) => {
                    let (expected, _) = model.decide(now, frame.ingress, &frame.head, frame.len);
                    prop_assert_eq!(decided_at(&mut switch, now, &frame), expected);
                }
            }
            let vswitch = &model.config.vswitches[0];
            let rules = vswitch.acl.as_ref().map_or(&[][..], |acl| &acl.rules);
            let count = |rule: usize| model.rule_counts.get(&(vswitch.id, rule)).copied().unwrap_or(0);
            let expected: Vec<_> = (0..rules.len()).map(count).collect();
            prop_assert_eq!(switch.rule_counts(vswitch.id), expected);
            let log = switch.rule_log();
            let of_loggers: u64 = (0..rules.len()).filter(|rule| rules[*rule].log).map(count).sum();
            prop_assert_eq!(log.decisions().count() as u64 + log.lost() - logged, of_loggers);
            prop_assert!(log.decisions().count() <= 256);
        }
    }

    #[test]
    fn law_6_rejections_are_answered_as_hosts_expect(
        config in any_config(), frames in prop::collection::vec(any_frame(), 1..80), waits in prop::collection::vec(0..40u64, 80),
    ) {
        let mut config = config;
        config.vswitches.iter_mut().for_each(|vswitch| {
            vswitch.acl = Some(Acl { rules: Vec::new(), default: Permission::Reject, connections: 9 }.into());
        });
        let mut switch = configured(config);
        let (mut now, mut answers) = (NOW, 0u64);
        for (frame, wait) in frames.iter().zip(waits) {
            now += std::time::Duration::from_millis(wait);
            let decided = decided_at(&mut switch, now, frame);
            let Some(answer) = switch.answer().filter(|_| decided == Err(DropReason::AclRejected)) else { continue };
            answers += 1;
            // It goes from where the frame was for to where it came from, in its VLAN, and says so rightly.
            let (asked, answered) = (weft_wire::Headers::parse(&frame.head, frame.len), weft_wire::Headers::parse(answer, answer.len()));
            let (asked, answered) = (asked.unwrap(), answered.unwrap());
            prop_assert_eq!((answered.link.dst, answered.link.src, answered.link.tag), (asked.link.src, asked.link.dst, asked.link.tag));
            prop_assert!(asked.link.dst.is_station());
            let (from, to) = (asked.ip.unwrap().unwrap(), answered.ip.unwrap().unwrap());
            prop_assert_eq!((to.src, to.dst), (from.dst, from.src));
            prop_assert!(!from.src.is_multicast() && !from.dst.is_multicast() && !from.src.is_unspecified());
            prop_assert!(from.fragment != weft_wire::Fragment::Later);
            let is_reset = from.protocol == weft_wire::Protocol::TCP && from.fragment == weft_wire::Fragment::Whole;
            prop_assert_eq!(to.protocol == weft_wire::Protocol::TCP, is_reset);
            prop_assert!(answer.len() <= frame.head.len() + 48, "an answer is hardly longer than its frame");
        }
        prop_assert!(answers <= 12 * (20 + 1 + now.as_nanos() / 10_000_000), "{answers} answers to at most twelve ports");
    }

    #[test]
    fn law_7_mirrors_change_nothing(life in any_life()) {
        let (mut mirrored, mut plain, mut now) = (Switch::new(7), Switch::new(7), NOW);
        let mut config = Config::default();
        for event in life {
            happen(&mut mirrored, &event);
            match event {
                Event::Configure(mut new) => {
                    new.vswitches.iter_mut().for_each(|vswitch| vswitch.mirrors.clear());
                    plain.configure(new.clone()).unwrap();
                    config = new;
                }
                Event::Frame(frame) => {
                    let decided = decided_at(&mut mirrored, now, &frame);
                    prop_assert_eq!(&decided, &decided_at(&mut plain, now, &frame));
                    prop_assert!(plain.copies().is_empty());
                    for copy in mirrored.copies() {
                        let MirrorTarget::Port(target) = copy.to else { continue };
                        let is_there = |port: PortId| config.ports.iter().find(|known| known.id == port).unwrap().vswitch;
                        prop_assert_eq!(is_there(target), is_there(frame.ingress), "no path joins two vSwitches");
                        prop_assert!(target != frame.ingress, "nothing goes back");
                        prop_assert!(decided.iter().flatten().all(|(port, _)| *port != target), "nothing goes twice");
                    }
                }
                Event::Wait(span) => now += span,
                Event::Filter(port, filter) => drop(plain.set_receive_filter(port, &filter)),
                Event::Link(port, is_up) => drop(plain.set_link(port, is_up)),
            }
        }
        prop_assert_eq!(all_drops(&mirrored, &config), all_drops(&plain, &config));
    }

    #[test]
    fn law_8_vepa_leaves_by_the_uplink_and_nobody_hears_itself(config in any_config(), frames in prop::collection::vec(any_frame(), 1..80)) {
        let mut config = config;
        for vswitch in &mut config.vswitches {
            (vswitch.mode, vswitch.acl) = (weft_switch::Mode::Vepa, None);
        }
        let mut switch = configured(config.clone());
        for frame in &frames {
            let Ok(ports) = decided(&mut switch, frame) else { continue };
            let port = |id: PortId| config.ports.iter().find(|port| port.id == id).unwrap();
            if port(frame.ingress).role != Role::Uplink {
                prop_assert!(ports.len() == 1 && ports.iter().all(|id| port(*id).role == Role::Uplink));
            }
            let src = weft_types::MacAddr::new(frame.head[6..12].try_into().unwrap());
            for id in ports {
                let hears_itself = port(id).macs.contains(&src) && port(frame.ingress).role == Role::Uplink;
                let is_in_segment = matches!(port(id).vlans, Vlans::Access(_));
                prop_assert!(!(hears_itself && is_in_segment), "{id}");
            }
        }
    }

    #[test]
    fn law_8_a_team_is_one_way_out_and_one_way_in(life in any_life()) {
        let (mut switch, mut now, mut config) = (Switch::new(7), NOW, Config::default());
        let mut down = BTreeSet::new();
        for event in life {
            happen(&mut switch, &event);
            match event {
                Event::Configure(new) => {
                    down.retain(|id| new.ports.iter().any(|port| port.id == *id));
                    config = new;
                }
                Event::Link(port, true) => drop(down.remove(&port)),
                Event::Link(port, false) => drop(config.ports.iter().any(|known| known.id == port) && down.insert(port)),
                Event::Wait(span) => now += span,
                Event::Filter(..) => {}
                Event::Frame(frame) => {
                    let Ok(left) = decided_at(&mut switch, now, &frame) else { continue };
                    let port = |id: PortId| config.ports.iter().find(|port| port.id == id).unwrap();
                    let uplinks: Vec<_> = left.iter().filter(|(id, _)| port(*id).role == Role::Uplink).collect();
                    prop_assert!(uplinks.len() <= usize::from(port(frame.ingress).role != Role::Uplink), "{:?}", uplinks);
                    // A link that is down takes nothing while another carries the VLAN.
                    for (id, _) in uplinks.iter().filter(|(id, _)| down.contains(id)) {
                        let segment = model::vlan::classify(&port(frame.ingress).vlans, &frame.head).unwrap();
                        let could = |other: &Arc<weft_switch::PortConfig>| {
                            other.vswitch == port(*id).vswitch && other.role == Role::Uplink
                                && !down.contains(&other.id) && model::vlan::carries(&other.vlans, segment)
                        };
                        prop_assert!(!config.ports.iter().any(could));
                    }
                }
            }
        }
    }

    #[test]
    fn law_2_no_path_joins_two_vswitches(config in any_config(), frames in prop::collection::vec(any_frame(), 1..80)) {
        let home: BTreeMap<_, _> = config.ports.iter().map(|port| (port.id, (port.vswitch, port.role))).collect();
        let mut switch = configured(config);
        for frame in &frames {
            for port in decided(&mut switch, frame).unwrap_or_default() {
                let ((here, from), (there, to)) = (home[&frame.ingress], home[&port]);
                prop_assert_eq!(here, there);
                prop_assert!((from, to) != (Role::Uplink, Role::Uplink));
            }
        }
    }

    #[test]
    fn law_2_a_second_uplink_is_refused_and_nothing_else_of_this_kind(ports in any_ports()) {
        let all = ports.iter().cloned().map(Arc::new).collect();
        let config = Config { vswitches: vswitches(), ports: all, ..Config::default() };
        let refused = Switch::new(7).configure(config).err().unwrap_or_default();
        let refused = refused.iter().filter(|error| matches!(error, ConfigError::SecondUplink { .. })).count();
        let mut taken = BTreeSet::new();
        let uplinks = ports.iter().filter(|port| port.role == Role::Uplink);
        prop_assert_eq!(refused, uplinks.filter(|port| !taken.insert(port.vswitch)).count());
    }

    #[test]
    fn law_3_nothing_goes_back_and_known_unicast_goes_to_its_port(
        config in any_config(), frames in prop::collection::vec(any_frame(), 1..80),
    ) {
        // In one segment, where a frame's way can be told in a few lines.
        let mut config = config;
        config.ports.iter_mut().map(Arc::make_mut).for_each(|port| (port.vlans, port.learn, port.rates) = (Vlans::default(), 0, Rates::default()));
        config.vswitches[0].acl = None;
        config.vswitches[1].mode = weft_switch::Mode::Veb;
        config.vswitches.iter_mut().for_each(|vswitch| vswitch.team = None);
        if Switch::new(0).configure(config.clone()).is_err() {
            return Ok(());
        }
        let mut switch = configured(config.clone());
        for frame in &frames {
            let Ok(ports) = decided(&mut switch, frame) else { continue };
            prop_assert!(!ports.contains(&frame.ingress));
            let from = config.ports.iter().find(|port| port.id == frame.ingress).unwrap();
            let members = || config.ports.iter().filter(|port| port.vswitch == from.vswitch && port.id != from.id);
            if frame.head[0] & 1 == 1 {
                prop_assert_eq!(ports.len(), members().count(), "a group is everybody");
                continue;
            }
            let dst = weft_types::MacAddr::new(frame.head[..6].try_into().unwrap());
            let owner = members().find(|port| port.macs.contains(&dst) || port.mac_ranges.iter().any(|range| range.contains(dst)));
            let uplink = members().find(|port| port.role == Role::Uplink);
            let target = owner.or(uplink).map(|port| port.id);
            prop_assert!(target.is_some_and(|target| ports.contains(&target)));
            let overhears = |id: &PortId| members().any(|port| port.id == *id && port.policy.promiscuous);
            prop_assert!(ports.iter().all(|id| Some(*id) == target || overhears(id)));
        }
    }

    #[test]
    fn every_drop_is_counted_once_where_it_came_in(config in any_config(), frames in prop::collection::vec(any_frame(), 1..80)) {
        let mut switch = configured(config.clone());
        let ports: BTreeSet<_> = config.ports.iter().map(|port| port.id).collect();
        let mut expected: BTreeMap<_, u64> = BTreeMap::new();
        for frame in &frames {
            if let Err(reason) = decided(&mut switch, frame) && ports.contains(&frame.ingress) {
                *expected.entry((frame.ingress, reason)).or_default() += 1;
            }
        }
        prop_assert_eq!(all_drops(&switch, &config), expected);
    }

    #[test]
    fn explaining_changes_nothing(config in any_config(), frames in prop::collection::vec(any_frame(), 1..40)) {
        let mut switch = configured(config.clone());
        for frame in &frames {
            let before = (all_drops(&switch, &config), switch.stats());
            let expected = explained(&switch, NOW, frame);
            prop_assert_eq!((all_drops(&switch, &config), switch.stats()), before);
            prop_assert_eq!(decided_at(&mut switch, NOW, frame), expected);
        }
    }

    #[test]
    fn a_refused_configuration_changes_nothing(
        config in any_config(), ports in any_ports(), frames in prop::collection::vec(any_frame(), 1..40),
    ) {
        let mut switch = configured(config.clone());
        let mut untouched = configured(config.clone());
        for frame in &frames {
            prop_assert_eq!(decided(&mut switch, frame), decided(&mut untouched, frame));
        }
        let ports = ports.into_iter().map(Arc::new).collect();
        if switch.configure(Config { generation: 9, vswitches: vswitches(), ports }).is_err() {
            for frame in &frames {
                prop_assert_eq!(decided(&mut switch, frame), decided(&mut untouched, frame));
            }
            prop_assert_eq!(switch.generation(), 0);
            prop_assert_eq!(switch.stats(), untouched.stats());
            prop_assert_eq!(all_drops(&switch, &config), all_drops(&untouched, &config));
        }
    }
}
