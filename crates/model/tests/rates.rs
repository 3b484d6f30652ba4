//! What files say about how fast ports may be.

use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::parse_switch;
use weft_types::PortRates;

fn load(rate: &str) -> Result<PortRates, String> {
    let source = format!("[port.a]\ntap = 'a'\nmac = '02:00:00:00:00:01'\nrate = {rate}\n");
    let switch = parse_switch(&source, Path::new("/lab/lab.toml"), "lab.toml").map_err(|report| report.to_string())?;
    Ok(switch.ports[&"a".parse().unwrap()].rules.rates)
}

fn check(rate: &str, expected: Expect) {
    expected.assert_eq(&load(rate).expect_err("something is wrong"));
}

#[test]
fn rates_both_ways_or_each() {
    for (rate, words) in [
        ("'100Mbit/s'", "in 100Mbit/s, out 100Mbit/s, the rest waits"),
        ("{ in = '64kbit/s' }", "in 64kbit/s, the rest waits"),
        (
            "{ in = '1Gbit/s', out = '2.5Gbit/s', burst = '64KiB', excess = 'drop' }",
            "in 1Gbit/s, out 2.5Gbit/s, burst 64KiB, the rest is dropped",
        ),
        ("{ out = '1Tbit/s', excess = 'wait' }", "out 1Tbit/s, the rest waits"),
    ] {
        assert_eq!(load(rate).unwrap().to_string(), words);
    }
}

#[test]
fn rates_that_are_none() {
    check(
        "100",
        expect![[r#"
        error: `rate` must be a text or a table, not an integer
         --> lab.toml:4:8
          |
        4 | rate = 100
          |        ^^^
        hint: write it like `rate = "100Mbit/s"` or `rate = { in = "100Mbit/s", out = "1Gbit/s" }`
    "#]],
    );
    check(
        "'100MB/s'",
        expect![[r#"
        error: `100MB/s` is not a rate: write a number and a unit, like `100Mbit/s` or `2.5Gbit/s`
         --> lab.toml:4:8
          |
        4 | rate = '100MB/s'
          |        ^^^^^^^^^
    "#]],
    );
    check(
        "'1kbit/s'",
        expect![[r#"
        error: a rate of 1kbit/s is too slow or too fast: choose 64kbit/s to 1Tbit/s
         --> lab.toml:4:8
          |
        4 | rate = '1kbit/s'
          |        ^^^^^^^^^
    "#]],
    );
    check(
        "{ burst = '64KiB' }",
        expect![[r#"
        error: the rate is for neither way
         --> lab.toml:4:8
          |
        4 | rate = { burst = '64KiB' }
          |        ^^^^^^^^^^^^^^^^^^^
        hint: write `in` (how fast what is behind the port may send), `out` (how fast it is sent to), or both
    "#]],
    );
    check(
        "{ in = '1Mbit/s', burst = '0B' }",
        expect![[r#"
        error: a burst cannot be 0B
         --> lab.toml:4:34
          |
        4 | rate = { in = '1Mbit/s', burst = '0B' }
          |                                  ^^^^
        hint: choose 1B to 1GiB, or leave it out
    "#]],
    );
    check(
        "{ in = 7, out = 'fast', burst = '2GiB', excess = 'queue', ous = '1Gbit/s' }",
        expect![[r#"
        error: `in` must be a text, not an integer
         --> lab.toml:4:15
          |
        4 | rate = { in = 7, out = 'fast', burst = '2GiB', excess = 'queue', ous = '1Gbit/s' }
          |               ^
        hint: write it like `in = "100Mbit/s"`

        error: `fast` is not a rate: write a number and a unit, like `100Mbit/s` or `2.5Gbit/s`
         --> lab.toml:4:24
          |
        4 | rate = { in = 7, out = 'fast', burst = '2GiB', excess = 'queue', ous = '1Gbit/s' }
          |                        ^^^^^^

        error: a burst cannot be 2GiB
         --> lab.toml:4:40
          |
        4 | rate = { in = 7, out = 'fast', burst = '2GiB', excess = 'queue', ous = '1Gbit/s' }
          |                                        ^^^^^^
        hint: choose 1B to 1GiB, or leave it out

        error: `queue` is nothing that becomes of what is too fast
         --> lab.toml:4:57
          |
        4 | rate = { in = 7, out = 'fast', burst = '2GiB', excess = 'queue', ous = '1Gbit/s' }
          |                                                         ^^^^^^^
        hint: choose `wait` (shaping), or `drop` (policing)

        error: `ous` is not a key of a rate
         --> lab.toml:4:66
          |
        4 | rate = { in = 7, out = 'fast', burst = '2GiB', excess = 'queue', ous = '1Gbit/s' }
          |                                                                  ^^^
        hint: did you mean `out`?

        5 problems in lab.toml; nothing was changed
    "#]],
    );
}
