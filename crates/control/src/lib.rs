//! Desired and observed state to a plan, and the plan to reality: idempotent and resumable.
//!
//! Desired state lives in the store and nowhere else. Every piece of work follows one pattern: read what is desired
//! ([`desired`]), look at what is there ([`observed`]), compute the difference ([`plan`], a pure function), carry it
//! out ([`execute`]). Each step can be done again without harm, so a daemon that is killed anywhere is healed by the
//! next one planning again. All side effects go through one trait, [`host`], so that tests can run the whole daemon
//! on a simulated host and kill it between any two of them.

mod controller;
mod error;
mod paths;

pub use controller::{Controller, VmAction};
pub use error::ControlError;
pub use paths::{Paths, PathsError};
