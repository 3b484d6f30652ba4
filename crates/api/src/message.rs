//! Bodies and queries that only the API has; everything else that travels is in [`weft_model::view`].

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use weft_agent::message::{Exec, Size, Tty};
use weft_dataplane_protocol::Explanation;
use weft_types::{Direction, NetworkName, PortName, Provenance, VlanSet};

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct About {
    /// The daemon's version.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
}

/// A command to run in a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecBody {
    /// The program, looked up in the guest's `PATH`, and its arguments.
    #[schema(example = json!(["uname", "-a"]))]
    pub argv: Vec<String>,
    /// Variables, set beyond those that the agent sets or in their place.
    #[serde(default)]
    #[schema(example = json!([["LANG", "C"]]))]
    pub env: Vec<(String, String)>,
    /// The folder in which it runs; root's home if absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// The terminal that it gets; pipes if absent.
    #[serde(default)]
    pub tty: Option<TtyBody>,
}

/// The terminal that a command gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TtyBody {
    /// Its height in characters.
    pub rows: u16,
    /// Its width in characters.
    pub cols: u16,
    /// What it understands, as in the variable `TERM`.
    pub term: String,
}

impl From<ExecBody> for Exec {
    fn from(body: ExecBody) -> Self {
        let tty = body.tty.map(|tty| Tty { size: Size { rows: tty.rows, cols: tty.cols }, term: tty.term });
        Self { argv: body.argv, env: body.env, cwd: body.cwd, tty }
    }
}

/// A frame to explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainBody {
    /// The port where it comes in.
    pub port: PortName,
    /// The frame from the destination MAC address on, in hexadecimal.
    #[schema(pattern = "^([0-9a-fA-F]{2})*$")]
    pub frame: String,
}

/// What would happen to a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplanationView {
    /// The verdict in a sentence.
    pub verdict: String,
    /// The ports that it would leave by.
    pub egress: Vec<PortName>,
    /// The steps that led there, in order.
    pub steps: Vec<ExplainStepView>,
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainStepView {
    /// The stage's name.
    pub stage: String,
    /// What it found.
    pub finding: String,
    /// The declaration that made it so.
    pub because: Option<Provenance>,
}

impl From<Explanation> for ExplanationView {
    fn from(explanation: Explanation) -> Self {
        let steps = explanation.steps.into_iter().map(|step| ExplainStepView {
            stage: step.stage,
            finding: step.finding,
            because: step.because,
        });
        Self { verdict: explanation.verdict, egress: explanation.egress, steps: steps.collect() }
    }
}

/// Frames to capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureBody {
    /// Whose: those of these ports,
    pub ports: Vec<PortName>,
    /// and all of these networks.
    pub networks: Vec<NetworkName>,
    /// Only those in these VLANs; none named: in all, and in none.
    #[schema(value_type = String, example = "10,20-29")]
    pub vlans: VlanSet,
    /// Which of them.
    pub direction: Direction,
    /// Only packets like this, whoever sends: `tcp/5432`, `any -> 10.0.0.5 udp/53`.
    #[schema(example = "any -> 10.0.0.5 tcp/443")]
    pub filter: Option<String>,
    /// How many bytes of each at most.
    pub snap: Option<u32>,
}

/// What of a console's log is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Only so many of the last lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<usize>,
    /// Whether to go on with what will be said, until the machine is removed or the client leaves.
    #[serde(default)]
    pub follow: bool,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// How long to wait for the operation's end, in milliseconds; at most 60000.
    #[serde(default)]
    pub(crate) wait_ms: u64,
}

/// Which events are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only those after this number.
    #[serde(default)]
    pub(crate) after: u64,
    /// Only those of this operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operation: Option<u64>,
    /// How long to wait for the first, in milliseconds; at most 60000. A stream waits as long as it lives.
    #[serde(default)]
    pub(crate) wait_ms: u64,
}

/// Whose world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OwnerQuery {
    /// The owner: a file's absolute path.
    pub(crate) owner: String,
}

/// How to stop a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StopQuery {
    /// At once, without asking the guest.
    #[serde(default)]
    pub(crate) force: bool,
}
