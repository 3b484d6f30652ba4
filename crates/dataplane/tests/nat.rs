//! The NAT device between a real kernel, as the guest, and another one's sockets.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use common::{World, network_with_gateway, port};
use weft_dataplane_protocol::{DataplaneConfig, GatewayConfig, NetworkConfig, NetworkMode, PortKind};
use weft_testkit::{Netns, in_netns, mac, skipped};

/// An address of the host's that is not its loopback's.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const BYTES: usize = 16 << 20;

/// A kernel on a network with NAT, and the host behind it.
struct Bench {
    guest: Netns,
    world: World,
}

impl Bench {
    fn new() -> Self {
        let world = World::new();
        let network = network_with_gateway("office", 20);
        let gateway = network.gateway.map(|gateway| GatewayConfig { host_access: true, ..gateway });
        let network = NetworkConfig { mode: NetworkMode::Nat, gateway, ..network };
        let tap = port("tap1", "office", mac(1), PortKind::Tap { name: "tap1".into() });
        world.apply(&DataplaneConfig { revision: 1, networks: vec![network], ports: vec![tap] });
        let guest = Netns::new();
        let bench = Self { guest, world };
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

    /// Runs a Python program on the guest.
    fn python(&self, program: &str) -> String {
        succeed(self.guest.command("python3").args(["-c", &format!("import socket, sys\n{program}")]))
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
