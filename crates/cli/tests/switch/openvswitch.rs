//! Open vSwitch as a peer: both switches get the same frames, and must give the same bytes to the same ports.
//!
//! Open vSwitch runs its user space datapath over Unix sockets instead of network devices (`--enable-dummy`, what its own
//! tests use), so nothing here needs a privilege. It switches as `normal`, and the MAC addresses are made known to it.
//! Where the laws differ on purpose, [`Difference`] says it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weft_testkit::{ethernet, mac, skipped, udp4};
use weft_types::MacAddr;

use crate::bed::{Bed, PATIENCE, eventually};

/// A port: its name, its MAC address' last octet, its VLANs for Weft and for Open vSwitch, and the segments that it carries
/// (0: no VLAN), of which the first is that of frames without a tag (or none is: [`NO_NATIVE`]).
type Port = (&'static str, u8, &'static str, &'static str, &'static [u16]);

/// In the place of a segment: frames without a tag are in none.
const NO_NATIVE: u16 = u16::MAX;

const PORTS: [Port; 9] = [
    ("a", 1, "vlan = 10", "tag=10 vlan_mode=access", &[10]),
    ("b", 2, "vlan = 10", "tag=10 vlan_mode=access", &[10]),
    ("c", 3, "vlan = 20", "tag=20 vlan_mode=access", &[20]),
    ("d", 4, "", "tag=0 vlan_mode=access", &[0]),
    ("e", 5, "", "tag=0 vlan_mode=access", &[0]),
    ("bare", 6, "trunk = [10, 20]", "trunks=10,20 vlan_mode=trunk", &[NO_NATIVE, 10, 20]),
    ("native", 7, "trunk = [10, 20, 30]\nnative = 10", "tag=10 trunks=20,30 vlan_mode=native-untagged", &[10, 20, 30]),
    (
        "mixed",
        8,
        "trunk = [20, 30]\nnative = 'untagged'",
        "tag=0 trunks=0,20,30 vlan_mode=native-untagged",
        &[0, 20, 30],
    ),
    // The same MAC address in another VLAN is another host.
    ("twin", 1, "vlan = 20", "tag=20 vlan_mode=access", &[20]),
];

/// Rules of Weft, and the flows that say the same to Open vSwitch. Hosts are named by address, because a flow knows no port
/// by which a frame leaves.
const RULES: [(&str, &str); 3] = [
    ("deny 10.0.0.1 -> 10.0.0.2 udp/53", "udp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_dst=53"),
    ("deny any -> 10.0.0.7 udp/100-103", "udp,nw_dst=10.0.0.7,tp_dst=100/0xfffc"),
    ("deny 10.0.0.8 -> any udp", "udp,nw_src=10.0.0.8"),
];

/// Where Weft's laws differ from Open vSwitch's `normal` action on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// Open vSwitch floods what is for nobody known; Weft drops it, as there is no uplink (law 3).
    UnknownUnicast,
    /// Open vSwitch takes the outer of two tags off and lets the inner one out; Weft does not let the frame go there, so
    /// that nobody hops into another VLAN (law 4).
    InnerTagOut,
    /// Open vSwitch takes a tag that says only a priority off also where another tag follows; Weft drops such a frame,
    /// because nobody can say in which VLAN it would be (law 4).
    PriorityOverTag,
    /// Open vSwitch forgets the drop eligible indicator of most tags that it writes; in Weft it stays as long as there is a
    /// tag (law 4).
    DropEligibility,
}

/// What came out of a frame: the bytes, by port.
type Outputs = BTreeMap<usize, Vec<u8>>;

/// What came out, by the frame's number.
type Heard = BTreeMap<u32, Outputs>;

/// A switch whose ports are stream sockets, with frames behind their lengths.
struct Peer {
    name: &'static str,
    length_bytes: usize,
    ports: Vec<(UnixStream, Vec<u8>)>,
    heard: Heard,
}

impl Peer {
    fn connect(name: &'static str, length_bytes: usize, folder: &Path) -> Self {
        let connect = |(port, ..): &Port| {
            let socket = folder.join(format!("{port}.sock"));
            let mut stream = None;
            eventually(name, || {
                stream = UnixStream::connect(&socket).ok();
                stream.is_some()
            });
            (stream.unwrap(), Vec::new())
        };
        Self { name, length_bytes, ports: PORTS.iter().map(connect).collect(), heard: Heard::new() }
    }

