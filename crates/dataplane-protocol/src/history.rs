use serde::{Deserialize, Serialize};
use weft_types::{NetworkName, Permission, PortName};

/// What was decided lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// For every reason the last frames that were dropped for it, the oldest first.
    pub drops: Vec<DroppedFrame>,
    /// The last decisions of the rules that have theirs logged, the oldest first.
    pub log: Vec<LoggedDecision>,
    /// How many decisions were logged before those.
    pub log_lost: u64,
}

/// A frame that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedFrame {
    /// The port by which it came in.
    pub port: PortName,
    /// The reason's stable name, like `unknown-unicast`.
    pub reason: String,
    /// The name of the rule that denied or rejected it, if one did.
    #[serde(default)]
    pub rule: Option<String>,
    /// How long ago.
    pub age_ms: u64,
    /// The frame in a line.
    pub summary: String,
    /// How many bytes it had.
    pub len: u64,
    /// The first of them, at most 128: what an [`ExplainRequest`](crate::ExplainRequest) takes.
    pub head: Vec<u8>,
}

/// What a rule decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedDecision {
    /// The network whose rule it is.
    pub network: NetworkName,
    /// The rule's name.
    pub rule: String,
    /// What it says.
    pub permission: Permission,
    /// The port by which the packet came in.
    pub from: PortName,
    /// The port for which it was.
    pub to: PortName,
    /// How long ago.
    pub age_ms: u64,
    /// The packet in a line.
    pub summary: String,
    /// How many bytes its frame had.
    pub len: u64,
}
