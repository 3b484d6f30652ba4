//! A TAP device: the kernel's end of a cable (Linux, Documentation/networking/tuntap.rst).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::io::{Errno, writev};
use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl, opcode};
use weft_wire::virtio_net::{Author, HEADER_BYTES};

use crate::HostAdapter;
use crate::claim::Claim;
use crate::epoll::Epoll;
use crate::interface::{Interface, InterfaceRequest};
use crate::vnet::{read_header, write_header};
use crate::{
    BURST_FRAMES, Caps, Frame, HEAD_BYTES, Lent, Link, MAX_FRAME_BYTES, MIN_FRAME_BYTES, Port, PortError, SendError,
};

// linux/if_tun.h; the sizes in the numbers are those of the header, not of what is passed.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<u32>(b'T', 210);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);
const TUNSETVNETLE: Opcode = opcode::write::<i32>(b'T', 220);
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;
const TUN_F_CSUM: usize = 0x01;
const TUN_F_TSO4: usize = 0x02;
const TUN_F_TSO6: usize = 0x04;
const TUN_F_TSO_ECN: usize = 0x08;

/// Room for the longest frame, and a byte by which a longer one is told.
const SLOT_BYTES: usize = HEADER_BYTES + MAX_FRAME_BYTES + 1;

/// Room for a burst: many short frames side by side, or a few long ones, while all of them are in the cache.
const BURST_BYTES: usize = 3 * SLOT_BYTES;

/// Frames begin where a line of the cache does.
const LINE_BYTES: usize = 64;

/// One TAP device, whose other end is an interface of the host.
pub struct TapPort {
    name: String,
    device: OwnedFd,
    epoll: Epoll,
    absence: Option<Cow<'static, str>>,
    /// The frames of a burst, one behind the other.
    burst: Box<[u8]>,
    lent: Vec<LentFrame>,
    scratch: Vec<u8>,
    /// Held as long as it is the port of a bridge.
    _claim: Option<Claim>,
}

struct LentFrame {
    /// Where its header is.
    start: usize,
    len: usize,
    offload: weft_wire::Offload,
}

impl TapPort {
    /// Opens the TAP device `name` in our network namespace and sets it up. One that does not exist is made, with
    /// this MTU, and ends with the port.
    ///
    /// # Errors
    /// Without `/dev/net/tun`, or when the device is not ours to use.
    pub fn open(name: &str, mtu: u16) -> Result<Self, PortError> {
        let is_new = Interface::find(name).is_err();
        let device = Self::create(name)?;
        if is_new {
            let failed = |source| PortError::Tap { name: name.into(), action: "set the MTU of", source };
            Interface::find(name).and_then(|interface| interface.set_mtu(mtu.into())).map_err(failed)?;
        }
        Self::with_device(name, device)
    }

