//! What is to be launched: a machine as plain data, with every path absolute and every default chosen.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use weft_model::{Arch, DiskFormat, Display, EngineKind, Firmware};
use weft_types::{ByteSize, MacAddr, VmName};

/// A machine to be launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchSpec {
    /// Its name, and its host name.
    pub name: VmName,
    /// What its firmware tables call it; the same in every run.
    pub uuid: Uuid,
    /// The engine that is to run it; the best that this host has for it if none is named.
    pub engine: Option<EngineKind>,
    /// Its processor.
    pub arch: Arch,
    /// Its memory.
    pub memory: ByteSize,
    /// Its virtual CPUs.
    pub cpus: u16,
    /// What it boots.
    pub boot: Boot,
    /// Its disk, if it has one.
    pub disk: Option<DiskSpec>,
    /// How its screen is seen, if it has one.
    pub display: Option<Display>,
    /// Its network adapters, in order.
    pub nics: Vec<LaunchNic>,
    /// The folder for what lasts: disk overlay, seed, `console.log`, `engine.log`.
    pub state_dir: PathBuf,
    /// The folder for what lasts as long as the process: `qmp.sock`, `console.sock`, `agent.sock`, `qga.sock`,
    /// `process.json`.
    pub run_dir: PathBuf,
    /// The folder for what can be had again, like unpacked kernels.
    pub cache_dir: PathBuf,
    /// Weft's own program, whose role `vmm` is the engine `kvm`.
    pub weft: PathBuf,
}

impl LaunchSpec {
    /// What its kernel is told: its command line, and how the machine is called. Linux passes over what it does not know
    /// and has a dot; guests of ours read it. Who says nothing may have another system, which is told nothing.
    pub(crate) fn words_for_kernel(&self, cmdline: &str) -> String {
        match cmdline {
            "" => String::new(),
            words => format!("{words} weft.hostname={}", self.name),
        }
    }
}

/// A network adapter of a machine to be launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchNic {
    /// Its MAC address.
    pub mac: MacAddr,
    /// The vhost-user socket at which the switch listens for it.
    pub socket: PathBuf,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
}

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A kernel that the engine loads itself.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
        /// The kernel's command line.
        cmdline: String,
    },
    /// What the firmware finds on its disk.
    Firmware(Firmware),
}

/// A disk, of which the machine gets a copy-on-write overlay; or a CD, beside which it gets an empty disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// The disk; never written to.
    pub base: PathBuf,
    /// Its format; never guessed from its contents, which a guest may have written.
    pub format: DiskFormat,
    /// The overlay's size, when it is to be larger than the disk; that of the empty disk.
    pub size: Option<ByteSize>,
    /// What cloud-init is told.
    pub seed: Option<Seed>,
}

/// What cloud-init is told through a NoCloud volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The machine's host name.
    pub hostname: String,
    /// An SSH public key for the image's default user and for root.
    pub ssh_key: Option<String>,
    /// User data as the user wrote it.
    pub user_data: Option<String>,
    /// The adapters that are to be configured.
    pub nics: Vec<SeedNic>,
}

/// A network adapter as cloud-init is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedNic {
    /// By this address it is recognised.
    pub mac: MacAddr,
    /// How it gets its address.
    pub setup: NicSetup,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
}

/// How a guest's adapter gets its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicSetup {
    /// From the network's DHCP server.
    Dhcp,
    /// It has a fixed one, on a network without a DHCP server.
    Static {
        /// The address.
        address: Ipv4Addr,
        /// The length of its network's prefix.
        prefix_len: u8,
        /// The way to everything else, if there is one.
        router: Option<Ipv4Addr>,
        /// Who knows names, and the domain in which names without a dot are looked up.
        dns: Option<(Ipv4Addr, String)>,
    },
    /// The guest must know.
    Nothing,
}

/// A universally unique identifier (RFC 9562).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// A stable identifier for `seed`: version 8, made from the text's SHA-256 (RFC 9562, section 5.8).
    pub fn derive(seed: &str) -> Self {
        let digest = Sha256::digest(seed.as_bytes());
        let mut octets = [0; 16];
        octets.copy_from_slice(&digest[..16]);
        octets[6] = octets[6] & 0x0f | 0x80;
        octets[8] = octets[8] & 0x3f | 0x80;
        Self(octets)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, octet) in self.0.iter().enumerate() {
            let hyphen = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{hyphen}{octet:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_stable_and_marked_as_version_8() {
        let uuid = Uuid::derive("home/web").to_string();
        assert_eq!(uuid, Uuid::derive("home/web").to_string());
        assert_ne!(uuid, Uuid::derive("home/db").to_string());
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "8"));
    }
}
