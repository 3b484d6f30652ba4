//! `weft capture`: copies of frames as they pass, into a file or another program.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stdout;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use weft_api::CaptureBody;
use weft_model::view::WorldView;
use weft_types::{NetworkName, PortName};

use crate::args::CaptureArgs;
use crate::commands::{Context, block_on};
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::{output, streams, terminal};

/// How long what is under way may take after Ctrl-C, before it is given up.
const LAST_WORDS: Duration = Duration::from_secs(3);

pub(crate) fn run(context: &Context, names: &[String], options: &CaptureArgs) -> Result {
    let target = target(options, &format!("weft capture {}", names.join(" ")))?;
    let tunnel = block_on(begin(context, names, options))??;
    let writer = tunnel.writer().map_err(|error| Failure::of("capture", &error, ""))?;
    pass_on(tunnel, &writer, target)
}

async fn begin(context: &Context, names: &[String], options: &CaptureArgs) -> Result<weft_api::Tunnel> {
    let (ports, networks) = resolve(&context.world().await?, names)?;
    let body = CaptureBody {
        ports,
        networks,
        vlans: options.vlan.clone().unwrap_or_default(),
        direction: options.direction,
        filter: options.filter.as_ref().map(ToString::to_string),
        snap: options.snap,
    };
    Ok(Link::open(&context.paths).await?.client().capture(&body).await?)
}

/// The ports and networks that are meant: by a machine's name, all of its ports.
fn resolve(world: &WorldView, names: &[String]) -> Result<(Vec<PortName>, Vec<NetworkName>)> {
    let (mut ports, mut networks) = (Vec::new(), Vec::new());
    for name in names {
        if let Some(vm) = world.vms.iter().find(|vm| vm.name.as_str() == name) {
            ports.extend(vm.nics.iter().map(|nic| nic.port.clone()));
        } else if let Some(port) = world.ports.iter().find(|port| port.name.as_str() == name) {
            ports.push(port.name.clone());
        } else if let Some(network) = world.networks.iter().find(|network| network.name.as_str() == name) {
            networks.push(network.name.clone());
        } else {
            let title = format!("there is no machine, no port and no network `{}`", name.escape_debug());
            return Err(Failure::new("no-such-name", title, "`weft ls` lists them"));
        }
    }
    match ports.is_empty() && networks.is_empty() {
        true => Err(Failure::new("no-port", format!("{} has no adapter", output::list(names)), "")),
        false => Ok((ports, networks)),
    }
}

/// The file that is to be written; `None` for stdout. A terminal is refused, with the hint how to use `command`.
pub(crate) fn target<'a>(options: &'a CaptureArgs, command: &str) -> Result<Option<&'a Path>> {
    let path = options.write.as_deref().filter(|path| *path != Path::new("-"));
    if path.is_none() && terminal::stdout_is_terminal() {
        let hint = format!("`{command} | wireshark -k -i -`, or `-w FILE`");
        return Err(Failure::usage("terminal", "a capture is nothing to read on a terminal", hint));
    }
    Ok(path)
}

/// Where a capture goes.
enum Output {
    Stdout,
    File(File),
}

impl Output {
    fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        File::create(path).map(Self::File).map_err(|error| {
            let title = format!("cannot write {}: {error}", path.display());
            Failure::new("output", title, "choose another file with `-w FILE`")
        })
    }

    fn file(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout => stdout(),
            Self::File(file) => file.as_fd(),
        }
    }
}

/// Why a capture is over.
#[derive(Debug)]
enum End {
    /// The stream has ended.
    Closed,
    /// The output cannot be written, or nobody reads it any more.
    Output(io::Error),
    /// A signal came.
    Signal,
}

/// Passes a capture on to `target` until a signal comes, the output is closed, or the capture ends, and tells how many frames it
/// had. `stream` is what `reader` reads from: who shuts down its writing half gets the end of it.
pub(crate) fn pass_on(reader: impl Read + Send + 'static, stream: &UnixStream, target: Option<&Path>) -> Result {
    let output = Arc::new(Output::open(target)?);
    let tally = Arc::new(Mutex::new(Tally::default()));
    let (tell, told) = mpsc::channel(2);
    let (tell_closed, watched) = (tell.clone(), output.clone());
    std::thread::spawn(move || watch(&watched).map(|end| tell_closed.blocking_send(end)));
    let counted = tally.clone();
    std::thread::spawn(move || tell.blocking_send(write(reader, &output, &counted)));
    let end = block_on(wait(told, stream))??;
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let frames = if tally.frames == 1 { "frame" } else { "frames" };
    output::say(format!("{} {frames} captured, {} lost", tally.frames, tally.lost()));
    match end {
        End::Closed => {
            let hint = "its switch or its daemon has ended; what was captured is whole";
            Err(Failure::new("capture-lost", "the capture has ended by itself", hint))
        }
        End::Output(error) => output::finish(Err(error)),
        End::Signal => Ok(()),
    }
}

