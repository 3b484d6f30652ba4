//! The NAT device with real sockets, over the host's loopback only; the guest's TCP is not ours.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant as Clock};

use rustix::event::{PollFd, PollFlags, poll};
use weft_services::nat::Transit;
use weft_services::{NetworkId, NetworkServices, Services};
use weft_testkit::{Guest, SocketHandle, tcp};
use weft_types::{DnsNames, Instant, Ipv4Net, MacAddr};
use weft_wire::icmpv4::{self, Message, Unreachable};
use weft_wire::{EtherType, Offload, Protocol, ethernet, ipv4, segment, udp};

use super::*;

const NET: NetworkId = NetworkId(1);
const GATEWAY_MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);
const GUEST_MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 2]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
const MTU: u16 = 1500;

/// A guest on a network with NAT and host access, and the host.
struct Bench {
    start: Clock,
    services: Services,
    host: HostSockets,
    guest: Guest,
    /// Frames for the guest that are no TCP.
    others: Vec<Vec<u8>>,
}

impl Bench {
    fn new() -> Self {
        Self::with_resolv_conf(Path::new("/nonexistent/resolv.conf"))
    }

    fn with_resolv_conf(path: &Path) -> Self {
        let mut services = Services::new([3; 32], Duration::ZERO);
        let network = NetworkServices {
            id: NET,
            name: "office".parse().unwrap(),
            nat: true,
            mtu: MTU,
            mac: GATEWAY_MAC,
            ip: GATEWAY,
            subnet: Ipv4Net::new_assert(GATEWAY, 24),
            subnet6: None,
            dhcp6: None,
            dhcp: None,
            dns: true,
            metadata: Default::default(),
            host_access: true,
            records: Vec::new(),
            names: DnsNames::default(),
            forwards: Vec::new(),
        };
        services.configure(Instant::ZERO, vec![network]);
        Self {
            start: Clock::now(),
            services,
            host: HostSockets::with_resolv_conf(path).expect("an epoll instance"),
            guest: Guest::new(GUEST_MAC, GUEST, (GATEWAY_MAC, GATEWAY), MTU),
            others: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    /// The guest connects to a port of the host.
    fn connect(&mut self, local_port: u16, port: u16) -> SocketHandle {
        self.guest.connect(local_port, SocketAddrV4::new(GATEWAY, port), 256 * 1024)
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.guest.tcp(handle)
    }

    /// A datagram of the guest to a port of the host.
    fn send_udp(&mut self, from: u16, port: u16, payload: &[u8]) {
        let mut bytes = Vec::new();
        udp::emit(&mut bytes, SocketAddrV4::new(GUEST, from), SocketAddrV4::new(GATEWAY, port), payload);
        self.send_ip(GATEWAY, Protocol::UDP, &bytes);
    }

    fn send_ip(&mut self, dst: Ipv4Addr, protocol: Protocol, payload: &[u8]) {
        let payload_len = payload.len() as u16;
        let header = ipv4::Repr { src: GUEST, dst, protocol, ttl: 64, ident: 1, dont_fragment: false, payload_len };
        let mut frame = Vec::new();
        ethernet::emit(&mut frame, GATEWAY_MAC, GUEST_MAC, EtherType::IPV4);
        header.emit(&mut frame);
        frame.extend_from_slice(payload);
        let now = self.now();
        self.services.handle_frame(now, NET, &frame, Offload::default());
    }

    /// One turn of what a worker does.
    fn turn(&mut self) -> bool {
        let now = self.now();
        let mut busy = false;
        self.guest.poll(now);
        while let Some(frame) = self.guest.transmit() {
            self.services.handle_frame(now, NET, &frame, Offload::default());
            busy = true;
        }
        self.services.handle_timeout(now);
        self.host.drive(now, &mut self.services);
        while let Some((network, frame)) = self.services.poll_frame() {
            assert_eq!(network, NET);
            busy = true;
            let packet = ipv4::parse(&frame.bytes[ethernet::HEADER_BYTES..]).unwrap();
            if packet.protocol == Protocol::TCP {
                self.guest.receive(&frame.bytes, frame.offload);
            } else {
                segment::segment(&frame.bytes, frame.offload, &mut |frame| self.others.push(frame.to_vec())).unwrap();
            }
        }
        busy
    }

    /// Works until `done`.
    #[track_caller]
    fn run(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Clock::now() + Duration::from_secs(60);
        while !done(self) {
            assert!(Clock::now() < end, "{:?}", self.services.nat_mut().counters(NET));
            if !self.turn() {
                let mut fds = [PollFd::new(&self.host, PollFlags::IN)];
                poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 })).expect("poll works");
            }
        }
    }

    /// The next packet for the guest that is no TCP.
    #[track_caller]
    fn other(&mut self) -> Vec<u8> {
        self.run(|bench| !bench.others.is_empty());
        self.others.remove(0).split_off(ethernet::HEADER_BYTES)
    }
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// A server for one connection; gives its port.
fn serve(body: impl FnOnce(std::net::TcpStream) + Send + 'static) -> (u16, thread::JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().unwrap().port();
    (port, thread::spawn(move || body(listener.accept().expect("a connection").0)))
}

