//! What the switch of a file is asked while it runs: what it would do, what it dropped, and what passes.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use weft_control::{history_view, port_views};
use weft_dataplane_protocol::{CaptureRequest, ExplainRequest, Request, Response};
use weft_model::view::{HistoryView, PortView};
use weft_types::{IpNet, MacAddr, Native, PortName, PortVlans, VlanId};

use crate::args::{CaptureArgs, PacketArgs};
use crate::commands::own_addresses::{group_mac, has, own_v6};
use crate::commands::packet::{Ends, Hosts, Packet};
use crate::commands::switch::{answered, ask, connect, nonsense, status};
use crate::commands::{Context, capture, drops as dropped, frames, why as explained};
use crate::failure::{Failure, Result};
use crate::output;

/// Addresses for hosts of which none is known (TEST-NET-1, RFC 5737).
const NOBODYS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// What would become of a packet.
pub(crate) fn why(context: &Context, path: &Path, from: &PortName, to: &str, asked: &PacketArgs) -> Result {
    let (frame, sentence) = match &asked.frame {
        Some(text) => (frames::read(text, asked.number)?, None),
        None => {
            let ports = port_views(&status(context, path)?);
            let (ends, to) = ends(&ports, from, to)?;
            let packet = Packet::of(asked.traffic.as_ref(), ends.hosts)?;
            let (source, target) = (ends.hosts.source(), ends.hosts.target());
            (packet.frame(&ends), Some(format!("{packet} from {source} to {target} comes in by {from} for {to}:")))
        }
    };
    match ask(context, path, &Request::Explain(ExplainRequest { port: from.clone(), frame }))? {
        Response::Explained(explanation) if context.json => output::json(&weft_api::ExplanationView::from(explanation)),
        Response::Explained(explanation) => {
            sentence.into_iter().for_each(output::say);
            output::data(&explained::render(&explanation.into()))
        }
        other => Err(nonsense(&other)),
    }
}

/// Between whom a packet from a port to a port, a station or an address is, and the receiver in words.
fn ends(ports: &[PortView], from: &PortName, to: &str) -> Result<(Ends, String)> {
    let port = |name: &str| ports.iter().find(|port| port.name.as_str() == name);
    let sender = port(from.as_str()).ok_or_else(|| {
        Failure::new("no-such-port", format!("there is no port `{from}`"), "`weft switch show FILE` lists them")
    })?;
    let owner = |address: &IpAddr| ports.iter().find(|port| has(port, *address));
    let no_mac = |name: &PortName| {
        let title = format!("port `{name}` has no MAC address of its own");
        Failure::new("no-address", title, "name the MAC address that is meant, or show a frame: `--frame HEX`")
    };
    let (receiver, dst, target) = if let Some(receiver) = port(to) {
        let mac = receiver.macs.first().ok_or_else(|| no_mac(&receiver.name))?;
        (Some(receiver), *mac, address(receiver).unwrap_or(NOBODYS[1]).into())
    } else if let Ok(mac) = to.parse::<MacAddr>() {
        (None, mac, NOBODYS[1].into())
    } else if let Ok(target) = to.parse::<IpAddr>() {
        match (owner(&target), group_mac(target)) {
            (_, Some(group)) => (None, group, target),
            (Some(receiver), _) => {
                (Some(receiver), *receiver.macs.first().ok_or_else(|| no_mac(&receiver.name))?, target)
            }
            (None, None) => {
                let title = format!("no port is known to have the address {target}");
                return Err(Failure::new("no-neighbour", title, "name the port, or the MAC address that is meant"));
            }
        }
    } else {
        let title = format!("`{}` is neither a port nor a MAC address nor an IP address", to.escape_debug());
        return Err(Failure::new("no-such-port", title, "`weft switch show FILE` lists the ports"));
    };
    let src = *sender.macs.first().ok_or_else(|| no_mac(&sender.name))?;
    let ends = Ends {
        src,
        dst,
        hosts: match target {
            IpAddr::V4(target) => Hosts::V4(address(sender).unwrap_or(NOBODYS[0]), target),
            IpAddr::V6(target) => Hosts::V6(own_v6(sender, src, target), target),
        },
        vlan: tag(&sender.vlans, receiver.map(|receiver| &receiver.vlans)),
    };
    Ok((ends, receiver.map_or_else(|| dst.to_string(), |receiver| format!("{dst} ({})", receiver.name))))
}

