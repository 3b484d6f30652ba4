//! Laws of TCP: whatever is lost, doubled or late between guest and NAT device, and however the host's socket cuts
//! its reads and writes, every byte arrives in order and exactly once, and every ending reaches the other side.

use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use proptest::prelude::*;
use weft_testkit::{Guest, SocketHandle, tcp};
use weft_types::Instant;
use weft_wire::Offload;

use super::bench::{FORWARD, GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, NET, REMOTE, causes, nat};
use crate::OutFrame;
use crate::nat::{Callee, FlowId, HostError, HostOp, Nat};

/// How bad things are.
#[derive(Clone, Debug)]
struct Weather {
    seed: u64,
    /// Of a hundred frames, in each direction.
    lost: u32,
    doubled: u32,
    late: u32,
    /// The most bytes that the host's socket moves at a time.
    host_chunk: usize,
    guest_buffer: usize,
    mtu: u16,
}

const FAIR: Weather =
    Weather { seed: 1, lost: 0, doubled: 0, late: 0, host_chunk: usize::MAX, guest_buffer: 65_536, mtu: 1500 };

fn any_weather() -> impl Strategy<Value = Weather> {
    let share = || prop_oneof![Just(0u32), 1u32..15];
    let sizes = (1usize..100_000, 1000usize..200_000, 576u16..9000);
    (any::<u64>(), share(), share(), share(), sizes).prop_map(|(seed, lost, doubled, late, sizes)| {
        let (host_chunk, guest_buffer, mtu) = sizes;
        Weather { seed, lost, doubled, late, host_chunk, guest_buffer, mtu }
    })
}

/// The socket that a host would have.
#[derive(Default)]
struct HostSocket {
    flow: Option<FlowId>,
    received: Vec<u8>,
    got_fin: bool,
    to_send: VecDeque<u8>,
    /// Send the FIN behind `to_send`.
    finishes: bool,
    finished: bool,
    closed: Option<&'static str>,
    /// Neither reads nor writes.
    stalled: bool,
}

/// A guest, a NAT device, a host, and the weather between the first two.
struct Bench {
    weather: Weather,
    random: u64,
    now: Instant,
    nat: Nat,
    guest: Guest,
    socket: SocketHandle,
    to_nat: Vec<(Instant, Vec<u8>)>,
    to_guest: Vec<(Instant, OutFrame)>,
    host: HostSocket,
    /// What the host answers to the connection.
    refuses: Option<HostError>,
    received: Vec<u8>,
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

impl Bench {
    /// The guest connects to the host.
    fn new(weather: Weather) -> Self {
        Self::with(weather, |guest, buffer| guest.connect(40_000, REMOTE, buffer))
    }

    /// A client of a forward connects to the guest.
    fn forwarded(weather: Weather) -> Self {
        let mut bench = Self::with(weather, |guest, buffer| guest.listen(80, buffer));
        let callee = Callee { network: NET, guest: SocketAddr::V4(SocketAddrV4::new(GUEST, 80)), mac: Some(GUEST_MAC) };
        bench.host.flow = bench.nat.dial(bench.now, FORWARD, callee);
        bench
    }

    fn by(caller: Caller, weather: Weather) -> Self {
        match caller {
            Caller::Guest => Self::new(weather),
            Caller::Client => Self::forwarded(weather),
        }
    }

    fn with(weather: Weather, socket: impl FnOnce(&mut Guest, usize) -> SocketHandle) -> Self {
        let mut guest = Guest::new(GUEST_MAC, GUEST, (GATEWAY_MAC, GATEWAY), weather.mtu);
        let socket = socket(&mut guest, weather.guest_buffer);
        Self {
            random: weather.seed | 1,
            weather,
            now: Instant::from_millis(1),
            nat: nat(),
            guest,
            socket,
            to_nat: Vec::new(),
            to_guest: Vec::new(),
            host: HostSocket::default(),
            refuses: None,
            received: Vec::new(),
        }
    }

    /// Xorshift64*.
    fn below(&mut self, limit: u32) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        ((self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % u64::from(limit)) as u32
    }

    fn tcp(&mut self) -> &mut tcp::Socket<'static> {
        self.guest.tcp(self.socket)
    }

