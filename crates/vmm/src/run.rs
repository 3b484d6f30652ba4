//! The role of the process: it opens what the machine needs, gives up what it may, and runs it to its end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kvm_ioctls::Kvm;
use rustix::event::epoll;
use serde_json::{Value, json};

use crate::boot::Boot;
use crate::bus::{Shared, lock};
use crate::config::{
    BackingConfig, Config, ConfigError, DiskConfig, DiskFormat, PortConfig, TerminalConfig, append, listen, open,
};
use crate::control::{Control, Reply, Request};
use crate::devices::Ending;
use crate::event::descriptor;
use crate::jail::{self, Role};
use crate::large_pages;
use crate::memory::{self, GuestMemory, MemoryError};
use crate::terminal::Terminal;
use crate::virtio::{Block, Console, Device, DiskError, Image, Layer, Net, NetError, Ports, Rng};
use crate::vm::{Machine, MachineError, Parts};

/// Output that is kept for whoever connects to a console.
const BACKLOG_BYTES: usize = 64 << 10;

/// Why a machine does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// What it needs is not there.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `/dev/kvm` cannot be used.
    #[error("Cannot open /dev/kvm: {0}")]
    Kvm(kvm_ioctls::Error),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The system refuses.
    #[error("Cannot run the machine: {0}")]
    System(#[from] io::Error),
}

impl RunError {
    /// What helps.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Config(ConfigError::Json(_)) => "docs/VMM.md shows every key of a description",
            Self::Config(_) => "look whether the path is right, and whether this user may use it",
            Self::Kvm(_) => "load kvm-amd or kvm-intel, and join the group `kvm`",
            Self::Memory(MemoryError::Size(_)) => "choose another size",
            Self::Memory(_) => "free memory on the host, or give the machine less",
            Self::Disk(_) => "use a raw image, as `qemu-img convert -O raw` makes it",
            Self::Net(_) => "start the switch first, with a `vhost` port at this socket",
            Self::Machine(MachineError::Kernel(error)) => error.hint(),
            Self::Machine(MachineError::Cpus(..)) => "choose another number of processors",
            Self::Machine(MachineError::Functions) => "leave some out",
            Self::Machine(_) | Self::System(_) => "`weft doctor` says what this host lacks",
        }
    }
}

/// Has a panic of any thread end the process, as the machine cannot go on without it. For a process that runs
/// nothing else.
pub fn abort_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        std::process::abort();
    }));
}

/// All that a machine needs from outside, open.
struct Resources {
    config: Config,
    kvm: Kvm,
    memory_file: Arc<File>,
    memory: GuestMemory,
    large_pages: bool,
    kernel: File,
    initrd: Option<File>,
    disks: Vec<Image>,
    serial: Shared<Terminal>,
    console: Option<Shared<Terminal>>,
    ports: Vec<(String, UnixListener)>,
}

/// Runs a machine until it ends; how it did. A reset begins it anew, unless the description says otherwise.
///
/// # Errors
/// When it cannot begin.
pub fn run(config: Config) -> Result<Ending, RunError> {
    let control = config.control.as_deref().map(listen).transpose()?;
    let mut control = Control::new(control)?;
    let resources = Resources::open(config)?;
    if resources.config.jailed {
        jail::drop_capabilities()?;
    }
    jail::enter(Role::Main, resources.config.jailed);
    loop {
        let mut machine = resources.machine()?;
        machine.resume()?;
        let ending = attend(&mut machine, &mut control, &resources.serial)?;
        drop(machine);
        if ending != Ending::Reset || resources.config.end_at_reset {
            return Ok(ending);
        }
        memory::clear(&resources.memory_file)?;
    }
}

impl Resources {
    fn open(config: Config) -> Result<Self, RunError> {
        let port = |port: &PortConfig| Ok((port.name.clone(), listen(&port.socket)?));
        let memory_file = memory::create(config.memory_mib.saturating_mul(1 << 20))?;
        Ok(Self {
            kvm: Kvm::new().map_err(RunError::Kvm)?,
            memory: memory::map(&memory_file)?,
            memory_file,
            large_pages: large_pages::allowed(),
            kernel: open(&config.kernel, false)?,
            initrd: config.initrd.as_deref().map(|path| open(path, false)).transpose()?,
            disks: config.disks.iter().map(image).collect::<Result<_, _>>()?,
            serial: terminal(&config.serial)?,
            console: config.console.as_ref().map(terminal).transpose()?,
            ports: config.ports.iter().map(port).collect::<Result<_, ConfigError>>()?,
            config,
        })
    }

