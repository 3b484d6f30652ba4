//! `weft console`: the key leaves, and the terminal is as it was.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};

use crate::bed::FakeDaemon;

/// A line that echoes.
fn echo() -> FakeDaemon {
    FakeDaemon::new(|mut line| {
        let mut heard = [0; 100];
        while let Ok(count @ 1..) = line.read(&mut heard) {
            let _ = line.write_all(&heard[..count]);
        }
    })
}

#[test]
fn what_stands_before_the_key_is_typed() {
    let output = echo().run(&["console", "web"], b"hello\x1dnot this");
    assert!(output.status.success());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("not this"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Ctrl-] leaves"));
}

#[test]
fn a_line_that_closes_ends_it() {
    let output = FakeDaemon::new(|mut line| line.write_all(b"bye").unwrap()).run(&["console", "web"], b"");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"bye"[..]));
}

/// Runs the console on a terminal, and `end`s it once it is raw; the terminal's modes must be what they were.
fn on_a_terminal(end: impl FnOnce(&mut File, &Child), expected: Option<i32>) {
    let daemon = echo();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(path).unwrap();
    let mut master = File::from(master);
    let modes = |terminal: &File| -> Termios { tcgetattr(terminal).unwrap() };
    let before = modes(&terminal);
    let mut command = daemon.home.weft(&["console", "web"]);
    command.stdin(terminal.try_clone().unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while modes(&terminal).local_modes.contains(LocalModes::ICANON) {
        assert!(start.elapsed() < Duration::from_secs(10), "the terminal does not become raw");
        std::thread::sleep(Duration::from_millis(5));
    }
    end(&mut master, &child);
    assert_eq!(child.wait().unwrap().code(), expected);
    assert_eq!(format!("{:?}", modes(&terminal)), format!("{before:?}"));
}

#[test]
fn the_terminal_is_restored_after_the_key() {
    on_a_terminal(|master, _| master.write_all(b"ls\r\x1d").unwrap(), Some(0));
}

#[test]
fn the_terminal_is_restored_after_a_signal() {
    on_a_terminal(|_, child| kill_process(Pid::from_child(child), Signal::TERM).unwrap(), Some(143));
}
