//! Interrupts and doorbells by KVM: event counters that it listens to, and event counters that it counts on.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::lock;
use crate::layout::IO_APIC_LINES;
use crate::pci::{Message, Platform};

/// The most messages that a machine has: 31 functions of a few vectors each.
const MAX_MESSAGES: u32 = 1024;
/// Lines of the two old interrupt controllers.
const PIC_LINES: u32 = 16;

/// Where a machine's interrupts go.
pub struct Routes {
    vm: Arc<VmFd>,
    messages: Mutex<BTreeMap<u32, Message>>,
}

impl Routes {
    /// The routes of a machine without messages.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, messages: Mutex::default() }
    }

    /// Raises a line of the I/O APIC whenever `event` is counted.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn line(&self, gsi: u32, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_irqfd(event, gsi)?)
    }

    /// What a PCI function needs.
    pub fn function(self: &Arc<Self>) -> KvmFunction {
        KvmFunction { routes: self.clone(), connected: BTreeMap::new(), doorbells: Vec::new() }
    }

    /// Gives a message a number.
    fn add(&self, message: Message) -> io::Result<u32> {
        let mut messages = lock(&self.messages);
        let free = (IO_APIC_LINES..IO_APIC_LINES + MAX_MESSAGES).find(|gsi| !messages.contains_key(gsi));
        let gsi = free.ok_or_else(|| io::Error::other("too many interrupt messages"))?;
        messages.insert(gsi, message);
        let told = self.tell(&messages);
        if told.is_err() {
            messages.remove(&gsi);
        }
        told.map(|()| gsi)
    }

    /// Frees a number. The route stays in KVM until the next change, where nothing uses it.
    fn remove(&self, gsi: u32) {
        lock(&self.messages).remove(&gsi);
    }

    fn tell(&self, messages: &BTreeMap<u32, Message>) -> io::Result<()> {
        let lines = (0..IO_APIC_LINES).flat_map(|line| {
            let old = (line < PIC_LINES).then(|| {
                let chip = if line < 8 { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
                pin(line, chip, line % 8)
            });
            old.into_iter().chain([pin(line, KVM_IRQCHIP_IOAPIC, line)])
        });
        let entries: Vec<_> = lines.chain(messages.iter().map(|(gsi, message)| msi(*gsi, *message))).collect();
        let routing = KvmIrqRouting::from_entries(&entries).map_err(|_| io::Error::other("too many routes"))?;
        Ok(self.vm.set_gsi_routing(&routing)?)
    }
}

fn pin(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..kvm_irq_routing_entry::default() };
    entry.u.irqchip.irqchip = irqchip;
    entry.u.irqchip.pin = pin;
    entry
}

fn msi(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..kvm_irq_routing_entry::default() };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}

/// KVM as one PCI function sees it.
pub struct KvmFunction {
    routes: Arc<Routes>,
    /// The number of each vector's message.
    connected: BTreeMap<usize, u32>,
    /// Where doorbells are, so that they can be taken away.
    doorbells: Vec<u64>,
}

impl Platform for KvmFunction {
    fn connect(&mut self, vector: usize, event: &EventFd, message: Message) -> io::Result<()> {
        let gsi = self.routes.add(message)?;
        if let Err(error) = self.routes.vm.register_irqfd(event, gsi) {
            self.routes.remove(gsi);
            return Err(error.into());
        }
        self.connected.insert(vector, gsi);
        Ok(())
    }

    fn disconnect(&mut self, vector: usize, event: &EventFd) {
        if let Some(gsi) = self.connected.remove(&vector) {
            let _ = self.routes.vm.unregister_irqfd(event, gsi);
            self.routes.remove(gsi);
        }
    }

    fn place_doorbells(&mut self, at: Option<u64>, stride: u64, events: &[EventFd]) {
        for (at, event) in std::mem::take(&mut self.doorbells).into_iter().zip(events) {
            let _ = self.routes.vm.unregister_ioevent(event, &IoEventAddress::Mmio(at), NoDatamatch);
        }
        let Some(at) = at else { return };
        for (index, event) in (0..).zip(events) {
            let at = at + stride * index;
            // Where KVM does not count, the write comes to the function's registers.
            if self.routes.vm.register_ioevent(event, &IoEventAddress::Mmio(at), NoDatamatch).is_err() {
                return;
            }
            self.doorbells.push(at);
        }
    }
}
