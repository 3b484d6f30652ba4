//! An adapter of the host is an end: what the host would have to forward goes nowhere, neither way.

use std::net::IpAddr;

use weft_switch::{
    Addresses, Config, DropReason, Mirror, MirrorId, MirrorTarget, Policy, PortConfig, Role, Switch, VSwitchConfig,
    VSwitchId, Verdict,
};
use weft_types::{Instant, MacAddr, PortId, Provenance};

const WEB: PortId = PortId(1);
const HOST: PortId = PortId(2);
const HOST_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);
const BROADCAST: MacAddr = MacAddr::BROADCAST;

/// A machine, and the host at 10.0.0.254.
fn switch(policy: Policy) -> Switch {
    let place = || Provenance::command("test");
    let port = |id: PortId, name: &str, role, addresses| PortConfig {
        macs: vec![MacAddr::new([2, 0, 0, 0, 0, id.0 as u8])],
        addresses,
        ..PortConfig::new(id, name.parse().unwrap(), VSwitchId(0), role, place())
    };
    let own: IpAddr = "10.0.0.254".parse().unwrap();
    let host = Addresses::Known { fixed: vec![own.into()], learn: 0 };
    let host = PortConfig { policy, ..port(HOST, "host", Role::HostAdapter, host) };
    let to_host = Mirror {
        id: MirrorId(0),
        name: "to-host".into(),
        ports: vec![WEB],
        segments: Vec::new(),
        direction: weft_switch::Direction::In,
        filter: None,
        snap_bytes: None,
        to: MirrorTarget::Port(HOST),
        provenance: place(),
    };
    let network = VSwitchConfig::new(VSwitchId(0), "lab".parse().unwrap(), place());
    let ports = vec![port(WEB, "web", Role::Vnic, Addresses::Any), host];
    let mut switch = Switch::new(7);
    let vswitches = vec![VSwitchConfig { mirrors: vec![to_host], ..network }];
    switch.configure(Config { generation: 1, vswitches, ports: ports.into_iter().map(Into::into).collect() }).unwrap();
    switch
}

/// A UDP packet in a frame.
fn frame(from: PortId, dst: MacAddr, src_ip: &str, dst_ip: &str) -> Vec<u8> {
    let mut frame = [&dst.octets()[..], &[2, 0, 0, 0, 0, from.0 as u8]].concat();
    match (src_ip.parse().unwrap(), dst_ip.parse().unwrap()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend([src.octets(), dst.octets()].concat());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
            frame.extend([src.octets(), dst.octets()].concat());
        }
        _ => panic!("one packet, one family"),
    }
    frame.extend([0, 9, 0, 9, 0, 8, 0, 0]);
    frame
}

/// What becomes of a packet, the second time too, when a cache may answer; the mirror never tells the host of it.
fn fate(policy: Policy, from: PortId, dst: MacAddr, src_ip: &str, dst_ip: &str) -> Option<DropReason> {
    let mut switch = switch(policy);
    let frame = frame(from, dst, src_ip, dst_ip);
    let mut fates = [(); 2].map(|()| {
        let fate = match switch.forward(Instant::ZERO, from, &frame, frame.len()) {
            Verdict::Forward(_) => None,
            Verdict::Drop(reason) => Some(reason),
        };
        assert_eq!(switch.copies().len(), 0, "no copy of what is for the host itself");
        fate
    });
    fates.sort();
    assert_eq!(fates[0], fates[1]);
    fates[0]
}

#[test]
fn the_host_hears_what_is_for_itself() {
    let cases = [
        (HOST_MAC, "10.0.0.254", None),
        (HOST_MAC, "10.0.0.1", Some(DropReason::NotForHost)),
        (HOST_MAC, "192.168.7.2", Some(DropReason::NotForHost)),
        (HOST_MAC, "10.0.0.255", Some(DropReason::NotForHost)),
        (HOST_MAC, "255.255.255.255", None),
        (HOST_MAC, "224.0.0.251", None),
        (BROADCAST, "10.0.0.255", None),
        (HOST_MAC, "fe80::ff:fe00:2", None),
        (HOST_MAC, "fe80::ff:fe00:3", Some(DropReason::NotForHost)),
        (HOST_MAC, "2001:db8::2", Some(DropReason::NotForHost)),
        (HOST_MAC, "ff02::fb", None),
    ];
    for (mac, to, expected) in cases {
        let from = if to.contains(':') { "fe80::1" } else { "10.0.0.7" };
        assert_eq!(fate(Policy::default(), WEB, mac, from, to), expected, "{to} at {mac}");
        let router = Policy { forged_ips: true, ..Policy::default() };
        assert_eq!(fate(router, WEB, mac, from, to), None, "{to} at {mac}, of a host that may forward");
    }
}

#[test]
fn the_host_says_what_is_its_own() {
    let web = MacAddr::new([2, 0, 0, 0, 0, 1]);
    let cases = [
        ("10.0.0.254", "10.0.0.7", None),
        ("192.168.7.2", "10.0.0.7", Some(DropReason::ForgedIpv4)),
        ("10.0.0.1", "10.0.0.7", Some(DropReason::ForgedIpv4)),
        ("0.0.0.0", "255.255.255.255", Some(DropReason::ForgedIpv4)),
        ("fe80::ff:fe00:2", "ff02::fb", None),
        ("2001:db8::2", "fe80::1", Some(DropReason::ForgedIpv6)),
    ];
    for (from, to, expected) in cases {
        assert_eq!(fate(Policy::default(), HOST, web, from, to), expected, "{from} to {to}");
    }
}
