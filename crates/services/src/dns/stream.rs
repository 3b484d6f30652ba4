//! Names asked for over TCP (RFC 7766): queries and answers behind two bytes with their length, any number of them on
//! one connection, answered in whatever order the answers are known.
//!
//! What a client sends is not read while as much waits for it as it may have.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_types::{Instant, MacAddr};

use crate::NetworkId;
use crate::nat::FlowId;

/// Connections of everyone.
const MAX_STREAMS: usize = 512;
/// Connections of one adapter.
const MAX_STREAMS_PER_ADAPTER: usize = 32;
/// The longest query; one question and what may stand behind it are shorter by far.
const MAX_QUERY_BYTES: usize = 4096;
/// Queries of one connection whose answers have to come from outside.
const MAX_WAITING: usize = 16;
/// Answers that one connection has not taken yet, in bytes, when no more queries are read.
const MAX_UNSENT_BYTES: usize = 64 << 10;
/// How long a connection may be silent, and how long its client may take to close it then.
const IDLE: Duration = Duration::from_secs(15);

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Stream {
    network: NetworkId,
    mac: MacAddr,
    /// What came and is no whole query yet.
    input: Vec<u8>,
    /// Answers that wait for room.
    output: Vec<u8>,
    /// Queries that wait for the outside.
    waiting: usize,
    /// The client sends no more.
    is_ended: bool,
    /// We send no more than what stands in `output`.
    is_closing: bool,
    deadline: Instant,
}

/// A client broke the rules: its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Stream {
    /// Takes the front of `bytes`, as much as there is room for; how much that was.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let room = (2 + MAX_QUERY_BYTES).saturating_sub(self.input.len());
        let count = bytes.len().min(room);
        self.input.extend_from_slice(&bytes[..count]);
        count
    }

    /// The next whole query, if answers to it have room.
    pub(crate) fn next_query(&mut self, now: Instant) -> Result<Option<Vec<u8>>, TooLong> {
        if self.is_closing || self.waiting >= MAX_WAITING || self.output.len() >= MAX_UNSENT_BYTES {
            return Ok(None);
        }
        let Some((length, rest)) = self.input.split_first_chunk::<2>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_QUERY_BYTES {
            return Err(TooLong);
        }
        let Some(query) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.input.drain(..2 + length);
        self.deadline = now + IDLE;
        Ok(Some(query))
    }

    /// A query waits for the outside.
    pub(crate) fn wait(&mut self) {
        self.waiting += 1;
    }

    /// One that waited has its answer.
    pub(crate) fn waited(&mut self, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        self.deadline = now + IDLE;
    }

    /// An answer for the client. None is longer than 65,535 bytes, for so long are messages over TCP.
    pub(crate) fn answer(&mut self, answer: &[u8]) {
        if let Ok(length) = u16::try_from(answer.len()) {
            self.output.extend_from_slice(&length.to_be_bytes());
            self.output.extend_from_slice(answer);
        }
    }

    /// Whether answers wait for room.
    pub(crate) fn has_answers(&self) -> bool {
        !self.output.is_empty()
    }

    /// Fills `room` with what waits for the client; how much that was.
    pub(crate) fn give(&mut self, room: [&mut [u8]; 2]) -> usize {
        let mut given = 0;
        for part in room {
            let count = part.len().min(self.output.len() - given);
            part[..count].copy_from_slice(&self.output[given..given + count]);
            given += count;
        }
        self.output.drain(..given);
        given
    }

    /// The client sends no more.
    pub(crate) fn end(&mut self) {
        self.is_ended = true;
    }

    /// Whether the last byte has gone to the client, so that it is to be told so; said once.
    pub(crate) fn closes(&mut self) -> bool {
        let is_done = self.is_ended && !self.is_closing && self.waiting == 0 && self.output.is_empty();
        self.is_closing |= is_done;
        is_done
    }
}

/// The connections of all clients.
#[derive(Debug, Default)]
pub(crate) struct Streams(BTreeMap<FlowId, Stream>);

impl Streams {
    /// A client connects; false when there is no room for it.
    #[must_use]
    pub(crate) fn open(&mut self, now: Instant, flow: FlowId, network: NetworkId, mac: MacAddr) -> bool {
        let of_adapter = self.0.values().filter(|other| (other.network, other.mac) == (network, mac)).count();
        if self.0.len() >= MAX_STREAMS || of_adapter >= MAX_STREAMS_PER_ADAPTER {
            return false;
        }
        let stream = Stream {
            network,
            mac,
            input: Vec::new(),
            output: Vec::new(),
            waiting: 0,
            is_ended: false,
            is_closing: false,
            deadline: now + IDLE,
        };
        self.0.insert(flow, stream);
        true
    }

    pub(crate) fn get(&mut self, flow: FlowId) -> Option<&mut Stream> {
        self.0.get_mut(&flow)
    }

    pub(crate) fn close(&mut self, flow: FlowId) {
        self.0.remove(&flow);
    }

    /// A connection that was silent for too long, and whether its client was told before that nothing comes any more.
    pub(crate) fn overdue(&mut self, now: Instant) -> Option<(FlowId, bool)> {
        let (flow, stream) = self.0.iter_mut().find(|(_, stream)| stream.deadline <= now)?;
        stream.deadline = now + IDLE;
        Some((*flow, std::mem::replace(&mut stream.is_closing, true)))
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.0.values().map(|stream| stream.deadline).min()
    }
}
