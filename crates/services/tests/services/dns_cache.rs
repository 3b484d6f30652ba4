//! What the outside answered, remembered.

use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use weft_services::NetworkServices;
use weft_types::{DnsNames, MacAddr};

use crate::bed::*;
use crate::dns::describe;

const OTHER_NAME: &str = "other.example.";

/// Asks for the address of `name`, and gives what comes back at once, in a line; `None` when the outside is asked.
fn ask(bed: &mut Bed, mac: MacAddr, message: &Message) -> Option<String> {
    bed.send(OFFICE, &udp(way(mac, "10.20.0.77:5353", "10.20.0.1:53"), &message.to_vec().unwrap()));
    let frames = bed.frames();
    assert!(frames.len() <= 1);
    frames.first().map(|frame| {
        let answer = Message::from_vec(&frame[42..]).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert_eq!(answer.queries[0].name.to_ascii(), message.queries[0].name.to_ascii(), "in the client's case");
        describe(&frame[42..])
    })
}

fn query(id: u16, name: &str) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

/// The outside answers the query that waits, with what `fill` makes of it.
fn answer(bed: &mut Bed, fill: impl FnOnce(&mut Message)) -> String {
    let forward = bed.services.poll_dns().expect("a query for the outside");
    let mut answer = Message::from_vec(&forward.message).unwrap().into_response();
    fill(&mut answer);
    assert!(bed.services.dns_answer(bed.now, forward.id, Some(&answer.to_vec().unwrap())));
    describe(&bed.frames()[0][42..])
}

fn address(ttl_s: u32) -> impl FnOnce(&mut Message) {
    move |message| {
        let name = message.queries[0].name.clone();
        message.add_answer(Record::from_rdata(name, ttl_s, RData::A(rdata::A::new(198, 51, 100, 7))));
    }
}

fn soa(ttl_s: u32, minimum_s: u32) -> Record {
    let name = |text| Name::from_ascii(text).unwrap();
    let soa = rdata::SOA::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, minimum_s);
    Record::from_rdata(name("example."), ttl_s, RData::SOA(soa))
}

/// Whether, `after` seconds, an answer of the outside is remembered.
#[track_caller]
fn check(fill: impl FnOnce(&mut Message), after_s: u64, remembered: bool) {
    let mut bed = Bed::new();
    assert_eq!(ask(&mut bed, LAPTOP, &query(1, "www.example.")), None);
    let first = answer(&mut bed, fill);
    bed.sleep(Duration::from_secs(after_s));
    let again = ask(&mut bed, LAPTOP, &query(2, "www.example."));
    assert_eq!(again.is_some(), remembered, "{first}");
}

#[test]
fn answers_are_remembered_as_long_as_they_say() {
    let mut bed = Bed::new();
    assert_eq!(ask(&mut bed, LAPTOP, &query(1, "www.example.")), None);
    assert_eq!(answer(&mut bed, address(300)), "NoError [www.example. 300 IN A 198.51.100.7]");
    bed.sleep(Duration::from_secs(100));
    // Anybody on the network may profit, in whatever case.
    let again = ask(&mut bed, WEB, &query(2, "WWW.Example.")).unwrap();
    assert_eq!(again, "NoError [WWW.Example. 200 IN A 198.51.100.7]");
    assert_eq!(ask(&mut bed, LAPTOP, &query(3, OTHER_NAME)), None, "what was not asked is not known");
    answer(&mut bed, address(1));
    bed.sleep(Duration::from_secs(200));
    assert_eq!(ask(&mut bed, LAPTOP, &query(4, "www.example.")), None, "over");

    check(address(0), 0, false);
    check(address(u32::MAX), 86_399, true);
    check(address(u32::MAX), 86_400, false);
}

#[test]
fn that_there_is_nothing_is_remembered_as_the_zone_says() {
    let missing = |ttl_s, minimum_s| {
        move |message: &mut Message| {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.add_authority(soa(ttl_s, minimum_s));
        }
    };
    check(missing(300, 60), 59, true);
    check(missing(300, 60), 60, false);
    check(missing(30, 60), 30, false);
    check(missing(86_400, 86_400), 899, true);
    check(missing(86_400, 86_400), 900, false);
    let no_data = |message: &mut Message| {
        message.add_authority(soa(300, 60));
    };
    check(no_data, 59, true);
    check(no_data, 60, false);
    // Without the zone's word nobody knows for how long.
    check(|message| message.metadata.response_code = ResponseCode::NXDomain, 0, false);
    check(|_| (), 0, false);
}

