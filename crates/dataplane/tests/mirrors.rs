//! Captures: frames that are copied to whoever looks.

mod common;

use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use common::{World, bare_network, eventually, vhost_user};
use weft_dataplane_protocol::{
    CaptureDirection, CaptureFilter, CaptureOf, CaptureRequest, CaptureTo, DataplaneConfig, History, Request, Response,
};
use weft_testkit::{FakeVm, ethernet, mac, udp4};

/// Two VMs on one network.
fn world() -> (World, FakeVm, FakeVm) {
    let world = World::new();
    let at = world.directory.path();
    world.apply(&DataplaneConfig {
        revision: 1,
        networks: vec![bare_network("lan")],
        ports: vec![vhost_user(at, "a-0", "lan", mac(1)), vhost_user(at, "b-0", "lan", mac(2))],
    });
    let boot = |name: &str| {
        let vm = FakeVm::boot(&world.path(name)).unwrap();
        world.wait_until_up(name);
        vm
    };
    let (a, b) = (boot("a-0"), boot("b-0"));
    (world, a, b)
}

fn everything(of: CaptureOf) -> CaptureRequest {
    CaptureRequest {
        of,
        vlans: Vec::new(),
        direction: CaptureDirection::Both,
        filter: None,
        snap_bytes: None,
        to: CaptureTo::Stream,
    }
}

/// Starts a capture; its reader.
fn start(world: &World, request: CaptureRequest) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let answer = world.client().call_with(&Request::Capture(request), &[theirs.as_fd()]).unwrap();
    assert_eq!(answer, Response::Done);
    ours.set_read_timeout(Some(common::PATIENCE)).unwrap();
    ours
}

fn history(world: &World) -> History {
    match world.ask(&Request::History) {
        Response::History(history) => history,
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
    let request = CaptureRequest { snap_bytes: Some(20), ..everything(CaptureOf::Port("a-0".parse().unwrap())) };
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
    let captures = history(&world).captures;
    assert_eq!((captures.len(), captures[0].copies, captures[0].lost), (1, 3, 0));

    drop(stream);
    eventually("the capture has ended", || {
        a.send(&ask);
        assert_eq!(b.recv(common::PATIENCE).unwrap().frame, ask);
        history(&world).captures.is_empty()
    });
}

#[test]
fn who_does_not_read_loses_copies_and_nobody_else_does() {
    let (world, mut a, mut b) = world();
    let mut stream = start(&world, everything(CaptureOf::Network("lan".parse().unwrap())));
    let large = ethernet(mac(2), mac(1), 0x88b5, &[0x5a; 60_000]);
    for _ in 0..400 {
        a.send(&large);
        assert_eq!(b.recv(common::PATIENCE).unwrap().frame, large);
    }
    let capture = history(&world).captures.remove(0);
    assert!(capture.lost > 0 && capture.copies + capture.lost == 400, "{capture:?}");
    // The reader learns how many it lost (isb_ifdrop) once it reads.
    let told = loop {
        if let (5, body) = block(&mut stream) {
            break u64::from_le_bytes(body[16..24].try_into().unwrap());
        }
    };
    assert!(told > 0 && told <= capture.lost);
}

#[test]
fn a_collector_gets_vxlan() {
    let (world, mut a, mut b) = world();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let to = CaptureTo::Vxlan { collector: collector.local_addr().unwrap(), vni: 42 };
    let filter = Some(CaptureFilter { protocol: Some(17), port: Some(53), ..CaptureFilter::default() });
    let _open = start(&world, CaptureRequest { filter, to, ..everything(CaptureOf::Network("lan".parse().unwrap())) });
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
    let lan = || everything(CaptureOf::Network("lan".parse().unwrap()));
    assert_eq!(
        refused(everything(CaptureOf::Port("c-0".parse().unwrap()))),
        "there is no port `c-0` (`weft port ls` lists all ports)"
    );
    let filter = |protocol, port| Some(CaptureFilter { protocol, port, ..CaptureFilter::default() });
    assert!(refused(CaptureRequest { filter: filter(None, Some(53)), ..lan() }).contains("port 53 of no protocol"));
    assert!(refused(CaptureRequest { filter: filter(Some(1), Some(53)), ..lan() }).contains("which has none"));
    let to = CaptureTo::Vxlan { collector: "127.0.0.1:4789".parse().unwrap(), vni: 1 << 24 };
    assert!(refused(CaptureRequest { to, ..lan() }).contains("16777216 is no VXLAN network identifier"));
    match world.ask(&Request::Capture(lan())) {
        Response::Refused(refusal) => assert!(refusal.message.contains("0 came with it"), "{refusal}"),
        other => panic!("{other:?}"),
    }
    let _streams: Vec<_> = (0..16).map(|_| start(&world, lan())).collect();
    assert!(refused(lan()).contains("16 captures run already"));
}
