//! VLANs with real kernels behind the ports: 802.1Q and 802.1ad devices, and VRFs, which this host's kernel may lack. So
//! switch and hosts run on virtual bare metal.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::Signal;
use weft_testkit::{Metal, Netns, cable, ethernet, in_metal, mac, skipped};

use crate::bed::{Bed, PATIENCE, eventually};

/// Two hosts in two VLANs that think to be the same one, two trunks, and a trunk on which every byte can be seen.
const LAB: &str = "
[switch]
name = 'lab'

[port.red]
tap = 'red'
mac = '02:00:00:00:00:01'
vlan = 10

[port.blue]
tap = 'blue'
mac = '02:00:00:00:00:01'
vlan = 20

[port.east]
tap = 'east'
mac = '02:00:00:00:00:09'
trunk = [10, 20, 30]

[port.west]
tap = 'west'
mac = '02:00:00:00:00:08'
trunk = [20, 30]
native = 10

[port.far]
stream = 'far.sock'
mac = '02:00:00:00:00:07'
trunk = [10, 30]
";

/// A kernel in a namespace of its own, at the TAP device of its name.
struct Station {
    name: &'static str,
    netns: Netns,
}

impl Station {
    fn new(name: &'static str, number: u8) -> Self {
        let station = Self { name, netns: Netns::new() };
        let moved = format!("link set {name} netns {}", station.netns.pid());
        assert!(Command::new("ip").args(moved.split(' ')).status().unwrap().success(), "{moved}");
        station.ip(&format!("link set {name} address {}", mac(number)));
        station.ip(&format!("link set {name} up"));
        station
    }

    /// Whether a command ends well there; it does not wait for addresses to be found free.
    fn runs(&self, program: &str, args: &str) -> bool {
        self.netns.command(program).args(args.split(' ')).status().unwrap().success()
    }

    #[track_caller]
    fn ip(&self, args: &str) {
        assert!(self.runs("ip", args), "{}: ip {args}", self.name);
    }

    /// An adapter above another, with an address, in a VRF if one is named.
    #[track_caller]
    fn device(&self, name: &str, above: &str, kind: &str, address: &str, vrf: Option<&str>) {
        self.ip(&format!("link add link {above} name {name} type vlan {kind}"));
        if let Some(vrf) = vrf {
            self.ip(&format!("link set {name} master {vrf}"));
        }
        self.ip(&format!("addr add {address} dev {name}"));
        self.ip(&format!("link set {name} up"));
    }

    fn vrf(&self, name: &str, table: u8) {
        self.ip(&format!("link add {name} type vrf table {table}"));
        self.ip(&format!("link set {name} up"));
    }

    /// Whether an address answers, asked through this device.
    fn pings(&self, device: &str, address: &str) -> bool {
        self.runs("ping", &format!("-q -c1 -W1 -I {device} {address}"))
    }

    #[track_caller]
    fn reaches(&self, device: &str, address: &str) {
        eventually(&format!("{} reaches {address} through {device}", self.name), || self.pings(device, address));
    }
}

/// The trunk on which every byte can be seen: frames behind their lengths.
struct Far(UnixStream);

