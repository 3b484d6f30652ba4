//! Names asked for at the gateways: queries over UDP and TCP come in here, and answers go out.

use std::net::{Ipv4Addr, SocketAddrV4};

use weft_types::{Instant, MacAddr};
use weft_wire::udp;

use crate::dns::{self, Asker, Heard, Lookups, Outcome, Way};
use crate::frame::Link;
use crate::gateway::{Gateway, views};
use crate::nat::{FlowId, HostError, HostOp};
use crate::services::Services;
use crate::{DnsForward, NetworkId, Reason};

impl Services {
    /// The next query for the outside.
    pub fn poll_dns(&mut self) -> Option<DnsForward> {
        self.dns.forwarder.poll()
    }

    /// What was answered to query `id`; `None` when nobody answered.
    ///
    /// True when the query is done with. False when the answer does not fit it: the query goes on waiting, for the
    /// right answer may still come.
    pub fn dns_answer(&mut self, now: Instant, id: u64, answer: Option<&[u8]>) -> bool {
        match self.dns.hear(now, id, answer) {
            Heard::TooLate => true,
            Heard::Misfit(asker) => {
                self.count(asker.network, Reason::DnsBadAnswer);
                false
            }
            Heard::Answer(asker, back) => {
                if answer.is_none() {
                    self.count(asker.network, Reason::DnsTimeout);
                }
                if let Err(reason) = self.send_dns(now, asker, &back) {
                    self.count(asker.network, reason);
                }
                true
            }
        }
    }

    /// The host asks other servers than before: what the earlier ones said may not hold any more.
    pub fn forget_dns_answers(&mut self) {
        self.dns.forget_answers(|_| false);
    }

    /// A query over UDP.
    pub(crate) fn take_dns(
        &mut self,
        now: Instant,
        (network, mac): (NetworkId, MacAddr),
        from: Ipv4Addr,
        datagram: &udp::Datagram<'_>,
    ) -> Result<(), Reason> {
        let way = Way::Udp(SocketAddrV4::new(from, datagram.src_port));
        let asker = Asker { network, mac, way };
        match self.ask(now, asker, datagram.payload)? {
            Outcome::Answer(answer, reason) => {
                self.send_dns(now, asker, &answer)?;
                reason.map_or(Ok(()), Err)
            }
            Outcome::Forwarded => Ok(()),
            Outcome::Dropped(reason) => Err(reason),
        }
    }

    fn ask(&mut self, now: Instant, asker: Asker, message: &[u8]) -> Result<Outcome, Reason> {
        let unix_s = self.unix_s(now);
        let Gateway { config, .. } = self.gateways.get(&asker.network).ok_or(Reason::UnknownNetwork)?;
        let lookups = Lookups::new(views(&self.gateways), asker.network, asker.mac, unix_s);
        Ok(self.dns.handle(now, asker, message, config.mtu, &lookups, config.nat))
    }

    /// Sends an answer to whoever asked, if the network is still there.
    fn send_dns(&mut self, now: Instant, asker: Asker, answer: &[u8]) -> Result<(), Reason> {
        let config = &self.gateways.get(&asker.network).ok_or(Reason::UnknownNetwork)?.config;
        match asker.way {
            Way::Udp(socket) => {
                let link = Link { from: config.mac, to: asker.mac };
                let frame = link.udp(SocketAddrV4::new(config.ip, dns::PORT), socket, answer);
                self.send(asker.network, frame)
            }
            Way::Tcp(flow) => {
                if let Some(stream) = self.dns.streams.get(flow) {
                    stream.waited(now);
                    stream.answer(answer);
                    self.serve_stream(now, flow);
                    self.serve_streams(now);
                }
                Ok(())
            }
        }
    }

    /// Does what clients ask over TCP. To be called after whatever may have moved a connection.
    pub(crate) fn serve_streams(&mut self, now: Instant) {
        while let Some(op) = self.nat.poll_local() {
            match op {
                HostOp::TcpConnect { flow, .. } => {
                    let caller = self.nat.caller(flow);
                    if caller.is_some_and(|(network, mac, _)| self.dns.streams.open(now, flow, network, mac)) {
                        self.nat.tcp_connected(now, flow);
                    } else {
                        self.nat.tcp_failed(now, flow, HostError::Exhausted);
                    }
                }
                HostOp::TcpProgress { flow } => self.serve_stream(now, flow),
                HostOp::TcpClose { flow, .. } => self.dns.streams.close(flow),
                _ => {} // of connections there is nothing else to say
            }
        }
    }

    /// Moves what can be moved between a client's connection and the name server.
    fn serve_stream(&mut self, now: Instant, flow: FlowId) {
        let Some((network, mac, _)) = self.nat.caller(flow) else { return };
        loop {
            self.give_answers(now, flow);
            let Some(stream) = self.dns.streams.get(flow) else { return };
            match stream.next_query(now) {
                Ok(Some(query)) => self.take_stream_query(now, flow, (network, mac), &query),
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
            self.dns.streams.get(flow).into_iter().for_each(|stream| stream.end());
        }
        if self.dns.streams.get(flow).is_some_and(|stream| stream.closes()) {
            self.nat.tcp_finished(now, flow);
        }
    }

    /// Gives the client of a connection as many bytes of answers as it has room for.
    fn give_answers(&mut self, now: Instant, flow: FlowId) {
        while let Some(stream) = self.dns.streams.get(flow) {
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
        let Some(stream) = self.dns.streams.get(flow) else { return 0 };
        let count = stream.take(self.nat.tcp_outgoing(flow).bytes[0]);
        if count > 0 {
            self.nat.tcp_written(now, flow, count);
        }
        count
    }

    fn take_stream_query(&mut self, now: Instant, flow: FlowId, (network, mac): (NetworkId, MacAddr), query: &[u8]) {
        let asker = Asker { network, mac, way: Way::Tcp(flow) };
        let outcome = self.ask(now, asker, query).unwrap_or_else(Outcome::Dropped);
        let Some(stream) = self.dns.streams.get(flow) else { return };
        let reason = match outcome {
            Outcome::Answer(answer, reason) => {
                stream.answer(&answer);
                reason
            }
            Outcome::Forwarded => {
                stream.wait();
                None
            }
            Outcome::Dropped(reason) => Some(reason),
        };
        reason.into_iter().for_each(|reason| self.count(network, reason));
    }

    /// Ends connections that were silent for too long.
    pub(crate) fn end_silent_streams(&mut self, now: Instant) {
        while let Some((flow, was_told)) = self.dns.streams.overdue(now) {
            match was_told {
                false => self.nat.tcp_finished(now, flow),
                true => self.reset_stream(now, flow, HostError::TimedOut),
            }
        }
    }

    fn reset_stream(&mut self, now: Instant, flow: FlowId, error: HostError) {
        self.dns.streams.close(flow);
        self.nat.tcp_failed(now, flow, error);
    }
}
