//! What files say about several uplinks.

use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::{Team, TeamMode, parse_switch};

/// The team of a switch whose file says this about it, with the uplinks `west` and `east`, in that order.
fn load(team: &str) -> Result<Option<Team>, String> {
    let source = format!("[switch]\n{team}\n[port.west]\nnic = 'eth1'\n[port.east]\nvhost = 'e.sock'\nuplink = true\n");
    let switch = parse_switch(&source, Path::new("/lab/lab.toml"), "lab.toml").map_err(|report| report.to_string())?;
    Ok(switch.team)
}

#[test]
fn uplinks_that_are_one_way_out() {
    for (team, mode, members) in [
        ("team = 'active-standby'", TeamMode::ActiveStandby, ["west", "east"]),
        ("team = 'hash'", TeamMode::Hash, ["west", "east"]),
        ("team = { order = ['east', 'west'] }", TeamMode::ActiveStandby, ["east", "west"]),
        ("team = { mode = 'hash', order = ['west', 'east'] }", TeamMode::Hash, ["west", "east"]),
        ("team = {}", TeamMode::ActiveStandby, ["west", "east"]),
    ] {
        let members = members.map(|name| name.parse().unwrap()).to_vec();
        assert_eq!(load(team), Ok(Some(Team { mode, members })), "{team}");
    }
}

#[test]
fn teams_that_are_none() {
    let check = |team: &str, expected: Expect| expected.assert_eq(&load(team).expect_err("something is wrong"));
    check(
        "",
        expect![[r#"
        error: port `west` is the uplink already, and a switch has one way out
         --> lab.toml:7:10
          |
        7 | uplink = true
          |          ^^^^
        hint: remove one of the two, or make them one way out: `team = "active-standby"` in `[switch]`
    "#]],
    );
    check(
        "team = 'lacp'",
        expect![[r#"
        error: `lacp` is no mode of a team
         --> lab.toml:2:8
          |
        2 | team = 'lacp'
          |        ^^^^^^
        hint: choose `active-standby`, or `hash` where the switch at the other end takes the links for one
    "#]],
    );
    check(
        "team = ['west']",
        expect![[r#"
            error: `team` must be a mode or a table, not an array
             --> lab.toml:2:8
              |
            2 | team = ['west']
              |        ^^^^^^^^
            hint: write it like `team = "active-standby"`
        "#]],
    );
    check(
        "team = { mode = 7, order = ['wets', 'east', 'east', 8], members = [] }",
        expect![[r#"
        error: `mode` must be a text, not an integer
         --> lab.toml:2:17
          |
        2 | team = { mode = 7, order = ['wets', 'east', 'east', 8], members = [] }
          |                 ^
        hint: write it like `mode = "active-standby"`

        error: the order leaves out `west`
         --> lab.toml:2:28
          |
        2 | team = { mode = 7, order = ['wets', 'east', 'east', 8], members = [] }
          |                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^
        hint: name every uplink, the preferred one first

        error: there is no uplink `wets`
         --> lab.toml:2:29
          |
        2 | team = { mode = 7, order = ['wets', 'east', 'east', 8], members = [] }
          |                             ^^^^^^
        hint: did you mean `west`?

        error: `east` is in the team twice
         --> lab.toml:2:45
          |
        2 | team = { mode = 7, order = ['wets', 'east', 'east', 8], members = [] }
          |                                             ^^^^^^
        hint: name each uplink once

        error: `order[3]` must be a text, not an integer
         --> lab.toml:2:53
          |
        2 | team = { mode = 7, order = ['wets', 'east', 'east', 8], members = [] }
          |                                                     ^
        hint: write it like `order[3] = "uplink"`

        error: `members` is not a key of a team
         --> lab.toml:2:57
          |
        2 | team = { mode = 7, order = ['wets', 'east', 'east', 8], members = [] }
          |                                                         ^^^^^^^
        hint: a team has the keys `mode` and `order`

        6 problems in lab.toml; nothing was changed
    "#]],
    );
    let alone = parse_switch("[switch]\nteam = 'hash'\n", Path::new("/lab/lab.toml"), "lab.toml").unwrap_err();
    expect![[r#"
        error: a team is of uplinks, and there is none
         --> lab.toml:2:8
          |
        2 | team = 'hash'
          |        ^^^^^^
        hint: write `uplink = true` in the ports that lead out, or give them `nic`
    "#]]
    .assert_eq(&alone.to_string());
}
