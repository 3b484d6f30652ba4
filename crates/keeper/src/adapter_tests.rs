//! Between a driver and switches that are both played here.

use std::io::Write as _;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, eventfd, poll};
use tempfile::TempDir;

use super::*;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the memory lies as the guest sees it, and its used rings in it.
const BASE: u64 = 0x6000_0000;
const USED: [u64; 2] = [0x100, 0x200];

struct Bed {
    dir: TempDir,
    switches: UnixListener,
    memory: File,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("nic")).unwrap();
        let switches = UnixListener::bind(dir.path().join("switch")).unwrap();
        let socket = dir.path().join("switch");
        let config = NicConfig { name: "web-0".into(), mac: [2, 0, 0, 0, 0, 1], mtu: 1400, socket };
        let adapter = Adapter::new(config, listener).unwrap();
        std::thread::spawn(move || adapter.run());
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(0x1000).unwrap();
        Self { dir, switches, memory }
    }

    fn driver(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("nic")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The next switch that the adapter turns to, after it has learned what that one offers.
    fn switch(&self) -> UnixStream {
        let (stream, _) = self.switches.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(hear(&stream).request, request::SET_OWNER);
        hear(&stream).reply(&stream, &u64::MAX.to_le_bytes()).unwrap();
        assert_eq!(hear(&stream).request, request::SET_PROTOCOL_FEATURES);
        stream
    }

    /// Says all that a driver says, with these ways to ring and to be rung.
    fn set_up(&self, driver: &UnixStream, kick: &OwnedFd, call: &UnixStream) {
        let say = |request, words: &[u64], with: &[BorrowedFd<'_>]| {
            Message::request(driver, request, words, with).unwrap();
        };
        say(request::SET_FEATURES, &[1 << 32 | PROTOCOL_FEATURES], &[]);
        // Room for a second region, as Linux leaves it.
        say(request::SET_MEM_TABLE, &[1, 0, 0x1000, BASE, 0, 0, 0, 0, 0], &[self.memory.as_fd()]);
        for (index, used) in USED.iter().enumerate() {
            let index = index as u64;
            say(request::SET_VRING_NUM, &[index | 256 << 32], &[]);
            say(request::SET_VRING_BASE, &[index], &[]);
            say(request::SET_VRING_ADDR, &[index, BASE, BASE + used, BASE + 0x300, 0], &[]);
            say(request::SET_VRING_CALL, &[index], &[call.as_fd()]);
            say(request::SET_VRING_KICK, &[index], &[kick.as_fd()]);
            say(request::SET_VRING_ENABLE, &[index | 1 << 32], &[]);
        }
    }
}

fn hear(stream: &UnixStream) -> Message {
    Message::receive(stream).unwrap().expect("it does not hang up")
}

/// What a switch is told: the first available entry of each ring, and by what it interrupts.
fn plugged(switch: &UnixStream) -> ([u32; 2], Vec<OwnedFd>) {
    let (mut bases, mut calls, mut enabled) = ([u32::MAX; 2], Vec::new(), 0);
    while enabled < 2 {
        let mut message = hear(switch);
        match message.request {
            request::SET_FEATURES => assert_eq!(message.words().unwrap(), [1 << 32 | PROTOCOL_FEATURES]),
            request::SET_MEM_TABLE => assert_eq!(message.words().unwrap(), [1, 0, 0x1000, BASE, 0]),
            request::SET_VRING_BASE => {
                let (index, base) = message.ring_state().unwrap();
                bases[index] = base;
            }
            request::SET_VRING_CALL => calls.push(message.descriptor().unwrap()),
            request::SET_VRING_ENABLE => enabled += 1,
            _ => {}
        }
    }
    (bases, calls)
}

fn readable(descriptor: impl std::os::fd::AsFd) -> bool {
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&patience)).unwrap() == 1
}

