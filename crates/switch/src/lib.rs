//! The virtual switch, sans-IO: frames and time in, decisions out.
//!
//! A [`Switch`] holds every vSwitch of one data plane. It never learns: where a MAC address is, is what its
//! [`Config`] says (law 1 of docs/ARCHITECTURE.md). [`Switch::forward`] asks the flow cache first and runs the
//! [`pipeline`] on a miss; [`Switch::explain`] runs the same pipeline with its eyes open.
//!
//! Nothing here does I/O, reads a clock, or panics on a frame.

mod cache;
mod config;
mod counters;
mod explain;
mod pipeline;
mod switch;
mod table;
mod verdict;

pub use cache::CacheStats;
pub use config::{Config, ConfigError, Policy, PortConfig, Role, VSwitchConfig, VSwitchId};
pub use counters::DropReason;
pub use explain::{EgressPort, Outcome, Step, Trace};
pub use switch::Switch;
pub use verdict::{Egress, Verdict};

/// The bytes of a frame's head that a decision may need; more are not looked at.
pub const HEAD_BYTES: usize = 128;
