//! Law 9, where frames wait: on a simulated clock, whoever sends what.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use weft_switch::{Excess, Rate, Shaper};
use weft_types::{Instant, PortId};

const MAX_LEN: u64 = 65_553;

/// A frame: who sent it, its number, and its length in bytes.
type Frame = (u32, u64, u64);

/// What a sender does: frames of these lengths in turn, so many bits a second altogether.
#[derive(Clone, Debug)]
struct Sender {
    lengths: Vec<u64>,
    bits_per_s: u64,
}

/// What became of the frames: when each left, and which were dropped.
#[derive(Debug, Default)]
struct Run {
    left: Vec<(Instant, Frame)>,
    dropped: Vec<Frame>,
    offered: u64,
    /// When each frame came that waited, by sender and number.
    came: BTreeMap<(u32, u64), Instant>,
    longest_wait: Duration,
}

impl Run {
    fn bytes_of(&self, sender: u32) -> u64 {
        self.left.iter().filter(|(_, frame)| frame.0 == sender).map(|(_, frame)| frame.2).sum()
    }

    fn leave(&mut self, now: Instant, frame: Frame) {
        let came = self.came.remove(&(frame.0, frame.1)).unwrap_or(now);
        self.longest_wait = self.longest_wait.max(now - came);
        self.left.push((now, frame));
    }
}

/// Lets the senders send for a while to a port, at which somebody looks `late` after each frame's time.
fn run(rate: Rate, senders: &[Sender], span: Duration, late: Duration) -> Run {
    let mut shaper: Shaper<Frame> = Shaper::new(Instant::ZERO, rate);
    let mut run = Run::default();
    let mut nexts = vec![(Instant::ZERO, 0u64); senders.len()];
    loop {
        let (index, (at, number)) = nexts.iter().copied().enumerate().min_by_key(|(_, (at, _))| *at).unwrap();
        while let Some(due) = shaper.due().map(|due| due + late).filter(|due| *due <= at) {
            let mut count = 0;
            while let Some((sender, frame)) = shaper.next(due) {
                assert_eq!(sender.0, frame.0);
                run.leave(due, frame);
                count += 1;
            }
            assert!(count > 0, "what is due goes");
        }
        if at.since(Instant::ZERO) >= span {
            return run;
        }
        let sender = &senders[index];
        let len = sender.lengths[number as usize % sender.lengths.len()];
        let frame = (index as u32, number, len);
        run.offered += 1;
        if shaper.pass(at, len as usize) {
            run.leave(at, frame);
        } else {
            let dropped = &mut run.dropped;
            if shaper.wait(PortId(index as u32), len as usize, || frame, |_, frame| dropped.push(frame)) {
                run.came.insert((frame.0, frame.1), at);
            } else {
                run.dropped.push(frame);
            }
        }
        let gap = Duration::from_nanos(len * 8 * 1_000_000_000 / sender.bits_per_s);
        nexts[index] = (at + gap, number + 1);
    }
}

fn any_sender(bits_per_s: u64) -> impl Strategy<Value = Sender> {
    let lengths = prop::collection::vec(prop_oneof![60..1515u64, Just(1514u64), 60..MAX_LEN], 1..6);
    (lengths, 10u64..400).prop_map(move |(lengths, percent)| Sender { lengths, bits_per_s: bits_per_s * percent / 100 })
}

/// A rate, its senders, and how late somebody looks, in microseconds.
fn any_load() -> impl Strategy<Value = (Rate, Vec<Sender>, u64)> {
    (1_000_000u64..10_000_000_000, 1_500u64..256_000, 0u64..5000).prop_flat_map(|(bits_per_s, burst_bytes, late)| {
        let senders = prop::collection::vec(any_sender(bits_per_s), 1..5);
        (Just(Rate { bits_per_s, burst_bytes, excess: Excess::Wait }), senders, Just(late))
    })
}

