//! Copies of frames: captures for whoever looks, and mirrors that a configuration declares.

mod common;

use std::io::Read;
use std::net::{Shutdown, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use common::{World, bare_network, eventually, vhost_user};
use weft_dataplane_protocol::{
    CaptureRequest, DataplaneConfig, MirrorConfig, MirrorStatus, MirrorTo, NetworkConfig, Request, Response,
};
use weft_testkit::{FakeVm, ethernet, mac, udp4};
use weft_types::{Direction, MirrorFilter, Provenance, Traffic};

/// Two VMs on one network.
fn world() -> (World, FakeVm, FakeVm) {
    let world = World::new();
    let at = world.directory.path();
    world.apply(&DataplaneConfig {
        revision: 1,
        networks: vec![bare_network("lan")],
        ports: vec![vhost_user(at, "a-0", "lan", mac(1)), vhost_user(at, "b-0", "lan", mac(2))],
        ..DataplaneConfig::default()
    });
    let boot = |name: &str| {
        let vm = FakeVm::boot(&world.path(name)).unwrap();
        world.wait_until_up(name);
        vm
    };
    let (a, b) = (boot("a-0"), boot("b-0"));
    (world, a, b)
}

fn of_ports(ports: &[&str]) -> CaptureRequest {
    CaptureRequest {
        ports: ports.iter().map(|name| name.parse().unwrap()).collect(),
        networks: Vec::new(),
        vlans: Vec::new(),
        direction: Direction::Both,
        filter: None,
        snap_bytes: None,
    }
}

fn of_lan() -> CaptureRequest {
    CaptureRequest { networks: vec!["lan".parse().unwrap()], ..of_ports(&[]) }
}

/// Starts a capture; its reader.
fn start(world: &World, request: CaptureRequest) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let answer = world.client().call_with(&Request::Capture(request), &[theirs.as_fd()]).unwrap();
    assert_eq!(answer, Response::Done);
    ours.set_read_timeout(Some(common::PATIENCE)).unwrap();
    ours
}

/// How the mirrors and captures do.
fn mirrors(world: &World) -> Vec<MirrorStatus> {
    match world.ask(&Request::Status) {
        Response::Status(status) => status.mirrors,
        other => panic!("{other:?}"),
    }
}

/// The next block of a capture: its kind and body.
fn block(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    let mut head = [0; 8];
    stream.read_exact(&mut head).unwrap();
    let [kind, len] = [0, 4].map(|at| u32::from_le_bytes(head[at..at + 4].try_into().unwrap()));
    let mut body = vec![0; len as usize - 8];
    stream.read_exact(&mut body).unwrap();
    body.truncate(body.len() - 4);
    (kind, body)
}

/// The next frame of a capture: its interface, its length, and as much of it as was kept.
fn frame(stream: &mut UnixStream) -> (u32, u32, Vec<u8>) {
    loop {
        if let (6, body) = block(stream) {
            let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
            return (word(0), word(16), body[20..20 + word(12) as usize].to_vec());
        }
    }
}

#[test]
fn a_capture_of_a_port_is_pcapng() {
    let (world, mut a, mut b) = world();
    let request = CaptureRequest { snap_bytes: Some(20), ..of_ports(&["a-0"]) };
    let mut stream = start(&world, request);
    let (ask, answer) =
        (ethernet(mac(2), mac(1), 0x88b5, b"what is it?"), ethernet(mac(1), mac(2), 0x88b5, b"nothing"));
    a.send(&ask);
    assert_eq!(b.recv(common::PATIENCE).unwrap().frame, ask);
    b.send(&answer);
    assert_eq!(a.recv(common::PATIENCE).unwrap().frame, answer);
    a.send(&ethernet(mac(9), mac(1), 0x88b5, b"to nobody"));
    let kinds: Vec<_> = (0..2).map(|_| block(&mut stream).0).collect();
    assert_eq!(kinds, [0x0a0d_0d0a, 1], "a section starts, and has an interface");
    assert_eq!(frame(&mut stream), (0, ask.len() as u32, ask[..20].to_vec()));
    assert_eq!(frame(&mut stream), (1, answer.len() as u32, answer[..20].to_vec()));
    assert_eq!(frame(&mut stream).0, 0, "what is dropped is seen");
    let captures = mirrors(&world);
    assert_eq!((captures.len(), captures[0].copies, captures[0].lost), (1, 3, 0));

    drop(stream);
    eventually("the capture has ended, though no frame comes", || mirrors(&world).is_empty());
}

