//! Whole worlds: the real binary, real QEMU, real Debian kernels.
//!
//! `make setup` installs what these need. `WEFT_KEEP=1` keeps a test's folder for a look.

mod bridged;
mod faults;
mod files;
mod foreign;
mod forwards;
mod guests;
mod harness;
mod host_only;
mod images;
mod ipv6;
mod kvm;
mod law;
mod names;
mod quickstart;
mod router;
mod shares;
mod shell;
mod uml;
