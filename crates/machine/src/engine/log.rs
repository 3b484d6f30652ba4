//! What a machine's console and its engine have said.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::files;
use crate::MachineError;
use crate::disk;
use crate::whole::write_whole;

/// How long a log may grow before its beginning is dropped, in bytes.
const MAX_LOG_BYTES: u64 = 8 << 20;
/// How much of a log's end is kept aside when its beginning is dropped, in bytes.
const KEPT_BYTES: u64 = 1 << 20;
/// How much of the engine's words goes into an error, in bytes.
const WORDS_BYTES: u64 = 2048;

/// The file with what a machine's serial console has said since its last start.
pub fn console_log(state_dir: &Path) -> PathBuf {
    state_dir.join(files::CONSOLE_LOG)
}

/// How much a machine has written so far, to its console and its own disk, in bytes: this changes as long as it makes
/// progress that can be seen from outside.
pub fn written_bytes(state_dir: &Path) -> u64 {
    let on_disk = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
    let said = fs::metadata(console_log(state_dir)).map_or(0, |metadata| metadata.len());
    said + on_disk(state_dir.join(disk::OVERLAY))
}

/// The last words of a machine's engine, one line; empty if it has said nothing.
pub fn engine_words(state_dir: &Path) -> String {
    let tail = tail(&state_dir.join(files::ENGINE_LOG), WORDS_BYTES).unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let printable = |line: &str| line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    // A warning matters only when there is nothing worse, and what helps is said elsewhere.
    let lesser = |line: &str| line.contains("warning:") || line.trim_start().starts_with("hint:");
    let worse: Vec<_> = lines.iter().filter(|line| !lesser(line)).collect();
    let said = worse.last().copied().or(lines.last()).copied().unwrap_or_default();
    let said =
        said.trim_start_matches("qemu-system-x86_64: ").trim_start_matches("setsid: ").trim_start_matches("error: ");
    printable(said).trim().to_owned()
}

/// Sets the logs of the last run aside, as `NAME.old`, so that the next run begins with empty ones.
pub(super) fn rotate(state_dir: &Path) -> Result<(), MachineError> {
    for name in [files::CONSOLE_LOG, files::ENGINE_LOG] {
        let path = state_dir.join(name);
        match fs::rename(&path, old(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(MachineError::io("rename", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Keeps a machine's logs from filling the disk, whatever its guest writes: one that has grown beyond 8 MiB is emptied,
/// and its last mebibyte goes to `NAME.old`. To be called now and then while the machine runs.
pub fn bound_logs(state_dir: &Path) -> Result<(), MachineError> {
    for name in [files::CONSOLE_LOG, files::ENGINE_LOG] {
        let path = state_dir.join(name);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
            let kept = tail(&path, KEPT_BYTES).map_err(MachineError::io("read", &path))?;
            write_whole(&old(&path), &kept).map_err(MachineError::io("write", old(&path)))?;
            // The engine appends: after this it goes on from the beginning.
            File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_len(0))
                .map_err(MachineError::io("truncate", &path))?;
        }
    }
    Ok(())
}

fn old(path: &Path) -> PathBuf {
    path.with_extension("log.old")
}

/// The last `limit` bytes of a file.
fn tail(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_words() {
        let dir = tempfile::tempdir().unwrap();
        let words = |log: &str| {
            fs::write(dir.path().join(files::ENGINE_LOG), log).unwrap();
            engine_words(dir.path())
        };
        assert_eq!(words(""), "");
        assert_eq!(words("qemu-system-x86_64: could not load kernel 'x'\n\n"), "could not load kernel 'x'");
        assert_eq!(words("qemu-system-x86_64: bad\nqemu-system-x86_64: warning: slow\n"), "bad");
        assert_eq!(words("warning: slow\n"), "warning: slow");
        assert_eq!(words("error: no kernel\n  hint: take another\n"), "no kernel");
        assert_eq!(words("a\x1b[31m\tb"), "a [31m b");
    }

    #[test]
    fn a_machine_that_only_writes_to_its_disk_makes_progress() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(written_bytes(dir.path()), 0);
        fs::write(console_log(dir.path()), "boot").unwrap();
        assert_eq!(written_bytes(dir.path()), 4);
        fs::write(dir.path().join(disk::OVERLAY), vec![1; 1 << 16]).unwrap();
        File::open(dir.path().join(disk::OVERLAY)).unwrap().sync_all().unwrap();
        assert!(written_bytes(dir.path()) >= 1 << 16);
    }

    #[test]
    fn logs_stay_bounded_and_keep_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = console_log(dir.path());
        bound_logs(dir.path()).unwrap();
        fs::write(&log, "short").unwrap();
        bound_logs(dir.path()).unwrap();
        assert_eq!(fs::read(&log).unwrap(), b"short");
        let mut long = vec![b'.'; MAX_LOG_BYTES as usize];
        long.extend(b"the end");
        fs::write(&log, long).unwrap();
        bound_logs(dir.path()).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        let kept = fs::read(dir.path().join("console.log.old")).unwrap();
        assert!(kept.len() == KEPT_BYTES as usize && kept.ends_with(b"the end"));
    }
}
