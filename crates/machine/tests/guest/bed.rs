//! A stand-in for a VM: the engine's socket, and the agent as a local process behind it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use weft_machine::guest::session::{self, ClientFrame, ExitStatus, ServerFrame};
use weft_machine::guest::{AGENT, Agent, ExecRequest};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Like QEMU's character device: one client at a time; what the guest says while none is there is lost.
pub(crate) struct Bed {
    folder: TempDir,
    host: Arc<Mutex<Option<UnixStream>>>,
    guest: Arc<Mutex<Option<UnixStream>>>,
    agent: Option<Child>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("weft-agent");
        fs::write(&program, AGENT).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let (host, guest) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
        relay(&folder.path().join("host"), host.clone(), guest.clone());
        relay(&folder.path().join("guest"), guest.clone(), host.clone());
        let mut bed = Self { folder, host, guest, agent: None };
        bed.start_agent();
        bed
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    pub(crate) fn connect(&self) -> Agent {
        let agent = Agent::connect(&self.socket()).unwrap();
        agent.wait_ready(LIMIT).unwrap();
        agent
    }

    /// What the agent's end and its respawn do.
    pub(crate) fn restart_agent(&mut self) {
        self.stop_agent();
        self.start_agent();
    }

    /// What an engine's end and a new start do to the host's connection.
    pub(crate) fn cut_host(&self) {
        if let Some(stream) = self.host.lock().unwrap().take() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn start_agent(&mut self) {
        let mut command = Command::new(self.folder.path().join("weft-agent"));
        command.arg("--port").arg(self.folder.path().join("guest")).stdin(Stdio::null());
        // A child that another test forks just now may still have the program's file open for writing.
        self.agent = Some(loop {
            match command.spawn() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::sleep(Duration::from_millis(5)),
                spawned => break spawned.unwrap(),
            }
        });
    }

    /// Ends the agent by its stream's end rather than by a kill, so that it ends its commands too.
    fn stop_agent(&mut self) {
        if let Some(stream) = self.guest.lock().unwrap().take() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.wait();
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop_agent();
    }
}

/// Takes one client after another on `path`, keeps it in `near`, and hands what it says to `far`.
fn relay(path: &Path, near: Arc<Mutex<Option<UnixStream>>>, far: Arc<Mutex<Option<UnixStream>>>) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            *near.lock().unwrap() = Some(client.try_clone().unwrap());
            let mut buffer = [0; 32 << 10];
            while let Ok(count @ 1..) = client.read(&mut buffer) {
                let there = far.lock().unwrap().as_ref().map(|stream| stream.try_clone().unwrap());
                if let Some(mut there) = there {
                    let _ = there.write_all(&buffer[..count]);
                }
            }
            near.lock().unwrap().take();
        }
    });
}

pub(crate) fn exec(argv: &[&str]) -> ExecRequest {
    ExecRequest { argv: argv.iter().map(|&argument| argument.to_owned()).collect(), ..ExecRequest::default() }
}

pub(crate) fn sh(script: &str) -> ExecRequest {
    exec(&["/bin/sh", "-c", script])
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ended {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) notes: Vec<String>,
    pub(crate) end: Option<Result<ExitStatus, String>>,
}

/// Reads a session to its end.
pub(crate) fn finish(stream: &mut UnixStream) -> Ended {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut ended = Ended::default();
    loop {
        let frame = match session::read::<ServerFrame>(stream) {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            // Whoever ends before it was told that there is no more input leaves that unread, which resets the stream.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset && ended.end.is_some() => break,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(ended.end, None, "nothing follows the end");
        match frame {
            ServerFrame::Started => {}
            ServerFrame::Stdout(data) => ended.stdout.extend(data),
            ServerFrame::Stderr(data) => ended.stderr.extend(data),
            ServerFrame::Exit(status) => ended.end = Some(Ok(status)),
            ServerFrame::Error(sentence) => ended.end = Some(Err(sentence)),
            ServerFrame::Note(note) => ended.notes.push(note),
        }
    }
    ended
}

/// Runs a command without input.
pub(crate) fn run(agent: &Agent, request: ExecRequest) -> Ended {
    let mut stream = agent.exec(request).unwrap();
    // A command that is done so soon has hung up, and what it said is there to be read.
    match session::write(&mut stream, &ClientFrame::StdinEof) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.unwrap(),
    }
    finish(&mut stream)
}
