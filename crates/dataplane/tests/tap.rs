//! TAP ports: real kernels ping each other through a real switch.

mod common;

use std::os::fd::AsFd;
use std::process::Command;

use common::{World, bare_network, port, vhost_user};
use weft_dataplane_protocol::{DataplaneConfig, NetworkConfig, PortKind, Request, Response};
use weft_port::TapPort;
use weft_testkit::{FakeVm, Netns, in_netns, mac, skipped};

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn ip(arguments: &str) -> String {
    run(Command::new("ip").args(arguments.split(' ')))
}

/// Whether TAP devices are ours to make; says so when they are not.
fn taps_work(test: &str) -> bool {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    match opened {
        Ok(_) => true,
        Err(error) => {
            skipped(test, &format!("/dev/net/tun cannot be opened: {error}"));
            false
        }
    }
}

#[test]
fn two_kernels_ping_each_other() {
    in_netns("two_kernels_ping_each_other", || {
        if !taps_work("two_kernels_ping_each_other") {
            return;
        }
        let world = World::new();
        let tap = |name: &str, last| port(name, "left", mac(last), PortKind::Tap { name: name.into(), host: None });
        let config = DataplaneConfig {
            revision: 1,
            networks: vec![bare_network("left")],
            ports: vec![tap("tap1", 1), tap("tap2", 2)],
            ..DataplaneConfig::default()
        };
        world.apply(&config);
        let far = Netns::new();
        ip("link set tap1 address 02:00:00:00:00:01");
        ip("link set tap2 address 02:00:00:00:00:02");
        ip(&format!("link set tap2 netns {}", far.pid()));
        let there = |arguments: &str| run(far.command("ip").args(arguments.split(' ')));
        ip("addr add 10.9.0.1/24 dev tap1");
        ip("link set tap1 up");
        there("addr add 10.9.0.2/24 dev tap2");
        there("link set tap2 up");
        run(Command::new("ping").args(["-c", "3", "-i", "0.2", "-W", "5", "10.9.0.2"]));
        run(far.command("ping").args(["-c", "2", "-i", "0.2", "-W", "5", "-s", "1400", "10.9.0.1"]));
        let port = world.port("tap1");
        assert!(port.up && port.rx_frames >= 5 && port.tx_frames >= 5, "{port:?}");

        there("link del tap2");
        let config = DataplaneConfig { revision: 2, ports: vec![], ..config };
        world.apply(&config);
        let links = ip("link");
        assert!(!links.contains("tap1"), "a TAP ends with its port: {links}");
    });
}

/// Partial checksums and segments of a kernel reach a guest as they are.
#[test]
fn a_kernel_talks_to_a_vm() {
    in_netns("a_kernel_talks_to_a_vm", || {
        if !taps_work("a_kernel_talks_to_a_vm") {
            return;
        }
        let world = World::new();
        let config = DataplaneConfig {
            revision: 1,
            networks: vec![bare_network("left")],
            ports: vec![
                port("tap1", "left", mac(1), PortKind::Tap { name: "tap1".into(), host: None }),
                vhost_user(world.directory.path(), "vm-0", "left", mac(2)),
            ],
            ..DataplaneConfig::default()
        };
        world.apply(&config);
        ip("link set tap1 address 02:00:00:00:00:01");
        ip("addr add 10.9.0.1/24 dev tap1");
        ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev tap1 nud permanent");
        let mut vm = FakeVm::boot(&world.path("vm-0")).unwrap();
        world.wait_until_up("vm-0");
        let socket = std::net::UdpSocket::bind("10.9.0.1:0").unwrap();
        socket.send_to(b"hello, guest", "10.9.0.2:9").unwrap();
        let received = loop {
            // The kernel also announces itself in IPv6.
            let received = vm.recv(common::PATIENCE).expect("the datagram");
            if received.frame[12..14] == [8, 0] {
                break received;
            }
        };
        assert!(received.frame.ends_with(b"hello, guest"));
        assert_eq!(received.header[0], 1, "its checksum is left to the guest");
    });
}

