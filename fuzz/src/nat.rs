//! A whole life of the NAT device: bytes decode into frames of guests, events of the host, and time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use weft_services::NetworkId;
use weft_services::nat::{Callee, FlowId, ForwardId, HostError, HostLimits, HostOp, Nat, NatNetwork};
use weft_types::{Instant, Ipv4Net, Ipv6Net, MacAddr};
use weft_wire::icmpv4::Message;
use weft_wire::tcp::{Flags, Options, Repr};
use weft_wire::{Csum, EtherType, Gso, GsoKind, Offload, Protocol, ethernet, icmpv6, ipv4, ipv6, segment, tcp, udp};

const NET: NetworkId = NetworkId(1);
const GATEWAY_MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);
const GUEST_MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 2]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 1);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 0x10);
const REMOTE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
/// Guests use so few ports that flows are met again.
const PORTS: u8 = 4;
/// Most frames that one action may lead to: more would be a loop.
const MAX_ANSWERS: usize = 5000;
const FORWARD: ForwardId = ForwardId(1);

/// Actions, each a byte and what it takes; see `Life::act`.
pub(crate) fn nat_life(data: &[u8]) {
    let mut life = Life::new();
    let mut bytes = Bytes(data);
    while let Some(action) = bytes.next() {
        life.act(action, &mut bytes);
        life.take_frames();
    }
    life.configure(&[]);
    life.take_frames();
    let Life { mut nat, .. } = life;
    while nat.poll_host().is_some() {}
    assert_eq!((nat.flows(), nat.buffer_bytes(), nat.next_timeout()), (0, 0, None), "something stayed");
}

/// What remains of the input; zeros behind its end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().unwrap_or(0))
    }

    fn slice(&mut self, len: usize) -> &[u8] {
        let (slice, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        slice
    }
}

/// Both sides of a NAT device.
struct Life {
    nat: Nat,
    now: Instant,
    flows: Vec<FlowId>,
    /// The port of the gateway's from which a client was heard last.
    caller: u16,
    /// Per port of the guest: its next number, and the one that it expects.
    numbers: [(u32, u32); PORTS as usize],
}

impl Life {
    fn new() -> Self {
        let mut nat = Nat::new([1; 32]);
        nat.set_limits(HostLimits { flows: 12, flows_per_guest: 8, echo: true, echo_v6: true });
        let mut life = Self { nat, now: Instant::ZERO, flows: Vec::new(), caller: 0, numbers: Default::default() };
        life.configure(&[true]);
        life
    }

    /// One network or none, with or without host access.
    fn configure(&mut self, host_access: &[bool]) {
        let subnet = Ipv4Net::new_assert(GATEWAY, 24);
        let networks: Vec<_> = host_access
            .iter()
            .map(|&host_access| NatNetwork {
                id: NET,
                mac: GATEWAY_MAC,
                ip: GATEWAY,
                subnet,
                subnet6: Some(Ipv6Net::new_assert(GATEWAY6, 64)),
                mtu: 1500,
                outside: true,
                dns: false,
                metadata: false,
                host_access,
                forwards: vec![FORWARD],
            })
            .collect();
        let other = Ipv4Net::new_assert(Ipv4Addr::new(10, 30, 0, 0), 24);
        self.nat.configure(self.now, &networks, &[subnet.into(), other.into()]);
    }

    fn act(&mut self, action: u8, bytes: &mut Bytes<'_>) {
        match action % 8 {
            0 => {
                let [len] = bytes.take();
                let frame = bytes.slice(len.into()).to_vec();
                self.nat.handle_packet(self.now, NET, &frame, Offload::default());
            }
            1 => self.send_segment(bytes.take()),
            2 => self.send_datagram(bytes.take()),
            3 => self.send_piece(bytes.take()),
            4 => self.take_work(),
            5 => self.host_says(bytes.take()),
            6 => {
                let [scale] = bytes.take();
                self.now += Duration::from_millis(1 << (scale % 24));
                self.nat.handle_timeout(self.now);
            }
            _ => {
                let [what] = bytes.take();
                if what & 0x80 != 0 {
                    return self.call(what);
                }
                if what & 0x40 != 0 {
                    return self.send_v6(what, bytes.take());
                }
                self.configure([&[][..], &[false], &[true], &[true]][usize::from(what % 4)]);
            }
        }
    }

    /// A client of a forward wants to be connected, or sends a datagram.
    fn call(&mut self, what: u8) {
        let guest = SocketAddr::from((GUEST, u16::from(what % PORTS)));
        let callee = Callee { network: NET, guest, mac: Some(GUEST_MAC) };
        if what & 0x40 != 0 {
            let client = SocketAddr::from((REMOTE, u16::from(what >> 2)));
            self.nat.deliver(self.now, (FORWARD, 0, client), callee, &[what]);
        } else {
            self.flows.extend(self.nat.dial(self.now, FORWARD, callee));
        }
    }

