//! A guest of somebody else's QEMU that moves to another one, of the same switch or of another, while frames go.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use weft_testkit::{FakeVm, Guest, mac, skipped, tcp};

use crate::bed::Bed;
use crate::machine::{GUEST_PATIENCE, Machine, micro};

const FILE: &str = "
[switch]
mtu = 9000

[port.guest]
vhost = 'guest.sock'
mac = '02:00:00:00:00:01'

[port.peer]
vhost = 'peer.sock'
mac = '02:00:00:00:00:02'
";

/// Mergeable buffers, protocol features and virtio 1, but nothing that a small stack does not do.
const PLAIN_FEATURES: u64 = 1 << 15 | 1 << 30 | 1 << 32;

/// Frames take several of the guest's buffers: some of its pages have nothing in them but what the switch wrote.
const MTU: u16 = 9000;

const BYTES_PER_SECOND: u64 = 3 << 20;

/// What one looks for in reverse ARP.
const RARP: [u8; 2] = [0x80, 0x35];

/// The host 10.0.0.2, which sends numbers that do not repeat to whoever connects to its port 5000.
struct Station {
    sent: Arc<AtomicUsize>,
    announcements: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    work: JoinHandle<Vec<u8>>,
}

impl Station {
    fn start(socket: &Path) -> Self {
        let vm = FakeVm::boot_with(socket, PLAIN_FEATURES).unwrap();
        let (sent, announcements, stop) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
        let (count, heard, stopped) = (sent.clone(), announcements.clone(), stop.clone());
        let work = std::thread::spawn(move || send(vm, &count, &heard, &stopped));
        Self { sent, announcements, stop, work }
    }

