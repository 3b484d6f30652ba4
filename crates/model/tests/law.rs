//! What files may say about VLANs, port policy and access lists, and every sentence about what they may not.

use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::{HostFacts, SwitchFile, SwitchMode, World, parse_switch, parse_world};
use weft_types::{Allowance, Permission, PortVlans};

fn world(source: &str) -> Result<World, String> {
    let parsed = parse_world(source, Path::new("/lab/lab.toml"), "lab.toml", &HostFacts::default());
    parsed.map_err(|report| report.to_string())
}

fn switch(source: &str) -> Result<SwitchFile, String> {
    parse_switch(source, Path::new("/lab/lab.toml"), "lab.toml").map_err(|report| report.to_string())
}

#[track_caller]
fn check<T: std::fmt::Debug>(loaded: Result<T, String>, expected: &Expect) {
    expected.assert_eq(&loaded.expect_err("something is wrong"));
}

const WORLD: &str = r#"
[network.office]
default = "deny"
connections = 100
rules = [
    "deny web -> db",
    "db-access: allow servers -> db tcp/5432",
    "allow 10.20.0.0/24 -> gateway udp/53",
]

[group.servers]
members = ["web", "router"]

[vm.web]
nics = ["office"]
[vm.db]
nics = [{ network = "office", vlan = 20, allow = ["forged-ip", "promiscuous"] }]
[vm.router]
nics = [{ network = "office", trunk = [10, "20-29"], native = "untagged", addresses = ["10.8.0.0/24", "fd00::1"],
          learn = 64, macs = ["02:00:00:00:00:01", "02:00:00:00:01:00 to 02:00:00:00:01:ff"] }]
"#;

#[test]
fn a_world_says_all_of_it() {
    let world = world(WORLD).unwrap();
    let nic = |vm: &str| world.vms[&vm.parse().unwrap()].nics[0].port.clone();
    let vlans = |vm: &str| nic(vm).vlans.to_string();
    assert_eq!((nic("web"), vlans("db")), (Default::default(), "access 20".to_owned()));
    assert_eq!(vlans("router"), "trunk 10,20-29, native untagged");
    assert_eq!(nic("db").allow.into_iter().collect::<Vec<_>>(), [Allowance::ForgedIp, Allowance::Promiscuous]);
    let router = nic("router");
    let addresses: Vec<_> = router.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.8.0.0/24", "fd00::1/128"]);
    assert_eq!((router.learn, router.macs.len(), router.mac_ranges.len()), (64, 1, 1));
    let acl = &world.networks[&"office".parse().unwrap()].acl;
    assert_eq!((acl.default, acl.connections, acl.groups.len()), (Permission::Deny, 100, 1));
    let rules = acl.rules.iter().map(|declared| format!("{} {}", declared.provenance, declared.rule.title()));
    assert_eq!(
        rules.collect::<Vec<_>>(),
        [
            "/lab/lab.toml:6 deny web -> db",
            "/lab/lab.toml:7 db-access",
            "/lab/lab.toml:8 allow 10.20.0.0/24 -> gateway udp/53"
        ]
    );
    let json = serde_json::to_string(&world).unwrap();
    assert_eq!(serde_json::from_str::<World>(&json).unwrap(), world);
}

#[test]
fn what_an_earlier_version_wrote_restricts_nothing() {
    let mut json = serde_json::to_value(world(WORLD).unwrap()).unwrap();
    for network in json["networks"].as_object_mut().unwrap().values_mut() {
        network.as_object_mut().unwrap().remove("acl");
    }
    for vm in json["vms"].as_object_mut().unwrap().values_mut() {
        vm["nics"][0].as_object_mut().unwrap().remove("port");
    }
    let world: World = serde_json::from_value(json.clone()).unwrap();
    assert!(world.networks.values().all(|network| network.acl.is_open()));
    assert!(world.vms.values().all(|vm| vm.nics[0].port == Default::default()));
    json["networks"]["office"]["acl"] =
        serde_json::json!({ "rules": [{ "rule": "deny", "provenance": { "source": "x" } }] });
    let error = serde_json::from_value::<World>(json).unwrap_err().to_string();
    assert!(error.contains("the rule ends where it should say who begins"), "{error}");
}

