use std::time::Duration;

use weft_types::Instant;
use weft_wire::Offload;

use crate::nat::Nat;
use crate::{Counters, DnsForward, Lease, LeaseRecord, NetworkId, NetworkServices, OutFrame, PersistRequest};

/// The services of every network of one data plane.
pub struct Services {
    nat: Nat,
    counters: Counters,
}

#[allow(unused_variables, clippy::todo, reason = "the signatures come first")]
impl Services {
    /// No networks yet. `seed` feeds whatever must be hard to guess; the Unix time is `unix_origin` plus the
    /// `Instant` of each call.
    pub fn new(seed: [u8; 32], unix_origin: Duration) -> Self {
        Self { nat: Nat::new(seed), counters: Counters::default() }
    }

    /// Makes `networks` all the networks there are. What stays (matched by name) keeps its leases and flows; an
    /// adapter whose reservation moved, or whose address is somebody else's now, loses its lease.
    pub fn configure(&mut self, now: Instant, networks: Vec<NetworkServices>) {
        todo!()
    }

    /// Takes back what [`Self::poll_persist`] gave out before a restart. To be called after [`Self::configure`]
    /// and before the first frame; records of networks that are not configured, or that contradict the
    /// configuration, are dropped.
    pub fn restore_leases(&mut self, now: Instant, records: Vec<LeaseRecord>) {
        todo!()
    }

    /// Takes in a frame that the switch sent to the gateway port of `net`.
    pub fn handle_frame(&mut self, now: Instant, net: NetworkId, frame: &[u8], offload: Offload) {
        todo!()
    }

    /// The next frame for the switch. To be called until it gives `None` after each call that takes something in.
    pub fn poll_frame(&mut self) -> Option<(NetworkId, OutFrame)> {
        todo!()
    }

    /// The next lease records to make durable. At most one request is under way: the next one comes after
    /// [`Self::persisted`], and holds all that happened meanwhile.
    pub fn poll_persist(&mut self) -> Option<PersistRequest> {
        todo!()
    }

    /// Tells that the request `token` is durable: only now the clients hear of their leases.
    pub fn persisted(&mut self, now: Instant, token: u64) {
        todo!()
    }

    /// Every record there is: what a journal may be compacted to.
    pub fn lease_records(&self) -> Vec<LeaseRecord> {
        todo!()
    }

    /// The next query for the host's resolvers.
    pub fn poll_dns(&mut self) -> Option<DnsForward> {
        todo!()
    }

    /// What the host's resolvers answered to query `id`; `None` when none of them did.
    pub fn dns_answer(&mut self, now: Instant, id: u64, answer: Option<&[u8]>) {
        todo!()
    }

    /// The NAT device, for the driver of its host sockets.
    pub fn nat_mut(&mut self) -> &mut Nat {
        &mut self.nat
    }

    /// When [`Self::handle_timeout`] wants to be called, the NAT device's timeouts included.
    pub fn next_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }

    /// The leases that are held, by network and address.
    pub fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        std::iter::empty()
    }

    /// What was dropped or refused, and why.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
