//! The process that goes into namespaces of its own, furnishes them, and becomes the shell's command.
//!
//! Its parent stays outside and is told and handed all by a socket, which is the stdin that this process is started
//! with; the real one comes by it when it is time.

use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_port::{NamespaceError, cover, enter_namespace, furnish_namespace};
use weft_types::MacAddr;

use crate::args::InsideArgs;
use crate::failure::{Failure, Result};
use crate::output::{self, Style};

/// The longest word that is said by the socket, in bytes.
const MAX_WORD_BYTES: usize = 16 << 10;
/// Programs at these places would resolve names for the command as for the host.
const FOREIGN_RESOLVERS: [&str; 2] = ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket"];
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What the inside says.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// The namespace is there; the adapter's other end and a socket of the namespace come along.
    Ready,
    /// It cannot go on.
    Failed { code: u8, title: String, hint: String },
}

/// What it is told when it is time; the command's stdin comes along.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    host_name: String,
    resolv_conf: PathBuf,
}

/// The inside, before it becomes the command.
pub(super) struct Inside {
    child: Child,
    socket: OwnedFd,
    /// The adapter's other end, and a socket of its namespace.
    pub(super) adapter: OwnedFd,
    pub(super) namespace: OwnedFd,
}

/// Why the inside did not become the command, and the exit code for it, as env(1) has it.
pub(super) struct Refusal {
    pub(super) code: u8,
    pub(super) failure: Failure,
}

impl Refusal {
    fn new(code: u8, failure: Failure) -> Self {
        Self { code, failure }
    }

    fn broken(error: &std::io::Error) -> Self {
        Self::new(super::CANNOT_RUN, Failure::of("shell", error, ""))
    }
}

impl Inside {
    /// Starts it, and waits until it is furnished.
    pub(super) fn begin(mac: MacAddr, mtu: u16, argv: &[OsString]) -> std::result::Result<Self, Refusal> {
        let broken = |error: std::io::Error| Refusal::broken(&error);
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(|error| broken(error.into()))?;
        let exe = std::env::current_exe().map_err(broken)?;
        let mut command = Command::new(exe);
        command.args(["shell-inside", &mac.to_string(), &mtu.to_string(), "--"]).args(argv);
        let mut child = command.stdin(Stdio::from(theirs)).spawn().map_err(broken)?;
        drop(command); // and with it our copy of the other end
        let (word, descriptors) = hear::<Word>(&ours).map_err(broken)?;
        match (word, <[OwnedFd; 2]>::try_from(descriptors)) {
            (Some(Word::Ready), Ok([adapter, namespace])) => Ok(Self { child, socket: ours, adapter, namespace }),
            (word, _) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(refusal(word))
            }
        }
    }

    /// Lets it become the command; the command's process.
    pub(super) fn start(mut self, host_name: &str, resolv_conf: &Path) -> std::result::Result<Child, Refusal> {
        let start = Start { host_name: host_name.to_owned(), resolv_conf: resolv_conf.to_owned() };
        say(&self.socket, &start, &[rustix::stdio::stdin()]).map_err(|error| Refusal::broken(&error))?;
        match hear::<Word>(&self.socket) {
            // The socket ends where the command begins.
            Ok((None, _)) => Ok(self.child),
            Ok((word, _)) => {
                let _ = self.child.wait();
                Err(refusal(word))
            }
            Err(error) => Err(Refusal::broken(&error)),
        }
    }
}

fn refusal(word: Option<Word>) -> Refusal {
    match word {
        Some(Word::Failed { code, title, hint }) => Refusal::new(code, Failure::new("shell", title, hint)),
        _ => {
            let failure = Failure::new("shell", "the shell's process ended before it was furnished", "");
            Refusal::new(super::CANNOT_RUN, failure)
        }
    }
}

/// Whether this user can have a shell on a network; why not, and what would help.
pub(crate) fn probe() -> Result<()> {
    let begun = Inside::begin(MacAddr::derive("shell/probe"), 1500, &[]);
    let mut inside = begun.map_err(|refusal| refusal.failure)?;
    let _ = inside.child.kill();
    let _ = inside.child.wait();
    Ok(())
}

/// `weft shell-inside`
pub(crate) fn run(args: &InsideArgs) -> Result<()> {
    let broken = |error: &std::io::Error| Failure::of("shell", error, "this is a part of `weft shell`");
    let socket = rustix::stdio::stdin().try_clone_to_owned().map_err(|error| broken(&error))?;
    let furnished = || -> std::result::Result<_, NamespaceError> {
        enter_namespace()?;
        furnish_namespace(args.mac, args.mtu)
    };
    let (adapter, namespace) = match furnished() {
        Ok(furnished) => furnished,
        Err(error) => {
            let title = format!("this user cannot have a shell on a network: {}", with_sources(&error));
            let word = Word::Failed { code: super::CANNOT_RUN, title, hint: error.hint() };
            return say(&socket, &word, &[]).map_err(|error| broken(&error));
        }
    };
    // Whoever kills the parent ends the shell: nobody would move its frames.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| broken(&error.into()))?;
    say(&socket, &Word::Ready, &[adapter.as_fd(), namespace.as_fd()]).map_err(|error| broken(&error))?;
    drop((adapter, namespace));
    let (start, descriptors) = hear::<Start>(&socket).map_err(|error| broken(&error))?;
    let (Some(start), [stdin]) = (start, &descriptors[..]) else { return Ok(()) }; // the parent has thought better
    rustix::stdio::dup2_stdin(stdin).map_err(|error| broken(&error.into()))?;
    drop(descriptors);
    if let Err(error) = rustix::system::sethostname(start.host_name.as_bytes()) {
        note(&format!("the host name cannot be set: {error}"));
    }
    if let Err(error) = cover(&start.resolv_conf, Path::new(RESOLV_CONF)) {
        note(&format!("{RESOLV_CONF} cannot be replaced, so names may not be resolved: {error}"));
    }
    for resolver in FOREIGN_RESOLVERS {
        let _ = cover(&start.resolv_conf, Path::new(resolver)); // most hosts have none
    }
    let argv = if args.argv.is_empty() { vec![default_shell()] } else { args.argv.clone() };
    let error = Command::new(&argv[0]).args(&argv[1..]).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    let title = format!("cannot run `{}`: {error}", argv[0].to_string_lossy());
    let word = Word::Failed { code, title, hint: "the command is one of this host's programs".to_owned() };
    say(&socket, &word, &[]).map_err(|error| broken(&error))
}

/// The user's own shell.
fn default_shell() -> OsString {
    std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into())
}

fn note(text: &str) {
    output::say(format!("{}: {}", Style::Warning.paint("note"), output::printable(text)));
}

/// An error and what caused it, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Says a word and hands descriptors over.
fn say(socket: &OwnedFd, word: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(word)?;
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next word, and what came with it; nothing when the other end is gone.
fn hear<T: DeserializeOwned>(socket: &OwnedFd) -> std::io::Result<(Option<T>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_WORD_BYTES];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut room);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok((None, Vec::new())),
            result => break result?,
        }
    };
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    match received.bytes {
        0 => Ok((None, descriptors)),
        count => Ok((Some(serde_json::from_slice(&bytes[..count])?), descriptors)),
    }
}
