use std::io;
use std::mem::{self, size_of, size_of_val};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use libc::{
    ETH_P_ALL, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC, PACKET_ADD_MEMBERSHIP, PACKET_AUXDATA, PACKET_MR_PROMISC,
    PACKET_VNET_HDR, SOL_PACKET, SOL_SOCKET, TP_STATUS_VLAN_TPID_VALID, TP_STATUS_VLAN_VALID, c_int, c_void, iovec,
    mmsghdr, msghdr, packet_mreq, sockaddr_ll, socklen_t, tpacket_auxdata,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use weft_wire::EtherType;
use weft_wire::ethernet::{TAG_BYTES, Tag};

use super::bpf;
use crate::{BURST_FRAMES, MAX_FRAME_BYTES};

/// `PACKET_IGNORE_OUTGOING` of linux/if_packet.h (Linux 4.20).
const PACKET_IGNORE_OUTGOING: c_int = 23;

/// `struct virtio_net_hdr`, which has no count of buffers.
const HEADER_BYTES: usize = 10;

/// What waits for us in the kernel at most, if it lets us have so much.
const BUFFER_BYTES: c_int = 4 << 20;

/// Both addresses of a frame, behind which its tag was.
const ADDRESSES_BYTES: usize = 12;

/// Room for a tag that was taken off, the longest frame, and a byte by which a longer one is told.
const SLOT_BYTES: usize = (TAG_BYTES + MAX_FRAME_BYTES + 1).next_multiple_of(64);

/// One control message: its header and `struct tpacket_auxdata`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    data: tpacket_auxdata,
}

/// A packet socket on one interface (packet(7)), with virtio-net headers before its frames.
pub(super) struct PacketSocket {
    fd: OwnedFd,
}

/// Frames that were received at once.
pub(super) struct Burst {
    slots: Box<[u8]>,
    headers: [[u8; HEADER_BYTES]; BURST_FRAMES],
    controls: [Control; BURST_FRAMES],
    results: [Result; BURST_FRAMES],
}

/// What the kernel said about a slot.
#[derive(Clone, Copy, Default)]
struct Result {
    bytes: usize,
    truncated: bool,
    has_control: bool,
}

/// What was received into a slot.
pub(super) struct Received {
    pub(super) header: [u8; HEADER_BYTES],
    pub(super) frame: Range<usize>,
    /// The tag that the kernel, or the pNIC, took off.
    pub(super) tag: Option<Tag>,
}

