//! `weft screen`: a machine's screen, for VNC viewers and as a picture.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::stdio::stdout;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use weft_types::VmName;

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::{output, streams};

/// The ports that viewers know by numbers from 0 on.
const PORTS: std::ops::Range<u16> = 5900..6000;

/// Writes a picture of the screen to a file.
pub(crate) async fn take_picture(context: &Context, vm: &VmName, path: &Path) -> Result {
    let picture = context.link_to_vm(vm).await?.client().screenshot(vm).await?;
    if path == Path::new("-") {
        return output::finish(streams::write_all(stdout(), &picture));
    }
    let failed = |error| Failure::of("picture", &error, "name a file that you can write");
    std::fs::write(path, &picture).map_err(failed)?;
    output::say(format!("the screen of `{vm}` is in {}", path.display()));
    Ok(())
}

/// Where viewers connect.
enum Listener {
    Tcp(TcpListener),
    /// The file goes with us.
    Unix(UnixListener, PathBuf),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener {
    async fn bind(at: Option<&str>) -> io::Result<Self> {
        match at {
            None => {
                for port in PORTS {
                    match TcpListener::bind(("127.0.0.1", port)).await {
                        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                        bound => return bound.map(Self::Tcp),
                    }
                }
                Err(io::Error::other("no port from 5900 to 5999 is free"))
            }
            Some(path) if path.contains('/') => {
                // One that was left by a command that was killed is in nobody's use.
                let is_left =
                    UnixStream::connect(path).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
                if is_left {
                    std::fs::remove_file(path)?;
                }
                Ok(Self::Unix(UnixListener::bind(path)?, path.into()))
            }
            Some(address) => TcpListener::bind(address).await.map(Self::Tcp),
        }
    }

    fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            Self::Unix(_, path) => path.display().to_string(),
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener, _) => Box::new(listener.accept().await?.0),
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Lets viewers see the screen until a signal comes.
pub(crate) async fn show(context: &Context, vm: &VmName, listen: Option<&str>) -> Result {
    let cannot = |error: io::Error| Failure::of("screen", &error, "");
    let link = context.link_to_vm(vm).await?;
    link.client().screen(vm).await?; // there is one
    let busy = |error| Failure::of("listen", &error, "give another: --listen 127.0.0.1:PORT, or --listen PATH");
    let listener = Listener::bind(listen).await.map_err(busy)?;
    output::data(&format!("{}\n", listener.address()))?;
    output::say(format!("this is where a VNC viewer sees `{vm}`, until Ctrl-C"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    loop {
        let mut viewer = tokio::select! {
            accepted = listener.accept() => accepted.map_err(cannot)?,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        let tunnel = match link.client().screen(vm).await {
            Ok(tunnel) => tunnel,
            Err(error) => return Err(error.into()), // it does not run any more
        };
        let (early, stream) = tunnel.into_parts();
        stream.set_nonblocking(true).map_err(cannot)?;
        let stream = UnixStream::from_std(stream).map_err(cannot)?;
        tokio::spawn(async move {
            let (from, to) = tokio::io::split(stream);
            let from = tokio::io::AsyncReadExt::chain(io::Cursor::new(early), from);
            let mut screen = tokio::io::join(from, to);
            // Either may go away at any time: that is the end.
            let _ = copy_bidirectional(&mut viewer, &mut screen).await;
        });
    }
}
