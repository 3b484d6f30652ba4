//! Desired and observed state to a plan, and the plan to reality: idempotent and resumable.
//!
//! Desired state lives in the store and nowhere else. Every piece of work follows one pattern: read what is desired
//! ([`desired`]), look at what is there ([`observed`]), compute the difference ([`mod@plan`], a pure function), carry it
//! out. Each step can be done again without harm, so a daemon that is killed anywhere is healed by the next one
//! planning again. All side effects go through one trait ([`host`]), so that tests can run the whole daemon on a
//! simulated host and kill it between any two of them.
//!
//! ```text
//! propose ──one transaction──> store ──> operations ──plan──> execute ──> perform ──> host
//!    ^ conflicts, memory         ^                                          │
//!    │                           └── fates ── supervise <── process ended ──┤
//! controller (the API)                        ready <────── process started ┘
//! ```

#![allow(clippy::result_large_err, reason = "a problem is told to a person, and costs a move once")]

mod access;
mod boot;
mod conflicts;
mod controller;
pub mod desired;
mod dormant;
mod error;
mod events;
mod execute;
pub mod host;
mod images;
mod inner;
pub mod launch;
mod listen;
mod metadata;
pub mod objects;
pub mod observed;
mod operations;
mod paths;
mod perform;
pub mod plan;
mod plan_network;
#[cfg(test)]
mod plan_tests;
mod propose;
mod ready;
mod real_host;
mod renew;
mod router;
#[cfg(test)]
mod sample;
pub mod shells;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod simulation_tests;
mod state;
mod supervise;
mod switch_process;
mod undo;
mod view;
mod watch;

pub use access::{acl_config, known_addresses, mirror_configs};
pub use controller::{Controller, VmAction};
pub use dormant::is_dormant;
pub use error::ControlError;
pub use listen::{Adapter, Listener};
pub use paths::{Paths, PathsError};
pub use view::{acl_view, history_view, mirror_views, port_views, switch_view};
