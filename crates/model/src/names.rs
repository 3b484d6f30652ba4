//! Names that a network's gateway answers beside those of its machines, and who is asked for others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use weft_types::{DnsNames, DomainName, NetworkName};

use crate::check::HOST;
use crate::problem::Problem;
use crate::read::{Notes, Section, list, nearest, parse, wrong_type};
use crate::{Mode, Network};

/// The domain of all networks' zones.
const DOMAIN: &str = "weft";
/// What no host can be called, because it is somebody's name on each network.
const EVERYWHERE: [&str; 2] = ["gateway", "localhost"];
/// Addresses that one name may have, so that an answer stays one.
const MAX_ADDRESSES: usize = 64;
/// Servers that are asked for one domain.
const MAX_SERVERS: usize = 8;
const DNS_PORT: u16 = 53;

/// Reads `dns`, `hosts` and `cnames`: whether names are answered, and which.
pub(crate) fn read(notes: &mut Notes, section: &mut Section<'_>) -> (bool, DnsNames) {
    let forward_example = "{ forward = { \"corp.example\" = [\"10.1.1.1\"] } }";
    let dns_path = section.path_of("dns");
    let (is_on, forward) = match section.value(notes, "dns") {
        None => (true, BTreeMap::new()),
        Some(DeValue::Table(table)) => {
            let mut keys = Section::new(table, &dns_path, "a name server");
            let example = "{ \"corp.example\" = [\"10.1.1.1\"] }";
            let forward = entries(notes, &mut keys, "forward", example, |notes, path, value| {
                one_or_many(notes, path, value, "10.1.1.1", read_server)
            });
            keys.finish(notes);
            (true, forward)
        }
        Some(value) => {
            let is_on = value.as_bool();
            if is_on.is_none() {
                wrong_type::<()>(notes, &dns_path, value, "true, false or a table", forward_example);
            }
            (is_on.unwrap_or(true), BTreeMap::new())
        }
    };
    let hosts = entries(notes, section, "hosts", "{ printer = \"10.20.0.9\" }", |notes, path, value| {
        one_or_many(notes, path, value, "10.20.0.9", parse::<IpAddr>)
    });
    let cnames = entries(notes, section, "cnames", "{ www = \"web\" }", |notes, path, value| match value.as_str() {
        Some(text) => parse::<DomainName>(notes, path, text),
        None => wrong_type(notes, path, value, "a text", "web"),
    });
    (is_on, DnsNames { hosts, cnames, forward })
}

/// The entries of a table whose keys are names.
fn entries<T>(
    notes: &mut Notes,
    section: &mut Section<'_>,
    key: &'static str,
    example: &str,
    mut read: impl FnMut(&mut Notes, &str, &DeValue<'_>) -> Option<T>,
) -> BTreeMap<DomainName, T> {
    let mut found = BTreeMap::new();
    let path = section.path_of(key);
    let table: &DeTable<'_> = match section.value(notes, key) {
        None => return found,
        Some(DeValue::Table(table)) => table,
        Some(other) => {
            wrong_type::<()>(notes, &path, other, "a table of names", example);
            return found;
        }
    };
    for (name, value) in table {
        let text: &str = name.get_ref();
        let path = format!("{path}.{text}");
        notes.place(&path, name.span());
        let Some(name) = parse::<DomainName>(notes, &path, text) else { continue };
        // By the name as it is known from now on.
        let path = path_of(&section.path_of(key), &name);
        notes.place(&path, value.span());
        let Some(value) = read(notes, &path, value.get_ref()) else { continue };
        if found.insert(name, value).is_some() {
            let message = format!("`{text}` stands here twice: DNS does not tell upper from lower case");
            notes.complain(&path, Problem::new("taken", message, "keep one of them"));
        }
    }
    found
}

fn path_of(key: &str, name: &DomainName) -> String {
    format!("{key}.{name}")
}

/// A text, or a list of texts.
fn one_or_many<T>(
    notes: &mut Notes,
    path: &str,
    value: &DeValue<'_>,
    example: &str,
    read: impl Fn(&mut Notes, &str, &str) -> Option<T>,
) -> Option<Vec<T>> {
    if let Some(text) = value.as_str() {
        return read(notes, path, text).map(|one| vec![one]);
    }
    let Some(array) = value.as_array() else {
        return wrong_type(notes, path, value, "a text or a list of texts", &format!("[\"{example}\"]"));
    };
    let mut item = |(index, value): (usize, &Spanned<DeValue<'_>>)| {
        let path = format!("{path}[{index}]");
        notes.place(&path, value.span());
        match value.get_ref().as_str() {
            Some(text) => read(notes, &path, text),
            None => wrong_type(notes, &path, value.get_ref(), "a text", example),
        }
    };
    array.iter().enumerate().map(&mut item).collect()
}

/// A name server: an address, with a port where it is not 53.
fn read_server(notes: &mut Notes, path: &str, text: &str) -> Option<SocketAddr> {
    let server = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|_| text.parse());
    if server.is_err() {
        let hint = "write its address, like `10.1.1.1`, `10.1.1.1:5353` or `[fd00::1]:53`";
        notes.complain(path, Problem::new("bad-value", format!("`{text}` is not the address of a name server"), hint));
    }
    server.ok()
}

