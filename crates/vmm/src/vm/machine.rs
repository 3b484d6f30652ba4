//! A machine: memory, processors, interrupt controllers and devices, put together on KVM.

use std::io;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, Msrs, kvm_clock_data, kvm_msr_entry, kvm_pit_config,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::cpuid;
use super::irq::Routes;
use super::state::{MachineState, VcpuState, irqchips, saved_msrs};
use super::vcpu::{Buses, Vcpu, prepare_signals};
use crate::boot::{self, Boot, Entry, KernelError};
use crate::bus::{Bus, Shared, lock};
use crate::devices::{Endings, PanicPort, PowerButton, PowerPort, ResetPort, SerialPort};
use crate::event::counter;
use crate::jail::{self, Role};
use crate::large_pages::Gatherer;
use crate::layout::{
    ECAM, ECAM_BYTES, EVENT_GSI, KEYBOARD_PORT, KVM_IDENTITY_MAP, KVM_TSS, PANIC_PORT, PCI_CONFIG_PORT, PCI_WINDOW,
    POWER_PORT, SERIAL_GSI, SERIAL_PORT,
};
use crate::memory::{GuestMemory, MemoryError};
use crate::pci::{ConfigPorts, Ecam, PciRoot, Windows};
use crate::terminal::Terminal;
use crate::virtio::{Device, Transport, Worker, WorkerError};

/// Memory types of the whole machine: write-back where nothing else is said.
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;
/// String instructions are fast.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// Registers of the local APIC: what its two pins do.
const LAPIC_LINT0: usize = 0x350;
const LAPIC_LINT1: usize = 0x360;
const DELIVER_EXTERNAL: u8 = 7;
const DELIVER_NMI: u8 = 4;

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// KVM refuses.
    #[error("KVM cannot {0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
    /// KVM lacks something.
    #[error("This host's KVM lacks {0}")]
    Lacks(&'static str),
    /// More processors than there can be.
    #[error("A machine here has 1 to {1} processors, not {0}")]
    Cpus(u8, usize),
    /// There are more devices than a bus has room for.
    #[error("A machine has at most 31 disks, adapters and other functions")]
    Functions,
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// No thread.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The system refuses.
    #[error("Cannot put the machine together: {0}")]
    System(#[from] io::Error),
}

/// What a machine is made of.
pub struct Parts<'a> {
    /// KVM.
    pub kvm: &'a Kvm,
    /// The guest's memory, all of it zero.
    pub memory: &'a GuestMemory,
    /// Whether the guest gets large pages where it can.
    pub large_pages: bool,
    /// What is booted.
    pub boot: Boot<'a>,
    /// The other end of the serial port.
    pub serial: Shared<Terminal>,
    /// The virtio devices, in the order in which the guest finds them.
    pub devices: Vec<Box<dyn Device>>,
    /// Whether the machine's threads may do only what they need to.
    pub jailed: bool,
}

/// A machine. It stands still until [`Machine::resume`], and ends when it is dropped.
pub struct Machine {
    // The order is the one in which they are dropped: processors, then device threads, then devices.
    vcpus: Vec<Vcpu>,
    workers: Vec<Worker>,
    functions: Vec<Shared<Transport>>,
    serial: Shared<SerialPort>,
    button: Shared<PowerButton>,
    endings: Arc<Endings>,
    vm: Arc<VmFd>,
    msrs: Vec<u32>,
    /// The guest's clock, while it stands still.
    clock: Option<kvm_clock_data>,
    /// Gathers the guest's memory into large pages.
    _gatherer: Option<Gatherer>,
}

