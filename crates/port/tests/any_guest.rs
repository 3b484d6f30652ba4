//! Law: whatever a guest writes into its memory, the worker survives it, and its work is bounded.

use proptest::prelude::*;
use weft_port::probe_guest;

/// A descriptor that has a chance to mean something.
fn descriptor() -> impl Strategy<Value = [u8; 16]> {
    let addr = prop_oneof![0..0x9000u64, 0x1_0000..0x1_3000u64, any::<u64>()];
    let len = prop_oneof![0..20u32, 0..4096u32, any::<u32>()];
    let flags = prop_oneof![Just(0u16), Just(1), Just(2), Just(3), Just(4), any::<u16>()];
    (addr, len, flags, 0..20u16).prop_map(|(addr, len, flags, next)| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_memory(
        setup: [u8; 8],
        table in proptest::collection::vec(descriptor(), 1..40),
        available in proptest::collection::vec(0..40u16, 1..20),
        index in prop_oneof![0..20u16, any::<u16>()],
        tx_at_start: bool,
    ) {
        let mut bytes = setup.to_vec();
        (bytes[2], bytes[3]) = if tx_at_start { (0, setup[3]) } else { (setup[2], 0) };
        bytes[4..6].copy_from_slice(&[0, 0]);
        bytes[7] |= 4;
        let mut memory = vec![0; 0x500];
        for (place, descriptor) in memory.chunks_exact_mut(16).zip(&table) {
            place.copy_from_slice(descriptor);
        }
        memory[0x402..0x404].copy_from_slice(&index.to_le_bytes());
        for (place, head) in memory[0x404..].chunks_exact_mut(2).zip(&available) {
            place.copy_from_slice(&head.to_le_bytes());
        }
        bytes.extend_from_slice(&memory);
        probe_guest(&bytes);
    }

    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        probe_guest(&bytes);
    }
}
