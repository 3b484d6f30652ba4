//! `weft why`: what the switch would do with a packet, and which declarations make it so.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use weft_api::{ExplainBody, ExplanationView};
use weft_model::view::{NetworkView, NicView, PortView, WorldView};
use weft_types::{MacAddr, Traffic};

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output::{self, Style};
use crate::table::Table;

/// The port that a sender has who chose none (RFC 6335: the first dynamic one).
const SENDERS_PORT: u16 = 49_152;

/// The port that is meant where none is named (RFC 863).
const DISCARD: u16 = 9;

pub(crate) async fn run(context: &Context, from: &str, to: &str, traffic: Option<Traffic>) -> Result {
    let world = context.world().await?;
    let question = Question::find(&world, from, to, Packet::of(traffic.as_ref()))?;
    let body = ExplainBody { port: question.nic.port.clone(), frame: hex(&question.frame()) };
    let mut link = Link::open(&context.paths).await?;
    let explanation = link.ask(async |client| client.explain(&body).await).await?;
    if context.json {
        return output::json(&explanation);
    }
    output::say(question.sentence());
    if question.shares_no_network {
        output::say(format!("`{from}` and `{to}` share no network: it goes to the gateway, which joins no networks"));
    }
    output::data(&render(&explanation))
}

/// A packet that somebody would send, and how it would leave its machine.
#[derive(Debug)]
struct Question<'a> {
    nic: &'a NicView,
    source: Ipv4Addr,
    target: Ipv4Addr,
    packet: Packet,
    /// Whom the frame is for.
    next_hop: MacAddr,
    /// Who that is, in words.
    next_hop_is: String,
    /// Whether the target is a machine of ours on other networks.
    shares_no_network: bool,
}

impl<'a> Question<'a> {
    fn find(world: &'a WorldView, from: &str, to: &str, packet: Packet) -> Result<Self> {
        let nics = source_nics(world, from)?;
        let targets = target_addresses(world, to)?;
        // Directly where there is a common network, through a gateway otherwise.
        let direct = nics.iter().find_map(|nic| {
            let network = network_of(world, nic)?;
            Some((*nic, *targets.iter().find(|target| network.subnet.contains(*target))?))
        });
        let by_gateway = || {
            let reaches = |nic: &&&NicView| network_of(world, nic).is_some_and(|n| n.mode == weft_model::Mode::Nat);
            Some((*nics.iter().find(reaches).or(nics.first())?, *targets.first()?))
        };
        let (nic, target) = direct.or_else(by_gateway).ok_or_else(|| {
            Failure::new(
                "no-route",
                format!("`{from}` has no adapter"),
                "give it one in its file: nics = [\"NETWORK\"]",
            )
        })?;
        let gateway = gateway_port(world, nic);
        let is_gateway = network_of(world, nic).is_some_and(|network| network.gateway == target);
        let neighbour = world.vms.iter().flat_map(|vm| vm.nics.iter().map(move |nic| (vm, nic)));
        let mut neighbour = neighbour.filter(|(_, other)| other.network == nic.network && other.ip == Some(target));
        let (next_hop, next_hop_is) = match (neighbour.next(), gateway.and_then(|port| port.macs.first())) {
            (Some((vm, other)), _) => (other.mac, vm.name.to_string()),
            (None, Some(mac)) if direct.is_none() || is_gateway => (*mac, format!("the gateway of {}", nic.network)),
            _ => {
                let title =
                    format!("nobody has {target} on network `{}`, so `{from}` finds no one to send to", nic.network);
                return Err(Failure::new("no-neighbour", title, "`weft lease ls` lists who has which address"));
            }
        };
        let shares_no_network = direct.is_none() && to.parse::<Ipv4Addr>().is_err();
        let source = nic.ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        Ok(Self { nic, source, target, packet, next_hop, next_hop_is, shares_no_network })
    }

    fn sentence(&self) -> String {
        let Self { nic, source, target, packet, next_hop, next_hop_is, .. } = self;
        format!("{packet} from {source} to {target} leaves by {} for {next_hop} ({next_hop_is}):", nic.port)
    }

    /// The frame: Ethernet II, IPv4 (RFC 791), and the packet.
    fn frame(&self) -> Vec<u8> {
        let body = self.packet.body(self.source, self.target);
        let length = (20 + body.len()) as u16;
        let mut ip = vec![0x45, 0];
        ip.extend(length.to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, self.packet.protocol, 0, 0]);
        ip.extend(self.source.octets());
        ip.extend(self.target.octets());
        let mut frame = Vec::from(self.next_hop.octets());
        frame.extend(self.nic.mac.octets());
        frame.extend([8, 0]);
        frame.extend(with_checksum(ip, 10));
        frame.extend(body);
        frame.resize(frame.len().max(60), 0);
        frame
    }
}

/// What is in an IPv4 packet, as the first of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    protocol: u8,
    /// Of a protocol with ports: the sender's, and the receiver's.
    ports: (u16, u16),
    /// Of ICMP.
    kind: u8,
}

