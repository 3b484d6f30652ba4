//! The host that we run on: engines, images, and a switch that is another role of our own binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use weft_dataplane_protocol::{
    AclStatus, CaptureRequest, DataplaneConfig, ExplainRequest, Explanation, History, SwitchStatus, why_not_listening,
};
use weft_machine::guest::{Agent, ExecRequest, GuestError, QemuGuestAgent};
use weft_machine::{
    Boot, Catalog, DiskSpec, Exit, ImageInfo, Images, KeptImage, LaunchNic, LaunchSpec, Process, Running, Seed,
    SeedNic, StopOutcome, Uuid,
};
use weft_model::{Display, EngineKind, ImageSource, MICRO};
use weft_types::{ByteSize, Label, Listen, MacAddr, PortName, Transport, VmName};

use crate::Paths;
use crate::host::{GuestAddresses, Host, OnExit, Trouble, Words};
use crate::launch::Launch;
use crate::listen::{Adapter, Listener};
use crate::observed::ObservedVm;
use crate::switch_process::SwitchProcess;
use crate::watch::Watcher;

/// The file in a VM's state folder that says what it was started as.
const LAUNCH: &str = "launch.json";
/// The longest that is read of it, in bytes.
const MAX_LAUNCH_BYTES: u64 = 4 << 20;
/// How much of a console's end is looked at, in bytes.
const TAIL_BYTES: u64 = 8 << 10;
/// How long an agent that is to do something is waited for.
const AGENT_PATIENCE: Duration = Duration::from_secs(2);
/// How long each of the agents that a foreign guest may have is waited for in turn.
const TURN: Duration = Duration::from_millis(100);

/// The host that we run on.
pub(crate) struct RealHost {
    paths: Paths,
    /// Our own program.
    exe: PathBuf,
    images: Images,
    catalog: Catalog,
    switch: SwitchProcess,
    watcher: io::Result<Watcher>,
    listener: io::Result<Listener>,
    /// The connections to the agents of machines that run.
    agents: Mutex<BTreeMap<VmName, Agents>>,
}

/// The agents that a machine may have. A port takes one connection at a time, so each is made once.
#[derive(Clone)]
struct Agents {
    /// Weft's own.
    own: Agent,
    /// QEMU's, which only foreign images have.
    foreign: Option<QemuGuestAgent>,
}

/// The agent that answers.
enum Voice {
    Own(Agent),
    Foreign(QemuGuestAgent),
}

impl Agents {
    /// Waits for the first that answers.
    fn wait(self, patience: Duration) -> Result<Voice, GuestError> {
        let Self { own, foreign } = self;
        let Some(foreign) = foreign else { return own.wait_ready(patience).map(|_| Voice::Own(own)) };
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match own.wait_ready(TURN.min(left)) {
                Ok(_) => return Ok(Voice::Own(own)),
                Err(GuestError::NotReady { .. } | GuestError::Unreachable(_)) => {}
                Err(error) => return Err(error),
            }
            match foreign.wait_ready(TURN.min(left)) {
                Ok(()) => return Ok(Voice::Foreign(foreign)),
                Err(error) if left.is_zero() => return Err(error),
                Err(_) => {}
            }
        }
    }
}

