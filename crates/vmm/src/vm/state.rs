//! What a machine's state is, as plain data: all that is not in the guest's memory.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_debugregs, kvm_irqchip,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
    kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::virtio::TransportState;

/// The version of what follows; it changes whenever that means something else.
const VERSION: u32 = 1;
/// Registers that one call reads.
const MSRS_AT_ONCE: usize = 64;

/// The state of a machine that stands still.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MachineState {
    /// Which version of this structure it is.
    pub version: u32,
    /// Nanoseconds on the guest's paravirtual clock.
    pub clock_ns: u64,
    /// The processors, by number.
    pub vcpus: Vec<VcpuState>,
    /// Both old interrupt controllers, and the I/O APIC.
    pub irqchips: Vec<kvm_irqchip>,
    /// The old timer.
    pub pit: kvm_pit_state2,
    /// The serial port.
    pub serial: Value,
    /// The virtio functions, in the order in which they are plugged in.
    pub functions: Vec<TransportState>,
}

/// The state of a processor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VcpuState {
    run: kvm_mp_state,
    registers: kvm_regs,
    system: kvm_sregs,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    lapic: kvm_lapic_state,
    control: kvm_xcrs,
    vector: kvm_xsave,
    msrs: Vec<kvm_msr_entry>,
    tsc_khz: u32,
}

impl MachineState {
    pub(super) const VERSION: u32 = VERSION;
}

impl VcpuState {
    /// Reads the state of a processor that stands still.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(super) fn read(fd: &VcpuFd, msrs: &[u32]) -> Result<Self, kvm_ioctls::Error> {
        // The order matters: whether it runs is read first, because that settles events that are on their way.
        Ok(Self {
            run: fd.get_mp_state()?,
            registers: fd.get_regs()?,
            system: fd.get_sregs()?,
            debug: fd.get_debug_regs()?,
            events: fd.get_vcpu_events()?,
            lapic: fd.get_lapic()?,
            control: fd.get_xcrs()?,
            vector: fd.get_xsave()?,
            msrs: read_msrs(fd, msrs)?,
            tsc_khz: fd.get_tsc_khz().unwrap_or(0),
        })
    }
}

/// The registers that KVM can save.
pub(super) fn saved_msrs(kvm: &Kvm) -> Result<Vec<u32>, kvm_ioctls::Error> {
    Ok(kvm.get_msr_index_list()?.as_slice().to_vec())
}

/// Reads registers; one that this processor lacks is left out.
fn read_msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, kvm_ioctls::Error> {
    let mut read = Vec::new();
    let mut left = indices;
    while !left.is_empty() {
        let some = &left[..left.len().min(MSRS_AT_ONCE)];
        let entries: Vec<_> = some.iter().map(|&index| kvm_msr_entry { index, ..kvm_msr_entry::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
        let count = fd.get_msrs(&mut msrs)?;
        read.extend_from_slice(&msrs.as_slice()[..count]);
        // KVM stops at the first that it cannot read.
        left = &left[if count < some.len() { count + 1 } else { count }..];
    }
    Ok(read)
}

/// Reads the interrupt controllers.
pub(super) fn irqchips(vm: &VmFd) -> Result<Vec<kvm_irqchip>, kvm_ioctls::Error> {
    let read = |chip_id| {
        let mut chip = kvm_irqchip { chip_id, ..kvm_irqchip::default() };
        vm.get_irqchip(&mut chip).map(|()| chip)
    };
    [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC].into_iter().map(read).collect()
}
