//! Waiting for a machine to be ready, as long as it makes progress.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_machine::Process;
use weft_model::Ready;
use weft_model::view::ProblemView;
use weft_types::VmName;

use crate::desired::Desired;
use crate::events::Happening;
use crate::host::{GuestAddresses, Trouble, Words};
use crate::inner::{Inner, Settings};
use crate::objects::Fate;
use crate::state::{Lease, Phase};

/// How often it is looked for a lease while nothing else is waited for.
const INTERVAL: Duration = Duration::from_millis(20);
/// The same after the time for being ready is over.
const LATE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the agent is waited for before it is looked whether the machine is still the same.
const AGENT_WAIT: Duration = Duration::from_millis(250);
/// How often the store and the console are read meanwhile: nothing there decides in a hurry.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The same while nobody wants the machine.
const UNWANTED_INTERVAL: Duration = Duration::from_millis(100);
/// How many of a machine's last lines a problem shows.
const SHOWN_LINES: usize = 5;

/// When patience ends.
struct Patience {
    since: Instant,
    heard: Instant,
    written_bytes: u64,
}

impl Patience {
    fn begin(now: Instant) -> Self {
        Self { since: now, heard: now, written_bytes: 0 }
    }

    fn hear(&mut self, now: Instant, words: &Words) {
        if words.written_bytes != self.written_bytes {
            (self.heard, self.written_bytes) = (now, words.written_bytes);
        }
    }

    fn over(&self, now: Instant, settings: &Settings) -> bool {
        let age = now.duration_since(self.since);
        let silent = now.duration_since(self.heard) >= settings.silence;
        age >= settings.ready_at_last || (age >= settings.ready_within && silent)
    }
}

/// Waits until this process of `vm` is ready, or is no more.
pub(crate) fn wait(inner: &Arc<Inner>, vm: &VmName, process: Process, operation: Option<u64>) {
    let mut patience = Patience::begin(Instant::now());
    let mut answers = false;
    let mut looked: Option<(Instant, Desired)> = None;
    while let Some(late) = waits(inner, vm, process) {
        let now = Instant::now();
        let look = looked.as_ref().is_none_or(|(at, _)| now.duration_since(*at) >= LOOK_INTERVAL);
        if look {
            match inner.records() {
                Ok(records) => looked = Some((now, records.desired)),
                Err(error) => tracing::warn!(%error, "the store cannot be read"),
            }
        }
        let Some((_, desired)) = &looked else {
            pause(inner, LATE_INTERVAL);
            continue;
        };
        let Some(declared) = desired.vms.get(vm) else {
            // It is about to go; or it was about to, and is wanted again.
            looked = None;
            pause(inner, UNWANTED_INTERVAL);
            continue;
        };
        let wants_agent = declared.spec.ready == Ready::Agent;
        answers = answers || (wants_agent && inner.host.agent_answers(vm, AGENT_WAIT));
        let missing = match wants_agent && !answers {
            true => Some("its agent to answer".to_owned()),
            false => missing_leases(inner, desired, vm, process),
        };
        let Some(missing) = missing else {
            became_ready(inner, vm, process, operation);
            return;
        };
        if look && !late {
            let words = inner.host.words(vm);
            patience.hear(now, &words);
            let phase = match patience.over(now, &inner.settings) {
                false => Phase::Starting(missing),
                true => {
                    let problem = too_late(vm, &missing, now.duration_since(patience.since), &words);
                    Phase::Late(ProblemView { provenance: Some(declared.spec.provenance.clone()), ..problem })
                }
            };
            set_phase(inner, vm, process, phase);
        }
        pause(inner, if late { LATE_INTERVAL } else { INTERVAL });
    }
}

/// Whether this process of `vm` is still waited for, and if so, whether it is late.
fn waits(inner: &Inner, vm: &VmName, process: Process) -> Option<bool> {
    let mut state = inner.state();
    match state.closing {
        true => None,
        false => match state.life(vm, process)?.phase {
            Phase::Starting(_) => Some(false),
            Phase::Late(_) => Some(true),
            _ => None,
        },
    }
}

/// Says how far a machine is that was starting, unless it has ended meanwhile or is about to.
fn set_phase(inner: &Inner, vm: &VmName, process: Process, phase: Phase) {
    let late = matches!(phase, Phase::Late(_));
    if let Some(life) = inner.state().life(vm, process).filter(|life| matches!(life.phase, Phase::Starting(_))) {
        life.phase = phase;
    }
    if late {
        inner.settle();
    }
}