/// Finds what does not hold about the names of a network on which these machines are, and maybe the host.
pub(crate) fn check(
    network: &NetworkName,
    spec: &Network,
    vms: &BTreeSet<&str>,
    find: &mut impl FnMut(String, Problem),
) {
    let DnsNames { hosts, cnames, forward } = &spec.names;
    let path = |key: &str| format!("network.{network}.{key}");
    if !spec.dns {
        for (key, _) in [("hosts", hosts.is_empty()), ("cnames", cnames.is_empty())].iter().filter(|(_, none)| !none) {
            let message = format!("nobody answers names on network `{network}`, so `{key}` does nothing");
            find(path(key), Problem::new("contradiction", message, "remove it, or `dns = false`"));
        }
    }
    let names = hosts.keys().map(|name| ("hosts", name)).chain(cnames.keys().map(|name| ("cnames", name)));
    for (key, name) in names {
        if let Some(problem) = name_problem(network, name, vms) {
            find(path_of(&path(key), name), problem);
        }
    }
    for (name, addresses) in hosts {
        let (code, message) = match addresses.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
            Some(ip) => ("bad-value", format!("{ip} is not the address of a host")),
            None if addresses.is_empty() => ("bad-value", format!("`{name}` has no address")),
            None if addresses.len() > MAX_ADDRESSES => {
                ("out-of-range", format!("{} addresses are more than a name can have", addresses.len()))
            }
            None => continue,
        };
        let hint = format!("give it one address, or up to {MAX_ADDRESSES}");
        find(path_of(&path("hosts"), name), Problem::new(code, message, hint));
    }
    for (name, target) in cnames {
        if let Some(problem) = alias_problem(network, &spec.names, vms, (name, target)) {
            find(path_of(&path("cnames"), name), problem);
        }
    }
    for (domain, servers) in forward {
        if let Some(problem) = forward_problem(network, spec.mode, domain, servers) {
            find(path_of(&path("dns.forward"), domain), problem);
        }
    }
}

fn is_under_weft(name: &DomainName) -> bool {
    name.labels().next_back() == Some(DOMAIN)
}

/// Why nobody else can have this name.
fn name_problem(network: &NetworkName, name: &DomainName, vms: &BTreeSet<&str>) -> Option<Problem> {
    if vms.contains(name.as_str()) && name.as_str() == HOST {
        let message = format!("`{name}` is the name of the host itself on network `{network}`");
        return Some(Problem::new("reserved-name", message, "choose another name"));
    }
    if vms.contains(name.as_str()) {
        let message = format!("`{name}` is the name of a VM on network `{network}`");
        return Some(Problem::new("taken", message, "choose another name, or remove this one"));
    }
    if EVERYWHERE.contains(&name.as_str()) {
        let message = format!("`{name}` means something on each network");
        return Some(Problem::new("reserved-name", message, "choose another name"));
    }
    is_under_weft(name).then(|| {
        let first = name.labels().next().unwrap_or_default();
        let hint = format!("write just `{first}`: it is `{first}.{network}.{DOMAIN}` by itself");
        Problem::new("reserved-name", format!("`{name}`: what ends in `{DOMAIN}` is made of other names"), hint)
    })
}

/// Why a name cannot stand for another one.
fn alias_problem(
    network: &NetworkName,
    names: &DnsNames,
    vms: &BTreeSet<&str>,
    (name, target): (&DomainName, &DomainName),
) -> Option<Problem> {
    let DnsNames { hosts, cnames, .. } = names;
    if hosts.contains_key(name) {
        let message = format!("`{name}` has addresses in `hosts` already, so it cannot stand for `{target}` too");
        return Some(Problem::new("contradiction", message, "remove one of them"));
    }
    let is_known =
        |name: &DomainName| vms.contains(name.as_str()) || name.as_str() == EVERYWHERE[0] || hosts.contains_key(name);
    let mut way = vec![name];
    let mut end = target;
    while let Some(next) = cnames.get(end).filter(|_| !is_known(end)) {
        if way.contains(&end) {
            way.push(end);
            let way: Vec<_> = way.into_iter().map(DomainName::as_str).collect();
            let message = format!("`{name}` leads nowhere: {}", way.join(" -> "));
            return Some(Problem::new("loop", message, "let one of them stand for a VM or a host"));
        }
        way.push(end);
        end = next;
    }
    // An unknown end is told once, where it stands.
    (end == target && !is_known(end)).then(|| {
        let known = || vms.iter().copied().chain(hosts.keys().chain(cnames.keys()).map(DomainName::as_str));
        let hint = match nearest(target.as_str(), known()) {
            Some(word) => format!("did you mean `{word}`?"),
            None if known().next().is_none() => "write a name in `hosts`, or plug a VM into the network".to_owned(),
            None => {
                format!("known are {}", list(&Vec::from_iter(known().collect::<BTreeSet<_>>().into_iter().take(8))))
            }
        };
        Problem::new("no-such-name", format!("nobody on network `{network}` is called `{target}`"), hint)
    })
}

/// Why a domain cannot be asked of these servers.
fn forward_problem(network: &NetworkName, mode: Mode, domain: &DomainName, servers: &[SocketAddr]) -> Option<Problem> {
    if mode != Mode::Nat {
        let message = format!("nothing leaves network `{network}`, so nobody can be asked for `{domain}`");
        return Some(Problem::new("contradiction", message, "write `mode = \"nat\"`, or remove it"));
    }
    if is_under_weft(domain) {
        let message = format!("what ends in `{DOMAIN}` is answered here, so nobody is asked for `{domain}`");
        return Some(Problem::new("reserved-name", message, "remove it"));
    }
    let unusable =
        |server: &&SocketAddr| server.port() == 0 || server.ip().is_unspecified() || server.ip().is_multicast();
    let (code, message) = match servers.iter().find(unusable) {
        Some(server) => ("bad-value", format!("{server} is not the address of a name server")),
        None if servers.is_empty() => ("bad-value", format!("nobody is named who knows `{domain}`")),
        None if servers.len() > MAX_SERVERS => {
            ("out-of-range", format!("{} servers are more than are asked for a domain", servers.len()))
        }
        None => return None,
    };
    Some(Problem::new(code, message, format!("name one server, or up to {MAX_SERVERS}")))
}
