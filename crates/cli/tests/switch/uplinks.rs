//! Uplinks with a kernel's bridge as the physical switch: teams, and a VEPA behind reflective relay.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use weft_testkit::{Netns, in_netns, skipped};

use crate::bed::{Bed, eventually};
use crate::hosts::{Host, has_taps, ip};

/// Sends a frame of EtherType 0x88b5 from an interface to a MAC address, 60 bytes long.
const SEND: &str = "
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
out.send(bytes.fromhex(sys.argv[2].replace(':', '') + sys.argv[3].replace(':', '') + '88b5') + bytes(46))
";

/// Counts the frames of that EtherType that come in by an interface within a second.
const HEAR: &str = "
import socket, sys, time
into = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
into.bind((sys.argv[1], 0x88b5))
print('ready', flush=True)
began, count = time.monotonic(), 0
while time.monotonic() - began < 1:
    into.settimeout(max(.01, began + 1 - time.monotonic()))
    try:
        into.recv(2000)
        count += 1
    except TimeoutError:
        pass
print(count)
";

/// A UDP datagram from each of many ports.
const FLOWS: &str = "
import socket, sys
for port in range(40000, 40064):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(('0.0.0.0', port))
    s.sendto(b'flow', (sys.argv[1], 9))
";

const EVERYBODY: &str = "ff:ff:ff:ff:ff:ff";

/// A bridge in a network namespace of its own, with the other ends of these cables in its ports, and the address
/// 10.0.0.9.
struct Adjacent {
    netns: Netns,
}

impl Adjacent {
    fn new(cables: &[&str]) -> Self {
        let adjacent = Self { netns: Netns::new() };
        adjacent.ip("link add br0 type bridge");
        adjacent.ip("link set br0 address 02:00:00:00:00:99");
        adjacent.ip("addr add 10.0.0.9/24 dev br0");
        adjacent.ip("link set br0 up");
        for cable in cables {
            adjacent.plug(cable);
        }
        adjacent
    }

    /// Lays a cable: `NAME` is our end, `far-NAME` the bridge's.
    fn plug(&self, cable: &str) {
        assert!(ip(&format!("link add {cable} type veth peer name far-{cable} netns {}", self.netns.pid())));
        assert!(ip(&format!("link set {cable} up")));
        self.ip(&format!("link set far-{cable} master br0 up"));
    }

    fn ip(&self, args: &str) {
        assert!(self.netns.command("ip").args(args.split(' ')).status().unwrap().success(), "{args}");
    }

    fn send(&self, interface: &str, dst: &str, src: &str) {
        assert!(self.netns.command("python3").args(["-c", SEND, interface, dst, src]).status().unwrap().success());
    }
}

/// How many of the frames that `send` sends hosts hear at their interfaces.
fn heard<const N: usize>(hosts: [(&Host, &str); N], send: impl FnOnce()) -> [usize; N] {
    let listeners = hosts.map(|(host, interface)| {
        let mut command = host.netns.command("python3");
        let mut child = command.args(["-c", HEAR, interface]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut String::new()).unwrap();
        (child, said)
    });
    send();
    listeners.map(|(mut child, mut said)| {
        let mut count = String::new();
        said.read_line(&mut count).unwrap();
        child.wait().unwrap();
        count.trim().parse().unwrap()
    })
}

fn count(bed: &Bed, port: &str, counter: &str) -> u64 {
    bed.port(port)[counter].as_u64().unwrap()
}

fn without_neighbour_discovery() {
    for key in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{key}/disable_ipv6"), "1");
    }
}

#[test]
fn a_team_fails_over() {
    in_netns("uplinks::a_team_fails_over", || {
        if !has_taps() {
            return skipped("a_team_fails_over", "/dev/net/tun is closed to us");
        }
        without_neighbour_discovery();
        let adjacent = Adjacent::new(&["one", "two"]);
        let bed = Bed::run(include_str!("../../../../examples/switch/team.toml"));
        let host = Host::on_tap("host", 1);
        let is_up = |port: &str, up: bool| eventually(port, || bed.port(port)["up"] == up);
        is_up("one", true);
        is_up("two", true);
        eventually("the bridge answers", || host.runs("ping", "-c1 -W1 10.0.0.9"));

        // What is for everybody is heard once, by the active link.
        let everybody = || adjacent.send("br0", EVERYBODY, "02:00:00:00:00:99");
        assert_eq!(heard([(&host, "host")], everybody), [1]);
        eventually("both cables bring it", || {
            let drops = bed.port("two")["drops"].clone();
            drops.as_array().unwrap().iter().any(|drop| drop["reason"] == "standby-uplink")
        });

        // A cable is pulled while the host talks, and plugged in again; each time less than 100 ms are lost.
        let mut worst = Vec::new();
        for _ in 0..3 {
            let mut ping = host.netns.command("ping");
            ping.args(["-c150", "-i0.01", "-W1", "-q", "10.0.0.9"]).stdout(Stdio::piped());
            let ping = ping.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(500));
            adjacent.ip("link set far-one down");
            let output = String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();
            let received = output.split(" packets transmitted, ").nth(1).and_then(|rest| rest.split(' ').next());
            let lost = 150 - received.unwrap().parse::<u64>().unwrap();
            is_up("one", false);
            let sent = count(&bed, "two", "tx_frames");
            assert!(host.runs("ping", "-c1 -W1 10.0.0.9"));
            assert!(count(&bed, "two", "tx_frames") > sent, "the other link takes over");
            adjacent.ip("link set far-one up");
            is_up("one", true);
            eventually("it is back", || host.runs("ping", "-c1 -W1 10.0.0.9"));
            worst.push(lost * 10);
        }
        eprintln!("failing over took {worst:?} ms");
        assert!(worst.iter().min() < Some(&100), "failing over took {worst:?} ms");

        // An interface that is deleted and made again is the preferred one again.
        adjacent.ip("link del far-one");
        is_up("one", false);
        assert!(host.runs("ping", "-c1 -W1 10.0.0.9"));
        adjacent.plug("one");
        is_up("one", true);
        eventually("it is used", || {
            let sent = count(&bed, "one", "tx_frames");
            host.runs("ping", "-c1 -W1 10.0.0.9") && count(&bed, "one", "tx_frames") > sent
        });
    });
}

