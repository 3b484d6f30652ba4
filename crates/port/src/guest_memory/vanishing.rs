//! Memory that its owner takes away while we use it: a file that becomes shorter leaves pages behind it that end
//! whoever touches them with SIGBUS (mmap(2)).
//!
//! A memfd that is sealed against it is safe. For every other mapping, a handler of SIGBUS puts empty pages of our
//! own in its place, and the port ends when it notices: nothing of anybody else's is touched.

use std::mem::{self, MaybeUninit};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Mappings that can be watched at a time.
const MAX_GUARDS: usize = 4096;

/// A mapping that may vanish; `start` is 0 where there is none.
struct Watched {
    is_taken: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    has_vanished: AtomicBool,
}

static WATCHED: [Watched; MAX_GUARDS] = [const {
    Watched {
        is_taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        has_vanished: AtomicBool::new(false),
    }
}; MAX_GUARDS];

/// Whether anything vanished since this process began.
static HAPPENED: AtomicBool = AtomicBool::new(false);

/// What was done about SIGBUS before us.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Whether any memory has vanished, of whomever.
#[inline]
pub(super) fn happened() -> bool {
    HAPPENED.load(Ordering::Relaxed)
}

/// Keeps one mapping from ending the process.
#[derive(Debug)]
pub(super) struct Guard(usize);

impl Guard {
    /// A guard for a mapping that is about to be made; `None` when there are too many.
    pub(super) fn new() -> Option<Self> {
        let take = |watched: &Watched| !watched.is_taken.swap(true, Ordering::Acquire);
        let guard = Self(WATCHED.iter().position(take)?);
        catch()?;
        Some(guard)
    }

    /// Watches the mapping, which nobody has touched yet.
    pub(super) fn watch(&self, start: NonNull<u8>, len: usize) {
        let watched = &WATCHED[self.0];
        watched.has_vanished.store(false, Ordering::Relaxed);
        watched.len.store(len, Ordering::Relaxed);
        watched.start.store(start.as_ptr() as usize, Ordering::Release);
    }

    /// Whether its memory is gone.
    pub(super) fn has_vanished(&self) -> bool {
        WATCHED[self.0].has_vanished.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        WATCHED[self.0].start.store(0, Ordering::Relaxed);
        WATCHED[self.0].is_taken.store(false, Ordering::Release);
    }
}

/// Installs the handler, once; `None` when the system refuses.
#[expect(unsafe_code, reason = "a signal handler")]
fn catch() -> Option<()> {
    static CAUGHT: OnceLock<bool> = OnceLock::new();
    let is_caught = CAUGHT.get_or_init(|| {
        let mut before = MaybeUninit::zeroed();
        // SAFETY: an all-zero `sigaction` is a valid one, and the handler does only what a handler may.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            if libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()) != 0 {
                return false;
            }
            let _ = BEFORE.set(before.assume_init());
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) == 0
        }
    });
    is_caught.then_some(())
}

/// Puts empty pages where a watched mapping was. Anything else is for whoever was there before us.
///
/// Does what a handler may: atomics, and system calls that touch no `errno`.
#[expect(unsafe_code, reason = "a signal handler")]
extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid `siginfo_t` whose address is the one that was touched.
    let touched = unsafe { (*info).si_addr() } as usize;
    for watched in &WATCHED {
        let start = watched.start.load(Ordering::Acquire);
        let len = watched.len.load(Ordering::Relaxed);
        if start == 0 || touched < start || touched - start >= len {
            continue;
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: these pages are the mapping's own, and its users expect any bytes there.
        let replaced = unsafe { mmap_anonymous(start as *mut _, len, prot, flags) };
        if replaced.is_ok() {
            watched.has_vanished.store(true, Ordering::Relaxed);
            HAPPENED.store(true, Ordering::Relaxed);
            return;
        }
    }
    // The instruction is tried again, and this time it is not for us.
    if let Some(before) = BEFORE.get() {
        // SAFETY: what the system once gave us as an action is one.
        unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{MemfdFlags, memfd_create};

    use crate::guest_memory::GuestMemory;

    #[test]
    fn memory_that_is_taken_away_reads_as_zeros_and_is_noticed() {
        let file = || {
            let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
            file.set_len(1 << 20).unwrap();
            file
        };
        let (taken, kept) = (file(), file());
        let memory = GuestMemory::default().with(0, 1 << 20, &taken, 0).unwrap();
        let other = GuestMemory::default().with(0, 1 << 20, &kept, 0).unwrap();
        for memory in [&memory, &other] {
            let view = memory.view(memory.piece(0x8000, 4).unwrap());
            view.write(b"full").unwrap();
            assert_eq!(view.bytes(0), Some(*b"full"));
        }
        taken.set_len(4096).unwrap();
        assert_eq!(memory.view(memory.piece(0x8000, 4).unwrap()).bytes(0), Some([0; 4]));
        assert!(memory.has_vanished() && !other.has_vanished());
        assert_eq!(other.view(other.piece(0x8000, 4).unwrap()).bytes(0), Some(*b"full"));
        drop(memory);
        let again = GuestMemory::default().with(0, 1 << 20, &file(), 0).unwrap();
        assert!(!again.has_vanished());
    }
}
