//! What the switch says to the sender of a frame, itself.

use weft_port::Frame;
use weft_switch::{DropReason, Switch};
use weft_types::Instant;
use weft_wire::{Offload, TagEdit};

use crate::slot::{Delivery, Slot};

/// Answers to the frames of one burst; they wait until its sender has its frames back.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Replies {
    /// Takes up what the switch has to say about a frame that it has just dropped.
    pub(crate) fn note(&mut self, reason: DropReason, switch: &Switch) {
        if reason == DropReason::AclRejected
            && let Some(answer) = switch.answer()
        {
            self.bytes.extend_from_slice(answer);
            self.ends.push(self.bytes.len());
        }
    }
}

impl Delivery {
    /// Sends what waits to `sender`. What it does not take is lost, as any frame.
    pub(crate) fn reply(&mut self, now: Instant, sender: &mut Slot) {
        if self.replies.ends.is_empty() {
            return;
        }
        let mut replies = std::mem::take(&mut self.replies);
        let mut start = 0;
        for end in replies.ends.drain(..) {
            let frame = Frame::new(&replies.bytes[start..end], Offload::default());
            let _ = sender.deliver(now, Some(sender.id), &frame, TagEdit::Keep, self);
            start = end;
        }
        sender.flush();
        replies.bytes.clear();
        self.replies = replies;
    }
}

#[cfg(test)]
mod tests {
    use weft_port::{Caps, Port, memory_pair};
    use weft_services::{NetworkId, Services};
    use weft_switch::{Acl, Config, Permission, PortConfig, Role, VSwitchConfig, VSwitchId, Verdict};
    use weft_types::{PortId, Provenance};

    use super::*;
    use crate::slot::{About, Plug};

    #[test]
    fn a_rejected_sender_hears_of_it() {
        let place = || Provenance::file("lab.toml", 1);
        let mac = |last| weft_types::MacAddr::new([2, 0, 0, 0, 0, last]);
        let mut lan = VSwitchConfig::new(VSwitchId(0), "lan".parse().unwrap(), place());
        lan.acl = Some(Acl { rules: Vec::new(), default: Permission::Reject, connections: 1 }.into());
        let port = |id: u32| {
            let name = format!("p{id}").parse().unwrap();
            let port = PortConfig::new(PortId(id), name, VSwitchId(0), Role::Vnic, place());
            PortConfig { macs: vec![mac(id as u8)], ..port }.into()
        };
        let mut switch = Switch::new(7);
        switch.configure(Config { vswitches: vec![lan], ports: vec![port(1), port(2)], ..Config::default() }).unwrap();

        let (near, mut far) = memory_pair(Caps::default()).unwrap();
        let about = About {
            name: "p1".parse().unwrap(),
            network: "lan".parse().unwrap(),
            network_id: NetworkId(0),
            kind: None,
            vm: None,
            macs: Vec::new(),
            mac_ranges: Vec::new(),
            uplink: false,
            vlans: Default::default(),
            learn: 0,
            addresses: Default::default(),
            access: Default::default(),
            rates: Default::default(),
            provenance: place(),
        };
        let mut sender = Slot::new(PortId(1), about, Plug::Port(Box::new(near)));
        let mut delivery = Delivery::new(Services::new([7; 32], std::time::Duration::ZERO));
        let frame =
            weft_testkit::udp4(mac(2), mac(1), "10.0.0.1:5000".parse().unwrap(), "10.0.0.2:53".parse().unwrap(), b"?");
        for _ in 0..2 {
            match switch.forward(Instant::ZERO, PortId(1), &frame, frame.len()) {
                Verdict::Drop(reason) => delivery.replies.note(reason, &switch),
                Verdict::Forward(_) => panic!("it is rejected"),
            }
        }
        delivery.reply(Instant::ZERO, &mut sender);
        delivery.reply(Instant::ZERO, &mut sender);
        assert_eq!(far.recv().frames, 2);
        assert_eq!(far.frame(0).head()[..12], [mac(1).octets(), mac(2).octets()].concat());
        assert_eq!(sender.counters.tx_frames, 2);
    }
}
