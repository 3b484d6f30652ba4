//! A switch that is killed while real guests talk by it: QEMU as the client of its port, and as the server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use weft_testkit::{FakeVm, ethernet, mac, skipped};

use crate::bed::{Bed, eventually};
use crate::machine::{GUEST_PATIENCE, Machine, micro};

const FILE: &str = "
[port.client]
vhost = 'client.sock'
mac = '02:00:00:00:00:01'

[port.server]
vhost = 'server.sock'
connect = true
mac = '02:00:00:00:00:03'

[port.peer]
vhost = 'peer.sock'
mac = '02:00:00:00:00:02'
";

/// A driver that does its checksums itself.
const PLAIN_FEATURES: u64 = 1 << 15 | 1 << 30 | 1 << 32;

/// How long guests may wait for a switch that runs again; QEMU looks for it once a second.
const RETURN: Duration = Duration::from_secs(2);

/// The host 10.0.0.2, which answers each ping once.
struct Peer {
    vm: FakeVm,
    /// The requests that came from each guest, by the last byte of its address.
    heard: BTreeMap<u8, Vec<[u8; 4]>>,
}

impl Peer {
    /// Answers the next request if one comes soon; whose it was.
    fn answer(&mut self) -> Option<u8> {
        let frame = self.vm.recv(Duration::from_millis(5))?.frame;
        let (ipv4, icmp) = (frame.get(12..34)?, frame.get(34..)?);
        if ipv4[..2] != [8, 0] || ipv4[11] != 1 || icmp[0] != 8 {
            return None;
        }
        let guest = frame[11];
        let request = icmp[4..8].try_into().unwrap(); // identifier and number
        let heard = self.heard.entry(guest).or_default();
        assert!(!heard.contains(&request), "guest {guest} is heard twice: {request:?}");
        heard.push(request);
        let mut packet = frame[14..].to_vec();
        let [source, destination] = [12, 16].map(|at| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        packet[12..16].copy_from_slice(&destination);
        packet[16..20].copy_from_slice(&source);
        packet[20] = 0; // the answer; the sum grows by what the type shrinks
        let sum = u32::from(u16::from_be_bytes([packet[22], packet[23]])) + 0x0800;
        packet[22..24].copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
        self.vm.send(&ethernet(mac(guest), mac(2), 0x0800, &packet));
        Some(guest)
    }

    /// Answers for so long.
    fn answer_for(&mut self, span: Duration) {
        let began = Instant::now();
        while began.elapsed() < span {
            self.answer();
        }
    }

    /// Answers until nobody asks any more.
    fn answer_all(&mut self) {
        let mut last = Instant::now();
        while last.elapsed() < RETURN {
            if self.answer().is_some() {
                last = Instant::now();
            }
        }
    }

    /// Answers until it has heard of both guests.
    fn hear_both(&mut self, patience: Duration) {
        let (began, mut missing) = (Instant::now(), vec![1, 3]);
        while !missing.is_empty() {
            assert!(began.elapsed() < patience, "guests {missing:?} are not heard");
            let heard = self.answer();
            missing.retain(|guest| Some(*guest) != heard);
        }
    }
}

#[test]
fn guests_go_on_when_the_switch_was_killed() {
    if let Err(why) = micro() {
        return skipped("guests_go_on_when_the_switch_was_killed", &why);
    }
    let mut bed = Bed::run(FILE);
    let folder = bed.path(".");
    let plugs = [(1, "client", "path=client.sock,reconnect=1"), (3, "server", "path=server.sock,server=on")];
    let mut guests = plugs.map(|(number, name, plug)| Machine::start(&folder, name, number, plug, &[]));
    for (guest, (number, ..)) in guests.iter_mut().zip(plugs) {
        guest.boot(&format!("10.0.0.{number}"));
        guest.run("arp -s 10.0.0.2 02:00:00:00:00:02");
        guest.run("(ping -q -i 0.01 -c 800 10.0.0.2 >/dev/shm/pings 2>&1; echo >/dev/shm/end) & true");
    }
    let vm = FakeVm::boot_with(&bed.path("peer.sock"), PLAIN_FEATURES).unwrap();
    let mut peer = Peer { vm, heard: BTreeMap::new() };
    peer.hear_both(GUEST_PATIENCE);
    for round in 0..3 {
        peer.answer_for(Duration::from_millis(300));
        bed.end(Signal::KILL);
        let killed = Instant::now();
        bed.start();
        eventually("the peer comes back", || peer.vm.reconnect().is_ok());
        peer.hear_both(RETURN.saturating_sub(killed.elapsed()));
        eprintln!("round {round}: both guests are heard again after {:?}", killed.elapsed());
    }
    peer.answer_all();
    for guest in &mut guests {
        guest.run("until [ -e /dev/shm/end ]; do sleep 0.1; done");
        let said = guest.run("cat /dev/shm/pings");
        assert!(said.contains("800 packets transmitted") && !said.contains("duplicates"), "{said}");
    }
}
