//! What a real guest listens to, and what it gets of that.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use weft_testkit::{FakeVm, skipped};

use crate::bed::Bed;
use crate::machine::{GUEST_PATIENCE, Machine, micro};

const FILE: &str = "
[port.guest]
vhost = 'guest.sock'
mac = '02:00:00:00:00:01'
qmp = 'guest.filter'
allow = ['mac-change']

[port.peer]
vhost = 'peer.sock'
mac = '02:00:00:00:00:02'
";

/// The host 10.0.0.2, which answers echo requests to whoever sends them.
struct Echo {
    stop: Arc<AtomicBool>,
    work: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(socket: &Path) -> Self {
        let mut vm = FakeVm::boot(socket).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Some(received) = vm.recv(Duration::from_millis(20)) else { continue };
                let mut frame = received.frame;
                let is_request = frame.len() >= 42 && frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 8;
                if is_request {
                    let (to, from) = frame[..12].split_at_mut(6);
                    to.swap_with_slice(from);
                    let (source, destination) = frame[26..34].split_at_mut(4);
                    source.swap_with_slice(destination);
                    frame[34] = 0;
                    // RFC 1624: the type was in the upper half of a word of the sum.
                    let sum = u32::from(u16::from_be_bytes([frame[36], frame[37]])) + 0x800;
                    let sum = (sum & 0xffff) as u16 + (sum >> 16) as u16;
                    frame[36..38].copy_from_slice(&sum.to_be_bytes());
                    vm.send(&frame);
                }
            }
        });
        Self { stop, work: Some(work) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(work) = self.work.take() {
            let _ = work.join();
        }
    }
}

/// Waits until the guest's port shows something.
#[track_caller]
fn shows(bed: &Bed, what: &str, holds: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + GUEST_PATIENCE;
    loop {
        let port = bed.port("guest");
        if holds(&port) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {port}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn joins(port: &Value, group: &str) -> bool {
    port["listens"]["groups"].as_array().is_some_and(|groups| groups.contains(&group.into()))
}

fn denied(port: &Value, reason: &str) -> u64 {
    let denials = port["denials"].as_array().unwrap();
    denials.iter().find(|denial| denial["reason"] == reason).map_or(0, |denial| denial["frames"].as_u64().unwrap())
}

#[test]
fn a_guest_hears_what_it_listens_to() {
    if let Err(why) = micro() {
        return skipped("a_guest_hears_what_it_listens_to", &why);
    }
    let mut bed = Bed::run(FILE);
    let folder = bed.path(".");
    let peer = Echo::start(&bed.path("peer.sock"));
    let monitor = ["-qmp", "unix:guest.filter,server=on,wait=off"];
    let mut guest = Machine::start(&folder, "guest", 1, "path=guest.sock,reconnect=1", &monitor);
    guest.boot("10.0.0.1");
    guest.run("arp -s 10.0.0.2 02:00:00:00:00:02");
    let can_ping =
        |guest: &mut Machine| guest.run("ping -c 1 -W 3 10.0.0.2 >/dev/null && echo heard || true") == "heard";
    assert!(can_ping(&mut guest));

    // Groups, as the guest joins and leaves them.
    shows(&bed, "its address", |port| port["listens"]["stations"] == json!(["02:00:00:00:00:01"]));
    shows(&bed, "the group of all hosts", |port| joins(port, "01:00:5e:00:00:01"));
    assert_eq!(bed.port("guest")["listens"]["all_multicast"], false);
    guest.run("ip addr add fd00::77:1234/64 dev eth0");
    shows(&bed, "a group of its new address", |port| joins(port, "33:33:ff:77:12:34"));
    guest.run("ip addr del fd00::77:1234/64 dev eth0");
    shows(&bed, "it left the group", |port| !joins(port, "33:33:ff:77:12:34"));

    // Another address, which it may take.
    guest.run("ip link set dev eth0 address 02:00:00:00:00:99");
    shows(&bed, "its new address", |port| port["listens"]["stations"] == json!(["02:00:00:00:00:99"]));
    guest.run("arp -s 10.0.0.2 02:00:00:00:00:02");
    assert!(can_ping(&mut guest), "it sends from it, and what is for it comes");
    assert_eq!(bed.port("guest")["denials"], json!([]));

    // A new switch is told what the old one knew.
    bed.end(Signal::KILL);
    bed.start();
    shows(&bed, "the same", |port| port["listens"]["stations"] == json!(["02:00:00:00:00:99"]));
    drop(peer);
    let _peer = Echo::start(&bed.path("peer.sock"));

    // What it may not: the addresses of others, and, with another file, any but its own.
    guest.run("ip link set dev eth0 address 02:00:00:00:00:02");
    shows(&bed, "another's address", |port| denied(port, "mac-change") == 1);
    bed.edit(&FILE.replace("allow = ['mac-change']", ""));
    bed.hears("took up");
    guest.run("ip link set dev eth0 address 02:00:00:00:00:98");
    shows(&bed, "a denial", |port| denied(port, "mac-change") == 2 && port["listens"]["stations"] == json!([]));
    guest.run("arp -s 10.0.0.2 02:00:00:00:00:02");
    assert!(!can_ping(&mut guest));
    let drops = bed.port("guest")["drops"].clone();
    assert!(drops.as_array().unwrap().iter().any(|drop| drop["reason"] == "forged-mac"), "{drops}");
    guest.run("ip link set dev eth0 promisc on");
    shows(&bed, "it may not hear everything", |port| denied(port, "promiscuous") == 1);
    assert_eq!(bed.port("guest")["listens"]["promiscuous"], false);

    // With its own address all is well, and what was asked for once was counted once.
    guest.run("ip link set dev eth0 promisc off; ip link set dev eth0 address 02:00:00:00:00:01");
    shows(&bed, "its own again", |port| port["listens"]["stations"] == json!(["02:00:00:00:00:01"]));
    guest.run("arp -s 10.0.0.2 02:00:00:00:00:02");
    assert!(can_ping(&mut guest));
    drop(guest);
    shows(&bed, "nothing is known of a machine that ended", |port| port["listens"].is_null());
}
