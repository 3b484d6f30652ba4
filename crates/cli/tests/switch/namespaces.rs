//! Real kernels as hosts: TAP devices in network namespaces.

use std::io::Read as _;
use std::net::UdpSocket;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use weft_testkit::{Netns, in_netns, skipped, what_the_host_has};

use crate::bed::{Bed, eventually};

const TAPS: &str = "
[switch]
name = 'wire'
mtu = 9000

[port.left]
tap = 'left'
mac = '02:00:00:00:00:01'

[port.right]
tap = 'right'
mac = '02:00:00:00:00:02'
";

const UPLINK: &str = "
[port.host]
tap = 'host'
mac = '02:00:00:00:00:01'

[port.cable]
nic = 'cable'
trunk = [20, 30]
native = 'untagged'
";

/// What a switch called `leaf-7` says by LLDP.
const INTRODUCTION: &str = "
import socket
tlv = lambda kind, value: (kind << 9 | len(value)).to_bytes(2, 'big') + value
says = tlv(1, bytes([4, 2, 0, 0, 0, 0, 9])) + tlv(2, b'\\x05ge-0/0/3') + tlv(3, bytes([0, 120])) + tlv(5, b'leaf-7')
says += tlv(127, bytes([0, 0x80, 0xc2, 3, 0, 20, 3]) + b'lab') + tlv(0, b'')
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(('eth0', 0))
out.send(bytes.fromhex('0180c200000e020000000009' + '88cc') + says)
";

/// Sends to everybody who is named, and to all: over IPv4 and IPv6.
const FLOOD: &str = "
import socket, sys
v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
v4.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for _ in range(300):
    for to in sys.argv[1:] + ['255.255.255.255', '224.0.0.251']:
        try:
            (v6 if ':' in to else v4).sendto(b'the-flood', (to, 9))
        except OSError:
            pass # its own host sees no way
";

/// Fails when it hears the flood, and is content when it hears the end of it first.
const WITNESS: &str = "
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind((sys.argv[1], 0))
print('ready', flush=True)
while True:
    frame = wire.recv(2000)
    if b'the-flood' in frame:
        exit(7)
    if b'the-end' in frame:
        exit(0)
";

/// Listens until it has heard a ping and its answer, which are for others.
const LISTENER: &str = "
import socket
ids = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
ids.bind(('ids', 0))
heard = set()
while not {0, 8} <= heard:
    frame = ids.recv(2000)
    if frame[12:14] == bytes([8, 0]) and frame[23] == 1:
        heard.add(frame[34])
";

