//! What a new configuration costs a switch process with many ports: from the daemon's word to the worker's.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use weft_dataplane::{Options, Standalone};
use weft_dataplane_protocol::{
    AccessConfig, AddressConfig, DataplaneConfig, NetworkConfig, NetworkMode, PortConfig, PortKind, Switching,
};
use weft_types::{MacAddr, PortRates, PortVlans, Provenance};

/// A datagram socket each.
fn world(directory: &std::path::Path, ports: u32) -> DataplaneConfig {
    let place = |line| Provenance::file("bench.toml", line);
    let network = NetworkConfig {
        name: "lan".parse().unwrap(),
        mode: NetworkMode::Internal,
        mtu: 1500,
        gateway: None,
        switching: Switching::Veb,
        team: None,
        acl: None,
        mirrors: Vec::new(),
        forwards: Vec::new(),
        provenance: place(1),
    };
    let port = |number: u32| {
        let [a, b, c, d] = number.to_be_bytes();
        PortConfig {
            name: format!("p{number}").parse().unwrap(),
            network: network.name.clone(),
            kind: PortKind::UnixDatagram { socket: directory.join(format!("p{number}")), peer: None },
            macs: vec![MacAddr::new([2, 0, a, b, c, d])],
            mac_ranges: Vec::new(),
            vm: None,
            uplink: false,
            vlans: PortVlans::Untagged,
            learn: 0,
            addresses: AddressConfig::Any,
            access: AccessConfig::default(),
            rates: PortRates::default(),
            provenance: place(number + 2),
        }
    };
    DataplaneConfig { ports: (0..ports).map(port).collect(), networks: vec![network], ..DataplaneConfig::default() }
}

fn one_port(criterion: &mut Criterion) {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let mut group = criterion.benchmark_group("dataplane/apply");
    group.sample_size(20);
    for ports in [1_000, 5_000, 10_000] {
        let directory = tempfile::tempdir().unwrap();
        let options =
            Options { control_socket: directory.path().join("control"), state_dir: directory.path().join("state") };
        let switch = Standalone::start(&options).unwrap();
        let configs = [world(directory.path(), ports), world(directory.path(), ports + 1)];
        switch.apply(configs[0].clone()).unwrap();
        let mut turn = 0;
        let mut next = || {
            turn += 1;
            configs[turn % 2].clone()
        };
        group.bench_function(format!("one_port_of_{ports}"), |bencher| {
            bencher.iter_batched(&mut next, |config| switch.apply(config).unwrap(), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, one_port);
criterion_main!(benches);
