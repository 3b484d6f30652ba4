//! What is: as much of the host as a plan depends on.

use std::collections::{BTreeMap, BTreeSet};

use weft_dataplane_protocol::DataplaneConfig;
use weft_machine::{Process, Running};
use weft_types::{Label, VmName};

use crate::launch::Launch;

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The switch's process, if it runs.
    pub switch: Option<Process>,
    /// Whether anything is left of a switch, if it runs or not: sockets, a snapshot, leases.
    pub switch_remains: bool,
    /// The configuration that the switch has acknowledged last, whether it runs or not.
    pub applied: Option<DataplaneConfig>,
    /// Whether `applied` is what the running switch follows, and not something older or unknown.
    pub in_force: bool,
    /// Every machine of which something is there: a process, or merely files.
    pub vms: BTreeMap<VmName, ObservedVm>,
    /// The images that are built.
    pub images: BTreeSet<Label>,
}

/// What is there of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedVm {
    /// Its process and what that is, if it runs.
    pub running: Option<Running>,
    /// What it was started as last, if that is known.
    pub launch: Option<Launch>,
}
