//! Streams in both directions over an upgraded HTTP connection (RFC 9110, section 7.8).
//!
//! After `101 Switching Protocols` the connection carries raw bytes. Each direction ends by itself: who has said
//! everything shuts down its half and goes on listening.

use std::io::{self, Cursor, Read, Write};
use std::os::unix::net::UnixStream;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use hyper::upgrade::{OnUpgrade, Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt as _, BufReader};

use crate::Problem;

/// The protocol of `exec`: frames of [`weft_agent::session`].
pub const EXEC: &str = "weft-exec";
/// The protocol of `console`: the serial line's bytes.
pub const CONSOLE: &str = "weft-console";
/// The protocol of `screen`: VNC (RFC 6143).
pub const SCREEN: &str = "weft-screen";
/// The protocol of `capture`: pcapng.
pub const CAPTURE: &str = "weft-capture";

/// How much of a direction is under way in the daemon, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Refuses a request that does not ask for an upgrade to `protocol`.
pub(crate) fn check(headers: &HeaderMap, protocol: &'static str) -> Result<(), Problem> {
    let asked = headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes() == protocol.as_bytes());
    if asked {
        return Ok(());
    }
    let title = "this route turns the connection into a stream";
    let hint = format!("send `Connection: upgrade` and `Upgrade: {protocol}`");
    Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade-required", title, hint))
}

/// Agrees to `upgrade`, and joins the connection with `peer` until both directions have ended; then `held` is dropped.
///
/// # Errors
/// When the peer's socket cannot be used.
pub fn accept(
    upgrade: Option<OnUpgrade>,
    protocol: &'static str,
    peer: UnixStream,
    held: impl Send + 'static,
) -> Result<Response, Problem> {
    let upgrade = upgrade.ok_or_else(|| Problem::internal("the connection cannot be upgraded"))?;
    let peer = peer.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(peer));
    let peer = peer.map_err(Problem::internal)?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(client) => join(TokioIo::new(client), peer).await,
            Err(error) => tracing::debug!(protocol, %error, "a connection was not upgraded"),
        }
        drop(held);
    });
    let agreed = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, protocol)
        .body(Body::empty());
    agreed.map_err(Problem::internal)
}

/// Carries both directions until each has ended. One that breaks takes nothing from the other: a command that ends
/// without reading its input must still be heard.
async fn join(client: TokioIo<Upgraded>, peer: tokio::net::UnixStream) {
    let (client_read, mut client_write) = tokio::io::split(client);
    let (peer_read, mut peer_write) = peer.into_split();
    let up = async move {
        let mut client_read = BufReader::with_capacity(BUFFER_BYTES, client_read);
        let _ = tokio::io::copy_buf(&mut client_read, &mut peer_write).await;
        let _ = peer_write.shutdown().await;
    };
    let down = async move {
        let mut peer_read = BufReader::with_capacity(BUFFER_BYTES, peer_read);
        let _ = tokio::io::copy_buf(&mut peer_read, &mut client_write).await;
        let _ = client_write.shutdown().await;
    };
    tokio::join!(up, down);
}

/// The client's end of a tunnel: a blocking stream, for threads.
#[derive(Debug)]
pub struct Tunnel {
    /// What came together with the response's head.
    early: Cursor<Bytes>,
    stream: UnixStream,
}

impl Tunnel {
    pub(crate) fn new(upgraded: Upgraded) -> io::Result<Self> {
        let Parts { io, read_buf, .. } = upgraded
            .downcast::<TokioIo<tokio::net::UnixStream>>()
            .map_err(|_| io::Error::other("the upgraded connection is no Unix socket"))?;
        let stream = io.into_inner().into_std()?;
        stream.set_nonblocking(false)?;
        Ok(Self { early: Cursor::new(read_buf), stream })
    }

    /// What came already, and the stream of what follows, for who does not block.
    pub fn into_parts(self) -> (Bytes, UnixStream) {
        (self.early.into_inner(), self.stream)
    }

    /// The writing half, and a way to shut down either.
    pub fn writer(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }
}

impl Read for Tunnel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.early.read(buffer)? {
            0 => self.stream.read(buffer),
            count => Ok(count),
        }
    }
}

impl Write for Tunnel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
