//! The emulator, and what is heard of the machine in it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weft_machine::Parts;

use super::Metal;

/// The kernel's command line. A kernel that panics ends the machine at once; its tests of its own ciphers, and its look for
/// a timer that QEMU is known to have, would take a good part of the time until the script begins.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check i8042.noaux net.ifnames=0";

/// How often somebody looks who waits.
const GLANCE: Duration = Duration::from_millis(20);

/// An end of a cable.
#[derive(Clone, Debug)]
pub struct CableEnd {
    folder: Arc<TempDir>,
    own: &'static str,
    other: &'static str,
}

impl CableEnd {
    /// The Unix datagram socket that whoever is plugged in here listens to.
    pub fn own_socket(&self) -> PathBuf {
        self.folder.path().join(self.own)
    }

    /// The Unix datagram socket that the other end's owner listens to.
    pub fn other_socket(&self) -> PathBuf {
        self.folder.path().join(self.other)
    }
}

/// A cable: what is sent at one of its ends comes out at the other, or is lost while nobody is plugged in there.
///
/// # Panics
/// When there is no folder for its sockets.
pub fn cable() -> [CableEnd; 2] {
    let folder = Arc::new(tempfile::tempdir().expect("a folder for a cable"));
    [("left", "right"), ("right", "left")].map(|(own, other)| CableEnd { folder: folder.clone(), own, other })
}

/// What became of a script.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The script's exit code; `None` if it did not come to its end: the kernel panicked, or there was no more time.
    pub code: Option<i32>,
    /// All that was said on the console.
    pub output: String,
}

/// A machine that is on; it ends when this is dropped, or the thread that turned it on.
#[derive(Debug)]
pub struct Running {
    qemu: Child,
    folder: TempDir,
    said: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
    deadline: Instant,
    /// The sockets of its cables are there as long as it is.
    _cables: Vec<CableEnd>,
}

impl Running {
    pub(super) fn start(metal: &Metal, parts: &Parts, write_root: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a folder for a machine");
        write_root(&initrd(&folder));
        let words = File::create(folder.path().join("words")).expect("a file for QEMU's words");
        let mut command = command(metal, parts, &folder);
        command.args(["-chardev", "stdio,id=console,signal=off"]);
        let qemu = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(words).spawn();
        let mut qemu = qemu.expect("`setpriv` runs");
        let console = qemu.stdout.take().expect("piped");
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        let listener = Some(thread::spawn(move || listen(console, &heard)));
        let cables = metal.adapters.iter().map(|(_, cable)| cable.clone()).collect();
        Self { qemu, folder, said, listener, deadline: Instant::now() + metal.patience, _cables: cables }
    }

    /// Waits until the console has said something.
    ///
    /// # Panics
    /// When the machine ends before, or there is no more time.
    pub fn wait_for(&mut self, words: &str) {
        while !locked(&self.said).contains(words) {
            let ended = self.qemu.try_wait().expect("QEMU is ours").is_some();
            assert!(!ended && Instant::now() < self.deadline, "it never said {words:?}, but:\n{}", locked(&self.said));
            thread::sleep(GLANCE);
        }
    }

    /// Waits until the machine has turned itself off, or ends it when there is no more time.
    pub fn wait(mut self) -> Outcome {
        while self.qemu.try_wait().expect("QEMU is ours").is_none() && Instant::now() < self.deadline {
            thread::sleep(GLANCE);
        }
        self.end();
        let mut output = locked(&self.said).clone();
        let code = verdict(&self.folder);
        if code.is_none() {
            output += "\n--- it did not come to its end; QEMU said:\n";
            output += &fs::read_to_string(self.folder.path().join("words")).unwrap_or_default();
        }
        Outcome { code, output }
    }

    fn end(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs the machine with this terminal as its console, until it turns itself off; its script's exit code.
pub(super) fn interact(metal: &Metal, parts: &Parts, write_root: impl FnOnce(&Path)) -> Option<i32> {
    let folder = tempfile::tempdir().expect("a folder for a machine");
    write_root(&initrd(&folder));
    let words = File::create(folder.path().join("words")).expect("a file for QEMU's words");
    let mut command = command(metal, parts, &folder);
    command.args(["-chardev", "stdio,id=console,signal=off"]).stderr(words).status().expect("`setpriv` runs");
    verdict(&folder)
}

fn initrd(folder: &TempDir) -> PathBuf {
    folder.path().join("initrd")
}

/// What the machine has said about its script by the second serial line.
fn verdict(folder: &TempDir) -> Option<i32> {
    fs::read_to_string(folder.path().join("verdict")).ok()?.trim().parse().ok()
}

/// QEMU, but for where the console leads. It ends with us, however we end.
fn command(metal: &Metal, parts: &Parts, folder: &TempDir) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"]);
    command.args(["-accel", "tcg,thread=multi", "-cpu", if metal.kvm { "EPYC,+svm,+npt" } else { "max,la57=off" }]);
    command.args(["-m", &format!("{}M", metal.memory_mib), "-smp", &metal.processors.to_string()]);
    command.arg("-kernel").arg(&parts.kernel).arg("-initrd").arg(initrd(folder)).args(["-append", CMDLINE]);
    command.args(["-serial", "chardev:console"]);
    command.args(["-serial", &format!("file:{}", folder.path().join("verdict").display())]);
    for (index, (mac, cable)) in metal.adapters.iter().enumerate() {
        let (own, other) = (cable.own_socket(), cable.other_socket());
        command.arg("-netdev").arg(format!(
            "dgram,id=net{index},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            own.display(),
            other.display()
        ));
        command.args(["-device", &format!("virtio-net-pci,netdev=net{index},mac={mac},romfile=")]);
    }
    command
}

/// Takes in what the console says, and passes it on to whoever reads along.
fn listen(mut console: impl Read, said: &Mutex<String>) {
    let mut room = [0; 4096];
    while let Ok(count @ 1..) = console.read(&mut room) {
        let text = String::from_utf8_lossy(&room[..count]).replace('\r', "");
        eprint!("{text}");
        locked(said).push_str(&text);
    }
}

fn locked(said: &Mutex<String>) -> MutexGuard<'_, String> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}
