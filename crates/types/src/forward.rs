use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::VmName;

/// A transport protocol that has ports to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// The Transmission Control Protocol (RFC 9293).
    Tcp,
    /// The User Datagram Protocol (RFC 768).
    Udp,
}

impl Transport {
    /// The word by which files and listings know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where on the host a forward is met: an address of the host, and a port of it or a run of ports.
///
/// Written as `tcp/127.0.0.1:8080` or `udp/[::1]:5353-5360`. `tcp/` and the address may be left out: `8080` is met by
/// the host itself only, at 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen {
    transport: Transport,
    ip: IpAddr,
    first: u16,
    last: u16,
}

/// To whom a forward leads: a machine, or whoever has an address of the network, and the port that stands for the
/// first one of the host's. Written as `web:80`, or `10.20.0.7:80`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ForwardTarget {
    /// Who.
    pub host: ForwardHost,
    /// The first port.
    pub port: u16,
}

/// Who is at the far end of a forward.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ForwardHost {
    /// A machine, at the address that it has on the network.
    Vm(VmName),
    /// Whoever has this address.
    Ip(Ipv4Addr),
}

/// What is no forward.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Not the two ends of one.
    #[error("`{0}` is no port forward")]
    Forward(String),
    /// Not a place on the host.
    #[error("`{0}` is no address and port of the host")]
    Listen(String),
    /// Not a machine's port.
    #[error("`{0}` is no port of a machine")]
    Target(String),
    /// A port that cannot be.
    #[error("there is no port {0}")]
    Port(String),
    /// A run of ports that ends before it begins, or is too long.
    #[error("{first}-{last} is no run of ports, or one of more than {} ports", Listen::MAX_PORTS)]
    Run {
        /// Its first port.
        first: u16,
        /// Its last port.
        last: u16,
    },
    /// Two runs of ports of different length.
    #[error("{listen} ports of the host cannot stand for {target} of the machine")]
    Lengths {
        /// How many ports the host has.
        listen: u16,
        /// How many the machine has.
        target: u16,
    },
    /// An address that nobody can listen at.
    #[error("nobody can listen at {0}")]
    Address(IpAddr),
}

impl ForwardError {
    /// How to write it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Forward(_) => "write `127.0.0.1:8080 -> web:80`, or `udp/5353-5360 -> web:53-60`",
            Self::Listen(_) => "write `127.0.0.1:8080`, `udp/5353-5360`, `[::1]:8080`, or just `8080`",
            Self::Target(_) => "write the machine and its port, like `web:80`, or an address of the network",
            Self::Port(_) => "ports are numbers from 1 to 65535",
            Self::Run { .. } => "write the lower port first, and several forwards for more ports",
            Self::Lengths { .. } => "write as many ports on both sides, or only the machine's first",
            Self::Address(_) => "use 127.0.0.1, another address of this host, or 0.0.0.0 for all of them",
        }
    }
}

impl Listen {
    /// The most ports of one forward: each is a socket of the host.
    pub const MAX_PORTS: u16 = 1000;

    /// The ports from `first` to `last` at `ip`, which may be unspecified: then all addresses of the host are meant.
    ///
    /// # Errors
    /// When nobody can listen there.
    pub fn new(transport: Transport, ip: IpAddr, first: u16, last: u16) -> Result<Self, ForwardError> {
        let is_nobodys = match ip {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast() || ip.to_ipv4_mapped().is_some(),
        };
        if is_nobodys {
            return Err(ForwardError::Address(ip));
        }
        if first == 0 {
            return Err(ForwardError::Port("0".to_owned()));
        }
        if last < first || last - first >= Self::MAX_PORTS {
            return Err(ForwardError::Run { first, last });
        }
        Ok(Self { transport, ip, first, last })
    }

    /// The same place, for another protocol.
    #[must_use]
    pub const fn with_transport(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    /// The protocol.
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// The host's address.
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// How many ports there are, never none.
    pub const fn count(&self) -> u16 {
        self.last - self.first + 1
    }

    /// Every address that is listened at, with its distance from the first.
    pub fn sockets(&self) -> impl Iterator<Item = (u16, SocketAddr)> + use<> {
        let Self { ip, first, last, .. } = *self;
        (first..=last).map(move |port| (port - first, SocketAddr::new(ip, port)))
    }

    /// Whether a client could mean both: the host gives no place to two.
    pub fn overlaps(&self, other: &Self) -> bool {
        let meets = self.ip == other.ip || self.ip.is_unspecified() || other.ip.is_unspecified();
        self.transport == other.transport
            && self.ip.is_ipv4() == other.ip.is_ipv4()
            && meets
            && self.first <= other.last
            && other.first <= self.last
    }
}

impl FromStr for Listen {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let (transport, place) = match text.split_once('/') {
            Some(("tcp", place)) => (Transport::Tcp, place),
            Some(("udp", place)) => (Transport::Udp, place),
            Some(_) => return Err(ForwardError::Listen(text.to_owned())),
            None => (Transport::Tcp, text),
        };
        let wrong = || ForwardError::Listen(text.to_owned());
        let (ip, run) = match place.rsplit_once(':') {
            None => (Ipv4Addr::LOCALHOST.into(), place),
            Some((ip, run)) => {
                let v6 = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
                let ip = match v6 {
                    Some(ip) => IpAddr::V6(ip.parse().map_err(|_| wrong())?),
                    None => IpAddr::V4(ip.parse().map_err(|_| wrong())?),
                };
                (ip, run)
            }
        };
        let (first, last) = ports(run)?.ok_or_else(wrong)?;
        Self::new(transport, ip, first, last)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.transport, SocketAddr::new(self.ip, self.first))?;
        if self.last > self.first { write!(f, "-{}", self.last) } else { Ok(()) }
    }
}

