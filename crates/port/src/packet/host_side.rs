//! The way to the host itself, where it shares its pNIC: what a port sends by the pNIC goes out by the cable, and the
//! host, which stands on the near side of it, would never hear it.
//!
//! A TAP device of ours has a program that lets all that is written to it come in by the pNIC, as if the cable had
//! brought it. Nothing about the pNIC itself is changed, and the device ends with us.

use std::io;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, writev};
use weft_types::MacAddr;
use weft_wire::virtio_net::HEADER_BYTES;

use super::{bpf, traffic_control};
use crate::interface::Interface;
use crate::tap::TapPort;
use crate::{Frame, PortError};

/// The host behind one of its pNICs.
pub(super) struct HostSide {
    device: OwnedFd,
    /// The pNIC's own address.
    mac: MacAddr,
}

/// Who is to hear a frame that leaves by the pNIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ear {
    /// Whoever is at the cable.
    Cable,
    /// The host.
    Host,
    /// All.
    Both,
}

impl HostSide {
    /// Makes the way to the host behind the pNIC `nic`.
    pub(super) fn open(nic: &Interface, index: i32) -> Result<Self, PortError> {
        let failed = |source: io::Error| PortError::Share { name: nic.name(), source };
        let mac = nic.mac().map_err(failed)?;
        let name = format!("weft-in-{index}");
        let device = TapPort::create(&name).map_err(|error| match error {
            PortError::Tap { source, .. } | PortError::OpenTun { source } => failed(source),
            other => other,
        })?;
        TapPort::set_headers(&device).map_err(|errno| failed(errno.into()))?;
        let mut interface = Interface::find(&name).map_err(failed)?;
        interface.silence();
        let program = bpf::redirect(index).map_err(failed)?;
        let number = interface.index().map_err(failed)?;
        traffic_control::attach(number, program.as_fd()).map_err(|errno| failed(errno.into()))?;
        interface.bring_up().map_err(failed)?;
        Ok(Self { device, mac })
    }

    /// Notes that the pNIC may have another address.
    pub(super) fn look(&mut self, nic: &Interface) {
        self.mac = nic.mac().unwrap_or(self.mac);
    }

    /// Who is to hear a frame.
    pub(super) fn ear(&self, frame: &Frame<'_>) -> Ear {
        match frame.head().first_chunk().map(|dst| MacAddr::new(*dst)) {
            Some(dst) if dst == self.mac => Ear::Host,
            Some(dst) if dst.is_group() => Ear::Both,
            _ => Ear::Cable,
        }
    }

    /// Lets a frame come in by the pNIC.
    pub(super) fn send(&self, header: &[u8; HEADER_BYTES], head: &[u8], tail: &[u8]) -> rustix::io::Result<()> {
        match writev(&self.device, &[IoSlice::new(header), IoSlice::new(head), IoSlice::new(tail)]) {
            Ok(_) => Ok(()),
            Err(Errno::IO | Errno::BADFD) => Err(Errno::NETDOWN),
            Err(errno) => Err(errno),
        }
    }
}
