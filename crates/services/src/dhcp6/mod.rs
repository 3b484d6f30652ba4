//! DHCPv6 at a gateway (RFC 8415): machines make their addresses themselves, and can ask for the rest.

mod message;

use std::net::{Ipv6Addr, SocketAddrV6};

use weft_types::{Dhcp6, MacAddr};
use weft_wire::udp;

pub(crate) use self::message::Request;
use self::message::{Writer, kind, option};
use crate::gateway::{Arrival, Gateway};
use crate::services::Services;
use crate::{LINK_LOCAL, Reason};

/// Where servers are asked.
pub(crate) const SERVER_PORT: u16 = 547;
/// Where clients hear the answer.
const CLIENT_PORT: u16 = 546;
/// All servers and relays of a link (section 7.1).
pub(crate) const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// When a client asks again, in seconds: what it was told is true for as long as what advertisements say.
const REFRESH_S: u32 = 1800;

impl Services {
    /// A datagram from a client on the link to all servers of the link.
    pub(crate) fn take_dhcp6(
        &mut self,
        arrival: &Arrival<'_>,
        client: Ipv6Addr,
        datagram: &udp::Datagram<'_>,
    ) -> Result<(), Reason> {
        // A relay speaks from elsewhere; there is none behind which we would serve.
        if !client.is_unicast_link_local() {
            return Err(Reason::Dhcp6Ignored);
        }
        let request = Request::parse(datagram.payload).map_err(|_| Reason::Dhcp6Malformed)?;
        let gateway = self.gateway(arrival.net)?;
        let answer = gateway.inform(&request)?;
        let (from, to) =
            (SocketAddrV6::new(LINK_LOCAL, SERVER_PORT, 0, 0), SocketAddrV6::new(client, CLIENT_PORT, 0, 0));
        let frame = gateway.back(&arrival.frame).udp_v6(from, to, &answer);
        self.send(arrival.net, frame)
    }
}

impl Gateway {
    /// The answer to who asks for nothing but information (section 18.3.6).
    fn inform(&self, request: &Request<'_>) -> Result<Vec<u8>, Reason> {
        let Some(Dhcp6::Stateless) = self.config.dhcp6 else { return Err(Reason::Dhcp6Ignored) };
        let own = server_id(self.config.mac);
        // What it is to be silent about (section 16.12).
        let is_for_us = request.server.is_none_or(|server| server == own);
        if request.kind != kind::INFORMATION_REQUEST || request.has_identity || !is_for_us {
            return Err(Reason::Dhcp6Ignored);
        }
        let mut reply = Writer::new(kind::REPLY, request.transaction);
        request.client.into_iter().for_each(|client| reply.option(option::CLIENT_ID, client));
        reply.option(option::SERVER_ID, &own);
        let link = self.link();
        if let Some(server) = link.name_server.filter(|_| request.wants(option::DNS_SERVERS)) {
            reply.option(option::DNS_SERVERS, &server.octets());
        }
        if !link.search.is_empty() && request.wants(option::DOMAIN_LIST) {
            reply.option(option::DOMAIN_LIST, &link.search);
        }
        if request.wants(option::REFRESH_TIME) {
            reply.option(option::REFRESH_TIME, &REFRESH_S.to_be_bytes());
        }
        Ok(reply.finish())
    }
}

/// A server's identifier, of its hardware address (section 11.4): the same after whatever happens.
fn server_id(mac: MacAddr) -> Vec<u8> {
    const LINK_LAYER_ETHERNET: [u8; 4] = [0, 3, 0, 1];
    [&LINK_LAYER_ETHERNET[..], &mac.octets()].concat()
}
