//! Queries for the host's resolvers that wait for their answers.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_types::{Instant, MacAddr};

use super::DnsForward;
use super::message::Query;
use crate::NetworkId;
use crate::nat::FlowId;
use crate::random::Random;

/// Queries that wait at once, of everyone.
const MAX_WAITING: usize = 1024;
/// Queries of one adapter that wait at once, so that one machine cannot take all the room.
const MAX_WAITING_PER_ADAPTER: usize = 64;
/// When the host's resolvers count as silent. Stub resolvers ask again after 5 s; the second question still
/// finds the first one under way.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) network: NetworkId,
    pub(crate) mac: MacAddr,
    pub(crate) way: Way,
}

/// How a client asks, and is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a datagram.
    Udp {
        /// From this socket.
        from: SocketAddr,
        /// At this address of the gateway's, which answers.
        at: IpAddr,
    },
    /// On this connection.
    Tcp(FlowId),
}

/// A query under way.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) asker: Asker,
    /// The query as the client sent it.
    pub(crate) message: Vec<u8>,
    /// The longest answer that the client takes.
    pub(crate) max_bytes: usize,
    /// The id under which the host's resolvers know the query: not the client's, which its neighbours could guess.
    pub(crate) upstream_id: u16,
    /// Of the answers that are remembered, when the query went out.
    pub(crate) generation: u64,
    deadline: Instant,
}

/// The queries under way.
#[derive(Debug)]
pub(crate) struct Forwarder {
    random: Random,
    next: u64,
    /// In the order of their deadlines, because each waits for the same time.
    waiting: BTreeMap<u64, Waiting>,
    queue: VecDeque<DnsForward>,
}

impl Forwarder {
    pub(crate) fn new(random: Random) -> Self {
        Self { random, next: 0, waiting: BTreeMap::new(), queue: VecDeque::new() }
    }

    /// Sends `query` out, to `servers`, or those of the host when these are none. False when there is no room; a query
    /// that is under way already is not sent again.
    #[must_use]
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        asker: Asker,
        query: &Query<'_>,
        (max_bytes, generation): (usize, u64),
        servers: &[SocketAddr],
    ) -> bool {
        let is_stream = matches!(asker.way, Way::Tcp(_));
        let is_again = |other: &Waiting| other.asker == asker && other.message == query.message();
        if !is_stream && self.waiting.values().any(is_again) {
            return true;
        }
        let of_adapter = self.waiting.values().filter(|other| other.asker.mac == asker.mac).count();
        if self.waiting.len() >= MAX_WAITING || of_adapter >= MAX_WAITING_PER_ADAPTER {
            return false;
        }
        let id = self.next;
        self.next += 1;
        let upstream_id = self.random.word();
        let message = query.message().to_vec();
        let deadline = now + TIMEOUT;
        self.waiting.insert(id, Waiting { asker, message, max_bytes, upstream_id, generation, deadline });
        let message = query.for_upstream(upstream_id, max_bytes);
        self.queue.push_back(DnsForward { id, message, servers: servers.to_vec(), is_stream });
        true
    }

    pub(crate) fn poll(&mut self) -> Option<DnsForward> {
        self.queue.pop_front()
    }

    /// The query `id`, if it still waits.
    pub(crate) fn get(&self, id: u64) -> Option<&Waiting> {
        self.waiting.get(&id)
    }

    /// Takes the query `id` out: it has its answer.
    pub(crate) fn finish(&mut self, id: u64) -> Option<Waiting> {
        self.queue.retain(|forward| forward.id != id);
        self.waiting.remove(&id)
    }

    /// A query that waited for too long.
    pub(crate) fn overdue(&self, now: Instant) -> Option<u64> {
        self.waiting.first_key_value().filter(|(_, oldest)| oldest.deadline <= now).map(|(&id, _)| id)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, oldest)| oldest.deadline)
    }

    /// Forgets the queries of networks that are no more.
    pub(crate) fn retain(&mut self, is_there: impl Fn(NetworkId) -> bool) {
        self.waiting.retain(|_, waiting| is_there(waiting.asker.network));
        self.queue.retain(|forward| self.waiting.contains_key(&forward.id));
    }
}
