//! What an interface's driver says of itself (linux/ethtool.h).

use std::io;

use rustix::io::Errno;
use rustix::ioctl::Opcode;

use crate::interface::Interface;

/// The ioctl that carries a command in the memory that it points to.
pub(crate) const SIOCETHTOOL: Opcode = 0x8946;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// Whether the tags of frames that come are taken off before anybody sees the frame.
pub(crate) fn strips_tags(interface: &Interface) -> io::Result<bool> {
    let mut value = [ETHTOOL_GFLAGS, 0]; // struct ethtool_value
    match interface.ethtool(&mut value) {
        Ok(()) => Ok(value[1] & ETH_FLAG_RXVLAN != 0),
        Err(Errno::OPNOTSUPP) => Ok(false), // a driver that can do nothing
        Err(error) => Err(error.into()),
    }
}

/// How many queues the frames that come are spread over.
pub(crate) fn receive_queues(interface: &Interface) -> io::Result<u32> {
    // struct ethtool_channels: the most that there can be, and behind that what there is.
    let mut channels = [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    match interface.ethtool(&mut channels) {
        Ok(()) => {
            let [.., received, _, _, combined] = channels;
            Ok(received.saturating_add(combined).max(1))
        }
        Err(Errno::OPNOTSUPP) => {
            let folder = format!("/sys/class/net/{}/queues", interface.name());
            let names = std::fs::read_dir(folder)?.flatten().map(|entry| entry.file_name());
            Ok(names.filter(|name| name.as_encoded_bytes().starts_with(b"rx-")).count().max(1) as u32)
        }
        Err(error) => Err(error.into()),
    }
}
