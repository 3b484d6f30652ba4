//! pNICs by AF_XDP: a cable between an interface of ours and one of the kernel's. Programs of the kernel are root's, and
//! nobody's in a user namespace.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_port::{Egress, Frame, PacketPort, Port, PortError, SendError, XdpPort, open_nic};
use weft_testkit::{Guest, ethernet, in_netns_of_root, mac, skipped};
use weft_types::NicDriver;
use weft_wire::{Csum, Offload};

/// Has a veth interface keep VLAN tags where they are in the frame, both ways, as `ethtool -K NAME rxvlan off txvlan off`.
const KEEP_TAGS: &str = "
import array, fcntl, socket, struct, sys
for name in sys.argv[1:]:
    value = array.array('I', [0x26, 0])  # ETHTOOL_SFLAGS
    request = struct.pack('16sP16x', name.encode(), value.buffer_info()[0])
    fcntl.ioctl(socket.socket(), 0x8946, request)
";

/// Tells the test program to hold an interface until it is killed.
const HOLD: &str = "WEFT_TEST_HOLD_XDP";

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// A cable between the interfaces `near` and `far`, on which the kernel says nothing unasked.
fn cable() {
    for key in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{key}/disable_ipv6"), "1");
    }
    ip("link add near type veth peer name far");
    ip("link set near up");
    ip("link set far up");
}

/// Opens `near` by AF_XDP; `None` where this kernel does not let even root do that.
fn open(test: &str) -> Option<XdpPort> {
    run("python3", &["-c", KEEP_TAGS, "near", "far"]);
    match XdpPort::open("near") {
        Ok(port) => Some(port),
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            skipped(test, &format!("{error}: {source}"));
            None
        }
    }
}

fn sleep_until_something_comes(port: &mut dyn Port) {
    if port.sleep() {
        let mut fds = [PollFd::from_borrowed_fd(port.fd(), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 }));
        port.wake();
    }
}

/// The next frames.
fn received(port: &mut dyn Port) -> Vec<(Vec<u8>, Offload)> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let lent = port.recv();
        assert_eq!(lent.malformed, 0);
        let frames = (0..lent.frames).map(|index| {
            let (frame, mut bytes) = (port.frame(index), Vec::new());
            frame.append_to(&mut bytes);
            (bytes, frame.offload())
        });
        let frames: Vec<_> = frames.collect();
        port.release();
        if !frames.is_empty() || Instant::now() > deadline {
            return frames;
        }
        sleep_until_something_comes(port);
    }
}

fn wait_for(port: &mut dyn Port, up: bool) {
    let start = Instant::now();
    while port.link().is_up() != up {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", port.link());
        port.recv();
        port.release();
        sleep_until_something_comes(port);
    }
}

#[test]
fn frames_cross_as_they_are() {
    in_netns_of_root("frames_cross_as_they_are", || {
        cable();
        let Some(mut near) = open("frames_cross_as_they_are") else { return };
        let mut far = PacketPort::open("far").unwrap();
        assert_eq!(near.driver(), "xdp");
        wait_for(&mut near, true);
        wait_for(&mut far, true);
        let plain = ethernet(mac(2), mac(1), 0x88b5, b"for somebody behind the cable, and long enough");
        let tagged = |kind: [u8; 2]| [&plain[..12], &kind[..], &[0xa0, 20], &plain[12..]].concat();
        let double = [&plain[..12], &[0x81, 0, 0, 30], &tagged([0x81, 0])[12..]].concat();
        let longest = ethernet(mac(2), mac(1), 0x88b5, &[7; 1500]);
        for frame in [&plain, &tagged([0x81, 0]), &tagged([0x88, 0xa8]), &double, &longest] {
            near.send(&Frame::new(frame, Offload::default())).unwrap();
            near.flush();
            assert_eq!(received(&mut far), [(frame.clone(), Offload::default())]);
            far.send(&Frame::new(frame, Offload::default())).unwrap();
            assert_eq!(received(&mut near), [(frame.clone(), Offload::default())]);
        }
        let long = ethernet(mac(2), mac(1), 0x88b5, &[0; 1600]);
        assert_eq!(near.send(&Frame::new(&long, Offload::default())), Err(SendError::TooLong));

        // Many more than there is room for at once: none is lost silently, and the rings go round.
        let mut count = 0;
        for round in 0..5_000u32 {
            let frame = ethernet(mac(2), mac(1), 0x88b5, &[&round.to_be_bytes()[..], &[0; 60]].concat());
            near.send(&Frame::new(&frame, Offload::default())).unwrap();
            if round % 32 == 31 || round == 4_999 {
                near.flush();
                while count <= round {
                    let came = received(&mut far);
                    assert!(!came.is_empty(), "{count} of {round}");
                    for (bytes, _) in came {
                        assert_eq!(bytes[14..18], count.to_be_bytes());
                        count += 1;
                    }
                }
            }
        }
        ip("link set far down");
        wait_for(&mut near, false);
        assert_eq!(near.send(&Frame::new(&plain, Offload::default())), Err(SendError::Down));
        ip("link set far up");
        wait_for(&mut near, true);
    });
}