    fn send(&mut self, dst: Ipv4Addr, protocol: Protocol, payload: &[u8], place: u16, offload: Offload) {
        let payload_len = payload.len() as u16;
        let header = ipv4::Repr { src: GUEST, dst, protocol, ttl: 64, ident: 1, dont_fragment: false, payload_len };
        let mut header = header.header();
        let sum = u16::from_be_bytes([header[10], header[11]]);
        header[6..8].copy_from_slice(&place.to_be_bytes());
        header[10..12].copy_from_slice(&weft_wire::checksum::update(sum, 0, place).to_be_bytes());
        let mut frame = Vec::new();
        ethernet::emit(&mut frame, GATEWAY_MAC, GUEST_MAC, EtherType::IPV4);
        frame.extend_from_slice(&header);
        frame.extend_from_slice(payload);
        self.nat.handle_packet(self.now, NET, &frame, offload);
    }

    /// A segment whose numbers are nearly right.
    fn send_segment(&mut self, [port, flags, seq, ack, len, window]: [u8; 6]) {
        let (next, expected) = self.numbers[usize::from(port % PORTS)];
        let near = |number: u32, off: u8| number.wrapping_add_signed(i32::from(off.cast_signed()) * 97);
        let payload = vec![len; usize::from(len) * 50];
        let flags = Flags(flags);
        let (remote, dst_port) = if port & 0x20 != 0 { (GATEWAY, self.caller) } else { (REMOTE, 80) };
        let options = Options { mss: Some(u16::from(len) * 8), window_scale: Some(window % 16), sack_permitted: false };
        let header = Repr {
            src_port: (port % PORTS).into(),
            dst_port,
            seq: near(next, seq),
            ack: near(expected, ack),
            flags,
            window: u16::from(window) << 4,
            options: if flags.contains(Flags::SYN) { options } else { Options::default() },
        };
        let mut bytes = Vec::new();
        header.emit(&mut bytes, GUEST, remote, &payload);
        let offload = Offload {
            csum: if port & 0x80 != 0 { Csum::Partial { start: 34, offset: 16 } } else { Csum::Unverified },
            gso: (port & 0x40 != 0).then_some(Gso { kind: GsoKind::Tcp4 { ecn: false }, size: 1460 }),
        };
        if seq == 0 {
            let end = tcp::parse(&bytes).map_or(0, |segment| segment.sequence_len());
            self.numbers[usize::from(port % PORTS)].0 = next.wrapping_add(end);
        }
        self.send(remote, Protocol::TCP, &bytes, 0, offload);
    }

    fn send_datagram(&mut self, [port, to, len]: [u8; 3]) {
        let ip = [REMOTE, GATEWAY, Ipv4Addr::new(10, 30, 0, 1), Ipv4Addr::new(198, 51, 100, to)][usize::from(to % 4)];
        let mut bytes = Vec::new();
        if to & 0x80 != 0 {
            Message::EchoRequest { ident: (port % PORTS).into(), seq: 0, payload: &vec![1; len.into()] }
                .emit(&mut bytes);
            return self.send(ip, Protocol::ICMP, &bytes, 0, Offload::default());
        }
        let from = SocketAddrV4::new(GUEST, port.into());
        udp::emit(&mut bytes, from, SocketAddrV4::new(ip, to.into()), &vec![2; len.into()]);
        self.send(ip, Protocol::UDP, &bytes, 0, Offload::default());
    }

    /// A piece of a datagram, at any place.
    fn send_piece(&mut self, [place, more, len]: [u8; 3]) {
        let more = if more & 1 != 0 { 0x2000 } else { 0 };
        let payload = vec![0; usize::from(len) * 8];
        self.send(REMOTE, Protocol::UDP, &payload, more | (u16::from(place) * 32), Offload::default());
    }

