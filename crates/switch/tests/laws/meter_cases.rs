//! Law 9 on a simulated clock: what passes is the rate, with whatever frames.

use std::time::Duration;

use proptest::prelude::*;
use weft_switch::{Config, DropReason, Excess, PortConfig, Rate, Rates, Role, Switch, VSwitchId, Verdict};
use weft_types::{Instant, PortId, Provenance};

use crate::NOW;
use crate::world::{Frame, mac, vswitches};

/// Ports 1 and 2, each with the MAC address of its number; what 1 may send, and 2 be sent.
fn world(from: Option<Rate>, to: Option<Rate>) -> Config {
    let port = |id: u32, rates: Rates| {
        let place = Provenance::file("lab.toml", id);
        let port = PortConfig::new(PortId(id), format!("p{id}").parse().unwrap(), VSwitchId(0), Role::Vnic, place);
        PortConfig { macs: vec![mac(id as u8)], rates, ..port }.into()
    };
    let (from, to) = (Rates { from_port: from, to_port: None }, Rates { from_port: None, to_port: to });
    Config { vswitches: vswitches(), ports: vec![port(1, from), port(2, to)], ..Config::default() }
}

/// Sends a frame of so many bytes from 1 to 2; whether it passes, and if not, why.
fn send(switch: &mut Switch, now: Instant, len: usize) -> Result<(), DropReason> {
    let head = Frame::new(1, 1, 2, &[]).head;
    match switch.forward(now, PortId(1), &head, len) {
        Verdict::Forward(_) => Ok(()),
        Verdict::Drop(reason) => Err(reason),
    }
}

const MAX_LEN: u64 = 65_553;

proptest! {
    #[test]
    fn law_9_what_passes_is_the_rate(
        bits_per_s in 1_000_000u64..10_000_000_000, burst_bytes in 1_500u64..256_000, is_from: bool,
        sizes in prop::collection::vec(prop_oneof![Just(60u64), 60..1515u64, 60..MAX_LEN], 1..20),
        changes in 0..3u64,
    ) {
        // Twice as much is sent as may pass, for as long as a hundred of the largest frames and bursts take.
        let rate = Some(Rate { bits_per_s, burst_bytes, excess: Excess::Drop });
        let config = if is_from { world(rate, None) } else { world(None, rate) };
        let mut switch = Switch::new(7);
        switch.configure(config.clone()).unwrap();
        let until = (MAX_LEN + burst_bytes) as u128 * 8 * 1_000_000_000 * 100 / u128::from(bits_per_s);
        let (mut nanos, mut passed, mut sent) = (0u128, 0u64, 0usize);
        while nanos < until {
            let len = sizes[sent % sizes.len()];
            match send(&mut switch, Instant::from_nanos(nanos as u64), len as usize) {
                Ok(()) => passed += len * 8,
                Err(reason) => prop_assert_eq!(reason, if is_from { DropReason::OverRate } else { DropReason::EgressOverRate }),
            }
            sent += 1;
            nanos += u128::from(len) * 8 * 1_000_000_000 / u128::from(bits_per_s) / 2;
            if changes > 0 && sent.is_multiple_of(1000) {
                // Buckets stay as they are.
                switch.configure(config.clone()).unwrap();
            }
        }
        let due = (nanos * u128::from(bits_per_s) / 1_000_000_000) as u64;
        prop_assert!(passed <= due + (burst_bytes + 2 * MAX_LEN) * 8, "{passed} of {due}");
        prop_assert!(passed.abs_diff(due) * 20 <= due, "{passed} of {due} bits is more than 5 % off");
    }

    #[test]
    fn law_9_who_is_slower_loses_nothing(bits_per_s in 1_000_000u64..10_000_000_000, len in 60..MAX_LEN, burst_bytes in 1u64..9000) {
        let rate = Some(Rate { bits_per_s, burst_bytes, excess: Excess::Drop });
        let mut switch = Switch::new(7);
        switch.configure(world(rate, rate)).unwrap();
        let span = Duration::from_nanos(len * 8 * 1_000_000_000 / bits_per_s + 1);
        for number in 0..200 {
            prop_assert_eq!(send(&mut switch, NOW + span * number, len as usize), Ok(()));
        }
    }
}

#[test]
fn a_group_reaches_those_who_may_be_sent_to() {
    let slow = Some(Rate { bits_per_s: 1000, burst_bytes: 1, excess: Excess::Drop });
    let mut config = world(None, slow);
    let mut third = weft_switch::PortConfig::clone(&config.ports[0]);
    (third.id, third.name, third.macs) = (PortId(3), "p3".parse().unwrap(), vec![mac(3)]);
    config.ports.push(third.into());
    let mut switch = Switch::new(7);
    switch.configure(config).unwrap();
    let mut receivers = || {
        let frame = Frame::new(1, 1, 255, &[]);
        match switch.forward(NOW, frame.ingress, &frame.head, frame.len) {
            Verdict::Forward(outputs) => outputs.len(),
            Verdict::Drop(reason) => panic!("{reason}"),
        }
    };
    assert_eq!((receivers(), receivers()), (2, 1));
    let trace = switch.explain(NOW, PortId(1), &Frame::new(1, 1, 2, &[]).head, 60).to_string();
    assert!(
        trace.ends_with(
            "rate: `p2` is sent to faster than it may be (1000bit/s) (lab.toml:2)\ndropped: egress-over-rate"
        ),
        "{trace}"
    );
}

#[test]
fn rates_at_which_nothing_passes_are_refused() {
    for (bits_per_s, burst_bytes) in [(0, 1), (1, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let problems = Switch::new(7)
            .configure(world(Some(Rate { bits_per_s, burst_bytes, excess: Excess::Drop }), None))
            .unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().starts_with("port `p1` (lab.toml:1) cannot have a rate of"));
    }
}
