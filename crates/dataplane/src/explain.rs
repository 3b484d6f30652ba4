//! What would happen to a frame: what the switch says, and where it would have to wait.

use weft_dataplane_protocol::{ErrorCode, ExplainRequest, ExplainStep, Explanation, Refusal};
use weft_port::{HEAD_BYTES, MAX_FRAME_BYTES};
use weft_services::RouterStep;
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
        let mut steps: Vec<_> = trace.steps.into_iter().map(explained).collect();
        // What comes in too fast waits before anything is decided about it.
        let inward =
            waits(now, slot, "sends faster than it may", slot.pacing.inward.as_deref(), slot.about.rates.inward);
        if let Some(step) = inward {
            steps.insert(steps.len().min(1), step);
        }
        let mut egress = trace.egress;
        // What a router would do with it, and the switch on the other side.
        let gateways = egress.iter().filter_map(|port| self.slot(port.id)).filter(|slot| slot.about.kind.is_none());
        let crossed = gateways.map(|slot| slot.about.network_id).next();
        let services = &self.delivery.services;
        let across = crossed.and_then(|network| services.trace_router(now, network, &request.frame));
        let mut verdict = verdict;
        if let Some(across) = across {
            let step = |step: RouterStep| ExplainStep {
                stage: "router".to_owned(),
                finding: step.finding,
                because: step.because,
            };
            steps.extend(across.steps.into_iter().map(step));
            verdict = across.verdict.unwrap_or(verdict);
            egress.clear();
            if let Some((network, frame)) = across.onward
                && let Some(slot) = self.gateway(network)
            {
                let head = &frame[..frame.len().min(HEAD_BYTES)];
                let beyond = self.switch.explain(now, slot.id, head, frame.len());
                verdict = beyond.verdict();
                steps.extend(beyond.steps.into_iter().map(explained));
                egress = beyond.egress;
            }
        }
        let targets = egress.iter().filter_map(|port| self.slot(port.id));
        steps.extend(targets.filter_map(|to| {
            let (queue, rate) = (to.pacing.outward.as_deref(), to.about.rates.outward);
            waits(now, to, "is sent to faster than it may be", queue, rate)
        }));
        Ok(Explanation { verdict, egress: egress.into_iter().map(|port| port.name).collect(), steps })
    }
}

fn explained(step: weft_switch::Step) -> ExplainStep {
    ExplainStep { stage: step.stage.to_owned(), finding: step.finding, because: step.because }
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
