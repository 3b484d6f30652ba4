//! DHCPv6 for machines that make their addresses themselves.

use std::time::Duration;

use dhcproto::v6::{DhcpOption, IANA, Message, MessageType, ORO, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use expect_test::expect;
use proptest::collection::vec;
use proptest::prelude::*;
use weft_services::NetworkServices;
use weft_types::Dhcp6;

use crate::bed::*;
use crate::ipv6::{LAPTOP_LOCAL, Sent, from_laptop, heard6, office6, own, which_routers};

const CLIENT: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 0x0d];
/// The office's gateway, by its hardware address.
const SERVER: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 0xf1];

/// A server's message in a line.
pub(crate) fn describe(payload: &[u8]) -> String {
    let message = Message::decode(&mut Decoder::new(payload)).expect("a DHCPv6 message");
    let options: Vec<_> = message.opts().iter().map(|option| format!("{option:?}")).collect();
    format!("{:?} {:02x?} {}", message.msg_type(), message.xid(), options.join(" "))
}

fn bed(dhcp6: Option<Dhcp6>) -> Bed {
    let mut bed = Bed::with(vec![NetworkServices { dhcp6, ..office6() }]);
    bed.sleep(Duration::from_secs(60));
    bed.frames();
    bed
}

fn request(wanted: Option<&[OptionCode]>) -> Message {
    let mut message = Message::new_with_id(MessageType::InformationRequest, [1, 2, 3]);
    message.opts_mut().insert(DhcpOption::ClientId(CLIENT.to_vec()));
    if let Some(wanted) = wanted {
        message.opts_mut().insert(DhcpOption::ORO(ORO { opts: wanted.to_vec() }));
    }
    message
}

fn with(option: DhcpOption) -> Message {
    let mut message = request(None);
    message.opts_mut().insert(option);
    message
}

fn to_servers() -> Sent {
    from_laptop(LAPTOP_LOCAL, "ff02::1:2")
}

fn ask(message: &Message) -> Vec<u8> {
    to_servers().udp(547, &message.to_vec().unwrap())
}

