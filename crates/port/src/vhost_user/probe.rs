use weft_wire::Offload;

use super::features::Features;
use super::guest::Guest;
use super::ring::{Ring, RingLayout};
use super::{RX_QUEUE, TX_QUEUE};
use crate::Frame;
use crate::guest_memory::GuestMemory;

/// Two regions with a hole between them.
const MEMORY: [(u64, usize); 2] = [(0, 0x8000), (0x1_0000, 0x2000)];

/// Moves frames for a guest whose memory, rings and features are `bytes`: for fuzz targets. Any bytes are
/// survived; the work done for them is bounded.
#[doc(hidden)]
pub fn probe_guest(bytes: &[u8]) {
    let Some((setup, contents)) = bytes.split_first_chunk::<8>() else { return };
    let [features, sizes, tx_page, rx_page, base_low, base_high, flips, rounds] = *setup;
    let Ok(memory) = GuestMemory::anonymous(&MEMORY) else { return };
    let write = |memory: &GuestMemory, at: u64, bytes: &[u8]| {
        let piece = memory.piece(at, bytes.len())?;
        memory.view(piece).write(bytes)
    };
    let (low, high) = contents.split_at(contents.len().min(MEMORY[0].1));
    write(&memory, MEMORY[0].0, low);
    write(&memory, MEMORY[1].0, &high[..high.len().min(MEMORY[1].1)]);

    let bit = |at: u8, bit: u32| u64::from(features >> at & 1) << bit;
    let bits = bit(0, 0) | bit(1, 1) | bit(2, 7) | bit(3, 15) | bit(4, 28) | bit(5, 29) | bit(6, 32) | bit(7, 35);
    let mut guest = Guest::default();
    (guest.features, guest.memory) = (Features::accepted(bits).unwrap_or_default(), memory);
    for (queue, page, size) in [(TX_QUEUE, tx_page, sizes & 15), (RX_QUEUE, rx_page, sizes >> 4)] {
        let at = u64::from(page) << 8;
        let layout = RingLayout {
            size: 1u16.checked_shl(size.into()).unwrap_or(0),
            descriptors: at,
            available: at + 0x400,
            used: at + 0x800,
            base: u16::from_le_bytes([base_low, base_high]),
            event_idx: guest.features.event_idx(),
        };
        guest.rings[queue].ring = Ring::start(layout, &guest.memory).ok();
        guest.rings[queue].enabled = true;
    }
    let mut copy = Vec::new();
    for round in 0..rounds % 16 {
        let Ok(lent) = guest.recv() else { return };
        for index in 0..lent.frames {
            copy.clear();
            guest.frame(index).append_to(&mut copy);
            assert_eq!(copy.len(), guest.frame(index).len());
        }
        guest.release();
        let Ok(_) = guest.send(&Frame::new(&[round; 300], Offload::default())) else { return };
        guest.flush();
        // The guest goes on writing meanwhile.
        write(&guest.memory, u64::from(flips) << 7 | u64::from(round), &[round]);
    }
}
