//! The adapters by which the host itself stands on a network.

use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::{HostFacts, Mode, Network, World, parse_world};

fn load(source: &str) -> Result<World, String> {
    parse_world(source, Path::new("/lab/lab.toml"), "lab.toml", &HostFacts::default())
        .map_err(|report| report.to_string())
}

fn network(source: &str, name: &str) -> Network {
    load(source).unwrap().networks[&name.parse().unwrap()].clone()
}

/// A network's mode and adapters.
fn adapters(source: &str, name: &str) -> String {
    let network = network(source, name);
    let adapters: Vec<_> = network.adapters.iter().map(|(adapter, ip)| format!("{adapter} {ip}")).collect();
    format!("{:?}: {}", network.mode, adapters.join(", "))
}

fn check(source: &str, expected: Expect) {
    expected.assert_eq(&load(source).unwrap_err());
}

#[test]
fn who_has_which() {
    let cases = [
        ("mode = 'host-only'", "HostOnly: weft-lab 10.20.0.254"),
        ("mode = 'host-only'\nsubnet = '10.9.0.0/29'", "HostOnly: weft-lab 10.9.0.6"),
        ("mode = 'host-only'\nhost = '10.20.0.9'", "HostOnly: weft-lab 10.20.0.9"),
        (
            "mode = 'host-only'\nhost = { mgmt = '10.20.0.9', weft-a = '10.20.0.8' }",
            "HostOnly: mgmt 10.20.0.9, weft-a 10.20.0.8",
        ),
        ("mode = 'nat'\nhost = '10.20.0.9'", "Nat: weft-lab 10.20.0.9"),
        ("", "Nat: "),
        ("mode = 'internal'", "Internal: "),
    ];
    for (keys, expected) in cases {
        assert_eq!(adapters(&format!("[network.lab]\n{keys}\n"), "lab"), expected, "{keys}");
    }
    let long = "[network.a-name-that-is-long]\nmode = 'host-only'\n";
    assert_eq!(adapters(long, "a-name-that-is-long"), "HostOnly: weft-a7685582 10.20.0.254");
}

#[test]
fn no_block_is_needed() {
    let world = load("[vm.x]\nnics = ['host-only', 'nat']\n").unwrap();
    let shown = |name: &str| {
        let network = &world.networks[&name.parse().unwrap()];
        (network.mode, network.subnet.to_string(), network.adapters.len(), network.dns && network.dhcp.is_some())
    };
    assert_eq!(shown("nat"), (Mode::Nat, "10.20.0.0/24".into(), 0, true));
    assert_eq!(shown("host-only"), (Mode::HostOnly, "10.20.1.0/24".into(), 1, true));
    let declared = network("[network.host-only]\nmode = 'internal'\n[vm.x]\nnics = ['host-only']\n", "host-only");
    assert_eq!(declared.mode, Mode::Internal, "a block says what it is");
}

