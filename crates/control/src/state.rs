//! What the controller knows beyond the store: the processes it watches, and the operations that are not done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use weft_dataplane_protocol::LeaseStatus;
use weft_machine::{Process, Running};
use weft_model::view::{OperationState, ProblemView};
use weft_types::{MacAddr, NetworkName, VmName};

use crate::objects::{Fate, OperationRecord};

/// What is in memory only. A controller that begins anew finds it out again.
#[derive(Default)]
pub(crate) struct State {
    /// The operations, by number: those that have not ended, and as many ended ones as are remembered.
    pub(crate) operations: BTreeMap<u64, Operation>,
    /// Operations whose plan is not carried out yet, in order.
    pub(crate) queue: VecDeque<u64>,
    /// The machines that were started or found.
    pub(crate) lives: BTreeMap<VmName, Life>,
    /// The switch, if it should be there.
    pub(crate) switch: Option<Process>,
    /// Machines that wait for room on the host's disk.
    pub(crate) stuck: BTreeSet<VmName>,
    /// Whether the controller is to end.
    pub(crate) closing: bool,
}

/// An operation, and what it still waits for.
pub(crate) struct Operation {
    pub(crate) record: OperationRecord,
    /// Machines that must be ready; only after the plan has been carried out.
    pub(crate) awaits: Option<BTreeSet<VmName>>,
}

impl Operation {
    pub(crate) fn new(record: OperationRecord) -> Self {
        Self { record, awaits: None }
    }
}

/// One machine's process.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) running: Running,
    pub(crate) phase: Phase,
    /// The leases that its adapters had before it began.
    pub(crate) old_leases: BTreeSet<Lease>,
}

/// A lease, and until when it lasts: renewed, it is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lease {
    network: NetworkName,
    mac: MacAddr,
    expires_unix_s: u64,
}

impl Lease {
    pub(crate) fn of(status: &LeaseStatus) -> Self {
        Self { network: status.network.clone(), mac: status.mac, expires_unix_s: status.expires_unix_s }
    }
}

/// How far a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its process runs; it waits for this.
    Starting(String),
    /// It is ready.
    Ready,
    /// It was not ready in time, for this reason; it may become so.
    Late(ProblemView),
    /// It is being ended on purpose.
    Stopping,
    /// Its process has ended by itself.
    Dead(Fate),
}

impl State {
    /// Whether any operation has not ended.
    pub(crate) fn busy(&self) -> bool {
        self.operations.values().any(|operation| !operation.record.ended())
    }

    /// The life of this very process.
    pub(crate) fn life(&mut self, vm: &VmName, process: Process) -> Option<&mut Life> {
        self.lives.get_mut(vm).filter(|life| life.running.process == process)
    }

    /// The operation that waits for a machine to be ready.
    pub(crate) fn awaiting(&self, vm: &VmName) -> Option<u64> {
        let waits = |operation: &&Operation| operation.awaits.as_ref().is_some_and(|awaits| awaits.contains(vm));
        self.operations.values().find(waits).map(|operation| operation.record.id)
    }

    /// Whether no process is looked after.
    pub(crate) fn lifeless(&self) -> bool {
        self.switch.is_none() && self.lives.values().all(|life| matches!(life.phase, Phase::Dead(_)))
    }

    /// Operations that carry out their plan now or wait to.
    pub(crate) fn planning(&self) -> bool {
        self.operations.values().any(|operation| {
            operation.awaits.is_none()
                && matches!(operation.record.state, OperationState::Waiting | OperationState::Running)
        })
    }
}
