//! `weft shell`: a shell, or a command, in a network namespace of its own that stands on a network.
//!
//! Three processes: this one stays outside, asks the daemon for a place on the network and pumps frames between the
//! switch's socket and the adapter; its child goes into the namespaces and becomes the command ([`inside`]); the daemon
//! watches this one, and takes the place away when it ends, however it does. The adapter is not the switch's own TAP
//! device, because then a switch that was killed could not have it back: nobody else may open what is in a namespace. A
//! socket it finds in its snapshot, and this process dials it again.

mod dhcp;
pub(crate) mod inside;
mod pump;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ExitCode, ExitStatus};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tempfile::NamedTempFile;
use weft_model::view::{ShellRequest, ShellView};
use weft_port::{Outpost, Side, TapPort, UnixStreamPort};
use weft_types::VmName;

use self::dhcp::Client;
pub(crate) use self::inside::probe;
use self::inside::{Inside, Refusal};
use self::pump::{Pump, Works};
use crate::args::ShellArgs;
use crate::commands::{Context, block_on};
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output::{self, Style};
use crate::progress;

/// How it exits when it could not run the command, as env(1) and others do.
const CANNOT_RUN: u8 = 125;
/// How long an address is waited for before the command begins without one.
const LEASE_PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(context: &Context, args: &ShellArgs) -> Result<ExitCode> {
    let result = block_on(plug_in(context, args))?.and_then(|shell| {
        let ended = live(context, args, &shell).map_err(|Refusal { code, failure }| {
            failure.report(context.json);
            Failure::Told(code)
        });
        if let Err(failure) = block_on(unplug(context, &shell.name)).and_then(|result| result) {
            failure.report(context.json); // it goes with our process anyway
        }
        ended
    });
    match result {
        Err(failure @ Failure::Problems(_)) => {
            failure.report(context.json);
            Err(Failure::Told(CANNOT_RUN))
        }
        result => result,
    }
}

/// Asks for a place on the network, as long as this process lives.
async fn plug_in(context: &Context, args: &ShellArgs) -> Result<ShellView> {
    if Link::to_running(&context.paths).await.is_none() && context.is_dormant() {
        let title = format!("there is no network `{}`", args.network);
        return Err(Failure::new("no-such-network", title, "`weft up FILE` makes those that a file declares"));
    }
    let mut link = Link::open(&context.paths).await?;
    let pid = std::process::id();
    let request = ShellRequest { network: args.network.clone(), name: args.name.clone(), pid };
    let operation = link.ask(async |client| client.add_shell(&request).await).await?;
    progress::watch(&mut link, operation, "end the command").await?.succeeded()?;
    let shells = link.ask(async |client| client.world().await).await?.shells;
    shells.into_iter().find(|shell| shell.pid == pid).ok_or_else(|| {
        let title = format!("the network `{}` was removed meanwhile", args.network);
        Failure::new("no-such-network", title, "`weft network ls` lists the networks")
    })
}

/// Gives the place back.
async fn unplug(context: &Context, name: &VmName) -> Result {
    let mut link = Link::open(&context.paths).await?;
    let operation = link.client().remove_shell(name).await;
    match operation {
        // With its network, it went before us.
        Err(error) if error.problems().iter().any(|problem| problem.code == "no-such-shell") => Ok(()),
        operation => progress::watch(&mut link, operation?, "").await?.succeeded().map(drop),
    }
}

