//! What passes, what is dropped, and who gets copies: captures, mirrors and explanations.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use expect_test::expect;
use rustix::process::{Pid, Signal, kill_process};
use weft_testkit::{FakeVm, ethernet, mac, udp4};
use weft_wire::capture_file;

use crate::bed::{Bed, PATIENCE, eventually};

const LAB: &str = "
[switch]
name = 'lab'
rules = ['dns: deny a -> b udp/53']

[port.a]
vhost = 'a.sock'
mac = '02:00:00:00:00:01'
addresses = ['10.0.0.1']

[port.b]
vhost = 'b.sock'
mac = '02:00:00:00:00:02'
addresses = ['10.0.0.2']
";

fn vm(bed: &Bed, name: &str) -> FakeVm {
    let vm = FakeVm::boot(&bed.path(&format!("{name}.sock"))).unwrap();
    bed.wait_until_up(name);
    vm
}

/// A datagram from `a` to this port of `b`.
fn datagram(port: u16, bytes: &[u8]) -> Vec<u8> {
    udp4(mac(2), mac(1), "10.0.0.1:5000".parse().unwrap(), format!("10.0.0.2:{port}").parse().unwrap(), bytes)
}

/// A capture that runs; what it writes has begun.
fn capture(bed: &Bed, args: &[&str]) -> (Child, ChildStdout, Vec<u8>) {
    let args = [&["switch", "capture", "lab.toml"], args].concat();
    let mut child = bed.weft(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // The section's header is there once frames are copied.
    let mut begun = vec![0; 28];
    stdout.read_exact(&mut begun).unwrap();
    (child, stdout, begun)
}

/// Ends a capture by a signal; what it says at last.
fn end(mut child: Child, signal: Signal) -> String {
    kill_process(Pid::from_child(&child), signal).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    format!("{:?} {said}", child.wait().unwrap().code())
}

fn frames(file: &[u8]) -> Vec<Vec<u8>> {
    capture_file::frames(file).unwrap().map(|frame| frame.unwrap().bytes.to_vec()).collect()
}

#[test]
fn a_live_reader_sees_each_frame_at_once() {
    let bed = Bed::run(LAB);
    let [mut a, mut b] = ["a", "b"].map(|name| vm(&bed, name));
    let (child, mut stdout, mut file) = capture(&bed, &["a", "--filter", "any -> 10.0.0.2 udp"]);
    let (tell, told) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut chunk) {
            file.extend_from_slice(&chunk[..count]);
            let _ = tell.send((Instant::now(), frames(&file).len()));
        }
        file
    });
    let mut slowest = Duration::ZERO;
    for number in 1..=20 {
        let sent = Instant::now();
        a.send(&datagram(8000, &[number; 50]));
        assert!(b.recv(PATIENCE).is_some());
        while let (seen, frames) = told.recv_timeout(PATIENCE).unwrap()
            && frames <= usize::from(number)
        {
            if frames == usize::from(number) {
                slowest = slowest.max(seen - sent);
                break;
            }
        }
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    a.send(&ethernet(mac(2), mac(1), 0x88b5, b"not this one"));
    a.send(&datagram(53, b"which is denied, and seen"));
    assert!(b.recv(PATIENCE).is_some());
    eventually("the denied one was seen", || bed.port("a")["drops"][0]["frames"] == 1);
    assert_eq!(end(child, Signal::INT), "Some(0) 21 frames captured, 0 lost\n");
    let file = reader.join().unwrap();
    let seen = frames(&file);
    assert_eq!((seen.len(), &seen[20]), (21, &datagram(53, b"which is denied, and seen")));
    assert_eq!(file[file.len() - 40..][..4], [5, 0, 0, 0], "the last word is how many were lost");
}