impl RealHost {
    pub(crate) fn new(paths: Paths, exe: PathBuf) -> Self {
        let watcher = Watcher::start();
        if let Err(error) = &watcher {
            tracing::error!(%error, "processes cannot be watched");
        }
        let listener = Listener::start(&paths.switch_socket());
        if let Err(error) = &listener {
            tracing::error!(%error, "what guests listen to cannot be heard");
        }
        let images = Images::new(&paths.cache);
        let catalog = Catalog::new(paths.images());
        let switch = SwitchProcess::new(paths.clone(), exe.clone());
        Self { paths, exe, images, catalog, switch, watcher, listener, agents: Mutex::default() }
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<VmName, Agents>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent of a machine that answers first; the connections are begun if need be.
    fn voice(&self, vm: &VmName, patience: Duration) -> Result<Voice, GuestError> {
        let known = self.agents().get(vm).cloned();
        let agents = match known {
            Some(agents) => agents,
            None => {
                let run = self.paths.vm_run(vm);
                let own = Agent::connect(&weft_machine::agent_socket(&run))?;
                let foreign = self.has_foreign_image(vm).then(|| weft_machine::guest_agent_socket(&run));
                let agents = Agents { own, foreign: foreign.as_deref().map(QemuGuestAgent::connect).transpose()? };
                self.agents().entry(vm.clone()).or_insert(agents).clone()
            }
        };
        agents.wait(patience)
    }

    fn has_foreign_image(&self, vm: &VmName) -> bool {
        read_launch(&self.paths.vm_state(vm)).is_some_and(|launch| launch.source.is_some())
    }

    fn spec(&self, vm: &VmName, launch: &Launch) -> Result<LaunchSpec, Trouble> {
        let nic = |(index, nic): (usize, &crate::launch::NicLaunch)| LaunchNic {
            mac: nic.mac,
            socket: self.paths.port_socket(vm, index),
            mtu: nic.mtu,
        };
        Ok(LaunchSpec {
            name: vm.clone(),
            uuid: self.uuid(vm),
            engine: launch.engine,
            arch: launch.arch(),
            display: launch.display,
            memory: launch.memory,
            cpus: launch.cpus,
            boot: self.boot(launch)?,
            disk: launch.disk().map(|disk| DiskSpec {
                base: disk.path.clone(),
                format: disk.format,
                size: launch.disk_size,
                seed: Some(seed(vm, launch)),
            }),
            nics: launch.nics.iter().enumerate().map(nic).collect(),
            state_dir: self.paths.vm_state(vm),
            run_dir: self.paths.vm_run(vm),
            cache_dir: self.paths.cache.clone(),
            weft: self.exe.clone(),
        })
    }

    fn has_screen(&self, vm: &VmName) -> Result<(), Trouble> {
        match read_launch(&self.paths.vm_state(vm)).and_then(|launch| launch.display) {
            Some(Display::Vnc) => Ok(()),
            None => {
                let hint = format!("write `display = \"vnc\"` in `[vm.{vm}]`, and run `weft up` again");
                Err(Trouble::new("no-screen", format!("`{vm}` has no screen"), hint))
            }
        }
    }

    fn uuid(&self, vm: &VmName) -> Uuid {
        Uuid::derive(&format!("{}/{vm}", self.paths.state.display()))
    }

    fn boot(&self, launch: &Launch) -> Result<Boot, Trouble> {
        let appended = |cmdline: &str| match &launch.cmdline {
            Some(more) => format!("{cmdline} {more}"),
            None => cmdline.to_owned(),
        };
        Ok(match &launch.source {
            None => {
                let built = self.images.ensure_for(
                    launch.engine.unwrap_or(EngineKind::Qemu),
                    launch.image.as_str(),
                    &|_| {},
                )?;
                Boot::Kernel { kernel: built.kernel, initrd: Some(built.initrd), cmdline: appended(&built.cmdline) }
            }
            Some(ImageSource::Kernel { kernel, initrd, cmdline, .. }) => {
                Boot::Kernel { kernel: kernel.clone(), initrd: initrd.clone(), cmdline: appended(cmdline) }
            }
            Some(ImageSource::Disk(disk)) => Boot::Firmware(disk.firmware.unwrap_or(disk.arch.firmware())),
        })
    }
}

fn seed(vm: &VmName, launch: &Launch) -> Seed {
    let nics = launch.nics.iter().map(|nic| SeedNic { mac: nic.mac, setup: nic.setup.clone(), mtu: nic.mtu });
    Seed {
        hostname: vm.to_string(),
        ssh_key: launch.ssh_key.clone(),
        user_data: launch.user_data.clone(),
        nics: nics.collect(),
    }
}

impl Host for RealHost {
    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn boot_id(&self) -> String {
        // Where it cannot be read, nobody notices a restart: machines are then taken for dead, as after any kill.
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    }

    fn check_listen(&self, listen: &Listen) -> Result<(), Trouble> {
        let transport = listen.transport();
        for (_, address) in listen.sockets() {
            let bound = match transport {
                Transport::Tcp => TcpListener::bind(address).map(drop),
                Transport::Udp => UdpSocket::bind(address).map(drop),
            };
            bound.map_err(|error| why_not_listening(transport, address, &error))?;
        }
        Ok(())
    }

    fn available_memory(&self) -> Option<ByteSize> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(ByteSize::from_bytes(kib.saturating_mul(1024)))
    }

    fn find_switch(&self) -> Option<Process> {
        self.switch.find()
    }

    fn switch_remains(&self) -> bool {
        self.switch.remains()
    }

    fn start_switch(&self) -> Result<Process, Trouble> {
        self.switch.start()
    }

    fn apply_dataplane(&self, config: &DataplaneConfig) -> Result<(), Trouble> {
        self.switch.apply(config)
    }

    fn switch_status(&self) -> Result<SwitchStatus, Trouble> {
        self.switch.status()
    }

    fn switch_rules(&self) -> Result<Vec<AclStatus>, Trouble> {
        self.switch.rules()
    }

