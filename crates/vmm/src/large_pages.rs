//! Large pages for a guest's memory. A memfd has small ones on most hosts, each of which costs the guest an exit when it
//! first touches it, and every look at its address more levels of two sets of page tables. The kernel can gather the
//! small pages of 2 MiB into a large one when it is asked to (`MADV_COLLAPSE` of madvise(2), Linux 6.1).
//!
//! What a kernel needs as it begins is gathered before, and the rest when half of a piece is in use: a guest that uses
//! little of its memory takes little more of the host's.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, io};

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};

use crate::bus::lock;
use crate::memory::{GRANULE_BYTES, GuestMemory};

/// Where an administrator says whether there are large pages at all.
const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// A kernel puts what it needs at first at the end of memory: its list of pages, its tables, and its first programs.
const END_BYTES: u64 = 64 << 20;
/// What the list of pages takes of each page.
const END_SHARE: u64 = 64;
/// How long the guest's use of memory is not looked at: at first, and when it did not change for a while.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(32);
/// How many small pages a large one has.
const SMALL_PAGES: usize = GRANULE_BYTES as usize / 4096;
/// How many pieces are gathered in one go: each has the guest wait for it if it is about to use it.
const BATCH: usize = 16;

/// Whether this host gives large pages to who asks.
pub(crate) fn allowed() -> bool {
    fs::read_to_string(SETTING).is_ok_and(|setting| !setting.contains("[never]"))
}

/// Gathers a guest's pages; from a thread of its own, once that was started, until it is dropped.
#[derive(Debug)]
pub(crate) struct Gatherer {
    pieces: Pieces,
    thread: Option<JoinHandle<()>>,
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Gatherer {
    /// For this memory.
    pub(crate) fn new(memory: GuestMemory) -> Self {
        Self { pieces: Pieces::of(memory), thread: None, ended: Arc::default() }
    }

    /// Gathers the pages of a range that is about to be used, before the guest runs.
    pub(crate) fn gather_now(&mut self, range: &Range<u64>) {
        for index in 0..self.pieces.list.len() {
            let at = self.pieces.list[index].at;
            if at < range.end && range.start < at + GRANULE_BYTES && self.pieces.first(index).is_err() {
                return;
            }
        }
    }

    /// Gathers the end of memory, before the guest runs.
    pub(crate) fn gather_end(&mut self) {
        let bytes = self.pieces.memory.iter().map(|region| region.len()).sum::<u64>();
        let end = self.pieces.memory.last_addr().0 + 1;
        self.gather_now(&(end.saturating_sub(END_BYTES + bytes / END_SHARE)..end));
    }

    /// Goes on as the guest runs; `prepare` runs first in the new thread, and jails it.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn start(mut self, prepare: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let mut pieces = std::mem::replace(&mut self.pieces, Pieces::of(GuestMemory::new()));
        let ended = self.ended.clone();
        let run = move || {
            prepare();
            let mut pause = SOON;
            while !waited(&ended, pause) {
                match pieces.gather_used() {
                    Ok(0) => pause = (pause * 2).min(LATER),
                    Ok(_) => pause = SOON,
                    Err(_) => return,
                }
            }
        };
        self.thread = Some(std::thread::Builder::new().name("pages".into()).stack_size(128 << 10).spawn(run)?);
        Ok(self)
    }
}

impl Drop for Gatherer {
    fn drop(&mut self) {
        *lock(&self.ended.0) = true;
        self.ended.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // What it panicked about was said; there is nothing to be done here.
            let _ = thread.join();
        }
    }
}

/// Waits; whether the end came meanwhile.
fn waited((ended, changed): &(Mutex<bool>, Condvar), pause: Duration) -> bool {
    let waiting = changed.wait_timeout_while(lock(ended), pause, |ended| !*ended);
    *waiting.unwrap_or_else(std::sync::PoisonError::into_inner).0
}

/// Pieces of memory of a large page's size each.
#[derive(Debug)]
struct Pieces {
    memory: GuestMemory,
    list: Vec<Piece>,
    /// How much memory there was when the pieces were last looked at, in blocks.
    blocks: u64,
    /// Where the next look begins.
    next: usize,
}

#[derive(Debug)]
struct Piece {
    at: u64,
    gathered: bool,
}

impl Pieces {
    fn of(memory: GuestMemory) -> Self {
        let pieces = |start: u64, len: u64| (start..start + len).step_by(GRANULE_BYTES as usize);
        let list = memory.iter().flat_map(|region| pieces(region.start_addr().0, region.len()));
        let list = list.map(|at| Piece { at, gathered: false }).collect();
        Self { memory, list, blocks: 0, next: 0 }
    }

    /// Gathers pieces of which half is in use, a batch of them at most; how many that were.
    ///
    /// # Errors
    /// When this host never will.
    fn gather_used(&mut self) -> io::Result<usize> {
        let blocks = self.blocks()?;
        if blocks == self.blocks && self.next == 0 {
            return Ok(0);
        }
        let mut gathered = 0;
        while self.next < self.list.len() {
            let index = self.next;
            self.next += 1;
            if !self.list[index].gathered && self.is_used(self.list[index].at) {
                self.gather(index)?;
                gathered += 1;
                if gathered == BATCH {
                    return Ok(gathered);
                }
            }
        }
        (self.next, self.blocks) = (0, self.blocks()?);
        Ok(gathered)
    }

