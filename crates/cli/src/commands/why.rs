//! `weft why`: what the switch would do with a packet, and which declarations make it so.

use std::net::{Ipv4Addr, Ipv6Addr};

use weft_api::{ExplainBody, ExplanationView};
use weft_model::Mode;
use weft_model::view::{NetworkView, NicView, PortView, RouterView, WorldView};
use weft_types::{MacAddr, PortName};

use crate::args::PacketArgs;
use crate::commands::own_addresses::{group_mac, has, link_local, own_v6};
use crate::commands::packet::{Ends, Hosts, Packet};
use crate::commands::{Context, frames};
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output::{self, Style};
use crate::table::Table;

pub(crate) async fn run(context: &Context, from: &str, to: &str, asked: PacketArgs) -> Result {
    let world = context.world().await?;
    let (port, frame, sentences) = match &asked.frame {
        Some(text) => {
            let frame = frames::read(text, asked.number)?;
            (captured_at(&world, from, &frame)?, frame, Vec::new())
        }
        None => {
            let question = match to.parse() {
                Ok(target) => Question::find_v6(&world, from, target)?,
                Err(_) => Question::find(&world, from, to)?,
            };
            let packet = Packet::of(asked.traffic.as_ref(), question.hosts)?;
            (question.nic.port.clone(), question.frame(packet), question.sentences(packet, from, to))
        }
    };
    let body = ExplainBody { port, frame: hex(&frame) };
    let mut link = Link::open(&context.paths).await?;
    let explanation = link.ask(async |client| client.explain(&body).await).await?;
    if context.json {
        return output::json(&explanation);
    }
    sentences.iter().for_each(output::say);
    output::data(&render(&explanation))
}

/// The port by which a captured frame comes in: the one of this name, or of a machine the one that has the frame's
/// source address, else its first.
fn captured_at(world: &WorldView, from: &str, frame: &[u8]) -> Result<PortName> {
    if let Some(port) = world.ports.iter().find(|port| port.name.as_str() == from) {
        return Ok(port.name.clone());
    }
    let nics = source_nics(world, from)?;
    let sender = nics.iter().find(|nic| frame.get(6..12) == Some(&nic.mac.octets()));
    let nic = sender.or(nics.first()).ok_or_else(|| no_adapter(from))?;
    Ok(nic.port.clone())
}

fn no_adapter(from: &str) -> Failure {
    Failure::new("no-route", format!("`{from}` has no adapter"), "give it one in its file: nics = [\"NETWORK\"]")
}

/// A packet that somebody would send, and how it would leave its machine.
#[derive(Debug)]
struct Question<'a> {
    nic: &'a NicView,
    hosts: Hosts,
    /// Whom the frame is for.
    next_hop: MacAddr,
    /// Who that is, in words.
    next_hop_is: String,
    /// The target is a machine of ours on other networks: the router that leads there, if one does.
    beyond: Option<Option<&'a RouterView>>,
}

impl<'a> Question<'a> {
    /// By IPv6 nobody is reached but those of the same network: its services are no IPv6 router.
    fn find_v6(world: &'a WorldView, from: &str, target: Ipv6Addr) -> Result<Self> {
        let nics = source_nics(world, from)?;
        let owner_beside =
            |nic: &NicView| world.ports.iter().find(|port| port.network == nic.network && has(port, target.into()));
        let neighbour = nics.iter().find_map(|nic| Some((*nic, owner_beside(nic)?)));
        let (nic, next_hop, next_hop_is) = match (group_mac(target.into()), neighbour) {
            (Some(group), _) => (*nics.first().ok_or_else(|| no_adapter(from))?, group, "a group".to_owned()),
            (None, Some((nic, owner))) => {
                let name = owner.vm.as_ref().map_or_else(|| owner.name.to_string(), ToString::to_string);
                let mac = owner.macs.iter().find(|mac| link_local(**mac) == target).or(owner.macs.first());
                let no_mac = || Failure::new("no-address", format!("port `{}` has no MAC address", owner.name), "");
                (nic, *mac.ok_or_else(no_mac)?, name)
            }
            (None, None) => {
                let title = format!("nobody on a network of `{from}` is known to have {target}");
                let hint = "`weft port show` says which addresses a port was seen to have; a captured frame can be asked \
                            about, too: `--frame FILE`";
                return Err(Failure::new("no-neighbour", title, hint));
            }
        };
        let port = world.ports.iter().find(|port| port.name == nic.port).ok_or_else(|| no_adapter(from))?;
        let hosts = Hosts::V6(own_v6(port, nic.mac, target), target);
        Ok(Self { nic, hosts, next_hop, next_hop_is, beyond: None })
    }

