//! The half of a connection that gives the guest what came from the host's socket.

use weft_types::Instant;
use weft_wire::tcp::Segment;

use super::rto::Rto;
use super::segment::Numbers;
use super::seq::Seq;
use crate::nat::Cause;
use crate::nat::ring::{RING_BYTES, Ring};

/// Most payload bytes of a frame: an IPv4 packet has at most 65,535 bytes, headers included.
const MAX_FRAME_PAYLOAD: usize = 65_535 - 20 - 60;
/// Most segments that one frame stands for: a guest with a tiny MSS must not make the port cut thousands.
const MAX_FRAME_SEGMENTS: usize = 64;
/// What may be sent before the first acknowledgement: the guest is one virtual link away.
const INITIAL_CONGESTION_WINDOW: usize = 64 * 1024;
/// More is never in flight, so a larger congestion window means nothing.
const MAX_CONGESTION_WINDOW: usize = 2 * RING_BYTES;
/// Acknowledgements that ask for the same segment until it counts as lost (RFC 5681, section 3.2).
const DUPLICATES: u32 = 3;
/// Unanswered tries until the guest counts as gone; some eight minutes.
const MAX_TRIES: u32 = 15;

/// Send sequence variables (RFC 9293, section 3.3.1), bytes on their way to the guest, and congestion control
/// (NewReno: RFC 5681 and RFC 6582).
#[derive(Debug)]
pub(super) struct Transmitter {
    /// SND.UNA; the first byte of `ring`.
    una: Seq,
    /// SND.NXT; goes back when everything has to be sent again.
    next: Seq,
    /// The end of all that was ever sent.
    sent: Seq,
    pub(super) ring: Ring,
    /// No more bytes come from the host: a FIN stands behind the last one.
    pub(super) is_finished: bool,
    /// The guest has everything, the FIN included.
    pub(super) is_done: bool,
    /// SND.WND
    window: u32,
    window_scale: u8,
    /// SND.WL1 and SND.WL2: the segment that told the window.
    window_from: (Seq, Seq),
    congestion_window: usize,
    slow_start_threshold: usize,
    duplicates: u32,
    /// Whether a loss is being repaired; it is when all up to `recover` is acknowledged.
    is_recovering: bool,
    recover: Seq,
    /// The segment at `una` goes out once more.
    must_repair: bool,
    /// A segment without payload goes out, to make the guest tell its window.
    must_probe: bool,
    rto: Rto,
    /// A segment on its way whose round trip is measured, and when it was sent.
    measured: Option<(Seq, Instant)>,
    /// When to send again, or to probe a closed window.
    pub(super) timer: Option<Instant>,
    tries: u32,
}

/// A piece of the stream that goes out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) seq: Seq,
    /// Where it starts in the ring.
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) fin: bool,
    /// Whether nothing waits behind it.
    pub(super) push: bool,
}

/// The guest did not answer for too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GuestSilent;

impl Transmitter {
    /// `first` is the number of the first byte.
    pub(super) fn new(first: Seq, window_scale: u8) -> Self {
        Self {
            una: first,
            next: first,
            sent: first,
            ring: Ring::default(),
            is_finished: false,
            is_done: false,
            window: 0,
            window_scale,
            window_from: (Seq(0), Seq(0)),
            congestion_window: INITIAL_CONGESTION_WINDOW,
            slow_start_threshold: usize::MAX,
            duplicates: 0,
            is_recovering: false,
            recover: first.previous(),
            must_repair: false,
            must_probe: false,
            rto: Rto::default(),
            measured: None,
            timer: None,
            tries: 0,
        }
    }

    /// SND.UNA
    pub(super) fn unacknowledged(&self) -> Seq {
        self.una
    }

    /// The number behind everything sent: that of a segment without payload.
    pub(super) fn end(&self) -> Seq {
        self.sent
    }

    /// Numbers sent and not acknowledged, as far as they were not given up for lost.
    fn in_flight(&self) -> usize {
        self.next.since(self.una) as usize
    }

    /// Numbers that wait to be sent, a FIN included.
    fn unsent(&self) -> usize {
        let all = if self.is_done { 0 } else { self.ring.len() + usize::from(self.is_finished) };
        all.saturating_sub(self.in_flight())
    }

