//! Streams over upgraded connections: every byte in both directions, and each end by itself.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use axum::extract::Request;
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::upgrade::OnUpgrade;
use weft_agent::session::{self, ClientFrame, ExitStatus, ServerFrame};
use weft_api::{About, Client, EXEC, ExecBody, Tunnel, accept};

use crate::bed::runtime;

const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon whose only machine runs `command` for every `exec`.
fn tunnel_to(command: fn(UnixStream), use_it: impl FnOnce(Tunnel)) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let exec = move |mut request: Request| async move {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || command(theirs));
        accept(request.extensions_mut().remove::<OnUpgrade>(), EXEC, ours, ())
    };
    let about = || async { Json(About { version: String::new(), pid: 1 }) };
    let app = Router::new().route("/v1", get(about)).route("/v1/vms/{name}/exec", post(exec));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            tokio::select! {
                served = async { axum::serve(listener, app).await } => served.unwrap(),
                _ = stopped => {}
            }
        });
    });
    use_it(connect(&socket));
    stop.send(()).unwrap();
    server.join().unwrap();
}

fn connect(socket: &Path) -> Tunnel {
    runtime().block_on(async {
        let client = Client::connect(socket).await.unwrap();
        client.exec(&"web".parse().unwrap(), &ExecBody::default()).await.unwrap()
    })
}

/// `cat`, and then exit code 7.
fn cat(mut stream: UnixStream) {
    session::write(&mut stream, &ServerFrame::Started).unwrap();
    while let Some(frame) = session::read(&mut stream).unwrap() {
        let answer = match frame {
            ClientFrame::Stdin(data) => ServerFrame::Stdout(data),
            ClientFrame::StdinEof => ServerFrame::Exit(ExitStatus::Code(7)),
            ClientFrame::Resize(_) | ClientFrame::Signal(_) => continue,
        };
        session::write(&mut stream, &answer).unwrap();
    }
}

#[test]
fn every_byte_comes_back_in_order() {
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    tunnel_to(cat, |mut tunnel| {
        let mut writer = tunnel.writer().unwrap();
        let data = sent.clone();
        let writing = std::thread::spawn(move || {
            for piece in data.chunks(10_000) {
                session::write(&mut writer, &ClientFrame::Stdin(piece.to_vec())).unwrap();
            }
            session::write(&mut writer, &ClientFrame::StdinEof).unwrap();
        });
        let mut came = Vec::new();
        assert_eq!(session::read(&mut tunnel).unwrap(), Some(ServerFrame::Started));
        let end = loop {
            match session::read(&mut tunnel).unwrap() {
                Some(ServerFrame::Stdout(piece)) => came.extend(piece),
                other => break other,
            }
        };
        writing.join().unwrap();
        assert!(came == sent, "{} bytes of {}", came.len(), sent.len());
        assert_eq!(end, Some(ServerFrame::Exit(ExitStatus::Code(7))));
    });
}

#[test]
fn an_end_is_heard_while_input_is_left() {
    let at_once = |mut stream: UnixStream| {
        let _ = session::write(&mut stream, &ServerFrame::Exit(ExitStatus::Signal(9)));
    };
    tunnel_to(at_once, |mut tunnel| {
        let mut writer = tunnel.writer().unwrap();
        let writing = std::thread::spawn(move || {
            // Until the other side does not want any more; there is more than any buffer takes.
            for _ in 0..1000 {
                if session::write(&mut writer, &ClientFrame::Stdin(vec![0; 60_000])).is_err() {
                    return;
                }
            }
        });
        assert_eq!(session::read(&mut tunnel).unwrap(), Some(ServerFrame::Exit(ExitStatus::Signal(9))));
        // What was never read makes an end a reset.
        match session::read::<ServerFrame>(&mut tunnel) {
            Ok(end) => assert_eq!(end, None),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        tunnel.writer().unwrap().shutdown(std::net::Shutdown::Both).unwrap();
        writing.join().unwrap();
    });
}

#[test]
fn each_direction_ends_by_itself() {
    let after_the_end = |mut stream: UnixStream| {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        stream.write_all(&heard).unwrap();
    };
    tunnel_to(after_the_end, |mut tunnel| {
        tunnel.write_all(b"hello").unwrap();
        tunnel.writer().unwrap().shutdown(std::net::Shutdown::Write).unwrap();
        let mut came = Vec::new();
        tunnel.read_to_end(&mut came).unwrap();
        assert_eq!(came, b"hello");
    });
}

static GONE: std::sync::OnceLock<mpsc::Sender<()>> = std::sync::OnceLock::new();

#[test]
fn a_client_that_dies_is_noticed_by_a_silent_command() {
    let (gone, noticed) = mpsc::channel();
    GONE.set(gone).unwrap();
    let silent = |mut stream: UnixStream| {
        assert_eq!(session::read::<ClientFrame>(&mut stream).unwrap(), None);
        GONE.get().unwrap().send(()).unwrap();
    };
    tunnel_to(silent, |tunnel| {
        drop(tunnel);
        noticed.recv_timeout(PATIENCE).unwrap();
    });
}
