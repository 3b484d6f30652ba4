//! Everything that the controller does to the world outside of its store, as one trait: the real host is one of its
//! two implementations, a simulated one with faults is the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use weft_dataplane_protocol::{
    AclStatus, CaptureRequest, DataplaneConfig, ExplainRequest, Explanation, History, SwitchStatus,
};
use weft_machine::guest::ExecRequest;
use weft_machine::{Exit, ImageInfo, KeptImage, Process, Running, StopOutcome};
use weft_model::ImageSource;
use weft_model::view::ProblemView;
use weft_types::{ByteSize, Label, Listen, MacAddr, VmName};

use crate::launch::Launch;
use crate::observed::ObservedVm;

/// What is called once when a process has ended.
pub type OnExit = Box<dyn FnOnce(Exit) + Send>;

/// What is known of the addresses that a machine's adapters have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestAddresses {
    /// What the machine's own agent sees.
    Seen(Vec<IpAddr>),
    /// The agent that could tell does not answer just now.
    Unseen,
    /// The machine has no agent that could tell.
    Unknowable,
}

/// The host, as far as the controller touches it. Every function may be called from any thread, and those that change
/// something may be called again without harm.
pub trait Host: Send + Sync {
    /// The time, in milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;

    /// Which start of the host this is: another word after each.
    fn boot_id(&self) -> String;

    /// Whether a place could be listened at by the switch, as far as that can be found out beforehand.
    fn check_listen(&self, listen: &Listen) -> Result<(), Trouble>;

    /// The memory that machines could have now; `None` if that is not known.
    fn available_memory(&self) -> Option<ByteSize>;

    /// The switch's process, if it runs.
    fn find_switch(&self) -> Option<Process>;

    /// Whether anything is left of a switch, if it runs or not.
    fn switch_remains(&self) -> bool;

    /// Starts the switch unless it runs, and returns when it answers.
    fn start_switch(&self) -> Result<Process, Trouble>;

    /// Lets the running switch become this.
    fn apply_dataplane(&self, config: &DataplaneConfig) -> Result<(), Trouble>;

    /// What the running switch says of itself.
    fn switch_status(&self) -> Result<SwitchStatus, Trouble>;

    /// The access lists that the running switch follows.
    fn switch_rules(&self) -> Result<Vec<AclStatus>, Trouble>;

    /// What the running switch decided lately.
    fn switch_history(&self) -> Result<History, Trouble>;

    /// Starts a capture on the running switch; what is read from the socket is pcapng, until it is closed. Who has shut
    /// down its writing half hears the end of it.
    fn capture(&self, request: &CaptureRequest) -> Result<UnixStream, Trouble>;

    /// What the running switch would do with a frame.
    fn explain(&self, request: &ExplainRequest) -> Result<Explanation, Trouble>;

    /// Ends the switch, and removes its sockets, its snapshot and its leases; no error if it does not run.
    fn stop_switch(&self) -> Result<(), Trouble>;

    /// Every machine of which something is there.
    fn vms(&self) -> BTreeMap<VmName, ObservedVm>;

    /// Starts a machine unless it runs.
    fn start_vm(&self, vm: &VmName, launch: &Launch) -> Result<Running, Trouble>;

    /// Gives a machine that runs its shares of the host; what of them cannot be had, a sentence each.
    fn share_vm(&self, vm: &VmName, launch: &Launch) -> Result<Vec<String>, Trouble>;

    /// Whether a machine of which something is there could be started again as this, as far as that can be seen.
    fn check_restart(&self, _vm: &VmName, _launch: &Launch) -> Result<(), Trouble> {
        Ok(())
    }

    /// Ends a machine, after asking its guest to shut down and waiting for `grace`, or as long as `patient` says yes; no
    /// error if it does not run.
    fn stop_vm(&self, vm: &VmName, grace: Duration, patient: &dyn Fn() -> bool) -> Result<StopOutcome, Trouble>;

    /// Removes what is left of a machine that does not run.
    fn remove_vm(&self, vm: &VmName) -> Result<(), Trouble>;

    /// Calls `on_exit` when the process has ended, from any thread; at once if it has already.
    fn watch(&self, process: Process, on_exit: OnExit);

    /// Has the switch know what the adapters of a machine that runs listen to, until it ends.
    fn hear_filters(&self, _vm: &VmName) {}

    /// Whether the machine's agent answers, waiting up to `wait` for it.
    fn agent_answers(&self, vm: &VmName, wait: Duration) -> bool;

    /// The addresses that the machine's own adapters have.
    fn guest_addresses(&self, vm: &VmName) -> GuestAddresses;

    /// Lets a machine's adapters ask for new leases at once, as far as that is in the host's power.
    fn renew_leases(&self, vm: &VmName, adapters: &BTreeSet<MacAddr>);

    /// Lets a machine's adapters ask what their leases say now, and keep them, as far as that is in the host's power.
    fn refresh_leases(&self, vm: &VmName, adapters: &BTreeSet<MacAddr>);