#[test]
fn what_cannot_be() {
    check(
        "[network.a]
mode = 'internal'
host = '10.20.0.9'
[network.b]
mode = 'host-only'
subnet = '10.21.0.0/24'
host = { weft-b = '10.21.0.1', b2 = '10.30.0.1', B = '10.21.0.7', b3 = '10.21.0.8', b4 = '10.21.0.8', a-name-too-long-to-be = '10.21.0.5' }
host_access = true
forwards = ['8080 -> host:80']
dns = { forward = { corp = '10.1.1.1' } }
hosts = { host = '10.21.0.77' }
cnames = { box = 'host' }
[network.c]
host = { weft-b = '10.20.0.9' }
[network.d]
host = 7
[vm.host]
nics = [{ network = 'b', ip = '10.21.0.8' }]
",
        expect![[r#"
            error: nobody but its VMs is on the internal network `a`, not even the host
             --> lab.toml:3:8
              |
            3 | host = '10.20.0.9'
              |        ^^^^^^^^^^^
            hint: write `mode = "host-only"`, or remove `host`

            error: 10.21.0.1 is the gateway of network `b`, which answers there itself
             --> lab.toml:7:19
              |
            7 | host = { weft-b = '10.21.0.1', b2 = '10.30.0.1', B = '10.21.0.7', b3 = '10.21.0.8', b4 = '10.21.0.8', a-name-too-long-to-be = '10.21.0.5' }
              |                   ^^^^^^^^^^^
            hint: choose from 10.21.0.2 to 10.21.0.254

            error: 10.30.0.1 is not an address for a host of 10.21.0.0/24
             --> lab.toml:7:37
              |
            7 | host = { weft-b = '10.21.0.1', b2 = '10.30.0.1', B = '10.21.0.7', b3 = '10.21.0.8', b4 = '10.21.0.8', a-name-too-long-to-be = '10.21.0.5' }
              |                                     ^^^^^^^^^^^
            hint: choose from 10.21.0.2 to 10.21.0.254

            error: `B` is not a host name: use a-z, 0-9 and `-` inside, for example `b`
             --> lab.toml:7:54
              |
            7 | host = { weft-b = '10.21.0.1', b2 = '10.30.0.1', B = '10.21.0.7', b3 = '10.21.0.8', b4 = '10.21.0.8', a-name-too-long-to-be = '10.21.0.5' }
              |                                                      ^^^^^^^^^^^

            error: `b4` and `b3` both want 10.21.0.8
             --> lab.toml:7:90
              |
            7 | host = { weft-b = '10.21.0.1', b2 = '10.30.0.1', B = '10.21.0.7', b3 = '10.21.0.8', b4 = '10.21.0.8', a-name-too-long-to-be = '10.21.0.5' }
              |                                                                                          ^^^^^^^^^^^
            hint: choose from 10.21.0.2 to 10.21.0.254

            error: `a-name-too-long-to-be` is too long for a network interface
             --> lab.toml:7:127
              |
            7 | host = { weft-b = '10.21.0.1', b2 = '10.30.0.1', B = '10.21.0.7', b3 = '10.21.0.8', b4 = '10.21.0.8', a-name-too-long-to-be = '10.21.0.5' }
              |                                                                                                                               ^^^^^^^^^^^
            hint: use at most 15 characters

            error: the host is on network `b` itself, at an address of its own
             --> lab.toml:8:15
              |
            8 | host_access = true
              |               ^^^^
            hint: write `mode = "nat"`, or remove `host_access`

            error: nothing from outside reaches network `b`, so tcp/127.0.0.1:8080 cannot lead there
             --> lab.toml:9:13
              |
            9 | forwards = ['8080 -> host:80']
              |             ^^^^^^^^^^^^^^^^^
            hint: write `mode = "nat"`, or remove the forward

            error: nothing leaves network `b`, so nobody can be asked for `corp`
              --> lab.toml:10:28
               |
            10 | dns = { forward = { corp = '10.1.1.1' } }
               |                            ^^^^^^^^^^
            hint: write `mode = "nat"`, or remove it

            error: `host` is the name of the host itself on network `b`
              --> lab.toml:11:18
               |
            11 | hosts = { host = '10.21.0.77' }
               |                  ^^^^^^^^^^^^
            hint: choose another name

            error: the host has `weft-b` on network `b` already
              --> lab.toml:14:19
               |
            14 | host = { weft-b = '10.20.0.9' }
               |                   ^^^^^^^^^^^
            hint: give each adapter a name of its own

            error: `host` must be an address or a table, not an integer
              --> lab.toml:16:8
               |
            16 | host = 7
               |        ^
            hint: write it like `host = "10.20.0.254"`

            error: `host` is the name of the host itself on network `b`
              --> lab.toml:17:5
               |
            17 | [vm.host]
               |     ^^^^
            hint: call the VM something else

            error: 10.21.0.8 is the host's on network `b`
              --> lab.toml:18:31
               |
            18 | nics = [{ network = 'b', ip = '10.21.0.8' }]
               |                               ^^^^^^^^^^^
            hint: choose from 10.21.0.2 to 10.21.0.254

            14 problems in lab.toml; nothing was changed
        "#]],
    );
}