    fn switch_history(&self) -> Result<History, Trouble> {
        self.switch.history()
    }

    fn capture(&self, request: &CaptureRequest) -> Result<UnixStream, Trouble> {
        self.switch.capture(request)
    }

    fn explain(&self, request: &ExplainRequest) -> Result<Explanation, Trouble> {
        self.switch.explain(request)
    }

    fn stop_switch(&self) -> Result<(), Trouble> {
        self.switch.stop()
    }

    fn vms(&self) -> BTreeMap<VmName, ObservedVm> {
        let folders = fs::read_dir(self.paths.vm_states()).into_iter().flatten().flatten();
        let names = folders.filter_map(|folder| folder.file_name().to_str()?.parse::<VmName>().ok());
        names
            .map(|name| {
                let seen = ObservedVm {
                    running: weft_machine::adopt(&self.paths.vm_run(&name)),
                    launch: read_launch(&self.paths.vm_state(&name)),
                };
                (name, seen)
            })
            .collect()
    }

    fn start_vm(&self, vm: &VmName, launch: &Launch) -> Result<Running, Trouble> {
        if let Some(running) = weft_machine::adopt(&self.paths.vm_run(vm)) {
            return Ok(running);
        }
        self.agents().remove(vm);
        let spec = self.spec(vm, launch)?;
        // Written first: whatever happens from here on, what is there is known to be this machine's.
        write_launch(&spec.state_dir, launch)?;
        Ok(weft_machine::start(&spec)?)
    }

    fn share_vm(&self, vm: &VmName, launch: &Launch) -> Result<Vec<String>, Trouble> {
        let run = self.paths.vm_run(vm);
        // One that has ended meanwhile has none, and gets them with the next start.
        let running = weft_machine::adopt(&run);
        let lacking = running.map(|running| weft_machine::share(&run, self.uuid(vm), running.process, &launch.shares));
        write_launch(&self.paths.vm_state(vm), launch)?;
        Ok(lacking.unwrap_or_default())
    }

    fn check_restart(&self, vm: &VmName, launch: &Launch) -> Result<(), Trouble> {
        match launch.disk() {
            Some(disk) => Ok(weft_machine::check_overlay(&self.paths.vm_state(vm), &disk.path, disk.format)?),
            None => Ok(()),
        }
    }

    fn stop_vm(&self, vm: &VmName, grace: Duration, patient: &dyn Fn() -> bool) -> Result<StopOutcome, Trouble> {
        let outcome = weft_machine::stop(&self.paths.vm_run(vm), grace, patient)?;
        self.agents().remove(vm);
        Ok(outcome)
    }

    fn remove_vm(&self, vm: &VmName) -> Result<(), Trouble> {
        self.agents().remove(vm);
        Ok(weft_machine::remove(&self.paths.vm_state(vm), &self.paths.vm_run(vm))?)
    }

    fn watch(&self, process: Process, on_exit: OnExit) {
        match &self.watcher {
            Ok(watcher) => watcher.watch(process, on_exit),
            Err(_) if process.alive() => {}
            Err(_) => on_exit(Exit::Unknown),
        }
    }

    fn hear_filters(&self, vm: &VmName) {
        let (Ok(listener), Some(launch)) = (&self.listener, read_launch(&self.paths.vm_state(vm))) else { return };
        let adapter =
            |index| Adapter { device: Some(weft_machine::adapter_name(index)), port: PortName::of_vnic(vm, index) };
        let Some(monitor) = weft_machine::filter_socket(&self.paths.vm_run(vm)) else { return };
        listener.hear(monitor, (0..launch.nics.len()).map(adapter).collect());
    }

    fn agent_answers(&self, vm: &VmName, wait: Duration) -> bool {
        self.voice(vm, wait).is_ok()
    }

    fn guest_addresses(&self, vm: &VmName) -> GuestAddresses {
        let addresses = match self.voice(vm, AGENT_PATIENCE) {
            // Ours can always tell: where it does not, it is asked again.
            Ok(Voice::Own(agent)) => {
                let interfaces = agent.info().ok().map(|info| info.interfaces.into_iter());
                let seen = interfaces.map(|them| them.flat_map(|it| it.addresses).map(|address| address.ip).collect());
                return seen.map_or(GuestAddresses::Unseen, GuestAddresses::Seen);
            }
            Ok(Voice::Foreign(agent)) => agent.addresses(),
            Err(error) => Err(error),
        };
        match addresses {
            Ok(addresses) => GuestAddresses::Seen(addresses),
            Err(_) if self.has_foreign_image(vm) => GuestAddresses::Unknowable,
            Err(_) => GuestAddresses::Unseen,
        }
    }

