//! Names: who sees which, and what passes to the outside.

use std::time::Duration;

use dhcproto::v4::{DhcpOption, MessageType};
use expect_test::{Expect, expect};
use hickory_proto::op::{Edns, Message, MessageType as DnsType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, rdata};
use weft_services::{NetworkId, NetworkServices};
use weft_types::MacAddr;

use crate::bed::*;

/// A DNS message in a line.
pub(crate) fn describe(payload: &[u8]) -> String {
    let message = Message::from_vec(payload).expect("a DNS message");
    let metadata = &message.metadata;
    assert_eq!(metadata.message_type, DnsType::Response);
    let mut text = format!("{:?}", metadata.response_code);
    for (flag, word) in [(metadata.authoritative, "authoritative"), (metadata.truncation, "truncated")] {
        if flag {
            text = format!("{text} {word}");
        }
    }
    if let Some(edns) = &message.edns {
        text = format!("{text} edns{}", edns.version());
    }
    for record in &message.answers {
        text = format!("{text} [{record}]");
    }
    for record in &message.authorities {
        text = format!("{text} ({} {})", record.name, record.record_type());
    }
    text
}

/// What an answer holds, without the way it came.
fn answer(heard: &str) -> String {
    heard.lines().map(|line| line.splitn(6, ' ').nth(5).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

fn query(name: &str, rtype: &str) -> Message {
    let mut message = Message::new(0xbeef, DnsType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype.parse().unwrap()));
    message
}

/// The networks with everyone's lease held: `laptop` 10.20.0.103, `web` 10.30.0.10, `db` 10.30.0.20.
fn bed() -> Bed {
    let mut bed = Bed::new();
    for (net, mac, address) in
        [(OFFICE, LAPTOP, "10.20.0.103"), (BACKSTAGE, WEB_BACKSTAGE, "10.30.0.10"), (BACKSTAGE, DB, "10.30.0.20")]
    {
        let mut message = dhcp_message(mac, MessageType::Request);
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(ip(address)));
        let server = if net == OFFICE { "10.20.0.1" } else { "10.30.0.1" };
        message.opts_mut().insert(DhcpOption::ServerIdentifier(ip(server)));
        bed.send(net, &dhcp_frame(mac, &message, None));
    }
    bed.persist();
    bed.frames();
    bed
}

fn ask_raw(bed: &mut Bed, net: NetworkId, mac: MacAddr, payload: &[u8]) -> String {
    let office = way(mac, "10.20.0.77:5353", "10.20.0.1:53");
    let backstage = Way { to_mac: BACKSTAGE_MAC, ..way(mac, "10.30.0.77:5353", "10.30.0.1:53") };
    bed.send(net, &udp(if net == OFFICE { office } else { backstage }, payload));
    answer(&bed.heard())
}

fn ask(bed: &mut Bed, net: NetworkId, mac: MacAddr, name: &str, rtype: &str) -> String {
    ask_raw(bed, net, mac, &query(name, rtype).to_vec().unwrap())
}

/// Everyone asks `names` at every gateway they are behind.
fn check(names: &[&str], expected: Expect) {
    let mut bed = bed();
    let mut table = String::new();
    for name in names {
        table += &format!("{name}\n");
        for (who, net, mac) in [
            ("laptop", OFFICE, LAPTOP),
            ("web", OFFICE, WEB),
            ("web, backstage", BACKSTAGE, WEB_BACKSTAGE),
            ("db", BACKSTAGE, DB),
            ("stranger", OFFICE, STRANGER),
        ] {
            let rtype = if name.ends_with(".arpa") { "PTR" } else { "A" };
            let answer = ask(&mut bed, net, mac, name, rtype);
            table += &format!("    {who}: {}\n", answer.replace(" authoritative", ""));
        }
    }
    expected.assert_eq(&table);
}

