//! Single cases in a line each: what is decided, and all that moved.

use std::fmt::Write;
use std::sync::Arc;

use expect_test::{Expect, expect};
use weft_switch::{Config, DropReason, Policy, PortConfig, Role, Switch, VSwitchConfig, VSwitchId, Verdict};
use weft_types::{MacAddr, PortId, Provenance};
use weft_wire::TagEdit;

use crate::NOW;

/// Two networks. On `lan`: the vNICs `web` (address a), `db` (b) and `nest` (c, may forge), the gateway `gw` (g) and
/// the uplink `up`. On `lab`, which has no uplink: `red` (a, the same as on `lan`), `blue` (d) and `ids`
/// (e, promiscuous). On `cell`: `solo` (s) alone.
const PORTS: [(&str, u32, Role, &str, &str); 9] = [
    ("web", 0, Role::Vnic, "a", ""),
    ("db", 0, Role::Vnic, "b", ""),
    ("nest", 0, Role::Vnic, "c", "forged"),
    ("gw", 0, Role::Gateway, "g", ""),
    ("up", 0, Role::Uplink, "", ""),
    ("red", 1, Role::Vnic, "a", ""),
    ("blue", 1, Role::Vnic, "d", ""),
    ("ids", 1, Role::Vnic, "e", "promiscuous"),
    ("solo", 2, Role::Vnic, "s", ""),
];

/// `*` is everybody, `m` a group, `l` the reserved group of LLDP, `0` no address; a letter is a station.
fn mac(letter: &str) -> MacAddr {
    match letter {
        "*" => MacAddr::BROADCAST,
        "m" => MacAddr::new([0x01, 0, 0x5e, 0, 0, 1]),
        "l" => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x0e]),
        "0" => MacAddr::ZERO,
        letter => MacAddr::new([2, 0, 0, 0, 0, letter.as_bytes()[0]]),
    }
}

fn world() -> Config {
    let vswitches = (0..).zip(["lan", "lab", "cell"]).map(|(id, name)| {
        VSwitchConfig::new(VSwitchId(id), name.parse().unwrap(), Provenance::file("lab.toml", 1 + id))
    });
    let ports = (0..).zip(PORTS).map(|(id, (name, vswitch, role, letters, policy))| {
        let (name, place) = (name.parse().unwrap(), Provenance::file("lab.toml", 10 + id));
        PortConfig {
            macs: letters.split_terminator("").skip(1).map(mac).collect(),
            policy: Policy {
                forged_macs: policy == "forged",
                promiscuous: policy == "promiscuous",
                ..Policy::default()
            },
            ..PortConfig::new(PortId(id), name, VSwitchId(vswitch), role, place)
        }
    });
    Config { generation: 1, vswitches: vswitches.collect(), ports: ports.map(Arc::new).collect() }
}

fn port(name: &str) -> PortId {
    PortId(PORTS.iter().position(|port| port.0 == name).map_or(99, |at| at as u32))
}

fn name(id: PortId) -> &'static str {
    PORTS[id.0 as usize].0
}

/// `web a>b`, with the words `vlan=10`, `cut=13` (bytes that are there) and `len=70000` (bytes in all).
fn frame(text: &str) -> (PortId, Vec<u8>, usize) {
    let mut words = text.split(' ');
    let ingress = port(words.next().unwrap());
    let (src, dst) = words.next().unwrap().split_once('>').unwrap();
    let mut head = [mac(dst).octets(), mac(src).octets()].concat();
    head.extend([0x88, 0xb5]);
    head.resize(60, 0);
    let mut len = None;
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "vlan" => drop(head.splice(12..12, [0x81, 0, 0, value.parse().unwrap()])),
            "cut" => head.truncate(value.parse().unwrap()),
            "len" => len = Some(value.parse().unwrap()),
            other => panic!("what is {other}?"),
        }
    }
    let len = len.unwrap_or(head.len());
    (ingress, head, len)
}

/// Every number that the switch keeps.
fn state(switch: &Switch) -> Vec<(String, u64)> {
    let stats = switch.stats();
    let cache = [("flows", stats.flows), ("hits", stats.hits), ("misses", stats.misses)];
    let mut all: Vec<_> = cache.map(|(name, count)| (name.to_owned(), count)).into();
    for (id, (name, ..)) in (0..).zip(PORTS) {
        for reason in DropReason::ALL {
            let count = switch.drops(PortId(id)).find(|drop| drop.0 == reason).map_or(0, |drop| drop.1);
            all.push((format!("{name}:{reason}"), count));
        }
    }
    all
}