    fn renew_leases(&self, vm: &VmName, adapters: &BTreeSet<MacAddr>) {
        let run_dir = self.paths.vm_run(vm);
        // A cable that is pulled and put back makes most guests ask; ours do not look at it.
        let Some(launch) = read_launch(&self.paths.vm_state(vm)) else { return };
        if launch.source.is_some() {
            // An agent of ours in another's image may know a better way.
            if let Ok(Voice::Own(agent)) = self.voice(vm, TURN)
                && agent.renew_leases(adapters.iter().copied()).is_ok()
            {
                return;
            }
            let nics = launch.nics.iter().enumerate().filter(|(_, nic)| adapters.contains(&nic.mac));
            let nics: Vec<_> = nics.map(|(index, _)| index).collect();
            if let Err(error) = weft_machine::replug(&run_dir, &nics) {
                tracing::warn!(%error, %vm, "its adapters cannot be plugged in again");
            }
            return;
        }
        let asked = self.voice(vm, AGENT_PATIENCE).and_then(|voice| match voice {
            Voice::Own(agent) => agent.renew_leases(adapters.iter().copied()),
            Voice::Foreign(_) => Ok(()), // our own images have our own agent
        });
        if let Err(error) = asked {
            tracing::warn!(%error, %vm, "its adapters cannot be asked to renew their leases");
        }
    }

    fn refresh_leases(&self, vm: &VmName, adapters: &BTreeSet<MacAddr>) {
        // Others' images may have no agent, and somebody waits.
        let patience = if self.has_foreign_image(vm) { TURN } else { AGENT_PATIENCE };
        let asked = self.voice(vm, patience).and_then(|voice| match voice {
            Voice::Own(agent) => agent.refresh_leases(adapters.iter().copied()),
            Voice::Foreign(_) => Ok(()), // it asks by itself when half of its lease is over
        });
        if let Err(error) = asked {
            tracing::info!(%error, %vm, "its adapters hear of what their leases say when they renew them");
        }
    }

    fn words(&self, vm: &VmName) -> Words {
        let state = self.paths.vm_state(vm);
        Words {
            engine: weft_machine::engine_words(&state),
            console: last_lines(&weft_machine::console_log(&state)),
            written_bytes: weft_machine::written_bytes(&state),
        }
    }

    fn housekeep(&self) -> BTreeSet<VmName> {
        let vms = self.vms();
        for vm in vms.keys() {
            if let Err(error) = weft_machine::bound_logs(&self.paths.vm_state(vm)) {
                tracing::warn!(%error, %vm, "a machine's logs cannot be shortened");
            }
        }
        self.switch.bound_log();
        let writes = |seen: &ObservedVm| seen.running.is_some() && seen.launch.as_ref().is_some_and(Launch::has_disk);
        let waits = |vm: &VmName| weft_machine::resume_writes(&self.paths.vm_run(vm)).unwrap_or(false);
        vms.into_iter().filter(|(vm, seen)| writes(seen) && waits(vm)).map(|(vm, _)| vm).collect()
    }

    fn built_images(&self) -> BTreeSet<Label> {
        let images = self.images.list().unwrap_or_default();
        images.into_iter().filter_map(|image| image.name.parse().ok()).collect()
    }

    fn images(&self) -> Result<Vec<ImageInfo>, Trouble> {
        Ok(self.images.list()?)
    }

    fn ensure_image(
        &self,
        image: &Label,
        source: Option<&ImageSource>,
        progress: &dyn Fn(String),
    ) -> Result<(), Trouble> {
        let Some(source) = source else {
            if self.catalog.find(image).is_ok() {
                return Ok(()); // brought whole
            }
            return Ok(self.images.ensure(image.as_str(), &|step| progress(step.to_string())).map(drop)?);
        };
        if let ImageSource::Kernel { kernel, initrd, .. } = source {
            weft_machine::check_file("kernel", kernel)?;
            initrd.as_deref().map_or(Ok(()), |initrd| weft_machine::check_file("initrd", initrd))?;
        }
        if let Some(disk) = source.disk() {
            weft_machine::check_disk(&disk.path, disk.format)?;
        }
        Ok(())
    }

    fn kept_images(&self) -> Result<Vec<KeptImage>, Trouble> {
        Ok(self.catalog.list()?)
    }

    fn remove_image(&self, image: &Label) -> Result<(), Trouble> {
        let removed = match image.as_str() == MICRO {
            true => self.images.remove(MICRO),
            false => self.catalog.remove(image),
        };
        Ok(removed?)
    }

