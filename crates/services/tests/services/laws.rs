//! What holds whatever the clients do.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use proptest::collection::vec;
use proptest::prelude::*;
use weft_services::{LeaseRecord, LeaseState, PersistRequest};
use weft_types::MacAddr;

use crate::bed::*;

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A client says something about an address.
    Say { client: u8, kind: Kind, address: u8 },
    /// Time passes.
    Wait { seconds: u16 },
    /// The disk is ready for the next write, or done with one.
    Disk,
    /// The switch dies and starts anew.
    Restart,
    /// The configuration changes to that of this number.
    Configure(u8),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Discover,
    Select,
    Reboot,
    Renew,
    Decline,
    Release,
    Inform,
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop::sample::select(vec![
        Kind::Discover,
        Kind::Select,
        Kind::Reboot,
        Kind::Renew,
        Kind::Decline,
        Kind::Release,
        Kind::Inform,
    ]);
    // Addresses from 98 on: two before the pool, the pool of four, two behind.
    let say = (0..6_u8, kind, 98..106_u8).prop_map(|(client, kind, address)| Event::Say { client, kind, address });
    prop_oneof![
        12 => say,
        2 => (0..2000_u16).prop_map(|seconds| Event::Wait { seconds }),
        6 => Just(Event::Disk),
        1 => Just(Event::Restart),
        1 => (0..4_u8).prop_map(Event::Configure),
    ]
}

/// The networks, in the `number`th configuration.
fn networks(number: u8) -> Vec<weft_services::NetworkServices> {
    let mut office = office();
    let dhcp = office.dhcp.as_mut().unwrap();
    match number {
        1 => dhcp.reservations.push(reservation(mac(0), "a", Some("10.20.0.102"))),
        2 => dhcp.last = ip("10.20.0.101"),
        3 => dhcp.probe = true,
        _ => {}
    }
    vec![office, backstage()]
}

fn message(client: MacAddr, kind: Kind, address: Ipv4Addr) -> Vec<u8> {
    let mut message = dhcp_message(
        client,
        match kind {
            Kind::Discover => MessageType::Discover,
            Kind::Select | Kind::Reboot | Kind::Renew => MessageType::Request,
            Kind::Decline => MessageType::Decline,
            Kind::Release => MessageType::Release,
            Kind::Inform => MessageType::Inform,
        },
    );
    if matches!(kind, Kind::Renew | Kind::Release | Kind::Inform) {
        message.set_ciaddr(address);
    } else {
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
    }
    if matches!(kind, Kind::Select | Kind::Decline | Kind::Release) {
        message.opts_mut().insert(DhcpOption::ServerIdentifier(ip("10.20.0.1")));
    }
    dhcp_frame(client, &message, None)
}

/// What the clients believe: who holds which address until when. Time is in seconds since the beginning.
#[derive(Default)]
struct Beliefs(BTreeMap<Ipv4Addr, (MacAddr, u64)>);

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// No two clients believe at the same time that an address is theirs, none is told of an address that is not
    /// in its disk's last word, and none gets the gateway's, the network's, or somebody's for good.
    #[test]
    fn an_address_has_one_holder(events in vec(event(), 1..80)) {
        let mut bed = Bed::new();
        let mut number = 0;
        let mut writing: Option<PersistRequest> = None;
        let mut beliefs = Beliefs::default();
        for event in events {
            match event {
                Event::Say { client, kind, address } => {
                    let address = Ipv4Addr::new(10, 20, 0, address);
                    bed.send(OFFICE, &message(mac(client), kind, address));
                    if matches!(kind, Kind::Release | Kind::Decline)
                        && beliefs.0.get(&address).is_some_and(|(holder, _)| *holder == mac(client))
                    {
                        beliefs.0.remove(&address);
                    }
                }
                Event::Wait { seconds } => bed.sleep(Duration::from_secs(seconds.into())),
                Event::Disk => match writing.take() {
                    Some(PersistRequest { token, records }) => {
                        bed.disk.extend(records);
                        bed.services.persisted(bed.now, token);
                    }
                    None => writing = bed.services.poll_persist(),
                },
                Event::Restart => {
                    writing = None; // what was not written is lost
                    bed = bed.restart(networks(number));
                }
                Event::Configure(next) => {
                    number = next;
                    bed.services.configure(bed.now, networks(number));
                    // Its clients hear of it only when they renew; the switch would cut them off, we forget them.
                    let held: Vec<_> = bed.services.leases(bed.now).map(|lease| (lease.ip, lease.mac)).collect();
                    beliefs.0.retain(|ip, (mac, _)| held.contains(&(*ip, *mac)));
                }
            }
            let now = bed.now.as_nanos() / 1_000_000_000;
            for frame in bed.frames() {
                if frame[12..14] == [8, 6] {
                    continue; // a question for an address that is about to be offered
                }
                let reply = decode_dhcp(&frame[42..]);
                let client = MacAddr::new(reply.chaddr().try_into().unwrap());
                let address = reply.yiaddr();
                let kind = reply.opts().msg_type().unwrap();
                if address.is_unspecified() {
                    continue;
                }
                let last = address.octets()[3];
                let is_reserved = number == 1 && last == 102 && client == mac(0);
                prop_assert!(is_reserved || ((100..=103).contains(&last) && last != 101), "{address} for {client}");
                let others = beliefs.0.get(&address).filter(|(holder, until)| *holder != client && *until > now);
                prop_assert!(others.is_none(), "{kind:?} {address} for {client}, but {others:?}");
                if kind == MessageType::Ack {
                    let on_disk = bed.disk.iter().rev().find(|record| record.ip == address).expect("written before");
                    let LeaseRecord { mac, state, .. } = on_disk;
                    prop_assert_eq!((*mac, *state), (client, LeaseState::Held));
                    let Some(DhcpOption::AddressLeaseTime(span)) = reply.opts().get(OptionCode::AddressLeaseTime) else {
                        panic!("a lease without an end")
                    };
                    prop_assert!(on_disk.expires_unix_s <= ORIGIN_S + now + u64::from(*span));
                    // What the client thinks it has is never longer than what we remember.
                    beliefs.0.retain(|_, (holder, _)| *holder != client);
                    beliefs.0.insert(address, (client, on_disk.expires_unix_s - ORIGIN_S));
                }
            }
            // Every address that is held has one holder, and every holder one address.
            let leases: Vec<_> = bed.services.leases(bed.now).collect();
            let mut holders: Vec<_> = leases.iter().map(|lease| lease.mac).collect();
            holders.sort();
            holders.dedup();
            prop_assert_eq!(holders.len(), leases.len());
        }
    }

    /// Nothing that a network can carry upsets the services, and what they answer is well formed.
    #[test]
    fn any_frame_is_survived(frames in vec((vec(any::<u8>(), 0..120), any::<bool>()), 0..20)) {
        let mut bed = Bed::new();
        for (mut frame, is_ours) in frames {
            if is_ours && frame.len() >= 14 {
                frame[..6].copy_from_slice(&OFFICE_MAC.octets());
                frame[6..12].copy_from_slice(&LAPTOP.octets());
                frame[12..14].copy_from_slice(&[8, 0]);
            }
            bed.send(OFFICE, &frame);
        }
        bed.persist();
        bed.heard();
    }
}