    /// What a machine has said so far.
    fn words(&self, vm: &VmName) -> Words;

    /// Work that is due now and then, however quiet the host is. Machines that wait for room on the host's disk are told
    /// to try again; which these are.
    fn housekeep(&self) -> BTreeSet<VmName>;

    /// The names of the images that are built.
    fn built_images(&self) -> BTreeSet<Label>;

    /// The images in the cache.
    fn images(&self) -> Result<Vec<ImageInfo>, Trouble>;

    /// The images that users have brought; of those that cannot be used, why.
    fn kept_images(&self) -> Result<Vec<KeptImage>, Trouble>;

    /// Makes sure that an image is there, building it if Weft can; `progress` is told in words.
    fn ensure_image(
        &self,
        image: &Label,
        source: Option<&ImageSource>,
        progress: &dyn Fn(String),
    ) -> Result<(), Trouble>;

    /// Removes an image from the cache.
    fn remove_image(&self, image: &Label) -> Result<(), Trouble>;

    /// Starts a command in a machine; the stream speaks the agent's session frames.
    fn exec(&self, vm: &VmName, request: ExecRequest) -> Result<UnixStream, Trouble>;

    /// Connects to a machine's serial console.
    fn console(&self, vm: &VmName) -> Result<UnixStream, Trouble>;

    /// Connects to a machine's screen, by VNC.
    fn screen(&self, vm: &VmName) -> Result<UnixStream, Trouble>;

    /// A picture of a machine's screen, as PNG.
    fn screenshot(&self, vm: &VmName) -> Result<Vec<u8>, Trouble>;

    /// The file with what a machine's serial console has said.
    fn console_log(&self, vm: &VmName) -> PathBuf;
}

/// What a machine has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The last words of its engine; empty if it has said nothing.
    pub engine: String,
    /// The last lines of its console.
    pub console: Vec<String>,
    /// How much it has written, to its console and its disk: it changes as long as the machine makes progress.
    pub written_bytes: u64,
}

/// Why the host did not do something: stable code, message and way out, from whichever room knows best.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    /// The stable code, like `qemu-missing`.
    pub code: String,
    /// What and where.
    pub message: String,
    /// The causes, one a line; empty if there are no more.
    pub detail: String,
    /// How to fix it; empty if nothing better is known.
    pub hint: String,
}

impl Trouble {
    /// A trouble without deeper causes.
    pub fn new(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), detail: String::new(), hint: hint.into() }
    }

    /// An error with the chain of its causes.
    pub fn of(code: &str, error: &dyn std::error::Error, hint: &str) -> Self {
        let causes: Vec<_> =
            std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string).collect();
        let (message, hint) = (error.to_string(), hint.to_owned());
        Self { code: code.to_owned(), message, detail: causes.join("\n"), hint }
    }

    /// It in one sentence.
    pub fn sentence(&self) -> String {
        match self.detail.is_empty() {
            true => self.message.clone(),
            false => format!("{}: {}", self.message, self.detail.replace('\n', ": ")),
        }
    }

    /// As the API shows it.
    pub fn problem(&self) -> ProblemView {
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        ProblemView {
            code: self.code.clone(),
            title: self.message.clone(),
            detail: some(&self.detail),
            hint: some(&self.hint),
            provenance: None,
        }
    }
}

impl From<weft_machine::MachineError> for Trouble {
    fn from(error: weft_machine::MachineError) -> Self {
        Self::of(error.code(), &error, error.hint())
    }
}

impl From<weft_machine::guest::GuestError> for Trouble {
    fn from(error: weft_machine::guest::GuestError) -> Self {
        Self::of("guest-agent", &error, error.hint())
    }
}

impl From<weft_store::StoreError> for Trouble {
    fn from(error: weft_store::StoreError) -> Self {
        Self::of(error.code(), &error, error.hint())
    }
}

impl From<crate::ControlError> for Trouble {
    fn from(error: crate::ControlError) -> Self {
        Self::of(error.code(), &error, error.hint())
    }
}

impl From<weft_dataplane_protocol::ClientError> for Trouble {
    fn from(error: weft_dataplane_protocol::ClientError) -> Self {
        let code = if error.is_absent() { "switch-absent" } else { "switch-silent" };
        Self::of(code, &error, error.hint())
    }
}

impl From<weft_dataplane_protocol::Refusal> for Trouble {
    fn from(refusal: weft_dataplane_protocol::Refusal) -> Self {
        use weft_dataplane_protocol::ErrorCode::{BadConfig, BadRequest, DiskFailed, ForwardFailed, PortFailed, Stale};
        let code = match refusal.code {
            BadRequest => "switch-bad-request",
            BadConfig => "switch-bad-config",
            Stale => STALE,
            PortFailed => "port-failed",
            ForwardFailed => "forward-failed",
            DiskFailed => "switch-disk-failed",
        };
        Self::new(code, refusal.message, refusal.hint)
    }
}

/// The code of a configuration that is older than the one in force.
pub(crate) const STALE: &str = "switch-stale";
