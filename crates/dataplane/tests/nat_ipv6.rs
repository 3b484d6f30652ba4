//! The NAT device over IPv6, between a real kernel, as the guest, and another one's sockets.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{World, network_with_gateway, port};
use weft_dataplane_protocol::{DataplaneConfig, GatewayConfig, NetworkConfig, NetworkMode, PortKind};
use weft_testkit::{Netns, in_netns, mac, skipped};

/// An address of the host's that is not its loopback's.
const OUTSIDE: &str = "2001:db8::1";
const GATEWAY: &str = "fd00:20::1";
const BYTES: usize = 16 << 20;

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// Runs `body` with a guest whose way out is the gateway, where TAP devices, Python and IPv6 are there.
fn with_guest(test: &str, body: impl FnOnce(&Netns)) {
    in_netns(test, || {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
            return skipped(test, &format!("/dev/net/tun cannot be opened: {error}"));
        }
        if !std::path::Path::new("/proc/net/if_inet6").exists() {
            return skipped(test, "this kernel has no IPv6");
        }
        if let Err(error) = Command::new("python3").arg("--version").output() {
            return skipped(test, &format!("`python3` does not run: {error}"));
        }
        if let Err(error) = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0") {
            return skipped(test, &format!("/proc/sys/net is closed to us: {error}"));
        }
        let world = World::new();
        let network = network_with_gateway("office", 20);
        let subnet6 = Some("fd00:20::/64".parse().unwrap());
        let gateway = network.gateway.map(|gateway| GatewayConfig { host_access: true, subnet6, ..gateway });
        let network = NetworkConfig { mode: NetworkMode::Nat, gateway, ..network };
        let tap = port("tap1", "office", mac(1), PortKind::Tap { name: "tap1".into(), host: None });
        let (networks, ports) = (vec![network], vec![tap]);
        world.apply(&DataplaneConfig { revision: 1, networks, ports, ..DataplaneConfig::default() });
        let guest = Netns::new();
        let script = |mut command: Command, script: &str| drop(succeed(command.args(["-ec", script])));
        let here = format!(
            "ip link set lo up; ip addr add {OUTSIDE}/128 dev lo
            ip link set tap1 address 02:00:00:00:00:01; ip link set tap1 netns {}",
            guest.pid()
        );
        script(Command::new("sh"), &here);
        let there = "echo 0 > /proc/sys/net/ipv6/conf/tap1/accept_ra
            ip link set tap1 up; ip addr add fd00:20::10/64 dev tap1 nodad; ip route add default via fe80::1 dev tap1";
        script(guest.command("sh"), there);
        body(&guest);
    });
}

/// Runs a Python program on the guest.
fn python(guest: &Netns, program: &str) -> String {
    succeed(guest.command("python3").args(["-c", &format!("import socket, sys\n{program}")]))
}

#[test]
fn streams_both_ways() {
    with_guest("streams_both_ways", |guest| {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let mut stream = stream.unwrap();
                let mut buffer = vec![0; 256 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..count]).unwrap();
                }
            }
        });
        for host in [GATEWAY, OUTSIDE] {
            let said = python(
                guest,
                &format!(
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
                ),
            );
            assert_eq!(said.trim(), format!("{BYTES} True"));
        }
    });
}

#[test]
fn endings_are_told_as_they_are() {
    with_guest("endings_are_told_as_they_are", |guest| {
        let closed = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port();
        let check = |host: &str, expected: &str| {
            let said = python(
                guest,
                &format!(
                    "
try:
    socket.create_connection(('{host}', {closed}), timeout=10)
    print('connected')
except OSError as error:
    print(error)"
                ),
            );
            assert!(said.contains(expected), "{host}: {said}");
        };
        check(GATEWAY, "Connection refused");
        check(OUTSIDE, "Connection refused");
        // The host has no way there, and says so at once: clients go on by IPv4.
        check("2001:db8:ffff::1", "unreachable");
        let said = python(
            guest,
            &format!(
                "
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect(('{GATEWAY}', {closed}))
s.send(b'anyone?')
try:
    s.recv(1)
except OSError as error:
    print(error)"
            ),
        );
        assert!(said.contains("Connection refused"), "{said}");
    });
}

#[test]
fn datagrams_and_pings() {
    with_guest("datagrams_and_pings", |guest| {
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
        let said = python(
            guest,
            &format!(
                "
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(10)
for size in (0, 1452, 1453, 30000):
    s.sendto(bytes(size), ('{OUTSIDE}', {port}))
    print(len(s.recv(65536)), end=' ')"
            ),
        );
        assert_eq!(said.trim(), "0 1452 1453 30000");
        for arguments in [vec![GATEWAY], vec![OUTSIDE], vec!["-s", "4000", OUTSIDE]] {
            succeed(guest.command("ping").args(["-6", "-c", "2", "-i", "0.2", "-W", "5"]).args(arguments));
        }
    });
}