    fn send(&mut self, port: usize, frame: &[u8]) {
        let length = (frame.len() as u32).to_be_bytes();
        let stream = &mut self.ports[port].0;
        stream.set_nonblocking(false).unwrap();
        stream.write_all(&[&length[4 - self.length_bytes..], frame].concat()).unwrap();
    }

    /// Takes in what came out by now.
    fn take_in(&mut self) {
        for (port, (stream, pending)) in self.ports.iter_mut().enumerate() {
            stream.set_nonblocking(true).unwrap();
            let mut chunk = [0; 65_536];
            loop {
                match stream.read(&mut chunk) {
                    Ok(0) => panic!("{} closed port {}", self.name, PORTS[port].0),
                    Ok(count) => pending.extend_from_slice(&chunk[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{}: {error}", self.name),
                }
            }
            while let Some((length, rest)) = pending.split_at_checked(self.length_bytes) {
                let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                let Some(frame) = rest.get(..length) else { break };
                let number = u32::from_be_bytes(frame[length - 4..].try_into().unwrap());
                let before = self.heard.entry(number).or_default().insert(port, frame.to_vec());
                assert!(before.is_none(), "{}: frame {number} came twice at port {}", self.name, PORTS[port].0);
                pending.drain(..self.length_bytes + length);
            }
        }
    }

    /// Waits until a frame is heard by these ports.
    fn wait_for(&mut self, number: u32, hearers: &BTreeSet<usize>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.take_in();
            let heard: BTreeSet<usize> =
                self.heard.get(&number).into_iter().flat_map(BTreeMap::keys).copied().collect();
            if heard.is_superset(hearers) {
                return;
            }
            let name = self.name;
            assert!(Instant::now() < deadline, "{name}: the broadcast {number} is for {hearers:?}, not only {heard:?}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// An Open vSwitch of our own: its database and its switch, which end with it.
struct OpenVSwitch {
    folder: TempDir,
    processes: Vec<Child>,
}

impl OpenVSwitch {
    /// Starts it; `None` where it is not installed.
    fn start() -> Option<Self> {
        let mut ovs = Self { folder: tempfile::tempdir().unwrap(), processes: Vec::new() };
        let programs = ["ovsdb-tool", "ovsdb-server", "ovs-vsctl", "ovs-vswitchd", "ovs-appctl", "ovs-ofctl"];
        if !programs.iter().all(|program| ovs.runs(program, "--version")) {
            return None;
        }
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        assert!(ovs.runs("ovsdb-tool", &format!("create {} {schema}", ovs.path("conf.db"))));
        let database = format!("punix:{}", ovs.path("db.sock"));
        ovs.spawn("ovsdb-server", &[&ovs.path("conf.db"), "--remote", &database]);
        eventually("the database answers", || ovs.vsctl("--no-wait init"));
        let control = ovs.path("ctl.sock");
        let database = format!("unix:{}", ovs.path("db.sock"));
        let args = [&database, "--enable-dummy", "--disable-system", "--unixctl", &control];
        ovs.spawn("ovs-vswitchd", &args);
        let mut setup = "add-br br0 -- set bridge br0 datapath_type=dummy fail-mode=standalone".to_owned();
        for (name, _, _, vlans, _) in PORTS {
            let socket = ovs.path(&format!("{name}.sock"));
            setup += &format!(" -- add-port br0 {name} -- set port {name} {vlans}");
            setup += &format!(" -- set interface {name} type=dummy options:pstream=punix:{socket}");
        }
        assert!(ovs.vsctl(&setup));
        for (name, number, _, _, segments) in PORTS {
            for segment in segments.iter().filter(|segment| **segment != NO_NATIVE) {
                let known = format!("-t {control} fdb/add br0 {name} {segment} {}", mac(number));
                assert!(ovs.runs("ovs-appctl", &known), "{known}");
            }
        }
        for (_, flow) in RULES {
            let flow = format!("add-flow {} priority=100,{flow},actions=drop", ovs.path("br0.mgmt"));
            assert!(ovs.runs("ovs-ofctl", &flow), "{flow}");
        }
        Some(ovs)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null()).stderr(Stdio::null());
        for place in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(place, self.folder.path());
        }
        command
    }

    fn spawn(&mut self, program: &str, args: &[&str]) {
        let child = self.command(program).args(args).spawn().unwrap();
        self.processes.push(child);
    }

    fn runs(&self, program: &str, args: &str) -> bool {
        let mut command = self.command(program);
        command.args(args.split(' ')).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    fn vsctl(&self, args: &str) -> bool {
        self.runs("ovs-vsctl", &format!("--timeout=10 --db=unix:{} {args}", self.path("db.sock")))
    }
}

impl Drop for OpenVSwitch {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Weft's file with the same ports.
fn file() -> String {
    let rules: Vec<_> = RULES.iter().map(|(rule, _)| format!("'{rule}'")).collect();
    let port = |(name, number, vlans, ..): &Port| {
        format!("[port.{name}]\nstream = '{name}.sock'\nmac = '{}'\n{vlans}\n", mac(*number))
    };
    let ports: String = PORTS.iter().map(port).collect();
    format!("[switch]\nname = 'lab'\nrules = [{}]\n{ports}", rules.join(", "))
}

/// Xorshift64*: the same frames in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A frame that a port may send by law 5, whatever else it is: to somebody or all or nobody, an IPv4 datagram or not,
    /// with up to two tags. Its last bytes are its number.
    fn frame(&mut self, ingress: usize, number: u32) -> Vec<u8> {
        let own = PORTS[ingress].4;
        let near: Vec<_> =
            (0..PORTS.len()).filter(|port| PORTS[*port].4.iter().any(|vlan| own.contains(vlan))).collect();
        let to = if self.below(4) == 0 { self.below(PORTS.len()) } else { self.of(&near) };
        let dst = match self.below(10) {
            0 => MacAddr::BROADCAST,
            1 => MacAddr::new([0x01, 0x00, 0x5e, 0, 0, 9]),
            2 => MacAddr::new([0x33, 0x33, 0, 0, 0, 1]),
            3 => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, self.below(16) as u8]),
            4 => mac(200 + self.below(8) as u8),
            _ => mac(PORTS[to].1),
        };
        // Never shorter than Ethernet allows, so that neither switch pads.
        let mut payload = vec![0; self.of(&[60, 60, 200, 1400])];
        payload.extend_from_slice(&number.to_be_bytes());
        let src = mac(PORTS[ingress].1);
        let mut frame = if self.below(3) == 0 {
            ethernet(dst, src, 0x88b5, &payload)
        } else {
            let host = |port: usize| Ipv4Addr::new(10, 0, 0, port as u8 + 1);
            let target = if dst.is_group() { Ipv4Addr::BROADCAST } else { host(to) };
            let from = SocketAddrV4::new(host(ingress), 1024 + self.below(8) as u16);
            udp4(dst, src, from, SocketAddrV4::new(target, self.of(&[53, 101, 104, 5000])), &payload)
        };
        let mut tag = |frame: &mut Vec<u8>, kinds: &[u16]| {
            let control = self.below(16) << 12 | self.of(&[0, 10, 20, 20, 30, 40, 4095]);
            let bytes = [self.of(kinds).to_be_bytes(), (control as u16).to_be_bytes()].concat();
            frame.splice(12..12, bytes);
        };
        // Behind an access port few know about tags.
        match number % if own.len() == 1 { 24 } else { 8 } {
            3..7 => tag(&mut frame, &[0x8100]),
            7 => {
                tag(&mut frame, &[0x8100]);
                tag(&mut frame, &[0x8100, 0x88a8]);
            }
            _ => {}
        }
        frame
    }
}

/// A frame's tags, outermost first: VLANs.
fn tags(frame: &[u8]) -> Vec<u16> {
    let words = frame[12..].chunks(4).take_while(|word| matches!(word[..2], [0x81, 0x00] | [0x88, 0xa8]));
    words.map(|word| u16::from_be_bytes([word[2], word[3]]) & 0xfff).collect()
}

/// What Weft has to make of a frame, told by what Open vSwitch made of it; and in what they differ.
fn lawful(ingress: usize, frame: &[u8], mut heard: Outputs) -> (Outputs, BTreeSet<Difference>) {
    let mut differences = BTreeSet::new();
    let tags_before = tags(frame);
    let drop_eligible = if tags_before.is_empty() { 0 } else { frame[14] & 0x10 };
    for left in heard.values_mut().filter(|left| !tags(left).is_empty() && left[14] & 0x10 != drop_eligible) {
        left[14] |= drop_eligible;
        differences.insert(Difference::DropEligibility);
    }
    let segment = segment(ingress, frame);
    let is_known = PORTS.iter().any(|port| mac(port.1).octets() == frame[..6] && port.4.contains(&segment));
    let before = heard.len();
    let stays_inside = |left: &Vec<u8>| tags_before.len() < 2 || tags(left).len() == 2;
    let difference = if frame[0] & 1 == 0 && !is_known {
        heard.clear();
        Difference::UnknownUnicast
    } else if let [0, _] = tags_before[..] {
        heard.clear();
        Difference::PriorityOverTag
    } else {
        heard.retain(|_, left| stays_inside(left));
        Difference::InnerTagOut
    };
    if heard.len() < before {
        differences.insert(difference);
    }
    (heard, differences)
}

/// The segment in which a frame is, by the port where it comes in.
fn segment(ingress: usize, frame: &[u8]) -> u16 {
    tags(frame).first().copied().filter(|vlan| *vlan != 0).unwrap_or(PORTS[ingress].4[0])
}

#[test]
fn both_give_the_same_bytes_to_the_same_ports() {
    let Some(ovs) = OpenVSwitch::start() else {
        return skipped("both_give_the_same_bytes_to_the_same_ports", "Open vSwitch is not installed");
    };
    let bed = Bed::run(&file());
    let mut peers = [Peer::connect("weft", 4, &bed.path("")), Peer::connect("openvswitch", 2, ovs.folder.path())];
    PORTS.iter().for_each(|(name, ..)| bed.wait_until_up(name));

    let mut random = Random(0x5eed);
    let mut sent = BTreeMap::new();
    for _ in 0..300 {
        let ingress = random.below(PORTS.len());
        let first = sent.len() as u32;
        for _ in 0..12 {
            let number = sent.len() as u32;
            sent.insert(number, (ingress, random.frame(ingress, number)));
        }
        let mut markers = Vec::new();
        // At last a broadcast in each of the port's segments: who hears it has heard what came before.
        for vlan in PORTS[ingress].4.iter().filter(|vlan| **vlan != NO_NATIVE) {
            let number = sent.len() as u32;
            let hearers = (0..PORTS.len()).filter(|port| *port != ingress && PORTS[*port].4.contains(vlan));
            markers.push((number, hearers.collect()));
            sent.insert(number, (ingress, marker(ingress, *vlan, number)));
        }
        for peer in &mut peers {
            sent.range(first..).for_each(|(_, (ingress, frame))| peer.send(*ingress, frame));
            markers.iter().for_each(|(number, hearers)| peer.wait_for(*number, hearers));
        }
    }
    std::thread::sleep(Duration::from_millis(200)); // for what should not come
    let [weft, open_vswitch] = peers.map(|mut peer| {
        peer.take_in();
        peer.heard
    });

    let mut differences = BTreeMap::new();
    let mut passed = 0;
    for (number, (ingress, frame)) in &sent {
        let [weft, open_vswitch] = [&weft, &open_vswitch].map(|heard| heard.get(number).cloned().unwrap_or_default());
        let (expected, found) = lawful(*ingress, frame, open_vswitch);
        assert!(weft == expected, "{}", told(*number, *ingress, frame, &weft, &expected));
        passed += weft.len();
        found.into_iter().for_each(|difference| *differences.entry(difference).or_insert(0) += 1);
    }
    eprintln!("{} frames, {passed} came out alike; {differences:?}", sent.len());
    assert!(passed > sent.len(), "most frames get somewhere");
    assert_eq!(differences.len(), 4, "each difference was met: {differences:?}");
    let drops = bed.port("a")["drops"].to_string() + &bed.port("mixed")["drops"].to_string();
    assert!(drops.contains("acl-denied"), "{drops}");
}

/// A broadcast in a segment that a port carries.
fn marker(ingress: usize, segment: u16, number: u32) -> Vec<u8> {
    let payload = [&[0; 60][..], &number.to_be_bytes()].concat();
    let mut frame = ethernet(MacAddr::BROADCAST, mac(PORTS[ingress].1), 0x88b5, &payload);
    if segment != PORTS[ingress].4[0] {
        let tag = [[0x81, 0x00], segment.to_be_bytes()].concat();
        frame.splice(12..12, tag);
    }
    frame
}

/// What is wrong, in words.
fn told(number: u32, ingress: usize, frame: &[u8], weft: &Outputs, expected: &Outputs) -> String {
    let heads = |heard: &Outputs| -> Vec<_> {
        heard.iter().map(|(port, bytes)| format!("{} {:02x?}", PORTS[*port].0, &bytes[..22])).collect()
    };
    let (name, head) = (PORTS[ingress].0, &frame[..22]);
    format!("frame {number} from {name}: {head:02x?}\n  weft {:#?}\n  expected {:#?}", heads(weft), heads(expected))
}
