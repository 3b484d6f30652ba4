//! DHCP, state by state (figure 5 of RFC 2131).

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType};
use expect_test::{Expect, expect};
use weft_services::{NetworkId, NetworkServices};
use weft_types::MacAddr;

use crate::bed::*;

/// What a client says, in a line: `KIND [key=value]...`, as in `REQUEST ip=10.20.0.10 server=10.20.0.1`.
fn say(bed: &mut Bed, net: NetworkId, mac: MacAddr, line: &str) {
    let mut words = line.split(' ');
    let kind = match words.next().unwrap() {
        "DISCOVER" => MessageType::Discover,
        "REQUEST" => MessageType::Request,
        "DECLINE" => MessageType::Decline,
        "RELEASE" => MessageType::Release,
        "INFORM" => MessageType::Inform,
        other => panic!("{other}"),
    };
    let mut message = dhcp_message(mac, kind);
    let mut unicast = false;
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("ip", value) => insert(&mut message, DhcpOption::RequestedIpAddress(ip(value))),
            ("server", value) => insert(&mut message, DhcpOption::ServerIdentifier(ip(value))),
            ("name", value) => insert(&mut message, DhcpOption::Hostname(value.to_owned())),
            ("ciaddr", value) => drop(message.set_ciaddr(ip(value))),
            ("giaddr", value) => drop(message.set_giaddr(ip(value))),
            ("broadcast", _) => drop(message.set_flags(Flags::default().set_broadcast())),
            ("unicast", _) => unicast = true,
            other => panic!("{other:?}"),
        }
    }
    let gateway = if net == OFFICE { (OFFICE_MAC, ip("10.20.0.1")) } else { (BACKSTAGE_MAC, ip("10.30.0.1")) };
    let frame = dhcp_frame(mac, &message, unicast.then_some(gateway));
    bed.send(net, &frame);
}

fn insert(message: &mut Message, option: DhcpOption) {
    message.opts_mut().insert(option);
}

/// Says each line as the laptop in the office, with a disk that is quick, and compares what comes back; a line
/// that is a number is a time to wait, in seconds.
fn check(lines: &[&str], expected: Expect) {
    let mut bed = Bed::new();
    expected.assert_eq(&transcript(&mut bed, OFFICE, LAPTOP, lines));
}

fn transcript(bed: &mut Bed, net: NetworkId, mac: MacAddr, lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        if let Ok(seconds) = line.parse() {
            bed.sleep(Duration::from_secs(seconds));
            continue;
        }
        say(bed, net, mac, line);
        bed.persist();
        text += &format!("{line}\n    {}\n", bed.heard().replace('\n', "\n    "));
    }
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    text + &format!("leases: {}\ncounted: {}\n", or_none(bed.leases()), or_none(bed.counted()))
}

