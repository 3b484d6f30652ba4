//! The switch as a process: killed, and told to end.

mod common;

use std::collections::BTreeMap;
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
        routers: Vec::new(),
        host_names: None,
    }
}

/// Says one DHCP message as the client `from`.
fn say(vm: &mut FakeVm, from: MacAddr, kind: MessageType, options: Vec<DhcpOption>) {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new(none, none, none, none, &from.octets());
    message.set_opcode(Opcode::BootRequest).opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option);
    }
    let (src, dst) = (SocketAddrV4::new(none, 68), SocketAddrV4::new(Ipv4Addr::BROADCAST, 67));
    vm.send(&udp4(MacAddr::BROADCAST, from, src, dst, &message.to_vec().unwrap()));
}

/// Says one DHCP message as the client `from` and returns the answer.
fn dhcp(vm: &mut FakeVm, from: MacAddr, kind: MessageType, options: Vec<DhcpOption>) -> Message {
    say(vm, from, kind, options);
    loop {
        // What other clients say to everyone comes, too, and the question whether somebody has the address.
        let frame = vm.recv(PATIENCE).expect("the DHCP server answers").frame;
        let answer = Message::from_bytes(&frame[14 + 20 + 8..]).ok();
        if let Some(answer) = answer.filter(|answer| answer.opcode() == Opcode::BootReply) {
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

/// A kill at any moment of a storm: who was acknowledged is remembered, and nobody else is given the address, ever.
#[test]
fn a_switch_that_is_killed_in_a_storm_gives_no_address_twice() {
    const CLIENTS_A_ROUND: u32 = 30;
    let client = |number: u32| MacAddr::new([2, 0xdc, 0, 0, (number >> 8) as u8, number as u8]);
    let mut world = World::in_process();
    let mut config = office(&world);
    config.networks[0].gateway.as_mut().unwrap().dhcp.as_mut().unwrap().last = [10, 20, 0, 250].into();
    config.ports[0].mac_ranges = vec!["02:dc:00:00:00:00 to 02:dc:00:00:ff:ff".parse().unwrap()];
    config.ports[0].addresses = AddressConfig::Known { fixed: vec![], learn: 1000 };
    config.ports[1].addresses = AddressConfig::Known { fixed: vec![], learn: 4 };
    world.apply(&config);
    let mut vm = FakeVm::boot(&world.path("a-0")).unwrap();
    let mut acknowledged: BTreeMap<Ipv4Addr, MacAddr> = BTreeMap::new();
    let mut hear = |vm: &mut FakeVm, patience| -> Option<Message> {
        loop {
            let frame = vm.recv(patience)?.frame;
            // What the clients say to everyone comes back to nobody, but other frames may.
            let answer = frame.get(42..).and_then(|payload| Message::from_bytes(payload).ok());
            if let Some(answer) = answer.filter(|answer| answer.opcode() == Opcode::BootReply) {
                if answer.opts().msg_type() == Some(MessageType::Ack) {
                    let mac = MacAddr::new(answer.chaddr()[..6].try_into().unwrap());
                    let before = acknowledged.insert(answer.yiaddr(), mac);
                    assert!(before.is_none_or(|holder| holder == mac), "{} twice", answer.yiaddr());
                }
                return Some(answer);
            }
        }
    };
    for (round, acks_before_the_kill) in [1, 13, 2, 27, 5].into_iter().enumerate() {
        let clients = round as u32 * CLIENTS_A_ROUND..(round as u32 + 1) * CLIENTS_A_ROUND;
        for number in clients {
            say(&mut vm, client(number), MessageType::Discover, vec![]);
        }
        let mut acks = 0;
        while acks < acks_before_the_kill {
            let answer = hear(&mut vm, PATIENCE).expect("the DHCP server answers");
            match answer.opts().msg_type() {
                Some(MessageType::Offer) => {
                    let server = DhcpOption::ServerIdentifier([10, 20, 0, 1].into());
                    let wishes = vec![DhcpOption::RequestedIpAddress(answer.yiaddr()), server];
                    let mac = MacAddr::new(answer.chaddr()[..6].try_into().unwrap());
                    say(&mut vm, mac, MessageType::Request, wishes);
                }
                Some(MessageType::Ack) => acks += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(!world.signal(Signal::KILL));
        while hear(&mut vm, std::time::Duration::ZERO).is_some() {} // what reached the guest before
        world.start();
        eventually("the VM comes back", || vm.reconnect().is_ok());
    }
    let leases = world.status().leases;
    let kept: BTreeMap<_, _> = leases.iter().map(|lease| (lease.ip, lease.mac)).collect();
    for (ip, mac) in &acknowledged {
        assert_eq!(kept.get(ip), Some(mac), "{ip} was forgotten");
    }
    assert!(acknowledged.len() >= 1 + 13 + 2 + 27 + 5);
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
