//! What a file may say about a DHCP server, and every sentence about what it may not.

use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::{Dhcp, HostFacts, World, parse_world};

fn load(source: &str) -> Result<World, String> {
    let facts = HostFacts::default();
    parse_world(source, Path::new("/lab/lab.toml"), "lab.toml", &facts).map_err(|report| report.to_string())
}

/// The server of the only network, of whose table `dhcp` this is.
fn dhcp(keys: &str) -> Dhcp {
    let world = load(&format!("[network.a]\nsubnet = '10.20.0.0/24'\n[network.a.dhcp]\n{keys}\n")).unwrap();
    let json = serde_json::to_string(&world).unwrap();
    assert_eq!(serde_json::from_str::<World>(&json).unwrap(), world);
    world.networks.into_values().next().unwrap().dhcp.unwrap()
}

fn check(keys: &str, expected: Expect) {
    match load(&format!(
        "[network.a]\nsubnet = '10.20.0.0/24'\n[network.a.dhcp]\n{keys}\n[vm.web]\nnics = [{{ network = 'a', ip = '10.20.0.10' }}]\n"
    )) {
        Ok(world) => panic!("nothing was wrong: {world:#?}"),
        Err(report) => expected.assert_eq(&report),
    }
}

#[test]
fn everything_at_once() {
    let dhcp = dhcp(
        "range = '10.20.0.100-10.20.0.200'\nexclude = ['10.20.0.150-10.20.0.160', '10.20.0.7']\nlease = '2h'\n\
         reserve = { '02:00:5E:10:00:01' = '10.20.0.11', 'id:printer' = '10.20.0.12', 'id:hex:ff00' = '10.20.0.13' }\n\
         boot = { server = '10.20.0.2', file = 'pxelinux.0', efi = 'grubx64.efi', http = 'http://10.20.0.2/x' }",
    );
    assert_eq!(dhcp.lease.as_secs(), 7200);
    let excluded: Vec<_> = dhcp.excluded.iter().map(ToString::to_string).collect();
    assert_eq!(excluded, ["10.20.0.150-10.20.0.160", "10.20.0.7"]);
    let kept: Vec<_> = dhcp.kept.iter().map(|(client, ip)| format!("{client} {ip}")).collect();
    assert_eq!(kept, ["02:00:5e:10:00:01 10.20.0.11", "id:printer 10.20.0.12", "id:hex:ff00 10.20.0.13"]);
    assert_eq!(dhcp.boot.unwrap().efi.as_deref(), Some("grubx64.efi"));
}

#[test]
fn options_as_they_are_sent() {
    let sent = |options: &str| dhcp(&format!("options = {{ {options} }}")).options;
    let cases: &[(&str, u8, &[u8])] = &[
        ("ntp-servers = ['10.20.0.1', '10.20.0.2']", 42, &[10, 20, 0, 1, 10, 20, 0, 2]),
        ("42 = '10.20.0.1'", 42, &[10, 20, 0, 1]),
        ("66 = 'tftp.example'", 66, b"tftp.example"),
        ("43 = 'hex:01:02'", 43, &[1, 2]),
        ("43 = 'text'", 43, b"text"),
        ("routers = 'hex:0a140001'", 3, &[10, 20, 0, 1]),
        ("224 = 'hex:'", 224, &[]),
        ("mtu = 1400", 26, &[5, 120]),
        ("time-offset = -3600", 2, &[0xff, 0xff, 0xf1, 0xf0]),
        ("38 = 4294967295", 38, &[0xff; 4]),
        ("ip-forwarding = true", 19, &[1]),
        (
            "routes = ['10.8.0.0/13 via 10.20.0.5', '0.0.0.0/0 via 10.20.0.9']",
            121,
            &[13, 10, 8, 10, 20, 0, 5, 0, 10, 20, 0, 9],
        ),
        ("domain-search = ['a.example', 'b.']", 119, b"\x01a\x07example\0\x01b\0"),
    ];
    for (options, code, value) in cases {
        assert_eq!(sent(options), [(*code, value.to_vec())].into(), "{options}");
    }
}