    /// Waits until it has sent so much more.
    fn sends_more(&self, bytes: usize) {
        let goal = self.sent.load(Ordering::Relaxed) + bytes;
        let deadline = Instant::now() + GUEST_PATIENCE;
        while self.sent.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < deadline && !self.work.is_finished(), "the guest takes nothing");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the guest takes no more.
    fn stalls(&self) {
        let mut before = usize::MAX;
        while std::mem::replace(&mut before, self.sent.load(Ordering::Relaxed)) != before {
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Ends the connection; all that was sent.
    fn finish(self) -> Vec<u8> {
        self.stop.store(true, Ordering::Relaxed);
        self.work.join().unwrap()
    }
}

fn send(mut vm: FakeVm, count: &AtomicUsize, heard: &AtomicUsize, stopped: &AtomicBool) -> Vec<u8> {
    let mut stack = Guest::new(mac(2), [10, 0, 0, 2].into(), (mac(1), [10, 0, 0, 1].into()), MTU);
    let socket = stack.listen(5000, 256 << 10);
    let (began, mut first) = (Instant::now(), None);
    let (mut sent, mut number) = (Vec::new(), 1u64);
    loop {
        let now = weft_types::Instant::from_nanos(began.elapsed().as_nanos() as u64);
        while let Some(received) = vm.recv(Duration::from_millis(1)) {
            heard.fetch_add(usize::from(received.frame[12..14] == RARP), Ordering::Relaxed);
            stack.receive(&received.frame, Default::default());
        }
        stack.poll(now);
        let tcp = stack.tcp(socket);
        if tcp.may_send() {
            let due = first.get_or_insert_with(Instant::now).elapsed().as_millis() as u64 * BYTES_PER_SECOND / 1000;
            while !stopped.load(Ordering::Relaxed)
                && (sent.len() as u64) < due
                && tcp.send_capacity() - tcp.send_queue() >= 8
            {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                tcp.send_slice(&number.to_le_bytes()).unwrap();
                sent.extend_from_slice(&number.to_le_bytes());
            }
            count.store(sent.len(), Ordering::Relaxed);
            if stopped.load(Ordering::Relaxed) {
                tcp.close();
            }
        }
        // The guest has all, and knows that there is no more.
        if first.is_some() && matches!(tcp.state(), tcp::State::FinWait2 | tcp::State::TimeWait | tcp::State::Closed) {
            return sent;
        }
        stack.poll(now);
        while let Some(frame) = stack.transmit() {
            vm.send(&frame);
        }
    }
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// Two QEMUs, one after the other, at the same socket, started by the same words.
#[test]
fn a_guest_migrates_while_it_receives() {
    if let Err(why) = micro() {
        return skipped("a_guest_migrates_while_it_receives", &why);
    }
    let bed = Bed::run(FILE);
    let folder = bed.path(".");
    let station = Station::start(&bed.path("peer.sock"));
    let plug = "path=guest.sock,reconnect=1";
    let mut source = Machine::start(&folder, "source", 1, plug, &[]);
    source.boot("10.0.0.1");
    source.run(&format!("ip link set dev eth0 mtu {MTU}"));
    source.run("arp -s 10.0.0.2 02:00:00:00:00:02");
    source.run("(nc 10.0.0.2 5000 </dev/null >/dev/shm/got; echo >/dev/shm/end) & true");
    station.sends_more(4 << 20);

    let mut destination = Machine::start(&folder, "destination", 1, plug, &["-incoming", "unix:move.sock"]);
    while !bed.path("move.sock").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(bed.port("guest")["up"], true, "the one that waits takes nothing from the one that runs");

    // All of the memory is copied once, and from then on what changes, in a time without end.
    let limits =
        |bytes_per_s: u64, downtime_ms: u32| json!({ "max-bandwidth": bytes_per_s, "downtime-limit": downtime_ms });
    source.qmp("migrate-set-parameters", limits(40 << 20, 1));
    source.qmp("migrate", json!({ "uri": "unix:move.sock" }));
    source.wait_until("the second round", |source| {
        source.qmp("query-migrate", json!({}))["ram"]["dirty-sync-count"].as_u64() > Some(1)
    });
    source.qmp("migrate-set-parameters", limits(1 << 20, 1));
    // Nobody in the guest touches the frames: they are where the switch wrote them, and nobody else knows of it.
    source.run("kill -STOP $(pidof nc)");
    station.stalls();
    source.qmp("migrate-set-parameters", limits(1 << 30, 300));
    destination.wait_until("it runs here", |it| it.qmp("query-status", json!({}))["status"] == "running");
    destination.run("kill -CONT $(pidof nc)");
    station.sends_more(1 << 20);
    drop(source);
    station.sends_more(1 << 20);
    assert!(station.announcements.load(Ordering::Relaxed) > 0, "the network hears where the guest is now");

    let sent = station.finish();
    std::fs::write(bed.path("sent"), &sent).unwrap();
    destination.run("until [ -e /dev/shm/end ]; do sleep 0.1; done");
    let said = destination.run("sha256sum </dev/shm/got; wc -c </dev/shm/got");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), [&sha256(&bed.path("sent")), "-", &sent.len().to_string()]);
}

/// A switch of its own on each host, which an uplink joins; both have the guest's port.
fn joined(near: &str, far: &str, more: &str) -> String {
    format!(
        "[switch]\nmtu = 9000\n[port.cable]\nudp = '{near}:4000'\npeer = '{far}:4000'\nuplink = true\n\
         [port.guest]\nvhost = 'guest.sock'\nmac = '02:00:00:00:00:01'\n{more}"
    )
}

/// As `examples/switch/qemu.toml` says it: where the guest was, its port goes when it has gone.
#[test]
fn a_guest_migrates_to_another_switch() {
    if let Err(why) = micro() {
        return skipped("a_guest_migrates_to_another_switch", &why);
    }
    let peer = "[port.peer]\nvhost = 'peer.sock'\nmac = '02:00:00:00:00:02'\n";
    // Addresses of this process's own, so that tests beside each other do not meet.
    let pid = std::process::id();
    let [near, far] = [1, 2].map(|last| format!("127.{}.{}.{last}", 64 + (pid >> 8) % 128, pid & 0xff));
    let (mut here, there) = (Bed::run(&joined(&near, &far, peer)), Bed::run(&joined(&far, &near, "")));
    let station = Station::start(&here.path("peer.sock"));
    let plug = "path=guest.sock,reconnect=1";
    let mut source = Machine::start(&here.path("."), "source", 1, plug, &[]);
    source.boot("10.0.0.1");
    source.run(&format!("ip link set dev eth0 mtu {MTU}"));
    source.run("arp -s 10.0.0.2 02:00:00:00:00:02");
    source.run("(nc 10.0.0.2 5000 </dev/null >/dev/shm/got; echo >/dev/shm/end) & true");
    station.sends_more(1 << 20);

    let incoming = format!("unix:{}", there.path("move.sock").display());
    let mut destination = Machine::start(&there.path("."), "destination", 1, plug, &["-incoming", &incoming]);
    while !there.path("move.sock").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    source.qmp("migrate-set-parameters", json!({ "max-bandwidth": 1u64 << 30, "downtime-limit": 300 }));
    source.qmp("migrate", json!({ "uri": incoming }));
    destination.wait_until("it runs there", |it| it.qmp("query-status", json!({}))["status"] == "running");
    here.edit(
        &joined(&near, &far, peer).replace("[port.guest]\nvhost = 'guest.sock'\nmac = '02:00:00:00:00:01'\n", ""),
    );
    here.hears("took up");
    station.sends_more(1 << 20);
    drop(source);
    station.sends_more(1 << 20);
    assert!(station.announcements.load(Ordering::Relaxed) > 0, "the network hears where the guest is now");
    assert!(there.port("guest")["tx_frames"].as_u64() > Some(0) && there.port("cable")["rx_frames"].as_u64() > Some(0));

    let sent = station.finish();
    std::fs::write(there.path("sent"), &sent).unwrap();
    destination.run("until [ -e /dev/shm/end ]; do sleep 0.1; done");
    let said = destination.run("sha256sum </dev/shm/got; wc -c </dev/shm/got");
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        [&sha256(&there.path("sent")), "-", &sent.len().to_string()]
    );
}
