//! A router between two kernels, each on a network of its own.

mod common;

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};

use common::{World, eventually, network_with_gateway, port};
use weft_dataplane_protocol::{
    AddressConfig, DataplaneConfig, ExplainRequest, NetworkConfig, PortKind, Request, Response, RouteEndConfig,
    RouteRuleConfig, RouterConfig,
};
use weft_testkit::{Netns, in_netns, mac, skipped};
use weft_types::{Permission, Provenance, Traffic};

const BYTES: usize = 32 << 20;

/// A kernel on each of two networks: `web` at 10.20.0.10, and `db` at 10.30.0.10, where packets are shorter.
struct Bench {
    world: World,
    web: Netns,
    db: Netns,
    config: DataplaneConfig,
}

fn network(name: &str) -> RouteEndConfig {
    RouteEndConfig::Network { name: name.parse().unwrap() }
}

fn rule(name: &str, permission: Permission, from: &str, to: &str, traffic: Traffic) -> RouteRuleConfig {
    let provenance = Provenance::file("/w.toml", 12);
    RouteRuleConfig { name: name.into(), permission, from: network(from), to: network(to), traffic, provenance }
}

fn tcp(port: u16) -> Traffic {
    Traffic::Ports { protocol: 6, src: Traffic::ALL_PORTS, dst: port..=port }
}

fn core(rules: Vec<RouteRuleConfig>) -> RouterConfig {
    RouterConfig {
        name: "core".parse().unwrap(),
        networks: vec!["web".parse().unwrap(), "db".parse().unwrap()],
        rules,
        default: Permission::Deny,
        connections: 1000,
        provenance: Provenance::file("/w.toml", 10),
    }
}

fn rules() -> Vec<RouteRuleConfig> {
    let ping = Traffic::Icmp { protocol: 1, kind: 8 };
    vec![
        rule("database", Permission::Allow, "web", "db", tcp(5432)),
        rule("ping", Permission::Allow, "web", "db", ping),
        rule("no-ssh", Permission::Reject, "web", "db", tcp(22)),
    ]
}

impl Bench {
    fn new() -> Self {
        let world = World::new();
        let station = |name: &str, second: u8, last: u8| {
            let tap = port(
                name,
                if second == 20 { "web" } else { "db" },
                mac(last),
                PortKind::Tap { name: name.into(), host: None },
            );
            let own = IpAddr::V4(Ipv4Addr::new(10, second, 0, 10));
            weft_dataplane_protocol::PortConfig {
                addresses: AddressConfig::Known { fixed: vec![own.into()], learn: 0 },
                ..tap
            }
        };
        let config = DataplaneConfig {
            revision: 1,
            networks: vec![
                NetworkConfig { mtu: 1400, ..network_with_gateway("db", 30) },
                network_with_gateway("web", 20),
            ],
            ports: vec![station("tap1", 20, 1), station("tap2", 30, 2)],
            routers: vec![core(rules())],
            ..DataplaneConfig::default()
        };
        world.apply(&config);
        let bench = Self { world, web: Netns::new(), db: Netns::new(), config };
        for (namespace, tap, own, second) in [(&bench.web, "tap1", 1, 20), (&bench.db, "tap2", 2, 30)] {
            succeed(&mut ip(Command::new("ip"), &format!("link set {tap} address 02:00:00:00:00:0{own}")));
            succeed(&mut ip(Command::new("ip"), &format!("link set {tap} netns {}", namespace.pid())));
            let mtu = if second == 30 { 1400 } else { 1500 };
            for arguments in [
                "link set lo up".to_owned(),
                format!("addr add 10.{second}.0.10/24 dev {tap}"),
                format!("link set {tap} mtu {mtu} up"),
                format!("route add default via 10.{second}.0.1"),
            ] {
                succeed(&mut ip(namespace.command("ip"), &arguments));
            }
        }
        bench
    }

    fn routers(&self, revision: u64, routers: Vec<RouterConfig>) {
        self.world.apply(&DataplaneConfig { revision, routers, ..self.config.clone() });
    }

