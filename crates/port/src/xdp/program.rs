//! The program that has an interface's frames come to our sockets instead of to the host (bpf(2)).

use std::ffi::{CStr, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

// Commands, kinds and flags of linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const BPF_FUNC_REDIRECT_MAP: i32 = 51;

/// By the driver itself, before there is a socket buffer (linux/if_link.h).
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// To the host, as if there were no program.
const XDP_PASS: i32 = 2;
/// Where `struct xdp_md` tells by which queue the frame came.
const RX_QUEUE_INDEX: i16 = 16;

/// It calls what every program may call.
const LICENSE: &CStr = c"MIT OR Apache-2.0";

/// The part of `union bpf_attr` that is used, which the kernel wants aligned.
type Attribute = [u64; 6];

/// Our program on an interface. The kernel takes it off when this is dropped, also with a process that was killed.
pub(super) struct Attachment {
    sockets: OwnedFd,
    _link: OwnedFd,
}

impl Attachment {
    /// Puts the program on the interface with this number, which has no more receive queues than `queues`. A frame goes to
    /// the socket of its queue, and to the host where there is none yet.
    ///
    /// # Errors
    /// When the kernel, the driver or a lack of privileges (`CAP_BPF`, `CAP_NET_ADMIN`) does not let us.
    pub(super) fn new(interface: u32, queues: u32) -> io::Result<Self> {
        let words = [BPF_MAP_TYPE_XSKMAP, 4, 4, queues, 0]; // keys and values are of four bytes
        let sockets = made(bpf(BPF_MAP_CREATE, &attribute(&words)))?;
        let code = program(sockets.as_raw_fd());
        let [code_low, code_high] = halves(code.as_ptr().cast());
        let [license_low, license_high] = halves(LICENSE.as_ptr().cast());
        let words = [BPF_PROG_TYPE_XDP, code.len() as u32, code_low, code_high, license_low, license_high];
        let program = made(bpf(BPF_PROG_LOAD, &attribute(&words)))?;
        let words = [program.as_raw_fd() as u32, interface, BPF_XDP, XDP_FLAGS_DRV_MODE];
        let link = made(bpf(BPF_LINK_CREATE, &attribute(&words)))?;
        Ok(Self { sockets, _link: link })
    }

    /// Has the frames of a queue come to this socket.
    pub(super) fn serve(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = socket.as_raw_fd();
        let [key_low, key_high] = halves((&raw const queue).cast());
        let [value_low, value_high] = halves((&raw const value).cast());
        let words = [self.sockets.as_raw_fd() as u32, 0, key_low, key_high, value_low, value_high, 0, 0];
        bpf(BPF_MAP_UPDATE_ELEM, &attribute(&words)).map(drop)
    }
}

/// `return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS)`
fn program(sockets: RawFd) -> [[u8; 8]; 6] {
    let instruction = |code: u8, registers: u8, offset: i16, value: i32| {
        let ([o1, o2], [v1, v2, v3, v4]) = (offset.to_ne_bytes(), value.to_ne_bytes());
        [code, registers, o1, o2, v1, v2, v3, v4]
    };
    // The target register is in the half of the byte that comes first in a C bit field.
    let registers = |target: u8, source: u8| {
        if cfg!(target_endian = "little") { source << 4 | target } else { target << 4 | source }
    };
    [
        instruction(0x61, registers(2, 1), RX_QUEUE_INDEX, 0), // r2 = *(u32 *)(r1 + 16)
        instruction(0x18, registers(1, BPF_PSEUDO_MAP_FD), 0, sockets), // r1 = the map, in two parts
        instruction(0, 0, 0, 0),
        instruction(0xb7, registers(3, 0), 0, XDP_PASS), // r3 = 2
        instruction(0x85, 0, 0, BPF_FUNC_REDIRECT_MAP),  // call
        instruction(0x95, 0, 0, 0),                      // exit
    ]
}

/// An address in two words, the one that comes first in memory first.
fn halves(address: *const c_void) -> [u32; 2] {
    let bytes = (address.addr() as u64).to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// The arguments of a command: zeros behind the words that are given.
fn attribute(words: &[u32]) -> Attribute {
    let mut attribute = Attribute::default();
    for (pair, words) in attribute.iter_mut().zip(words.chunks(2)) {
        let mut bytes = [0; 8];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        *pair = u64::from_ne_bytes(bytes);
    }
    attribute
}

#[expect(unsafe_code, reason = "a system call that no library here knows")]
fn bpf(command: libc::c_long, attribute: &Attribute) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes of the attribute as it is told that there are, and what the addresses in it
    // name, which our callers hold meanwhile: instructions, a string with an end, a key and a value of four bytes.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr().cast::<c_void>(), size_of::<Attribute>()) };
    RawFd::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

/// The descriptor that a command has made.
#[expect(unsafe_code, reason = "a descriptor that a system call of our own returned")]
fn made(result: io::Result<RawFd>) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made it for us, and nobody else knows of it.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}