    fn exec(&self, vm: &VmName, request: ExecRequest) -> Result<UnixStream, Trouble> {
        match self.voice(vm, AGENT_PATIENCE)? {
            Voice::Own(agent) => Ok(agent.exec(request)?),
            Voice::Foreign(agent) => Ok(agent.exec(request)?),
        }
    }

    fn console(&self, vm: &VmName) -> Result<UnixStream, Trouble> {
        let socket = weft_machine::console_socket(&self.paths.vm_run(vm));
        UnixStream::connect(&socket).map_err(|error| {
            let hint = "another `weft console` may be there already; only one can be at a time";
            let title = format!("cannot reach the console of `{vm}`");
            Trouble { detail: error.to_string(), ..Trouble::new("console", title, hint) }
        })
    }

    fn screen(&self, vm: &VmName) -> Result<UnixStream, Trouble> {
        let socket = weft_machine::screen_socket(&self.paths.vm_run(vm));
        self.has_screen(vm)?;
        UnixStream::connect(&socket).map_err(|error| {
            let title = format!("cannot reach the screen of `{vm}`");
            Trouble { detail: error.to_string(), ..Trouble::new("screen", title, "`weft logs` may tell why") }
        })
    }

    fn screenshot(&self, vm: &VmName) -> Result<Vec<u8>, Trouble> {
        self.has_screen(vm)?;
        Ok(weft_machine::screenshot(&self.paths.vm_run(vm))?)
    }

    fn console_log(&self, vm: &VmName) -> PathBuf {
        weft_machine::console_log(&self.paths.vm_state(vm))
    }
}

fn read_launch(state_dir: &Path) -> Option<Launch> {
    let mut bytes = Vec::new();
    File::open(state_dir.join(LAUNCH)).ok()?.take(MAX_LAUNCH_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn write_launch(state_dir: &Path, launch: &Launch) -> Result<(), Trouble> {
    let path = state_dir.join(LAUNCH);
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
        write_whole(&path, &serde_json::to_vec(launch)?)
    };
    write().map_err(|error| io_trouble("write", &path, &error))
}

/// Writes a file such that a reader, or a kill, finds its old contents or its new ones and never a part of either.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    fs::rename(&draft, path)
}

pub(crate) fn io_trouble(action: &str, path: &Path, error: &io::Error) -> Trouble {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let (code, hint) = match full {
        true => ("disk-full", "make room on that disk, then run the same command again"),
        false => ("io", "check the owner and the mode of the folder"),
    };
    let title = format!("cannot {action} `{}`", path.display());
    Trouble { detail: error.to_string(), ..Trouble::new(code, title, hint) }
}

/// The last lines of a text that a guest has written, without anything that could harm a terminal.
pub(crate) fn last_lines(path: &Path) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    printable_lines(&read().unwrap_or_default())
}

/// The lines of a text that are not blank, without control characters and terminal sequences (ECMA-48, section 5.4).
fn printable_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let printable = |line: &str| {
        let mut kept = String::new();
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\x1b' && chars.next_if_eq(&'[').is_some() {
                // A control sequence ends with its first character from `@` to `~`.
                let _ = chars.by_ref().find(|c| ('@'..='~').contains(c));
            } else if !c.is_control() {
                kept.push(c);
            }
        }
        kept.trim_end().to_owned()
    };
    text.split(['\n', '\r']).map(printable).filter(|line| !line.trim().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_guests_words_cannot_harm_a_terminal() {
        let lines = |text: &str| printable_lines(text.as_bytes());
        assert_eq!(lines("\x1b[2J\x1b[1;31mhello\x1b[0m\r\n\n \nworld"), ["hello", "world"]);
        assert_eq!(lines("\x1b]0;title\x07x"), ["]0;titlex"]);
        assert_eq!(lines("\x1b["), [""; 0]);
        assert_eq!(printable_lines(b"\xff\xfe"), ["\u{fffd}\u{fffd}"]);
    }

    proptest! {
        #[test]
        fn no_control_character_gets_through(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for line in printable_lines(&bytes) {
                prop_assert!(!line.trim().is_empty() && !line.contains(char::is_control));
            }
        }
    }

    #[test]
    fn the_record_of_a_launch_survives_and_damage_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("vms/web");
        assert_eq!(read_launch(&state), None);
        let launch = crate::sample::launch();
        write_launch(&state, &launch).unwrap();
        assert_eq!(read_launch(&state), Some(launch));
        fs::write(state.join(LAUNCH), b"{\"image\":").unwrap();
        assert_eq!(read_launch(&state), None);
    }
}
