//! The laws of the virtual switch as properties, each named after its number in docs/ARCHITECTURE.md, and the switch
//! against a model without cleverness.

mod cases;
mod model;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use weft_switch::{Config, ConfigError, DropReason, Outcome, Role, Switch, Verdict};
use weft_types::{Instant, PortId};

use crate::world::{Frame, any_config, any_frame, any_life, any_ports, vswitches};

const NOW: Instant = Instant::ZERO;

/// A switch's decision, in the model's terms; a list that names a port twice is no decision.
fn decided(switch: &mut Switch, frame: &Frame) -> Result<BTreeSet<PortId>, DropReason> {
    match switch.forward(NOW, frame.ingress, &frame.head, frame.len) {
        Verdict::Drop(reason) => Err(reason),
        Verdict::Forward(ports) => {
            let set: BTreeSet<_> = ports.iter().copied().collect();
            assert!(!ports.is_empty() && set.len() == ports.len(), "{ports:?}");
            Ok(set)
        }
    }
}

fn explained(switch: &Switch, frame: &Frame) -> Result<BTreeSet<PortId>, DropReason> {
    let trace = switch.explain(NOW, frame.ingress, &frame.head, frame.len);
    assert!(!trace.steps.is_empty());
    match trace.outcome {
        Outcome::Drop(reason) => Err(reason),
        Outcome::Forward => Ok(trace.egress.iter().map(|port| port.id).collect()),
    }
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

proptest! {
    #[test]
    fn switch_equals_model(life in any_life(), seed: u64) {
        let mut switch = Switch::new(seed);
        for (config, frames) in life {
            switch.configure(config.clone()).unwrap();
            // Twice: undecided, and decided before.
            for frame in frames.iter().chain(&frames) {
                let expected = model::decide(&config, frame.ingress, &frame.head, frame.len);
                prop_assert_eq!(explained(&switch, frame), expected.clone(), "{:?}", frame);
                prop_assert_eq!(decided(&mut switch, frame), expected, "{:?}", frame);
            }
        }
    }

    #[test]
    fn cached_equals_uncached(life in any_life(), seed: u64) {
        // Room for one set of flows makes for many replacements.
        let mut switches = [Switch::new(seed), Switch::with_capacity(seed, 1), Switch::new(seed).without_cache()];
        for (config, frames) in life {
            for switch in &mut switches {
                switch.configure(config.clone()).unwrap();
            }
            for frame in frames.iter().chain(&frames) {
                let [cached, tiny, plain] = &mut switches;
                let expected = decided(plain, frame);
                prop_assert_eq!(decided(cached, frame), expected.clone(), "{:?}", frame);
                prop_assert_eq!(decided(tiny, frame), expected, "{:?}", frame);
            }
            let [cached, tiny, plain] = &switches;
            prop_assert_eq!(all_drops(cached, &config), all_drops(plain, &config));
            prop_assert_eq!(all_drops(tiny, &config), all_drops(plain, &config));
            prop_assert!(tiny.stats().flows <= 4 && plain.stats().flows == 0);
        }
    }

    #[test]
    fn law_1_nothing_is_learned(config in any_config(), past in prop::collection::vec(any_frame(), 0..60), frame in any_frame()) {
        let mut fresh = configured(config.clone());
        let mut experienced = configured(config);
        for earlier in &past {
            let _ = decided(&mut experienced, earlier);
        }
        prop_assert_eq!(decided(&mut experienced, &frame), decided(&mut fresh, &frame));
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
        let config = Config { generation: 0, vswitches: vswitches(), ports: ports.clone() };
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
        let mut switch = configured(config.clone());
        for frame in &frames {
            let Ok(ports) = decided(&mut switch, frame) else { continue };
            prop_assert!(!ports.contains(&frame.ingress));
            let from = config.ports.iter().find(|port| port.id == frame.ingress).unwrap();
            let members = || config.ports.iter().filter(|port| port.vswitch == from.vswitch && port.id != from.id);
            let is_for = |mac: &weft_types::MacAddr| mac.octets() == frame.head[..6];
            if frame.head[0] & 1 == 1 {
                prop_assert_eq!(ports.len(), members().count(), "a group is everybody");
                continue;
            }
            let owner = members().find(|port| port.macs.iter().any(is_for));
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
            let expected = explained(&switch, frame);
            prop_assert_eq!((all_drops(&switch, &config), switch.stats()), before);
            prop_assert_eq!(decided(&mut switch, frame), expected);
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
