//! A host that exists only in memory, and a fuse: after so many effects whoever has caused them is dead, and nothing of
//! what it still tries happens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_dataplane_protocol::{
    AclStatus, CaptureRequest, DataplaneConfig, ExplainRequest, Explanation, History, LeaseStatus, NetworkConfig,
    PortConfig, SwitchStatus,
};
use weft_machine::guest::ExecRequest;
use weft_machine::{Exit, ImageInfo, KeptImage, Process, Running, StopOutcome};
use weft_model::ImageSource;
use weft_store::{Entry, MemoryStore, Revision, Snapshot, Store, StoreError, Txn, TxnOutcome, Watch};
use weft_types::{ByteSize, Label, Listen, MacAddr, VmName};

use crate::host::{GuestAddresses, Host, OnExit, STALE, Trouble, Words};
use crate::launch::Launch;
use crate::observed::ObservedVm;

/// What is true on the simulated host; it outlives every controller.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) switch: Option<Process>,
    /// What the switch has on its disk.
    pub(crate) config: Option<DataplaneConfig>,
    pub(crate) vms: BTreeMap<VmName, SimulatedVm>,
    pub(crate) images: BTreeSet<Label>,
    /// Machines that cannot be started.
    pub(crate) broken: BTreeSet<VmName>,
    /// Machines whose agent never answers.
    pub(crate) mute: BTreeSet<VmName>,
    /// Machines that have lost their leases.
    pub(crate) lost: BTreeSet<VmName>,
    /// Machines whose agent does not tell their addresses just now.
    pub(crate) unseen: BTreeSet<VmName>,
    /// Machines whose guest does not hear the power button.
    pub(crate) deaf: BTreeSet<VmName>,
    /// Machines that the host's disk has no room for.
    pub(crate) stuck: BTreeSet<VmName>,
    /// Until when the leases of machines last that keep them from one run to the next.
    pub(crate) leases: BTreeMap<VmName, u64>,
    pub(crate) memory: Option<ByteSize>,
    /// How often the host was started.
    pub(crate) boot: u32,
    /// Places of the host that other programs have.
    pub(crate) taken: Vec<Listen>,
    /// What was done, in order.
    pub(crate) log: Vec<String>,
    watchers: Vec<(Process, OnExit)>,
    processes: u32,
}

/// What is there of a machine.
#[derive(Clone)]
pub(crate) struct SimulatedVm {
    pub(crate) process: Option<Process>,
    launch: Launch,
}

impl World {
    fn new_process(&mut self) -> Process {
        self.processes += 1;
        Process { pid: self.processes, start_ticks: 1 }
    }

    /// The notices to give for a process that has ended; to be called without the lock.
    fn end(&mut self, process: Process) -> Vec<OnExit> {
        let (ended, stay): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.watchers).into_iter().partition(|(p, _)| *p == process);
        self.watchers = stay;
        ended.into_iter().map(|(_, on_exit)| on_exit).collect()
    }
}

/// Burns with every effect.
pub(crate) struct Fuse {
    left: AtomicI64,
    /// Whether the last effect still happens, and only its causer never learns of it.
    pub(crate) last_happens: bool,
}

impl Fuse {
    pub(crate) fn endless() -> Arc<Self> {
        Self::of(i64::MAX, false)
    }

    pub(crate) fn of(effects: i64, last_happens: bool) -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(effects), last_happens })
    }

    pub(crate) fn blown(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }

    /// Does `effect` unless its causer is dead; `None` where the causer does not live to see the outcome.
    fn burn<T>(&self, effect: impl FnOnce() -> T) -> Option<T> {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            2.. => Some(effect()),
            1 if self.last_happens => {
                effect();
                None
            }
            _ => None,
        }
    }
}

/// The simulated host, as one controller sees it.
pub(crate) struct SimulatedHost {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) fuse: Arc<Fuse>,
}

fn killed() -> Trouble {
    Trouble::new("killed", "the daemon is dead", "")
}

