//! The NAT device between a real kernel, as the guest, and another one's sockets.

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{World, network_with_gateway, port};
use weft_dataplane_protocol::{
    DataplaneConfig, ErrorCode, ForwardConfig, GatewayConfig, NetworkConfig, NetworkMode, PortKind, Request, Response,
};
use weft_testkit::{Netns, in_netns, mac, skipped};
use weft_types::{Metadata, Provenance, UserData};

/// An address of the host's that is not its loopback's.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const BYTES: usize = 16 << 20;

/// A kernel on a network with NAT, and the host behind it.
struct Bench {
    guest: Netns,
    world: World,
    config: DataplaneConfig,
}

impl Bench {
    fn new() -> Self {
        let world = World::new();
        let network = network_with_gateway("office", 20);
        let gateway = network.gateway.map(|gateway| GatewayConfig { host_access: true, ..gateway });
        let network = NetworkConfig { mode: NetworkMode::Nat, gateway, ..network };
        let tap = port("tap1", "office", mac(1), PortKind::Tap { name: "tap1".into(), host: None });
        let config =
            DataplaneConfig { revision: 1, networks: vec![network], ports: vec![tap], ..DataplaneConfig::default() };
        world.apply(&config);
        let guest = Netns::new();
        let bench = Self { guest, world, config };
        let here = |arguments: &str| succeed(&mut words(Command::new("ip"), arguments));
        here("link set lo up");
        here(&format!("addr add {OUTSIDE}/32 dev lo"));
        here("link set tap1 address 02:00:00:00:00:01");
        here(&format!("link set tap1 netns {}", bench.guest.pid()));
        for arguments in ["addr add 10.20.0.10/24 dev tap1", "link set tap1 up", "route add default via 10.20.0.1"] {
            succeed(&mut words(bench.guest.command("ip"), arguments));
        }
        bench
    }

    /// Lets the host's ports lead to the guest, each a text like `8080 -> 10.20.0.10:80`.
    fn forward(&self, revision: u64, forwards: &[&str]) -> Response {
        let mut config = DataplaneConfig { revision, ..self.config.clone() };
        let forward = |text: &&str| {
            let (listen, to) = text.split_once(" -> ").expect("two ends");
            let ip = Some(Ipv4Addr::new(10, 20, 0, 10));
            let provenance = Provenance::command("weft forward add");
            ForwardConfig { listen: listen.parse().unwrap(), to: to.parse().unwrap(), mac: None, ip, provenance }
        };
        config.networks[0].forwards = forwards.iter().map(forward).collect();
        self.world.ask(&Request::Apply(config))
    }

    /// A Python program that goes on on the guest; it has begun when it has said a line.
    fn python_server(&self, program: &str) -> Server {
        let mut command = self.guest.command("python3");
        command.args(["-c", &format!("import socket, sys\n{program}")]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Server(child)
    }

    /// Runs a Python program on the guest.
    fn python(&self, program: &str) -> String {
        succeed(self.guest.command("python3").args(["-c", &format!("import socket, sys\n{program}")]))
    }
}

/// A Python program that prints what is answered to a request.
fn fetch(path: &str) -> String {
    format!(
        "import urllib.request\n\
         print(urllib.request.urlopen('http://169.254.169.254{path}', timeout=10).read().decode(), end='')"
    )
}

/// A program on the guest, which ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn words(mut command: Command, arguments: &str) -> Command {
    command.args(arguments.split(' '));
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    text(&output)
}

/// Runs `body` where TAP devices and Python are there.
fn with_guest(test: &str, body: impl FnOnce(&Bench)) {
    in_netns(test, || {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
            return skipped(test, &format!("/dev/net/tun cannot be opened: {error}"));
        }
        if let Err(error) = Command::new("python3").arg("--version").output() {
            return skipped(test, &format!("`python3` does not run: {error}"));
        }
        body(&Bench::new());
    });
}

/// A server at any address that sends back what comes, until that ends; for `connections`. Gives its port.
fn echo_server(connections: usize) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().take(connections) {
            let mut stream = stream.expect("a connection");
            let mut buffer = vec![0; 256 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&buffer[..count]).expect("a guest that reads");
            }
        }
    });
    port
}

