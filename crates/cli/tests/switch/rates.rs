//! Rates with real kernels: what waits comes out as fast as it may, in equal shares, and what does not wait is counted.

use std::time::Duration;

use weft_testkit::{in_netns, skipped};

use crate::bed::{Bed, eventually};
use crate::hosts::{Host, has_taps};

const MBIT: u64 = 1_000_000;

/// Three hosts; what the file says about the third's rate.
fn file(rate: &str) -> String {
    let port = |number: u32| format!("[port.h{number}]\ntap = 'h{number}'\nmac = '02:00:00:00:00:0{number}'\n");
    format!("{}{}{}{rate}\n", port(1), port(2), port(3))
}

fn drops(bed: &Bed, port: &str, reason: &str) -> u64 {
    let port = bed.port(port);
    let drop = port["drops"].as_array().unwrap().iter().find(|drop| drop["reason"] == reason).cloned();
    drop.map_or(0, |drop| drop["frames"].as_u64().unwrap())
}

/// What is sent to `to` comes at most 5 % slower or faster than it should. A machine that is busy with other things may
/// spoil a try or two.
fn check(what: &str, from: &Host, to: &Host, kind: &str, expected: u64) {
    let mut tries = Vec::new();
    for port in 5000..5003 {
        let receiver = to.receive(kind, port, 2);
        let _sender = from.send(kind, to, port, 60 * MBIT);
        let bits_per_s = receiver.bits_per_s();
        tries.push(bits_per_s);
        if bits_per_s.abs_diff(expected) * 20 <= expected {
            return eprintln!("{what}: {tries:?} bit/s of {expected}");
        }
    }
    panic!("{what}: {tries:?} bit/s instead of {expected}");
}

#[test]
fn what_waits_is_as_fast_as_it_may_be() {
    in_netns("rates::what_waits_is_as_fast_as_it_may_be", || {
        if !has_taps() {
            return skipped("what_waits_is_as_fast_as_it_may_be", "/dev/net/tun is closed to us");
        }
        let mut bed = Bed::run(&file("rate = { in = '10Mbit/s', out = '40Mbit/s' }"));
        let hosts = [1, 2, 3].map(|number| Host::on_tap(&format!("h{number}"), number));
        let [one, two, three] = &hosts;
        eventually("they hear each other", || one.reaches(three) && two.reaches(three));

        check("TCP out", one, three, "tcp", 40 * MBIT);
        check("TCP in", three, one, "tcp", 10 * MBIT);

        // Who floods gets its share, and no more.
        let receivers = [three.receive("tcp", 6000, 3), three.receive("udp", 6001, 3)];
        let flood = two.send("udp", three, 6001, 160 * MBIT);
        let stream = one.send("tcp", three, 6000, 0);
        let [tcp, udp] = receivers.map(|receiver| receiver.bits_per_s());
        eprintln!("TCP {tcp} bit/s beside a flood with {udp} bit/s");
        assert!(tcp > 15 * MBIT && udp > 15 * MBIT, "TCP {tcp}, UDP {udp} bit/s");
        assert!(tcp + udp <= 42 * MBIT, "TCP {tcp}, UDP {udp} bit/s");
        assert!(drops(&bed, "h2", "queue-full") > 0);
        assert!(one.runs("ping", "-c1 -W2 10.0.0.3"), "who sends little waits for nobody");

        // An edit holds from the next frame on, and nothing breaks off.
        bed.edit(&file("rate = '20Mbit/s'"));
        bed.hears("took up");
        let shown = bed.said(&["switch", "show", "lab.toml", "h3"]);
        assert!(shown.contains("in 20Mbit/s, out 20Mbit/s, the rest waits"), "{shown}");
        drop((flood, stream));
        check("TCP after the edit", one, three, "tcp", 20 * MBIT);
    });
}

#[test]
fn what_does_not_wait_is_dropped_and_counted() {
    in_netns("rates::what_does_not_wait_is_dropped_and_counted", || {
        if !has_taps() {
            return skipped("what_does_not_wait_is_dropped_and_counted", "/dev/net/tun is closed to us");
        }
        let mut bed = Bed::run(&file("rate = { in = '5Mbit/s', out = '10Mbit/s', burst = '32KiB', excess = 'drop' }"));
        let hosts = [1, 3].map(|number| Host::on_tap(&format!("h{number}"), number));
        let [one, three] = &hosts;
        eventually("they hear each other", || one.reaches(three));
        for (from, to, rate, reason, port) in
            [(one, three, 10, "egress-over-rate", "h1"), (three, one, 5, "over-rate", "h3")]
        {
            check(reason, from, to, "udp", rate * MBIT * 1400 / 1442);
            assert!(drops(&bed, port, reason) > 100);
        }
        // Idle, it costs nothing, also where frames could wait.
        bed.edit(&file("rate = '1Mbit/s'"));
        bed.hears("took up");
        assert!(one.runs("ping", "-c3 -i0.01 -W2 -s 1400 10.0.0.3"));
        std::thread::sleep(Duration::from_millis(300));
        let before = bed.cpu_time();
        std::thread::sleep(Duration::from_secs(1));
        let spent = bed.cpu_time() - before;
        assert!(spent <= Duration::from_millis(20), "{spent:?} in a second");
    });
}
