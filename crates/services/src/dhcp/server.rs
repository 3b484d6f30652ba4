//! The server's side of the protocol (RFC 2131, section 4.3): what one message of a client leads to.
//!
//! The gateway is the only DHCP server of its network, so it is authoritative: a client that wants an address which it
//! cannot have is told so at once, not passed over in silence. That is what lets a machine that moved between networks
//! come up without waiting for a timeout. Clients are told apart by their hardware addresses, of which the switch sees to
//! it that each is one adapter's; identifiers are not, for clones of a machine all have the same.

use std::net::Ipv4Addr;

use weft_types::{Boot, Ipv4Net, VmName};

use super::code;
use super::leases::{Change, Leases};
use super::reply::{ReplyKind, ReplyWriter};
use super::request::{Firmware, Request, RequestKind};
use crate::{DhcpServer, NetworkServices, Reason, metadata};

/// What a client hears of that does not say what it wants, the most needed first.
const USUAL: [u8; 8] = [
    code::ROUTER,
    code::CLASSLESS_ROUTES,
    code::HOST_NAME,
    code::MTU,
    code::BROADCAST,
    code::DNS_SERVER,
    code::DOMAIN_NAME,
    code::DOMAIN_SEARCH,
];

/// Where an answer goes (RFC 2131, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyTo {
    /// To everyone: the client has no address, and said that it cannot receive without one.
    Broadcast,
    /// To this address, at the MAC address that asked.
    Unicast(Ipv4Addr),
    /// To the relay at this address, by which the message came.
    Relay(Ipv4Addr),
}

/// An answer to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) to: ReplyTo,
    pub(crate) payload: Vec<u8>,
    /// The address that the answer grants: it may leave only once the journal knows that.
    pub(crate) grants: Option<Ipv4Addr>,
    /// The address that somebody may have already: the answer may leave only once nobody was found who has.
    pub(crate) to_probe: Option<Ipv4Addr>,
    /// Whether it is a NAK.
    pub(crate) refuses: bool,
}

/// One network's server for the time of one message.
pub(crate) struct Server<'a> {
    pub(crate) network: &'a NetworkServices,
    pub(crate) dhcp: &'a DhcpServer,
    pub(crate) leases: &'a mut Leases,
    /// The networks that are reached by the gateway, besides all others where there is NAT.
    pub(crate) joined: &'a [Ipv4Net],
    /// The machine that the asking adapter belongs to.
    pub(crate) vm: Option<&'a VmName>,
    /// Unix time, in seconds.
    pub(crate) now: u64,
}