#[test]
fn a_guest_asks_who_it_is() {
    with_guest("a_guest_asks_who_it_is", |bench| {
        let told = |revision: u64, user_data: UserData| {
            let mut config = DataplaneConfig { revision, ..bench.config.clone() };
            let machine =
                Metadata { vm: "web".parse().unwrap(), instance_id: "5eed".to_owned(), ssh_key: None, user_data };
            config.networks[0].gateway.as_mut().unwrap().metadata = [(mac(1), machine)].into();
            bench.world.apply(&config);
        };
        let long = "#cloud-config\n".repeat(1000);
        told(2, UserData::Text(long.clone()));
        assert_eq!(bench.python(&fetch("/latest/meta-data/instance-id")), "5eed");
        assert_eq!(bench.python(&fetch("/openstack/latest/user_data")), long);
        // By way of the gateway, and where a client takes the address for one of its own link.
        let shell = |arguments: &str| succeed(&mut words(bench.guest.command("ip"), arguments));
        shell("route add 169.254.0.0/16 dev tap1");
        assert_eq!(bench.python(&fetch("/latest/meta-data/local-ipv4")), "10.20.0.10");
        told(3, UserData::Text("#!/bin/sh\n".to_owned()));
        assert_eq!(bench.python(&fetch("/latest/user-data")), "#!/bin/sh\n", "an edit is told at once");
    });
}

#[test]
fn streams_both_ways() {
    with_guest("streams_both_ways", |bench| {
        let port = echo_server(2);
        for host in [Ipv4Addr::new(10, 20, 0, 1), OUTSIDE] {
            let start = Instant::now();
            let said = bench.python(&format!(
                "
import hashlib, os, threading
s = socket.create_connection(('{host}', {port}), timeout=30)
block = os.urandom(1 << 20)
sent = hashlib.sha256()
def send():
    for _ in range({BYTES} >> 20):
        s.sendall(block)
        sent.update(block)
    s.shutdown(socket.SHUT_WR)
sender = threading.Thread(target=send)
sender.start()
received, count = hashlib.sha256(), 0
while part := s.recv(1 << 18):
    received.update(part)
    count += len(part)
sender.join()
print(count, sent.digest() == received.digest())"
            ));
            assert_eq!(said.trim(), format!("{BYTES} True"));
            eprintln!("{BYTES} bytes both ways through {host} in {:?}", start.elapsed());
        }
    });
}

#[test]
fn endings_are_told_as_they_are() {
    with_guest("endings_are_told_as_they_are", |bench| {
        let closed = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port();
        let check = |host: &str, expected: &str| {
            let said = bench.python(&format!(
                "
try:
    socket.create_connection(('{host}', {closed}), timeout=10)
    print('connected')
except OSError as error:
    print(error)"
            ));
            assert!(said.contains(expected), "{host}: {said}");
        };
        check("10.20.0.1", "Connection refused");
        check(&OUTSIDE.to_string(), "Connection refused");
        // The host has no way there.
        check("203.0.113.1", "unreachable");
        // Nobody may go there: the host's loopback and link-local addresses.
        check("169.254.169.254", "No route to host");
        let said = bench.python(&format!(
            "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect(('10.20.0.1', {closed}))
s.send(b'anyone?')
try:
    s.recv(1)
except OSError as error:
    print(error)"
        ));
        assert!(said.contains("Connection refused"), "{said}");
    });
}

#[test]
fn datagrams_and_pings() {
    with_guest("datagrams_and_pings", |bench| {
        let server = UdpSocket::bind((OUTSIDE, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((count, from)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..count], from);
            }
        });
        // One that fits into a packet, and one that goes in pieces.
        let said = bench.python(&format!(
            "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
for size in (0, 1472, 1473, 30000):
    s.sendto(bytes(size), ('{OUTSIDE}', {port}))
    print(len(s.recv(65536)), end=' ')"
        ));
        assert_eq!(said.trim(), "0 1472 1473 30000");
        for host in [Ipv4Addr::new(10, 20, 0, 1), OUTSIDE] {
            let host = host.to_string();
            succeed(bench.guest.command("ping").args(["-c", "2", "-i", "0.2", "-W", "5", &host]));
        }
        succeed(bench.guest.command("ping").args([
            "-c",
            "2",
            "-i",
            "0.2",
            "-W",
            "5",
            "-s",
            "4000",
            &OUTSIDE.to_string(),
        ]));
        assert!(bench.world.port("tap1").tx_frames > 20);
    });
}

