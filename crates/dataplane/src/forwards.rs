//! Port forwards: which places of the host lead to which machines, from one configuration to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use weft_dataplane_protocol::{DataplaneConfig, ForwardConfig, ForwardStatus, NetworkConfig, why_not_listening};
use weft_services::Forward;
use weft_services::nat::ForwardId;
use weft_types::{NetworkName, Provenance};

use crate::host::{Entrance, Place, open_listener};
use crate::validate::Problems;
use crate::worker::Worker;

/// A forward and its number.
#[derive(Clone, Debug)]
pub(crate) struct Numbered {
    pub(crate) network: NetworkName,
    pub(crate) config: ForwardConfig,
    pub(crate) id: ForwardId,
}

impl Numbered {
    /// The places at which clients come in.
    fn entrances(&self) -> impl Iterator<Item = Entrance> + use<> {
        let (forward, transport) = (self.id, self.config.listen.transport());
        let sockets = self.config.listen.sockets();
        sockets.map(move |(offset, address)| Entrance { place: (transport, address), forward, offset })
    }

    /// Whether clients of the one are clients of the other, wherever they are declared.
    fn is_same(&self, network: &NetworkName, config: &ForwardConfig) -> bool {
        let anywhere = |config: &ForwardConfig| ForwardConfig { provenance: Provenance::command(""), ..config.clone() };
        self.network == *network && anywhere(&self.config) == anywhere(config)
    }
}

/// The forwards of a configuration, and what was opened for them.
#[derive(Debug, Default)]
pub(crate) struct StagedForwards {
    pub(crate) all: Vec<Numbered>,
    opened: BTreeMap<Place, OwnedFd>,
}

impl StagedForwards {
    /// The forwards to a network's machines, as its services know them.
    pub(crate) fn of(&self, network: &NetworkName) -> Vec<Forward> {
        let here = self.all.iter().filter(|forward| forward.network == *network);
        here.map(|Numbered { config, id, .. }| Forward {
            id: *id,
            mac: config.mac,
            ip: config.ip,
            port: config.to.port,
        })
        .collect()
    }
}

impl Worker {
    /// Numbers all forwards: one that stays as it is keeps its number, and with it its clients.
    pub(crate) fn number_forwards(&mut self, config: &DataplaneConfig) -> StagedForwards {
        // No two listen at one place.
        let known: BTreeMap<_, _> = self.forwards.iter().map(|known| (known.config.listen, known)).collect();
        let mut next = self.next_forward;
        let mut all = Vec::new();
        for (network, config) in config.networks.iter().flat_map(each) {
            let known = known.get(&config.listen).filter(|known| known.is_same(network, config));
            let id = known.map(|known| known.id).unwrap_or_else(|| {
                next += 1;
                ForwardId(next)
            });
            all.push(Numbered { network: network.clone(), config: config.clone(), id });
        }
        self.next_forward = next;
        StagedForwards { all, opened: BTreeMap::new() }
    }

    /// Listens at the places that are new. One that meets a place which only this configuration gives up has to wait
    /// until that is done.
    pub(crate) fn open_forwards(&self, staged: &mut StagedForwards) -> Problems {
        let mut problems = Problems::default();
        let places = |forwards: &[Numbered]| -> BTreeSet<Place> {
            forwards.iter().flat_map(Numbered::entrances).map(|entrance| entrance.place).collect()
        };
        let leaving = &places(&self.forwards) - &places(&staged.all);
        for forward in &staged.all {
            for Entrance { place, .. } in forward.entrances() {
                if self.host.listens_at(&place) || leaving.iter().any(|left| meet(left, &place)) {
                    continue;
                }
                match open_listener(place) {
                    Ok(listener) => drop(staged.opened.insert(place, listener)),
                    // Lost to another program while this process was away: that is told, and is in nobody's way.
                    Err(_) if self.host.listen_error(&place).is_some() => {}
                    Err(error) => {
                        let why = why_not_listening(place.0, place.1, &error);
                        let (to, at) = (&forward.config.to, &forward.config.provenance);
                        problems.push(format!("the forward to {to} ({at}): {}", why.message), why.hint);
                        break; // the others would only repeat it
                    }
                }
            }
        }
        problems
    }

    /// Lets clients in as configured.
    pub(crate) fn commit_forwards(&mut self, staged: StagedForwards) {
        let entrances: Vec<_> = staged.all.iter().flat_map(Numbered::entrances).collect();
        self.host.listen(&entrances, staged.opened);
        self.forwards = staged.all;
    }

    /// The state of every forward.
    pub(crate) fn forward_status(&self) -> Vec<ForwardStatus> {
        let nat = self.delivery.services.nat();
        let status = |forward: &Numbered| {
            let broken = forward.entrances().find_map(|Entrance { place, .. }| {
                let error = self.host.listen_error(&place)?;
                Some(why_not_listening(place.0, place.1, error))
            });
            let (clients, served) = nat.clients(forward.id);
            let reason = broken.map(|why| format!("{}; {}", why.message, why.hint));
            ForwardStatus { listen: forward.config.listen, reason, clients, served }
        };
        self.forwards.iter().map(status).collect()
    }
}

/// The forwards of a network.
fn each(network: &NetworkConfig) -> impl Iterator<Item = (&NetworkName, &ForwardConfig)> {
    network.forwards.iter().map(move |forward| (&network.name, forward))
}

/// Whether nobody can listen at the one while somebody does at the other.
fn meet((a_transport, a): &Place, (b_transport, b): &Place) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a_transport == b_transport && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && same_ip
}
