//! When a gateway advertises itself, and what it says (RFC 4861, section 6.2; RFC 8106).

use std::net::Ipv6Addr;
use std::time::Duration;

use weft_types::{Instant, Ipv6Net, MacAddr};
use weft_wire::ndp::{Prefix, RouterAdvertisement};

use crate::random::Random;

/// Between two advertisements to everybody, where nobody asks: at least and at most (section 6.2.1).
const INTERVAL_S: (u64, u64) = (200, 600);
/// The first advertisements after something has changed, which come sooner (section 10).
const FIRST: u8 = 3;
/// Between those, at most.
const FIRST_INTERVAL_S: u64 = 16;
/// Between two answers to everybody, at least.
const LEAST_INTERVAL: Duration = Duration::from_secs(3);
/// Until an answer to everybody, at most.
const ANSWER_DELAY_MS: u64 = 500;

/// How long the gateway is a way out, and its name server one, without a word of it: three advertisements may get lost.
const LIFETIME_S: u16 = 1800;
/// How long a prefix is good for new connections, and for old ones.
const PREFERRED_S: u32 = 4 * 3600;
const VALID_S: u32 = 24 * 3600;
/// How long stations are told of a prefix that went: they believe of no shorter time that it is to end (RFC 4862, section
/// 5.5.3 e), so who heard nothing meanwhile does not hear of it later either.
const WITHDRAWN: Duration = Duration::from_secs(2 * 3600);
/// Prefixes that went, of which stations are told.
const MAX_WITHDRAWN: usize = 8;
/// The hop limit that stations should use.
const HOP_LIMIT: u8 = 64;

/// What there is to say about a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) mac: MacAddr,
    pub(crate) mtu: u16,
    /// Whether the gateway leads anywhere.
    pub(crate) leads_out: bool,
    /// Whether DHCPv6 has addresses.
    pub(crate) has_addresses: bool,
    /// Whether DHCPv6 tells more.
    pub(crate) has_other: bool,
    /// Its prefix; `None` where it has none (any more).
    pub(crate) prefix: Option<Ipv6Net>,
    /// Who knows names.
    pub(crate) name_server: Option<Ipv6Addr>,
    /// What is put behind names that are one label, as DNS writes it.
    pub(crate) search: Vec<u8>,
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is answered at once, to who asked.
    Now,
    /// Everybody hears the answer, in a moment.
    Soon,
}

/// The state of one gateway's advertisements.
#[derive(Debug, Default)]
pub(crate) struct Advertiser {
    link: Option<Link>,
    /// Prefixes that went, and until when stations are told so.
    withdrawn: Vec<(Ipv6Net, Instant)>,
    /// Advertisements that still come soon.
    first: u8,
    last: Option<Instant>,
    next: Option<Instant>,
}

impl Advertiser {
    /// Says from now on what is so now.
    pub(crate) fn configure(&mut self, now: Instant, link: Link, random: &mut Random) {
        if self.link.as_ref() == Some(&link) {
            return;
        }
        let before = self.link.as_ref().and_then(|link| link.prefix);
        if let Some(gone) = before.filter(|_| before != link.prefix) {
            self.withdrawn.push((gone, now + WITHDRAWN));
        }
        self.withdrawn.retain(|(net, _)| link.prefix != Some(*net));
        let too_many = self.withdrawn.len().saturating_sub(MAX_WITHDRAWN);
        self.withdrawn.drain(..too_many);
        self.link = Some(link);
        self.first = FIRST;
        self.next = self.is_active().then(|| self.not_too_soon(now + below_ms(random, ANSWER_DELAY_MS)));
    }

    /// Whether the gateway speaks IPv6: it has a prefix, or had one of late.
    pub(crate) fn is_active(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.prefix.is_some()) || !self.withdrawn.is_empty()
    }

    /// The prefixes that went.
    pub(crate) fn withdrawn(&self) -> impl Iterator<Item = Ipv6Net> + '_ {
        self.withdrawn.iter().map(|(net, _)| *net)
    }

    /// When everybody is to hear something.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Whether everybody is to hear something now; if so, the next time is chosen.
    pub(crate) fn is_due(&mut self, now: Instant, random: &mut Random) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        self.withdrawn.retain(|(_, until)| *until > now);
        self.last = Some(now);
        let (least, most) = INTERVAL_S;
        let jittered = Duration::from_secs(least) + below_ms(random, (most - least) * 1000);
        let pause = match self.first.checked_sub(1) {
            Some(left) => {
                self.first = left;
                jittered.min(Duration::from_secs(FIRST_INTERVAL_S))
            }
            None => jittered,
        };
        self.next = self.is_active().then_some(now + pause);
        true
    }

    /// Somebody asks; who has an address already can be answered alone.
    pub(crate) fn ask(&mut self, now: Instant, from: Ipv6Addr, random: &mut Random) -> Answer {
        if !from.is_unspecified() {
            // Answers are spread over time so that several routers do not speak at once: here there is one.
            return Answer::Now;
        }
        let soon = self.not_too_soon(now + below_ms(random, ANSWER_DELAY_MS));
        self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
        Answer::Soon
    }

    /// `at`, or as soon after it as everybody may hear something again.
    fn not_too_soon(&self, at: Instant) -> Instant {
        self.last.map_or(at, |last| at.max(last + LEAST_INTERVAL))
    }

    /// Appends what there is to say to `out`, as a message from `src` to `dst`.
    pub(crate) fn emit(&self, out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr) {
        let Some(link) = &self.link else { return };
        let own = Prefix {
            net: link.prefix.unwrap_or_default(),
            valid_s: VALID_S,
            preferred_s: PREFERRED_S,
            is_autonomous: true,
        };
        let gone = self.withdrawn().map(|net| Prefix {
            net,
            valid_s: u32::try_from(WITHDRAWN.as_secs()).unwrap_or(u32::MAX),
            preferred_s: 0,
            is_autonomous: true,
        });
        let prefixes: Vec<_> = link.prefix.map(|_| own).into_iter().chain(gone).collect();
        let advertisement = RouterAdvertisement {
            hop_limit: HOP_LIMIT,
            is_managed: link.has_addresses,
            has_other: link.has_other,
            lifetime_s: if link.leads_out && link.prefix.is_some() { LIFETIME_S } else { 0 },
            mac: link.mac,
            mtu: link.mtu.into(),
            prefixes: &prefixes,
            name_servers: link.name_server.as_slice(),
            search: &link.search,
            names_lifetime_s: LIFETIME_S.into(),
        };
        advertisement.emit(out, src, dst);
    }
}

/// A span below `most_ms` milliseconds.
fn below_ms(random: &mut Random, most_ms: u64) -> Duration {
    let draw = u64::from(random.word());
    Duration::from_millis(draw * most_ms / (1 + u64::from(u16::MAX)))
}
