//! TCP: the guest's connection ends here, and its bytes are spliced to a socket of the host (RFC 9293). Most are begun by
//! guests; those of a forward's clients are begun from here.

mod flow;
mod receiver;
mod rto;
mod segment;
mod seq;
mod transmitter;

use std::time::Duration;

use weft_types::Instant;
use weft_wire::tcp::{Flags, Options, Segment};

use self::receiver::Receiver;
use self::segment::{Numbers, Outgoing};
use self::transmitter::{GuestSilent, Transmitter};
use super::ring::{GRANTED_BYTES, Memory};
use super::{Cause, ForwardId};

use self::seq::Seq;

pub use self::flow::TcpOutgoing;

/// The header without options.
const HEADER_BYTES: u16 = weft_wire::tcp::HEADER_BYTES as u16;
/// When a guest names none (RFC 9293, section 3.7.1).
const DEFAULT_MSS: u16 = 536;
/// Less is nobody's need, and makes many small segments of few bytes.
const MIN_MSS: u16 = 88;
/// How long a connection that ended repeats its last acknowledgement. It is one virtual link long, so this is short.
const TIME_WAIT: Duration = Duration::from_secs(4);
/// Unanswered SYNs until the guest counts as gone.
const MAX_HANDSHAKE_TRIES: u32 = 6;
/// Silence after which the guest is asked whether it still lives; the host's kernel does the same on its side.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(300);
/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Unanswered questions until the guest counts as gone.
const KEEPALIVE_PROBES: u32 = 6;
/// How long an empty buffer keeps its memory.
const IDLE_BUFFER: Duration = Duration::from_secs(1);
/// Most acknowledgements of one number in a row: three ask for a fast retransmission, more say nothing new.
const MAX_DUPLICATES_OWED: u8 = 4;

/// Where a connection stands. Both directions may be half-closed while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The guest sent a SYN, and the host's socket is not connected yet.
    Connecting,
    /// Our SYN-ACK is under way.
    SynReceived,
    /// A forward's client is connected, and our SYN is under way, or the guest is not found yet.
    Dialing,
    Open,
    /// The host's socket broke: the guest gets what came before that, and then a reset.
    Broken,
    /// All is said between guest and us, though the host's socket may not have everything yet. The guest's last FIN
    /// may come again until then; `None` when that is not to be expected any more.
    TimeWait {
        until: Option<Instant>,
    },
}

/// What became of a connection by a segment or by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Alive,
    /// The guest reset it.
    ResetByGuest,
    /// The guest is gone: both sides get a reset.
    Lost,
    /// It is over and may be forgotten.
    Over,
    /// It is over, and the same segment starts another one.
    Reborn,
}

/// What the socket of the host should do once it took all bytes of [`Connection::outgoing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostHalf {
    Open,
    /// The guest's FIN came, and the host was not told yet.
    ToShut,
    Shut,
}

/// A guest's connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// The forward whose client began it; `None` for one that the guest began.
    pub(super) forward: Option<ForwardId>,
    /// The gateway's own name server is the other end, not a socket of the host.
    pub(super) is_local: bool,
    state: State,
    receiver: Receiver,
    transmitter: Transmitter,
    /// What the guest accepts, from its SYN.
    peer_mss: u16,
    /// What fits into the network.
    link_mss: u16,
    to_host: HostHalf,
    owes_syn: bool,
    owes_ack: bool,
    owes_duplicates: u8,
    /// When the guest was heard last.
    heard: Instant,
    keepalives: u32,
    /// When empty buffers give their memory back.
    tidy_at: Option<Instant>,
    /// The driver found no room for bytes from the socket, and waits to be told.
    pub(super) host_waits_for_room: bool,
    /// The driver has work to do.
    pub(super) has_host_work: bool,
    /// The driver holds a socket, or was told to open one.
    pub(super) has_socket: bool,
}

