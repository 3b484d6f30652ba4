//! One queue of an interface: a socket, its rings, and the memory in which its frames lie.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size, set_xdp_umem_fill_ring_size,
    set_xdp_umem_reg, xdp_mmap_offsets, xdp_options,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpDescOptions, XdpOptionsFlags, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

use super::ring::{Pages, Ring};

/// Frames that wait at most, for each way.
const RING_FRAMES: u32 = 1024;
/// Room for a frame, and for what a driver puts before it: as much as the kernel allows.
const CHUNK_BYTES: usize = 4096;
/// What drivers may put before a frame: `XDP_PACKET_HEADROOM` of linux/bpf.h.
const HEADROOM_BYTES: usize = 256;

/// How long the kernel may take to let go of the queue of a process that has ended.
const LETTING_GO: Duration = Duration::from_secs(2);

/// The longest frame that there is room for.
pub(super) const LONGEST_FRAME_BYTES: usize = CHUNK_BYTES - HEADROOM_BYTES;

/// A queue of an interface.
pub(super) struct Queue {
    socket: OwnedFd,
    memory: Pages,
    received: Ring<XdpDesc>,
    /// Where the kernel puts frames that come.
    fill: Ring<u64>,
    sent: Ring<XdpDesc>,
    /// Frames that have left.
    completed: Ring<u64>,
    /// Chunks for frames that we send.
    free: Vec<u64>,
    /// Something was pushed that the kernel has not been shown, or has not been called for.
    unsent: bool,
}

impl Queue {
    /// Opens a queue of the interface with this number. Frames come once its program knows the socket.
    pub(super) fn open(interface: u32, queue: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)?;
        let memory = Pages::new(2 * RING_FRAMES as usize * CHUNK_BYTES)?;
        set_xdp_umem_reg(
            &socket,
            XdpUmemReg {
                addr: memory.address(),
                len: 2 * u64::from(RING_FRAMES) * CHUNK_BYTES as u64,
                chunk_size: CHUNK_BYTES as u32,
                headroom: 0,
                flags: XdpUmemRegFlags::empty(),
                tx_metadata_len: 0,
            },
        )?;
        set_xdp_umem_fill_ring_size(&socket, RING_FRAMES)?;
        set_xdp_umem_completion_ring_size(&socket, RING_FRAMES)?;
        set_xdp_rx_ring_size(&socket, RING_FRAMES)?;
        set_xdp_tx_ring_size(&socket, RING_FRAMES)?;
        let offsets = xdp_mmap_offsets(&socket)?;
        let fd = socket.as_fd();
        let mut fill = Ring::map(fd, XDP_UMEM_PGOFF_FILL_RING, offsets.fr, RING_FRAMES)?;
        let completed = Ring::map(fd, XDP_UMEM_PGOFF_COMPLETION_RING, offsets.cr, RING_FRAMES)?;
        let received = Ring::map(fd, XDP_PGOFF_RX_RING, offsets.rx, RING_FRAMES)?;
        let sent = Ring::map(fd, XDP_PGOFF_TX_RING, offsets.tx, RING_FRAMES)?;
        let chunk = |number: u32| u64::from(number) * CHUNK_BYTES as u64;
        (0..RING_FRAMES).for_each(|number| fill.push(chunk(number)));
        fill.publish();
        let free = (RING_FRAMES..2 * RING_FRAMES).map(chunk).collect();
        // Without copying where the driver can, and by a copy where it cannot.
        let address = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP, interface, queue);
        bind_once_free(&socket, &address)?;
        Ok(Self { socket, memory, received, fill, sent, completed, free, unsent: false })
    }

    /// Whether the driver reads and writes our memory itself.
    pub(super) fn is_zero_copy(&self) -> bool {
        xdp_options(&self.socket).is_ok_and(|options| options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    /// The next frame that came: where it lies.
    pub(super) fn next(&mut self) -> Option<Range<usize>> {
        let XdpDesc { addr, len, .. } = self.received.pop()?;
        let start = usize::try_from(addr).ok()?;
        Some(start..start.checked_add(len as usize)?)
    }

    /// Whether frames wait.
    pub(super) fn has_more(&self) -> bool {
        self.received.has_more()
    }

    /// The bytes of a frame that came and was not given back.
    pub(super) fn bytes(&self, frame: &Range<usize>) -> &[u8] {
        self.memory.bytes(frame.start, frame.len()).unwrap_or_default()
    }

    /// Gives the room of a frame back; the kernel sees it after [`Self::released`].
    pub(super) fn release(&mut self, frame: &Range<usize>) {
        if self.fill.room() > 0 {
            self.fill.push((frame.start / CHUNK_BYTES * CHUNK_BYTES) as u64);
        }
    }

    /// Shows the kernel what was given back.
    pub(super) fn released(&mut self) {
        self.received.give_back();
        self.fill.publish();
        if self.fill.wants_wakeup() {
            let _ = recv(&self.socket, &mut [0u8; 0], RecvFlags::DONTWAIT); // it has no other answer than frames
        }
    }

    /// Room for a frame to send, if there is any.
    pub(super) fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.free.is_empty() {
            self.reclaim();
        }
        if self.free.is_empty() && self.unsent {
            self.flush();
            self.reclaim();
        }
        if self.sent.room() == 0 {
            return None;
        }
        let chunk = self.free.pop()?;
        self.sent.push(XdpDesc { addr: chunk, len: len as u32, options: XdpDescOptions::empty() });
        self.unsent = true;
        self.memory.bytes_mut(usize::try_from(chunk).ok()?, len)
    }

    fn reclaim(&mut self) {
        while let Some(chunk) = self.completed.pop() {
            self.free.push(chunk);
        }
        self.completed.give_back();
    }

    /// Has the kernel send what was pushed.
    pub(super) fn flush(&mut self) {
        if !std::mem::take(&mut self.unsent) {
            return;
        }
        self.sent.publish();
        let mut pending = self.sent.pending();
        while pending > 0 && self.sent.wants_wakeup() {
            // Each call sends a few only, where the kernel copies.
            let called = send(&self.socket, &[], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            let left = self.sent.pending();
            let goes_on = matches!(called, Ok(_) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS)) && left < pending;
            if !goes_on {
                self.unsent = left > 0;
                break;
            }
            pending = left;
            if self.free.len() < RING_FRAMES as usize / 2 {
                self.reclaim(); // or the kernel has no place to say what has left
            }
        }
    }
}

/// Binds a socket to its queue. Of a process that ended a moment ago, killed as well, the kernel lets go of the queue
/// later than of the program: until then it is busy.
fn bind_once_free(socket: &OwnedFd, address: &SocketAddrXdp) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match bind(socket, address) {
            Err(Errno::BUSY) if start.elapsed() < LETTING_GO => thread::sleep(LETTING_GO / 200),
            bound => return Ok(bound?),
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
