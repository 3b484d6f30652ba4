//! What the daemon says of VLANs, addresses, policy and rules is what the switch does, and tells.

mod common;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use common::{PATIENCE, World, bare_network, vhost_user};
use weft_dataplane_protocol::{
    AclConfig, AddressConfig, DataplaneConfig, EndConfig, ExplainRequest, ListensRequest, PortConfig, ReceiveFilter,
    Request, Response, RuleConfig,
};
use weft_testkit::{FakeVm, arp_request, ethernet, mac, udp4};
use weft_types::{Allowance, MacAddr, Native, Permission, PortVlans, Provenance, Traffic, VlanId};

const SHORT: Duration = Duration::from_millis(100);

fn vlan(raw: u16) -> VlanId {
    VlanId::try_from(raw).unwrap()
}

/// A VM of `10.0.0.<number>` and `mac(<number>)` at port `<name>`.
fn port(world: &World, name: &str, number: u8, change: impl FnOnce(&mut PortConfig)) -> PortConfig {
    let mut port = vhost_user(world.directory.path(), name, "lab", mac(number));
    change(&mut port);
    port
}

fn apply(world: &World, revision: u64, acl: Option<AclConfig>, ports: Vec<PortConfig>) {
    let network = weft_dataplane_protocol::NetworkConfig { acl, ..bare_network("lab") };
    world.apply(&DataplaneConfig { revision, networks: vec![network], ports, ..DataplaneConfig::default() });
}

fn boot<const N: usize>(world: &World, names: [&str; N]) -> [FakeVm; N] {
    names.map(|name| {
        let vm = FakeVm::boot(&world.path(name)).unwrap();
        world.wait_until_up(name);
        vm
    })
}

/// A UDP packet between VMs, from the address that its sender should have.
fn packet(from: u8, to: u8, dst_port: u16) -> Vec<u8> {
    packet_from(from, Ipv4Addr::new(10, 0, 0, from), to, dst_port)
}

fn packet_from(from: u8, src: Ipv4Addr, to: u8, dst_port: u16) -> Vec<u8> {
    let dst = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, to), dst_port);
    udp4(mac(to), mac(from), SocketAddrV4::new(src, 1000), dst, b"payload")
}

fn drops(world: &World, port: &str) -> Vec<(String, u64)> {
    world.port(port).drops.into_iter().map(|drop| (drop.reason, drop.frames)).collect()
}

#[test]
fn each_vlan_is_a_segment_of_its_own() {
    let world = World::new();
    let access = |raw| move |port: &mut PortConfig| port.vlans = PortVlans::Access { vlan: vlan(raw) };
    let trunk = |port: &mut PortConfig| {
        port.vlans = PortVlans::Trunk { allowed: "20-29".parse().unwrap(), native: Some(Native::Untagged) };
    };
    let ports = vec![
        port(&world, "red", 1, access(20)),
        port(&world, "blue", 2, access(30)),
        port(&world, "plain", 3, |_| ()),
        port(&world, "trunk", 4, trunk),
    ];
    apply(&world, 1, None, ports);
    let [mut red, mut blue, mut plain, mut trunk] = boot(&world, ["red", "blue", "plain", "trunk"]);
    let hello = ethernet(MacAddr::BROADCAST, mac(1), 0x88b5, &[0x5a; 46]);
    red.send(&hello);
    let tagged = [&hello[..12], &[0x81, 0, 0, 20], &hello[12..]].concat();
    assert_eq!(trunk.recv(PATIENCE).unwrap().frame, tagged);
    let hello = ethernet(MacAddr::BROADCAST, mac(3), 0x88b5, &[0x5b; 46]);
    plain.send(&hello);
    assert_eq!(trunk.recv(PATIENCE).unwrap().frame, hello, "the native segment has no tag");
    for vm in [&mut red, &mut blue, &mut plain] {
        assert_eq!(vm.recv(SHORT), None, "nobody hears another VLAN");
    }
    blue.send(&tagged);
    blue.send(&ethernet(mac(1), mac(2), 0x88b5, &[0; 46]));
    assert_eq!(red.recv(SHORT), None);
    assert_eq!(drops(&world, "blue"), [("tagged".to_owned(), 1), ("unknown-unicast".to_owned(), 1)]);
    assert_eq!(world.port("trunk").vlans.to_string(), "trunk 20-29, native untagged");
}