/// A server of the guest's that sends back what comes until that ends; on TCP and UDP.
const ECHO: &str = "
import threading
tcp = socket.create_server(('', 80))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('', 53))
def serve(client):
    while part := client.recv(1 << 18):
        client.sendall(part)
    client.close()
def streams():
    while True:
        threading.Thread(target=serve, args=(tcp.accept()[0],)).start()
threading.Thread(target=streams).start()
print('ready', flush=True)
while True:
    udp.sendto(*udp.recvfrom(65536))";

/// Sends bytes through a connection whose other end sends them back; whether they came back.
fn come_back(mut stream: TcpStream, bytes: usize) -> bool {
    let sent: Vec<u8> = (0..bytes).map(|at| (at ^ (at >> 9) ^ (at >> 17)) as u8).collect();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    received == sent
}

#[test]
fn clients_of_the_host_reach_the_guest() {
    with_guest("clients_of_the_host_reach_the_guest", |bench| {
        let _server = bench.python_server(ECHO);
        let forwards = [
            "8080 -> 10.20.0.10:80",
            "[::1]:8080 -> 10.20.0.10:80",
            "0.0.0.0:9000-9002 -> 10.20.0.10:79",
            "udp/5353 -> 10.20.0.10:53",
        ];
        assert_eq!(bench.forward(2, &forwards), Response::Done);
        for place in ["127.0.0.1:8080", "[::1]:8080", "127.0.0.1:9001", "198.51.100.1:9001"] {
            let start = Instant::now();
            assert!(come_back(TcpStream::connect(place).unwrap(), BYTES), "{place}");
            eprintln!("{BYTES} bytes there and back through {place} in {:?}", start.elapsed());
        }
        // Nobody listens on the guest: what a client hears is a reset.
        let mut refused = TcpStream::connect("127.0.0.1:9000").unwrap();
        refused.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(refused.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        // Two clients and their datagrams, whole and in pieces.
        let clients = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (number, size) in [0usize, 1, 1472, 1473, 30_000].into_iter().enumerate() {
            for client in &clients {
                let port = client.local_addr().unwrap().port().to_be_bytes();
                client.send_to(&[&port[..], &vec![number as u8; size]].concat(), "127.0.0.1:5353").unwrap();
            }
            for client in &clients {
                client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut buffer = vec![0; 65_536];
                let (count, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!((count, from.port()), (size + 2, 5353));
                assert_eq!(buffer[..2], client.local_addr().unwrap().port().to_be_bytes());
            }
        }
        let Response::Status(status) = bench.world.ask(&Request::Status) else { panic!("a status") };
        let served: Vec<_> = status.forwards.iter().map(|forward| (forward.served, forward.reason.clone())).collect();
        assert_eq!(served, [(1, None), (1, None), (3, None), (2, None)]);
    });
}

#[test]
fn forwards_come_and_go_alone() {
    with_guest("forwards_come_and_go_alone", |bench| {
        let _server = bench.python_server(ECHO);
        assert_eq!(bench.forward(2, &["8080 -> 10.20.0.10:80"]), Response::Done);
        let mut stays = TcpStream::connect("127.0.0.1:8080").unwrap();
        stays.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut talk = |byte: u8| {
            let mut answer = [0];
            stays.write_all(&[byte]).unwrap();
            stays.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [byte]);
        };
        talk(1);
        // What cannot be listened at is said, and nothing has changed.
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = format!("{} -> 10.20.0.10:80", other.local_addr().unwrap());
        match bench.forward(3, &["8080 -> 10.20.0.10:80", "8081 -> 10.20.0.10:80", &taken]) {
            Response::Refused(refusal) => {
                assert_eq!(refusal.code, ErrorCode::ForwardFailed);
                assert!(refusal.message.contains("in use by another program"), "{}", refusal.message);
            }
            response => panic!("{response:?}"),
        }
        assert_eq!(TcpStream::connect("127.0.0.1:8081").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        talk(2);
        match bench.forward(3, &["8080 -> 10.20.0.10:80", "0.0.0.0:8080 -> 10.20.0.10:81"]) {
            Response::Refused(refusal) => assert!(refusal.message.contains("leads to"), "{}", refusal.message),
            response => panic!("{response:?}"),
        }
        // Another one comes, moves to all addresses, and goes.
        assert_eq!(bench.forward(3, &["8080 -> 10.20.0.10:80", "8081 -> 10.20.0.10:80"]), Response::Done);
        let mut goes = TcpStream::connect("127.0.0.1:8081").unwrap();
        assert_eq!(bench.forward(4, &["8080 -> 10.20.0.10:80", "0.0.0.0:8081 -> 10.20.0.10:80"]), Response::Done);
        assert!(come_back(TcpStream::connect("198.51.100.1:8081").unwrap(), 10));
        goes.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(goes.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(bench.forward(5, &["8080 -> 10.20.0.10:80"]), Response::Done);
        assert_eq!(TcpStream::connect("127.0.0.1:8081").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        talk(3);
    });
}

/// A name server of the host's side: over UDP it only says that there is more, over TCP it has 100 addresses.
fn name_server() -> std::net::SocketAddr {
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = datagrams.local_addr().unwrap();
    let listener = TcpListener::bind(address).expect("a namespace of our own");
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((count, from)) = datagrams.recv_from(&mut query) {
            query[2] |= 0x82;
            datagrams.send_to(&query[..count], from).unwrap();
        }
    });
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut answer).unwrap();
            (answer[2], answer[3], answer[7]) = (0x81, 0x80, 100);
            for last in 0..100 {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 198, 51, 100, last]);
            }
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    address
}

