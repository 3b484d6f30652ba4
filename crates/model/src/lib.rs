//! What a user may ask for (file, API): plain data, validated once, every problem reported with its place.

pub mod view;
mod world;

pub use world::{Dhcp, DiskFormat, EngineKind, Image, ImageSource, Mode, Network, Nic, Ready, Vm, World};