#[test]
fn what_no_option_can_be() {
    check(
        "options = { mtu = 70000, ntp-server = '10.20.0.1', 54 = '10.20.0.9', routes = ['10.8.0.1/16 via 10.20.0.5'],\n\
         42 = [], nonsense = 1, 300 = 'x', 43 = 'hex:0', domain-search = 'a..b', 66 = '' }",
        expect![[r#"
            error: this is no value of DHCP option `mtu`
             --> lab.toml:4:19
              |
            4 | options = { mtu = 70000, ntp-server = '10.20.0.1', 54 = '10.20.0.9', routes = ['10.8.0.1/16 via 10.20.0.5'],
              |                   ^^^^^
            hint: write a whole number that fits

            error: `ntp-server` is no DHCP option
             --> lab.toml:4:26
              |
            4 | options = { mtu = 70000, ntp-server = '10.20.0.1', 54 = '10.20.0.9', routes = ['10.8.0.1/16 via 10.20.0.5'],
              |                          ^^^^^^^^^^
            hint: did you mean `ntp-servers`?

            error: DHCP option 54 cannot be set: it is the gateway's address
             --> lab.toml:4:52
              |
            4 | options = { mtu = 70000, ntp-server = '10.20.0.1', 54 = '10.20.0.9', routes = ['10.8.0.1/16 via 10.20.0.5'],
              |                                                    ^^
            hint: leave it out

            error: this is no value of DHCP option `routes`
             --> lab.toml:4:79
              |
            4 | options = { mtu = 70000, ntp-server = '10.20.0.1', 54 = '10.20.0.9', routes = ['10.8.0.1/16 via 10.20.0.5'],
              |                                                                               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            hint: write routes, like `["10.8.0.0/16 via 10.20.0.5"]`

            error: this is no value of DHCP option `42`
             --> lab.toml:5:6
              |
            5 | 42 = [], nonsense = 1, 300 = 'x', 43 = 'hex:0', domain-search = 'a..b', 66 = '' }
              |      ^^
            hint: write an address, or a list of addresses, like `["10.20.0.1"]`

            error: `nonsense` is no DHCP option
             --> lab.toml:5:10
              |
            5 | 42 = [], nonsense = 1, 300 = 'x', 43 = 'hex:0', domain-search = 'a..b', 66 = '' }
              |          ^^^^^^^^
            hint: write its number, 1 to 254, or a name like `ntp-servers` or `routes`

            error: `300` is no DHCP option
             --> lab.toml:5:24
              |
            5 | 42 = [], nonsense = 1, 300 = 'x', 43 = 'hex:0', domain-search = 'a..b', 66 = '' }
              |                        ^^^
            hint: write its number, 1 to 254, or a name like `ntp-servers` or `routes`

            error: this is no value of DHCP option `43`
             --> lab.toml:5:40
              |
            5 | 42 = [], nonsense = 1, 300 = 'x', 43 = 'hex:0', domain-search = 'a..b', 66 = '' }
              |                                        ^^^^^^^
            hint: write two hexadecimal digits for each byte, like `hex:0102`

            error: this is no value of DHCP option `domain-search`
             --> lab.toml:5:65
              |
            5 | 42 = [], nonsense = 1, 300 = 'x', 43 = 'hex:0', domain-search = 'a..b', 66 = '' }
              |                                                                 ^^^^^^
            hint: write domains, like `["lab.example", "example"]`

            error: this is no value of DHCP option `66`
             --> lab.toml:5:78
              |
            5 | 42 = [], nonsense = 1, 300 = 'x', 43 = 'hex:0', domain-search = 'a..b', 66 = '' }
              |                                                                              ^^
            hint: write a text that is not empty

            10 problems in lab.toml; nothing was changed
        "#]],
    );
    let long = "x".repeat(1025);
    let refused = load(&format!("[network.a.dhcp]\noptions = {{ vendor = '{long}' }}")).unwrap_err();
    assert!(refused.contains("1025 bytes are more than an option holds"), "{refused}");
    let refused = load("[network.a.dhcp]\noptions = { vendor = 'a', 43 = 'a' }").unwrap_err();
    assert!(refused.contains("is option 43, which stands here already"), "{refused}");
}