impl Packet {
    /// One that is such traffic; a ping if nothing is said.
    fn of(traffic: Option<&Traffic>) -> Self {
        let packet = Self { protocol: 1, ports: (SENDERS_PORT, DISCARD), kind: 8 };
        // Of a range, its first is as good as any; a port of 0 says nothing.
        let first =
            |range: &RangeInclusive<u16>, default| if range.contains(&default) { default } else { *range.start() };
        match traffic {
            None | Some(Traffic::Any) => packet,
            Some(Traffic::Protocol { protocol }) => Self { protocol: *protocol, ..packet },
            Some(Traffic::Icmp { protocol, kind }) => Self { protocol: *protocol, kind: *kind, ..packet },
            Some(Traffic::Ports { protocol, src, dst }) => {
                Self { protocol: *protocol, ports: (first(src, SENDERS_PORT), first(dst, DISCARD)), ..packet }
            }
        }
    }

    /// The bytes behind the IP header.
    fn body(self, source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let (src, dst) = (self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes());
        let ports = [src, dst].concat();
        // RFC 9293, RFC 768: the checksum is over the addresses, too.
        let transport = |body: Vec<u8>, at: usize| {
            let length = (body.len() as u16).to_be_bytes();
            let pseudo = [&source.octets()[..], &target.octets(), &[0, self.protocol], &length].concat();
            let head = pseudo.len();
            with_checksum([pseudo, body].concat(), head + at).split_off(head)
        };
        match self.protocol {
            6 => transport([&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]].concat(), 16),
            17 => transport([&ports[..], &[0, 8, 0, 0]].concat(), 6),
            1 => with_checksum(vec![self.kind, 0, 0, 0, 0, 1, 0, 1], 2), // RFC 792
            protocol if Traffic::has_ports(protocol) => [&ports[..], &[0; 8]].concat(),
            _ => vec![0; 8],
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            1 if self.kind == 8 => f.write_str("a ping"),
            1 => write!(f, "an ICMP message of type {}", self.kind),
            protocol if Traffic::has_ports(protocol) => {
                let traffic = Traffic::Ports { protocol, src: Traffic::ALL_PORTS, dst: self.ports.1..=self.ports.1 };
                write!(f, "{traffic}")
            }
            protocol => write!(f, "a packet of {}", Traffic::Protocol { protocol }),
        }
    }
}

fn network_of<'a>(world: &'a WorldView, nic: &NicView) -> Option<&'a NetworkView> {
    world.networks.iter().find(|network| network.name == nic.network)
}

fn gateway_port<'a>(world: &'a WorldView, nic: &NicView) -> Option<&'a PortView> {
    world.ports.iter().find(|port| port.network == nic.network && port.vm.is_none() && port.driver == "gateway")
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
        let title = format!("`{to}` is neither a machine nor an IPv4 address");
        return Err(Failure::new("no-such-vm", title, "`weft vm ls` lists the machines"));
    };
    let addresses: Vec<_> = vm.nics.iter().filter_map(|nic| nic.ip).collect();
    match addresses.is_empty() {
        false => Ok(addresses),
        true => Err(Failure::new("no-address", format!("`{to}` holds no address"), "is it ready? see `weft vm ls`")),
    }
}

/// The bytes with the Internet checksum (RFC 1071) over them at `at`, where there were zeros.
fn with_checksum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    bytes[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn render(explanation: &ExplanationView) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_a_ping() {
        let nic = NicView {
            network: "office".parse().unwrap(),
            port: "web-0".parse().unwrap(),
            mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
            ip: None,
        };
        let question = Question {
            nic: &nic,
            source: Ipv4Addr::new(10, 20, 0, 10),
            target: Ipv4Addr::new(10, 20, 0, 11),
            packet: Packet::of(None),
            next_hop: MacAddr::new([2, 0, 0, 0, 0, 2]),
            next_hop_is: String::new(),
            shares_no_network: false,
        };
        let frame = question.frame();
        let sums_up = |bytes: &[u8]| {
            let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            (sum >> 16) + (sum & 0xffff) == 0xffff
        };
        assert_eq!(frame.len(), 60);
        assert_eq!(hex(&frame[..14]), "0200000000020200000000010800");
        assert!(sums_up(&frame[14..34]) && sums_up(&frame[34..42]));
        assert_eq!(frame[26..34], [10, 20, 0, 10, 10, 20, 0, 11]);
    }

    #[test]
    fn what_rules_can_say_can_be_asked() {
        let check = |text: &str, bytes: usize, sentence: &str| {
            let packet = Packet::of(Some(&weft_model::parse_traffic(text).unwrap()));
            let body = packet.body(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
            assert_eq!((body.len(), packet.to_string().as_str()), (bytes, sentence));
            (packet, body)
        };
        let (packet, body) = check("tcp/5432", 20, "tcp/5432");
        assert_eq!((packet.ports, &body[..4], body[13]), ((49_152, 5432), &[0xc0, 0, 0x15, 0x38][..], 2));
        assert_eq!(check("udp/1000-2000 from 53", 8, "udp/1000").0.ports, (53, 1000));
        check("udp", 8, "udp/9");
        check("icmp/echo", 8, "a ping");
        check("icmp/3", 8, "an ICMP message of type 3");
        check("gre", 8, "a packet of gre");
        check("sctp/9", 12, "sctp/9");
    }
}