impl ForwardTarget {
    /// The target in `text`, for which as many ports are meant as `listen` has: with a run of ports, it has that length.
    ///
    /// # Errors
    /// When it cannot be read, or its ports do not fit.
    pub fn parse(text: &str, listen: &Listen) -> Result<Self, ForwardError> {
        let wrong = || ForwardError::Target(text.to_owned());
        let (host, run) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.parse() {
            Ok(ip) => ForwardHost::Ip(ip),
            Err(_) => ForwardHost::Vm(host.parse().map_err(|_| wrong())?),
        };
        let (port, last) = ports(run)?.ok_or_else(wrong)?;
        if port == 0 {
            return Err(ForwardError::Port(run.to_owned()));
        }
        if last < port {
            return Err(ForwardError::Run { first: port, last });
        }
        let target = (last - port).saturating_add(1);
        if run.contains('-') && target != listen.count() {
            return Err(ForwardError::Lengths { listen: listen.count(), target });
        }
        if port.checked_add(listen.count() - 1).is_none() {
            return Err(ForwardError::Port((u32::from(port) + u32::from(listen.count()) - 1).to_string()));
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for ForwardTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for ForwardHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(vm) => vm.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl FromStr for ForwardTarget {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let one = Listen { transport: Transport::Tcp, ip: Ipv4Addr::LOCALHOST.into(), first: 1, last: 1 };
        Self::parse(text, &one)
    }
}

/// The first and the last of a run of ports; `None` for what is no number.
fn ports(run: &str) -> Result<Option<(u16, u16)>, ForwardError> {
    let (first, last) = run.split_once('-').unwrap_or((run, run));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(last) {
        return Ok(None);
    }
    let port = |text: &str| text.parse::<u16>().map_err(|_| ForwardError::Port(text.to_owned()));
    Ok(Some((port(first)?, port(last)?)))
}

macro_rules! json_as_text {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = ForwardError;

            fn try_from(text: String) -> Result<Self, ForwardError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

json_as_text! { Listen ForwardTarget }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_on_the_host() {
        let check = |text: &str, expected: &str| {
            let found = text.parse::<Listen>().map_or_else(|error| error.to_string(), |listen| listen.to_string());
            assert_eq!(found, expected, "{text}");
        };
        check("8080", "tcp/127.0.0.1:8080");
        check("127.0.0.1:8080", "tcp/127.0.0.1:8080");
        check("tcp/2222", "tcp/127.0.0.1:2222");
        check("udp/5353-5360", "udp/127.0.0.1:5353-5360");
        check("0.0.0.0:80-80", "tcp/0.0.0.0:80");
        check("udp/[::1]:53", "udp/[::1]:53");
        check("65535", "tcp/127.0.0.1:65535");
        for bad in ["", ":", "web:80", "sctp/80", "127.0.0.1:", "::1:80", "80-", "-80", "+80", "1 2", "[::1]", "/80"] {
            check(bad, &format!("`{bad}` is no address and port of the host"));
        }
        check("0", "there is no port 0");
        check("65536", "there is no port 65536");
        check("99999999999999999999", "there is no port 99999999999999999999");
        check("90-80", "90-80 is no run of ports, or one of more than 1000 ports");
        check("1-1001", "1-1001 is no run of ports, or one of more than 1000 ports");
        check("224.0.0.1:80", "nobody can listen at 224.0.0.1");
        check("[::ffff:127.0.0.1]:80", "nobody can listen at ::ffff:127.0.0.1");
    }

    #[test]
    fn who_is_meant() {
        let check = |listen: &str, text: &str, expected: &str| {
            let found = ForwardTarget::parse(text, &listen.parse().unwrap());
            assert_eq!(found.map_or_else(|error| error.to_string(), |to| to.to_string()), expected, "{text}");
        };
        check("80", "web:80", "web:80");
        check("80-89", "web:80-89", "web:80");
        check("80-89", "web:80", "web:80");
        check("80", "10.20.0.7:80", "10.20.0.7:80");
        check("80-89", "web:80-88", "10 ports of the host cannot stand for 9 of the machine");
        check("80", "web:1-65535", "1 ports of the host cannot stand for 65535 of the machine");
        check("80-81", "web:65535", "there is no port 65536");
        check("80", "web:0", "there is no port 0");
        for bad in ["", "web", "web:", ":80", "Web:80", "::1:80", "web:x"] {
            check("80", bad, &format!("`{bad}` is no port of a machine"));
        }
    }

    #[test]
    fn two_at_one_place() {
        let check = |a: &str, b: &str, expected: bool| {
            let (a, b): (Listen, Listen) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (expected, expected), "{a} {b}");
        };
        check("80", "80", true);
        check("80", "udp/80", false);
        check("80", "81", false);
        check("80-90", "90-99", true);
        check("0.0.0.0:80", "127.0.0.1:80", true);
        check("127.0.0.2:80", "127.0.0.1:80", false);
        check("[::]:80", "0.0.0.0:80", false);
        check("[::]:80", "[::1]:80", true);
    }

    #[test]
    fn json_is_validated_too() {
        let listen: Listen = "udp/5353-5360".parse().unwrap();
        assert_eq!(serde_json::to_string(&listen).unwrap(), "\"udp/127.0.0.1:5353-5360\"");
        assert_eq!(serde_json::from_str::<Listen>("\"udp/127.0.0.1:5353-5360\"").unwrap(), listen);
        assert!(serde_json::from_str::<Listen>("\"0\"").is_err());
        assert!(serde_json::from_str::<ForwardTarget>("\"web:0\"").is_err());
    }
}
