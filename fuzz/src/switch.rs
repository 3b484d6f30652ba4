//! A whole life of the switch: bytes decode into actions on the switch and on its naive model, which must agree.

use std::collections::BTreeSet;

use weft_switch::{Config, Outcome, Policy, PortConfig, Role, Switch, VSwitchConfig, VSwitchId, Verdict};
use weft_types::{Instant, MacAddr, PortId, Provenance};

#[path = "../../crates/switch/tests/laws/model.rs"]
mod model;

/// So many ports a configuration has at most.
const MAX_PORTS: u8 = 16;

/// Actions, each a byte and what it takes. `0`: become another configuration. `1`: a frame of numbered addresses,
/// most of which are known. All others: a frame of any bytes.
pub(crate) fn switch_life(data: &[u8]) {
    let mut bytes = Bytes(data);
    // A cache of one set, so that flows give way to each other.
    let mut switches = [Switch::with_capacity(1, 64), Switch::with_capacity(1, 1), Switch::new(1).without_cache()];
    let mut config = Config::default();
    while let Some(action) = bytes.next() {
        match action {
            0 => {
                let wanted = configuration(&mut bytes);
                let results = switches.each_mut().map(|switch| switch.configure(wanted.clone()));
                assert!(results.iter().all(|result| *result == results[0]));
                match &results[0] {
                    Ok(()) => config = wanted,
                    Err(problems) => assert!(problems.iter().all(|problem| !problem.to_string().is_empty())),
                }
            }
            1 => {
                let [ingress, src, dst] = bytes.take();
                let frame = [mac(dst).octets(), mac(src).octets()].concat();
                send(&mut switches, &config, ingress, &[&frame[..], &[8, 0]].concat());
            }
            len => {
                let [ingress] = bytes.take();
                let frame = bytes.slice(len.into());
                send(&mut switches, &config, ingress, frame);
            }
        }
    }
}

fn send(switches: &mut [Switch; 3], config: &Config, ingress: u8, frame: &[u8]) {
    let (ingress, now) = (PortId(u32::from(ingress % (MAX_PORTS + 1))), Instant::ZERO);
    let expected = model::decide(config, ingress, frame, frame.len());
    for switch in switches {
        let trace = switch.explain(now, ingress, frame, frame.len());
        let explained = match trace.outcome {
            Outcome::Drop(reason) => Err(reason),
            Outcome::Forward => Ok(trace.egress.iter().map(|port| port.id).collect::<BTreeSet<_>>()),
        };
        assert_eq!(explained, expected, "{trace}");
        let before: u64 = switch.drops(ingress).map(|(_, frames)| frames).sum();
        let decided = match switch.forward(now, ingress, frame, frame.len()) {
            Verdict::Drop(reason) => Err(reason),
            Verdict::Forward(ports) => {
                let set: BTreeSet<_> = ports.iter().copied().collect();
                assert_eq!(set.len(), ports.len(), "a port is named twice");
                Ok(set)
            }
        };
        let counted = switch.drops(ingress).map(|(_, frames)| frames).sum::<u64>() - before;
        let is_port = config.ports.iter().any(|port| port.id == ingress);
        assert_eq!(counted, u64::from(decided.is_err() && is_port));
        assert_eq!(decided, expected, "{trace}");
    }
}

/// Any configuration, the wrong ones too.
fn configuration(bytes: &mut Bytes<'_>) -> Config {
    let [generation, vswitches, ports] = bytes.take();
    let vswitch = |id: u8| VSwitchConfig {
        id: VSwitchId(id.into()),
        name: format!("n{id}").parse().expect("a name"),
        provenance: Provenance::command("fuzz"),
    };
    let mut config = Config {
        generation: generation.into(),
        vswitches: (0..vswitches % 4).map(vswitch).collect(),
        ports: Vec::new(),
    };
    for _ in 0..ports % (MAX_PORTS + 1) {
        let [id, vswitch, role, policy, first, second] = bytes.take();
        config.ports.push(PortConfig {
            id: PortId(u32::from(id % MAX_PORTS)),
            name: format!("p{id}").parse().expect("a name"),
            vswitch: VSwitchId(u32::from(vswitch % 4)),
            role: [Role::Vnic, Role::Gateway, Role::HostAdapter, Role::Uplink][usize::from(role % 4)],
            macs: [first, second].into_iter().filter(|number| *number != 0).map(mac).collect(),
            policy: Policy { forged_macs: policy & 1 != 0, promiscuous: policy & 2 != 0 },
            provenance: Provenance::file("fuzz.toml", id.into()),
        });
    }
    config
}

/// Addresses by number: stations, and at the end one of every other kind.
fn mac(number: u8) -> MacAddr {
    match number {
        0 => MacAddr::ZERO,
        253 => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x0e]),
        254 => MacAddr::new([0x33, 0x33, 0, 0, 0, 1]),
        255 => MacAddr::BROADCAST,
        station => MacAddr::new([2, 0, 0, 0, 0, station]),
    }
}

/// The rest of the input; zeros when it is used up.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().unwrap_or(0))
    }

    fn slice(&mut self, len: usize) -> &'a [u8] {
        let (slice, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        slice
    }
}
