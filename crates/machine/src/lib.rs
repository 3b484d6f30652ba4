//! Machines: engines, images, disks, consoles and the guest agent's host side.