#[test]
fn ports_speak_for_themselves_unless_they_may_do_otherwise() {
    let world = World::new();
    let known = |port: &mut PortConfig, last: u8| {
        let fixed = vec![format!("10.0.0.{last}/32").parse().unwrap()];
        port.addresses = AddressConfig::Known { fixed, learn: 1 };
    };
    let ports = |access: &[Allowance]| {
        let strict = port(&world, "web", 1, |port| {
            known(port, 1);
            port.access = access.iter().copied().collect();
        });
        vec![strict, port(&world, "db", 2, |port| known(port, 2))]
    };
    apply(&world, 1, None, ports(&[]));
    let [mut web, mut db] = boot(&world, ["web", "db"]);
    let spoofed = packet_from(1, Ipv4Addr::new(10, 0, 0, 2), 2, 9);
    let lie = arp_request(mac(1), Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 9));
    let advertised = udp4(
        MacAddr::BROADCAST,
        mac(1),
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 67),
        SocketAddrV4::new(Ipv4Addr::BROADCAST, 68),
        &[2; 300],
    );
    for frame in [&spoofed, &lie, &advertised, &packet(1, 2, 9)] {
        web.send(frame);
    }
    assert_eq!(db.recv(PATIENCE).unwrap().frame, packet(1, 2, 9), "the truth and nothing else");
    let expected = [("forged-ipv4", 1), ("forged-arp", 1), ("rogue-dhcp-server", 1)];
    assert_eq!(drops(&world, "web"), expected.map(|(reason, frames)| (reason.to_owned(), frames)));
    // Nobody asks the guest: what is allowed counts from the next frame on.
    let allowed = [Allowance::ForgedIp, Allowance::ForgedArp, Allowance::DhcpServer];
    apply(&world, 2, None, ports(&allowed));
    for frame in [&spoofed, &lie, &advertised] {
        web.send(frame);
        assert_eq!(&db.recv(PATIENCE).unwrap().frame, frame);
    }
    assert_eq!(world.port("web").access.allowances(), allowed);
}

#[test]
fn rules_decide_who_may_begin_what_and_are_named() {
    let world = World::new();
    let ports = || vec![port(&world, "web", 1, |_| ()), port(&world, "db", 2, |_| ()), port(&world, "ops", 3, |_| ())];
    let names = |names: &[&str]| EndConfig::Ports { names: names.iter().map(|name| name.parse().unwrap()).collect() };
    let rule = |line, name: &str, permission, from, to, traffic| RuleConfig {
        name: name.to_owned(),
        permission,
        from,
        to,
        traffic,
        log: false,
        provenance: Provenance::file("/lab.toml", line),
    };
    let postgres = Traffic::Ports { protocol: 17, src: Traffic::ALL_PORTS, dst: 5432..=5432 };
    let acl = |default| AclConfig {
        rules: vec![
            rule(5, "deny web -> db", Permission::Deny, names(&["web", "gone"]), names(&["db"]), Traffic::Any),
            rule(6, "ops", Permission::Allow, EndConfig::Any, names(&["db"]), postgres.clone()),
        ],
        default,
        connections: 100,
    };
    apply(&world, 1, Some(acl(Permission::Deny)), ports());
    let [mut web, mut db, mut ops] = boot(&world, ["web", "db", "ops"]);
    web.send(&packet(1, 2, 5432));
    web.send(&packet(1, 3, 9));
    ops.send(&packet(3, 2, 9));
    ops.send(&packet(3, 2, 5432));
    assert_eq!(db.recv(PATIENCE).unwrap().frame, packet(3, 2, 5432));
    let reply = udp4(
        mac(3),
        mac(2),
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 5432),
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 3), 1000),
        b"reply",
    );
    db.send(&reply);
    assert_eq!(ops.recv(PATIENCE).unwrap().frame, reply, "what answers passes");
    assert_eq!(drops(&world, "web"), [("acl-denied".to_owned(), 2)]);
    let hits = || match world.ask(&Request::Rules) {
        Response::Rules(acls) => acls[0].rules.iter().map(|rule| (rule.name.clone(), rule.hits)).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let once = [("deny web -> db".to_owned(), 1), ("ops".to_owned(), 1)];
    assert_eq!(hits(), once);
    let question = ExplainRequest { port: "web".parse().unwrap(), frame: packet(1, 2, 80) };
    let Response::Explained(explanation) = world.ask(&Request::Explain(question)) else { panic!() };
    let last = explanation.steps.last().unwrap();
    assert_eq!((last.stage.as_str(), last.finding.as_str()), ("acl", "`deny web -> db` denies it"));
    assert_eq!(last.because, Some(Provenance::file("/lab.toml", 5)));
    // Another default: no port is touched, and what no rule fits may begin.
    apply(&world, 2, Some(acl(Permission::Allow)), ports());
    web.send(&packet(1, 3, 9));
    assert_eq!(ops.recv(PATIENCE).unwrap().frame, packet(1, 3, 9));
    assert_eq!(hits(), once, "what was counted stays counted");
}