/// A daemon with more privileges opens the device, and hands it over beside its request.
#[test]
fn a_tap_is_handed_over() {
    in_netns("a_tap_is_handed_over", || {
        if !taps_work("a_tap_is_handed_over") {
            return;
        }
        let device = TapPort::create("handed").unwrap();
        let taken = TapPort::open("handed", 1500).err().expect("one cannot open it twice");
        assert!(!taken.hint().is_empty());
        let world = World::new();
        let tap = port("handed", "left", mac(1), PortKind::Tap { name: "handed".into(), host: None });
        let config = DataplaneConfig {
            revision: 1,
            networks: vec![bare_network("left")],
            ports: vec![tap],
            ..DataplaneConfig::default()
        };
        assert!(world.refused(&config).starts_with("PortFailed"), "the device is busy");
        let request = Request::Apply(config.clone());
        let answer = world.client().call_with(&request, &[device.as_fd()]).unwrap();
        assert_eq!(answer, Response::Done);
        drop(device);
        assert!(world.port("handed").up);
        assert!(ip("link").contains("handed"), "the switch keeps it");
        world.apply(&config);
    });
}

/// The host's own adapter gets another address and MTU where it stands, and goes with its port.
#[test]
fn an_adapter_of_the_host_moves() {
    in_netns("an_adapter_of_the_host_moves", || {
        if !taps_work("an_adapter_of_the_host_moves") {
            return;
        }
        let world = World::new();
        let config = |revision, host: &str, mtu| {
            let kind = PortKind::Tap { name: "weft-left".into(), host: Some(host.parse().unwrap()) };
            let network = NetworkConfig { mtu, ..bare_network("left") };
            let ports = vec![port("weft-left-host", "left", mac(1), kind)];
            DataplaneConfig { revision, networks: vec![network], ports, ..DataplaneConfig::default() }
        };
        let index = || ip("-o link show weft-left").split(':').next().unwrap().to_owned();
        world.apply(&config(1, "10.9.0.1/24", 1500));
        let (first, shown) = (index(), ip("addr show weft-left"));
        assert!(shown.contains("inet 10.9.0.1/24 brd 10.9.0.255") && shown.contains(",UP"), "{shown}");
        assert!(shown.contains("02:00:00:00:00:01") && shown.contains("mtu 1500"), "{shown}");

        world.apply(&config(2, "10.9.1.7/28", 1400));
        let shown = ip("addr show weft-left");
        assert!(shown.contains("inet 10.9.1.7/28 brd 10.9.1.15") && shown.contains("mtu 1400"), "{shown}");
        assert!(!shown.contains("10.9.0.1") && shown.contains(",UP"), "{shown}");
        assert_eq!(index(), first, "it is the same adapter");
        assert!(ip("route").contains("10.9.1.0/28 dev weft-left") && !ip("route").contains("10.0.0.0/8"));

        let refused = world.refused(&config(3, "10.9.1.0/28", 1400));
        assert!(refused.contains("10.9.1.0 is no host address of 10.9.1.0/28"), "{refused}");
        assert!(ip("addr show weft-left").contains("inet 10.9.1.7/28"), "nothing has changed");
        world.apply(&DataplaneConfig { ports: vec![], ..config(4, "10.9.1.7/28", 1400) });
        assert!(!ip("link").contains("weft-left"));
    });
}

#[test]
fn a_tap_that_is_not_ours_is_refused_with_a_way_out() {
    let world = World::new();
    let tap = port("t", "left", mac(1), PortKind::Tap { name: "no/such".into(), host: None });
    let config = DataplaneConfig {
        revision: 1,
        networks: vec![bare_network("left")],
        ports: vec![tap],
        ..DataplaneConfig::default()
    };
    match world.ask(&Request::Apply(config)) {
        Response::Refused(refusal) => {
            assert!(refusal.message.starts_with("port `t` (/w.toml:7): "), "{refusal:?}");
            assert!(!refusal.hint.is_empty());
        }
        other => panic!("{other:?}"),
    }
}