impl Connection {
    /// A connection for a SYN of a guest; `room` bytes fit into a packet. Nothing is answered until [`Self::connected`].
    pub(super) fn new(now: Instant, syn: &Segment<'_>, options: Options, isn: Seq, room: u16) -> Self {
        let receiver = Receiver::new(syn.first(), options.window_scale.is_some());
        let transmitter = Transmitter::new(isn + 1, options.window_scale.unwrap_or(0));
        let begun = Self::begin(now, State::Connecting, receiver, transmitter, room);
        Self { peer_mss: options.mss.unwrap_or(DEFAULT_MSS).max(MIN_MSS), ..begun }
    }

    /// A connection for a client of a forward. Nothing is sent until [`Self::call`].
    pub(super) fn dial(now: Instant, forward: ForwardId, isn: Seq, room: u16) -> Self {
        // What the guest's numbers are, its answer will tell.
        let begun = Self::begin(now, State::Dialing, Receiver::new(Seq(0), true), Transmitter::new(isn + 1, 0), room);
        Self { forward: Some(forward), ..begun }
    }

    fn begin(now: Instant, state: State, receiver: Receiver, transmitter: Transmitter, room: u16) -> Self {
        Self {
            forward: None,
            is_local: false,
            state,
            receiver,
            transmitter,
            peer_mss: DEFAULT_MSS,
            link_mss: link_mss(room),
            to_host: HostHalf::Open,
            owes_syn: false,
            owes_ack: false,
            owes_duplicates: 0,
            heard: now,
            keepalives: 0,
            tidy_at: None,
            host_waits_for_room: false,
            has_host_work: false,
            has_socket: true,
        }
    }

    /// The largest segment for the guest.
    fn mss(&self) -> u16 {
        self.peer_mss.min(self.link_mss)
    }

    /// What fits into a packet of the network changed.
    pub(super) fn set_room(&mut self, room: u16) {
        self.link_mss = link_mss(room);
    }

    /// The number of the guest's SYN, while the host's socket is not connected yet.
    fn first_number(&self) -> Seq {
        self.receiver.next.previous()
    }

    /// Whether the host's socket is not connected yet.
    pub(super) fn is_connecting(&self) -> bool {
        self.state == State::Connecting
    }

    /// The host's socket is connected.
    pub(super) fn connected(&mut self, now: Instant) {
        if self.state == State::Connecting {
            self.state = State::SynReceived;
            self.owes_syn = true;
            self.heard = now;
            self.transmitter.arm_handshake(now);
        }
    }

    /// Whether the guest has not answered our SYN yet.
    pub(super) fn is_dialing(&self) -> bool {
        self.state == State::Dialing
    }

    /// The guest is found: the SYN goes out.
    pub(super) fn call(&mut self, now: Instant) {
        if self.state == State::Dialing {
            self.owes_syn = true;
            self.transmitter.arm_handshake(now);
        }
    }

    /// Takes in a segment. The cause names what was wrong with it, if anything was.
    pub(super) fn handle(&mut self, now: Instant, segment: &Segment<'_>, memory: &mut Memory) -> (Fate, Option<Cause>) {
        self.heard = now;
        self.keepalives = 0;
        match self.state {
            State::Connecting => self.handle_while_connecting(segment),
            State::Dialing => self.handle_while_dialing(segment),
            State::TimeWait { .. } => self.handle_in_time_wait(segment),
            State::Broken => self.handle_while_broken(now, segment),
            State::SynReceived | State::Open => self.handle_synchronized(now, segment, memory),
        }
    }

    /// The guest waits for an answer to its SYN: it repeats it, or gives up.
    fn handle_while_connecting(&mut self, segment: &Segment<'_>) -> (Fate, Option<Cause>) {
        let first = self.first_number();
        if segment.has(Flags::RST) {
            let is_its = segment.first() == first || segment.first() == self.receiver.next;
            return if is_its { (Fate::ResetByGuest, None) } else { (Fate::Alive, Some(Cause::OutsideWindow)) };
        }
        match segment.has(Flags::SYN) {
            true if segment.first() == first => (Fate::Alive, Some(Cause::Retransmitted)),
            true => (Fate::Reborn, None), // the guest began anew: its earlier try is forgotten
            false => (Fate::Alive, Some(Cause::OutsideWindow)),
        }
    }

