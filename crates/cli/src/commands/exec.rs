//! `weft exec`: a command in a machine, as if it ran here.
//!
//! Three threads: one reads our stdin, one writes what comes back, and this one waits for signals and the end. The
//! session is over when the command is; closing the stream kills it.

use std::io;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::stdio::{stderr, stdin, stdout};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use weft_agent::session::{self, ClientFrame, ExitStatus, ServerFrame, Size};
use weft_api::{ExecBody, TtyBody, Tunnel};
use weft_types::VmName;

use crate::args::ExecArgs;
use crate::commands::{Context, block_on};
use crate::failure::{Failure, Result};
use crate::output::Style;
use crate::terminal::{self, Raw};
use crate::{output, streams};

/// How `exec` exits when it could not run the command, as env(1) and others do.
const CANNOT_RUN: u8 = 125;
/// How it exits when nobody reads its output: 128 and SIGPIPE's number.
const NOBODY_READS: u8 = 128 + 13;
/// How much input goes into a frame, in bytes.
const PIECE_BYTES: usize = 16 << 10;
/// How long a signal may wait for its turn behind input that the command does not take.
const SIGNAL_PATIENCE: Duration = Duration::from_millis(500);
/// The signals that the command gets.
const FORWARDED: [SignalKind; 4] =
    [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];

pub(crate) fn run(context: &Context, args: ExecArgs) -> Result<ExitCode> {
    match exec(context, args) {
        Err(failure @ Failure::Problems(_)) => {
            failure.report(context.json);
            Err(Failure::Told(CANNOT_RUN))
        }
        result => result,
    }
}

fn exec(context: &Context, args: ExecArgs) -> Result<ExitCode> {
    let on_terminal = terminal::stdin_is_terminal() && terminal::stdout_is_terminal();
    let wants_tty = args.tty || (args.argv.is_empty() && on_terminal && !args.no_stdin);
    let tty = wants_tty.then(|| {
        let (rows, cols) = terminal::size();
        TtyBody { rows, cols, term: std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned()) }
    });
    let shell = || vec!["sh".to_owned()];
    let argv = if args.argv.is_empty() { shell() } else { args.argv };
    let body = ExecBody { argv, env: args.env, cwd: args.cwd, tty };
    let tunnel = block_on(begin(context, &args.vm, &body))??;
    let raw = if wants_tty && !args.no_stdin { Raw::enter() } else { Ok(Raw::none()) };
    let raw = raw.map_err(|error| Failure::of("terminal", &error, ""))?;
    let end = converse(tunnel, wants_tty, !args.no_stdin, raw.is_active());
    drop(raw);
    end?.result(&args.vm)
}

async fn begin(context: &Context, vm: &VmName, body: &ExecBody) -> Result<Tunnel> {
    // Not asked twice, whatever happens: the command may have begun.
    Ok(context.link_to_vm(vm).await?.client().exec(vm, body).await?)
}

/// How a session ended.
#[derive(Debug)]
enum End {
    /// The command did.
    Exit(ExitStatus),
    /// The guest or the daemon says why it cannot go on.
    Error(String),
    /// The daemon is gone.
    Lost(Option<io::Error>),
    /// Our own output cannot be written.
    Output(io::Error),
    /// This signal ended us.
    Signal(u8),
}

impl End {
    fn result(self, vm: &VmName) -> Result<ExitCode> {
        match self {
            Self::Exit(status) => Ok(ExitCode::from(status.shell_code())),
            Self::Signal(number) => Err(Failure::Told(128 + number)),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Told(NOBODY_READS)),
            Self::Output(error) => output::finish(Err(error)).map(|()| ExitCode::SUCCESS),
            Self::Error(sentence) => {
                let title = format!("the command in `{vm}` cannot go on: {}", output::printable(&sentence));
                Err(Failure::new("exec", title, format!("`weft logs {vm}` shows what the machine says")))
            }
            Self::Lost(error) => {
                let why = error.map(|error| format!(": {error}")).unwrap_or_default();
                let title = format!("the connection to the command in `{vm}` broke{why}");
                Err(Failure::new("exec-lost", title, "the daemon was ended; the command was killed with it"))
            }
        }
    }
}

/// Joins our streams with the command's until it ends.
fn converse(tunnel: Tunnel, tty: bool, with_stdin: bool, raw: bool) -> Result<End> {
    let lost = |error: io::Error| Failure::of("exec", &error, "");
    let writer = Arc::new(Mutex::new(tunnel.writer().map_err(lost)?));
    let closer = tunnel.writer().map_err(lost)?;
    let input = writer.clone();
    std::thread::spawn(move || send_input(&input, with_stdin));
    let end = block_on(wait(tunnel, &writer, tty, raw))?;
    // Whatever still blocks on it may go.
    let _ = closer.shutdown(Shutdown::Both);
    end
}

