//! The same decision, told.

use weft_types::{Instant, PortId};
use weft_wire::Headers;

use super::captures::{copy, selected};
use super::{Switch, leave};
use crate::frame::Frame;
use crate::meters::Way;
use crate::packet::Packet;
use crate::pipeline::{self, Action, Fields};
use crate::table::PortIndex;
use crate::{DropReason, EgressPort, Outcome, PortConfig, Rate, Step, Trace};

impl Switch {
    /// What [`forward`](Self::forward) would decide, and why, told by the very code that decides. Changes nothing
    /// and counts nothing.
    pub fn explain(&self, now: Instant, ingress: PortId, head: &[u8], frame_len: usize) -> Trace {
        let mut steps = Vec::new();
        let mut tell = |stage, finding| steps.push(Step { stage, finding, because: None });
        let dropped =
            |steps, reason| Trace { steps, outcome: Outcome::Drop(reason), egress: Vec::new(), copies: Vec::new() };
        let fields = self.tables.index(ingress).map_or(Fields::default(), |index| self.tables.port(index).fields);
        let mut packet = Packet::default();
        let frame = Frame::admit(head, frame_len, fields, &mut packet);
        match &frame {
            Ok(_) => {
                let headers =
                    Headers::parse(head, frame_len).map_or_else(|problem| problem.to_string(), |h| h.to_string());
                tell("frame", format!("{headers}, {frame_len} bytes"));
            }
            Err((_, problem)) => {
                let problem = problem.map_or_else(String::new, |problem| format!(" ({problem})"));
                tell("frame", format!("{frame_len} bytes, which is no frame that can be forwarded{problem}"));
            }
        }
        let Some(port) = self.tables.index(ingress) else {
            tell("ingress", format!("the switch has no port {ingress}"));
            return dropped(steps, DropReason::UnknownPort);
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err((reason, _)) => return dropped(steps, reason),
        };
        let may_pass = |port: PortIndex, way| {
            let config = &self.tables.port(port).config;
            self.meters.is_open(now, config.id, way, &config.rates, frame_len)
        };
        if !may_pass(port, Way::From) {
            let config = &self.tables.port(port).config;
            steps.push(too_fast(config, "sends faster than it may", config.rates.from_port));
            return dropped(steps, DropReason::OverRate);
        }
        let decision = pipeline::decide(&self.tables, &self.knowledge, now, port, &frame, Some(&mut steps));
        let (mut outputs, mut copies) = (Vec::new(), Vec::new());
        let mirrors = selected(&self.tables, port, &frame, decision.action, &mut outputs);
        outputs.clear();
        leave(&self.tables, port, &frame, decision.action, &mut outputs);
        copy(&self.tables, port, &frame, mirrors, &outputs, &mut copies);
        let vswitch = self.tables.vswitch(self.tables.port(port).vswitch);
        for mirror in vswitch.mirrors().iter().filter(|mirror| copies.iter().any(|copy| copy.mirror == mirror.id)) {
            let (finding, because) = (format!("`{}` gets a copy", mirror.name), Some(mirror.provenance.clone()));
            steps.push(Step { stage: "mirror", finding, because });
        }
        let ways_out = outputs.iter().filter_map(|output| self.tables.index(output.port));
        steps.extend(ways_out.filter_map(|port| self.uplink_step(port)));
        if let Action::Drop(reason) = decision.action {
            return Trace { copies, ..dropped(steps, reason) };
        }
        outputs.retain(|output| {
            let target = self.tables.index(output.port).filter(|target| !may_pass(*target, Way::To));
            if let Some(config) = target.map(|target| &self.tables.port(target).config) {
                steps.push(too_fast(config, "is sent to faster than it may be", config.rates.to_port));
            }
            target.is_none()
        });
        if outputs.is_empty() {
            return Trace { copies, ..dropped(steps, DropReason::EgressOverRate) };
        }
        let egress = outputs.into_iter().filter_map(|output| {
            let port = &self.tables.port(self.tables.index(output.port)?).config;
            let (name, provenance) = (port.name.clone(), port.provenance.clone());
            Some(EgressPort { id: port.id, name, edit: output.edit, provenance })
        });
        Trace { steps, outcome: Outcome::Forward, egress: egress.collect(), copies }
    }
}

/// What is said of a port that has no more of its rate left.
fn too_fast(port: &PortConfig, how: &str, rate: Option<Rate>) -> Step {
    let most = rate.map_or_else(String::new, |rate| format!(" ({rate})"));
    let finding = format!("`{}` {how}{most}", port.name);
    Step { stage: "rate", finding, because: Some(port.provenance.clone()) }
}
