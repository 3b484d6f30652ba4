//! An adapter of the host: a TAP device with an address of the host's, by which it stands on a network itself.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;

use weft_types::MacAddr;

use crate::PortError;
use crate::interface::Interface;

/// What the host is on a network on which it stands by an adapter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAdapter {
    /// The adapter's MAC address.
    pub mac: MacAddr,
    /// The host's address.
    pub ip: Ipv4Addr,
    /// How many bits of it name the network.
    pub prefix_len: u8,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
}

impl HostAdapter {
    /// Makes the interface `name` this adapter; what is so already is not touched. The host may reach its network by `ours`
    /// too: more adapters of the kind.
    ///
    /// # Errors
    /// Without the privilege, where the host refuses a value, or reaches the network by yet another interface.
    pub fn settle(&self, name: &str, ours: &BTreeSet<&str>) -> Result<(), PortError> {
        let failed = |action| {
            move |source: io::Error| match source.kind() {
                io::ErrorKind::PermissionDenied => self.forbidden(name),
                _ => PortError::Tap { name: name.into(), action, source },
            }
        };
        let mut interface = Interface::find(name).map_err(failed("find"))?;
        if interface.mtu().ok() != Some(self.mtu.into()) {
            interface.set_mtu(self.mtu.into()).map_err(failed("set the MTU of"))?;
        }
        if interface.mac().ok() != Some(self.mac) {
            interface.set_mac(self.mac).map_err(failed("set the MAC address of"))?;
        }
        settings(name);
        if interface.ipv4().ok() != Some((self.ip, self.prefix_len)) {
            if let Some(other) = self.rival(ours) {
                let (name, ip, prefix_len) = (name.into(), self.ip, self.prefix_len);
                return Err(PortError::TakenSubnet { name, ip, prefix_len, other });
            }
            // The address comes first and its prefix second: while the interface is down, no wrong route is between them.
            interface.take_down().map_err(failed("set the address of"))?;
            interface.set_ipv4(self.ip, self.prefix_len).map_err(failed("set the address of"))?;
        }
        interface.bring_up().map_err(failed("set up"))
    }

    /// Another interface than `ours` by which the host reaches the very network, or a part of it.
    fn rival(&self, ours: &BTreeSet<&str>) -> Option<String> {
        let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
        ways(&routes, self.ip, self.prefix_len).find(|other| !ours.contains(other)).map(str::to_owned)
    }

    /// Whether `name`, which exists, is this adapter: somebody with more privileges has made it for us.
    ///
    /// # Errors
    /// What it is instead.
    pub(crate) fn check(&self, name: &str) -> Result<(), PortError> {
        let failed = |source| PortError::Tap { name: name.into(), action: "look at", source };
        let interface = Interface::find(name).map_err(failed)?;
        let found = if interface.mac().ok() != Some(self.mac) {
            interface.mac().map_or("it is no Ethernet interface".into(), |mac| format!("its MAC address is {mac}"))
        } else if interface.ipv4().ok() != Some((self.ip, self.prefix_len)) {
            interface.ipv4().map_or("it has no address".into(), |(ip, len)| format!("its address is {ip}/{len}"))
        } else if interface.mtu().ok() != Some(self.mtu.into()) {
            "its MTU is another".into()
        } else if !interface.is_up() {
            "it is down".into()
        } else {
            return Ok(());
        };
        let hint = format!("choose another name, or end what has it, or let root make it: {}", self.setup(name));
        Err(PortError::OtherAdapter { name: name.into(), found, hint })
    }

    /// That we may not make it, and what would help.
    pub(crate) fn forbidden(&self, name: &str) -> PortError {
        let hint = format!(
            "run as root, grant CAP_NET_ADMIN (`setcap cap_net_admin+ep` on the program), or let root make it once: {}",
            self.setup(name)
        );
        PortError::HostAdapter { name: name.into(), hint }
    }

    /// The line by which root makes it for us.
    fn setup(&self, name: &str) -> String {
        let Self { mac, ip, prefix_len, mtu } = *self;
        let user = rustix::process::geteuid().as_raw();
        format!(
            "`ip tuntap add {name} mode tap user {user} && ip addr add {ip}/{prefix_len} dev {name} && \
             ip link set {name} address {mac} mtu {mtu} up`"
        )
    }
}

/// The interfaces of those of `routes`, as the kernel lists them (Linux, net/ipv4/fib_trie.c), that lead into the network
/// of `ip`.
fn ways(routes: &str, ip: Ipv4Addr, prefix_len: u8) -> impl Iterator<Item = &str> {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
    let address = |text: &str| Some(u32::from_be(u32::from_str_radix(text, 16).ok()?));
    routes.lines().skip(1).filter_map(move |line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [interface, to, _, _, _, _, _, of, ..] = fields[..] else { return None };
        let is_inside = (address(to)? ^ u32::from(ip)) & mask == 0;
        (is_inside && address(of)? >= mask).then_some(interface)
    })
}

/// Keeps the host from being a router for what comes in by `name`, from taking what comes in for a router of its own, and
/// from having other link-local addresses there than that of its MAC address. The switch lets nothing through that would
/// need any of it, so where we may not, nothing is lost.
fn settings(name: &str) {
    let wanted = [("ipv4", "forwarding"), ("ipv6", "forwarding"), ("ipv6", "accept_ra"), ("ipv6", "addr_gen_mode")];
    for (family, setting) in wanted {
        let path = format!("/proc/sys/net/{family}/conf/{name}/{setting}");
        if fs::read_to_string(&path).is_ok_and(|value| value.trim() != "0")
            && let Err(error) = fs::write(&path, "0")
        {
            tracing::debug!(target: "weft::port", port = name, %error, "cannot write {path}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_the_host_reaches_already() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 0107A8C0 0003 0 0 100 00000000 0 0 0
vpn0 0000000A 00000000 0001 0 0 0 000000FF 0 0 0
eth0 0007A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0
broken 00
";
        let cases = [
            ("192.168.7.9", 24, Some("eth0")),
            ("192.168.6.9", 23, Some("eth0")),
            ("192.168.7.9", 25, None), // the longer prefix goes first
            ("192.168.8.9", 24, None),
            ("10.20.0.254", 24, None),
            ("10.0.0.254", 8, Some("vpn0")),
        ];
        for (ip, len, expected) in cases {
            assert_eq!(ways(routes, ip.parse().unwrap(), len).next(), expected, "{ip}/{len}");
        }
    }

    #[test]
    fn who_may_not_is_told_how() {
        let host = HostAdapter {
            mac: MacAddr::new([2, 0, 0, 0, 0, 9]),
            ip: Ipv4Addr::new(10, 20, 0, 254),
            prefix_len: 24,
            mtu: 1400,
        };
        let error = host.forbidden("weft-lab");
        assert_eq!(error.to_string(), "not allowed to make `weft-lab`, an adapter of the host");
        let user = rustix::process::geteuid().as_raw();
        let line = format!(
            "`ip tuntap add weft-lab mode tap user {user} && ip addr add 10.20.0.254/24 dev weft-lab && \
             ip link set weft-lab address 02:00:00:00:00:09 mtu 1400 up`"
        );
        assert!(error.hint().contains("CAP_NET_ADMIN") && error.hint().ends_with(&line), "{}", error.hint());
        let other = host.check("lo").unwrap_err();
        assert_eq!(other.to_string(), "`lo` exists, and is not this adapter of the host: it is no Ethernet interface");
        let line = line.replace("weft-lab", "lo");
        assert!(other.hint().contains("choose another name") && other.hint().ends_with(&line), "{}", other.hint());
    }
}