    fn find(world: &'a WorldView, from: &str, to: &str) -> Result<Self> {
        let nics = source_nics(world, from)?;
        let targets = target_addresses(world, to)?;
        // Directly where there is a common network, else across a router, through a gateway otherwise.
        let direct = nics.iter().find_map(|nic| {
            let network = network_of(world, nic)?;
            Some((*nic, *targets.iter().find(|target| network.subnet.contains(*target))?))
        });
        let by_router = || {
            let ways = nics.iter().flat_map(|nic| targets.iter().map(move |target| (*nic, *target)));
            ways.into_iter().find(|(nic, target)| router(world, nic, *target).is_some())
        };
        let by_gateway = || {
            let reaches = |nic: &&&NicView| network_of(world, nic).is_some_and(|n| n.mode == Mode::Nat);
            Some((*nics.iter().find(reaches).or(nics.first())?, *targets.first()?))
        };
        let (nic, target) = direct.or_else(by_router).or_else(by_gateway).ok_or_else(|| no_adapter(from))?;
        let gateway = gateway_port(world, nic);
        let is_gateway = network_of(world, nic).is_some_and(|network| network.gateway == target);
        let neighbour = world.vms.iter().flat_map(|vm| vm.nics.iter().map(move |nic| (vm, nic)));
        let mut neighbour = neighbour.filter(|(_, other)| other.network == nic.network && other.ip == Some(target));
        let host = host_port(world, nic, target).and_then(|port| port.macs.first());
        let (next_hop, next_hop_is) = match (neighbour.next(), host, gateway.and_then(|port| port.macs.first())) {
            (Some((vm, other)), ..) => (other.mac, vm.name.to_string()),
            (None, Some(mac), _) => (*mac, "the host".to_owned()),
            (None, None, Some(mac)) if direct.is_none() || is_gateway => {
                (*mac, format!("the gateway of {}", nic.network))
            }
            _ => {
                let title =
                    format!("nobody has {target} on network `{}`, so `{from}` finds no one to send to", nic.network);
                return Err(Failure::new("no-neighbour", title, "`weft lease ls` lists who has which address"));
            }
        };
        let router = router(world, nic, target);
        let is_machine = to.parse::<Ipv4Addr>().is_err();
        let beyond = (direct.is_none() && (is_machine || router.is_some())).then_some(router);
        let source = nic.ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        Ok(Self { nic, hosts: Hosts::V4(source, target), next_hop, next_hop_is, beyond })
    }

    /// What is asked, in words.
    fn sentences(&self, packet: Packet, from: &str, to: &str) -> Vec<String> {
        let Self { nic, hosts, next_hop, next_hop_is, beyond } = self;
        let (source, target) = (hosts.source(), hosts.target());
        let mut sentences =
            vec![format!("{packet} from {source} to {target} leaves by {} for {next_hop} ({next_hop_is}):", nic.port)];
        if let Some(router) = beyond {
            let sentence = match router {
                Some(router) => {
                    format!("`{from}` and `{to}` share no network: it goes across router `{}`", router.name)
                }
                None => {
                    format!("`{from}` and `{to}` share no network: it goes to the gateway, which joins no networks")
                }
            };
            sentences.push(sentence);
        }
        sentences
    }

