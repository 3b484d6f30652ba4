//! Two virtual machines that are none, on two real vhost-user ports, and a worker that joins the ports.

mod cable;
mod migration;

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SealFlags;
use weft_port::{Link, Port, Side, VhostUserPort};
use weft_testkit::{
    FakeVm, MEMORY_BYTES, Request, VM_FEATURES, VMM_ADDRESS, VmmLink, ethernet, event, guest_memory, mac, tcp4,
};

use crate::cable::{Cable, PATIENCE};

#[test]
fn small_frames_and_64_kib_segments_cross_as_they_are() {
    let cable = Cable::new();
    let (mut a, mut b) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    cable.wait("both are up", |seen| seen.links == [Some(Link::Up), Some(Link::Up)]);
    for round in 0..600u32 {
        let frame = ethernet(mac(2), mac(1), 0x88b5, &[&round.to_be_bytes()[..], &[7; 46]].concat());
        a.send(&frame);
        let received = b.recv(PATIENCE).expect("it arrives");
        assert_eq!((received.frame, received.header[0], received.header[10]), (frame, 0, 1), "round {round}");
    }
    let payload: Vec<u8> = (0..65_000u32).map(|i| (i * 31 / 8) as u8).collect();
    let segment = tcp4(mac(1), mac(2), [10, 0, 0, 2].into(), [10, 0, 0, 1].into(), &payload);
    let header = [1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0, 0, 0]; // NEEDS_CSUM, TCPV4, segments of 1460
    for _ in 0..40 {
        b.send_with(&header, &segment);
        let received = a.recv(PATIENCE).expect("it arrives");
        assert_eq!(received.frame, segment);
        assert_eq!(received.header[..10], header[..10]);
        assert!(received.header[10] > 1, "it needs many buffers");
    }
    assert_eq!(cable.seen().malformed, [0, 0]);
}

#[test]
fn without_mergeable_buffers_what_does_not_fit_is_refused_and_the_rest_goes_on() {
    let cable = Cable::new();
    let mut a = FakeVm::boot(&cable.socket("a")).unwrap();
    let mut b = FakeVm::boot_with(&cable.socket("b"), VM_FEATURES & !(1 << 15)).unwrap();
    a.send(&ethernet(mac(2), mac(1), 0x88b5, &[1; 9000]));
    a.send(&ethernet(mac(2), mac(1), 0x88b5, &[2; 100]));
    assert_eq!(b.recv(PATIENCE).expect("the small one").frame[14], 2);
}

#[test]
fn a_receiver_that_sleeps_loses_frames_and_nothing_else() {
    let cable = Cable::new();
    let (mut a, mut b) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    for round in 0..400u16 {
        a.send(&ethernet(mac(2), mac(1), 0x88b5, &[&round.to_be_bytes()[..], &[0; 60]].concat()));
    }
    cable.wait("the rest is counted", |seen| seen.full == 400 - 256);
    for round in 0..256u16 {
        assert_eq!(b.recv(PATIENCE).unwrap().frame[14..16], round.to_be_bytes());
    }
    a.send(&ethernet(mac(2), mac(1), 0x88b5, b"once more, with room"));
    assert!(b.recv(PATIENCE).is_some());
}

#[test]
fn a_vmm_that_comes_back_goes_on_in_order() {
    let cable = Cable::new();
    let (mut a, mut b) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    for round in 0..20u8 {
        a.send(&ethernet(mac(2), mac(1), 0x88b5, &[round; 50]));
        assert_eq!(b.recv(PATIENCE).expect("it arrives").frame[14], round);
        let vm = if round % 2 == 0 { &mut a } else { &mut b };
        vm.hang_up();
        vm.reconnect().unwrap();
    }
    a.hang_up();
    let down = Link::Down("the VMM hung up".into());
    cable.wait("its link is down", |seen| seen.links[0] == Some(down.clone()));
}