#[test]
fn bulk_both_ways_at_once() {
    const BYTES: usize = 32 << 20;
    let (port, server) = serve(|mut stream| {
        let mut buffer = vec![0; 100_000];
        loop {
            match stream.read(&mut buffer).expect("no reset") {
                0 => return,
                count => stream.write_all(&buffer[..count]).expect("no reset"),
            }
        }
    });
    let mut bench = Bench::new();
    let handle = bench.connect(40_000, port);
    let sent = pattern(BYTES);
    let (mut at, mut received) = (0, Vec::with_capacity(BYTES));
    bench.run(|bench| {
        let tcp = bench.tcp(handle);
        if tcp.may_send() && at < BYTES {
            at += tcp.send_slice(&sent[at..]).expect("an open socket");
            if at == BYTES {
                tcp.close();
            }
        }
        while tcp.can_recv() {
            let take = |bytes: &mut [u8]| {
                received.extend_from_slice(bytes);
                (bytes.len(), ())
            };
            tcp.recv(take).expect("bytes are there");
        }
        received.len() == BYTES && !tcp.is_active()
    });
    server.join().unwrap();
    assert!(received == sent);
    bench.run(|bench| bench.services.nat_mut().flows() == 0 && bench.host.tcp.is_empty());
}

#[test]
fn a_refused_port_is_refused() {
    let port = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.local_addr().unwrap().port()
    };
    let mut bench = Bench::new();
    let handle = bench.connect(40_000, port);
    bench.run(|bench| bench.tcp(handle).state() == tcp::State::Closed);
    assert_eq!((bench.services.nat_mut().flows(), bench.host.tcp.len()), (0, 0));
}

#[test]
fn half_closed_by_the_guest() {
    let (port, server) = serve(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).expect("no reset");
        assert_eq!(question, b"how long?");
        thread::sleep(Duration::from_millis(50));
        stream.write_all(&pattern(1 << 20)).expect("no reset");
    });
    let mut bench = Bench::new();
    let handle = bench.connect(40_000, port);
    let mut received = 0;
    let mut asked = false;
    bench.run(|bench| {
        let tcp = bench.tcp(handle);
        if tcp.may_send() && !asked {
            tcp.send_slice(b"how long?").unwrap();
            tcp.close();
            asked = true;
        }
        while tcp.can_recv() {
            received += tcp.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
        asked && !tcp.is_active()
    });
    assert_eq!(received, 1 << 20);
    server.join().unwrap();
}

#[test]
fn half_closed_by_the_host() {
    let (port, server) = serve(|mut stream| {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("no reset");
        assert_eq!(rest.len(), 100_000);
    });
    let mut bench = Bench::new();
    let handle = bench.connect(40_000, port);
    bench.run(|bench| bench.tcp(handle).state() == tcp::State::CloseWait);
    bench.tcp(handle).send_slice(&pattern(100_000)).unwrap();
    bench.tcp(handle).close();
    bench.run(|bench| !bench.tcp(handle).is_active());
    server.join().unwrap();
}

