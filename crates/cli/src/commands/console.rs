//! `weft console`: a machine's serial line, on this terminal.

use std::io::{self, Read as _};

use rustix::stdio::{stdin, stdout};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use weft_api::Tunnel;
use weft_types::VmName;

use crate::commands::{Context, block_on};
use crate::failure::{Failure, Result};
use crate::terminal::Raw;
use crate::{output, streams};

/// Ctrl-], the key that leaves.
const LEAVE: u8 = 0x1d;

pub(crate) fn run(context: &Context, vm: &VmName) -> Result {
    let tunnel = block_on(begin(context, vm))??;
    output::say(format!("this is the console of `{vm}`; Ctrl-] leaves"));
    let raw = Raw::enter().map_err(|error| Failure::of("terminal", &error, ""))?;
    let end = converse(tunnel);
    drop(raw);
    match end? {
        End::Left => output::say("\nleft the console"),
        End::Closed => {
            output::say(format!("\nthe console is closed: `{vm}` does not run any more, or lost its daemon"))
        }
        End::Signal(number) => return Err(Failure::Told(128 + number)),
        End::Output(error) => return output::finish(Err(error)),
    }
    Ok(())
}

async fn begin(context: &Context, vm: &VmName) -> Result<Tunnel> {
    Ok(context.link_to_vm(vm).await?.client().console(vm).await?)
}

/// Why we are no longer on the console.
#[derive(Debug)]
enum End {
    /// The key was pressed.
    Left,
    /// The line is closed.
    Closed,
    /// This signal came.
    Signal(u8),
    /// Our own output cannot be written.
    Output(io::Error),
}

fn converse(tunnel: Tunnel) -> Result<End> {
    let cannot = |error: io::Error| Failure::of("console", &error, "");
    let writer = tunnel.writer().map_err(cannot)?;
    let (tell, told) = mpsc::channel(2);
    let leave = tell.clone();
    // Where our input ends without the key, the line is still listened to.
    std::thread::spawn(move || type_in(writer).then(|| leave.blocking_send(End::Left)));
    std::thread::spawn(move || tell.blocking_send(show(tunnel)));
    block_on(wait(told))?
}

/// Sends what is typed; whether the key was pressed.
fn type_in(mut line: impl io::Write) -> bool {
    let mut buffer = [0; 4096];
    loop {
        let typed = match streams::read_some(stdin(), &mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(count) => &buffer[..count],
        };
        let (before, leaves) = until_key(typed);
        if line.write_all(before).is_err() {
            return false;
        }
        if leaves {
            return true;
        }
    }
}

/// What stands before the key, and whether the key is there.
fn until_key(typed: &[u8]) -> (&[u8], bool) {
    match typed.iter().position(|byte| *byte == LEAVE) {
        Some(at) => (&typed[..at], true),
        None => (typed, false),
    }
}

fn show(mut line: Tunnel) -> End {
    let mut buffer = [0; 4096];
    loop {
        match line.read(&mut buffer) {
            Ok(0) => return End::Closed,
            Ok(count) => {
                if let Err(error) = streams::write_all(stdout(), &buffer[..count]) {
                    return End::Output(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return End::Closed,
        }
    }
}

/// Waits for the end; a signal is one too, so that the terminal is restored.
async fn wait(mut told: mpsc::Receiver<End>) -> Result<End> {
    let cannot = |error: io::Error| Failure::of("signal", &error, "");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(cannot)?;
    Ok(tokio::select! {
        end = told.recv() => end.unwrap_or(End::Closed),
        _ = interrupt.recv() => End::Signal(2),
        _ = terminate.recv() => End::Signal(15),
        _ = hangup.recv() => End::Signal(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_leaves_and_is_not_sent() {
        assert_eq!(until_key(b"ls\r"), (&b"ls\r"[..], false));
        assert_eq!(until_key(b"ls\r\x1dmore"), (&b"ls\r"[..], true));
        assert_eq!(until_key(b"\x1d"), (&b""[..], true));
    }
}
