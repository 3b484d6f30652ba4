//! The table of flows.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use weft_types::{Instant, MacAddr};
use weft_wire::Protocol;

use super::forward::Client;
use super::icmp::Echo;
use super::packet::Endpoint;
use super::tcp::Connection;
use super::udp::Mapping;
use crate::NetworkId;

/// A flow, as the driver of the host's sockets calls it. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    index: u32,
    generation: u32,
}

/// How often a place in the table is taken until identities come again.
const MAX_GENERATION: u32 = u32::MAX >> 1;

impl FlowId {
    /// As one number below 2^63, for an epoll instance to carry.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The opposite of [`Self::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// What makes a packet part of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) network: NetworkId,
    pub(super) protocol: Protocol,
    /// The guest's socket; an echo's identifier stands in place of the port.
    pub(super) guest: Endpoint,
    /// The remote socket as the guest knows it. Mappings of UDP and echoes do not depend on it (RFC 4787, REQ-1):
    /// all zeros there, but not for the clients of forwards: each has a port of the gateway's.
    pub(super) remote: Endpoint,
}

/// Stands for any remote socket in a [`Key`].
pub(super) const ANY_REMOTE: Endpoint = Endpoint::ANY;

/// Whose limits a flow counts to: a guest's IPv4 address, or, as a guest has as many IPv6 addresses as it likes, the adapter
/// with which it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner(NetworkId, Ipv6Addr);

impl Owner {
    pub(super) fn new(network: NetworkId, guest: Endpoint, mac: MacAddr) -> Self {
        let [a, b, c, d, e, f] = mac.octets();
        let ip = match guest.ip().is_ipv4() {
            true => guest.mapped(),
            false => Ipv6Addr::from_bits(u64::from_be_bytes([0, 0, a, b, c, d, e, f]).into()),
        };
        Self(network, ip)
    }
}

/// What a flow is.
pub(super) enum Kind {
    Tcp(Box<Connection>),
    Udp(Mapping),
    Client(Client),
    Echo(Echo),
}

/// A flow.
pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) kind: Kind,
    pub(super) owner: Owner,
    /// Where the guest's frames came from last.
    pub(super) mac: MacAddr,
    /// When its alarm rings; kept by `Timers`.
    pub(super) armed: Option<Instant>,
    /// Whether it waits in the queue of those that have frames to send.
    pub(super) is_ready: bool,
    /// Whether the driver was told to look at it, and did not yet.
    pub(super) is_told: bool,
}

impl Flow {
    /// When it ends if nothing more comes; connections do not end like that.
    pub(super) fn expires(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Tcp(_) => None,
            Kind::Udp(mapping) => Some(mapping.expires),
            Kind::Client(client) => Some(client.expires),
            Kind::Echo(echo) => Some(echo.expires),
        }
    }
}

/// All flows. Guests choose the keys, so the hash is seeded.
pub(super) struct FlowTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_key: HashMap<Key, FlowId, SeedableRandomState>,
    per_guest: HashMap<Owner, Usage, SeedableRandomState>,
}

/// The flows of one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) all: usize,
    /// Those without a connection.
    pub(super) evictable: usize,
}

struct Slot {
    generation: u32,
    flow: Option<Flow>,
}

impl FlowTable {
    pub(super) fn new(seed: u64) -> Self {
        let hasher = SeedableRandomState::with_seed(seed, SharedSeed::global_fixed());
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::with_hasher(hasher.clone()),
            per_guest: HashMap::with_hasher(hasher),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The flows of one guest.
    pub(super) fn of_guest(&self, owner: Owner) -> Usage {
        self.per_guest.get(&owner).copied().unwrap_or_default()
    }

    pub(super) fn find(&self, key: &Key) -> Option<FlowId> {
        self.by_key.get(key).copied()
    }

    pub(super) fn get(&self, id: FlowId) -> Option<&Flow> {
        let slot = self.slots.get(id.index as usize)?;
        if slot.generation == id.generation { slot.flow.as_ref() } else { None }
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.flow.as_mut() } else { None }
    }

    /// Adds a flow, whose key must be new.
    pub(super) fn insert(&mut self, key: Key, mac: MacAddr, kind: Kind) -> FlowId {
        let owner = Owner::new(key.network, key.guest, mac);
        let flow = Flow { key, kind, owner, mac, armed: None, is_ready: false, is_told: false };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, flow: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.flow = Some(flow);
        let id = FlowId { index, generation: slot.generation };
        self.by_key.insert(key, id);
        let usage = self.per_guest.entry(owner).or_default();
        usage.all += 1;
        usage.evictable += usize::from(key.protocol != Protocol::TCP);
        id
    }

    pub(super) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let flow = slot.flow.take()?;
        slot.generation = (slot.generation + 1) & MAX_GENERATION;
        self.free.push(id.index);
        self.by_key.remove(&flow.key);
        if let Some(usage) = self.per_guest.get_mut(&flow.owner) {
            usage.all -= 1;
            usage.evictable -= usize::from(flow.key.protocol != Protocol::TCP);
            if usage.all == 0 {
                self.per_guest.remove(&flow.owner);
            }
        }
        Some(flow)
    }

    /// All flows, in an order that depends on nothing but what was done to the table.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowId, &Flow)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let id = FlowId { index: index as u32, generation: slot.generation };
            Some((id, slot.flow.as_ref()?))
        })
    }
}
