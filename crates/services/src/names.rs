//! Names asked for at the gateways: queries come in here, and answers go out.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use weft_types::{Instant, MacAddr};
use weft_wire::{ipv4, ipv6, udp};

use crate::dns::{self, Asker, Heard, Lookups, Outcome, Way};
use crate::frame::Link;
use crate::gateway::{Gateway, views};
use crate::nat::FlowId;
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

    /// The answer to what a program of the host asks, by a datagram: about names in our own domain, and nothing else.
    /// `None` to what deserves none.
    pub fn answer_host(&self, now: Instant, message: &[u8]) -> Option<Vec<u8>> {
        dns::answer_host(message, &Lookups::of_host(views(&self.gateways), self.unix_s(now)))
    }

    /// A query over UDP.
    pub(crate) fn take_dns(&mut self, now: Instant, asker: Asker, datagram: &udp::Datagram<'_>) -> Result<(), Reason> {
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
        let longer_header = match asker.way {
            Way::Udp { from: SocketAddr::V6(_), .. } => (ipv6::HEADER_BYTES - ipv4::HEADER_BYTES) as u16,
            Way::Udp { .. } | Way::Tcp(_) => 0,
        };
        let mtu = config.mtu.saturating_sub(longer_header);
        Ok(self.dns.handle(now, asker, message, mtu, &lookups, config.nat))
    }

    /// Sends an answer to whoever asked, if the network is still there.
    fn send_dns(&mut self, now: Instant, asker: Asker, answer: &[u8]) -> Result<(), Reason> {
        let config = &self.gateways.get(&asker.network).ok_or(Reason::UnknownNetwork)?.config;
        match asker.way {
            Way::Udp { from, at } => {
                let link = Link { from: config.mac, to: asker.mac };
                let frame = match (at, from) {
                    (IpAddr::V6(at), SocketAddr::V6(from)) => {
                        link.udp_v6(SocketAddrV6::new(at, dns::PORT, 0, 0), from, answer)
                    }
                    (_, SocketAddr::V4(from)) => link.udp(SocketAddrV4::new(config.ip, dns::PORT), from, answer),
                    (IpAddr::V4(_), SocketAddr::V6(_)) => return Ok(()), // nobody asks so
                };
                self.send(asker.network, frame)
            }
            Way::Tcp(flow) => {
                if let Some(stream) = self.streams.get(flow) {
                    stream.waited(now);
                    stream.answer_name(answer);
                    self.serve_stream(now, flow);
                    self.serve_streams(now);
                }
                Ok(())
            }
        }
    }

    /// A query that came over TCP.
    pub(crate) fn take_stream_query(
        &mut self,
        now: Instant,
        flow: FlowId,
        (network, mac): (NetworkId, MacAddr),
        query: &[u8],
    ) {
        let asker = Asker { network, mac, way: Way::Tcp(flow) };
        let outcome = self.ask(now, asker, query).unwrap_or_else(Outcome::Dropped);
        let Some(stream) = self.streams.get(flow) else { return };
        let reason = match outcome {
            Outcome::Answer(answer, reason) => {
                stream.answer_name(&answer);
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
}
