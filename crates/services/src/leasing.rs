//! DHCP messages between frames and server: who may say what, where answers go, and what they wait for.

use std::net::{Ipv4Addr, SocketAddrV4};

use weft_types::{Instant, MacAddr};
use weft_wire::{arp, udp};

use crate::dhcp::{self, Grant, Probe, Reply, ReplyTo, Request};
use crate::frame::Link;
use crate::gateway::Gateway;
use crate::services::Services;
use crate::{NetworkId, Reason};

/// How many addresses may be found taken before a client has to ask again.
const MAX_CONFLICTS: u32 = 4;

impl Services {
    /// A datagram for the DHCP server, from the station `via`.
    pub(crate) fn take_dhcp(
        &mut self,
        now: Instant,
        net: NetworkId,
        via: MacAddr,
        datagram: &udp::Datagram<'_>,
    ) -> Result<(), Reason> {
        let request = Request::parse(datagram.payload).map_err(|error| {
            tracing::debug!(target: "weft::dhcp", mac = %via, %error, "message not understood");
            Reason::DhcpMalformed
        })?;
        // Nobody asks for his neighbour but a relay, which speaks from the servers' port: the switch lets only those.
        let is_from_relay = request.is_relayed() && datagram.src_port == dhcp::SERVER_PORT;
        if request.mac != via && !is_from_relay {
            return Err(Reason::ForgedSource);
        }
        self.serve_client(now, net, via, request, 0)
    }

    /// What a message leads to; `conflicts` addresses were found taken for it already.
    fn serve_client(
        &mut self,
        now: Instant,
        net: NetworkId,
        via: MacAddr,
        mut request: Request,
        conflicts: u32,
    ) -> Result<(), Reason> {
        let unix_s = self.unix_s(now);
        let gateway = self.gateways.get_mut(&net).ok_or(Reason::UnknownNetwork)?;
        let dhcp = gateway.config.dhcp.as_ref().ok_or(Reason::NoService)?;
        let (client, vm) = (request.mac, gateway.zone.machine(request.mac));
        let mut changes = Vec::new();
        let mut server = dhcp::Server {
            network: &gateway.config,
            dhcp,
            leases: &mut gateway.leases,
            joined: &gateway.joined,
            vm,
            now: unix_s,
        };
        let result = server.handle(&mut request, &mut changes);
        self.journal.note(&gateway.config.name, changes);
        gateway.note_exhaustion(&result);
        let Some(reply) = result? else { return Ok(()) };

        let frame = gateway.dhcp_frame(via, client, &reply);
        match reply {
            Reply { grants: Some(ip), .. } => {
                let grant = Grant { network: net, mac: client, ip, frame };
                if self.journal.hold_back(grant) { Ok(()) } else { Err(Reason::DhcpBusy) }
            }
            Reply { to_probe: Some(ip), .. } => {
                let question = arp::Packet::request(gateway.config.mac, Ipv4Addr::UNSPECIFIED, ip);
                match self.probes.add(now, net, Probe { ip, request, via, frame, conflicts }) {
                    Some(true) => self.send(net, question.frame(MacAddr::BROADCAST)),
                    Some(false) => Ok(()),
                    None => Err(Reason::DhcpBusy),
                }
            }
            Reply { refuses, .. } => {
                self.send(net, frame)?;
                if refuses { Err(Reason::DhcpRefused) } else { Ok(()) }
            }
        }
    }

    /// Sends the offers whose addresses nobody was found to have.
    pub(crate) fn send_probed_offers(&mut self, now: Instant) {
        while let Some((net, probe)) = self.probes.pop(now) {
            if let Err(reason) = self.send(net, probe.frame) {
                self.count(net, reason);
            }
        }
    }

    /// Somebody says who he is: if he has an address that is about to be offered to another, it is offered to nobody for a
    /// while, and the client gets the next one.
    pub(crate) fn hear_of_conflict(&mut self, now: Instant, net: NetworkId, arp: &arp::Packet) -> Result<(), Reason> {
        let probe = self.probes.take_conflict(net, arp.sender_ip, arp.sender_mac).ok_or(Reason::ArpIgnored)?;
        let unix_s = self.unix_s(now);
        let gateway = self.gateways.get_mut(&net).ok_or(Reason::UnknownNetwork)?;
        let name = &gateway.config.name;
        let change = gateway.leases.quarantine(probe.ip, arp.sender_mac, unix_s);
        tracing::warn!(
            target: "weft::dhcp",
            network = %name, ip = %probe.ip, mac = %arp.sender_mac,
            "an address of the pool is in use without a lease: it is left alone for a while"
        );
        self.journal.note(name, [change]);
        self.count(net, Reason::DhcpConflict);
        let conflicts = probe.conflicts + 1;
        if conflicts >= MAX_CONFLICTS {
            return Ok(());
        }
        self.serve_client(now, net, probe.via, probe.request, conflicts)
    }
}

impl Gateway {
    /// Remembers, and says once, that nobody else gets an address.
    fn note_exhaustion(&mut self, result: &Result<Option<Reply>, Reason>) {
        match result {
            Err(Reason::DhcpPoolExhausted) if !self.is_exhausted => {
                self.is_exhausted = true;
                tracing::warn!(
                    target: "weft::dhcp",
                    network = %self.config.name,
                    "no free address: make the pool larger, or the leases shorter"
                );
            }
            Ok(Some(Reply { refuses: false, .. })) if self.is_exhausted => self.is_exhausted = false,
            _ => {}
        }
    }

    /// The frame that carries `reply` to `client`, whose message came by the station `via`.
    fn dhcp_frame(&self, via: MacAddr, client: MacAddr, reply: &Reply) -> Vec<u8> {
        let (mac, ip, port) = match reply.to {
            ReplyTo::Broadcast => (MacAddr::BROADCAST, Ipv4Addr::BROADCAST, dhcp::CLIENT_PORT),
            ReplyTo::Unicast(ip) => (client, ip, dhcp::CLIENT_PORT),
            ReplyTo::Relay(ip) => (via, ip, dhcp::SERVER_PORT),
        };
        let from = SocketAddrV4::new(self.config.ip, dhcp::SERVER_PORT);
        Link { from: self.config.mac, to: mac }.udp(from, SocketAddrV4::new(ip, port), &reply.payload)
    }
}