    /// A packet over IPv6: a SYN, a datagram, an echo request or a piece, behind an extension header or none.
    fn send_v6(&mut self, what: u8, [port, to, len]: [u8; 3]) {
        let dst = [REMOTE6, GATEWAY6, Ipv6Addr::LOCALHOST][usize::from(to % 3)];
        let (src_port, data) = (u16::from(port % PORTS), vec![len; usize::from(len) * 8]);
        let mut bytes = Vec::new();
        let mut protocol = Protocol::UDP;
        match what % 4 {
            0 => {
                let (flags, options) = (Flags(port >> 2), Options::default());
                let header = Repr { src_port, dst_port: 80, seq: 0, ack: 0, flags, window: 999, options };
                header.emit_v6(&mut bytes, GUEST6, dst, &data);
                protocol = Protocol::TCP;
            }
            1 => {
                let (from, to) = (SocketAddrV6::new(GUEST6, src_port, 0, 0), SocketAddrV6::new(dst, 9, 0, 0));
                udp::emit_v6(&mut bytes, from, to, &data);
            }
            2 => {
                let request = icmpv6::Message::EchoRequest { ident: src_port, seq: 0, payload: &data };
                request.emit(&mut bytes, GUEST6, dst);
                protocol = Protocol::ICMPV6;
            }
            _ => {
                bytes.extend([Protocol::UDP.0, 0, port, to, 0, 0, 0, 1]);
                bytes.extend(&data);
                protocol = Protocol(44);
            }
        }
        if what & 0x20 != 0 {
            bytes.splice(..0, [protocol.0, 0, 1, 4, 0, 0, 0, 0]);
            protocol = Protocol(60);
        }
        let payload_len = bytes.len() as u16;
        let mut frame = Vec::new();
        ethernet::emit(&mut frame, GATEWAY_MAC, GUEST_MAC, EtherType::IPV6);
        ipv6::Repr { src: GUEST6, dst, next_header: protocol, hop_limit: 64, payload_len }.emit(&mut frame);
        frame.extend(bytes);
        self.nat.handle_packet(self.now, NET, &frame, Offload::default());
    }

    fn take_work(&mut self) {
        while let Some(op) = self.nat.poll_host() {
            match op {
                HostOp::TcpConnect { flow, .. } | HostOp::UdpSend { flow, .. } | HostOp::EchoSend { flow, .. } => {
                    self.flows.push(flow);
                }
                _ => {}
            }
        }
        let old = self.flows.len().saturating_sub(16);
        self.flows.drain(..old);
    }

    /// An event of a flow's socket, whatever the flow is by now.
    fn host_says(&mut self, [flow, what, count]: [u8; 3]) {
        let Some(&flow) = self.flows.get(usize::from(flow) % self.flows.len().max(1)) else { return };
        let (nat, now) = (&mut self.nat, self.now);
        let count = usize::from(count) * 300;
        let errors = [HostError::Refused, HostError::HostUnreachable, HostError::NetUnreachable, HostError::TimedOut];
        let error = errors[count % errors.len()];
        let ip = if what & 0x80 != 0 { IpAddr::from(REMOTE6) } else { REMOTE.into() };
        let remote = SocketAddr::new(ip, 80);
        match what % 10 {
            0 | 1 => nat.tcp_connected(now, flow),
            2 => nat.tcp_failed(now, flow, error),
            3 => {
                let written = nat.tcp_outgoing(flow).len().min(count);
                nat.tcp_written(now, flow, written);
            }
            4 => nat.tcp_shut(now, flow),
            5 => {
                let read = nat.tcp_room(now, flow).iter().map(|space| space.len()).sum::<usize>().min(count);
                nat.tcp_read(now, flow, read);
            }
            6 => nat.tcp_finished(now, flow),
            7 => nat.udp_received(now, flow, remote, &vec![3; count.min(65_507)]),
            8 => nat.udp_failed(now, flow, remote, error),
            _ => {
                nat.echo_received(now, flow, ip, 1, &vec![4; count]);
                nat.echo_failed(now, flow, ip, 1, error);
            }
        }
    }

    /// Takes the frames for the guest: each has to be right.
    fn take_frames(&mut self) {
        for _ in 0..MAX_ANSWERS {
            let Some((network, frame)) = self.nat.poll_frame() else { return };
            assert_eq!(network, NET);
            segment::validate_offload(&frame.bytes, frame.bytes.len(), &frame.offload).expect("offloads that fit");
            let link = ethernet::parse(&frame.bytes).expect("a frame");
            if link.ethertype == EtherType::IPV6 {
                let packet = ipv6::parse(link.payload).expect("a packet");
                assert_eq!(packet.payload.len() + ipv6::HEADER_BYTES, link.payload.len(), "a length that is right");
                continue; // to whoever claimed to be the sender
            }
            let packet = ipv4::parse(link.payload).expect("a packet");
            assert_eq!((link.dst, packet.dst), (GUEST_MAC, GUEST));
            if packet.protocol == Protocol::TCP {
                let segment = tcp::parse(packet.payload).expect("a segment");
                if let Some((_, expected)) = self.numbers.get_mut(usize::from(segment.dst_port)) {
                    *expected = segment.seq.wrapping_add(segment.sequence_len());
                }
                if packet.src == GATEWAY {
                    self.caller = segment.src_port;
                }
            }
        }
        panic!("frames without end");
    }
}