#[test]
fn a_reader_that_leaves_gets_what_is_under_way_and_the_last_word() {
    let (world, mut a, mut b) = world();
    let mut stream = start(&world, of_ports(&["a-0", "b-0"]));
    let hello = ethernet(mac(2), mac(1), 0x88b5, b"hello");
    a.send(&hello);
    assert_eq!(b.recv(common::PATIENCE).unwrap().frame, hello);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut kinds = Vec::new();
    let mut rest = &bytes[..];
    while let Some(len) = rest.get(4..8) {
        kinds.push(u32::from_le_bytes(rest[..4].try_into().unwrap()));
        rest = &rest[u32::from_le_bytes(len.try_into().unwrap()) as usize..];
    }
    assert_eq!(kinds, [0x0a0d_0d0a, 1, 1, 6, 5, 5], "two interfaces, a frame, and what each has lost");
    eventually("nothing is left", || mirrors(&world).is_empty());
}

#[test]
fn a_capture_goes_on_when_its_port_comes_back() {
    let (world, mut a, _b) = world();
    let mut stream = start(&world, of_ports(&["b-0"]));
    let at = world.directory.path();
    let apply = |revision, ports| {
        world.apply(&DataplaneConfig {
            revision,
            networks: vec![bare_network("lan")],
            ports,
            ..DataplaneConfig::default()
        });
    };
    apply(2, vec![vhost_user(at, "a-0", "lan", mac(1))]);
    apply(3, vec![vhost_user(at, "a-0", "lan", mac(1)), vhost_user(at, "b-0", "lan", mac(2))]);
    let mut b = FakeVm::boot(&world.path("b-0")).unwrap();
    world.wait_until_up("b-0");
    let hello = ethernet(mac(2), mac(1), 0x88b5, b"hello");
    a.send(&hello);
    assert_eq!(b.recv(common::PATIENCE).unwrap().frame, hello);
    assert_eq!(frame(&mut stream).2, hello);
}

#[test]
fn who_does_not_read_loses_copies_and_nobody_else_does() {
    let (world, mut a, mut b) = world();
    let mut stream = start(&world, of_lan());
    let large = ethernet(mac(2), mac(1), 0x88b5, &[0x5a; 60_000]);
    for _ in 0..400 {
        a.send(&large);
        assert_eq!(b.recv(common::PATIENCE).unwrap().frame, large);
    }
    let capture = mirrors(&world).remove(0);
    assert!(capture.lost > 0 && capture.copies + capture.lost == 400, "{capture:?}");
    // The reader learns how many it lost (isb_ifdrop) once it reads.
    let told = loop {
        if let (5, body) = block(&mut stream) {
            break u64::from_le_bytes(body[16..24].try_into().unwrap());
        }
    };
    assert!(told > 0 && told <= capture.lost);
}

/// The network with this mirror on it.
fn mirrored(mirror: MirrorConfig) -> NetworkConfig {
    NetworkConfig { mirrors: vec![mirror], ..bare_network("lan") }
}

fn mirror(to: MirrorTo) -> MirrorConfig {
    MirrorConfig {
        name: "watch".parse().unwrap(),
        ports: None,
        vlans: Vec::new(),
        direction: Direction::Both,
        filter: None,
        snap_bytes: None,
        to,
        provenance: Provenance::file("/w.toml", 9),
    }
}