pub(crate) fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a machine's process end by itself.
pub(crate) fn crash_vm(world: &Mutex<World>, vm: &str, exit: Exit) {
    let mut locked = lock(world);
    let process = locked.vms.get_mut(&vm.parse().unwrap()).and_then(|vm| vm.process.take());
    let notices = process.map_or_else(Vec::new, |process| locked.end(process));
    drop(locked);
    notices.into_iter().for_each(|notice| notice(exit));
}

/// Lets the switch's process end by itself.
pub(crate) fn crash_switch(world: &Mutex<World>) {
    let mut locked = lock(world);
    let process = locked.switch.take();
    let notices = process.map_or_else(Vec::new, |process| locked.end(process));
    drop(locked);
    notices.into_iter().for_each(|notice| notice(Exit::Signal(9)));
}

impl SimulatedHost {
    fn effect<T>(&self, what: String, effect: impl FnOnce(&mut World) -> Result<T, Trouble>) -> Result<T, Trouble> {
        let mut world = lock(&self.world);
        self.fuse
            .burn(|| {
                world.log.push(what);
                effect(&mut world)
            })
            .unwrap_or_else(|| Err(killed()))
    }
}

impl Host for SimulatedHost {
    fn unix_ms(&self) -> u64 {
        0
    }

    fn boot_id(&self) -> String {
        lock(&self.world).boot.to_string()
    }

    fn check_listen(&self, listen: &Listen) -> Result<(), Trouble> {
        match lock(&self.world).taken.iter().find(|taken| taken.overlaps(listen)) {
            Some(taken) => Err(Trouble::new("forward-failed", format!("{taken} is in use"), "choose another port")),
            None => Ok(()),
        }
    }

    fn available_memory(&self) -> Option<ByteSize> {
        lock(&self.world).memory
    }

    fn find_switch(&self) -> Option<Process> {
        lock(&self.world).switch
    }

    fn switch_remains(&self) -> bool {
        lock(&self.world).config.is_some()
    }

    fn start_switch(&self) -> Result<Process, Trouble> {
        if let Some(process) = lock(&self.world).switch {
            return Ok(process);
        }
        self.effect("start switch".to_owned(), |world| {
            let process = world.new_process();
            world.switch = Some(process);
            Ok(process)
        })
    }

    fn apply_dataplane(&self, config: &DataplaneConfig) -> Result<(), Trouble> {
        self.effect("apply".to_owned(), |world| match (&world.switch, &world.config) {
            (None, _) => Err(Trouble::new("switch-absent", "no switch", "")),
            (_, Some(newer)) if newer.revision > config.revision => Err(Trouble::new(STALE, "older", "")),
            _ => {
                world.config = Some(config.clone());
                Ok(())
            }
        })
    }

    fn switch_status(&self) -> Result<SwitchStatus, Trouble> {
        let world = lock(&self.world);
        let Some(process) = world.switch else { return Err(Trouble::new("switch-absent", "no switch", "")) };
        let config = world.config.clone().unwrap_or_default();
        let runs = |vm: &VmName| world.vms.get(vm).is_some_and(|vm| vm.process.is_some());
        let holds = |vm: &VmName| !world.lost.contains(vm) && (runs(vm) || world.leases.contains_key(vm));
        let lease = |port: &PortConfig| LeaseStatus {
            network: port.network.clone(),
            ip: Ipv4Addr::LOCALHOST,
            mac: port.macs[0],
            vm: port.vm.clone(),
            client_name: None,
            expires_unix_s: port.vm.as_ref().and_then(|vm| world.leases.get(vm)).copied().unwrap_or(0),
        };
        let serves = |network: &&NetworkConfig| network.gateway.as_ref().is_some_and(|gateway| gateway.dhcp.is_some());
        let served: BTreeSet<_> = config.networks.iter().filter(serves).map(|network| &network.name).collect();
        let asks = |port: &&PortConfig| served.contains(&port.network) && port.vm.as_ref().is_some_and(holds);
        let plugged = config.ports.iter().filter(asks);
        Ok(SwitchStatus {
            pid: process.pid,
            revision: config.revision,
            leases: plugged.map(lease).collect(),
            ..SwitchStatus::default()
        })
    }

    fn switch_rules(&self) -> Result<Vec<AclStatus>, Trouble> {
        Err(Trouble::new("simulated", "no rules", ""))
    }