#[test]
fn who_does_not_read_loses_copies_and_is_told() {
    let bed = Bed::run(LAB);
    let [mut a, mut b] = ["a", "b"].map(|name| vm(&bed, name));
    let (child, mut stdout, _) = capture(&bed, &[]);
    let large = ethernet(mac(2), mac(1), 0x88b5, &[0x5a; 60_000]);
    for _ in 0..600 {
        a.send(&large);
        assert_eq!(b.recv(PATIENCE).unwrap().frame.len(), large.len());
    }
    let shown = bed.said(&["switch", "show", "lab.toml"]);
    assert!(shown.contains("capture-0") && shown.contains("its reader"), "{shown}");
    // It reads at last, so that what is under way and the last word arrive.
    let reader = std::thread::spawn(move || {
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).unwrap();
        rest.len()
    });
    let said = end(child, Signal::TERM);
    let counts: Vec<u64> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(said.starts_with("Some(0)") && counts[0] + counts[1] == 600 && counts[1] > 0, "{said}");
    assert!(reader.join().unwrap() as u64 > counts[0] * 60_000);
}

#[test]
fn nothing_is_left_of_a_reader_that_leaves() {
    let bed = Bed::run(LAB);
    let mirrors = || bed.said(&["switch", "show", "lab.toml"]).contains("capture");
    let (mut child, _stdout, _) = capture(&bed, &[]);
    assert!(mirrors());
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the killed one is gone", || !mirrors());
    let (mut child, stdout, _) = capture(&bed, &[]);
    drop(stdout);
    assert!(child.wait().unwrap().success(), "nobody reads, and no frame comes");
    eventually("the one without a reader is gone", || !mirrors());
    let file = bed.path("all.pcapng");
    let mut child = bed.weft(&["switch", "capture", "lab.toml", "-w", "all.pcapng"]).spawn().unwrap();
    eventually("it has begun", || fs::metadata(&file).is_ok_and(|file| file.len() > 0));
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(frames(&fs::read(&file).unwrap()).len(), 0);
    expect![[r#"
        exit 1
        error: there is no port `c`
        hint: `weft port ls` lists all ports
    "#]]
    .assert_eq(&bed.said(&["switch", "capture", "lab.toml", "c"]));
}

#[test]
fn drops_and_frames_are_explained() {
    let bed = Bed::run(LAB);
    let [mut a, mut b] = ["a", "b"].map(|name| vm(&bed, name));
    let said = |args: &[&str]| bed.said(&[&["switch"], args].concat());
    assert_eq!(said(&["drops", "lab.toml"]), "exit 0\nno frame was dropped that is still remembered\n");
    a.send(&datagram(53, b"?"));
    a.send(&ethernet(mac(9), mac(1), 0x88b5, &[0; 46]));
    b.send(&ethernet(mac(1), mac(7), 0x88b5, &[0; 46]));
    eventually("they are dropped", || said(&["drops", "lab.toml"]).lines().count() == 5);
    let drops = said(&["drops", "lab.toml"]);
    let line = |reason: &str| drops.lines().find(|line| line.contains(reason)).unwrap_or_else(|| panic!("{drops}"));
    assert!(line("acl-denied").contains("(rule: dns)") && line("acl-denied").contains("10.0.0.2 port 53"), "{drops}");
    assert!(line("unknown-unicast").contains(" a "), "{drops}");
    assert!(line("forged-mac").contains(" b "), "{drops}");
    assert_eq!(said(&["drops", "lab.toml", "b"]).lines().count(), 3);
    let json: serde_json::Value =
        serde_json::from_slice(&bed.weft(&["switch", "drops", "lab.toml", "--json"]).output().unwrap().stdout).unwrap();
    assert!(json.as_array().unwrap().iter().any(|frame| frame["rule"] == "dns" && frame["reason"] == "acl-denied"));

    // What was, and what would be: a packet in words, a frame in hexadecimal, and one of a file.
    let denied = said(&["why", "lab.toml", "a", "b", "udp/53"]);
    assert!(denied.contains("udp/53 from 10.0.0.1 to 10.0.0.2 comes in by a for 02:00:00:00:00:02 (b):"), "{denied}");
    assert!(denied.contains("`dns` denies it  (LAB/lab.toml:4)"), "{denied}");
    assert!(said(&["why", "lab.toml", "a", "10.0.0.2", "tcp/80"]).contains("it leaves by b"));
    let hex: String = datagram(53, b"?").iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(said(&["why", "lab.toml", "a", "--frame", &hex]).contains("`dns` denies it"));
    let mut file = fs::File::create(bed.path("two.pcap")).unwrap();
    let word = |word: u32| word.to_le_bytes();
    file.write_all(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1].map(word).concat()).unwrap();
    for frame in [datagram(80, b"!"), datagram(53, b"?")] {
        file.write_all(&[0, 0, frame.len() as u32, frame.len() as u32].map(word).concat()).unwrap();
        file.write_all(&frame).unwrap();
    }
    assert!(said(&["why", "lab.toml", "a", "--frame", "two.pcap"]).contains("it leaves by b"));
    assert!(said(&["why", "lab.toml", "a", "--frame", "two.pcap", "--number", "2"]).contains("`dns` denies it"));
    expect![[r#"
        exit 1
        error: nobody.pcap: No such file or directory (os error 2)
        hint: name a file of tcpdump's or Wireshark's, or write the frame in hexadecimal
    "#]]
    .assert_eq(&said(&["why", "lab.toml", "a", "--frame", "nobody.pcap"]));
}

#[test]
fn mirrors_of_a_file_and_their_edits() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(PATIENCE)).unwrap();
    let file = |watch: &str| {
        let to = collector.local_addr().unwrap();
        format!(
            "{LAB}\n[port.ids]\nvhost = 'ids.sock'\n[mirror.watch]\n{watch}to = 'ids'\n[mirror.away]\nto = 'vxlan://{to}/42'\n"
        )
    };
    let mut bed = Bed::run(&file("filter = 'udp'\n"));
    let [mut a, mut b, mut ids] = ["a", "b", "ids"].map(|name| vm(&bed, name));
    let mut pass = |frame: &[u8]| {
        a.send(frame);
        assert_eq!(b.recv(PATIENCE).unwrap().frame, frame);
    };
    let mut packet = [0; 2000];
    let other = ethernet(mac(2), mac(1), 0x88b5, &[1; 46]);
    pass(&other);
    assert_eq!(collector.recv(&mut packet).unwrap(), 8 + other.len());
    pass(&datagram(80, b"seen by both"));
    assert_eq!(ids.recv(PATIENCE).unwrap().frame, datagram(80, b"seen by both"));
    collector.recv(&mut packet).unwrap();
    bed.edit(&file("snap = 20\n"));
    bed.hears("took up");
    pass(&other);
    assert_eq!(ids.recv(PATIENCE).unwrap().frame, other[..20]);
    collector.recv(&mut packet).unwrap();
    let shown = bed.said(&["switch", "show", "lab.toml"]);
    let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&line("watch"))[1..4], ["ids", "2", "0"], "{shown}");
    assert_eq!(words(&line("away"))[2..4], ["3", "0"], "{shown}");
    drop(ids);
    eventually("the listener is gone", || bed.port("ids")["up"] == false);
    pass(&other);
    eventually("its loss is counted", || bed.port("ids")["mirrors"][0]["lost"] == 1);
    assert!(bed.said(&["switch", "show", "lab.toml", "ids"]).contains("2 copies, 1 lost"));
    let metrics = bed.said(&["switch", "metrics", "lab.toml"]);
    assert!(
        metrics.contains("weft_mirror_lost_copies_total{mirror=\"watch\",network=\"lab\",to=\"ids\"} 1"),
        "{metrics}"
    );
    assert!(bed.end(Signal::TERM).success());
}