/// From the namespace to the command's end.
fn live(context: &Context, args: &ShellArgs, shell: &ShellView) -> std::result::Result<ExitCode, Refusal> {
    let broken = |error: &(dyn std::error::Error + 'static)| Refusal {
        code: CANNOT_RUN,
        failure: Failure::of("shell", error, ""),
    };
    let inside = Inside::begin(shell.mac, shell.mtu, &args.argv)?;
    let resolv_conf = NamedTempFile::with_prefix_in("resolv-", &context.paths.run).map_err(|error| broken(&error))?;
    let readable = resolv_conf.as_file().set_permissions(Permissions::from_mode(0o644));
    readable.map_err(|error| broken(&error))?;
    let duplicate = |fd: &std::os::fd::OwnedFd| fd.try_clone();
    let adapter = duplicate(&inside.adapter).map_err(|error| broken(&error))?;
    let namespace = duplicate(&inside.namespace).map_err(|error| broken(&error))?;
    let mut xid = [0; 4];
    rustix::rand::getrandom(&mut xid, rustix::rand::GetRandomFlags::empty()).map_err(|error| broken(&error))?;
    let client = || Client::new(shell.mac, shell.name.as_str(), u32::from_ne_bytes(xid), Instant::now());
    let works = Works {
        adapter: TapPort::from_elsewhere(adapter).map_err(|error| broken(&error))?,
        switch: UnixStreamPort::open(Path::new(&shell.socket), Side::Connect).map_err(|error| broken(&error))?,
        outpost: Outpost::new(namespace).map_err(|error| broken(&error))?,
        client: shell.leases.then(client),
        resolv_conf: resolv_conf.as_file().try_clone().map_err(|error| broken(&error))?,
        mtu: shell.mtu,
    };
    let (tell, told) = mpsc::channel();
    let pump = Pump::start(works, tell).map_err(|error| broken(&error))?;
    match shell.leases.then(|| told.recv_timeout(LEASE_PATIENCE)) {
        None => note(&format!("`{}` gives no addresses: `{}` begins without one", shell.network, shell.name)),
        Some(Ok(_)) => {}
        Some(Err(_)) => {
            note("no DHCP server has answered yet: the command begins without an address, and it is asked on")
        }
    }
    // From here on what the terminal says is for the command, and what others tell us is passed on.
    let outcome = Signals::catch().map_err(|error| broken(&error)).and_then(|signals| {
        let child = inside.start(shell.name.as_str(), resolv_conf.path())?;
        drop(resolv_conf); // its mount keeps it
        signals.wait(child).map_err(|error| broken(&error))
    });
    pump.stop();
    outcome.map(|status| ExitCode::from(exit_code(status)))
}

/// As a shell tells it: 128 and the signal's number where one has ended it.
fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8, // wait(2) gives eight bits
        (None, signal) => 128 + signal.unwrap_or(0) as u8,
    }
}

/// Signals that are not for us but for the command.
struct Signals {
    passed_on: [(UnixStream, Signal); 2],
}

impl Signals {
    fn catch() -> io::Result<Self> {
        for terminal in [SIGINT, SIGQUIT] {
            signal_hook::flag::register(terminal, Arc::new(AtomicBool::new(false)))?;
        }
        let pipe = |number, signal| {
            let (readable, written) = UnixStream::pair()?;
            signal_hook::low_level::pipe::register(number, written)?;
            io::Result::Ok((readable, signal))
        };
        Ok(Self { passed_on: [pipe(SIGTERM, Signal::TERM)?, pipe(SIGHUP, Signal::HUP)?] })
    }

    /// Waits for the command's end.
    fn wait(&self, mut child: Child) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(&child);
        let ended = pidfd_open(pid, PidfdFlags::empty())?;
        loop {
            let [term, hup] = &self.passed_on;
            let mut fds = [
                PollFd::new(&ended, PollFlags::IN),
                PollFd::new(&term.0, PollFlags::IN),
                PollFd::new(&hup.0, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            let ready = fds.each_ref().map(|fd| !fd.revents().is_empty());
            for ((stream, signal), ready) in self.passed_on.iter().zip(&ready[1..]) {
                if *ready {
                    rustix::io::read(stream, &mut [0; 64])?;
                    let _ = kill_process(pid, *signal); // it is our child, and not reaped yet
                }
            }
            if ready[0] {
                return child.wait();
            }
        }
    }
}

fn note(text: &str) {
    output::say(format!("{}: {}", Style::Warning.paint("note"), output::printable(text)));
}
