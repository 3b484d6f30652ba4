//! Connections that end at the gateway itself: of those who ask for names by TCP, and for what their machine is.
//!
//! What a client sends is not read while as much waits for it as it may have.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use weft_types::{Instant, MacAddr};

use crate::dns::{self, TooLong};
use crate::nat::FlowId;
use crate::{NetworkId, metadata};

/// Connections of everyone.
const MAX_STREAMS: usize = 512;
/// Connections of one adapter.
const MAX_STREAMS_PER_ADAPTER: usize = 32;
/// Requests of one connection whose answers have to come from outside.
const MAX_WAITING: usize = 16;
/// Answers that one connection has not taken yet, in bytes, when no more requests are read.
const MAX_UNSENT_BYTES: usize = 64 << 10;
/// How long a connection may be silent, and how long its client may take to close it then.
const IDLE: Duration = Duration::from_secs(15);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Names.
    Names,
    /// What the machine is.
    Metadata,
}

impl Service {
    /// The service that stands at a gateway's socket.
    pub(crate) fn at(socket: SocketAddr) -> Self {
        if socket == SocketAddr::V4(metadata::SOCKET) { Self::Metadata } else { Self::Names }
    }

    fn max_request_bytes(self) -> usize {
        match self {
            Self::Names => dns::MAX_FRAMED_BYTES,
            Self::Metadata => metadata::MAX_HEAD_BYTES,
        }
    }
}

/// What a client asks.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A query for a name, as it came.
    Name(Vec<u8>),
    /// Something of its machine.
    Metadata(metadata::Request),
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Stream {
    network: NetworkId,
    mac: MacAddr,
    service: Service,
    /// What came and is no whole request yet.
    input: Vec<u8>,
    /// Answers that wait for room.
    output: Vec<u8>,
    /// Requests that wait for the outside.
    waiting: usize,
    /// Nothing more is asked, or heard: the client sends no more, or had its one answer.
    is_ended: bool,
    /// We send no more than what stands in `output`.
    is_closing: bool,
    deadline: Instant,
}

impl Stream {
    /// Takes the front of `bytes`, as much as there is room for; how much that was.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        if self.is_ended {
            return bytes.len();
        }
        let room = self.service.max_request_bytes().saturating_sub(self.input.len());
        let count = bytes.len().min(room);
        self.input.extend_from_slice(&bytes[..count]);
        count
    }

    /// The next whole request, if answers to it have room.
    pub(crate) fn next_request(&mut self, now: Instant) -> Result<Option<Asked>, TooLong> {
        if self.is_closing || self.waiting >= MAX_WAITING || self.output.len() >= MAX_UNSENT_BYTES {
            return Ok(None);
        }
        let asked = match self.service {
            Service::Names => dns::next_query(&mut self.input)?.map(Asked::Name),
            Service::Metadata if self.is_ended => None,
            Service::Metadata => metadata::Request::parse(&self.input).map(Asked::Metadata),
        };
        if asked.is_some() {
            self.deadline = now + IDLE;
        }
        Ok(asked)
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

    /// An answer about a name.
    pub(crate) fn answer_name(&mut self, answer: &[u8]) {
        dns::put_answer(&mut self.output, answer);
    }

    /// The one answer that a connection gets which asks about its machine. What else comes is not looked at.
    pub(crate) fn answer_last(&mut self, answer: Vec<u8>) {
        self.output = answer;
        self.input = Vec::new();
        self.is_ended = true;
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
    pub(crate) fn open(
        &mut self,
        now: Instant,
        flow: FlowId,
        (network, mac): (NetworkId, MacAddr),
        service: Service,
    ) -> bool {
        let of_adapter = self.0.values().filter(|other| (other.network, other.mac) == (network, mac)).count();
        if self.0.len() >= MAX_STREAMS || of_adapter >= MAX_STREAMS_PER_ADAPTER {
            return false;
        }
        let stream = Stream {
            network,
            mac,
            service,
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
