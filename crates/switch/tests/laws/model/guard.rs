//! Law 5: what ports may say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_switch::{Addresses, DropReason, PortConfig, Role, VSwitchId};
use weft_types::{MacAddr, PortId};

use super::{Model, vlan};

/// An address that a port was seen to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    vswitch: VSwitchId,
    segment: u16,
    address: IpAddr,
    port: PortId,
}

/// A packet's kind and sender, as a host would read them.
pub(crate) struct Packet<'a> {
    pub(crate) src: Option<IpAddr>,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    /// Set when it is a piece and not the first.
    pub(crate) is_later: bool,
    pub(crate) is_piece: bool,
    /// What follows the IP headers, as far as it can be seen; `None` when it cannot be found.
    pub(crate) transport: Option<&'a [u8]>,
    /// Where the packet should end, from its first byte, against how much is there.
    pub(crate) is_cut: bool,
}

pub(crate) fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// The packet in `payload`, which follows `ethertype`; `None` when hosts would not take it for one.
pub(crate) fn packet(ethertype: u16, payload: &[u8]) -> Option<Packet<'_>> {
    match ethertype {
        0x0800 if payload.len() >= 20 && payload[0] >> 4 == 4 && payload[0] & 15 >= 5 => {
            let place = be16(&payload[6..]) & 0x3fff;
            let transport = payload.get(usize::from(payload[0] & 15) * 4..).filter(|rest| rest.len() >= 4);
            let src = Ipv4Addr::from(<[u8; 4]>::try_from(&payload[12..16]).unwrap());
            Some(Packet {
                src: Some(src.into()),
                dst: Ipv4Addr::from(<[u8; 4]>::try_from(&payload[16..20]).unwrap()).into(),
                protocol: payload[9],
                is_later: place & 0x1fff != 0,
                is_piece: place != 0,
                transport,
                is_cut: false,
            })
        }
        0x86dd if payload.len() >= 40 && payload[0] >> 4 == 6 => {
            let end = 40 + usize::from(be16(&payload[4..]));
            let visible = &payload[..end.min(payload.len()).max(40)];
            let src = Ipv6Addr::from(<[u8; 16]>::try_from(&payload[8..24]).unwrap());
            let mut packet = Packet {
                src: Some(src.into()),
                dst: Ipv6Addr::from(<[u8; 16]>::try_from(&payload[24..40]).unwrap()).into(),
                protocol: payload[6],
                is_later: false,
                is_piece: false,
                transport: None,
                is_cut: end > payload.len(),
            };
            let mut at = 40;
            for _ in 0..9 {
                if ![0, 43, 44, 60].contains(&packet.protocol) {
                    if payload.len() >= at + 4 {
                        packet.transport = Some(visible.get(at..).unwrap_or_default());
                        // Its first four bytes are read even where the packet says that they are not its own.
                        if visible.len() < at + 4 {
                            packet.transport = Some(&payload[at..at + 4]);
                        }
                    }
                    break;
                }
                let Some(header) = payload.get(at..at + 8) else { break };
                at += 8;
                if packet.protocol == 44 {
                    let place = be16(&header[2..]);
                    packet.is_later = place & 0xfff8 != 0;
                    packet.is_piece |= place & 0xfff9 != 0;
                } else {
                    at += usize::from(header[1]) * 8;
                }
                packet.protocol = header[0];
                if packet.is_later {
                    break;
                }
            }
            Some(packet)
        }
        _ => None,
    }
}

impl Model {
    fn owns(&self, port: &PortConfig, segment: u16, src: MacAddr, address: IpAddr) -> bool {
        let Addresses::Known { fixed, .. } = &port.addresses else {
            return !self.is_fixed_elsewhere(port, segment, address);
        };
        let [a, b, c, d, e, f] = src.octets();
        let own = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        let binding = Binding { vswitch: port.vswitch, segment, address, port: port.id };
        fixed.iter().any(|prefix| prefix.contains(&address)) || self.bindings.contains(&binding) || address == own
    }

    fn is_fixed_elsewhere(&self, port: &PortConfig, segment: u16, address: IpAddr) -> bool {
        let others = self.config.ports.iter().filter(|other| {
            other.id != port.id && other.vswitch == port.vswitch && vlan::carries(&other.vlans, segment)
        });
        others.into_iter().any(|other| {
            let Addresses::Known { fixed, .. } = &other.addresses else { return false };
            fixed.iter().any(|prefix| prefix.addr() == address && prefix.prefix_len() == prefix.max_prefix_len())
        })
    }

