//! The daemon's heart: what the API calls.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use weft_dataplane_protocol::{CaptureRequest, ExplainRequest, Explanation};
use weft_machine::Exit;
use weft_machine::guest::ExecRequest;
use weft_model::World;
use weft_model::view::{
    AclView, ApplyRequest, EventView, ForwardRequest, HistoryView, ImageView, OperationView, PlanView, ProblemView,
    ShellRequest, WorldView,
};
use weft_store::{SqliteStore, Store, StoreError};
use weft_types::{Listen, VmName};

use crate::host::{Host, Trouble};
use crate::inner::{Inner, Notice, Settings};
use crate::objects::Fate;
use crate::perform::Beginning;
use crate::plan::plan;
use crate::propose::no_such_vm;
use crate::real_host::RealHost;
use crate::state::Operation;
use crate::{ControlError, Paths, acl_view, history_view, operations, supervise};

/// How much of the store's history is kept, in revisions.
const HISTORY: u64 = 10_000;

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

impl VmAction {
    /// The command's word for it.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop { .. } => "stop",
            Self::Restart => "restart",
            Self::Remove => "rm",
        }
    }
}

/// One world's controller. Clones are the same controller.
#[derive(Clone)]
pub struct Controller {
    inner: Arc<Inner>,
}

impl Controller {
    /// Takes the daemon's lock, opens the store, adopts what runs, and resumes unfinished work in the background.
    ///
    /// `exe` is the `weft` binary, to start the switch with.
    ///
    /// # Errors
    /// [`ControlError::AlreadyRunning`] where another daemon serves this home; otherwise when its folders or its store
    /// cannot be used. Nothing has been touched then.
    pub fn open(paths: Paths, exe: PathBuf) -> Result<Self, ControlError> {
        paths.create()?;
        let lock = lock(&paths)?;
        let store = SqliteStore::open(paths.store())?;
        let host = RealHost::new(paths.clone(), exe);
        let controller = Self::begin(paths, Arc::new(host), Arc::new(store), Settings::default())?;
        *controller.inner.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(lock);
        Ok(controller)
    }

    /// A controller over this host and store.
    pub(crate) fn begin(
        paths: Paths,
        host: Arc<dyn Host>,
        store: Arc<dyn Store>,
        settings: Settings,
    ) -> Result<Self, ControlError> {
        let (sender, receiver) = mpsc::channel();
        let inner = Arc::new(Inner::new(paths, host, store, settings, sender)?);
        let controller = Self { inner };
        controller.adopt()?;
        controller.inner.spawn("supervise", move |inner| supervise::supervise(inner, &receiver));
        controller.inner.spawn("work", operations::work);
        Ok(controller)
    }

    /// Finds out what runs, takes up what an earlier controller has left unfinished, and buries who died meanwhile.
    fn adopt(&self) -> Result<(), ControlError> {
        let inner = &self.inner;
        let records = inner.records()?;
        compact(&*inner.store, records.revision)?;
        let observed = inner.observe(&records);
        let comes_back = inner.notice_boot(&records, &observed)?;
        let records = inner.records()?;
        if let Some(process) = observed.switch {
            inner.adopt_switch(process);
        }
        for (name, shell) in &records.desired.shells {
            inner.watch_shell(name.clone(), shell.process);
        }
        let mut unfinished = false;
        for (id, record) in &records.operations {
            match record.ended() {
                true => drop(inner.state().operations.insert(*id, Operation::new(record.clone()))),
                false => {
                    unfinished = true;
                    inner.enqueue(record.clone());
                }
            }
        }
        for (vm, seen) in &observed.vms {
            let declared = records.desired.vms.get(vm);
            if let Some(running) = seen.running {
                let ready = declared.is_some_and(|declared| declared.was_ready(running.process));
                let beginning = if ready { Beginning::Ready } else { Beginning::Before };
                inner.adopt_vm(vm, running, beginning);
            }
        }
        if unfinished {
            self.come_back(comes_back);
            return Ok(()); // which converges everything
        }
        for (vm, declared) in records.desired.vms.iter().filter(|(_, declared)| declared.should_run()) {
            if observed.vms.get(vm).is_none_or(|seen| seen.running.is_none()) {
                let fate = match supervise::fate_of(Exit::Unknown, &inner.host.words(vm)) {
                    Fate::Failed { reason } => Fate::Failed { reason: format!("{reason}, while no daemon ran") },
                    fate => fate,
                };
                supervise::bury(inner, vm, &fate);
                tracing::debug!(%vm, owner = declared.owner, "buried");
            }
        }
        let mut healed = observed;
        if records.desired.needs_switch() && healed.switch.is_none() && healed.applied.is_some() {
            // Its successor is given what it should be, which is no difference that a plan must tell.
            let _ = inner.notices.send(Notice::SwitchMissing);
            healed.switch = Some(weft_machine::Process { pid: 0, start_ticks: 0 });
            healed.in_force = true;
        }
        if comes_back {
            self.come_back(true);
            return Ok(()); // which converges everything, too
        }
        let desired = inner.records()?.desired;
        if !plan(&desired, &healed, &inner.paths).is_empty()
            && let Err(problems) = inner.tidy()
        {
            tracing::warn!(?problems, "what is left over cannot be tidied up now");
        }
        Ok(())
    }

