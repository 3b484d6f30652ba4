//! Two networks with their machines, and a way to speak to the gateways and to read what they say.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr,
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};
use weft_services::{
    DhcpServer, LeaseRecord, NetworkId, NetworkServices, PersistRequest, Reason, Reservation, Services,
};
use weft_types::{DnsNames, Instant, MacAddr};
use weft_wire::Offload;

pub(crate) const OFFICE: NetworkId = NetworkId(1);
pub(crate) const BACKSTAGE: NetworkId = NetworkId(2);

/// The Unix time of `Instant::ZERO`.
pub(crate) const ORIGIN_S: u64 = 1_800_000_000;
pub(crate) const LEASE_S: u32 = 3600;

/// Gateways' adapters.
pub(crate) const OFFICE_MAC: MacAddr = mac(0xf1);
pub(crate) const BACKSTAGE_MAC: MacAddr = mac(0xf2);

/// The machine `web` is on both networks, `db` on backstage, `laptop` in the office; `STRANGER` is nobody's.
pub(crate) const WEB: MacAddr = mac(0x0a);
pub(crate) const WEB_BACKSTAGE: MacAddr = mac(0x0b);
pub(crate) const DB: MacAddr = mac(0x0c);
pub(crate) const LAPTOP: MacAddr = mac(0x0d);
pub(crate) const STRANGER: MacAddr = mac(0x0e);

pub(crate) const fn mac(last: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, last])
}

pub(crate) fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub(crate) fn reservation(mac: MacAddr, vm: &str, address: Option<&str>) -> Reservation {
    Reservation { mac, vm: vm.parse().unwrap(), ip: address.map(ip) }
}

/// A server that does nothing special, and has no addresses yet.
fn plain_server() -> DhcpServer {
    DhcpServer {
        first: Ipv4Addr::UNSPECIFIED,
        last: Ipv4Addr::UNSPECIFIED,
        excluded: Vec::new(),
        lease_s: LEASE_S,
        reservations: Vec::new(),
        kept: BTreeMap::new(),
        options: BTreeMap::new(),
        boot: None,
        probe: false,
    }
}

pub(crate) fn office() -> NetworkServices {
    NetworkServices {
        id: OFFICE,
        name: "office".parse().unwrap(),
        nat: true,
        mtu: 1500,
        mac: OFFICE_MAC,
        ip: ip("10.20.0.1"),
        subnet: "10.20.0.0/24".parse().unwrap(),
        subnet6: None,
        dhcp6: None,
        dhcp: Some(DhcpServer {
            first: ip("10.20.0.100"),
            last: ip("10.20.0.103"),
            reservations: vec![reservation(WEB, "web", Some("10.20.0.10")), reservation(LAPTOP, "laptop", None)],
            ..plain_server()
        }),
        dns: true,
        host_access: true,
        records: vec![("web".parse().unwrap(), ip("10.20.0.10")), ("printer".parse().unwrap(), ip("10.20.0.101"))],
        names: DnsNames::default(),
        metadata: BTreeMap::new(),
        forwards: Vec::new(),
    }
}

pub(crate) fn backstage() -> NetworkServices {
    NetworkServices {
        id: BACKSTAGE,
        name: "backstage".parse().unwrap(),
        nat: false,
        mtu: 1400,
        mac: BACKSTAGE_MAC,
        ip: ip("10.30.0.1"),
        subnet: "10.30.0.0/24".parse().unwrap(),
        subnet6: None,
        dhcp6: None,
        dhcp: Some(DhcpServer {
            first: ip("10.30.0.2"),
            last: ip("10.30.0.254"),
            reservations: vec![reservation(WEB_BACKSTAGE, "web", None), reservation(DB, "db", None)],
            ..plain_server()
        }),
        dns: true,
        host_access: false,
        records: Vec::new(),
        names: DnsNames::default(),
        metadata: BTreeMap::new(),
        forwards: Vec::new(),
    }
}

