//! Bytes to headers and back: parsing, checksums, segmentation. Frames are hostile.
//!
//! Each protocol has a module with a checked view (`parse` takes bytes and gives a struct of plain values whose
//! `payload` borrows from them, or a [`Malformed`] with a name) and an emitter that appends to a `Vec<u8>`.
//! Lengths always come from what was checked, never from what a peer claims: a view's payload ends where its own
//! header says, and that is never behind the last byte. Nothing here panics on any bytes, and nothing allocates
//! beyond what it appends.
//!
//! Transport checksums are not part of `parse`, because a frame that comes from a virtio-net driver may have been
//! left unfinished on purpose ([`Csum::Partial`]). Who relies on a payload asks the view's `checksum_ok`.

pub mod arp;
pub mod capture_file;
pub mod checksum;
pub mod erspan;
pub mod ethernet;
mod headers;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod lldp;
mod malformed;
pub mod ndp;
mod offload;
pub mod pcapng;
mod protocol;
mod read;
pub mod segment;
mod tag_edit;
pub mod tcp;
pub mod udp;
pub mod virtio_net;
pub mod vxlan;

pub use ethernet::EtherType;
pub use headers::{Fragment, Headers, Ip, Ports};
pub use malformed::{Layer, Malformed, Problem};
pub use offload::{Csum, Gso, GsoKind, Offload};
pub use protocol::Protocol;
pub use tag_edit::{Start, TagEdit};