    /// When, and how often, a frame arrives.
    fn arrivals(&mut self) -> Vec<Instant> {
        if self.below(100) < self.weather.lost {
            return Vec::new();
        }
        let copies = if self.below(100) < self.weather.doubled { 2 } else { 1 };
        let mut arrivals = Vec::new();
        for _ in 0..copies {
            let late = if self.below(100) < self.weather.late { 1 + self.below(30) } else { 0 };
            arrivals.push(self.now + Duration::from_millis(late.into()));
        }
        arrivals
    }

    /// Everything that can happen now; whether something did.
    fn step(&mut self) -> bool {
        let mut busy = false;
        self.guest.poll(self.now);
        while let Some(frame) = self.guest.transmit() {
            let arrivals = self.arrivals();
            self.to_nat.extend(arrivals.into_iter().map(|at| (at, frame.clone())));
            busy = true;
        }
        let now = self.now;
        for (_, frame) in self.to_nat.extract_if(.., |(at, _)| *at <= now) {
            self.nat.handle_packet(now, NET, &frame, Offload::default());
            busy = true;
        }
        self.nat.handle_timeout(now);
        while let Some(op) = self.nat.poll_host() {
            self.carry_out(op);
            busy = true;
        }
        busy |= self.drive_host();
        while let Some((network, frame)) = self.nat.poll_frame() {
            assert_eq!(network, NET);
            let arrivals = self.arrivals();
            self.to_guest.extend(arrivals.into_iter().map(|at| (at, frame.clone())));
            busy = true;
        }
        for (_, frame) in self.to_guest.extract_if(.., |(at, _)| *at <= now) {
            self.guest.receive(&frame.bytes, frame.offload);
            busy = true;
        }
        busy
    }

    fn carry_out(&mut self, op: HostOp) {
        match op {
            HostOp::TcpConnect { flow, to } => {
                assert_eq!(to, REMOTE.into());
                assert!(self.host.flow.is_none(), "one connection at a time");
                match self.refuses {
                    Some(error) => self.nat.tcp_failed(self.now, flow, error),
                    None => {
                        self.host.flow = Some(flow);
                        self.nat.tcp_connected(self.now, flow);
                    }
                }
            }
            HostOp::TcpProgress { .. } => {} // `drive_host` comes anyway
            HostOp::TcpClose { flow, reset } => {
                assert_eq!(self.host.flow.take(), Some(flow));
                self.host.closed = Some(if reset { "reset" } else { "close" });
            }
            other => panic!("{other:?}"),
        }
    }

    /// Moves bytes as a kernel would; whether it moved any.
    fn drive_host(&mut self) -> bool {
        let Some(flow) = self.host.flow else { return false };
        if self.host.stalled {
            return false;
        }
        let mut busy = false;
        let most = 1 + self.below(self.weather.host_chunk.min(1 << 20) as u32) as usize;
        let outgoing = self.nat.tcp_outgoing(flow);
        let taken: Vec<u8> = outgoing.bytes.concat().into_iter().take(most).collect();
        let is_shut = outgoing.then_shut && taken.len() == outgoing.len();
        if !taken.is_empty() {
            assert!(!self.host.got_fin);
            self.nat.tcp_written(self.now, flow, taken.len());
            self.host.received.extend(taken);
            busy = true;
        }
        if is_shut {
            self.host.got_fin = true;
            self.nat.tcp_shut(self.now, flow);
            busy = true;
        }
        let mut given = 0;
        let bare = self.nat.tcp_fits(flow).min(most).min(self.host.to_send.len());
        if bare > 0 {
            let bytes: Vec<u8> = self.host.to_send.drain(..bare).collect();
            self.nat.tcp_take(self.now, flow, &bytes);
            busy = true;
        }
        let has_bytes = bare == 0 && !self.host.to_send.is_empty();
        for space in has_bytes.then(|| self.nat.tcp_room(self.now, flow)).into_iter().flatten() {
            let count = space.len().min(self.host.to_send.len()).min(most - given);
            for (place, byte) in space.iter_mut().zip(self.host.to_send.drain(..count)) {
                *place = byte;
            }
            given += count;
        }
        if given > 0 {
            self.nat.tcp_read(self.now, flow, given);
            busy = true;
        }
        if self.host.finishes && self.host.to_send.is_empty() && !self.host.finished {
            self.host.finished = true;
            self.nat.tcp_finished(self.now, flow);
            busy = true;
        }
        busy
    }

