//! TCP, one segment at a time: what an honest guest never sends, and what few do.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use expect_test::{Expect, expect};
use weft_types::Instant;
use weft_wire::tcp::{Flags, Options, Repr};
use weft_wire::{Csum, Gso, GsoKind, Offload, Protocol, ethernet, ipv4, tcp};

use super::bench::{GATEWAY, GUEST, NET, REMOTE, causes, frame, frames, nat, network, ops, subnets, take};
use crate::nat::{FlowId, HostError, HostOp, Nat, NatNetwork};

const NOW: Instant = Instant::from_millis(1000);
/// The guest's first number.
const FIRST: u32 = u32::MAX - 100;

/// A segment of the guest.
pub(super) fn segment(port: u16, to: SocketAddrV4, flags: Flags, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    segment_with(port, to, flags, seq, ack, payload, 65_535)
}

fn segment_with(
    src_port: u16,
    to: SocketAddrV4,
    flags: Flags,
    seq: u32,
    ack: u32,
    payload: &[u8],
    window: u16,
) -> Vec<u8> {
    let is_syn = flags.contains(Flags::SYN);
    let options = Options { mss: is_syn.then_some(1460), ..Options::default() };
    let mut bytes = Vec::new();
    Repr { src_port, dst_port: to.port(), seq, ack, flags, window, options }.emit(&mut bytes, GUEST, *to.ip(), payload);
    frame(*to.ip(), Protocol::TCP, &bytes)
}

/// A connection of the guest's port 1, as seen by segments.
struct Bench {
    nat: Nat,
    flow: FlowId,
    now: Instant,
    /// The number of our first byte.
    ours: u32,
}

impl Bench {
    /// The guest asked for a connection.
    fn asking() -> Self {
        let mut nat = nat();
        take(&mut nat, NOW, [segment(1, REMOTE, Flags::SYN, FIRST, 0, &[])]);
        let Some(HostOp::TcpConnect { flow, to: SocketAddr::V4(REMOTE) }) = nat.poll_host() else {
            panic!("a connection")
        };
        assert_eq!(frames(&mut nat), [""; 0], "no answer before the host has one");
        Self { nat, flow, now: NOW, ours: 0 }
    }

    /// The connection is open.
    fn open() -> Self {
        let mut bench = Self::asking();
        bench.nat.tcp_connected(NOW, bench.flow);
        let (_, syn) = bench.nat.poll_frame().expect("a SYN-ACK");
        let packet = ipv4::parse(&syn.bytes[ethernet::HEADER_BYTES..]).unwrap();
        let syn = tcp::parse(packet.payload).unwrap();
        assert_eq!((syn.flags, syn.ack), (Flags::SYN | Flags::ACK, FIRST.wrapping_add(1)));
        assert_eq!(Options::parse(syn.options).unwrap().mss, Some(1460));
        bench.ours = syn.seq.wrapping_add(1);
        bench.take(Flags::ACK, 0, 0, b"");
        assert_eq!(frames(&mut bench.nat), [""; 0]);
        assert_eq!(ops(&mut bench.nat), ["progress"]);
        bench
    }

    /// A segment, with numbers that count from the first byte in each direction.
    fn take(&mut self, flags: Flags, seq: u32, ack: u32, payload: &[u8]) {
        let (seq, ack) = (FIRST.wrapping_add(1).wrapping_add(seq), self.ours.wrapping_add(ack));
        take(&mut self.nat, self.now, [segment(1, REMOTE, flags, seq, ack, payload)]);
    }

    /// The host sends bytes, or its end.
    fn host_sends(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let room = self.nat.tcp_room(self.now, self.flow)[0].len().min(left);
            assert!(room > 0);
            self.nat.tcp_read(self.now, self.flow, room);
            left -= room;
        }
        if count == 0 {
            self.nat.tcp_finished(self.now, self.flow);
        }
    }

    /// The host takes all bytes, and the end.
    fn host_takes(&mut self) -> usize {
        let outgoing = self.nat.tcp_outgoing(self.flow);
        let (count, then_shut) = (outgoing.len(), outgoing.then_shut);
        self.nat.tcp_written(self.now, self.flow, count);
        if then_shut {
            self.nat.tcp_shut(self.now, self.flow);
        }
        count
    }

    /// What happened: answers, work for the host, causes.
    #[track_caller]
    fn expect(&mut self, expected: Expect) {
        let answers = frames(&mut self.nat).into_iter().map(|line| line.replace("tcp 192.0.2.80:80 > 1 ", ""));
        let lines: Vec<String> = answers.collect();
        let lines: Vec<String> = lines.into_iter().chain(ops(&mut self.nat)).chain(causes(&self.nat)).collect();
        expected.assert_eq(&lines.join("\n"));
    }
}