/// The services, and the time.
pub(crate) struct Bed {
    pub(crate) services: Services,
    pub(crate) now: Instant,
    /// What was made durable.
    pub(crate) disk: Vec<LeaseRecord>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(vec![office(), backstage()])
    }

    pub(crate) fn with(networks: Vec<NetworkServices>) -> Self {
        let mut services = Services::new([7; 32], Duration::from_secs(ORIGIN_S));
        services.configure(Instant::ZERO, networks);
        Self { services, now: Instant::ZERO, disk: Vec::new() }
    }

    /// The switch ends, and starts anew with what it finds on its disk.
    pub(crate) fn restart(self, networks: Vec<NetworkServices>) -> Self {
        let mut bed = Self::with(networks);
        bed.now = self.now;
        bed.services.restore_leases(bed.now, self.disk.clone());
        bed.disk = self.disk;
        bed
    }

    pub(crate) fn sleep(&mut self, span: Duration) {
        self.now += span;
        self.services.handle_timeout(self.now);
    }

    pub(crate) fn send(&mut self, net: NetworkId, frame: &[u8]) {
        self.services.handle_frame(self.now, net, frame, Offload::default());
    }

    /// Writes what waits for the disk.
    pub(crate) fn persist(&mut self) {
        while let Some(PersistRequest { token, records }) = self.services.poll_persist() {
            self.disk.extend(records);
            self.services.persisted(self.now, token);
        }
    }

    pub(crate) fn frames(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.services.poll_frame()).map(|(_, frame)| frame.bytes).collect()
    }

    /// What the gateways have sent, a line each.
    pub(crate) fn heard(&mut self) -> String {
        let frames = self.frames();
        let lines: Vec<_> = frames.iter().map(|frame| describe(frame)).collect();
        if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") }
    }

    /// The counters that are not zero.
    pub(crate) fn counted(&self) -> String {
        let nets = [OFFICE, BACKSTAGE];
        let counters: Vec<_> = nets.iter().filter_map(|net| self.services.counters(*net)).collect();
        let of_all = |reason| counters.iter().map(|counters| counters.get(reason)).sum();
        let counts = Reason::ALL.iter().map(|&reason| (reason, of_all(reason))).filter(|(_, n): &(_, u64)| *n > 0);
        counts.map(|(reason, n)| format!("{} {n}", reason.name())).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn leases(&self) -> String {
        let line = |lease: weft_services::Lease| {
            let vm = lease.vm.map_or("-".to_owned(), |vm| vm.to_string());
            format!("{} {} {vm} until +{}", lease.ip, lease.mac, lease.expires_unix_s - ORIGIN_S)
        };
        self.services.leases(self.now).map(line).collect::<Vec<_>>().join("\n")
    }
}

fn ethernet(mac: MacAddr) -> EthernetAddress {
    EthernetAddress(mac.octets())
}

/// A frame of `payload` bytes that `fill` writes.
fn frame(from: MacAddr, to: MacAddr, kind: EthernetProtocol, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = EthernetFrame::new_unchecked(vec![0; 14 + bytes]);
    frame.set_src_addr(ethernet(from));
    frame.set_dst_addr(ethernet(to));
    frame.set_ethertype(kind);
    fill(frame.payload_mut());
    frame.into_inner()
}

pub(crate) fn arp(from: MacAddr, sender: &str, target: &str) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: ethernet(from),
        source_protocol_addr: ip(sender),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: ip(target),
    };
    frame(from, MacAddr::BROADCAST, EthernetProtocol::Arp, repr.buffer_len(), |bytes| {
        repr.emit(&mut ArpPacket::new_unchecked(bytes));
    })
}

/// A packet's addresses.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) mac: MacAddr,
    pub(crate) to_mac: MacAddr,
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
}

/// From `mac`, `from` to `to`, both `address:port`, by the office's gateway unless `to_mac` is changed.
pub(crate) fn way(mac: MacAddr, from: &str, to: &str) -> Way {
    Way { mac, to_mac: OFFICE_MAC, from: from.parse().unwrap(), to: to.parse().unwrap() }
}

fn ipv4(way: Way, protocol: IpProtocol, ttl: u8, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let repr = Ipv4Repr {
        src_addr: *way.from.ip(),
        dst_addr: *way.to.ip(),
        next_header: protocol,
        payload_len: bytes,
        hop_limit: ttl,
    };
    frame(way.mac, way.to_mac, EthernetProtocol::Ipv4, repr.buffer_len() + bytes, |buffer| {
        let mut packet = Ipv4Packet::new_unchecked(buffer);
        repr.emit(&mut packet, &ChecksumCapabilities::default());
        fill(packet.payload_mut());
    })
}

pub(crate) fn udp(way: Way, payload: &[u8]) -> Vec<u8> {
    udp_ttl(way, 64, payload)
}

pub(crate) fn udp_ttl(way: Way, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: way.from.port(), dst_port: way.to.port() };
    ipv4(way, IpProtocol::Udp, ttl, repr.header_len() + payload.len(), |buffer| {
        repr.emit(
            &mut UdpPacket::new_unchecked(buffer),
            &IpAddress::Ipv4(*way.from.ip()),
            &IpAddress::Ipv4(*way.to.ip()),
            payload.len(),
            |bytes| bytes.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
    })
}

