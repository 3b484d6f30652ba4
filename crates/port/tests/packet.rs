//! pNICs: a cable between two of them, which a kernel plays.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_port::{Frame, Link, MacvtapPort, PacketPort, Port, PortError, SendError};
use weft_testkit::{arp_request, ethernet, in_netns, in_netns_of_root, mac, skipped, tcp4, udp4};
use weft_types::MacAddr;
use weft_wire::{Csum, Gso, GsoKind, Offload};

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("`ip` runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The kernel's own words (neighbour discovery and such) on no interface.
fn quiet() {
    for key in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{key}/disable_ipv6"), "1");
    }
}

/// A cable between the interfaces `near` and `far`.
fn cable() {
    quiet();
    ip("link add near type veth peer name far");
    ip("link set near up");
    ip("link set far up");
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
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let lent = port.recv();
        assert_eq!(lent.malformed, 0);
        let frames = (0..lent.frames).map(|index| {
            let frame = port.frame(index);
            let mut bytes = Vec::new();
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
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", port.link());
        port.recv();
        port.release();
        sleep_until_something_comes(port);
    }
}

#[test]
fn frames_cross_as_they_are() {
    in_netns("frames_cross_as_they_are", || {
        cable();
        let (mut near, mut far) = (PacketPort::open("near").unwrap(), PacketPort::open("far").unwrap());
        assert_eq!(near.driver(), "packet");
        wait_for(&mut near, true); // the kernel takes its time to say so
        // To an address that is not the interface's: it is promiscuous. Tags are where they were, priority and all.
        let plain = ethernet(mac(2), mac(1), 0x88b5, b"for somebody behind the cable, and long enough");
        let tagged = |kind: [u8; 2]| [&plain[..12], &kind[..], &[0xa0, 20], &plain[12..]].concat();
        let double = [&plain[..12], &[0x81, 0, 0, 30], &tagged([0x81, 0])[12..]].concat();
        for frame in [&plain, &tagged([0x81, 0]), &tagged([0x88, 0xa8]), &double] {
            near.send(&Frame::new(frame, Offload::default())).unwrap();
            assert_eq!(received(&mut far), [(frame.clone(), Offload::default())]);
        }
        let (first, second) =
            (ethernet(mac(1), mac(2), 0x88b5, &[1; 60]), ethernet(mac(1), mac(2), 0x88b5, &[2; 1500]));
        for frame in [&first, &second] {
            far.send(&Frame::new(frame, Offload::default())).unwrap();
        }
        let mut came = received(&mut near);
        while came.len() < 2 {
            came.extend(received(&mut near));
        }
        assert_eq!(came.into_iter().map(|(bytes, _)| bytes).collect::<Vec<_>>(), [first, second]);
        assert_eq!(far.recv().frames, 0, "nobody hears what it sent itself");
    });
}

/// What is left to do on a segment crosses with it, also beside a tag.
#[test]
fn offloads_cross() {
    in_netns("offloads_cross", || {
        cable();
        let (mut near, mut far) = (PacketPort::open("near").unwrap(), PacketPort::open("far").unwrap());
        wait_for(&mut near, true);
        wait_for(&mut far, true);
        let segment = tcp4(mac(2), mac(1), Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), &[7; 20_000]);
        let gso = Some(Gso { kind: GsoKind::Tcp4 { ecn: false }, size: 1400 });
        let offload = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso };
        near.send(&Frame::new(&segment, offload)).unwrap();
        assert_eq!(received(&mut far), [(segment.clone(), offload)]);

        let tagged = [&segment[..12], &[0x81, 0, 0, 20], &segment[12..]].concat();
        let offload = Offload { csum: Csum::Partial { start: 38, offset: 16 }, gso };
        near.send(&Frame::new(&tagged, offload)).unwrap();
        let came = received(&mut far);
        assert_eq!(came, [(tagged, offload)]);

        let long = ethernet(mac(2), mac(1), 0x88b5, &[0; 1600]);
        assert_eq!(near.send(&Frame::new(&long, Offload::default())), Err(SendError::TooLong));
    });
}