/// Waits until nobody reads the output any more, which may be long before the next frame. A file is never closed.
fn watch(output: &Output) -> Option<End> {
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(output.file(), PollFlags::empty())], None) {
            Ok(_) => return Some(End::Output(io::ErrorKind::BrokenPipe.into())),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// Writes what comes until the end.
fn write(mut reader: impl Read, output: &Output, tally: &Mutex<Tally>) -> End {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return End::Closed,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return End::Closed,
        };
        if let Err(error) = streams::write_all(output.file(), &buffer[..count]) {
            return End::Output(error);
        }
        tally.lock().unwrap_or_else(PoisonError::into_inner).read(&buffer[..count]);
    }
}

/// Waits for the end. After a signal, what is under way may still come.
async fn wait(mut told: mpsc::Receiver<End>, stream: &UnixStream) -> Result<End> {
    let cannot = |error: io::Error| Failure::of("signal", &error, "");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(cannot)?;
    tokio::select! {
        end = told.recv() => return Ok(end.unwrap_or(End::Closed)),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    // One that is closed already has nothing more to say.
    let _ = stream.shutdown(Shutdown::Write);
    Ok(match tokio::time::timeout(LAST_WORDS, told.recv()).await {
        Ok(Some(End::Output(error))) => End::Output(error),
        _ => End::Signal,
    })
}

/// What a capture has had so far, as its blocks say (the pcapng format, draft-ietf-opsawg-pcapng).
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    frames: u64,
    /// By interface.
    losses: BTreeMap<u32, u64>,
    /// The beginning of the block that is being read.
    head: Vec<u8>,
    /// How many bytes of it are still to come behind that.
    rest: usize,
}

impl Tally {
    /// What must be seen of a block: its kind, its length, and of statistics the interface and the first option.
    const HEAD_BYTES: usize = 32;
    const STATISTICS: u32 = 5;
    const PACKET: u32 = 6;

    /// Takes the next bytes, which end where they will.
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = &bytes[skipped..];
            if self.rest > 0 {
                return;
            }
            let wanted = self.word(4).map_or(8, |len| (len as usize).clamp(12, Self::HEAD_BYTES));
            let taken = wanted.saturating_sub(self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let Some(len) = self.word(4)
                && self.head.len() >= (len as usize).clamp(12, Self::HEAD_BYTES)
            {
                self.count();
                self.rest = (len as usize).saturating_sub(self.head.len());
                self.head.clear();
            }
        }
    }

    fn count(&mut self) {
        match self.word(0) {
            Some(Self::PACKET) => self.frames += 1,
            Some(Self::STATISTICS) => {
                if let (Some(interface), Some(lost)) = (self.word(8), self.head.get(24..).and_then(<[u8]>::first_chunk))
                {
                    self.losses.insert(interface, u64::from_le_bytes(*lost));
                }
            }
            _ => {}
        }
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.head.get(at..)?.first_chunk()?))
    }

    fn lost(&self) -> u64 {
        self.losses.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_wherever_they_are_cut() {
        let block = |kind: u32, body: &[u8]| {
            let len = (body.len() as u32 + 12).to_le_bytes();
            [&kind.to_le_bytes()[..], &len, body, &len].concat()
        };
        let lost = |interface: u32, lost: u64| {
            block(5, &[&interface.to_le_bytes()[..], &[0; 8], &[5, 0, 8, 0], &lost.to_le_bytes(), &[0; 4]].concat())
        };
        let packet = |len: usize| block(6, &vec![0; len]);
        let blocks =
            [block(0x0a0d_0d0a, &[0; 16]), packet(20), packet(2000), lost(0, 3), lost(1, 4), packet(60), lost(0, 5)];
        let bytes = blocks.concat();
        for piece in [1, 2, 3, 7, 8, 31, 32, 33, 500, bytes.len()] {
            let mut tally = Tally::default();
            bytes.chunks(piece).for_each(|piece| tally.read(piece));
            assert_eq!((tally.frames, tally.lost()), (3, 9), "{piece}");
        }
        // What is no pcapng at all is read to its end, too.
        Tally::default().read(&[0; 1000]);
        Tally::default().read(&[255; 1000]);
    }
}