    /// The guest answers our SYN: RFC 9293, section 3.10.7.3. Both sides never begin at the same time here: who calls the
    /// port of a client is no server.
    fn handle_while_dialing(&mut self, segment: &Segment<'_>) -> (Fate, Option<Cause>) {
        let answers = segment.acknowledges() == Some(self.transmitter.unacknowledged());
        if segment.has(Flags::RST) {
            let refusal = (Fate::ResetByGuest, Some(Cause::GuestRefused));
            return if answers { refusal } else { (Fate::Alive, Some(Cause::OutsideWindow)) };
        }
        if !answers {
            // A guest that remembers an earlier connection of this name is to forget it.
            let is_stale = segment.has(Flags::ACK);
            return (Fate::Alive, Some(if is_stale { Cause::NoConnection } else { Cause::OutsideWindow }));
        }
        if !segment.has(Flags::SYN) {
            return (Fate::Alive, Some(Cause::OutsideWindow));
        }
        let options = match Options::parse(segment.options) {
            Ok(options) => options,
            Err(malformed) => return (Fate::Alive, Some(malformed.into())),
        };
        self.state = State::Open;
        self.owes_syn = false;
        self.owes_ack = true;
        self.peer_mss = options.mss.unwrap_or(DEFAULT_MSS).max(MIN_MSS);
        self.receiver = Receiver::new(segment.first(), options.window_scale.is_some());
        let ack = self.transmitter.unacknowledged();
        self.transmitter.answered(segment, ack, options.window_scale.unwrap_or(0));
        self.has_host_work = true; // bytes may be waiting
        (Fate::Alive, None)
    }

    /// Nobody is there for what the guest sends.
    fn handle_while_broken(&mut self, now: Instant, segment: &Segment<'_>) -> (Fate, Option<Cause>) {
        if segment.has(Flags::RST) {
            return (Fate::ResetByGuest, None);
        }
        let mss = self.mss();
        let acknowledged = segment.acknowledges().map(|ack| self.transmitter.acknowledge(now, segment, ack, mss));
        (Fate::Alive, acknowledged.and_then(Result::err))
    }

    fn handle_in_time_wait(&mut self, segment: &Segment<'_>) -> (Fate, Option<Cause>) {
        if segment.has(Flags::RST) {
            return (self.end_time_wait(), None); // the guest has forgotten, as it may (RFC 1337)
        }
        if segment.has(Flags::SYN) && !segment.first().is_before(self.receiver.next) {
            // RFC 9293, section 3.10.7.4, "TIME-WAIT STATE". Until the host has all, the guest has to ask again.
            let fate = if self.to_host == HostHalf::Shut { Fate::Reborn } else { Fate::Alive };
            return (fate, None);
        }
        self.owes_ack |= segment.sequence_len() > 0;
        (Fate::Alive, Some(Cause::Retransmitted))
    }

