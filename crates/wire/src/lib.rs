//! Bytes to headers and back: parsing, checksums, segmentation. Frames are hostile: nothing here panics or reads
//! past an end, whatever the bytes.

pub mod checksum;
pub mod ethernet;
mod malformed;
mod offload;
mod segment;

pub use malformed::Malformed;
pub use offload::{Csum, Gso, GsoKind, Offload};
pub use segment::{complete_checksum, finish};