impl PacketSocket {
    /// Opens it on the interface with this number: all that comes in by it, whoever it is for, and nothing that we or
    /// the host send. Where the host shares it with us: what it sends, and nothing that is for it alone.
    pub(super) fn open(interface: i32, is_shared: bool) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol, until it is bound: it would hear all interfaces.
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let socket = Self { fd };
        socket.set(SOL_PACKET, PACKET_VNET_HDR, &1)?;
        socket.set(SOL_PACKET, PACKET_AUXDATA, &1)?;
        if is_shared {
            bpf::hear_what_is_not_the_hosts(socket.as_fd())?;
        } else {
            socket.set(SOL_PACKET, PACKET_IGNORE_OUTGOING, &1)?;
        }
        let promiscuous =
            packet_mreq { mr_ifindex: interface, mr_type: PACKET_MR_PROMISC as u16, mr_alen: 0, mr_address: [0; 8] };
        socket.set(SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous)?;
        // Less is slower under bursts, and no reason to do without the interface.
        let _ = socket.set(SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER_BYTES);
        socket.bind(interface)?;
        Ok(socket)
    }

    #[expect(unsafe_code, reason = "a socket option that rustix does not know")]
    fn set<T: Copy>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        // SAFETY: the kernel reads as many bytes of `value` as it is told that there are.
        let code = unsafe {
            let (start, len) = (ptr::from_ref(value).cast::<c_void>(), size_of_val(value) as socklen_t);
            libc::setsockopt(self.fd.as_raw_fd(), level, option, start, len)
        };
        if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    #[expect(unsafe_code, reason = "an address that rustix does not know")]
    fn bind(&self, interface: i32) -> io::Result<()> {
        // SAFETY: all zeros is an address, if none that means something.
        let mut address: sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (ETH_P_ALL as u16).to_be();
        address.sll_ifindex = interface;
        // SAFETY: the kernel reads as many bytes of `address` as it is told that there are.
        let code = unsafe {
            let len = size_of::<sockaddr_ll>() as socklen_t;
            libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len)
        };
        if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The number of the interface that it is on; no interface's once that is gone.
    #[expect(unsafe_code, reason = "an address that rustix does not know")]
    pub(super) fn interface(&self) -> io::Result<i32> {
        // SAFETY: all zeros is an address, if none that means something.
        let mut address: sockaddr_ll = unsafe { mem::zeroed() };
        let mut len = size_of::<sockaddr_ll>() as socklen_t;
        // SAFETY: the kernel writes at most as many bytes into `address` as it is told that there are.
        let code = unsafe { libc::getsockname(self.fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) };
        if code == 0 { Ok(address.sll_ifindex) } else { Err(io::Error::last_os_error()) }
    }

    /// Receives what is there, without waiting; how many slots were filled.
    #[expect(unsafe_code, reason = "recvmmsg")]
    pub(super) fn recv(&self, burst: &mut Burst) -> rustix::io::Result<usize> {
        // SAFETY: all zeros are vectors and messages without any memory.
        let (mut vectors, mut messages): ([[iovec; 2]; BURST_FRAMES], [mmsghdr; BURST_FRAMES]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        for (index, slot) in burst.slots.chunks_exact_mut(SLOT_BYTES).enumerate() {
            let room = &mut slot[TAG_BYTES..];
            let (header, control) = (&mut burst.headers[index], &mut burst.controls[index]);
            vectors[index] = [
                iovec { iov_base: header.as_mut_ptr().cast(), iov_len: HEADER_BYTES },
                iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() },
            ];
            messages[index].msg_hdr.msg_iov = vectors[index].as_mut_ptr();
            messages[index].msg_hdr.msg_iovlen = 2;
            messages[index].msg_hdr.msg_control = ptr::from_mut(control).cast();
            messages[index].msg_hdr.msg_controllen = size_of::<Control>();
        }
        // SAFETY: each message names memory of `burst` that nothing else names, with its length; the vectors and the
        // messages outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                BURST_FRAMES as u32,
                MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| last_error())?;
        for (result, message) in burst.results.iter_mut().zip(&messages[..count]) {
            *result = Result {
                bytes: message.msg_len as usize,
                truncated: message.msg_hdr.msg_flags & MSG_TRUNC != 0,
                has_control: message.msg_hdr.msg_controllen >= size_of::<Control>(),
            };
        }
        Ok(count)
    }

    /// Sends a frame, whose bytes are in two parts, behind the start of its virtio-net header.
    #[expect(unsafe_code, reason = "sendmsg")]
    pub(super) fn send(&self, header: &[u8], head: &[u8], tail: &[u8]) -> rustix::io::Result<()> {
        let header = &header[..HEADER_BYTES];
        let mut vectors = [header, head, tail]
            .map(|bytes| iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        // SAFETY: all zeros is a message without any memory.
        let mut message: msghdr = unsafe { mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len();
        // SAFETY: the kernel only reads what the vectors name, and they outlive the call, as the bytes do.
        let sent = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const message, MSG_DONTWAIT | MSG_NOSIGNAL) };
        if sent >= 0 { Ok(()) } else { Err(last_error()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Burst {
    #[expect(unsafe_code, reason = "memory for the kernel to write into")]
    pub(super) fn new() -> Self {
        Self {
            // Pages that no frame ever filled cost nothing.
            slots: vec![0; BURST_FRAMES * SLOT_BYTES].into(),
            headers: [[0; HEADER_BYTES]; BURST_FRAMES],
            // SAFETY: all zeros is a control message that says nothing.
            controls: [unsafe { mem::zeroed() }; BURST_FRAMES],
            results: [Result::default(); BURST_FRAMES],
        }
    }

    /// What was received into a slot; `None` when it was cut.
    pub(super) fn received(&self, index: usize) -> Option<Received> {
        let result = self.results[index];
        let bytes = result.bytes.checked_sub(HEADER_BYTES).filter(|_| !result.truncated)?;
        let start = index * SLOT_BYTES + TAG_BYTES;
        let Control { header, data } = &self.controls[index];
        let is_about_packet = header.cmsg_level == SOL_PACKET && header.cmsg_type == PACKET_AUXDATA;
        let tag = (result.has_control && is_about_packet && data.tp_status & TP_STATUS_VLAN_VALID != 0).then(|| {
            let has_kind = data.tp_status & TP_STATUS_VLAN_TPID_VALID != 0;
            let kind = if has_kind { EtherType(data.tp_vlan_tpid) } else { EtherType::C_TAG };
            Tag { kind, control: data.tp_vlan_tci }
        });
        Some(Received { header: self.headers[index], frame: start..start + bytes, tag })
    }

    pub(super) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.slots[range.clone()]
    }

    /// Puts a tag back where it was in a frame that has at least its addresses; where the frame is then.
    pub(super) fn insert_tag(&mut self, frame: Range<usize>, tag: Tag) -> Range<usize> {
        let start = frame.start - TAG_BYTES;
        self.slots.copy_within(frame.start..frame.start + ADDRESSES_BYTES, start);
        let place = start + ADDRESSES_BYTES;
        self.slots[place..place + 2].copy_from_slice(&tag.kind.0.to_be_bytes());
        self.slots[place + 2..place + 4].copy_from_slice(&tag.control.to_be_bytes());
        start..frame.end
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