/// So long do a hundred of the longest frames take.
fn span(rate: Rate) -> Duration {
    Duration::from_nanos(MAX_LEN * 8 * 100 * 1_000_000_000 / rate.bits_per_s).max(Duration::from_millis(200))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn law_9_what_waits_leaves_once_and_in_order((rate, senders, late) in any_load()) {
        let run = run(rate, &senders, span(rate), Duration::from_micros(late));
        let waiting = run.offered - run.left.len() as u64 - run.dropped.len() as u64;
        let mut seen = std::collections::BTreeSet::new();
        let mut last = BTreeMap::new();
        for (at, (sender, number, _)) in &run.left {
            prop_assert!(seen.insert((*sender, *number)), "it left twice");
            let before = last.insert(*sender, (*at, *number));
            prop_assert!(before.is_none_or(|before| before <= (*at, *number)), "frames of one sender changed places");
        }
        prop_assert!(run.dropped.iter().all(|(sender, number, _)| seen.insert((*sender, *number))));
        // What is left in the queue is no more than what there is room for.
        let room = (rate.bits_per_s / 8 / 20).max(4 * MAX_LEN);
        prop_assert!(waiting <= room / 60);
    }

    #[test]
    fn law_9_no_burst_is_larger_than_it_may_be((rate, senders, late) in any_load()) {
        let run = run(rate, &senders, span(rate), Duration::from_micros(late));
        // In any span, from every frame on: what the rate gives, the burst (or what was late), and a frame of debt.
        let nano_bits = |bits: u64| u128::from(bits) * 1_000_000_000;
        let slack = nano_bits((rate.burst_bytes * 8).max(rate.bits_per_s / 100).max(MAX_LEN * 8) + 2 * MAX_LEN * 8);
        let mut lowest = i128::MAX;
        let mut passed = 0u128;
        for (at, (.., len)) in &run.left {
            let due = u128::from(at.as_nanos()) * u128::from(rate.bits_per_s);
            lowest = lowest.min(passed as i128 - due as i128);
            passed += nano_bits(len * 8);
            prop_assert!(passed as i128 - due as i128 - lowest <= slack as i128);
        }
    }

    #[test]
    fn law_9_who_waits_does_not_wait_long_and_the_rate_is_used((rate, senders, late) in any_load()) {
        let late = Duration::from_micros(late);
        let run = run(rate, &senders, span(rate), late);
        let longest = senders.iter().flat_map(|sender| &sender.lengths).copied().max().unwrap();
        let frames = Duration::from_nanos(longest * 8 * 1_000_000_000 / rate.bits_per_s);
        // A queue, the debt before it, and who comes between because it sends shorter frames.
        let most = Duration::from_millis(50).max(frames * 4) * 4 + frames * 2 + late * 8;
        prop_assert!(run.longest_wait <= most, "{:?} > {most:?}", run.longest_wait);
        // Where more is sent than may be, all of the rate is used.
        let offered: u64 = senders.iter().map(|sender| sender.bits_per_s).sum();
        let bits: u64 = run.left.iter().map(|(_, frame)| frame.2 * 8).sum();
        let due = (span(rate).as_nanos() * u128::from(rate.bits_per_s) / 1_000_000_000) as u64;
        if offered >= rate.bits_per_s * 11 / 10 {
            let slack = due / 20 + longest * 16 + rate.bits_per_s / 1_000_000 * late.as_micros() as u64;
            prop_assert!(bits + slack >= due, "{bits} of {due} bits");
        }
    }

    #[test]
    fn law_9_who_sends_too_much_gets_equal_shares(
        bits_per_s in 10_000_000u64..10_000_000_000, lengths in prop::collection::vec(60..9000u64, 2..6),
        modest in 2u64..100,
    ) {
        // Each greedy sender has frames of a length of its own and sends twice the rate; one asks for less than its share.
        let rate = Rate { bits_per_s, burst_bytes: 9000, excess: Excess::Wait };
        let greedy = lengths.iter().map(|len| Sender { lengths: vec![*len], bits_per_s: bits_per_s * 2 });
        let count = lengths.len() as u64;
        let quiet = Sender { lengths: vec![200], bits_per_s: (bits_per_s * modest / 100 / (count + 1)).max(1000) };
        let senders: Vec<_> = greedy.chain([quiet.clone()]).collect();
        let span = Duration::from_nanos(9000 * 8 * 2000 * 1_000_000_000 / bits_per_s);
        let run = run(rate, &senders, span, Duration::ZERO);
        let shares: Vec<_> = (0..lengths.len() as u32).map(|sender| run.bytes_of(sender)).collect();
        let (least, most) = (*shares.iter().min().unwrap(), *shares.iter().max().unwrap());
        prop_assert!(least * 100 >= most * 95, "{shares:?}");
        let lost = run.dropped.iter().filter(|frame| u64::from(frame.0) == count).count();
        prop_assert_eq!(lost, 0, "whoever asks for less than its share loses nothing");
    }
}

#[test]
fn nothing_waits_and_nothing_is_due_while_it_is_slow_enough() {
    let rate = Rate { bits_per_s: 8_000_000, burst_bytes: 3000, excess: Excess::Wait };
    let mut shaper: Shaper<Frame> = Shaper::new(Instant::ZERO, rate);
    for number in 0..1000 {
        assert!(shaper.pass(Instant::from_millis(number * 2), 1500));
        assert_eq!(shaper.due(), None);
    }
}

#[test]
fn a_new_rate_holds_for_what_waits_too() {
    let slow = Rate { bits_per_s: 8_000, burst_bytes: 1, excess: Excess::Wait };
    let mut shaper = Shaper::new(Instant::ZERO, slow);
    assert!(shaper.pass(Instant::ZERO, 1000));
    assert!(shaper.wait(PortId(1), 1000, || (1, 1, 1000), |_, _: Frame| unreachable!()));
    assert_eq!(shaper.due().map(|due| due.as_nanos() / 1_000_000), Some(999));
    shaper.set_rate(Rate { bits_per_s: 8_000_000, ..slow });
    assert_eq!(shaper.due().map(|due| due.as_nanos() / 1_000), Some(999));
    assert_eq!(shaper.next(Instant::from_millis(1)), Some((PortId(1), (1, 1, 1000))));
    assert_eq!((shaper.next(Instant::from_millis(9)), shaper.due()), (None, None));
}
