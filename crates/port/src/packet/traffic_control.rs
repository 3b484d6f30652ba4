//! Attaches a program to what comes in by an interface (rtnetlink(7); linux/pkt_sched.h, linux/pkt_cls.h).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const NLMSG_ERROR: u16 = 2;
/// A request to make something new, and to hear whether it was made.
const CREATE: u16 = 0x1 | 0x4 | 0x200 | 0x400;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// The handle of `clsact`, by which programs see what comes in (and goes out) of an interface.
const CLSACT: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
/// First priority, every protocol (`ETH_P_ALL`).
const EVERYTHING: u32 = 1 << 16 | (0x0003_u16.to_be() as u32);

/// Has `program` say what becomes of every frame that comes in by `interface`.
pub(super) fn attach(interface: i32, program: BorrowedFd<'_>) -> rustix::io::Result<()> {
    ask(message(RTM_NEWQDISC, interface, CLSACT, CLSACT_PARENT, 0, &attribute(TCA_KIND, b"clsact\0")))?;
    let options = [
        attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes()),
        attribute(TCA_BPF_NAME, b"weft\0"),
        attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes()),
    ];
    let attributes = [attribute(TCA_KIND, b"bpf\0"), attribute(TCA_OPTIONS, &options.concat())];
    ask(message(RTM_NEWTFILTER, interface, 0, CLSACT_INGRESS, EVERYTHING, &attributes.concat()))
}

/// `struct nlattr`, its value, and what brings the next one to its place.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = 4 + value.len();
    let mut bytes = [&(len as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(len.next_multiple_of(4), 0);
    bytes
}

/// `struct nlmsghdr`, `struct tcmsg` and attributes.
fn message(kind: u16, interface: i32, handle: u32, parent: u32, info: u32, attributes: &[u8]) -> Vec<u8> {
    let len = 16 + 20 + attributes.len() as u32;
    let header = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &CREATE.to_ne_bytes(), &[0; 8]].concat();
    let about = [[0; 4], interface.to_ne_bytes(), handle.to_ne_bytes(), parent.to_ne_bytes(), info.to_ne_bytes()];
    [&header, &about.concat()[..], attributes].concat()
}

/// Sends a request, and waits for the answer, which the kernel has given when the request is sent.
fn ask(message: Vec<u8>) -> rustix::io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?; // 0: NETLINK_ROUTE
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (count, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    let answer = &answer[..count.min(4096)];
    let number = |at| answer.get(at..at + 4).and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
    let is_verdict = answer.get(4..6) == Some(&NLMSG_ERROR.to_ne_bytes()[..]);
    match number(16).filter(|_| is_verdict) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(code.wrapping_neg())),
        None => Err(Errno::PROTO),
    }
}