    /// Runs until `done`, with `guest` acting after each step; whether that was before a virtual day was over.
    fn run(&mut self, mut guest: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + Duration::from_secs(24 * 3600);
        let mut idle = 0;
        while self.now < end {
            let mut busy = self.step();
            busy |= self.receive();
            if guest(self) {
                return true;
            }
            if busy {
                idle = 0;
                self.now += Duration::from_micros(50);
                continue;
            }
            idle += 1;
            let mut due: Vec<Instant> = self.nat.next_timeout().into_iter().collect();
            due.extend(self.guest.next_timeout(self.now));
            due.extend(self.to_nat.iter().map(|(at, _)| *at));
            due.extend(self.to_guest.iter().map(|(at, _)| *at));
            match due.into_iter().min() {
                Some(at) => self.now = at.max(self.now + Duration::from_micros(if idle < 100 { 50 } else { 10_000 })),
                None => return false,
            }
        }
        false
    }

    /// The guest reads what there is; whether there was something.
    fn receive(&mut self) -> bool {
        let Self { guest, socket, received, .. } = self;
        let tcp = guest.tcp(*socket);
        let before = received.len();
        while tcp.can_recv() {
            tcp.recv(|bytes| {
                received.extend_from_slice(bytes);
                (bytes.len(), ())
            })
            .expect("bytes are there");
        }
        received.len() > before
    }
}

/// Who ends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Guest,
    Host,
    Both,
}

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Guest,
    /// A client of a forward.
    Client,
}

const CALLERS: [Caller; 2] = [Caller::Guest, Caller::Client];

/// Sends `up` and `down` bytes at the same time, with the endings in the order asked for.
fn transfer(weather: &Weather, caller: Caller, up: usize, down: usize, first: First) {
    let mut bench = Bench::by(caller, weather.clone());
    bench.host.to_send = pattern(down).into();
    bench.host.finishes = first != First::Guest;
    let outgoing = pattern(up);
    let mut sent = 0;
    let mut closed = false;
    let ended = bench.run(|bench| {
        let tcp = bench.tcp();
        if tcp.may_send() && sent < up {
            sent += tcp.send_slice(&outgoing[sent..]).expect("an open socket");
        }
        let host_has_ended = bench.received.len() == down && !bench.tcp().may_recv();
        if sent == up && bench.tcp().may_send() && !closed && (first != First::Host || host_has_ended) {
            bench.tcp().close();
            closed = true;
        }
        bench.host.finishes |= bench.host.got_fin;
        bench.host.closed.is_some() && closed && !bench.tcp().is_active()
    });
    let state = format!("{} {:?} {:?} at {:?}", bench.tcp().state(), bench.host.closed, causes(&bench.nat), bench.now);
    assert!(bench.host.received == outgoing, "{} of {up} bytes up, {state}", bench.host.received.len());
    assert!(bench.received == pattern(down), "{} of {down} bytes down, {state}", bench.received.len());
    assert!(ended, "{state}");
    assert_eq!(bench.host.closed, Some("close"));
    // The last acknowledgements may still be lost; then the flow is forgotten.
    assert!(bench.run(|bench| bench.nat.flows() == 0), "{state}");
    assert_eq!((bench.nat.buffer_bytes(), bench.nat.next_timeout()), (0, None));
}

#[test]
fn fair_weather() {
    for first in [First::Guest, First::Host, First::Both] {
        for (up, down) in [(0, 0), (1, 0), (0, 1), (100_000, 100_000), (3_000_000, 10), (10, 3_000_000)] {
            CALLERS.into_iter().for_each(|caller| transfer(&FAIR, caller, up, down, first));
        }
    }
}

#[test]
fn tiny_windows_and_chunks() {
    let weather = Weather { host_chunk: 1, guest_buffer: 1000, ..FAIR };
    CALLERS.into_iter().for_each(|caller| transfer(&weather, caller, 2000, 2000, First::Both));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The law of TCP.
    #[test]
    fn every_byte_once_and_in_order(
        weather in any_weather(),
        caller in prop_oneof![Just(Caller::Guest), Just(Caller::Client)],
        up in prop_oneof![0usize..3000, 0usize..400_000],
        down in prop_oneof![0usize..3000, 0usize..400_000],
        first in prop_oneof![Just(First::Guest), Just(First::Host), Just(First::Both)],
    ) {
        transfer(&weather, caller, up, down, first);
    }
}

#[test]
fn refused_connections_are_refused() {
    let mut bench = Bench::new(FAIR);
    bench.refuses = Some(HostError::Refused);
    assert!(bench.run(|bench| bench.tcp().state() == tcp::State::Closed));
    assert_eq!(bench.nat.flows(), 0);
}

