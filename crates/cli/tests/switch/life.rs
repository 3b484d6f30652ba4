//! A switch's life: edited, told, killed and ended, with virtual machines on it that are none.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread;
use std::time::{Duration, Instant};

use expect_test::expect;
use rustix::fs::SealFlags;
use rustix::process::Signal;
use weft_testkit::{FakeVm, MEMORY_BYTES, VM_FEATURES, ethernet, guest_memory, mac};

use crate::bed::{Bed, PATIENCE, eventually};

const TWO: &str = "
[switch]
name = 'lab'

[port.a]
vhost = 'a.sock'
mac = '02:00:00:00:00:01'

[port.b]
vhost = 'b.sock'
mac = '02:00:00:00:00:02'
";

const THIRD: &str = "
[port.c]
stream = 'c.sock'
mac = '02:00:00:00:00:03'
";

fn vms(bed: &Bed) -> [FakeVm; 2] {
    let vms = ["a", "b"].map(|name| FakeVm::boot(&bed.path(&format!("{name}.sock"))).unwrap());
    for name in ["a", "b"] {
        bed.wait_until_up(name);
    }
    vms
}

/// A frame from `a` to `b` that says its number.
fn numbered(number: u32) -> Vec<u8> {
    ethernet(mac(2), mac(1), 0x88b5, &[&number.to_be_bytes()[..], &[0; 46]].concat())
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

#[test]
fn frames_counters_and_the_end() {
    let mut bed = Bed::run(TWO);
    let [mut a, mut b] = vms(&bed);
    a.send(&numbered(7));
    assert_eq!(number(&b.recv(PATIENCE).unwrap().frame), 7);
    a.send(&ethernet(mac(2), mac(9), 0x88b5, &[0; 46])); // not the address of `a`
    eventually("the drop is counted", || bed.port("a")["drops"][0]["reason"] == "forged-mac");
    assert_eq!((bed.port("a")["rx_frames"].as_u64(), bed.port("b")["tx_frames"].as_u64()), (Some(2), Some(1)));
    expect![[r#"
        exit 0
        PORT  NETWORK  DRIVER      STATE  IN         OUT       DROPPED
        a     lab      vhost-user  up     2 (124 B)  0 (0 B)   1
        b     lab      vhost-user  up     0 (0 B)    1 (64 B)  0
    "#]]
    .assert_eq(&bed.said(&["switch", "show", "lab.toml"]));
    assert!(bed.said(&["switch", "run", "lab.toml"]).contains("another switch process runs"));
    for signal in [Signal::TERM, Signal::INT] {
        assert!(bed.end(signal).success());
        assert!(!bed.path("a.sock").exists() && !bed.path("b.sock").exists() && bed.leftovers() == 0);
        expect![[r#"
            exit 1
            error: no switch runs from lab.toml
            hint: `weft switch run lab.toml` starts it
        "#]]
        .assert_eq(&bed.said(&["switch", "show", "lab.toml"]));
        bed.start();
    }
}

#[test]
fn an_edit_touches_only_what_it_changes() {
    let mut bed = Bed::run(TWO);
    let [mut a, mut b] = vms(&bed);
    let mut arrived = 0;
    let mut pass = |count: u32| {
        for number_sent in arrived..arrived + count {
            a.send(&numbered(number_sent));
            assert_eq!(number(&b.recv(PATIENCE).expect("no frame is lost").frame), number_sent);
        }
        arrived += count;
    };
    pass(10);
    bed.edit(&format!("{TWO}{THIRD}"));
    pass(500); // while it changes
    bed.hears("took up lab.toml: 3 ports");
    let mut c = UnixStream::connect(bed.path("c.sock")).unwrap();
    bed.wait_until_up("c");
    c.set_read_timeout(Some(PATIENCE)).unwrap();
    let hello = ethernet(mac(2), mac(3), 0x88b5, &[3; 50]);
    c.write_all(&[&(hello.len() as u32).to_be_bytes()[..], &hello].concat()).unwrap();
    eventually("it is counted", || bed.port("c")["rx_frames"] == 1);

    bed.edit(&format!("{TWO}{THIRD}\n[port.d]\nvhost = 'a.sock'\n"));
    let said = bed.hears("goes on as it was");
    assert!(said.contains("lab.toml:18:9") && said.contains("port `a` has the socket"), "{said}");
    assert_eq!(bed.port("c")["up"], true);
    bed.edit(TWO);
    bed.hears("took up lab.toml: 2 ports");
    assert_eq!(c.read(&mut [0]).unwrap(), 0, "the port is gone");
    assert!(!bed.path("c.sock").exists());
    bed.signal(Signal::HUP);
    bed.hears("took up lab.toml: 2 ports");
    assert_eq!(number(&b.recv(PATIENCE).unwrap().frame) >> 24, 3, "what `c` sent");
}

/// Becomes true at the end of a scope, however it ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Two hosts have the same address in two VLANs, and each edit moves the port that sends to the other VLAN, while it sends
/// as fast as it can. Each frame arrives once, in order, where the configuration of that moment says.
#[test]
fn a_swap_under_full_load_loses_nothing_and_misdelivers_nothing() {
    const SWAPS: usize = 24;
    /// Frames on their way at most: less than a receiver has buffers for, so that each loss is the switch's.
    const WINDOW: u32 = 128;
    let file = |swap: usize| {
        let port = |name: &str, last: u8, vlan: usize| {
            format!("[port.{name}]\nvhost = '{name}.sock'\nmac = '{}'\nvlan = {vlan}\n", mac(last))
        };
        // Something comes and goes, too.
        let more = if swap.is_multiple_of(3) { THIRD } else { "" };
        let rules = (0..swap % 4 * 50).map(|rule| format!("'deny any -> 10.9.0.{rule} tcp/22', ")).collect::<String>();
        let ports = [port("a", 1, 10 * (1 + swap % 2)), port("b", 2, 10), port("c2", 2, 20)].concat();
        format!("[switch]\nname = 'lab'\nrules = [{rules}]\n{ports}{more}")
    };
    let mut bed = Bed::run(&file(0));
    let [mut a, b, c] = ["a", "b", "c2"].map(|name| FakeVm::boot(&bed.path(&format!("{name}.sock"))).unwrap());
    for name in ["a", "b", "c2"] {
        bed.wait_until_up(name);
    }
    let (is_over, arrived) = (AtomicBool::new(false), AtomicU32::new(0));
    let (sent, heard) = thread::scope(|scope| {
        let over = SetOnDrop(&is_over); // also when something fails, or the threads would go on
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !is_over.load(Relaxed) {
                let full_since = Instant::now();
                while sent - arrived.load(Relaxed) >= WINDOW {
                    assert!(full_since.elapsed() < PATIENCE, "of {sent} frames only {arrived:?} arrived");
                    thread::sleep(Duration::from_micros(50));
                }
                a.send(&numbered(sent));
                sent += 1;
            }
            sent
        });
        let receivers = [b, c].map(|mut vm| {
            let (is_over, arrived) = (&is_over, &arrived);
            scope.spawn(move || {
                let mut heard = Vec::new();
                loop {
                    match vm.recv(Duration::from_millis(500)) {
                        Some(received) => heard.push(number(&received.frame)),
                        None if is_over.load(Relaxed) => return heard,
                        None => continue,
                    }
                    arrived.fetch_add(1, Relaxed);
                }
            })
        });
        for swap in 1..=SWAPS {
            let before = arrived.load(Relaxed);
            eventually("frames pass", || arrived.load(Relaxed) > before + 500);
            bed.edit(&file(swap));
            bed.hears("took up");
            if swap.is_multiple_of(4) {
                bed.signal(Signal::HUP);
                bed.hears("took up");
            }
        }
        let before = arrived.load(Relaxed);
        eventually("frames pass", || arrived.load(Relaxed) > before + 500);
        drop(over);
        (sender.join().unwrap(), receivers.map(|receiver| receiver.join().unwrap()))
    });
    let mut arrivals = Vec::new();
    for (receiver, numbers) in heard.iter().enumerate() {
        assert!(numbers.is_sorted_by(|one, next| one < next), "in order and once");
        arrivals.extend(numbers.iter().map(|number| (*number, receiver)));
    }
    arrivals.sort_unstable();
    assert!(arrivals.iter().map(|(number, _)| *number).eq(0..sent), "{} of {sent} frames arrived", arrivals.len());
    let moves = arrivals.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
    eprintln!("{sent} frames, {SWAPS} swaps");
    assert_eq!((arrivals[0].1, moves), (0, SWAPS), "each swap holds from one frame on, and for all that follow");
}

/// Frames are numbered and sent all the time; the switch is killed in between, again and again. What arrives
/// arrives in order and once, and VMs are served again within two seconds.
#[test]
fn a_switch_that_is_killed_goes_on_where_it_was() {
    let mut bed = Bed::run(TWO);
    let [mut a, mut b] = vms(&bed);
    let (mut sent, mut last) = (0, None);
    for _ in 0..5 {
        for _ in 0..100 {
            a.send(&numbered(sent));
            sent += 1;
        }
        bed.end(Signal::KILL);
        let killed = Instant::now();
        bed.start();
        eventually("a comes back", || a.reconnect().is_ok());
        eventually("b comes back", || b.reconnect().is_ok());
        a.send(&numbered(sent));
        sent += 1;
        loop {
            let arrived = number(&b.recv(PATIENCE).expect("the newest arrives").frame);
            assert!(last.is_none_or(|last| arrived > last), "{arrived} after {last:?}");
            last = Some(arrived);
            if arrived == sent - 1 {
                break;
            }
        }
        assert!(killed.elapsed() < Duration::from_secs(2), "it took {:?}", killed.elapsed());
    }
}

#[test]
fn a_peer_that_breaks_its_rings_ends_its_own_port_only() {
    let bed = Bed::run(&format!("{TWO}{THIRD}"));
    let [mut a, mut b] = vms(&bed);
    for _ in 0..3 {
        a.jump_tx(40_000);
        assert!(a.link().was_hung_up());
        assert_eq!(bed.port("b")["up"], true);
        assert!(bed.port("a")["reason"].as_str().unwrap().contains("jumped"));
        a = FakeVm::boot(&bed.path("a.sock")).unwrap();
        bed.wait_until_up("a");
        a.send(&numbered(1));
        assert_eq!(number(&b.recv(PATIENCE).unwrap().frame), 1);
    }
}

/// A guest that writes another sender into a frame while it is looked at gains nothing: what was decided on is what goes.
#[test]
fn a_header_that_changes_after_it_was_read() {
    const BUFFER: u64 = 0x70_0000;
    const SENDER: u64 = BUFFER + 12 + 11; // the last byte of its address, behind a virtio-net header
    let bed = Bed::run(TWO);
    let memory = guest_memory(MEMORY_BYTES, SealFlags::SHRINK);
    let flipped = memory.try_clone().unwrap();
    let mut a = FakeVm::boot_in(&bed.path("a.sock"), VM_FEATURES, memory).unwrap();
    let mut b = FakeVm::boot(&bed.path("b.sock")).unwrap();
    for name in ["a", "b"] {
        bed.wait_until_up(name);
    }
    a.write(BUFFER, &[&[0; 12][..], &numbered(0)].concat());
    a.write_tx_descriptor(0, BUFFER, 12 + 64, 0, 0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                for last in [9, 1] {
                    flipped.write_all_at(&[last], SENDER).unwrap();
                }
            }
        });
        let mut heard = 0;
        for round in 1..=3000u16 {
            a.offer_tx(0);
            eventually("it is looked at", || a.given_back() == round);
            while let Some(received) = b.recv(Duration::ZERO) {
                assert_eq!(received.frame[6..12], [2, 0, 0, 0, 0, 1], "a forged sender is heard");
                heard += 1;
            }
        }
        stop.store(true, Relaxed);
        let denied = bed.port("a")["drops"][0]["frames"].as_u64().unwrap();
        assert!(heard > 0 && denied > 0 && heard + denied >= 2999, "{heard} heard, {denied} denied");
    });
}

#[test]
fn a_file_with_mistakes_starts_nothing() {
    let bed = Bed::new("[port.a]\nvhost = 'a.sock'\n");
    expect![[r#"
        exit 2
        error: port `a` has no MAC address, so nothing would ever be sent to it
         --> lab.toml:1:7
          |
        1 | [port.a]
          |       ^
        hint: write `mac = "…"`, the address of the adapter behind it; a switch does not guess
    "#]]
    .assert_eq(&bed.said(&["switch", "run", "lab.toml"]));
    bed.edit("[port.a]\nvhost = 'no/where/a.sock'\nmac = '02:00:00:00:00:01'\n");
    expect![[r#"
        exit 1
        error: port `a` (LAB/lab.toml:1): cannot listen at `LAB/no/where/a.sock`: No such file or directory (os error 2)
        hint: check that the folder exists, is yours, and is on a disk that is not full
    "#]]
    .assert_eq(&bed.said(&["switch", "run", "lab.toml"]));
    assert_eq!(bed.leftovers(), 0);
}
