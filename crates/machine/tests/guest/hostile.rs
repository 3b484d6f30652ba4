//! Guests that lie.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use weft_agent::frame;
use weft_agent::message::{AgentInfo, ToGuest, ToHost, VERSION};
use weft_machine::guest::session::{self, ServerFrame};
use weft_machine::guest::{Agent, GuestError};

use crate::bed::{LIMIT, finish, sh};

/// A guest that welcomes the host with `version`, and says `lies` when a command is opened.
fn liar(version: u16, lies: impl Fn(&mut UnixStream) + Send + 'static) -> (Agent, tempfile::TempDir, JoinHandle<()>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    let listener = UnixListener::bind(&path).unwrap();
    let guest = thread::spawn(move || {
        let (mut port, _) = listener.accept().unwrap();
        let (mut decoder, mut buffer) = (frame::Decoder::default(), [0; 4096]);
        // Noise from before our time.
        port.write_all(b"\x05noise\x00\x00\xFF\xFF").unwrap();
        say(&mut port, &ToHost::Exit(1, weft_agent::message::ExitStatus::Code(0)));
        while let Ok(count @ 1..) = port.read(&mut buffer) {
            let mut bytes = &buffer[..count];
            while let Some(message) = decoder.next(&mut bytes) {
                match ToGuest::decode(&message).unwrap() {
                    ToGuest::Hello { nonce, .. } => {
                        let info = AgentInfo::default();
                        say(&mut port, &ToHost::Welcome { version, nonce: nonce ^ 1, info: info.clone() });
                        say(&mut port, &ToHost::Welcome { version, nonce, info });
                    }
                    ToGuest::Open(..) => lies(&mut port),
                    _ => {}
                }
            }
        }
    });
    (Agent::connect(&path).unwrap(), folder, guest)
}

fn say(port: &mut UnixStream, message: &ToHost) {
    let mut bytes = vec![frame::DELIMITER];
    frame::encode(&message.encode(), &mut bytes);
    let _ = port.write_all(&bytes);
}

#[test]
fn another_version_is_refused_by_name() {
    let (agent, _folder, _guest) = liar(VERSION + 1, |_| {});
    let error = agent.wait_ready(LIMIT).unwrap_err();
    assert!(matches!(error, GuestError::Version { guest, host: VERSION } if guest == VERSION + 1), "{error}");
    assert!(!error.hint().is_empty());
}

#[test]
fn output_beyond_the_window_ends_the_session() {
    let (agent, _folder, _guest) = liar(VERSION, |port| {
        for _ in 0..10_000 {
            say(port, &ToHost::Stdout(1, vec![b'x'; 1000]));
        }
    });
    agent.wait_ready(LIMIT).unwrap();
    let mut stream = agent.exec(sh("true")).unwrap();
    thread::sleep(Duration::from_millis(300)); // a client that does not read
    let ended = finish(&mut stream);
    let heard = ended.stdout.len();
    assert!(heard <= 1 << 20, "what waits is bounded by the windows and the socket's own buffer, not {heard} bytes");
    assert_eq!(ended.end, Some(Err("the guest agent broke the protocol".to_owned())));
}

#[test]
fn a_flood_of_small_lies_costs_no_memory_and_no_other_session() {
    let (agent, _folder, _guest) = liar(VERSION, |port| {
        let mut bytes = Vec::new();
        for lie in [
            ToHost::Started(1),
            ToHost::Started(1),
            ToHost::Credit(1, u32::MAX),
            ToHost::Stdout(99, vec![1]),
            ToHost::Info(7, Default::default()),
            ToHost::ShutdownBegun(7, Ok(())),
            ToHost::Error(98, "none".to_owned()),
        ] {
            frame::encode(&lie.encode(), &mut bytes);
        }
        bytes.extend([b'z'; 100_000]); // a frame without end
        for _ in 0..20 {
            let _ = port.write_all(&bytes);
        }
        say(port, &ToHost::Started(2));
    });
    agent.wait_ready(LIMIT).unwrap();
    let mut first = agent.exec(sh("true")).unwrap();
    assert_eq!(finish(&mut first).end, Some(Err("the guest agent broke the protocol".to_owned())));
    let mut second = agent.exec(sh("true")).unwrap();
    second.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(session::read(&mut second).unwrap(), Some(ServerFrame::Started));
}