    /// How much memory the guest has taken, in blocks.
    fn blocks(&self) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt as _;
        match self.memory.iter().next().and_then(|region| region.file_offset()) {
            Some(file) => Ok(file.file().metadata()?.blocks()),
            None => Ok(0),
        }
    }

    /// Gathers a piece that nobody uses yet. One without any page gets its first, as Linux 6.1 makes nothing of nothing.
    fn first(&mut self, index: usize) -> io::Result<()> {
        let at = self.list[index].at;
        if self.resident(at).iter().all(|page| page & 1 == 0) {
            let _ = self.memory.write_obj(0_u8, GuestAddress(at));
        }
        self.gather(index)
    }

    /// Makes a piece one page. A piece for which the host has no such page now stays as it is.
    ///
    /// # Errors
    /// When this host never will.
    #[expect(unsafe_code, reason = "rustix does not know this advice")]
    fn gather(&mut self, index: usize) -> io::Result<()> {
        let at = GuestAddress(self.list[index].at);
        if std::mem::replace(&mut self.list[index].gathered, true) {
            return Ok(());
        }
        let Ok(place) = self.memory.get_host_address(at) else { return Ok(()) };
        // SAFETY: the piece is mapped for good, and the advice changes nothing of what is in it.
        let refused = unsafe { libc::madvise(place.cast(), GRANULE_BYTES as usize, MADV_COLLAPSE) } != 0;
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINVAL) if refused => Err(error),
            _ => Ok(()),
        }
    }

    fn is_used(&self, at: u64) -> bool {
        self.resident(at).iter().filter(|page| **page & 1 == 1).count() * 2 >= SMALL_PAGES
    }

    /// A byte for each page of a piece: whether there is one, in the lowest bit (mincore(2)).
    #[expect(unsafe_code, reason = "rustix has no mincore")]
    fn resident(&self, at: u64) -> Vec<u8> {
        let mut pages = vec![0; SMALL_PAGES];
        if let Ok(place) = self.memory.get_host_address(GuestAddress(at)) {
            // SAFETY: the piece is mapped for good, and there is a byte for each of its pages.
            unsafe { libc::mincore(place.cast(), GRANULE_BYTES as usize, pages.as_mut_ptr()) };
        }
        pages
    }
}

/// Advice 25 of madvise(2).
const MADV_COLLAPSE: libc::c_int = 25;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    const MIB: u64 = 1 << 20;

    /// How much of this memory lies in large pages of this process, in bytes.
    fn large(memory: &GuestMemory) -> u64 {
        let start = memory.get_host_address(GuestAddress(0)).expect("inside").addr();
        let maps = fs::read_to_string("/proc/self/smaps").expect("procfs");
        let own = maps.split_once(&format!("{start:x}-")).expect("a mapping").1;
        let line = own.lines().find_map(|line| line.strip_prefix("ShmemPmdMapped:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    fn touch(memory: &GuestMemory, range: Range<u64>) {
        for at in range.step_by(4096) {
            memory.write_obj(at, GuestAddress(at)).expect("inside");
        }
    }

    #[test]
    fn what_is_used_is_gathered_and_stays_what_it_is() {
        let memory = memory::map(&memory::create(256 * MIB).expect("memory")).expect("a mapping");
        let mut gatherer = Gatherer::new(memory.clone());
        touch(&memory, 16 * MIB..20 * MIB);
        gatherer.gather_now(&(16 * MIB..19 * MIB));
        gatherer.gather_now(&(20 * MIB..20 * MIB));
        gatherer.gather_end();
        touch(&memory, 188 * MIB..256 * MIB);
        let first = large(&memory);
        if first == 0 {
            eprintln!("this host has no large pages for memfds: nothing was checked");
            return;
        }
        assert_eq!(first, (4 + 64 + 4) * MIB, "what was loaded, and the end");
        assert_eq!(memory.read_obj::<u64>(GuestAddress(16 * MIB + 4096)).expect("inside"), 16 * MIB + 4096);

        touch(&memory, 32 * MIB..34 * MIB); // a whole piece
        touch(&memory, 40 * MIB..40 * MIB + 512 * 1024); // a quarter of one
        assert_eq!(gatherer.pieces.gather_used().expect("a host that can"), 1);
        assert_eq!(memory.read_obj::<u64>(GuestAddress(33 * MIB)).expect("inside"), 33 * MIB);
        assert_eq!(large(&memory), first + 2 * MIB);
        assert_eq!(gatherer.pieces.gather_used().expect("a host that can"), 0, "there is nothing new");
        touch(&memory, 64 * MIB..128 * MIB);
        let batches: Vec<_> = (0..3).map(|_| gatherer.pieces.gather_used().expect("a host that can")).collect();
        assert_eq!(batches, [16, 16, 0]);
    }

    #[test]
    fn a_thread_gathers_and_ends() {
        let memory = memory::map(&memory::create(64 * MIB).expect("memory")).expect("a mapping");
        let gatherer = Gatherer::new(memory).start(|| {}).expect("a thread");
        drop(gatherer);
    }
}