impl Far {
    fn connect(bed: &Bed) -> Self {
        let stream = UnixStream::connect(bed.path("far.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        bed.wait_until_up("far");
        Self(stream)
    }

    fn send(&mut self, frame: &[u8]) {
        self.0.write_all(&[&(frame.len() as u32).to_be_bytes(), frame].concat()).unwrap();
    }

    fn next(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("a frame comes in time");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut frame).unwrap();
        // This trunk carries VLANs 10 and 30, and nothing else comes out of it.
        let vlan = u16::from_be_bytes([frame[14], frame[15]]) & 0xfff;
        assert!(matches!(frame[12..14], [0x81, 0] | [0x88, 0xa8]) && matches!(vlan, 10 | 30), "{frame:02x?}");
        frame
    }

    /// Waits for an ARP request behind these very tags, for this address.
    fn hears_arp(&mut self, tags: &[u8], address: [u8; 4]) {
        let kind = [tags, &[0x08, 0x06]].concat();
        while !self
            .next()
            .get(12..)
            .is_some_and(|rest| rest.starts_with(&kind) && rest[kind.len()..].get(24..28) == Some(&address))
        {}
    }
}

/// How many frames of a port were dropped for a reason.
fn drops(bed: &Bed, port: &str, reason: &str) -> u64 {
    let port = bed.port(port);
    let drop = port["drops"].as_array().unwrap().iter().find(|drop| drop["reason"] == reason).cloned();
    drop.map_or(0, |drop| drop["frames"].as_u64().unwrap())
}

#[test]
fn kernels_with_vlans_and_vrfs() {
    let metal = Metal::new()
        .modules(&["tun", "8021q", "vrf"])
        .program(env!("CARGO_BIN_EXE_weft"))
        .host_programs(&["ip", "ping", "unshare", "nsenter"]);
    in_metal("vlans::kernels_with_vlans_and_vrfs", metal, || {
        let mut bed = Bed::run(LAB);
        let mut far = Far::connect(&bed);
        let stations = [("red", 1), ("blue", 1), ("east", 9), ("west", 8)].map(|(name, last)| Station::new(name, last));
        let [red, blue, east, west] = &stations;
        red.ip("addr add 10.0.0.1/24 dev red");
        blue.ip("addr add 10.0.0.1/24 dev blue");
        for (vrf, table) in [("vrf10", 10), ("vrf20", 20)] {
            east.vrf(vrf, table);
        }
        east.device("v10", "east", "id 10", "10.0.0.9/24", Some("vrf10"));
        east.device("v20", "east", "id 20", "10.0.0.9/24", Some("vrf20"));
        west.ip("addr add 10.0.0.8/24 dev west");

        same_addresses_in_two_vlans(red, blue, east);
        native_and_allowed(&bed, east, west);
        priorities(red, east, &mut far);
        double_tags(&bed, east, west, &mut far);
        tags_at_an_access_port(&bed, red, blue, &mut far);
        assert!(bed.end(Signal::TERM).success());
    });
}

/// MAC and IP addresses are the same in both VLANs, on both sides, and nobody is confused.
fn same_addresses_in_two_vlans(red: &Station, blue: &Station, east: &Station) {
    red.reaches("red", "10.0.0.9");
    blue.reaches("blue", "10.0.0.9");
    east.reaches("vrf10", "10.0.0.1");
    east.reaches("vrf20", "10.0.0.1");
    // Who answers is the one in the same VLAN: without it, nobody does.
    east.ip("link set v20 down");
    assert!(!blue.pings("blue", "10.0.0.9"));
    red.reaches("red", "10.0.0.9");
    east.ip("link set v20 up");
    red.ip("link set red down");
    assert!(!east.pings("vrf10", "10.0.0.1"));
    east.reaches("vrf20", "10.0.0.1");
    red.ip("link set red up");
}

/// What has no tag is in the trunk's native VLAN; VLANs that a trunk does not carry end at it.
fn native_and_allowed(bed: &Bed, east: &Station, west: &Station) {
    west.reaches("west", "10.0.0.1");
    west.reaches("west", "10.0.0.9");
    east.device("v40", "east", "id 40", "10.4.0.9/24", None);
    west.device("v40", "west", "id 40", "10.4.0.8/24", None);
    assert!(!east.pings("v40", "10.4.0.8"));
    eventually("that is counted", || drops(bed, "east", "vlan-not-allowed") > 0);
}

/// A priority goes with the frame as long as there is a tag, also one that says nothing else.
fn priorities(red: &Station, east: &Station, far: &mut Far) {
    east.device("v30", "east", "id 30 egress-qos-map 0:5", "10.3.0.9/24", None);
    assert!(!east.pings("v30", "10.3.0.77"), "nobody has it");
    far.hears_arp(&[0x81, 0x00, 0xa0, 30], [10, 3, 0, 77]);
    red.device("priority", "red", "id 0 egress-qos-map 0:6", "10.7.0.1/24", None);
    assert!(!red.pings("priority", "10.7.0.77"), "nobody has it");
    far.hears_arp(&[0x81, 0x00, 0xc0, 10], [10, 7, 0, 77]);
}

/// Tags below the outermost cross trunks as they are, and carry nobody into another VLAN.
fn double_tags(bed: &Bed, east: &Station, west: &Station, far: &mut Far) {
    west.device("v30", "west", "id 30", "10.3.0.8/24", None);
    for (station, last) in [(east, 9), (west, 8)] {
        let trunk = station.name;
        station.device("s30", trunk, "protocol 802.1ad id 30", &format!("10.8.0.{last}/24"), None);
        station.device("inner-ad", "s30", "id 20", &format!("10.5.0.{last}/24"), None);
        station.device("inner-q", "v30", "id 20", &format!("10.6.0.{last}/24"), None);
    }
    east.reaches("v30", "10.3.0.8");
    west.reaches("inner-ad", "10.5.0.9");
    west.reaches("inner-q", "10.6.0.9");
    far.hears_arp(&[0x88, 0xa8, 0, 30, 0x81, 0, 0, 20], [10, 5, 0, 9]);
    far.hears_arp(&[0x81, 0, 0, 30, 0x81, 0, 0, 20], [10, 6, 0, 9]);
    // For the access port `red` the outer tag would be taken off, and the inner one be left.
    assert_eq!(drops(bed, "far", "double-tagged"), 0);
    far.send(&ethernet(mac(1), mac(7), 0x8100, &[&[0, 10, 0x81, 0, 0, 20, 0x88, 0xb5][..], &[0; 46]].concat()));
    eventually("it is dropped and counted", || drops(bed, "far", "double-tagged") == 1);
}

/// A host at an access port cannot choose a VLAN: not another one, and not even its own.
fn tags_at_an_access_port(bed: &Bed, red: &Station, blue: &Station, far: &mut Far) {
    let before = drops(bed, "red", "tagged");
    red.device("hop20", "red", "id 20", "10.9.0.1/24", None);
    red.device("hop10", "red", "id 10", "10.9.1.1/24", None);
    blue.ip("addr add 10.9.0.2/24 dev blue");
    assert!(!red.pings("hop20", "10.9.0.2"));
    eventually("that is counted", || drops(bed, "red", "tagged") > before);
    let before = drops(bed, "red", "tagged");
    assert!(!red.pings("hop10", "10.9.1.2"));
    eventually("that is counted", || drops(bed, "red", "tagged") > before);
    // What it sends without a tag still arrives, and nothing of the above has.
    assert!(!red.pings("red", "10.0.0.99"), "nobody has it");
    loop {
        let frame = far.next();
        let about = frame.get(frame.len().saturating_sub(22)..).unwrap_or_default();
        assert!(!frame.windows(3).any(|bytes| bytes == [10, 9, 0] || bytes == [10, 9, 1]), "{about:02x?}");
        if frame.windows(4).any(|bytes| bytes == [10, 0, 0, 99]) {
            break;
        }
    }
}

/// A switch with a pNIC as its uplink, whose cable leads to another machine.
#[test]
fn a_trunk_to_another_machine() {
    let [here, there] = cable();
    let far = Metal::new().modules(&["8021q"]).adapter(mac(2), there).boot(
        "ip link set eth0 up
         ip link add link eth0 name v10 type vlan id 10
         ip addr add 10.0.0.2/24 dev v10
         ip link set v10 up
         echo there: up
         sleep 100000",
    );
    let mut far = match far {
        Ok(far) => far,
        Err(missing) => return skipped("a_trunk_to_another_machine", &missing),
    };
    let lab = tempfile::tempdir().unwrap();
    std::fs::write(lab.path().join("lab.toml"), UPLINK).unwrap();
    let near = Metal::new().modules(&["tun"]).adapter(mac(9), here).host_programs(&[env!("CARGO_BIN_EXE_weft")]);
    let near = near.folder(lab.path()).boot(
        "ip link set eth0 up
         weft switch run lab.toml &
         until ip link set red address 02:00:00:00:00:01; do sleep 1; done
         ip addr add 10.0.0.1/24 dev red
         ip link set red up
         until ping -c1 -W1 10.0.0.2; do sleep 1; done
         ping -c3 -W10 -s 1400 10.0.0.2 && weft switch show lab.toml cable",
    );
    let near = near.unwrap();
    far.wait_for("there: up");
    let outcome = near.wait();
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(outcome.output.contains("trunk 10,20"), "{}", outcome.output);
}

const UPLINK: &str = "
[port.red]
tap = 'red'
mac = '02:00:00:00:00:01'
vlan = 10

[port.cable]
nic = 'eth0'
trunk = [10, 20]
";
