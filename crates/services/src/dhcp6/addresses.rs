//! Which addresses clients get.
//!
//! Of 2^64 addresses each client's follows from who it is: nothing has to be kept, nothing can be lost, and whoever comes
//! again has the same one. Who declines its address, because it found that somebody else has it, gets the next.

use std::collections::VecDeque;
use std::net::Ipv6Addr;

use sha2::{Digest as _, Sha256};
use weft_types::{Ipv6Net, MacAddr};

/// Addresses that were declined; the oldest gives way.
const MAX_DECLINED: usize = 256;
/// The interface identifiers below this are left to people who write addresses (and to the gateway).
const FIRST: u64 = 1 << 32;

/// Who asks for an address: an adapter, its client, and which of the addresses that it may want.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// The adapter: clones of a disk have the same identifier, and are not the same client.
    pub(crate) mac: MacAddr,
    /// The client's identifier.
    pub(crate) client: &'a [u8],
    /// Its number for what it asks for (IAID).
    pub(crate) association: [u8; 4],
}

/// The addresses of a network, as far as they are not like those of all others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    declined: VecDeque<Ipv6Addr>,
}

impl Addresses {
    /// The address that somebody gets.
    pub(crate) fn of(&self, net: Ipv6Net, asker: &Asker<'_>) -> Ipv6Addr {
        let mut all = (0_u32..).map(|attempt| {
            let mut digest = Sha256::new_with_prefix(b"weft DHCPv6");
            digest.update(net.network().octets());
            digest.update(attempt.to_be_bytes());
            digest.update(asker.mac.octets());
            digest.update(asker.association);
            digest.update(asker.client);
            let digest = digest.finalize();
            u64::from_be_bytes(digest.first_chunk().copied().unwrap_or_default())
        });
        let place = all.find_map(|identifier| {
            let ip = Ipv6Addr::from_bits(net.network().to_bits() | u128::from(identifier));
            (!is_reserved(identifier) && !self.declined.contains(&ip)).then_some(ip)
        });
        place.unwrap_or(net.network()) // there are more attempts than addresses that can be declined
    }

    /// Somebody found that its address is in use.
    pub(crate) fn decline(&mut self, ip: Ipv6Addr) {
        if self.declined.len() == MAX_DECLINED {
            self.declined.pop_front();
        }
        self.declined.push_back(ip);
    }
}

/// Identifiers that mean something (RFC 5453), or are people's.
fn is_reserved(identifier: u64) -> bool {
    const ANYCAST: u64 = 0xfdff_ffff_ffff_ff80;
    const ETHERNET: u64 = 0x0200_5eff_fe00_0000;
    identifier < FIRST || identifier & !0x7f == ANYCAST || identifier & !0xff_ffff == ETHERNET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_one_of_its_own_and_the_next_when_it_is_declined() {
        let net: Ipv6Net = "fd00:20::/64".parse().unwrap();
        let mac = |last| MacAddr::new([2, 0, 0, 0, 0, last]);
        let asker = |mac, client, number| Asker { mac, client, association: [0, 0, 0, number] };
        let mut addresses = Addresses::default();
        let askers =
            [asker(mac(1), b"one", 1), asker(mac(1), b"one", 2), asker(mac(1), b"two", 1), asker(mac(2), b"one", 1)];
        let all: std::collections::BTreeSet<_> = askers.iter().map(|asker| addresses.of(net, asker)).collect();
        assert_eq!(all.len(), askers.len());
        assert!(all.iter().all(|ip| net.contains(ip)));
        let first = addresses.of(net, &askers[0]);
        assert_eq!(Addresses::default().of(net, &askers[0]), first, "also after a restart");
        assert_ne!(addresses.of("fd00:21::/64".parse().unwrap(), &askers[0]).to_bits() as u64, first.to_bits() as u64);
        addresses.decline(first);
        let second = addresses.of(net, &askers[0]);
        assert_ne!(second, first);
        for _ in 0..2 * MAX_DECLINED {
            addresses.decline(addresses.of(net, &askers[0]));
        }
        assert!(addresses.declined.len() <= MAX_DECLINED);
        for reserved in [0, 1, 0xffff_ffff, 0xfdff_ffff_ffff_ffff, 0xfdff_ffff_ffff_ff80, 0x0200_5eff_fe12_3456] {
            assert!(is_reserved(reserved), "{reserved:x}");
        }
        assert!(!is_reserved(FIRST) && !is_reserved(0xfdff_ffff_ffff_ff7f));
    }
}
