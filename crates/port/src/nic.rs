//! Which driver a pNIC gets.

use std::fs;

use weft_types::NicDriver;

use crate::interface::Interface;
use crate::{PacketPort, Port, PortError, XdpPort};

/// The scope of an address that is of no use beyond the cable, as the kernel writes it.
const LINK_LOCAL: &str = "20";

/// Opens the interface `name` of our network namespace as an uplink.
///
/// AF_XDP is taken unasked only where it pays and nobody misses anything: the interface's driver moves frames without a
/// copy, and the host has no address of its own there, for the host hears nothing by it any more.
///
/// # Errors
/// When there is none of that name, another switch has it, or the driver that is asked for cannot be used with it.
pub fn open_nic(name: &str, driver: NicDriver) -> Result<Box<dyn Port>, PortError> {
    match driver {
        NicDriver::Packet => Ok(Box::new(PacketPort::open(name)?)),
        NicDriver::Xdp => Ok(Box::new(XdpPort::open(name)?)),
        NicDriver::Auto => match try_xdp(name) {
            Ok(port) => Ok(Box::new(port)),
            Err(why) => {
                tracing::info!(target: "weft::port", name, %why, "a packet socket is used");
                Ok(Box::new(PacketPort::open(name)?))
            }
        },
    }
}

/// AF_XDP, or why it is not worth it.
fn try_xdp(name: &str) -> Result<XdpPort, String> {
    if is_hosts_own(name) {
        return Err("the host has an address there, and would hear nothing any more".to_owned());
    }
    let port = XdpPort::open(name).map_err(|error| {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}")
    })?;
    if port.is_zero_copy() { Ok(port) } else { Err("its driver would copy each frame for AF_XDP".to_owned()) }
}

/// Whether the host itself talks by an interface: it has an address there that is more than link-local, or a device upon it
/// (a VLAN's, a bridge); or that cannot be found out.
fn is_hosts_own(name: &str) -> bool {
    let carries_others = fs::read_dir(format!("/sys/class/net/{name}")).map_or(true, |entries| {
        entries.flatten().any(|entry| {
            let entry = entry.file_name();
            entry == "master" || entry.as_encoded_bytes().starts_with(b"upper_")
        })
    });
    has_addresses(name) || carries_others
}

/// Whether the host has an address there that is more than link-local; or that cannot be found out.
pub(crate) fn has_addresses(name: &str) -> bool {
    let has_ipv4 = Interface::find(name).and_then(|interface| interface.has_ipv4_address()).unwrap_or(true);
    // A line for each address: itself, and behind the interface's number and the prefix's length, its scope.
    let addresses = fs::read_to_string("/proc/self/net/if_inet6").unwrap_or_default();
    let has_ipv6 = addresses
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .any(|fields| matches!(fields[..], [_, _, _, scope, _, interface] if interface == name && scope != LINK_LOCAL));
    has_ipv4 || has_ipv6
}
