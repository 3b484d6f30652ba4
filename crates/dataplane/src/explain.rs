//! What would happen to a frame: what the switch says, and where it would have to wait.

use weft_dataplane_protocol::{ErrorCode, ExplainRequest, ExplainStep, Explanation, Refusal};
use weft_port::{HEAD_BYTES, MAX_FRAME_BYTES};
use weft_types::{BitRate, Instant};

use crate::pacing::Queue;
use crate::slot::Slot;
use crate::worker::Worker;

impl Worker {
    /// What would happen to a frame.
    ///
    /// # Errors
    /// When the port does not exist, or the frame is longer than any.
    pub(crate) fn explain(&self, now: Instant, request: &ExplainRequest) -> Result<Explanation, Refusal> {
        let refused = |message: String, hint: &str| Refusal { code: ErrorCode::BadRequest, message, hint: hint.into() };
        let Some(slot) = self.slots.iter().find(|slot| slot.about.name == request.port) else {
            return Err(refused(format!("there is no port `{}`", request.port), "`weft port ls` lists all ports"));
        };
        if request.frame.len() > MAX_FRAME_BYTES {
            return Err(refused(
                format!("a frame of {} bytes cannot exist", request.frame.len()),
                "give the bytes from the destination MAC on, at most 65,553",
            ));
        }
        let head = &request.frame[..request.frame.len().min(HEAD_BYTES)];
        let trace = self.switch.explain(now, slot.id, head, request.frame.len());
        let verdict = trace.verdict();
        let steps = trace.steps.into_iter();
        let mut steps: Vec<_> = steps
            .map(|step| ExplainStep { stage: step.stage.to_owned(), finding: step.finding, because: step.because })
            .collect();
        // What comes in too fast waits before anything is decided about it.
        let inward =
            waits(now, slot, "sends faster than it may", slot.pacing.inward.as_deref(), slot.about.rates.inward);
        if let Some(step) = inward {
            steps.insert(steps.len().min(1), step);
        }
        let targets = trace.egress.iter().filter_map(|port| self.slot(port.id));
        steps.extend(targets.filter_map(|to| {
            let (queue, rate) = (to.pacing.outward.as_deref(), to.about.rates.outward);
            waits(now, to, "is sent to faster than it may be", queue, rate)
        }));
        Ok(Explanation { verdict, egress: trace.egress.into_iter().map(|port| port.name).collect(), steps })
    }
}

/// That a frame would wait at a port, if it would.
fn waits(now: Instant, slot: &Slot, how: &str, queue: Option<&Queue>, rate: Option<BitRate>) -> Option<ExplainStep> {
    let (queue, rate) = queue.zip(rate)?;
    let finding = || {
        let ahead = queue.waiting_bytes();
        let behind = if ahead == 0 { String::new() } else { format!(", behind {ahead} bytes") };
        format!("`{}` {how} ({rate}): the frame waits{behind}", slot.about.name)
    };
    let because = Some(slot.about.provenance.clone());
    (!queue.is_open(now)).then(|| ExplainStep { stage: "rate".to_owned(), finding: finding(), because })
}
