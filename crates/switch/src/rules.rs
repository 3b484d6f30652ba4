//! An access list, compiled: the first rule that fits is found in time that hardly depends on how many there are.
//!
//! For each field of a packet there is a table that says which rules its value fits: those that do not care, a bit
//! each, and the few that do, as words of such bits. The rule is the first bit that is set in all fields (the
//! bit-vector scheme of Lakshman and Stiliadis, 1998).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::PortId;
use weft_wire::Protocol;

use crate::{Acl, Endpoint, Permission, Rule, Traffic};

/// A connection's beginning, as rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) from: PortId,
    pub(crate) to: PortId,
    /// The sender and the receiver of an IP packet.
    pub(crate) addresses: Option<(IpAddr, IpAddr)>,
    pub(crate) protocol: u8,
    /// The initiator's port, and the other's or the ICMP type and code; `None` in a later fragment.
    pub(crate) ports: Option<(u16, u16)>,
}

/// Rules by number: words of 64, those without a bit left out.
type Words = Vec<(u16, u64)>;

/// A field's table: who does not care, and by value who does.
#[derive(Debug, Default)]
struct Field<T> {
    indifferent: Vec<u64>,
    by_value: T,
}

/// Rules by ranges of numbers: where each range starts.
type Ranges = Vec<(u128, Words)>;

/// The compiled list.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) acl: Arc<Acl>,
    from: Field<HashMap<PortId, Words, FixedState>>,
    to: Field<HashMap<PortId, Words, FixedState>>,
    /// IPv4, IPv6.
    src: Field<[Ranges; 2]>,
    dst: Field<[Ranges; 2]>,
    src_port: Field<Ranges>,
    /// By protocol.
    traffic: Field<HashMap<u8, Ranges, FixedState>>,
    /// For later fragments, whose ports nobody sees: the rules that do not look at them, and those that allow.
    later: HashMap<u8, Words, FixedState>,
    later_src_port: Vec<u64>,
    /// The names of the rules, for logs.
    names: Vec<Arc<str>>,
}

impl Rules {
    /// Compiles a list.
    pub(crate) fn new(acl: Arc<Acl>) -> Self {
        let rules = &acl.rules;
        let numbered = || (0u32..).zip(rules);
        let bits = |fits: &dyn Fn(&Rule) -> bool| {
            let mut words = vec![0; rules.len().div_ceil(64)];
            numbered().filter(|(_, rule)| fits(rule)).for_each(|(number, _)| set(&mut words, number));
            words
        };
        let ports = |end: fn(&Rule) -> &Endpoint| {
            let mut by_value: HashMap<PortId, BTreeSet<u32>, FixedState> = HashMap::default();
            for (number, rule) in numbered() {
                if let Endpoint::Ports(ports) = end(rule) {
                    for port in ports {
                        by_value.entry(*port).or_default().insert(number);
                    }
                }
            }
            let by_value = by_value.into_iter().map(|(port, numbers)| (port, words(&numbers))).collect();
            Field { indifferent: bits(&|rule| !matches!(end(rule), Endpoint::Ports(_))), by_value }
        };
        let prefixes = |end: fn(&Rule) -> &Endpoint| {
            let of = |is_v6: bool| {
                ranges(numbered().filter_map(|(number, rule)| match end(rule) {
                    Endpoint::Prefix(prefix) if prefix.addr().is_ipv6() == is_v6 => {
                        Some((number, bits_of(prefix.network()), bits_of(prefix.broadcast())))
                    }
                    _ => None,
                }))
            };
            let indifferent = bits(&|rule| !matches!(end(rule), Endpoint::Prefix(_)));
            Field { indifferent, by_value: [of(false), of(true)] }
        };
        let protocols: BTreeSet<u8> = rules.iter().filter_map(|rule| protocol(&rule.traffic)).collect();
        let of_protocol = |wanted: u8| numbered().filter(move |(_, rule)| protocol(&rule.traffic) == Some(wanted));
        let by_protocol = |wanted: u8| {
            ranges(of_protocol(wanted).map(|(number, rule)| {
                let (first, last) = match &rule.traffic {
                    Traffic::Ports { dst, .. } => (*dst.start(), *dst.end()),
                    Traffic::Icmp { kind, .. } => (u16::from(*kind) << 8, u16::from(*kind) << 8 | 0xff),
                    Traffic::Any | Traffic::Protocol(_) => (0, u16::MAX),
                };
                (number, first.into(), last.into())
            }))
        };
        let fits_later = |rule: &Rule| {
            matches!(rule.traffic, Traffic::Any | Traffic::Protocol(_)) || rule.permission == Permission::Allow
        };
        let later = |wanted: u8| {
            let fitting = of_protocol(wanted).filter(|(_, rule)| fits_later(rule)).map(|(number, _)| number);
            words(&fitting.collect())
        };
        Self {
            from: ports(|rule| &rule.from),
            to: ports(|rule| &rule.to),
            src: prefixes(|rule| &rule.from),
            dst: prefixes(|rule| &rule.to),
            src_port: Field {
                indifferent: bits(&|rule| !matches!(rule.traffic, Traffic::Ports { .. })),
                by_value: ranges(numbered().filter_map(|(number, rule)| match &rule.traffic {
                    Traffic::Ports { src, .. } => Some((number, (*src.start()).into(), (*src.end()).into())),
                    _ => None,
                })),
            },
            traffic: Field {
                indifferent: bits(&|rule| rule.traffic == Traffic::Any),
                by_value: protocols.iter().map(|protocol| (*protocol, by_protocol(*protocol))).collect(),
            },
            later: protocols.iter().map(|protocol| (*protocol, later(*protocol))).collect(),
            later_src_port: bits(&fits_later),
            names: rules.iter().map(|rule| rule.name.as_str().into()).collect(),
            acl,
        }
    }

