//! The rings that an AF_XDP socket shares with the kernel (the kernel's Documentation/networking/af_xdp.rst): each has one
//! producer and one consumer, and the kernel is one of them.

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use rustix::net::xdp::{XdpRingFlags, XdpRingOffset};

/// Pages that are mapped as long as this lives.
pub(super) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

#[expect(unsafe_code, reason = "the pages belong to the whole process")]
// SAFETY: a mapping is a range of pages, whichever thread owns it.
unsafe impl Send for Pages {}

impl Pages {
    #[expect(unsafe_code, reason = "memory for the kernel to write into")]
    pub(super) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)? };
        Self::at(start.cast(), len)
    }

    #[expect(unsafe_code, reason = "memory that the kernel shares")]
    fn of(socket: BorrowedFd<'_>, len: usize, offset: u64) -> io::Result<Self> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, socket, offset)? };
        Self::at(start.cast(), len)
    }

    fn at(start: *mut u8, len: usize) -> io::Result<Self> {
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    pub(super) fn address(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }

    /// Bytes that the kernel does not touch now, if they are all inside.
    #[expect(unsafe_code, reason = "memory that the kernel writes at other times")]
    pub(super) fn bytes(&self, at: usize, len: usize) -> Option<&[u8]> {
        at.checked_add(len).filter(|end| *end <= self.len)?;
        // SAFETY: inside of the mapping, as was checked. The kernel has handed the bytes over through a ring, and gets them
        // back only by `&mut` of the port that owns us; nobody else in this process writes them meanwhile.
        Some(unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(at), len) })
    }

    /// The same, to write.
    #[expect(unsafe_code, reason = "memory that the kernel reads at other times")]
    pub(super) fn bytes_mut(&mut self, at: usize, len: usize) -> Option<&mut [u8]> {
        at.checked_add(len).filter(|end| *end <= self.len)?;
        // SAFETY: as above, and `&mut self` keeps other references away.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(at), len) })
    }
}

impl Drop for Pages {
    #[expect(unsafe_code, reason = "it was mapped by hand")]
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// One side of a ring with entries of type `T`, which are plain data. Indices run freely; the ring's size is a power of two.
pub(super) struct Ring<T> {
    _pages: Pages,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// Our own index: how far we are, told to the kernel or not.
    mine: u32,
    /// The kernel's, when it was read last.
    theirs: u32,
    _entries: PhantomData<T>,
}

#[expect(unsafe_code, reason = "it points into its own pages")]
// SAFETY: as for `Pages`, into which all pointers point.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// Maps the ring of `size` entries at `page_offset` of the socket.
    #[expect(unsafe_code, reason = "memory that the kernel shares")]
    pub(super) fn map(socket: BorrowedFd<'_>, page_offset: u64, offsets: XdpRingOffset, size: u32) -> io::Result<Self> {
        let flags = offsets.flags.ok_or(io::ErrorKind::Unsupported)?; // Linux 5.4
        let inside = |offset: u64| usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let entries = inside(offsets.desc)?;
        let len = entries + size as usize * size_of::<T>();
        let [producer, consumer, flags] = [inside(offsets.producer)?, inside(offsets.consumer)?, inside(flags)?];
        if [producer, consumer, flags].iter().any(|offset| offset % 4 != 0 || offset + 4 > len) || entries % 8 != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let pages = Pages::of(socket, len, page_offset)?;
        let at = |offset: usize| {
            // SAFETY: inside of the mapping, as was checked.
            unsafe { pages.start.add(offset) }
        };
        let ring = Self {
            producer: at(producer).cast(),
            consumer: at(consumer).cast(),
            flags: at(flags).cast(),
            entries: at(entries).cast(),
            _pages: pages,
            size,
            mine: 0,
            theirs: 0,
            _entries: PhantomData,
        };
        Ok(ring)
    }

    #[expect(unsafe_code, reason = "memory that the kernel shares")]
    fn word(&self, word: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: inside of our pages, and aligned, as `map` has checked; the kernel touches it only atomically.
        unsafe { word.as_ref() }
    }

    fn entry(&self, index: u32) -> *mut T {
        self.entries.as_ptr().wrapping_add((index & (self.size - 1)) as usize)
    }

    /// Whether the kernel asks to be called, or else it does nothing.
    pub(super) fn wants_wakeup(&self) -> bool {
        self.word(self.flags).load(Ordering::Relaxed) & XdpRingFlags::XDP_RING_NEED_WAKEUP.bits() != 0
    }

    /// Of a ring that we fill: how many more entries there is room for.
    pub(super) fn room(&mut self) -> u32 {
        let left = self.size - self.mine.wrapping_sub(self.theirs);
        if left > 0 {
            return left;
        }
        self.theirs = self.word(self.consumer).load(Ordering::Acquire);
        self.size.saturating_sub(self.mine.wrapping_sub(self.theirs))
    }

    /// Of a ring that we fill: how many entries the kernel has not taken yet.
    pub(super) fn pending(&mut self) -> u32 {
        self.theirs = self.word(self.consumer).load(Ordering::Acquire);
        self.mine.wrapping_sub(self.theirs).min(self.size)
    }

    /// Puts an entry into a ring that has room; the kernel sees it after [`Self::publish`].
    #[expect(unsafe_code, reason = "memory that the kernel shares")]
    pub(super) fn push(&mut self, entry: T) {
        debug_assert!(self.mine.wrapping_sub(self.theirs) < self.size, "there is room");
        // SAFETY: `entry` stays inside of the entries, and this one is ours until it is published.
        unsafe { self.entry(self.mine).write(entry) };
        self.mine = self.mine.wrapping_add(1);
    }

    /// Shows the kernel what was pushed.
    pub(super) fn publish(&self) {
        self.word(self.producer).store(self.mine, Ordering::Release);
    }

    /// Takes the next entry of a ring that the kernel fills; it gets the room back with [`Self::give_back`].
    #[expect(unsafe_code, reason = "memory that the kernel shares")]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.theirs == self.mine {
            self.theirs = self.word(self.producer).load(Ordering::Acquire);
            if self.theirs == self.mine {
                return None;
            }
        }
        // SAFETY: `entry` stays inside of the entries, and the kernel has published this one.
        let entry = unsafe { self.entry(self.mine).read() };
        self.mine = self.mine.wrapping_add(1);
        Some(entry)
    }

    /// Whether the kernel has published more than was taken.
    pub(super) fn has_more(&self) -> bool {
        self.word(self.producer).load(Ordering::Acquire) != self.mine
    }

    /// Gives the kernel back the room of what was popped.
    pub(super) fn give_back(&self) {
        self.word(self.consumer).store(self.mine, Ordering::Release);
    }
}
