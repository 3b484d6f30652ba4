//! The whole data plane, as a daemon and its VMs see it.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::{World, bare_network, eventually, network_with_gateway, port, vhost_user};
use rustix::time::{ClockId, clock_gettime};
use weft_dataplane::{DataplaneError, run};
use weft_dataplane_protocol::{DataplaneConfig, ExplainRequest, PortKind, Request, Response};
use weft_testkit::{FakeVm, arp_request, ethernet, mac, tcp4};
use weft_types::MacAddr;

const PATIENCE: Duration = common::PATIENCE;
const SHORT: Duration = Duration::from_millis(150);

/// Three VMs on one network, one on another.
fn two_networks(world: &World) -> DataplaneConfig {
    let at = world.directory.path();
    DataplaneConfig {
        revision: 1,
        networks: vec![bare_network("left"), bare_network("right")],
        ports: vec![
            vhost_user(at, "a-0", "left", mac(1)),
            vhost_user(at, "b-0", "left", mac(2)),
            vhost_user(at, "c-0", "left", mac(3)),
            vhost_user(at, "d-0", "right", mac(4)),
        ],
        routers: Vec::new(),
        host_names: None,
    }
}

fn boot(world: &World, name: &str) -> FakeVm {
    let vm = FakeVm::boot(&world.path(name)).unwrap();
    world.wait_until_up(name);
    vm
}

fn frame(to: MacAddr, from: MacAddr, text: &str) -> Vec<u8> {
    ethernet(to, from, 0x88b5, text.as_bytes())
}

#[test]
fn frames_go_where_the_law_says() {
    let world = World::new();
    world.apply(&two_networks(&world));
    let [mut a, mut b, mut c, mut d] = ["a-0", "b-0", "c-0", "d-0"].map(|name| boot(&world, name));

    a.send(&frame(mac(2), mac(1), "unicast"));
    assert_eq!(b.recv(PATIENCE).unwrap().frame, frame(mac(2), mac(1), "unicast"));
    a.send(&frame(MacAddr::BROADCAST, mac(1), "broadcast"));
    for vm in [&mut b, &mut c] {
        assert_eq!(vm.recv(PATIENCE).unwrap().frame, frame(MacAddr::BROADCAST, mac(1), "broadcast"));
    }
    a.send(&frame(mac(9), mac(1), "to nobody"));
    a.send(&frame(mac(4), mac(1), "to another network"));
    a.send(&frame(mac(2), mac(3), "forged"));
    for vm in [&mut a, &mut b, &mut c, &mut d] {
        assert_eq!(vm.recv(SHORT), None);
    }
    let port = world.port("a-0");
    let drops: Vec<_> = port.drops.iter().map(|drop| (drop.reason.as_str(), drop.frames)).collect();
    assert_eq!((port.rx_frames, drops), (5, vec![("forged-mac", 1), ("unknown-unicast", 2)]));
    assert_eq!(world.port("b-0").tx_frames, 2);
    let Response::History(history) = world.ask(&Request::History) else { panic!("no history") };
    let drops: Vec<_> = history.drops.iter().map(|drop| (drop.port.as_str(), drop.reason.as_str())).collect();
    assert_eq!(drops, [("a-0", "forged-mac"), ("a-0", "unknown-unicast"), ("a-0", "unknown-unicast")]);
    assert_eq!(history.drops[0].head, frame(mac(2), mac(3), "forged"));
}

#[test]
fn large_segments_cross_as_one_frame() {
    let world = World::new();
    world.apply(&two_networks(&world));
    let (mut a, mut b) = (boot(&world, "a-0"), boot(&world, "b-0"));
    let segment = tcp4(mac(2), mac(1), [10, 0, 0, 1].into(), [10, 0, 0, 2].into(), &[0x5a; 65_000]);
    let header = [1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0, 0, 0];
    a.send_with(&header, &segment);
    let received = b.recv(PATIENCE).unwrap();
    assert_eq!((received.header[..10].to_vec(), received.frame), (header[..10].to_vec(), segment));
}