#[test]
fn a_ring_that_stops_says_exactly_where() {
    let cable = Cable::new();
    let (mut a, mut b) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    for _ in 0..37 {
        a.send(&ethernet(mac(2), mac(1), 0x88b5, &[0; 50]));
        b.recv(PATIENCE).expect("it arrives");
    }
    let base = a.link().ask(Request::GetVringBase, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(base, [1, 0, 0, 0, 37, 0, 0, 0]);
    assert_eq!(a.given_back(), 37);
    a.send(&ethernet(mac(2), mac(1), 0x88b5, &[0; 50]));
    assert!(b.recv(Duration::from_millis(100)).is_none(), "a stopped ring stands still");
    // Buffers that were taken for frames that had not come do not count.
    let base = b.link().ask(Request::GetVringBase, &[0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(base, [0, 0, 0, 0, 37, 0, 0, 0]);
}

/// To a driver that knows the order, chains are given back many at a time; none is lost, none comes twice.
#[test]
fn a_driver_that_knows_the_order() {
    let cable = Cable::new();
    let boot = |name| FakeVm::boot_with(&cable.socket(name), VM_FEATURES | 1 << 35).unwrap();
    let (mut a, mut b) = (boot("a"), boot("b"));
    for round in 0..300u16 {
        a.send(&ethernet(
            mac(2),
            mac(1),
            0x88b5,
            &[&round.to_be_bytes()[..], &vec![0; usize::from(round) * 9]].concat(),
        ));
        if round % 5 == 4 {
            for earlier in round - 4..=round {
                let received = b.recv(PATIENCE).expect("it arrives").frame;
                assert_eq!(
                    (&received[14..16], received.len()),
                    (&earlier.to_be_bytes()[..], 16 + usize::from(earlier) * 9)
                );
            }
        }
        if round % 100 == 99 {
            a.hang_up();
            a.reconnect().unwrap();
        }
    }
    assert_eq!(a.given_back(), 300);
    assert!(b.recv(Duration::from_millis(50)).is_none());
}

/// Memory that comes while frames go does not disturb them, nor the buffers that were taken ahead in it.
#[test]
fn memory_that_comes_between_frames() {
    let cable = Cable::new();
    let (mut a, mut b) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    let more = guest_memory(4096, SealFlags::SHRINK);
    for round in 0..20u8 {
        a.send(&ethernet(mac(2), mac(1), 0x88b5, &[round; 50]));
        assert_eq!(b.recv(PATIENCE).expect("it arrives").frame[14], round);
        let mut region = vec![0; 8];
        let (start, seen) = (MEMORY_BYTES + u64::from(round) * 4096, VMM_ADDRESS + (1 << 40) + u64::from(round) * 4096);
        [start, 4096, seen, 0].iter().for_each(|value: &u64| region.extend_from_slice(&value.to_le_bytes()));
        for vm in [&mut a, &mut b] {
            vm.link().order(Request::AddMemRegion, &region, &[more.as_fd()]).unwrap();
        }
    }
}

/// A guest that breaks its rings is sent away with a reason; the others do not notice, and it may come back.
#[test]
fn guests_that_break_their_rings() {
    type Breakage = fn(&mut FakeVm);
    let cases: [(&str, &str, Breakage); 9] = [
        ("a descriptor loop", "longer than the queue", |vm| {
            vm.write_tx_descriptor(0, 0x1000, 10, 1, 1);
            vm.write_tx_descriptor(1, 0x1000, 10, 1, 0);
            vm.offer_tx(0);
        }),
        ("a buffer outside of memory", "outside of the guest's memory", |vm| {
            vm.write_tx_descriptor(0, MEMORY_BYTES - 8, 4096, 0, 0);
            vm.offer_tx(0);
        }),
        ("a buffer at the end of the address space", "outside of the guest's memory", |vm| {
            vm.write_tx_descriptor(0, u64::MAX - 8, u32::MAX, 0, 0);
            vm.offer_tx(0);
        }),
        ("a chain that does not exist", "does not exist", |vm| vm.offer_tx(9999)),
        ("a next that does not exist", "does not exist", |vm| {
            vm.write_tx_descriptor(0, 0x1000, 10, 1, 60_000);
            vm.offer_tx(0);
        }),
        ("an index that jumps", "jumped", |vm| vm.jump_tx(40_000)),
        ("a buffer to write where one to read belongs", "direction", |vm| {
            vm.write_tx_descriptor(0, 0x1000, 100, 2, 0);
            vm.offer_tx(0);
        }),
        ("an indirect table in an indirect table", "indirect", |vm| {
            vm.write(
                0x2000,
                &[&0x2000u64.to_le_bytes()[..], &16u32.to_le_bytes(), &4u16.to_le_bytes(), &[0; 2]].concat(),
            );
            vm.write_tx_descriptor(0, 0x2000, 16, 4, 0);
            vm.offer_tx(0);
        }),
        ("an indirect table of no whole entries", "indirect", |vm| {
            vm.write_tx_descriptor(0, 0x2000, 15, 4, 0);
            vm.offer_tx(0);
        }),
    ];
    let cable = Cable::new();
    let (mut bystander, mut peer) = (FakeVm::boot(&cable.socket("b")).unwrap(), None);
    for (what, reason, breakage) in cases {
        drop(peer.take());
        let mut vm = FakeVm::boot(&cable.socket("a")).unwrap();
        breakage(&mut vm);
        let told = |link: &Option<Link>| matches!(link, Some(Link::Down(why)) if why.contains(reason));
        cable.wait(what, |seen| told(&seen.links[0]) && seen.links[1] == Some(Link::Up));
        assert!(vm.link().was_hung_up(), "{what}");

        let mut healed = FakeVm::boot(&cable.socket("a")).unwrap();
        healed.send(&ethernet(mac(2), mac(1), 0x88b5, what.as_bytes()));
        assert_eq!(&bystander.recv(PATIENCE).expect(what).frame[14..], what.as_bytes());
        peer = Some(healed);
    }
}

/// What is in a well-formed chain and is no frame is thrown away and counted; the guest gets its buffers back.
#[test]
fn frames_that_are_none() {
    let cable = Cable::new();
    let (mut a, mut b) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    let frame = ethernet(mac(2), mac(1), 0x88b5, &[0; 50]);
    a.send(&frame[..13]);
    a.send(&[]);
    a.send_with(&[1, 0, 0, 0, 0, 0, 60, 0, 10, 0, 0, 0], &frame); // the checksum lies outside
    a.send_with(&[1, 9, 0, 0, 1, 0, 34, 0, 16, 0, 0, 0], &frame); // no such segmentation
    a.send(&vec![0; 65_535 + 19]);
    a.send(&frame);
    assert_eq!(b.recv(PATIENCE).expect("the good one").frame, frame);
    cable.wait("five are counted", |seen| seen.malformed[0] == 5);
    assert_eq!(a.given_back(), 6);
}

/// A receiver that breaks its own ring harms nobody but itself.
#[test]
fn a_receiver_that_breaks_its_ring() {
    let cable = Cable::new();
    let (mut a, b) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    b.write_rx_descriptor(0, u64::MAX - 100, 2048, 2, 0);
    a.send(&ethernet(mac(2), mac(1), 0x88b5, &[0; 50]));
    cable.wait("b is sent away", |seen| matches!(&seen.links[1], Some(Link::Down(why)) if why.contains("outside")));
    let mut b = FakeVm::boot(&cable.socket("b")).unwrap();
    a.send(&ethernet(mac(2), mac(1), 0x88b5, &[1; 50]));
    assert_eq!(b.recv(PATIENCE).unwrap().frame[14], 1);
}

/// A VMM that breaks the protocol is sent away, whatever it says and whenever it stops.
#[test]
fn vmms_that_break_the_protocol() {
    type Breakage = fn(&mut VmmLink);
    let cases: [(&str, Breakage); 10] = [
        ("half a header", |link| {
            let _ = link.send_raw(&[1, 0, 0, 0, 1], &[]);
        }),
        ("a header that promises more than it sends", |link| {
            let _ = link.send_raw(&[2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1], &[]);
        }),
        ("a message of 4 GiB", |link| {
            let _ = link.send_raw(&[2, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255], &[]);
        }),
        ("an unknown request", |link| link.send(9999, 1, &[], &[]).unwrap()),
        ("features that were not offered", |link| {
            link.tell(Request::SetFeatures, &u64::MAX.to_le_bytes(), &[]).unwrap();
        }),
        ("a queue without a place that is started", |link| {
            link.tell(Request::SetVringKick, &[0; 8], &[event().as_fd()]).unwrap();
        }),
        ("a queue that does not exist", |link| {
            link.tell(Request::SetVringNum, &[200, 0, 0, 0, 0, 1, 0, 0], &[]).unwrap();
        }),
        ("a kick that is a file", |link| {
            let file = guest_memory(4096, SealFlags::empty());
            link.tell(Request::SetVringKick, &[0; 8], &[file.as_fd()]).unwrap();
        }),
        ("memory that is no file", |link| {
            link.tell(Request::SetMemTable, &FakeVm::memory_table(), &[event().as_fd()]).unwrap();
        }),
        ("more descriptors than a message takes", |link| {
            let file = event();
            let _ = link.send(Request::SetMemTable as u32, 1, &FakeVm::memory_table(), &[file.as_fd(); 60]);
        }),
    ];
    let cable = Cable::new();
    let mut bystander = FakeVm::boot(&cable.socket("b")).unwrap();
    for (what, breakage) in cases {
        let mut link = VmmLink::connect(&cable.socket("a")).unwrap();
        breakage(&mut link);
        // Half a message may be completed later; its sender hangs up early instead.
        if !what.contains("half") && !what.contains("promises") {
            assert!(link.was_hung_up(), "{what}");
        }
        drop(link);
        let mut vm = FakeVm::boot(&cable.socket("a")).expect(what);
        vm.send(&ethernet(mac(2), mac(1), 0x88b5, what.as_bytes()));
        assert_eq!(&bystander.recv(PATIENCE).expect(what).frame[14..], what.as_bytes());
    }
}

/// Queues have a power of two of entries, and not too many.
#[test]
fn queues_of_impossible_sizes() {
    let cable = Cable::new();
    let mut bystander = FakeVm::boot(&cable.socket("b")).unwrap();
    for size in [0u32, 3, 2048, 32_768, 65_536, u32::MAX] {
        let mut vm = FakeVm::boot(&cable.socket("a")).unwrap();
        vm.stop().unwrap();
        vm.link().tell(Request::SetVringNum, &[0u32.to_le_bytes(), size.to_le_bytes()].concat(), &[]).unwrap();
        vm.link().tell(Request::SetVringKick, &[0; 8], &[event().as_fd()]).unwrap();
        assert!(vm.link().was_hung_up(), "{size}");
        let told =
            |link: &Option<Link>| matches!(link, Some(Link::Down(why)) if why.contains(&format!("{size} entries")));
        cable.wait("it is told why", |seen| told(&seen.links[0]));
        let mut vm = FakeVm::boot(&cable.socket("a")).unwrap();
        vm.send(&ethernet(mac(2), mac(1), 0x88b5, &[size as u8; 50]));
        assert_eq!(bystander.recv(PATIENCE).unwrap().frame[14], size as u8);
    }
}

/// A VMM that stops in the middle of a message, or asks and does not listen, keeps nobody waiting: not even the other
/// one at its own port.
#[test]
fn vmms_that_keep_us_waiting() {
    let cable = Cable::new();
    let mut bystander = FakeVm::boot(&cable.socket("b")).unwrap();
    let mut silent = VmmLink::connect(&cable.socket("a")).unwrap();
    silent.send_raw(&[1, 0, 0, 0, 1], &[]).unwrap();
    let mut vm = FakeVm::boot(&cable.socket("a")).unwrap();
    vm.send(&ethernet(mac(2), mac(1), 0x88b5, &[1; 50]));
    assert_eq!(bystander.recv(PATIENCE).unwrap().frame[14], 1);
    silent.send_raw(&[0, 0, 0, 0, 0, 0, 0], &[]).unwrap();
    drop(silent);

    let mut deaf = VmmLink::connect(&cable.socket("a")).unwrap();
    let told = (0..100_000).find(|_| deaf.tell(Request::GetFeatures, &[], &[]).is_err());
    assert!(told.is_some(), "answers pile up");
    vm.send(&ethernet(mac(2), mac(1), 0x88b5, &[2; 50]));
    assert_eq!(bystander.recv(PATIENCE).unwrap().frame[14], 2);
}

/// Memory that could make us touch what is not there is refused with a reason.
#[test]
fn memory_that_cannot_be_trusted() {
    let sealed = SealFlags::SHRINK;
    let table = |entries: &[[u64; 4]]| {
        let mut table = [(entries.len() as u32).to_le_bytes(), [0; 4]].concat();
        entries.iter().flatten().for_each(|value| table.extend_from_slice(&value.to_le_bytes()));
        table
    };
    type Case = (&'static str, &'static str, Vec<[u64; 4]>, u64, SealFlags);
    let cases: [Case; 4] = [
        ("too short", "ends at", vec![[0, 1 << 20, VMM_ADDRESS, 0]], (1 << 20) - 4096, sealed),
        ("offset behind the end", "ends at", vec![[0, 4096, VMM_ADDRESS, 1 << 20]], 1 << 20, sealed),
        ("overlap", "overlap", vec![[0, 8192, VMM_ADDRESS, 0], [4096, 8192, VMM_ADDRESS, 0]], 1 << 20, sealed),
        ("huge", "ends at", vec![[0, 1 << 62, VMM_ADDRESS, 0]], 1 << 20, sealed),
    ];
    let cable = Cable::new();
    for (what, reason, entries, len, seals) in cases {
        let memory = guest_memory(len, seals);
        let mut link = VmmLink::connect(&cable.socket("a")).unwrap();
        let fds = vec![memory.as_fd(); entries.len()];
        link.tell(Request::SetMemTable, &table(&entries), &fds).unwrap();
        assert!(link.was_hung_up(), "{what}");
        let told = |link: &Option<Link>| matches!(link, Some(Link::Down(why)) if why.contains(reason));
        cable.wait(what, |seen| told(&seen.links[0]));
    }
}

/// Memory that is taken away while rings lie in it ends the port, not the worker.
#[test]
fn memory_that_goes_away_under_its_rings() {
    let cable = Cable::new();
    let (mut a, _b) = (FakeVm::boot(&cable.socket("a")).unwrap(), FakeVm::boot(&cable.socket("b")).unwrap());
    let mut region = vec![0; 8];
    [0, MEMORY_BYTES, VMM_ADDRESS, 0u64].iter().for_each(|value| region.extend_from_slice(&value.to_le_bytes()));
    a.link().tell(Request::RemoveMemRegion, &region, &[]).unwrap();
    a.offer_tx(0);
    assert!(a.link().was_hung_up());
    cable.wait(
        "it is told why",
        |seen| matches!(&seen.links[0], Some(Link::Down(why)) if why.contains("ring lies outside")),
    );
}

/// A memfd that nobody sealed can become shorter: the bytes are gone, and with them only its own port.
#[test]
fn memory_that_is_cut_off_under_its_rings() {
    let cable = Cable::new();
    let mut bystander = FakeVm::boot(&cable.socket("b")).unwrap();
    let memory = guest_memory(MEMORY_BYTES, SealFlags::empty());
    let owner = memory.try_clone().unwrap();
    let mut vm = FakeVm::boot_in(&cable.socket("a"), VM_FEATURES, memory).unwrap();
    vm.send(&ethernet(mac(2), mac(1), 0x88b5, b"before"));
    assert_eq!(&bystander.recv(PATIENCE).unwrap().frame[14..], b"before");
    owner.set_len(0).unwrap();
    vm.kick();
    assert!(vm.link().was_hung_up());
    cable.wait(
        "it is told why",
        |seen| matches!(&seen.links[0], Some(Link::Down(why)) if why.contains("memory away") || why.contains("jumped")),
    );
    let mut vm = FakeVm::boot(&cable.socket("a")).unwrap();
    vm.send(&ethernet(mac(2), mac(1), 0x88b5, b"after"));
    assert_eq!(&bystander.recv(PATIENCE).unwrap().frame[14..], b"after");
}

/// Either side may listen, and either may go and come back.
#[test]
fn a_vmm_that_listens() {
    let directory = tempfile::tempdir().unwrap();
    let socket: &Path = &directory.path().join("vmm");
    let mut port = VhostUserPort::open(socket, Side::Connect).unwrap();
    for _ in 0..3 {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let mut link = VmmLink::of(listener.accept().unwrap().0).unwrap();
        // What it asks for is answered by the session alone.
        assert!(link.ask(Request::GetFeatures, &[]).is_ok());
        assert!(!port.link().is_up());
        std::fs::remove_file(socket).unwrap();
        drop(link);
        let mut fds = [PollFd::from_borrowed_fd(port.fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap();
        port.wake();
        port.recv(); // lets go of what was lent, and so lets the session go on
    }
}

/// Peers that connect and leave, or say the same over and over, do not slow the others down to nothing.
#[test]
fn floods() {
    let cable = Cable::new();
    let mut bystander = FakeVm::boot(&cable.socket("b")).unwrap();
    for _ in 0..200 {
        drop(VmmLink::connect(&cable.socket("a")).unwrap());
    }
    let mut vm = FakeVm::boot(&cable.socket("a")).unwrap();
    for _ in 0..5000 {
        vm.link().tell(Request::SetVringEnable, &[1, 0, 0, 0, 1, 0, 0, 0], &[]).unwrap();
    }
    vm.send(&ethernet(mac(2), mac(1), 0x88b5, b"still there?"));
    assert!(bystander.recv(PATIENCE).is_some());
}

#[test]
fn a_closed_port_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let socket: &Path = &directory.path().join("port");
    let port = VhostUserPort::open(socket, Side::Listen).unwrap();
    let mut link = VmmLink::connect(socket).unwrap();
    link.send_raw(&[1, 0, 0], &[]).unwrap(); // its session waits for the rest of a header
    drop(port);
    assert!(link.was_hung_up() && !socket.exists());
}
