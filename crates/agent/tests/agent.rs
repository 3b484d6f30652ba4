//! The agent as a process of its own, with a socket in the place of its virtio-serial port.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weft_agent::frame;
use weft_agent::message::{
    DATA_BYTES_MAX, Exec, ExitStatus, GuestInfo, SessionId, Shutdown, Size, ToGuest, ToHost, Tty, VERSION, WINDOW_BYTES,
};

const LIMIT: Duration = Duration::from_secs(30);

/// A running agent, and the host's end of its port.
struct Bed {
    agent: Child,
    port: UnixStream,
    decoder: frame::Decoder,
    heard: VecDeque<ToHost>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        let listener = UnixListener::bind(&path).unwrap();
        // Who started it ignores what a keyboard sends; its commands must not.
        let agent = Command::new("sh")
            .args(["-c", "trap '' INT QUIT HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_weft-agent"), "--port"])
            .arg(&path)
            .stdin(Stdio::null())
            .env("LEAKED", "into no command")
            .spawn()
            .unwrap();
        let (port, _) = listener.accept().unwrap();
        port.set_read_timeout(Some(LIMIT)).unwrap();
        let mut bed = Self { agent, port, decoder: frame::Decoder::default(), heard: VecDeque::new() };
        assert_eq!(bed.hear(), ToHost::Ready);
        bed.hello(1);
        bed
    }

    fn hello(&mut self, nonce: u64) {
        self.say(&ToGuest::Hello { version: VERSION, nonce });
        let info = loop {
            match self.hear() {
                ToHost::Welcome { version: VERSION, nonce: answered, info } if answered == nonce => break info,
                _ => {} // words for a former host
            }
        };
        assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(info.boot_id.len(), 36);
    }

    fn say(&mut self, message: &ToGuest) {
        let mut bytes = Vec::new();
        frame::encode(&message.encode(), &mut bytes);
        self.port.write_all(&bytes).unwrap();
    }

    fn hear(&mut self) -> ToHost {
        let mut buffer = [0; 65536];
        while self.heard.is_empty() {
            let count = self.port.read(&mut buffer).expect("the agent says something in time");
            assert!(count > 0, "the agent lives");
            let mut bytes = &buffer[..count];
            while let Some(message) = self.decoder.next(&mut bytes) {
                self.heard.push_back(ToHost::decode(&message).unwrap());
            }
        }
        self.heard.pop_front().unwrap()
    }

    fn open(&mut self, id: SessionId, exec: Exec) {
        self.say(&ToGuest::Open(id, exec));
        assert_eq!(self.hear(), ToHost::Started(id));
    }

    /// Listens to one session until its end, with credit for all that it says.
    fn finish(&mut self, id: SessionId) -> Ended {
        let mut ended = Ended::default();
        loop {
            match self.hear() {
                ToHost::Started(of) if of == id => {}
                ToHost::Stdout(of, data) if of == id => {
                    self.say(&ToGuest::Credit(id, data.len() as u32));
                    ended.stdout.extend(data);
                }
                ToHost::Stderr(of, data) if of == id => {
                    self.say(&ToGuest::Credit(id, data.len() as u32));
                    ended.stderr.extend(data);
                }
                ToHost::Exit(of, status) if of == id => {
                    ended.status = Some(status);
                    return ended;
                }
                ToHost::Credit(..) => {}
                other => panic!("session {id} hears {other:?}"),
            }
        }
    }

    fn run(&mut self, exec: Exec) -> Ended {
        self.say(&ToGuest::Open(7, exec));
        self.say(&ToGuest::StdinEof(7));
        self.finish(7)
    }

    /// Listens to one session's output until it contains `text`.
    fn hear_text(&mut self, id: SessionId, text: &str) {
        let mut heard = String::new();
        while !heard.contains(text) {
            match self.hear() {
                ToHost::Stdout(of, data) if of == id => heard.push_str(&String::from_utf8_lossy(&data)),
                other => panic!("waiting for {text:?} after {heard:?}, heard {other:?}"),
            }
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Ended {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Option<ExitStatus>,
}

impl Ended {
    fn text(&self) -> String {
        format!("{}|{}", String::from_utf8_lossy(&self.stdout), String::from_utf8_lossy(&self.stderr))
    }
}

fn exec(argv: &[&str]) -> Exec {
    Exec { argv: argv.iter().map(|&argument| argument.to_owned()).collect(), ..Exec::default() }
}

fn sh(script: &str) -> Exec {
    exec(&["/bin/sh", "-c", script])
}

fn terminal(script: &str) -> Exec {
    let tty = Tty { size: Size { rows: 33, cols: 111 }, term: "vt220".to_owned() };
    Exec { tty: Some(tty), ..sh(script) }
}

/// Whether a process whose command line contains `mark` still runs; looks for up to `patience`.
fn gone(mark: &str, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let alive = std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(mark)
        });
        if !alive || Instant::now() > deadline {
            return !alive;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn commands_end_as_a_shell_would_tell() {
    let mut bed = Bed::new();
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    let plain = plain.to_str().unwrap();
    let elsewhere = Exec { cwd: Some("/none".to_owned()), ..sh("pwd") };
    for (exec, text, code) in [
        (sh("echo out; echo err >&2; exit 3"), "out\n|err\n".to_owned(), 3),
        (exec(&["true"]), "|".to_owned(), 0),
        (exec(&["no-such-program"]), "|weft: `no-such-program`: command not found\n".to_owned(), 127),
        (exec(&[plain]), format!("|weft: `{plain}` cannot be run: Permission denied (os error 13)\n"), 126),
        (elsewhere, "|weft: cannot enter `/none`: No such file or directory (os error 2)\n".to_owned(), 126),
    ] {
        let ended = bed.run(exec);
        assert_eq!(ended.text(), text);
        assert_eq!(ended.status, Some(ExitStatus::Code(code)), "{text}");
    }
    assert_eq!(bed.run(sh("kill -TERM $$")).status, Some(ExitStatus::Signal(15)));
}

#[test]
fn commands_find_an_orderly_world() {
    let mut bed = Bed::new();
    let mut exec = sh("echo $PATH; echo $HOME; echo $A; echo $LEAKED; pwd; cat; ps -o sid= -p $$ | tr -d ' '; echo $$");
    exec.env = vec![("A".to_owned(), "b = c".to_owned()), ("HOME".to_owned(), "/h".to_owned())];
    exec.cwd = Some("/usr".to_owned());
    let ended = bed.run(exec);
    let text = String::from_utf8(ended.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("/usr/bin"), "{text}");
    assert_eq!(lines[1..5], ["/h", "b = c", "", "/usr"], "{text}");
    assert_eq!(lines[5], lines[6], "each command leads a session: {text}");
}

#[test]
fn ten_megabytes_go_in_and_come_out_the_same() {
    let mut bed = Bed::new();
    let mut byte = 7_u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        byte = byte.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (byte >> 24) as u8
    })
    .take(10 << 20)
    .collect();
    bed.open(1, exec(&["cat"]));
    let (mut sent, mut window, mut echoed) = (0, WINDOW_BYTES, Vec::new());
    loop {
        while window > 0 && sent < bytes.len() {
            let piece = &bytes[sent..(sent + window.min(DATA_BYTES_MAX)).min(bytes.len())];
            bed.say(&ToGuest::Stdin(1, piece.to_vec()));
            (sent, window) = (sent + piece.len(), window - piece.len());
            if sent == bytes.len() {
                bed.say(&ToGuest::StdinEof(1));
            }
        }
        match bed.hear() {
            ToHost::Stdout(1, data) => {
                bed.say(&ToGuest::Credit(1, data.len() as u32));
                echoed.extend(data);
            }
            ToHost::Credit(1, credit) => window += credit as usize,
            ToHost::Exit(1, status) => {
                assert_eq!(status, ExitStatus::Code(0));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(echoed == bytes);
}

#[test]
fn a_command_that_does_not_read_stops_its_own_input_only() {
    let mut bed = Bed::new();
    bed.open(1, sh("exec 0<&-; sleep 0.1; echo done"));
    for _ in 0..WINDOW_BYTES / DATA_BYTES_MAX {
        bed.say(&ToGuest::Stdin(1, vec![b'x'; DATA_BYTES_MAX]));
    }
    let ended = bed.finish(1);
    assert_eq!((ended.text().as_str(), ended.status), ("done\n|", Some(ExitStatus::Code(0))));

    bed.open(2, sh("sleep 60"));
    for _ in 0..3 * WINDOW_BYTES / DATA_BYTES_MAX {
        bed.say(&ToGuest::Stdin(2, vec![b'x'; DATA_BYTES_MAX]));
    }
    let overdrawn = (0..20).map(|_| bed.hear()).find(|message| matches!(message, ToHost::Error(2, _)));
    assert!(overdrawn.is_some(), "a host that ignores the window is told so");
    assert_eq!(bed.run(sh("echo on")).text(), "on\n|");
}

#[test]
fn a_terminal_is_a_real_one() {
    let mut bed = Bed::new();
    let ended = bed.run(terminal("stty size; test -t 0 && test -t 1 && test -t 2 && echo terminal; echo $TERM; tty"));
    let text = ended.text();
    assert!(text.starts_with("33 111\r\nterminal\r\nvt220\r\n/dev/pts/"), "{text:?}");
    let many = bed.run(terminal("seq 1 20000"));
    assert_eq!(String::from_utf8(many.stdout).unwrap().lines().count(), 20000, "all of it comes, to the last line");
}

#[test]
fn a_terminal_takes_sizes_keys_and_its_end() {
    let mut bed = Bed::new();
    bed.open(1, terminal("trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"));
    bed.hear_text(1, "ready");
    bed.say(&ToGuest::Resize(1, Size { rows: 50, cols: 132 }));
    bed.hear_text(1, "50 132");
    bed.say(&ToGuest::Stdin(1, vec![0x03]));
    assert_eq!(bed.finish(1).status, Some(ExitStatus::Signal(2)), "Ctrl-C interrupts");

    bed.open(2, terminal("cat; echo end"));
    bed.say(&ToGuest::Stdin(2, b"half a line".to_vec()));
    bed.say(&ToGuest::StdinEof(2));
    let ended = bed.finish(2);
    assert!(ended.text().ends_with("end\r\n|"), "{ended:?}");
}

#[test]
fn signals_reach_the_whole_group() {
    let mut bed = Bed::new();
    bed.open(1, sh("sleep 1234.5 & echo ready; wait"));
    bed.hear_text(1, "ready");
    bed.say(&ToGuest::Signal(1, 15));
    assert_eq!(bed.finish(1).status, Some(ExitStatus::Signal(15)));
    assert!(gone("1234.5", LIMIT));
    bed.open(2, sh("trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.02; done"));
    bed.hear_text(2, "ready");
    bed.say(&ToGuest::Signal(2, 200));
    bed.say(&ToGuest::Signal(2, 10));
    let ended = bed.finish(2);
    assert_eq!((&ended.stdout[..], ended.status), (&b"caught\n"[..], Some(ExitStatus::Code(9))));
}

#[test]
fn orphans_do_not_hold_a_session_open() {
    let mut bed = Bed::new();
    let began = Instant::now();
    let ended = bed.run(sh("sleep 20.25 & seq 1 5000; exit 5"));
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(ended.status, Some(ExitStatus::Code(5)));
    assert_eq!(ended.stdout.iter().filter(|&&byte| byte == b'\n').count(), 5000);
}

#[test]
fn a_stalled_session_stalls_no_other() {
    let mut bed = Bed::new();
    bed.open(1, sh("exec yes"));
    let mut flood = 0;
    while flood < WINDOW_BYTES {
        match bed.hear() {
            ToHost::Stdout(1, data) => flood += data.len(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(flood, WINDOW_BYTES, "not a byte beyond the window");
    assert_eq!(bed.run(sh("echo on")).text(), "on\n|");
    bed.say(&ToGuest::Credit(1, 10));
    assert!(matches!(bed.hear(), ToHost::Stdout(1, data) if data.len() == 10));
}

#[test]
fn what_a_client_leaves_is_hung_up_and_killed() {
    let mut bed = Bed::new();
    bed.open(1, sh("trap '' HUP; echo ready; sleep 4321.5"));
    bed.hear_text(1, "ready");
    bed.say(&ToGuest::Close(1));
    assert!(gone("4321.5", LIMIT));
    assert_eq!(bed.run(sh("echo on")).text(), "on\n|");
}

#[test]
fn a_host_that_dies_in_the_middle_of_a_frame_is_replaced() {
    let mut bed = Bed::new();
    bed.open(1, sh("sleep 5432.5"));
    let mut half = Vec::new();
    frame::encode(&ToGuest::Stdin(1, vec![b'x'; 1000]).encode(), &mut half);
    bed.port.write_all(&half[..half.len() / 2]).unwrap();
    bed.port.write_all(&[frame::DELIMITER]).unwrap();
    bed.hello(2);
    assert!(gone("5432.5", LIMIT), "the former host's commands are hung up");
    assert_eq!(bed.run(sh("echo on")).text(), "on\n|");
    bed.open(1, exec(&["cat"]));
    bed.hello(2);
    bed.say(&ToGuest::StdinEof(1));
    assert_eq!(bed.finish(1).status, Some(ExitStatus::Code(0)), "the same host may say hello again");
}

#[test]
fn nonsense_is_survived() {
    let mut bed = Bed::new();
    let mut byte = 1_u8;
    for len in 0..400 {
        let message: Vec<u8> = std::iter::repeat_with(|| {
            byte = byte.wrapping_mul(141).wrapping_add(3);
            byte
        })
        .take(len)
        .collect();
        // Not a shutdown, although a stand-in for a guest would refuse it anyway.
        let mut bytes = Vec::new();
        frame::encode(&message, &mut bytes);
        bed.port.write_all(&bytes).unwrap();
        bed.port.write_all(&message).unwrap();
    }
    bed.say(&ToGuest::Signal(99, 9));
    bed.say(&ToGuest::Open(3, Exec::default()));
    bed.hello(3);
    assert!(matches!(
        {
            bed.say(&ToGuest::Open(3, Exec::default()));
            bed.hear()
        },
        ToHost::Error(3, _)
    ));
    assert_eq!(bed.run(sh("echo on")).text(), "on\n|");
}

#[test]
fn it_tells_about_the_guest_but_ends_no_host() {
    let mut bed = Bed::new();
    bed.say(&ToGuest::Query(42));
    let ToHost::Info(42, GuestInfo { hostname, uptime_s, interfaces }) = bed.hear() else { panic!("no answer") };
    assert_eq!(hostname, std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    assert!(uptime_s > 0);
    assert!(interfaces.iter().all(|interface| interface.name != "lo"));
    bed.say(&ToGuest::Shutdown(43, Shutdown::PowerOff));
    assert!(matches!(bed.hear(), ToHost::ShutdownBegun(43, Err(_))));
}