/// A QEMU without offloads on one side, a guest with all of them on the other: the switch does the work.
#[test]
fn large_segments_are_cut_for_those_who_cannot() {
    let world = World::new();
    let mut config = two_networks(&world);
    config.ports[1].kind = PortKind::UnixStream { socket: world.path("b-0"), connect: false };
    world.apply(&config);
    let mut a = boot(&world, "a-0");
    let mut b = UnixStream::connect(world.path("b-0")).unwrap();
    world.wait_until_up("b-0");
    let segment = tcp4(mac(2), mac(1), [10, 0, 0, 1].into(), [10, 0, 0, 2].into(), &[0x5a; 14_600]);
    a.send_with(&[1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0, 0, 0], &segment);
    for _ in 0..10 {
        let mut received = [0; 4 + 54 + 1460];
        b.read_exact(&mut received).unwrap();
        assert_eq!(received[..4], (54 + 1460u32).to_be_bytes());
        assert_eq!(received[58..], [0x5a; 1460]);
    }
}

#[test]
fn a_configuration_changes_only_the_difference() {
    let world = World::new();
    let mut config = two_networks(&world);
    world.apply(&config);
    let (mut a, mut b) = (boot(&world, "a-0"), boot(&world, "b-0"));
    a.send(&frame(mac(2), mac(1), "before"));
    b.recv(PATIENCE).unwrap();

    config.revision = 2;
    config.ports.remove(2); // c-0 goes
    config.ports[2].network = "left".parse().unwrap(); // d-0 moves
    config.ports.push(vhost_user(world.directory.path(), "e-0", "right", mac(5)));
    world.apply(&config);
    world.apply(&config); // once more changes nothing
    assert!(!world.path("c-0").exists() && world.path("e-0").exists());
    let port = world.port("a-0");
    assert_eq!((port.up, port.rx_frames), (true, 1), "what stays is not touched");
    let mut d = boot(&world, "d-0");
    a.send(&frame(mac(4), mac(1), "moved"));
    assert_eq!(d.recv(PATIENCE).unwrap().frame, frame(mac(4), mac(1), "moved"));

    config.revision = 1;
    let refusal = world.refused(&config);
    assert!(refusal.starts_with("Stale: revision 1 is older than 2"), "{refusal}");
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_nothing_changes() {
    let world = World::new();
    let good = two_networks(&world);
    world.apply(&good);
    let mut a = boot(&world, "a-0");
    let mut bad = good.clone();
    bad.revision = 2;
    bad.ports[1].macs = vec![mac(1)];
    bad.ports[2].network = "nowhere".parse().unwrap();
    bad.networks.push(network_with_gateway("office", 20));
    bad.networks[2].gateway.as_mut().unwrap().ip = [10, 99, 0, 1].into();
    bad.ports.push(port("x", "left", mac(8), PortKind::VhostUser { socket: world.path("a-0"), connect: false }));
    let refusal = world.refused(&bad);
    for part in ["BadConfig", "02:00:00:00:00:01", "`nowhere`", "10.99.0.1", "same socket", "/w.toml:7"] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }

    let mut unopenable = good.clone();
    unopenable.revision = 2;
    fs::write(world.path("file"), "precious").unwrap();
    let at = world.directory.path();
    unopenable.ports.push(vhost_user(at, "fine", "left", mac(6)));
    unopenable.ports.push(port("p", "left", mac(7), PortKind::VhostUser { socket: at.join("file"), connect: false }));
    unopenable.ports.push(port(
        "q",
        "left",
        mac(8),
        PortKind::UnixStream { socket: at.join("no/where"), connect: false },
    ));
    let refusal = world.refused(&unopenable);
    for part in ["PortFailed", "port `p` (/w.toml:7)", "is no socket", "port `q`", "cannot listen"] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    assert!(!world.path("fine").exists(), "a port that could be opened is closed again");
    assert_eq!(fs::read_to_string(world.path("file")).unwrap(), "precious");

    let status = world.status();
    assert_eq!((status.revision, status.ports.len()), (1, 4));
    let mut b = boot(&world, "b-0");
    a.send(&frame(mac(2), mac(1), "still the old one"));
    assert!(b.recv(PATIENCE).is_some());
}

