//! The virtual switch, sans-IO: frames and time in, decisions out.
//!
//! [`Switch::configure`] gives it vSwitches and ports, [`Switch::forward`] decides about a frame, and
//! [`Switch::explain`] says why. Its laws stand in `docs/ARCHITECTURE.md`:
//!
//! 1. What is known about stations was registered, never learned ([`PortConfig::macs`]).
//! 2. No path joins two vSwitches, nor an uplink with an uplink; so there are no loops.
//! 3. Unicast goes to the one port, or to the uplink, or nowhere; groups go to all; nothing goes back.

mod cache;
mod config;
mod counters;
mod explain;
mod pipeline;
mod switch;
mod table;
mod validate;
mod verdict;

pub use config::{Config, ConfigError, Policy, PortConfig, Role, VSwitchConfig, VSwitchId};
pub use explain::{EgressPort, Outcome, Step, Trace};
pub use switch::{CacheStats, MAX_FRAME_BYTES, Switch};
pub use verdict::{DropReason, Verdict};