    fn bind(&mut self, port: &PortConfig, segment: u16, address: IpAddr, may_take: bool) {
        let limit = limit(port);
        let binding = Binding { vswitch: port.vswitch, segment, address, port: port.id };
        let place = |other: &Binding| (other.vswitch, other.segment, other.address) == (port.vswitch, segment, address);
        let is_unspecified = address.is_unspecified();
        if limit == 0 || is_unspecified || self.is_fixed_elsewhere(port, segment, address) {
            return;
        }
        if self.bindings.contains(&binding) || !may_take && self.bindings.iter().any(place) {
            return;
        }
        self.bindings.retain(|other| !place(other));
        self.bindings.push(binding);
        self.trim(port.id, limit);
    }

    /// Takes a port's oldest addresses away.
    fn trim(&mut self, port: PortId, limit: usize) {
        while self.bindings.iter().filter(|binding| binding.port == port).count() > limit {
            let oldest = self.bindings.iter().position(|binding| binding.port == port).unwrap();
            self.bindings.remove(oldest);
        }
    }

    /// After a new configuration: what is still so.
    pub(crate) fn keep_bindings(&mut self) {
        let before = std::mem::take(&mut self.bindings);
        for binding in before {
            let port = self.config.ports.iter().find(|port| port.id == binding.port).cloned();
            let keeps = port.is_some_and(|port| {
                port.vswitch == binding.vswitch
                    && vlan::carries(&port.vlans, binding.segment)
                    && !self.is_fixed_elsewhere(&port, binding.segment, binding.address)
            });
            if keeps {
                self.bindings.push(binding);
            }
        }
        for port in self.config.ports.clone() {
            self.trim(port.id, limit(&port));
        }
    }

    /// Whether a port may say what this frame says.
    pub(crate) fn guard(&mut self, port: &PortConfig, segment: u16, frame: &[u8]) -> Result<(), DropReason> {
        let src = MacAddr::new(frame[6..12].try_into().unwrap());
        let at = if vlan::is_tag(&frame[12..]) { 16 } else { 12 };
        let (ethertype, payload) = (be16(&frame[at..]), &frame[at + 2..]);
        let is_trusted = matches!(port.role, Role::Gateway | Role::Uplink);
        if ethertype == 0x0806 {
            return if is_trusted { Ok(()) } else { self.guard_arp(port, segment, src, payload) };
        }
        let Some(packet) = packet(ethertype, payload) else { return Ok(()) };
        let is_v6 = ethertype == 0x86dd;
        let transport = packet.transport.filter(|_| !packet.is_later).unwrap_or_default();
        let is_udp = packet.protocol == 17 && !transport.is_empty();
        let is_client = is_udp && !is_v6 && be16(transport) == 68 && be16(&transport[2..]) == 67;
        let is_server = is_udp && be16(transport) == if is_v6 { 547 } else { 67 };
        if is_server && !is_trusted && !port.policy.dhcp_server {
            return Err(DropReason::RogueDhcpServer);
        }
        if is_trusted {
            self.lease(port, segment, is_v6, is_udp, transport);
            return Ok(());
        }
        let mut may_start = is_client;
        if is_v6 && packet.transport.is_none() && !packet.is_later {
            if !(port.policy.dhcp_server && port.policy.router_advertisements) {
                return Err(DropReason::Unreadable);
            }
        } else if is_v6 && packet.protocol == 58 && !packet.is_later {
            may_start = matches!(transport[0], 130..=133 | 135 | 136 | 143);
            match transport[0] {
                134 | 137 if !port.policy.router_advertisements => return Err(DropReason::RogueRouter),
                133 | 135 | 136 if !port.policy.forged_neighbours => {
                    self.guard_neighbour(port, segment, src, &packet, transport)?;
                }
                _ => {}
            }
        }
        let Some(address) = packet.src else { return Ok(()) };
        let is_start = may_start && address.is_unspecified();
        if port.policy.forged_ips || is_start || self.owns(port, segment, src, address) {
            self.lease(port, segment, is_v6, is_udp, transport);
            return Ok(());
        }
        Err(if is_v6 { DropReason::ForgedIpv6 } else { DropReason::ForgedIpv4 })
    }