impl Machine {
    /// Puts a machine together.
    ///
    /// # Errors
    /// When a part is missing or does not fit.
    pub fn new(parts: Parts<'_>) -> Result<Self, MachineError> {
        let Parts { kvm, memory, large_pages, boot, serial, devices, jailed } = parts;
        check(kvm, boot.cpus)?;
        prepare_signals()?;
        let memory = memory.clone();
        let vm = Arc::new(create_vm(kvm, &memory)?);
        let routes = Arc::new(Routes::new(vm.clone()));
        let endings = Arc::new(Endings::new()?);
        let (serial_line, event_line) = (counter()?, counter()?);
        routes.line(SERIAL_GSI, &serial_line)?;
        routes.line(EVENT_GSI, &event_line)?;
        let serial = Arc::new(Mutex::new(SerialPort::new(serial_line, serial)));
        let button = Arc::new(Mutex::new(PowerButton::new(event_line)));

        let mut root = PciRoot::default();
        let (mut functions, mut workers) = (Vec::new(), Vec::new());
        for device in devices {
            let at = root.next_registers().ok_or(MachineError::Functions)?;
            let role = Role::of_device(device.kind());
            let transport = Transport::new(device, memory.clone(), Box::new(routes.function()), at)?;
            let transport = Arc::new(Mutex::new(transport));
            root.plug(transport.clone());
            workers.push(Worker::start(transport.clone(), move || jail::enter(role, jailed))?);
            functions.push(transport);
        }
        let buses = Arc::new(buses(root, &serial, &button, &endings));
        let mut gatherer = large_pages.then(|| Gatherer::new(memory.clone()));
        let entry = boot::load(&memory, &boot, &mut |range| {
            if let Some(gatherer) = &mut gatherer {
                gatherer.gather_now(&range);
            }
        })?;
        let gatherer = gatherer.map(|mut gatherer| {
            gatherer.gather_end();
            gatherer.start(move || jail::enter(Role::Memory, jailed))
        });
        let gatherer = gatherer.transpose()?;
        let msrs = saved_msrs(kvm).map_err(|error| MachineError::Kvm("list registers", error))?;
        let mut vcpus = Vec::new();
        for id in 0..boot.cpus {
            let fd = create_vcpu(kvm, &vm, id, boot.cpus, &entry)?;
            let vcpu = Vcpu::start(id, fd, buses.clone(), endings.clone(), move || jail::enter(Role::Vcpu, jailed))?;
            vcpus.push(vcpu);
        }
        Ok(Self { vcpus, workers, functions, serial, button, endings, vm, msrs, clock: None, _gatherer: gatherer })
    }

    /// Where the machine's end is told.
    pub fn endings(&self) -> &Endings {
        &self.endings
    }

    /// The serial port.
    pub fn serial(&self) -> &Shared<SerialPort> {
        &self.serial
    }

    /// Asks the guest to power off.
    ///
    /// # Errors
    /// When the interrupt cannot be raised.
    pub fn press_power_button(&self) -> io::Result<()> {
        lock(&self.button).press()
    }

    /// Has everything stand still: when this returns, nothing changes the machine any more.
    ///
    /// # Errors
    /// When KVM cannot tell the time.
    pub fn pause(&mut self) -> Result<(), MachineError> {
        self.vcpus.iter().for_each(Vcpu::park);
        self.vcpus.iter().for_each(Vcpu::wait);
        for vcpu in &self.vcpus {
            // A guest that does not use the clock cannot be told that it stood still, and need not be.
            let _ = vcpu.fd().kvmclock_ctrl();
        }
        let clock = self.vm.get_clock().map_err(|error| MachineError::Kvm("tell the time", error))?;
        // Only the time itself is put back: not what the host's clocks said meanwhile.
        self.clock = Some(kvm_clock_data { clock: clock.clock, ..kvm_clock_data::default() });
        self.functions.iter().for_each(|function| lock(function).pause());
        Ok(())
    }

    /// Goes on, or begins. The guest's paravirtual clock did not run meanwhile.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn resume(&mut self) -> Result<(), MachineError> {
        if let Some(clock) = self.clock.take() {
            self.vm.set_clock(&clock).map_err(|error| MachineError::Kvm("set the clock", error))?;
            self.functions.iter().for_each(|function| lock(function).resume());
        }
        self.vcpus.iter().for_each(Vcpu::resume);
        Ok(())
    }

    /// The state of a machine that was paused; `None` while it runs.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn state(&self) -> Result<Option<MachineState>, MachineError> {
        let Some(clock) = &self.clock else { return Ok(None) };
        let read = || -> Result<MachineState, kvm_ioctls::Error> {
            Ok(MachineState {
                version: MachineState::VERSION,
                clock_ns: clock.clock,
                vcpus: self
                    .vcpus
                    .iter()
                    .map(|vcpu| VcpuState::read(&vcpu.fd(), &self.msrs))
                    .collect::<Result<_, _>>()?,
                irqchips: irqchips(&self.vm)?,
                pit: self.vm.get_pit2()?,
                serial: lock(&self.serial).state(),
                functions: self.functions.iter().map(|function| lock(function).state()).collect(),
            })
        };
        read().map(Some).map_err(|error| MachineError::Kvm("read the machine's state", error))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.vcpus.iter().for_each(Vcpu::park);
        self.vcpus.clear();
        self.workers.clear();
    }
}

