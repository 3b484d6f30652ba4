//! Names that a file adds: hosts, other names, and domains with servers of their own; and laws about any message.

use expect_test::expect;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::Name;
use proptest::collection::vec;
use proptest::prelude::*;
use weft_services::NetworkServices;
use weft_types::DnsNames;

use crate::bed::*;
use crate::dns::describe;

fn names() -> DnsNames {
    let host = |name: &str, addresses: &[&str]| {
        (name.parse().unwrap(), addresses.iter().map(|address| address.parse().unwrap()).collect())
    };
    let alias = |name: &str, target: &str| (name.parse().unwrap(), target.parse().unwrap());
    let forward = |name: &str, server: &str| (name.parse().unwrap(), vec![server.parse().unwrap()]);
    DnsNames {
        hosts: [
            host("scanner", &["10.20.0.9", "2001:db8::9"]),
            host("git.example.org", &["192.0.2.7", "192.0.2.8"]),
            host("web", &["10.20.0.66"]),
        ]
        .into(),
        cnames: [
            alias("www", "web"),
            alias("www.example.org", "www"),
            alias("code", "git.example.org"),
            alias("round", "about"),
            alias("about", "round"),
            alias("vacant", "laptop"),
            alias("gateway", "web"),
        ]
        .into(),
        forward: [
            forward("corp.example", "10.1.1.1:53"),
            forward("lab.corp.example", "10.1.1.2:5353"),
            forward("corp", "10.1.1.3:53"),
            forward("1.10.in-addr.arpa", "10.1.1.4:53"),
        ]
        .into(),
    }
}

fn bed() -> Bed {
    Bed::with(vec![NetworkServices { names: names(), ..office() }, backstage()])
}

fn query(name: &str, rtype: &str) -> Message {
    let mut message = Message::new(0xbeef, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype.parse().unwrap()));
    message
}

/// What the laptop hears; or who is asked.
fn ask(bed: &mut Bed, name: &str, rtype: &str) -> String {
    let message = query(name, rtype).to_vec().unwrap();
    bed.send(OFFICE, &udp(way(LAPTOP, "10.20.0.77:5353", "10.20.0.1:53"), &message));
    match (bed.frames().first(), bed.services.poll_dns()) {
        (Some(frame), None) => describe(&frame[42..]),
        (None, Some(forward)) if forward.servers.is_empty() => "asked of the host's resolvers".to_owned(),
        (None, Some(forward)) => format!("asked of {:?}", forward.servers),
        other => panic!("{other:?}"),
    }
}

fn check(cases: &[(&str, &str)], expected: expect_test::Expect) {
    let mut bed = bed();
    let line = |(name, rtype): &(&str, &str)| format!("{name} {rtype}: {}\n", ask(&mut bed, name, rtype));
    let table: String = cases.iter().map(line).collect();
    expected.assert_eq(&table.replace(" authoritative", ""));
}

