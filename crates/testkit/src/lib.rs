//! What tests share: namespaces, virtual bare metal, frame builders, a virtual machine that is not one.

mod fake_vm;
mod foreign;
mod frames;
mod guest;
mod metal;
mod netns;
mod vmm_link;

pub use fake_vm::{FakeVm, MEMORY_BYTES, Received, VM_FEATURES, VMM_ADDRESS};
pub use foreign::Foreign;
pub use frames::{arp_request, ethernet, mac, tcp4, udp4};
pub use guest::{Guest, SocketHandle, tcp};
pub use metal::{CableEnd, Metal, Outcome, Running, cable, in_metal, is_in_metal};
pub use netns::{Netns, in_netns, in_netns_of_root, is_in_netns, what_the_host_has};
pub use vmm_link::{Request, VmmLink, event, guest_memory};

/// Says loudly that a test did not run, and what is missing.
pub fn skipped(test: &str, missing: &str) {
    eprintln!("SKIPPED {test}: {missing}");
}
