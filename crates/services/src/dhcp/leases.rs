//! Who holds which address of one network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use weft_types::{Ipv4Net, MacAddr};

use super::record::LeaseState;
use crate::{DhcpServer, NetworkServices};

/// How long an offered address waits for the client's request.
const OFFER_S: u64 = 60;
/// How long an address that somebody else was found to use stays out of the pool.
const QUARANTINE_S: u64 = 600;
/// The same for a reserved address: its adapter can have no other, so it is tried again soon.
const RESERVED_QUARANTINE_S: u64 = 30;
/// Addresses that one adapter can get quarantined, so that it cannot empty the pool.
const MAX_DECLINED_PER_ADAPTER: usize = 4;
/// Addresses remembered per network; a larger pool counts as exhausted beyond that.
const MAX_ENTRIES: usize = 1 << 14;

/// Which addresses may be given out, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    first: u32,
    last: u32,
    /// Addresses inside the pool that are somebody's for good.
    taken: BTreeSet<Ipv4Addr>,
    reserved: BTreeMap<MacAddr, Ipv4Addr>,
}

impl Pool {
    pub(crate) fn new(network: &NetworkServices, dhcp: &DhcpServer) -> Self {
        let usable = |ip: &Ipv4Addr| is_station(network.subnet, *ip) && *ip != network.ip;
        let reserved: BTreeMap<_, _> =
            dhcp.reservations.iter().filter_map(|r| Some((r.mac, r.ip.filter(usable)?))).collect();
        let taken = network.records.iter().map(|(_, ip)| *ip).chain(reserved.values().copied()).chain([network.ip]);
        let (low, high) = (network.subnet.network().to_bits(), network.subnet.broadcast().to_bits());
        Self {
            first: dhcp.first.to_bits().max(low.saturating_add(1)),
            last: dhcp.last.to_bits().min(high.saturating_sub(1)),
            taken: taken.collect(),
            reserved,
        }
    }

    /// Whether `mac` may ever hold `ip`.
    fn permits(&self, mac: MacAddr, ip: Ipv4Addr) -> bool {
        match self.reserved.get(&mac) {
            Some(reserved) => *reserved == ip,
            None => (self.first..=self.last).contains(&ip.to_bits()) && !self.taken.contains(&ip),
        }
    }

    /// Every address for clients without a reservation, from one on that `mac` alone decides.
    fn candidates(&self, mac: MacAddr) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let size = (u64::from(self.last) + 1).saturating_sub(self.first.into());
        let start = stable_hash(mac).checked_rem(size).unwrap_or(0);
        (0..size)
            .map(move |step| Ipv4Addr::from_bits(self.first + ((start + step) % size) as u32))
            .filter(|ip| !self.taken.contains(ip))
    }
}

/// Whether a station may have `ip`: inside of `subnet`, and neither its first address nor its last.
pub(crate) fn is_station(subnet: Ipv4Net, ip: Ipv4Addr) -> bool {
    subnet.contains(&ip) && ip != subnet.network() && ip != subnet.broadcast()
}

/// FNV-1a: the same adapter finds the same address on every host, and after every loss of the leases.
fn stable_hash(mac: MacAddr) -> u64 {
    let hash = mac
        .octets()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &octet| (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3));
    hash ^ (hash >> 32)
}

/// What an address is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Offered, and not requested yet.
    Offered,
    Recorded(LeaseState),
}

/// What is known of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mac: MacAddr,
    used: Use,
    /// Unix time at which that ends.
    until: u64,
    client_name: Option<String>,
}

impl Entry {
    fn is_held(&self, now: u64) -> bool {
        self.used == Use::Recorded(LeaseState::Held) && now < self.until
    }

    fn is_free(&self, now: u64) -> bool {
        self.used == Use::Recorded(LeaseState::Released) || self.until <= now
    }

    fn is_declined(&self, now: u64) -> bool {
        self.used == Use::Recorded(LeaseState::Declined) && now < self.until
    }
}

/// A lease as the table knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held<'a> {
    pub(crate) ip: Ipv4Addr,
    pub(crate) mac: MacAddr,
    pub(crate) until: u64,
    pub(crate) client_name: Option<&'a str>,
}

/// What happened to an address, for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) ip: Ipv4Addr,
    pub(crate) mac: MacAddr,
    pub(crate) state: LeaseState,
    pub(crate) until: u64,
    pub(crate) client_name: Option<String>,
}

/// The addresses of one network and who holds them.
///
/// An address has one entry, so it never has two holders; an adapter holds at most one address. Entries that
/// ended stay until somebody else needs the address: clients get back what they had.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    entries: BTreeMap<Ipv4Addr, Entry>,
    /// The address that an adapter holds or held last; its entry, if it still is the adapter's.
    by_mac: BTreeMap<MacAddr, Ipv4Addr>,
}