#[test]
fn who_asks_is_told() {
    let identity = DhcpOption::IANA(IANA { id: 1, t1: 0, t2: 0, opts: Default::default() });
    let solicit = {
        let mut message = Message::new_with_id(MessageType::Solicit, [1, 2, 3]);
        message.opts_mut().insert(DhcpOption::ClientId(CLIENT.to_vec()));
        message.opts_mut().insert(identity.clone());
        message
    };
    let twice = [request(None).to_vec().unwrap(), vec![0, 1, 0, 4, 0, 3, 0, 1]].concat();
    let raw = |bytes: &[u8]| to_servers().udp(547, bytes);
    let frames = [
        ("everything", ask(&request(None))),
        ("two things", ask(&request(Some(&[OptionCode::DomainNameServers, OptionCode::InformationRefreshTime])))),
        ("something else", ask(&request(Some(&[OptionCode::SntpServers])))),
        ("nameless", ask(&Message::new_with_id(MessageType::InformationRequest, [9, 9, 9]))),
        ("this server", ask(&with(DhcpOption::ServerId(SERVER.to_vec())))),
        ("another server", ask(&with(DhcpOption::ServerId(CLIENT.to_vec())))),
        ("with an address", ask(&with(identity))),
        ("an address", ask(&solicit)),
        (
            "from afar",
            Sent { src: "fd00:20::d".parse().unwrap(), ..to_servers() }.udp(547, &request(None).to_vec().unwrap()),
        ),
        ("as the gateway", Sent { src: "fe80::1".parse().unwrap(), ..to_servers() }.udp(547, &[])),
        ("a relay's", raw(&[12; 40])),
        ("nothing", raw(&[])),
        ("two names", raw(&twice)),
        ("an option cut", raw(&[11, 1, 2, 3, 0, 1, 0, 9, 0])),
        ("a name without a type", raw(&[11, 1, 2, 3, 0, 1, 0, 1, 0])),
        ("an odd wish", raw(&[11, 1, 2, 3, 0, 6, 0, 1, 0])),
        ("another port", to_servers().udp(546, &[11, 1, 2, 3])),
        ("by unicast", from_laptop(LAPTOP_LOCAL, "fe80::1").udp(547, &request(None).to_vec().unwrap())),
    ];
    let mut table = String::new();
    for (what, frame) in frames {
        let mut bed = bed(Some(Dhcp6::Stateless));
        bed.send(OFFICE, &frame);
        table += &format!("{what}: {} | {}\n", heard6(&mut bed), bed.counted());
    }
    expect![[r#"
        everything: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:546 Reply [01, 02, 03] ClientId([0, 3, 0, 1, 2, 0, 0, 0, 0, 13]) ServerId([0, 3, 0, 1, 2, 0, 0, 0, 0, 241]) DomainNameServers([fd00:20::1]) DomainSearchList([Name("office.weft.")]) Unknown(UnknownOption { code: 32, data: [0, 0, 7, 8] }) | 
        two things: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:546 Reply [01, 02, 03] ClientId([0, 3, 0, 1, 2, 0, 0, 0, 0, 13]) ServerId([0, 3, 0, 1, 2, 0, 0, 0, 0, 241]) DomainNameServers([fd00:20::1]) Unknown(UnknownOption { code: 32, data: [0, 0, 7, 8] }) | 
        something else: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:546 Reply [01, 02, 03] ClientId([0, 3, 0, 1, 2, 0, 0, 0, 0, 13]) ServerId([0, 3, 0, 1, 2, 0, 0, 0, 0, 241]) | 
        nameless: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:546 Reply [09, 09, 09] ServerId([0, 3, 0, 1, 2, 0, 0, 0, 0, 241]) DomainNameServers([fd00:20::1]) DomainSearchList([Name("office.weft.")]) Unknown(UnknownOption { code: 32, data: [0, 0, 7, 8] }) | 
        this server: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:546 Reply [01, 02, 03] ClientId([0, 3, 0, 1, 2, 0, 0, 0, 0, 13]) ServerId([0, 3, 0, 1, 2, 0, 0, 0, 0, 241]) DomainNameServers([fd00:20::1]) DomainSearchList([Name("office.weft.")]) Unknown(UnknownOption { code: 32, data: [0, 0, 7, 8] }) | 
        another server: nothing | dhcp6-ignored 1
        with an address: nothing | dhcp6-ignored 1
        an address: nothing | dhcp6-ignored 1
        from afar: nothing | dhcp6-ignored 1
        as the gateway: nothing | forged-source 1
        a relay's: nothing | dhcp6-malformed 1
        nothing: nothing | dhcp6-malformed 1
        two names: nothing | dhcp6-malformed 1
        an option cut: nothing | dhcp6-malformed 1
        a name without a type: nothing | dhcp6-malformed 1
        an odd wish: nothing | dhcp6-malformed 1
        another port: nothing | multicast 1
        by unicast: icmp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d unreachable: port unreachable (about fe80::1) | no-service 1
    "#]].assert_eq(&table);
}

#[test]
fn advertisements_say_whether_there_is_something_to_ask() {
    let ask_router = from_laptop(LAPTOP_LOCAL, "ff02::2").ndp(&which_routers(&own(LAPTOP)));
    for (dhcp6, flags) in [(None, "flags 0x00"), (Some(Dhcp6::Stateless), "flags 0x40")] {
        let mut bed = bed(dhcp6);
        bed.send(OFFICE, &ask_router);
        let heard = heard6(&mut bed);
        assert!(heard.contains(flags), "{heard}");
    }
    let mut off = bed(None);
    off.send(OFFICE, &ask(&request(None)));
    assert_eq!((heard6(&mut off), off.counted()), ("nothing".to_owned(), "multicast 1".to_owned()));
}

proptest! {
    #[test]
    fn any_message_is_survived(kind in 0..14_u8, options in vec((0..40_u16, vec(any::<u8>(), 0..40)), 0..8), cut in 0..4_usize) {
        let mut bytes = vec![kind, 1, 2, 3];
        for (code, value) in &options {
            bytes.extend_from_slice(&code.to_be_bytes());
            bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
            bytes.extend_from_slice(value);
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        let mut bed = bed(Some(Dhcp6::Stateless));
        bed.send(OFFICE, &to_servers().udp(547, &bytes));
        let heard = heard6(&mut bed);
        prop_assert!(heard == "nothing" || (kind == 11 && heard.contains("Reply [01, 02, 03]")), "{}", heard);
        prop_assert!(heard == "nothing" || cut == 0 || options.is_empty(), "a message that is cut is no message: {}", heard);
    }
}
