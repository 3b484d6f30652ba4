//! What the controller's threads share.

use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_machine::Process;
use weft_store::{Compare, Op, Store, StoreError, Txn};
use weft_types::VmName;

use crate::desired::Records;
use crate::events::{EventLog, Happening};
use crate::host::Host;
use crate::objects::{self, Fate, fate_key, vm_key};
use crate::observed::Observed;
use crate::state::State;
use crate::{ControlError, Paths};

/// How long the end of the controller waits for its threads.
const FAREWELL: Duration = Duration::from_secs(5);

/// What can be set, for tests.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How many tasks run at a time.
    pub(crate) parallel: usize,
    /// How long a machine may take to be ready.
    pub(crate) ready_within: Duration,
    /// How long it may be silent after that.
    pub(crate) silence: Duration,
    /// How long it may take even if it never falls silent.
    pub(crate) ready_at_last: Duration,
    /// How often the host is kept in order.
    pub(crate) housekeeping: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            parallel: 8,
            ready_within: Duration::from_secs(180),
            silence: Duration::from_secs(60),
            ready_at_last: Duration::from_secs(1800),
            housekeeping: Duration::from_secs(15),
        }
    }
}

/// What the supervisor is told.
pub(crate) enum Notice {
    /// A machine's process has ended.
    VmEnded { vm: VmName, process: Process, exit: weft_machine::Exit },
    /// The switch's process has ended.
    SwitchEnded { process: Process },
    /// The process of a shell has ended.
    ShellEnded { name: VmName, process: Process },
    /// The switch should be there and is not.
    SwitchMissing,
    /// The controller ends.
    Close,
}

/// What the controller's threads share.
pub(crate) struct Inner {
    pub(crate) paths: Paths,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) events: EventLog,
    pub(crate) settings: Settings,
    pub(crate) notices: mpsc::Sender<Notice>,
    /// Held by whoever starts, configures or ends the switch.
    pub(crate) switch_work: Mutex<()>,
    /// Held by whoever ends operations.
    pub(crate) settling: Mutex<()>,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
    /// The daemon's lock, held as long as this lives.
    pub(crate) lock: Mutex<Option<File>>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Inner {
    pub(crate) fn new(
        paths: Paths,
        host: Arc<dyn Host>,
        store: Arc<dyn Store>,
        settings: Settings,
        notices: mpsc::Sender<Notice>,
    ) -> Result<Self, ControlError> {
        let events = EventLog::open(paths.events())?;
        Ok(Self {
            paths,
            host,
            store,
            events,
            settings,
            notices,
            switch_work: Mutex::new(()),
            settling: Mutex::new(()),
            threads: Mutex::new(Vec::new()),
            lock: Mutex::new(None),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        })
    }

    /// What is in memory. Held only for moments: never while the host or the store is asked.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something in memory has changed, or for `timeout`.
    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>, timeout: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Wakes whoever waits for a change in memory.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Whether the controller ends.
    pub(crate) fn closing(&self) -> bool {
        self.state().closing
    }

    /// Everything that the store holds.
    pub(crate) fn records(&self) -> Result<Records, ControlError> {
        Records::read(&self.store.range(objects::ROOT)?)
    }

    /// What is on the host now.
    pub(crate) fn observe(&self, records: &Records) -> Observed {
        let switch = self.host.find_switch();
        let follows = |revision| self.host.switch_status().is_ok_and(|status| status.revision == revision);
        let in_force = switch.is_some() && records.applied.as_ref().is_some_and(|applied| follows(applied.revision));
        Observed {
            switch,
            switch_remains: self.host.switch_remains(),
            applied: records.applied.clone(),
            in_force,
            vms: self.host.vms(),
            images: self.host.built_images(),
        }
    }

    /// Tells what happened.
    pub(crate) fn tell(&self, happening: Happening) {
        self.events.add(self.host.unix_ms(), happening);
    }

    /// Records what became of a machine, unless it is no longer declared.
    pub(crate) fn record_fate(&self, vm: &VmName, fate: &Fate) -> Result<(), StoreError> {
        loop {
            let Some(declared) = self.store.get(&vm_key(vm))? else { return Ok(()) };
            let txn = Txn::new()
                .when(Compare::mod_revision(vm_key(vm), declared.mod_revision))
                .then(objects::put(fate_key(vm), fate));
            if self.store.txn(txn)?.succeeded {
                return Ok(());
            }
        }
    }

    /// One write, whatever was there.
    pub(crate) fn write(&self, op: Op) -> Result<(), StoreError> {
        self.store.txn(Txn::new().then(op)).map(drop)
    }

    /// Runs `body` on a thread that [`Self::close`] waits for.
    pub(crate) fn spawn(self: &Arc<Self>, name: &str, body: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let inner = self.clone();
        let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        match builder.spawn(move || body(&inner)) {
            Ok(thread) => threads.push(thread),
            Err(error) => tracing::error!(%error, name, "cannot start a thread"),
        }
    }

    /// Ends all threads and releases the lock. Nothing that runs is touched.
    ///
    /// A thread in the middle of something long, such as building an image, is left to end with the process.
    pub(crate) fn close(&self) {
        self.state().closing = true;
        self.notify();
        self.events.close();
        let _ = self.notices.send(Notice::Close); // its receiver may have ended already
        let deadline = Instant::now() + FAREWELL;
        loop {
            let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            // Who ends the controller may be one of its threads.
            threads.retain(|thread| !thread.is_finished() && thread.thread().id() != std::thread::current().id());
            if threads.is_empty() || Instant::now() >= deadline {
                break;
            }
            drop(threads);
            std::thread::sleep(Duration::from_millis(1));
        }
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
