//! Port forwards: clients of the host that begin, and guests that answer, or do not.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use expect_test::{Expect, expect};
use weft_types::Instant;
use weft_wire::tcp::{Flags, Options, Repr, Segment};
use weft_wire::{EtherType, Offload, Protocol, arp, ethernet, ipv4, tcp, udp};

use super::bench::{FORWARD, GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, NET, causes, frame, frames, nat, network, ops};
use super::bench::{subnets, take};
use crate::nat::{Callee, FlowId, ForwardId, HostError, Nat, NatNetwork};

const START: Instant = Instant::from_millis(1000);
/// The guest's first number.
const FIRST: u32 = u32::MAX - 100;
const WEB: SocketAddrV4 = SocketAddrV4::new(GUEST, 80);
const CALLEE: Callee = Callee { network: NET, guest: SocketAddr::V4(WEB), mac: Some(GUEST_MAC) };
const UNKNOWN: Callee = Callee { mac: None, ..CALLEE };

/// A client that was accepted, as seen by the guest's segments.
struct Bench {
    nat: Nat,
    flow: FlowId,
    now: Instant,
    /// The gateway's port for the client, and the number of our SYN.
    port: u16,
    isn: u32,
}

impl Bench {
    /// Our SYN is under way.
    fn dialing() -> Self {
        let mut nat = nat();
        let flow = nat.dial(START, FORWARD, CALLEE).expect("a flow");
        let mut bench = Self { nat, flow, now: START, port: 0, isn: 0 };
        (bench.port, bench.isn) = bench.syn().expect("a SYN");
        bench
    }