#[test]
fn resets_of_the_host_reach_the_guest() {
    for caller in CALLERS {
        let mut bench = Bench::by(caller, FAIR);
        assert!(bench.run(|bench| bench.tcp().state() == tcp::State::Established));
        let flow = bench.host.flow.take().expect("a socket");
        bench.nat.tcp_failed(bench.now, flow, HostError::Refused);
        assert!(bench.run(|bench| bench.tcp().state() == tcp::State::Closed));
        assert_eq!(bench.nat.flows(), 0);
    }
}

#[test]
fn resets_of_the_guest_reach_the_host() {
    for caller in CALLERS {
        let mut bench = Bench::by(caller, FAIR);
        assert!(bench.run(|bench| bench.tcp().state() == tcp::State::Established));
        bench.tcp().abort();
        assert!(bench.run(|bench| bench.host.closed.is_some()));
        assert_eq!((bench.host.closed, bench.nat.flows()), (Some("reset"), 0));
    }
}

#[test]
fn a_guest_that_does_not_read_stops_the_host() {
    let mut bench = Bench::new(FAIR);
    bench.host.to_send = pattern(3_000_000).into();
    assert!(bench.run(|bench| bench.tcp().state() == tcp::State::Established));
    // Steps alone do not let the guest read.
    let stalled = |bench: &mut Bench, minutes: u64| {
        let end = bench.now + Duration::from_secs(60 * minutes);
        while bench.now < end {
            bench.step();
            bench.now += Duration::from_millis(100);
        }
        bench.host.to_send.len()
    };
    let left = stalled(&mut bench, 1);
    assert!((1_700_000..2_000_000).contains(&left), "one ring and the guest's buffer are full: {left}");
    assert_eq!(stalled(&mut bench, 30), left, "a closed window is probed for as long as the guest answers");
    bench.host.finishes = true;
    assert!(bench.run(|bench| bench.received.len() == 3_000_000));
    assert_eq!(bench.received, pattern(3_000_000));
}

#[test]
fn a_host_that_does_not_read_stops_the_guest() {
    let mut bench = Bench::new(FAIR);
    bench.host.stalled = true;
    let outgoing = pattern(3_000_000);
    let mut sent = 0;
    let mut send = move |bench: &mut Bench| {
        if bench.tcp().may_send() && sent < outgoing.len() {
            sent += bench.tcp().send_slice(&outgoing[sent..]).expect("an open socket");
        }
        sent
    };
    let end = bench.now + Duration::from_secs(300);
    while bench.now < end {
        bench.step();
        send(&mut bench);
        bench.now += Duration::from_millis(10);
    }
    let sent = send(&mut bench);
    assert!(sent < 1_400_000, "one ring and the guest's buffer are full: {sent}");
    bench.host.stalled = false;
    assert!(bench.run(|bench| {
        send(bench);
        bench.host.received.len() == 3_000_000
    }));
    assert_eq!(bench.host.received, pattern(3_000_000));
}

#[test]
fn a_guest_that_falls_silent_is_given_up() {
    // In the middle of a transfer, and while nothing is to be sent.
    for down in [1_000_000, 0] {
        let mut bench = Bench::new(FAIR);
        bench.host.to_send = pattern(down).into();
        assert!(bench.run(|bench| bench.tcp().state() == tcp::State::Established));
        bench.weather.lost = 100;
        assert!(bench.run(|bench| bench.host.closed.is_some()), "{down}");
        assert_eq!((bench.host.closed, bench.nat.flows()), (Some("reset"), 0));
        assert_eq!(bench.nat.buffer_bytes(), 0);
    }
}

#[test]
fn idle_flows_live_and_take_no_memory() {
    let mut bench = Bench::new(FAIR);
    bench.host.to_send = pattern(300_000).into();
    assert!(bench.run(|bench| bench.received.len() == 300_000));
    let end = bench.now + Duration::from_secs(4 * 3600);
    let mut wakes = 0;
    while bench.now < end {
        while bench.step() {}
        wakes += 1;
        bench.now = bench.nat.next_timeout().expect("a keep-alive").max(bench.now);
    }
    assert_eq!((bench.nat.flows(), bench.nat.buffer_bytes()), (1, 0));
    assert_eq!(bench.tcp().state(), tcp::State::Established);
    assert!(wakes < 200, "{wakes} times awake in four hours");
}
