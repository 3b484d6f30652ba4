//! The daemon's heart: what the API calls.
#![expect(clippy::todo, reason = "for minutes")]

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use weft_dataplane_protocol::{ExplainRequest, Explanation};
use weft_model::view::{ApplyRequest, EventView, ImageView, OperationView, PlanView, ProblemView, WorldView};
use weft_types::VmName;

use crate::{ControlError, Paths};

/// What a command does to one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmAction {
    /// Let it run again.
    Start,
    /// End it, but keep its disk.
    Stop {
        /// Without asking the guest.
        force: bool,
    },
    /// End it and start it.
    Restart,
    /// End it and forget its disk.
    Remove,
}

/// One world's controller. Clones are the same controller.
#[derive(Clone)]
pub struct Controller {}

impl Controller {
    /// Takes the daemon's lock, opens the store, adopts what runs, and resumes unfinished work in the background.
    ///
    /// `exe` is the `weft` binary, to start the switch with.
    pub fn open(_paths: Paths, _exe: PathBuf) -> Result<Self, ControlError> {
        todo!()
    }

    /// Everything at once.
    pub fn view(&self) -> WorldView {
        todo!()
    }

    /// What [`Self::apply`] would do; changes nothing.
    pub fn plan(&self, _request: &ApplyRequest) -> Result<PlanView, Vec<ProblemView>> {
        todo!()
    }

    /// Makes the owner's objects become the request's world; the number of the operation that does it.
    pub fn apply(&self, _request: ApplyRequest) -> Result<u64, Vec<ProblemView>> {
        todo!()
    }

    /// Does something to one VM; the number of the operation that does it.
    pub fn vm_action(&self, _vm: &VmName, _action: VmAction) -> Result<u64, Vec<ProblemView>> {
        todo!()
    }

    /// An operation, if it is known (still).
    pub fn operation(&self, _id: u64) -> Option<OperationView> {
        todo!()
    }

    /// An operation when it has ended, or how far it is after `wait`.
    pub fn wait_operation(&self, _id: u64, _wait: Duration) -> Option<OperationView> {
        todo!()
    }

    /// The events after number `after`, of one operation if given; waits up to `wait` for the first.
    pub fn events(&self, _after: u64, _operation: Option<u64>, _wait: Duration) -> Vec<EventView> {
        todo!()
    }

    /// The images in the cache, those that are built in, and those that files describe.
    pub fn images(&self) -> Result<Vec<ImageView>, ProblemView> {
        todo!()
    }

    /// Builds an image if it is not there; the number of the operation that does it.
    pub fn build_image(&self, _name: &str) -> Result<u64, Vec<ProblemView>> {
        todo!()
    }

    /// Removes an image from the cache.
    pub fn remove_image(&self, _name: &str) -> Result<(), ProblemView> {
        todo!()
    }

    /// A connection to a VM's serial console.
    pub fn console(&self, _vm: &VmName) -> Result<UnixStream, ProblemView> {
        todo!()
    }

    /// The file with what a VM's serial console has said.
    pub fn console_log(&self, _vm: &VmName) -> Result<PathBuf, ProblemView> {
        todo!()
    }

    /// What the switch would do with a frame.
    pub fn explain(&self, _request: ExplainRequest) -> Result<Explanation, ProblemView> {
        todo!()
    }

    /// Whether there is nothing left to look after: no object and no unfinished operation. The daemon may exit then.
    pub fn is_empty(&self) -> bool {
        todo!()
    }

    /// Ends the controller's threads. Nothing that runs is touched; the next controller adopts it.
    pub fn shutdown(&self) {
        todo!()
    }
}
