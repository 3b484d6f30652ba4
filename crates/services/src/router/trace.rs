//! What a router would do with a packet, in words.

use weft_types::{Instant, Permission, Provenance};
use weft_wire::{EtherType, ethernet, ipv4};

use super::forward::{NextHop, onward};
use super::packet::Packet;
use super::{By, Judgement, RouterConfig};
use crate::NetworkId;
use crate::services::Services;

/// One step of a router's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterStep {
    /// What it found.
    pub finding: String,
    /// The declaration that made it so.
    pub because: Option<Provenance>,
}

/// What a router would do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterTrace {
    /// The steps, in order.
    pub steps: Vec<RouterStep>,
    /// What becomes of the packet, if it does not go on.
    pub verdict: Option<String>,
    /// The network whose gateway it leaves by, and the frame.
    pub onward: Option<(NetworkId, Vec<u8>)>,
}

impl RouterTrace {
    fn found(&mut self, because: Option<&Provenance>, finding: String) {
        self.steps.push(RouterStep { finding, because: because.cloned() });
    }

    fn ends(mut self, verdict: impl Into<String>) -> Self {
        self.verdict = Some(verdict.into());
        self
    }
}

impl Services {
    /// What a router would do with a frame that comes to the gateway of `net`; `None` if no router would see it. Decided by
    /// the code that would decide it.
    pub fn trace_router(&self, now: Instant, net: NetworkId, bytes: &[u8]) -> Option<RouterTrace> {
        let gateway = self.gateways.get(&net)?;
        let frame = ethernet::parse(bytes).ok().filter(|frame| frame.dst == gateway.config.mac)?;
        let packet = ipv4::parse(frame.payload).ok().filter(|_| frame.ethertype == EtherType::IPV4)?;
        let to = self.gateways.values().find(|it| it.config.subnet.contains(&packet.dst))?;
        let crossing = self.crossing(net, to.config.id)?;
        let router = &self.routers.all[crossing.router];
        let RouterConfig { name, provenance, .. } = router.config();
        let (from_name, to_name) = (&gateway.config.name, &to.config.name);

        let mut trace = RouterTrace { steps: Vec::new(), verdict: None, onward: None };
        trace.found(Some(provenance), format!("router `{name}` joins `{from_name}` and `{to_name}`"));
        if packet.ttl <= 1 {
            return Some(trace.ends("the router tells the sender that the packet's time to live has ended"));
        }
        let looked_at = match Packet::v4(&packet) {
            Ok(looked_at) => looked_at,
            Err(reason) => return Some(trace.ends(format!("the router drops it: {}", reason.name()))),
        };
        let mac = match self.next_hop(now, crossing, packet.dst) {
            NextHop::Gateway(mac) => {
                trace.found(None, format!("{} is the gateway of `{to_name}`", packet.dst));
                mac
            }
            NextHop::Station(mac) => {
                trace.found(None, format!("{} is at {mac} on `{to_name}`", packet.dst));
                mac
            }
            NextHop::Unknown => {
                let ip = packet.dst;
                let verdict = format!("the router asks who has {ip}; if nobody answers, its sender is told so");
                return Some(trace.ends(verdict));
            }
            NextHop::Nobody => return Some(trace.ends(format!("nobody can have {} on `{to_name}`", packet.dst))),
        };
        let Judgement { permission, by, .. } = router.judge(now, &Self::passage(crossing, frame.src, mac, looked_at));
        let rule = match by {
            By::Rule(rule) => rule.map(|rule| &router.config().rules[rule]),
            _ => None,
        };
        let says = match permission {
            Permission::Allow => "allows it",
            Permission::Deny => "denies it",
            Permission::Reject => "rejects it",
        };
        match by {
            By::Rule(_) => match rule {
                Some(rule) => trace.found(Some(&rule.provenance), format!("`{}` {says}", rule.name)),
                None => trace.found(Some(provenance), format!("no rule fits, and the default {says}")),
            },
            By::Connection => trace.found(None, "it belongs to a connection that may be".to_owned()),
            By::Related => trace.found(None, "it is about a connection that may be".to_owned()),
            By::FirstPiece => trace.found(None, "the first piece of its packet passed".to_owned()),
            By::NoFirstPiece => trace.found(None, "the first piece of its packet did not pass".to_owned()),
            By::Full => trace.found(
                Some(provenance),
                format!("its sender has begun {} connections, and may not begin more", router.config().connections),
            ),
        }
        if permission != Permission::Allow {
            return Some(trace.ends(format!("router `{name}` drops it")));
        }
        if mac == to.config.mac {
            return Some(trace.ends(format!("the gateway of `{to_name}` answers pings, and nothing else")));
        }
        trace.onward = Some((to.config.id, onward(bytes, &packet, to.config.mac, mac)));
        Some(trace)
    }
}
