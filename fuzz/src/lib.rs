//! Fuzz targets. Each is a plain function over bytes, so that the corpus replays on stable Rust in `make test`
//! and the same function runs under libFuzzer (`fuzz/README.md` tells how).
//!
//! A target may not panic, hang or allocate without bound, whatever the bytes.

mod model;

/// A target's name, which is also its corpus folder's, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target of every room.
pub fn targets() -> Vec<Target> {
    vec![
        ("world_file", model::world_file),
    ]
}