#[test]
fn the_host_sees_every_network_and_is_told_nothing_else() {
    let bed = bed();
    let ask = |name: &str, rtype: &str| {
        let query = query(name, rtype).to_vec().unwrap();
        describe(&bed.services.answer_host(bed.now, &query).unwrap()).replace(" authoritative", "")
    };
    for (name, rtype, expected) in [
        ("web.office.weft.", "A", "NoError [web.office.weft. 5 IN A 10.20.0.10]"),
        ("DB.backstage.weft.", "A", "NoError [DB.backstage.weft. 5 IN A 10.30.0.20]"),
        ("web.backstage.weft.", "AAAA", "NoError (weft. SOA)"),
        ("20.0.30.10.in-addr.arpa.", "PTR", "NoError [20.0.30.10.in-addr.arpa. 5 IN PTR db.backstage.weft.]"),
        ("nobody.office.weft.", "A", "NXDomain (weft. SOA)"),
        ("weft.", "SOA", "NoError [weft. 5 IN SOA gateway.weft. hostmaster.weft. 1 3600 600 86400 5]"),
        ("21.0.30.10.in-addr.arpa.", "PTR", "Refused"),
        ("1.0.0.127.in-addr.arpa.", "PTR", "Refused"),
        ("web.", "A", "Refused"),
        ("localhost.", "A", "Refused"),
        ("www.example.org.", "A", "Refused"),
        ("weft.example.", "A", "Refused"),
    ] {
        assert_eq!(ask(name, rtype), expected, "{name}");
    }
    assert_eq!(bed.services.answer_host(bed.now, b"no query"), None);
    let mut long = query("db.backstage.weft.", "A").to_vec().unwrap();
    long.truncate(20);
    assert_eq!(describe(&bed.services.answer_host(bed.now, &long).unwrap()), "FormErr");
}

