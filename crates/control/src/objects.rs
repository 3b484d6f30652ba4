//! What the store holds: a record for each object, and one key for each kind of thing that can be said about it.
//!
//! | key | value |
//! | --- | --- |
//! | `/weft/generation` | rewritten with every change of desired state: its revision *is* the desired state's |
//! | `/weft/owners/OWNER` | that the owner has objects |
//! | `/weft/enabled/OWNER` | that the owner's machines come back when the host does |
//! | `/weft/boot` | which start of the host the daemon has seen last |
//! | `/weft/networks/NAME`, `/weft/images/NAME`, `/weft/vms/NAME`, `/weft/routers/NAME` | [`Object`]: who declared what |
//! | `/weft/forwards/LISTEN` | [`Object`]: a port forward that a command has added ([`AddedForward`]) |
//! | `/weft/shells/NAME` | [`crate::shells::Shell`]: a shell that stands on a network |
//! | `/weft/overrides/vms/NAME` | [`Override`]: a command that contradicts the declaration |
//! | `/weft/restarts/vms/NAME` | how often a command has asked for a restart |
//! | `/weft/fates/vms/NAME` | [`Fate`]: what became of the machine since it was started |
//! | `/weft/applied/dataplane` | the configuration that the switch has acknowledged last |
//! | `/before/OWNER` | the [`weft_model::World`] that the owner had before it was changed last |
//! | `/weft/operations/NUMBER` | [`OperationRecord`]: so that a later daemon finishes what an earlier one began |

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_machine::Process;
use weft_model::Forward;
use weft_model::view::{OperationState, OperationView, ProblemView};
use weft_store::{Entry, Op};
use weft_types::{Label, Listen, NetworkName, Provenance, VmName};

use crate::ControlError;

/// The prefix of everything.
pub(crate) const ROOT: &str = "/weft/";
pub(crate) const GENERATION: &str = "/weft/generation";
pub(crate) const OWNERS: &str = "/weft/owners/";
pub(crate) const ENABLED: &str = "/weft/enabled/";
pub(crate) const BOOT: &str = "/weft/boot";
pub(crate) const NETWORKS: &str = "/weft/networks/";
pub(crate) const IMAGES: &str = "/weft/images/";
pub(crate) const VMS: &str = "/weft/vms/";
pub(crate) const ROUTERS: &str = "/weft/routers/";
pub(crate) const FORWARDS: &str = "/weft/forwards/";
pub(crate) const SHELLS: &str = "/weft/shells/";
pub(crate) const OVERRIDES: &str = "/weft/overrides/vms/";
pub(crate) const RESTARTS: &str = "/weft/restarts/vms/";
pub(crate) const FATES: &str = "/weft/fates/vms/";
pub(crate) const APPLIED: &str = "/weft/applied/dataplane";
pub(crate) const OPERATIONS: &str = "/weft/operations/";

/// What somebody has declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object<T> {
    /// Who: a file's absolute path, or a command.
    pub owner: String,
    /// What; its provenance is inside.
    pub spec: T,
}

impl<T: Clone> Object<T> {
    /// What this owner has declared.
    pub(crate) fn of(owner: &str, spec: &T) -> Self {
        Self { owner: owner.to_owned(), spec: spec.clone() }
    }
}

/// A port forward that a command has added to a network that somebody else declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedForward {
    /// The network.
    pub network: NetworkName,
    /// The forward.
    pub forward: Forward,
}

/// A command that contradicts a VM's declaration, until the next `up` of its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// What the command wants.
    pub wish: Wish,
    /// The command.
    pub by: Provenance,
}

/// What a command can want of a VM against its declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// That it does not run.
    Stopped {
        /// Without asking the guest.
        force: bool,
    },
    /// That it does not run while the host is down.
    Halted,
    /// That it is gone, with its disk.
    Removed,
}

/// What became of a machine since it was started. None of it is undone by itself: only by a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "fate")]
pub enum Fate {
    /// It was ready once, as this process.
    Ready {
        /// The engine's process.
        process: Process,
    },
    /// Its guest powered it off.
    Off {
        /// In words.
        reason: String,
    },
    /// It died, or could not be started.
    Failed {
        /// In words.
        reason: String,
    },
}

