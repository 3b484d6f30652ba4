//! A network namespace of its own, and the one adapter in it (network_namespaces(7), user_namespaces(7)).
//!
//! Whoever makes the namespace enters it, and hands out two descriptors: the adapter's other end, and a socket of that
//! namespace. By the socket, the user who made it gives the adapter its address from outside.

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::io::Errno;
use weft_types::{Ipv4Net, MacAddr};

use crate::interface::Interface;
use crate::{PortError, TapPort};

/// The adapter's name inside of its namespace.
const ADAPTER: &str = "eth0";

/// What may keep a user from having namespaces: where to look, what forbids it, and the line by which root allows it.
const OBSTACLES: [(&str, &str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// Why there is no namespace, or not what should be in it.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The system does not allow it.
    #[error("cannot make a network namespace")]
    Unshare {
        /// What the system said.
        source: io::Error,
    },
    /// The namespace is there, but its adapter is not.
    #[error(transparent)]
    Adapter(#[from] PortError),
    /// Something in it cannot be set.
    #[error("cannot {action}")]
    Set {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl NamespaceError {
    /// How to fix it.
    pub fn hint(&self) -> String {
        match self {
            Self::Adapter(PortError::OpenTun { source }) if source.kind() == io::ErrorKind::NotFound => {
                "as root: `modprobe tun`; in a container, give it the device /dev/net/tun".to_owned()
            }
            Self::Adapter(PortError::OpenTun { .. }) => "as root: `chmod 666 /dev/net/tun`".to_owned(),
            Self::Unshare { .. } | Self::Adapter(_) | Self::Set { .. } => {
                let forbids = |(path, value, _): &&(&str, &str, &str)| {
                    fs::read_to_string(path).is_ok_and(|text| text.trim() == *value)
                };
                match OBSTACLES.iter().find(forbids) {
                    Some((.., line)) => format!("as root: `{line}`"),
                    None => "a sandbox or container around this forbids it; run it outside, or as root".to_owned(),
                }
            }
        }
    }
}

/// Moves this process into a network, a mount and a UTS namespace of its own, and where that needs a privilege that we
/// lack, into a user namespace in which we have it, as root.
///
/// # Errors
/// When the system allows neither. The process must have one thread.
pub fn enter_namespace() -> Result<(), NamespaceError> {
    let failed = |source: Errno| NamespaceError::Unshare { source: source.into() };
    const FLAGS: libc::c_int = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWUTS;
    match unshare(FLAGS) {
        Err(Errno::PERM) => {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            unshare(FLAGS | libc::CLONE_NEWUSER).map_err(failed)?;
            let map = [
                ("setgroups", "deny".to_owned()),
                ("uid_map", format!("0 {uid} 1")),
                ("gid_map", format!("0 {gid} 1")),
            ];
            for (file, text) in map {
                fs::write(format!("/proc/self/{file}"), text).map_err(|source| NamespaceError::Unshare { source })?;
            }
        }
        result => result.map_err(failed)?,
    }
    // What is mounted in here is nobody else's to see.
    mount(None, Path::new("/"), libc::MS_REC | libc::MS_PRIVATE)
        .map_err(|error| NamespaceError::Set { action: "have mounts of its own", source: error.into() })
}

/// Makes the adapter of the namespace that this process has entered, and sets up its loopback: the adapter's other end,
/// and a socket by which it is configured.
///
/// # Errors
/// Without `/dev/net/tun`, or when the namespace is not ours to change.
pub fn furnish_namespace(mac: MacAddr, mtu: u16) -> Result<(OwnedFd, OwnedFd), NamespaceError> {
    let device = TapPort::create(ADAPTER)?;
    let set_up = || -> io::Result<OwnedFd> {
        Interface::find("lo")?.bring_up()?;
        let mut adapter = Interface::find(ADAPTER)?;
        adapter.set_mac(mac)?;
        adapter.set_mtu(mtu.into())?;
        adapter.bring_up()?;
        Ok(adapter.into_socket())
    };
    let socket = set_up().map_err(|source| NamespaceError::Set { action: "set up its adapter", source })?;
    Ok((device, socket))
}

/// Shows `file` in the place of `over`, to this process's mount namespace only.
///
/// # Errors
/// When one of them does not exist, or the namespace is not ours.
pub fn cover(file: &Path, over: &Path) -> io::Result<()> {
    Ok(mount(Some(file), over, libc::MS_BIND)?)
}

/// The adapter of a namespace of ours, from outside.
pub struct Outpost {
    adapter: Interface,
}

impl Outpost {
    /// By the socket that [`furnish_namespace`] gave.
    ///
    /// # Errors
    /// When there is no adapter.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { adapter: Interface::by(socket, ADAPTER)? })
    }

    /// Gives it this address and these routes, each with the router that leads there, instead of those that it had;
    /// nothing takes all of them away.
    ///
    /// # Errors
    /// When one of them is refused.
    pub fn set_address(&self, address: Option<Ipv4Net>, routes: &[(Ipv4Net, Ipv4Addr)]) -> io::Result<()> {
        // With its address, an adapter loses all that was reached by it.
        self.adapter.set_ipv4(Ipv4Addr::UNSPECIFIED, 0).or_else(|error| match error.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => Ok(()),
            _ => Err(error),
        })?;
        let Some(address) = address else { return Ok(()) };
        self.adapter.set_ipv4(address.addr(), address.prefix_len())?;
        routes.iter().try_for_each(|(to, router)| add_route(&self.adapter, *to, *router))
    }

    /// Sets the largest IP packet that it takes, in bytes.
    ///
    /// # Errors
    /// When an adapter cannot have it.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.adapter.set_mtu(mtu.into())
    }
}

#[expect(unsafe_code, reason = "the C library's word for it")]
fn unshare(flags: libc::c_int) -> rustix::io::Result<()> {
    // SAFETY: no flag changes what memory or descriptors anybody shares.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

#[expect(unsafe_code, reason = "the C library's word for it")]
fn mount(source: Option<&Path>, target: &Path, flags: libc::c_ulong) -> rustix::io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL);
    let (source, target) = (source.map(text).transpose()?, text(target)?);
    let source = source.as_ref().map_or(std::ptr::null(), |source| source.as_ptr());
    // SAFETY: the texts end with a zero and live until the call returns; the other two may be absent.
    match unsafe { libc::mount(source, target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// Has what is for `to` go by `router`.
#[expect(unsafe_code, reason = "an ioctl")]
fn add_route(adapter: &Interface, to: Ipv4Net, router: Ipv4Addr) -> io::Result<()> {
    // `struct sockaddr_in`, by its bytes: a family, a port and an address.
    let address = |ip: Ipv4Addr| {
        let mut data = [0; 14];
        data.iter_mut().skip(2).zip(ip.octets()).for_each(|(byte, octet)| *byte = octet as libc::c_char);
        libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
    };
    // SAFETY: it is plain data, of which zeros are a value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = address(to.network());
    route.rt_genmask = address(to.netmask());
    let by_router = !router.is_unspecified();
    route.rt_gateway = address(router);
    route.rt_flags = libc::RTF_UP | if by_router { libc::RTF_GATEWAY } else { 0 };
    let name = CString::new(ADAPTER).map_err(io::Error::other)?;
    route.rt_dev = name.as_ptr().cast_mut();
    // SAFETY: the request reads a `struct rtentry`, and the name that it points to, which lives until it returns.
    match unsafe { libc::ioctl(adapter.as_fd().as_raw_fd(), libc::SIOCADDRT, &raw const route) } {
        0 => Ok(()),
        _ => Err(last_error().into()),
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