    /// Starts what is to come back with the host, if there is something.
    fn come_back(&self, something: bool) {
        if something && let Err(problems) = self.inner.boot() {
            tracing::warn!(?problems, "what was to come back with the host cannot");
        }
    }

    /// Everything at once.
    pub fn view(&self) -> WorldView {
        self.inner.world_view()
    }

    /// The access lists in force, by network; none while no switch is wanted.
    ///
    /// # Errors
    /// When the switch does not answer.
    pub fn rules(&self) -> Result<Vec<AclView>, ProblemView> {
        if self.inner.state().switch.is_none() {
            return Ok(Vec::new());
        }
        let rules = self.inner.host.switch_rules().map_err(|trouble| trouble.problem())?;
        Ok(rules.into_iter().map(acl_view).collect())
    }

    /// What the switch decided lately; nothing while none is wanted.
    ///
    /// # Errors
    /// When the switch does not answer.
    pub fn history(&self) -> Result<HistoryView, ProblemView> {
        if self.inner.state().switch.is_none() {
            return Ok(HistoryView::default());
        }
        self.inner.host.switch_history().map(history_view).map_err(|trouble| trouble.problem())
    }

    /// Starts a capture. What is read from the socket is pcapng, until it is closed; who has shut down its writing half
    /// hears the end of it.
    ///
    /// # Errors
    /// When no switch runs, or there are no such ports and networks.
    pub fn capture(&self, request: &CaptureRequest) -> Result<UnixStream, ProblemView> {
        self.inner.host.capture(request).map_err(|trouble| trouble.problem())
    }

    /// What [`Self::apply`] would do; changes nothing.
    ///
    /// # Errors
    /// The problems for which it would be refused.
    pub fn plan(&self, request: &ApplyRequest) -> Result<PlanView, Vec<ProblemView>> {
        self.inner.plan_world(request)
    }

    /// Makes the owner's objects become the request's world; the number of the operation that does it.
    ///
    /// Who else owns something is not touched; what commands have done to the owner's machines is undone.
    ///
    /// # Errors
    /// All problems at once; nothing was changed.
    pub fn apply(&self, request: ApplyRequest) -> Result<u64, Vec<ProblemView>> {
        self.inner.apply(&request)
    }

    /// The world that an owner had before it was changed last; an empty one where there was none.
    ///
    /// # Errors
    /// When nothing of the owner has ever changed, or nobody remembers.
    pub fn world_before(&self, owner: &str) -> Result<World, ProblemView> {
        self.inner.world_before(owner)
    }

    /// Has what an owner declares come back when the host does, or no more.
    ///
    /// # Errors
    /// When the owner has declared nothing.
    pub fn enable(&self, owner: &str, enabled: bool) -> Result<(), ProblemView> {
        self.inner.enable(owner, enabled)
    }

