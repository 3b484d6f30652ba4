use std::net::IpAddr;
use std::os::fd::AsFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use weft_dataplane_protocol::{AccessConfig, AddressConfig, GatewayConfig, NetworkConfig, PortConfig, PortKind};
use weft_port::{Egress, Frame, Port, SendError};
use weft_services::{LINK_LOCAL, NetworkId, Services, gateway_address};
use weft_switch::DropReason;
use weft_types::{Instant, MacAddr, MacRange, NetworkName, PortId, PortName, PortRates, PortVlans, Provenance, VmName};
use weft_wire::TagEdit;

use crate::mirrors::Mirrors;
use crate::neighbours::Neighbours;
use crate::pacing::{Held, Pacing, Queue};
use crate::replies::Replies;

/// A port of the switch, and what stands behind it.
pub(crate) struct Slot {
    pub(crate) id: PortId,
    pub(crate) plug: Plug,
    pub(crate) about: About,
    pub(crate) counters: Counters,
    /// Frames were sent and not yet shown to the peer.
    pub(crate) unflushed: bool,
    /// Whether the switch takes its link for up, as it does at first.
    pub(crate) is_up: bool,
    /// Where frames wait that are too fast for the port.
    pub(crate) pacing: Pacing,
}

/// What a configuration says about a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) name: PortName,
    pub(crate) network: NetworkName,
    pub(crate) network_id: NetworkId,
    /// `None` for a gateway.
    pub(crate) kind: Option<PortKind>,
    pub(crate) vm: Option<VmName>,
    pub(crate) macs: Vec<MacAddr>,
    pub(crate) mac_ranges: Vec<MacRange>,
    pub(crate) uplink: bool,
    pub(crate) vlans: PortVlans,
    pub(crate) learn: u32,
    pub(crate) addresses: AddressConfig,
    pub(crate) access: AccessConfig,
    pub(crate) rates: PortRates,
    pub(crate) provenance: Provenance,
}

impl About {
    pub(crate) fn of_port(config: &PortConfig, network_id: NetworkId) -> Self {
        Self {
            name: config.name.clone(),
            network: config.network.clone(),
            network_id,
            kind: Some(config.kind.clone()),
            vm: config.vm.clone(),
            macs: config.macs.clone(),
            mac_ranges: config.mac_ranges.clone(),
            uplink: config.uplink || matches!(config.kind, PortKind::Packet { .. }),
            vlans: config.vlans.clone(),
            learn: config.learn,
            addresses: config.addresses.clone(),
            access: config.access,
            rates: config.rates,
            provenance: config.provenance.clone(),
        }
    }

    /// The gateway's port, which is trusted; nobody else gets its address.
    pub(crate) fn of_gateway(network: &NetworkConfig, gateway: &GatewayConfig, network_id: NetworkId) -> Self {
        Self {
            name: PortName::of_gateway(&network.name),
            network: network.name.clone(),
            network_id,
            kind: None,
            vm: None,
            macs: vec![gateway.mac],
            mac_ranges: Vec::new(),
            uplink: false,
            vlans: PortVlans::Untagged,
            learn: 0,
            addresses: AddressConfig::Known { fixed: gateway_addresses(gateway).map(Into::into).collect(), learn: 0 },
            access: AccessConfig::default(),
            rates: PortRates::default(),
            provenance: network.provenance.clone(),
        }
    }
}

/// The addresses of a gateway.
fn gateway_addresses(gateway: &GatewayConfig) -> impl Iterator<Item = IpAddr> {
    let prefix = gateway.subnet6.map(|net| [LINK_LOCAL, gateway_address(net)].map(IpAddr::V6));
    std::iter::once(IpAddr::V4(gateway.ip)).chain(prefix.into_iter().flatten())
}

/// What stands behind a port.
pub(crate) enum Plug {
    /// A peer, through a driver.
    Port(Box<dyn Port>),
    /// The services of a network.
    Gateway,
    /// Nothing: the port could not be opened when this process started. Why, and how to fix it.
    Broken(String),
}

/// What went through a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) rx_frames: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_frames: u64,
    pub(crate) tx_bytes: u64,
}

/// What delivering frames needs besides the ports.
pub(crate) struct Delivery {
    pub(crate) services: Services,
    /// They were given something since the host's sockets were driven.
    pub(crate) services_fed: bool,
    pub(crate) egress: Egress,
    /// Room for a frame that must lie in one piece.
    pub(crate) whole: Vec<u8>,
    /// Room for a frame whose tag is changed.
    pub(crate) retagged: Vec<u8>,
    /// What rejected frames are answered with.
    pub(crate) replies: Replies,
    /// Where copies of frames go.
    pub(crate) mirrors: Mirrors,
    /// Who is at the other ends of uplinks.
    pub(crate) neighbours: Neighbours,
    /// Frames that waited and lost their room to others, and who sent them.
    pub(crate) pushed_out: Vec<(PortId, Held)>,
}

impl Delivery {
    pub(crate) fn new(services: Services) -> Self {
        Self {
            services,
            services_fed: false,
            egress: Egress::default(),
            whole: Vec::new(),
            retagged: Vec::new(),
            replies: Replies::default(),
            mirrors: Mirrors::default(),
            neighbours: Neighbours::default(),
            pushed_out: Vec::new(),
        }
    }

    /// Listens to a frame that is for the switch next to its sender only.
    #[cold]
    pub(crate) fn hear_neighbour(&mut self, now: Instant, ingress: PortId, frame: &Frame<'_>) {
        self.whole.clear();
        frame.append_to(&mut self.whole);
        self.neighbours.hear(now, ingress, &self.whole);
    }

