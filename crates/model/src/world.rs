//! A world: the networks, machines and images that one file declares, validated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_types::{
    Allowance, Boot, ByteSize, ClientKey, Dhcp6, DnsNames, IpNet, Ipv4Net, Ipv4Run, Ipv6Net, Label, MacAddr, MacRange,
    NetworkName, PortRates, PortVlans, Provenance, Shares, VmName,
};

use crate::{Acl, Arch, Firmware, Forward, Mirror, Router, Uplink};

/// Everything that one file declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// The networks.
    pub networks: BTreeMap<NetworkName, Network>,
    /// The images that the file describes itself; `micro` is built in and not among them.
    pub images: BTreeMap<Label, Image>,
    /// The machines.
    pub vms: BTreeMap<VmName, Vm>,
    /// What joins networks.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Router>)]
    pub routers: BTreeMap<Label, Router>,
}

/// How a network reaches what lies outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Through Weft's NAT device.
    Nat,
    /// Not at all: its VMs and the host only.
    HostOnly,
    /// Not at all: its VMs only, not even the host.
    Internal,
    /// By an interface of the host: its VMs stand on the LAN behind that.
    Bridged,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// How it reaches the outside.
    pub mode: Mode,
    /// By what it reaches the LAN; bridged networks only.
    #[serde(default)]
    pub uplink: Option<Uplink>,
    /// Its addresses. Where the file names none, validation has chosen one that clashes with no other. Those of a bridged
    /// network are the LAN's, any that there are: `0.0.0.0/0`.
    #[schema(value_type = String, example = "10.20.0.0/24")]
    pub subnet: Ipv4Net,
    /// The gateway's address: the file's, or the subnet's first; `0.0.0.0` where the LAN has its own.
    #[schema(value_type = String, format = "ipv4")]
    pub gateway: Ipv4Addr,
    /// Its IPv6 prefix, 64 bits long; the gateway has the first address of it. `None` where there is no IPv6 of ours.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "fd12:3456:789a:1::/64")]
    pub subnet6: Option<Ipv6Net>,
    /// What of DHCPv6 it has: `stateless`, or nothing.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "stateless")]
    pub dhcp6: Option<Dhcp6>,
    /// Whether the host's own services are reachable at the gateway's address.
    pub host_access: bool,
    /// The adapters by which the host itself stands on it, with its addresses there.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>, example = json!({"weft-lab": "10.20.0.254"}))]
    pub adapters: BTreeMap<Label, Ipv4Addr>,
    /// The DHCP server; `None` when the file turns it off.
    pub dhcp: Option<Dhcp>,
    /// Whether the gateway answers names.
    pub dns: bool,
    /// What names it answers beside those of the machines, and who knows others.
    #[serde(default)]
    pub names: DnsNames,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// Who may begin what with whom.
    #[serde(default)]
    pub acl: Acl,
    /// Who gets copies of which frames.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Mirror>)]
    pub mirrors: BTreeMap<Label, Mirror>,
    /// What of the host's ports leads to its machines.
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// Where it is declared.
    pub provenance: Provenance,
}

impl Network {
    /// Whether the host has this address there.
    pub fn is_of_host(&self, ip: Ipv4Addr) -> bool {
        self.adapters.values().any(|own| *own == ip)
    }
}