/// An IPv4 address that is a port's own: one that was seen, or the first for a host of those that were configured.
fn address(port: &PortView) -> Option<Ipv4Addr> {
    let seen = port.learned.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let configured = port.addresses.iter().flatten().find_map(|prefix| match prefix {
        IpNet::V4(prefix) => prefix.hosts().next(),
        IpNet::V6(_) => None,
    });
    seen.or(configured)
}

/// The VLAN with which a port would tag a frame for another: where both are, if it is a trunk.
fn tag(sender: &PortVlans, receiver: Option<&PortVlans>) -> Option<VlanId> {
    let PortVlans::Trunk { allowed, native } = sender else { return None };
    let tagged = |vlan: VlanId| (*native != Some(Native::Vlan(vlan))).then_some(vlan);
    match receiver {
        Some(PortVlans::Untagged) => None,
        Some(PortVlans::Access { vlan }) => tagged(*vlan),
        Some(PortVlans::Trunk { allowed: others, .. }) => {
            allowed.iter().find(|vlan| others.contains(*vlan)).and_then(tagged)
        }
        None if native.is_some() => None,
        None => allowed.iter().next(),
    }
}

/// The frames that were dropped last.
pub(crate) fn drops(context: &Context, path: &Path, port: Option<&PortName>) -> Result {
    let mut history = history(context, path)?;
    history.drops.retain(|frame| port.is_none_or(|port| frame.port == *port));
    dropped::show(context, &history.drops)
}

/// What rules decided last that say so.
pub(crate) fn log(context: &Context, path: &Path, port: Option<&PortName>) -> Result {
    let mut history = history(context, path)?;
    history.log.retain(|decision| port.is_none_or(|port| decision.from == *port || decision.to == *port));
    dropped::show_log(context, &history)
}

fn history(context: &Context, path: &Path) -> Result<HistoryView> {
    match ask(context, path, &Request::History)? {
        Response::History(history) => Ok(history_view(history)),
        other => Err(nonsense(&other)),
    }
}

/// Copies of frames; without ports, of all.
pub(crate) fn record(context: &Context, path: &Path, ports: Vec<PortName>, options: &CaptureArgs) -> Result {
    let target = capture::target(options, &format!("weft switch capture {}", path.display()))?;
    let networks = match ports.is_empty() {
        true => status(context, path)?.ports.into_iter().map(|port| port.network).take(1).collect(),
        false => Vec::new(),
    };
    let request = CaptureRequest {
        ports,
        networks,
        vlans: options.vlan.iter().flat_map(|vlans| vlans.iter()).collect(),
        direction: options.direction,
        filter: options.filter.clone(),
        snap_bytes: options.snap,
    };
    let failed = |error: std::io::Error| Failure::of("capture", &error, "");
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut client = connect(context, path)?;
    match answered(client.call_with(&Request::Capture(request), &[theirs.as_fd()]))? {
        Response::Done => {}
        other => return Err(nonsense(&other)),
    }
    drop((client, theirs));
    capture::pass_on(ours.try_clone().map_err(failed)?, &ours, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trunks_tag_what_is_not_native() {
        let vlan = |raw: u16| VlanId::try_from(raw).unwrap();
        let trunk = |native| PortVlans::Trunk { allowed: [vlan(10), vlan(20)].into_iter().collect(), native };
        let access = |raw| PortVlans::Access { vlan: vlan(raw) };
        let native = Some(Native::Vlan(vlan(10)));
        assert_eq!(tag(&access(10), Some(&access(10))), None);
        assert_eq!(tag(&trunk(native), Some(&access(10))), None);
        assert_eq!(tag(&trunk(native), Some(&access(20))), Some(vlan(20)));
        assert_eq!(tag(&trunk(native), None), None);
        assert_eq!(tag(&trunk(None), None), Some(vlan(10)));
        assert_eq!(tag(&trunk(None), Some(&trunk(native))), Some(vlan(10)));
    }
}