    /// Shuts all machines down before the host; the number of the operation that does it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn halt(&self) -> Result<u64, Vec<ProblemView>> {
        self.inner.halt()
    }

    /// Starts the machines of enabled owners that went down with the host; the number of the operation that does it.
    ///
    /// # Errors
    /// When the host has not what it takes.
    pub fn boot(&self) -> Result<u64, Vec<ProblemView>> {
        self.inner.boot()
    }

    /// Does something to one VM; the number of the operation that does it.
    ///
    /// # Errors
    /// All problems at once; nothing was changed.
    pub fn vm_action(&self, vm: &VmName, action: VmAction) -> Result<u64, Vec<ProblemView>> {
        self.inner.act(vm, action)
    }

    /// Adds a port forward; the number of the operation that does it.
    ///
    /// # Errors
    /// All problems at once; nothing was changed.
    pub fn add_forward(&self, request: &ForwardRequest) -> Result<u64, Vec<ProblemView>> {
        self.inner.add_forward(request)
    }

    /// Removes a port forward that a command has added; the number of the operation that does it.
    ///
    /// # Errors
    /// When there is none, or a file declares it.
    pub fn remove_forward(&self, listen: &Listen) -> Result<u64, Vec<ProblemView>> {
        self.inner.remove_forward(listen)
    }

    /// Plugs a shell into a network as long as its process lives; the number of the operation that does it.
    ///
    /// # Errors
    /// When there is no such network or process, or the name is taken.
    pub fn add_shell(&self, request: &ShellRequest) -> Result<u64, Vec<ProblemView>> {
        self.inner.add_shell(request)
    }

    /// Takes a shell's port, name and lease away; the number of the operation that does it.
    ///
    /// # Errors
    /// When there is no such shell.
    pub fn remove_shell(&self, name: &VmName) -> Result<u64, Vec<ProblemView>> {
        self.inner.remove_shell(name, None)
    }

    /// An operation, if it is known (still).
    pub fn operation(&self, id: u64) -> Option<OperationView> {
        self.inner.state().operations.get(&id).map(|operation| operation.record.view())
    }

    /// An operation when it has ended, or how far it is after `wait`.
    pub fn wait_operation(&self, id: u64, wait: Duration) -> Option<OperationView> {
        let deadline = Instant::now() + wait.min(Duration::from_secs(24 * 3600));
        let mut state = self.inner.state();
        loop {
            let record = &state.operations.get(&id)?.record;
            let left = deadline.saturating_duration_since(Instant::now());
            if record.ended() || left.is_zero() || state.closing {
                return Some(record.view());
            }
            state = self.inner.wait(state, left);
        }
    }

    /// The operations that are remembered, oldest first.
    pub fn operations(&self) -> Vec<OperationView> {
        self.inner.state().operations.values().map(|operation| operation.record.view()).collect()
    }

    /// The events after number `after`, of one operation if given; waits up to `wait` for the first.
    pub fn events(&self, after: u64, operation: Option<u64>, wait: Duration) -> Vec<EventView> {
        self.inner.events.after(after, operation, wait)
    }

    /// The images that could be used: Weft's own, those that files describe, and those that users have brought.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn images(&self) -> Result<Vec<ImageView>, ProblemView> {
        self.inner.image_views()
    }

    /// Builds an image if it is not there; the number of the operation that does it.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn build_image(&self, name: &str) -> Result<u64, Vec<ProblemView>> {
        match self.inner.known_image(name) {
            Ok(image) => self.inner.build(&image),
            Err(problem) => Err(vec![problem]),
        }
    }

    /// Removes an image: Weft's own from the cache, or one that a user has brought.
    ///
    /// # Errors
    /// When machines use it, or it cannot be removed.
    pub fn remove_image(&self, name: &str) -> Result<(), ProblemView> {
        self.inner.remove_image(name)
    }

    /// Starts a command in a VM; the stream speaks the agent's session frames.
    ///
    /// # Errors
    /// When the VM does not run, or its agent does not answer.
    pub fn exec(&self, vm: &VmName, request: ExecRequest) -> Result<UnixStream, ProblemView> {
        self.running(vm)?;
        self.inner.host.exec(vm, request).map_err(|trouble| trouble.problem())
    }

    /// A connection to a VM's serial console.
    ///
    /// # Errors
    /// When the VM does not run.
    pub fn console(&self, vm: &VmName) -> Result<UnixStream, ProblemView> {
        self.running(vm)?;
        self.inner.host.console(vm).map_err(|trouble| trouble.problem())
    }

    /// A connection to a VM's screen: it speaks VNC (RFC 6143).
    ///
    /// # Errors
    /// When the VM does not run, or has none.
    pub fn screen(&self, vm: &VmName) -> Result<UnixStream, ProblemView> {
        self.running(vm)?;
        self.inner.host.screen(vm).map_err(|trouble| trouble.problem())
    }

    /// A picture of a VM's screen, as PNG.
    ///
    /// # Errors
    /// When the VM does not run, or has none.
    pub fn screenshot(&self, vm: &VmName) -> Result<Vec<u8>, ProblemView> {
        self.running(vm)?;
        self.inner.host.screenshot(vm).map_err(|trouble| trouble.problem())
    }

    /// The file with what a VM's serial console has said, since its last start; it is there even when the VM is not.
    ///
    /// # Errors
    /// When there is no such VM, or it was never started.
    pub fn console_log(&self, vm: &VmName) -> Result<PathBuf, ProblemView> {
        self.declared(vm)?;
        let path = self.inner.host.console_log(vm);
        match path.exists() {
            true => Ok(path),
            false => {
                let title = format!("`{vm}` has not said anything yet");
                Err(Trouble::new("no-console-log", title, format!("start it: weft vm start {vm}")).problem())
            }
        }
    }

    /// What the switch would do with a frame.
    ///
    /// # Errors
    /// When no switch runs, or there is no such port.
    pub fn explain(&self, request: ExplainRequest) -> Result<Explanation, ProblemView> {
        self.inner.host.explain(&request).map_err(|trouble| trouble.problem())
    }

    fn declared(&self, vm: &VmName) -> Result<(), ProblemView> {
        let desired = self.inner.records().map_err(|error| Trouble::from(error).problem())?.desired;
        match desired.vms.get(vm) {
            Some(declared) if !declared.removed() => Ok(()),
            _ => Err(no_such_vm(vm)),
        }
    }

    fn running(&self, vm: &VmName) -> Result<(), ProblemView> {
        use crate::state::Phase;
        let runs = self.inner.state().lives.get(vm).is_some_and(|life| !matches!(life.phase, Phase::Dead(_)));
        if runs {
            return Ok(());
        }
        self.declared(vm)?;
        let hint = format!("start it: weft vm start {vm}");
        Err(Trouble::new("vm-not-running", format!("`{vm}` does not run"), hint).problem())
    }

    /// Whether there is nothing left to look after: no object and no unfinished operation. The daemon may exit then.
    pub fn is_empty(&self) -> bool {
        let idle = {
            let state = self.inner.state();
            !state.busy() && state.lifeless()
        };
        idle && self.inner.records().is_ok_and(|records| records.desired.is_empty())
    }

    /// Ends the controller's threads. Nothing that runs is touched; the next controller adopts it.
    pub fn shutdown(&self) {
        self.inner.close();
    }
}

/// Takes the lock that only one daemon of a home can hold; it goes with the process, however that ends.
fn lock(paths: &Paths) -> Result<File, ControlError> {
    let path = paths.daemon_lock();
    let io = |action| {
        let path = path.clone();
        move |source| ControlError::Io { action, path, source }
    };
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io("open"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(already_running(&paths.state, &mut file)),
        Err(error) => return Err(io("lock")(error.into())),
    }
    // Only for people: nothing depends on it, and a full disk must not keep a daemon from helping.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn already_running(home: &Path, file: &mut File) -> ControlError {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text); // a number, or the daemon has not got so far
    ControlError::AlreadyRunning { home: home.to_owned(), pid: text.trim().parse().ok() }
}

/// Forgets the store's older history.
fn compact(store: &dyn Store, revision: u64) -> Result<(), ControlError> {
    match store.compact(revision.saturating_sub(HISTORY)) {
        Ok(()) => Ok(()),
        // No room to forget: what must be written will say so.
        Err(error @ (StoreError::Full { .. } | StoreError::ReadOnly { .. })) => {
            tracing::warn!(%error, "the store's history cannot be shortened");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
