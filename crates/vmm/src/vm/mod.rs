//! The machine on KVM: the only part that knows it.

mod cpuid;
mod irq;
mod machine;
mod state;
mod vcpu;

pub use irq::Routes;
pub use machine::{Machine, MachineError, Parts};
pub use state::{MachineState, VcpuState};
