//! What a machine was started as, so that a change of its declaration shows exactly what would have to change.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_machine::NicSetup;
use weft_model::{Arch, DiskFormat, Display, EngineKind, ImageDisk, ImageSource};
use weft_types::{ByteSize, Label, MacAddr, NetworkName, Shares};

/// How long a machine without anything to lose is asked to go down before it is ended.
const GRACE: Duration = Duration::from_millis(700);
/// The same for one with a disk, whose guest has caches to write: as long as systemd gives a service that does not end.
pub(crate) const GRACE_WITH_DISK: Duration = Duration::from_secs(90);

/// Everything a machine is started with. It is written down beside the machine before it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Its image's name.
    pub image: Label,
    /// What the image is; `None` for one that Weft builds.
    pub source: Option<ImageSource>,
    /// The engine that was asked for.
    #[serde(default)]
    pub engine: Option<EngineKind>,
    /// Its memory.
    pub memory: ByteSize,
    /// Its virtual CPUs.
    pub cpus: u16,
    /// Its adapters, in order.
    pub nics: Vec<NicLaunch>,
    /// What is appended to the kernel's command line.
    pub cmdline: Option<String>,
    /// An SSH public key for cloud-init.
    pub ssh_key: Option<String>,
    /// User data for cloud-init.
    pub user_data: Option<String>,
    /// The disk's size, when it is to be larger than the image's.
    pub disk_size: Option<ByteSize>,
    /// How its screen is seen, if it has one.
    #[serde(default)]
    pub display: Option<Display>,
    /// What it may take of the host.
    #[serde(default)]
    pub shares: Shares,
    /// How often a command has asked for a restart.
    pub restarts: u64,
}

/// An adapter of a machine that is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicLaunch {
    /// Its network.
    pub network: NetworkName,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// What cloud-init is told; it asks at boot, so a change of it is no reason to restart.
    pub setup: NicSetup,
}

/// What it takes to make a machine that was started as one [`Launch`] into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Nothing.
    None,
    /// Other shares of the host, while it runs.
    Shares,
    /// A restart, for these reasons.
    Restart(Vec<String>),
    /// A new disk and a restart, for these reasons.
    Recreate(Vec<String>),
}

impl Launch {
    /// What it takes to make this machine into `wanted`.
    pub fn difference(&self, wanted: &Self) -> Difference {
        let mut why = Vec::new();
        let mut differs = |what: &str, old: &dyn std::fmt::Display, new: &dyn std::fmt::Display| {
            let (old, new) = (old.to_string(), new.to_string());
            if old != new {
                why.push(format!("{what} {old} -> {new}"));
            }
        };
        differs("image", &self.image, &wanted.image);
        differs("memory", &self.memory, &wanted.memory);
        differs("cpus", &self.cpus, &wanted.cpus);
        if self.image == wanted.image && self.source != wanted.source {
            why.push(format!("image `{}` is another one now", wanted.image));
        }
        if !self.nics.iter().map(NicLaunch::wiring).eq(wanted.nics.iter().map(NicLaunch::wiring)) {
            why.push("adapters changed".to_owned());
        }
        let texts = [
            ("engine", self.engine == wanted.engine),
            ("cmdline", self.cmdline == wanted.cmdline),
            ("ssh_key", self.ssh_key == wanted.ssh_key),
            ("user_data", self.user_data == wanted.user_data),
            ("disk_size", self.disk_size == wanted.disk_size),
            ("display", self.display == wanted.display),
        ];
        why.extend(texts.iter().filter(|(_, same)| !same).map(|(key, _)| format!("{key} changed")));
        if self.restarts != wanted.restarts {
            why.push("asked for by a command".to_owned());
        }
        match (why.is_empty(), self.base() == wanted.base()) {
            (true, _) if self.shares != wanted.shares => Difference::Shares,
            (true, _) => Difference::None,
            (false, true) => Difference::Restart(why),
            // A disk's overlay holds only differences from its own base: on another base they mean nothing.
            (false, false) => Difference::Recreate(why),
        }
    }

    /// The disk that its own is an overlay over.
    pub fn disk(&self) -> Option<&ImageDisk> {
        self.source.as_ref().and_then(ImageSource::disk)
    }

    /// What its disk stands on. One beside a CD stands on nothing, whichever CD that is.
    fn base(&self) -> Option<(&Path, DiskFormat)> {
        self.disk().map(|disk| match disk.format {
            DiskFormat::Iso => (Path::new(""), DiskFormat::Iso),
            format => (disk.path.as_path(), format),
        })
    }

    /// Its processor.
    pub fn arch(&self) -> Arch {
        self.source.as_ref().map_or(Arch::X86, ImageSource::arch)
    }

    /// Whether it has a disk of its own.
    pub fn has_disk(&self) -> bool {
        self.disk().is_some()
    }

    /// How long its guest is asked to go down before it is ended.
    pub fn grace(&self) -> Duration {
        if self.has_disk() { GRACE_WITH_DISK } else { GRACE }
    }
}

impl NicLaunch {
    /// What only a restart can change.
    fn wiring(&self) -> (&NetworkName, MacAddr, u16) {
        (&self.network, self.mac, self.mtu)
    }
}
