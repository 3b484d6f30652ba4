//! The end of the guest.

use std::fs;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};
use weft_agent::message::Shutdown;

/// How long programs have between being asked to end and the end.
const GRACE: Duration = Duration::from_millis(200);

/// Asks every process to end, writes the disks, and ends the guest. Returns only if the kernel refuses.
///
/// A micro guest's init has nothing else to put away, and its own way down takes seconds.
pub(crate) fn end(how: Shutdown) -> String {
    for pid in processes() {
        let _ = kill_process(pid, Signal::TERM);
    }
    thread::sleep(GRACE);
    rustix::fs::sync();
    let refused = reboot(match how {
        Shutdown::PowerOff => RebootCommand::PowerOff,
        Shutdown::Reboot => RebootCommand::Restart,
    });
    match refused {
        Ok(()) => "the kernel goes on".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// All processes but init, this one, and the kernel's own (which ignore signals anyway).
fn processes() -> impl Iterator<Item = Pid> {
    let own = rustix::process::getpid();
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| Pid::from_raw(name.to_str()?.parse().ok()?))
        .filter(move |&pid| pid != Pid::INIT && pid != own)
}
