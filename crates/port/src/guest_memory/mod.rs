//! A guest's memory, mapped into ours.
//!
//! The guest may change any byte of it at any time, and its VMM may even take it away ([`vanishing`]). So there
//! are no references to it: bytes are copied in and out through a [`View`], each of which is checked against the
//! mapping when it is made. What is decided upon is copied first and read from the copy.

mod dirty;
mod vanishing;

use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering, compiler_fence};

use rustix::fs::{SealFlags, fcntl_get_seals, fstat, fstatfs};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

pub(crate) use dirty::DirtyLog;
use vanishing::Guard;

/// Where `memfd_create` files and `/dev/shm` live, and where huge pages do (statfs(2)). Files of other kinds could
/// make us wait for their disk, or for another process.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// What comes near at once when a byte is asked for.
pub(crate) const CACHE_LINE_BYTES: usize = 64;

/// More of one buffer than this is not asked for before it is needed: longer copies run fast enough by themselves.
const PREFETCH_BYTES: usize = 2048;

/// Why memory was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error("the memory is no shared memory: use a memfd, a file in /dev/shm, or huge pages")]
    NotShared,
    #[error("the memory ends at {has} bytes, and {wanted} were announced")]
    TooShort { has: u64, wanted: u64 },
    #[error("two regions overlap, or one has no or too many bytes")]
    BadPlace,
    #[error("a region that is not there was taken away")]
    NoSuchRegion,
    #[error("the log of written pages is too short for the guest's memory")]
    LogTooShort,
    #[error("more memory that could vanish is lent than can be watched")]
    TooMuch,
    #[error("cannot map the memory")]
    Map(#[from] Errno),
}

/// Everything that a VMM lends, in the order of the guest's addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct GuestMemory {
    regions: Arc<[Region]>,
    /// Where it is noted what we write, while the guest migrates.
    log: Option<Arc<DirtyLog>>,
}

/// A run of the guest's memory that is one run of ours, too.
#[derive(Clone, Debug)]
struct Region {
    /// Where the guest sees it.
    start: u64,
    len: usize,
    /// Where we see it, inside of the mapping.
    host: NonNull<u8>,
    mapping: Arc<Mapping>,
}

/// A run of bytes in one region. It means nothing without the memory that it was found in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    region: u32,
    offset: usize,
    len: usize,
}

/// Bytes of the guest's memory, which may change while they are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    start: NonNull<u8>,
    len: usize,
    _memory: PhantomData<&'a GuestMemory>,
}

/// Pages that are ours to touch, given back when this is dropped.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// For pages of a file that may become shorter.
    guard: Option<Guard>,
}

#[expect(unsafe_code, reason = "the pages belong to the whole process")]
// SAFETY: a mapping is only a range of pages; whoever touches them does so through views, from any thread.
unsafe impl Send for Mapping {}
#[expect(unsafe_code, reason = "the pages belong to the whole process")]
// SAFETY: as above; nothing in it changes while it lives.
unsafe impl Sync for Mapping {}
#[expect(unsafe_code, reason = "it points into its mapping, which it keeps")]
// SAFETY: as for `Mapping`, into which `host` points.
unsafe impl Send for Region {}
#[expect(unsafe_code, reason = "it points into its mapping, which it keeps")]
// SAFETY: as for `Mapping`.
unsafe impl Sync for Region {}

impl GuestMemory {
    /// This memory, and `len` bytes of `file` from `file_offset` on, which the guest sees at `start`.
    pub(crate) fn with(&self, start: u64, len: u64, file: &File, file_offset: u64) -> Result<Self, MemoryError> {
        let bytes = usize::try_from(len).map_err(|_| MemoryError::BadPlace)?;
        let end = start.checked_add(len).filter(|_| len > 0).ok_or(MemoryError::BadPlace)?;
        let at = self.regions.partition_point(|region| region.start < start);
        let before = at.checked_sub(1).map(|index| &self.regions[index]);
        let touches_before = before.is_some_and(|region| region.start + region.len as u64 > start);
        if touches_before || self.regions.get(at).is_some_and(|region| region.start < end) {
            return Err(MemoryError::BadPlace);
        }
        let (mapping, lead) = Mapping::of_file(file, file_offset, len)?;
        let mut regions = self.regions.to_vec();
        let host = mapping.at(lead, bytes).ok_or(MemoryError::BadPlace)?;
        regions.insert(at, Region { start, len: bytes, host, mapping: Arc::new(mapping) });
        Ok(Self { regions: regions.into(), log: self.log.clone() })
    }

