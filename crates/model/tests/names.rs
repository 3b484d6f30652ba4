//! What files say about names that are no machine's.

use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::{HostFacts, parse_world};
use weft_types::DnsNames;

/// The names of the network `office`, of which the file says this; the VM `web` is on it, `db` on another.
fn load(office: &str) -> Result<DnsNames, String> {
    let source = format!(
        "[network.office]\n{office}\n[network.backstage]\nmode = 'internal'\n\
         [vm.web]\nnics = ['office']\n[vm.db]\nnics = ['backstage']\n"
    );
    let world = parse_world(&source, Path::new("/lab/lab.toml"), "lab.toml", &HostFacts::default());
    let world = world.map_err(|report| report.to_string())?;
    Ok(world.networks[&"office".parse().unwrap()].names.clone())
}

#[test]
fn names_and_who_knows_them() {
    let names = load(
        "hosts = { Printer = '10.20.0.9', 'git.example.org' = ['192.0.2.7', '2001:db8::7'] }\n\
         cnames = { www = 'web', 'www.example.org' = 'www', gw = 'gateway', code = 'git.example.org.' }\n\
         dns = { forward = { 'corp.example' = '10.1.1.1', lab = ['10.1.1.2:5353', 'fd00::1', '[fd00::2]:5353'] } }",
    )
    .unwrap();
    expect![[r#"
        DnsNames {
            hosts: {
                "git.example.org": [
                    192.0.2.7,
                    2001:db8::7,
                ],
                "printer": [
                    10.20.0.9,
                ],
            },
            cnames: {
                "code": "git.example.org",
                "gw": "gateway",
                "www": "web",
                "www.example.org": "www",
            },
            forward: {
                "corp.example": [
                    10.1.1.1:53,
                ],
                "lab": [
                    10.1.1.2:5353,
                    [fd00::1]:53,
                    [fd00::2]:5353,
                ],
            },
        }"#]]
    .assert_eq(&format!("{names:#?}"));
    assert_eq!(load("dns = true"), Ok(DnsNames::default()));
    assert_eq!(load("dns = false"), Ok(DnsNames::default()));
}

fn check(office: &str, expected: Expect) {
    expected.assert_eq(&load(office).unwrap_err());
}

#[test]
fn names_that_nobody_can_have() {
    check(
        "hosts = { web = '10.20.0.9', gateway = '10.20.0.9', 'a b' = '10.20.0.9', '10.20.0.9' = 'printer' }",
        expect![[r#"
            error: `web` is the name of a VM on network `office`
             --> lab.toml:2:17
              |
            2 | hosts = { web = '10.20.0.9', gateway = '10.20.0.9', 'a b' = '10.20.0.9', '10.20.0.9' = 'printer' }
              |                 ^^^^^^^^^^^
            hint: choose another name, or remove this one

            error: `gateway` means something on each network
             --> lab.toml:2:40
              |
            2 | hosts = { web = '10.20.0.9', gateway = '10.20.0.9', 'a b' = '10.20.0.9', '10.20.0.9' = 'printer' }
              |                                        ^^^^^^^^^^^
            hint: choose another name

            error: `a b` is no DNS name: it consists of letters, digits, `-` and `_`, with dots between them
             --> lab.toml:2:53
              |
            2 | hosts = { web = '10.20.0.9', gateway = '10.20.0.9', 'a b' = '10.20.0.9', '10.20.0.9' = 'printer' }
              |                                                     ^^^^^

            error: `10.20.0.9` is an address, not a DNS name
             --> lab.toml:2:74
              |
            2 | hosts = { web = '10.20.0.9', gateway = '10.20.0.9', 'a b' = '10.20.0.9', '10.20.0.9' = 'printer' }
              |                                                                          ^^^^^^^^^^^

            4 problems in lab.toml; nothing was changed
        "#]],
    );
    check(
        "hosts = { printer = 'office', scanner = [], fax = 7, 'x.office.weft' = '10.20.0.9', any = '0.0.0.0' }",
        expect![[r#"
            error: `office`: invalid IP address syntax
             --> lab.toml:2:21
              |
            2 | hosts = { printer = 'office', scanner = [], fax = 7, 'x.office.weft' = '10.20.0.9', any = '0.0.0.0' }
              |                     ^^^^^^^^

            error: `scanner` has no address
             --> lab.toml:2:41
              |
            2 | hosts = { printer = 'office', scanner = [], fax = 7, 'x.office.weft' = '10.20.0.9', any = '0.0.0.0' }
              |                                         ^^
            hint: give it one address, or up to 64

            error: `fax` must be a text or a list of texts, not an integer
             --> lab.toml:2:51
              |
            2 | hosts = { printer = 'office', scanner = [], fax = 7, 'x.office.weft' = '10.20.0.9', any = '0.0.0.0' }
              |                                                   ^
            hint: write it like `fax = ["10.20.0.9"]`

            error: `x.office.weft`: what ends in `weft` is made of other names
             --> lab.toml:2:72
              |
            2 | hosts = { printer = 'office', scanner = [], fax = 7, 'x.office.weft' = '10.20.0.9', any = '0.0.0.0' }
              |                                                                        ^^^^^^^^^^^
            hint: write just `x`: it is `x.office.weft` by itself

            error: 0.0.0.0 is not the address of a host
             --> lab.toml:2:91
              |
            2 | hosts = { printer = 'office', scanner = [], fax = 7, 'x.office.weft' = '10.20.0.9', any = '0.0.0.0' }
              |                                                                                           ^^^^^^^^^
            hint: give it one address, or up to 64

            5 problems in lab.toml; nothing was changed
        "#]],
    );
    check(
        "hosts = { Printer = '10.20.0.9', printer = '10.20.0.10' }",
        expect![[r#"
        error: `printer` stands here twice: DNS does not tell upper from lower case
         --> lab.toml:2:44
          |
        2 | hosts = { Printer = '10.20.0.9', printer = '10.20.0.10' }
          |                                            ^^^^^^^^^^^^
        hint: keep one of them
    "#]],
    );
    check(
        "hosts = ['printer']\ncnames = 'web'\ndns = 'on'",
        expect![[r#"
        error: `hosts` must be a table of names, not an array
         --> lab.toml:2:9
          |
        2 | hosts = ['printer']
          |         ^^^^^^^^^^^
        hint: write it like `hosts = { printer = "10.20.0.9" }`

        error: `cnames` must be a table of names, not a string
         --> lab.toml:3:10
          |
        3 | cnames = 'web'
          |          ^^^^^
        hint: write it like `cnames = { www = "web" }`

        error: `dns` must be true, false or a table, not a string
         --> lab.toml:4:7
          |
        4 | dns = 'on'
          |       ^^^^
        hint: write it like `dns = { forward = { "corp.example" = ["10.1.1.1"] } }`

        3 problems in lab.toml; nothing was changed
    "#]],
    );
}

#[test]
fn other_names_of_nobody() {
    check(
        "hosts = { printer = '10.20.0.9' }\ncnames = { www = 'wbe', data = 'db', printer = 'web', web = 'printer' }",
        expect![[r#"
            error: nobody on network `office` is called `wbe`
             --> lab.toml:3:18
              |
            3 | cnames = { www = 'wbe', data = 'db', printer = 'web', web = 'printer' }
              |                  ^^^^^
            hint: did you mean `web`?

            error: nobody on network `office` is called `db`
             --> lab.toml:3:32
              |
            3 | cnames = { www = 'wbe', data = 'db', printer = 'web', web = 'printer' }
              |                                ^^^^
            hint: known are `data`, `printer`, `web` and `www`

            error: `printer` has addresses in `hosts` already, so it cannot stand for `web` too
             --> lab.toml:3:48
              |
            3 | cnames = { www = 'wbe', data = 'db', printer = 'web', web = 'printer' }
              |                                                ^^^^^
            hint: remove one of them

            error: `web` is the name of a VM on network `office`
             --> lab.toml:3:61
              |
            3 | cnames = { www = 'wbe', data = 'db', printer = 'web', web = 'printer' }
              |                                                             ^^^^^^^^^
            hint: choose another name, or remove this one

            4 problems in lab.toml; nothing was changed
        "#]],
    );
    check(
        "cnames = { a = 'b', b = 'c', c = 'b', me = 'me', ok = 'web' }",
        expect![[r#"
        error: `a` leads nowhere: a -> b -> c -> b
         --> lab.toml:2:16
          |
        2 | cnames = { a = 'b', b = 'c', c = 'b', me = 'me', ok = 'web' }
          |                ^^^
        hint: let one of them stand for a VM or a host

        error: `b` leads nowhere: b -> c -> b
         --> lab.toml:2:25
          |
        2 | cnames = { a = 'b', b = 'c', c = 'b', me = 'me', ok = 'web' }
          |                         ^^^
        hint: let one of them stand for a VM or a host

        error: `c` leads nowhere: c -> b -> c
         --> lab.toml:2:34
          |
        2 | cnames = { a = 'b', b = 'c', c = 'b', me = 'me', ok = 'web' }
          |                                  ^^^
        hint: let one of them stand for a VM or a host

        error: `me` leads nowhere: me -> me
         --> lab.toml:2:44
          |
        2 | cnames = { a = 'b', b = 'c', c = 'b', me = 'me', ok = 'web' }
          |                                            ^^^^
        hint: let one of them stand for a VM or a host

        4 problems in lab.toml; nothing was changed
    "#]],
    );
}

#[test]
fn servers_that_nobody_can_ask() {
    check(
        "dns = { forward = { 'corp.example' = [], lab = ['ns.lab'], x = '0.0.0.0', 'a.weft' = '10.1.1.1', y = '10.1.1.1:0' }, \
         server = 1 }",
        expect![[r#"
            error: nobody is named who knows `corp.example`
             --> lab.toml:2:38
              |
            2 | dns = { forward = { 'corp.example' = [], lab = ['ns.lab'], x = '0.0.0.0', 'a.weft' = '10.1.1.1', y = '10.1.1.1:0' }, server = 1 }
              |                                      ^^
            hint: name one server, or up to 8

            error: `ns.lab` is not the address of a name server
             --> lab.toml:2:49
              |
            2 | dns = { forward = { 'corp.example' = [], lab = ['ns.lab'], x = '0.0.0.0', 'a.weft' = '10.1.1.1', y = '10.1.1.1:0' }, server = 1 }
              |                                                 ^^^^^^^^
            hint: write its address, like `10.1.1.1`, `10.1.1.1:5353` or `[fd00::1]:53`

            error: 0.0.0.0:53 is not the address of a name server
             --> lab.toml:2:64
              |
            2 | dns = { forward = { 'corp.example' = [], lab = ['ns.lab'], x = '0.0.0.0', 'a.weft' = '10.1.1.1', y = '10.1.1.1:0' }, server = 1 }
              |                                                                ^^^^^^^^^
            hint: name one server, or up to 8

            error: what ends in `weft` is answered here, so nobody is asked for `a.weft`
             --> lab.toml:2:86
              |
            2 | dns = { forward = { 'corp.example' = [], lab = ['ns.lab'], x = '0.0.0.0', 'a.weft' = '10.1.1.1', y = '10.1.1.1:0' }, server = 1 }
              |                                                                                      ^^^^^^^^^^
            hint: remove it

            error: 10.1.1.1:0 is not the address of a name server
             --> lab.toml:2:102
              |
            2 | dns = { forward = { 'corp.example' = [], lab = ['ns.lab'], x = '0.0.0.0', 'a.weft' = '10.1.1.1', y = '10.1.1.1:0' }, server = 1 }
              |                                                                                                      ^^^^^^^^^^^^
            hint: name one server, or up to 8

            error: `server` is not a key of a name server
             --> lab.toml:2:118
              |
            2 | dns = { forward = { 'corp.example' = [], lab = ['ns.lab'], x = '0.0.0.0', 'a.weft' = '10.1.1.1', y = '10.1.1.1:0' }, server = 1 }
              |                                                                                                                      ^^^^^^
            hint: a name server has the keys `forward`

            6 problems in lab.toml; nothing was changed
        "#]],
    );
    check(
        "mode = 'internal'\ndns = { forward = { lab = '10.1.1.1' } }",
        expect![[r#"
        error: nothing leaves network `office`, so nobody can be asked for `lab`
         --> lab.toml:3:27
          |
        3 | dns = { forward = { lab = '10.1.1.1' } }
          |                           ^^^^^^^^^^
        hint: write `mode = "nat"`, or remove it
    "#]],
    );
    check(
        "dns = false\nhosts = { printer = '10.20.0.9' }",
        expect![[r#"
        error: nobody answers names on network `office`, so `hosts` does nothing
         --> lab.toml:3:9
          |
        3 | hosts = { printer = '10.20.0.9' }
          |         ^^^^^^^^^^^^^^^^^^^^^^^^^
        hint: remove it, or `dns = false`
    "#]],
    );
}
