//! A configuration, compiled for looking up, with what vNICs registered on top.

mod change;
mod content;
mod registration;

use std::collections::BTreeSet;
use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use weft_types::{MacAddr, MacRange, PortId, PortName};

pub(crate) use self::change::Newcomer;
use crate::config::MAX_MIRRORS;
use crate::filter::Granted;
use crate::pipeline::Fields;
use crate::rules::Rules;
use crate::{Endpoint, Mirror, MirrorTarget, PortConfig, Segment, VSwitchConfig, VSwitchId, pipeline};

/// A port's place in [`Tables::ports`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortIndex(u32);

/// A vSwitch's place in [`Tables::vswitches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VSwitchIndex(u32);

impl VSwitchIndex {
    pub(crate) fn number(self) -> usize {
        self.0 as usize
    }
}

/// A port, and what every decision needs to know about it.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) config: PortConfig,
    pub(crate) vswitch: VSwitchIndex,
    /// The fields of its frames on which a decision can rest.
    pub(crate) fields: Fields,
    /// What its vNIC said, where it can be known.
    pub(crate) filter: Option<Granted>,
    /// Whether its link is up; of uplinks only.
    pub(crate) is_up: bool,
}

impl Port {
    /// Whether it hears unicast frames for others.
    pub(crate) fn is_promiscuous(&self) -> bool {
        self.config.policy.promiscuous && self.filter.as_ref().is_none_or(|filter| filter.promiscuous)
    }

    /// The groups that it listens to; `None` is all, which is also what is not known.
    fn groups(&self) -> Option<&[MacAddr]> {
        let filter = self.filter.as_ref()?;
        if self.is_promiscuous() { None } else { filter.groups.as_deref() }
    }

    /// Whether its vNIC listens to `mac`, which is in the tables for it; what is not known, it does.
    fn listens(&self, mac: MacAddr) -> bool {
        let is_in_range = || self.config.mac_ranges.iter().any(|range| range.contains(mac));
        self.filter.as_ref().is_none_or(|filter| filter.stations.binary_search(&mac).is_ok() || is_in_range())
    }

    /// The addresses that its vNIC registered besides the configured ones.
    fn extras(&self) -> impl Iterator<Item = MacAddr> {
        let stations = self.filter.iter().flat_map(|filter| filter.stations.iter().copied());
        stations.filter(|mac| !self.is_configured(*mac))
    }

    /// Whether `mac` was configured for it, alone or in a range.
    pub(crate) fn is_configured(&self, mac: MacAddr) -> bool {
        self.config.macs.contains(&mac) || self.config.mac_ranges.iter().any(|range| range.contains(mac))
    }

    pub(crate) fn carries(&self, segment: Segment) -> bool {
        self.config.vlans.carries(segment)
    }
}

/// A vSwitch, and what every decision needs to know about it.
#[derive(Debug)]
pub(crate) struct VSwitch {
    pub(crate) config: VSwitchConfig,
    /// The preferred one first.
    pub(crate) uplinks: Vec<PortIndex>,
    /// The ports that hear unicast frames for others.
    pub(crate) promiscuous: Vec<PortIndex>,
    /// Its access list.
    pub(crate) rules: Option<Rules>,
    /// Its mirrors, the ports of each in order: those of its configuration, and others.
    mirrors: Vec<Mirror>,
    /// Its trunk ports.
    trunks: Members,
    /// How many IP addresses were configured for its ports.
    fixed_hosts: usize,
    /// How many of its ports are [ends](PortConfig::is_end).
    ends: usize,
    /// In order; they do not overlap.
    ranges: Vec<(MacRange, PortIndex)>,
}

impl VSwitch {
    /// One without ports.
    fn new(config: &VSwitchConfig) -> Self {
        let VSwitchConfig { acl, mirrors, .. } = config;
        let config = VSwitchConfig { acl: None, mirrors: Vec::new(), ..config.clone() };
        let mut vswitch = Self {
            config,
            uplinks: Vec::new(),
            promiscuous: Vec::new(),
            rules: acl.clone().map(Rules::new),
            mirrors: Vec::new(),
            trunks: Members::default(),
            fixed_hosts: 0,
            ends: 0,
            ranges: Vec::new(),
        };
        vswitch.set_mirrors(mirrors.clone());
        vswitch
    }

    /// Whether IP addresses were configured for any of its ports.
    pub(crate) fn has_fixed(&self) -> bool {
        self.fixed_hosts > 0
    }

    /// Whether it is asked about frames to whom their packets are: by an access list, or by an adapter of the host.
    fn asks_whom(&self) -> bool {
        self.rules.is_some() || self.ends > 0
    }

    /// Its mirrors.
    pub(crate) fn mirrors(&self) -> &[Mirror] {
        &self.mirrors
    }

    fn set_mirrors(&mut self, mut mirrors: Vec<Mirror>) {
        mirrors.truncate(MAX_MIRRORS);
        mirrors.iter_mut().for_each(|mirror| mirror.ports.sort_unstable());
        self.mirrors = mirrors;
    }

