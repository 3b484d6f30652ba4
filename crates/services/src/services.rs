use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use weft_types::{Instant, IpNet, NetworkName};
use weft_wire::Offload;

use crate::dhcp::{self, Change, Journal, Pool, Probes};
use crate::dns::Dns;
use crate::gateway::Gateway;
use crate::nat::{Nat, NatNetwork};
use crate::random::Random;
use crate::router::Routers;
use crate::streams::Streams;
use crate::{Counters, Lease, LeaseRecord, NetworkId, NetworkServices, OutFrame, PersistRequest, Reason};

/// Frames that may wait for the switch, those of the NAT device not included.
const MAX_QUEUED_FRAMES: usize = 1 << 14;

/// The services of every network of one data plane.
pub struct Services {
    unix_origin: Duration,
    pub(crate) gateways: BTreeMap<NetworkId, Gateway>,
    pub(crate) journal: Journal,
    pub(crate) probes: Probes,
    pub(crate) dns: Dns,
    pub(crate) streams: Streams,
    pub(crate) nat: Nat,
    pub(crate) routers: Routers,
    /// When stations are told of their router.
    pub(crate) random: Random,
    pub(crate) next_advertisement: Option<Instant>,
    queue: VecDeque<(NetworkId, OutFrame)>,
    /// Whether the last frame for the switch was a router's, or could have been.
    was_routers_turn: bool,
}

impl Services {
    /// No networks yet. `seed` feeds whatever must be hard to guess; the Unix time is `unix_origin` plus the
    /// `Instant` of each call.
    pub fn new(seed: [u8; 32], unix_origin: Duration) -> Self {
        Self {
            unix_origin,
            gateways: BTreeMap::new(),
            journal: Journal::default(),
            probes: Probes::default(),
            dns: Dns::new(&seed),
            streams: Streams::default(),
            routers: Routers::new(&seed),
            random: Random::new(&seed, "router advertisements"),
            next_advertisement: None,
            nat: Nat::new(seed),
            queue: VecDeque::new(),
            was_routers_turn: false,
        }
    }

    /// Makes `networks` all the networks there are. What stays (matched by name) keeps its leases and flows; an
    /// adapter that lost its reservation, or whose reservation moved, loses its lease, and so does one whose
    /// address now belongs to somebody else. What ended goes to the journal ([`Self::poll_persist`]).
    pub fn configure(&mut self, now: Instant, networks: Vec<NetworkServices>) {
        let unix_s = self.unix_s(now);
        let old = std::mem::take(&mut self.gateways);
        let mut old: BTreeMap<_, _> = old.into_values().map(|gateway| (gateway.config.name.clone(), gateway)).collect();
        let mut same_outside = BTreeSet::new();
        for config in networks {
            let before = old.remove(&config.name);
            if before.as_ref().is_some_and(|before| before.config.asks_as(&config)) {
                same_outside.insert(config.id);
            }
            let known: BTreeSet<_> = before.iter().flat_map(|gateway| gateway.zone.adapters()).collect();
            let mut gateway = Gateway::new(now, config, before);
            let link = gateway.link();
            gateway.advertiser.configure(now, link, &mut self.random);
            let gone = known.into_iter().filter(|mac| gateway.zone.machine(*mac).is_none()).collect();
            let pool = gateway.config.dhcp.as_ref().map(|dhcp| Pool::new(&gateway.config, dhcp));
            let ended = gateway.leases.adopt(pool, &gone, unix_s);
            self.journal.note(&gateway.config.name, ended);
            self.gateways.insert(gateway.config.id, gateway);
        }
        for mut removed in old.into_values() {
            self.journal.note(&removed.config.name, removed.leases.adopt(None, &BTreeSet::new(), unix_s));
        }
        let gateways = &self.gateways;
        self.probes.clear(); // a client that waits for an offer asks again
        self.dns.forwarder.retain(|net| gateways.contains_key(&net));
        self.dns.forget_answers(|net| same_outside.contains(&net));
        self.queue.retain(|(net, _)| gateways.contains_key(net));
        self.note_advertisements();
        self.configure_nat(now);
    }

    fn configure_nat(&mut self, now: Instant) {
        let configs = || self.gateways.values().map(|gateway| &gateway.config);
        let networks: Vec<_> = configs()
            .filter(|config| config.nat || config.dns || config.tells_machines())
            .map(|config| NatNetwork {
                id: config.id,
                mac: config.mac,
                ip: config.ip,
                subnet: config.subnet,
                subnet6: config.subnet6,
                mtu: config.mtu,
                outside: config.nat,
                dns: config.dns,
                metadata: config.tells_machines(),
                host_access: config.host_access,
                forwards: config.forwards.iter().map(|forward| forward.id).collect(),
            })
            .collect();
        let of_both = |config: &NetworkServices| {
            [Some(IpNet::from(config.subnet)), config.subnet6.map(IpNet::from)].into_iter().flatten()
        };
        let subnets: Vec<IpNet> = configs().flat_map(of_both).collect();
        self.nat.configure(now, &networks, &subnets);
        self.serve_streams(now);
    }

    /// Takes back what [`Self::poll_persist`] gave out before a restart. To be called after [`Self::configure`]
    /// and before the first frame; records of networks that are not configured, or that contradict the
    /// configuration, are dropped.
    pub fn restore_leases(&mut self, _now: Instant, records: Vec<LeaseRecord>) {
        for record in records {
            let LeaseRecord { network, ip, mac, state, expires_unix_s, client_name } = record;
            let gateway = self.gateways.values_mut().find(|gateway| gateway.config.name == network);
            if let Some(Gateway { leases, .. }) = gateway {
                leases.restore(Change { ip, mac, state, until: expires_unix_s, client_name });
            }
        }
    }