#[test]
fn what_is_no_whole_answer_is_not_remembered() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::FormErr] {
        check(
            |message| {
                message.metadata.response_code = code;
                message.add_authority(soa(300, 60));
            },
            0,
            false,
        );
    }
    let truncated = |message: &mut Message| {
        address(300)(message);
        message.metadata.truncation = true;
    };
    check(truncated, 0, false);
    // An alias whose target did not come along.
    check(
        |message| {
            let (name, target) = (message.queries[0].name.clone(), Name::from_ascii(OTHER_NAME).unwrap());
            message.add_answer(Record::from_rdata(name, 300, RData::CNAME(rdata::CNAME(target))));
        },
        0,
        false,
    );
}

/// Bytes behind the last record, and counts of records that are not there.
#[test]
fn what_cannot_be_read_is_not_remembered() {
    for (what, spoil) in [
        ("bytes behind", (|bytes: &mut Vec<u8>| bytes.push(0)) as fn(&mut Vec<u8>)),
        ("a record too few", |bytes| bytes[7] += 1),
        ("cut", |bytes| bytes.truncate(bytes.len() - 1)),
        ("a name of no kind", |bytes| {
            let at = bytes.len() - 16;
            bytes[at] = 0x80;
        }),
    ] {
        let mut bed = Bed::new();
        assert_eq!(ask(&mut bed, LAPTOP, &query(1, "www.example.")), None);
        let forward = bed.services.poll_dns().unwrap();
        let mut answer = Message::from_vec(&forward.message).unwrap().into_response();
        address(300)(&mut answer);
        let mut bytes = answer.to_vec().unwrap();
        spoil(&mut bytes);
        bed.services.dns_answer(bed.now, forward.id, Some(&bytes));
        bed.frames();
        assert_eq!(ask(&mut bed, LAPTOP, &query(2, "www.example.")), None, "{what}");
    }
}

#[test]
fn each_wish_has_its_own_answer() {
    let mut bed = Bed::new();
    ask(&mut bed, LAPTOP, &query(1, "www.example."));
    answer(&mut bed, address(300));
    let mut edns = query(2, "www.example.");
    edns.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(1232);
    assert_eq!(ask(&mut bed, LAPTOP, &edns), None);
    let forward = bed.services.poll_dns().unwrap();
    let asked = Message::from_vec(&forward.message).unwrap();
    assert!(!asked.edns.unwrap().flags().dnssec_ok);
    let mut dnssec = edns.clone();
    dnssec.edns.as_mut().unwrap().set_dnssec_ok(true);
    assert_eq!(ask(&mut bed, LAPTOP, &dnssec), None);
    let forward = bed.services.poll_dns().unwrap();
    let asked = Message::from_vec(&forward.message).unwrap();
    assert!(asked.edns.unwrap().flags().dnssec_ok, "the wish passes to the outside");
    let mut checking_disabled = query(3, "www.example.");
    checking_disabled.metadata.checking_disabled = true;
    assert_eq!(ask(&mut bed, LAPTOP, &checking_disabled), None);
    let forward = bed.services.poll_dns().unwrap();
    assert!(Message::from_vec(&forward.message).unwrap().metadata.checking_disabled);
}

#[test]
fn what_holds_no_more_is_forgotten() {
    let known = || {
        let mut bed = Bed::new();
        ask(&mut bed, LAPTOP, &query(1, "www.example."));
        answer(&mut bed, address(300));
        bed
    };
    let mut bed = known();
    bed.services.configure(bed.now, vec![office(), backstage()]);
    assert!(ask(&mut bed, LAPTOP, &query(2, "www.example.")).is_some(), "nothing has changed for it");

    let servers = vec!["192.0.2.53:53".parse().unwrap()];
    let forward = [("example".parse().unwrap(), servers)].into();
    let names = DnsNames { forward, ..DnsNames::default() };
    bed.services.configure(bed.now, vec![NetworkServices { names, ..office() }, backstage()]);
    assert_eq!(ask(&mut bed, LAPTOP, &query(3, "www.example.")), None, "other servers are asked now");

    let mut bed = known();
    bed.services.forget_dns_answers();
    assert_eq!(ask(&mut bed, LAPTOP, &query(2, "www.example.")), None);
}