#[test]
fn the_kernel_leaves_checksums_to_others() {
    in_netns_of_root("the_kernel_leaves_checksums_to_others", || {
        cable();
        let Some(mut near) = open("the_kernel_leaves_checksums_to_others") else { return };
        wait_for(&mut near, true);
        ip("addr add 10.0.0.2/24 dev far");
        ip(&format!("neigh add 10.0.0.1 lladdr {} dev far", mac(1)));
        let socket = UdpSocket::bind("10.0.0.2:0").unwrap();
        socket.send_to(b"hello", "10.0.0.1:9").unwrap();
        let (frame, offload) = received(&mut near).remove(0);
        assert_eq!((frame[23], offload.csum), (17, Csum::Partial { start: 34, offset: 6 }));
    });
}

/// A stack that is not the kernel's talks TCP with the kernel, which checks every sum.
#[test]
fn tcp_with_the_kernel() {
    in_netns_of_root("tcp_with_the_kernel", || {
        cable();
        let Some(mut near) = open("tcp_with_the_kernel") else { return };
        wait_for(&mut near, true);
        // A new address forgets the neighbours, so they come after it.
        ip(&format!("link set far address {}", mac(2)));
        ip("addr add 10.0.0.2/24 dev far");
        ip(&format!("neigh add 10.0.0.1 lladdr {} dev far", mac(1)));
        const BYTES: usize = 2 << 20;
        let listener = TcpListener::bind("10.0.0.2:5000").unwrap();
        let kernel = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = vec![0; BYTES];
            stream.read_exact(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let mut stack = Guest::new(mac(1), Ipv4Addr::new(10, 0, 0, 1), (mac(2), Ipv4Addr::new(10, 0, 0, 2)), 1500);
        let socket = stack.connect(4000, SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 5000), 128 << 10);
        let (began, mut egress) = (Instant::now(), Egress::default());
        let numbers: Vec<u8> = (0..BYTES).map(|index| (index * 7 + index / 251) as u8).collect();
        let (mut sent, mut echoed) = (0, Vec::new());
        while echoed.len() < BYTES {
            assert!(began.elapsed() < Duration::from_secs(60), "{sent} sent, {} echoed", echoed.len());
            let lent = near.recv();
            for index in 0..lent.frames {
                let (frame, mut bytes) = (near.frame(index), Vec::new());
                frame.append_to(&mut bytes);
                if bytes[12..14] == [8, 0] {
                    stack.receive(&bytes, frame.offload());
                }
            }
            near.release();
            let now = weft_types::Instant::from_nanos(began.elapsed().as_nanos() as u64);
            stack.poll(now);
            let tcp = stack.tcp(socket);
            if tcp.can_send() {
                sent += tcp.send_slice(&numbers[sent..]).unwrap();
            }
            if tcp.can_recv() {
                tcp.recv(|bytes| {
                    echoed.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
            }
            stack.poll(now);
            while let Some(frame) = stack.transmit() {
                let _ = egress.send(&mut near, &Frame::new(&frame, Offload::default()));
            }
            near.flush();
        }
        assert!(echoed == numbers);
        kernel.join().unwrap();
    });
}

#[test]
fn what_cannot_be_used_is_said_and_not_used_unasked() {
    in_netns_of_root("what_cannot_be_used_is_said_and_not_used_unasked", || {
        cable();
        let why = || match XdpPort::open("near") {
            Ok(_) => "nothing".to_owned(),
            Err(error) => std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default(),
        };
        let tags = "it takes VLAN tags off, which AF_XDP does not tell: `ethtool -K near rxvlan off` keeps them";
        assert_eq!(why(), tags);
        ip("link set near mtu 9000");
        assert_eq!(why(), "its MTU is 9000, and AF_XDP takes 3822 at most");
        ip("link set near mtu 1500");
        let Some(near) = open("what_cannot_be_used_is_said_and_not_used_unasked") else { return };
        assert!(!near.is_zero_copy(), "a cable of the kernel copies");
        assert!(matches!(XdpPort::open("near"), Err(PortError::NicInUse { .. })));
        drop(near);
        assert_eq!(open_nic("near", NicDriver::Auto).unwrap().driver(), "packet", "where it does not pay");
        assert_eq!(open_nic("near", NicDriver::Xdp).unwrap().driver(), "xdp");
        assert!(matches!(XdpPort::open("absent"), Err(PortError::Nic { action: "find", .. })));
    });
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn holder() {
    if std::env::var_os(HOLD).is_some() {
        let _port = XdpPort::open("near").unwrap();
        println!("open");
        std::thread::sleep(Duration::from_secs(600));
    }
}

#[test]
fn nothing_stays_of_a_process_that_was_killed() {
    in_netns_of_root("nothing_stays_of_a_process_that_was_killed", || {
        cable();
        let Some(near) = open("nothing_stays_of_a_process_that_was_killed") else { return };
        let has_program = || {
            let output = Command::new("ip").args(["link", "show", "near"]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains("xdp")
        };
        assert!(has_program());
        drop(near);
        let is_clean = || {
            let start = Instant::now();
            while has_program() && start.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(10));
            }
            !has_program()
        };
        assert!(is_clean());
        for _ in 0..5 {
            let mut holder = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "holder", "--nocapture", "--test-threads=1"])
                .env(HOLD, "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = BufReader::new(holder.stdout.take().unwrap()).lines();
            // Behind the name of the test, which is said first.
            while !said.next().expect("it holds the interface").unwrap().ends_with("open") {}
            assert!(has_program());
            holder.kill().unwrap();
            holder.wait().unwrap();
            // The next one may come at once, when the kernel has not let go of all yet.
            drop(XdpPort::open("near").unwrap());
            assert!(is_clean(), "the kernel takes its program off");
        }
    });
}
