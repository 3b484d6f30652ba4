//! Who is connected: the daemon may only leave when nobody is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// How long to wait after a connection could not be accepted (no descriptors left, for example).
const PAUSE: Duration = Duration::from_millis(50);

/// How many connections are open.
#[derive(Clone)]
pub(crate) struct Attendance(watch::Sender<usize>);

impl Attendance {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Returns when nobody is connected.
    pub(crate) async fn nobody(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Whether somebody is connected, or comes within `wait`.
    pub(crate) async fn somebody_within(&self, wait: Duration) -> bool {
        let mut open = self.0.subscribe();
        tokio::time::timeout(wait, open.wait_for(|open| *open > 0)).await.is_ok()
    }

    fn join(&self) -> Present {
        self.0.send_modify(|open| *open += 1);
        Present(self.0.clone())
    }
}

/// One who is connected, until dropped.
struct Present(watch::Sender<usize>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// A listener that counts its connections, those that were upgraded to tunnels too.
pub(crate) struct Door {
    pub(crate) listener: UnixListener,
    pub(crate) attendance: Attendance,
}

impl Listener for Door {
    type Io = Visitor;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Visitor, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (Visitor { stream, _present: self.attendance.join() }, address),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that is counted while it lives.
pub(crate) struct Visitor {
    stream: UnixStream,
    _present: Present,
}

impl AsyncRead for Visitor {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
