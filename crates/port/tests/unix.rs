//! Unix-socket ports and their peers: what QEMU's `-netdev stream` and `-netdev dgram` speak.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_port::{Frame, Lent, Link, MAX_FRAME_BYTES, Port, SendError, Side, UdpPort, UnixDatagramPort, UnixStreamPort};
use weft_testkit::{ethernet, mac};
use weft_wire::Offload;

/// Sleeps as the worker does, until something came or the link changed.
fn wait(port: &mut dyn Port) -> Lent {
    let (before, deadline) = (port.link(), Instant::now() + Duration::from_secs(5));
    loop {
        let lent = port.recv();
        if lent != Lent::default() || port.link() != before || Instant::now() > deadline {
            return lent;
        }
        if port.sleep() {
            let mut fds = [PollFd::from_borrowed_fd(port.fd(), PollFlags::IN)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
            port.wake();
        }
    }
}

fn received(port: &mut dyn Port) -> Vec<Vec<u8>> {
    let lent = wait(port);
    copies(port, lent)
}

fn lent(port: &mut dyn Port) -> Vec<Vec<u8>> {
    let lent = port.recv();
    copies(port, lent)
}

fn copies(port: &mut dyn Port, lent: Lent) -> Vec<Vec<u8>> {
    let frames = (0..lent.frames).map(|index| {
        let mut bytes = Vec::new();
        port.frame(index).append_to(&mut bytes);
        bytes
    });
    let frames = frames.collect();
    port.release();
    frames
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

fn frame(byte: u8, len: usize) -> Vec<u8> {
    ethernet(mac(2), mac(1), 0x88b5, &vec![byte; len - 14])
}

fn connect(port: &mut UnixStreamPort, socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    wait(port);
    assert_eq!(port.link(), Link::Up);
    stream
}

#[test]
fn frames_cross_a_stream_both_ways_whatever_the_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("port");
    let mut port = UnixStreamPort::open(&socket, Side::Listen).unwrap();
    let mut peer = connect(&mut port, &socket);

    let frames = [frame(1, 14), frame(2, 1514), frame(3, MAX_FRAME_BYTES), frame(4, 60)];
    let bytes = frames.iter().flat_map(|frame| framed(frame)).collect::<Vec<_>>();
    let mut arrived = Vec::new();
    for piece in bytes.chunks(997) {
        peer.write_all(piece).unwrap();
        arrived.extend(lent(&mut port));
    }
    assert_eq!(arrived.len(), frames.len());
    assert!(arrived == frames);

    port.send(&Frame::new(&frames[1], Offload::default())).unwrap();
    port.send(&Frame::new(&frames[3], Offload::default())).unwrap();
    port.flush();
    port.sleep(); // nothing waits any longer
    let mut back = vec![0; 1514 + 60 + 8];
    peer.read_exact(&mut back).unwrap();
    assert_eq!(back, [framed(&frames[1]), framed(&frames[3])].concat());
}

#[test]
fn lengths_that_lie_end_the_connection_and_no_more() {
    for lie in [0u32, 13, MAX_FRAME_BYTES as u32 + 1, u32::MAX] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("port");
        let mut port = UnixStreamPort::open(&socket, Side::Listen).unwrap();
        let mut peer = connect(&mut port, &socket);
        peer.write_all(&[&framed(&frame(1, 60))[..], &lie.to_be_bytes(), b"whatever"].concat()).unwrap();
        assert_eq!(received(&mut port), [frame(1, 60)], "what came before the lie counts");
        wait(&mut port);
        assert_eq!(port.link(), Link::Down(format!("the peer announced a frame of {lie} bytes").into()));
        assert!(matches!(peer.read(&mut [0]), Ok(0) | Err(_)), "it was hung up");

        let mut peer = connect(&mut port, &socket);
        peer.write_all(&framed(&frame(2, 60))).unwrap();
        assert_eq!(received(&mut port), [frame(2, 60)]);
    }
}

