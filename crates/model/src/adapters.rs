//! The key `host` of a network: the adapters by which the host itself stands on it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use toml::de::DeValue;
use weft_types::{Ipv4Net, Label, MacAddr, NetworkName};

use crate::check::{hosts_hint, is_host};
use crate::problem::Problem;
use crate::read::{Notes, Section, parse, wrong_type};
use crate::{Mode, Network};

/// The longest name of a network interface (Linux, `IFNAMSIZ` less the zero).
const MAX_NAME_BYTES: usize = 15;

/// The adapters that the file describes: an address, or a table of names and addresses.
pub(crate) fn read(notes: &mut Notes, section: &mut Section<'_>, network: &NetworkName) -> BTreeMap<Label, Ipv4Addr> {
    let path = section.path_of("host");
    let mut adapters = BTreeMap::new();
    match section.value(notes, "host") {
        None => {}
        Some(DeValue::String(text)) => {
            adapters.extend(parse(notes, &path, text).map(|ip| (default_name(network), ip)));
        }
        Some(DeValue::Table(table)) => {
            for (key, value) in table.iter() {
                let name: &str = key.get_ref();
                let path = format!("{path}.{name}");
                notes.place(&path, value.span());
                let name = parse::<Label>(notes, &path, name);
                let ip = match value.get_ref() {
                    DeValue::String(text) => parse::<Ipv4Addr>(notes, &path, text),
                    other => wrong_type(notes, &path, other, "a text", "10.20.0.254"),
                };
                adapters.extend(name.zip(ip));
            }
        }
        Some(other) => {
            wrong_type::<()>(notes, &path, other, "an address or a table", "\"10.20.0.254\"");
        }
    }
    adapters
}

/// The adapter of a network whose file says nothing about one: the subnet's last address, because its first is the
/// gateway's in every mode, and stays so when the mode changes.
pub(crate) fn by_default(network: &NetworkName, subnet: Ipv4Net) -> BTreeMap<Label, Ipv4Addr> {
    let last = u32::from(subnet.broadcast()).saturating_sub(1);
    BTreeMap::from([(default_name(network), last.into())])
}

/// `weft-NETWORK`, or where that is too long for an interface, something short that is always the same.
fn default_name(network: &NetworkName) -> Label {
    let name = format!("weft-{network}");
    let [.., a, b, c, d] = MacAddr::derive(&name).octets();
    let short = || format!("weft-{a:02x}{b:02x}{c:02x}{d:02x}");
    let name = if name.len() <= MAX_NAME_BYTES { name } else { short() };
    name.parse().expect("a label's first characters and a label are one")
}

/// Finds what does not hold about a network's adapters; `find_in_subnet` is for what takes the subnet for granted.
/// `taken` knows the adapters of other networks.
pub(crate) fn check<'a>(
    name: &'a NetworkName,
    network: &'a Network,
    taken: &mut BTreeMap<&'a Label, &'a NetworkName>,
    find: &mut impl FnMut(String, Problem),
    find_in_subnet: &mut impl FnMut(String, Problem),
) {
    let path = format!("network.{name}.host");
    match network.mode {
        Mode::Internal if !network.adapters.is_empty() => {
            let message = format!("nobody but its VMs is on the internal network `{name}`, not even the host");
            let hint = "write `mode = \"host-only\"`, or remove `host`";
            return find(path, Problem::new("contradiction", message, hint));
        }
        Mode::Bridged if !network.adapters.is_empty() => {
            let message = format!("the host is on network `{name}` by the LAN's own addresses");
            return find(path, Problem::new("contradiction", message, "remove `host`, or choose another `mode`"));
        }
        Mode::HostOnly if network.adapters.is_empty() => {
            let message = format!("the host has no adapter on the host-only network `{name}`");
            let hint = "give it one, or write `mode = \"internal\"`";
            return find(path, Problem::new("contradiction", message, hint));
        }
        _ => {}
    }
    let mut addresses = BTreeMap::new();
    for (adapter, ip) in &network.adapters {
        let path = format!("{path}.{adapter}");
        if adapter.as_str().len() > MAX_NAME_BYTES {
            let message = format!("`{adapter}` is too long for a network interface");
            let hint = format!("use at most {MAX_NAME_BYTES} characters");
            find(path.clone(), Problem::new("bad-value", message, hint));
        }
        if let Some(other) = taken.insert(adapter, name) {
            let message = format!("the host has `{adapter}` on network `{other}` already");
            find(path.clone(), Problem::new("taken", message, "give each adapter a name of its own"));
        }
        let (code, message) = if !is_host(network.subnet, *ip) {
            ("outside-subnet", format!("{ip} is not an address for a host of {}", network.subnet))
        } else if *ip == network.gateway {
            ("duplicate-ip", format!("{ip} is the gateway of network `{name}`, which answers there itself"))
        } else if let Some(other) = addresses.insert(*ip, adapter) {
            ("duplicate-ip", format!("`{adapter}` and `{other}` both want {ip}"))
        } else {
            continue;
        };
        find_in_subnet(path, Problem::new(code, message, hosts_hint(network.subnet)));
    }
}