    /// Whether a port gets such a packet: the host by its adapter only what is for itself.
    pub(crate) fn hears_ip(
        &self,
        port: &PortConfig,
        segment: u16,
        dst: MacAddr,
        frame: &[u8],
    ) -> Result<(), DropReason> {
        let at = if vlan::is_tag(&frame[12..]) { 16 } else { 12 };
        let Some(packet) = packet(be16(&frame[at..]), &frame[at + 2..]) else { return Ok(()) };
        let is_group = packet.dst.is_multicast() || packet.dst == Ipv4Addr::BROADCAST;
        if !is_end(port) || is_group || self.owns(port, segment, dst, packet.dst) {
            return Ok(());
        }
        Err(DropReason::NotForHost)
    }

    /// A DHCP server gives an address to another port.
    fn lease(&mut self, port: &PortConfig, segment: u16, is_v6: bool, is_udp: bool, transport: &[u8]) {
        let is_reply = !is_v6 && is_udp && be16(transport) == 67;
        if !is_reply || transport.len() < 42 || transport[8..11] != [2, 1, 6] {
            return;
        }
        let address = Ipv4Addr::from(<[u8; 4]>::try_from(&transport[24..28]).unwrap());
        let mac = MacAddr::new(transport[36..42].try_into().unwrap());
        let clients = self.config.ports.clone().into_iter().filter(|client| client.vswitch == port.vswitch);
        let client = clients.into_iter().find(|client| self.is_registered(client, segment, mac));
        if let Some(client) = client.filter(|client| client.id != port.id) {
            self.bind(&client, segment, address.into(), true);
        }
    }

    fn guard_arp(&mut self, port: &PortConfig, segment: u16, src: MacAddr, arp: &[u8]) -> Result<(), DropReason> {
        if port.policy.forged_arp {
            return Ok(());
        }
        let is_arp = arp.len() >= 28 && arp[..7] == [0, 1, 8, 0, 6, 4, 0] && [1, 2].contains(&arp[7]);
        if !is_arp || arp[8..14] != src.octets() {
            return Err(DropReason::ForgedArp);
        }
        let [sender, target] = [14, 24].map(|at| Ipv4Addr::from(<[u8; 4]>::try_from(&arp[at..at + 4]).unwrap()));
        if sender.is_unspecified() {
            self.bind(port, segment, target.into(), false);
        } else if !self.owns(port, segment, src, sender.into()) {
            return Err(DropReason::ForgedArp);
        }
        Ok(())
    }

    fn guard_neighbour(
        &mut self,
        port: &PortConfig,
        segment: u16,
        src: MacAddr,
        packet: &Packet<'_>,
        message: &[u8],
    ) -> Result<(), DropReason> {
        let forged = Err(DropReason::ForgedNeighbour);
        let options_at = if message[0] == 133 { 8 } else { 24 };
        if packet.is_piece || packet.is_cut || message.len() < options_at {
            return forged;
        }
        let mut options = &message[options_at..];
        while !options.is_empty() {
            let len = options.get(1).map_or(0, |len| usize::from(*len) * 8);
            if len == 0 || len > options.len() || [1, 2].contains(&options[0]) && options[2..8] != src.octets() {
                return forged;
            }
            options = &options[len..];
        }
        if message[0] == 133 {
            return Ok(());
        }
        let target = Ipv6Addr::from(<[u8; 16]>::try_from(&message[8..24]).unwrap());
        if message[0] == 135 && packet.src == Some(Ipv6Addr::UNSPECIFIED.into()) {
            self.bind(port, segment, target.into(), false);
        }
        if message[0] == 136 && !self.owns(port, segment, src, target.into()) {
            return forged;
        }
        Ok(())
    }
}

/// Whether a port is an adapter of the host whose addresses are known, and which forwards nothing.
pub(crate) fn is_end(port: &PortConfig) -> bool {
    port.role == Role::HostAdapter && port.addresses != Addresses::Any && !port.policy.forged_ips
}

fn limit(port: &PortConfig) -> usize {
    match port.addresses {
        Addresses::Any => 0,
        Addresses::Known { learn, .. } => learn as usize,
    }
}
