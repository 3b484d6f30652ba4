//! DHCPv6 at a gateway (RFC 8415): machines make their addresses themselves and can ask for the rest, or ask for
//! addresses too.

mod addresses;
mod message;

use std::net::{Ipv6Addr, SocketAddrV6};

use weft_types::{Dhcp6, MacAddr};
use weft_wire::udp;

pub(crate) use self::addresses::Addresses;
use self::addresses::Asker;
pub(crate) use self::message::Request;
use self::message::{Identity, Writer, kind, option, status};
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
/// How long a client may use its address for new connections, and at all, in seconds.
const PREFERRED_S: u32 = 3600;
const VALID_S: u32 = 7200;
/// When it asks its server again, and when any, in seconds.
const RENEW_S: u32 = PREFERRED_S / 2;
const REBIND_S: u32 = PREFERRED_S / 5 * 4;
/// How many addresses a client is told that are its no more.
const MAX_OTHERS: usize = 8;

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
        let answer = gateway.answer_dhcp6(&request, arrival.frame.src)?;
        let (from, to) =
            (SocketAddrV6::new(LINK_LOCAL, SERVER_PORT, 0, 0), SocketAddrV6::new(client, CLIENT_PORT, 0, 0));
        let frame = gateway.back(&arrival.frame).udp_v6(from, to, &answer);
        self.send(arrival.net, frame)
    }
}

impl Gateway {
    /// The answer to a client's message (sections 16 and 18.3).
    fn answer_dhcp6(&mut self, request: &Request<'_>, mac: MacAddr) -> Result<Vec<u8>, Reason> {
        let mode = self.config.dhcp6.ok_or(Reason::Dhcp6Ignored)?;
        let own = server_id(self.config.mac);
        let for_us = request.server == Some(&own[..]);
        // What it is to be silent about (section 16): others' business, and what says not who asks.
        let is_in_order = match request.kind {
            kind::INFORMATION_REQUEST => request.identities.is_empty() && (for_us || request.server.is_none()),
            kind::SOLICIT | kind::CONFIRM | kind::REBIND => request.client.is_some() && request.server.is_none(),
            kind::REQUEST | kind::RENEW | kind::RELEASE | kind::DECLINE => request.client.is_some() && for_us,
            _ => false,
        };
        let is_served = request.kind == kind::INFORMATION_REQUEST || mode == Dhcp6::Stateful;
        let net = self.config.subnet6.filter(|_| is_in_order && is_served).ok_or(Reason::Dhcp6Ignored)?;
        let is_offer = request.kind == kind::SOLICIT && !request.is_rapid;
        let mut reply = Writer::new(if is_offer { kind::ADVERTISE } else { kind::REPLY }, request.transaction);
        request.client.into_iter().for_each(|client| reply.option(option::CLIENT_ID, client));
        reply.option(option::SERVER_ID, &own);
        match request.kind {
            kind::CONFIRM => {
                let mut addresses = request.identities.iter().flat_map(|identity| &identity.addresses).peekable();
                addresses.peek().ok_or(Reason::Dhcp6Ignored)?;
                match addresses.all(|ip| net.contains(ip)) {
                    true => reply.status(status::SUCCESS, "they belong here"),
                    false => reply.status(status::NOT_ON_LINK, "they do not belong here"),
                }
                return Ok(reply.finish());
            }
            kind::RELEASE => {
                reply.status(status::SUCCESS, "they stay yours"); // nobody else ever gets them
                return Ok(reply.finish());
            }
            kind::DECLINE => {
                for identity in &request.identities {
                    let ip = self.addresses6.of(net, &asker(request, identity, mac));
                    if identity.addresses.contains(&ip) {
                        self.addresses6.decline(ip);
                    }
                }
                reply.status(status::SUCCESS, "ask again for others");
                return Ok(reply.finish());
            }
            kind::SOLICIT => {
                // There is no other server: nobody needs to wait for a better offer.
                reply.option(option::PREFERENCE, &[u8::MAX]);
                if request.is_rapid {
                    reply.option(option::RAPID_COMMIT, &[]);
                }
            }
            _ => {}
        }
        for identity in &request.identities {
            let ip = self.addresses6.of(net, &asker(request, identity, mac));
            reply.option(identity.code, &granted(identity, ip));
        }
        self.tell_dhcp6(request, &mut reply);
        Ok(reply.finish())
    }

    /// What else there is to know.
    fn tell_dhcp6(&self, request: &Request<'_>, reply: &mut Writer) {
        let link = self.link();
        if let Some(server) = link.name_server.filter(|_| request.wants(option::DNS_SERVERS)) {
            reply.option(option::DNS_SERVERS, &server.octets());
        }
        if !link.search.is_empty() && request.wants(option::DOMAIN_LIST) {
            reply.option(option::DOMAIN_LIST, &link.search);
        }
        if request.kind == kind::INFORMATION_REQUEST && request.wants(option::REFRESH_TIME) {
            reply.option(option::REFRESH_TIME, &REFRESH_S.to_be_bytes());
        }
    }
}

fn asker<'a>(request: &Request<'a>, identity: &Identity, mac: MacAddr) -> Asker<'a> {
    Asker { mac, client: request.client.unwrap_or_default(), association: identity.association }
}

/// What a client gets for what it asks for: the address, and the word that others which it had are its no more.
fn granted(identity: &Identity, ip: Ipv6Addr) -> Vec<u8> {
    let address = |ip: Ipv6Addr, preferred: u32, valid: u32| {
        [&ip.octets()[..], &preferred.to_be_bytes(), &valid.to_be_bytes()].concat()
    };
    let mut inner = Writer::default();
    match identity.code {
        option::IA_NA => {
            inner.option(option::ADDRESS, &address(ip, PREFERRED_S, VALID_S));
            let others = identity.addresses.iter().filter(|other| **other != ip).take(MAX_OTHERS);
            others.for_each(|other| inner.option(option::ADDRESS, &address(*other, 0, 0)));
        }
        option::IA_TA => inner.status(status::NO_ADDRESSES, "make yourself one"),
        _ => inner.status(status::NO_PREFIXES, "there are none"),
    }
    let mut value = identity.association.to_vec();
    if identity.code != option::IA_TA {
        [RENEW_S, REBIND_S].iter().for_each(|time| value.extend(time.to_be_bytes()));
    }
    value.extend(inner.finish());
    value
}

/// A server's identifier, of its hardware address (section 11.4): the same after whatever happens.
fn server_id(mac: MacAddr) -> Vec<u8> {
    const LINK_LAYER_ETHERNET: [u8; 4] = [0, 3, 0, 1];
    [&LINK_LAYER_ETHERNET[..], &mac.octets()].concat()
}