impl Fate {
    /// Why the machine does not run, if this says that it does not.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Ready { .. } => None,
            Self::Off { reason } | Self::Failed { reason } => Some(reason),
        }
    }
}

/// A long piece of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// Its number.
    pub id: u64,
    /// What it does, like `up /home/ann/lab.toml`.
    pub title: String,
    /// What makes it done.
    pub goal: Goal,
    /// How far it is.
    pub state: OperationState,
    /// What went wrong.
    #[serde(default)]
    pub problems: Vec<ProblemView>,
}

impl OperationRecord {
    /// Whether nothing more will happen.
    pub fn ended(&self) -> bool {
        matches!(self.state, OperationState::Done | OperationState::Failed)
    }

    /// As the API shows it.
    pub fn view(&self) -> OperationView {
        OperationView { id: self.id, title: self.title.clone(), state: self.state, problems: self.problems.clone() }
    }

    /// The write that records it.
    pub(crate) fn put(&self) -> Op {
        put(operation_key(self.id), self)
    }
}

/// What must hold, beyond a plan that is carried out, for an operation to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "goal")]
pub enum Goal {
    /// Every VM of this owner that should run is ready.
    World {
        /// The owner.
        owner: String,
    },
    /// This VM is ready, if it should run.
    Vm {
        /// The VM.
        vm: VmName,
    },
    /// Every VM that comes back with the host is ready, if it should run.
    Boot,
    /// This image is built.
    Image {
        /// The image.
        image: Label,
    },
    /// Nothing beyond the plan.
    Tidy,
}

/// Makes an owner's objects of one kind become `specs`.
pub(crate) fn replace<K: Ord + Clone, T: Clone>(
    objects: &mut BTreeMap<K, Object<T>>,
    owner: &str,
    specs: &BTreeMap<K, T>,
) {
    objects.retain(|_, object| object.owner != owner);
    objects.extend(specs.iter().map(|(name, spec)| (name.clone(), Object::of(owner, spec))));
}

pub(crate) fn network_key(name: &NetworkName) -> String {
    format!("{NETWORKS}{name}")
}

pub(crate) fn image_key(name: &Label) -> String {
    format!("{IMAGES}{name}")
}

pub(crate) fn router_key(name: &Label) -> String {
    format!("{ROUTERS}{name}")
}

pub(crate) fn vm_key(name: &VmName) -> String {
    format!("{VMS}{name}")
}

pub(crate) fn forward_key(listen: &Listen) -> String {
    format!("{FORWARDS}{listen}")
}

pub(crate) fn shell_key(name: &VmName) -> String {
    format!("{SHELLS}{name}")
}

pub(crate) fn override_key(name: &VmName) -> String {
    format!("{OVERRIDES}{name}")
}

pub(crate) fn restart_key(name: &VmName) -> String {
    format!("{RESTARTS}{name}")
}

pub(crate) fn fate_key(name: &VmName) -> String {
    format!("{FATES}{name}")
}

pub(crate) fn owner_key(owner: &str) -> String {
    format!("{OWNERS}{owner}")
}

pub(crate) fn enabled_key(owner: &str) -> String {
    format!("{ENABLED}{owner}")
}

/// Zero-padded, so that key order is number order.
pub(crate) fn operation_key(id: u64) -> String {
    format!("{OPERATIONS}{id:020}")
}

/// A write of `value` as JSON.
pub(crate) fn put<T: Serialize>(key: String, value: &T) -> Op {
    // Our records are maps with text keys, numbers and texts: there is nothing in them that JSON lacks.
    Op::put(key, serde_json::to_vec(value).unwrap_or_default())
}

/// The value of an entry.
pub(crate) fn get<T: DeserializeOwned>(entry: &Entry) -> Result<T, ControlError> {
    serde_json::from_slice(&entry.value).map_err(|source| ControlError::Record { key: entry.key.clone(), source })
}
