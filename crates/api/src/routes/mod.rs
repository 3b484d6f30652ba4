//! The handlers, a file for each kind of object.

pub(crate) mod capture;
pub(crate) mod events;
pub(crate) mod forwards;
pub(crate) mod host;
pub(crate) mod images;
mod log;
pub(crate) mod operations;
pub(crate) mod shells;
pub(crate) mod vms;
pub(crate) mod world;