    /// Whether bytes wait to be sent.
    pub(super) fn has_unsent_bytes(&self) -> bool {
        self.ring.len() > self.in_flight()
    }

    /// The SYN-ACK goes out: the guest has some time to answer.
    pub(super) fn arm_handshake(&mut self, now: Instant) {
        self.timer = Some(now + self.rto.get());
    }

    /// The SYN-ACK goes out once more.
    pub(super) fn back_off_handshake(&mut self, now: Instant) {
        self.tries += 1;
        self.rto.back_off();
        self.arm_handshake(now);
    }

    /// Whether [`Self::poll`] or [`Self::take_probe`] may give something.
    pub(super) fn has_work(&self) -> bool {
        self.must_repair || self.must_probe || self.unsent() > 0
    }

    /// The handshake is over.
    pub(super) fn open(&mut self, segment: &Segment<'_>, ack: Seq) {
        self.timer = None;
        self.tries = 0;
        self.rto.restart();
        self.set_window(segment, ack);
    }

    /// The guest answered our SYN; `window_scale` is what it says of its later windows (RFC 7323, section 2.2: that of a
    /// SYN is never shifted).
    pub(super) fn answered(&mut self, segment: &Segment<'_>, ack: Seq, window_scale: u8) {
        self.open(segment, ack);
        self.window_scale = window_scale;
    }

    fn set_window(&mut self, segment: &Segment<'_>, ack: Seq) {
        self.window = u32::from(segment.window) << self.window_scale;
        self.window_from = (segment.first(), ack);
    }

    /// Takes in the acknowledgement and the window of a segment.
    pub(super) fn acknowledge(&mut self, now: Instant, segment: &Segment<'_>, ack: Seq, mss: u16) -> Result<(), Cause> {
        if ack.is_after(self.sent) {
            return Err(Cause::OutsideWindow);
        }
        if ack.is_before(self.una) {
            return Ok(()); // old news
        }
        let window_before = self.window;
        // A new acknowledgement always brings a window with it: what came early may have told another one before.
        let (from_seq, from_ack) = self.window_from;
        let is_newer = from_seq.is_before(segment.first()) || (from_seq == segment.first() && !ack.is_before(from_ack));
        if is_newer || ack.is_after(self.una) {
            self.set_window(segment, ack);
        }
        if ack == self.una {
            let has_news = segment.sequence_len() > 0 || self.window != window_before;
            if self.in_flight() == 0 {
                self.tries = 0; // maybe an answer to a probe: in any case the guest lives
                if has_news {
                    self.timer = None; // `poll` looks again whether the window suffices
                }
            } else if !has_news {
                self.take_duplicate(usize::from(mss));
            }
            return Ok(());
        }
        self.advance(now, ack, usize::from(mss));
        Ok(())
    }

    /// The guest has everything before `ack`.
    fn advance(&mut self, now: Instant, ack: Seq, mss: usize) {
        let count = ack.since(self.una) as usize;
        if let Some((end, at)) = self.measured
            && !ack.is_before(end)
        {
            self.rto.measure(now.since(at));
            self.measured = None;
        }
        if count > self.ring.len() {
            self.is_done = true;
        }
        self.ring.consume(count);
        self.una = ack;
        self.next = self.next.max(ack);
        self.tries = 0;
        self.rto.restart();
        self.duplicates = 0;

        if !self.is_recovering {
            let growth = if self.congestion_window < self.slow_start_threshold {
                count
            } else {
                (mss * count / self.congestion_window).max(1)
            };
            self.congestion_window = (self.congestion_window + growth).min(MAX_CONGESTION_WINDOW);
        } else if ack.is_before(self.recover) {
            self.must_repair = true; // a partial acknowledgement: the next hole (RFC 6582, section 3.2)
            self.congestion_window = self.congestion_window.saturating_sub(count).max(mss) + mss;
        } else {
            self.is_recovering = false;
            self.congestion_window = self.slow_start_threshold.max(2 * mss);
        }
        self.timer = (self.una != self.sent).then(|| now + self.rto.get());
    }