    fn machine(&self) -> Result<Machine, RunError> {
        Ok(Machine::new(Parts {
            kvm: &self.kvm,
            memory: &self.memory,
            large_pages: self.large_pages,
            boot: Boot {
                kernel: &self.kernel,
                initrd: self.initrd.as_ref(),
                command_line: &self.config.command_line,
                cpus: self.config.cpus,
            },
            serial: self.serial.clone(),
            devices: self.devices()?,
            jailed: self.config.jailed,
        })?)
    }

    fn devices(&self) -> Result<Vec<Box<dyn Device>>, RunError> {
        let mut devices: Vec<Box<dyn Device>> = vec![Box::new(Rng)];
        if let Some(console) = &self.console {
            devices.push(Box::new(Console::new(console.clone())?));
        }
        if !self.ports.is_empty() {
            let port = |(name, socket): &(String, UnixListener)| Ok((name.clone(), socket.try_clone()?));
            devices.push(Box::new(Ports::new(self.ports.iter().map(port).collect::<io::Result<_>>()?)?));
        }
        for (image, disk) in self.disks.iter().zip(&self.config.disks) {
            devices.push(Box::new(Block::new(image.clone(), disk.read_only, &disk.id)?));
        }
        for net in &self.config.nets {
            devices.push(Box::new(Net::new(&net.socket, net.mac.0, net.mtu)?));
        }
        Ok(devices)
    }
}

/// Opens a disk's image.
fn image(disk: &DiskConfig) -> Result<Image, ConfigError> {
    let file = open(&disk.path, !disk.read_only)?;
    match disk.format {
        DiskFormat::Raw => Ok(Image::raw(file)),
        DiskFormat::Qcow2 => {
            let behind = disk.backing.as_deref().map(layer).transpose()?;
            Image::qcow2(file, !disk.read_only, behind).map_err(|source| unusable(&disk.path, source))
        }
    }
}

/// Opens what is behind a disk's image.
fn layer(behind: &BackingConfig) -> Result<Layer, ConfigError> {
    let file = open(&behind.path, false)?;
    let layer = match behind.format {
        DiskFormat::Raw => Layer::raw(file),
        DiskFormat::Qcow2 => Layer::qcow2(file, behind.backing.as_deref().map(layer).transpose()?),
    };
    layer.map_err(|source| unusable(&behind.path, source))
}

fn unusable(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Open { path: path.to_owned(), source }
}

fn terminal(config: &TerminalConfig) -> Result<Shared<Terminal>, RunError> {
    let log = config.log.as_deref().map(append).transpose()?;
    let listener = config.socket.as_deref().map(listen).transpose()?;
    Ok(Arc::new(Mutex::new(Terminal::new(BACKLOG_BYTES, log, listener)?)))
}

/// Serves whoever controls the machine, and whoever types, until the machine ends.
fn attend(machine: &mut Machine, control: &mut Control, serial: &Shared<Terminal>) -> io::Result<Ending> {
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let typed = lock(serial).ready().try_clone_to_owned()?;
    for source in [descriptor(machine.endings().event()), control.ready(), typed.as_fd()] {
        epoll::add(&ready, source, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    }
    let mut room = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 4];
    let mut paused = false;
    loop {
        match epoll::wait(&ready, room.as_mut_slice(), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        lock(serial).serve();
        lock(machine.serial()).feed();
        control.serve(|request| answer(machine, &mut paused, request));
        if let Some(ending) = machine.endings().first() {
            return Ok(ending);
        }
    }
}

fn answer(machine: &mut Machine, paused: &mut bool, request: Request) -> Reply {
    let answer = |machine: &mut Machine, paused: &mut bool| -> Result<Value, MachineError> {
        match request {
            Request::Status => {}
            Request::Pause if !*paused => {
                machine.pause()?;
                *paused = true;
            }
            Request::Resume if *paused => {
                machine.resume()?;
                *paused = false;
            }
            Request::Pause | Request::Resume => {}
            Request::PowerButton => machine.press_power_button()?,
            Request::Reset => machine.endings().report(Ending::Reset),
            Request::Quit => machine.endings().report(Ending::Quit),
            Request::State => return Ok(machine.state()?.map_or(Value::Null, |state| json!(state))),
        }
        Ok(json!({ "running": !*paused }))
    };
    match answer(machine, paused) {
        Ok(value) => Reply::Ok(value),
        Err(error) => Reply::Error(error.to_string()),
    }
}
