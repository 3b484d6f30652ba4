//! `weft names`: which names there are, and how this host finds them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, ToSocketAddrs as _};
use std::path::Path;

use serde::Serialize;
use weft_model::view::WorldView;

use crate::commands::{Context, ls};
use crate::failure::Result;
use crate::output;
use crate::table::Table;

/// The socket by which programs ask systemd-resolved; it is there while that runs (systemd-resolved.service(8)).
const RESOLVED: &str = "/run/systemd/resolve/io.systemd.Resolve";

/// What is shown.
#[derive(Serialize)]
struct Names {
    /// Where they are asked for, by UDP; `None` where nothing answers names.
    address: Option<SocketAddrV4>,
    /// Whether programs of this host find them already.
    found: bool,
    /// What has this host's resolver ask there.
    hint: Option<String>,
    names: Vec<Named>,
}

/// A name and what it stands for.
#[derive(Serialize)]
struct Named {
    name: String,
    ip: Ipv4Addr,
}

/// Who resolves names for this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolver {
    Systemd,
    /// A server of the host's own, which may be told of domains.
    Own,
    /// Servers elsewhere, which know nothing of this host.
    Elsewhere,
}

pub(crate) async fn run(context: &Context) -> Result {
    let world = context.world().await?;
    let address = world.switch.as_ref().and_then(|switch| switch.host_names);
    let names = names(&world);
    let known = names.first().map(|named| (named.name.clone(), named.ip));
    let found = match (known, address) {
        (Some((name, ip)), Some(_)) => tokio::task::spawn_blocking(move || finds(&name, ip)).await.unwrap_or(false),
        _ => false,
    };
    let resolv_conf = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolver = resolver(Path::new(RESOLVED).exists(), &resolv_conf);
    let hint = address.filter(|_| !found).map(|address| hint(resolver, address));
    let shown = Names { address, found, hint, names };
    if context.json {
        return output::json(&shown);
    }
    let mut table = Table::new(&["NAME", "ADDRESS"]);
    for named in &shown.names {
        table.row([named.name.clone(), named.ip.to_string()]);
    }
    output::data(&table.render())?;
    match (&shown.address, &shown.hint) {
        (None, _) => output::say("no network answers names here"),
        (Some(_), None) => output::say("this host finds them by name"),
        (Some(address), Some(hint)) => {
            output::say(format!("they are answered at {address} (UDP) on this host; {hint}"))
        }
    }
    ls::say_notes(&world);
    Ok(())
}

/// The names of all that has an address: gateways first, then machines.
fn names(world: &WorldView) -> Vec<Named> {
    let networks = world.networks.iter().filter(|network| network.uplink.is_none());
    let gateways =
        networks.map(|network| Named { name: format!("gateway.{}.weft", network.name), ip: network.gateway });
    let adapters = world.vms.iter().flat_map(|vm| vm.nics.iter().map(move |nic| (vm, nic)));
    let machines =
        adapters.filter_map(|(vm, nic)| Some(Named { name: format!("{}.{}.weft", vm.name, nic.network), ip: nic.ip? }));
    gateways.chain(machines).collect()
}

/// Whether programs of this host find the address of a name.
fn finds(name: &str, ip: Ipv4Addr) -> bool {
    let found = (name, 0).to_socket_addrs();
    found.is_ok_and(|mut found| found.any(|address| address.ip() == IpAddr::V4(ip)))
}

/// Who resolves names, by what stands in `/etc/resolv.conf`.
fn resolver(has_resolved: bool, resolv_conf: &str) -> Resolver {
    let servers = resolv_conf.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    let own = servers.filter(IpAddr::is_loopback).collect::<Vec<_>>();
    let is_stub = |ip: &IpAddr| [[127, 0, 0, 53], [127, 0, 0, 54]].iter().any(|stub| *ip == IpAddr::from(*stub));
    match has_resolved && (own.is_empty() || own.iter().any(is_stub)) {
        true => Resolver::Systemd,
        false if own.is_empty() => Resolver::Elsewhere,
        false => Resolver::Own,
    }
}

/// What has this host's resolver ask at an address for names of machines.
fn hint(resolver: Resolver, address: SocketAddrV4) -> String {
    let (ip, port) = (address.ip(), address.port());
    match resolver {
        Resolver::Systemd => format!(
            "to have this host find them by name, run: sudo sh -c 'mkdir -p /etc/systemd/resolved.conf.d && printf \
             \"[Resolve]\\nDNS={address}\\nDomains=~weft\\n\" > /etc/systemd/resolved.conf.d/weft.conf && systemctl restart \
             systemd-resolved'"
        ),
        Resolver::Own => format!(
            "to have this host find them by name, tell its name server: in dnsmasq that is the line \
             `server=/weft/{ip}#{port}`"
        ),
        Resolver::Elsewhere => format!(
            "this host's name servers are elsewhere and cannot know them; with systemd-resolved or dnsmasq on this host they \
             can be found by name, and without: dig @{ip} -p {port} NAME"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_resolves_names() {
        for (has_resolved, resolv_conf, expected) in [
            (true, "# stub\nnameserver 127.0.0.53\noptions edns0\n", Resolver::Systemd),
            (true, "nameserver 192.0.2.1\n", Resolver::Systemd),
            (true, "nameserver 127.0.0.1\n", Resolver::Own),
            (false, "nameserver 127.0.0.1\nnameserver 192.0.2.1\n", Resolver::Own),
            (false, "nameserver ::1\n", Resolver::Own),
            (false, "nameserver 192.0.2.1\nnameserver 2001:db8::1\n", Resolver::Elsewhere),
            (false, "", Resolver::Elsewhere),
        ] {
            assert_eq!(resolver(has_resolved, resolv_conf), expected, "{resolv_conf:?}");
        }
    }

    #[test]
    fn the_line_names_address_and_port() {
        let address = "127.87.1.2:5300".parse().unwrap();
        assert!(hint(Resolver::Systemd, address).contains("DNS=127.87.1.2:5300\\nDomains=~weft\\n"));
        assert!(hint(Resolver::Own, address).contains("server=/weft/127.87.1.2#5300"));
        assert!(hint(Resolver::Elsewhere, address).contains("dig @127.87.1.2 -p 5300"));
    }
}
