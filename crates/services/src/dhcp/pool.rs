//! Which addresses may be given out, and to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use weft_types::{ClientKey, Ipv4Net, Ipv4Run, MacAddr};

use super::Request;
use crate::{DhcpServer, NetworkServices};

/// A client, as the pool knows it. A lease belongs to the adapter; the identifier counts where an address is kept for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    pub(crate) mac: MacAddr,
    pub(crate) id: &'a [u8],
}

impl<'a> From<&'a Request> for Client<'a> {
    fn from(request: &'a Request) -> Self {
        Self { mac: request.mac, id: &request.client_id }
    }
}

/// The addresses of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    first: u32,
    last: u32,
    /// Addresses inside of the pool that are somebody's for good.
    taken: BTreeSet<Ipv4Addr>,
    /// Addresses inside of the pool that nobody gets.
    excluded: Vec<Ipv4Run>,
    by_mac: BTreeMap<MacAddr, Ipv4Addr>,
    by_id: BTreeMap<Vec<u8>, Ipv4Addr>,
}

impl Pool {
    pub(crate) fn new(network: &NetworkServices, dhcp: &DhcpServer) -> Self {
        let usable = |ip: &Ipv4Addr| is_station(network.subnet, *ip) && *ip != network.ip;
        let mut by_mac = BTreeMap::new();
        let mut by_id = BTreeMap::new();
        for (client, ip) in dhcp.kept.iter().filter(|kept| usable(kept.1)) {
            match client {
                ClientKey::Mac(mac) => drop(by_mac.insert(*mac, *ip)),
                ClientKey::Id(id) => drop(by_id.insert(id.clone(), *ip)),
            }
        }
        // A machine of ours is told the same here as everywhere else.
        by_mac.extend(dhcp.reservations.iter().filter_map(|kept| Some((kept.mac, kept.ip.filter(usable)?))));
        let kept = by_mac.values().chain(by_id.values()).copied();
        let taken = network.records.iter().map(|(_, ip)| *ip).chain(kept).chain([network.ip]).collect();
        let (low, high) = (network.subnet.network().to_bits(), network.subnet.broadcast().to_bits());
        Self {
            first: dhcp.first.to_bits().max(low.saturating_add(1)),
            last: dhcp.last.to_bits().min(high.saturating_sub(1)),
            taken,
            excluded: dhcp.excluded.clone(),
            by_mac,
            by_id,
        }
    }

    /// The address that is kept for `client`.
    pub(super) fn kept_for(&self, client: Client<'_>) -> Option<Ipv4Addr> {
        self.by_mac.get(&client.mac).or_else(|| self.by_id.get(client.id)).copied()
    }

    /// Whether `client` may ever hold `ip`.
    pub(super) fn permits(&self, client: Client<'_>, ip: Ipv4Addr) -> bool {
        self.kept_for(client).map_or_else(|| self.is_common(ip), |kept| kept == ip)
    }

    /// Whether the adapter `mac`, whose identifier nobody remembers, may hold `ip`.
    pub(super) fn permits_adapter(&self, mac: MacAddr, ip: Ipv4Addr) -> bool {
        self.permits(Client { mac, id: &[] }, ip)
            || (!self.by_mac.contains_key(&mac) && self.by_id.values().any(|kept| *kept == ip))
    }

    /// Whether `ip` is for clients for which nothing is kept.
    pub(super) fn is_common(&self, ip: Ipv4Addr) -> bool {
        let bits = ip.to_bits();
        (self.first..=self.last).contains(&bits)
            && !self.taken.contains(&ip)
            && !self.excluded.iter().any(|run| run.contains(ip))
    }

    /// All common addresses, as runs from their first address to their last.
    pub(super) fn common(&self) -> Vec<(u32, u32)> {
        let mut holes: Vec<_> = self.taken.iter().map(|ip| (ip.to_bits(), ip.to_bits())).collect();
        holes.extend(self.excluded.iter().map(|run| (run.first().to_bits(), run.last().to_bits())));
        holes.sort_unstable();
        let mut runs = Vec::new();
        let mut next = u64::from(self.first); // one more than an address can be, at the end
        let end = u64::from(self.last) + 1;
        for (first, last) in holes {
            let (first, behind) = (u64::from(first).min(end), u64::from(last) + 1);
            if next < first {
                runs.push((next as u32, (first - 1) as u32));
            }
            next = next.max(behind);
        }
        if next < end {
            runs.push((next as u32, self.last));
        }
        runs
    }