#[test]
fn who_cannot_have_an_address() {
    check(
        "reserve = { web = '10.20.0.11', db = '10.20.0.12', '02:00:5e:10:00:01' = '10.20.0.10', 'id:' = '10.20.0.13',\n\
         '02:00' = '10.20.0.14', 'id:a' = '10.21.0.1', 'id:b' = '10.20.0.1', 'id:c' = 5 }\n\
         exclude = ['10.20.0.9-10.20.0.2', 7]",
        expect![[r#"
            error: the adapter of `web` has another address in `nics`
             --> lab.toml:4:19
              |
            4 | reserve = { web = '10.20.0.11', db = '10.20.0.12', '02:00:5e:10:00:01' = '10.20.0.10', 'id:' = '10.20.0.13',
              |                   ^^^^^^^^^^^^
            hint: write the address at one of the two places

            error: there is no machine `db` on network `a`
             --> lab.toml:4:38
              |
            4 | reserve = { web = '10.20.0.11', db = '10.20.0.12', '02:00:5e:10:00:01' = '10.20.0.10', 'id:' = '10.20.0.13',
              |                                      ^^^^^^^^^^^^
            hint: other clients are known by a MAC address, `id:TEXT` or `id:hex:DIGITS`

            error: 10.20.0.10 is kept for somebody else already
             --> lab.toml:4:74
              |
            4 | reserve = { web = '10.20.0.11', db = '10.20.0.12', '02:00:5e:10:00:01' = '10.20.0.10', 'id:' = '10.20.0.13',
              |                                                                          ^^^^^^^^^^^^
            hint: choose from 10.20.0.2 to 10.20.0.254

            error: `id:` is no client identifier: 1 to 255 bytes, as text or as two hexadecimal digits each
             --> lab.toml:4:88
              |
            4 | reserve = { web = '10.20.0.11', db = '10.20.0.12', '02:00:5e:10:00:01' = '10.20.0.10', 'id:' = '10.20.0.13',
              |                                                                                        ^^^^^
            hint: or write the name of a machine of this file

            error: `02:00` names no client: write its MAC address, `id:TEXT` or `id:hex:DIGITS`
             --> lab.toml:5:1
              |
            5 | '02:00' = '10.20.0.14', 'id:a' = '10.21.0.1', 'id:b' = '10.20.0.1', 'id:c' = 5 }
              | ^^^^^^^
            hint: or write the name of a machine of this file

            error: 10.21.0.1 is not an address for a host of 10.20.0.0/24
             --> lab.toml:5:34
              |
            5 | '02:00' = '10.20.0.14', 'id:a' = '10.21.0.1', 'id:b' = '10.20.0.1', 'id:c' = 5 }
              |                                  ^^^^^^^^^^^
            hint: choose from 10.20.0.2 to 10.20.0.254

            error: 10.20.0.1 is the gateway of network `a`
             --> lab.toml:5:56
              |
            5 | '02:00' = '10.20.0.14', 'id:a' = '10.21.0.1', 'id:b' = '10.20.0.1', 'id:c' = 5 }
              |                                                        ^^^^^^^^^^^
            hint: choose from 10.20.0.2 to 10.20.0.254

            error: `id:c` must be a text, not an integer
             --> lab.toml:5:78
              |
            5 | '02:00' = '10.20.0.14', 'id:a' = '10.21.0.1', 'id:b' = '10.20.0.1', 'id:c' = 5 }
              |                                                                              ^
            hint: write it like `id:c = "10.20.0.9"`

            error: `10.20.0.9-10.20.0.2` is no address and no range of addresses, the lower end first, like `10.20.0.150-10.20.0.160`
             --> lab.toml:6:12
              |
            6 | exclude = ['10.20.0.9-10.20.0.2', 7]
              |            ^^^^^^^^^^^^^^^^^^^^^

            error: `exclude[1]` must be a text, not an integer
             --> lab.toml:6:35
              |
            6 | exclude = ['10.20.0.9-10.20.0.2', 7]
              |                                   ^
            hint: write it like `exclude[1] = "10.20.0.150-10.20.0.160"`

            10 problems in lab.toml; nothing was changed
        "#]],
    );
    let world = load("[network.a.dhcp]\nreserve = { web = '10.20.0.11' }\n[vm.web]\nnics = ['a']\n").unwrap();
    let web = world.vms.values().next().unwrap();
    assert_eq!(web.nics[0].ip.unwrap().to_string(), "10.20.0.11");
}

#[test]
fn what_nobody_can_boot() {
    check(
        "boot = { file = 'pxelinux.0' }",
        expect![[r#"
        error: nobody is named from whom the files are loaded
         --> lab.toml:4:8
          |
        4 | boot = { file = 'pxelinux.0' }
          |        ^^^^^^^^^^^^^^^^^^^^^^^
        hint: write `server = "ADDRESS"`, the TFTP server's; the gateway serves no files
    "#]],
    );
    check(
        "boot = { server = '10.20.0.2' }",
        expect![[r#"
        error: nothing is named that clients could load
         --> lab.toml:4:8
          |
        4 | boot = { server = '10.20.0.2' }
          |        ^^^^^^^^^^^^^^^^^^^^^^^^
        hint: write `file = "pxelinux.0"`, or `http = "http://…"`
    "#]],
    );
    check(
        "boot = { http = '', servr = '10.20.0.2' }",
        expect![[r#"
        error: nothing is named that clients could load
         --> lab.toml:4:8
          |
        4 | boot = { http = '', servr = '10.20.0.2' }
          |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        hint: write `file = "pxelinux.0"`, or `http = "http://…"`

        error: a boot file's name has 1 to 255 bytes, and no control characters
         --> lab.toml:4:17
          |
        4 | boot = { http = '', servr = '10.20.0.2' }
          |                 ^^
        hint: write it like `http = "http://10.20.0.2/boot.efi"`

        error: `servr` is not a key of what clients boot
         --> lab.toml:4:21
          |
        4 | boot = { http = '', servr = '10.20.0.2' }
          |                     ^^^^^
        hint: did you mean `server`?

        3 problems in lab.toml; nothing was changed
    "#]],
    );
    check(
        "boot = 'pxelinux.0'\noptions = 1\nreserve = []",
        expect![[r#"
        error: `boot` must be a table, not a string
         --> lab.toml:4:8
          |
        4 | boot = 'pxelinux.0'
          |        ^^^^^^^^^^^^
        hint: write it like `boot = { server = "10.20.0.2", file = "pxelinux.0" }`

        error: `options` must be a table, not an integer
         --> lab.toml:5:11
          |
        5 | options = 1
          |           ^
        hint: write it like `options = { ntp-servers = ["10.20.0.1"] }`

        error: `reserve` must be a table, not an array
         --> lab.toml:6:11
          |
        6 | reserve = []
          |           ^^
        hint: write it like `reserve = { "02:00:5e:10:00:01" = "10.20.0.9" }`

        3 problems in lab.toml; nothing was changed
    "#]],
    );
}
