//! A response's body that is written while it is read.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::Frame;
use tokio::sync::mpsc;

/// How many pieces may wait for a slow reader; then the writer waits.
const WAITING: usize = 8;

/// A body, and where to write it. The body ends when the sender is dropped; [`mpsc::Sender::closed`] says that its reader
/// is gone.
pub(crate) fn pipe() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (sender, Body::new(Pipe(receiver)))
}

struct Pipe(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pipe {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
