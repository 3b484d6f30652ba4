//! What a decision costs: per frame when the flow is known, per frame when it is not, and when a port is added to a
//! large switch. Numbers are per frame; frames come in bursts, as ports lend them.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::{Arc, Barrier};
use std::thread;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weft_switch::{
    Acl, Addresses, Config, Endpoint, Foreseen, Permission, PortConfig, Role, Rule, Switch, Traffic, VSwitchConfig,
    VSwitchId, Verdict,
};
use weft_types::{Instant, IpNet, MacAddr, PortId, Provenance};
use weft_wire::Protocol;

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
        Arc::new(port)
    });
    Config { generation: 1, vswitches: vec![vswitch], ports: ports.collect() }
}

/// The same with so many rules of all kinds, none of which fits the frames of [`tcp_burst`] but the last.
fn with_rules(rules: u32) -> Config {
    let rule = |number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        let prefix = |last| Endpoint::Prefix(IpNet::from(IpAddr::from([172, b, c, last])));
        let (from, to) = match number % 3 {
            0 => (Endpoint::Ports(vec![PortId(number % 256)]), prefix(a)),
            1 => (prefix(1), Endpoint::Any),
            _ => (Endpoint::Any, Endpoint::Ports(vec![PortId(number % 256)])),
        };
        let port = 1000 + (number % 5000) as u16;
        let traffic = Traffic::Ports { protocol: Protocol::TCP, src: 0..=u16::MAX, dst: port..=port + 9 };
        let (name, provenance) = (format!("r{number}"), Provenance::file("bench.toml", number));
        Rule { name, permission: Permission::Deny, from, to, traffic, log: false, provenance }
    };
    let last = Rule {
        permission: Permission::Allow,
        from: Endpoint::Any,
        to: Endpoint::Any,
        traffic: Traffic::Protocol(Protocol::TCP),
        ..rule(0)
    };
    let rules = (1..rules).map(rule).chain([last]).collect();
    let mut config = world(256, 0);
    config.vswitches[0].acl = Some(Acl { rules, default: Permission::Deny, connections: 1000 }.into());
    config
}

/// The same with one known address at each port.
fn with_addresses() -> Config {
    let mut config = world(256, 0);
    for port in config.ports.iter_mut().map(Arc::make_mut) {
        let fixed = vec![IpNet::from(IpAddr::from([10, 0, 0, port.id.0 as u8]))];
        port.addresses = Addresses::Known { fixed, learn: 0 };
    }
    config
}

/// As [`burst`], with TCP over IPv4.
fn tcp_burst(flows: u32) -> Burst {
    let mut burst = burst(flows);
    for (port, head) in &mut burst {
        let (src, dst) = (port.0 as u8, ((port.0 + 1) % flows) as u8);
        head[14..24].copy_from_slice(&[0x45, 0, 5, 220, 0, 0, 0x40, 0, 64, 6]);
        head[26..34].copy_from_slice(&[10, 0, 0, src, 10, 0, 0, dst]);
        head[34..38].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        head[46..48].copy_from_slice(&[0x50, 0x10]);
    }
    burst
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

/// In bursts, as from ports.
fn forward(switch: &mut Switch, frames: &Burst) -> usize {
    let mut copies = 0;
    for burst in frames.chunks(64) {
        if switch.looks_ahead() {
            let mut foreseen = [Foreseen::default(); 64];
            for (foreseen, (ingress, head)) in foreseen.iter_mut().zip(burst) {
                *foreseen = switch.foresee(*ingress, head, 1514);
            }
            foreseen[..burst.len()].iter().for_each(|foreseen| switch.fetch(foreseen));
        }
        for (ingress, head) in burst {
            if let Verdict::Forward(ports) = switch.forward(NOW, *ingress, black_box(head), 1514) {
                copies += ports.len();
            }
        }
    }
    copies
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switch/forward");
    group.throughput(Throughput::Elements(BURST as u64));
    let same = vec![tcp_burst(2)[0]; BURST];
    for (name, ports, promiscuous, burst) in [
        ("hit_1_flow", 16, 0, same),
        ("hit_256_flows", 256, 0, tcp_burst(256)),
        ("hit_not_plain", 256, 0, burst(256)),
        ("hit_overheard", 16, 1, tcp_burst(16)),
    ] {
        let mut switch = switch(world(ports, promiscuous));
        assert!(forward(&mut switch, &burst) >= BURST);
        group.bench_function(name, |bencher| bencher.iter(|| forward(&mut switch, &burst)));
    }
    let (mut plain, frames) = (switch(world(256, 0)).without_cache(), burst(256));
    group.bench_function("miss", |bencher| bencher.iter(|| forward(&mut plain, &frames)));
    let (mut listed, frames) = (switch(with_rules(10_000)), tcp_burst(256));
    assert_eq!(forward(&mut listed, &frames), BURST);
    group.bench_function("hit_10000_rules", |bencher| bencher.iter(|| forward(&mut listed, &frames)));
    let mut listed = switch(with_rules(10_000)).without_cache();
    group.bench_function("miss_10000_rules", |bencher| bencher.iter(|| forward(&mut listed, &frames)));
    // The list is asked about each of them: what is denied is neither cached nor a connection.
    let mut config = with_rules(10_000);
    for rule in config.vswitches[0].acl.iter_mut().flat_map(|acl| &mut Arc::make_mut(acl).rules) {
        rule.permission = Permission::Deny;
    }
    let mut listed = switch(config);
    assert_eq!(forward(&mut listed, &frames), 0);
    group.bench_function("miss_10000_rules_denied", |bencher| bencher.iter(|| forward(&mut listed, &frames)));
    let mut guarded = switch(with_addresses());
    assert_eq!(forward(&mut guarded, &frames), BURST);
    group.bench_function("hit_known_addresses", |bencher| bencher.iter(|| forward(&mut guarded, &frames)));
    group.finish();
}

/// Many connections between two ports, in an order that no cache of the processor likes.
fn connections(count: u32) -> Burst {
    let pair = tcp_burst(2);
    let frame = |number: u32| {
        let (port, mut head) = pair[0];
        let [_, a, b, c] = number.wrapping_mul(0x9e37_79b1).rotate_left(7).to_be_bytes();
        head[34..36].copy_from_slice(&(1024 + (number & 0x7fff) as u16).to_be_bytes());
        head[36..38].copy_from_slice(&(number >> 15).to_be_bytes()[2..]);
        head[40..44].copy_from_slice(&[0, a, b, c]);
        (port, head)
    };
    (0..count).map(frame).collect()
}

fn many_flows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switch/forward");
    for count in [1_000, 100_000, 1_000_000] {
        group.throughput(Throughput::Elements(count.into()));
        let mut config = with_rules(10);
        config.vswitches[0].acl.iter_mut().map(Arc::make_mut).for_each(|acl| acl.connections = count);
        let (mut switch, frames) = (switch(config), connections(count));
        for _ in 0..6 {
            assert_eq!(forward(&mut switch, &frames), count as usize);
        }
        let before = switch.stats();
        group.bench_function(format!("hit_{count}_connections"), |bencher| {
            bencher.iter(|| forward(&mut switch, &frames));
        });
        let after = switch.stats();
        let (hits, misses) = (after.hits - before.hits, after.misses - before.misses);
        assert!(misses * 100 <= hits, "{misses} misses beside {hits} hits, {after:?}");
    }
    group.finish();
}

