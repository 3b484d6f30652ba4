//! Weft's own agent.

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use weft_machine::guest::session::{self, ClientFrame, ExitStatus, ServerFrame};
use weft_machine::guest::{Agent, ExecRequest, GuestError, Shutdown, Size, Tty};

use crate::bed::{Bed, Ended, LIMIT, exec, finish, run, sh};

/// Reads a session's frames until its output contains `text`.
fn hear(stream: &mut UnixStream, text: &str) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut heard = String::new();
    while !heard.contains(text) {
        match session::read(stream).unwrap() {
            Some(ServerFrame::Stdout(data)) => heard.push_str(&String::from_utf8_lossy(&data)),
            Some(ServerFrame::Started) => {}
            other => panic!("waiting for {text:?} after {heard:?}, got {other:?}"),
        }
    }
}

/// Whether no process with `mark` in its command line runs any more, some time soon.
fn gone(mark: &str) -> bool {
    let deadline = Instant::now() + LIMIT;
    let runs = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(mark)
        })
    };
    while runs() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    !runs()
}

#[test]
fn commands_pass_their_streams_and_codes_through() {
    let bed = Bed::new();
    let agent = bed.connect();
    for (request, stdout, stderr, status) in [
        (sh("echo out; echo err >&2; exit 3"), "out\n", "err\n", ExitStatus::Code(3)),
        (exec(&["no-such-program"]), "", "weft: `no-such-program`: command not found\n", ExitStatus::Code(127)),
        (exec(&["/"]), "", "weft: `/` cannot be run: Permission denied (os error 13)\n", ExitStatus::Code(126)),
        (sh("kill -KILL $$"), "", "", ExitStatus::Signal(9)),
    ] {
        let expected =
            Ended { stdout: stdout.into(), stderr: stderr.into(), end: Some(Ok(status)), ..Ended::default() };
        assert_eq!(run(&agent, request), expected);
    }
}

#[test]
fn ten_megabytes_go_in_and_come_out_the_same() {
    let bed = Bed::new();
    let agent = bed.connect();
    let bytes: Vec<u8> = (0..10_u32 << 20).map(|at| (at ^ (at >> 8)).wrapping_mul(31) as u8).collect();
    let mut stream = agent.exec(exec(&["cat"])).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let ended = thread::scope(|scope| {
        scope.spawn(|| {
            session::write(&mut writer, &ClientFrame::Stdin(bytes.clone())).unwrap();
            session::write(&mut writer, &ClientFrame::StdinEof).unwrap();
        });
        finish(&mut stream)
    });
    assert_eq!(ended.end, Some(Ok(ExitStatus::Code(0))));
    assert!(ended.stdout == bytes);
}

#[test]
fn a_terminal_has_a_size_that_changes_and_takes_signals() {
    let bed = Bed::new();
    let agent = bed.connect();
    let script = "stty size; trap 'stty size' WINCH; test -t 0 && echo terminal; while :; do sleep 0.05; done";
    let tty = Tty { size: Size { rows: 24, cols: 80 }, term: "vt100".to_owned() };
    let mut stream = agent.exec(ExecRequest { tty: Some(tty), ..sh(script) }).unwrap();
    hear(&mut stream, "24 80\r\nterminal\r\n");
    session::write(&mut stream, &ClientFrame::Resize(Size { rows: 40, cols: 100 })).unwrap();
    hear(&mut stream, "40 100");
    session::write(&mut stream, &ClientFrame::Signal(15)).unwrap();
    assert_eq!(finish(&mut stream).end, Some(Ok(ExitStatus::Signal(15))));
}

#[test]
fn a_client_that_stalls_stalls_no_other() {
    let bed = Bed::new();
    let agent = bed.connect();
    let stalled = agent.exec(exec(&["yes"])).unwrap();
    thread::scope(|scope| {
        for n in 0..8 {
            let agent = &agent;
            scope.spawn(move || {
                let ended = run(agent, sh(&format!("seq 1 100000 | tail -1; echo {n}")));
                assert_eq!(ended.stdout, format!("100000\n{n}\n").as_bytes());
            });
        }
    });
    drop(stalled);
}