#[test]
fn hosts() {
    check(
        &[
            ("scanner.", "A"),
            ("scanner.office.weft.", "AAAA"),
            ("scanner.office.weft.", "ANY"),
            ("scanner.office.weft.", "TXT"),
            ("Git.Example.Org.", "A"),
            ("git.example.org.", "AAAA"),
            ("x.git.example.org.", "A"),
            ("example.org.", "A"),
            ("web.", "A"),
            ("9.0.20.10.in-addr.arpa.", "PTR"),
            ("7.2.0.192.in-addr.arpa.", "PTR"),
            ("9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", "PTR"),
            ("8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", "PTR"),
        ],
        expect![[r#"
            scanner. A: NoError [scanner. 5 IN A 10.20.0.9]
            scanner.office.weft. AAAA: NoError [scanner.office.weft. 5 IN AAAA 2001:db8::9]
            scanner.office.weft. ANY: NoError [scanner.office.weft. 5 IN A 10.20.0.9] [scanner.office.weft. 5 IN AAAA 2001:db8::9]
            scanner.office.weft. TXT: NoError (weft. SOA)
            Git.Example.Org. A: NoError [Git.Example.Org. 5 IN A 192.0.2.7] [Git.Example.Org. 5 IN A 192.0.2.8]
            git.example.org. AAAA: NoError (git.example.org. SOA)
            x.git.example.org. A: asked of the host's resolvers
            example.org. A: asked of the host's resolvers
            web. A: NoError [web. 5 IN A 10.20.0.10]
            9.0.20.10.in-addr.arpa. PTR: NoError [9.0.20.10.in-addr.arpa. 5 IN PTR scanner.office.weft.]
            7.2.0.192.in-addr.arpa. PTR: NoError [7.2.0.192.in-addr.arpa. 5 IN PTR git.example.org.]
            9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR: NoError [9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 5 IN PTR scanner.office.weft.]
            8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR: asked of the host's resolvers
        "#]],
    );
}

#[test]
fn other_names() {
    check(
        &[
            ("www.", "A"),
            ("www.office.weft.", "A"),
            ("www.office.weft.", "AAAA"),
            ("www.office.weft.", "CNAME"),
            ("www.office.weft.", "ANY"),
            ("www.example.org.", "A"),
            ("code.", "A"),
            ("round.", "A"),
            ("vacant.", "A"),
            ("vacant.", "CNAME"),
            ("gateway.", "A"),
        ],
        expect![[r#"
            www. A: NoError [www. 5 IN CNAME web.office.weft.] [web.office.weft. 5 IN A 10.20.0.10]
            www.office.weft. A: NoError [www.office.weft. 5 IN CNAME web.office.weft.] [web.office.weft. 5 IN A 10.20.0.10]
            www.office.weft. AAAA: NoError [www.office.weft. 5 IN CNAME web.office.weft.] (weft. SOA)
            www.office.weft. CNAME: NoError [www.office.weft. 5 IN CNAME web.office.weft.]
            www.office.weft. ANY: NoError [www.office.weft. 5 IN CNAME web.office.weft.]
            www.example.org. A: NoError [www.example.org. 5 IN CNAME www.office.weft.] [www.office.weft. 5 IN CNAME web.office.weft.] [web.office.weft. 5 IN A 10.20.0.10]
            code. A: NoError [code. 5 IN CNAME git.example.org.] [git.example.org. 5 IN A 192.0.2.7] [git.example.org. 5 IN A 192.0.2.8]
            round. A: NXDomain [round. 5 IN CNAME about.office.weft.] [about.office.weft. 5 IN CNAME round.office.weft.] [round.office.weft. 5 IN CNAME about.office.weft.] [about.office.weft. 5 IN CNAME round.office.weft.] [round.office.weft. 5 IN CNAME about.office.weft.] [about.office.weft. 5 IN CNAME round.office.weft.] [round.office.weft. 5 IN CNAME about.office.weft.] [about.office.weft. 5 IN CNAME round.office.weft.] (. SOA)
            vacant. A: NXDomain [vacant. 5 IN CNAME laptop.office.weft.] (. SOA)
            vacant. CNAME: NoError [vacant. 5 IN CNAME laptop.office.weft.]
            gateway. A: NoError [gateway. 5 IN A 10.20.0.1]
        "#]],
    );
}

#[test]
fn domains_with_servers_of_their_own() {
    check(
        &[
            ("corp.example.", "A"),
            ("www.corp.example.", "A"),
            ("www.LAB.corp.example.", "A"),
            ("xcorp.example.", "A"),
            ("corp.", "A"),
            ("x.corp.", "MX"),
            ("2.3.1.10.in-addr.arpa.", "PTR"),
            ("2.3.2.10.in-addr.arpa.", "PTR"),
            ("nobody.weft.", "A"),
        ],
        expect![[r#"
            corp.example. A: asked of [10.1.1.1:53]
            www.corp.example. A: asked of [10.1.1.1:53]
            www.LAB.corp.example. A: asked of [10.1.1.2:5353]
            xcorp.example. A: asked of the host's resolvers
            corp. A: asked of [10.1.1.3:53]
            x.corp. MX: asked of [10.1.1.3:53]
            2.3.1.10.in-addr.arpa. PTR: asked of [10.1.1.4:53]
            2.3.2.10.in-addr.arpa. PTR: asked of the host's resolvers
            nobody.weft. A: NXDomain (weft. SOA)
        "#]],
    );
}

/// RFC 6303, section 4; RFC 6761; RFC 7686.
#[test]
fn what_is_the_same_everywhere() {
    check(
        &[
            ("localhost.", "A"),
            ("x.localhost.", "AAAA"),
            ("localhost.", "MX"),
            ("1.0.0.127.in-addr.arpa.", "PTR"),
            ("2.0.0.127.in-addr.arpa.", "PTR"),
            ("127.in-addr.arpa.", "SOA"),
            ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.", "PTR"),
            ("9.254.169.in-addr.arpa.", "PTR"),
            ("9.113.0.203.in-addr.arpa.", "PTR"),
            ("9.114.0.203.in-addr.arpa.", "PTR"),
            ("some.invalid.", "A"),
            ("some.onion.", "A"),
            ("example.org.", "AXFR"),
            ("office.weft.", "AXFR"),
        ],
        expect![[r#"
            localhost. A: NoError [localhost. 5 IN A 127.0.0.1]
            x.localhost. AAAA: NoError [x.localhost. 5 IN AAAA ::1]
            localhost. MX: NoError (localhost. SOA)
            1.0.0.127.in-addr.arpa. PTR: NoError [1.0.0.127.in-addr.arpa. 5 IN PTR localhost.]
            2.0.0.127.in-addr.arpa. PTR: NXDomain (127.in-addr.arpa. SOA)
            127.in-addr.arpa. SOA: NoError [127.in-addr.arpa. 5 IN SOA gateway.weft. hostmaster.weft. 1 3600 600 86400 5]
            1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa. PTR: NoError [1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa. 5 IN PTR localhost.]
            9.254.169.in-addr.arpa. PTR: NoError (254.169.in-addr.arpa. SOA)
            9.113.0.203.in-addr.arpa. PTR: NXDomain (113.0.203.in-addr.arpa. SOA)
            9.114.0.203.in-addr.arpa. PTR: asked of the host's resolvers
            some.invalid. A: NXDomain (invalid. SOA)
            some.onion. A: NXDomain (onion. SOA)
            example.org. AXFR: Refused
            office.weft. AXFR: Refused
        "#]],
    );
}

proptest! {
    /// Whatever comes: nothing breaks, who asked hears one answer at most and never a longer one than it takes, and what
    /// is an answer itself is never answered.
    #[test]
    fn any_message_is_survived(
        head in any::<[u8; 4]>(),
        counts in prop::sample::select(vec![[0, 1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 1], [0, 2, 0, 0, 0, 0, 0, 0]]),
        question in prop_oneof![
            vec(any::<u8>(), 0..40),
            Just(b"\x03www\x06office\x04weft\0\0\x01\0\x01".to_vec()),
            Just(b"\x03www\x07example\x03org\0\0\x01\0\x01".to_vec()),
            Just(vec![0xc0, 12, 0, 1, 0, 1]),
        ],
        rest in vec(any::<u8>(), 0..30),
        is_a_query in any::<bool>(),
    ) {
        let mut message = [&head[..], &counts, &question, &rest].concat();
        if is_a_query {
            message[2] &= 0x07;
        }
        let mut bed = bed();
        bed.send(OFFICE, &udp(way(LAPTOP, "10.20.0.77:5353", "10.20.0.1:53"), &message));
        let frames = bed.frames();
        prop_assert!(frames.len() <= 1);
        if let Some(frame) = frames.first() {
            prop_assert!(message[2] & 0x80 == 0, "nothing answers an answer");
            prop_assert!(frame.len() - 42 <= 512 || message[11] == 1);
            prop_assert_eq!(&frame[42..44], &message[..2]);
            describe(&frame[42..]);
        }
    }

    /// Whatever the outside says, nothing breaks, and only what fits the question comes through.
    #[test]
    fn any_answer_is_survived(
        flags in any::<[u8; 2]>(),
        counts in vec(0..4_u8, 3),
        rest in vec(prop_oneof![any::<u8>(), Just(0xc0), Just(12), Just(0)], 0..80),
        edns in any::<bool>(),
        is_fitting in any::<bool>(),
    ) {
        let mut bed = bed();
        let mut message = query("www.example.net.", "A");
        if edns {
            message.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(1232);
        }
        let message = message.to_vec().unwrap();
        bed.send(OFFICE, &udp(way(LAPTOP, "10.20.0.77:5353", "10.20.0.1:53"), &message));
        let forward = bed.services.poll_dns().unwrap();
        let head = [forward.message[0], forward.message[1], flags[0], flags[1], 0, 1, 0, counts[0], 0, counts[1], 0, counts[2]];
        let mut answer = [&head[..], &forward.message[12..33], &rest].concat();
        if is_fitting {
            answer[2] = answer[2] & 0x07 | 0x80;
        } else {
            answer[20] ^= 1;
        }
        prop_assert_eq!(bed.services.dns_answer(bed.now, forward.id, Some(&answer)), is_fitting);
        prop_assert_eq!(bed.frames().len(), usize::from(is_fitting));
        // Again: from memory, or once more from outside.
        bed.send(OFFICE, &udp(way(LAPTOP, "10.20.0.78:5353", "10.20.0.1:53"), &message));
        let again = bed.frames().len() + usize::from(bed.services.poll_dns().is_some());
        prop_assert_eq!(again, 1);
    }
}
