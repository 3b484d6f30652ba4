//! What happens when a process ends by itself: a switch is replaced at once, a machine is not.

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use weft_machine::{Exit, Process};
use weft_types::VmName;

use crate::events::Happening;
use crate::host::Words;
use crate::inner::{Inner, Notice};
use crate::objects::Fate;
use crate::state::Phase;

/// How long after a switch that could not be replaced it is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// What is said of a machine that the host's disk has no room for.
pub(crate) const NO_ROOM: &str = "waits for room on the host's disk; it goes on by itself when there is some";

/// Handles notices until the controller ends.
pub(crate) fn supervise(inner: &Arc<Inner>, notices: &mpsc::Receiver<Notice>) {
    let mut housekeeping = Instant::now() + inner.settings.housekeeping;
    let mut retry: Option<(Instant, Duration)> = None;
    loop {
        let due = retry.map_or(housekeeping, |(due, _)| due.min(housekeeping));
        let notice = notices.recv_timeout(due.saturating_duration_since(Instant::now()));
        let mut heal = false;
        match notice {
            Ok(Notice::Close) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Ok(Notice::ShellEnded { name, process }) => {
                // It may have said so itself.
                let _ = inner.remove_shell(&name, Some(process));
            }
            Ok(Notice::VmEnded { vm, process, exit }) => vm_ended(inner, &vm, process, exit),
            Ok(Notice::SwitchEnded { process }) => heal = switch_ended(inner, process),
            Ok(Notice::SwitchMissing) => heal = true,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if inner.closing() {
            return;
        }
        let now = Instant::now();
        if heal || retry.is_some_and(|(due, _)| due <= now) {
            let waited = retry.map_or(Duration::ZERO, |(_, waited)| waited);
            retry = try_to_heal(inner, waited).map(|wait| (Instant::now() + wait, wait));
        }
        if housekeeping <= now {
            tell_stuck(inner, inner.host.housekeep());
            housekeeping = now + inner.settings.housekeeping;
        }
    }
}

/// Notes which machines wait for room on the host's disk, and tells of those that begin to or need no longer.
fn tell_stuck(inner: &Inner, stuck: BTreeSet<VmName>) {
    let before = std::mem::replace(&mut inner.state().stuck, stuck.clone());
    for vm in stuck.difference(&before) {
        inner.tell(Happening::new("vm-disk-full", format!("{vm} {NO_ROOM}")).to("vm", vm));
    }
    for vm in before.difference(&stuck) {
        inner.tell(Happening::new("vm-goes-on", format!("{vm} goes on: it has room to write")).to("vm", vm));
    }
}

/// Replaces the switch; how long to wait before the next try if that fails.
fn try_to_heal(inner: &Arc<Inner>, waited: Duration) -> Option<Duration> {
    let trouble = inner.heal_switch().err()?;
    let wait = (waited * 2).clamp(RETRY.0, RETRY.1);
    let words = format!("the switch could not be started again: {}", trouble.sentence());
    inner.tell(Happening::new("switch-failed", words).to("switch", "switch"));
    Some(wait)
}

/// Whether the switch that has ended should have gone on.
fn switch_ended(inner: &Inner, process: Process) -> bool {
    let mut state = inner.state();
    if state.switch != Some(process) {
        return false;
    }
    state.switch = None;
    drop(state);
    let words = format!("the switch (process {}) has ended; VMs go on without network until it is back", process.pid);
    inner.tell(Happening::new("switch-died", words).to("switch", "switch"));
    true
}

fn vm_ended(inner: &Inner, vm: &VmName, process: Process, exit: Exit) {
    let by_itself = |phase: &Phase| !matches!(phase, Phase::Stopping | Phase::Dead(_));
    if !inner.state().life(vm, process).is_some_and(|life| by_itself(&life.phase)) {
        return;
    }
    let fate = fate_of(exit, &inner.host.words(vm));
    bury(inner, vm, &fate);
    if let Some(life) = inner.state().life(vm, process).filter(|life| by_itself(&life.phase)) {
        life.phase = Phase::Dead(fate);
    }
    inner.settle();
}

/// Records that a machine has ended by itself, and tells it.
pub(crate) fn bury(inner: &Inner, vm: &VmName, fate: &Fate) {
    if let Err(error) = inner.record_fate(vm, fate) {
        tracing::warn!(%error, %vm, "that a machine has ended could not be recorded");
    }
    let kind = if matches!(fate, Fate::Off { .. }) { "vm-off" } else { "vm-died" };
    let words = format!("{vm} does not run any more: {}", fate.reason().unwrap_or_default());
    inner.tell(Happening::new(kind, words).to("vm", vm));
}

/// What an end by itself means. An engine that exits in good order does so because its guest has powered itself off;
/// where nobody knows how it ended, the guest's kernel has said so on the console.
pub(crate) fn fate_of(exit: Exit, words: &Words) -> Fate {
    let farewell = words
        .console
        .iter()
        .rev()
        .take(20)
        .any(|line| ["reboot: Power down", "reboot: System halted"].iter().any(|farewell| line.contains(farewell)));
    let signalled = words.engine.contains("terminating on signal");
    match exit {
        Exit::Code(0) | Exit::Unknown if farewell => Fate::Off { reason: "powered off from inside".to_owned() },
        Exit::Code(0) if !signalled => Fate::Off { reason: "powered off from inside".to_owned() },
        _ => {
            // Who is killed has no last words: what it said before was about something else.
            let silent = words.engine.is_empty() || exit == Exit::Signal(9);
            let said = if silent { String::new() } else { format!("; its last words: {}", words.engine) };
            Fate::Failed { reason: format!("its engine {exit}{said}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(exit: Exit, engine: &str, console: &[&str], expected: &str) {
        let console = console.iter().map(|line| (*line).to_owned()).collect();
        let words = Words { engine: engine.to_owned(), console, written_bytes: 0 };
        let fate = match fate_of(exit, &words) {
            Fate::Off { reason } => format!("off: {reason}"),
            Fate::Failed { reason } => format!("failed: {reason}"),
            Fate::Ready { .. } => unreachable!("it has ended"),
        };
        assert_eq!(fate, expected);
    }

    #[test]
    fn how_a_machine_ended() {
        let off = "off: powered off from inside";
        check(Exit::Code(0), "", &[], off);
        check(Exit::Unknown, "", &["[   9.1] reboot: Power down"], off);
        check(Exit::Unknown, "", &["login:"], "failed: its engine ended");
        check(Exit::Signal(9), "", &["reboot: Power down"], "failed: its engine was killed (signal 9)");
        check(
            Exit::Code(1),
            "no such device",
            &[],
            "failed: its engine exited with code 1; its last words: no such device",
        );
        let signal = "terminating on signal 15 from pid 7";
        let failed = "failed: its engine exited with code 0; its last words: terminating on signal 15 from pid 7";
        check(Exit::Code(0), signal, &[], failed);
        check(Exit::Signal(9), "a warning", &[], "failed: its engine was killed (signal 9)");
    }
}
