//! `weft exec`: every byte, every exit code, every signal.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use weft_agent::session::{self, ClientFrame, ExitStatus, ServerFrame};

use crate::bed::FakeDaemon;

const EXEC: [&str; 4] = ["exec", "web", "--", "command"];
const PATIENCE: Duration = Duration::from_secs(20);

fn write(stream: &mut UnixStream, frame: ServerFrame) {
    // Whoever has left is missed by nobody.
    let _ = session::write(stream, &frame);
}

/// A command that says this and ends like this, without looking at its input.
fn says(frames: &'static [(&'static str, bool)], exit: ExitStatus) -> FakeDaemon {
    FakeDaemon::new(move |mut stream| {
        write(&mut stream, ServerFrame::Started);
        for (text, is_error) in frames {
            let bytes = text.as_bytes().to_vec();
            write(&mut stream, if *is_error { ServerFrame::Stderr(bytes) } else { ServerFrame::Stdout(bytes) });
        }
        write(&mut stream, ServerFrame::Exit(exit));
    })
}

/// `cat`, which exits with 3.
fn cat() -> FakeDaemon {
    FakeDaemon::new(|mut stream| {
        while let Ok(Some(frame)) = session::read(&mut stream) {
            match frame {
                ClientFrame::Stdin(data) => write(&mut stream, ServerFrame::Stdout(data)),
                ClientFrame::StdinEof => return write(&mut stream, ServerFrame::Exit(ExitStatus::Code(3))),
                other => panic!("{other:?}"),
            }
        }
    })
}

#[test]
fn output_errors_and_exit_codes_pass_through() {
    let output = says(&[("out\n", false), ("err\n", true)], ExitStatus::Code(7)).run(&EXEC, b"");
    assert_eq!(output.status.code(), Some(7));
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(says(&[], ExitStatus::Signal(15)).run(&EXEC, b"").status.code(), Some(143));
    assert_eq!(says(&[], ExitStatus::Code(255)).run(&EXEC, b"").status.code(), Some(255));
}

#[test]
fn large_pipes_pass_byte_for_byte() {
    let input: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = cat().run(&EXEC, &input);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout == input, "{} bytes of {}", output.stdout.len(), input.len());
}

#[test]
fn a_command_may_end_before_its_input() {
    let daemon = says(&[("enough", false)], ExitStatus::Code(0));
    let output = daemon.run(&EXEC, &vec![b'x'; 20_000_000]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"enough"[..]));
    // And when the input never ends.
    let mut child = daemon.home.weft(&EXEC).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let _open = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn no_input_is_an_end_at_once() {
    let daemon = cat();
    assert_eq!(daemon.run(&EXEC, b"").status.code(), Some(3));
    let mut child = daemon.home.weft(&["exec", "-n", "web", "command"]).stdin(Stdio::piped()).spawn().unwrap();
    let _open = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn who_does_not_read_ends_the_command() {
    let (ended, told) = mpsc::channel();
    let ended = Arc::new(Mutex::new(ended));
    let daemon = FakeDaemon::new(move |mut stream| {
        while session::write(&mut stream, &ServerFrame::Stdout(b"y\n".repeat(8000))).is_ok() {}
        let _ = ended.lock().unwrap().send(());
    });
    let mut child = daemon.home.weft(&EXEC).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(141), &b""[..]));
    told.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn signals_reach_the_command() {
    let daemon = FakeDaemon::new(|mut stream| {
        write(&mut stream, ServerFrame::Stdout(b"ready\n".to_vec()));
        while let Ok(Some(frame)) = session::read(&mut stream) {
            if let ClientFrame::Signal(number) = frame {
                return write(&mut stream, ServerFrame::Exit(ExitStatus::Signal(number)));
            }
        }
    });
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let mut child = daemon.home.weft(&EXEC).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal.as_raw()), "{signal:?}");
    }
}

#[test]
fn a_signal_ends_a_command_that_takes_no_input() {
    let daemon = FakeDaemon::new(|mut stream| {
        write(&mut stream, ServerFrame::Stdout(b"ready\n".to_vec()));
        std::thread::sleep(PATIENCE);
    });
    let mut child = daemon.home.weft(&EXEC).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || while std::io::Write::write_all(&mut stdin, &[0; 10_000]).is_ok() {});
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    std::thread::sleep(Duration::from_millis(300)); // until every buffer on the way is full
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn what_weft_itself_cannot_do_is_125() {
    let refused =
        FakeDaemon::new(|mut stream| write(&mut stream, ServerFrame::Error("the guest\x1b[2J is gone".into())));
    let output = refused.run(&EXEC, b"");
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the guest?[2J is gone") && !said.contains('\x1b'), "{said}");
    // The stream ends without a word, or with nonsense.
    assert_eq!(FakeDaemon::new(drop).run(&EXEC, b"").status.code(), Some(125));
    let nonsense = FakeDaemon::new(|mut stream| drop(std::io::Write::write_all(&mut stream, &[0xff; 100])));
    assert_eq!(nonsense.run(&EXEC, b"").status.code(), Some(125));
}

#[test]
fn notes_are_talk() {
    let daemon = FakeDaemon::new(|mut stream| {
        write(&mut stream, ServerFrame::Note("slow\x1b[2J".into()));
        write(&mut stream, ServerFrame::Stdout(b"data\n".to_vec()));
        write(&mut stream, ServerFrame::Exit(ExitStatus::Code(0)));
    });
    let output = daemon.run(&EXEC, b"");
    assert_eq!((&output.stdout[..], output.status.code()), (&b"data\n"[..], Some(0)));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "note: slow?[2J\n");
}

#[test]
fn a_daemon_that_dies_is_said() {
    let (began, begun) = mpsc::channel();
    let began = Arc::new(Mutex::new(began));
    let mut daemon = FakeDaemon::new(move |mut stream| {
        began.lock().unwrap().send(()).unwrap();
        let _ = session::read::<ClientFrame>(&mut stream);
        std::thread::sleep(PATIENCE);
    });
    let child = daemon.home.weft(&EXEC).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    daemon.die();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the connection to the command in `web` broke"));
}