    /// The guest has answered.
    fn open() -> Self {
        let mut bench = Self::dialing();
        bench.answer(Flags::SYN | Flags::ACK, FIRST, 1, b"");
        bench.expect(expect![[r#"
            ACK 0 bytes
            progress"#]]);
        bench
    }

    /// The next frame, which is a SYN: its port and number.
    fn syn(&mut self) -> Option<(u16, u32)> {
        let (_, out) = self.nat.poll_frame()?;
        let packet = ipv4::parse(&out.bytes[ethernet::HEADER_BYTES..]).unwrap();
        let Segment { src_port, dst_port, flags, seq, options, .. } = tcp::parse(packet.payload).unwrap();
        assert_eq!((packet.src, packet.dst, dst_port, flags), (GATEWAY, GUEST, 80, Flags::SYN));
        let options = Options::parse(options).unwrap();
        assert_eq!((options.mss, options.window_scale), (Some(1460), Some(5)));
        Some((src_port, seq))
    }

    /// A segment of the guest; `ack` counts from our SYN.
    fn answer(&mut self, flags: Flags, seq: u32, ack: u32, payload: &[u8]) {
        let is_syn = flags.contains(Flags::SYN);
        let options = Options { mss: is_syn.then_some(1000), window_scale: is_syn.then_some(7), ..Options::default() };
        let ack = self.isn.wrapping_add(ack);
        let mut bytes = Vec::new();
        let repr = Repr { src_port: 80, dst_port: self.port, seq, ack, flags, window: 500, options };
        repr.emit(&mut bytes, GUEST, GATEWAY, payload);
        take(&mut self.nat, self.now, [frame(GATEWAY, Protocol::TCP, &bytes)]);
    }

    /// Time passes until the next alarm.
    fn wait(&mut self) {
        self.now = self.nat.next_timeout().expect("an alarm");
        self.nat.handle_timeout(self.now);
    }

    #[track_caller]
    fn expect(&mut self, expected: Expect) {
        let place = format!("tcp {GATEWAY}:{} > 80 ", self.port);
        let answers: Vec<_> = frames(&mut self.nat).into_iter().map(|line| line.replace(&place, "")).collect();
        let lines: Vec<String> = answers.into_iter().chain(ops(&mut self.nat)).chain(causes(&self.nat)).collect();
        expected.assert_eq(&lines.join("\n"));
    }
}

#[test]
fn a_guest_that_answers_is_connected() {
    let mut bench = Bench::open();
    // The window of 500 is the SYN's and never shifted; its MSS is kept.
    let room = bench.nat.tcp_room(bench.now, bench.flow)[0].len();
    assert!(room > 2000);
    bench.nat.tcp_read(bench.now, bench.flow, 2000);
    bench.expect(expect!["ACK 500 bytes"]);
    bench.answer(Flags::ACK, FIRST.wrapping_add(1), 501, b"");
    bench.expect(expect![[r#"
        ACK 1000 bytes
        PSH|ACK 500 bytes"#]]);
}

#[test]
fn a_guest_that_refuses_is_believed() {
    let mut bench = Bench::dialing();
    bench.answer(Flags::RST | Flags::ACK, 0, 7, b"");
    bench.answer(Flags::RST, 0, 1, b"");
    bench.expect(expect!["outside-window 2"]);
    bench.answer(Flags::RST | Flags::ACK, 0, 1, b"");
    bench.expect(expect![[r#"
        reset
        outside-window 2
        guest-refused 1"#]]);
    assert_eq!(bench.nat.flows(), 0);
}

#[test]
fn a_silent_guest_is_asked_again_and_given_up() {
    let mut bench = Bench::dialing();
    let (port, isn) = (bench.port, bench.isn);
    let mut times = Vec::new();
    while bench.nat.flows() > 0 {
        bench.wait();
        if let Some(syn) = bench.syn() {
            assert_eq!(syn, (port, isn), "the same SYN once more");
            times.push(bench.now.since(START).as_secs());
        }
    }
    assert_eq!((times, bench.now.since(START).as_secs()), (vec![1, 3, 7, 15, 31, 63], 123));
    bench.expect(expect![[r#"
        reset
        guest-silent 1"#]]);
}

#[test]
fn what_answers_no_syn() {
    let mut bench = Bench::dialing();
    bench.answer(Flags::ACK, FIRST, 1, b"");
    bench.answer(Flags::SYN, FIRST, 0, b"");
    bench.expect(expect!["outside-window 2"]);
    // A guest that remembers an earlier connection from this port tells so, and is to forget it.
    bench.answer(Flags::ACK, FIRST, 4711, b"");
    bench.expect(expect![[r#"
        RST 0 bytes
        no-connection 1
        outside-window 2"#]]);
    bench.wait();
    assert!(bench.syn().is_some());
    bench.answer(Flags::SYN | Flags::ACK, FIRST, 1, b"");
    assert_eq!(frames(&mut bench.nat).len(), 1);
    // The acknowledgement is lost: the answer comes again.
    bench.answer(Flags::SYN | Flags::ACK, FIRST, 1, b"");
    bench.expect(expect![[r#"
        ACK 0 bytes
        progress
        no-connection 1
        outside-window 3"#]]);
}

#[test]
fn a_client_that_leaves_while_the_guest_is_asked() {
    let mut bench = Bench::dialing();
    bench.nat.tcp_failed(bench.now, bench.flow, HostError::Refused);
    assert_eq!(bench.nat.flows(), 0);
    bench.expect(expect!["host-refused 1"]);
    // What the guest answers is for nobody.
    bench.answer(Flags::SYN | Flags::ACK, FIRST, 1, b"");
    bench.expect(expect![[r#"
        RST 0 bytes
        no-connection 1
        host-refused 1"#]]);
}

#[test]
fn clients_end_with_their_forward_and_no_other() {
    let with = |forwards| NatNetwork { host_access: false, forwards, ..network() };
    let mut bench = Bench::open();
    let other = ForwardId(9);
    bench.nat.configure(bench.now, &[with(vec![FORWARD, other])], &subnets());
    bench.nat.dial(bench.now, other, CALLEE).expect("a flow");
    bench.nat.deliver(bench.now, (other, 0, client(1)), CALLEE, b"?");
    frames(&mut bench.nat);
    bench.nat.configure(bench.now, &[with(vec![FORWARD])], &subnets());
    assert_eq!(bench.nat.flows(), 1);
    bench.expect(expect!["reset"]);
    bench.nat.configure(bench.now, &[with(vec![])], &subnets());
    bench.expect(expect![[r#"
        RST|ACK 0 bytes
        reset"#]]);
}

/// A frame of ARP from the guest.
fn arp_reply(nat: &mut Nat, now: Instant) -> bool {
    nat.hear_neighbour(now, NET, GUEST, GUEST_MAC)
}

/// The questions by ARP that wait for the switch.
fn questions(nat: &mut Nat) -> Vec<Ipv4Addr> {
    std::iter::from_fn(|| nat.poll_frame())
        .map(|(_, out)| {
            let frame = ethernet::parse(&out.bytes).unwrap();
            assert_eq!((frame.src, frame.ethertype), (GATEWAY_MAC, EtherType::ARP));
            assert!(frame.dst.is_group());
            arp::parse(frame.payload).unwrap().target_ip
        })
        .collect()
}

#[test]
fn a_guest_that_no_lease_knows_is_asked_for() {
    let mut nat = nat();
    nat.dial(START, FORWARD, UNKNOWN).expect("a flow");
    nat.deliver(START, (FORWARD, 0, client(1)), UNKNOWN, b"one");
    nat.deliver(START, (FORWARD, 0, client(1)), UNKNOWN, b"two");
    assert_eq!(questions(&mut nat), [GUEST], "one question for all of them");
    let again = nat.next_timeout().unwrap();
    assert_eq!(again.since(START), Duration::from_secs(1));
    nat.handle_timeout(again);
    assert_eq!(questions(&mut nat), [GUEST]);
    assert!(arp_reply(&mut nat, again));
    assert_eq!(frames(&mut nat).len(), 3, "a SYN and two datagrams");
    assert!(!arp_reply(&mut nat, again), "nobody asked");
    // It is remembered for a while.
    nat.dial(again, FORWARD, UNKNOWN).expect("a flow");
    assert_eq!(frames(&mut nat).len(), 1);
    nat.dial(again + Duration::from_secs(60), FORWARD, UNKNOWN).expect("a flow");
    assert_eq!(questions(&mut nat), [GUEST]);
}

#[test]
fn a_guest_that_is_not_there_is_no_secret() {
    let mut nat = nat();
    nat.dial(START, FORWARD, UNKNOWN).expect("a flow");
    for number in 0..6 {
        nat.deliver(START, (FORWARD, 0, client(1)), UNKNOWN, &[number]);
    }
    let mut asked = questions(&mut nat).len();
    while let Some(at) = nat.next_timeout().filter(|_| nat.flows() > 0) {
        nat.handle_timeout(at);
        asked += questions(&mut nat).len();
        assert!(at.since(START) <= Duration::from_secs(3));
    }
    assert_eq!((asked, nat.flows(), nat.next_timeout()), (3, 0, None));
    assert_eq!(ops(&mut nat), ["reset"], "the client hears of it");
    assert_eq!(causes(&nat), ["no-neighbour 2", "queue-full 2"], "the queue of datagrams is short");
}

fn client(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 5000))
}

/// A datagram of the guest to a port of the gateway.
fn reply(nat: &mut Nat, now: Instant, port: u16, payload: &[u8]) {
    let mut bytes = Vec::new();
    udp::emit(&mut bytes, WEB, SocketAddrV4::new(GATEWAY, port), payload);
    nat.handle_packet(now, NET, &frame(GATEWAY, Protocol::UDP, &bytes), Offload::default());
}

/// The ports from which the datagrams that wait for the guest come.
fn client_ports(nat: &mut Nat) -> Vec<u16> {
    let port = |line: String| line.strip_prefix("udp 10.20.0.1:")?.split(' ').next()?.parse().ok();
    frames(nat).into_iter().map(|line| port(line).expect("a datagram")).collect()
}

#[test]
fn each_client_has_a_port_for_its_datagrams() {
    let mut nat = nat();
    let send = |nat: &mut Nat, last| {
        nat.deliver(START, (FORWARD, 0, client(last)), CALLEE, b"hello");
        client_ports(nat)[0]
    };
    let (one, two) = (send(&mut nat, 1), send(&mut nat, 2));
    assert_ne!(one, two);
    assert_eq!(send(&mut nat, 1), one, "and keeps it");
    reply(&mut nat, START, two, b"for the second");
    reply(&mut nat, START, one, b"");
    assert_eq!(ops(&mut nat), ["answer 192.0.2.2:5000 14 bytes", "answer 192.0.2.1:5000 0 bytes"]);
    // Traffic keeps it for five minutes, either way.
    let later = |seconds| START + Duration::from_secs(seconds);
    nat.handle_timeout(later(200));
    reply(&mut nat, later(200), two, b"more");
    nat.handle_timeout(later(300));
    assert_eq!(nat.flows(), 1);
    nat.handle_timeout(later(500));
    assert_eq!((nat.flows(), nat.next_timeout()), (0, None));
    ops(&mut nat);
    reply(&mut nat, later(501), two, b"too late");
    assert_eq!(ops(&mut nat).len(), 1, "a datagram for the host, which this network may reach");
}

#[test]
fn a_machine_that_moves_is_found_again() {
    let mut nat = nat();
    nat.deliver(START, (FORWARD, 0, client(1)), CALLEE, b"hello");
    assert_eq!(frames(&mut nat).len(), 1);
    let elsewhere =
        Callee { guest: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 20, 0, 11), 80)), mac: None, ..CALLEE };
    nat.deliver(START, (FORWARD, 0, client(1)), elsewhere, b"hello");
    assert_eq!(questions(&mut nat), [Ipv4Addr::new(10, 20, 0, 11)]);
    assert_eq!(nat.flows(), 1);
}

#[test]
fn clients_have_limits_as_guests_have() {
    let mut nat = nat();
    for _ in 0..50 {
        nat.dial(START, FORWARD, CALLEE).expect("a flow");
    }
    assert_eq!(nat.dial(START, FORWARD, CALLEE), None);
    assert_eq!(causes(&nat), ["guest-limit 1"]);
}