    fn ping(&self, arguments: &str) -> String {
        let output = self.web.command("ping").args(arguments.split(' ')).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a Python program at `web`.
    fn python(&self, program: &str) -> String {
        succeed(self.web.command("python3").args(["-c", &format!("import socket, sys\n{program}")]))
    }

    /// How a connection from `web` to a port of `db` ends.
    fn connect(&self, port: u16) -> String {
        let program = format!(
            "
try:
    socket.create_connection(('10.30.0.10', {port}), timeout=1)
    print('connected')
except OSError as error:
    print(type(error).__name__)"
        );
        self.python(&program).trim().to_owned()
    }
}

fn ip(mut command: Command, arguments: &str) -> Command {
    command.args(arguments.split(' '));
    command
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// A program at `db`, which ends with this; it has begun when it has said a line.
struct Server(Child);

impl Server {
    fn new(bench: &Bench, program: &str) -> Self {
        let mut command = bench.db.command("python3");
        command.args(["-c", &format!("import socket, sys\n{program}")]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self(child)
    }

    /// One that sends back what comes, to everybody at this port.
    fn echo(bench: &Bench, port: u16) -> Self {
        Self::new(
            bench,
            &format!(
                "
import threading
s = socket.create_server(('10.30.0.10', {port}))
print('listens', flush=True)
def serve(c):
    while data := c.recv(1 << 18): c.sendall(data)
    c.close()
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()"
            ),
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn with_bench(test: &str, body: impl FnOnce(&Bench)) {
    in_netns(test, || {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
            return skipped(test, &format!("/dev/net/tun cannot be opened: {error}"));
        }
        for program in ["python3", "ping"] {
            if let Err(error) = Command::new(program).arg("-V").output() {
                return skipped(test, &format!("`{program}` does not run: {error}"));
            }
        }
        body(&Bench::new());
    });
}

#[test]
fn two_kernels_meet() {
    with_bench("two_kernels_meet", |bench| {
        eventually("a ping", || bench.ping("-c1 -W2 10.30.0.10").contains("ttl=63"));
        // The router is a hop: traceroute's question.
        let said = bench.ping("-c1 -W2 -t1 10.30.0.10");
        assert!(said.contains("From 10.20.0.1") && said.to_lowercase().contains("time to live exceeded"), "{said}");
        let said = bench.ping("-c1 -W2 10.30.0.1");
        assert!(said.contains("1 received"), "{said}");
        let said = bench.ping("-c1 -W2 -Mdo -s1450 10.30.0.10");
        assert!(said.contains("mtu") && said.contains("1400"), "{said}");
        let said = bench.ping("-c1 -W2 -Mdont -s3000 10.30.0.10");
        assert!(said.contains("1 received"), "cut where it is too long: {said}");
        let said = bench.ping("-c1 -W5 10.30.0.99");
        assert!(said.contains("Destination Host Unreachable"), "{said}");
        let said = bench.ping("-c1 -W2 10.99.0.1");
        assert!(said.contains("Destination Net Unreachable"), "{said}");

        // Streams, both ways at once.
        let _server = Server::echo(bench, 5432);
        let _others = [Server::echo(bench, 22), Server::echo(bench, 80)];
        let said = bench.python(&format!(
            "
import hashlib, os, threading
s = socket.create_connection(('10.30.0.10', 5432), timeout=60)
block = os.urandom(1 << 20)
sent, got, left = hashlib.sha256(), hashlib.sha256(), {BYTES}
def send():
    for _ in range({BYTES} >> 20):
        s.sendall(block)
        sent.update(block)
    s.shutdown(socket.SHUT_WR)
t = threading.Thread(target=send); t.start()
while data := s.recv(1 << 18):
    got.update(data); left -= len(data)
t.join()
print(left, sent.digest() == got.digest())"
        ));
        assert_eq!(said.trim(), "0 True");

        // What rules do not let begin; the first is silent, and the second is told.
        assert_eq!(bench.connect(80), "TimeoutError");
        assert_eq!(bench.connect(22), "ConnectionRefusedError");
        let back = bench.db.command("ping").args(["-c1", "-W1", "10.20.0.10"]).output().unwrap();
        assert!(!back.status.success());

        let status = &bench.world.status().routers[0];
        let hits: Vec<_> = status.rules.iter().map(|rule| (rule.name.as_str(), rule.hits > 0)).collect();
        assert_eq!(hits, [("database", true), ("ping", true), ("no-ssh", true)]);
        assert!(status.default_hits > 0 && status.packets > 100 && status.bytes > 2 * BYTES as u64);
        let refusals = bench.world.port("web-gateway").refusals;
        for reason in ["router-denied", "router-rejected", "router-too-long", "router-nobody", "ttl-expired"] {
            assert!(refusals.iter().any(|count| count.reason == reason), "{reason}: {refusals:?}");
        }
    });
}

#[test]
fn edits_touch_no_port() {
    with_bench("edits_touch_no_port", |bench| {
        let _server = Server::echo(bench, 5432);
        // A connection that lasts; each line is an exchange.
        let mut client = bench
            .web
            .command("python3")
            .args([
                "-c",
                "
import socket, sys
s = socket.create_connection(('10.30.0.10', 5432), timeout=30)
print('ready', flush=True)
for line in sys.stdin:
    s.sendall(line.encode())
    print(s.recv(100).decode().strip(), flush=True)",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(client.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "ready");
        let mut exchange = |word: &str| {
            use std::io::Write as _;
            writeln!(client.stdin.as_mut().unwrap(), "{word}").unwrap();
            assert_eq!(said.next().unwrap().unwrap(), word);
        };
        exchange("one");
        let before = bench.world.port("tap1");

        let mut more = rules();
        more.insert(0, rule("no-web", Permission::Deny, "web", "db", tcp(80)));
        bench.routers(2, vec![core(more)]);
        exchange("two");
        assert_eq!(bench.world.status().routers[0].rules[1].hits, 2, "asked for again");

        bench.routers(3, vec![]);
        let said = bench.ping("-c1 -W2 10.30.0.10");
        assert!(said.contains("Packet filtered"), "{said}");
        assert!(bench.world.status().routers.is_empty());
        bench.routers(4, vec![core(rules())]);
        exchange("three");

        let after = bench.world.port("tap1");
        assert!(after.up && after.rx_frames > before.rx_frames, "the port is the same one: its counters go on");
        let _ = client.kill();
        let _ = client.wait();
    });
}

#[test]
fn it_is_explained_across_the_router() {
    with_bench("it_is_explained_across_the_router", |bench| {
        let explain = |port: u16| {
            let from = std::net::SocketAddrV4::new(Ipv4Addr::new(10, 20, 0, 10), 40_000);
            let to = std::net::SocketAddrV4::new(Ipv4Addr::new(10, 30, 0, 10), port);
            let mut segment = [40_000u16.to_be_bytes(), port.to_be_bytes()].concat();
            segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
            let mut packet = weft_wire::ipv4::Repr {
                src: *from.ip(),
                dst: *to.ip(),
                protocol: weft_wire::Protocol::TCP,
                ttl: 64,
                ident: 0,
                dont_fragment: true,
                payload_len: 20,
            }
            .header()
            .to_vec();
            packet.extend(segment);
            let mut frame = [mac(254).octets(), mac(1).octets()].concat();
            frame.extend([8, 0]);
            frame.extend(packet);
            let request = ExplainRequest { port: "tap1".parse().unwrap(), frame };
            match bench.world.ask(&Request::Explain(request)) {
                Response::Explained(explanation) => explanation,
                other => panic!("{other:?}"),
            }
        };
        let passes = explain(5432);
        let words: Vec<_> = passes.steps.iter().map(|step| step.finding.as_str()).collect();
        assert!(words.contains(&"router `core` joins `web` and `db`"), "{words:?}");
        assert!(words.contains(&"`database` allows it"), "{words:?}");
        let rule = passes.steps.iter().find(|step| step.finding.starts_with("`database`")).unwrap();
        assert_eq!(rule.because, Some(Provenance::file("/w.toml", 12)));
        assert_eq!(passes.egress, ["tap2".parse().unwrap()]);
        let denied = explain(80);
        assert_eq!((denied.verdict.as_str(), denied.egress.len()), ("router `core` drops it", 0));
    });
}

#[test]
fn what_cannot_be_joined_is_refused() {
    let world = World::new();
    let router = RouterConfig { networks: vec!["web".parse().unwrap(), "lan".parse().unwrap()], ..core(vec![]) };
    let config = DataplaneConfig {
        revision: 1,
        networks: vec![network_with_gateway("web", 20), common::bare_network("lan")],
        ports: vec![],
        routers: vec![router, core(vec![])],
        ..DataplaneConfig::default()
    };
    assert_eq!(
        world.refused(&config),
        "BadConfig: router `core` (/w.toml:10): network `lan` has no gateway at which it could be reached\n\
         router `core` (/w.toml:10): there is another one of this name\n\
         router `core` (/w.toml:10): there is no network `db` (join networks with services of their own; \
         give each router its own name; declare the network)"
    );
}
