//! Frames that wait for their time at a port: the switch's law says when that is (law 9), and here are the frames.

use weft_port::{Frame, HEAD_BYTES};
use weft_switch::{DropReason, Excess, Rate, Rates, Shaper, Switch};
use weft_types::{Instant, PortId};
use weft_wire::Offload;

use crate::slot::{Delivery, Others, Slot};
use crate::worker::{Worker, forward};

/// Frames of one port and way that are let go in one round, so that all get their turn.
const BURST_FRAMES: usize = 64;

/// A copy of a frame, whose sender has it back.
pub(crate) struct Held {
    bytes: Box<[u8]>,
    offload: Offload,
}

impl Held {
    pub(crate) fn of(frame: &Frame<'_>) -> Self {
        let mut bytes = Vec::with_capacity(frame.len());
        frame.append_to(&mut bytes);
        Self { bytes: bytes.into(), offload: frame.offload() }
    }

    fn frame(&self) -> Frame<'_> {
        Frame::new(&self.bytes, self.offload)
    }
}

/// Where frames wait.
pub(crate) type Queue = Shaper<Held>;

/// A port's waiting rooms; none for a way that has no rate, or drops what is too fast.
#[derive(Default)]
pub(crate) struct Pacing {
    /// Of what comes in by it, before anything is decided.
    pub(crate) inward: Option<Box<Queue>>,
    /// Of what leaves by it.
    pub(crate) outward: Option<Box<Queue>>,
}

impl Pacing {
    /// Is as fast as `rates` say; what waits is not lost.
    pub(crate) fn configure(&mut self, now: Instant, rates: &Rates) {
        for (queue, rate) in [(&mut self.inward, rates.from_port), (&mut self.outward, rates.to_port)] {
            match (&mut *queue, rate.filter(|rate| rate.excess == Excess::Wait)) {
                (Some(queue), Some(rate)) => queue.set_rate(rate),
                (None, Some(rate)) => *queue = Some(Box::new(Shaper::new(now, rate))),
                (Some(waiting), None) if !waiting.is_empty() => waiting.set_rate(UNLIMITED),
                (_, None) => *queue = None,
            }
        }
    }

    /// Whether anything can wait.
    pub(crate) fn is_used(&self) -> bool {
        self.inward.is_some() || self.outward.is_some()
    }

    fn due(&self) -> Option<Instant> {
        [&self.inward, &self.outward].into_iter().flatten().filter_map(|queue| queue.due()).min()
    }
}

/// For what still waits where nothing needs to any more.
const UNLIMITED: Rate =
    Rate { bits_per_s: Rate::MAX_BITS_PER_S, burst_bytes: Rate::MAX_BURST_BYTES, excess: Excess::Wait };

impl Delivery {
    /// Counts what lost its room in a queue.
    #[inline]
    pub(crate) fn count_pushed_out(&mut self, now: Instant, switch: &mut Switch) {
        if self.pushed_out.is_empty() {
            return;
        }
        for (sender, held) in self.pushed_out.drain(..) {
            note_drop(now, switch, sender, DropReason::QueueFull, &held);
        }
    }
}

fn note_drop(now: Instant, switch: &mut Switch, sender: PortId, reason: DropReason, held: &Held) {
    let head = &held.bytes[..held.bytes.len().min(HEAD_BYTES)];
    switch.note_drop(now, sender, reason, head, held.bytes.len());
}

impl Worker {
    /// Lets go what has waited for its time; whether anything had.
    pub(crate) fn release(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for at in 0..self.paced.len() {
            let index = self.paced[at];
            busy |= self.release_outward(now, index);
            busy |= self.release_inward(now, index);
        }
        busy
    }

    /// When the next frame goes that waits; `None` while none does.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        self.paced.iter().filter_map(|index| self.slots.get(*index)?.pacing.due()).min()
    }

    fn release_outward(&mut self, now: Instant, index: usize) -> bool {
        let Some(slot) = self.slots.get_mut(index) else { return false };
        let mut busy = false;
        for _ in 0..BURST_FRAMES {
            let Some((sender, held)) = slot.pacing.outward.as_mut().and_then(|queue| queue.next(now)) else { break };
            if let Err(reason) = slot.send(now, &held.frame(), &mut self.delivery) {
                note_drop(now, &mut self.switch, sender, reason, &held);
            }
            busy = true;
        }
        slot.flush();
        busy
    }

    fn release_inward(&mut self, now: Instant, index: usize) -> bool {
        let Some((source, mut others)) = Others::split(&mut self.slots, index) else { return false };
        let Slot { id, pacing, .. } = source;
        let mut busy = false;
        for _ in 0..BURST_FRAMES {
            let Some((_, held)) = pacing.inward.as_mut().and_then(|queue| queue.next(now)) else { break };
            forward(now, *id, &held.frame(), &mut self.switch, &mut others, &self.slot_of, &mut self.delivery);
            busy = true;
        }
        if busy {
            others.flush();
            self.delivery.reply(now, source);
        }
        busy
    }
}
