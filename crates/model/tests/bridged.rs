//! Networks that are part of the LAN.

use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::{HostFacts, Mode, World, parse_world};
use weft_types::Attach;

fn load(source: &str) -> Result<World, String> {
    parse_world(source, Path::new("/lab/lab.toml"), "lab.toml", &HostFacts::default()).map_err(|e| e.to_string())
}

fn check(source: &str, expected: Expect) {
    expected.assert_eq(&load(source).unwrap_err());
}

#[test]
fn a_network_on_the_lan() {
    let source = "[network.lan]\nmode = 'bridged'\nnic = 'eth9'\n[network.own]\n[network.dmz]\nmode = 'bridged'\n\
                  nic = 'br0'\nattach = 'existing-bridge'\n\
                  [vm.a]\nnics = [{ network = 'lan', vlan = 7, addresses = ['192.0.2.7'] }, 'own']\n";
    let world = load(source).unwrap();
    let network = |name: &str| &world.networks[&name.parse().unwrap()];
    let uplink = |name: &str| network(name).uplink.as_ref().map(|uplink| (uplink.nic.as_str(), uplink.attach));
    assert_eq!(uplink("lan"), Some(("eth9", Attach::Shared)));
    assert_eq!(uplink("dmz"), Some(("br0", Attach::ExistingBridge)));
    assert_eq!(uplink("own"), None);
    let lan = network("lan");
    assert_eq!((lan.mode, lan.subnet.to_string().as_str(), lan.mtu), (Mode::Bridged, "0.0.0.0/0", 1500));
    assert!(lan.gateway.is_unspecified() && lan.dhcp.is_none() && !lan.dns);
    assert_eq!(network("own").subnet.to_string(), "10.20.0.0/24", "the LAN's addresses are not counted");
}

#[test]
fn what_is_wrong_with_one() {
    check(
        "[network.lan]\nmode = 'bridged'\n[network.b]\nmode = 'bridged'\nnic = 'no/such'\nattach = 'existing'\n\
         [network.c]\nnic = 'eth0'\n",
        expect![[r#"
            error: the bridged network does not say by which interface of the host it reaches the LAN
             --> lab.toml:1:10
              |
            1 | [network.lan]
              |          ^^^
            hint: write `nic = "eth0"`; `ip -br link` lists what this host has

            error: `no/such` cannot be an interface's name
             --> lab.toml:5:7
              |
            5 | nic = 'no/such'
              |       ^^^^^^^^^
            hint: use 1 to 15 characters without `/`, `:`, `%` and spaces

            error: `existing` is not a value of `attach`
             --> lab.toml:6:10
              |
            6 | attach = 'existing'
              |          ^^^^^^^^^^
            hint: choose from `apart`, `shared`, `existing-bridge` and `macvtap`

            error: `nic` means nothing for a network that is not bridged
             --> lab.toml:8:7
              |
            8 | nic = 'eth0'
              |       ^^^^^^
            hint: write `mode = "bridged"`, or remove it

            4 problems in lab.toml; nothing was changed
        "#]],
    );
    check(
        "[network.lan]\nmode = 'bridged'\nnic = 'eth0'\nsubnet = '192.0.2.0/24'\ndhcp = false\nforwards = ['8080 -> a:80']\n\
         [network.b]\nmode = 'bridged'\nnic = 'eth0'\nrules = ['deny a -> gateway']\n\
         [vm.a]\nnics = [{ network = 'lan', ip = '192.0.2.7' }, 'b']\n",
        expect![[r#"
            error: `subnet` means nothing for a bridged network: its addresses and names are the LAN's
             --> lab.toml:4:10
              |
            4 | subnet = '192.0.2.0/24'
              |          ^^^^^^^^^^^^^^
            hint: remove it, or choose another `mode`

            error: `dhcp` means nothing for a bridged network: its addresses and names are the LAN's
             --> lab.toml:5:8
              |
            5 | dhcp = false
              |        ^^^^^
            hint: remove it, or choose another `mode`

            error: the machines of `lan` stand on the LAN, and are reached at their own addresses
             --> lab.toml:6:13
              |
            6 | forwards = ['8080 -> a:80']
              |             ^^^^^^^^^^^^^^
            hint: remove the forward

            error: `eth0` belongs to network `lan` already
             --> lab.toml:9:7
              |
            9 | nic = 'eth0'
              |       ^^^^^^
            hint: plug into `lan` instead; `vlan` in an adapter gives it a VLAN of its own there

            error: network `b` has no gateway
              --> lab.toml:10:10
               |
            10 | rules = ['deny a -> gateway']
               |          ^^^^^^^^^^^^^^^^^^^
            hint: name ports, groups or prefixes

            error: network `lan` is bridged: addresses on it are given by the LAN
              --> lab.toml:12:33
               |
            12 | nics = [{ network = 'lan', ip = '192.0.2.7' }, 'b']
               |                                 ^^^^^^^^^^^
            hint: set it in the guest, and write `addresses` here, so that the guest may use it

            6 problems in lab.toml; nothing was changed
        "#]],
    );
}
