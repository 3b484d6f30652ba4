//! The switch as a process: killed, and told to end.

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::Path;

use common::{PATIENCE, SWITCH_AT, World, eventually, network_with_gateway, options, vhost_user};
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use rustix::process::Signal;
use weft_dataplane::run;
use weft_dataplane_protocol::{AddressConfig, DataplaneConfig};
use weft_testkit::{FakeVm, ethernet, mac, udp4};
use weft_types::MacAddr;

/// Not a test: the switch's process, when [`World::in_process`] starts this program again.
#[test]
fn switch_process() {
    if let Some(directory) = std::env::var_os(SWITCH_AT) {
        run(&options(Path::new(&directory))).unwrap();
    }
}

fn office(world: &World) -> DataplaneConfig {
    let at = world.directory.path();
    DataplaneConfig {
        revision: 7,
        networks: vec![network_with_gateway("office", 20)],
        ports: vec![vhost_user(at, "a-0", "office", mac(1)), vhost_user(at, "b-0", "office", mac(2))],
    }
}

/// Says one DHCP message as the client `from` and returns the answer.
fn dhcp(vm: &mut FakeVm, from: MacAddr, kind: MessageType, options: Vec<DhcpOption>) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new(none, none, none, none, &from.octets());
    message.set_opcode(Opcode::BootRequest).opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option);
    }
    let (src, dst) = (SocketAddrV4::new(none, 68), SocketAddrV4::new(Ipv4Addr::BROADCAST, 67));
    vm.send(&udp4(MacAddr::BROADCAST, from, src, dst, &message.to_vec().unwrap()));
    loop {
        // What other clients say to everyone comes, too.
        let frame = vm.recv(PATIENCE).expect("the DHCP server answers").frame;
        let answer = Message::from_bytes(&frame[14 + 20 + 8..]).unwrap();
        if answer.opcode() == Opcode::BootReply {
            return answer;
        }
    }
}

/// Leases an address, as a client does that has none.
fn lease(vm: &mut FakeVm, from: MacAddr) -> Ipv4Addr {
    let offer = dhcp(vm, from, MessageType::Discover, vec![]);
    let server = match offer.opts().get(OptionCode::ServerIdentifier) {
        Some(&DhcpOption::ServerIdentifier(server)) => server,
        other => panic!("{other:?}"),
    };
    let wishes = vec![DhcpOption::RequestedIpAddress(offer.yiaddr()), DhcpOption::ServerIdentifier(server)];
    let ack = dhcp(vm, from, MessageType::Request, wishes);
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    ack.yiaddr()
}

#[test]
fn a_switch_that_is_killed_loses_no_lease_and_no_configuration() {
    let mut world = World::in_process();
    world.apply(&office(&world));
    let [mut a, mut b] = ["a-0", "b-0"].map(|name| FakeVm::boot(&world.path(name)).unwrap());
    for round in 0..3u8 {
        let (first, second) = (lease(&mut a, mac(1)), lease(&mut b, mac(2)));
        assert!(!world.signal(Signal::KILL), "a kill at once after the acknowledgement");
        world.start();
        let status = world.status();
        assert_eq!(status.revision, 7);
        let leases: Vec<_> = status.leases.iter().map(|lease| (lease.ip, lease.mac)).collect();
        let mut expected = vec![(first, mac(1)), (second, mac(2))];
        expected.sort();
        assert_eq!(leases, expected, "round {round}");
        eventually("VMs come back", || a.reconnect().is_ok());
        b.reconnect().unwrap();
        a.send(&ethernet(mac(2), mac(1), 0x88b5, &[round; 50]));
        assert_eq!(b.recv(PATIENCE).unwrap().frame[14], round);
    }
}

/// Who was given an address before the kill does not ask again, and is heard all the same.
#[test]
fn a_switch_that_is_killed_knows_who_has_which_address() {
    let mut world = World::in_process();
    let mut config = office(&world);
    for port in &mut config.ports {
        port.addresses = AddressConfig::Known { fixed: vec![], learn: 4 };
    }
    world.apply(&config);
    let [mut a, mut b] = ["a-0", "b-0"].map(|name| FakeVm::boot(&world.path(name)).unwrap());
    let address = lease(&mut a, mac(1));
    let packet = |from: Ipv4Addr| {
        let [src, dst] = [from, Ipv4Addr::new(10, 20, 0, 9)].map(|ip| SocketAddrV4::new(ip, 9));
        udp4(mac(2), mac(1), src, dst, b"hello")
    };
    a.send(&packet(address));
    loop {
        // What the other client said to everyone comes, too.
        if b.recv(PATIENCE).expect("a lease is heard").frame == packet(address) {
            break;
        }
    }
    assert!(!world.signal(Signal::KILL));
    world.start();
    eventually("VMs come back", || a.reconnect().is_ok());
    b.reconnect().unwrap();
    a.send(&packet(Ipv4Addr::new(10, 20, 0, 77)));
    a.send(&packet(address));
    assert_eq!(b.recv(PATIENCE).unwrap().frame, packet(address), "and nothing but that");
    let port = world.port("a-0");
    assert_eq!(port.learned, [IpAddr::V4(address)]);
    assert_eq!((port.drops[0].reason.as_str(), port.drops[0].frames), ("forged-ipv4", 1));
}

#[test]
fn signals() {
    let mut world = World::in_process();
    world.apply(&office(&world));
    let pid = rustix::process::Pid::from_raw(world.status().pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    rustix::process::kill_process(pid, Signal::PIPE).unwrap();
    assert_eq!(world.status().revision, 7, "a switch outlives its terminal");
    assert!(world.signal(Signal::TERM), "SIGTERM ends it well");
    for name in ["control", "a-0", "b-0"] {
        assert!(!world.path(name).exists(), "`{name}` was left behind");
    }
    world.start();
    assert_eq!(world.status().revision, 7, "its state stays");
}

/// What guests have does not stay on our account: a switch that had to touch much of their memory lets go of it
/// when it has nothing to do.
#[test]
fn an_idle_switch_holds_no_memory_of_its_guests() {
    let world = World::in_process();
    world.apply(&office(&world));
    let [mut a, mut b] = ["a-0", "b-0"].map(|name| FakeVm::boot(&world.path(name)).unwrap());
    let shared_kib = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", world.status().pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    };
    for round in 0..200u8 {
        a.send(&ethernet(mac(2), mac(1), 0x88b5, &[round; 9000]));
        b.recv(PATIENCE).unwrap();
    }
    assert!(shared_kib() > 500, "it touched {} KiB", shared_kib());
    let asked_too_often = std::time::Duration::from_millis(1300); // a question is work, too
    eventually("it lets go", || {
        std::thread::sleep(asked_too_often);
        shared_kib() < 100
    });
    a.send(&ethernet(mac(2), mac(1), 0x88b5, b"and takes up again"));
    assert!(b.recv(PATIENCE).is_some());
}
