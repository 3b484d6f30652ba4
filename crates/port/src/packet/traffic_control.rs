//! Attaches a program to what comes in by an interface (rtnetlink(7); linux/pkt_sched.h, linux/pkt_cls.h).

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::netlink::{Netlink, attribute};

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
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
    let kernel = Netlink::open()?;
    let place = about(interface, CLSACT, CLSACT_PARENT, 0);
    kernel.create(RTM_NEWQDISC, &place, &attribute(TCA_KIND, b"clsact\0"))?;
    let options = [
        attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes()),
        attribute(TCA_BPF_NAME, b"weft\0"),
        attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes()),
    ];
    let attributes = [attribute(TCA_KIND, b"bpf\0"), attribute(TCA_OPTIONS, &options.concat())];
    kernel.create(RTM_NEWTFILTER, &about(interface, 0, CLSACT_INGRESS, EVERYTHING), &attributes.concat())
}

/// `struct tcmsg`.
fn about(interface: i32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [[0; 4], interface.to_ne_bytes(), handle.to_ne_bytes(), parent.to_ne_bytes(), info.to_ne_bytes()].concat()
}
