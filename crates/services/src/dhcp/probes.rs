//! Offers that wait until it is clear that nobody has the address (RFC 2131, section 3.1; RFC 5227).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use weft_types::{Instant, MacAddr};

use super::Request;
use crate::NetworkId;

/// How long whoever has an address gets to say so.
const WAIT: Duration = Duration::from_millis(250);
/// Offers that may wait at once; a client whose offer finds no room asks again.
const MAX_WAITING: usize = 1 << 12;

/// An offer that waits, and what it answers.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) ip: Ipv4Addr,
    pub(crate) request: Request,
    /// By whom the request came: the client, or a relay.
    pub(crate) via: MacAddr,
    pub(crate) frame: Vec<u8>,
    /// How many addresses were found taken for this request.
    pub(crate) conflicts: u32,
}

/// Every offer that waits; of each client one at most.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    waiting: BTreeMap<(NetworkId, MacAddr), (Instant, Probe)>,
    due: BTreeSet<(Instant, NetworkId, MacAddr)>,
    by_ip: BTreeMap<(NetworkId, Ipv4Addr), MacAddr>,
}

impl Probes {
    /// Has an offer wait; whether its address is to be asked for now, `None` when too many wait. A client that asks again
    /// meanwhile hears the answer to its last question when it would have heard the first.
    pub(crate) fn add(&mut self, now: Instant, net: NetworkId, probe: Probe) -> Option<bool> {
        let client = probe.request.mac;
        if let Some((_, other)) = self.waiting.get_mut(&(net, client)).filter(|(_, other)| other.ip == probe.ip) {
            *other = probe;
            return Some(false);
        }
        self.remove(net, client);
        if self.waiting.len() >= MAX_WAITING {
            return None;
        }
        let at = now + WAIT;
        self.due.insert((at, net, client));
        self.by_ip.insert((net, probe.ip), client);
        self.waiting.insert((net, client), (at, probe));
        Some(true)
    }

    /// The offer of `ip`, which somebody else than its client has.
    pub(crate) fn take_conflict(&mut self, net: NetworkId, ip: Ipv4Addr, holder: MacAddr) -> Option<Probe> {
        let client = *self.by_ip.get(&(net, ip)).filter(|client| **client != holder)?;
        self.remove(net, client)
    }

    /// The next offer that waited long enough.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(NetworkId, Probe)> {
        let &(_, net, client) = self.due.first().filter(|(at, ..)| *at <= now)?;
        Some((net, self.remove(net, client)?))
    }

    /// When the next one has.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn remove(&mut self, net: NetworkId, client: MacAddr) -> Option<Probe> {
        let (at, probe) = self.waiting.remove(&(net, client))?;
        self.due.remove(&(at, net, client));
        self.by_ip.remove(&(net, probe.ip));
        Some(probe)
    }
}