    /// This memory without the region of `len` bytes at `start`.
    pub(crate) fn without(&self, start: u64, len: u64) -> Result<Self, MemoryError> {
        let is_it = |region: &Region| region.start == start && region.len as u64 == len;
        let at = self.regions.iter().position(is_it).ok_or(MemoryError::NoSuchRegion)?;
        let mut regions = self.regions.to_vec();
        regions.remove(at);
        Ok(Self { regions: regions.into(), log: self.log.clone() })
    }

    /// This memory, of which written pages are marked in `log`, or nowhere.
    pub(crate) fn logged_to(mut self, log: Option<Arc<DirtyLog>>) -> Result<Self, MemoryError> {
        let end = self.regions.last().map_or(0, |region| region.start + region.len as u64);
        if log.as_ref().is_some_and(|log| !log.covers(end)) {
            return Err(MemoryError::LogTooShort);
        }
        self.log = log;
        Ok(self)
    }

    /// Memory of our own, for fuzz targets.
    pub(crate) fn anonymous(ranges: &[(u64, usize)]) -> Result<Self, MemoryError> {
        let region = |&(start, len): &(u64, usize)| {
            let mapping = Mapping::anonymous(len)?;
            Ok(Region { start, len, host: mapping.start, mapping: Arc::new(mapping) })
        };
        let regions: Result<_, MemoryError> = ranges.iter().map(region).collect();
        Ok(Self { regions: regions?, log: None })
    }

    /// The `len` bytes at the guest's address `addr`, where they are in one piece.
    #[inline]
    pub(crate) fn piece(&self, addr: u64, len: usize) -> Option<Piece> {
        let piece = self.piece_of_at_most(addr, len)?;
        (piece.len == len).then_some(piece)
    }

    /// Appends the `len` bytes at the guest's address `addr` to `pieces`, cut where regions meet; `None`, and nothing
    /// that counts, where there is no memory.
    #[inline]
    pub(crate) fn pieces(&self, mut addr: u64, mut len: usize, pieces: &mut Vec<Piece>) -> Option<()> {
        while len > 0 {
            let piece = self.piece_of_at_most(addr, len)?;
            pieces.push(piece);
            len -= piece.len;
            addr = addr.checked_add(piece.len as u64)?;
        }
        Some(())
    }

    /// The bytes at `addr` up to the end of their region, at most `len`.
    #[inline]
    fn piece_of_at_most(&self, addr: u64, len: usize) -> Option<Piece> {
        // A guest has a handful of regions: looking through them is faster than anything clever.
        for (region, number) in self.regions.iter().zip(0..) {
            let offset = addr.wrapping_sub(region.start);
            if offset < region.len as u64 {
                let offset = offset as usize;
                return Some(Piece { region: number, offset, len: len.min(region.len - offset) });
            }
        }
        None
    }

