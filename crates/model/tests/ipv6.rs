//! The IPv6 prefixes of networks.

use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::{HostFacts, World, parse_world};

fn world(path: &str, source: &str) -> World {
    let parsed = parse_world(source, Path::new(path), "lab.toml", &HostFacts::default());
    parsed.unwrap_or_else(|report| panic!("{report}"))
}

fn prefix(world: &World, network: &str) -> Option<String> {
    world.networks[&network.parse().unwrap()].subnet6.map(|net| net.to_string())
}

fn refused(source: &str, expected: Expect) {
    let parsed = parse_world(source, Path::new("/lab/lab.toml"), "lab.toml", &HostFacts::default());
    expected.assert_eq(&parsed.expect_err("it is wrong").to_string());
}

#[test]
fn a_network_has_no_ipv6_unless_its_file_says_so() {
    let world = world("/lab/lab.toml", "[network.a]\n[network.b]\nipv6 = false\n[vm.x]\nnics = ['nat']\n");
    assert!(world.networks.values().all(|network| network.subnet6.is_none()));
}

#[test]
fn a_prefix_follows_from_the_names_of_file_and_network() {
    let one = world("/lab/lab.toml", "[network.a]\nipv6 = true\n[network.b]\nmode = 'internal'\nipv6 = true\n");
    let other = world("/lab/lab.toml", "[network.new]\nipv6 = true\n[network.b]\nipv6 = true\n");
    let elsewhere = world("/lab/other.toml", "[network.b]\nipv6 = true\n");
    assert_eq!(prefix(&one, "b"), prefix(&other, "b"), "an edit elsewhere in the file moves nothing");
    assert_ne!(prefix(&one, "b"), prefix(&elsewhere, "b"));
    let nets: Vec<_> = one.networks.values().filter_map(|network| network.subnet6).collect();
    assert!(nets.iter().all(|net| net.prefix_len() == 64 && net.addr().octets()[0] == 0xfd), "{nets:?}");
    assert_eq!(nets[0].addr().segments()[..3], nets[1].addr().segments()[..3], "one site (RFC 4193)");
    assert_ne!(nets[0], nets[1]);
}

#[test]
fn a_chosen_prefix_keeps_clear_of_a_written_one() {
    let chosen = prefix(&world("/lab/lab.toml", "[network.a]\nipv6 = true\n"), "a").unwrap();
    let both = world("/lab/lab.toml", &format!("[network.a]\nipv6 = true\n[network.b]\nipv6 = '{chosen}'\n"));
    assert_eq!(prefix(&both, "b"), Some(chosen.clone()));
    assert!(prefix(&both, "a").is_some_and(|other| other != chosen));
}

#[test]
fn a_prefix_that_is_written_is_taken() {
    let world = world("/lab/lab.toml", "[network.a]\nipv6 = '2001:db8:7::/64'\n");
    assert_eq!(prefix(&world, "a").as_deref(), Some("2001:db8:7::/64"));
}

#[test]
fn dhcpv6_is_a_word() {
    let world = world("/lab/lab.toml", "[network.a]\nipv6 = true\ndhcp6 = 'stateless'\n[network.b]\nipv6 = true\n");
    let words: Vec<_> = world.networks.values().map(|network| network.dhcp6.map(|kind| kind.as_str())).collect();
    assert_eq!(words, [Some("stateless"), None]);
}

#[test]
fn what_cannot_be() {
    refused(
        "[network.a]\nipv6 = 6\n[network.b]\nipv6 = 'yes'\n[network.c]\nipv6 = 'fd00::1/64'\n\
         [network.d]\nipv6 = 'fd00::/48'\n[network.e]\nipv6 = 'fe80::/64'\n\
         [network.f]\nipv6 = 'fd00:1::/64'\n[network.g]\nipv6 = 'fd00:1::/64'\n\
         [network.i]\nmtu = 1279\nipv6 = true\n\
         [network.j]\ndhcp6 = 'stateless'\n[network.k]\nipv6 = true\ndhcp6 = 'statefull'\n\
         [network.h]\nmode = 'bridged'\nnic = 'eth7'\nipv6 = true\n",
        expect![[r#"
            error: `ipv6` must be true, false or a prefix, not an integer
             --> lab.toml:2:8
              |
            2 | ipv6 = 6
              |        ^
            hint: write it like `ipv6 = true`

            error: `yes` is not an IPv6 prefix
             --> lab.toml:4:8
              |
            4 | ipv6 = 'yes'
              |        ^^^^^
            hint: write true, and Weft chooses one; or a prefix like `fd12:3456:789a:1::/64`

            error: `fd00::1/64` is an address inside a prefix
             --> lab.toml:6:8
              |
            6 | ipv6 = 'fd00::1/64'
              |        ^^^^^^^^^^^^
            hint: write `fd00::/64`

            error: fd00::/48 cannot be a network's prefix: stations make their addresses from 64 bits
             --> lab.toml:8:8
              |
            8 | ipv6 = 'fd00::/48'
              |        ^^^^^^^^^^^
            hint: write a prefix of 64 bits

            error: fe80::/64 cannot be used: fe80::/10 is for link-local addresses
              --> lab.toml:10:8
               |
            10 | ipv6 = 'fe80::/64'
               |        ^^^^^^^^^^^
            hint: use a private one, like `fd12:3456:789a:1::/64`, or write `ipv6 = true`

            error: the IPv6 prefix of `g` overlaps with fd00:1::/64 of network `f`
              --> lab.toml:14:8
               |
            14 | ipv6 = 'fd00:1::/64'
               |        ^^^^^^^^^^^^^
            hint: choose another one; or write `ipv6 = true`, and Weft chooses one

            error: network `i` takes packets of 1279 bytes: IPv6 needs 1280
              --> lab.toml:17:8
               |
            17 | ipv6 = true
               |        ^^^^
            hint: write a larger `mtu`, or remove `ipv6`

            error: network `j` has no IPv6 of which DHCPv6 could tell
              --> lab.toml:19:9
               |
            19 | dhcp6 = 'stateless'
               |         ^^^^^^^^^^^
            hint: write `ipv6 = true`, or remove `dhcp6`

            error: `statefull` is not a value of `dhcp6`
              --> lab.toml:22:9
               |
            22 | dhcp6 = 'statefull'
               |         ^^^^^^^^^^^
            hint: did you mean `stateful`?

            error: `ipv6` means nothing for a bridged network: its addresses and names are the LAN's
              --> lab.toml:26:8
               |
            26 | ipv6 = true
               |        ^^^^
            hint: remove it, or choose another `mode`

            10 problems in lab.toml; nothing was changed
        "#]],
    );
}
