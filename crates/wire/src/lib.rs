//! Bytes to headers and back: parsing, checksums, segmentation. Frames are hostile.

mod offload;

pub use offload::{Csum, Gso, GsoKind, Offload};