    /// The bytes of a piece that was found in this memory.
    #[inline]
    pub(crate) fn view(&self, piece: Piece) -> View<'_> {
        let region = self.regions.get(piece.region as usize);
        let region = region.filter(|region| piece.offset <= region.len && piece.len <= region.len - piece.offset);
        let Some(region) = region else { return View::EMPTY }; // found in another memory
        #[expect(unsafe_code, reason = "a place inside of a mapping")]
        // SAFETY: `host` is followed by `region.len` mapped bytes, and the offset is not behind them.
        let start = unsafe { region.host.add(piece.offset) };
        View { start, len: piece.len, _memory: PhantomData }
    }

    /// Notes that the first `len` bytes of a piece were written.
    #[inline]
    pub(crate) fn mark(&self, piece: Piece, len: usize) {
        if let Some(log) = &self.log
            && let Some(region) = self.regions.get(piece.region as usize)
        {
            log.mark(region.start.saturating_add(piece.offset as u64), len);
        }
    }

    /// Notes that `len` bytes at the guest's address `addr` were written.
    #[inline]
    pub(crate) fn mark_at(&self, addr: u64, len: usize) {
        if let Some(log) = &self.log {
            log.mark(addr, len);
        }
    }

    /// How many regions there are.
    pub(crate) fn count(&self) -> usize {
        self.regions.len()
    }

    /// Whether the VMM has taken some of it away. What was read since then are zeros.
    #[inline]
    pub(crate) fn has_vanished(&self) -> bool {
        vanishing::happened()
            && (self.regions.iter().any(|region| region.mapping.has_vanished())
                || self.log.as_ref().is_some_and(|log| log.has_vanished()))
    }

    /// Lets go of the pages that were touched, which otherwise stay on our account as long as the guest lives. The
    /// memory itself stays as it is, and comes back page by page when it is touched again.
    pub(crate) fn untouch(&self) {
        for mapping in self.regions.iter().map(|region| &region.mapping).filter(|mapping| !mapping.has_vanished()) {
            #[expect(unsafe_code, reason = "the kernel is told about a mapping")]
            // SAFETY: the range is a live shared mapping of a file, of which this changes no byte (madvise(2):
            // "subsequent accesses of pages in the range will succeed" and find the file's contents).
            let _ = unsafe { madvise(mapping.start.as_ptr().cast(), mapping.len, Advice::LinuxDontNeed) };
        }
    }
}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset` on; also says how many bytes come before them, for a mapping begins
    /// and ends where a page does.
    fn of_file(file: &File, offset: u64, len: u64) -> Result<(Self, usize), MemoryError> {
        let wanted = offset.checked_add(len).ok_or(MemoryError::BadPlace)?;
        let system = fstatfs(file)?;
        if ![TMPFS_MAGIC, HUGETLBFS_MAGIC].contains(&(system.f_type as u64)) {
            return Err(MemoryError::NotShared);
        }
        let has = u64::try_from(fstat(file)?.st_size).unwrap_or(0);
        if has < wanted {
            return Err(MemoryError::TooShort { has, wanted });
        }
        let page = u64::try_from(system.f_bsize).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096);
        let lead = offset % page;
        let len = (lead + len).checked_next_multiple_of(page).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|len| isize::try_from(*len).is_ok()).ok_or(MemoryError::BadPlace)?;
        let can_shrink = !fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        let guard = if can_shrink { Some(Guard::new().ok_or(MemoryError::TooMuch)?) } else { None };
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        #[expect(unsafe_code, reason = "new pages in our address space")]
        // SAFETY: the kernel chooses a place where nothing is.
        let start = unsafe { mmap(ptr::null_mut(), len, prot, flags, file.as_fd(), offset - lead)? };
        let start = NonNull::new(start.cast()).ok_or(MemoryError::BadPlace)?;
        if let Some(guard) = &guard {
            guard.watch(start, len);
        }
        Ok((Self { start, len, guard }, lead as usize))
    }

    fn anonymous(len: usize) -> Result<Self, MemoryError> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        #[expect(unsafe_code, reason = "new pages in our address space")]
        // SAFETY: the kernel chooses a place where nothing is.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, flags)? };
        Ok(Self { start: NonNull::new(start.cast()).ok_or(MemoryError::BadPlace)?, len, guard: None })
    }

    /// The place of `len` bytes, `offset` from the start, if they are inside.
    fn at(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset > self.len || len > self.len - offset {
            return None;
        }
        #[expect(unsafe_code, reason = "a place inside of the mapping")]
        // SAFETY: the offset was just checked against the mapping's length.
        Some(unsafe { self.start.add(offset) })
    }

    fn has_vanished(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::has_vanished)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        drop(self.guard.take()); // first: another mapping may get the place at once
        #[expect(unsafe_code, reason = "pages of our address space go")]
        // SAFETY: the pages are this mapping's own, and views, which borrow the memory, are gone.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A number at any address.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned(u64);

/// Copies few bytes, as heads of frames have them: two copies of a fixed size that overlap cost less than a call that
/// must find out how many there are.
///
/// # Safety
/// Both places have `len` bytes, and they do not overlap.
#[inline]
#[expect(unsafe_code, reason = "a copy")]
unsafe fn copy_short(source: *const u8, target: *mut u8, len: usize) {
    macro_rules! ends {
        ($size:literal) => {{
            // SAFETY: both ends of `$size` bytes lie inside, for `len` is not less.
            unsafe {
                let last = len - $size;
                ptr::copy_nonoverlapping(source, target, $size);
                ptr::copy_nonoverlapping(source.add(last), target.add(last), $size);
            }
        }};
    }
    match len {
        16..32 => ends!(16),
        32..64 => ends!(32),
        64..=128 => ends!(64),
        // SAFETY: as the caller promises.
        _ => unsafe { ptr::copy_nonoverlapping(source, target, len) },
    }
}

impl Piece {
    /// How many bytes it has.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Cuts its first `count` bytes off.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        let count = count.min(self.len);
        self.offset += count;
        self.len -= count;
    }
}

impl<'a> View<'a> {
    const EMPTY: Self = Self { start: NonNull::dangling(), len: 0, _memory: PhantomData };

    /// How many bytes there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes from `at` on; none when it is behind the end.
    #[inline]
    pub(crate) fn skip(self, at: usize) -> Self {
        let at = at.min(self.len);
        #[expect(unsafe_code, reason = "a place inside of the view")]
        // SAFETY: `at` is not behind the view's end.
        let start = unsafe { self.start.add(at) };
        Self { start, len: self.len - at, _memory: PhantomData }
    }

    /// Fills `target` with a private copy; `None` when there are fewer bytes.
    #[inline]
    pub(crate) fn read(&self, target: &mut [u8]) -> Option<()> {
        if target.len() > self.len {
            return None;
        }
        #[expect(unsafe_code, reason = "memory that the guest shares")]
        // SAFETY: both places have that many bytes, and `target`, to which there is a unique reference, is not in
        // the guest's memory. The guest may write meanwhile: then the copy is of its making, and any bytes are `u8`s.
        unsafe {
            copy_short(self.start.as_ptr(), target.as_mut_ptr(), target.len());
        }
        compiler_fence(Ordering::SeqCst); // whatever is read from the copy is not read from the guest again
        Some(())
    }

    /// A private copy of the `N` bytes at `at`.
    #[inline]
    pub(crate) fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.skip(at).read(&mut bytes)?;
        Some(bytes)
    }

    /// The little-endian number of 64 bits at `at`, read at once and only once.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> Option<u64> {
        let place = self.skip(at);
        if place.len < size_of::<u64>() {
            return None;
        }
        #[expect(unsafe_code, reason = "memory that the guest shares")]
        // SAFETY: the place has that many bytes, and `Unaligned` may be anywhere.
        let Unaligned(word) = unsafe { place.start.as_ptr().cast::<Unaligned>().read_volatile() };
        Some(u64::from_le(word))
    }

    /// Writes `source` at the start; `None`, and nothing is written, when it does not fit.
    #[inline]
    pub(crate) fn write(&self, source: &[u8]) -> Option<()> {
        if source.len() > self.len {
            return None;
        }
        #[expect(unsafe_code, reason = "memory that the guest shares")]
        // SAFETY: as in `read`, the other way.
        unsafe {
            copy_short(source.as_ptr(), self.start.as_ptr(), source.len());
        }
        Some(())
    }

    /// Writes `source` at the start unless it stands there already: what is only read stays in the caches of both
    /// processors, and what is written must cross each time.
    #[inline]
    pub(crate) fn update<const N: usize>(&self, source: &[u8; N]) {
        if self.bytes::<N>(0).is_some_and(|bytes| bytes != *source) {
            self.write(source);
        }
    }

    /// Copies as many bytes as both have; returns how many. The same memory may have been lent by two VMMs.
    #[inline]
    pub(crate) fn copy_to(&self, target: View<'_>) -> usize {
        let count = self.len.min(target.len);
        #[expect(unsafe_code, reason = "memory that two guests share")]
        // SAFETY: both places have that many bytes; they may overlap.
        unsafe {
            ptr::copy(self.start.as_ptr(), target.start.as_ptr(), count);
        }
        count
    }

    /// The little-endian number at `at`; `None` where there is none, or not at an even address.
    #[inline]
    pub(crate) fn load(&self, at: usize, order: Ordering) -> Option<u16> {
        Some(u16::from_le(self.number(at)?.load(order)))
    }

    /// Writes the little-endian number at `at`.
    #[inline]
    pub(crate) fn store(&self, at: usize, value: u16, order: Ordering) -> Option<()> {
        self.number(at)?.store(value.to_le(), order);
        Some(())
    }

    /// Writes the little-endian number at `at`, before anything that is read after it with [`Ordering::SeqCst`].
    #[inline]
    pub(crate) fn swap(&self, at: usize, value: u16) -> Option<()> {
        self.number(at)?.swap(value.to_le(), Ordering::SeqCst);
        Some(())
    }

    /// Sets bits of the byte at `at`, after all that was written before; `None` where there is none.
    #[inline]
    pub(crate) fn set_bits(&self, at: usize, bits: u8) -> Option<()> {
        let place = self.skip(at);
        if place.len == 0 {
            return None;
        }
        #[expect(unsafe_code, reason = "bits that the VMM shares")]
        // SAFETY: the place was checked, lives as long as the memory, and is changed by both sides atomically only.
        unsafe { AtomicU8::from_ptr(place.start.as_ptr()) }.fetch_or(bits, Ordering::SeqCst);
        Some(())
    }

    #[inline]
    fn number(&self, at: usize) -> Option<&'a AtomicU16> {
        let place = self.skip(at);
        let pointer: *mut u16 = place.start.as_ptr().cast();
        if place.len < size_of::<u16>() || !pointer.is_aligned() {
            return None;
        }
        #[expect(unsafe_code, reason = "a number that the guest shares")]
        // SAFETY: the place was checked, lives as long as the memory, and is touched by us atomically only.
        Some(unsafe { AtomicU16::from_ptr(pointer) })
    }

    /// Asks for the bytes at `at` to come nearer, for they will be read soon.
    #[inline]
    pub(crate) fn prefetch(&self, at: usize) {
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "a hint about memory")]
        // SAFETY: a prefetch changes nothing and never faults (Intel SDM, PREFETCHh).
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.skip(at).start.as_ptr().cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    /// The same for all bytes, of the longest frame that is not segmented at most.
    #[inline]
    pub(crate) fn prefetch_all(&self) {
        for at in (0..self.len.min(PREFETCH_BYTES)).step_by(CACHE_LINE_BYTES) {
            self.prefetch(at);
        }
    }

    /// Asks for the first `len` bytes as our own, see [`Self::prefetch_to_write`].
    #[inline]
    pub(crate) fn prefetch_all_to_write(&self, len: usize) {
        for at in (0..self.len.min(len).min(PREFETCH_BYTES)).step_by(CACHE_LINE_BYTES) {
            self.prefetch_to_write(at);
        }
    }

    /// Asks for the bytes at `at` as our own, for they will be written soon: the guest has touched them last, so its
    /// processor has them, and a write would wait until it gives them up.
    #[inline]
    pub(crate) fn prefetch_to_write(&self, at: usize) {
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "a hint about memory")]
        // SAFETY: a prefetch changes nothing and never faults; processors without it do nothing (Intel SDM, PREFETCHW).
        unsafe {
            let place = self.skip(at).start.as_ptr();
            std::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }
}
