//! The command line against daemons that are none: what it says, and what it passes through.

mod bed;
mod console;
mod exec;
mod generated;
mod metal;
mod transcripts;