    /// Takes in a frame that the switch sent to the gateway port of `net`.
    pub fn handle_frame(&mut self, now: Instant, net: NetworkId, frame: &[u8], offload: Offload) {
        if let Err(reason) = self.take_frame(now, net, frame, offload) {
            self.count(net, reason);
        }
    }

    /// The next frame for the switch. To be called until it gives `None` after each call that takes something in.
    pub fn poll_frame(&mut self) -> Option<(NetworkId, OutFrame)> {
        if let Some(frame) = self.queue.pop_front() {
            return Some(frame);
        }
        // In turn, so that neither keeps the other from its networks.
        self.was_routers_turn = !self.was_routers_turn;
        match self.was_routers_turn {
            true => self.routers.poll_frame().or_else(|| self.nat.poll_frame()),
            false => self.nat.poll_frame().or_else(|| self.routers.poll_frame()),
        }
    }

    /// Puts a frame with nothing left to do into the queue to the switch.
    pub(crate) fn send(&mut self, net: NetworkId, bytes: Vec<u8>) -> Result<(), Reason> {
        if self.queue.len() >= MAX_QUEUED_FRAMES {
            return Err(Reason::QueueFull);
        }
        self.queue.push_back((net, OutFrame { bytes, offload: Offload::default() }));
        Ok(())
    }

    /// The next lease records to make durable. At most one request is under way: the next one comes after
    /// [`Self::persisted`], and holds all that happened meanwhile. A write that fails is to be tried again.
    pub fn poll_persist(&mut self) -> Option<PersistRequest> {
        self.journal.poll()
    }

    /// Tells that the request `token` is durable: only now the clients hear of their leases.
    pub fn persisted(&mut self, now: Instant, token: u64) {
        let unix_s = self.unix_s(now);
        for grant in self.journal.persisted(token) {
            // Meanwhile the client may have given it back, or a new configuration may have taken it.
            let gateway = self.gateways.get(&grant.network);
            if gateway.is_some_and(|gateway| gateway.leases.held_by(grant.mac, unix_s) == Some(grant.ip))
                && let Err(reason) = self.send(grant.network, grant.frame)
            {
                self.count(grant.network, reason);
            }
        }
    }

    /// Every record there is: what a journal may be compacted to.
    pub fn lease_records(&self) -> Vec<LeaseRecord> {
        let of = |gateway: &Gateway| -> Vec<_> {
            gateway.leases.changes().map(|change| dhcp::record(&gateway.config.name, change)).collect()
        };
        self.gateways.values().flat_map(of).collect()
    }

    /// The NAT device, to look at.
    pub fn nat(&self) -> &Nat {
        &self.nat
    }

    /// The NAT device, for the driver of its host sockets.
    pub fn nat_mut(&mut self) -> &mut Nat {
        &mut self.nat
    }

    /// When [`Self::handle_timeout`] wants to be called, the NAT device's timeouts included.
    pub fn next_timeout(&self) -> Option<Instant> {
        let dns = [self.dns.forwarder.next_timeout(), self.streams.next_timeout()];
        let gateways = [self.probes.next_timeout(), self.next_advertisement];
        let others = gateways.into_iter().chain([self.nat.next_timeout(), self.next_router_timeout()]);
        dns.into_iter().chain(others).flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.dns.forwarder.overdue(now) {
            self.dns_answer(now, id, None);
        }
        self.end_silent_streams(now);
        self.send_probed_offers(now);
        self.advertise(now);
        self.mind_routers(now);
        self.nat.handle_timeout(now);
        self.serve_streams(now);
    }

    /// The leases that are held at `now`, by network and address.
    pub fn leases(&self, now: Instant) -> impl Iterator<Item = Lease> + '_ {
        let unix_s = self.unix_s(now);
        self.gateways.values().flat_map(move |Gateway { config, leases, zone, .. }| {
            leases.held(unix_s).map(move |held| Lease {
                network: config.name.clone(),
                ip: held.ip,
                mac: held.mac,
                vm: zone.machine(held.mac).cloned(),
                client_name: held.client_name.map(str::to_owned),
                expires_unix_s: held.until,
            })
        })
    }

    /// The networks of which somebody was turned away because no address was free, while that is so.
    pub fn exhausted_pools(&self, now: Instant) -> impl Iterator<Item = &NetworkName> {
        let unix_s = self.unix_s(now);
        let exhausted = move |gateway: &&Gateway| gateway.is_exhausted && gateway.leases.is_exhausted(unix_s);
        self.gateways.values().filter(exhausted).map(|gateway| &gateway.config.name)
    }

    /// What was dropped or refused at the gateway of `net`, and why; `None` for a network that is not configured.
    pub fn counters(&self, net: NetworkId) -> Option<&Counters> {
        Some(&self.gateways.get(&net)?.counters)
    }

    pub(crate) fn count(&mut self, net: NetworkId, reason: Reason) {
        if let Some(gateway) = self.gateways.get_mut(&net) {
            gateway.counters.count(reason);
        }
    }

    /// Seconds since the Unix epoch.
    pub(crate) fn unix_s(&self, now: Instant) -> u64 {
        self.unix_origin.saturating_add(now.since(Instant::ZERO)).as_secs()
    }
}