#[test]
fn a_switch_that_starts_again_is_complete_without_a_daemon() {
    let mut world = World::new();
    world.apply(&two_networks(&world));
    let (mut a, mut b) = (boot(&world, "a-0"), boot(&world, "b-0"));
    a.send(&frame(mac(2), mac(1), "before"));
    b.recv(PATIENCE).unwrap();
    world.shut_down(false);
    assert!(!world.path("control").exists() && !world.path("a-0").exists());

    // What a kill leaves behind: sockets of nobody.
    drop(std::os::unix::net::UnixListener::bind(world.path("control")).unwrap());
    drop(std::os::unix::net::UnixListener::bind(world.path("a-0")).unwrap());
    world.start();
    assert_eq!(world.status().revision, 1);
    eventually("VMs come back", || a.reconnect().is_ok());
    b.reconnect().unwrap();
    world.wait_until_up("a-0");
    world.wait_until_up("b-0");
    a.send(&frame(mac(2), mac(1), "after"));
    assert_eq!(b.recv(PATIENCE).unwrap().frame, frame(mac(2), mac(1), "after"));

    world.shut_down(true);
    let left: Vec<_> = fs::read_dir(world.path("state")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["dataplane.lock"], "forgotten is forgotten");
}

#[test]
fn a_port_that_cannot_be_opened_at_a_start_does_not_keep_the_others() {
    let mut world = World::new();
    world.apply(&two_networks(&world));
    world.shut_down(false);
    fs::write(world.path("b-0"), "in the way").unwrap();
    world.start();
    let broken = world.port("b-0");
    assert!(!broken.up && broken.reason.as_ref().is_some_and(|why| why.contains("is no socket")), "{broken:?}");
    let mut a = boot(&world, "a-0");
    let mut c = boot(&world, "c-0");
    a.send(&frame(mac(3), mac(1), "works"));
    assert!(c.recv(PATIENCE).is_some());
    fs::remove_file(world.path("b-0")).unwrap();
    world.apply(&two_networks(&world)); // the daemon tries again
    boot(&world, "b-0");
}

#[test]
fn one_switch_per_state_folder() {
    let world = World::new();
    assert!(matches!(run(&world.options()), Err(DataplaneError::AlreadyRunning { .. })));
    assert!(world.path("control").exists(), "the first one's socket stays");
}

#[test]
fn a_damaged_snapshot_is_put_aside() {
    let mut world = World::new();
    world.apply(&two_networks(&world));
    world.shut_down(false);
    fs::write(world.path("state/dataplane.json"), "{ \"revision\": ").unwrap();
    world.start();
    let status = world.status();
    assert_eq!((status.revision, status.ports.len()), (0, 0));
    assert!(status.notes.iter().any(|note| note.contains("damaged")), "{:?}", status.notes);
    world.apply(&two_networks(&world));
}

#[test]
fn a_disk_that_refuses_refuses_the_configuration() {
    let world = World::new();
    fs::create_dir(world.path("state/dataplane.new")).unwrap(); // where the snapshot is written first
    let refusal = world.refused(&two_networks(&world));
    assert!(refusal.starts_with("DiskFailed"), "{refusal}");
    assert_eq!(world.status().ports.len(), 0);
    assert!(!world.path("a-0").exists());
    fs::remove_dir(world.path("state/dataplane.new")).unwrap();
    world.apply(&two_networks(&world));
}

