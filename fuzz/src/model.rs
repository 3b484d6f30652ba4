//! The files that a user writes, and the disks that they name.

use std::io::Write as _;
use std::path::Path;

use weft_model::qcow2::Header;
use weft_model::{Disk, DiskFormat, HostFacts, Rule, parse_switch, parse_world};

/// A world in TOML. Paths in it are never opened outside of the folder given here, which does not exist.
pub(crate) fn world_file(data: &[u8]) {
    if let Ok(source) = std::str::from_utf8(data) {
        match parse_world(source, Path::new("/nonexistent/weft.toml"), "weft.toml", &HostFacts::default()) {
            Ok(world) => {
                let json = serde_json::to_string(&world).expect("a world is plain data");
                assert_eq!(serde_json::from_str::<weft_model::World>(&json).expect("what was written is read"), world);
            }
            Err(report) => assert!(!report.to_string().is_empty() && !report.problems().is_empty()),
        }
    }
}

/// A disk that somebody gave us.
pub(crate) fn qcow2_header(data: &[u8]) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(data).expect("room for it");
    for format in [None, Some(DiskFormat::Raw), Some(DiskFormat::Qcow2)] {
        let _ = Disk::examine(&file, format).map_err(|fault| (fault.to_string(), fault.hint()));
    }
    if let Ok(Ok(header)) = Header::read(&file) {
        let _ = (header.virtual_bytes(), header.capacity_bytes(), header.is_over("", DiskFormat::Raw));
    }
}

/// A switch on its own in TOML. What is accepted can be plugged in: each port has its own places, and in each VLAN its
/// own addresses.
pub(crate) fn switch_file(data: &[u8]) {
    if let Ok(source) = std::str::from_utf8(data) {
        match parse_switch(source, Path::new("/nonexistent/lab.toml"), "lab.toml") {
            Ok(switch) => {
                let ports: Vec<_> = switch.ports.values().map(|port| &port.rules).collect();
                for (index, port) in ports.iter().enumerate() {
                    let others = ports[..index].iter().filter(|other| other.vlans.overlaps(&port.vlans));
                    others.for_each(|other| assert!(!other.macs.iter().any(|mac| port.macs.contains(mac))));
                }
            }
            Err(report) => assert!(!report.to_string().is_empty() && !report.problems().is_empty()),
        }
    }
}

/// A rule of an access list. What is accepted is what it is written as; what is not is wrong at some place of it.
pub(crate) fn acl_rule(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Rule>() {
        Ok(rule) => assert_eq!(rule.to_string().parse(), Ok(rule)),
        Err(error) => {
            assert!(text.get(error.at.clone()).is_some(), "{error:?}");
            assert!(!error.message.is_empty() && !error.hint.is_empty());
        }
    }
}