#[test]
fn a_cable_is_pulled_and_plugged() {
    in_netns("a_cable_is_pulled_and_plugged", || {
        cable();
        let mut near = PacketPort::open("near").unwrap();
        let why = |port: &PacketPort| match port.link() {
            Link::Down(why) => why.into_owned(),
            Link::Up => "up".to_owned(),
        };
        ip("link set far down");
        wait_for(&mut near, false);
        assert_eq!(why(&near), "nobody is at the other end of the cable");
        ip("link set far up");
        wait_for(&mut near, true);
        ip("link set near down");
        wait_for(&mut near, false);
        assert!(why(&near).starts_with("the interface is down"));
        let frame = ethernet(mac(2), mac(1), 0x88b5, &[0; 46]);
        assert_eq!(near.send(&Frame::new(&frame, Offload::default())), Err(SendError::Down));
        ip("link set near up");
        wait_for(&mut near, true);
        let mut far = PacketPort::open("far").unwrap();
        near.send(&Frame::new(&frame, Offload::default())).unwrap();
        assert_eq!(received(&mut far).len(), 1);
        ip("link del far");
        wait_for(&mut near, false);
        assert_eq!(why(&near), "the interface is gone");
        // One of the same name takes its place, and the port with it.
        for _ in 0..2 {
            cable();
            wait_for(&mut near, true);
            let mut far = PacketPort::open("far").unwrap();
            near.send(&Frame::new(&frame, Offload::default())).unwrap();
            assert_eq!(received(&mut far).len(), 1);
            far.send(&Frame::new(&frame, Offload::default())).unwrap();
            assert_eq!(received(&mut near).len(), 1);
            assert!(PacketPort::open("near").is_err(), "it is claimed again");
            ip("link del far");
            wait_for(&mut near, false);
        }
    });
}

#[test]
fn a_pnic_has_one_switch() {
    in_netns("a_pnic_has_one_switch", || {
        cable();
        let first = PacketPort::open("near").unwrap();
        let error = PacketPort::open("near").err().expect("it is taken");
        assert_eq!(error.to_string(), "another switch has the network interface `near`");
        drop(first);
        PacketPort::open("near").unwrap();
        for nobodys in ["eth77", "no/such"] {
            let error = PacketPort::open(nobodys).err().expect("there is none");
            assert!(
                matches!(error, PortError::Nic { action: "find", .. }) && error.hint().contains("ip link"),
                "{error}"
            );
        }
    });
}