#[test]
fn each_sees_the_networks_it_is_on() {
    check(
        &["web.office.weft.", "laptop.office.weft.", "web.backstage.weft.", "db.backstage.weft."],
        expect![[r#"
        web.office.weft.
            laptop: NoError [web.office.weft. 5 IN A 10.20.0.10]
            web: NoError [web.office.weft. 5 IN A 10.20.0.10]
            web, backstage: NoError [web.office.weft. 5 IN A 10.20.0.10]
            db: NXDomain (weft. SOA)
            stranger: NoError [web.office.weft. 5 IN A 10.20.0.10]
        laptop.office.weft.
            laptop: NoError [laptop.office.weft. 5 IN A 10.20.0.103]
            web: NoError [laptop.office.weft. 5 IN A 10.20.0.103]
            web, backstage: NoError [laptop.office.weft. 5 IN A 10.20.0.103]
            db: NXDomain (weft. SOA)
            stranger: NoError [laptop.office.weft. 5 IN A 10.20.0.103]
        web.backstage.weft.
            laptop: NXDomain (weft. SOA)
            web: NoError [web.backstage.weft. 5 IN A 10.30.0.10]
            web, backstage: NoError [web.backstage.weft. 5 IN A 10.30.0.10]
            db: NoError [web.backstage.weft. 5 IN A 10.30.0.10]
            stranger: NXDomain (weft. SOA)
        db.backstage.weft.
            laptop: NXDomain (weft. SOA)
            web: NoError [db.backstage.weft. 5 IN A 10.30.0.20]
            web, backstage: NoError [db.backstage.weft. 5 IN A 10.30.0.20]
            db: NoError [db.backstage.weft. 5 IN A 10.30.0.20]
            stranger: NXDomain (weft. SOA)
    "#]],
    );
}

#[test]
fn bare_names_mean_the_nearest() {
    check(
        &["web.", "db.", "gateway.", "nobody."],
        expect![[r#"
        web.
            laptop: NoError [web. 5 IN A 10.20.0.10]
            web: NoError [web. 5 IN A 10.20.0.10]
            web, backstage: NoError [web. 5 IN A 10.30.0.10]
            db: NoError [web. 5 IN A 10.30.0.10]
            stranger: NoError [web. 5 IN A 10.20.0.10]
        db.
            laptop: NXDomain (. SOA)
            web: NoError [db. 5 IN A 10.30.0.20]
            web, backstage: NoError [db. 5 IN A 10.30.0.20]
            db: NoError [db. 5 IN A 10.30.0.20]
            stranger: NXDomain (. SOA)
        gateway.
            laptop: NoError [gateway. 5 IN A 10.20.0.1]
            web: NoError [gateway. 5 IN A 10.20.0.1]
            web, backstage: NoError [gateway. 5 IN A 10.30.0.1]
            db: NoError [gateway. 5 IN A 10.30.0.1]
            stranger: NoError [gateway. 5 IN A 10.20.0.1]
        nobody.
            laptop: NXDomain (. SOA)
            web: NXDomain (. SOA)
            web, backstage: NXDomain (. SOA)
            db: NXDomain (. SOA)
            stranger: NXDomain (. SOA)
    "#]],
    );
}

#[test]
fn addresses_have_names_for_those_who_see_them() {
    check(
        &[
            "10.0.20.10.in-addr.arpa",
            "103.0.20.10.in-addr.arpa",
            "20.0.30.10.in-addr.arpa",
            "1.0.30.10.in-addr.arpa",
            "99.0.20.10.in-addr.arpa",
        ],
        expect![[r#"
            10.0.20.10.in-addr.arpa
                laptop: NoError [10.0.20.10.in-addr.arpa. 5 IN PTR web.office.weft.]
                web: NoError [10.0.20.10.in-addr.arpa. 5 IN PTR web.office.weft.]
                web, backstage: NoError [10.0.20.10.in-addr.arpa. 5 IN PTR web.office.weft.]
                db: NXDomain (0.20.10.in-addr.arpa. SOA)
                stranger: NoError [10.0.20.10.in-addr.arpa. 5 IN PTR web.office.weft.]
            103.0.20.10.in-addr.arpa
                laptop: NoError [103.0.20.10.in-addr.arpa. 5 IN PTR laptop.office.weft.]
                web: NoError [103.0.20.10.in-addr.arpa. 5 IN PTR laptop.office.weft.]
                web, backstage: NoError [103.0.20.10.in-addr.arpa. 5 IN PTR laptop.office.weft.]
                db: NXDomain (0.20.10.in-addr.arpa. SOA)
                stranger: NoError [103.0.20.10.in-addr.arpa. 5 IN PTR laptop.office.weft.]
            20.0.30.10.in-addr.arpa
                laptop: NXDomain (0.30.10.in-addr.arpa. SOA)
                web: NoError [20.0.30.10.in-addr.arpa. 5 IN PTR db.backstage.weft.]
                web, backstage: NoError [20.0.30.10.in-addr.arpa. 5 IN PTR db.backstage.weft.]
                db: NoError [20.0.30.10.in-addr.arpa. 5 IN PTR db.backstage.weft.]
                stranger: NXDomain (0.30.10.in-addr.arpa. SOA)
            1.0.30.10.in-addr.arpa
                laptop: NXDomain (0.30.10.in-addr.arpa. SOA)
                web: NoError [1.0.30.10.in-addr.arpa. 5 IN PTR gateway.backstage.weft.]
                web, backstage: NoError [1.0.30.10.in-addr.arpa. 5 IN PTR gateway.backstage.weft.]
                db: NoError [1.0.30.10.in-addr.arpa. 5 IN PTR gateway.backstage.weft.]
                stranger: NXDomain (0.30.10.in-addr.arpa. SOA)
            99.0.20.10.in-addr.arpa
                laptop: NXDomain (0.20.10.in-addr.arpa. SOA)
                web: NXDomain (0.20.10.in-addr.arpa. SOA)
                web, backstage: NXDomain (0.20.10.in-addr.arpa. SOA)
                db: NXDomain (0.20.10.in-addr.arpa. SOA)
                stranger: NXDomain (0.20.10.in-addr.arpa. SOA)
        "#]],
    );
}

#[test]
fn what_is_asked_of_a_name() {
    let mut bed = bed();
    let mut table = String::new();
    for (name, rtype) in [
        ("WEB.Office.WEFT.", "A"),
        ("web.office.weft.", "AAAA"),
        ("web.office.weft.", "ANY"),
        ("web.office.weft.", "MX"),
        ("gateway.office.weft.", "A"),
        ("printer.office.weft.", "A"),
        ("101.0.20.10.in-addr.arpa.", "PTR"),
        ("101.0.20.10.in-addr.arpa.", "A"),
        ("office.weft.", "A"),
        ("backstage.weft.", "A"),
        ("weft.", "SOA"),
        ("weft.", "A"),
        ("nobody.office.weft.", "A"),
        ("nobody.office.weft.", "AAAA"),
        ("a.web.office.weft.", "A"),
        ("web.nowhere.weft.", "A"),
        ("0.20.10.in-addr.arpa.", "SOA"),
        ("lb._dns-sd._udp.0.0.20.10.in-addr.arpa.", "PTR"),
        ("5.0.30.10.in-addr.arpa.", "PTR"),
    ] {
        table += &format!("{name} {rtype}: {}\n", ask(&mut bed, OFFICE, LAPTOP, name, rtype));
    }
    assert!(bed.services.poll_dns().is_none(), "nothing of ours leaves");
    expect![[r#"
        WEB.Office.WEFT. A: NoError authoritative [WEB.Office.WEFT. 5 IN A 10.20.0.10]
        web.office.weft. AAAA: NoError authoritative (weft. SOA)
        web.office.weft. ANY: NoError authoritative [web.office.weft. 5 IN A 10.20.0.10]
        web.office.weft. MX: NoError authoritative (weft. SOA)
        gateway.office.weft. A: NoError authoritative [gateway.office.weft. 5 IN A 10.20.0.1]
        printer.office.weft. A: NoError authoritative [printer.office.weft. 5 IN A 10.20.0.101]
        101.0.20.10.in-addr.arpa. PTR: NoError authoritative [101.0.20.10.in-addr.arpa. 5 IN PTR printer.office.weft.]
        101.0.20.10.in-addr.arpa. A: NoError authoritative (0.20.10.in-addr.arpa. SOA)
        office.weft. A: NoError authoritative (weft. SOA)
        backstage.weft. A: NXDomain authoritative (weft. SOA)
        weft. SOA: NoError authoritative [weft. 5 IN SOA gateway.weft. hostmaster.weft. 1 3600 600 86400 5]
        weft. A: NoError authoritative (weft. SOA)
        nobody.office.weft. A: NXDomain authoritative (weft. SOA)
        nobody.office.weft. AAAA: NXDomain authoritative (weft. SOA)
        a.web.office.weft. A: NXDomain authoritative (weft. SOA)
        web.nowhere.weft. A: NXDomain authoritative (weft. SOA)
        0.20.10.in-addr.arpa. SOA: NoError authoritative [0.20.10.in-addr.arpa. 5 IN SOA gateway.weft. hostmaster.weft. 1 3600 600 86400 5]
        lb._dns-sd._udp.0.0.20.10.in-addr.arpa. PTR: NXDomain authoritative (0.20.10.in-addr.arpa. SOA)
        5.0.30.10.in-addr.arpa. PTR: NXDomain authoritative (0.30.10.in-addr.arpa. SOA)
    "#]].assert_eq(&table);
}

#[test]
fn a_name_without_an_address_is_none() {
    let mut bed = Bed::new();
    let before = ask(&mut bed, OFFICE, WEB, "db.backstage.weft.", "A");
    assert!(before.starts_with("NXDomain"), "{before}");
    // A reserved address is known before its lease; a lease's name ends with it.
    assert!(ask(&mut bed, OFFICE, WEB, "web.office.weft.", "A").contains("10.20.0.10"));
    let mut bed = self::bed();
    bed.sleep(Duration::from_secs(LEASE_S.into()));
    let after = ask(&mut bed, OFFICE, WEB, "db.backstage.weft.", "A");
    assert!(after.starts_with("NXDomain"), "{after}");
}

#[test]
fn a_machine_called_gateway_is_not_the_gateway() {
    let mut office = office();
    office.dhcp.as_mut().unwrap().reservations.push(reservation(mac(0x44), "gateway", Some("10.20.0.44")));
    let mut bed = Bed::with(vec![office, backstage()]);
    assert!(ask(&mut bed, OFFICE, LAPTOP, "gateway.office.weft.", "A").ends_with("A 10.20.0.1]"));
    // Nor is it on every network, because each has a gateway.
    assert!(ask(&mut bed, OFFICE, mac(0x44), "gateway.backstage.weft.", "A").starts_with("NXDomain"));
}

#[test]
fn odd_queries() {
    let mut bed = bed();
    let plain = || query("web.office.weft.", "A");
    let mut table = String::new();
    let mut check = |what: &str, payload: &[u8]| {
        table += &format!("{what}: {}\n", ask_raw(&mut bed, OFFICE, LAPTOP, payload));
    };
    check("short", &plain().to_vec().unwrap()[..11]);
    check("an answer", &plain().into_response().to_vec().unwrap());
    check("cut", &plain().to_vec().unwrap()[..20]);
    let mut two = plain();
    two.add_query(Query::query(Name::root(), RecordType::A));
    check("two questions", &two.to_vec().unwrap());
    check("a status query", &Message::new(1, DnsType::Query, OpCode::Status).to_vec().unwrap());
    let mut chaos = plain();
    chaos.queries[0].set_query_class(DNSClass::CH);
    check("chaos", &chaos.to_vec().unwrap());
    let mut edns = plain();
    edns.set_edns(Edns::new());
    check("edns", &edns.to_vec().unwrap());
    edns.edns.as_mut().unwrap().set_version(1);
    check("a later edns", &edns.to_vec().unwrap());
    // A name that points at itself.
    let mut pointer = plain().to_vec().unwrap();
    pointer.splice(12.., [0xc0, 12, 0, 1, 0, 1]);
    check("a pointer", &pointer);
    table += &bed.counted();
    expect![[r#"
        short: nothing
        an answer: nothing
        cut: FormErr
        two questions: FormErr
        a status query: NotImp
        chaos: Refused
        edns: NoError authoritative edns0 [web.office.weft. 5 IN A 10.20.0.10]
        a later edns: BADSIG edns0
        a pointer: FormErr
        dns-malformed 6, dns-refused 1"#]]
    .assert_eq(&table);
}

#[test]
fn an_answer_that_is_too_long_says_so() {
    // Forty adapters of one machine on one network make 40 addresses: 640 bytes of records.
    let mut backstage = backstage();
    let reservations = &mut backstage.dhcp.as_mut().unwrap().reservations;
    reservations.extend((40..80).map(|last| reservation(mac(last), "many", Some(&format!("10.30.0.{last}")))));
    let mut bed = Bed::with(vec![backstage]);
    let short = ask(&mut bed, BACKSTAGE, DB, "many.backstage.weft.", "A");
    assert_eq!(short, "NoError authoritative truncated");
    let mut large = query("many.backstage.weft.", "A");
    large.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(1232);
    let long = ask_raw(&mut bed, BACKSTAGE, DB, &large.to_vec().unwrap());
    assert_eq!(long.matches(" IN A 10.30.0.").count(), 40, "{long}");
}

/// The resolvers' answer to `message`, an address.
fn resolve(message: &[u8]) -> Message {
    let mut answer = Message::from_vec(message).unwrap().into_response();
    let name = answer.queries[0].name.clone();
    answer.add_answer(Record::from_rdata(name, 60, RData::A(rdata::A::new(192, 0, 2, 1))));
    answer
}

#[test]
fn the_outside_is_asked_and_answers() {
    let mut bed = bed();
    assert_eq!(ask(&mut bed, OFFICE, LAPTOP, "www.example.org.", "A"), "nothing");
    let forward = bed.services.poll_dns().unwrap();
    assert!(bed.services.poll_dns().is_none());
    let asked = Message::from_vec(&forward.message).unwrap();
    assert_ne!(asked.metadata.id, 0xbeef, "the client's id stays inside");

    let answer = resolve(&forward.message);
    let right = answer.to_vec().unwrap();
    let wrong = |change: &dyn Fn(&mut Message)| {
        let mut changed = answer.clone();
        change(&mut changed);
        changed.to_vec().unwrap()
    };
    let other = Name::from_ascii("www.example.com.").unwrap();
    for (what, bytes) in [
        ("another id", wrong(&|m| m.metadata.id ^= 1)),
        ("another name", wrong(&|m| m.queries[0].name = other.clone())),
        ("another type", wrong(&|m| m.queries[0].query_type = RecordType::AAAA)),
        ("no question", wrong(&|m| m.queries.clear())),
        ("a query", wrong(&|m| m.metadata.message_type = DnsType::Query)),
        ("cut", right[..11].to_vec()),
        ("nothing at all", Vec::new()),
    ] {
        assert!(!bed.services.dns_answer(bed.now, forward.id, Some(&bytes)), "{what}");
        assert_eq!(bed.heard(), "nothing", "{what}");
    }
    assert!(bed.services.dns_answer(bed.now, forward.id, Some(&right)));
    expect!["dns 10.20.0.1 -> 10.20.0.77 02-00-00-00-00-0d:5353 NoError [www.example.org. 60 IN A 192.0.2.1]"]
        .assert_eq(&bed.heard());
    assert!(bed.services.dns_answer(bed.now, forward.id, Some(&right)), "twice is once");
    assert_eq!((bed.heard().as_str(), bed.counted().as_str()), ("nothing", "dns-bad-answer 7"));
}

#[test]
fn what_never_leaves() {
    let mut bed = bed();
    // From a network without a way out.
    let mut table = format!("{}\n", ask(&mut bed, BACKSTAGE, DB, "www.example.org.", "A"));
    // Neighbours' private addresses may be asked of the host's resolvers, ours may not.
    for name in
        ["5.0.30.10.in-addr.arpa.", "x.weft.", "weft.", "printer.", "1.2.3.10.in-addr.arpa.", "10.in-addr.arpa."]
    {
        let answer = ask(&mut bed, OFFICE, LAPTOP, name, "PTR");
        table += &format!("{name} {answer}, leaves: {}\n", bed.services.poll_dns().is_some());
    }
    expect![[r#"
        Refused
        5.0.30.10.in-addr.arpa. NXDomain authoritative (0.30.10.in-addr.arpa. SOA), leaves: false
        x.weft. NXDomain authoritative (weft. SOA), leaves: false
        weft. NoError authoritative (weft. SOA), leaves: false
        printer. NoError authoritative (. SOA), leaves: false
        1.2.3.10.in-addr.arpa. nothing, leaves: true
        10.in-addr.arpa. nothing, leaves: true
    "#]]
    .assert_eq(&table);
}

#[test]
fn silence_outside_is_a_failure_inside() {
    let mut bed = bed();
    ask(&mut bed, OFFICE, LAPTOP, "a.example.", "A");
    let first = bed.services.poll_dns().unwrap();
    bed.services.dns_answer(bed.now, first.id, None);
    assert_eq!(answer(&bed.heard()), "ServFail");

    ask(&mut bed, OFFICE, LAPTOP, "b.example.", "A");
    let second = bed.services.poll_dns().unwrap();
    let due = bed.services.next_timeout().unwrap();
    bed.sleep(due - bed.now);
    assert_eq!(answer(&bed.heard()), "ServFail");
    assert!(bed.services.dns_answer(bed.now, second.id, Some(&resolve(&second.message).to_vec().unwrap())));
    assert_eq!((bed.heard().as_str(), bed.services.next_timeout()), ("nothing", None));
}

#[test]
fn answers_pass_at_the_size_that_the_client_takes() {
    let mut bed = bed();
    let long = |message: &[u8]| {
        let mut answer = resolve(message);
        for _ in 0..60 {
            answer.add_answer(answer.answers[0].clone());
        }
        answer.to_vec().unwrap()
    };
    ask(&mut bed, OFFICE, LAPTOP, "a.example.", "A");
    let plain = bed.services.poll_dns().unwrap();
    bed.services.dns_answer(bed.now, plain.id, Some(&long(&plain.message)));
    assert_eq!(answer(&bed.heard()), "NoError truncated");

    // More than a packet holds is not even asked for.
    let mut edns = query("b.example.", "A");
    edns.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(4096);
    ask_raw(&mut bed, OFFICE, LAPTOP, &edns.to_vec().unwrap());
    let large = bed.services.poll_dns().unwrap();
    assert_eq!(Message::from_vec(&large.message).unwrap().max_payload(), 1472);
    bed.services.dns_answer(bed.now, large.id, Some(&long(&large.message)));
    assert_eq!(bed.heard().matches("192.0.2.1").count(), 61);
}

#[test]
fn one_machine_cannot_take_all_the_room() {
    let mut bed = bed();
    let mut heard = Vec::new();
    for number in 0..100 {
        heard.push(ask(&mut bed, OFFICE, LAPTOP, &format!("n{number}.example."), "A"));
    }
    assert_eq!(heard.iter().filter(|answer| *answer == "ServFail").count(), 36);
    // The same question again is under way already, and others have their room.
    assert_eq!(ask(&mut bed, OFFICE, LAPTOP, "n0.example.", "A"), "nothing");
    assert_eq!(ask(&mut bed, OFFICE, WEB, "n0.example.", "A"), "nothing");
    assert_eq!(std::iter::from_fn(|| bed.services.poll_dns()).count(), 65);
}

#[test]
fn a_refusal_without_its_question_passes() {
    let mut bed = bed();
    ask(&mut bed, OFFICE, LAPTOP, "a.example.", "A");
    let forward = bed.services.poll_dns().unwrap();
    let id = Message::from_vec(&forward.message).unwrap().metadata.id;
    let refusal = Message::error_msg(id, OpCode::Query, ResponseCode::Refused).to_vec().unwrap();
    assert!(bed.services.dns_answer(bed.now, forward.id, Some(&refusal)));
    assert_eq!(answer(&bed.heard()), "Refused");
}

#[test]
fn a_network_that_is_gone_is_not_answered() {
    let mut bed = bed();
    ask(&mut bed, OFFICE, LAPTOP, "a.example.", "A");
    bed.services.configure(bed.now, vec![backstage()]);
    assert!(bed.services.poll_dns().is_none());
    assert_eq!(bed.services.next_timeout(), None);
}

#[test]
fn a_network_without_names_says_so() {
    let mut bed = Bed::with(vec![NetworkServices { dns: false, ..backstage() }]);
    let way = Way { to_mac: BACKSTAGE_MAC, ..way(DB, "10.30.0.77:5353", "10.30.0.1:53") };
    bed.send(BACKSTAGE, &udp(way, &query("db.", "A").to_vec().unwrap()));
    assert!(bed.heard().contains("unreachable"));
}