#[test]
fn a_switch_that_was_away_goes_on_where_its_predecessor_was() {
    let bed = Bed::new();
    let driver = bed.driver();
    let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let (call, rung) = UnixStream::pair().unwrap();
    bed.set_up(&driver, &kick, &call);
    let first = bed.switch();
    let (bases, calls) = plugged(&first);
    assert_eq!(bases, [0, 0]);
    assert!(readable(&rung) && readable(&kick), "what waited is looked at");

    for (at, index) in USED.iter().zip([7u16, 65535]) {
        bed.memory.write_all_at(&index.to_le_bytes(), at + 2).unwrap();
    }
    drop(first);
    let second = bed.switch();
    assert_eq!(plugged(&second).0, [7, 65535]);

    rung.set_nonblocking(true).unwrap();
    while std::io::Read::read(&mut &rung, &mut [0; 64]).is_ok() {}
    rustix::io::write(&calls[1], &1u64.to_ne_bytes()).unwrap();
    assert!(readable(&rung), "interrupts go the same way");

    drop(driver);
    let question = hear(&second);
    assert_eq!(question.request, request::GET_VRING_BASE, "the rings are asked for when the guest reboots");
}

#[test]
fn the_adapter_is_described_by_its_keeper() {
    let bed = Bed::new();
    let driver = bed.driver();
    let answers = std::thread::scope(|scope| {
        let switch = scope.spawn(|| bed.switch());
        let offered = Message::ask(&driver, request::GET_FEATURES, &[]).unwrap();
        drop(switch.join().unwrap());
        (offered, Message::ask(&driver, request::GET_PROTOCOL_FEATURES, &[]).unwrap())
    });
    assert_eq!(answers, (OFFLOADS | F_MTU | F_MAC | PROTOCOL_FEATURES, PROTOCOL));
    // Offset, size and flags, and room for the answer.
    let mut question = [0u8; 12 + 12];
    question[4] = 12;
    let words: Vec<u64> = question.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    Message::request(&driver, request::GET_CONFIG, &words, &[]).unwrap();
    let answer = hear(&driver).body;
    assert_eq!(answer[12..], [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0x78, 5]);
}

#[test]
fn nonsense_ends_the_connection_and_nothing_else() {
    let bed = Bed::new();
    let word = |word: u64| word.to_le_bytes().to_vec();
    let header =
        |request: u32, size: u32| [request, 1, size].into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>();
    let cases: [(&str, Vec<u8>); 8] = [
        ("another version", vec![0; 12]),
        ("a long body", header(request::SET_FEATURES, u32::MAX)),
        ("half a header", vec![1, 2, 3]),
        ("a body that never comes", header(request::SET_FEATURES, 8)),
        ("an unknown request", header(77, 0)),
        ("a third ring", [header(request::SET_VRING_NUM, 8), word(2)].concat()),
        ("memory without a file", [header(request::SET_MEM_TABLE, 40), word(1), vec![0; 32]].concat()),
        ("half a question", [header(request::GET_CONFIG, 4), vec![0; 4]].concat()),
    ];
    for (what, bytes) in cases {
        let mut driver = bed.driver();
        driver.write_all(&bytes).unwrap();
        driver.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(Message::receive(&driver), Ok(None) | Err(_)), "{what}");
    }
    let driver = bed.driver();
    assert_eq!(Message::ask(&driver, request::GET_PROTOCOL_FEATURES, &[]).unwrap(), PROTOCOL, "the next is served");
}

#[test]
fn a_ring_outside_of_the_memory_is_never_read() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(16).unwrap();
    let memory = [Region { words: [0, u64::MAX, BASE, 8], file }];
    let index = |used| Ring { addresses: Some([0, used, 0, 0]), ..Ring::default() }.used_index(&memory);
    assert_eq!(index(BASE + 4).unwrap(), 0);
    for outside in [0, BASE - 1, BASE + 8, u64::MAX - 1, u64::MAX] {
        assert!(index(outside).is_err(), "{outside:#x}");
    }
    assert!(connect(Path::new("/none")).is_err());
}