    fn switch_history(&self) -> Result<History, Trouble> {
        Err(Trouble::new("simulated", "no history", ""))
    }

    fn capture(&self, _: &CaptureRequest) -> Result<UnixStream, Trouble> {
        Err(Trouble::new("simulated", "nothing to capture", ""))
    }

    fn explain(&self, _: &ExplainRequest) -> Result<Explanation, Trouble> {
        Err(Trouble::new("simulated", "nothing to explain", ""))
    }

    fn stop_switch(&self) -> Result<(), Trouble> {
        let mut notices = Vec::new();
        let outcome = self.effect("stop switch".to_owned(), |world| {
            world.config = None;
            notices = world.switch.take().map_or_else(Vec::new, |process| world.end(process));
            Ok(())
        });
        notices.into_iter().for_each(|notice| notice(Exit::Code(0)));
        outcome
    }

    fn vms(&self) -> BTreeMap<VmName, ObservedVm> {
        let world = lock(&self.world);
        let seen = |vm: &SimulatedVm| ObservedVm {
            running: vm.process.map(crate::sample::running),
            launch: Some(vm.launch.clone()),
        };
        world.vms.iter().map(|(name, vm)| (name.clone(), seen(vm))).collect()
    }

    fn start_vm(&self, vm: &VmName, launch: &Launch) -> Result<Running, Trouble> {
        self.effect(format!("start {vm}"), |world| {
            let process = world.vms.get(vm).and_then(|vm| vm.process);
            if world.broken.contains(vm) {
                return Err(Trouble::new("engine-exited", format!("QEMU exited before `{vm}` ran"), ""));
            }
            let ports = world.config.as_ref().map_or(&[][..], |config| &config.ports);
            if ports.iter().filter(|port| port.vm.as_ref() == Some(vm)).count() < launch.nics.len() {
                return Err(Trouble::new("switch-absent", format!("`{vm}` has nothing to plug into"), ""));
            }
            if !world.images.contains(&launch.image) {
                return Err(Trouble::new("no-such-image", format!("`{vm}` has no image"), ""));
            }
            let process = process.unwrap_or_else(|| world.new_process());
            world.vms.insert(vm.clone(), SimulatedVm { process: Some(process), launch: launch.clone() });
            Ok(crate::sample::running(process))
        })
    }

    fn share_vm(&self, vm: &VmName, launch: &Launch) -> Result<Vec<String>, Trouble> {
        if lock(&self.world).vms.get(vm).is_none_or(|vm| vm.launch == *launch) {
            return Ok(Vec::new());
        }
        self.effect(format!("share {vm}"), |world| {
            if let Some(vm) = world.vms.get_mut(vm) {
                vm.launch = launch.clone();
            }
            Ok(Vec::new())
        })
    }

    fn check_restart(&self, vm: &VmName, _: &Launch) -> Result<(), Trouble> {
        match lock(&self.world).broken.contains(vm) {
            true => Err(Trouble::new("image-file-changed", format!("the disk of `{vm}` has changed"), "")),
            false => Ok(()),
        }
    }

    fn stop_vm(&self, vm: &VmName, grace: Duration, patient: &dyn Fn() -> bool) -> Result<StopOutcome, Trouble> {
        let asked = Instant::now();
        while lock(&self.world).deaf.contains(vm) && asked.elapsed() < grace && patient() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut notices = Vec::new();
        let outcome = self.effect(format!("stop {vm}"), |world| {
            let process = world.vms.get_mut(vm).and_then(|vm| vm.process.take());
            notices = process.map_or_else(Vec::new, |process| world.end(process));
            Ok(match world.deaf.contains(vm) {
                true => StopOutcome::Quit,
                false => StopOutcome::Shutdown,
            })
        });
        notices.into_iter().for_each(|notice| notice(Exit::Code(0)));
        outcome
    }

    fn remove_vm(&self, vm: &VmName) -> Result<(), Trouble> {
        self.effect(format!("remove {vm}"), |world| match world.vms.get(vm) {
            Some(SimulatedVm { process: Some(_), .. }) => Err(Trouble::new("busy", format!("`{vm}` runs"), "")),
            _ => {
                world.vms.remove(vm);
                Ok(())
            }
        })
    }