    /// The frame.
    fn frame(&self, packet: Packet) -> Vec<u8> {
        packet.frame(&Ends { src: self.nic.mac, dst: self.next_hop, hosts: self.hosts, vlan: None })
    }
}

fn network_of<'a>(world: &'a WorldView, nic: &NicView) -> Option<&'a NetworkView> {
    world.networks.iter().find(|network| network.name == nic.network)
}

/// The router that joins the network of an adapter with the one that has an address.
fn router<'a>(world: &'a WorldView, nic: &NicView, target: Ipv4Addr) -> Option<&'a RouterView> {
    let mut networks = world.networks.iter().filter(|network| network.mode != Mode::Bridged);
    let there = &networks.find(|network| network.subnet.contains(&target))?.name;
    let joins = |router: &&RouterView| router.networks.contains(&nic.network) && router.networks.contains(there);
    world.routers.iter().find(joins).filter(|_| nic.network != *there)
}

fn gateway_port<'a>(world: &'a WorldView, nic: &NicView) -> Option<&'a PortView> {
    world.ports.iter().find(|port| port.network == nic.network && port.vm.is_none() && port.driver == "gateway")
}

/// The port of the host's own adapter that has `target` on an adapter's network.
fn host_port<'a>(world: &'a WorldView, nic: &NicView, target: Ipv4Addr) -> Option<&'a PortView> {
    let (adapter, _) = network_of(world, nic)?.adapters.iter().find(|(_, ip)| **ip == target)?;
    let name = PortName::of_adapter(adapter);
    world.ports.iter().find(|port| port.name == name)
}

/// The adapters of the machine or the port of this name.
fn source_nics<'a>(world: &'a WorldView, from: &str) -> Result<Vec<&'a NicView>> {
    if let Some(vm) = world.vms.iter().find(|vm| vm.name.as_str() == from) {
        return Ok(vm.nics.iter().collect());
    }
    let all = world.vms.iter().flat_map(|vm| &vm.nics);
    match all.into_iter().find(|nic| nic.port.as_str() == from) {
        Some(nic) => Ok(vec![nic]),
        None => {
            let title = format!("there is no machine and no machine's port `{from}`");
            Err(Failure::new("no-such-vm", title, "`weft vm ls` and `weft port ls` list them"))
        }
    }
}

/// The addresses that are meant.
fn target_addresses(world: &WorldView, to: &str) -> Result<Vec<Ipv4Addr>> {
    if let Ok(address) = to.parse() {
        return Ok(vec![address]);
    }
    let Some(vm) = world.vms.iter().find(|vm| vm.name.as_str() == to) else {
        let adapters: Vec<_> = world.networks.iter().flat_map(|network| network.adapters.values().copied()).collect();
        if to == "host" && !adapters.is_empty() {
            return Ok(adapters);
        }
        let title = format!("`{to}` is neither a machine nor an IP address");
        return Err(Failure::new("no-such-vm", title, "`weft vm ls` lists the machines"));
    };
    let addresses: Vec<_> = vm.nics.iter().filter_map(|nic| nic.ip).collect();
    match addresses.is_empty() {
        false => Ok(addresses),
        true => Err(Failure::new("no-address", format!("`{to}` holds no address"), "is it ready? see `weft vm ls`")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An explanation: the steps, the verdict, and the ways out.
pub(crate) fn render(explanation: &ExplanationView) -> String {
    let mut table = Table::plain();
    for step in &explanation.steps {
        let because = step.because.as_ref().map(|place| format!("  ({place})")).unwrap_or_default();
        table.row([Style::Dim.paint(&step.stage), format!("{}{because}", step.finding)]);
    }
    let leaves = match &explanation.egress[..] {
        [] => String::new(),
        ports => format!("\nit leaves by {}", output::list(ports)),
    };
    format!("{}{}{leaves}\n", table.render(), Style::Bold.paint(&explanation.verdict))
}