    /// Makes an adapter of the host called `name`, which is one of `ours`, up and with an address. It ends with the port, with its address and
    /// its routes, however our process ends. One that somebody else has made just so, and for us, is used as it is.
    ///
    /// # Errors
    /// As [`Self::open`], without the privilege to make one, and when another interface has this name: nobody else's is
    /// touched.
    pub fn open_host_adapter(name: &str, host: HostAdapter, ours: &BTreeSet<&str>) -> Result<Self, PortError> {
        let device = match Self::attach(name, IFF_TUN_EXCL) {
            Ok(device) => {
                host.settle(name, ours)?;
                device
            }
            Err(PortError::Tap { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                return Err(host.forbidden(name));
            }
            Err(PortError::Tap { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {
                host.check(name)?;
                Self::attach(name, 0)?
            }
            Err(error) => return Err(error),
        };
        Self::with_device(name, device)
    }

    /// Joins a bridge of the host's kernel by a TAP device of its own, which is the bridge's port as long as this lives.
    ///
    /// # Errors
    /// When there is no bridge of that name, another switch has joined it, or we may not.
    pub fn open_at_bridge(bridge: &str) -> Result<Self, PortError> {
        let failed = |action| move |source: io::Error| PortError::Nic { name: bridge.into(), action, source };
        let interface = Interface::find(bridge).map_err(failed("find"))?;
        let index = interface.index().map_err(failed("find"))?;
        let claim = Claim::of(index).map_err(|error| match error {
            Errno::ADDRINUSE => PortError::NicInUse { name: bridge.into() },
            error => failed("claim")(error.into()),
        })?;
        let name = format!("weft-br-{index}");
        let device = Self::create(&name)?;
        let own = Interface::find(&name).map_err(failed("join"))?;
        own.silence();
        interface.mtu().and_then(|mtu| own.set_mtu(mtu)).map_err(failed("take the MTU of"))?;
        own.index().and_then(|own| interface.add_port(own)).map_err(|error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EINVAL) => failed("join")(io::Error::other("it is no bridge")),
            _ => failed("join")(error),
        })?;
        Ok(Self { _claim: Some(claim), ..Self::with_device(&name, device)? })
    }

    /// Opens the device only, to hand it over to a process with fewer privileges ([`Self::from_device`]).
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn create(name: &str) -> Result<OwnedFd, PortError> {
        Self::attach(name, 0)
    }

    fn attach(name: &str, more_flags: u16) -> Result<OwnedFd, PortError> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device =
            open("/dev/net/tun", flags, Mode::empty()).map_err(|error| PortError::OpenTun { source: error.into() })?;
        let mut request = InterfaceRequest::about(name).ok_or_else(|| PortError::TapName { name: name.into() })?;
        request.flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | more_flags;
        let failed = |action| move |error: Errno| PortError::Tap { name: name.into(), action, source: error.into() };
        request.update::<TUNSETIFF>(&device).map_err(failed("open"))?;
        Ok(device)
    }

