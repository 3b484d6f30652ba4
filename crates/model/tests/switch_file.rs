//! What the file of `weft switch run` may say, and every sentence about what it may not.

use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::{Monitor, Plug, SwitchFile, parse_switch};
use weft_types::{Allowance, Attach, NicDriver};

fn load(source: &str) -> Result<SwitchFile, String> {
    parse_switch(source, Path::new("/lab/lab.toml"), "lab.toml").map_err(|report| report.to_string())
}

fn check(source: &str, expected: Expect) {
    match load(source) {
        Ok(switch) => panic!("nothing was wrong: {switch:#?}"),
        Err(report) => expected.assert_eq(&report),
    }
}

#[test]
fn ports_of_every_kind() {
    let switch = load(
        "[switch]\nname = 'lab'\nmtu = 9000\n\
         [port.a]\nvhost = 'a.sock'\nmac = '02:00:00:00:00:01'\n\
         [port.b]\nvhost = '/run/b.sock'\nconnect = true\nmac = '02:00:00:00:00:02'\nmacs = ['02:00:00:00:00:03']\n\
         [port.c]\ntap = 'tap0'\nmac = '02:00:00:00:00:04'\nallow = ['forged-mac']\n\
         [port.d]\nstream = 'd.sock'\nallow = ['promiscuous']\n\
         [port.e]\ndgram = 'e.sock'\npeer = 'f.sock'\nmac = '02:00:00:00:00:05'\n\
         [port.g]\ndgram = 'g.sock'\nmac = '02:00:00:00:00:06'\n\
         [port.i]\nnic = 'eth1'\ndriver = 'xdp'\n\
         [port.h]\nudp = '127.0.0.1:4000'\npeer = '127.0.0.1:4001'\nmac = '02:00:00:00:00:07'\n",
    )
    .unwrap();
    assert_eq!((switch.name.as_str(), switch.mtu), ("lab", 9000));
    let plugs: Vec<_> = switch.ports.values().map(|port| port.plug.clone()).collect();
    let path = |name: &str| Path::new("/lab").join(name);
    assert_eq!(
        plugs,
        [
            Plug::Vhost { socket: path("a.sock"), connect: false },
            Plug::Vhost { socket: path("/run/b.sock"), connect: true },
            Plug::Tap { name: "tap0".to_owned(), host: None },
            Plug::Stream { socket: path("d.sock"), connect: false },
            Plug::Dgram { socket: path("e.sock"), peer: Some(path("f.sock")) },
            Plug::Dgram { socket: path("g.sock"), peer: None },
            Plug::Udp { local: "127.0.0.1:4000".parse().unwrap(), peer: "127.0.0.1:4001".parse().unwrap() },
            Plug::Nic { name: "eth1".to_owned(), attach: Attach::Apart, driver: NicDriver::Xdp },
        ]
    );
    let port = |name: &str| &switch.ports[&name.parse().unwrap()];
    assert_eq!(port("b").rules.macs.len(), 2);
    let allowed = |name: &str| port(name).rules.allow.iter().copied().collect::<Vec<_>>();
    assert_eq!((allowed("c"), allowed("d")), (vec![Allowance::ForgedMac], vec![Allowance::Promiscuous]));
    assert!(port("d").rules.macs.is_empty());
    assert_eq!(port("d").provenance.to_string(), "/lab/lab.toml:16");
    let empty = load("").unwrap();
    assert_eq!((empty.name.as_str(), empty.mtu, empty.ports.len()), ("switch", 1500, 0));
}