fn ip(args: &str) -> bool {
    Command::new("ip")
        .args(args.split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[test]
fn two_hosts_on_tap_devices() {
    in_netns("namespaces::two_hosts_on_tap_devices", || {
        if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
            return skipped("two_hosts_on_tap_devices", "/dev/net/tun is closed to us");
        }
        let mut bed = Bed::run(TAPS);
        assert!(ip("link show left") && ip("link show right"));
        let hosts = [Netns::new(), Netns::new()];
        for (index, (host, name)) in hosts.iter().zip(["left", "right"]).enumerate() {
            let last = index + 1;
            assert!(ip(&format!("link set {name} netns {}", host.pid())));
            for args in [
                format!("link set {name} address 02:00:00:00:00:0{last}"),
                format!("addr add 10.0.0.{last}/24 dev {name}"),
                format!("link set {name} up"),
            ] {
                assert!(host.command("ip").args(args.split(' ')).status().unwrap().success(), "{args}");
            }
        }
        let ping = |args: &str| {
            let mut ping = hosts[0].command("ping");
            ping.args(args.split(' ')).stdout(Stdio::null()).status().unwrap().success()
        };
        eventually("they hear each other", || ping("-c1 -W1 10.0.0.2"));
        assert!(ping("-c3 -i0.01 -W5 -M do -s 8972 10.0.0.2"), "the MTU is the file's");
        assert!(bed.port("left")["rx_frames"].as_u64() > Some(3));
        assert!(bed.end(Signal::TERM).success());
        eventually("what it made is gone", || {
            let shown = hosts[0].command("ip").args(["link", "show", "left"]).stderr(Stdio::null()).output();
            !shown.unwrap().status.success()
        });
    });
}

/// A host behind the switch talks to one at the other end of the pNIC's cable.
#[test]
fn a_pnic_is_the_uplink() {
    in_netns("namespaces::a_pnic_is_the_uplink", || {
        if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
            return skipped("a_pnic_is_the_uplink", "/dev/net/tun is closed to us");
        }
        let far = Netns::new();
        assert!(ip(&format!("link add cable type veth peer name eth0 netns {}", far.pid())));
        let there = |args: &str| far.command("ip").args(args.split(' ')).status().unwrap().success();
        assert!(ip("link set cable up") && there("addr add 10.0.0.2/24 dev eth0") && there("link set eth0 up"));
        let mut bed = Bed::run(UPLINK);
        let host = Netns::new();
        assert!(ip(&format!("link set host netns {}", host.pid())));
        let here = |args: &str| host.command("ip").args(args.split(' ')).status().unwrap().success();
        assert!(here("link set host address 02:00:00:00:00:01"));
        assert!(here("addr add 10.0.0.1/24 dev host") && here("link set host up"));
        let ping = |args: &str| {
            let mut ping = host.command("ping");
            ping.args(args.split(' ')).stdout(Stdio::null()).status().unwrap().success()
        };
        eventually("they hear each other", || ping("-c1 -W1 10.0.0.2"));
        assert!(ping("-c3 -i0.01 -W5 -M do -s 1472 10.0.0.2"));
        assert_eq!(bed.port("cable")["up"], true);
        // The switch at the other end introduces itself, and names one of our VLANs.
        assert!(bed.said(&["switch", "show", "lab.toml", "cable"]).contains("silent"));
        let spoke = far.command("python3").args(["-c", INTRODUCTION]).status().unwrap();
        assert!(spoke.success());
        eventually("it is heard", || !bed.port("cable")["neighbour"].is_null());
        let shown = bed.said(&["switch", "show", "lab.toml", "cable"]);
        assert!(shown.contains("leaf-7, its port ge-0/0/3, VLANs 20, not 30, which this port carries"), "{shown}");
        assert!(there("link set eth0 down"));
        eventually("the pulled cable is seen", || bed.port("cable")["up"] == false);
        assert!(bed.end(Signal::TERM).success());
        assert!(ip("link show cable"), "the pNIC stays the host's");
    });
}