/// Sends `text`, which is a frame, and says what came of it.
fn send(switch: &mut Switch, text: &str) -> String {
    let before = state(switch);
    let (ingress, head, len) = frame(text);
    let mut line = match switch.forward(NOW, ingress, &head, len) {
        Verdict::Drop(reason) => format!("dropped: {reason}"),
        Verdict::Forward(ports) => {
            let way = |output: &weft_switch::Output| match output.edit {
                TagEdit::Keep => name(output.port).to_owned(),
                edit => format!("{}({edit:?})", name(output.port)),
            };
            format!("-> {}", ports.iter().map(way).collect::<Vec<_>>().join(" "))
        }
    };
    line.push_str(" |");
    for ((what, before), (_, after)) in before.into_iter().zip(state(switch)).filter(|(b, a)| b.1 != a.1) {
        write!(line, " {what} +{}", after - before).unwrap();
    }
    line
}

fn check(text: &str, expected: Expect) {
    let mut switch = Switch::new(7);
    switch.configure(world()).unwrap();
    expected.assert_eq(&send(&mut switch, text));
}

#[test]
fn known_unicast_goes_to_its_port() {
    check("web a>b", expect!["-> db | flows +1 misses +1"]);
    check("gw g>a", expect!["-> web | flows +1 misses +1"]);
    check("up x>a", expect!["-> web | flows +1 misses +1"]);
    check("red a>d", expect!["-> blue ids | flows +1 misses +1"]);
}

#[test]
fn unknown_unicast_goes_to_the_uplink_only() {
    check("web a>x", expect!["-> up | flows +1 misses +1"]);
    check("up x>y", expect!["dropped: unknown-unicast | misses +1 up:unknown-unicast +1"]);
    check("red a>x", expect!["dropped: unknown-unicast | misses +1 red:unknown-unicast +1"]);
    // Known on another network is unknown here.
    check("red a>b", expect!["dropped: unknown-unicast | misses +1 red:unknown-unicast +1"]);
}

#[test]
fn groups_go_to_all_but_the_sender() {
    check("web a>*", expect!["-> db nest gw up | flows +1 misses +1"]);
    check("up x>m", expect!["-> web db nest gw | flows +1 misses +1"]);
    check("solo s>*", expect!["dropped: no-receiver | misses +1 solo:no-receiver +1"]);
    check("web a>l", expect!["dropped: reserved-group | misses +1 web:reserved-group +1"]);
}

#[test]
fn nothing_goes_back() {
    check("web a>a", expect!["dropped: same-port | misses +1 web:same-port +1"]);
    check("gw g>g", expect!["dropped: same-port | misses +1 gw:same-port +1"]);
}

#[test]
fn promiscuous_ports_hear_what_is_forwarded() {
    check("blue d>a", expect!["-> red ids | flows +1 misses +1"]);
    check("blue d>e", expect!["-> ids | flows +1 misses +1"]);
    check("ids e>a", expect!["-> red | flows +1 misses +1"]);
    check("blue d>x", expect!["dropped: unknown-unicast | misses +1 blue:unknown-unicast +1"]);
}

#[test]
fn stations_send_as_themselves() {
    check("web b>a", expect!["dropped: forged-mac | misses +1 web:forged-mac +1"]);
    check("web x>b", expect!["dropped: forged-mac | misses +1 web:forged-mac +1"]);
    check("nest x>b", expect!["-> db | flows +1 misses +1"]);
    check("nest *>b", expect!["dropped: invalid-source | misses +1 nest:invalid-source +1"]);
    check("up 0>a", expect!["dropped: invalid-source | misses +1 up:invalid-source +1"]);
    check("up m>a", expect!["dropped: invalid-source | misses +1 up:invalid-source +1"]);
}