    /// What decisions about the frames of `port` rest on; `learns` says whether any port learns addresses.
    fn consulted(&self, port: &PortConfig, learns: bool) -> Fields {
        let of_team = pipeline::team::consulted(self.config.team.as_ref().map(|team| team.mode));
        pipeline::consulted(port, learns, self.has_fixed(), self.asks_whom())
            .and(pipeline::mirror::consulted(&self.mirrors))
            .and(of_team)
    }
}

/// The ports that hear the groups of a segment.
#[derive(Debug, Default)]
struct Members {
    /// All of them: they hear broadcasts.
    all: Vec<PortIndex>,
    /// Those that listen to every group.
    multicast: Vec<PortIndex>,
}

impl Members {
    fn of(&self, is_broadcast: bool) -> &[PortIndex] {
        if is_broadcast { &self.all } else { &self.multicast }
    }
}

/// How many ports there are of a kind that matters to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Census {
    /// That learn IP addresses.
    learning: usize,
    /// That drop what is too fast.
    policing: usize,
}

/// What a station at an access port, or anywhere on the trunks of a vSwitch, is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place(u64, u32);

/// Stands for the segments of trunks, which have many.
const TRUNK: u16 = u16::MAX;

impl Place {
    fn new(vswitch: VSwitchIndex, segment: u16, mac: MacAddr) -> Self {
        let [a, b, c, d, e, f] = mac.octets();
        let [g, h] = segment.to_be_bytes();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]), vswitch.0)
    }
}

fn number(segment: Segment) -> u16 {
    match segment {
        Segment::Untagged => 0,
        Segment::Vlan(vlan) => vlan.into(),
    }
}

/// All ports and vSwitches, and who owns which MAC address.
#[derive(Debug)]
pub(crate) struct Tables {
    ports: Vec<Port>,
    vswitches: Vec<VSwitch>,
    indices: HashMap<PortId, PortIndex, FixedState>,
    /// Law 1: made of registrations, here and nowhere else.
    stations: HashMap<Place, PortIndex, FixedState>,
    /// Those of trunk ports: as many as have no VLAN in common.
    trunk_stations: HashMap<Place, Vec<PortIndex>, FixedState>,
    /// The access ports of each segment.
    access: HashMap<(VSwitchIndex, Segment), Members, FixedState>,
    /// The ports that listen to a group, and not to all.
    joined: HashMap<(VSwitchIndex, MacAddr), Vec<PortIndex>, FixedState>,
    /// The ports for which an IP address was configured.
    fixed: HashMap<(VSwitchIndex, IpAddr), Vec<PortIndex>, FixedState>,
    /// The ports by name.
    names: HashMap<PortName, PortId, FixedState>,
    /// The ports that teams, access lists and mirrors of the configuration name.
    named: HashSet<PortId, FixedState>,
    /// The ports whose vNIC registered addresses that are not configured for them.
    registrants: BTreeSet<PortId>,
    census: Census,
}

impl Tables {
    /// The tables of these vSwitches, to which ports come later; `seed` keys them.
    pub(crate) fn new(vswitches: &[VSwitchConfig], seed: u64) -> Self {
        let seeded = || FixedState::with_seed(seed);
        Self {
            ports: Vec::new(),
            vswitches: vswitches.iter().map(VSwitch::new).collect(),
            indices: HashMap::with_hasher(seeded()),
            stations: HashMap::with_hasher(seeded()),
            trunk_stations: HashMap::with_hasher(seeded()),
            access: HashMap::with_hasher(seeded()),
            joined: HashMap::with_hasher(seeded()),
            fixed: HashMap::with_hasher(seeded()),
            names: HashMap::with_hasher(seeded()),
            named: vswitches.iter().flat_map(named_ports).collect(),
            registrants: BTreeSet::new(),
            census: Census::default(),
        }
    }

    /// Gives a vSwitch these mirrors, as many as there may be.
    pub(crate) fn set_mirrors(&mut self, index: VSwitchIndex, mirrors: Vec<Mirror>) {
        let vswitch = &mut self.vswitches[index.number()];
        vswitch.set_mirrors(mirrors);
        for port in self.ports.iter_mut().filter(|port| port.vswitch == index) {
            port.fields = vswitch.consulted(&port.config, self.census.learning > 0);
        }
    }

    /// Notes whether a port's link is up; whether it was not so before.
    pub(crate) fn set_link(&mut self, index: PortIndex, is_up: bool) -> bool {
        std::mem::replace(&mut self.ports[index.0 as usize].is_up, is_up) != is_up
    }

    /// The port with this number.
    #[inline]
    pub(crate) fn index(&self, id: PortId) -> Option<PortIndex> {
        self.indices.get(&id).copied()
    }

    /// The port with this number, which is most likely at `guess`.
    #[inline]
    pub(crate) fn index_near(&self, id: PortId, guess: PortIndex) -> Option<PortIndex> {
        let is_there = self.ports.get(guess.0 as usize).is_some_and(|port| port.config.id == id);
        if is_there { Some(guess) } else { self.index(id) }
    }

    /// A port.
    #[inline]
    pub(crate) fn port(&self, index: PortIndex) -> &Port {
        &self.ports[index.0 as usize]
    }