#[test]
fn answers_of_the_host_are_passed_on() {
    let check = |error, expected: Expect| {
        let mut bench = Bench::asking();
        bench.nat.tcp_failed(NOW, bench.flow, error);
        assert_eq!(bench.nat.flows(), 0);
        bench.expect(expected);
    };
    check(
        HostError::Refused,
        expect![[r#"
        RST|ACK 0 bytes
        host-refused 1"#]],
    );
    check(
        HostError::HostUnreachable,
        expect![[r#"
        unreachable 1 for 192.0.2.80
        host-unreachable 1"#]],
    );
    check(
        HostError::NetUnreachable,
        expect![[r#"
        unreachable 0 for 192.0.2.80
        host-unreachable 1"#]],
    );
    check(
        HostError::Prohibited,
        expect![[r#"
        unreachable 13 for 192.0.2.80
        prohibited 1"#]],
    );
    check(HostError::TimedOut, expect!["host-timeout 1"]);
    check(
        HostError::Exhausted,
        expect![[r#"
        RST|ACK 0 bytes
        host-exhausted 1"#]],
    );
}

/// Linux believes no error that does not know its SYN's number.
#[test]
fn errors_know_the_number_of_the_syn() {
    let mut bench = Bench::asking();
    bench.nat.tcp_failed(NOW, bench.flow, HostError::NetUnreachable);
    let (_, error) = bench.nat.poll_frame().expect("an ICMP error");
    let quoted = &error.bytes[ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + 8..];
    let packet = ipv4::Packet { payload: &quoted[ipv4::HEADER_BYTES..], ..ipv4::parse(quoted).unwrap() };
    assert_eq!((packet.src, packet.dst, packet.protocol), (GUEST, *REMOTE.ip(), Protocol::TCP));
    assert_eq!(packet.payload, [&[0, 1, 0, 80][..], &FIRST.to_be_bytes()].concat());
}

#[test]
fn while_the_host_connects() {
    let mut bench = Bench::asking();
    take(&mut bench.nat, NOW, [segment(1, REMOTE, Flags::SYN, FIRST, 0, &[])]);
    bench.expect(expect!["retransmitted 1"]);
    bench.take(Flags::ACK, 0, 0, b"early");
    bench.expect(expect![[r#"
        outside-window 1
        retransmitted 1"#]]);
    // The guest began anew: its first try is given up, and the second one starts.
    take(&mut bench.nat, NOW, [segment(1, REMOTE, Flags::SYN, 5, 0, &[])]);
    bench.expect(expect![[r#"
        reset
        connect 192.0.2.80:80
        outside-window 1
        retransmitted 1"#]]);
    take(&mut bench.nat, NOW, [segment(1, REMOTE, Flags::RST, 6, 0, &[])]);
    bench.expect(expect![[r#"
        reset
        outside-window 1
        retransmitted 1"#]]);
    assert_eq!(bench.nat.flows(), 0);
}

#[test]
fn who_may_not_be_reached() {
    let check = |host_access: bool, to: SocketAddrV4, expected: Expect| {
        let mut nat = nat();
        nat.configure(NOW, &[NatNetwork { host_access, ..network() }], &subnets());
        take(&mut nat, NOW, [segment(1, to, Flags::SYN, FIRST, 0, &[])]);
        let lines: Vec<String> = ops(&mut nat).into_iter().chain(frames(&mut nat)).chain(causes(&nat)).collect();
        expected.assert_eq(&lines.join("\n"));
    };
    check(true, SocketAddrV4::new(GATEWAY, 22), expect!["connect 127.0.0.1:22"]);
    check(
        false,
        SocketAddrV4::new(GATEWAY, 22),
        expect![[r#"
        tcp 10.20.0.1:22 > 1 RST|ACK 0 bytes
        no-host-access 1"#]],
    );
    check(
        true,
        "127.0.0.1:22".parse().unwrap(),
        expect![[r#"
        unreachable 13 for 127.0.0.1
        prohibited 1"#]],
    );
    check(
        true,
        "10.30.0.7:22".parse().unwrap(),
        expect![[r#"
        unreachable 13 for 10.30.0.7
        prohibited 1"#]],
    );
}

#[test]
fn segments_of_no_connection_are_reset() {
    let check = |flags, expected: Expect| {
        let mut nat = nat();
        take(&mut nat, NOW, [segment(1, REMOTE, flags, 100, 200, b"")]);
        let lines: Vec<String> = frames(&mut nat).into_iter().chain(causes(&nat)).collect();
        expected.assert_eq(&lines.join("\n"));
    };
    check(
        Flags::ACK,
        expect![[r#"
        tcp 192.0.2.80:80 > 1 RST 0 bytes
        no-connection 1"#]],
    );
    check(
        Flags::SYN | Flags::ACK,
        expect![[r#"
        tcp 192.0.2.80:80 > 1 RST 0 bytes
        no-connection 1"#]],
    );
    check(
        Flags::FIN,
        expect![[r#"
        tcp 192.0.2.80:80 > 1 RST|ACK 0 bytes
        no-connection 1"#]],
    );
    check(Flags::RST, expect!["no-connection 1"]);
    check(Flags::SYN | Flags::RST, expect!["no-connection 1"]);
}

#[test]
fn damaged_segments() {
    let good = segment(1, REMOTE, Flags::SYN, FIRST, 0, b"");
    let check = |at: usize, value: u8, expected: Expect| {
        let mut nat = nat();
        let mut bad = good.clone();
        bad[at] = value;
        take(&mut nat, NOW, [bad]);
        assert_eq!(nat.flows(), 0);
        expected.assert_eq(&causes(&nat).join("\n"));
    };
    check(34, 9, expect!["bad-checksum 1"]);
    check(46, 0xf0, expect!["malformed 1"]);
    check(46, 0x40, expect!["malformed 1"]);
    check(17, 30, expect!["bad-checksum 1"]); // the packet's length
}

#[test]
fn acknowledgements_of_what_was_never_sent() {
    let mut bench = Bench::open();
    bench.take(Flags::ACK, 0, 1, b"");
    bench.expect(expect![[r#"
        ACK 0 bytes
        outside-window 1"#]]);
    bench.take(Flags::ACK, 0, u32::MAX, b"");
    bench.expect(expect!["outside-window 1"]);
}

#[test]
fn resets_have_to_know_the_number() {
    let mut bench = Bench::open();
    bench.take(Flags::RST, u32::MAX, 0, b"");
    bench.expect(expect!["outside-window 1"]);
    bench.take(Flags::RST, 5, 0, b"");
    bench.expect(expect![[r#"
        ACK 0 bytes
        outside-window 2"#]]);
    bench.take(Flags::SYN, 0, 0, b"");
    bench.expect(expect![[r#"
        ACK 0 bytes
        outside-window 3"#]]);
    bench.take(Flags::RST, 0, 0, b"");
    bench.expect(expect![[r#"
        reset
        outside-window 3"#]]);
    assert_eq!(bench.nat.flows(), 0);
}

#[test]
fn gaps_ask_for_what_is_missing() {
    let mut bench = Bench::open();
    bench.take(Flags::ACK, 5, 0, b"world");
    bench.take(Flags::ACK, 12, 0, b"late");
    bench.take(Flags::ACK, 3, 0, b"lowor");
    bench.expect(expect![[r#"
        ACK 0 bytes
        ACK 0 bytes
        ACK 0 bytes
        out-of-order 3"#]]);
    bench.take(Flags::ACK | Flags::FIN, 10, 0, b"");
    bench.take(Flags::ACK, 0, 0, b"hello");
    bench.expect(expect![[r#"
        ACK 0 bytes
        progress
        out-of-order 4"#]]);
    assert_eq!(bench.nat.tcp_outgoing(bench.flow).bytes.concat(), b"helloworld");
    assert!(bench.nat.tcp_outgoing(bench.flow).then_shut);
    bench.take(Flags::ACK, 0, 0, b"hello");
    bench.take(Flags::ACK, 11, 0, b"behind the end");
    bench.expect(expect![[r#"
        ACK 0 bytes
        progress
        out-of-order 4
        outside-window 1
        retransmitted 1"#]]);
}

#[test]
fn short_messages_take_little_memory() {
    let mut bench = Bench::open();
    assert_eq!(bench.nat.buffer_bytes(), 0);
    assert!(bench.nat.tcp_fits(bench.flow) >= 4096);
    bench.nat.tcp_take(NOW, bench.flow, b"hello");
    bench.take(Flags::ACK, 0, 0, b"hello yourself");
    assert!(bench.nat.buffer_bytes() <= 1024, "{}", bench.nat.buffer_bytes());
    assert_eq!(bench.nat.tcp_fits(bench.flow), 0, "what follows goes where the first bytes are");
    assert!(bench.nat.tcp_room(NOW, bench.flow)[0].len() > 400);
}

#[test]
fn keepalives_are_answered() {
    let mut bench = Bench::open();
    bench.take(Flags::ACK, u32::MAX, 0, b"");
    bench.expect(expect!["ACK 0 bytes"]);
}

#[test]
fn large_segments_come_and_go() {
    let mut bench = Bench::open();
    // One frame for forty: the checksum is nobody's yet.
    let payload = vec![5; 40 * 1460];
    let mut bytes = segment(1, REMOTE, Flags::ACK, FIRST.wrapping_add(1), bench.ours, &payload);
    bytes[50] ^= 0xff;
    let offload = Offload {
        csum: Csum::Partial { start: 34, offset: 16 },
        gso: Some(Gso { kind: GsoKind::Tcp4 { ecn: false }, size: 1460 }),
    };
    bench.nat.handle_packet(NOW, NET, &bytes, offload);
    bench.expect(expect![[r#"
        ACK 0 bytes
        progress"#]]);
    assert_eq!(bench.host_takes(), payload.len());

    bench.host_sends(100_000);
    let (_, frame) = bench.nat.poll_frame().expect("bytes for the guest");
    assert_eq!(frame.bytes.len(), 54 + 44 * 1460, "as many whole segments as a packet holds");
    assert_eq!(frame.offload.gso, Some(Gso { kind: GsoKind::Tcp4 { ecn: false }, size: 1460 }));
}

#[test]
fn what_is_lost_is_sent_again() {
    let mut bench = Bench::open();
    bench.host_sends(100);
    bench.expect(expect!["PSH|ACK 100 bytes"]);
    bench.now = bench.nat.next_timeout().expect("a retransmission");
    bench.nat.handle_timeout(bench.now);
    assert_eq!(bench.now - NOW, Duration::from_secs(1), "nothing was measured yet");
    bench.expect(expect!["PSH|ACK 100 bytes"]);

    // Three acknowledgements of the same number do not wait for the clock.
    bench.take(Flags::ACK, 0, 100, b"");
    bench.host_sends(3000);
    bench.expect(expect!["ACK 1460 bytes"]);
    for _ in 0..3 {
        bench.take(Flags::ACK, 0, 100, b"");
    }
    bench.expect(expect![""]);
}

#[test]
fn closed_windows_are_probed() {
    let mut bench = Bench::open();
    let close = |bench: &mut Bench, ack: u32, window: u16| {
        let (seq, ack) = (FIRST.wrapping_add(1), bench.ours.wrapping_add(ack));
        take(&mut bench.nat, bench.now, [segment_with(1, REMOTE, Flags::ACK, seq, ack, b"", window)]);
    };
    close(&mut bench, 0, 10);
    bench.host_sends(100);
    bench.expect(expect!["ACK 10 bytes"]);
    close(&mut bench, 10, 0);
    bench.expect(expect![""]);
    for _ in 0..50 {
        bench.now = bench.nat.next_timeout().expect("a probe");
        bench.nat.handle_timeout(bench.now);
        let answers = frames(&mut bench.nat);
        if !answers.is_empty() {
            assert_eq!(answers, ["tcp 192.0.2.80:80 > 1 ACK 0 bytes"]);
            close(&mut bench, 10, 0);
        }
    }
    assert!(bench.now - NOW > Duration::from_secs(600), "ever less often");
    close(&mut bench, 10, 1000);
    bench.expect(expect!["PSH|ACK 90 bytes"]);
}

#[test]
fn both_orders_of_the_end() {
    // The guest first.
    let mut bench = Bench::open();
    bench.take(Flags::FIN | Flags::ACK, 0, 0, b"bye");
    bench.expect(expect![[r#"
        ACK 0 bytes
        progress"#]]);
    assert_eq!(bench.host_takes(), 3);
    bench.host_sends(7);
    bench.expect(expect!["PSH|ACK 7 bytes"]);
    bench.host_sends(0);
    bench.expect(expect![[r#"
        FIN|ACK 0 bytes
        close"#]]);
    bench.take(Flags::ACK, 4, 8, b"");
    assert_eq!(bench.nat.flows(), 0, "the guest is the one to wait");

    // The host first.
    let mut bench = Bench::open();
    bench.host_sends(7);
    bench.host_sends(0);
    bench.expect(expect!["FIN|PSH|ACK 7 bytes"]);
    bench.take(Flags::ACK, 0, 8, b"one more thing");
    bench.take(Flags::FIN | Flags::ACK, 14, 8, b"");
    assert_eq!(bench.host_takes(), 14);
    bench.expect(expect![[r#"
        ACK 0 bytes
        progress
        close"#]]);
    // Its FIN comes again, as our acknowledgement was lost.
    bench.take(Flags::FIN | Flags::ACK, 14, 8, b"");
    bench.expect(expect![[r#"
        ACK 0 bytes
        retransmitted 1"#]]);
    // The same port may be used for a new connection at once.
    take(&mut bench.nat, NOW, [segment(1, REMOTE, Flags::SYN, FIRST.wrapping_add(1000), 0, &[])]);
    bench.expect(expect![[r#"
        connect 192.0.2.80:80
        retransmitted 1"#]]);
}

#[test]
fn what_the_guest_sent_reaches_a_slow_host_after_the_end() {
    let mut bench = Bench::open();
    bench.host_sends(0);
    bench.take(Flags::FIN | Flags::ACK, 0, 0, b"patience");
    frames(&mut bench.nat);
    bench.take(Flags::ACK, 9, 1, b"");
    // The guest is done, and forgets: its reset is no reason to lose what it sent.
    bench.take(Flags::RST, 9, 0, b"");
    bench.now += Duration::from_secs(600);
    bench.nat.handle_timeout(bench.now);
    assert_eq!(bench.nat.flows(), 1);
    ops(&mut bench.nat);
    assert_eq!(bench.host_takes(), 8);
    bench.expect(expect!["close"]);
    assert_eq!(bench.nat.flows(), 0);
}

#[test]
fn what_the_host_sent_comes_before_its_reset() {
    let mut bench = Bench::open();
    bench.host_sends(5000);
    bench.nat.tcp_failed(NOW, bench.flow, HostError::Refused);
    bench.expect(expect![[r#"
        ACK 1460 bytes
        ACK 1460 bytes
        ACK 1460 bytes
        PSH|ACK 620 bytes
        RST|ACK 0 bytes
        host-refused 1"#]]);
    assert_eq!((bench.nat.flows(), bench.nat.buffer_bytes()), (0, 0));

    // A closed window holds both back.
    let mut bench = Bench::open();
    let window = |bench: &mut Bench, ack: u32, window| {
        let (seq, ack) = (FIRST.wrapping_add(1), bench.ours.wrapping_add(ack));
        take(&mut bench.nat, NOW, [segment_with(1, REMOTE, Flags::ACK, seq, ack, b"too late", window)]);
    };
    window(&mut bench, 0, 100);
    ops(&mut bench.nat);
    bench.host_sends(150);
    bench.nat.tcp_failed(NOW, bench.flow, HostError::Refused);
    bench.expect(expect![[r#"
        ACK 100 bytes
        host-refused 1"#]]);
    window(&mut bench, 100, 100);
    bench.expect(expect![[r#"
        PSH|ACK 50 bytes
        RST|ACK 0 bytes
        host-refused 1"#]]);
    assert_eq!(bench.nat.flows(), 0);
}

#[test]
fn numbers_cannot_be_guessed() {
    let first = |seed: u8, at: Instant, port: u16| {
        let mut nat = Nat::new([seed; 32]);
        nat.configure(at, &[network()], &[]);
        take(&mut nat, at, [segment(port, REMOTE, Flags::SYN, FIRST, 0, &[])]);
        let Some(HostOp::TcpConnect { flow, .. }) = nat.poll_host() else { panic!("a connection") };
        nat.tcp_connected(at, flow);
        let (_, frame) = nat.poll_frame().expect("a SYN-ACK");
        tcp::parse(&frame.bytes[34..]).unwrap().seq
    };
    let base = first(1, NOW, 1);
    assert_ne!(first(2, NOW, 1), base, "the seed");
    assert_ne!(first(1, NOW, 2), base, "the sockets");
    assert_eq!(first(1, NOW + Duration::from_secs(1), 1).wrapping_sub(base), 250_000, "the clock");
}
