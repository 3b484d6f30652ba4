//! Whether the hardware can run guests: not whether `/dev/kvm` exists, but whether a guest gets anywhere.
//!
//! A host can have a `/dev/kvm` that opens, creates machines and then runs them a thousand times slower than a
//! translator would. So QEMU is asked to run a tiny guest on it, one that writes a byte, counts down, and writes another;
//! the time between the two is what counts. This takes a fraction of a second and is remembered until the next boot.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use super::record::boot_id;
use crate::host::KvmState;
use crate::whole::write_whole;

/// How often the guest counts. Real hardware needs a few milliseconds for it.
const ITERATIONS: u32 = 5_000_000;
/// How long the guest may count.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long QEMU may take until the guest runs at all.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Says whether hardware virtualization works, as QEMU at `qemu` sees it.
pub(crate) fn kvm_state(qemu: &Path) -> KvmState {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return KvmState::NoPermission,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return KvmState::Absent,
        Err(error) => return KvmState::Unusable(format!("it does not open: {error}")),
    }
    let memory = Memory::new(qemu);
    if let Some(verdict) = memory.as_ref().and_then(Memory::recall) {
        return verdict;
    }
    let verdict = match try_guest(qemu, "kvm") {
        Ok(()) => KvmState::Usable,
        Err(why) => KvmState::Unusable(why),
    };
    if let Some(memory) = memory {
        memory.keep(&verdict);
    }
    verdict
}

/// Runs the tiny guest; an error says in words how that went wrong.
fn try_guest(qemu: &Path, accelerator: &str) -> Result<(), String> {
    let rom = NamedTempFile::with_prefix("weft-try-").and_then(|mut rom| rom.write_all(&firmware()).map(|()| rom));
    let rom = rom.map_err(|error| format!("no file for trying it: {error}"))?;
    let child = Command::new(qemu)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "1"])
        .arg("-machine")
        .arg(format!("pc,accel={accelerator}"))
        .arg("-bios")
        .arg(rom.path())
        .args(["-chardev", "stdio,id=out", "-device", "isa-debugcon,iobase=0xe9,chardev=out"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = Reaped(child.map_err(|error| format!("QEMU does not run: {error}"))?);
    let mut output = child.0.stdout.take().ok_or("QEMU has no output")?;
    if !byte_within(&mut output, START_PATIENCE) {
        return Err("QEMU cannot start a guest on it".to_owned());
    }
    let begin = Instant::now();
    if !byte_within(&mut output, PATIENCE) {
        return Err(format!("guests crawl: {ITERATIONS} steps take more than {} ms", PATIENCE.as_millis()));
    }
    tracing::debug!(target: "weft::machine", accelerator, took = ?begin.elapsed(), "tried a guest");
    Ok(())
}

/// Whether a byte comes within `patience`.
fn byte_within(output: &mut std::process::ChildStdout, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&*output, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return matches!(output.read(&mut [0]), Ok(1)),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The guest: 64 KiB of firmware, whose first instruction stands 16 bytes before its end.
fn firmware() -> Vec<u8> {
    const BYTES: usize = 0x1_0000;
    const RESET: usize = BYTES - 16;
    let count = ITERATIONS.to_le_bytes();
    let program: [&[u8]; 7] = [
        &[0xb0, b'A', 0xe6, 0xe9], // mov al, 'A'; out 0xe9, al
        &[0x66, 0xb9],             // mov ecx, ...
        &count,                    //          ITERATIONS
        &[0x66, 0x49, 0x75, 0xfc], // again: dec ecx; jnz again
        &[0xb0, b'B', 0xe6, 0xe9], // mov al, 'B'; out 0xe9, al
        &[0xfa, 0xf4],             // cli; stop: hlt
        &[0xeb, 0xfd],             // jmp stop
    ];
    let program = program.concat();
    let mut rom = vec![0; BYTES];
    rom[..program.len()].copy_from_slice(&program);
    rom[RESET] = 0xe9; // jmp near, to offset 0: the distance counts from the end of this instruction
    rom[RESET + 1..RESET + 3].copy_from_slice(&13_u16.to_le_bytes());
    rom
}

/// A child that is ended and reaped when it is let go.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The file in which a verdict is kept until the next boot.
struct Memory {
    path: PathBuf,
    /// What the verdict holds for: this boot and this QEMU.
    key: String,
}

impl Memory {
    fn new(qemu: &Path) -> Option<Self> {
        let user = rustix::process::geteuid().as_raw();
        let dir = match std::env::var_os("XDG_RUNTIME_DIR") {
            _ if user == 0 => PathBuf::from("/run"),
            Some(dir) if Path::new(&dir).is_absolute() => dir.into(),
            _ => std::env::temp_dir(),
        };
        let modified = fs::metadata(qemu).ok()?.mtime();
        let key = format!("{} {} {modified}", boot_id(), qemu.display());
        Some(Self { path: dir.join(format!("weft-kvm-{user}")), key })
    }

    fn recall(&self) -> Option<KvmState> {
        // The folder may be everybody's: a file of somebody else's, or a link, is not believed.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(&self.path).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        let mut text = String::new();
        file.take(4096).read_to_string(&mut text).ok()?;
        let (key, verdict) = text.split_once('\n')?;
        match verdict {
            _ if key != self.key => None,
            "" => Some(KvmState::Usable),
            why => Some(KvmState::Unusable(why.to_owned())),
        }
    }

    /// Keeps the verdict if that can be done; next time it is found out anew if not.
    fn keep(&self, verdict: &KvmState) {
        let why = match verdict {
            KvmState::Usable => "",
            KvmState::Unusable(why) => why,
            KvmState::Absent | KvmState::NoPermission => return,
        };
        let _ = write_whole(&self.path, format!("{}\n{why}", self.key).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn the_tiny_guest_runs_where_guests_can_run() {
        let Some(qemu) = host::qemu_path() else {
            eprintln!("SKIPPED: qemu-system-x86_64 is not installed");
            return;
        };
        assert_eq!(try_guest(&qemu, "tcg"), Ok(()));
        assert_eq!(try_guest(&qemu, "no-such-thing"), Err("QEMU cannot start a guest on it".to_owned()));
        assert!(try_guest(Path::new("/nonexistent"), "tcg").unwrap_err().starts_with("QEMU does not run"));
    }

    #[test]
    fn a_verdict_is_remembered_for_this_boot_and_this_program_only() {
        let dir = tempfile::tempdir().unwrap();
        let memory = |key: &str| Memory { path: dir.path().join("verdict"), key: key.to_owned() };
        assert_eq!(memory("a").recall(), None);
        for verdict in [KvmState::Usable, KvmState::Unusable("slow".into())] {
            memory("a").keep(&verdict);
            assert_eq!(memory("a").recall(), Some(verdict));
            assert_eq!(memory("b").recall(), None);
        }
        fs::remove_file(dir.path().join("verdict")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("verdict")).unwrap();
        assert_eq!(memory("a").recall(), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
    }
}
