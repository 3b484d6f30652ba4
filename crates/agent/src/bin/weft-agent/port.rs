//! The byte stream to the host: a virtio-serial port, a serial line that the kernel's command line names, or a socket in
//! their place.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use weft_agent::PORT_NAME;

/// How long to wait before looking again for a port whose driver is still being loaded.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An open port. Never blocks.
pub(crate) struct Port {
    stream: fs::File,
    /// A device outlives the host at its other end; a socket does not.
    device: bool,
}

/// What reading the port found.
pub(crate) enum Input {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// No host has the port open.
    NoHost,
    /// The stream has ended for good.
    End,
}

impl Port {
    /// Opens a virtio-serial port's character device, or connects to a socket.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if fs::metadata(path)?.file_type().is_socket() {
            let stream = UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            return Ok(Self { stream: OwnedFd::from(stream).into(), device: false });
        }
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let stream = OpenOptions::new().read(true).write(true).custom_flags(flags.bits() as i32).open(path)?;
        if let Ok(mut line) = tcgetattr(&stream) {
            line.make_raw(); // no byte of it is a key
            tcsetattr(&stream, OptionalActions::Now, &line)?;
        }
        Ok(Self { stream, device: true })
    }

    /// Whether this is a guest's port rather than a stand-in.
    pub(crate) fn is_device(&self) -> bool {
        self.device
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Input> {
        match self.stream.read(buffer) {
            // The driver's way to say that the host has closed its end, for now.
            Ok(0) if self.device => Ok(Input::NoHost),
            Ok(0) => Ok(Input::End),
            Ok(count) => Ok(Input::Bytes(count)),
            Err(error) if is_temporary(&error) => Ok(Input::Nothing),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Input::End),
            Err(error) => Err(error),
        }
    }

    /// Where to write.
    pub(crate) fn stream(&self) -> &fs::File {
        &self.stream
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Whether it is worth trying again once `poll` says so.
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Waits for the port named [`PORT_NAME`]. Stock guests have no udev that would make a link of that name.
pub(crate) fn find() -> PathBuf {
    loop {
        if let Some(path) = named_port().or_else(named_line) {
            return path;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn named_port() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        let device = Path::new("/dev").join(port.file_name());
        (name.trim_end() == PORT_NAME && device.exists()).then_some(device)
    })
}

/// The serial line that stands on the kernel's command line, like `weft.agent=ttyS1`: for machines without virtio-serial.
fn named_line() -> Option<PathBuf> {
    let cmdline = fs::read_to_string("/proc/cmdline").ok()?;
    let name = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix("weft.agent="))?;
    let device = Path::new("/dev").join(name);
    fs::metadata(&device).ok()?.file_type().is_char_device().then_some(device)
}
