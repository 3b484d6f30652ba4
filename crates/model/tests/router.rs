//! What files say about routers.

use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::{HostFacts, Router, parse_world};
use weft_types::Permission;

/// The router `core` of a file with two networks, the LAN, and a machine on each network.
fn load(router: &str) -> Result<Router, String> {
    let networks = "[network.web]\n[network.db]\nmode = 'internal'\n[network.lan]\nmode = 'bridged'\nnic = 'eth0'\n";
    let vms = "[vm.front]\nnics = ['web']\n[vm.store]\nnics = ['db']\n[vm.away]\nnics = ['lan']\n";
    let groups = "[group.all]\nmembers = ['front', 'store']\n";
    let source = format!("[router.core]\n{router}\n{networks}{vms}{groups}");
    let world = parse_world(&source, Path::new("/lab/weft.toml"), "weft.toml", &HostFacts::default());
    world.map(|mut world| world.routers.remove(&"core".parse().unwrap()).unwrap()).map_err(|report| report.to_string())
}

#[test]
fn networks_that_are_joined() {
    let router = load("networks = ['web', 'db']\nrules = ['allow web -> db tcp/5432', 'name: deny all -> 10.0.0.0/8']");
    let router = router.unwrap();
    let rules: Vec<_> = router.acl.rules.iter().map(|it| (it.rule.title(), it.provenance.line.unwrap())).collect();
    assert_eq!(rules, [("allow web -> db tcp/5432".to_owned(), 3), ("name".to_owned(), 3)]);
    assert_eq!((router.acl.default, router.provenance.line), (Permission::Deny, Some(1)));
    let router = load("networks = ['web', 'db']\ndefault = 'allow'").unwrap();
    assert_eq!((router.acl.default, router.acl.rules.len()), (Permission::Allow, 0));
    let text = serde_json::to_string(&router).unwrap();
    assert_eq!(serde_json::from_str::<Router>(&text).unwrap(), router);
}

#[test]
fn the_host_is_one_of_those_that_rules_name() {
    let load = |mode: &str| {
        let source = format!(
            "[network.web]\nmode = '{mode}'\n[network.db]\n[router.core]\nnetworks = ['web', 'db']\n\
             rules = ['allow db -> host tcp/22']\n"
        );
        parse_world(&source, Path::new("/lab/weft.toml"), "weft.toml", &HostFacts::default()).is_ok()
    };
    assert!(load("host-only"));
    assert!(!load("internal"), "it is on none of the two");
}

#[test]
fn networks_that_cannot_be_joined() {
    let check = |router: &str, expected: Expect| expected.assert_eq(&load(router).expect_err("something is wrong"));
    check(
        "",
        expect![[r#"
        error: the router joins no networks
         --> weft.toml:1:9
          |
        1 | [router.core]
          |         ^^^^
        hint: write `networks = ["NAME", "NAME"]`: what it joins
    "#]],
    );
    check(
        "networks = ['web']\ndefault = 'deny'",
        expect![[r#"
        error: a router joins two networks or more, and here is one
         --> weft.toml:2:12
          |
        2 | networks = ['web']
          |            ^^^^^^^
        hint: name another network
    "#]],
    );
    check(
        "networks = ['web', 'db']",
        expect![[r#"
        error: the router has no rules, so nothing would pass it
         --> weft.toml:1:9
          |
        1 | [router.core]
          |         ^^^^
        hint: write `rules = ["allow NETWORK -> NETWORK tcp/5432"]`, or `default = "allow"`
    "#]],
    );
    check(
        "networks = ['web', 'dbs', 'lan', 'web']\nrules = []",
        expect![[r#"
        error: there is no network `dbs`
         --> weft.toml:2:20
          |
        2 | networks = ['web', 'dbs', 'lan', 'web']
          |                    ^^^^^
        hint: did you mean `db`?

        error: `lan` is the LAN's, which has routers of its own
         --> weft.toml:2:27
          |
        2 | networks = ['web', 'dbs', 'lan', 'web']
          |                           ^^^^^
        hint: join networks of mode `nat`, `host-only` or `internal`

        error: `web` stands here twice
         --> weft.toml:2:34
          |
        2 | networks = ['web', 'dbs', 'lan', 'web']
          |                                  ^^^^^
        hint: name each network once

        3 problems in weft.toml; nothing was changed
    "#]],
    );
    check(
        "networks = ['web', 'db']\nrules = ['allow web -> gateway', 'log allow web -> db', 'allow away -> db', 'allow webb -> any']",
        expect![[r#"
            error: what is for a gateway goes through no router
             --> weft.toml:3:10
              |
            3 | rules = ['allow web -> gateway', 'log allow web -> db', 'allow away -> db', 'allow webb -> any']
              |          ^^^^^^^^^^^^^^^^^^^^^^
            hint: name networks, machines, groups or prefixes

            error: the decisions of a router are counted, but not logged
             --> weft.toml:3:34
              |
            3 | rules = ['allow web -> gateway', 'log allow web -> db', 'allow away -> db', 'allow webb -> any']
              |                                  ^^^^^^^^^^^^^^^^^^^^^
            hint: remove `log`

            error: `away` is not on a network of router `core`, so the rule would never fit
             --> weft.toml:3:57
              |
            3 | rules = ['allow web -> gateway', 'log allow web -> db', 'allow away -> db', 'allow webb -> any']
              |                                                         ^^^^^^^^^^^^^^^^^^
            hint: give it an adapter there, or remove the rule

            error: there is neither a network of the router, a VM nor a group `webb`
             --> weft.toml:3:77
              |
            3 | rules = ['allow web -> gateway', 'log allow web -> db', 'allow away -> db', 'allow webb -> any']
              |                                                                             ^^^^^^^^^^^^^^^^^^^
            hint: did you mean `web`?

            4 problems in weft.toml; nothing was changed
        "#]],
    );
    check(
        "networks = ['web', 'db']\nrules = ['allow web -> db', 'allow web -> db']\nmtu = 9",
        expect![[r#"
        error: `allow web -> db` stands here twice, first as rule 1
         --> weft.toml:3:29
          |
        3 | rules = ['allow web -> db', 'allow web -> db']
          |                             ^^^^^^^^^^^^^^^^^
        hint: remove or rename one of the two

        error: `mtu` is not a key of a router
         --> weft.toml:4:1
          |
        4 | mtu = 9
          | ^^^
        hint: a router has the keys `networks`, `rules`, `default` and `connections`

        2 problems in weft.toml; nothing was changed
    "#]],
    );
    check(
        "networks = ['web', 'db']\nrules = []\n[router.other]\nnetworks = ['db', 'web']\nrules = []",
        expect![[r#"
            error: `db` and `web` are joined by router `core` already
             --> weft.toml:5:12
              |
            5 | networks = ['db', 'web']
              |            ^^^^^^^^^^^^^
            hint: join two networks by one router, and put all rules there
        "#]],
    );
}