#[test]
fn a_collector_gets_vxlan() {
    let (world, mut a, mut b) = world();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let to = format!("vxlan://{}/42", collector.local_addr().unwrap()).parse().unwrap();
    let dns = Traffic::Ports { protocol: 17, src: Traffic::ALL_PORTS, dst: 53..=53 };
    let filter = Some(MirrorFilter { traffic: dns, ..MirrorFilter::default() });
    let watch = MirrorConfig { filter, ..mirror(MirrorTo::Collector(to)) };
    let at = world.directory.path();
    let ports = vec![vhost_user(at, "a-0", "lan", mac(1)), vhost_user(at, "b-0", "lan", mac(2))];
    let config =
        DataplaneConfig { revision: 2, networks: vec![mirrored(watch.clone())], ports, ..DataplaneConfig::default() };
    world.apply(&config);
    let between = |port: u16| {
        let (src, dst) = (format!("10.0.0.1:{port}"), "10.0.0.2:53".to_owned());
        udp4(mac(2), mac(1), src.parse().unwrap(), dst.parse().unwrap(), b"?")
    };
    a.send(&ethernet(mac(2), mac(1), 0x88b5, b"not this"));
    a.send(&between(5000));
    assert!(b.recv(common::PATIENCE).is_some() && b.recv(common::PATIENCE).is_some());
    let mut packet = [0; 2000];
    let len = collector.recv(&mut packet).unwrap();
    assert_eq!(packet[..8], [8, 0, 0, 0, 0, 0, 42, 0]);
    assert_eq!(packet[8..len], between(5000));

    // An edit of what is mirrored keeps the counts, and loses no frame.
    let watch = MirrorConfig { filter: None, snap_bytes: Some(20), ..watch };
    world.apply(&DataplaneConfig { revision: 3, networks: vec![mirrored(watch)], ..config });
    a.send(&between(5001));
    assert!(b.recv(common::PATIENCE).is_some());
    assert_eq!(collector.recv(&mut packet).unwrap(), 8 + 20);
    let status = mirrors(&world).remove(0);
    assert_eq!((status.name.as_str(), status.copies, status.lost), ("watch", 2, 0));
}

#[test]
fn copies_that_a_mirror_port_has_no_room_for_are_counted() {
    let (world, mut a, mut b) = world();
    let at = world.directory.path();
    let mut config = DataplaneConfig {
        revision: 2,
        networks: vec![mirrored(mirror(MirrorTo::Port("ids-0".parse().unwrap())))],
        ports: ["a-0", "b-0", "ids-0"]
            .into_iter()
            .zip(1..)
            .map(|(name, n)| vhost_user(at, name, "lan", mac(n)))
            .collect(),
        ..DataplaneConfig::default()
    };
    world.apply(&config);
    let hello = ethernet(mac(2), mac(1), 0x88b5, b"hello");
    let mut say_hello = || {
        a.send(&hello);
        assert_eq!(b.recv(common::PATIENCE).unwrap().frame, hello);
    };
    say_hello(); // nobody is behind the port yet
    let mut ids = FakeVm::boot(&world.path("ids-0")).unwrap();
    world.wait_until_up("ids-0");
    say_hello();
    assert_eq!(ids.recv(common::PATIENCE).unwrap().frame, hello);
    let status = mirrors(&world).remove(0);
    assert_eq!((status.copies, status.lost), (1, 1));
    // Where there is no such port, nobody gets copies.
    config.revision = 3;
    config.ports.pop();
    world.apply(&config);
    say_hello();
    assert_eq!(mirrors(&world).remove(0).copies, 1);
}

#[test]
fn captures_that_cannot_be_are_refused() {
    let (world, ..) = world();
    let refused = |request: CaptureRequest| {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        match world.client().call_with(&Request::Capture(request), &[theirs.as_fd()]).unwrap() {
            Response::Refused(refusal) => format!("{refusal} ({})", refusal.hint),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(of_ports(&["a-0", "c-0"])), "there is no port `c-0` (`weft port ls` lists all ports)");
    assert_eq!(refused(of_ports(&[])), "a capture of nothing (name ports or networks)");
    let traffic = Traffic::Ports { protocol: 1, src: Traffic::ALL_PORTS, dst: 53..=53 };
    let filter = Some(MirrorFilter { traffic, ..MirrorFilter::default() });
    assert!(refused(CaptureRequest { filter, ..of_lan() }).contains("which has none"));
    match world.ask(&Request::Capture(of_lan())) {
        Response::Refused(refusal) => assert!(refusal.message.contains("0 came with it"), "{refusal}"),
        other => panic!("{other:?}"),
    }
    let streams: Vec<_> = (0..16).map(|_| start(&world, of_lan())).collect();
    assert!(refused(of_lan()).contains("16 captures run already"));
    drop(streams);
    eventually("there is room again", || mirrors(&world).is_empty());
    start(&world, of_lan());
}
