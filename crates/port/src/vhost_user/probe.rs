use std::sync::Arc;

use weft_wire::Offload;

use super::features::Features;
use super::guest::Guest;
use super::ring::{Ring, RingError, RingLayout};
use super::{RX_QUEUE, TX_QUEUE};
use crate::Frame;
use crate::guest_memory::{DirtyLog, GuestMemory};

/// Two regions with a hole between them.
const MEMORY: [(u64, usize); 2] = [(0, 0x8000), (0x1_0000, 0x2000)];

/// A log with a bit for each of their pages.
const LOG: (u64, usize) = (0, 4);

/// Moves frames for a guest whose memory, rings and features are `bytes`: for fuzz targets. Any bytes are
/// survived; the work done for them is bounded; each page that is written is marked in the log.
#[doc(hidden)]
pub fn probe_guest(bytes: &[u8]) {
    let Some((setup, contents)) = bytes.split_first_chunk::<8>() else { return };
    let [features, sizes, tx_page, rx_page, base_low, base_high, flips, rounds] = *setup;
    let (Ok(memory), Ok(bitmap)) = (GuestMemory::anonymous(&MEMORY), GuestMemory::anonymous(&[LOG])) else { return };
    let Ok(log) = DirtyLog::of(bitmap).map(Arc::new) else { return };
    let Ok(memory) = memory.logged_to(Some(log.clone())) else { return };
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
            used_log: Some(at + 0x800),
        };
        guest.rings[queue].ring = Ring::start(layout, &guest.memory).ok();
        guest.rings[queue].enabled = true;
    }
    let before = pages(&guest.memory);
    for round in 0..rounds % 16 {
        if move_frames(&mut guest, round).is_err() {
            break;
        }
        // The guest goes on writing meanwhile, which its VMM notes by itself.
        let at = u64::from(flips) << 7 | u64::from(round);
        write(&guest.memory, at, &[round]);
        guest.memory.mark_at(at, 1);
    }
    for ((page, before), (_, after)) in before.iter().zip(pages(&guest.memory)) {
        assert!(*before == after || log.is_marked(*page), "the page at {page:#x} was written and is not marked");
    }
}

/// Takes what the guest sends, and sends it a frame.
fn move_frames(guest: &mut Guest, round: u8) -> Result<(), RingError> {
    let mut copy = Vec::new();
    let lent = guest.recv()?;
    for index in 0..lent.frames {
        copy.clear();
        guest.frame(index).append_to(&mut copy);
        assert_eq!(copy.len(), guest.frame(index).len());
    }
    guest.release();
    let _ = guest.send(&Frame::new(&[round; 300], Offload::default()))?;
    guest.flush();
    guest.want_kicks().map(drop)
}

/// What is in each page, by its address.
fn pages(memory: &GuestMemory) -> Vec<(u64, [u8; 4096])> {
    let addresses = MEMORY.iter().flat_map(|&(start, len)| (start..start + len as u64).step_by(4096));
    addresses.filter_map(|at| Some((at, memory.view(memory.piece(at, 4096)?).bytes(0)?))).collect()
}