    /// Takes a TAP device that somebody with more privileges opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_device(device: OwnedFd) -> Result<Self, PortError> {
        let name = Self::interface_of(device.as_fd())?;
        let _ = fcntl_setfl(&device, OFlags::NONBLOCK);
        Self::with_device(&name, device)
    }

    /// Takes a TAP device whose interface is in another network namespace, and is set up there.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_elsewhere(device: OwnedFd) -> Result<Self, PortError> {
        let name = Self::interface_of(device.as_fd())?;
        let _ = fcntl_setfl(&device, OFlags::NONBLOCK);
        Self::without_interface(&name, device)
    }

    /// The name of the interface that an open TAP device belongs to.
    ///
    /// # Errors
    /// When it is no TAP device.
    pub fn interface_of(device: BorrowedFd<'_>) -> Result<String, PortError> {
        let mut request = InterfaceRequest { name: [0; 16], flags: 0, rest: [0; 22] };
        request.update::<TUNGETIFF>(device).map_err(|error| PortError::Tap {
            name: "handed over".into(),
            action: "use",
            source: error.into(),
        })?;
        let end = request.name.iter().position(|&byte| byte == 0).unwrap_or(request.name.len());
        Ok(String::from_utf8_lossy(&request.name[..end]).into_owned())
    }

    fn with_device(name: &str, device: OwnedFd) -> Result<Self, PortError> {
        let port = Self::without_interface(name, device)?;
        let up = Interface::find(name).and_then(|mut interface| interface.bring_up());
        Ok(Self { absence: up.err().map(|_| "the interface is down, and we may not set it up".into()), ..port })
    }

    /// A device whose interface is in another network namespace, where somebody sees to it.
    pub(crate) fn without_interface(name: &str, device: OwnedFd) -> Result<Self, PortError> {
        let failed = |action| move |error: Errno| PortError::Tap { name: name.into(), action, source: error.into() };
        Self::set_headers(&device).map_err(failed("set the headers and offloads of"))?;
        let epoll = Epoll::new()?;
        epoll.add(&device, EventFlags::IN)?;
        Ok(Self {
            name: name.into(),
            device,
            epoll,
            absence: None,
            burst: vec![0; BURST_BYTES].into(),
            lent: Vec::with_capacity(BURST_FRAMES),
            scratch: Vec::new(),
            _claim: None,
        })
    }

    /// Has frames come and go with a virtio-net header as we write it, whatever is left to do on them.
    pub(crate) fn set_headers(device: &OwnedFd) -> rustix::io::Result<()> {
        set::<TUNSETVNETHDRSZ>(device, HEADER_BYTES as i32)?;
        set::<TUNSETVNETLE>(device, 1)?;
        set_offload(device, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Notes what a failed read or write says about the interface.
    fn note(&mut self, error: Errno) {
        match error {
            Errno::BADFD => {
                self.epoll.remove(&self.device); // it would report its error for ever
                self.absence = Some("the interface was deleted".into());
            }
            Errno::IO => self.absence = Some("the interface is down".into()),
            _ => {}
        }
    }
}

impl Port for TapPort {
    fn driver(&self) -> &'static str {
        "tap"
    }

    fn caps(&self) -> Caps {
        Caps { uso: false, ..Caps::ALL }
    }

    fn link(&self) -> Link {
        self.absence.clone().map_or(Link::Up, Link::Down)
    }

    fn recv(&mut self) -> Lent {
        let (mut start, mut malformed) = (0, 0);
        for _ in 0..BURST_FRAMES {
            let Some(bytes) = self.burst.get_mut(start..start + SLOT_BYTES) else { break };
            let count = match rustix::io::read(&self.device, &mut *bytes) {
                Ok(count) => count,
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    self.note(error);
                    break;
                }
            };
            self.absence = None;
            let len = count.saturating_sub(HEADER_BYTES);
            let offload = bytes.split_first_chunk().and_then(|(header, frame)| {
                let head = &frame[..len.min(HEAD_BYTES)];
                let possible = (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&len);
                possible.then(|| read_header(header, Author::Device, head, len))?
            });
            match offload {
                Some(offload) => {
                    self.lent.push(LentFrame { start, len, offload });
                    start += count.next_multiple_of(LINE_BYTES);
                }
                None => malformed += 1,
            }
        }
        Lent { frames: self.lent.len(), malformed }
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        let LentFrame { start, len, offload } = self.lent[index];
        Frame::new(&self.burst[start + HEADER_BYTES..][..len], offload)
    }

    fn release(&mut self) {
        self.lent.clear();
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendError> {
        let header = write_header(frame.offload(), frame.head(), 0);
        let written = match frame.slices() {
            Some([head, tail]) => {
                writev(&self.device, &[IoSlice::new(&header), IoSlice::new(head), IoSlice::new(tail)])
            }
            None => {
                self.scratch.clear();
                frame.append_to(&mut self.scratch);
                writev(&self.device, &[IoSlice::new(&header), IoSlice::new(&self.scratch)])
            }
        };
        match written {
            Ok(_) => {
                self.absence = None;
                Ok(())
            }
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => Err(SendError::Full),
            Err(Errno::MSGSIZE) => Err(SendError::TooLong),
            Err(Errno::INVAL) => Err(SendError::Malformed),
            Err(error) => {
                self.note(error);
                Err(SendError::Down)
            }
        }
    }

    fn flush(&mut self) {}

    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn sleep(&mut self) -> bool {
        true
    }

    fn wake(&mut self) {}
}

#[expect(unsafe_code, reason = "an ioctl")]
fn set<const CODE: Opcode>(fd: impl AsFd, value: i32) -> rustix::io::Result<()> {
    // SAFETY: every request this is used with reads an `int`.
    unsafe { ioctl(fd, Setter::<CODE, i32>::new(value)) }
}

#[expect(unsafe_code, reason = "an ioctl")]
fn set_offload(fd: impl AsFd, offloads: usize) -> rustix::io::Result<()> {
    // SAFETY: this request takes its flags as the argument itself.
    unsafe { ioctl(fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(offloads)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has() {
        for bad in ["", "sixteen-letters-", "a/b", "a b", "tap%d", "..", "a:1"] {
            assert!(
                matches!(TapPort::open(bad, 1500), Err(PortError::TapName { .. } | PortError::OpenTun { .. })),
                "{bad}"
            );
        }
    }
}