    /// Hands a frame to the services of a network.
    #[inline(never)]
    fn serve(&mut self, now: Instant, network: NetworkId, frame: &Frame<'_>) {
        self.whole.clear();
        frame.append_to(&mut self.whole);
        self.services_fed = true;
        self.services.handle_frame(now, network, &self.whole, frame.offload());
    }
}

impl Slot {
    pub(crate) fn new(id: PortId, about: About, plug: Plug) -> Self {
        Self {
            id,
            plug,
            about,
            counters: Counters::default(),
            unflushed: false,
            is_up: true,
            pacing: Pacing::default(),
        }
    }

    /// Has the worker's epoll watch the port.
    pub(crate) fn watch(&self, epoll: &impl AsFd) -> rustix::io::Result<()> {
        match &self.plug {
            Plug::Port(port) => epoll::add(epoll, port.fd(), EventData::new_u64(self.id.0.into()), EventFlags::IN),
            Plug::Gateway | Plug::Broken(_) => Ok(()),
        }
    }

    /// Delivers a frame, once its tag is as it should be, to what stands behind the port; where that is too fast, it
    /// waits among those of its sender. Without a sender, it does not wait.
    ///
    /// # Errors
    /// Why it is lost.
    #[inline(always)] // with what it calls: nearly every frame only passes through
    pub(crate) fn deliver(
        &mut self,
        now: Instant,
        sender: Option<PortId>,
        frame: &Frame<'_>,
        edit: TagEdit,
        delivery: &mut Delivery,
    ) -> Result<(), DropReason> {
        if edit == TagEdit::Keep {
            return self.pace(now, sender, frame, delivery);
        }
        self.deliver_edited(now, sender, frame, edit, delivery)
    }

    #[inline(never)]
    fn deliver_edited(
        &mut self,
        now: Instant,
        sender: Option<PortId>,
        frame: &Frame<'_>,
        edit: TagEdit,
        delivery: &mut Delivery,
    ) -> Result<(), DropReason> {
        let mut whole = std::mem::take(&mut delivery.retagged);
        whole.clear();
        frame.append_to(&mut whole);
        let edited = edit.apply(&mut whole).and_then(|()| edit.offload(frame.offload()));
        let result = match edited {
            Ok(offload) => self.pace(now, sender, &Frame::new(&whole, offload), delivery),
            Err(_) => Err(DropReason::BadOffload),
        };
        delivery.retagged = whole;
        result
    }

    /// Sends a frame at once, if the port may be so fast.
    #[inline(always)]
    fn pace(
        &mut self,
        now: Instant,
        sender: Option<PortId>,
        frame: &Frame<'_>,
        delivery: &mut Delivery,
    ) -> Result<(), DropReason> {
        if let Some(queue) = &mut self.pacing.outward
            && !queue.pass(now, frame.len())
        {
            return hold(queue, sender, frame, delivery);
        }
        self.send(now, frame, delivery)
    }

    /// Hands a frame to what stands behind the port.
    ///
    /// # Errors
    /// Why it is lost.
    #[inline(always)]
    pub(crate) fn send(&mut self, now: Instant, frame: &Frame<'_>, delivery: &mut Delivery) -> Result<(), DropReason> {
        match &mut self.plug {
            Plug::Port(port) => {
                delivery.egress.send(port.as_mut(), frame).map_err(reason)?;
                self.unflushed = true;
            }
            Plug::Gateway => delivery.serve(now, self.about.network_id, frame),
            Plug::Broken(_) => return Err(DropReason::EgressDown),
        }
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += frame.len() as u64;
        Ok(())
    }

    /// Shows the peer what was sent.
    pub(crate) fn flush(&mut self) {
        if std::mem::take(&mut self.unflushed)
            && let Plug::Port(port) = &mut self.plug
        {
            port.flush();
        }
    }
}

/// Keeps a copy of a frame until its time comes.
///
/// # Errors
/// When there is no room for it.
pub(crate) fn hold(
    queue: &mut Queue,
    sender: Option<PortId>,
    frame: &Frame<'_>,
    delivery: &mut Delivery,
) -> Result<(), DropReason> {
    let pushed_out = |sender, held| delivery.pushed_out.push((sender, held));
    let waits = sender.is_some_and(|sender| queue.wait(sender, frame.len(), || Held::of(frame), pushed_out));
    if waits { Ok(()) } else { Err(DropReason::QueueFull) }
}

/// What the switch calls that which keeps a port from sending a frame.
fn reason(error: SendError) -> DropReason {
    match error {
        SendError::Full => DropReason::EgressFull,
        SendError::Down => DropReason::EgressDown,
        SendError::TooLong => DropReason::EgressTooLong,
        SendError::Malformed => DropReason::BadOffload,
    }
}

/// Every slot but one: the targets of frames that came in by that one.
pub(crate) struct Others<'a> {
    before: &'a mut [Slot],
    after: &'a mut [Slot],
}

impl<'a> Others<'a> {
    /// The slot at `index`, and the others.
    pub(crate) fn split(slots: &'a mut [Slot], index: usize) -> Option<(&'a mut Slot, Self)> {
        let (before, rest) = slots.split_at_mut_checked(index)?;
        let (slot, after) = rest.split_first_mut()?;
        Some((slot, Self { before, after }))
    }

    /// The slot that was at `index` before the split; `None` for the one that was split off.
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Slot> {
        match index.checked_sub(self.before.len()) {
            None => self.before.get_mut(index),
            Some(index) => self.after.get_mut(index.checked_sub(1)?),
        }
    }

    /// Flushes what was sent to.
    pub(crate) fn flush(&mut self) {
        self.before.iter_mut().chain(self.after.iter_mut()).for_each(Slot::flush);
    }
}
