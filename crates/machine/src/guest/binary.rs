//! The agent that micro guests run.

/// The static x86-64 program that goes into every micro image; made by this crate's `build.rs`.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft-agent"));

#[cfg(test)]
mod tests {
    use super::AGENT;

    #[test]
    fn it_is_a_small_static_program() {
        assert!(AGENT.starts_with(b"\x7FELF\x02\x01"), "a 64-bit little-endian ELF file");
        assert!(!AGENT.windows(8).any(|bytes| bytes == b"ld-linux"), "no dynamic loader");
        assert!(AGENT.len() < 800 << 10, "{} KiB", AGENT.len() >> 10);
    }
}
