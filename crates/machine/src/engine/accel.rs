//! Whether the hardware can run guests: not whether `/dev/kvm` exists, but whether a guest gets anywhere.
//!
//! A host can have a `/dev/kvm` that opens, creates machines and then runs them a thousand times slower than a
//! translator would. So a tiny machine counts down, in long mode and ring 0 as a kernel runs, and this program counts, too:
//! where virtualization works, both are about as fast. How fast that is does not matter: on a host that is itself
//! emulated both are slow, and its guests run as well as anything on it. All of it takes some hundredths of a second, once in
//! a process.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io;
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

use crate::host::KvmState;

/// A guest that counts so many times slower than this program is not usable: translated, it would be faster. Real hardware
/// is at 1; what is known to crawl, at several hundred.
const TOO_SLOW: f64 = 20.0;
/// How often the guest counts in the first round. Even one that crawls needs just a millisecond for that.
const FIRST_ROUND: u64 = 1000;
/// A round that takes this long is worth measuring, if it also takes twice as long as the shortest: less is just the way
/// into the guest and out of it, which is long where nothing of that has been translated yet.
const LONG_ROUND: Duration = Duration::from_millis(2);
/// So many rounds are measured. Each has twice as many steps as the one before.
const LONG_ROUNDS: usize = 3;
/// How long the whole may take. Its guest may never come back.
const PATIENCE: Duration = Duration::from_secs(5);

/// The guest's page tables, the root first, and its code: each at the start of a page.
const TABLES: [usize; 3] = [0x1000, 0x2000, 0x3000];
const CODE: usize = 0x4000;
const MEMORY_BYTES: usize = 0x5000;

/// Present and writable; accessed and dirty already, so that no processor has to write that; the last level also large.
const TABLE_ENTRY: u64 = 0x63;
const LARGE_PAGE_ENTRY: u64 = 0xe3;

/// The guest.
const PROGRAM: [u8; 8] = [
    0x48, 0xff, 0xc9, // again: dec rcx
    0x75, 0xfb, // jnz again
    0xf4, // hlt
    0xeb, 0xf8, // jmp again
];

/// Says whether hardware virtualization works.
pub(crate) fn kvm_state() -> KvmState {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return KvmState::NoPermission,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return KvmState::Absent,
        Err(error) => return KvmState::Unusable(format!("it does not open: {error}")),
    }
    static VERDICT: OnceLock<KvmState> = OnceLock::new();
    VERDICT.get_or_init(try_guest).clone()
}

/// Runs the tiny machine, and counts beside it.
fn try_guest() -> KvmState {
    let (sender, receiver) = mpsc::channel();
    // A thread that never comes back ends with the process.
    thread::spawn(move || sender.send(guest_speed()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(speed)) => judge(speed, host_speed()),
        Ok(Err(why)) => KvmState::Unusable(why),
        Err(_) => KvmState::Unusable(format!("a guest did not come back within {} s", PATIENCE.as_secs())),
    }
}

/// What speeds mean, in steps a second.
fn judge(guest: f64, host: f64) -> KvmState {
    tracing::debug!(target: "weft::machine", guest, host, "tried a guest");
    match guest * TOO_SLOW < host {
        true => KvmState::Unusable(format!(
            "guests crawl: they take {:.1} million steps a second, where this program takes {:.0} million",
            guest / 1e6,
            host / 1e6
        )),
        false => KvmState::Usable,
    }
}

/// How fast this program counts, in steps a second.
fn host_speed() -> f64 {
    let measured = speed(|count| {
        let begin = Instant::now();
        let mut left = count;
        while left > 0 {
            left = black_box(left - 1);
        }
        Ok(begin.elapsed())
    });
    measured.unwrap_or_default()
}

/// How fast a guest counts, in steps a second; an error says in words why it does not.
fn guest_speed() -> Result<f64, String> {
    let told = |what: &'static str| move |error: kvm_ioctls::Error| format!("it {what}: {error}");
    let kvm = Kvm::new().map_err(told("does not open"))?;
    let machine = kvm.create_vm().map_err(told("makes no machines"))?;
    let mut memory = Memory::new();
    let region = kvm_userspace_memory_region {
        memory_size: MEMORY_BYTES as u64,
        userspace_addr: (&raw mut memory.0) as u64,
        ..Default::default()
    };
    #[expect(unsafe_code, reason = "the guest's memory is ours")]
    // SAFETY: these bytes are the guest's alone until `cpu` and `machine` are gone, and are let go only then.
    unsafe { machine.set_user_memory_region(region) }.map_err(told("gives machines no memory"))?;
    let mut cpu = machine.create_vcpu(0).map_err(told("gives machines no processor"))?;
    let features = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(told("does not say what it can do"))?;
    cpu.set_cpuid2(&features).map_err(told("cannot do what it says"))?;
    enter_long_mode(&cpu).map_err(told("has no long mode"))?;
    let measured = speed(|count| {
        let mut registers = cpu.get_regs().map_err(told("shows no registers"))?;
        (registers.rip, registers.rcx, registers.rflags) = (CODE as u64, count, 2);
        cpu.set_regs(&registers).map_err(told("takes no registers"))?;
        let begin = Instant::now();
        match cpu.run() {
            Ok(VcpuExit::Hlt) => Ok(begin.elapsed()),
            Ok(exit) => Err(format!("a guest that counts ended with {exit:?}")),
            Err(error) => Err(format!("it does not run guests: {error}")),
        }
    });
    drop((cpu, machine, memory)); // in this order
    measured
}