/// The host stands on a network by an adapter of its own, which is no way to its other networks, nor from them, and ends
/// with the switch: the very file that is the example. This namespace plays a host that is a router for others.
#[test]
fn the_host_has_an_adapter() {
    in_netns("namespaces::the_host_has_an_adapter", || {
        if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
            return skipped("the_host_has_an_adapter", "/dev/net/tun is closed to us");
        }
        if std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").is_err() {
            return skipped("the_host_has_an_adapter", "/proc/sys/net is closed to us");
        }
        let has_v6 = std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").is_ok();
        let [lan, guest] = [Netns::new(), Netns::new()];
        let run = |host: &Netns, args: &str| {
            assert!(host.command("ip").args(args.split(' ')).status().unwrap().success(), "{args}");
        };
        assert!(ip(&format!("link add lan type veth peer name eth0 netns {}", lan.pid())));
        assert!(ip("addr add 192.168.7.1/24 dev lan") && ip("link set lan up") && ip("link set lo up"));
        run(&lan, "addr add 192.168.7.2/24 dev eth0");
        run(&lan, "link set eth0 up");
        run(&lan, "route add default via 192.168.7.1");
        if has_v6 {
            assert!(ip("addr add fd00:7::1/64 dev lan nodad"));
            run(&lan, "addr add fd00:7::2/64 dev eth0 nodad");
            run(&lan, "route add default via fd00:7::1");
        }
        eventually("the host's own addresses are settled", || !what_the_host_has().contains("tentative"));
        let before = what_the_host_has();

        let mut bed = Bed::run(include_str!("../../../../examples/switch/host.toml"));
        assert!(ip(&format!("link set guest netns {}", guest.pid())));
        run(&guest, "link set guest address 02:00:00:00:00:02");
        run(&guest, "addr add 10.9.0.2/24 dev guest");
        run(&guest, "link set guest up");
        run(&guest, "route add default via 10.9.0.1");
        if has_v6 {
            run(&guest, "route add default via fe80::ff:fe00:1 dev guest");
        }
        let ping = |mut command: Command, to: &str| {
            command.args(["-c1", "-W1", to]).stdout(Stdio::null()).status().unwrap().success()
        };
        eventually("the host reaches the guest", || ping(Command::new("ping"), "10.9.0.2"));
        assert!(ping(guest.command("ping"), "10.9.0.1"), "and the guest the host");
        if has_v6 {
            eventually("also by its own link-local address", || ping(guest.command("ping"), "fe80::ff:fe00:1%guest"));
        }

        // The end is told by the host itself, whom the witness hears.
        let flood_is_heard = |from: &Netns, to: &[&str], witness: &Netns, device: &str, own: &str, end: &str| {
            let mut witness = witness.command("python3");
            let mut witness = witness.args(["-c", WITNESS, device]).stdout(Stdio::piped()).spawn().unwrap();
            let mut ready = [0; 6];
            witness.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
            assert!(from.command("python3").args(["-c", FLOOD]).args(to).status().unwrap().success());
            let socket = UdpSocket::bind((own, 0)).unwrap();
            eventually("the witness is done", || {
                socket.send_to(b"the-end", (end, 9)).unwrap();
                witness.try_wait().unwrap().is_some()
            });
            witness.wait().unwrap().code() == Some(7)
        };
        let out = || {
            let to = ["192.168.7.2", "192.168.7.255", "10.9.0.255", "fd00:7::2", "ff02::1%guest"];
            flood_is_heard(&guest, &to, &lan, "eth0", "192.168.7.1", "192.168.7.2")
        };
        let inwards = || flood_is_heard(&lan, &["10.9.0.2", "10.9.0.255"], &guest, "guest", "10.9.0.1", "10.9.0.2");
        assert!(!out() && !inwards(), "nothing passes through the host, either way");
        // Also where somebody has the host forward what comes in by its adapter.
        std::fs::write("/proc/sys/net/ipv4/conf/weft-lab/forwarding", "1").unwrap();
        assert!(!out() && !inwards(), "nor what the host would forward");
        let dropped = |port: &str, reason: &str| {
            let drops = bed.port(port)["drops"].as_array().cloned().unwrap_or_default();
            drops.iter().find(|drop| drop["reason"] == reason).and_then(|drop| drop["frames"].as_u64()).unwrap_or(0)
        };
        assert!(dropped("guest", "not-for-host") > 0, "{}", bed.port("guest"));
        assert!(dropped("host", "forged-ipv4") > 0, "{}", bed.port("host"));
        assert_eq!(
            dropped("host", "forged-ipv6"),
            0,
            "what the host's kernel says by itself, it may: {}",
            bed.port("host")
        );

        bed.end(Signal::KILL);
        eventually("the adapter is gone", || what_the_host_has() == before);
        bed.start();
        eventually("and is there again", || ip("link show weft-lab"));
        assert!(bed.end(Signal::TERM).success());
        assert_eq!(what_the_host_has(), before);

        // What somebody else has made under this name is left alone.
        assert!(ip("tuntap add weft-lab mode tap vnet_hdr"));
        let refused = bed.said(&["switch", "run", "lab.toml"]);
        assert!(refused.starts_with("exit 1") && refused.contains("choose another name"), "{refused}");
        assert!(ip("link show weft-lab") && ip("link del weft-lab"));
        // Who may not make one is told what is missing: that, or what root can do once.
        let unprivileged = || {
            let mut command = Command::new("setpriv");
            command.args(["--inh-caps=-net_admin", "--bounding-set=-net_admin"]).arg(env!("CARGO_BIN_EXE_weft"));
            command.args(["switch", "run", "lab.toml"]).current_dir(bed.path(".")).env("WEFT_HOME", bed.path("home"));
            command.stdin(Stdio::null()).stderr(Stdio::piped());
            command
        };
        let alone = include_str!("../../../../examples/switch/host.toml").split("[port.guest]").next().unwrap();
        bed.edit(alone);
        let output = unprivileged().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("not allowed to make `weft-lab`") && said.contains("CAP_NET_ADMIN"), "{said}");
        let line = said.split('`').find(|part| part.starts_with("ip tuntap add")).expect("what root can do").to_owned();
        assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success(), "{line}");
        let mut child = unprivileged().spawn().unwrap();
        let ended = |child: &mut std::process::Child| child.try_wait().unwrap().is_some();
        eventually("the port is there", || {
            assert!(!ended(&mut child), "it ended");
            bed.said(&["switch", "show", "lab.toml"]).starts_with("exit 0")
        });
        assert_eq!(bed.port("host")["up"], true, "{}", bed.port("host"));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(ip("link show weft-lab"), "what root has made is root's");
    });
}