fn check(kvm: &Kvm, cpus: u8) -> Result<(), MachineError> {
    let most = kvm.get_max_vcpus().min(254); // local APICs are numbered by a byte, and the last number is everybody
    if cpus == 0 || usize::from(cpus) > most {
        return Err(MachineError::Cpus(cpus, most));
    }
    for (cap, name) in [
        (Cap::Irqchip, "interrupt controllers"),
        (Cap::Irqfd, "interrupts by event counters"),
        (Cap::Ioeventfd, "doorbells by event counters"),
        (Cap::UserMemory, "memory of the VMM"),
        (Cap::ImmediateExit, "immediate exits"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(MachineError::Lacks(name));
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "KVM maps guest memory by its address here")]
fn create_vm(kvm: &Kvm, memory: &GuestMemory) -> Result<VmFd, MachineError> {
    let vm = kvm.create_vm().map_err(|error| MachineError::Kvm("create a machine", error))?;
    let set_up = || -> Result<(), kvm_ioctls::Error> {
        vm.set_identity_map_address(KVM_IDENTITY_MAP)?;
        vm.set_tss_address(KVM_TSS as usize)?;
        vm.create_irq_chip()?;
        vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() })?;
        for (slot, region) in (0..).zip(memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: a guest's memory is mapped for good; nobody here has references to it, so the guest may write
            // whenever it wants.
            unsafe { vm.set_user_memory_region(region)? };
        }
        Ok(())
    };
    set_up().map_err(|error| MachineError::Kvm("give the machine memory and interrupts", error))?;
    Ok(vm)
}

/// A processor: the first stands at the kernel's entry, the others wait to be called.
fn create_vcpu(kvm: &Kvm, vm: &VmFd, id: u8, count: u8, entry: &Entry) -> Result<VcpuFd, MachineError> {
    let create = || -> Result<VcpuFd, kvm_ioctls::Error> {
        let fd = vm.create_vcpu(id.into())?;
        let mut identity = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        cpuid::identify(&mut identity, id, count, kvm.check_extension(Cap::TscDeadlineTimer));
        fd.set_cpuid2(&identity)?;
        let msr = |index, data| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
        let msrs = [msr(MSR_MISC_ENABLE, FAST_STRINGS), msr(MSR_MTRR_DEFAULT, MTRR_WRITE_BACK)];
        let msrs = Msrs::from_entries(&msrs).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
        fd.set_msrs(&msrs)?;
        let mut lapic = fd.get_lapic()?;
        for (register, delivery) in [(LAPIC_LINT0, DELIVER_EXTERNAL), (LAPIC_LINT1, DELIVER_NMI)] {
            let byte = &mut lapic.regs[register + 1]; // bits 8 to 10 are how it is delivered
            *byte = (*byte as u8 & !7 | delivery) as i8;
        }
        fd.set_lapic(&lapic)?;
        if id == 0 {
            let mut system = fd.get_sregs()?;
            entry.system(&mut system);
            fd.set_sregs(&system)?;
            fd.set_regs(&entry.registers())?;
        }
        Ok(fd)
    };
    create().map_err(|error| MachineError::Kvm("create a processor", error))
}

fn buses(root: PciRoot, serial: &Shared<SerialPort>, button: &Shared<PowerButton>, endings: &Arc<Endings>) -> Buses {
    let root = Arc::new(Mutex::new(root));
    let (mut ports, mut memory) = (Bus::default(), Bus::default());
    let power = PowerPort::new(endings.clone(), button.clone());
    ports.insert(SERIAL_PORT.into(), SerialPort::PORTS, serial.clone());
    ports.insert(KEYBOARD_PORT.into(), 1, Arc::new(Mutex::new(ResetPort(endings.clone()))));
    ports.insert(POWER_PORT.into(), PowerPort::PORTS, Arc::new(Mutex::new(power)));
    ports.insert(PANIC_PORT.into(), 1, Arc::new(Mutex::new(PanicPort(endings.clone()))));
    ports.insert(PCI_CONFIG_PORT.into(), ConfigPorts::PORTS, Arc::new(Mutex::new(ConfigPorts::new(root.clone()))));
    memory.insert(ECAM, ECAM_BYTES, Arc::new(Mutex::new(Ecam(root.clone()))));
    memory.insert(PCI_WINDOW, Windows::BYTES, Arc::new(Mutex::new(Windows::new(root))));
    Buses { ports, memory }
}