impl Server<'_> {
    /// What `request` leads to. `changes` takes what the journal has to hear.
    pub(crate) fn handle(&mut self, request: &mut Request, changes: &mut Vec<Change>) -> Result<Option<Reply>, Reason> {
        // Our own subnet is the only one from which we give: a relay, or the client, must mean that one.
        let relay = Some(request.giaddr).filter(|_| request.is_relayed());
        if request.subnet.or(relay).is_some_and(|subnet| !self.network.subnet.contains(&subnet)) {
            return Err(Reason::DhcpOtherSubnet);
        }
        if request.server.is_some_and(|server| server != self.network.ip) {
            if request.kind == RequestKind::Request {
                self.leases.forget_offer(request.mac);
            }
            return Err(Reason::DhcpForeign);
        }
        match request.kind {
            RequestKind::Discover => self.discover(request, changes).map(Some),
            RequestKind::Request => self.request(request, changes).map(Some),
            RequestKind::Decline => self.decline(request, changes).map(|()| None),
            RequestKind::Release => self.release(request, changes).map(|()| None),
            RequestKind::Inform => self.inform(request).map(Some),
        }
    }

    fn discover(&mut self, request: &Request, changes: &mut Vec<Change>) -> Result<Reply, Reason> {
        let chosen = self.leases.choose(request.into(), request.requested, self.now);
        let ip = chosen.ok_or(Reason::DhcpPoolExhausted)?;
        let to_probe = Some(ip).filter(|_| self.dhcp.probe && !self.leases.is_known_to_have(request.mac, ip));
        if request.rapid_commit && to_probe.is_none() {
            return Ok(self.grant(request, ip, changes));
        }
        self.leases.offer(request.mac, ip, self.now);
        Ok(Reply { to_probe, ..self.lease(request, ReplyKind::Offer, ip) })
    }

    fn request(&mut self, request: &mut Request, changes: &mut Vec<Change>) -> Result<Reply, Reason> {
        // Table 4 of RFC 2131: `requested` while selecting and after a reboot, `ciaddr` while renewing and rebinding.
        let ip = match (request.requested, request.ciaddr.is_unspecified()) {
            (Some(ip), true) => ip,
            (None, false) => request.ciaddr,
            // Not by the book, but in use, and it leaves no doubt.
            (Some(ip), false) if ip == request.ciaddr => ip,
            _ => return Err(Reason::DhcpMalformed),
        };
        if !self.network.subnet.contains(&ip) {
            return Ok(self.refuse(request, "that address is not of this network"));
        }
        let is_reboot = request.server.is_none() && request.ciaddr.is_unspecified();
        let client = (&*request).into();
        if is_reboot && !self.leases.knows(client) && self.leases.is_available(client, ip, self.now) {
            return Err(Reason::DhcpUnknownClient); // RFC 2131, section 4.3.2: it must begin anew by itself
        }
        if self.leases.choose(client, Some(ip), self.now) != Some(ip) {
            return Ok(self.refuse(request, "that address is not yours"));
        }
        Ok(self.grant(request, ip, changes))
    }

    fn decline(&mut self, request: &Request, changes: &mut Vec<Change>) -> Result<(), Reason> {
        let ip = request.requested.ok_or(Reason::DhcpMalformed)?;
        let declined = self.leases.decline(request.into(), ip, self.now).ok_or(Reason::DhcpIgnored)?;
        changes.extend(declined);
        Err(Reason::DhcpDeclined)
    }

    fn release(&mut self, request: &Request, changes: &mut Vec<Change>) -> Result<(), Reason> {
        if self.leases.held_by(request.mac, self.now) != Some(request.ciaddr) {
            return Err(Reason::DhcpIgnored);
        }
        changes.extend(self.leases.release(request.mac, self.now));
        Ok(())
    }

    fn inform(&mut self, request: &Request) -> Result<Reply, Reason> {
        if !self.network.subnet.contains(&request.ciaddr) || request.ciaddr == self.network.ip {
            return Err(Reason::DhcpIgnored);
        }
        let mut reply = self.start(request, ReplyKind::Ack, Ipv4Addr::UNSPECIFIED);
        self.describe(&mut reply, request);
        Ok(self.answer(request, reply, request.ciaddr))
    }

    /// An ACK that gives `ip` to the client.
    fn grant(&mut self, request: &Request, ip: Ipv4Addr, changes: &mut Vec<Change>) -> Reply {
        let until = self.now.saturating_add(self.dhcp.lease_s.into());
        changes.extend(self.leases.grant(request.mac, ip, until, request.client_name.clone(), self.now));
        Reply { grants: Some(ip), ..self.lease(request, ReplyKind::Ack, ip) }
    }

    /// An OFFER or an ACK of `ip`.
    fn lease(&self, request: &Request, kind: ReplyKind, ip: Ipv4Addr) -> Reply {
        let mut reply = self.start(request, kind, ip);
        reply.lease_time(self.dhcp.lease_s);
        if kind == ReplyKind::Ack && request.kind == RequestKind::Discover {
            reply.rapid_commit();
        }
        self.describe(&mut reply, request);
        self.answer(request, reply, ip)
    }

    /// A NAK, which goes to everyone: the client's address is the very thing in doubt.
    fn refuse(&self, request: &mut Request, why: &str) -> Reply {
        request.must_be_broadcast();
        let mut reply = self.start(request, ReplyKind::Nak, Ipv4Addr::UNSPECIFIED);
        reply.message(why);
        let to = if request.is_relayed() { ReplyTo::Relay(request.giaddr) } else { ReplyTo::Broadcast };
        Reply { to, payload: reply.finish(), grants: None, to_probe: None, refuses: true }
    }

    fn start(&self, request: &Request, kind: ReplyKind, yiaddr: Ipv4Addr) -> ReplyWriter {
        ReplyWriter::new(request, kind, self.network.ip, yiaddr, self.network.mtu)
    }

    /// `reply` on its way to the client, which has `ip` or is about to.
    fn answer(&self, request: &Request, reply: ReplyWriter, ip: Ipv4Addr) -> Reply {
        let to = if request.is_relayed() {
            ReplyTo::Relay(request.giaddr)
        } else if request.wants_broadcast() && request.ciaddr.is_unspecified() {
            ReplyTo::Broadcast
        } else {
            ReplyTo::Unicast(ip)
        };
        Reply { to, payload: reply.finish(), grants: None, to_probe: None, refuses: false }
    }

    /// What a client learns of the network: what it wants to hear, in its order, and no more, but for the mask, which
    /// has to stand before routers (RFC 2132, section 3.3), and for what it boots.
    fn describe(&self, reply: &mut ReplyWriter, request: &Request) {
        self.boot(reply, request);
        let configured = || self.dhcp.options.keys().copied();
        let wanted = match &request.wanted {
            Some(wanted) => wanted.clone(),
            None => USUAL.into_iter().chain(configured()).collect(),
        };
        let mut told = [false; 256];
        for code in std::iter::once(code::SUBNET_MASK).chain(wanted) {
            if !std::mem::replace(&mut told[usize::from(code)], true)
                && let Some(value) = self.parameter(code, request)
            {
                reply.option(code, &value);
            }
        }
    }

    fn boot(&self, reply: &mut ReplyWriter, request: &Request) {
        let Some(boot) = &self.dhcp.boot else { return };
        if let Some(server) = boot.server {
            reply.boot_server(server);
        }
        if let Some(file) = boot_file(boot, request.firmware) {
            if request.firmware == Firmware::Http {
                reply.option(code::VENDOR_CLASS, b"HTTPClient"); // without it UEFI takes no URL
            }
            reply.boot_file(file);
        }
    }

    /// What the network has to say about an option: the file's word before our own.
    fn parameter(&self, code: u8, request: &Request) -> Option<Vec<u8>> {
        let network = self.network;
        let ip = |ip: Ipv4Addr| Some(ip.octets().to_vec());
        let text = |text: &str| Some(text.as_bytes().to_vec());
        match code {
            code::SUBNET_MASK => return ip(network.subnet.netmask()),
            code::BROADCAST => return ip(network.subnet.broadcast()),
            code::CLASSLESS_ROUTES => return self.routes(request),
            _ => {}
        }
        if let Some(value) = self.dhcp.options.get(&code) {
            return Some(value.clone());
        }
        let boot = self.dhcp.boot.as_ref();
        match code {
            code::ROUTER if network.nat => ip(network.ip),
            code::HOST_NAME => text(self.vm?.as_str()),
            code::MTU => Some(network.mtu.to_be_bytes().to_vec()),
            code::DNS_SERVER if network.dns => ip(network.ip),
            code::DOMAIN_NAME if network.dns => text(&format!("{}.weft", network.name)),
            code::DOMAIN_SEARCH if network.dns => Some(search_list(&format!("{}.weft", network.name))),
            code::TFTP_SERVER => text(&boot?.server?.to_string()),
            code::BOOT_FILE => text(boot_file(boot?, request.firmware)?),
            _ => None,
        }
    }

    /// The file's routes, and those to what the gateway leads to besides: networks that a router joins with this one, and the
    /// address at which the client is told of itself. Who hears of any forgets the router (RFC 3442), so that is one of them.
    fn routes(&self, request: &Request) -> Option<Vec<u8>> {
        let configured = self.dhcp.options.get(&code::CLASSLESS_ROUTES);
        let is_told = self.network.metadata.contains_key(&request.mac);
        let own = is_told.then(|| Ipv4Net::new_assert(metadata::ADDRESS, 32));
        // With NAT everything is behind the gateway.
        let beside: Vec<_> =
            if self.network.nat { Vec::new() } else { self.joined.iter().copied().chain(own).collect() };
        if configured.is_none() && beside.is_empty() {
            return None;
        }
        let gateway = self.network.ip.octets();
        let files_router = || self.dhcp.options.get(&code::ROUTER)?.first_chunk::<4>().copied();
        let router = if self.network.nat { Some(gateway) } else { files_router().filter(|_| !beside.is_empty()) };
        let mut routes = Vec::new();
        if let Some(router) = router
            && !configured.is_some_and(|configured| has_default_route(configured))
        {
            routes.push(0);
            routes.extend_from_slice(&router);
        }
        for subnet in beside {
            let significant = usize::from(subnet.prefix_len()).div_ceil(8);
            routes.push(subnet.prefix_len());
            routes.extend_from_slice(&subnet.network().octets()[..significant]);
            routes.extend_from_slice(&gateway);
        }
        routes.extend(configured.into_iter().flatten());
        Some(routes)
    }
}