/// VLANs, addresses and a rule, with real kernels behind the ports: the very file that is the example.
#[test]
fn three_hosts_two_vlans_and_a_rule() {
    in_netns("namespaces::three_hosts_two_vlans_and_a_rule", || {
        if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
            return skipped("three_hosts_two_vlans_and_a_rule", "/dev/net/tun is closed to us");
        }
        let mut bed = Bed::run(include_str!("../../../../examples/switch/vlans.toml"));
        let hosts = [Netns::new(), Netns::new(), Netns::new()];
        let run = |host: usize, program: &str, args: &str| {
            let mut command = hosts[host].command(program);
            command.args(args.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
        };
        for (index, name) in ["web", "db", "lab"].into_iter().enumerate() {
            let last = index + 1;
            assert!(ip(&format!("link set {name} netns {}", hosts[index].pid())));
            for args in [
                format!("link set {name} address 02:00:00:00:00:0{last}"),
                format!("addr add 10.9.0.{last}/24 dev {name}"),
                format!("link set {name} up"),
            ] {
                assert!(run(index, "ip", &args), "{args}");
            }
        }
        let [web, db, lab] = [0, 1, 2];
        eventually("db reaches web", || run(db, "ping", "-c1 -W1 10.9.0.1"));
        assert!(!run(web, "ping", "-c1 -W1 10.9.0.2"), "`deny web -> db`");
        assert!(!run(lab, "ping", "-c1 -W1 10.9.0.1"), "another VLAN");
        let rules = bed.said(&["switch", "rules", "lab.toml"]);
        let counted = |rule: &str| rules.lines().find(|line| line.starts_with(rule)).map(str::to_owned).unwrap();
        assert!(counted("deny web -> db").contains("LAB/lab.toml:20"), "{rules}");
        let drops = |port: &str, reason: &str| {
            let port = bed.port(port);
            let drop = port["drops"].as_array().unwrap().iter().find(|drop| drop["reason"] == reason).cloned();
            drop.map_or(0, |drop| drop["frames"].as_u64().unwrap())
        };
        assert!(drops("web", "acl-denied") > 0);
        // An address that is not its own: nobody hears the packet, and nobody believes the ARP.
        assert!(run(db, "ip", "addr add 10.9.0.77/24 dev db"));
        assert!(!run(db, "ping", "-c1 -W1 -I 10.9.0.77 10.9.0.1"));
        assert!(drops("db", "forged-arp") + drops("db", "forged-ipv4") > 0);
        assert!(run(db, "ping", "-c1 -W5 -I 10.9.0.2 10.9.0.1"), "and with its own it goes on");
        assert!(bed.said(&["switch", "show", "lab.toml", "db"]).contains("access 10"));
        let metrics = bed.said(&["switch", "metrics", "lab.toml"]);
        assert!(metrics.contains("weft_rule_hits_total{network=\"wire\",rule=\"deny web -> db\""), "{metrics}");
        assert!(bed.end(Signal::TERM).success());
    });
}

/// A third host gets copies of what passes between two others: the very file that is the example.
#[test]
fn a_listener_gets_copies() {
    in_netns("namespaces::a_listener_gets_copies", || {
        if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
            return skipped("a_listener_gets_copies", "/dev/net/tun is closed to us");
        }
        let mut bed = Bed::run(include_str!("../../../../examples/switch/ids.toml"));
        let hosts = [Netns::new(), Netns::new(), Netns::new()];
        let run = |host: usize, program: &str, args: &str| {
            let mut command = hosts[host].command(program);
            command.args(args.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
        };
        for (index, name) in ["red", "blue", "ids"].into_iter().enumerate() {
            let last = index + 1;
            assert!(ip(&format!("link set {name} netns {}", hosts[index].pid())));
            if name != "ids" {
                assert!(run(index, "ip", &format!("link set {name} address 02:00:00:00:00:0{last}")));
                assert!(run(index, "ip", &format!("addr add 10.9.0.{last}/24 dev {name}")));
            }
            assert!(run(index, "ip", &format!("link set {name} up")));
        }
        let mut heard = hosts[2].command("python3");
        let mut heard = heard.args(["-c", LISTENER]).stdout(Stdio::piped()).spawn().unwrap();
        eventually("they hear each other", || run(0, "ping", "-c1 -W1 10.9.0.2"));
        eventually("the listener has heard the request and the reply", || {
            run(0, "ping", "-c1 -W1 10.9.0.2");
            heard.try_wait().unwrap().is_some_and(|status| status.success())
        });
        assert!(bed.port("ids")["mirrors"][0]["copies"].as_u64() >= Some(4));
        assert!(bed.end(Signal::TERM).success());
    });
}