#[test]
fn resets_pass_both_ways() {
    let (port, server) = serve(|stream| {
        // A socket with unread bytes ends with a reset.
        let mut byte = [0];
        stream.peek(&mut byte).expect("a byte");
    });
    let mut bench = Bench::new();
    let handle = bench.connect(40_000, port);
    bench.run(|bench| bench.tcp(handle).may_send());
    bench.tcp(handle).send_slice(b"unread").unwrap();
    bench.run(|bench| bench.tcp(handle).state() == tcp::State::Closed);
    server.join().unwrap();

    let (port, server) = serve(|mut stream| {
        let error = stream.read(&mut [0]).expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
    let handle = bench.connect(40_001, port);
    bench.run(|bench| bench.tcp(handle).may_send());
    bench.tcp(handle).abort();
    bench.run(|bench| bench.services.nat_mut().flows() == 0);
    server.join().unwrap();
    assert!(bench.host.tcp.is_empty());
}

/// A server may answer, and end with a reset because it did not read everything.
#[test]
fn what_came_before_a_reset_arrives() {
    let (port, server) = serve(|mut stream| {
        stream.peek(&mut [0]).expect("a byte");
        stream.write_all(&pattern(20_000)).expect("room");
    });
    let mut bench = Bench::new();
    let handle = bench.connect(40_000, port);
    bench.run(|bench| bench.tcp(handle).may_send());
    bench.tcp(handle).send_slice(b"more than the server wants").unwrap();
    bench.turn();
    server.join().unwrap(); // answer and reset are there before the next turn
    bench.run(|bench| bench.tcp(handle).state() == tcp::State::Closed);
    let mut received = 0;
    while bench.tcp(handle).can_recv() {
        received += bench.tcp(handle).recv(|bytes| (bytes.len(), bytes.len())).unwrap();
    }
    assert_eq!(received, 20_000);
}

#[test]
fn datagrams_and_closed_ports() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    let mut buffer = [0; 2000];
    let mut bench = Bench::new();

    let mut outside = Vec::new();
    for (socket, text) in [(&server, "one"), (&server, "two"), (&other, "three"), (&server, "four")] {
        bench.send_udp(5000, port(socket), text.as_bytes());
        bench.turn();
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], text.as_bytes());
        outside.push(from);
        socket.send_to(&buffer[..count], from).unwrap();
        let packet = bench.other();
        let packet = ipv4::parse(&packet).unwrap();
        let datagram = udp::parse(packet.payload).unwrap();
        assert_eq!((packet.src, datagram.src_port, datagram.dst_port), (GATEWAY, port(socket), 5000));
        assert_eq!(datagram.payload, text.as_bytes());
    }
    outside.dedup();
    assert_eq!(outside.len(), 1, "one socket of the guest is one socket of the host, whoever it writes to");

    let closed = port(&other);
    drop(other);
    bench.send_udp(6000, closed, b"anyone?");
    let packet = bench.other();
    let packet = ipv4::parse(&packet).unwrap();
    let Ok(Message::DestinationUnreachable { code, quote, .. }) = icmpv4::parse(packet.payload) else {
        panic!("{packet:?}")
    };
    assert_eq!(code, Unreachable::PORT);
    let quoted = udp::parse(&quote[ipv4::HEADER_BYTES..]).unwrap();
    assert_eq!((quoted.src_port, quoted.dst_port), (6000, closed));
}

#[test]
fn echoes_are_never_made_up() {
    let mut bench = Bench::new();
    let note = bench.host.notes().into_iter().find(|note| note.contains("ping_group_range"));
    if bench.host.nat_limits().echo {
        assert_eq!(note, None);
        return weft_testkit::skipped("echoes_are_never_made_up", "a user to whom ICMP sockets are closed");
    }
    assert!(note.is_some());
    let mut request = Vec::new();
    Message::EchoRequest { ident: 77, seq: 5, payload: b"hello" }.emit(&mut request);
    bench.send_ip(Ipv4Addr::new(192, 0, 2, 1), Protocol::ICMP, &request);
    let packet = bench.other();
    let Ok(Message::DestinationUnreachable { code, .. }) = icmpv4::parse(&packet[ipv4::HEADER_BYTES..]) else {
        panic!("{packet:?}")
    };
    assert_eq!(code, Unreachable::ADMIN_PROHIBITED);
}

