//! Guests take no more than their share, whatever they send.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use weft_types::Instant;
use weft_wire::tcp::Flags;

use super::bench::{NET, REMOTE, causes, datagram, frames, nat, network, ops, subnets, take};
use super::tcp_segments::segment;
use crate::nat::{HostOp, NatNetwork};

const NOW: Instant = Instant::from_millis(1000);

#[test]
fn new_datagram_flows_take_the_place_of_the_oldest() {
    let mut nat = nat();
    for port in 0..50 {
        take(&mut nat, NOW + Duration::from_secs(port.into()), [datagram(port, REMOTE, b"hi")]);
    }
    assert_eq!((nat.flows(), ops(&mut nat).len()), (50, 50));
    let now = NOW + Duration::from_secs(60);
    take(&mut nat, now, [datagram(0, REMOTE, b"the oldest, in use again"), datagram(100, REMOTE, b"one more")]);
    let closed = ops(&mut nat).into_iter().filter(|op| op == "close udp").count();
    assert_eq!((nat.flows(), closed), (44, 7), "one eighth made room");
    assert_eq!(causes(&nat), ["evicted 7"]);
    take(&mut nat, now, [datagram(0, REMOTE, b"hi")]);
    assert_eq!(nat.flows(), 44, "what was in use stayed");
}

#[test]
fn too_many_connections_are_refused() {
    let mut nat = nat();
    take(&mut nat, NOW, (1..=60).map(|port| segment(port, REMOTE, Flags::SYN, 100, 0, &[])));
    assert_eq!((nat.flows(), ops(&mut nat).len()), (50, 50));
    assert_eq!(frames(&mut nat).len(), 10, "a reset for each of the others");
    assert_eq!(causes(&nat), ["guest-limit 10"]);
}

#[test]
fn all_guests_together_have_a_limit() {
    let mut nat = nat();
    for guest in 0..3u8 {
        let from = Ipv4Addr::new(10, 20, 0, 100 + guest);
        for port in 1..=40 {
            let mut frame = datagram(port, REMOTE, b"hi");
            // Another guest, with a checksum that nobody made.
            frame[26..30].copy_from_slice(&from.octets());
            frame[24..26].fill(0);
            frame[40..42].fill(0);
            let sum = weft_wire::checksum::checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            take(&mut nat, NOW, [frame]);
        }
    }
    assert!(nat.flows() <= 100, "{}", nat.flows());
    assert!(causes(&nat)[0].starts_with("evicted"), "{:?}", causes(&nat));
}

#[test]
fn queues_are_bounded() {
    let mut nat = nat();
    // Nobody drives the host's sockets.
    for _ in 0..10_000 {
        take(&mut nat, NOW, [datagram(5000, REMOTE, &[0; 1400])]);
    }
    let waiting = ops(&mut nat).len();
    assert!(waiting < 4097, "{waiting}");
    // Nobody takes frames.
    take(&mut nat, NOW, [datagram(5000, REMOTE, b"hi")]);
    let Some(HostOp::UdpSend { flow, .. }) = nat.poll_host() else { panic!("a datagram") };
    for _ in 0..10_000 {
        nat.udp_received(NOW, flow, REMOTE.into(), &[0; 1400]);
    }
    let waiting = frames(&mut nat).len();
    assert!(waiting < 1025, "{waiting}");
}

#[test]
fn new_configurations_end_what_they_forbid() {
    let mut nat = nat();
    let open = |nat: &mut crate::nat::Nat, port| {
        take(nat, NOW, [segment(port, REMOTE, Flags::SYN, 100, 0, &[])]);
        let Some(HostOp::TcpConnect { flow, .. }) = nat.poll_host() else { panic!("a connection") };
        nat.tcp_connected(NOW, flow);
        frames(nat);
    };
    open(&mut nat, 1);
    take(&mut nat, NOW, [datagram(2, SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 9), b"hi")]);
    ops(&mut nat);

    nat.configure(NOW, &[NatNetwork { mtu: 1400, ..network() }], &subnets());
    assert_eq!((nat.flows(), ops(&mut nat).len()), (2, 0), "what is allowed stays");

    let foreign = "192.0.2.0/24".parse().unwrap();
    nat.configure(NOW, &[network()], &[network().subnet.into(), foreign]);
    assert_eq!(frames(&mut nat), ["tcp 192.0.2.80:80 > 1 RST|ACK 0 bytes"]);
    assert_eq!((nat.flows(), ops(&mut nat)), (1, vec!["reset".to_owned()]));

    nat.configure(NOW, &[], &subnets());
    assert_eq!((nat.flows(), ops(&mut nat)), (0, vec!["close udp".to_owned()]));
    nat.handle_packet(NOW, NET, &datagram(1, REMOTE, b"hi"), Default::default());
    assert_eq!(nat.flows(), 0);
}