#[test]
fn flows_are_spread_over_a_team() {
    in_netns("uplinks::flows_are_spread_over_a_team", || {
        if !has_taps() {
            return skipped("flows_are_spread_over_a_team", "/dev/net/tun is closed to us");
        }
        without_neighbour_discovery();
        let adjacent = Adjacent::new(&["one", "two"]);
        let file = include_str!("../../../../examples/switch/team.toml");
        let bed = Bed::run(&file.replace("active-standby", "hash"));
        let host = Host::on_tap("host", 1);
        assert!(host.runs("ip", "neigh add 10.0.0.8 lladdr 02:00:00:00:00:88 dev host"));
        let ways = || ["one", "two"].map(|port| count(&bed, port, "tx_frames"));
        let before = ways();
        assert!(host.netns.command("python3").args(["-c", FLOWS, "10.0.0.8"]).status().unwrap().success());
        eventually("all flows leave", || ways().iter().sum::<u64>() >= before.iter().sum::<u64>() + 64);
        let [one, two] = [0, 1].map(|way| ways()[way] - before[way]);
        assert!(one > 10 && two > 10, "{one} and {two} flows");
        // Without one link, all take the other.
        adjacent.ip("link set far-two down");
        eventually("the pulled cable is seen", || bed.port("two")["up"] == false);
        let before = ways();
        assert!(host.netns.command("python3").args(["-c", FLOWS, "10.0.0.8"]).status().unwrap().success());
        eventually("all flows leave", || ways()[0] >= before[0] + 64);
        assert_eq!(ways()[1], before[1]);
    });
}

#[test]
fn a_vepa_behind_reflective_relay() {
    in_netns("uplinks::a_vepa_behind_reflective_relay", || {
        if !has_taps() {
            return skipped("a_vepa_behind_reflective_relay", "/dev/net/tun is closed to us");
        }
        without_neighbour_discovery();
        let adjacent = Adjacent::new(&["cable"]);
        let bed = Bed::run(include_str!("../../../../examples/switch/vepa.toml"));
        let (web, db) = (Host::on_tap("web", 1), Host::on_tap("db", 2));
        eventually("the uplink is up", || bed.port("cable")["up"] == true);
        eventually("the bridge answers", || web.runs("ping", "-c1 -W1 10.0.0.9"));
        assert!(!web.reaches(&db), "a bridge sends nothing back by itself");
        let mut bridge = adjacent.netns.command("bridge");
        if !bridge.args(["link", "set", "dev", "far-cable", "hairpin", "on"]).status().is_ok_and(|it| it.success()) {
            return skipped("a_vepa_behind_reflective_relay", "`bridge link set … hairpin on` is refused");
        }
        eventually("they hear each other by way of the bridge", || web.reaches(&db));
        // Each frame of either goes out by the uplink, and those for the other come back by it.
        let ports = || ["web", "db", "cable"].map(|port| ["rx_frames", "tx_frames"].map(|way| count(&bed, port, way)));
        let before = ports();
        assert!(web.runs("ping", "-c20 -i0.01 -W2 10.0.0.2"));
        // Ports are read one after the other, and hosts say more than they were asked to: so no sums of those.
        let after = ports();
        let [web_sent, db_sent, out, back] =
            [(0, 0), (1, 0), (2, 1), (2, 0)].map(|(port, way)| after[port][way] - before[port][way]);
        let all_went_round = web_sent >= 20 && db_sent >= 20 && out >= 40 && back >= 40;
        assert!(all_went_round, "sent {web_sent} and {db_sent}, out {out}, back {back}");
        // What is for everybody comes back too, and its sender does not hear it.
        let everybody = || {
            let mut send = web.netns.command("python3");
            send.args(["-c", SEND, "web", EVERYBODY, "02:00:00:00:00:01"]);
            assert!(send.status().unwrap().success());
        };
        assert_eq!(heard([(&web, "web"), (&db, "db")], everybody), [0, 1]);
        let start = Instant::now();
        assert!(web.runs("ping", "-c3 -i0.01 -W2 -M do -s 1472 10.0.0.2"), "whole packets of the MTU");
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}