/// A packet of a protocol that `payload` need not make sense in.
pub(crate) fn raw(way: Way, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4(way, protocol.into(), 64, payload.len(), |buffer| buffer.copy_from_slice(payload))
}

pub(crate) fn ping(way: Way, data: &[u8]) -> Vec<u8> {
    let repr = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 1, data };
    ipv4(way, IpProtocol::Icmp, 64, repr.buffer_len(), |buffer| {
        repr.emit(&mut Icmpv4Packet::new_unchecked(buffer), &ChecksumCapabilities::default());
    })
}

/// A DHCP message of `mac`, before it is changed.
pub(crate) fn dhcp_message(mac: MacAddr, kind: MessageType) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234_5678, none, none, none, none, &mac.octets());
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

/// The frame in which a client sends `message`: to everyone, or by unicast to `server` from its `ciaddr`.
pub(crate) fn dhcp_frame(mac: MacAddr, message: &Message, server: Option<(MacAddr, Ipv4Addr)>) -> Vec<u8> {
    let (to_mac, to) = server.unwrap_or((MacAddr::BROADCAST, Ipv4Addr::BROADCAST));
    let from = SocketAddrV4::new(message.ciaddr(), 68);
    udp(Way { mac, to_mac, from, to: SocketAddrV4::new(to, 67) }, &message.to_vec().unwrap())
}

/// A frame in one line; panics on a wrong checksum.
pub(crate) fn describe(bytes: &[u8]) -> String {
    let strict = ChecksumCapabilities::default();
    let frame = EthernetFrame::new_checked(bytes).expect("a whole Ethernet header");
    let to = frame.dst_addr();
    match frame.ethertype() {
        EthernetProtocol::Arp => {
            let arp = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
            let ArpRepr::EthernetIpv4 {
                operation,
                source_hardware_addr,
                source_protocol_addr,
                target_protocol_addr,
                ..
            } = arp
            else {
                panic!("{arp:?}")
            };
            format!(
                "arp {operation:?} {source_protocol_addr} is at {source_hardware_addr} -> {target_protocol_addr} {to}"
            )
        }
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
            let ip = Ipv4Repr::parse(&packet, &strict).expect("a right IPv4 header");
            let way = format!("{} -> {} {to}", ip.src_addr, ip.dst_addr);
            match ip.next_header {
                IpProtocol::Udp => {
                    let udp = UdpPacket::new_checked(packet.payload()).unwrap();
                    assert!(udp.verify_checksum(&ip.src_addr.into(), &ip.dst_addr.into()) && udp.checksum() != 0);
                    match udp.src_port() {
                        67 => format!("dhcp {way} {}", describe_dhcp(udp.payload())),
                        53 => format!("dns {way}:{} {}", udp.dst_port(), crate::dns::describe(udp.payload())),
                        port => format!("udp {port} {way}:{} {} bytes", udp.dst_port(), udp.payload().len()),
                    }
                }
                IpProtocol::Icmp => {
                    let icmp = Icmpv4Packet::new_checked(packet.payload()).unwrap();
                    match Icmpv4Repr::parse(&icmp, &strict).expect("a right ICMP message") {
                        Icmpv4Repr::EchoReply { ident, seq_no, data } => {
                            format!("icmp {way} echo reply {ident}/{seq_no} {} bytes", data.len())
                        }
                        Icmpv4Repr::DstUnreachable { reason, header, .. } => {
                            format!("icmp {way} unreachable: {reason} (about {})", header.dst_addr)
                        }
                        Icmpv4Repr::TimeExceeded { header, .. } => {
                            format!("icmp {way} time exceeded (about {})", header.dst_addr)
                        }
                        other => format!("icmp {way} {other:?}"),
                    }
                }
                other => format!("{other} {way}"),
            }
        }
        other => format!("{other}"),
    }
}

pub(crate) fn decode_dhcp(payload: &[u8]) -> Message {
    assert!(payload.len() >= 300, "shorter than BOOTP allows");
    Message::decode(&mut Decoder::new(payload)).unwrap()
}

fn describe_dhcp(payload: &[u8]) -> String {
    let message = decode_dhcp(payload);
    let kind = message.opts().msg_type().unwrap();
    let lease = match message.opts().get(OptionCode::AddressLeaseTime) {
        Some(DhcpOption::AddressLeaseTime(seconds)) => format!(" for {seconds} s"),
        _ => String::new(),
    };
    let why = match message.opts().get(OptionCode::Message) {
        Some(DhcpOption::Message(text)) => format!(": {text}"),
        _ => String::new(),
    };
    format!("{kind:?} {}{lease}{why}", message.yiaddr())
}