    /// RFC 9293, section 3.10.7.4, with the stricter rules of RFC 5961 for RST and SYN.
    fn handle_synchronized(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        memory: &mut Memory,
    ) -> (Fate, Option<Cause>) {
        let outside = (Fate::Alive, Some(Cause::OutsideWindow));
        if segment.has(Flags::RST) {
            if segment.first() == self.receiver.next {
                return (Fate::ResetByGuest, None);
            }
            self.owes_ack |= self.receiver.is_in_window(segment.first());
            return outside;
        }
        if segment.has(Flags::SYN) {
            let is_again = self.state == State::SynReceived && segment.first() + 1 == self.receiver.next;
            self.owes_syn |= is_again;
            self.owes_ack |= !is_again;
            return (Fate::Alive, Some(if is_again { Cause::Retransmitted } else { Cause::OutsideWindow }));
        }
        let Some(ack) = segment.acknowledges() else { return outside };
        if !segment.first().is_before(self.receiver.next) && !self.receiver.is_in_window(segment.first()) {
            self.owes_ack = true;
            return outside;
        }
        if self.state == State::SynReceived {
            if ack != self.transmitter.unacknowledged() {
                return outside;
            }
            self.state = State::Open;
            self.owes_syn = false;
            self.transmitter.open(segment, ack);
            self.has_host_work = true; // bytes may be waiting
        } else if let Err(cause) = self.transmitter.acknowledge(now, segment, ack, self.mss()) {
            self.owes_ack = true;
            return (Fate::Alive, Some(cause));
        }
        self.tell_host_of_room();
        let cause = self.take_payload(segment, memory);
        self.note_buffers(now);
        (self.fate_after_acknowledgement(now), cause)
    }

    fn take_payload(&mut self, segment: &Segment<'_>, memory: &mut Memory) -> Option<Cause> {
        if segment.sequence_len() == 0 {
            // A segment without payload and with an old number wants to be answered: a keep-alive.
            self.owes_ack |= segment.first().is_before(self.receiver.next);
            return None;
        }
        let result = self.receiver.accept(segment, memory);
        if result == Err(Cause::OutOfOrder) {
            self.owes_duplicates = (self.owes_duplicates + 1).min(MAX_DUPLICATES_OWED);
        } else {
            self.owes_ack = true;
        }
        if self.receiver.is_finished && self.to_host == HostHalf::Open {
            self.to_host = HostHalf::ToShut;
        }
        self.has_host_work |= !self.receiver.ring.is_empty() || self.to_host == HostHalf::ToShut;
        result.err()
    }

    /// The guest acknowledged: maybe the last thing there was.
    fn fate_after_acknowledgement(&mut self, now: Instant) -> Fate {
        if !(self.transmitter.is_done && self.receiver.is_finished) {
            return Fate::Alive;
        }
        self.transmitter.timer = None;
        self.state = State::TimeWait { until: Some(now + TIME_WAIT) };
        // When the guest closed first, and has our FIN, it is the one to wait.
        if self.owes_ack { Fate::Alive } else { self.end_time_wait() }
    }

    fn end_time_wait(&mut self) -> Fate {
        self.state = State::TimeWait { until: None };
        if self.to_host == HostHalf::Shut { Fate::Over } else { Fate::Alive }
    }

    /// Empty buffers are given back after a while.
    fn note_buffers(&mut self, now: Instant) {
        let has_buffer = self.receiver.ring.has_buffer() || self.transmitter.ring.has_buffer();
        self.tidy_at = has_buffer.then(|| now + IDLE_BUFFER);
    }

    fn tell_host_of_room(&mut self) {
        if self.host_waits_for_room && self.transmitter.ring.is_half_empty() {
            self.host_waits_for_room = false;
            self.has_host_work = true;
        }
    }

    /// Bytes for the host's socket.
    pub(super) fn outgoing(&self) -> ([&[u8]; 2], HostHalf) {
        (self.receiver.ring.slices(0, usize::MAX), self.to_host)
    }

    /// The host's socket took `count` of them.
    pub(super) fn written(&mut self, now: Instant, count: usize) {
        self.receiver.ring.consume(count);
        self.note_buffers(now);
    }

    /// The host's socket was told that no more comes.
    pub(super) fn shut(&mut self) -> Fate {
        if self.to_host == HostHalf::ToShut && self.receiver.ring.is_empty() {
            self.to_host = HostHalf::Shut;
        }
        if self.state == (State::TimeWait { until: None }) { self.end_time_wait() } else { Fate::Alive }
    }

    /// Sees to it that there is room for bytes from the host's socket, if there may be.
    pub(super) fn make_room(&mut self, now: Instant, memory: &mut Memory) {
        if self.takes_bytes() && self.transmitter.ring.space()[0].is_empty() {
            self.transmitter.ring.reserve(GRANTED_BYTES, memory);
            self.tidy_at = Some(now + IDLE_BUFFER); // even if nothing comes
        }
    }

