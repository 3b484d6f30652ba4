//! A macvtap device upon a pNIC: the kernel hands all that comes in by the pNIC to the switch, and nothing to the host
//! (linux/if_link.h, `MACVLAN_MODE_PASSTHRU`).
//!
//! Of macvtap's modes this is the only one in which a switch hears what is for the machines behind it: in the others, one
//! hears only what is for one address of its own. The device stands in a network namespace that nobody else knows, and
//! that lives as long as our descriptor of it: so it ends with the switch's process, however that ends.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use libc::{MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, c_ulong};
use rustix::event::epoll::EventFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, open};
use rustix::io::Errno;

use crate::claim::Claim;
use crate::epoll::Epoll;
use crate::interface::Interface;
use crate::netlink::{Netlink, attribute};
use crate::nic::has_addresses;
use crate::pnic::LinkNews;
use crate::{Caps, Frame, Lent, Link, Port, PortError, SendError, TapPort};

const RTM_NEWLINK: u16 = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_PASSTHRU: u32 = 8;

/// What the device is called, in its namespace.
const NAME: &str = "weft-macvtap";
/// Where its file is, in the mounts of the thread that makes it.
const NODE: &str = "/dev/weft-macvtap";
/// How long the kernel may take to remove the device of a switch that was killed.
const PATIENCE: Duration = Duration::from_secs(1);

/// A pNIC that a macvtap device has taken over.
pub struct MacvtapPort {
    /// The pNIC.
    nic: Interface,
    tap: TapPort,
    news: LinkNews,
    epoll: Epoll,
    absence: Option<Cow<'static, str>>,
    claim: Claim,
    /// The namespace in which the device is; the only thing that keeps it.
    _namespace: File,
}

impl MacvtapPort {
    /// Takes the interface `name` of our network namespace over.
    ///
    /// # Errors
    /// When there is none of that name, another switch has it, the host itself talks by it, or we may not.
    pub fn open(name: &str) -> Result<Self, PortError> {
        let failed = |action| move |source: io::Error| PortError::Nic { name: name.into(), action, source };
        let nic = Interface::find(name).map_err(failed("find"))?;
        let (device, namespace, claim) = take_over(&nic)?;
        let tap = TapPort::without_interface(name, device)?;
        let news = LinkNews::listen().map_err(failed("watch"))?;
        let epoll = Epoll::new()?;
        epoll.add(tap.fd(), EventFlags::IN)?;
        epoll.add(&news, EventFlags::IN)?;
        let mut port = Self { nic, tap, news, epoll, absence: None, claim, _namespace: namespace };
        port.look();
        Ok(port)
    }

    /// Sees how the interface is.
    fn look(&mut self) {
        self.absence = match self.nic.look().and_then(|()| self.nic.index()) {
            Err(_) => Some("the interface is gone".into()),
            Ok(index) => match self.follow(index) {
                Err(error) => Some(format!("the interface is another one now, and cannot be used: {error}").into()),
                Ok(()) if !self.nic.is_up() => Some("the interface is down; set it up with `ip link set … up`".into()),
                Ok(()) if !self.nic.has_carrier() => Some("nobody is at the other end of the cable".into()),
                Ok(()) => None,
            },
        };
    }

    /// Takes the interface over that has our name now: one that was deleted took its macvtap device with it.
    fn follow(&mut self, index: i32) -> Result<(), PortError> {
        if self.claim.index() == index {
            return Ok(());
        }
        let (device, namespace, claim) = take_over(&self.nic)?;
        let tap = TapPort::without_interface(self.tap.name(), device)?;
        self.epoll.remove(self.tap.fd());
        self.epoll.add(tap.fd(), EventFlags::IN)?;
        (self.tap, self._namespace, self.claim) = (tap, namespace, claim);
        Ok(())
    }
}

/// A macvtap device upon an interface, the namespace that keeps it, and the claim to both.
fn take_over(nic: &Interface) -> Result<(OwnedFd, File, Claim), PortError> {
    let name = nic.name();
    let failed = |action| {
        let name = name.clone();
        move |source: io::Error| PortError::Nic { name, action, source }
    };
    let (index, mtu) = (nic.index().map_err(failed("find"))?, nic.mtu().map_err(failed("find"))?);
    if has_addresses(&name) {
        return Err(PortError::HostsOwn { name });
    }
    let claim = Claim::of(index).map_err(|error| match error {
        Errno::ADDRINUSE => PortError::NicInUse { name: name.clone() },
        error => failed("claim")(error.into()),
    })?;
    // A thread of its own: the namespaces that it enters end with it.
    let maker = std::thread::Builder::new().name("macvtap".to_owned()).spawn(move || make(index, mtu));
    let made = maker.map_err(failed("take over"))?.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
    let (device, namespace) = made.map_err(|source| PortError::Macvtap { name, source })?;
    Ok((device, namespace, claim))
}

