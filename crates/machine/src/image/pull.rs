//! Pulling a disk from a server into the catalogue, by `curl`: it knows the system's certificates and proxies.
//!
//! What has come lies in a file of the catalogue's that is named after the address, beside what the server says of the
//! version that it is a part of (RFC 9110, section 8.8); the next pull of the address goes on from there with `If-Range`, so
//! two versions are never mixed. Bytes come through a pipe: `curl` ends when its reader does.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use weft_model::{Disk, DiskFormat, Platform};
use weft_types::Label;

use super::catalog::{Catalog, CatalogImage, Source};
use super::checksum::{Checksum, Hashed};
use super::packed::is_archive;
use super::{Images, digest};
use crate::MachineError;
use crate::host;
use crate::whole::write_whole;

/// How the names of the files begin that are on their way.
const PART: &str = ".part-";
/// What is left of a pull is kept for so long.
const PART_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest list of checksums, in bytes.
const MAX_LIST_BYTES: u64 = 1 << 20;
/// The most that a server says before the file comes, in bytes.
const MAX_HEAD_BYTES: u64 = 256 << 10;
/// How often in a row a connection may end without having brought anything.
const MAX_IDLE_TRIES: u32 = 3;
/// How `curl` ends where the server cannot go on from the middle.
const CURL_RANGE: i32 = 33;
/// How it ends when the server has answered with an error.
const CURL_HTTP: i32 = 22;
/// How it ends when another try may help: no name or connection, a part, a time-out, nothing, or a broken connection.
const CURL_TRANSIENT: [i32; 8] = [6, 7, 16, 18, 28, 52, 56, 92];

/// Where the checksum of what is pulled is known from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// From the user.
    Sum(Checksum),
    /// From the list at this address, such as `SHA256SUMS`.
    List(String),
}

/// What is to be pulled.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Where it is: http, https or file.
    pub url: &'a str,
    /// What its checksum has to be.
    pub expected: Option<&'a Expected>,
    /// The machines that it is for.
    pub platform: Platform,
}

/// What a server has said of a file; what it has not, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    /// What tells it from other versions: a strong `ETag`, or else `Last-Modified`.
    validator: Option<String>,
    /// Its length in bytes.
    length: Option<u64>,
}

impl Catalog {
    /// Makes an image of the disk or the archive at an address after its checksum was looked at; also what
    /// the checksum is, in words. A pull that was cut off goes on where it was. `progress` hears how many bytes have come,
    /// and of how many if that is known; `steps` what becomes of an archive.
    ///
    /// # Errors
    /// When the name is taken, the address cannot be had, the checksum is another, or what comes is no disk that boots.
    pub fn pull(
        &self,
        images: &Images,
        name: &Label,
        Wanted { url, expected, platform }: Wanted<'_>,
        progress: &mut dyn FnMut(u64, Option<u64>),
        steps: &dyn Fn(String),
    ) -> Result<(CatalogImage, String), MachineError> {
        self.check_free(name)?;
        check_url(url)?;
        let checksum = match expected {
            None => None,
            Some(Expected::Sum(sum)) => Some(sum.clone()),
            Some(Expected::List(list)) => Some(listed(list, url)?),
        };
        fs::create_dir_all(self.dir()).map_err(MachineError::io("create", self.dir()))?;
        self.forget_old_parts();
        let mut part = Part::open(self.dir(), url)?;
        let completed = part.complete(url, checksum.as_ref(), progress);
        if completed.is_err() && part.length().is_ok_and(|length| length == 0) {
            part.remove(); // there is nothing to go on with
        }
        let hashed = completed?;
        let named = hashed.named();
        if let Some(checksum) = &checksum
            && let Err(found) = checksum.check(hashed)
        {
            part.remove();
            return Err(MachineError::Checksum { url: url.to_owned(), expected: checksum.to_string(), found });
        }
        let origin = format!("pulled from {url} ({named})");
        let adopted = match is_archive(&part.path) {
            true => self.import_archive(images, name, &part.path, platform, &origin, steps),
            false => {
                check_boots(&part.path).and_then(|()| self.adopt(name, Source::Disk(&part.path, platform), &origin))
            }
        };
        // What is no disk today will be none tomorrow; what only had no name may yet get one.
        if !matches!(adopted, Err(MachineError::ImageExists(_))) {
            part.remove();
        }
        Ok((adopted?, named))
    }