/// The loopback cannot be reached by guests, so this asks the sockets themselves.
#[test]
fn echo_sockets_reach_the_loopback() {
    let mut echoes = Echoes::probe();
    if !echoes.are_open() {
        return weft_testkit::skipped("echo_sockets_reach_the_loopback", "a permitted ICMP socket");
    }
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flow = FlowId::from_bits(3);
    let mut nat = Nat::new([3; 32]);
    let transit = Transit { ttl: 63, dont_fragment: true };
    echoes.send(&epoll, Instant::ZERO, &mut nat, flow, (Ipv4Addr::LOCALHOST.into(), transit), (9, b"hello"));
    let mut events = Vec::with_capacity(4);
    epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&Timespec { tv_sec: 5, tv_nsec: 0 }))
        .expect("an event");
    assert!(!events.is_empty(), "the loopback answers");
    echoes.close(flow);
}

#[test]
fn names_are_asked_of_the_hosts_servers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let bench = Bench::with_resolv_conf(&path);
    assert!(bench.host.notes().iter().any(|note| note.contains("names no name server")));
    std::fs::write(&path, "nameserver 127.0.0.1\n").unwrap();
    let bench = Bench::with_resolv_conf(&path);
    assert!(bench.host.notes().iter().all(|note| !note.contains("name server")));
}

#[test]
fn lookups_go_on_to_the_next_server() {
    // Nobody listens at the first address: its refusal costs no time.
    let closed = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.local_addr().unwrap()
    };
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let open = server.local_addr().unwrap();
    let answers = thread::spawn(move || {
        let mut buffer = [0; 512];
        let (count, from) = server.recv_from(&mut buffer).unwrap();
        // Not an answer: a forger would not know the id.
        server.send_to(&[buffer[0] ^ 1, buffer[1], 0x81, 0x80], from).unwrap();
        buffer[2] |= 0x80;
        server.send_to(&buffer[..count], from).unwrap();
    });
    let mut bench = Bench::new();
    bench.host.resolver.set_servers(&[SocketAddr::V4(v4(closed)), SocketAddr::V4(v4(open))]);
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01";
    bench.send_udp(5353, 53, query);
    let packet = bench.other();
    let packet = ipv4::parse(&packet).unwrap();
    let datagram = udp::parse(packet.payload).unwrap();
    assert_eq!((datagram.src_port, datagram.dst_port), (53, 5353));
    assert_eq!(datagram.payload[..2], query[..2], "the guest's own id");
    assert_eq!(datagram.payload[3] & 0x0f, 0, "no error");
    answers.join().unwrap();
    assert_eq!(bench.host.next_timeout(), None);
}

/// The query of the tests, and its answer with as many addresses; over TCP both stand behind their length.
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01";

fn answer_to(query: &[u8], addresses: u8) -> Vec<u8> {
    let mut answer = query.to_vec();
    (answer[2], answer[3], answer[7]) = (0x81, 0x80, addresses);
    for last in 0..addresses {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 198, 51, 100, last]);
    }
    answer
}

