//! Addresses that somebody has without a lease are not given to others; and what is said when none is left.

use std::time::Duration;

use dhcproto::v4::MessageType;
use expect_test::expect;
use weft_types::MacAddr;

use crate::bed::*;

/// The office on a wire where anybody may be.
fn bed() -> Bed {
    let mut office = office();
    office.dhcp.as_mut().unwrap().probe = true;
    Bed::with(vec![office])
}

fn discover(bed: &mut Bed, mac: MacAddr) -> String {
    bed.send(OFFICE, &dhcp_frame(mac, &dhcp_message(mac, MessageType::Discover), None));
    bed.heard()
}

#[test]
fn an_address_is_asked_for_before_it_is_offered() {
    let mut bed = bed();
    expect!["arp Request 0.0.0.0 is at 02-00-00-00-00-f1 -> 10.20.0.100 ff-ff-ff-ff-ff-ff"]
        .assert_eq(&discover(&mut bed, LAPTOP));
    let due = bed.services.next_timeout().unwrap();
    assert!(due.since(bed.now) <= Duration::from_millis(300));
    bed.sleep(Duration::from_millis(100));
    assert_eq!(discover(&mut bed, LAPTOP), "nothing", "it asks again too early");
    assert_eq!(bed.services.next_timeout(), Some(due));
    bed.sleep(Duration::from_millis(150));
    let offer = "dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Offer 10.20.0.100 for 3600 s";
    assert_eq!(bed.heard(), offer);
    assert_eq!(bed.services.next_timeout(), None);

    // Who had the address is not kept waiting.
    bed.services.restore_leases(
        bed.now,
        vec![weft_services::LeaseRecord {
            network: "office".parse().unwrap(),
            ip: ip("10.20.0.102"),
            mac: STRANGER,
            state: weft_services::LeaseState::Released,
            expires_unix_s: ORIGIN_S,
            client_name: None,
        }],
    );
    expect!["dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0e Offer 10.20.0.102 for 3600 s"]
        .assert_eq(&discover(&mut bed, STRANGER));
}

#[test]
fn an_address_that_answers_is_left_alone() {
    let mut bed = bed();
    discover(&mut bed, LAPTOP);
    bed.send(OFFICE, &arp(LAPTOP, "10.20.0.100", "10.20.0.1")); // the client itself is no conflict
    bed.frames();
    bed.send(OFFICE, &arp(mac(0x66), "10.20.0.100", "10.20.0.50"));
    expect!["arp Request 0.0.0.0 is at 02-00-00-00-00-f1 -> 10.20.0.102 ff-ff-ff-ff-ff-ff"].assert_eq(&bed.heard());
    bed.sleep(Duration::from_millis(250));
    expect!["dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0d Offer 10.20.0.102 for 3600 s"].assert_eq(&bed.heard());
    assert_eq!(bed.counted(), "dhcp-conflict 1");
    bed.persist();
    assert_eq!(bed.disk[0].state, weft_services::LeaseState::Declined);

    // A network where everything answers has nothing to give, and says so.
    let mut bed = self::bed();
    let mut asked = discover(&mut bed, LAPTOP);
    while let Some((_, at)) = asked.rsplit_once("-> ") {
        let taken = at.split(' ').next().unwrap().to_owned();
        bed.send(OFFICE, &arp(mac(0x66), &taken, "10.20.0.50"));
        asked = bed.heard();
    }
    assert_eq!(bed.counted(), "dhcp-pool-exhausted 1, dhcp-conflict 3");
    assert_eq!(bed.services.exhausted_pools(bed.now).map(ToString::to_string).collect::<Vec<_>>(), ["office"]);
    bed.sleep(Duration::from_secs(601));
    assert_eq!(bed.services.exhausted_pools(bed.now).count(), 0, "they are tried again");
    assert!(discover(&mut bed, LAPTOP).starts_with("arp Request"));
}

#[test]
fn a_new_configuration_ends_what_waits() {
    let mut bed = bed();
    discover(&mut bed, LAPTOP);
    bed.services.configure(bed.now, vec![office()]);
    bed.sleep(Duration::from_secs(1));
    assert_eq!(bed.heard(), "nothing");
    assert!(discover(&mut bed, LAPTOP).contains("Offer"));
}
