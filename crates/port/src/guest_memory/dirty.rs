//! The log of a guest that migrates: a bitmap that its VMM shares, with one bit for each page that we have written
//! (QEMU, docs/interop/vhost-user, "Migration"). The VMM clears bits and copies those pages again, while the guest
//! runs. So a page is marked after it was written, never before: a mark that is cleared early is a write that is lost.

use std::fs::File;

use super::{GuestMemory, MemoryError, Piece, View};

/// What one bit stands for, whatever the size of pages is.
const PAGE_BYTES: u64 = 4096;

/// The pages that we have written since the VMM looked last.
#[derive(Debug)]
pub(crate) struct DirtyLog {
    bitmap: GuestMemory,
    all: Piece,
}

impl DirtyLog {
    /// A log of `len` bytes, from `offset` of `file` on.
    pub(crate) fn map(file: &File, offset: u64, len: u64) -> Result<Self, MemoryError> {
        Self::of(GuestMemory::default().with(0, len, file, offset)?)
    }

    /// A log in the first region of `bitmap`, for fuzz targets too.
    pub(crate) fn of(bitmap: GuestMemory) -> Result<Self, MemoryError> {
        let all = bitmap.piece_of_at_most(0, usize::MAX).ok_or(MemoryError::BadPlace)?;
        Ok(Self { bitmap, all })
    }

    /// Whether it has a bit for each byte before `end`.
    pub(super) fn covers(&self, end: u64) -> bool {
        end.div_ceil(PAGE_BYTES * 8) <= self.all.len() as u64
    }

    /// Marks the pages of `len` bytes that were written at the guest's address `addr`. What lies behind the log is
    /// nothing that its VMM asked for.
    #[cold]
    pub(super) fn mark(&self, addr: u64, len: usize) {
        let Some(last) = (len as u64).checked_sub(1).map(|more| addr.saturating_add(more) / PAGE_BYTES) else { return };
        let bits = self.view();
        for page in addr / PAGE_BYTES..=last {
            let Some(()) = usize::try_from(page / 8).ok().and_then(|at| bits.set_bits(at, 1 << (page % 8))) else {
                return;
            };
        }
    }

    /// Whether the page of `addr` is marked.
    pub(crate) fn is_marked(&self, addr: u64) -> bool {
        let page = addr / PAGE_BYTES;
        let byte = usize::try_from(page / 8).ok().and_then(|at| self.view().bytes::<1>(at));
        byte.is_some_and(|[bits]| bits >> (page % 8) & 1 != 0)
    }

    /// Whether the VMM has taken the log away.
    pub(super) fn has_vanished(&self) -> bool {
        self.bitmap.has_vanished()
    }

    fn view(&self) -> View<'_> {
        self.bitmap.view(self.all)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn memfd(len: u64) -> File {
        let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(len).unwrap();
        file
    }

    /// The pages that are marked in a log of 64 pages, which begins 8 bytes into its file.
    fn check(writes: &[(u64, usize)], pages: &[u64]) {
        let file = memfd(16);
        let log = DirtyLog::map(&file, 8, 8).unwrap();
        writes.iter().for_each(|(addr, len)| log.mark(*addr, *len));
        let mut bytes = [0; 16];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let [before, bits] = [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()));
        let marked: Vec<u64> = (0..64).filter(|page| bits >> page & 1 != 0).collect();
        assert_eq!((before, marked.as_slice()), (0, pages), "{writes:x?}");
        assert!((0..64).all(|page| log.is_marked(page * 4096 + 17) == pages.contains(&page)));
    }

    #[test]
    fn pages_that_were_written() {
        check(&[], &[]);
        check(&[(0, 0), (4096, 0)], &[]);
        check(&[(0, 1), (4095, 1)], &[0]);
        check(&[(4095, 2)], &[0, 1]);
        check(&[(0x8000, 4096)], &[8]);
        check(&[(0x8001, 4096)], &[8, 9]);
        check(&[(0x3_e000, 65_562)], &[62, 63]);
        check(&[(64 * 4096, 1), (u64::MAX, 1), (u64::MAX - 5, usize::MAX)], &[]);
    }

    #[test]
    fn a_log_that_is_too_short_for_the_memory_is_refused() {
        let memory = GuestMemory::default().with(0x10_0000, 65_536, &memfd(65_536), 0).unwrap();
        let log = |len| Some(Arc::new(DirtyLog::map(&memfd(64), 0, len).unwrap()));
        assert!(memory.clone().logged_to(log(34)).is_ok()); // 272 pages
        let refused = memory.logged_to(log(33));
        assert!(matches!(refused, Err(MemoryError::LogTooShort)), "{refused:?}");
        assert!(matches!(DirtyLog::map(&memfd(64), 60, 8), Err(MemoryError::TooShort { has: 64, wanted: 68 })));
        assert!(matches!(DirtyLog::map(&memfd(64), u64::MAX, 8), Err(MemoryError::BadPlace)));
        assert!(matches!(DirtyLog::map(&memfd(64), 0, 0), Err(MemoryError::BadPlace)));
    }

    #[test]
    fn a_log_that_is_taken_away_is_noticed() {
        let (file, len) = (memfd(1 << 20), 1 << 20);
        let memory = GuestMemory::default().with(0, 4096, &memfd(4096), 0).unwrap();
        let memory = memory.logged_to(Some(Arc::new(DirtyLog::map(&file, 0, len).unwrap()))).unwrap();
        memory.mark_at(0, 1);
        assert!(!memory.has_vanished());
        file.set_len(0).unwrap();
        memory.mark_at(0, 1);
        assert!(memory.has_vanished());
    }
}
