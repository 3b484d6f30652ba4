//! DHCPv6 for machines that make their addresses themselves.

use std::net::Ipv6Addr;
use std::time::Duration;

use dhcproto::v6::{DhcpOption, IAAddr, IANA, Message, MessageType, ORO, OptionCode};
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
    let mut stateful = bed(Some(Dhcp6::Stateful));
    stateful.send(OFFICE, &ask_router);
    assert!(heard6(&mut stateful).contains("flags 0xc0"));
    let mut off = bed(None);
    off.send(OFFICE, &ask(&request(None)));
    assert_eq!((heard6(&mut off), off.counted()), ("nothing".to_owned(), "multicast 1".to_owned()));
}

/// A message of a client that has this identifier.
fn from_client(kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Message {
    let mut message = Message::new_with_id(kind, [1, 2, 3]);
    message.opts_mut().insert(DhcpOption::ClientId(CLIENT.to_vec()));
    options.into_iter().for_each(|option| message.opts_mut().insert(option));
    message
}

/// An address that is asked for, and those that the client has.
fn identity(id: u32, addresses: &[Ipv6Addr]) -> DhcpOption {
    let address = |addr: &Ipv6Addr| {
        let times = (1, 1);
        DhcpOption::IAAddr(IAAddr {
            addr: *addr,
            preferred_life: times.0,
            valid_life: times.1,
            opts: Default::default(),
        })
    };
    DhcpOption::IANA(IANA { id, t1: 0, t2: 0, opts: addresses.iter().map(address).collect() })
}

/// What is answered to a client: the kind of message, and each address with the seconds that it may be used.
fn answered(bed: &mut Bed, message: &Message) -> (String, Vec<(Ipv6Addr, u32)>) {
    bed.send(OFFICE, &ask(message));
    let frames = bed.frames();
    let [frame] = &frames[..] else { return (format!("{} answers", frames.len()), Vec::new()) };
    let payload = &frame[14 + 40 + 8..];
    let answer = Message::decode(&mut Decoder::new(payload)).unwrap();
    let mut kind = format!("{:?}", answer.msg_type());
    let mut addresses = Vec::new();
    for option in answer.opts().iter() {
        match option {
            DhcpOption::IANA(it) => addresses.extend(it.opts.iter().filter_map(|option| match option {
                DhcpOption::IAAddr(it) => Some((it.addr, it.valid_life)),
                _ => None,
            })),
            DhcpOption::StatusCode(it) => kind += &format!(" {:?}", it.status),
            _ => {}
        }
    }
    (kind, addresses)
}

#[test]
fn who_asks_for_an_address_has_the_same_always() {
    let server = || DhcpOption::ServerId(SERVER.to_vec());
    let mut bed = bed(Some(Dhcp6::Stateful));
    let (kind, offered) = answered(&mut bed, &from_client(MessageType::Solicit, [identity(7, &[])]));
    let [(own, 7200)] = offered[..] else { panic!("{offered:?}") };
    assert_eq!(kind, "Advertise");
    assert!(own.to_string().starts_with("fd00:20::"), "{own}");
    let old: Ipv6Addr = "fd00:19::5".parse().unwrap();
    let mut check = |kind, options: Vec<DhcpOption>, expected: &str, addresses: &[(Ipv6Addr, u32)]| {
        let (said, got) = answered(&mut bed, &from_client(kind, options));
        assert_eq!((&said[..], &got[..]), (expected, addresses), "{kind:?}");
    };
    use MessageType::{Confirm, Decline, Rebind, Release, Renew, Solicit};
    let ask = MessageType::Request;
    check(ask, vec![server(), identity(7, &[own])], "Reply", &[(own, 7200)]);
    check(Renew, vec![server(), identity(7, &[own])], "Reply", &[(own, 7200)]);
    // One that it had when the network had another prefix is its no more.
    check(Rebind, vec![identity(7, &[old])], "Reply", &[(own, 7200), (old, 0)]);
    check(Confirm, vec![identity(7, &[own])], "Reply Success", &[]);
    check(Confirm, vec![identity(7, &[own, old])], "Reply NotOnLink", &[]);
    check(Solicit, vec![DhcpOption::RapidCommit, identity(7, &[])], "Reply", &[(own, 7200)]);
    check(Release, vec![server(), identity(7, &[own])], "Reply Success", &[]);
    // Not for this server, or not as it should be.
    check(ask, vec![DhcpOption::ServerId(CLIENT.to_vec()), identity(7, &[])], "0 answers", &[]);
    check(ask, vec![identity(7, &[])], "0 answers", &[]);
    check(Solicit, vec![server(), identity(7, &[])], "0 answers", &[]);
    check(Confirm, vec![identity(7, &[])], "0 answers", &[]);
    check(MessageType::Reply, vec![server(), identity(7, &[])], "0 answers", &[]);
    // Somebody else has it already: then there is another.
    check(Decline, vec![server(), identity(7, &[own])], "Reply Success", &[]);
    let (_, other) = answered(&mut bed, &from_client(ask, [server(), identity(7, &[]), identity(8, &[])]));
    assert!(other.iter().all(|(ip, valid)| *ip != own && *valid == 7200), "{other:?}");
    let mut stateless = self::bed(Some(Dhcp6::Stateless));
    let asked = answered(&mut stateless, &from_client(Solicit, [identity(7, &[])]));
    assert_eq!(asked.0, "0 answers");
}

#[test]
fn prefixes_and_passing_addresses_are_refused_in_words() {
    let mut bed = bed(Some(Dhcp6::Stateful));
    let raw = |code: u16, value: &[u8]| {
        let len = value.len() as u16;
        [&[1, 1, 2, 3, 0, 1, 0, 4, 0, 3, 0, 1][..], &code.to_be_bytes(), &len.to_be_bytes(), value].concat()
    };
    for (code, value, refusal) in [(25, &[0; 12][..], "NoPrefixAvail"), (4, &[0; 4], "NoAddrsAvail")] {
        bed.send(OFFICE, &to_servers().udp(547, &raw(code, value)));
        let heard = heard6(&mut bed);
        assert!(heard.contains("Advertise") && heard.contains(refusal), "{heard}");
    }
    // An address that is cut, and more of them than anybody has.
    bed.send(OFFICE, &to_servers().udp(547, &raw(3, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 4, 1, 2, 3, 4])));
    let many = [raw(3, &[0; 12]), [0, 3, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].repeat(8)].concat();
    bed.send(OFFICE, &to_servers().udp(547, &many));
    assert_eq!((heard6(&mut bed), bed.counted()), ("nothing".to_owned(), "dhcp6-malformed 2".to_owned()));
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
        let mut stateful = bed(Some(Dhcp6::Stateful));
        stateful.send(OFFICE, &to_servers().udp(547, &bytes));
        prop_assert!(stateful.frames().len() <= 1);
        let mut bed = bed(Some(Dhcp6::Stateless));
        bed.send(OFFICE, &to_servers().udp(547, &bytes));
        let heard = heard6(&mut bed);
        prop_assert!(heard == "nothing" || (kind == 11 && heard.contains("Reply [01, 02, 03]")), "{}", heard);
        prop_assert!(heard == "nothing" || cut == 0 || options.is_empty(), "a message that is cut is no message: {}", heard);
    }
}