/// Sleeps, but not beyond the controller's end.
fn pause(inner: &Inner, time: Duration) {
    let until = Instant::now() + time;
    let mut state = inner.state();
    while !state.closing {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        state = inner.wait(state, left);
    }
}

/// What leases a machine does not hold yet, or has not taken, in words; `None` when it needs no more. A lease that it has
/// from before its process began says nothing of this one, and where the agent can be asked, its word counts.
fn missing_leases(inner: &Inner, desired: &Desired, vm: &VmName, process: Process) -> Option<String> {
    let declared = desired.vms.get(vm)?;
    let mut needs = desired.lease_needs(&declared.spec);
    if needs.is_empty() || declared.spec.ready == Ready::Running {
        return None;
    }
    let old = inner.state().life(vm, process).map(|life| life.old_leases.clone()).unwrap_or_default();
    let mut held = Vec::new();
    if let Ok(status) = inner.host.switch_status() {
        for lease in status.leases.into_iter().filter(|lease| !old.contains(&Lease::of(lease))) {
            let ip = IpAddr::V4(lease.ip);
            let need = (lease.network, lease.mac);
            if needs.remove(&need) {
                held.push((need.0, ip));
            }
        }
    }
    if needs.is_empty() && declared.spec.ready == Ready::Agent {
        let taken = match inner.host.guest_addresses(vm) {
            GuestAddresses::Seen(taken) => taken,
            GuestAddresses::Unseen => return Some("its agent to tell its addresses".to_owned()),
            GuestAddresses::Unknowable => return None,
        };
        let (network, ip) = held.into_iter().find(|(_, ip)| !taken.contains(ip))?;
        return Some(format!("its adapter on {network} to take {ip}"));
    }
    let networks: Vec<_> = needs.iter().map(|(network, _)| network.as_str()).collect();
    (!networks.is_empty()).then(|| format!("a lease on {}", networks.join(", ")))
}

fn became_ready(inner: &Inner, vm: &VmName, process: Process, operation: Option<u64>) {
    if let Err(error) = inner.record_fate(vm, &Fate::Ready { process }) {
        // The next controller finds out again.
        tracing::warn!(%error, %vm, "that a machine is ready could not be recorded");
    }
    let operation = {
        let mut state = inner.state();
        match state.life(vm, process) {
            Some(life) if matches!(life.phase, Phase::Starting(_) | Phase::Late(_)) => life.phase = Phase::Ready,
            _ => return,
        }
        // Where an earlier controller has started it, whoever waits for it now.
        operation.or_else(|| state.awaiting(vm))
    };
    inner.tell(Happening::new("vm-ready", format!("{vm} is ready")).of(operation).to("vm", vm));
    inner.settle();
}

fn too_late(vm: &VmName, missing: &str, waited: Duration, words: &Words) -> ProblemView {
    let title = format!("`{vm}` is not ready after {} s: it waits for {missing}", waited.as_secs());
    let hint = format!("`weft logs {vm}` shows its console; `ready = \"running\"` waits for neither agent nor lease");
    let mut problem = Trouble::new("not-ready", title, hint).problem();
    problem.detail = last_lines(words);
    problem
}

/// The last lines of a machine's console, if it has said anything.
pub(crate) fn last_lines(words: &Words) -> Option<String> {
    let lines = &words.console[words.console.len().saturating_sub(SHOWN_LINES)..];
    (!lines.is_empty()).then(|| format!("the last lines of its console:\n{}", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_with_progress_or_at_last() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let said = |written_bytes| Words { written_bytes, ..Words::default() };
        let settings = Settings::default();
        let mut patience = Patience::begin(start);
        assert!(!patience.over(at(179), &settings));
        assert!(patience.over(at(180), &settings), "never a word");
        patience.hear(at(170), &said(10));
        assert!(!patience.over(at(229), &settings), "it boots slowly");
        assert!(patience.over(at(230), &settings), "and has fallen silent");
        patience.hear(at(1799), &said(20));
        assert!(!patience.over(at(1799), &settings));
        assert!(patience.over(at(1800), &settings), "it talks and talks");
    }
}