/// The best of rounds of more and more steps, in steps a second: whoever is interrupted looks slow, and nobody looks fast.
/// `count_down` says how long a round of so many steps has taken.
fn speed(mut count_down: impl FnMut(u64) -> Result<Duration, String>) -> Result<f64, String> {
    let (mut best, mut count, mut shortest, mut long_rounds) = (0.0, FIRST_ROUND, Duration::MAX, 0);
    while long_rounds < LONG_ROUNDS {
        let took = count_down(count)?.max(Duration::from_nanos(1));
        best = f64::max(best, count as f64 / took.as_secs_f64());
        shortest = shortest.min(took);
        long_rounds += usize::from(took >= LONG_ROUND && took >= 2 * shortest);
        count *= 2;
    }
    Ok(best)
}

/// The guest's memory: page tables that map the first 2 MiB to themselves, and the program.
#[repr(C, align(4096))]
struct Memory([u8; MEMORY_BYTES]);

impl Memory {
    fn new() -> Box<Self> {
        let mut memory = Box::new(Self([0; MEMORY_BYTES]));
        let [root, middle, last] = TABLES;
        for (table, entry) in
            [(root, middle as u64 | TABLE_ENTRY), (middle, last as u64 | TABLE_ENTRY), (last, LARGE_PAGE_ENTRY)]
        {
            memory.0[table..table + 8].copy_from_slice(&entry.to_le_bytes());
        }
        memory.0[CODE..CODE + PROGRAM.len()].copy_from_slice(&PROGRAM);
        memory
    }
}

/// Puts a processor into 64-bit mode and ring 0, with flat segments and paging (Intel's manual, volume 3, 10.8.5).
fn enter_long_mode(cpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    const PROTECTED_AND_PAGED: u64 = 1 << 31 | 1;
    const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
    const LONG_MODE_ENABLED_AND_ACTIVE: u64 = 1 << 8 | 1 << 10;
    let mut special = cpu.get_sregs()?;
    let code =
        kvm_segment { limit: u32::MAX, selector: 8, type_: 11, present: 1, s: 1, l: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: 16, type_: 3, db: 1, l: 0, ..code };
    special.cs = code;
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.cr3 = TABLES[0] as u64;
    special.cr4 |= PHYSICAL_ADDRESS_EXTENSION;
    special.efer |= LONG_MODE_ENABLED_AND_ACTIVE;
    special.cr0 |= PROTECTED_AND_PAGED;
    cpu.set_sregs(&special)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ratio_counts() {
        for (guest, host, usable) in [
            (2.9e9, 3.0e9, true),   // real hardware
            (0.3e9, 3.0e9, true),   // on a busy one
            (25.0e6, 80.0e6, true), // all of it emulated
            (1.0e6, 0.7e9, false),  // one instruction in a thousand
            (1.0e6, 80.0e6, false),
        ] {
            assert_eq!(judge(guest, host) == KvmState::Usable, usable, "{guest} {host}");
        }
    }

    #[test]
    fn rounds_grow_until_the_way_in_does_not_count() {
        let check = |way: Duration, steps_per_ms: u64| {
            let took = |count: u64| way + Duration::from_nanos(count * 1_000_000 / steps_per_ms);
            let measured = speed(|count| Ok(took(count))).unwrap() / 1e3;
            let share = measured / steps_per_ms as f64;
            assert!((0.5..=1.01).contains(&share), "{share} of {steps_per_ms} with {way:?}");
        };
        for way in [0, 5, 1000, 20_000].map(Duration::from_micros) {
            for steps_per_ms in [1000, 200_000, 3_000_000] {
                check(way, steps_per_ms);
            }
        }
        // One that is interrupted at first.
        let mut rounds = 0;
        let interrupted = speed(|count| {
            rounds += 1;
            Ok(Duration::from_nanos(count) + if rounds < 3 { Duration::from_millis(50) } else { Duration::ZERO })
        });
        assert!(interrupted.unwrap() > 0.9e9);
        assert_eq!(speed(|_| Err("no".to_owned())), Err("no".to_owned()));
    }

    #[test]
    fn it_is_said_of_every_host() {
        let state = kvm_state();
        eprintln!("{state:?}: {:?} beside {:.1e}", guest_speed(), host_speed());
        assert!(host_speed() > 1e5);
        match state {
            KvmState::Usable => assert!(guest_speed().is_ok()),
            KvmState::Unusable(why) => assert!(!why.is_empty()),
            KvmState::Absent | KvmState::NoPermission => assert!(guest_speed().is_err()),
        }
    }
}
