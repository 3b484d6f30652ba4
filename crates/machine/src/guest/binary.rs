//! The agent that micro guests run.

/// The static x86-64 program that goes into every micro image; made by this crate's `build.rs`.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft-agent"));

#[cfg(test)]
mod tests {
    use super::AGENT;

    #[test]
    fn it_is_a_small_static_program() {
        assert!(AGENT.starts_with(b"\x7FELF\x02\x01"), "a 64-bit little-endian ELF file");
        let field = |at: usize| usize::from(u16::from_le_bytes([AGENT[at], AGENT[at + 1]]));
        let (table, size, count) = (field(32), field(54), field(56)); // of the program headers
        let is_interpreter = |index| field(table + index * size) == 3;
        assert!(!(0..count).any(is_interpreter), "it asks for no dynamic loader");
        // Two thirds of it are the C library; packed into an initrd it is less than half.
        assert!(AGENT.len() < 1400 << 10, "{} KiB", AGENT.len() >> 10);
    }
}