/// The pNIC's own address.
fn hardware_address(name: &str) -> MacAddr {
    let said = Command::new("ip").args(["-br", "link", "show", name]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap(); // near@far UP 02:… <flags>
    said.split_whitespace().find_map(|word| word.parse().ok()).expect("an address")
}

/// The frames that come until there are `count`.
fn received_at_least(port: &mut dyn Port, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while frames.len() < count {
        let more = received(port);
        assert!(!more.is_empty(), "{frames:02x?}");
        frames.extend(more.into_iter().map(|(bytes, _)| bytes));
    }
    frames
}

/// The host is one of the stations behind its own pNIC, and keeps what it does with it.
#[test]
fn the_host_shares_its_pnic() {
    in_netns_of_root("the_host_shares_its_pnic", || {
        cable();
        ip("addr add 10.9.0.1/24 dev near");
        // `far` is in the same namespace: it would answer for `near`.
        std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1").unwrap();
        let mut port = PacketPort::open_shared("near").unwrap();
        let mut far = PacketPort::open("far").unwrap();
        wait_for(&mut port, true);
        let (host, guest) = (hardware_address("near"), mac(7));
        let send = |port: &mut PacketPort, frame: &[u8]| port.send(&Frame::new(frame, Offload::default())).unwrap();

        // What is for all, all hear, and nobody twice: the host answers.
        let question = arp_request(guest, Ipv4Addr::new(10, 9, 0, 7), Ipv4Addr::new(10, 9, 0, 1));
        send(&mut port, &question);
        let answers = received_at_least(&mut port, 1);
        assert_eq!((answers.len(), &answers[0][..12]), (1, &[guest.octets(), host.octets()].concat()[..]));
        // The answer left by the cable too, as all does that the host sends; a switch there knows better.
        assert_eq!(received_at_least(&mut far, 2), [question, answers[0].clone()]);

        // What is for the host, it alone hears; what it sends to a guest, the port does.
        let server = UdpSocket::bind("10.9.0.1:7").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (from, to) = ("10.9.0.7:1007".parse().unwrap(), "10.9.0.1:7".parse().unwrap());
        send(&mut port, &udp4(host, guest, from, to, b"are you there?"));
        let mut said = [0; 64];
        let (count, who) = server.recv_from(&mut said).unwrap();
        assert_eq!((&said[..count], who), (&b"are you there?"[..], SocketAddrV4::into(from)));
        server.send_to(b"I am", who).unwrap();
        let heard = received_at_least(&mut port, 1);
        assert!(heard.iter().all(|frame| frame[..6] == guest.octets()) && heard[0].ends_with(b"I am"), "{heard:02x?}");
        let left = received_at_least(&mut far, 1);
        assert!(left.iter().all(|frame| frame[..6] == guest.octets()), "no word for the host left: {left:02x?}");

        // The host has its own connectivity, of which the port hears nothing that is for the host alone.
        let lan = mac(9);
        send_far(&mut far, &udp4(host, lan, "10.9.0.9:1009".parse().unwrap(), to, b"from the LAN"));
        let (count, _) = server.recv_from(&mut said).unwrap();
        assert_eq!(&said[..count], b"from the LAN");
        send_far(&mut far, &ethernet(guest, lan, 0x88b5, b"for a guest, and long enough to be a frame.."));
        let heard = received_at_least(&mut port, 1);
        assert!(heard.iter().all(|frame| frame[..6] == guest.octets()), "{heard:02x?}");

        // An address that changes is followed.
        ip("link set near address 02:00:00:00:00:aa");
        let start = Instant::now();
        loop {
            sleep_until_something_comes(&mut port);
            port.recv();
            port.release();
            send(&mut port, &udp4(mac(0xaa), guest, from, to, b"still there?"));
            server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            if server.recv_from(&mut said).is_ok() {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(5));
        }
        drop(port);
        let left = Command::new("ip").args(["-br", "link"]).output().unwrap();
        let left = String::from_utf8(left.stdout).unwrap();
        assert!(!left.contains("weft"), "nothing stays behind: {left}");
    });
}

fn send_far(far: &mut PacketPort, frame: &[u8]) {
    far.send(&Frame::new(frame, Offload::default())).unwrap();
}

/// The interfaces that the host has.
fn interfaces() -> String {
    let output = Command::new("ip").args(["-o", "link"]).output().expect("`ip` runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_macvtap_device_takes_a_pnic_over() {
    in_netns_of_root("a_macvtap_device_takes_a_pnic_over", || {
        cable();
        ip("addr add 10.0.0.1/24 dev near");
        assert!(matches!(MacvtapPort::open("near"), Err(PortError::HostsOwn { .. })), "the host needs it");
        ip("addr del 10.0.0.1/24 dev near");
        let mut far = PacketPort::open("far").unwrap();
        wait_for(&mut far, true);
        let before = interfaces();
        let mut near = match MacvtapPort::open("near") {
            Ok(port) => port,
            Err(PortError::Macvtap { source, .. }) => {
                return skipped("a_macvtap_device_takes_a_pnic_over", &format!("no macvtap here: {source}"));
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(near.driver(), "macvtap");
        assert!(matches!(MacvtapPort::open("near"), Err(PortError::NicInUse { .. })));
        assert_eq!(interfaces(), before, "the host has no interface more");
        wait_for(&mut near, true);

        // What comes by the cable is heard, whomever it is for; and what is sent leaves by it, whoever it is from.
        let frame = |text: &[u8]| ethernet(mac(7), mac(8), 0x88b5, text);
        let (inward, outward) = (frame(b"in, and long enough for the cable to bear it"), frame(&[7; 1400]));
        far.send(&Frame::new(&inward, Offload::default())).unwrap();
        assert_eq!(received(&mut near), [(inward, Offload::default())]);
        near.send(&Frame::new(&outward, Offload::default())).unwrap();
        assert_eq!(received(&mut far), [(outward, Offload::default())]);

        // What is left to do on a segment crosses with it.
        let segment = tcp4(mac(2), mac(1), Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), &[7; 20_000]);
        let gso = Some(Gso { kind: GsoKind::Tcp4 { ecn: false }, size: 1400 });
        let offload = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso };
        near.send(&Frame::new(&segment, offload)).unwrap();
        assert_eq!(received(&mut far), [(segment.clone(), offload)]);
        far.send(&Frame::new(&segment, offload)).unwrap();
        assert_eq!(received(&mut near), [(segment, offload)]);

        // A cable that is pulled; an interface that goes, and another one that has its name then.
        ip("link set far down");
        wait_for(&mut near, false);
        ip("link set far up");
        wait_for(&mut near, true);
        drop(far);
        ip("link del near");
        wait_for(&mut near, false);
        cable();
        wait_for(&mut near, true);
        let mut far = PacketPort::open("far").unwrap();
        wait_for(&mut far, true);
        let again = frame(b"again, and long enough for the cable to bear it");
        far.send(&Frame::new(&again, Offload::default())).unwrap();
        assert_eq!(received(&mut near), [(again, Offload::default())]);

        // One that ends leaves its room to the next at once.
        drop(near);
        MacvtapPort::open("near").unwrap();
    });
}
