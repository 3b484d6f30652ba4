//! Who holds which address of one network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use weft_types::MacAddr;

use super::pool::{Client, Pool, Runs};
use super::record::LeaseState;

/// How long an offered address waits for the client's request.
const OFFER_S: u64 = 60;
/// How long an address that somebody else was found to use stays out of the pool.
const QUARANTINE_S: u64 = 600;
/// The same for a kept address: its client can have no other, so it is tried again soon.
const KEPT_QUARANTINE_S: u64 = 30;
/// Addresses that one adapter can get quarantined, so that it cannot empty the pool.
const MAX_DECLINED_PER_ADAPTER: usize = 4;
/// Addresses remembered per network; a larger pool counts as exhausted beyond that.
const MAX_ENTRIES: usize = 1 << 17;

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
    /// Unix time at which that ends; of what was given back, when that was.
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
/// An address has one entry, so it never has two holders; an adapter holds at most one address. Entries that ended stay
/// until somebody else needs the address: clients get back what they had. What was offered and not requested is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// What may be given out; nothing without a server.
    pool: Option<Pool>,
    entries: BTreeMap<Ipv4Addr, Entry>,
    /// The address that an adapter holds or held last; its entry, if it still is the adapter's.
    by_mac: BTreeMap<MacAddr, Ipv4Addr>,
    /// The common addresses without an entry.
    unused: Runs,
    /// The common addresses with an entry that was recorded, by when it ends.
    ending: BTreeSet<(u64, Ipv4Addr)>,
    /// The addresses that were offered, by when that ends.
    offers: BTreeSet<(u64, Ipv4Addr)>,
    /// The addresses that an adapter had quarantined, by when that ends.
    declined: BTreeSet<(MacAddr, u64, Ipv4Addr)>,
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

    /// Whether somebody without an address could have one.
    pub(crate) fn is_exhausted(&self, now: u64) -> bool {
        let ends = |index: &BTreeSet<(u64, Ipv4Addr)>| index.first().is_some_and(|(until, _)| *until <= now);
        let has_unused = self.unused.first_from(0).is_some() && self.entries.len() < MAX_ENTRIES;
        !has_unused && !ends(&self.ending) && !ends(&self.offers)
    }

    /// Whether something is known of `client`: it has an address, had one, or one is kept for it.
    pub(crate) fn knows(&self, client: Client<'_>) -> bool {
        self.by_mac.contains_key(&client.mac) || self.pool.as_ref().is_some_and(|pool| pool.kept_for(client).is_some())
    }

    /// Whether `client` may have `ip` now.
    pub(crate) fn is_available(&self, client: Client<'_>, ip: Ipv4Addr, now: u64) -> bool {
        let Some(pool) = &self.pool else { return false };
        let free = match self.entries.get(&ip) {
            Some(entry) => entry.is_free(now) || (entry.mac == client.mac && !entry.is_declined(now)),
            None => self.entries.len() < MAX_ENTRIES || pool.kept_for(client).is_some(),
        };
        free && pool.permits(client, ip)
    }

    /// The address for `client`: the one that is kept for it; else the one that it has or had, the one it wishes, or the
    /// first free one. `None` when all are in use.
    pub(crate) fn choose(&mut self, client: Client<'_>, wish: Option<Ipv4Addr>, now: u64) -> Option<Ipv4Addr> {
        self.forget_stale_offers(now);
        let available = |ip: &Ipv4Addr| self.is_available(client, *ip, now);
        if let Some(ip) = self.pool.as_ref()?.kept_for(client) {
            return Some(ip).filter(available);
        }
        let previous = self.by_mac.get(&client.mac).copied();
        [previous, wish].into_iter().flatten().find(available).or_else(|| self.choose_fresh(client.mac, now))
    }

    /// A common address that nobody ever had, or else the one that has been free for the longest time.
    fn choose_fresh(&self, mac: MacAddr, now: u64) -> Option<Ipv4Addr> {
        let start = self.pool.as_ref()?.preferred(mac);
        let unused = if self.entries.len() < MAX_ENTRIES { self.unused.first_from(start) } else { None };
        unused.or_else(|| self.ending.first().filter(|(until, _)| *until <= now).map(|(_, ip)| *ip))
    }

    /// What nobody came for is nobody's.
    fn forget_stale_offers(&mut self, now: u64) {
        while let Some(&(until, ip)) = self.offers.first()
            && until <= now
        {
            self.remove(ip);
        }
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
        let entry = self.entries.get(&ip)?;
        let entry = Entry { used: Use::Recorded(LeaseState::Released), until: now, ..entry.clone() };
        let change = change(ip, &entry, LeaseState::Released);
        self.put(ip, entry);
        Some(change)
    }

    /// Takes `ip`, which `client` has been given or offered, out of use for a while. `None` when it has no such address.
    pub(crate) fn decline(&mut self, client: Client<'_>, ip: Ipv4Addr, now: u64) -> Option<Vec<Change>> {
        let (entry, mac) = (self.entries.get(&ip)?, client.mac);
        if entry.mac != mac || entry.is_free(now) || entry.is_declined(now) {
            return None;
        }
        let mut changes = Vec::new();
        let by_this_adapter = (mac, now + 1, Ipv4Addr::UNSPECIFIED)..=(mac, u64::MAX, Ipv4Addr::BROADCAST);
        let before: Vec<_> = self.declined.range(by_this_adapter).map(|(.., ip)| *ip).collect();
        for oldest in before.iter().take((before.len() + 1).saturating_sub(MAX_DECLINED_PER_ADAPTER)) {
            changes.extend(self.end(*oldest, now));
        }
        let is_kept = self.pool.as_ref().is_some_and(|pool| pool.kept_for(client) == Some(ip));
        let until = now + if is_kept { KEPT_QUARANTINE_S } else { QUARANTINE_S };
        let entry = Entry { mac, used: Use::Recorded(LeaseState::Declined), until, client_name: None };
        changes.push(change(ip, &entry, LeaseState::Declined));
        self.put(ip, entry);
        Some(changes)
    }

    /// Takes `ip`, which the station `mac` was found to have without a lease, out of use for a while.
    pub(crate) fn quarantine(&mut self, ip: Ipv4Addr, mac: MacAddr, now: u64) -> Change {
        let used = Use::Recorded(LeaseState::Declined);
        let entry = Entry { mac, used, until: now + QUARANTINE_S, client_name: None };
        let change = change(ip, &entry, LeaseState::Declined);
        self.put(ip, entry);
        change
    }

    /// Whether `ip` is what `mac` holds, or held last.
    pub(crate) fn is_known_to_have(&self, mac: MacAddr, ip: Ipv4Addr) -> bool {
        let is_recorded = |entry: &Entry| matches!(entry.used, Use::Recorded(_)) && entry.mac == mac;
        self.by_mac.get(&mac) == Some(&ip) && self.entries.get(&ip).is_some_and(is_recorded)
    }

    /// Gives out of `pool` from now on, or nothing. What it no longer permits ends, and what the adapters `gone` hold.
    pub(crate) fn adopt(&mut self, pool: Option<Pool>, gone: &BTreeSet<MacAddr>, now: u64) -> Vec<Change> {
        let permits = |mac, ip| pool.as_ref().is_some_and(|pool| pool.permits_adapter(mac, ip));
        let ends = |(ip, entry): &(&Ipv4Addr, &Entry)| gone.contains(&entry.mac) || !permits(entry.mac, **ip);
        let ended: Vec<_> = self.entries.iter().filter(ends).map(|(ip, _)| *ip).collect();
        let changes = ended.into_iter().filter_map(|ip| self.end(ip, now)).collect();
        self.unused = Runs::new(pool.as_ref().map(Pool::common).unwrap_or_default());
        self.pool = pool;
        let entries = std::mem::take(&mut self.entries);
        self.ending.clear();
        self.offers.clear();
        self.declined.clear();
        for (ip, entry) in entries {
            self.index(ip, &entry);
            self.entries.insert(ip, entry);
        }
        changes
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
    pub(crate) fn restore(&mut self, change: Change) {
        let Change { ip, mac, state, until, client_name } = change;
        let is_permitted = self.pool.as_ref().is_some_and(|pool| pool.permits_adapter(mac, ip));
        if !mac.is_station() || !is_permitted || (self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&ip))
        {
            return;
        }
        let entry = Entry { mac, used: Use::Recorded(state), until, client_name };
        if state != LeaseState::Declined
            && let Some(had) = self.by_mac.get(&mac).copied().filter(|had| *had != ip)
        {
            // Two addresses of one adapter: the lease that ends last is the younger one.
            let age = |used: Use, until: u64| (used == Use::Recorded(LeaseState::Held), until);
            if self.entries.get(&had).is_some_and(|other| age(other.used, other.until) > age(entry.used, until)) {
                return;
            }
            self.remove(had);
        }
        self.put(ip, entry);
    }

    /// Makes `entry` what is known of `ip`; and `ip` the address of its adapter, unless it is of no use to it.
    fn put(&mut self, ip: Ipv4Addr, entry: Entry) {
        self.remove(ip);
        if entry.used != Use::Recorded(LeaseState::Declined) {
            self.by_mac.insert(entry.mac, ip);
        }
        self.index(ip, &entry);
        self.entries.insert(ip, entry);
    }

    fn index(&mut self, ip: Ipv4Addr, entry: &Entry) {
        self.unused.remove(ip);
        if entry.used == Use::Recorded(LeaseState::Declined) {
            self.declined.insert((entry.mac, entry.until, ip));
        }
        if entry.used == Use::Offered {
            self.offers.insert((entry.until, ip));
        } else if self.pool.as_ref().is_some_and(|pool| pool.is_common(ip)) {
            self.ending.insert((entry.until, ip));
        }
    }

    fn remove(&mut self, ip: Ipv4Addr) -> Option<Entry> {
        let entry = self.entries.remove(&ip)?;
        self.ending.remove(&(entry.until, ip));
        self.offers.remove(&(entry.until, ip));
        self.declined.remove(&(entry.mac, entry.until, ip));
        if self.pool.as_ref().is_some_and(|pool| pool.is_common(ip)) {
            self.unused.insert(ip);
        }
        if self.by_mac.get(&entry.mac) == Some(&ip) {
            self.by_mac.remove(&entry.mac);
        }
        Some(entry)
    }
}

fn change(ip: Ipv4Addr, entry: &Entry, state: LeaseState) -> Change {
    Change { ip, mac: entry.mac, state, until: entry.until, client_name: entry.client_name.clone() }
}
