//! What a keeper is told.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A machine of User-Mode Linux.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The kernel: a program.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: PathBuf,
    /// The kernel's command line, beyond what the keeper says.
    pub cmdline: String,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// A folder that is the keeper's own: it is made anew. Its path is short enough for sockets in it.
    pub folder: PathBuf,
    /// Where the serial console is to be.
    pub console: PathBuf,
    /// Where the port of the agent is to be.
    pub agent: PathBuf,
    /// The file that gets what the console says.
    pub console_log: PathBuf,
    /// Network adapters, in order.
    pub nics: Vec<NicConfig>,
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicConfig {
    /// Its name in messages.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// The vhost-user socket at which the switch listens for it.
    pub socket: PathBuf,
}
