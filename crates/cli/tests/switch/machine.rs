//! A virtual machine of somebody else: QEMU started by hand, as `examples/switch/qemu.toml` says it.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_machine::{Built, Images, MachineError, Qmp};

/// How long a guest may take to boot on a host that is busy with other tests and emulates its processor.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);

/// How long it may take to do something.
pub(crate) const GUEST_PATIENCE: Duration = Duration::from_secs(60);

/// What guests run, or why it cannot be had.
pub(crate) fn micro() -> Result<&'static Built, String> {
    static MICRO: OnceLock<Result<Built, String>> = OnceLock::new();
    let build = || {
        weft_machine::probe().qemu.map_err(|error| error.to_string())?;
        // Where the tests of worlds build it, too.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-home/cache");
        std::fs::create_dir_all(&cache).map_err(|error| error.to_string())?;
        match Images::new(&cache).ensure("micro", &|_| {}) {
            Err(error @ (MachineError::Download { .. } | MachineError::ToolMissing { .. })) => Err(error.to_string()),
            built => Ok(built.unwrap()),
        }
    };
    MICRO.get_or_init(build).as_ref().map_err(Clone::clone)
}

/// A running QEMU, with a shell at its console.
pub(crate) struct Machine {
    qemu: Child,
    folder: PathBuf,
    name: String,
    console: Option<UnixStream>,
    said: String,
    commands: usize,
}

impl Machine {
    /// Starts QEMU for the guest with the adapter 02:00:00:00:00:NN; `plug` is its chardev's end.
    pub(crate) fn start(folder: &Path, name: &str, number: u8, plug: &str, more: &[&str]) -> Self {
        let Built { kernel, initrd, cmdline } = micro().unwrap();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-display", "none", "-m", "192M"]);
        command.args(["-machine", "q35,memory-backend=mem", "-accel", "tcg", "-cpu", "max,la57=off"]);
        command.args(["-object", "memory-backend-memfd,id=mem,size=192M,share=on"]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", cmdline]);
        command.args(["-chardev", &format!("socket,id=plug,{plug}"), "-netdev", "vhost-user,id=net,chardev=plug"]);
        let adapter = format!("virtio-net-pci,netdev=net,mac=02:00:00:00:00:{number:02x},romfile=,vectors=0");
        command.args(["-device", &adapter]);
        for (option, id) in [("-serial", "console"), ("-qmp", "qmp")] {
            command.args([option, &format!("unix:{name}.{id},server=on,wait=off")]);
        }
        let qemu = command.args(more).current_dir(folder).stdin(Stdio::null()).spawn().unwrap();
        let (folder, name) = (folder.to_owned(), name.to_owned());
        let mut machine = Self { qemu, folder, name, console: None, said: String::new(), commands: 0 };
        machine.console(); // what is said before somebody listens is lost
        machine
    }

    /// Waits until the guest's shell answers, and gives the adapter an address.
    pub(crate) fn boot(&mut self, ip: &str) {
        self.wait_for("/root# ", BOOT_PATIENCE);
        self.run(&format!("ip addr add {ip}/24 dev eth0; ip link set up dev eth0"));
    }

    /// Runs a command in the guest; what it says.
    pub(crate) fn run(&mut self, command: &str) -> String {
        self.commands += 1;
        let number = self.commands;
        self.said.clear();
        // The console repeats what is typed, so the words that are waited for are put together by the shell.
        self.type_in(&format!("echo be''gin; {command}; echo e''nd-{number}-$?\n"));
        let said = self.wait_for(&format!("end-{number}-0"), GUEST_PATIENCE);
        let output = said.lines().skip_while(|line| *line != "begin").skip(1);
        output.take_while(|line| !line.starts_with("end-")).collect::<Vec<_>>().join("\n")
    }

    /// Types into the guest's console.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.console().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the console says `words`.
    fn wait_for(&mut self, words: &str, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        let mut room = [0; 4096];
        while !self.said.contains(words) {
            assert!(Instant::now() < deadline, "{} never said {words:?} but {}", self.name, self.said);
            if let Ok(count) = self.console().read(&mut room) {
                write!(self.said, "{}", String::from_utf8_lossy(&room[..count])).unwrap();
            }
        }
        self.said.replace('\r', "")
    }

    fn console(&mut self) -> &mut UnixStream {
        let path = self.folder.join(format!("{}.console", self.name));
        self.console.get_or_insert_with(|| {
            let console = patiently(|| UnixStream::connect(&path).ok());
            console.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            console
        })
    }

    /// Has QEMU do something.
    pub(crate) fn qmp(&self, command: &str, arguments: Value) -> Value {
        let path = self.folder.join(format!("{}.qmp", self.name));
        let mut qmp = patiently(|| Qmp::connect(&path, Duration::from_secs(10)).ok());
        qmp.execute(command, arguments, Duration::from_secs(10)).unwrap()
    }

    /// Waits for something that QEMU says.
    pub(crate) fn wait_until(&self, what: &str, happened: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + GUEST_PATIENCE;
        while !happened(self) {
            assert!(Instant::now() < deadline, "{}: {what}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the console of {}\n{}", self.name, self.said);
        }
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Tries until there is something.
fn patiently<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + GUEST_PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "it takes too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}