    fn take_duplicate(&mut self, mss: usize) {
        self.duplicates += 1;
        if self.is_recovering {
            self.congestion_window = (self.congestion_window + mss).min(MAX_CONGESTION_WINDOW);
        } else if self.duplicates == DUPLICATES && self.una.is_after(self.recover) {
            self.note_loss(mss);
            self.is_recovering = true;
            self.must_repair = true;
            self.congestion_window = self.slow_start_threshold + DUPLICATES as usize * mss;
        }
    }

    fn note_loss(&mut self, mss: usize) {
        self.slow_start_threshold = (self.sent.since(self.una) as usize / 2).max(2 * mss);
        self.recover = self.sent;
        self.measured = None;
    }

    /// The timer is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, mss: u16) -> Result<(), GuestSilent> {
        self.tries += 1;
        if self.tries > MAX_TRIES {
            return Err(GuestSilent);
        }
        self.rto.back_off();
        self.must_probe = self.una == self.sent || self.window == 0;
        if self.una != self.sent {
            let mss = usize::from(mss);
            self.note_loss(mss);
            self.is_recovering = false;
            self.duplicates = 0;
            self.congestion_window = mss;
            self.next = self.una;
        }
        self.timer = Some(now + self.rto.get());
        Ok(())
    }

    /// How often the timer rang in vain.
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// Asks the guest for a sign of life.
    pub(super) fn probe(&mut self) {
        self.must_probe = true;
    }

    /// Whether a probe is to be sent. It carries an old number, which the guest has to answer (RFC 9293, section
    /// 3.10.7.4), and no byte that a closed window would throw away.
    pub(super) fn take_probe(&mut self) -> bool {
        std::mem::take(&mut self.must_probe)
    }

    /// The next piece to send, if the windows allow one.
    pub(super) fn poll(&mut self, now: Instant, mss: u16) -> Option<Piece> {
        let mss = usize::from(mss);
        if std::mem::take(&mut self.must_repair) && self.una != self.sent {
            let outstanding = self.sent.since(self.una) as usize;
            let len = self.ring.len().min(outstanding).min(frame_bytes(mss)).min(self.congestion_window.max(mss));
            return Some(self.piece(now, self.una, len));
        }
        let unsent = self.unsent();
        if unsent == 0 {
            return None;
        }
        let in_flight = self.in_flight();
        let usable = (self.window as usize).min(self.congestion_window).saturating_sub(in_flight);
        let waiting = self.ring.len().saturating_sub(in_flight);
        let mut len = waiting.min(usable).min(frame_bytes(mss));
        if len < waiting {
            if len > mss {
                len -= len % mss;
            } else if len < mss && in_flight > 0 {
                return None; // a better chance comes with the next acknowledgement (RFC 9293, section 3.8.6.2.1)
            }
        }
        if usable == 0 || (len == 0 && waiting > 0) {
            if in_flight == 0 && self.timer.is_none() {
                self.timer = Some(now + self.rto.get()); // the persist timer (RFC 9293, section 3.8.6.1)
            }
            return None;
        }
        Some(self.piece(now, self.next, len))
    }

    /// Notes that `len` bytes from `seq` on go out, and the FIN where it fits behind them.
    fn piece(&mut self, now: Instant, seq: Seq, len: usize) -> Piece {
        let at = seq.since(self.una) as usize;
        let push = at + len == self.ring.len();
        let window_left = (self.window as usize).saturating_sub(at + len);
        let was_sent = self.sent.since(seq) as usize > len;
        let fin = push && self.is_finished && !self.is_done && (window_left > 0 || was_sent);
        let end = seq + len as u32 + u32::from(fin);
        if self.measured.is_none() && !end.is_before(self.sent) && seq == self.sent {
            self.measured = Some((end, now));
        }
        if self.timer.is_none() || self.una == self.next {
            self.timer = Some(now + self.rto.get());
        }
        self.next = self.next.max(end);
        self.sent = self.sent.max(end);
        Piece { seq, at, len, fin, push }
    }
}

/// How much one frame may carry, in whole segments.
fn frame_bytes(mss: usize) -> usize {
    (MAX_FRAME_PAYLOAD / mss).clamp(1, MAX_FRAME_SEGMENTS) * mss
}