    /// How many bytes may come from the host's socket by [`Self::take`]: some as long as no memory is held for them.
    pub(super) fn fits(&self, memory: &Memory) -> usize {
        let is_bare = self.takes_bytes() && !self.transmitter.ring.has_buffer();
        if is_bare { self.transmitter.ring.limit(memory) } else { 0 }
    }

    /// The host's socket gave `bytes`, at most as many as [`Self::fits`] says.
    pub(super) fn take(&mut self, now: Instant, bytes: &[u8], memory: &mut Memory) {
        self.transmitter.ring.reserve(bytes.len(), memory);
        self.transmitter.ring.push(bytes);
        self.note_buffers(now);
    }

    /// Where bytes from the host's socket go; nowhere when there is no room.
    pub(super) fn room(&mut self) -> [&mut [u8]; 2] {
        if !self.takes_bytes() {
            return [&mut [], &mut []];
        }
        let space = self.transmitter.ring.space();
        self.host_waits_for_room = space[0].is_empty();
        space
    }

    /// Whether more may come from the host's socket.
    fn takes_bytes(&self) -> bool {
        self.state == State::Open && !self.transmitter.is_finished
    }

    /// The host's socket wrote `count` bytes to [`Self::room`].
    pub(super) fn read(&mut self, now: Instant, count: usize) {
        self.transmitter.ring.fill(count);
        self.note_buffers(now);
    }

    /// The host's socket has no more bytes.
    pub(super) fn finished_by_host(&mut self) {
        self.transmitter.is_finished = true;
    }

    /// The host's socket broke. Whether bytes of it have to go out before the guest hears of that.
    pub(super) fn break_off(&mut self) -> bool {
        self.has_socket = false;
        let must_drain = self.state == State::Open && self.transmitter.has_unsent_bytes();
        if must_drain {
            self.state = State::Broken;
            self.transmitter.is_finished = false; // the reset comes in the FIN's place
        }
        must_drain
    }

    /// Whether a reset is all that is left.
    pub(super) fn is_broken_off(&self) -> bool {
        self.state == State::Broken && !self.transmitter.has_unsent_bytes()
    }

    /// Whether the host's socket has nothing left to do.
    pub(super) fn is_host_done(&self) -> bool {
        self.transmitter.is_finished && self.to_host == HostHalf::Shut
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let next = match (self.state, self.transmitter.timer) {
            (State::Connecting, _) => None, // the host's kernel gives up by itself
            (State::Dialing, timer) => timer,
            (State::TimeWait { until }, _) => until,
            (_, Some(timer)) => Some(timer),
            (_, None) => Some(self.keepalive_at()),
        };
        next.into_iter().chain(self.tidy_at).min()
    }

    fn keepalive_at(&self) -> Instant {
        self.heard + KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * self.keepalives
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, memory: &mut Memory) -> Fate {
        if self.tidy_at.is_some_and(|at| at <= now) {
            self.tidy_at = None;
            for ring in [&mut self.receiver.ring, &mut self.transmitter.ring] {
                if ring.is_unused() {
                    ring.release(memory);
                }
            }
        }
        match (self.state, self.transmitter.timer) {
            (State::Connecting, _) | (State::Dialing, None) => Fate::Alive,
            (State::TimeWait { until: Some(until) }, _) if until <= now => self.end_time_wait(),
            (State::TimeWait { .. }, _) => Fate::Alive,
            (_, Some(timer)) => {
                if timer <= now {
                    self.time_out(now)
                } else {
                    Fate::Alive
                }
            }
            (_, None) if self.keepalive_at() > now => Fate::Alive,
            (_, None) if self.keepalives == KEEPALIVE_PROBES => Fate::Lost,
            (_, None) => {
                self.keepalives += 1;
                self.transmitter.probe();
                Fate::Alive
            }
        }
    }

