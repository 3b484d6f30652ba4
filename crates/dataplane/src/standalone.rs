//! A switch inside of another process, which says what it should be: what `weft switch run` is.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, eventfd};
use weft_dataplane_protocol::{DataplaneConfig, Refusal, Response};

use crate::control::Control;
use crate::mailbox::{self, Desk, Task};
use crate::signals::Signals;
use crate::state_dir::StateDir;
use crate::worker::Worker;
use crate::{DataplaneError, Options};

/// A switch that runs on a thread of its own, and remembers nothing once it has ended. It is asked about itself at
/// its control socket, as any other.
#[derive(Debug)]
pub struct Standalone {
    desk: Desk,
    /// Readable once the worker has ended.
    ended: Arc<OwnedFd>,
    worker: Option<JoinHandle<()>>,
}

impl Standalone {
    /// Starts a switch without any port. It ends by SIGTERM or SIGINT, or when this is dropped.
    ///
    /// # Errors
    /// When it cannot start, or when another switch uses the same folder.
    pub fn start(options: &Options) -> Result<Self, DataplaneError> {
        let path = &options.state_dir;
        let state = Arc::new(StateDir::open(path)?);
        state.forget().map_err(|source| DataplaneError::State { path: path.clone(), source })?; // a killed one's
        let signals = Signals::catch()?;
        let (desk, mailbox) = mailbox::open()?;
        let control = Control::open(&options.control_socket, desk.clone(), state.clone())?;
        let ended = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?);
        let bell = ended.clone();
        let (tell, told) = sync_channel(1);
        let worker = thread::Builder::new().name("switch".into()).spawn(move || {
            // Made here, for it never leaves its thread.
            match Worker::new(&state, mailbox, signals) {
                Ok(mut worker) => {
                    let _ = tell.send(Ok(()));
                    worker.run();
                }
                Err(error) => drop(tell.send(Err(error))),
            }
            drop(control);
            let _ = state.forget();
            let _ = rustix::io::write(&*bell, &1u64.to_ne_bytes());
        })?;
        let switch = Self { desk, ended, worker: Some(worker) };
        told.recv().unwrap_or_else(|_| Err(io::Error::other("its worker ended").into()))?;
        Ok(switch)
    }

    /// Becomes `config`, whole: what stays is not touched, and no frame of it is lost.
    ///
    /// # Errors
    /// Everything that is wrong with it; then nothing has changed.
    pub fn apply(&self, config: DataplaneConfig) -> Result<(), Refusal> {
        let prepare = Task::Prepare { config: Box::new(config), taps: BTreeMap::new() };
        for task in [prepare, Task::Commit] {
            if let Response::Refused(refusal) = self.desk.ask(task) {
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Readable once the switch has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        self.desk.ask(Task::End { forget: true });
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