/// A network's DHCP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dhcp {
    /// First address of the pool.
    #[schema(value_type = String, format = "ipv4")]
    pub first: Ipv4Addr,
    /// Last address of the pool.
    #[schema(value_type = String, format = "ipv4")]
    pub last: Ipv4Addr,
    /// How long a lease lasts.
    #[schema(value_type = Object, example = json!({"secs": 3600, "nanos": 0}))]
    pub lease: Duration,
    /// Addresses inside of the pool that nobody gets.
    #[serde(default)]
    pub excluded: Vec<Ipv4Run>,
    /// Addresses that are kept for clients other than the file's machines.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub kept: BTreeMap<ClientKey, Ipv4Addr>,
    /// What clients are told besides what follows from the network, by the number of the option, as it is sent.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Vec<u8>>)]
    pub options: BTreeMap<u8, Vec<u8>>,
    /// What clients boot that ask the network for it.
    #[serde(default)]
    pub boot: Option<Boot>,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// The name of its image: `micro`, one that the file describes, or one that the host keeps.
    pub image: Label,
    /// What the image is, if it is one that the host keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_image: Option<ImageSource>,
    /// Its memory.
    pub memory: ByteSize,
    /// Its virtual CPUs.
    pub cpus: u16,
    /// The engine, or the best that this host has.
    pub engine: Option<EngineKind>,
    /// Its network adapters, in order.
    pub nics: Vec<Nic>,
    /// What is written to the kernel's command line beyond what the image says.
    pub cmdline: Option<String>,
    /// An SSH public key for images that run cloud-init.
    pub ssh_key: Option<String>,
    /// cloud-init user data, as it stands in the file that the key names.
    pub user_data: Option<String>,
    /// The size of the disk, when it is to be larger than the image's.
    pub disk_size: Option<ByteSize>,
    /// How its screen is seen, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
    /// What it may take of the host.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"cpu_weight": 300, "cpu_limit": "150%", "cpu_pin": "0,2-3"}))]
    pub shares: Shares,
    /// When the machine counts as ready.
    pub ready: Ready,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// A machine's network adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The network it plugs into.
    pub network: NetworkName,
    /// Its fixed address, kept for it by the network's DHCP server.
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub ip: Option<Ipv4Addr>,
    /// Its MAC address: the file's, or one derived from the names of VM and network.
    pub mac: MacAddr,
    /// What its port may be and do beyond the ordinary.
    #[serde(default)]
    pub port: PortRules,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// What a port may be and do beyond the ordinary: by default it is in no VLAN, and speaks for itself only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PortRules {
    /// The VLANs of its frames.
    pub vlans: PortVlans,
    /// Addresses and prefixes that are its own, besides those that it is known to have.
    #[schema(value_type = Vec<String>, example = json!(["10.8.0.0/24", "fd00::/64"]))]
    pub addresses: Vec<IpNet>,
    /// MAC addresses that are its own, besides the adapter's.
    pub macs: Vec<MacAddr>,
    /// Runs of MAC addresses that are its own, for a nested hypervisor.
    pub mac_ranges: Vec<MacRange>,
    /// How many stations behind it may be learned from the frames that they send.
    pub learn: u32,
    /// What it is allowed.
    pub allow: BTreeSet<Allowance>,
    /// How fast it may be.
    pub rates: PortRates,
}

/// What runs a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// QEMU, with KVM where the hardware has it.
    Qemu,
    /// Weft's own VMM on KVM.
    Kvm,
    /// User-Mode Linux: a kernel that is a program of the host's.
    Uml,
}

/// When a machine counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// Its agent answers, and each adapter on a network with DHCP holds a lease.
    Agent,
    /// Each adapter on a network with DHCP holds a lease.
    Lease,
    /// Its process runs.
    Running,
}

/// How a machine's screen is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Display {
    /// By VNC (RFC 6143): it has a graphics adapter, a keyboard and a tablet.
    Vnc,
}

/// What a machine is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// What it consists of.
    pub source: ImageSource,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// The kinds of images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum ImageSource {
    /// A kernel, and usually an initial RAM disk.
    Kernel {
        /// The kernel's absolute path.
        #[schema(value_type = String)]
        kernel: PathBuf,
        /// The initial RAM disk's absolute path.
        #[schema(value_type = Option<String>)]
        initrd: Option<PathBuf>,
        /// The kernel's command line.
        cmdline: String,
        /// A disk beside it, of which each machine gets a copy-on-write overlay.
        #[serde(default)]
        disk: Option<ImageDisk>,
        /// The processor that it is for.
        #[serde(default)]
        arch: Arch,
    },
    /// A disk that boots by itself, of which each machine gets a copy-on-write overlay.
    Disk(ImageDisk),
}

/// A disk of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageDisk {
    /// The disk's absolute path.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// Its format; found out by looking at the file when the user did not say.
    pub format: DiskFormat,
    /// The processor that its system is for, if it boots by itself.
    #[serde(default)]
    pub arch: Arch,
    /// The firmware that boots it, if it boots by itself and the file says which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
}

impl World {
    /// Lets each VM whose image the file does not describe have the one of that name which the host keeps.
    pub fn find_kept_images(&mut self, kept: &BTreeMap<Label, ImageSource>) {
        for vm in self.vms.values_mut() {
            vm.kept_image = kept.get(&vm.image).filter(|_| !self.images.contains_key(&vm.image)).cloned();
        }
    }

    /// What a VM's image is; `None` for one that Weft builds itself.
    pub fn source<'a>(&'a self, vm: &'a Vm) -> Option<&'a ImageSource> {
        vm.kept_image.as_ref().or_else(|| self.images.get(&vm.image).map(|image| &image.source))
    }
}

impl ImageSource {
    /// The processor that it is for.
    pub fn arch(&self) -> Arch {
        match self {
            Self::Kernel { arch, .. } => *arch,
            Self::Disk(disk) => disk.arch,
        }
    }

    /// The image's disk, if it has one.
    pub fn disk(&self) -> Option<&ImageDisk> {
        match self {
            Self::Kernel { disk, .. } => disk.as_ref(),
            Self::Disk(disk) => Some(disk),
        }
    }
}

/// The formats of disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
    /// A medium of ISO 9660, as on a CD: each machine has it in its drive, and an empty disk of its own.
    Iso,
}

impl DiskFormat {
    /// Its name, as users write it and as QEMU knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Iso => "iso",
        }
    }
}
