//! The host's side of the guest's agents, against the real agent as a process, and against liars.

mod agent;
mod bed;
mod hostile;
mod qemu;