#[test]
fn what_is_no_frame_for_an_access_port() {
    check("web a>b vlan=10", expect!["dropped: tagged | misses +1 web:tagged +1"]);
    check("web a>b vlan=0", expect!["-> db(Pop) | flows +1 misses +1"]);
    check("web a>b vlan=10 cut=17", expect!["dropped: malformed | web:malformed +1"]);
    check("web a>b cut=13", expect!["dropped: malformed | web:malformed +1"]);
    check("web a>b cut=14", expect!["-> db | flows +1 misses +1"]);
    check("web a>b len=65553", expect!["-> db | flows +1 misses +1"]);
    check("web a>b len=65554", expect!["dropped: too-long | web:too-long +1"]);
    check("web a>b len=59", expect!["dropped: malformed | web:malformed +1"]);
    check("nobody a>b", expect!["dropped: unknown-port |"]);
}

#[test]
fn a_flow_is_decided_once_per_configuration() {
    let mut switch = Switch::new(7);
    switch.configure(world()).unwrap();
    let mut lines = String::new();
    for text in ["web a>b", "web a>b", "blue d>a", "blue d>a", "web x>b", "web x>b"] {
        writeln!(lines, "{text} {}", send(&mut switch, text)).unwrap();
    }
    switch.configure(world()).unwrap();
    assert_eq!(switch.stats().flows, 0);
    writeln!(lines, "again: {}", send(&mut switch, "web a>b")).unwrap();
    expect![[r#"
        web a>b -> db | flows +1 misses +1
        web a>b -> db | hits +1
        blue d>a -> red ids | flows +1 misses +1
        blue d>a -> red ids | hits +1
        web x>b dropped: forged-mac | misses +1 web:forged-mac +1
        web x>b dropped: forged-mac | misses +1 web:forged-mac +1
        again: -> db | flows +1 misses +1
    "#]]
    .assert_eq(&lines);
}

#[test]
fn counters_stay_with_their_port() {
    let mut switch = Switch::new(7);
    switch.configure(world()).unwrap();
    send(&mut switch, "web x>b");
    send(&mut switch, "db x>a");
    switch.count_drop(port("web"), DropReason::EgressFull, 41);
    switch.count_drop(PortId(77), DropReason::EgressFull, 1);
    let without_db =
        Config { ports: world().ports.into_iter().filter(|port| port.name.as_str() != "db").collect(), ..world() };
    for config in [without_db, world()] {
        switch.configure(config).unwrap();
        let web: Vec<_> = switch.drops(port("web")).collect();
        assert_eq!(web, [(DropReason::ForgedMac, 1), (DropReason::EgressFull, 41)]);
        assert_eq!(switch.drops(port("db")).count(), 0, "a port that went and came is a new one");
    }
}

#[test]
fn every_problem_is_reported_and_nothing_changes() {
    let mut switch = Switch::new(7);
    switch.configure(world()).unwrap();
    let mut wrong = world();
    wrong.generation = 0;
    wrong.vswitches.push(VSwitchConfig { id: VSwitchId(3), ..wrong.vswitches[0].clone() });
    wrong.vswitches.push(VSwitchConfig { name: "other".parse().unwrap(), ..wrong.vswitches[0].clone() });
    Arc::make_mut(&mut wrong.ports[1]).macs.push(mac("a"));
    Arc::make_mut(&mut wrong.ports[2]).macs.push(mac("m"));
    Arc::make_mut(&mut wrong.ports[3]).role = Role::Uplink;
    Arc::make_mut(&mut wrong.ports[6]).name = "red".parse().unwrap();
    Arc::make_mut(&mut wrong.ports[7]).id = PortId(6);
    Arc::make_mut(&mut wrong.ports[8]).vswitch = VSwitchId(9);
    let problems = switch.configure(wrong).unwrap_err();
    assert!(problems.iter().all(|problem| !problem.hint().is_empty()));
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    expect![[r#"
        the switch is at generation 1, and was given the older generation 0
        network `lan` is declared twice: at lab.toml:1 and at lab.toml:1
        networks `lan` and `other` (lab.toml:1) have the same number 0
        port `red` is declared twice: at lab.toml:15 and at lab.toml:16
        ports `red` and `ids` (lab.toml:17) have the same number #6
        network `other` has uplink `gw`, and `up` (lab.toml:14) would be another
        port `solo` (lab.toml:18) belongs to network number 9, which does not exist
        02:00:00:00:00:61 is registered twice on one network: for port `web` and for port `db` (lab.toml:11)
        port `nest` (lab.toml:12) cannot own 01:00:5e:00:00:01, which is not the address of one station"#]]
    .assert_eq(&problems.join("\n"));
    assert_eq!(switch.generation(), 1);
    expect!["-> db | flows +1 misses +1"].assert_eq(&send(&mut switch, "web a>b"));
}

#[test]
fn explanations_name_the_declaration() {
    let mut switch = Switch::new(7);
    switch.configure(world()).unwrap();
    let explain = |text: &str, expected: Expect| {
        let (ingress, head, len) = frame(text);
        expected.assert_eq(&switch.explain(NOW, ingress, &head, len).to_string());
    };
    explain(
        "web a>b",
        expect![[r#"
            frame: 02:00:00:00:00:61 > 02:00:00:00:00:62, EtherType 0x88b5, 60 bytes
            vlan: the frame has no tag, so it is in the untagged segment (lab.toml:10)
            source-mac: 02:00:00:00:00:61 is registered for `web` (lab.toml:10)
            mac-table: 02:00:00:00:00:62 is registered for `db` (lab.toml:11)
            forwarded to `db`"#]],
    );
    explain(
        "web a>x",
        expect![[r#"
            frame: 02:00:00:00:00:61 > 02:00:00:00:00:78, EtherType 0x88b5, 60 bytes
            vlan: the frame has no tag, so it is in the untagged segment (lab.toml:10)
            source-mac: 02:00:00:00:00:61 is registered for `web` (lab.toml:10)
            mac-table: 02:00:00:00:00:78 is not known, so it may be behind `up` (lab.toml:14)
            forwarded to `up`"#]],
    );
    explain(
        "web b>a",
        expect![[r#"
            frame: 02:00:00:00:00:62 > 02:00:00:00:00:61, EtherType 0x88b5, 60 bytes
            vlan: the frame has no tag, so it is in the untagged segment (lab.toml:10)
            source-mac: 02:00:00:00:00:62 is not registered for `web` (lab.toml:10)
            dropped: forged-mac"#]],
    );
    explain(
        "nest x>*",
        expect![[r#"
            frame: 02:00:00:00:00:78 > ff:ff:ff:ff:ff:ff, EtherType 0x88b5, 60 bytes
            vlan: the frame has no tag, so it is in the untagged segment (lab.toml:12)
            source-mac: 02:00:00:00:00:78 is not registered for `nest`, which may send from any address (lab.toml:12)
            mac-table: ff:ff:ff:ff:ff:ff is a group: 4 other port(s) of `lan` hear it in the untagged segment (lab.toml:1)
            forwarded to 4 ports"#]],
    );
    explain(
        "blue d>a",
        expect![[r#"
            frame: 02:00:00:00:00:64 > 02:00:00:00:00:61, EtherType 0x88b5, 60 bytes
            vlan: the frame has no tag, so it is in the untagged segment (lab.toml:16)
            source-mac: 02:00:00:00:00:64 is registered for `blue` (lab.toml:16)
            mac-table: 02:00:00:00:00:61 is registered for `red` (lab.toml:15)
            mac-table: 1 promiscuous port(s) hear it too
            forwarded to 2 ports"#]],
    );
    explain(
        "blue d>x",
        expect![[r#"
            frame: 02:00:00:00:00:64 > 02:00:00:00:00:78, EtherType 0x88b5, 60 bytes
            vlan: the frame has no tag, so it is in the untagged segment (lab.toml:16)
            source-mac: 02:00:00:00:00:64 is registered for `blue` (lab.toml:16)
            mac-table: 02:00:00:00:00:78 is registered for no port of `lab` in the untagged segment, and the frame has no uplink to take (lab.toml:2)
            dropped: unknown-unicast"#]],
    );
    explain(
        "web a>b vlan=10",
        expect![[r#"
            frame: 02:00:00:00:00:61 > 02:00:00:00:00:62, 802.1Q VLAN 10, EtherType 0x88b5, 64 bytes
            vlan: the frame has an 802.1Q tag, and this is an access port (lab.toml:10)
            dropped: tagged"#]],
    );
    explain(
        "web a>b cut=9",
        expect![[r#"
        frame: 9 bytes, which is no frame that can be forwarded (ethernet-truncated)
        dropped: malformed"#]],
    );
    explain(
        "nobody a>b",
        expect![[r#"
            frame: 02:00:00:00:00:61 > 02:00:00:00:00:62, EtherType 0x88b5, 60 bytes
            ingress: the switch has no port #99
            dropped: unknown-port"#]],
    );
}