/// A kernel's resolver asks by datagram, hears that there is more, and comes by TCP.
#[test]
fn long_answers_by_tcp() {
    with_guest("long_answers_by_tcp", |bench| {
        let mut config = DataplaneConfig { revision: 2, ..bench.config.clone() };
        let gateway = config.networks[0].gateway.as_mut().unwrap();
        gateway.names.forward = [("corp.example".parse().unwrap(), vec![name_server()])].into();
        gateway.names.hosts = [("printer".parse().unwrap(), vec![Ipv4Addr::new(10, 20, 0, 9).into()])].into();
        bench.world.apply(&config);
        let heard = bench.python(
            r"
def query(name):
    labels = b''.join(bytes([len(label)]) + label for label in name.split(b'.'))
    return b'\xbe\xef\1\0\0\1\0\0\0\0\0\0' + labels + b'\0\0\1\0\1'

def by_udp(name):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(20)
    udp.sendto(query(name), ('10.20.0.1', 53))
    return udp.recv(4096)

def by_tcp(*names):
    tcp = socket.create_connection(('10.20.0.1', 53), 20)
    for name in names:
        tcp.sendall(len(query(name)).to_bytes(2, 'big') + query(name))
    tcp.shutdown(socket.SHUT_WR)
    heard = tcp.makefile('rb').read()
    while heard:
        length = int.from_bytes(heard[:2], 'big')
        yield heard[2:2 + length]
        heard = heard[2 + length:]

def say(answer):
    print(answer[:2].hex(), 'truncated' if answer[2] & 2 else answer[7], answer[-4:].hex())

say(by_udp(b'printer.office.weft'))
say(by_udp(b'www.corp.example'))
for answer in sorted(by_tcp(b'printer', b'www.corp.example'), key=len):
    say(answer)
for answer in by_tcp(b'www.corp.example'):
    say(answer)
",
        );
        let expected =
            "beef 1 0a140009\nbeef truncated 00010001\nbeef 1 0a140009\nbeef 100 c6336463\nbeef 100 c6336463\n";
        assert_eq!(heard, expected);
    });
}

/// `udp TO TTL BYTES` sends a datagram that may not be cut, and prints what is said about it: ICMP type, code, MTU, and
/// who says it. `tcp TO` prints the error of a connection.
const PROBE: &str = "
import select, socket, struct, sys
what, to, *rest = sys.argv[1:]
if what == 'tcp':
    connection = socket.socket()
    connection.settimeout(5)
    print(connection.connect_ex((to, 99)))
