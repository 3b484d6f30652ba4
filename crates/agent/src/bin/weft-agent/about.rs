//! What the guest says of itself.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use rustix::system::uname;
use weft_agent::message::{AgentInfo, GuestInfo, Interface};

use crate::netlink;

pub(crate) fn agent_info() -> AgentInfo {
    let name = uname();
    AgentInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: line(Path::new("/proc/sys/kernel/random/boot_id")),
        kernel: text(name.release()),
        hostname: text(name.nodename()),
    }
}

pub(crate) fn guest_info() -> GuestInfo {
    let uptime = line(Path::new("/proc/uptime"));
    GuestInfo {
        hostname: text(uname().nodename()),
        uptime_s: uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0),
        interfaces: interfaces(),
    }
}

/// A guest has few interfaces; the limit keeps the message's length bounded whatever somebody makes in there.
const INTERFACES_MAX: usize = 64;
const ADDRESSES_MAX: usize = 16;

fn interfaces() -> Vec<Interface> {
    let mut addresses = netlink::addresses().unwrap_or_default();
    let folders = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut interfaces: Vec<Interface> = folders
        .filter(|folder| folder.file_name() != "lo")
        .filter_map(|folder| {
            let field = |name| line(&folder.path().join(name));
            let flags = u32::from_str_radix(field("flags").strip_prefix("0x")?, 16).ok()?;
            let mut addresses = addresses.remove(&field("ifindex").parse().ok()?).unwrap_or_default();
            addresses.truncate(ADDRESSES_MAX);
            let name = folder.file_name().into_string().ok()?;
            Some(Interface { name, mac: field("address"), up: flags & 1 == 1, addresses })
        })
        .take(INTERFACES_MAX)
        .collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    interfaces
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}

fn line(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}