    /// Removes what nobody has gone on with for a long time.
    fn forget_old_parts(&self) {
        for entry in fs::read_dir(self.dir()).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            let age = age.and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if entry.file_name().to_string_lossy().starts_with(PART) && age.is_some_and(|age| age > PART_AGE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// A file that is on its way.
struct Part {
    path: PathBuf,
    /// Locked as long as this lives.
    file: File,
    version: Version,
}

impl Part {
    fn open(dir: &Path, url: &str) -> Result<Self, MachineError> {
        let path = dir.join(format!("{PART}{}", digest(&[url.as_bytes()])));
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(MachineError::io("open", &path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let words = "it is being pulled already".to_owned();
            return Err(MachineError::Pull { url: url.to_owned(), words });
        }
        let mut part = Self { path, file, version: Version::default() };
        let version = fs::read(part.version_path()).ok().and_then(|text| serde_json::from_slice(&text).ok());
        part.version = version.unwrap_or_default();
        Ok(part)
    }

    fn version_path(&self) -> PathBuf {
        self.path.with_extension("version")
    }

    fn head_path(&self) -> PathBuf {
        self.path.with_extension("head")
    }

    fn remove(&self) {
        for path in [&self.path, &self.version_path(), &self.head_path()] {
            let _ = fs::remove_file(path);
        }
    }

    fn length(&self) -> Result<u64, MachineError> {
        Ok(self.file.metadata().map_err(MachineError::io("read", &self.path))?.len())
    }

    fn restart(&mut self) -> Result<(), MachineError> {
        self.version = Version::default();
        let _ = fs::remove_file(self.version_path());
        self.file.set_len(0).map_err(MachineError::io("write", &self.path))
    }

    /// Fetches what is missing; the digest of the whole.
    fn complete(
        &mut self,
        url: &str,
        checksum: Option<&Checksum>,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<Hashed, MachineError> {
        // Of what has neither a version nor a checksum, nobody could say whether its end fits its beginning.
        if self.version.validator.is_none() && checksum.is_none() {
            self.restart()?;
        }
        let mut hashed = self.hash(checksum)?;
        let mut idle = 0;
        loop {
            let before = self.length()?;
            if before > 0 && self.version.length == Some(before) {
                return Ok(hashed);
            }
            let (status, words) = self.fetch(url, before, &mut hashed, progress)?;
            let after = self.length()?;
            match status.code() {
                Some(0) => return Ok(hashed),
                // The server has another version by now, or cannot go on from the middle.
                Some(CURL_RANGE | CURL_HTTP) if before > 0 && after == before => {
                    self.restart()?;
                    hashed = Hashed::for_checking(checksum);
                }
                Some(code) if CURL_TRANSIENT.contains(&code) => {
                    idle = if after > before { 0 } else { idle + 1 };
                    if idle >= MAX_IDLE_TRIES {
                        return Err(MachineError::Pull { url: url.to_owned(), words });
                    }
                    tracing::debug!(target: "weft::machine", %words, after, "a pull goes on after a break");
                    std::thread::sleep(Duration::from_millis(500));
                    if self.version.validator.is_none() && checksum.is_none() {
                        self.restart()?;
                        hashed = Hashed::for_checking(checksum);
                    }
                }
                _ => return Err(MachineError::Pull { url: url.to_owned(), words }),
            }
        }
    }

    /// The digest of what has come already.
    fn hash(&mut self, checksum: Option<&Checksum>) -> Result<Hashed, MachineError> {
        let mut hashed = Hashed::for_checking(checksum);
        let mut buffer = vec![0; 1 << 20];
        self.file.rewind().map_err(MachineError::io("read", &self.path))?;
        loop {
            match self.file.read(&mut buffer).map_err(MachineError::io("read", &self.path))? {
                0 => return Ok(hashed),
                length => hashed.update(&buffer[..length]),
            }
        }
    }

    /// Has `curl` bring what comes after the first `from` bytes; how it ended, and its words.
    fn fetch(
        &mut self,
        url: &str,
        from: u64,
        hashed: &mut Hashed,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(ExitStatus, String), MachineError> {
        let head = self.head_path();
        let _ = fs::remove_file(&head);
        let mut curl = curl(url)?;
        curl.arg("--dump-header").arg(&head);
        if from > 0 {
            curl.arg("--continue-at").arg(from.to_string());
            if let Some(validator) = &self.version.validator {
                curl.arg("--header").arg(format!("If-Range: {validator}"));
            }
        }
        let mut child = Reaped(spawn(curl)?);
        let mut output = child.0.stdout.take().expect("it has a pipe");
        self.file.seek(io::SeekFrom::Start(from)).map_err(MachineError::io("write", &self.path))?;
        let (mut at, mut buffer) = (from, vec![0; 1 << 18]);
        loop {
            let length = match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(MachineError::io("read", "curl's output")(error)),
            };
            if at == from {
                self.learn_version(&head, from)?;
            }
            self.file.write_all(&buffer[..length]).map_err(MachineError::io("write", &self.path))?;
            hashed.update(&buffer[..length]);
            at += length as u64;
            progress(at, self.version.length);
        }
        let mut words = String::new();
        if let Some(stderr) = child.0.stderr.take() {
            let _ = stderr.take(4096).read_to_string(&mut words);
        }
        let status = child.0.wait().map_err(MachineError::io("wait for", "curl"))?;
        let _ = fs::remove_file(head);
        let words = words.lines().last().unwrap_or("curl did not say why");
        let words = words.split_once(") ").filter(|_| words.starts_with("curl: (")).map_or(words, |(_, rest)| rest);
        Ok((status, words.trim().to_owned()))
    }

    /// Remembers which version comes, so that it can be gone on with.
    fn learn_version(&mut self, head: &Path, from: u64) -> Result<(), MachineError> {
        let mut text = Vec::new();
        if let Ok(file) = File::open(head) {
            let _ = file.take(MAX_HEAD_BYTES).read_to_end(&mut text);
        }
        let mut version = Version::of(&String::from_utf8_lossy(&text));
        version.length = version.length.map(|length| from + length);
        if from == 0 || self.version.length.is_none() {
            self.version = version;
            let text = serde_json::to_vec(&self.version).expect("a version is plain data");
            let path = self.version_path();
            write_whole(&path, &text).map_err(MachineError::io("write", path))?;
        }
        Ok(())
    }
}

impl Version {
    /// What the last of these heads says; the earlier ones are of redirections.
    fn of(heads: &str) -> Self {
        let heads = heads.replace("\r\n", "\n");
        let last = heads.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let field = |name: &str| {
            let lines = last.lines().filter_map(|line| line.split_once(':'));
            lines
                .filter(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
                .next_back()
        };
        let strong = field("etag").filter(|etag| etag.starts_with('"') && etag.len() < 1024);
        let packed = field("content-encoding").is_some();
        Self {
            validator: strong.or_else(|| field("last-modified").filter(|date| date.len() < 64)).filter(|_| !packed),
            length: field("content-length").and_then(|length| length.parse().ok()).filter(|_| !packed),
        }
    }
}

/// A child that is killed, and waited for, when this goes.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn curl(url: &str) -> Result<Command, MachineError> {
    let path = host::program("curl")
        .ok_or(MachineError::ToolMissing { tool: "curl", needed_for: "pulling an image from a server" })?;
    let mut command = Command::new(path);
    // `-q` first: nothing in the user's own file of options may change what is written where.
    command
        .args(["-q", "--silent", "--show-error", "--fail", "--globoff", "--location", "--max-redirs", "10"])
        .args(["--proto", "=http,https,file", "--connect-timeout", "20", "--speed-limit", "1", "--speed-time", "60"])
        // What was asked for safely is not taken from anywhere else.
        .args(["--proto-redir", if url.starts_with("https:") { "=https" } else { "=http,https" }])
        .args(["--output", "-", "--url", url]);
    Ok(command)
}

fn spawn(mut command: Command) -> Result<Child, MachineError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = PathBuf::from(command.get_program());
    command.spawn().map_err(|source| MachineError::Run { program, source })
}

fn check_url(url: &str) -> Result<(), MachineError> {
    let bad = |words: &str| Err(MachineError::Pull { url: url.to_owned(), words: words.to_owned() });
    let known = ["http://", "https://", "file:///"].iter().any(|scheme| url.starts_with(scheme));
    if !known {
        return bad("the address begins with none of http://, https:// and file:///");
    }
    match url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        true => bad("there is a space or a control character in the address"),
        false => Ok(()),
    }
}

/// The checksum of what is at `url`, from the list at another address.
fn listed(list: &str, url: &str) -> Result<Checksum, MachineError> {
    check_url(list)?;
    let failed = |words: String| MachineError::Pull { url: list.to_owned(), words };
    let mut child = Reaped(spawn(curl(list)?)?);
    let mut text = Vec::new();
    let output = child.0.stdout.take().expect("it has a pipe");
    output.take(MAX_LIST_BYTES + 1).read_to_end(&mut text).map_err(MachineError::io("read", "curl's output"))?;
    if text.len() as u64 > MAX_LIST_BYTES {
        return Err(failed("it is too long for a list of checksums".to_owned()));
    }
    let mut words = String::new();
    if let Some(stderr) = child.0.stderr.take() {
        let _ = stderr.take(4096).read_to_string(&mut words);
    }
    if !child.0.wait().map_err(MachineError::io("wait for", "curl"))?.success() {
        return Err(failed(words.trim().to_owned()));
    }
    let name = url.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let sum = Checksum::in_list(&String::from_utf8_lossy(&text), name);
    sum.ok_or_else(|| failed(format!("there is no SHA-256 or SHA-512 of `{name}` in it")))
}

/// Checks that a disk could boot: it is qcow2, or has a boot sector. A server's page of excuses has neither.
pub(super) fn check_boots(path: &Path) -> Result<(), MachineError> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(MachineError::io("open", path))?;
    // Not every CD has a disk's boot sector too.
    let is_cd = Disk::examine(&file, None).is_ok_and(|disk| disk.format == DiskFormat::Iso);
    file.take(512).read_to_end(&mut head).map_err(MachineError::io("read", path))?;
    if is_cd || head.starts_with(b"QFI\xfb") || head.get(510..512) == Some(&[0x55, 0xaa]) {
        return Ok(());
    }
    let why = "it is neither a qcow2 file nor a disk with a boot sector, nor a CD's, nor an archive".to_owned();
    Err(MachineError::FileDamaged { what: "disk", path: path.to_owned(), why })
}

#[cfg(test)]
mod tests;