    /// The first rule that fits.
    pub(crate) fn first(&self, query: &Query) -> Option<usize> {
        let none: &[(u16, u64)] = &[];
        let (src, dst) = query.addresses.map_or((none, none), |(src, dst)| {
            let family = usize::from(src.is_ipv6());
            (find(&self.src.by_value[family], bits_of(src)), find(&self.dst.by_value[family], bits_of(dst)))
        });
        let (src_port, traffic) = match (query.addresses, query.ports) {
            (None, _) => (none, none),
            (Some(_), Some((src_port, what))) => {
                let traffic = self.traffic.by_value.get(&query.protocol);
                let traffic = traffic.map_or(none, |ranges| find(ranges, what.into()));
                (find(&self.src_port.by_value, src_port.into()), traffic)
            }
            (Some(_), None) => (none, self.later.get(&query.protocol).map_or(none, Vec::as_slice)),
        };
        let is_later = query.addresses.is_some() && query.ports.is_none();
        let any_src_port = if is_later { &self.later_src_port } else { &self.src_port.indifferent };
        let from = self.from.by_value.get(&query.from).map_or(none, Vec::as_slice);
        let to = self.to.by_value.get(&query.to).map_or(none, Vec::as_slice);
        let mut fields = [
            (&self.from.indifferent, from),
            (&self.to.indifferent, to),
            (&self.src.indifferent, src),
            (&self.dst.indifferent, dst),
            (any_src_port, src_port),
            (&self.traffic.indifferent, traffic),
        ];
        for word in 0..self.from.indifferent.len() {
            let mut fitting = u64::MAX;
            for (indifferent, special) in &mut fields {
                let mut bits = indifferent[word];
                if let [(at, more), rest @ ..] = *special
                    && usize::from(*at) == word
                {
                    bits |= more;
                    *special = rest;
                }
                fitting &= bits;
            }
            if fitting != 0 {
                return Some(word * 64 + fitting.trailing_zeros() as usize);
            }
        }
        None
    }

    /// The name of a rule.
    pub(crate) fn name(&self, rule: usize) -> Option<&Arc<str>> {
        self.names.get(rule)
    }

    /// The name of a rule whose decisions are logged.
    pub(crate) fn logged(&self, rule: usize) -> Option<&Arc<str>> {
        self.name(rule).filter(|_| self.acl.rules[rule].log)
    }

    /// What the list says, and which rule of it.
    pub(crate) fn permission(&self, query: &Query) -> (Permission, Option<usize>) {
        let rule = self.first(query);
        (rule.map_or(self.acl.default, |rule| self.acl.rules[rule].permission), rule)
    }
}

/// The protocol of a rule, if it names one.
fn protocol(traffic: &Traffic) -> Option<u8> {
    match traffic {
        Traffic::Any => None,
        Traffic::Protocol(Protocol(number))
        | Traffic::Ports { protocol: Protocol(number), .. }
        | Traffic::Icmp { protocol: Protocol(number), .. } => Some(*number),
    }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn set(words: &mut [u64], number: u32) {
    words[number as usize / 64] |= 1 << (number % 64);
}

fn words(numbers: &BTreeSet<u32>) -> Words {
    let mut words = Words::new();
    for number in numbers {
        let (word, bit) = ((number / 64) as u16, 1 << (number % 64));
        match words.last_mut() {
            Some((last, bits)) if *last == word => *bits |= bit,
            _ => words.push((word, bit)),
        }
    }
    words
}

/// Cuts the numbers where a rule's range starts or ends; each piece knows its rules.
fn ranges(rules: impl Iterator<Item = (u32, u128, u128)>) -> Ranges {
    let mut edges = Vec::new();
    for (number, first, last) in rules {
        edges.push((first, true, number));
        edges.extend(last.checked_add(1).map(|behind| (behind, false, number)));
    }
    edges.sort_unstable();
    let mut active = BTreeSet::new();
    let mut ranges = Ranges::new();
    for edges in edges.chunk_by(|a, b| a.0 == b.0) {
        for (_, starts, number) in edges {
            if *starts {
                active.insert(*number)
            } else {
                active.remove(number)
            };
        }
        ranges.push((edges[0].0, words(&active)));
    }
    ranges
}

/// The rules whose ranges hold `value`.
fn find(ranges: &Ranges, value: u128) -> &[(u16, u64)] {
    let behind = ranges.partition_point(|(start, _)| *start <= value);
    behind.checked_sub(1).map_or(&[], |at| &ranges[at].1)
}