#[test]
fn who_knows_what_adapters_listen_to() {
    let switch = load(
        "[port.a]\nvhost = 'a.sock'\nmac = '02:00:00:00:00:01'\nqmp = 'vm.qmp'\n\
         [port.b]\nstream = 'b.sock'\nmac = '02:00:00:00:00:02'\nqmp = { socket = '/run/b.qmp', device = 'nic1' }\n\
         [port.c]\nvhost = 'c.sock'\nmac = '02:00:00:00:00:03'\n",
    )
    .unwrap();
    let monitors: Vec<_> = switch.ports.values().map(|port| port.monitor.clone()).collect();
    let monitor = |socket: &str, device: Option<&str>| {
        Some(Monitor { socket: Path::new("/lab").join(socket), device: device.map(str::to_owned) })
    };
    assert_eq!(monitors, [monitor("vm.qmp", None), monitor("/run/b.qmp", Some("nic1")), None]);
    check(
        "[port.a]\nvhost = 'a.sock'\nmac = '02:00:00:00:00:01'\nqmp = 'vm.qmp'\n\
         [port.b]\nvhost = 'b.sock'\nmac = '02:00:00:00:00:02'\nqmp = 'vm.qmp'\n\
         [port.c]\nvhost = 'c.sock'\nmac = '02:00:00:00:00:03'\nqmp = { device = 'nic0' }\n\
         [port.d]\nvhost = 'd.sock'\nmac = '02:00:00:00:00:04'\nqmp = 7\n\
         [port.e]\nnic = 'eth1'\nqmp = 'e.qmp'\n",
        expect![[r#"
            error: port `a` has the only adapter of the machine at /lab/vm.qmp already
             --> lab.toml:8:7
              |
            8 | qmp = 'vm.qmp'
              |       ^^^^^^^^
            hint: give each port its own

            error: a monitor has a socket
              --> lab.toml:12:7
               |
            12 | qmp = { device = 'nic0' }
               |       ^^^^^^^^^^^^^^^^^^^
            hint: write `socket = "web.qmp"`, where QEMU's `-qmp` listens

            error: `qmp` must be a socket or a table, not an integer
              --> lab.toml:16:7
               |
            16 | qmp = 7
               |       ^
            hint: write it like `qmp = "web.qmp"`

            error: `qmp` means nothing for a port with `nic`
              --> lab.toml:17:7
               |
            17 | [port.e]
               |       ^
            hint: remove it; it goes with `vhost`, `tap`, `stream`, `dgram` and `udp`

            4 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn every_problem_in_one_go() {
    check(
        "[switch]\nname = 'The Lab'\nmtu = 90000\n\n\
         [port.a]\nvhost = 'x.sock'\ntap = 'tap0'\nmac = '02:00:00:00:00:01'\n\n\
         [port.b]\nmac = '02:00:00:00:00:01'\n\n\
         [port.c]\ntap = 'a/b'\nconnect = true\nmac = '01:00:00:00:00:01'\n\n\
         [port.d]\nudp = '127.0.0.1'\nmacs = ['02:00', 7]\n\n\
         [port.e]\nstraem = 'x.sock'\nvhost = 'x.sock'\n\n\
         [port.f]\nudp = '127.0.0.1:1'\nallow = ['promiscuous']\n",
        expect![[r#"
            error: `The Lab` is not a host name: use a-z, 0-9 and `-` inside, for example `the-lab`
             --> lab.toml:2:8
              |
            2 | name = 'The Lab'
              |        ^^^^^^^^^

            error: `mtu` cannot be 90000
             --> lab.toml:3:7
              |
            3 | mtu = 90000
              |       ^^^^^
            hint: choose 576 to 9000

            error: port `a` has `vhost` and `tap`, and one thing plugs into a port
             --> lab.toml:7:7
              |
            7 | tap = 'tap0'
              |       ^^^^^^
            hint: make a port of its own for each

            error: nothing plugs into port `b`
              --> lab.toml:10:7
               |
            10 | [port.b]
               |       ^
            hint: give it one of the keys `vhost`, `tap`, `stream`, `dgram`, `udp` and `nic`

            error: port `a` has the MAC address 02:00:00:00:00:01 already
              --> lab.toml:11:7
               |
            11 | mac = '02:00:00:00:00:01'
               |       ^^^^^^^^^^^^^^^^^^^
            hint: give each port its own

            error: `a/b` cannot be an interface's name
              --> lab.toml:14:7
               |
            14 | tap = 'a/b'
               |       ^^^^^
            hint: use 1 to 15 characters without `/`, `:`, `%` and spaces

            error: `connect` means nothing for a port with `tap`
              --> lab.toml:15:11
               |
            15 | connect = true
               |           ^^^^
            hint: remove it; it goes with `vhost` and `stream`

            error: 01:00:00:00:00:01 is no address that an adapter can have
              --> lab.toml:16:7
               |
            16 | mac = '01:00:00:00:00:01'
               |       ^^^^^^^^^^^^^^^^^^^
            hint: use one whose first octet is even, like 02:00:5e:10:00:01

            error: port `d` does not say who it talks to
              --> lab.toml:18:7
               |
            18 | [port.d]
               |       ^
            hint: write `peer = "ADDRESS:PORT"`: from everybody else, nothing is taken

            error: `127.0.0.1`: invalid socket address syntax
              --> lab.toml:19:7
               |
            19 | udp = '127.0.0.1'
               |       ^^^^^^^^^^^

            error: `02:00` is not a MAC address: write six octets like `02:00:5e:10:00:01`
              --> lab.toml:20:9
               |
            20 | macs = ['02:00', 7]
               |         ^^^^^^^

            error: `macs[1]` must be a text, not an integer
              --> lab.toml:20:18
               |
            20 | macs = ['02:00', 7]
               |                  ^
            hint: write it like `macs[1] = "02:00:5e:10:00:01"`

            error: port `e` has no MAC address, so nothing would ever be sent to it
              --> lab.toml:22:7
               |
            22 | [port.e]
               |       ^
            hint: write `mac = "…"`, the address of the adapter behind it; a switch does not guess

            error: `straem` is not a key of a port
              --> lab.toml:23:1
               |
            23 | straem = 'x.sock'
               | ^^^^^^
            hint: did you mean `stream`?

            error: port `a` has the socket /lab/x.sock already
              --> lab.toml:24:9
               |
            24 | vhost = 'x.sock'
               |         ^^^^^^^^
            hint: give each port its own

            error: port `f` does not say who it talks to
              --> lab.toml:26:7
               |
            26 | [port.f]
               |       ^
            hint: write `peer = "ADDRESS:PORT"`: from everybody else, nothing is taken

            16 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn an_adapter_of_the_host() {
    let switch = load("[port.host]\ntap = 'weft-lab'\nhost = '10.9.0.1/24'\nmac = '02:00:00:00:00:01'\n").unwrap();
    let host = Some("10.9.0.1/24".parse().unwrap());
    assert_eq!(switch.ports[&"host".parse().unwrap()].plug, Plug::Tap { name: "weft-lab".to_owned(), host });
    check(
        "[port.a]\ntap = 'a'\nhost = '10.9.0.0/24'\nmac = '02:00:00:00:00:01'\n\n\
         [port.b]\ntap = 'b'\nhost = '10.9.0.1/24'\nallow = ['promiscuous']\n\n\
         [port.c]\nvhost = 'c.sock'\nhost = '10.9.0.1/24'\nmac = '02:00:00:00:00:03'\n\n\
         [port.d]\ntap = 'd'\nhost = '224.0.0.1/24'\nmac = '02:00:00:00:00:04'\n",
        expect![[r#"
            error: 10.9.0.0/24 is no address that the host can have on a network
             --> lab.toml:3:8
              |
            3 | host = '10.9.0.0/24'
              |        ^^^^^^^^^^^^^
            hint: write one of the network's addresses, neither its first nor its last, like `10.9.0.1/24`

            error: the host's adapter needs a MAC address
             --> lab.toml:8:8
              |
            8 | host = '10.9.0.1/24'
              |        ^^^^^^^^^^^^^
            hint: write `mac = "02:00:5e:10:00:01"`

            error: `host` means nothing for a port with `vhost`
              --> lab.toml:13:8
               |
            13 | host = '10.9.0.1/24'
               |        ^^^^^^^^^^^^^
            hint: remove it; it goes with `tap`

            error: 224.0.0.1/24 is no address that the host can have on a network
              --> lab.toml:18:8
               |
            18 | host = '224.0.0.1/24'
               |        ^^^^^^^^^^^^^^
            hint: write one of the network's addresses, neither its first nor its last, like `10.9.0.1/24`

            4 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn a_text_that_is_no_toml() {
    check(
        "[port.a\nvhost = 1",
        expect![[r#"
        error: this is not TOML: unclosed table, expected `]`
         --> lab.toml:1:8
          |
        1 | [port.a
          |        ^
    "#]],
    );
}
