//! A network's IPv6 prefix: read, chosen, and checked.

use std::net::Ipv6Addr;

use toml::de::DeValue;
use weft_types::{Ipv6Net, NetworkName};

use crate::problem::Problem;
use crate::read::{Notes, Section, wrong_type};
use crate::{Mode, Network, World};

/// The length of a prefix from which stations make addresses themselves (RFC 4862, with RFC 2464's identifiers).
const PREFIX_LEN: u8 = 64;

/// The least that every link of IPv6 carries, in bytes (RFC 8200, section 5).
const MIN_MTU: u16 = 1280;

const EXAMPLE: &str = "fd12:3456:789a:1::/64";

/// What a file says about a network's IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing, or that there is none.
    #[default]
    Off,
    /// That there is some, with whatever prefix.
    Any,
    /// Its prefix.
    Prefix(Ipv6Net),
}

/// The key `ipv6` of a network.
pub(crate) fn read(notes: &mut Notes, section: &mut Section<'_>) -> Written {
    let path = section.path_of("ipv6");
    match section.value(notes, "ipv6") {
        None => Written::Off,
        Some(DeValue::Boolean(on)) => {
            if *on {
                Written::Any
            } else {
                Written::Off
            }
        }
        Some(DeValue::String(text)) => match text.parse::<Ipv6Net>() {
            Ok(net) if net.trunc() == net => Written::Prefix(net),
            Ok(net) => {
                let message = format!("`{text}` is an address inside a prefix");
                let hint = format!("write `{}`", net.trunc());
                notes.complain(&path, Problem::new("bad-value", message, hint));
                Written::Off
            }
            Err(_) => {
                let hint = format!("write true, and Weft chooses one; or a prefix like `{EXAMPLE}`");
                let message = format!("`{}` is not an IPv6 prefix", text.escape_debug());
                notes.complain(&path, Problem::new("bad-value", message, hint));
                Written::Off
            }
        },
        Some(other) => {
            wrong_type::<()>(notes, &path, other, "true, false or a prefix", "true");
            Written::Off
        }
    }
}

/// A prefix for each of the networks `wanting` one, in their order: the file's own unique local /48 (RFC 4193), and in it a
/// subnet that follows from the network's name, or the next that is free. So the same file gives the same prefixes, and an
/// edit elsewhere in it moves none.
pub(crate) fn choose(world: &mut World, file: &str, wanting: &[NetworkName]) {
    for name in wanting {
        let first = fnv(name.as_str()) as u16;
        let taken = |net: &Ipv6Net| world.networks.values().any(|network| overlaps(network, *net));
        let mut candidates = (0..=u16::MAX).map(|step| unique_local(file, first.wrapping_add(step)));
        let free = candidates.find(|net| !taken(net));
        if let Some(network) = world.networks.get_mut(name) {
            network.subnet6 = free;
        }
    }
}

/// The `subnet`-th /64 of a file's unique local prefix, whose 40 bits follow from its path.
fn unique_local(file: &str, subnet: u16) -> Ipv6Net {
    let hash = fnv(file);
    let hash = hash ^ (hash >> 29); // FNV's high bits vary little on short texts
    let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
    let [f, g] = subnet.to_be_bytes();
    let octets = [0xfd, a, b, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0];
    Ipv6Net::new_assert(Ipv6Addr::from(octets), PREFIX_LEN)
}

/// FNV-1a.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn overlaps(network: &Network, net: Ipv6Net) -> bool {
    network.subnet6.is_some_and(|own| own.contains(&net) || net.contains(&own))
}

/// Finds what does not hold about the networks' prefixes.
pub(crate) fn check(world: &World, find: &mut impl FnMut(String, Problem)) {
    let mut networks: Vec<_> = world.networks.iter().collect();
    networks.sort_by_key(|(_, network)| network.provenance.line); // the later one in the file is the one to change
    for (index, (name, network)) in networks.iter().enumerate() {
        let path = format!("network.{name}.ipv6");
        let Some(net) = network.subnet6 else {
            if network.dhcp6.is_some() && network.mode != Mode::Bridged {
                let message = format!("network `{name}` has no IPv6 of which DHCPv6 could tell");
                let hint = "write `ipv6 = true`, or remove `dhcp6`";
                find(format!("network.{name}.dhcp6"), Problem::new("contradiction", message, hint));
            }
            continue;
        };
        if network.mode == Mode::Bridged {
            find(path, on_a_lan(name));
        } else if let Some(problem) = unusable(net) {
            find(path, problem);
        } else if network.mtu < MIN_MTU {
            let message = format!("network `{name}` takes packets of {} bytes: IPv6 needs {MIN_MTU}", network.mtu);
            find(path, Problem::new("contradiction", message, "write a larger `mtu`, or remove `ipv6`"));
        } else if let Some((other, earlier)) = networks[..index].iter().find(|(_, other)| overlaps(other, net)) {
            let first = earlier.subnet6.unwrap_or(net);
            let message = format!("the IPv6 prefix of `{name}` overlaps with {first} of network `{other}`");
            let hint = "choose another one; or write `ipv6 = true`, and Weft chooses one";
            find(path, Problem::new("overlapping-subnets", message, hint));
        }
    }
}

fn on_a_lan(name: &NetworkName) -> Problem {
    let message = format!("network `{name}` is bridged: what it has of IPv6 is the LAN's");
    Problem::new("contradiction", message, "remove `ipv6`: the routers of the LAN are heard as they are")
}

/// Why a network cannot have this prefix.
fn unusable(net: Ipv6Net) -> Option<Problem> {
    let hint = format!("use a private one, like `{EXAMPLE}`, or write `ipv6 = true`");
    if net.prefix_len() != PREFIX_LEN {
        let message = format!("{net} cannot be a network's prefix: stations make their addresses from 64 bits");
        return Some(Problem::new("bad-prefix-length", message, "write a prefix of 64 bits"));
    }
    let taken = [
        ("::/8", "has addresses with a meaning of their own"),
        ("64:ff9b::/32", "is for translation"),
        ("fe80::/10", "is for link-local addresses"),
        ("fec0::/10", "is in use no more"),
        ("ff00::/8", "is for multicast"),
    ];
    let within = |range: &str| range.parse::<Ipv6Net>().is_ok_and(|range| range.contains(&net));
    let (range, why) = taken.iter().find(|(range, _)| within(range))?;
    Some(Problem::new("reserved-subnet", format!("{net} cannot be used: {range} {why}"), hint))
}