#[test]
fn init_to_bound() {
    check(
        &["DISCOVER", "REQUEST ip=10.20.0.100 server=10.20.0.1 name=my-laptop"],
        expect![[r#"
            DISCOVER
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Offer 10.20.0.100 for 3600 s
            REQUEST ip=10.20.0.100 server=10.20.0.1 name=my-laptop
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Ack 10.20.0.100 for 3600 s
            leases: 10.20.0.100 02:00:00:00:00:0d laptop until +3600
            counted: none
        "#]],
    );
}

#[test]
fn the_broadcast_flag_is_obeyed() {
    check(
        &["DISCOVER broadcast", "REQUEST broadcast ip=10.20.0.100 server=10.20.0.1"],
        expect![[r#"
            DISCOVER broadcast
                dhcp 10.20.0.1 -> 255.255.255.255 ff-ff-ff-ff-ff-ff Offer 10.20.0.100 for 3600 s
            REQUEST broadcast ip=10.20.0.100 server=10.20.0.1
                dhcp 10.20.0.1 -> 255.255.255.255 ff-ff-ff-ff-ff-ff Ack 10.20.0.100 for 3600 s
            leases: 10.20.0.100 02:00:00:00:00:0d laptop until +3600
            counted: none
        "#]],
    );
}

#[test]
fn a_free_address_that_the_client_wishes() {
    check(
        &[
            "DISCOVER ip=10.20.0.102",
            "DISCOVER ip=10.20.0.103",
            "61",
            "DISCOVER ip=10.20.0.1",
            "61",
            "DISCOVER ip=10.20.0.10",
            "61",
            "DISCOVER ip=10.20.0.101",
        ],
        expect![[r#"
            DISCOVER ip=10.20.0.102
                dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0d Offer 10.20.0.102 for 3600 s
            DISCOVER ip=10.20.0.103
                dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0d Offer 10.20.0.102 for 3600 s
            DISCOVER ip=10.20.0.1
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Offer 10.20.0.100 for 3600 s
            DISCOVER ip=10.20.0.10
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Offer 10.20.0.100 for 3600 s
            DISCOVER ip=10.20.0.101
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Offer 10.20.0.100 for 3600 s
            leases: none
            counted: none
        "#]],
    );
}

#[test]
fn init_reboot() {
    let known =
        ["DISCOVER", "REQUEST ip=10.20.0.100 server=10.20.0.1", "REQUEST ip=10.20.0.100", "REQUEST ip=10.20.0.102"];
    check(
        &known,
        expect![[r#"
            DISCOVER
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Offer 10.20.0.100 for 3600 s
            REQUEST ip=10.20.0.100 server=10.20.0.1
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Ack 10.20.0.100 for 3600 s
            REQUEST ip=10.20.0.100
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Ack 10.20.0.100 for 3600 s
            REQUEST ip=10.20.0.102
                dhcp 10.20.0.1 -> 255.255.255.255 ff-ff-ff-ff-ff-ff Nak 0.0.0.0: that address is not yours
            leases: 10.20.0.100 02:00:00:00:00:0d laptop until +3600
            counted: dhcp-refused 1
        "#]],
    );
    // Nothing is known of the client, and what it remembers is free: it has to begin anew, by itself.
    check(
        &["REQUEST ip=10.20.0.100"],
        expect![[r#"
            REQUEST ip=10.20.0.100
                nothing
            leases: none
            counted: dhcp-unknown-client 1
        "#]],
    );
    // Another network's address, the gateway's, a reserved one, one outside of the pool.
    check(
        &["REQUEST ip=192.168.1.5", "REQUEST ip=10.20.0.1", "REQUEST ip=10.20.0.10", "REQUEST ip=10.20.0.50"],
        expect![[r#"
            REQUEST ip=192.168.1.5
                dhcp 10.20.0.1 -> 255.255.255.255 ff-ff-ff-ff-ff-ff Nak 0.0.0.0: that address is not of this network
            REQUEST ip=10.20.0.1
                dhcp 10.20.0.1 -> 255.255.255.255 ff-ff-ff-ff-ff-ff Nak 0.0.0.0: that address is not yours
            REQUEST ip=10.20.0.10
                dhcp 10.20.0.1 -> 255.255.255.255 ff-ff-ff-ff-ff-ff Nak 0.0.0.0: that address is not yours
            REQUEST ip=10.20.0.50
                dhcp 10.20.0.1 -> 255.255.255.255 ff-ff-ff-ff-ff-ff Nak 0.0.0.0: that address is not yours
            leases: none
            counted: dhcp-refused 4
        "#]],
    );
}

#[test]
fn renewing_and_rebinding() {
    check(
        &[
            "REQUEST ip=10.20.0.102 server=10.20.0.1",
            "1800",
            "REQUEST ciaddr=10.20.0.102 unicast",
            "1800",
            "REQUEST ciaddr=10.20.0.102 broadcast",
            "REQUEST ciaddr=10.20.0.103 unicast",
        ],
        expect![[r#"
            REQUEST ip=10.20.0.102 server=10.20.0.1
                dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0d Ack 10.20.0.102 for 3600 s
            REQUEST ciaddr=10.20.0.102 unicast
                dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0d Ack 10.20.0.102 for 3600 s
            REQUEST ciaddr=10.20.0.102 broadcast
                dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0d Ack 10.20.0.102 for 3600 s
            REQUEST ciaddr=10.20.0.103 unicast
                dhcp 10.20.0.1 -> 255.255.255.255 ff-ff-ff-ff-ff-ff Nak 0.0.0.0: that address is not yours
            leases: 10.20.0.102 02:00:00:00:00:0d laptop until +7200
            counted: dhcp-refused 1
        "#]],
    );
}

#[test]
fn an_address_comes_back_to_whom_it_belonged() {
    check(
        &[
            "REQUEST ip=10.20.0.102 server=10.20.0.1",
            "RELEASE ciaddr=10.20.0.102 server=10.20.0.1 unicast",
            "DISCOVER",
            "4000",
            "DISCOVER",
        ],
        expect![[r#"
            REQUEST ip=10.20.0.102 server=10.20.0.1
                dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0d Ack 10.20.0.102 for 3600 s
            RELEASE ciaddr=10.20.0.102 server=10.20.0.1 unicast
                nothing
            DISCOVER
                dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0d Offer 10.20.0.102 for 3600 s
            DISCOVER
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Offer 10.20.0.100 for 3600 s
            leases: none
            counted: none
        "#]],
    );
}

#[test]
fn release_of_what_is_not_held() {
    check(
        &[
            "REQUEST ip=10.20.0.100 server=10.20.0.1",
            "RELEASE ciaddr=10.20.0.102 server=10.20.0.1 unicast",
            "RELEASE ciaddr=10.20.0.100 server=10.20.0.9 unicast",
        ],
        expect![[r#"
            REQUEST ip=10.20.0.100 server=10.20.0.1
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Ack 10.20.0.100 for 3600 s
            RELEASE ciaddr=10.20.0.102 server=10.20.0.1 unicast
                nothing
            RELEASE ciaddr=10.20.0.100 server=10.20.0.9 unicast
                nothing
            leases: 10.20.0.100 02:00:00:00:00:0d laptop until +3600
            counted: dhcp-foreign 1, dhcp-ignored 1
        "#]],
    );
}

#[test]
fn a_declined_address_is_left_alone_for_a_while() {
    check(
        &[
            "REQUEST ip=10.20.0.102 server=10.20.0.1",
            "DECLINE ip=10.20.0.102 server=10.20.0.1",
            "REQUEST ip=10.20.0.102 server=10.20.0.1",
            "DISCOVER ip=10.20.0.102",
            "700",
            "REQUEST ip=10.20.0.102 server=10.20.0.1",
        ],
        expect![[r#"
            REQUEST ip=10.20.0.102 server=10.20.0.1
                dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0d Ack 10.20.0.102 for 3600 s
            DECLINE ip=10.20.0.102 server=10.20.0.1
                nothing
            REQUEST ip=10.20.0.102 server=10.20.0.1
                dhcp 10.20.0.1 -> 255.255.255.255 ff-ff-ff-ff-ff-ff Nak 0.0.0.0: that address is not yours
            DISCOVER ip=10.20.0.102
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Offer 10.20.0.100 for 3600 s
            REQUEST ip=10.20.0.102 server=10.20.0.1
                dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-0d Ack 10.20.0.102 for 3600 s
            leases: 10.20.0.102 02:00:00:00:00:0d laptop until +4300
            counted: dhcp-refused 1, dhcp-declined 1
        "#]],
    );
}

#[test]
fn nobody_declines_the_whole_pool_away() {
    let mut bed = Bed::with(vec![backstage()]);
    for last in 10..40 {
        say(&mut bed, BACKSTAGE, STRANGER, &format!("REQUEST ip=10.30.0.{last} server=10.30.0.1"));
        say(&mut bed, BACKSTAGE, STRANGER, &format!("DECLINE ip=10.30.0.{last} server=10.30.0.1"));
    }
    bed.persist();
    bed.frames();
    // The last four are out of use, the others can be had.
    let mut had = Vec::new();
    for last in 10..40 {
        say(&mut bed, BACKSTAGE, mac(last), &format!("REQUEST ip=10.30.0.{last} server=10.30.0.1"));
        bed.persist();
        if bed.heard().contains("Ack") {
            had.push(last);
        }
    }
    assert_eq!(had, Vec::from_iter(10..36));
}

#[test]
fn inform_tells_all_but_a_lease() {
    check(
        &["INFORM ciaddr=10.20.0.50", "INFORM ciaddr=10.40.0.50", "INFORM"],
        expect![[r#"
            INFORM ciaddr=10.20.0.50
                dhcp 10.20.0.1 -> 10.20.0.50 02-00-00-00-00-0d Ack 0.0.0.0
            INFORM ciaddr=10.40.0.50
                nothing
            INFORM
                nothing
            leases: none
            counted: dhcp-ignored 2
        "#]],
    );
}

#[test]
fn other_servers_business_is_left_alone() {
    check(
        &["DISCOVER", "REQUEST ip=10.20.0.7 server=10.20.0.9", "DISCOVER giaddr=10.30.0.9", "DECLINE ip=10.20.0.7"],
        expect![[r#"
            DISCOVER
                dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-0d Offer 10.20.0.100 for 3600 s
            REQUEST ip=10.20.0.7 server=10.20.0.9
                nothing
            DISCOVER giaddr=10.30.0.9
                nothing
            DECLINE ip=10.20.0.7
                nothing
            leases: none
            counted: dhcp-foreign 1, dhcp-other-subnet 1, dhcp-ignored 1
        "#]],
    );
}

#[test]
fn a_reserved_address_and_nothing_else() {
    let mut bed = Bed::new();
    let lines = [
        "DISCOVER ip=10.20.0.100",
        "REQUEST ip=10.20.0.100 server=10.20.0.1",
        "REQUEST ip=10.20.0.10 server=10.20.0.1",
    ];
    expect![[r#"
        DISCOVER ip=10.20.0.100
            dhcp 10.20.0.1 -> 10.20.0.10 02-00-00-00-00-0a Offer 10.20.0.10 for 3600 s
        REQUEST ip=10.20.0.100 server=10.20.0.1
            dhcp 10.20.0.1 -> 255.255.255.255 ff-ff-ff-ff-ff-ff Nak 0.0.0.0: that address is not yours
        REQUEST ip=10.20.0.10 server=10.20.0.1
            dhcp 10.20.0.1 -> 10.20.0.10 02-00-00-00-00-0a Ack 10.20.0.10 for 3600 s
        leases: 10.20.0.10 02:00:00:00:00:0a web until +3600
        counted: dhcp-refused 1
    "#]]
    .assert_eq(&transcript(&mut bed, OFFICE, WEB, &lines));
}

#[test]
fn the_pool_ends() {
    // Four addresses, of which the printer has one.
    let mut bed = Bed::new();
    let mut text = String::new();
    for client in 0x20..0x24 {
        say(&mut bed, OFFICE, mac(client), "DISCOVER");
        text += &format!("{}\n", bed.heard());
    }
    text += &bed.counted();
    bed.sleep(Duration::from_secs(61)); // offers that nobody took are free again
    say(&mut bed, OFFICE, mac(0x23), "DISCOVER");
    text += &format!("\n{}\n", bed.heard());
    expect![[r#"
        dhcp 10.20.0.1 -> 10.20.0.103 02-00-00-00-00-20 Offer 10.20.0.103 for 3600 s
        dhcp 10.20.0.1 -> 10.20.0.100 02-00-00-00-00-21 Offer 10.20.0.100 for 3600 s
        dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-22 Offer 10.20.0.102 for 3600 s
        nothing
        dhcp-pool-exhausted 1
        dhcp 10.20.0.1 -> 10.20.0.102 02-00-00-00-00-23 Offer 10.20.0.102 for 3600 s
    "#]]
    .assert_eq(&text);
}

#[test]
fn what_a_client_learns() {
    let learn = |net, mac, ciaddr: &str| {
        let mut bed = Bed::new();
        say(&mut bed, net, mac, "DISCOVER");
        say(&mut bed, net, mac, &format!("INFORM ciaddr={ciaddr}"));
        let frames = bed.frames();
        let message = decode_dhcp(&frames[0][42..]);
        message.opts().iter().map(|(_, option)| format!("{option:?}\n")).collect::<String>()
    };
    // On an internal network there is no way out, so there is no router.
    expect![[r#"
        SubnetMask(255.255.255.0)
        Router([10.20.0.1])
        DomainNameServer([10.20.0.1])
        Hostname("laptop")
        DomainName("office.weft")
        InterfaceMtu(1500)
        BroadcastAddr(10.20.0.255)
        AddressLeaseTime(3600)
        MessageType(Offer)
        ServerIdentifier(10.20.0.1)
        Renewal(1800)
        Rebinding(3150)
        DomainSearch([Name("office.weft.")])
    "#]]
    .assert_eq(&learn(OFFICE, LAPTOP, "10.20.0.50"));
    expect![[r#"
        SubnetMask(255.255.255.0)
        DomainNameServer([10.30.0.1])
        Hostname("db")
        DomainName("backstage.weft")
        InterfaceMtu(1400)
        BroadcastAddr(10.30.0.255)
        AddressLeaseTime(3600)
        MessageType(Offer)
        ServerIdentifier(10.30.0.1)
        Renewal(1800)
        Rebinding(3150)
        DomainSearch([Name("backstage.weft.")])
    "#]]
    .assert_eq(&learn(BACKSTAGE, DB, "10.30.0.50"));
}

#[test]
fn the_client_identifier_comes_back() {
    let mut bed = Bed::new();
    let mut message = dhcp_message(LAPTOP, MessageType::Discover);
    insert(&mut message, DhcpOption::ClientIdentifier(vec![1, 2, 3]));
    bed.send(OFFICE, &dhcp_frame(LAPTOP, &message, None));
    let reply = decode_dhcp(&bed.frames()[0][42..]);
    assert!(reply.opts().iter().any(|(_, option)| *option == DhcpOption::ClientIdentifier(vec![1, 2, 3])));
}

#[test]
fn nobody_asks_for_a_neighbour() {
    let mut bed = Bed::new();
    let message = dhcp_message(WEB, MessageType::Discover);
    bed.send(OFFICE, &dhcp_frame(LAPTOP, &message, None));
    assert_eq!((bed.heard().as_str(), bed.counted().as_str()), ("nothing", "forged-source 1"));
}

#[test]
fn no_ack_before_the_disk() {
    let mut bed = Bed::new();
    say(&mut bed, OFFICE, LAPTOP, "REQUEST ip=10.20.0.100 server=10.20.0.1");
    let first = bed.services.poll_persist().expect("something to write");
    assert_eq!((first.records.len(), bed.services.poll_persist()), (1, None));
    assert_eq!(bed.heard(), "nothing");

    // While the disk is busy another one comes: it waits for the next write.
    say(&mut bed, OFFICE, WEB, "REQUEST ip=10.20.0.10 server=10.20.0.1");
    bed.services.persisted(bed.now, first.token + 1); // never asked for
    assert_eq!(bed.heard(), "nothing");
    bed.services.persisted(bed.now, first.token);
    assert_eq!(bed.heard().matches("Ack").count(), 1);
    bed.services.persisted(bed.now, first.token);
    assert_eq!(bed.heard(), "nothing");
    bed.persist();
    assert_eq!(bed.heard().matches("Ack").count(), 1);
}

#[test]
fn no_ack_for_what_was_given_back_meanwhile() {
    let mut bed = Bed::new();
    say(&mut bed, OFFICE, LAPTOP, "REQUEST ip=10.20.0.100 server=10.20.0.1");
    say(&mut bed, OFFICE, LAPTOP, "RELEASE ciaddr=10.20.0.100 server=10.20.0.1 unicast");
    bed.persist();
    assert_eq!(bed.heard(), "nothing");
}

#[test]
fn leases_survive_a_restart() {
    let mut bed = Bed::new();
    for (client, address) in [(LAPTOP, "10.20.0.100"), (STRANGER, "10.20.0.102")] {
        say(&mut bed, OFFICE, client, &format!("REQUEST ip={address} server=10.20.0.1 name=a\u{7}b"));
    }
    say(&mut bed, BACKSTAGE, DB, "REQUEST ip=10.30.0.77 server=10.30.0.1");
    bed.persist();
    say(&mut bed, OFFICE, STRANGER, "RELEASE ciaddr=10.20.0.102 server=10.20.0.1 unicast");
    bed.persist();
    let json = serde_json::to_string(&bed.disk).unwrap();
    assert_eq!(serde_json::from_str::<Vec<weft_services::LeaseRecord>>(&json).unwrap(), bed.disk);

    bed.sleep(Duration::from_secs(100));
    let before = bed.leases();
    let mut bed = bed.restart(vec![office(), backstage()]);
    assert_eq!(bed.leases(), before);
    assert_eq!(bed.services.lease_records().len(), 3);
    say(&mut bed, OFFICE, mac(0x30), "REQUEST ip=10.20.0.100");
    assert!(bed.heard().contains("Nak"), "an address that is held");

    // A network that is no more takes its leases with it.
    let bed = bed.restart(vec![backstage()]);
    expect!["10.30.0.77 02:00:00:00:00:0c db until +3600"].assert_eq(&bed.leases());
}

#[test]
fn a_new_configuration_ends_what_it_contradicts() {
    let mut bed = Bed::new();
    say(&mut bed, OFFICE, LAPTOP, "REQUEST ip=10.20.0.100 server=10.20.0.1");
    say(&mut bed, OFFICE, STRANGER, "REQUEST ip=10.20.0.102 server=10.20.0.1");
    say(&mut bed, BACKSTAGE, DB, "REQUEST ip=10.30.0.77 server=10.30.0.1");
    bed.persist();
    bed.frames();
    let reserve = |change: &dyn Fn(&mut NetworkServices)| {
        let mut office = office();
        change(&mut office);
        vec![office, backstage()]
    };
    let dhcp = |network: &mut NetworkServices| network.dhcp.take().unwrap();
    let ended = |bed: &mut Bed, networks| {
        bed.services.configure(bed.now, networks);
        bed.persist();
        bed.leases()
    };

    let same = ended(&mut bed, reserve(&|_| {}));
    expect![[r#"
        10.20.0.100 02:00:00:00:00:0d laptop until +3600
        10.20.0.102 02:00:00:00:00:0e - until +3600
        10.30.0.77 02:00:00:00:00:0c db until +3600"#]]
    .assert_eq(&same);

    // The laptop gets a fixed address; the stranger's goes to the web server.
    let moved = ended(
        &mut bed,
        reserve(&|office| {
            let mut server = dhcp(office);
            server.reservations =
                vec![reservation(LAPTOP, "laptop", Some("10.20.0.20")), reservation(WEB, "web", Some("10.20.0.102"))];
            office.dhcp = Some(server);
        }),
    );
    expect!["10.30.0.77 02:00:00:00:00:0c db until +3600"].assert_eq(&moved);
    say(&mut bed, OFFICE, LAPTOP, "REQUEST ciaddr=10.20.0.100 unicast");
    assert!(bed.heard().contains("Nak"));

    // The machine `db` is no more.
    let gone = ended(&mut bed, {
        let mut backstage = backstage();
        backstage.dhcp.as_mut().unwrap().reservations.clear();
        vec![office(), backstage]
    });
    assert_eq!(gone, "");
    let last = bed.disk.last().unwrap();
    assert_eq!((last.mac, last.state), (DB, weft_services::LeaseState::Released));
}

#[test]
fn a_network_that_brings_its_own_server() {
    let mut bed = Bed::with(vec![NetworkServices { dhcp: None, ..office() }]);
    say(&mut bed, OFFICE, LAPTOP, "DISCOVER");
    assert_eq!((bed.heard().as_str(), bed.counted().as_str()), ("nothing", "multicast 1"));
}

#[test]
fn damaged_messages_are_counted_and_forgotten() {
    let mut whole = dhcp_message(LAPTOP, MessageType::Request);
    insert(&mut whole, DhcpOption::RequestedIpAddress(Ipv4Addr::new(10, 20, 0, 100)));
    let frame = dhcp_frame(LAPTOP, &whole, None);
    let payload = &frame[42..];
    let options_at = 240;
    // Cut inside the header, the cookie and the options; a reply; a wrong cookie, hardware type, address length;
    // an option twice; one that is too long; none of the options that make it DHCP.
    let mut bad: Vec<Vec<u8>> = [10, 239, 241].into_iter().map(|at| payload[..at].to_vec()).collect();
    for at in [0, 1, 2, 236] {
        let mut changed = payload.to_vec();
        changed[at] ^= 3;
        bad.push(changed);
    }
    bad.push([&payload[..options_at], &[53, 1, 3, 53, 1, 3, 255]].concat());
    bad.push([&payload[..options_at], &[53, 2, 3, 3, 255]].concat());
    bad.push([&payload[..options_at], &[53, 1, 2, 255]].concat());
    bad.push([&payload[..options_at], &[255]].concat());
    bad.push([&payload[..options_at], &[53, 1, 3, 50, 4, 10, 20]].concat());
    let count = bad.len();
    let mut bed = Bed::new();
    for payload in bad {
        let from = way(LAPTOP, "0.0.0.0:68", "255.255.255.255:67");
        bed.send(OFFICE, &udp(Way { to_mac: MacAddr::BROADCAST, ..from }, &payload));
    }
    assert_eq!((bed.heard(), bed.counted()), ("nothing".to_owned(), format!("dhcp-malformed {count}")));
}