#[test]
fn mistakes_about_ports() {
    check(
        world(
            "[network.a]\n[vm.x]\nnics = [\n\
             { network = 'a', vlan = 4095, trunk = [1] },\n\
             { network = 'a', vlan = 1, native = 2 },\n\
             { network = 'a', trunk = [10, 'x', true], native = 'tagged' },\n\
             { network = 'a', trunk = [] },\n\
             { network = 'a', allow = ['promiscous', 'all'], learn = -1 },\n\
             { network = 'a', addresses = ['10.0.0.1/24', 'ten', 7], macs = ['02', '02:00:00:00:00:09 to 02:00:00:00:00:01'] },\n\
             { network = 'a', macs = ['02:00:00:00:00:01 to 02:00:00:00:00:09', '01:00:00:00:00:01'] },\n\
             { network = 'a', mac = '02:00:00:00:00:05' },\n]\n",
        ),
        &expect![[r#"
            error: `vlan` cannot be 4095
             --> lab.toml:4:25
              |
            4 | { network = 'a', vlan = 4095, trunk = [1] },
              |                         ^^^^
            hint: choose 1 to 4094

            error: a port with `vlan` is an access port, and one with `trunk` is none
             --> lab.toml:4:39
              |
            4 | { network = 'a', vlan = 4095, trunk = [1] },
              |                                       ^^^
            hint: remove one of the two; `native` is the VLAN of a trunk's frames without a tag

            error: `native` means nothing without `trunk`
             --> lab.toml:5:37
              |
            5 | { network = 'a', vlan = 1, native = 2 },
              |                                     ^
            hint: write `vlan` for a port whose frames have no tag, or add `trunk = [10, 20]`

            error: `x` names no VLANs: write numbers from 1 to 4094 and ranges, like `10-20,30`
             --> lab.toml:6:31
              |
            6 | { network = 'a', trunk = [10, 'x', true], native = 'tagged' },
              |                               ^^^

            error: `trunk[2]` must be a VLAN's number, not a boolean
             --> lab.toml:6:36
              |
            6 | { network = 'a', trunk = [10, 'x', true], native = 'tagged' },
              |                                    ^^^^
            hint: write it like `trunk[2] = 10`

            error: `tagged` is no native VLAN
             --> lab.toml:6:52
              |
            6 | { network = 'a', trunk = [10, 'x', true], native = 'tagged' },
              |                                                    ^^^^^^^^
            hint: write a VLAN's number, or "untagged" for the segment that has no VLAN

            error: the trunk carries no VLAN
             --> lab.toml:7:26
              |
            7 | { network = 'a', trunk = [] },
              |                          ^^
            hint: name VLANs, like `trunk = [10, 20]`, or all: `trunk = "1-4094"`

            error: `promiscous` is nothing that a port can be allowed
             --> lab.toml:8:27
              |
            8 | { network = 'a', allow = ['promiscous', 'all'], learn = -1 },
              |                           ^^^^^^^^^^^^
            hint: did you mean `promiscuous`?

            error: `all` is nothing that a port can be allowed
             --> lab.toml:8:41
              |
            8 | { network = 'a', allow = ['promiscous', 'all'], learn = -1 },
              |                                         ^^^^^
            hint: choose from `forged-mac`, `forged-ip`, `forged-arp`, `forged-nd`, `mac-change`, `promiscuous`, `dhcp-server` and `router-advertisement`

            error: `learn` cannot be -1
             --> lab.toml:8:57
              |
            8 | { network = 'a', allow = ['promiscous', 'all'], learn = -1 },
              |                                                         ^^
            hint: choose 0 to 65536

            error: `10.0.0.1/24` is an address inside a prefix
             --> lab.toml:9:31
              |
            9 | { network = 'a', addresses = ['10.0.0.1/24', 'ten', 7], macs = ['02', '02:00:00:00:00:09 to 02:00:00:00:00:01'] },
              |                               ^^^^^^^^^^^^^
            hint: write `10.0.0.0/24`, or `10.0.0.1` for that address alone

            error: `ten` is neither an address nor a prefix
             --> lab.toml:9:46
              |
            9 | { network = 'a', addresses = ['10.0.0.1/24', 'ten', 7], macs = ['02', '02:00:00:00:00:09 to 02:00:00:00:00:01'] },
              |                                              ^^^^^
            hint: write it like `10.8.0.5`, `10.8.0.0/24` or `fd00::/64`

            error: `addresses[2]` must be a text, not an integer
             --> lab.toml:9:53
              |
            9 | { network = 'a', addresses = ['10.0.0.1/24', 'ten', 7], macs = ['02', '02:00:00:00:00:09 to 02:00:00:00:00:01'] },
              |                                                     ^
            hint: write it like `addresses[2] = "10.8.0.0/24"`

            error: `02` is not a MAC address: write six octets like `02:00:5e:10:00:01`
             --> lab.toml:9:65
              |
            9 | { network = 'a', addresses = ['10.0.0.1/24', 'ten', 7], macs = ['02', '02:00:00:00:00:09 to 02:00:00:00:00:01'] },
              |                                                                 ^^^^

            error: 02:00:00:00:00:09 to 02:00:00:00:00:01 is no range of stations: both ends need the same, even first octet, the lower end first
             --> lab.toml:9:71
              |
            9 | { network = 'a', addresses = ['10.0.0.1/24', 'ten', 7], macs = ['02', '02:00:00:00:00:09 to 02:00:00:00:00:01'] },
              |                                                                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

            error: the MAC addresses 02:00:00:00:00:01 to 02:00:00:00:00:09 of `x` meet others of `x`
              --> lab.toml:10:25
               |
            10 | { network = 'a', macs = ['02:00:00:00:00:01 to 02:00:00:00:00:09', '01:00:00:00:00:01'] },
               |                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            hint: choose ranges that nobody else has addresses in

            error: 01:00:00:00:00:01 is no address that an adapter can have
              --> lab.toml:10:68
               |
            10 | { network = 'a', macs = ['02:00:00:00:00:01 to 02:00:00:00:00:09', '01:00:00:00:00:01'] },
               |                                                                    ^^^^^^^^^^^^^^^^^^^
            hint: use one whose first octet is even, like 02:00:5e:10:00:01

            17 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn mistakes_about_rules() {
    check(
        world(
            "[network.a]\ndefault = 'refuse'\nconnections = 0\nrules = [\n\
             'deny web -> dba',\n\
             \"allow web -> db tcp/90000\",\n\
             'deny web -> db',\n\
             'deny  web -> db any',\n\
             'x: allow web -> far',\n\
             'x: allow any -> gateway',\n\
             7,\n\
             \"allow\\tweb => db\",\n\
             ]\n\
             [network.b]\n\
             [group.web]\nmembers = ['db', 'nobody']\n\
             [group.any]\nmembers = []\n\
             [group.empty]\n\
             [group.typo]\nmember = ['web']\n\
             [vm.web]\nnics = ['a']\n[vm.db]\nnics = ['a']\n[vm.far]\nnics = ['b']\n",
        ),
        &expect![[r#"
            error: `refuse` is not a value of `default`
             --> lab.toml:2:11
              |
            2 | default = 'refuse'
              |           ^^^^^^^^
            hint: choose from `allow`, `deny` and `reject`: what becomes of that which no rule fits

            error: `connections` cannot be 0
             --> lab.toml:3:15
              |
            3 | connections = 0
              |               ^
            hint: choose 1 to 1000000

            error: there is neither a VM nor a group `dba`
             --> lab.toml:5:1
              |
            5 | 'deny web -> dba',
              | ^^^^^^^^^^^^^^^^^
            hint: did you mean `db`?

            error: `90000` is neither a port nor a range of them
             --> lab.toml:6:22
              |
            6 | "allow web -> db tcp/90000",
              |                      ^^^^^
            hint: write 0 to 65535, like `5432` or `8000-8999`

            error: `deny web -> db` stands here twice, first as rule 2
             --> lab.toml:8:1
              |
            8 | 'deny  web -> db any',
              | ^^^^^^^^^^^^^^^^^^^^^
            hint: remove or rename one of the two

            error: `far` is not on network `a`, so the rule would never fit
             --> lab.toml:9:1
              |
            9 | 'x: allow web -> far',
              | ^^^^^^^^^^^^^^^^^^^^^
            hint: give it an adapter there, or remove the rule

            error: two rules are called `x`
              --> lab.toml:10:1
               |
            10 | 'x: allow any -> gateway',
               | ^^^^^^^^^^^^^^^^^^^^^^^^^
            hint: remove or rename one of the two

            error: `rules[6]` must be a text, not an integer
              --> lab.toml:11:1
               |
            11 | 7,
               | ^
            hint: write it like `rules[6] = "deny web -> db"`

            error: `->` is missing before `=>`
              --> lab.toml:12:1
               |
            12 | "allow\tweb => db",
               | ^^^^^^^^^^^^^^^^^^
            hint: write it like `deny web -> db` or `allow any -> db tcp/5432`

            error: `web` is the name of a VM already
              --> lab.toml:15:8
               |
            15 | [group.web]
               |        ^^^
            hint: call the group something else

            error: there is no VM `nobody`
              --> lab.toml:16:18
               |
            16 | members = ['db', 'nobody']
               |                  ^^^^^^^^
            hint: there are `db`, `far` and `web`

            error: `any` means something else in rules
              --> lab.toml:17:8
               |
            17 | [group.any]
               |        ^^^
            hint: call the group something else

            error: group `any` has no members, so no rule that names it ever fits
              --> lab.toml:18:11
               |
            18 | members = []
               |           ^^
            hint: write `members = ["NAME"]`: the names of VMs

            error: group `empty` has no members, so no rule that names it ever fits
              --> lab.toml:19:8
               |
            19 | [group.empty]
               |        ^^^^^
            hint: write `members = ["NAME"]`: the names of VMs

            error: group `typo` has no members, so no rule that names it ever fits
              --> lab.toml:20:8
               |
            20 | [group.typo]
               |        ^^^^
            hint: write `members = ["NAME"]`: the names of VMs

            error: `member` is not a key of a group
              --> lab.toml:21:1
               |
            21 | member = ['web']
               | ^^^^^^
            hint: did you mean `members`?

            16 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn a_switch_says_all_of_it() {
    let switch = switch(
        "[switch]\nmode = 'vepa'\ndefault = 'deny'\nrules = ['allow ends -> ends icmp', 'deny any -> out']\n\
         [group.ends]\nmembers = ['a', 'b']\n\
         [port.a]\nvhost = 'a.sock'\nmac = '02:00:00:00:00:01'\nvlan = 10\naddresses = ['10.0.0.1']\n\
         [port.b]\nvhost = 'b.sock'\nmac = '02:00:00:00:00:01'\nvlan = 20\n\
         [port.out]\ntap = 'out'\nuplink = true\ntrunk = '10-20'\n\
         [port.nested]\nvhost = 'c.sock'\nlearn = 8\n",
    )
    .unwrap();
    assert_eq!((switch.mode, switch.acl.default, switch.acl.rules.len()), (SwitchMode::Vepa, Permission::Deny, 2));
    let port = |name: &str| &switch.ports[&name.parse().unwrap()];
    assert!(port("out").uplink && port("out").rules.macs.is_empty());
    assert_eq!(port("a").rules.addresses[0].to_string(), "10.0.0.1/32");
    assert_eq!(port("nested").rules.vlans, PortVlans::Untagged);
    assert_eq!(port("a").rules.macs, port("b").rules.macs, "in two VLANs that is two hosts");
}

#[test]
fn mistakes_about_switches() {
    check(
        switch(
            "[switch]\nmode = 'vepa'\nrules = ['deny a -> gateway', 'deny a -> d']\n\
             [group.a]\nmembers = ['b', 'e']\n\
             [port.a]\nvhost = 'a.sock'\nmac = '02:00:00:00:00:01'\ntrunk = [10]\n\
             [port.b]\nvhost = 'b.sock'\nmac = '02:00:00:00:00:01'\nvlan = 10\npromiscuous = true\n\
             [port.c]\nvhost = 'c.sock'\nmacs = ['02:00:00:00:00:00 to 02:00:00:00:00:ff']\n",
        ),
        &expect![[r#"
            error: in mode `vepa` every frame leaves by the uplink, and there is none
             --> lab.toml:2:8
              |
            2 | mode = 'vepa'
              |        ^^^^^^
            hint: write `uplink = true` in the port that leads out

            error: a switch on its own has no gateway
             --> lab.toml:3:10
              |
            3 | rules = ['deny a -> gateway', 'deny a -> d']
              |          ^^^^^^^^^^^^^^^^^^^
            hint: name ports, groups or prefixes

            error: there is neither a port nor a group `d`
             --> lab.toml:3:31
              |
            3 | rules = ['deny a -> gateway', 'deny a -> d']
              |                               ^^^^^^^^^^^^^
            hint: did you mean `a`?

            error: `a` is the name of a port already
             --> lab.toml:4:8
              |
            4 | [group.a]
              |        ^
            hint: call the group something else

            error: there is no port `e`
             --> lab.toml:5:17
              |
            5 | members = ['b', 'e']
              |                 ^^^
            hint: did you mean `a`?

            error: port `a` has the MAC address 02:00:00:00:00:01 already
              --> lab.toml:12:7
               |
            12 | mac = '02:00:00:00:00:01'
               |       ^^^^^^^^^^^^^^^^^^^
            hint: give each port its own

            error: `promiscuous` is not a key of a port
              --> lab.toml:14:1
               |
            14 | promiscuous = true
               | ^^^^^^^^^^^
            hint: a port has the keys `vhost`, `stream`, `dgram`, `tap`, `nic`, `udp`, `host`, `connect`, `peer`, `attach`, `driver`, `qmp`, `mac`, `vlan`, `trunk`, `native`, `addresses`, `macs`, `learn`, `allow`, `rate` and `uplink`

            error: the MAC addresses 02:00:00:00:00:00 to 02:00:00:00:00:ff meet others of port `a`
              --> lab.toml:17:8
               |
            17 | macs = ['02:00:00:00:00:00 to 02:00:00:00:00:ff']
               |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            hint: choose ranges that no other port has addresses in

            8 problems in lab.toml; nothing was changed
        "#]],
    );
    let two = "[port.a]\ntap = 'a'\nuplink = true\n[port.b]\ntap = 'b'\nuplink = true\n";
    check(
        switch(&format!("[switch]\nmode = 'bridge'\n{two}")),
        &expect![[r#"
            error: `bridge` is not a value of `mode`
             --> lab.toml:2:8
              |
            2 | mode = 'bridge'
              |        ^^^^^^^^
            hint: choose `veb`, or `vepa` where the switch behind the uplink sends frames back

            error: port `a` is the uplink already, and a switch has one way out
             --> lab.toml:8:10
              |
            8 | uplink = true
              |          ^^^^
            hint: remove one of the two, or make them one way out: `team = "active-standby"` in `[switch]`

            2 problems in lab.toml; nothing was changed
        "#]],
    );
}

const MIRRORS: &str = r#"
[mirror.watch]
from = ["servers", "db"]
vlans = [10, "20-29"]
direction = "in"
filter = "any -> 10.20.0.0/24 tcp/443"
snap = 128
to = "ids"

[mirror.away]
to = "vxlan://192.0.2.9/7"
"#;

#[test]
fn mirrors_of_a_world() {
    let source = format!("{WORLD}\n[vm.ids]\nnics = ['office']\n{MIRRORS}");
    let mirrors = world(&source).unwrap().networks.remove(&"office".parse().unwrap()).unwrap().mirrors;
    let told = mirrors.iter().map(|(name, mirror)| {
        let from: Vec<_> = mirror.from.iter().map(ToString::to_string).collect();
        let filter = mirror.filter.as_ref().map(ToString::to_string);
        let (snap, place) = (mirror.snap, mirror.provenance.line);
        format!("{name} {from:?} [{}] {} {filter:?} {snap:?} {} {place:?}\n", mirror.vlans, mirror.direction, mirror.to)
    });
    expect![[r#"
        away [] [] both None None vxlan://192.0.2.9:4789/7 Some(33)
        watch ["servers", "db"] [10,20-29] in Some("any -> 10.20.0.0/24 tcp/443") Some(128) ids Some(25)
    "#]]
    .assert_eq(&told.collect::<String>());
    for mirror in mirrors.values() {
        let text = serde_json::to_string(mirror).unwrap();
        assert_eq!(serde_json::from_str::<weft_model::Mirror>(&text).unwrap(), *mirror);
    }
    let two = format!("{source}\n[network.lab]\n");
    check(
        world(&two),
        &expect![[r#"
        error: the mirror names no network
          --> lab.toml:25:9
           |
        25 | [mirror.watch]
           |         ^^^^^
        hint: write `network = "NAME"`; the file declares `lab` and `office`

        error: the mirror names no network
          --> lab.toml:33:9
           |
        33 | [mirror.away]
           |         ^^^^
        hint: write `network = "NAME"`; the file declares `lab` and `office`

        2 problems in lab.toml; nothing was changed
    "#]],
    );
}

#[test]
fn mirrors_that_copy_nothing_are_said() {
    check(
        switch(
            "[port.a]\ntap = 'a'\nmac = '02:00:00:00:00:01'\n\
             [port.out]\nnic = 'eth0'\nuplink = true\n\
             [port.ids]\ntap = 'ids'\n\
             [group.both]\nmembers = ['a', 'ids']\n\
             [mirror.one]\nfrom = []\nto = 'idz'\n\
             [mirror.two]\nfrom = ['both', 'x']\nto = 'ids'\n\
             [mirror.three]\nto = 'out'\nsnap = 3\ndirection = 'up'\n\
             [mirror.four]\nfilter = 'a -> any'\ncolour = 'red'\n\
             [mirror.five]\nto = 'vxlan://10.0.0.5'\nvlans = [0]\n",
        ),
        &expect![[r#"
            error: a mirror of nobody copies nothing
              --> lab.toml:12:8
               |
            12 | from = []
               |        ^^
            hint: leave `from` out to mirror everybody

            error: there is no port `idz`
              --> lab.toml:13:6
               |
            13 | to = 'idz'
               |      ^^^^^
            hint: did you mean `ids`?

            error: there is no port `x`
              --> lab.toml:15:17
               |
            15 | from = ['both', 'x']
               |                 ^^^
            hint: did you mean `a`?

            error: `ids` cannot get copies of its own frames
              --> lab.toml:16:6
               |
            16 | to = 'ids'
               |      ^^^^^
            hint: remove it from `from`

            error: `out` leads out of the switch
              --> lab.toml:18:6
               |
            18 | to = 'out'
               |      ^^^^^
            hint: name the port of a listener, or a collector

            error: `snap` cannot be 3
              --> lab.toml:19:8
               |
            19 | snap = 3
               |        ^
            hint: choose 14 to 65535

            error: `up` is no direction: choose `in` (what a port sends), `out` (what it hears) or `both`
              --> lab.toml:20:13
               |
            20 | direction = 'up'
               |             ^^^^

            error: nobody gets the mirror's copies
              --> lab.toml:21:9
               |
            21 | [mirror.four]
               |         ^^^^
            hint: write `to = "PORT"`, or `to = "vxlan://10.0.0.5:4789/42"` for a collector

            error: `a` is neither an address nor a prefix
              --> lab.toml:22:10
               |
            22 | filter = 'a -> any'
               |          ^^^^^^^^^^
            hint: write it like `tcp/443` or `any -> 10.0.0.5 tcp/443`

            error: `colour` is not a key of a mirror
              --> lab.toml:23:1
               |
            23 | colour = 'red'
               | ^^^^^^
            hint: a mirror has the keys `from`, `vlans`, `direction`, `filter`, `snap` and `to`

            error: `vxlan://10.0.0.5` is no collector: write `vxlan://10.0.0.5:4789/42` or `erspan://10.0.0.5/7`
              --> lab.toml:25:6
               |
            25 | to = 'vxlan://10.0.0.5'
               |      ^^^^^^^^^^^^^^^^^^

            error: `0` names no VLANs: write numbers from 1 to 4094 and ranges, like `10-20,30`
              --> lab.toml:26:10
               |
            26 | vlans = [0]
               |          ^

            12 problems in lab.toml; nothing was changed
        "#]],
    );
}