/// A guest that comes by TCP has its question asked by TCP: of the first server that lets itself be asked so.
#[test]
fn long_answers_are_asked_for_over_tcp() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (port, server) = serve(|mut stream| {
        let mut query = vec![0; 2 + QUERY.len()];
        stream.read_exact(&mut query).unwrap();
        let answer = answer_to(&query[2..], 200);
        let bytes = [&(answer.len() as u16).to_be_bytes(), &answer[..]].concat();
        // In pieces, with the length itself in two.
        for piece in [&bytes[..1], &bytes[1..1000], &bytes[1000..]] {
            stream.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
    });
    let mut bench = Bench::new();
    let open = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bench.host.resolver.set_servers(&[closed, open]);
    let handle = bench.connect(40_000, 53);
    bench.run(|bench| bench.tcp(handle).may_send());
    let query = [&(QUERY.len() as u16).to_be_bytes(), QUERY].concat();
    bench.tcp(handle).send_slice(&query).unwrap();
    let expected = answer_to(QUERY, 200);
    bench.run(|bench| bench.tcp(handle).recv_queue() == 2 + expected.len());
    let mut heard = vec![0; 2 + expected.len()];
    bench.tcp(handle).recv_slice(&mut heard).unwrap();
    assert_eq!(heard[2..], expected);
    server.join().unwrap();
}

/// Other servers in the file: they are asked from the next second on, and what the earlier ones said is forgotten.
#[test]
fn the_hosts_servers_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    std::fs::write(&path, "nameserver 192.0.2.53\n").unwrap();
    let mut resolver = Resolver::new(&path);
    let mut services = Services::new([3; 32], Duration::ZERO);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    resolver.drive(Instant::from_millis(0), &epoll, &mut services);
    assert_eq!(resolver.servers(), ["192.0.2.53:53".parse().unwrap()]);
    // As resolvconf and systemd do it: a new file in the place of the old one.
    let next = folder.path().join("resolv.conf.next");
    std::fs::write(&next, "nameserver 192.0.2.54\nnameserver fd00::53\n").unwrap();
    std::fs::rename(&next, &path).unwrap();
    resolver.drive(Instant::from_millis(1000), &epoll, &mut services);
    assert_eq!(resolver.servers(), ["192.0.2.54:53".parse().unwrap(), "[fd00::53]:53".parse().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    resolver.drive(Instant::from_millis(2000), &epoll, &mut services);
    assert_eq!(resolver.servers(), []);
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => unreachable!("bound to 127.0.0.1"),
    }
}

/// An idle host sleeps: nothing is readable, and nothing is due, while flows are open.
#[test]
fn idle_flows_cost_nothing() {
    let (port, server) = serve(|mut stream| {
        let _ = stream.read(&mut [0]);
    });
    let mut bench = Bench::new();
    let handle = bench.connect(40_000, port);
    bench.run(|bench| bench.tcp(handle).may_send());
    while bench.turn() {}
    let mut fds = [PollFd::new(&bench.host, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap();
    assert!(fds[0].revents().is_empty());
    assert_eq!(bench.host.next_timeout(), None);
    bench.tcp(handle).abort();
    bench.run(|bench| bench.services.nat_mut().flows() == 0);
    server.join().unwrap();
}

#[test]
fn programs_of_the_host_ask_for_names() {
    let mut bench = Bench::new();
    let address = Ipv4Addr::new(127, 87, 254, 253);
    bench.host.answer_names(Some(address));
    let server = bench.host.names_address().unwrap();
    assert_eq!(*server.ip(), address);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let query = b"\xbe\xef\x01\0\0\x01\0\0\0\0\0\0\x07gateway\x06office\x04weft\0\0\x01\0\x01";
    let ask = |bench: &mut Bench| {
        client.send_to(query, server).unwrap();
        bench.host.drive(Instant::ZERO, &mut bench.services);
        let mut answer = [0; 512];
        let count = client.recv(&mut answer).unwrap();
        answer[..count].to_vec()
    };
    assert!(ask(&mut bench).ends_with(&GATEWAY.octets()));
    // The same again leaves it alone; another process has it meanwhile, and does not get in its way.
    bench.host.answer_names(Some(address));
    let mut second = HostSockets::new().unwrap();
    second.answer_names(Some(address));
    assert_ne!(second.names_address(), Some(server));
    assert!(ask(&mut bench).ends_with(&GATEWAY.octets()));
    bench.host.answer_names(None);
    assert_eq!(bench.host.names_address(), None);
    second.answer_names(Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(second.names_address(), None, "only on the loopback");
}
