//! What a machine is to be: the file that the process is started with, in JSON.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Processors.
    pub cpus: u8,
    /// Memory, in MiB: a multiple of 2, and at least 16.
    pub memory_mib: u64,
    /// A bzImage, or an ELF file with a PVH entry.
    pub kernel: PathBuf,
    /// An initial RAM disk.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[serde(default)]
    pub command_line: String,
    /// The other end of the serial port.
    #[serde(default)]
    pub serial: TerminalConfig,
    /// A virtio console, if there is to be one, and its other end.
    #[serde(default)]
    pub console: Option<TerminalConfig>,
    /// Streams between programs in the guest and on the host, by the names of their virtio ports.
    #[serde(default)]
    pub ports: Vec<PortConfig>,
    /// Disks, in the order in which the guest finds them.
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// Network adapters, likewise.
    #[serde(default)]
    pub nets: Vec<NetConfig>,
    /// A socket to make, at which the machine is controlled.
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// Whether a reset ends the process, with the code for it; otherwise the machine begins anew.
    #[serde(default)]
    pub end_at_reset: bool,
    /// Whether the process's threads may do only what they need to. To be switched off for debuggers only.
    #[serde(default = "yes")]
    pub jailed: bool,
}

/// The other end of a console.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TerminalConfig {
    /// A socket to make, at which whoever connects sees what was written last, and types.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// A file to append to.
    #[serde(default)]
    pub log: Option<PathBuf>,
}

/// A stream between a program in the guest and one on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PortConfig {
    /// Its name, by which programs in the guest find it, like `org.example.agent.0`.
    pub name: String,
    /// A socket to make, which serves one program at a time.
    pub socket: PathBuf,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiskConfig {
    /// The image's file, or a block device.
    pub path: PathBuf,
    /// How sectors stand in it.
    #[serde(default)]
    pub format: DiskFormat,
    /// What is behind a qcow2 file. Nothing else is opened, whatever the file says.
    #[serde(default)]
    pub backing: Option<Box<BackingConfig>>,
    /// Whether the guest may only read.
    #[serde(default)]
    pub read_only: bool,
    /// The serial number that the guest sees, of which 20 bytes count.
    #[serde(default)]
    pub id: String,
}

/// An image behind another one, which is only read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BackingConfig {
    /// The image's file.
    pub path: PathBuf,
    /// How sectors stand in it.
    #[serde(default)]
    pub format: DiskFormat,
    /// What is behind it, if it is a qcow2 file and has something.
    #[serde(default)]
    pub backing: Option<Box<BackingConfig>>,
}

/// How sectors stand in an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// One after the other.
    #[default]
    Raw,
    /// Where a qcow2 file says, and in what is behind it.
    Qcow2,
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NetConfig {
    /// The socket at which the virtual switch listens (vhost-user).
    pub socket: PathBuf,
    /// The adapter's address, like `02:00:5e:10:00:01`.
    pub mac: Mac,
    /// The longest packet, if the guest is to be told.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// An adapter's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// What is no adapter's address.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no adapter's address; one looks like `02:00:5e:10:00:01`")]
pub struct MacError(String);

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        let parts: Vec<_> = text.split(':').map(|part| u8::from_str_radix(part, 16)).collect();
        let bytes: Option<Vec<u8>> = parts.into_iter().map(Result::ok).collect();
        let octets = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        octets.filter(|octets| octets[0] & 1 == 0).map(Self).ok_or(MacError(text))
    }
}

impl From<Mac> for String {
    fn from(Mac(octets): Mac) -> Self {
        octets.map(|octet| format!("{octet:02x}")).join(":")
    }
}

fn yes() -> bool {
    true
}

/// Why what a machine needs is not there.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be opened.
    #[error("Cannot open {path}: {source}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A socket cannot be made.
    #[error("Cannot listen at {path}: {source}")]
    Listen {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no JSON, or says something else.
    #[error("The machine's description is wrong: {0}")]
    Json(#[from] serde_json::Error),
}

impl Config {
    /// Reads a description.
    ///
    /// # Errors
    /// When it says something else, and where.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Ok(serde_json::from_str(text)?)
    }
}

/// Opens a file of the machine.
pub(crate) fn open(path: &Path, writable: bool) -> Result<File, ConfigError> {
    let file = OpenOptions::new().read(true).write(writable).open(path);
    file.map_err(|source| ConfigError::Open { path: path.into(), source })
}

/// Opens a file to append to.
pub(crate) fn append(path: &Path) -> Result<File, ConfigError> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.map_err(|source| ConfigError::Open { path: path.into(), source })
}

/// Listens at a path, for this user only; a socket that somebody left there makes room.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, ConfigError> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    if path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket()) {
        let _ = std::fs::remove_file(path);
    }
    let owner_only = std::fs::Permissions::from_mode(0o600);
    let listener = UnixListener::bind(path).and_then(|listener| {
        std::fs::set_permissions(path, owner_only)?;
        Ok(listener)
    });
    listener.map_err(|source| ConfigError::Listen { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_needs_little() {
        let config = Config::parse(r#"{"cpus": 2, "memory-mib": 128, "kernel": "/boot/vmlinuz"}"#).expect("a machine");
        assert!(config.jailed && config.disks.is_empty());
        let text = serde_json::to_string(&config).expect("JSON");
        assert_eq!(Config::parse(&text).expect("a machine"), config);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |extra: &str, expected: &str| {
            let text = format!(r#"{{"cpus": 2, "memory-mib": 128, "kernel": "k", {extra}}}"#);
            let error = Config::parse(&text).expect_err("wrong").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(r#""colour": "red""#, "unknown field `colour`");
        check(r#""nets": [{"socket": "s", "mac": "02:00"}]"#, "`02:00` is no adapter's address");
        check(r#""nets": [{"socket": "s", "mac": "01:00:5e:00:00:01"}]"#, "no adapter's address");
        check(r#""disks": [{}]"#, "missing field `path`");
    }
}
