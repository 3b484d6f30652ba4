//! Law 6 in single cases: what answers a rejected packet, what is kept about decisions, and which lists are refused.

use std::time::Duration;

use expect_test::{Expect, expect};
use weft_switch::{
    Acl, Config, DropReason, Endpoint, Permission, PortConfig, Role, Rule, Switch, Traffic, VSwitchId, Verdict,
};
use weft_types::{PortId, Provenance};
use weft_wire::{Headers, Protocol};

use crate::NOW;
use crate::packet;
use crate::world::{Frame, mac, vswitches};

/// Two ports, each with the MAC address of its number, on a network with these rules.
fn world(rules: Vec<Rule>, default: Permission) -> Config {
    let port = |id: u32| {
        let place = Provenance::file("lab.toml", id);
        let port = PortConfig::new(PortId(id), format!("p{id}").parse().unwrap(), VSwitchId(0), Role::Vnic, place);
        PortConfig { macs: vec![mac(id as u8)], ..port }.into()
    };
    let mut config = Config { vswitches: vswitches(), ports: vec![port(1), port(2), port(3)], ..Config::default() };
    config.vswitches[0].acl = Some(Acl { rules, default, connections: 10 }.into());
    config
}

fn rule(name: &str, permission: Permission, traffic: Traffic) -> Rule {
    let provenance = Provenance::file("lab.toml", 100);
    Rule { name: name.into(), permission, from: Endpoint::Any, to: Endpoint::Any, traffic, log: true, provenance }
}

fn switch(rules: Vec<Rule>, default: Permission) -> Switch {
    let mut switch = Switch::new(7);
    switch.configure(world(rules, default)).unwrap();
    switch
}

/// What the sender of a rejected packet hears.
fn check(packet: &[u8], tags: &[(u16, u16)], expected: Expect) {
    let mut switch = switch(Vec::new(), Permission::Reject);
    let frame = Frame::with(1, 1, 2, tags, packet);
    let verdict = switch.forward(NOW, frame.ingress, &frame.head, frame.len);
    assert_eq!(verdict, Verdict::Drop(DropReason::AclRejected));
    let said = switch.answer().map_or("silence".to_owned(), |answer| {
        let headers = Headers::parse(answer, answer.len()).unwrap();
        let at = usize::from(headers.ip.unwrap().unwrap().transport_at.unwrap());
        format!("{headers}\n{:02x?}", &answer[at..answer.len().min(at + 20)])
    });
    expected.assert_eq(&said);
}