#[test]
fn a_dropped_stream_kills_its_command() {
    let bed = Bed::new();
    let agent = bed.connect();
    let mut stream = agent.exec(sh("echo ready; sleep 7654.25")).unwrap();
    hear(&mut stream, "ready");
    drop(stream);
    assert!(gone("7654.25"));
    assert_eq!(run(&agent, sh("echo on")).stdout, b"on\n");
}

#[test]
fn too_many_sessions_are_refused_until_one_ends() {
    let bed = Bed::new();
    let agent = bed.connect();
    let mut open: Vec<UnixStream> = (0..64).map(|_| agent.exec(sh("cat")).unwrap()).collect();
    assert!(matches!(agent.exec(sh("cat")), Err(GuestError::TooManySessions(64))));
    for stream in &mut open {
        session::write(stream, &ClientFrame::StdinEof).unwrap();
        assert_eq!(finish(stream).end, Some(Ok(ExitStatus::Code(0))));
    }
    assert_eq!(run(&agent, sh("echo on")).stdout, b"on\n");
}

#[test]
fn impossible_requests_are_refused_with_a_reason() {
    let bed = Bed::new();
    let agent = bed.connect();
    let with = |name: &str| ExecRequest { env: vec![(name.to_owned(), "x".to_owned())], ..sh("true") };
    for request in [exec(&[]), exec(&[""]), exec(&["a\0b"]), with(""), with("a=b"), sh(&"x".repeat(70_000))] {
        assert!(matches!(agent.exec(request), Err(GuestError::Invalid(_))));
    }
}

#[test]
fn an_agent_that_starts_anew_is_found_again() {
    let mut bed = Bed::new();
    let agent = bed.connect();
    let mut stream = agent.exec(sh("sleep 8765.25")).unwrap();
    assert_eq!(session::read(&mut stream).unwrap(), Some(ServerFrame::Started));
    bed.restart_agent();
    assert!(matches!(finish(&mut stream).end, Some(Err(_))));
    agent.wait_ready(LIMIT).unwrap();
    assert_eq!(run(&agent, sh("echo on")).stdout, b"on\n");
    assert!(gone("8765.25"));
}

#[test]
fn a_broken_connection_is_made_again() {
    let bed = Bed::new();
    let agent = bed.connect();
    let mut stream = agent.exec(sh("sleep 9876.25")).unwrap();
    assert_eq!(session::read(&mut stream).unwrap(), Some(ServerFrame::Started));
    bed.cut_host();
    assert!(matches!(finish(&mut stream).end, Some(Err(_))));
    agent.wait_ready(LIMIT).unwrap();
    assert!(gone("9876.25"), "the new greeting hangs up what the old host began");
    assert_eq!(run(&agent, sh("echo on")).stdout, b"on\n");
}

#[test]
fn a_second_daemon_takes_over_from_one_that_was_killed() {
    let bed = Bed::new();
    let former = bed.connect();
    let mut stream = former.exec(exec(&["yes"])).unwrap();
    assert_eq!(session::read(&mut stream).unwrap(), Some(ServerFrame::Started));
    drop((former, stream)); // with output on the way
    bed.cut_host();
    let agent = bed.connect();
    assert_eq!(run(&agent, sh("echo on")).stdout, b"on\n");
}

#[test]
fn it_tells_about_the_guest_and_passes_refusals_on() {
    let bed = Bed::new();
    let agent = bed.connect();
    let info = agent.info().unwrap();
    assert_eq!(info.hostname, agent.wait_ready(LIMIT).unwrap().hostname);
    // The agent knows that it does not run in a guest.
    assert!(matches!(agent.shutdown(Shutdown::PowerOff), Err(GuestError::Refused(_))));
}

#[test]
fn who_is_not_there_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::connect(&folder.path().join("none")).unwrap();
    let error = agent.wait_ready(Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, GuestError::Unreachable(_)), "{error}");
    assert!(agent.exec(sh("true")).is_err());

    let path = folder.path().join("silent");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let agent = Agent::connect(&path).unwrap();
    let error = agent.wait_ready(Duration::from_millis(100)).unwrap_err();
    assert_eq!(error.to_string(), "The guest agent has not answered within 0.1 s");
    assert_eq!(agent.info().unwrap_err().to_string(), "The guest agent has not answered yet");
}