/// Reads our stdin until it ends or the command does not want any more.
fn send_input(writer: &Mutex<UnixStream>, with_stdin: bool) {
    let mut buffer = [0; PIECE_BYTES];
    loop {
        let read = if with_stdin { streams::read_some(stdin(), &mut buffer) } else { Ok(0) };
        let frame = match read {
            Ok(0) | Err(_) => ClientFrame::StdinEof,
            Ok(count) => ClientFrame::Stdin(buffer[..count].to_vec()),
        };
        let last = frame == ClientFrame::StdinEof;
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        if session::write(&mut *writer, &frame).is_err() || last {
            return;
        }
    }
}

/// Writes what comes back until the end.
fn receive(mut tunnel: Tunnel) -> End {
    loop {
        let (file, data): (BorrowedFd<'_>, Vec<u8>) = match session::read(&mut tunnel) {
            Ok(Some(ServerFrame::Started)) => continue,
            Ok(Some(ServerFrame::Note(note))) => {
                output::say(format!("{}: {}", Style::Hint.paint("note"), output::printable(&note)));
                continue;
            }
            Ok(Some(ServerFrame::Stdout(data))) => (stdout(), data),
            Ok(Some(ServerFrame::Stderr(data))) => (stderr(), data),
            Ok(Some(ServerFrame::Exit(status))) => return End::Exit(status),
            Ok(Some(ServerFrame::Error(sentence))) => return End::Error(sentence),
            Ok(None) => return End::Lost(None),
            Err(error) => return End::Lost(Some(error)),
        };
        if let Err(error) = streams::write_all(file, &data) {
            return End::Output(error);
        }
    }
}

/// Waits for the end, and passes signals on meanwhile. In raw mode the terminal's own keys reach the command as bytes, so
/// a signal is meant for us.
async fn wait(tunnel: Tunnel, writer: &Mutex<UnixStream>, tty: bool, raw: bool) -> Result<End> {
    let cannot = |error: io::Error| Failure::of("signal", &error, "");
    let mut signals = FORWARDED.map(signal).into_iter().collect::<io::Result<Vec<_>>>().map_err(cannot)?;
    let mut resized = signal(SignalKind::window_change()).map_err(cannot)?;
    // Only now: whoever sees the command's first output may send a signal at once.
    let (tell, mut told) = oneshot::channel();
    std::thread::spawn(move || drop(tell.send(receive(tunnel))));
    loop {
        tokio::select! {
            end = &mut told => return Ok(end.unwrap_or(End::Lost(None))),
            number = any(&mut signals) => {
                if raw || !send(writer, &ClientFrame::Signal(number)) {
                    return Ok(End::Signal(number));
                }
            }
            _ = resized.recv(), if tty => {
                let (rows, cols) = terminal::size();
                let _ = send(writer, &ClientFrame::Resize(Size { rows, cols }));
            }
        }
    }
}

/// The number of the next of these signals.
async fn any(signals: &mut [Signal]) -> u8 {
    let number = std::future::poll_fn(|context| {
        let came = signals.iter_mut().position(|signal| signal.poll_recv(context).is_ready());
        came.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await;
    FORWARDED[number].as_raw_value() as u8
}

/// Sends a frame unless the command has stopped to take input, which would hold up everything behind it.
fn send(writer: &Mutex<UnixStream>, frame: &ClientFrame) -> bool {
    let deadline = Instant::now() + SIGNAL_PATIENCE;
    loop {
        match writer.try_lock() {
            Ok(mut writer) => return session::write(&mut *writer, frame).is_ok(),
            Err(TryLockError::Poisoned(_)) => return false,
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return false,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let vm = "web".parse().unwrap();
        let code = |end: End| match end.result(&vm) {
            Ok(code) => format!("{code:?}"),
            Err(failure) => format!("{failure:?}"),
        };
        assert_eq!(code(End::Exit(ExitStatus::Code(7))), format!("{:?}", ExitCode::from(7)));
        assert_eq!(code(End::Exit(ExitStatus::Signal(15))), format!("{:?}", ExitCode::from(143)));
        assert_eq!(code(End::Signal(2)), "Told(130)");
        assert_eq!(code(End::Output(io::ErrorKind::BrokenPipe.into())), "Told(141)");
        assert!(code(End::Lost(None)).contains("exec-lost"));
        assert!(code(End::Error("no\x1b[2J".to_owned())).contains("no?[2J"));
    }

    #[test]
    fn a_signal_does_not_wait_for_ever_behind_input() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let writer = Mutex::new(ours);
        assert!(send(&writer, &ClientFrame::Signal(2)));
        let held = writer.lock().unwrap();
        assert!(!send(&writer, &ClientFrame::Signal(2)));
        drop(held);
    }
}