else:
    ttl, count = map(int, rest)
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option, value in ((socket.IP_TTL, ttl), (11, 1), (10, 3)):
        probe.setsockopt(socket.IPPROTO_IP, option, value)
    probe.sendto(bytes(count), (to, 33434))
    errors = select.poll()
    errors.register(probe, 0)
    if errors.poll(4000):
        said = probe.recvmsg(0, 200, socket.MSG_ERRQUEUE)[1][0][2]
        _, _, kind, code, _, info = struct.unpack('IBBBBI', said[:12])
        print(kind, code, info, socket.inet_ntoa(said[20:24]))
";

/// Echoes go by a raw socket here, for in a new namespace no group may have sockets for them.
#[test]
fn routers_are_heard_by_guests() {
    routers_are_heard("routers_are_heard_by_guests", "true");
}

#[test]
fn routers_are_heard_by_guests_of_a_host_with_echo_sockets() {
    routers_are_heard(
        "routers_are_heard_by_guests_of_a_host_with_echo_sockets",
        "echo 0 0 > /proc/sys/net/ipv4/ping_group_range",
    );
}

/// Guest, gateway and host; a router; and behind it a narrower link to the far end.
fn routers_are_heard(test: &str, prepare: &str) {
    in_netns(test, || {
        let script = |mut command: Command, script: &str| command.args(["-ec", script]).status().unwrap().success();
        if !script(Command::new("sh"), prepare) {
            return skipped(test, "/proc/sys/net is closed to us");
        }
        let (router, far) = (Netns::new(), Netns::new());
        let lines = format!(
            "ip link add out type veth peer name in netns {}; ip addr add 10.98.0.1/24 dev out; ip link set out up
            ip route add default via 10.98.0.2",
            router.pid()
        );
        assert!(script(Command::new("sh"), &lines));
        let lines = format!(
            "ip link add narrow mtu 1400 type veth peer name end netns {}
            ip addr add 10.98.0.2/24 dev in; ip link set in up
            ip addr add 10.99.0.2/24 dev narrow; ip link set narrow up; ip route add unreachable 10.97.0.0/24
            echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 1 > /proc/sys/net/ipv4/ip_forward",
            far.pid()
        );
        assert!(script(router.command("sh"), &lines));
        let lines = "ip addr add 10.99.0.1/24 dev end; ip link set end mtu 1400 up; ip route add default via 10.99.0.2
            echo 0 > /proc/sys/net/ipv4/icmp_ratelimit";
        assert!(script(far.command("sh"), lines));
        with_guest(test, hears_routers);
    });
}

fn hears_routers(bench: &Bench) {
    // What is lost because machines are slow is tried again; the answer is never another one.
    let says = |program: &str, arguments: &[&str], is_said: &dyn Fn(&str) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let output = bench.guest.command(program).args(arguments).output().unwrap();
            if is_said(&text(&output)) {
                return;
            }
            assert!(Instant::now() < deadline, "{program} {arguments:?}: {}", text(&output));
        }
    };
    let probe = |arguments: &str, expected: &str| {
        let arguments: Vec<&str> = ["-c", PROBE].into_iter().chain(arguments.split(' ')).collect();
        says("python3", &arguments, &|said| said.starts_with(expected));
    };
    probe("udp 10.99.0.1 1 10", "11 0 0 10.20.0.1");
    probe("udp 10.99.0.1 2 10", "11 0 0 10.98.0.2");
    probe("udp 10.99.0.1 3 10", "3 3 0 10.99.0.1");
    probe("udp 10.99.0.1 64 1472", "3 4 1400 ");
    probe("udp 10.97.0.1 64 10", "3 1 0 10.98.0.2");
    probe("tcp 10.99.0.1", "111"); // refused
    probe("tcp 10.97.0.1", "113"); // no route to the host

    let ping = |arguments: &str, expected: &str| {
        let arguments: Vec<&str> = ["-n", "-c1", "-W2"].into_iter().chain(arguments.split(' ')).collect();
        says("ping", &arguments, &|said| said.contains(expected));
    };
    ping("10.99.0.1", "1 received");
    ping("-t1 10.99.0.1", "From 10.20.0.1 icmp_seq=1 Time to live exceeded");
    ping("-t2 10.99.0.1", "From 10.98.0.2 icmp_seq=1 Time to live exceeded");
    ping("-t3 10.99.0.1", "1 received");
    ping("10.97.0.1", "From 10.98.0.2 icmp_seq=1 Destination Host Unreachable");
    ping("-s 3000 10.99.0.1", "1 received");
}
