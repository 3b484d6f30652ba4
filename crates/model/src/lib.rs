//! What a user may ask for (file, API): plain data, validated once, every problem reported with its place.

mod acl;
mod adapters;
mod arch;
mod check;
mod dhcp;
mod dhcp_options;
mod disk;
mod files;
mod forward;
mod image;
mod ipv6;
mod load;
mod mirror;
mod names;
mod port_keys;
mod problem;
pub mod qcow2;
mod read;
mod router;
mod rule;
mod shares;
mod switch_file;
mod team;
mod uplink;
pub mod view;
mod world;

pub use acl::{Acl, DeclaredRule};
pub use arch::{Arch, Firmware, KERNEL_HEAD_BYTES, Platform};
pub use check::{Finding, HostFacts, findings};
pub use disk::{Disk, DiskFault};
pub use forward::Forward;
pub use load::{load, parse_world};
pub use mirror::{Mirror, MirrorTo, MirrorToError};
pub use problem::{Problem, Report};
pub use read::nearest;
pub use router::Router;
pub use rule::{End, Rule, RuleError, parse_filter, parse_traffic};
pub use switch_file::{Monitor, Plug, SwitchFile, SwitchMode, SwitchPort, load_switch, parse_switch};
pub use team::{Team, TeamMode};
pub use uplink::Uplink;
pub use world::{
    Dhcp, DiskFormat, Display, EngineKind, Image, ImageDisk, ImageSource, Mode, Network, Nic, PortRules, Ready, Vm,
    World,
};

/// The name of the image that Weft builds itself.
pub const MICRO: &str = "micro";