    /// Where the search for an address for `mac` begins: the same adapter finds the same address on every host, and
    /// after every loss of the leases.
    pub(super) fn preferred(&self, mac: MacAddr) -> u32 {
        let size = (u64::from(self.last) + 1).saturating_sub(self.first.into());
        // Below `size`, which is at most 2^32.
        self.first.wrapping_add(stable_hash(mac).checked_rem(size).unwrap_or(0) as u32)
    }
}

/// Whether a station may have `ip`: inside of `subnet`, and neither its first address nor its last.
pub(crate) fn is_station(subnet: Ipv4Net, ip: Ipv4Addr) -> bool {
    subnet.contains(&ip) && ip != subnet.network() && ip != subnet.broadcast()
}

/// FNV-1a.
fn stable_hash(mac: MacAddr) -> u64 {
    let hash = mac
        .octets()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &octet| (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3));
    hash ^ (hash >> 32)
}

/// Addresses of which nothing is known, as runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(BTreeMap<u32, u32>);

impl Runs {
    /// The runs `runs`, which neither meet nor touch.
    pub(super) fn new(runs: Vec<(u32, u32)>) -> Self {
        Self(runs.into_iter().collect())
    }

    /// The first one from `start` on, or else the first of all.
    pub(super) fn first_from(&self, start: u32) -> Option<Ipv4Addr> {
        let around = self.0.range(..=start).next_back().filter(|(_, last)| **last >= start).map(|_| start);
        let behind = || self.0.range(start..).next().or_else(|| self.0.iter().next()).map(|(first, _)| *first);
        around.or_else(behind).map(Ipv4Addr::from)
    }

    /// Takes `ip` out, if it is there.
    pub(super) fn remove(&mut self, ip: Ipv4Addr) {
        let bits = ip.to_bits();
        let around = self.0.range(..=bits).next_back().map(|(first, last)| (*first, *last));
        let Some((first, last)) = around.filter(|(_, last)| *last >= bits) else { return };
        self.0.remove(&first);
        if first < bits {
            self.0.insert(first, bits - 1);
        }
        if bits < last {
            self.0.insert(bits + 1, last);
        }
    }

    /// Puts `ip` back, which is not there.
    pub(super) fn insert(&mut self, ip: Ipv4Addr) {
        let bits = ip.to_bits();
        let before = self.0.range(..=bits).next_back().map(|(first, last)| (*first, *last));
        let first = before.filter(|(_, last)| last.checked_add(1) == Some(bits)).map_or(bits, |(first, _)| first);
        let behind = bits.checked_add(1).and_then(|next| self.0.remove(&next));
        self.0.insert(first, behind.unwrap_or(bits));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Runs are a set that knows its next member.
        #[test]
        fn runs_are_a_set(steps in vec((any::<bool>(), 0..40u32), 0..80), start in 0..40u32) {
            let mut runs = Runs::new(vec![(0, 9), (20, 29)]);
            let mut set: BTreeSet<u32> = (0..10).chain(20..30).collect();
            for (put, bits) in steps {
                if put && set.insert(bits) {
                    runs.insert(bits.into());
                } else if !put {
                    set.remove(&bits);
                    runs.remove(bits.into());
                }
            }
            let expected = set.range(start..).next().or_else(|| set.first()).copied().map(Ipv4Addr::from);
            prop_assert_eq!(runs.first_from(start), expected);
            let members: Vec<u32> = runs.0.iter().flat_map(|(first, last)| *first..=*last).collect();
            prop_assert_eq!(members, set.into_iter().collect::<Vec<_>>());
            let ends: Vec<_> = runs.0.iter().map(|(first, last)| (*first, *last)).collect();
            prop_assert!(ends.windows(2).all(|two| two[0].1 + 1 < two[1].0), "{:?} touch", ends);
        }
    }

    #[test]
    fn the_whole_address_space() {
        let mut runs = Runs::new(vec![(0, u32::MAX)]);
        for ip in [Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED] {
            runs.remove(ip);
            assert_ne!(runs.first_from(ip.to_bits()), Some(ip));
            runs.insert(ip);
            assert_eq!(runs, Runs::new(vec![(0, u32::MAX)]));
        }
    }
}