#[test]
fn a_peer_that_does_not_read_loses_frames_and_gets_no_halves() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("port");
    let mut port = UnixStreamPort::open(&socket, Side::Listen).unwrap();
    assert_eq!(port.send(&Frame::new(&frame(1, 60), Offload::default())), Err(SendError::Down));
    let mut peer = connect(&mut port, &socket);
    let big = frame(7, 60_000);
    let mut sent = 0;
    while port.send(&Frame::new(&big, Offload::default())).is_ok() {
        port.flush();
        port.sleep(); // nothing waits any longer
        sent += 1;
        assert!(sent < 1000, "somewhere it must end");
    }
    let reader = std::thread::spawn(move || {
        for _ in 0..sent {
            let mut bytes = vec![0; 60_004];
            peer.read_exact(&mut bytes).unwrap();
            assert!(bytes == framed(&frame(7, 60_000)));
        }
        peer
    });
    let deadline = Instant::now() + Duration::from_secs(5);
    while !reader.is_finished() {
        assert!(Instant::now() < deadline, "what waited goes out when the peer reads");
        assert!(port.sleep());
        let mut fds = [PollFd::from_borrowed_fd(port.fd(), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
        port.wake();
    }
    drop(reader.join().unwrap());
    wait(&mut port);
    assert_eq!(port.link(), Link::Down("the peer hung up".into()));
}

#[test]
fn datagrams_come_from_the_peer_and_from_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut port = UnixDatagramPort::open(&path("ours"), Some(&path("theirs"))).unwrap();
    assert_eq!(port.send(&Frame::new(&frame(1, 60), Offload::default())), Err(SendError::Down));
    let peer = UnixDatagram::bind(path("theirs")).unwrap();
    let stranger = UnixDatagram::bind(path("strange")).unwrap();
    stranger.send_to(&frame(9, 60), path("ours")).unwrap();
    peer.send_to(&[0; 13], path("ours")).unwrap();
    peer.send_to(&frame(1, 60), path("ours")).unwrap();
    let lent = wait(&mut port);
    assert_eq!(lent, Lent { frames: 1, malformed: 2 });
    assert_eq!(port.frame(0).head(), frame(1, 60));
    port.release();

    port.send(&Frame::new(&frame(2, 1514), Offload::default())).unwrap();
    let mut bytes = [0; 2000];
    assert_eq!(peer.recv(&mut bytes).unwrap(), 1514);
    assert_eq!(port.link(), Link::Up);
    drop(peer);
    assert_eq!(port.send(&Frame::new(&frame(2, 60), Offload::default())), Err(SendError::Down));
}

/// A peer that was started in its folder names its socket from there.
#[test]
fn a_peer_by_a_name_without_a_root() {
    const PEER: &str = "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind('theirs'); \
                        s.sendto(bytes(60), 'ours'); print(len(s.recv(2000)))";
    for is_fixed in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (directory.path().join("ours"), directory.path().join("theirs"));
        let mut port = UnixDatagramPort::open(&ours, is_fixed.then_some(theirs.as_path())).unwrap();
        let mut peer = Command::new("python3");
        let peer = peer.args(["-c", PEER]).current_dir(&directory).stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(received(&mut port), [[0; 60]], "fixed: {is_fixed}");
        port.send(&Frame::new(&frame(2, 77), Offload::default())).unwrap();
        assert_eq!(peer.wait_with_output().unwrap().stdout, b"77\n");
    }
}

/// The peer's socket may be gone, and come back under the same name.
#[test]
fn a_port_that_connects_finds_its_peer_again() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("peer");
    let mut port = UnixStreamPort::open(&socket, Side::Connect).unwrap();
    assert_eq!(port.link(), Link::Down("no peer listens there".into()));
    for round in 0..3 {
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        wait(&mut port);
        assert_eq!(port.link(), Link::Up);
        let mut peer = listener.accept().unwrap().0;
        peer.write_all(&framed(&frame(round, 60))).unwrap();
        assert_eq!(received(&mut port), [frame(round, 60)]);
        std::fs::remove_file(&socket).unwrap();
        drop((listener, peer));
        wait(&mut port);
        assert_eq!(port.link(), Link::Down("the peer hung up".into()));
    }
}

#[test]
fn without_a_fixed_peer_answers_go_to_whoever_sent_last() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut port = UnixDatagramPort::open(&path("ours"), None).unwrap();
    assert_eq!(port.send(&Frame::new(&frame(1, 60), Offload::default())), Err(SendError::Down));
    for name in ["one", "two"] {
        let peer = UnixDatagram::bind(path(name)).unwrap();
        peer.send_to(&frame(1, 60), path("ours")).unwrap();
        assert_eq!(received(&mut port), [frame(1, 60)]);
        port.send(&Frame::new(&frame(2, 60), Offload::default())).unwrap();
        assert_eq!(peer.recv(&mut [0; 100]).unwrap(), 60);
    }
}

#[test]
fn udp_reaches_its_peer_and_nobody_else() {
    let socket = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (peer, stranger, spare) = (socket(), socket(), socket());
    let local = spare.local_addr().unwrap();
    drop(spare);
    let mut port = UdpPort::open(local, peer.local_addr().unwrap()).unwrap();
    stranger.send_to(&frame(9, 60), local).unwrap();
    peer.send_to(&[0; 13], local).unwrap();
    peer.send_to(&frame(1, 1514), local).unwrap();
    let lent = wait(&mut port);
    assert_eq!(lent, Lent { frames: 1, malformed: 1 });
    assert_eq!(port.frame(0).len(), 1514);
    port.release();
    port.send(&Frame::new(&frame(2, 9000), Offload::default())).unwrap();
    assert_eq!(peer.recv(&mut [0; 9001]).unwrap(), 9000);
    assert_eq!(port.link(), Link::Up);
    drop(peer);
    let _ = port.send(&Frame::new(&frame(3, 60), Offload::default()));
    wait(&mut port);
    assert!(!port.link().is_up(), "the peer's host said that nobody is there");
    let Err(taken) = UdpPort::open(local, local) else { panic!("one port for two") };
    assert!(taken.to_string().contains("cannot talk UDP"), "{taken}");
}