    fn watch(&self, process: Process, on_exit: OnExit) {
        let mut world = lock(&self.world);
        let runs = world.switch == Some(process) || world.vms.values().any(|vm| vm.process == Some(process));
        if runs {
            world.watchers.push((process, on_exit));
            return;
        }
        drop(world);
        on_exit(Exit::Unknown);
    }

    fn agent_answers(&self, vm: &VmName, wait: Duration) -> bool {
        let world = lock(&self.world);
        let mute = world.mute.contains(vm);
        drop(world);
        if mute {
            std::thread::sleep(wait.min(Duration::from_millis(5)));
        }
        !mute
    }

    fn guest_addresses(&self, vm: &VmName) -> GuestAddresses {
        match lock(&self.world).unseen.contains(vm) {
            true => GuestAddresses::Unseen,
            false => GuestAddresses::Unknowable,
        }
    }

    fn renew_leases(&self, vm: &VmName, _: &BTreeSet<MacAddr>) {
        lock(&self.world).lost.remove(vm);
    }

    fn refresh_leases(&self, _: &VmName, _: &BTreeSet<MacAddr>) {}

    fn words(&self, _: &VmName) -> Words {
        Words { console: vec!["[    1.0] booting".to_owned(), "login:".to_owned()], ..Words::default() }
    }

    fn housekeep(&self) -> BTreeSet<VmName> {
        lock(&self.world).stuck.clone()
    }

    fn built_images(&self) -> BTreeSet<Label> {
        lock(&self.world).images.clone()
    }

    fn images(&self) -> Result<Vec<ImageInfo>, Trouble> {
        let info = |name: &Label| ImageInfo {
            name: name.to_string(),
            detail: String::new(),
            size: ByteSize::from_mib(1),
            path: PathBuf::new(),
        };
        Ok(lock(&self.world).images.iter().map(info).collect())
    }

    fn kept_images(&self) -> Result<Vec<KeptImage>, Trouble> {
        Ok(Vec::new())
    }

    fn ensure_image(&self, image: &Label, _: Option<&ImageSource>, _: &dyn Fn(String)) -> Result<(), Trouble> {
        self.effect(format!("image {image}"), |world| {
            world.images.insert(image.clone());
            Ok(())
        })
    }

    fn remove_image(&self, image: &Label) -> Result<(), Trouble> {
        self.effect(format!("remove image {image}"), |world| {
            world.images.remove(image);
            Ok(())
        })
    }

    fn exec(&self, _: &VmName, _: ExecRequest) -> Result<UnixStream, Trouble> {
        Err(Trouble::new("simulated", "nothing runs here", ""))
    }

    fn console(&self, _: &VmName) -> Result<UnixStream, Trouble> {
        Err(Trouble::new("simulated", "nothing speaks here", ""))
    }

    fn screen(&self, _: &VmName) -> Result<UnixStream, Trouble> {
        Err(Trouble::new("simulated", "nothing is seen here", ""))
    }

    fn screenshot(&self, _: &VmName) -> Result<Vec<u8>, Trouble> {
        Err(Trouble::new("simulated", "nothing is seen here", ""))
    }

    fn console_log(&self, _: &VmName) -> PathBuf {
        PathBuf::from("/nonexistent")
    }
}

/// A store whose writes burn the fuse too, and whose disk can be full.
pub(crate) struct SimulatedStore {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) fuse: Arc<Fuse>,
    pub(crate) full: Arc<AtomicBool>,
}

impl Store for SimulatedStore {
    fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision()
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.store.get(key)
    }

    fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        self.store.range(prefix)
    }

    fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(StoreError::Full { path: "/full/store.db".into() });
        }
        self.fuse.burn(|| self.store.txn(txn)).unwrap_or(Err(StoreError::Closed))
    }

    fn watch(&self, prefix: &str, from_revision: Revision) -> Result<Watch, StoreError> {
        self.store.watch(prefix, from_revision)
    }

    fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision)
    }
}
