//! The half of a connection that takes bytes from the guest, for the host's socket.

use weft_wire::tcp::{Flags, Segment};

use super::segment::Numbers;
use super::seq::Seq;
use crate::nat::Cause;
use crate::nat::ring::{Memory, RING_BYTES, Ring};

/// By how many bits our windows are shifted: enough for a full ring.
pub(super) const WINDOW_SCALE: u8 = 5;
const _: () = assert!((u16::MAX as usize) << WINDOW_SCALE >= RING_BYTES);

/// Gaps that are remembered; behind more, segments are dropped.
const MAX_EARLY: usize = 8;

/// Receive sequence variables (RFC 9293, section 3.3.1), and bytes on their way to the host.
#[derive(Debug)]
pub(super) struct Receiver {
    /// RCV.NXT
    pub(super) next: Seq,
    /// The end of the window that the guest knows.
    edge: Seq,
    scale: u8,
    pub(super) ring: Ring,
    /// What came too early: from and to, apart from each other, in order.
    early: Vec<(Seq, Seq)>,
    /// Where the guest's FIN stands, as soon as it was seen.
    fin: Option<Seq>,
    /// The guest's FIN has come, and everything before it.
    pub(super) is_finished: bool,
}

impl Receiver {
    /// After a SYN at `first`; `scaled` when the guest understands shifted windows.
    pub(super) fn new(first: Seq, scaled: bool) -> Self {
        let next = first + 1;
        Self {
            next,
            edge: next,
            scale: if scaled { WINDOW_SCALE } else { 0 },
            ring: Ring::default(),
            early: Vec::new(),
            fin: None,
            is_finished: false,
        }
    }

    /// The window scale option of our SYN.
    pub(super) fn scale_option(&self) -> Option<u8> {
        (self.scale > 0).then_some(self.scale)
    }

    /// Whether `seq` is where a segment may start that is not from the past.
    pub(super) fn is_in_window(&self, seq: Seq) -> bool {
        !seq.is_before(self.next) && seq.since(self.next) <= RING_BYTES as u32
    }

    /// Takes in what is new of a segment. An error names what was not.
    pub(super) fn accept(&mut self, segment: &Segment<'_>, memory: &mut Memory) -> Result<(), Cause> {
        if segment.first().is_after(self.next) {
            self.keep_early(segment, memory);
            return Err(Cause::OutOfOrder);
        }
        let known = self.next.since(segment.first()) as usize;
        let fin = segment.has(Flags::FIN);
        if known >= segment.payload.len() + usize::from(fin) {
            return Err(Cause::Retransmitted);
        }
        if self.is_finished {
            return Err(Cause::OutsideWindow); // nothing follows a FIN
        }
        let fresh = segment.payload.get(known..).unwrap_or_default();
        self.ring.reserve(fresh.len(), memory);
        let taken = self.ring.push(fresh);
        self.next = self.next + taken as u32;
        if taken < fresh.len() {
            return Err(if self.ring.len() < RING_BYTES { Cause::Memory } else { Cause::OutsideWindow });
        }
        if fin {
            self.fin = Some(self.next);
        }
        self.join_early();
        if self.fin == Some(self.next) {
            self.is_finished = true;
            self.next = self.next + 1;
            self.early.clear(); // nothing follows a FIN
        }
        Ok(())
    }

    /// Keeps the payload of a segment before which another one is missing, if there is room for it and not too much
    /// is missing already. The guest does not rely on it: nothing of it is acknowledged.
    fn keep_early(&mut self, segment: &Segment<'_>, memory: &mut Memory) {
        if self.is_finished || self.early.len() == MAX_EARLY {
            return;
        }
        let from = segment.first();
        let gap = from.since(self.next) as usize;
        self.ring.reserve(gap + segment.payload.len(), memory);
        let to = from + self.ring.write_ahead(gap, segment.payload) as u32;
        if to.since(from) as usize == segment.payload.len() && segment.has(Flags::FIN) {
            self.fin = Some(to);
        }
        if from == to {
            return;
        }
        let joined = self.early.extract_if(.., |(start, end)| !start.is_after(to) && !end.is_before(from));
        let whole = joined.fold((from, to), |(from, to), (start, end)| {
            (if start.is_before(from) { start } else { from }, to.max(end))
        });
        let at = self.early.partition_point(|(start, _)| start.is_before(whole.0));
        self.early.insert(at, whole);
    }

    /// Takes over what came early and is no longer.
    fn join_early(&mut self) {
        while let Some(&(from, to)) = self.early.first()
            && !from.is_after(self.next)
        {
            self.early.remove(0);
            if to.is_after(self.next) {
                self.ring.fill(to.since(self.next) as usize);
                self.next = to;
            }
        }
    }

    /// The most that a window of ours can say.
    fn largest_window(&self, memory: &Memory) -> usize {
        self.ring.limit(memory).min(usize::from(u16::MAX) << self.scale)
    }

    /// Where the window could end now. It never shrinks, and grows by no less than a segment or half of it: silly
    /// windows make silly segments (RFC 9293, section 3.8.6.2.2).
    fn best_edge(&self, mss: u16, memory: &Memory) -> Seq {
        let largest = self.largest_window(memory);
        let room = largest.saturating_sub(self.ring.len());
        let best = self.next + room as u32;
        let step = usize::from(mss).min(largest / 2) as u32;
        if best.is_after(self.edge) && best.since(self.edge) >= step { best } else { self.edge }
    }

    /// The window field of a segment that is sent now.
    pub(super) fn advertise(&mut self, mss: u16, memory: &Memory) -> u16 {
        self.edge = self.best_edge(mss, memory).max(self.next);
        u16::try_from(self.edge.since(self.next) >> self.scale).unwrap_or(u16::MAX)
    }

    /// Whether the guest should hear of a window that opened.
    pub(super) fn has_window_news(&self, mss: u16, memory: &Memory) -> bool {
        if self.is_finished {
            return false;
        }
        let best = self.best_edge(mss, memory);
        if !best.is_after(self.edge) {
            return false;
        }
        let left = if self.edge.is_before(self.next) { 0 } else { self.edge.since(self.next) as usize };
        best.since(self.edge) as usize >= self.largest_window(memory) / 8 || left < 2 * usize::from(mss)
    }
}