/// The first packets of connections: the list is asked, the connection noted, and the flow cached.
fn new_connections(criterion: &mut Criterion) {
    const NEW: u32 = 4096;
    let mut group = criterion.benchmark_group("switch/forward");
    group.throughput(Throughput::Elements(NEW.into())).sample_size(10);
    let mut config = with_rules(10_000);
    config.vswitches[0].acl.iter_mut().map(Arc::make_mut).for_each(|acl| acl.connections = NEW);
    let frames = connections(NEW);
    group.bench_function("first_packet_10000_rules", |bencher| {
        let fresh = || switch(config.clone());
        bencher.iter_batched_ref(fresh, |switch| forward(switch, &frames), BatchSize::PerIteration);
    });
    group.finish();
}

/// Workers with a switch of their own, whose ports are no other's: each forwards so many bursts.
fn workers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switch/workers");
    for count in [1, 2] {
        group.throughput(Throughput::Elements(BURST as u64 * count));
        group.bench_function(format!("{count}_of_256_flows"), |bencher| {
            bencher.iter_custom(|bursts| {
                let barrier = Barrier::new(count as usize);
                let work = || {
                    let (mut switch, frames) = (switch(world(256, 0)), burst(256));
                    assert_eq!(forward(&mut switch, &frames), BURST);
                    barrier.wait();
                    let begun = std::time::Instant::now();
                    for _ in 0..bursts {
                        black_box(forward(&mut switch, &frames));
                    }
                    begun.elapsed()
                };
                thread::scope(|scope| {
                    let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
                    workers.into_iter().map(|worker| worker.join().unwrap()).max().unwrap_or_default()
                })
            });
        });
    }
    group.finish();
}

/// A switch with many ports becomes another in turns: each is one configuration.
fn configurations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switch/configure");
    let many = world(10_000, 0);
    let mut more = many.clone();
    more.ports.extend(world(10_001, 0).ports.pop());
    let mut other = many.clone();
    Arc::make_mut(&mut other.ports[5_000]).policy.promiscuous = true;
    // As from a caller who does not know what has changed.
    let strange =
        || Config { ports: more.ports.iter().map(|port| Arc::new(PortConfig::clone(port))).collect(), ..many.clone() };
    let mut in_turns = |name: &str, configs: [&dyn Fn() -> Config; 2]| {
        let (mut switch, mut turn) = (switch(configs[0]()), 0);
        let mut next = || {
            turn += 1;
            configs[turn % 2]()
        };
        group.bench_function(name, |bencher| {
            bencher.iter_batched(&mut next, |config| switch.configure(config).unwrap(), BatchSize::PerIteration);
        });
    };
    in_turns("add_or_remove_port_of_10000", [&|| many.clone(), &|| more.clone()]);
    in_turns("change_port_of_10000", [&|| many.clone(), &|| other.clone()]);
    in_turns("add_or_remove_port_of_10000_by_value", [&|| many.clone(), &strange]);
    let mut renamed = many.clone();
    renamed.vswitches[0].name = "other".parse().unwrap();
    in_turns("build_10000_ports_anew", [&|| many.clone(), &|| renamed.clone()]);
    group.finish();
}

criterion_group!(benches, frames, many_flows, new_connections, workers, configurations);
criterion_main!(benches);