impl Leases {
    /// The address that `mac` holds.
    pub(crate) fn held_by(&self, mac: MacAddr, now: u64) -> Option<Ipv4Addr> {
        let ip = *self.by_mac.get(&mac)?;
        self.entries.get(&ip).filter(|entry| entry.is_held(now)).map(|_| ip)
    }

    /// The adapter that holds `ip`.
    pub(crate) fn holder(&self, ip: Ipv4Addr, now: u64) -> Option<MacAddr> {
        self.entries.get(&ip).filter(|entry| entry.is_held(now)).map(|entry| entry.mac)
    }

    /// Every lease that is held, by address.
    pub(crate) fn held(&self, now: u64) -> impl Iterator<Item = Held<'_>> {
        self.entries.iter().filter(move |(_, entry)| entry.is_held(now)).map(|(&ip, entry)| Held {
            ip,
            mac: entry.mac,
            until: entry.until,
            client_name: entry.client_name.as_deref(),
        })
    }

    /// Everything worth remembering beyond a restart.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.entries.iter().filter_map(|(&ip, entry)| match entry.used {
            Use::Offered => None,
            Use::Recorded(state) => Some(change(ip, entry, state)),
        })
    }

    /// Whether `mac` may have `ip` now.
    pub(crate) fn is_available(&self, pool: &Pool, mac: MacAddr, ip: Ipv4Addr, now: u64) -> bool {
        let free = match self.entries.get(&ip) {
            Some(entry) => entry.is_free(now) || (entry.mac == mac && !entry.is_declined(now)),
            None => self.entries.len() < MAX_ENTRIES || pool.reserved.contains_key(&mac),
        };
        free && pool.permits(mac, ip)
    }

    /// The address for `mac`: its reserved one; else the one it has or had, the one it wishes, or the first
    /// free one. `None` when all are in use.
    pub(crate) fn choose(&self, pool: &Pool, mac: MacAddr, wish: Option<Ipv4Addr>, now: u64) -> Option<Ipv4Addr> {
        let available = |ip: &Ipv4Addr| self.is_available(pool, mac, *ip, now);
        if let Some(ip) = pool.reserved.get(&mac) {
            return Some(*ip).filter(available);
        }
        let previous = self.by_mac.get(&mac).copied().filter(|ip| !self.is_stale_offer(*ip, now));
        [previous, wish].into_iter().flatten().find(available).or_else(|| self.choose_fresh(pool, mac, now))
    }

    /// Whether `ip` was offered to somebody who did not come for it: that makes it nobody's.
    fn is_stale_offer(&self, ip: Ipv4Addr, now: u64) -> bool {
        self.entries.get(&ip).is_some_and(|entry| entry.used == Use::Offered && entry.is_free(now))
    }

    /// An address that nobody ever had, or else the one that has been free for the longest time.
    fn choose_fresh(&self, pool: &Pool, mac: MacAddr, now: u64) -> Option<Ipv4Addr> {
        let is_unused = |ip: &Ipv4Addr| !self.entries.contains_key(ip) || self.is_stale_offer(*ip, now);
        let unused = || pool.candidates(mac).find(is_unused);
        let longest_free = || {
            let free = self.entries.iter().filter(|(ip, entry)| entry.is_free(now) && pool.permits(mac, **ip));
            free.min_by_key(|(_, entry)| entry.until).map(|(ip, _)| *ip)
        };
        let unused = if self.entries.len() < MAX_ENTRIES { unused() } else { None };
        unused.or_else(longest_free)
    }

    /// Keeps `ip` for `mac` until it had time to request it. A lease it has is not touched.
    pub(crate) fn offer(&mut self, mac: MacAddr, ip: Ipv4Addr, now: u64) {
        if self.holder(ip, now) != Some(mac) {
            self.forget_offer(mac);
            self.put(ip, Entry { mac, used: Use::Offered, until: now + OFFER_S, client_name: None });
        }
    }

    /// Drops what was offered to `mac`, which took another server's offer.
    pub(crate) fn forget_offer(&mut self, mac: MacAddr) {
        if let Some(ip) = self.by_mac.get(&mac).copied()
            && self.entries.get(&ip).is_some_and(|entry| entry.used == Use::Offered)
        {
            self.remove(ip);
        }
    }

    /// Gives `ip` to `mac` until `until`; another address that it had is free again.
    pub(crate) fn grant(
        &mut self,
        mac: MacAddr,
        ip: Ipv4Addr,
        until: u64,
        client_name: Option<String>,
        now: u64,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.by_mac.get(&mac).is_some_and(|had| *had != ip) {
            changes.extend(self.release(mac, now));
        }
        let entry = Entry { mac, used: Use::Recorded(LeaseState::Held), until, client_name };
        changes.push(change(ip, &entry, LeaseState::Held));
        self.put(ip, entry);
        changes
    }

    /// Frees what `mac` holds; the address is remembered as its last.
    pub(crate) fn release(&mut self, mac: MacAddr, now: u64) -> Option<Change> {
        self.forget_offer(mac);
        let ip = self.held_by(mac, now)?;
        let entry = self.entries.get_mut(&ip)?;
        entry.used = Use::Recorded(LeaseState::Released);
        entry.until = now;
        Some(change(ip, entry, LeaseState::Released))
    }

    /// Takes `ip`, which `mac` has been given or offered, out of use for a while. `None` when `mac` has no such
    /// address.
    pub(crate) fn decline(&mut self, pool: &Pool, mac: MacAddr, ip: Ipv4Addr, now: u64) -> Option<Vec<Change>> {
        let entry = self.entries.get(&ip)?;
        if entry.mac != mac || entry.is_free(now) || entry.is_declined(now) {
            return None;
        }
        let mut changes = Vec::new();
        let by_this_adapter = |entry: &Entry| entry.mac == mac && entry.is_declined(now);
        while self.entries.values().filter(|entry| by_this_adapter(entry)).count() >= MAX_DECLINED_PER_ADAPTER {
            let declined = self.entries.iter_mut().filter(|(_, entry)| by_this_adapter(entry));
            let Some((&oldest, entry)) = declined.min_by_key(|(_, entry)| entry.until) else { break };
            entry.used = Use::Recorded(LeaseState::Released);
            entry.until = now;
            changes.push(change(oldest, entry, LeaseState::Released));
        }
        let span = if pool.reserved.contains_key(&mac) { RESERVED_QUARANTINE_S } else { QUARANTINE_S };
        self.by_mac.remove(&mac);
        let entry = Entry { mac, used: Use::Recorded(LeaseState::Declined), until: now + span, client_name: None };
        changes.push(change(ip, &entry, LeaseState::Declined));
        self.entries.insert(ip, entry);
        Some(changes)
    }

    /// Ends what `pool` no longer permits, and what the adapters `gone` hold.
    pub(crate) fn reconcile(&mut self, pool: &Pool, gone: &BTreeSet<MacAddr>, now: u64) -> Vec<Change> {
        let ended: Vec<_> = self
            .entries
            .iter()
            .filter(|(ip, entry)| gone.contains(&entry.mac) || !pool.permits(entry.mac, **ip))
            .map(|(ip, _)| *ip)
            .collect();
        ended.into_iter().filter_map(|ip| self.end(ip, now)).collect()
    }

    /// Ends everything: the network is no more.
    pub(crate) fn end_all(&mut self, now: u64) -> Vec<Change> {
        let all: Vec<_> = self.entries.keys().copied().collect();
        all.into_iter().filter_map(|ip| self.end(ip, now)).collect()
    }

    /// Forgets `ip`; the journal has to hear of it unless it holds nothing anyway.
    fn end(&mut self, ip: Ipv4Addr, now: u64) -> Option<Change> {
        let mut entry = self.remove(ip)?;
        if entry.used == Use::Offered || entry.is_free(now) {
            return None;
        }
        entry.until = now;
        Some(change(ip, &entry, LeaseState::Released))
    }

    /// Takes a journal's word for what `change.ip` is.
    pub(crate) fn restore(&mut self, pool: &Pool, change: Change) {
        let Change { ip, mac, state, until, client_name } = change;
        if !mac.is_station() || !pool.permits(mac, ip) || self.entries.len() >= MAX_ENTRIES {
            return;
        }
        let entry = Entry { mac, used: Use::Recorded(state), until, client_name };
        if state == LeaseState::Declined {
            self.remove(ip);
            self.entries.insert(ip, entry);
            return;
        }
        if let Some(had) = self.by_mac.get(&mac).copied().filter(|had| *had != ip) {
            // Two addresses of one adapter: the lease that ends last is the younger one.
            let age = |used: Use, until: u64| (used == Use::Recorded(LeaseState::Held), until);
            if self.entries.get(&had).is_some_and(|other| age(other.used, other.until) > age(entry.used, until)) {
                return;
            }
            self.remove(had);
        }
        self.put(ip, entry);
    }

    /// Makes `entry` what is known of `ip`, and `ip` the address of its adapter.
    fn put(&mut self, ip: Ipv4Addr, entry: Entry) {
        self.remove(ip);
        self.by_mac.insert(entry.mac, ip);
        self.entries.insert(ip, entry);
    }

    fn remove(&mut self, ip: Ipv4Addr) -> Option<Entry> {
        let entry = self.entries.remove(&ip)?;
        if self.by_mac.get(&entry.mac) == Some(&ip) {
            self.by_mac.remove(&entry.mac);
        }
        Some(entry)
    }
}

fn change(ip: Ipv4Addr, entry: &Entry, state: LeaseState) -> Change {
    Change { ip, mac: entry.mac, state, until: entry.until, client_name: entry.client_name.clone() }
}
