//! Two VMMs at one vhost-user port, and the log of what is written: a guest that migrates, and what could go wrong.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::fs::SealFlags;
use weft_port::Link;
use weft_testkit::{FakeVm, MEMORY_BYTES, Request, VmmLink, ethernet, event, guest_memory, mac};

use crate::cable::{Cable, PATIENCE};

/// A bit for each page.
const LOG_BYTES: u64 = MEMORY_BYTES / 4096 / 8;

fn passes(from: &mut FakeVm, to: &mut FakeVm, words: &str) {
    from.send(&ethernet(mac(2), mac(1), 0x88b5, &[words.as_bytes(), &[0; 46]].concat()));
    let frame = to.recv(PATIENCE).expect(words).frame;
    assert_eq!(&frame[14..14 + words.len()], words.as_bytes());
}

fn log() -> File {
    guest_memory(LOG_BYTES, SealFlags::empty())
}

#[test]
fn a_guest_that_moves_to_another_vmm() {
    let cable = Cable::new();
    let (mut source, mut peer) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    passes(&mut source, &mut peer, "before");
    let mut early = VmmLink::connect(&cable.socket("a")).unwrap();
    assert!(early.ask(Request::GetFeatures, &[]).is_ok(), "who waits is served");
    passes(&mut source, &mut peer, "while somebody waits");
    drop(early);
    passes(&mut source, &mut peer, "when nobody waits any more");

    source.stop().unwrap();
    let mut destination = FakeVm::boot(&cable.socket("a")).unwrap();
    passes(&mut destination, &mut peer, "from the other side");
    destination.link().order(Request::SendRarp, &[2, 0, 0, 0, 0, 1, 0, 0], &[]).unwrap();
    let heard = peer.recv(PATIENCE).expect("an announcement").frame;
    assert_eq!((&heard[..6], &heard[6..14], heard.len()), (&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 0x80, 0x35][..], 60));
    source.hang_up();
    passes(&mut destination, &mut peer, "when the source is gone");

    // A guest that could not move goes on where it was.
    destination.stop().unwrap();
    let mut back = FakeVm::boot(&cable.socket("a")).unwrap();
    passes(&mut back, &mut peer, "back again");
}

#[test]
fn two_guests_at_one_port() {
    let cable = Cable::new();
    let (mut first, mut peer) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    for _ in 0..3 {
        if let Ok(mut second) = FakeVm::boot(&cable.socket("a")) {
            assert!(second.link().was_hung_up(), "its guest has no port");
        }
        passes(&mut first, &mut peer, "undisturbed");
    }
    first.jump_tx(40_000);
    assert!(first.link().was_hung_up());
    passes(&mut FakeVm::boot(&cable.socket("a")).unwrap(), &mut peer, "the next one");
}

#[test]
fn what_is_written_is_noted() {
    let cable = Cable::new();
    let (mut a, mut b) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    let log = log();
    b.log_to(&log, LOG_BYTES).unwrap();
    let marked = || {
        let mut bits = vec![0; LOG_BYTES as usize];
        log.read_exact_at(&mut bits, 0).unwrap();
        bits.iter().map(|byte| byte.count_ones()).sum::<u32>()
    };
    assert_eq!(marked(), 0);
    passes(&mut a, &mut b, "noted");
    assert_eq!(marked(), 1, "the buffer; its ring is not to be noted");
    log.write_all_at(&[0xaa; LOG_BYTES as usize], 0).unwrap(); // theirs to change
    passes(&mut a, &mut b, "noted again");
}

#[test]
fn logs_that_cannot_be_used() {
    let cable = Cable::new();
    let mut bystander = FakeVm::boot(&cable.socket("b")).unwrap();
    type Breakage = fn(&mut FakeVm);
    let cases: [(&str, &str, Breakage); 5] = [
        ("too short", "too short", |vm| drop(vm.log_to(&log(), LOG_BYTES - 1))),
        ("shorter than it says", "ends at", |vm| drop(vm.log_to(&log(), LOG_BYTES + 1))),
        ("behind the end of everything", "", |vm| {
            let body = [LOG_BYTES.to_le_bytes(), u64::MAX.to_le_bytes()].concat();
            vm.link().tell(Request::SetLogBase, &body, &[log().as_fd()]).unwrap();
        }),
        ("no file", "", |vm| {
            let body = [LOG_BYTES.to_le_bytes(), [0; 8]].concat();
            vm.link().tell(Request::SetLogBase, &body, &[event().as_fd()]).unwrap();
        }),
        ("not there", "descriptors", |vm| {
            let body = [LOG_BYTES.to_le_bytes(), [0; 8]].concat();
            vm.link().tell(Request::SetLogBase, &body, &[]).unwrap();
        }),
    ];
    for (what, reason, breakage) in cases {
        let mut vm = FakeVm::boot(&cable.socket("a")).unwrap();
        breakage(&mut vm);
        assert!(vm.link().was_hung_up(), "{what}");
        cable.wait(what, |seen| matches!(&seen.links[0], Some(Link::Down(why)) if why.contains(reason)));
        passes(&mut FakeVm::boot(&cable.socket("a")).unwrap(), &mut bystander, what);
    }
}

/// The log's bytes are gone, and with them the port that was to write them.
#[test]
fn a_log_that_is_cut_off() {
    let cable = Cable::new();
    let (mut a, mut b) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    let log = log();
    b.log_to(&log, LOG_BYTES).unwrap();
    log.set_len(0).unwrap();
    a.send(&ethernet(mac(2), mac(1), 0x88b5, &[0; 50]));
    assert!(b.link().was_hung_up());
    cable.wait("why", |seen| matches!(&seen.links[1], Some(Link::Down(why)) if why.contains("memory away")));
    let mut b = FakeVm::boot(&cable.socket("b")).unwrap();
    assert!(b.recv(Duration::ZERO).is_none());
    passes(&mut a, &mut b, "both are well");
}