#[test]
fn a_rejected_segment_is_answered_by_a_reset() {
    check(
        &packet::segment(1, 2, 2, 7, 9),
        &[],
        expect![[r#"
        02:00:00:00:00:02 > 02:00:00:00:00:01, IPv4 10.0.0.2 port 80 > 10.0.0.1 port 5000, TCP
        [00, 50, 13, 88, 00, 00, 00, 00, 00, 08, 00, 08, 50, 14, 00, 00, 87, e6, 00, 00]"#]],
    );
    check(
        &packet::segment(1, 2, 16, 7, 9),
        &[],
        expect![[r#"
        02:00:00:00:00:02 > 02:00:00:00:00:01, IPv4 10.0.0.2 port 80 > 10.0.0.1 port 5000, TCP
        [00, 50, 13, 88, 00, 00, 00, 09, 00, 00, 00, 00, 50, 04, 00, 00, 87, fd, 00, 00]"#]],
    );
    check(&packet::segment(1, 2, 4, 7, 9), &[], expect!["silence"]);
}

#[test]
fn what_else_is_rejected_is_answered_by_icmp() {
    check(
        &packet::between(1, 2, 17, (5000, 53)),
        &[],
        expect![[r#"
        02:00:00:00:00:02 > 02:00:00:00:00:01, IPv4 10.0.0.2 > 10.0.0.1, ICMP
        [03, 0d, ff, df, 00, 00, 00, 00, 45, 00, 00, 28, 00, 01, 00, 00, 40, 11, 00, 00]"#]],
    );
    check(
        &packet::between(1, 2, 17, (5000, 53)),
        &[(0x8100, 0xe000)],
        expect![[r#"
        02:00:00:00:00:02 > 02:00:00:00:00:01, 802.1Q VLAN 0, IPv4 10.0.0.2 > 10.0.0.1, ICMP
        [03, 0d, ff, df, 00, 00, 00, 00, 45, 00, 00, 28, 00, 01, 00, 00, 40, 11, 00, 00]"#]],
    );
    check(
        &packet::between_v6(1, 2, 17, (5000, 53)),
        &[],
        expect![[r#"
        02:00:00:00:00:02 > 02:00:00:00:00:01, IPv6 2001:db8::2 > 2001:db8::1, ICMPv6
        [01, 01, 71, ad, 00, 00, 00, 00, 60, 00, 00, 00, 00, 14, 11, ff, 20, 01, 0d, b8]"#]],
    );
    check(
        &packet::between_v6(1, 2, 6, (5000, 80)),
        &[],
        expect![[r#"
        02:00:00:00:00:02 > 02:00:00:00:00:01, IPv6 2001:db8::2 port 80 > 2001:db8::1 port 5000, TCP
        [00, 50, 13, 88, 00, 00, 00, 00, 00, 00, 00, 00, 50, 04, 00, 00, 40, 94, 00, 00]"#]],
    );
}

#[test]
fn nobody_hears_about_errors_groups_and_strangers() {
    check(&packet::icmp_error(1, 2), &[], expect!["silence"]);
    check(&packet::fragment(1, 2, 7), &[], expect!["silence"]);
    check(&packet::between(0, 2, 17, (5000, 53)), &[], expect!["silence"]);
    check(&packet::between(224, 2, 17, (5000, 53)), &[], expect!["silence"]);
    check(&packet::between(1, 224, 17, (5000, 53)), &[], expect!["silence"]);
    check(&[0x88, 0xb5, 1, 2, 3], &[], expect!["silence"]);
}

#[test]
fn answers_are_so_many_and_no_more() {
    let mut switch = switch(Vec::new(), Permission::Reject);
    let frame = Frame::with(1, 1, 2, &[], &packet::between(1, 2, 17, (5000, 53)));
    let mut answers = |at| {
        let mut answered = |_: &i32| {
            switch.forward(NOW + at, frame.ingress, &frame.head, frame.len);
            switch.answer().is_some()
        };
        (0..100).filter(|number| answered(number)).count()
    };
    assert_eq!(answers(Duration::ZERO), 20);
    assert_eq!(answers(Duration::from_millis(50)), 5);
    assert_eq!(answers(Duration::from_secs(9)), 20);
}

#[test]
fn who_may_be_pinged_may_not_ping_with_the_same_identifier() {
    let deny = rule("deny", Permission::Deny, Traffic::Any);
    let mut switch = switch(vec![Rule { from: Endpoint::Ports(vec![PortId(2)]), ..deny }], Permission::Allow);
    let mut may_pass = |(src, dst): (u8, u8), kind| {
        let frame = Frame::with(src.into(), src, dst, &[], &packet::echo(src, dst, kind, 7));
        !matches!(switch.forward(NOW, frame.ingress, &frame.head, frame.len), Verdict::Drop(_))
    };
    assert!(!may_pass((2, 1), 0), "nobody has asked");
    assert!(may_pass((1, 2), 8));
    assert!(may_pass((2, 1), 0), "it answers");
    assert!(!may_pass((2, 1), 8), "guests that booted alike choose the same identifiers, and this one asks");
    assert!(may_pass((1, 2), 8) && may_pass((2, 1), 0), "which ends nothing");
}

#[test]
fn decisions_are_logged_where_rules_say_so() {
    let dns = Traffic::Ports { protocol: Protocol::UDP, src: 0..=u16::MAX, dst: 53..=53 };
    let quiet = Rule { log: false, ..rule("quiet", Permission::Allow, Traffic::Protocol(Protocol::TCP)) };
    let mut switch = switch(vec![rule("dns", Permission::Deny, dns), quiet], Permission::Deny);
    let mut send = |dst: u8, packet: &[u8]| {
        let frame = Frame::with(1, 1, dst, &[], packet);
        switch.forward(NOW, frame.ingress, &frame.head, frame.len);
    };
    send(2, &packet::between(1, 2, 17, (5000, 53)));
    send(2, &packet::between(1, 2, 6, (5000, 80)));
    send(255, &packet::between(1, 224, 17, (5000, 53)));
    let line = |logged: &weft_switch::Logged| {
        let weft_switch::Logged { rule, permission, from, to, headers, len, .. } = logged;
        format!("{rule} {permission:?} {from} > {to}: {headers}, {len} bytes\n")
    };
    expect![[r#"
        dns Deny #1 > #2: 02:00:00:00:00:01 > 02:00:00:00:00:02, IPv4 10.0.0.1 port 5000 > 10.0.0.2 port 53, UDP, 60 bytes
        dns Deny #1 > #2: 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, IPv4 10.0.0.1 port 5000 > 224.0.0.1 port 53, UDP, 60 bytes
        dns Deny #1 > #3: 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, IPv4 10.0.0.1 port 5000 > 224.0.0.1 port 53, UDP, 60 bytes
    "#]].assert_eq(&switch.rule_log().decisions().map(line).collect::<String>());
    assert_eq!(switch.rule_counts(VSwitchId(0)), [3, 1], "two receivers heard nothing of the last");
    let kept = switch.dropped().map(|frame| (frame.port, frame.reason, frame.rule.as_deref(), frame.head().len()));
    let denied = (PortId(1), DropReason::AclDenied, Some("dns"), 60);
    assert_eq!(kept.collect::<Vec<_>>(), [denied, denied]);
}

#[test]
fn the_last_drops_are_kept_and_old_ones_give_way() {
    let mut switch = switch(Vec::new(), Permission::Allow);
    for number in 0..100 {
        let frame = Frame::new(1, 1, 100 + number, &[]);
        switch.forward(NOW, frame.ingress, &frame.head, frame.len);
    }
    switch.note_drop(NOW, PortId(2), DropReason::EgressFull, &[7; 200], 1514);
    let kept: Vec<_> = switch.dropped().map(|frame| (frame.reason, frame.head()[5], frame.head().len())).collect();
    let unknown = (192..200).map(|number| (DropReason::UnknownUnicast, number, 60));
    assert_eq!(kept, unknown.chain([(DropReason::EgressFull, 7, 128)]).collect::<Vec<_>>());
    let mut config = world(Vec::new(), Permission::Allow);
    config.ports.remove(0);
    switch.configure(config).unwrap();
    assert_eq!(switch.dropped().count(), 1, "of ports that are gone nothing is kept");
}

#[test]
fn lists_that_cannot_mean_anything_are_refused() {
    let ports = |protocol, src, dst| Traffic::Ports { protocol: Protocol(protocol), src, dst };
    let rules = vec![
        rule("twice", Permission::Allow, Traffic::Any),
        rule("twice", Permission::Allow, Traffic::Any),
        Rule { to: Endpoint::Ports(vec![PortId(1), PortId(77)]), ..rule("lost", Permission::Deny, Traffic::Any) },
        rule("gre", Permission::Deny, ports(47, 0..=1, 2..=3)),
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        rule("reversed", Permission::Deny, ports(6, 9..=8, 80..=80)),
        rule("odd", Permission::Deny, Traffic::Icmp { protocol: Protocol::TCP, kind: 8 }),
    ];
    let problems = Switch::new(7).configure(world(rules, Permission::Deny)).unwrap_err();
    assert!(problems.iter().all(|problem| !problem.hint().is_empty()));
    let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
    expect![[r#"
        network `n0` has two rules `twice`: at lab.toml:100 and at lab.toml:100
        rule `lost` (lab.toml:100) is about port #77, which does not exist
        rule `gre` (lab.toml:100) names ports of IP protocol 47, which has none
        rule `reversed` (lab.toml:100) names the ports 9 to 8, which are none
        rule `odd` (lab.toml:100) names an ICMP type of IP protocol 6, which is not ICMP"#]]
    .assert_eq(&text.join("\n"));
    let many = (0..=weft_switch::MAX_RULES).map(|number| rule(&number.to_string(), Permission::Deny, Traffic::Any));
    let problems = Switch::new(7).configure(world(many.collect(), Permission::Deny)).unwrap_err();
    expect!["network `n0` (lab.toml:100) has 16385 rules, and 16384 is the most"].assert_eq(&problems[0].to_string());
}
