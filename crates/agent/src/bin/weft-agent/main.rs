//! The guest agent: runs commands in a guest for Weft, over a virtio-serial port.
//!
//! `weft-agent` finds the port by its name and waits until it is there. `weft-agent --port PATH` takes this character
//! device, or, where no guest is at hand, this Unix socket.

mod about;
mod netlink;
mod port;
mod power;
mod process;
mod serve;
mod session;

use std::path::PathBuf;
use std::process::ExitCode;

use port::Port;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let path = match (arguments.next(), arguments.next(), arguments.next()) {
        (None, ..) => port::find(),
        (Some(option), Some(path), None) if option == "--port" => PathBuf::from(path),
        _ => {
            eprintln!("usage: weft-agent [--port PATH]");
            return ExitCode::from(2);
        }
    };
    let ended = Port::open(&path).and_then(serve::run);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-agent: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