/// What a client with this firmware loads.
fn boot_file(boot: &Boot, firmware: Firmware) -> Option<&str> {
    let own = match firmware {
        Firmware::Bios => None,
        Firmware::Efi => boot.efi.as_ref(),
        Firmware::EfiArm64 => boot.arm64.as_ref(),
        Firmware::Http => return boot.http.as_deref(), // it can load nothing else
        Firmware::Ipxe => boot.ipxe.as_ref(),
    };
    own.or(boot.file.as_ref()).map(String::as_str)
}

/// Whether a list of routes has one to everywhere: each is a prefix length, so much of the prefix as that says, a router.
fn has_default_route(mut routes: &[u8]) -> bool {
    while let Some((&length, rest)) = routes.split_first() {
        if length == 0 {
            return true;
        }
        routes = rest.get(usize::from(length).div_ceil(8) + 4..).unwrap_or_default();
    }
    false
}

/// A list of the one domain in which names without a dot are looked up (RFC 3397).
fn search_list(domain: &str) -> Vec<u8> {
    let mut search = Vec::with_capacity(domain.len() + 2);
    for label in domain.split('.') {
        search.push(u8::try_from(label.len()).unwrap_or(0));
        search.extend_from_slice(label.as_bytes());
    }
    search.push(0);
    search
}
