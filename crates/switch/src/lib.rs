//! The virtual switch, sans-IO: frames and time in, decisions out.
//!
//! [`Switch::configure`] gives it vSwitches and ports, [`Switch::forward`] decides about a frame, and
//! [`Switch::explain`] says why. Its laws stand in `docs/ARCHITECTURE.md`:
//!
//! 1. What is known about stations was registered ([`PortConfig::macs`], [`Switch::set_receive_filter`]); learning is
//!    for ports that ask for it.
//! 2. No path joins two vSwitches, nor an uplink with an uplink; so there are no loops.
//! 3. Unicast goes to the one port, or to the uplink, or nowhere; groups go to those who listen; nothing goes back.
//! 4. VLANs are worlds of their own ([`Vlans`]).
//! 5. A port speaks for itself only ([`Policy`], [`Addresses`]).
//! 6. Connections begin where a network's access list lets them ([`Acl`]), and what answers passes; who is rejected is
//!    told ([`Switch::answer`]).
//! 7. Mirrors get copies ([`Mirror`], [`Switch::copies`]), and change nothing.
//! 8. As a VEPA it leaves switching to the adjacent switch ([`Mode`]); several uplinks are one way out ([`Team`]).
//! 9. Ports are as fast as they may be ([`Rates`]), each way; what has to wait does so in a [`Shaper`].

mod bindings;
mod bucket;
mod cache;
mod config;
mod connections;
mod counters;
mod difference;
mod drop_log;
mod explain;
mod filter;
mod frame;
mod learned;
mod meters;
mod packet;
mod pipeline;
mod rejection;
mod rule_log;
mod rules;
mod shaper;
mod switch;
mod table;
mod validate;
mod verdict;

pub use cache::Foreseen;
pub use config::{
    Acl, Addresses, Config, ConfigError, Direction, Endpoint, Excess, MAX_MIRRORS, MAX_RULES, Mirror, MirrorFilter,
    MirrorId, MirrorTarget, Mode, Permission, Policy, PortConfig, Rate, Rates, Role, Rule, Segment, Team, TeamMode,
    Traffic, VSwitchConfig, VSwitchId, Vlans,
};
pub use drop_log::DroppedFrame;
pub use explain::{EgressPort, Outcome, Step, Trace};
pub use filter::{Denial, FilterReport, MAX_FILTER_GROUPS, MAX_FILTER_STATIONS, ReceiveFilter};
pub use frame::MAX_FRAME_BYTES;
pub use rule_log::{Logged, RuleLog};
pub use shaper::Shaper;
pub use switch::{CacheStats, Switch};
pub use verdict::{DropReason, MirrorCopy, Output, Verdict};