#[test]
fn explain_says_what_would_happen_and_changes_nothing() {
    let world = World::new();
    world.apply(&two_networks(&world));
    let explain = |port: &str, frame: Vec<u8>| {
        world.ask(&Request::Explain(ExplainRequest { port: port.parse().unwrap(), frame }))
    };
    match explain("a-0", frame(mac(2), mac(1), "x")) {
        Response::Explained(explanation) => {
            assert_eq!(explanation.verdict, "forwarded to `b-0`");
            assert_eq!(explanation.egress, ["b-0".parse().unwrap()]);
            assert!(!explanation.steps.is_empty());
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(explain("a-0", vec![]), Response::Explained(_)));
    assert!(matches!(explain("z-9", frame(mac(2), mac(1), "x")), Response::Refused(_)));
    assert!(matches!(explain("a-0", vec![0; 70_000]), Response::Refused(_)));
    assert_eq!(world.port("a-0").drops, []);
}

#[test]
fn the_gateway_answers() {
    let world = World::new();
    let at = world.directory.path();
    world.apply(&DataplaneConfig {
        revision: 1,
        networks: vec![network_with_gateway("office", 20)],
        ports: vec![vhost_user(at, "a-0", "office", mac(1))],
        ..DataplaneConfig::default()
    });
    let mut a = boot(&world, "a-0");
    a.send(&arp_request(mac(1), [10, 20, 0, 100].into(), [10, 20, 0, 1].into()));
    let answer = a.recv(PATIENCE).unwrap().frame;
    assert_eq!((&answer[..6], &answer[6..12]), (&mac(1).octets()[..], &mac(254).octets()[..]));
    let gateway = world.port("office-gateway");
    assert_eq!((gateway.driver.as_str(), gateway.up, gateway.rx_frames, gateway.tx_frames), ("gateway", true, 1, 1));
}

#[test]
fn sockets_are_our_own_only() {
    let world = World::new();
    world.apply(&two_networks(&world));
    for name in ["control", "a-0"] {
        let meta = fs::metadata(world.path(name)).unwrap();
        assert!(meta.file_type().is_socket());
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(world.path("state")).unwrap().permissions().mode() & 0o777, 0o700);
}

/// Clients that break the protocol, or stop in the middle, keep neither the worker nor other clients.
#[test]
fn clients_that_misbehave() {
    let world = World::new();
    world.apply(&two_networks(&world));
    let (mut a, mut b) = (boot(&world, "a-0"), boot(&world, "b-0"));
    let mut half = UnixStream::connect(world.path("control")).unwrap();
    half.write_all(b"{\"request\":").unwrap();
    for nonsense in [&b"hello\n"[..], b"\n", b"{}\n", b"{\"request\":\"apply\",\"body\":{}}\n", &[0xff, 0xfe, b'\n']] {
        let mut client = UnixStream::connect(world.path("control")).unwrap();
        client.write_all(nonsense).unwrap();
        client.write_all(b"{\"request\":\"status\"}\n").unwrap();
        let mut answers = String::new();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        client.read_to_string(&mut answers).unwrap();
        let answers: Vec<_> = answers.lines().collect();
        assert!(answers[0].contains("bad-request") && answers[1].contains("\"status\""), "{answers:?}");
    }
    let deaf = UnixStream::connect(world.path("control")).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    while (&deaf).write_all(&b"{\"request\":\"status\"}\n".repeat(100)).is_ok() {}
    let crowd: Vec<_> = (0..10).map(|_| UnixStream::connect(world.path("control")).unwrap()).collect();

    a.send(&frame(mac(2), mac(1), "no one waits for them"));
    assert!(b.recv(PATIENCE).is_some());
    drop((half, deaf, crowd));
    eventually("others are served", || world.client().call(&Request::Status).is_ok());
}

/// An idle switch, VMs connected, uses no CPU: what this process spent is read, not how long it took.
#[test]
fn an_idle_switch_sleeps() {
    let world = World::new();
    world.apply(&two_networks(&world));
    let (mut a, mut b) = (boot(&world, "a-0"), boot(&world, "b-0"));
    for _ in 0..100 {
        a.send(&frame(mac(2), mac(1), "work"));
        b.recv(PATIENCE).unwrap();
    }
    let spent = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
    };
    // Other tests of this program may run at the same time: the best of some tries counts.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let before = spent();
        std::thread::sleep(Duration::from_millis(200));
        let used = spent() - before;
        if used < Duration::from_millis(4) {
            break;
        }
        assert!(Instant::now() < deadline, "an idle switch used {used:?} of 200 ms");
    }
    a.send(&frame(mac(2), mac(1), "and it wakes up"));
    assert!(b.recv(PATIENCE).is_some());
}
