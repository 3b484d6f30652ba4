//! Deadlines of flows.

use std::collections::BTreeSet;

use weft_types::Instant;

use super::flows::FlowId;

/// One alarm per flow. A deadline that moves away (as each acknowledgement moves it) costs nothing: the alarm rings
/// at the old time, finds that nothing is due and is set anew.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, FlowId)>);

impl Timers {
    /// Sees to it that an alarm rings at `deadline` at the latest; `armed` is where the flow keeps its alarm.
    pub(super) fn arm(&mut self, flow: FlowId, armed: &mut Option<Instant>, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        if armed.is_none_or(|at| deadline < at) {
            self.disarm(flow, armed);
            self.0.insert((deadline, flow));
            *armed = Some(deadline);
        }
    }

    /// Takes the alarm away.
    pub(super) fn disarm(&mut self, flow: FlowId, armed: &mut Option<Instant>) {
        if let Some(at) = armed.take() {
            self.0.remove(&(at, flow));
        }
    }

    /// When the next alarm rings.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes an alarm that rings now. Its flow's `armed` is stale from here on.
    pub(super) fn pop(&mut self, now: Instant) -> Option<FlowId> {
        let due = self.0.first().is_some_and(|(at, _)| *at <= now);
        if due { self.0.pop_first().map(|(_, flow)| flow) } else { None }
    }
}
