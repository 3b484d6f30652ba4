//! What gateways do for connections that end at them, in place of the host's sockets.

use weft_types::{Instant, MacAddr, Metadata};

use crate::nat::packet::v4;
use crate::nat::{FlowId, HostError, HostOp};
use crate::services::Services;
use crate::streams::{Asked, Service};
use crate::{NetworkId, Reason, dns, metadata};

impl Services {
    /// Does what clients ask over TCP. To be called after whatever may have moved a connection.
    pub(crate) fn serve_streams(&mut self, now: Instant) {
        while let Some(op) = self.nat.poll_local() {
            match op {
                HostOp::TcpConnect { flow, to } => self.open_stream(now, flow, Service::at(to)),
                HostOp::TcpProgress { flow } => self.serve_stream(now, flow),
                HostOp::TcpClose { flow, .. } => self.streams.close(flow),
                _ => {} // of connections there is nothing else to say
            }
        }
    }

    fn open_stream(&mut self, now: Instant, flow: FlowId, service: Service) {
        let Some((network, mac, _)) = self.nat.caller(flow) else { return };
        let is_known = service == Service::Names || self.machine(network, mac).is_some();
        if !is_known {
            self.nat.tcp_failed(now, flow, HostError::Refused);
        } else if self.streams.open(now, flow, (network, mac), service) {
            self.nat.tcp_connected(now, flow);
        } else {
            self.nat.tcp_failed(now, flow, HostError::Exhausted);
        }
    }

    /// Who the machine is that an adapter belongs to, if it is to be told.
    fn machine(&self, network: NetworkId, mac: MacAddr) -> Option<&Metadata> {
        self.gateways.get(&network)?.config.metadata.get(&mac)
    }

    fn take_metadata_request(&mut self, now: Instant, flow: FlowId, request: &metadata::Request) {
        let Some((network, mac, guest)) = self.nat.caller(flow) else { return };
        let machine = self.machine(network, mac).zip(v4(guest.ip()));
        match machine.map(|(machine, ip)| metadata::answer(machine, ip, request)) {
            Some(answer) => self.streams.get(flow).into_iter().for_each(|stream| stream.answer_last(answer.clone())),
            None => self.reset_stream(now, flow, HostError::Refused), // it was, and is not any more
        }
    }

    /// Moves what can be moved between a client's connection and the service that it asks.
    pub(crate) fn serve_stream(&mut self, now: Instant, flow: FlowId) {
        let Some((network, mac, _)) = self.nat.caller(flow) else { return };
        loop {
            self.give_answers(now, flow);
            let Some(stream) = self.streams.get(flow) else { return };
            match stream.next_request(now) {
                Ok(Some(Asked::Name(query))) => self.take_stream_query(now, flow, (network, mac), &query),
                Ok(Some(Asked::Metadata(request))) => self.take_metadata_request(now, flow, &request),
                Ok(None) if self.read_stream(now, flow) == 0 => break,
                Ok(None) => {}
                Err(dns::TooLong) => {
                    self.count(network, Reason::DnsMalformed);
                    return self.reset_stream(now, flow, HostError::Refused);
                }
            }
        }
        if self.nat.tcp_outgoing(flow).is_empty() && self.nat.tcp_outgoing(flow).then_shut {
            self.nat.tcp_shut(now, flow);
            self.streams.get(flow).into_iter().for_each(|stream| stream.end());
        }
        if self.streams.get(flow).is_some_and(|stream| stream.closes()) {
            self.nat.tcp_finished(now, flow);
        }
    }

    /// Gives the client of a connection as many bytes of answers as it has room for.
    fn give_answers(&mut self, now: Instant, flow: FlowId) {
        while let Some(stream) = self.streams.get(flow) {
            if !stream.has_answers() {
                return;
            }
            match stream.give(self.nat.tcp_room(now, flow)) {
                0 => return,
                count => self.nat.tcp_read(now, flow, count),
            }
        }
    }

    /// Reads what the client sent, as far as there is room for it; how many bytes that were.
    fn read_stream(&mut self, now: Instant, flow: FlowId) -> usize {
        let Some(stream) = self.streams.get(flow) else { return 0 };
        let count = stream.take(self.nat.tcp_outgoing(flow).bytes[0]);
        if count > 0 {
            self.nat.tcp_written(now, flow, count);
        }
        count
    }

    /// Ends connections that were silent for too long.
    pub(crate) fn end_silent_streams(&mut self, now: Instant) {
        while let Some((flow, was_told)) = self.streams.overdue(now) {
            match was_told {
                false => self.nat.tcp_finished(now, flow),
                true => self.reset_stream(now, flow, HostError::TimedOut),
            }
        }
    }

    fn reset_stream(&mut self, now: Instant, flow: FlowId, error: HostError) {
        self.streams.close(flow);
        self.nat.tcp_failed(now, flow, error);
    }
}