    fn time_out(&mut self, now: Instant) -> Fate {
        let mss = self.mss();
        if matches!(self.state, State::SynReceived | State::Dialing) {
            self.owes_syn = true;
            self.transmitter.back_off_handshake(now);
            return if self.transmitter.tries() > MAX_HANDSHAKE_TRIES { Fate::Lost } else { Fate::Alive };
        }
        match self.transmitter.handle_timeout(now, mss) {
            Ok(()) => Fate::Alive,
            Err(GuestSilent) => Fate::Lost,
        }
    }

    /// Whether [`Self::poll`] may have something to send.
    pub(super) fn wants_poll(&self, memory: &Memory) -> bool {
        self.owes_syn
            || self.owes_ack
            || self.owes_duplicates > 0
            || self.transmitter.has_work()
            || (self.state == State::Open && self.receiver.has_window_news(self.mss(), memory))
    }

    /// The next segment for the guest.
    fn poll(&mut self, now: Instant, memory: &Memory) -> Option<Outgoing<'_>> {
        let mss = self.mss();
        match self.state {
            State::Connecting => return None,
            State::SynReceived | State::Dialing => {
                return std::mem::take(&mut self.owes_syn).then(|| self.syn(memory));
            }
            State::Open | State::Broken | State::TimeWait { .. } => {}
        }
        if let Some(piece) = self.transmitter.poll(now, mss) {
            self.owes_ack = false;
            let window = self.receiver.advertise(mss, memory);
            let fin = if piece.fin { Flags::FIN } else { Flags::default() };
            let push = if piece.push && piece.len > 0 { Flags::PSH } else { Flags::default() };
            let payload = self.transmitter.ring.slices(piece.at, piece.len);
            let header = Outgoing::bare(piece.seq, Some(self.receiver.next), fin | push, window);
            return Some(Outgoing { payload, mss, ..header });
        }
        let seq = if self.transmitter.take_probe() {
            self.transmitter.unacknowledged().previous()
        } else if self.owes_duplicates > 0 {
            self.owes_duplicates -= 1;
            self.transmitter.end()
        } else if self.owes_ack || self.receiver.has_window_news(mss, memory) {
            self.transmitter.end()
        } else {
            return None;
        };
        self.owes_ack = false;
        let window = self.receiver.advertise(mss, memory);
        Some(Outgoing::bare(seq, Some(self.receiver.next), Flags::default(), window))
    }

    /// Our SYN, which answers the guest's if it began.
    fn syn(&mut self, memory: &Memory) -> Outgoing<'static> {
        let scale = self.receiver.scale_option();
        // The window of a SYN is never shifted (RFC 7323, section 2.2).
        let shift = scale.unwrap_or(0);
        let window = u32::from(self.receiver.advertise(self.link_mss, memory)) << shift;
        let window = u16::try_from(window).unwrap_or(u16::MAX);
        let options = Options { mss: Some(self.link_mss), window_scale: scale, ..Options::default() };
        let first = self.transmitter.unacknowledged().previous();
        let ack = (self.state == State::SynReceived).then_some(self.receiver.next);
        Outgoing { options, ..Outgoing::bare(first, ack, Flags::SYN, window) }
    }

    /// A reset for the guest. Before it has an answer to its SYN, that is what it acknowledges.
    fn reset(&self) -> Outgoing<'static> {
        let seq = if self.state == State::Connecting { Seq(0) } else { self.transmitter.end() };
        Outgoing::bare(seq, Some(self.receiver.next), Flags::RST, 0)
    }

    /// Gives all memory back.
    pub(super) fn release(&mut self, memory: &mut Memory) {
        self.receiver.ring.release(memory);
        self.transmitter.ring.release(memory);
    }
}

/// The largest segment where `room` bytes fit into a packet.
fn link_mss(room: u16) -> u16 {
    room.saturating_sub(HEADER_BYTES).max(MIN_MSS)
}