    /// The port with this name.
    pub(crate) fn port_named(&self, name: &PortName) -> Option<PortId> {
        self.names.get(name).copied()
    }

    /// Whether a team, an access list or a mirror of the configuration names a port.
    pub(crate) fn names_port(&self, id: PortId) -> bool {
        self.named.contains(&id)
    }

    /// How many vSwitches there are.
    pub(crate) fn vswitches(&self) -> usize {
        self.vswitches.len()
    }

    /// Each vSwitch's access list.
    pub(crate) fn rules(&self) -> impl Iterator<Item = Option<&Rules>> {
        self.vswitches.iter().map(|vswitch| vswitch.rules.as_ref())
    }

    /// The place of the vSwitch with this number.
    pub(crate) fn number(&self, id: VSwitchId) -> Option<usize> {
        self.place(id).map(VSwitchIndex::number)
    }

    /// The same.
    pub(crate) fn place(&self, id: VSwitchId) -> Option<VSwitchIndex> {
        (0..)
            .map(VSwitchIndex)
            .zip(&self.vswitches)
            .find(|(_, vswitch)| vswitch.config.id == id)
            .map(|(place, _)| place)
    }

    /// A vSwitch.
    #[inline]
    pub(crate) fn vswitch(&self, index: VSwitchIndex) -> &VSwitch {
        &self.vswitches[index.0 as usize]
    }

    /// The most ports by which one frame can leave.
    pub(crate) fn most_receivers(&self) -> usize {
        self.ports.len()
    }

    /// The port for which `mac` is registered in `segment`, if it listens to it.
    pub(crate) fn owner(&self, vswitch: VSwitchIndex, segment: Segment, mac: MacAddr) -> Option<PortIndex> {
        let listens = |owner: &PortIndex| self.port(*owner).listens(mac);
        if let Some(owner) = self.stations.get(&Place::new(vswitch, number(segment), mac)) {
            return Some(*owner).filter(listens);
        }
        let carries = |owner: &PortIndex| self.port(*owner).carries(segment);
        let trunks = self.trunk_stations.get(&Place::new(vswitch, TRUNK, mac));
        let trunk = trunks.and_then(|owners| owners.iter().copied().find(carries));
        trunk.or_else(|| self.range_owner(vswitch, mac).filter(carries)).filter(listens)
    }

    /// Whether `address` was configured for another port of `segment` than `index`.
    pub(crate) fn is_fixed(&self, vswitch: VSwitchIndex, segment: Segment, address: IpAddr, index: PortIndex) -> bool {
        let owners = self.fixed.get(&(vswitch, address)).into_iter().flatten();
        owners.into_iter().any(|owner| *owner != index && self.port(*owner).carries(segment))
    }

    /// Whether any port learns addresses.
    pub(crate) fn learns_addresses(&self) -> bool {
        self.census.learning > 0
    }

    /// Whether any port drops what is too fast.
    pub(crate) fn polices(&self) -> bool {
        self.census.policing > 0
    }

    /// The ports that hear frames for the group `dst` in `segment`, each once.
    pub(crate) fn audience(
        &self,
        vswitch: VSwitchIndex,
        segment: Segment,
        dst: MacAddr,
    ) -> impl Iterator<Item = PortIndex> {
        let is_broadcast = dst.is_broadcast();
        let carries = move |index: &PortIndex| self.port(*index).carries(segment);
        let access = self.access.get(&(vswitch, segment)).map_or(&[][..], |members| members.of(is_broadcast));
        let trunks = self.vswitch(vswitch).trunks.of(is_broadcast);
        // Whoever is a member hears broadcasts already.
        let joined = if is_broadcast { None } else { self.joined.get(&(vswitch, dst)) };
        let others = trunks.iter().chain(joined.into_iter().flatten()).copied().filter(carries);
        access.iter().copied().chain(others)
    }

    /// The promiscuous ports that hear a unicast frame of `segment`.
    pub(crate) fn listeners(&self, vswitch: VSwitchIndex, segment: Segment) -> impl Iterator<Item = PortIndex> {
        let carries = move |index: &PortIndex| self.port(*index).carries(segment);
        self.vswitch(vswitch).promiscuous.iter().copied().filter(carries)
    }
}

/// The ports that a vSwitch's team, access list and mirrors name.
fn named_ports(vswitch: &VSwitchConfig) -> impl Iterator<Item = PortId> {
    let team = vswitch.team.iter().flat_map(|team| team.members.iter().copied());
    let rules = vswitch.acl.iter().flat_map(|acl| &acl.rules).flat_map(|rule| [&rule.from, &rule.to]);
    let in_rules = rules.filter_map(|end| match end {
        Endpoint::Ports(ports) => Some(ports),
        Endpoint::Any | Endpoint::Prefix(_) => None,
    });
    let mirrors = vswitch.mirrors.iter().flat_map(|mirror| {
        let target = match mirror.to {
            MirrorTarget::Port(port) => Some(port),
            MirrorTarget::Outside => None,
        };
        mirror.ports.iter().copied().chain(target)
    });
    team.chain(in_rules.flatten().copied()).chain(mirrors)
}
