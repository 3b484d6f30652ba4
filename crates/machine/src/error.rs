//! What can go wrong with a machine, and what its user can do about it.

use std::io;
use std::path::{Path, PathBuf};

use weft_model::{Arch, DiskFault};
use weft_types::ByteSize;

use crate::engine::{Board, QmpError};
use crate::process::Exit;

/// The longest path that a Unix socket can have, in bytes: `sun_path` without its final zero (`unix(7)`).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Why something could not be done with a machine.
///
/// The message says what failed and where, [`hint`](Self::hint) what to do about it, and [`code`](Self::code) is stable.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// There is no engine.
    #[error("QEMU is not installed: no `{}` in PATH", Board::of(*arch).program)]
    QemuMissing {
        /// The processor of the machine that needs it.
        arch: Arch,
    },
    /// There is no UEFI firmware.
    #[error("no UEFI firmware for {} is described in /usr/share/qemu/firmware", arch.as_str())]
    UefiMissing {
        /// The processor of the machine that needs it.
        arch: Arch,
    },
    /// A tool that an image's build needs is missing.
    #[error("`{tool}` is not installed, and {needed_for} needs it")]
    ToolMissing {
        /// The program.
        tool: &'static str,
        /// What for.
        needed_for: &'static str,
    },
    /// The host has not enough memory left for the machine.
    #[error("not enough memory for `{vm}`: it asks for {asked} and the host has {available} available")]
    NoMemory {
        /// The machine.
        vm: String,
        /// What it asks for.
        asked: ByteSize,
        /// What could be had.
        available: ByteSize,
    },
    /// A socket's path is longer than the kernel takes.
    #[error("the path `{path}` is {length} bytes long; a Unix socket's has at most {MAX_SOCKET_PATH_BYTES}")]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// A path has a byte that it cannot have here.
    #[error("the path `{path}` cannot be handed to QEMU: {why}")]
    PathText {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file of an image is not there.
    #[error("the {what} `{path}` does not exist")]
    FileMissing {
        /// What the file is, like `kernel`.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
    /// A file of an image is not what it should be.
    #[error("the {what} `{path}` cannot be used: {why}")]
    FileDamaged {
        /// What the file is, like `disk`.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A disk is there, but no machine could use it.
    #[error("the disk `{path}` cannot be used: {fault}")]
    BadDisk {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        fault: DiskFault,
    },
    /// A disk has become another one under a machine's own.
    #[error("the disk `{path}` has changed since the machine's own disk was made over it")]
    DiskChanged {
        /// Where it is.
        path: PathBuf,
    },
    /// No image has this name.
    #[error("there is no image `{0}`")]
    NoSuchImage(String),
    /// The name of a new image is another's.
    #[error("there is an image `{0}` already")]
    ImageExists(String),
    /// What the catalogue keeps about an image cannot be understood.
    #[error("the description `{path}` cannot be used: {why}")]
    ImageDescription {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A program that does some of the work has failed.
    #[error("{program} failed: {words}")]
    Program {
        /// The program.
        program: &'static str,
        /// The last of its words.
        words: String,
    },
    /// What is at an address could not be had.
    #[error("cannot pull {url}: {words}")]
    Pull {
        /// The address.
        url: String,
        /// Why.
        words: String,
    },
    /// What came from an address is not what was expected.
    #[error("what is at {url} is not what it should be: its checksum is {found}, not {expected}")]
    Checksum {
        /// The address.
        url: String,
        /// The checksum that it should have.
        expected: String,
        /// The one that it has.
        found: String,
    },
    /// The disk of the catalogue is too small for a new image.
    #[error("not enough room for the image in `{path}`: it takes {needed} and {available} are free")]
    NoRoom {
        /// The catalogue's folder.
        path: PathBuf,
        /// What the image takes.
        needed: ByteSize,
        /// What is free.
        available: ByteSize,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, like `write`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program could not be run.
    #[error("cannot run `{program}`")]
    Run {
        /// The program.
        program: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The engine's process ended before the machine ran.
    #[error("{engine} {exit} before `{vm}` ran{}", said(words))]
    EngineExited {
        /// The engine, like `QEMU`.
        engine: &'static str,
        /// The machine.
        vm: String,
        /// How it ended.
        exit: Exit,
        /// What it said on its standard error.
        words: String,
    },
    /// The engine runs but does not answer.
    #[error("{engine} did not answer within {seconds} s after `{vm}` was started{}", said(words))]
    EngineSilent {
        /// The engine.
        engine: &'static str,
        /// The machine.
        vm: String,
        /// How long it was waited for.
        seconds: u64,
        /// What it said on its standard error.
        words: String,
    },
    /// The switch's socket is not there, so the engine waits for it.
    #[error("{engine} waits for the switch at `{socket}`, where `{vm}` plugs in")]
    SwitchAbsent {
        /// The engine.
        engine: &'static str,
        /// The machine.
        vm: String,
        /// Where the switch should listen.
        socket: PathBuf,
    },
    /// The engine that was asked for cannot run the machine.
    #[error("{engine} cannot run `{vm}`: it {why}")]
    EngineUnfit {
        /// The engine.
        engine: &'static str,
        /// The machine.
        vm: String,
        /// Why.
        why: String,
    },
    /// The engine that runs a machine cannot do this.
    #[error("{engine} has no {what}")]
    EngineLacks {
        /// The engine.
        engine: &'static str,
        /// What it lacks.
        what: &'static str,
    },
    /// The machine runs already.
    #[error("`{vm}` runs already, as process {pid}")]
    RunsAlready {
        /// The machine.
        vm: String,
        /// Its process.
        pid: u32,
    },
    /// The process outlived even SIGKILL.
    #[error("process {pid} does not end, even when killed")]
    DoesNotEnd {
        /// The process.
        pid: u32,
    },
    /// The engine's monitor answered with an error, or not in its protocol.
    #[error("QEMU's monitor failed")]
    Qmp(#[from] QmpError),
    /// A package could not be fetched.
    #[error("cannot download the Debian package `{package}`: {words}")]
    Download {
        /// The package.
        package: String,
        /// What apt said.
        words: String,
        /// Whether the network seems to be the reason.
        offline: bool,
    },
    /// A package is not what it should be.
    #[error("the package `{package}` cannot be used: {why}")]
    Package {
        /// The package's file.
        package: String,
        /// What is wrong with it.
        why: String,
    },
}

/// `: words`, or nothing where nothing was said.
fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

impl MachineError {
    /// The error's stable name, for the API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::QemuMissing { .. } => "qemu-missing",
            Self::UefiMissing { .. } => "uefi-missing",
            Self::ToolMissing { .. } => "tool-missing",
            Self::NoMemory { .. } => "no-memory",
            Self::SocketPath { .. } => "socket-path-too-long",
            Self::PathText { .. } => "path-unusable",
            Self::FileMissing { .. } => "image-file-missing",
            Self::FileDamaged { .. } | Self::BadDisk { .. } => "image-file-damaged",
            Self::DiskChanged { .. } => "image-file-changed",
            Self::NoSuchImage(_) => "no-such-image",
            Self::ImageExists(_) => "image-exists",
            Self::ImageDescription { .. } => "image-description",
            Self::Program { .. } => "program-failed",
            Self::Pull { .. } => "pull-failed",
            Self::Checksum { .. } => "checksum-mismatch",
            Self::NoRoom { .. } => "disk-full",
            Self::Io { source, .. } if is_full(source) => "disk-full",
            Self::Io { .. } => "io",
            Self::Run { .. } => "run",
            Self::EngineExited { .. } => "engine-exited",
            Self::EngineSilent { .. } => "engine-silent",
            Self::SwitchAbsent { .. } => "switch-absent",
            Self::EngineUnfit { .. } => "engine-unfit",
            Self::EngineLacks { .. } => "engine-lacks",
            Self::RunsAlready { .. } => "runs-already",
            Self::DoesNotEnd { .. } => "does-not-end",
            Self::Qmp(_) => "qmp",
            Self::Download { .. } => "download",
            Self::Package { .. } => "package",
        }
    }

    /// What the user can do about it; empty where nothing better than the message is known.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::QemuMissing { arch } => match arch {
                Arch::X86 => "install it: apt-get install qemu-system-x86",
                Arch::Aarch64 => "install it: apt-get install qemu-system-arm",
                Arch::Riscv64 => "install it: apt-get install qemu-system-misc",
            },
            Self::UefiMissing { arch } => match arch {
                Arch::X86 => "install it: apt-get install ovmf",
                Arch::Aarch64 => "install it: apt-get install qemu-efi-aarch64",
                Arch::Riscv64 => "install it: apt-get install qemu-efi-riscv64, or give the image `kernel` too",
            },
            Self::ToolMissing { tool, .. } => match *tool {
                "apt-get" => {
                    "the image `micro` is made from Debian's packages; on another system describe an image \
                              of your own with `kernel` and `initrd`"
                }
                "dpkg-deb" => "install it: apt-get install dpkg",
                "mmdebstrap" => "install it: apt-get install mmdebstrap",
                "newuidmap" => "install it: apt-get install uidmap",
                "mke2fs" | "debugfs" => "install it: apt-get install e2fsprogs",
                "curl" => "install it: apt-get install curl",
                _ => "install it with your package manager",
            },
            Self::NoMemory { .. } => "give the VM less with `memory`, or stop another one",
            Self::SocketPath { .. } => "choose a shorter WEFT_HOME",
            Self::PathText { .. } => "rename the folder or the file",
            Self::FileMissing { .. } => "check the path in the image's description",
            Self::BadDisk { fault, .. } => fault.hint(),
            Self::DiskChanged { .. } => {
                "put the old file back; or give the machine a new disk over the new file: weft vm rm VM, then weft up"
            }
            Self::FileDamaged { .. } => "check the file, or describe the image with another one",
            Self::NoSuchImage(_) => {
                "`micro` is built in; describe others under [image.NAME], or bring them in: weft image import"
            }
            Self::ImageExists(_) => "choose another name, or remove that image first",
            Self::ImageDescription { .. } => {
                "if a newer Weft has written it, use that one; else remove the image and import it again"
            }
            Self::Program { .. } => "if its words do not help, see what the host has free: room on the disk, memory",
            Self::Pull { .. } => {
                "look at the address; what has come so far is kept, and the same command goes on with it"
            }
            Self::Checksum { .. } => {
                "nothing of it is kept: pull it again, and if that does not help, ask its publisher for the checksum"
            }
            Self::NoRoom { .. } => "free some space, or move WEFT_HOME to a larger disk",
            Self::Io { source, .. } if is_full(source) => {
                "the disk is full: free some space, or move WEFT_HOME to a larger disk"
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "check the owner and the mode of the folder"
            }
            Self::EngineExited { .. } => "`weft logs VM` shows what the machine said; `weft doctor` checks the host",
            Self::EngineSilent { .. } => "the host may be overloaded; `weft doctor` checks it",
            Self::SwitchAbsent { .. } => "run `weft up` again: it starts the switch",
            Self::RunsAlready { .. } => "stop it first: weft vm stop",
            Self::Download { offline: true, .. } => {
                "check the network and the proxy that apt uses; once built, the image needs neither"
            }
            Self::Download { .. } => "check that /etc/apt names a Debian repository with the component main",
            Self::Package { .. } => "try again; if it stays so, the mirror that apt uses is damaged",
            Self::EngineUnfit { .. } => {
                "leave `engine` out, and the best that fits is taken; `weft doctor` tells what this host has"
            }
            Self::EngineLacks { .. } => "choose another `engine` for the machine",
            Self::Io { .. } | Self::Run { .. } | Self::DoesNotEnd { .. } | Self::Qmp(_) => "",
        }
    }

    /// Wraps an I/O error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Whether there is no room left, on the disk or in the user's share of it.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
