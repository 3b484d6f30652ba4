//! What must be durable before a client may hear of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use weft_types::{MacAddr, NetworkName};

use super::leases::Change;
use super::record::{LeaseRecord, PersistRequest};
use crate::NetworkId;

/// Answers that may wait for the disk at once; a client whose answer finds no room asks again.
const MAX_WAITING: usize = 1 << 14;

/// An answer that grants a lease.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) network: NetworkId,
    pub(crate) mac: MacAddr,
    pub(crate) ip: Ipv4Addr,
    pub(crate) frame: Vec<u8>,
}

/// Answers that wait for the same write, in their order; of each client one at most.
#[derive(Debug, Default)]
struct Batch {
    grants: Vec<Option<Grant>>,
    place_of: BTreeMap<(NetworkId, MacAddr), usize>,
}

impl Batch {
    fn push(&mut self, grant: Grant) {
        self.drop_of(grant.network, grant.mac);
        self.place_of.insert((grant.network, grant.mac), self.grants.len());
        self.grants.push(Some(grant));
    }

    /// Drops the answer that waits for a client.
    fn drop_of(&mut self, network: NetworkId, mac: MacAddr) {
        if let Some(place) = self.place_of.remove(&(network, mac)) {
            self.grants[place] = None;
        }
    }

    fn is_full(&self) -> bool {
        self.grants.len() >= MAX_WAITING
    }
}

/// Lease records on their way to the disk, and the answers that wait for them.
///
/// One request is under way at a time. What happens meanwhile goes with the next one, so that a whole boot
/// storm costs two or three writes.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Not handed out yet; of each address the last word only.
    pending: BTreeMap<(NetworkName, Ipv4Addr), LeaseRecord>,
    /// Answers that wait for what is pending.
    waiting: Batch,
    /// The request that is being written, and the answers that wait for it.
    under_way: Option<(u64, Batch)>,
    /// The token that `pending` will travel under.
    next: u64,
}

impl Journal {
    /// Notes `changes` of `network` for the next request.
    pub(crate) fn note(&mut self, network: &NetworkName, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            let record = record(network, change);
            self.pending.insert((record.network.clone(), record.ip), record);
        }
    }

    /// Keeps `grant` back until everything noted so far is durable. False when too many wait already.
    #[must_use]
    pub(crate) fn hold_back(&mut self, grant: Grant) -> bool {
        // A client that asks again gets the answer to its last question only.
        if let Some((_, batch)) = &mut self.under_way {
            batch.drop_of(grant.network, grant.mac);
        }
        if self.waiting.is_full() {
            return false;
        }
        self.waiting.push(grant);
        true
    }

    /// The next request, if there is something to write and nothing is being written.
    pub(crate) fn poll(&mut self) -> Option<PersistRequest> {
        if self.under_way.is_some() || self.pending.is_empty() {
            return None;
        }
        let token = self.next;
        self.next += 1;
        self.under_way = Some((token, std::mem::take(&mut self.waiting)));
        Some(PersistRequest { token, records: std::mem::take(&mut self.pending).into_values().collect() })
    }

    /// The answers that may leave now that `token` is durable.
    pub(crate) fn persisted(&mut self, token: u64) -> Vec<Grant> {
        match self.under_way.take_if(|(under_way, _)| *under_way == token) {
            Some((_, batch)) => batch.grants.into_iter().flatten().collect(),
            None => Vec::new(),
        }
    }
}

/// `change` as the journal writes it.
pub(crate) fn record(network: &NetworkName, change: Change) -> LeaseRecord {
    let Change { ip, mac, state, until, client_name } = change;
    LeaseRecord { network: network.clone(), ip, mac, state, expires_unix_s: until, client_name }
}
