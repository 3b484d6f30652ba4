//! What `why` says of rates, of teams and of IPv6, and what rules say that they decided.

use weft_testkit::{FakeVm, mac, udp4};

use crate::bed::{Bed, eventually};

const LAB: &str = "
[switch]
name = 'lab'
team = 'active-standby'
rules = ['dns: log deny any -> any udp/53', 'log allow any -> b', 'allow any -> any']

[port.a]
vhost = 'a.sock'
mac = '02:00:00:00:00:01'
addresses = ['10.0.0.1', 'fd00::1']

[port.b]
vhost = 'b.sock'
mac = '02:00:00:00:00:02'
addresses = ['10.0.0.2', 'fd00::2']
rate = { out = '64kbit/s' }

[port.one]
vhost = 'one.sock'
uplink = true

[port.two]
vhost = 'two.sock'
uplink = true
";

fn vm(bed: &Bed, name: &str) -> FakeVm {
    let vm = FakeVm::boot(&bed.path(&format!("{name}.sock"))).unwrap();
    bed.wait_until_up(name);
    vm
}

/// A datagram from `a` to this port of `b`.
fn datagram(port: u16) -> Vec<u8> {
    udp4(mac(2), mac(1), "10.0.0.1:5000".parse().unwrap(), format!("10.0.0.2:{port}").parse().unwrap(), &[0; 1000])
}

#[test]
fn why_names_rates_uplinks_and_who_has_an_ipv6_address() {
    let bed = Bed::run(LAB);
    let _vms = ["a", "b", "one", "two"].map(|name| vm(&bed, name));
    let why = |to: &str, traffic: &str| bed.said(&["switch", "why", "lab.toml", "a", to, traffic]);

    // Whom an address belongs to by its own word, or by the port's MAC address.
    let told = why("fd00::2", "tcp/80");
    assert!(told.contains("tcp/80 from fd00::1 to fd00::2 comes in by a for 02:00:00:00:00:02 (b):"), "{told}");
    assert!(told.contains("it leaves by b"), "{told}");
    let told = why("fe80::ff:fe00:2", "any");
    assert!(
        told.contains("a ping from fe80::ff:fe00:1 to fe80::ff:fe00:2") && told.contains("it leaves by b"),
        "{told}"
    );
    assert!(why("ff02::1", "udp/5353").contains("for 33:33:00:00:00:01"));
    assert!(why("fd00::2", "udp/53").contains("`dns` denies it  (LAB/lab.toml:5)"));
    assert!(why("fd00::2", "icmp").contains("fd00::2 is no address for `icmp`"));
    assert!(why("fd00::9", "icmp6").contains("no port is known to have the address fd00::9"));

    // Nobody has this one, so it is behind the uplink that is up.
    let out = || why("02:00:00:00:00:77", "udp/9");
    let state = |port: &str| bed.port(port)["active"].clone();
    eventually("one is active", || state("one") == true && state("two") == false);
    assert!(state("a").is_null());
    let told = out();
    assert!(told.contains("`one` is the active uplink: the first that is up; `two` waits"), "{told}");
    assert!(told.contains("it leaves by one"), "{told}");
    let shown = bed.said(&["switch", "show", "lab.toml"]);
    assert!(shown.contains("up, active") && shown.contains("up, standby"), "{shown}");
    let metrics = bed.said(&["switch", "metrics", "lab.toml"]);
    let of_two = metrics.lines().find(|line| line.starts_with("weft_uplink_active{port=\"two\""));
    assert!(of_two.is_some_and(|line| line.ends_with(" 0")), "{metrics}");
}

#[test]
fn why_says_when_a_frame_has_to_wait() {
    let bed = Bed::run(LAB);
    let [mut a, _b] = ["a", "b"].map(|name| vm(&bed, name));
    eventually("b has had its share", || {
        a.send(&datagram(80));
        let told = bed.said(&["switch", "why", "lab.toml", "a", "b", "udp/80"]);
        told.contains("`b` is sent to faster than it may be (64kbit/s): the frame waits")
            && told.contains("it leaves by b")
    });
}

#[test]
fn rules_tell_what_they_decided() {
    let bed = Bed::run(LAB);
    let log = |args: &[&str]| bed.said(&[&["switch", "log", "lab.toml"], args].concat());
    assert_eq!(log(&[]), "exit 0\nno rule that says `log` has decided anything that is still remembered\n");
    let [mut a, _b] = ["a", "b"].map(|name| vm(&bed, name));
    a.send(&datagram(53));
    a.send(&datagram(80));
    eventually("both are logged", || log(&[]).lines().count() == 4);
    let told = log(&["b"]);
    let denied = told.lines().find(|line| line.contains("deny")).unwrap_or_else(|| panic!("{told}"));
    assert!(denied.contains("dns") && denied.contains("10.0.0.2 port 53"), "{told}");
    assert!(told.lines().any(|line| line.contains("allow") && line.contains("10.0.0.2 port 80")), "{told}");
    assert_eq!(log(&["one"]).lines().count(), 2);
    let json = bed.weft(&["switch", "log", "lab.toml", "--json"]).output().unwrap().stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        (&json[0]["rule"], &json[0]["permission"], &json[0]["from"]),
        (&"dns".into(), &"deny".into(), &"a".into())
    );
}