/// Makes the device, in namespaces that this thread enters.
fn make(nic: i32, mtu: i32) -> io::Result<(OwnedFd, File)> {
    let kernel = Netlink::open()?; // in the namespace of the pNIC
    enter_own_namespaces()?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    let info = [
        attribute(IFLA_INFO_KIND, b"macvtap\0"),
        attribute(IFLA_INFO_DATA, &attribute(IFLA_MACVLAN_MODE, &MACVLAN_MODE_PASSTHRU.to_ne_bytes())),
    ];
    let attributes = [
        attribute(IFLA_IFNAME, format!("{NAME}\0").as_bytes()),
        attribute(IFLA_MTU, &mtu.to_ne_bytes()),
        attribute(IFLA_LINK, &nic.to_ne_bytes()),
        attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes()),
        attribute(IFLA_LINKINFO, &info.concat()),
    ];
    let deadline = Instant::now() + PATIENCE;
    // `struct ifinfomsg`: nothing is said beside the attributes.
    while let Err(error) = kernel.create(RTM_NEWLINK, &[0; 16], &attributes.concat()) {
        let is_taken = matches!(error, Errno::INVAL | Errno::BUSY);
        if !is_taken || Instant::now() > deadline {
            return Err(error.into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut device = Interface::find(NAME)?;
    device.silence(); // or this namespace would speak on the LAN itself
    device.bring_up()?;
    Ok((open_device()?, namespace))
}

/// Opens the device's file, which is made for that: whether the host has one, and where, is its own choice.
fn open_device() -> io::Result<OwnedFd> {
    mount(c"sysfs", c"/sys", MS_NOSUID | MS_NOEXEC)?;
    mount(c"tmpfs", c"/dev", MS_NOSUID | MS_NOEXEC)?;
    let mut entries = std::fs::read_dir(format!("/sys/class/net/{NAME}/macvtap"))?;
    let entry = entries.next().ok_or(io::ErrorKind::NotFound)??;
    let number = std::fs::read_to_string(entry.path().join("dev"))?;
    let number = number.trim().split_once(':').and_then(|(a, b)| Some(makedev(a.parse().ok()?, b.parse().ok()?)));
    let number = number.ok_or(io::ErrorKind::InvalidData)?;
    mknodat(CWD, NODE, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, number)?;
    Ok(open(NODE, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

/// Gives this thread interfaces and mounts of its own.
#[expect(unsafe_code, reason = "system calls that change what this thread sees")]
fn enter_own_namespaces() -> io::Result<()> {
    // SAFETY: the thread is ours, has no files of others open, and ends when the device is made.
    if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel reads two texts that end with a zero; the others may be null where nothing is mounted.
    let code = unsafe {
        libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), MS_REC | MS_PRIVATE, std::ptr::null())
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Mounts a file system of this kind, for this thread only.
#[expect(unsafe_code, reason = "a system call that rustix is not built with")]
fn mount(kind: &std::ffi::CStr, place: &std::ffi::CStr, flags: c_ulong) -> io::Result<()> {
    // SAFETY: the kernel reads three texts that end with a zero, and no options.
    let code = unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Port for MacvtapPort {
    fn driver(&self) -> &'static str {
        "macvtap"
    }

    fn caps(&self) -> Caps {
        self.tap.caps()
    }

    fn link(&self) -> Link {
        self.absence.clone().map_or_else(|| self.tap.link(), Link::Down)
    }

    fn recv(&mut self) -> Lent {
        self.tap.recv()
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        self.tap.frame(index)
    }

    fn release(&mut self) {
        self.tap.release();
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendError> {
        self.tap.send(frame)
    }

    fn flush(&mut self) {}

    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn sleep(&mut self) -> bool {
        self.tap.sleep()
    }

    fn wake(&mut self) {
        self.tap.wake();
        if self.news.heard() {
            self.look();
        }
    }
}
