//! What an answer costs, from the frame with the query to the frame with the answer: out of memory, and of a machine's
//! name.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft_services::{NetworkId, NetworkServices, Services};
use weft_types::{DnsNames, Instant, MacAddr};
use weft_wire::{EtherType, Offload, Protocol, ethernet, ipv4, udp};

const NET: NetworkId = NetworkId(1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const GATEWAY_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 0xf1]);
const GUEST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 20, 0, 10), 5353);
const GUEST_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 0x0a]);
/// Names that are asked for in turn.
const NAMES: u32 = 1000;

fn services() -> Services {
    let mut services = Services::new([7; 32], Duration::from_secs(1_800_000_000));
    let network = NetworkServices {
        id: NET,
        name: "office".parse().expect("a name"),
        nat: true,
        mtu: 1500,
        mac: GATEWAY_MAC,
        ip: GATEWAY,
        subnet: "10.20.0.0/24".parse().expect("a subnet"),
        subnet6: None,
        dhcp6: None,
        dhcp: None,
        dns: true,
        host_access: false,
        records: vec![("web".parse().expect("a name"), *GUEST.ip())],
        names: DnsNames::default(),
        metadata: std::collections::BTreeMap::new(),
        forwards: Vec::new(),
    };
    services.configure(Instant::ZERO, vec![network]);
    services
}

/// A query for an address of `name`, whose labels are given with their lengths.
fn query(name: &[u8]) -> Vec<u8> {
    [b"\xbe\xef\x01\0\0\x01\0\0\0\0\0\0", name, b"\0\0\x01\0\x01"].concat()
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet::emit(&mut frame, GATEWAY_MAC, GUEST_MAC, EtherType::IPV4);
    let payload_len = (udp::HEADER_BYTES + message.len()) as u16;
    let (src, dst) = (*GUEST.ip(), GATEWAY);
    ipv4::Repr { src, dst, protocol: Protocol::UDP, ttl: 64, ident: 0, dont_fragment: true, payload_len }
        .emit(&mut frame);
    udp::emit(&mut frame, GUEST, SocketAddrV4::new(GATEWAY, 53), message);
    frame
}

fn ask(services: &mut Services, frame: &[u8]) {
    services.handle_frame(Instant::ZERO, NET, frame, Offload::default());
}

fn answers(c: &mut Criterion) {
    let mut services = services();
    let mut frames = Vec::new();
    for number in 0..NAMES {
        let message = query(format!("\x06{number:06}\x07example\x03org").as_bytes());
        frames.push(frame(&message));
        ask(&mut services, &frames[number as usize]);
        let forward = services.poll_dns().expect("nobody knows it yet");
        let mut answer = forward.message.clone();
        (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 198, 51, 100, 7]);
        assert!(services.dns_answer(Instant::ZERO, forward.id, Some(&answer)));
        services.poll_frame().expect("the answer");
    }
    let ours = [frame(&query(b"\x03web\x06office\x04weft"))];

    let mut group = c.benchmark_group("dns");
    group.throughput(Throughput::Elements(1));
    for (what, frames) in [("remembered", &frames[..]), ("a_machine", &ours)] {
        let mut turn = frames.iter().cycle();
        group.bench_function(what, |b| {
            b.iter(|| {
                ask(&mut services, turn.next().expect("a cycle"));
                black_box(services.poll_frame().expect("an answer at once"));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, answers);
criterion_main!(benches);
