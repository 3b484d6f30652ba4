//! The server's side of the protocol (RFC 2131, section 4.3): what one message of a client leads to.
//!
//! The gateway is the only DHCP server of its network, so it is authoritative: what a client remembers is
//! granted if it is free and permitted, and refused at once, not passed over in silence, if it is not. That is
//! what lets a machine that moved between networks come up without waiting for a timeout.

use std::net::Ipv4Addr;

use weft_types::VmName;

use super::leases::{Change, Leases, Pool};
use super::message::{ReplyKind, ReplyWriter, Request, RequestKind};
use crate::{DhcpServer, NetworkServices, Reason};

/// Where an answer goes (RFC 2131, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyTo {
    /// To everyone: the client has no address, and said that it cannot receive without one.
    Broadcast,
    /// To this address, at the MAC address that asked.
    Unicast(Ipv4Addr),
}

/// An answer to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) to: ReplyTo,
    pub(crate) payload: Vec<u8>,
    /// The address that the answer grants: it may leave only once the journal knows that.
    pub(crate) grants: Option<Ipv4Addr>,
    /// Whether it is a NAK.
    pub(crate) refuses: bool,
}

/// One network's server for the time of one message.
pub(crate) struct Server<'a> {
    pub(crate) network: &'a NetworkServices,
    pub(crate) dhcp: &'a DhcpServer,
    pub(crate) pool: &'a Pool,
    pub(crate) leases: &'a mut Leases,
    /// The machine that the asking adapter belongs to.
    pub(crate) vm: Option<&'a VmName>,
    /// Unix time, in seconds.
    pub(crate) now: u64,
}

impl Server<'_> {
    /// What `request` leads to. `changes` takes what the journal has to hear.
    pub(crate) fn handle(&mut self, request: &Request, changes: &mut Vec<Change>) -> Result<Option<Reply>, Reason> {
        if !request.giaddr.is_unspecified() {
            return Err(Reason::DhcpIgnored); // relays belong to other subnets, and we have one
        }
        if request.server.is_some_and(|server| server != self.network.ip) {
            if request.kind == RequestKind::Request {
                self.leases.forget_offer(request.mac);
            }
            return Err(Reason::DhcpForeign);
        }
        match request.kind {
            RequestKind::Discover => self.discover(request).map(Some),
            RequestKind::Request => self.request(request, changes).map(Some),
            RequestKind::Decline => self.decline(request, changes).map(|()| None),
            RequestKind::Release => self.release(request, changes).map(|()| None),
            RequestKind::Inform => self.inform(request).map(Some),
        }
    }

    fn discover(&mut self, request: &Request) -> Result<Reply, Reason> {
        let chosen = self.leases.choose(self.pool, request.mac, request.requested, self.now);
        let ip = chosen.ok_or(Reason::DhcpPoolExhausted)?;
        self.leases.offer(request.mac, ip, self.now);
        let mut reply = self.start(request, ReplyKind::Offer, ip);
        reply.lease_time(self.dhcp.lease_s);
        self.describe(&mut reply);
        let to = if request.wants_broadcast() { ReplyTo::Broadcast } else { ReplyTo::Unicast(ip) };
        Ok(Reply { to, payload: reply.finish(), grants: None, refuses: false })
    }

    fn request(&mut self, request: &Request, changes: &mut Vec<Change>) -> Result<Reply, Reason> {
        // Table 4 of RFC 2131: `requested` while selecting and after a reboot, `ciaddr` while renewing and rebinding.
        let (ip, known) = match (request.requested, request.ciaddr.is_unspecified()) {
            (Some(ip), true) => (ip, false),
            (None, false) => (request.ciaddr, true),
            // Not by the book, but in use, and it leaves no doubt.
            (Some(ip), false) if ip == request.ciaddr => (ip, true),
            _ => return Err(Reason::DhcpMalformed),
        };
        if !self.network.subnet.contains(&ip) {
            return Ok(self.refuse(request, "that address is not of this network"));
        }
        let ours = self.leases.choose(self.pool, request.mac, Some(ip), self.now);
        if ours != Some(ip) {
            return Ok(self.refuse(request, "that address is not yours"));
        }
        let until = self.now.saturating_add(self.dhcp.lease_s.into());
        changes.extend(self.leases.grant(request.mac, ip, until, request.client_name.clone(), self.now));

        let mut reply = self.start(request, ReplyKind::Ack, ip);
        reply.lease_time(self.dhcp.lease_s);
        self.describe(&mut reply);
        let to = if request.wants_broadcast() && !known { ReplyTo::Broadcast } else { ReplyTo::Unicast(ip) };
        Ok(Reply { to, payload: reply.finish(), grants: Some(ip), refuses: false })
    }

    fn decline(&mut self, request: &Request, changes: &mut Vec<Change>) -> Result<(), Reason> {
        let ip = request.requested.ok_or(Reason::DhcpMalformed)?;
        let declined = self.leases.decline(self.pool, request.mac, ip, self.now).ok_or(Reason::DhcpIgnored)?;
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
        self.describe(&mut reply);
        Ok(Reply { to: ReplyTo::Unicast(request.ciaddr), payload: reply.finish(), grants: None, refuses: false })
    }

    /// A NAK, which always goes to everyone: the client's address is the very thing in doubt.
    fn refuse(&self, request: &Request, why: &str) -> Reply {
        let mut reply = self.start(request, ReplyKind::Nak, Ipv4Addr::UNSPECIFIED);
        reply.message(why);
        Reply { to: ReplyTo::Broadcast, payload: reply.finish(), grants: None, refuses: true }
    }

    fn start(&self, request: &Request, kind: ReplyKind, yiaddr: Ipv4Addr) -> ReplyWriter {
        ReplyWriter::new(request, kind, self.network.ip, yiaddr, self.network.mtu)
    }

    /// What a client learns of the network, the most needed first.
    fn describe(&self, reply: &mut ReplyWriter) {
        let network = self.network;
        reply.subnet(network.subnet.netmask(), network.subnet.broadcast());
        if network.nat {
            reply.router(network.ip);
        }
        if let Some(vm) = self.vm {
            reply.host_name(vm.as_str());
        }
        reply.mtu(network.mtu);
        if network.dns {
            reply.dns(network.ip, &format!("{}.weft", network.name));
        }
    }
}
