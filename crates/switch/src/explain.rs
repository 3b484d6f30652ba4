//! Why a frame goes where it goes, in words.

use std::fmt;

use weft_types::{PortId, PortName, Provenance};
use weft_wire::TagEdit;

use crate::{DropReason, MirrorCopy};

/// What would happen to a frame and why: the stages' findings in order, told by the stages themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What each stage found, up to the one that decided.
    pub steps: Vec<Step>,
    /// The decision.
    pub outcome: Outcome,
    /// The ports by which the frame would leave; empty when it is dropped.
    pub egress: Vec<EgressPort>,
    /// The copies that mirrors would get.
    pub copies: Vec<MirrorCopy>,
}

/// What one stage found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The stage's stable name, like `mac-table`.
    pub stage: &'static str,
    /// What it found, in a sentence without its full stop.
    pub finding: String,
    /// The declaration that made it so.
    pub because: Option<Provenance>,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is forwarded.
    Forward,
    /// It is dropped.
    Drop(DropReason),
}

/// A port by which a frame would leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPort {
    /// Its number.
    pub id: PortId,
    /// Its name.
    pub name: PortName,
    /// What is done to the frame's tag on the way out.
    pub edit: TagEdit,
    /// Where it was declared.
    pub provenance: Provenance,
}

impl Trace {
    /// The verdict in a sentence.
    pub fn verdict(&self) -> String {
        match (self.outcome, self.egress.as_slice()) {
            (Outcome::Drop(reason), _) => format!("dropped: {reason}"),
            (Outcome::Forward, [port]) => format!("forwarded to `{}`", port.name),
            (Outcome::Forward, ports) => format!("forwarded to {} ports", ports.len()),
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(f, "{}: {}", step.stage, step.finding)?;
            match &step.because {
                Some(place) => writeln!(f, " ({place})")?,
                None => writeln!(f)?,
            }
        }
        write!(f, "{}", self.verdict())
    }
}