#[test]
fn guests_hear_what_they_listen_to() {
    let world = World::new();
    let may_change = |port: &mut PortConfig| port.access = [Allowance::MacChange].into_iter().collect();
    apply(&world, 1, None, vec![port(&world, "a", 1, may_change), port(&world, "b", 2, |_| ())]);
    let [mut a, mut b] = boot(&world, ["a", "b"]);
    let filter = |stations: &[u8], groups: &[MacAddr]| ReceiveFilter {
        stations: stations.iter().copied().map(mac).collect(),
        groups: groups.to_vec(),
        ..ReceiveFilter::default()
    };
    let mut daemon = world.client();
    let mut tell = |port: &str, filter: Option<ReceiveFilter>| {
        daemon.call(&Request::Listens(ListensRequest { port: port.parse().unwrap(), filter })).unwrap()
    };
    let counts = |port: &str| world.port(port).denials.into_iter().map(|denial| denial.frames).collect::<Vec<_>>();
    let groups = [MacAddr::new([1, 0, 0x5e, 0, 0, 7]), MacAddr::new([1, 0, 0x5e, 0, 0, 8])];

    // A group that it joined, and another address than its own.
    assert_eq!(tell("a", Some(filter(&[9], &groups[..1]))), Response::Done);
    assert_eq!(world.port("a").listens, Some(filter(&[9], &groups[..1])));
    for to in [groups[1], groups[0], mac(1), mac(9)] {
        b.send(&ethernet(to, mac(2), 0x88b5, &[to.octets()[5]; 46]));
    }
    let mut heard = || a.recv(PATIENCE).unwrap().frame[..6].to_vec();
    assert_eq!([heard(), heard()], [groups[0].octets(), mac(9).octets()], "and nothing of the others");

    // The same wish is denied once, however often it is told and whatever else becomes otherwise.
    for _ in 0..3 {
        assert_eq!(tell("b", Some(ReceiveFilter { promiscuous: true, ..filter(&[2, 7], &[]) })), Response::Done);
    }
    apply(
        &world,
        2,
        None,
        vec![port(&world, "a", 1, may_change), port(&world, "b", 2, |_| ()), port(&world, "c", 3, |_| ())],
    );
    assert_eq!((counts("a"), counts("b")), (vec![], vec![1, 1]));
    apply(&world, 3, None, vec![port(&world, "a", 1, |_| ()), port(&world, "b", 2, may_change)]);
    assert_eq!(world.port("a").listens.unwrap().stations, [], "it may have it no more");
    assert_eq!(world.port("b").listens.unwrap().stations, [mac(2), mac(7)], "it may have it now");
    assert_eq!((counts("a"), counts("b")), (vec![], vec![1, 1]));

    // Who told leaves: then nobody would tell of groups.
    drop(daemon);
    common::eventually("every group is heard", || world.port("b").listens.is_some_and(|listens| listens.all_multicast));
    assert_eq!(world.port("b").listens.unwrap().stations, [mac(2), mac(7)]);
    let mut daemon = world.client();
    let mut tell = |port: &str, filter: Option<ReceiveFilter>| {
        daemon.call(&Request::Listens(ListensRequest { port: port.parse().unwrap(), filter })).unwrap()
    };
    assert_eq!(tell("b", None), Response::Done);
    assert_eq!(world.port("b").listens, None);
    assert!(matches!(tell("c", None), Response::Refused(refusal) if refusal.message == "there is no port `c`"));
}
