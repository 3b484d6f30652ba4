//! What a decision costs: per frame when the flow is known, per frame when it is not, and when a port is added to a
//! large switch. Numbers are per frame; frames come in bursts, as ports lend them.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weft_switch::{Config, PortConfig, Role, Switch, VSwitchConfig, VSwitchId, Verdict};
use weft_types::{Instant, MacAddr, PortId, Provenance};

const BURST: usize = 256;
const NOW: Instant = Instant::ZERO;

fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr::new([2, 0, a, b, c, d])
}

/// One vSwitch with so many vNICs.
fn world(ports: u32, promiscuous: u32) -> Config {
    let provenance = || Provenance::file("bench.toml", 1);
    let vswitch = VSwitchConfig::new(VSwitchId(0), "lan".parse().unwrap(), provenance());
    let ports = (0..ports).map(|id| {
        let name = format!("p{id}").parse().unwrap();
        let mut port = PortConfig::new(PortId(id), name, VSwitchId(0), Role::Vnic, provenance());
        port.macs = vec![mac(id)];
        port.policy.promiscuous = id < promiscuous;
        port
    });
    Config { generation: 1, vswitches: vec![vswitch], ports: ports.collect() }
}

fn switch(config: Config) -> Switch {
    let mut switch = Switch::new(0x5eed);
    switch.configure(config).unwrap();
    switch
}

type Burst = Vec<(PortId, [u8; 128])>;

/// Full-size frames between neighbours, over so many flows.
fn burst(flows: u32) -> Burst {
    let frame = |number: u32| {
        let (src, dst) = (number % flows, (number + 1) % flows);
        let mut head = [0; 128];
        head[..6].copy_from_slice(&mac(dst).octets());
        head[6..12].copy_from_slice(&mac(src).octets());
        head[12..14].copy_from_slice(&[8, 0]);
        (PortId(src), head)
    };
    (0..BURST as u32).map(frame).collect()
}

fn forward(switch: &mut Switch, burst: &Burst) -> usize {
    let mut copies = 0;
    for (ingress, head) in burst {
        if let Verdict::Forward(ports) = switch.forward(NOW, *ingress, black_box(head), 1514) {
            copies += ports.len();
        }
    }
    copies
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switch/forward");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, ports, promiscuous, flows) in
        [("hit_1_flow", 16, 0, 2), ("hit_256_flows", 256, 0, 256), ("hit_overheard", 16, 1, 16)]
    {
        let (mut switch, burst) = (switch(world(ports, promiscuous)), burst(flows));
        assert!(forward(&mut switch, &burst) >= BURST);
        group.bench_function(name, |bencher| bencher.iter(|| forward(&mut switch, &burst)));
    }
    let (mut switch, burst) = (switch(world(256, 0)).without_cache(), burst(256));
    group.bench_function("miss", |bencher| bencher.iter(|| forward(&mut switch, &burst)));
    group.finish();
}

fn ports(criterion: &mut Criterion) {
    let (mut large, config) = (switch(world(10_000, 0)), world(10_001, 0));
    let mut group = criterion.benchmark_group("switch/configure");
    group.bench_function("add_port_to_10000", |bencher| {
        bencher.iter_batched(|| config.clone(), |config| large.configure(config), BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(benches, frames, ports);
criterion_main!(benches);
