//! What rules decided that say so: the last decisions of those with [`Rule::log`](crate::Rule::log).

use std::collections::VecDeque;
use std::sync::Arc;

use weft_types::{Instant, PortId};
use weft_wire::Headers;

use crate::{Permission, VSwitchId};

/// How many decisions are kept.
const KEPT: usize = 256;

/// A decision of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// When.
    pub at: Instant,
    /// The network whose rule it is.
    pub vswitch: VSwitchId,
    /// The rule's name.
    pub rule: Arc<str>,
    /// What it says.
    pub permission: Permission,
    /// The port by which the packet came in.
    pub from: PortId,
    /// The port for which it was.
    pub to: PortId,
    /// The packet; `Display` says it in a line.
    pub headers: Headers,
    /// How many bytes its frame had.
    pub len: usize,
}

/// The last decisions, and how many there were before them.
#[derive(Debug)]
pub struct RuleLog {
    decisions: VecDeque<Logged>,
    lost: u64,
}

impl RuleLog {
    /// An empty log with room for all that it will ever keep.
    pub(crate) fn new() -> Self {
        Self { decisions: VecDeque::with_capacity(KEPT), lost: 0 }
    }

    /// Keeps a decision; the oldest gives way, and is counted.
    pub(crate) fn note(&mut self, decision: Logged) {
        if self.decisions.len() == KEPT {
            self.decisions.pop_front();
            self.lost += 1;
        }
        self.decisions.push_back(decision);
    }

    /// The decisions that are kept, the oldest first.
    pub fn decisions(&self) -> impl Iterator<Item = &Logged> {
        self.decisions.iter()
    }

    /// How many gave way.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}
