//! Machines on real KVM, with a kernel of a few instructions: how each of them ends, and what it says before.
//!
//! Where there is no `/dev/kvm`, or one that does not run guests, this says so and checks nothing.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use weft_vmm::vm::MachineError;
use weft_vmm::{Config, Ending, RunError, TerminalConfig};

/// Where the kernel is loaded, and begins.
const LOAD: u32 = 0x10_0000;
/// A KVM that takes longer for a few instructions runs no guests.
const PATIENCE: Duration = Duration::from_secs(60);

/// `mov dx, port; mov al, value; out dx, al`, in 32-bit code.
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

/// Writes a text to the serial port.
fn say(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|byte| out(0x3f8, byte)).collect()
}

/// An ELF file with PVH's note, whose one segment is `code`.
fn kernel(code: &[u8]) -> Vec<u8> {
    let (notes_at, code_at) = (64 + 2 * 56_u64, 0x200_u64);
    let note = [4_u32, 4, 18].into_iter().flat_map(u32::to_le_bytes);
    let note: Vec<u8> = note.chain(*b"Xen\0").chain(LOAD.to_le_bytes()).collect();
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    let mut half = |values: &[u16]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    half(&[2, 62, 1, 0]); // an executable for x86-64
    for value in [u64::from(LOAD), 64, 0] {
        file.extend(value.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for value in [64_u16, 56, 2, 0, 0, 0] {
        file.extend(value.to_le_bytes());
    }
    let mut segment = |kind: u32, at: u64, address: u64, bytes: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        for value in [at, address, address, bytes, bytes, 4] {
            file.extend(value.to_le_bytes());
        }
    };
    segment(4, notes_at, 0, note.len() as u64);
    segment(1, code_at, LOAD.into(), code.len() as u64);
    file.extend(note);
    file.resize(code_at as usize, 0);
    file.extend(code);
    file
}

/// Tells a machine to end, unless it does so first.
fn watch(control: &Path) -> mpsc::Sender<()> {
    let (done, ended) = mpsc::channel();
    let control = control.to_owned();
    std::thread::spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout)
            && let Ok(mut stream) = UnixStream::connect(control)
        {
            let _ = stream.write_all(b"{\"do\":\"quit\"}\n");
            let _ = io::copy(&mut stream, &mut io::sink());
        }
    });
    done
}

/// Runs a kernel; how it ended, and what it said. `None` where there is no KVM that runs guests.
fn boot(code: &[u8]) -> Option<(Ending, String)> {
    let dir = tempfile::tempdir().expect("a folder");
    let place = |name: &str| dir.path().join(name);
    std::fs::write(place("kernel"), kernel(code)).expect("room");
    std::fs::write(place("serial"), "").expect("room");
    let mut config = Config::parse(r#"{"cpus": 2, "memory-mib": 16, "kernel": ""}"#).expect("a description");
    config.kernel = place("kernel");
    config.serial = TerminalConfig { log: Some(place("serial")), socket: None };
    config.control = Some(place("control"));
    config.end_at_reset = true;
    config.jailed = false; // the filters would hold the tests, too
    let watch = watch(&place("control"));
    let ending = match weft_vmm::run(config) {
        Ok(Ending::Quit) => {
            eprintln!("SKIPPED: this host's KVM does not run guests");
            return None;
        }
        Ok(ending) => ending,
        Err(RunError::Kvm(error)) => {
            eprintln!("SKIPPED: no /dev/kvm that this user may open: {error}");
            return None;
        }
        Err(RunError::Machine(error @ (MachineError::Kvm("create a machine", _) | MachineError::Lacks(_)))) => {
            eprintln!("SKIPPED: this host's KVM makes no machines: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let _ = watch.send(());
    Some((ending, std::fs::read_to_string(place("serial")).expect("what it said")))
}

fn check(code: &[&[u8]], expected: Ending, said: &str) {
    if let Some(end) = boot(&code.concat()) {
        assert_eq!(end, (expected, said.to_owned()));
    }
}

const HALT: &[u8] = &[0xf4, 0xeb, 0xfd];

#[test]
fn every_ending_is_told() {
    check(&[&say("hello"), &out(0x600, 0x34), HALT], Ending::PowerOff, "hello");
    check(&[&say("again"), &out(0x602, 1), HALT], Ending::Reset, "again");
    check(&[&out(0x64, 0xfe), HALT], Ending::Reset, "");
    check(&[&say("oops"), &out(0x505, 1), HALT], Ending::Panicked, "oops");
    // An interrupt table of length zero, and an exception.
    check(&[&[0x0f, 0x01, 0x1d, 0, 0, 0, 0, 0x0f, 0x0b]], Ending::TripleFault, "");
}
