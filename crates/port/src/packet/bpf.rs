//! Two small programs for the kernel: what a packet socket hears, and where what is written to a TAP device goes
//! (Linux, Documentation/networking/filter.rst; bpf(2)).

use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_long, c_void, socklen_t};

/// Says of a frame that it came from us; any number that nobody else is likely to choose.
const MARK: u32 = 0x7765_6674;

// linux/filter.h and linux/bpf_common.h
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const ANCILLARY: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = ANCILLARY + 4;
const PACKET_MARK: u32 = ANCILLARY + 20;

/// `PACKET_HOST` of linux/if_packet.h: for the interface's own address.
const FOR_THE_HOST: u32 = 0;

/// Has a packet socket hear neither what was handed to the host by [`redirect`], nor what comes from outside for the
/// host alone.
pub(super) fn hear_what_is_not_the_hosts(socket: BorrowedFd<'_>) -> io::Result<()> {
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        op(LOAD_WORD, 0, 0, PACKET_MARK),
        op(JUMP_IF_EQUAL, 3, 0, MARK),
        op(LOAD_WORD, 0, 0, PACKET_TYPE),
        op(JUMP_IF_EQUAL, 1, 0, FOR_THE_HOST),
        op(RETURN, 0, 0, u32::MAX),
        op(RETURN, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    #[expect(unsafe_code, reason = "a socket option that rustix does not know")]
    // SAFETY: the kernel reads the program that `filter` names, which is alive, and as many instructions as it has.
    let code = unsafe {
        let (start, len) = ((&raw const filter).cast::<c_void>(), size_of::<libc::sock_fprog>() as socklen_t);
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, start, len)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An instruction of the kernel's machine (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// The destination in the lower half, the source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The part of `union bpf_attr` by which a program is loaded.
#[repr(C)]
#[derive(Default)]
struct LoadProgram {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

const PROG_LOAD: c_int = 5;
const PROG_TYPE_SCHED_CLS: u32 = 3;
/// `bpf_redirect`
const REDIRECT: i32 = 23;
/// `BPF_F_INGRESS`: as if it came in there.
const INGRESS: i32 = 1;
/// Where `mark` is in `struct __sk_buff`.
const MARK_OFFSET: i16 = 8;

/// Loads a program for traffic control that marks every frame as ours, and lets it come in by `interface`.
pub(super) fn redirect(interface: i32) -> io::Result<OwnedFd> {
    let op = |code, registers, offset, immediate| Instruction { code, registers, offset, immediate };
    let program = [
        op(0xb7, 2, 0, MARK as i32),    // r2 = mark
        op(0x63, 0x21, MARK_OFFSET, 0), // *(u32 *)(r1 + offset) = r2
        op(0xb7, 1, 0, interface),      // r1 = interface
        op(0xb7, 2, 0, INGRESS),        // r2 = flags
        op(0x85, 0, 0, REDIRECT),       // r0 = redirect(r1, r2)
        op(0x95, 0, 0, 0),              // return r0
    ];
    let attributes = LoadProgram {
        kind: PROG_TYPE_SCHED_CLS,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        ..LoadProgram::default()
    };
    #[expect(unsafe_code, reason = "bpf")]
    // SAFETY: the kernel reads `attributes`, and what they name: the program, of which they say the length, and the
    // license, which ends with a zero; all of it is alive.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of_val(&attributes)) };
    owned(fd)
}

#[expect(unsafe_code, reason = "a descriptor that the kernel gave us")]
fn owned(fd: c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}
