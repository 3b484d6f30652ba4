//! virtio on PCI (virtio 1.2, section 4.1): one function with one window of registers, which hold the common
//! configuration, the interrupt status, the device's configuration, the doorbells and the MSI-X tables.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, Device, Service, read_config};
use super::queue::{Queue, QueueError};
use crate::event::counter;
use crate::memory::GuestMemory;
use crate::pci::{Capability, ConfigSpace, Function, Identity, Msix, Platform};

/// No vector: the driver is not to be interrupted.
pub(super) const NO_VECTOR: u16 = 0xffff;

const VENDOR: u16 = 0x1af4;
/// A device's number on PCI is its type behind this.
const FIRST_DEVICE: u16 = 0x1040;

/// Where what is in the window.
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
/// The length of each part.
const PART_BYTES: u64 = 0x1000;
/// All of it.
const WINDOW_BYTES: u32 = 0x8000;
/// Between two queues' doorbells.
const DOORBELL_STRIDE: u64 = 4;

const COMMON_BYTES: usize = 60;

const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;
/// The message control register, from the start of the MSI-X capability.
const MSIX_CONTROL: usize = 2;

/// Bits of the device status (section 2.1).
const ACKNOWLEDGE_TO_OK: u8 = 0x0f;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;

const F_INDIRECT: u64 = 1 << 28;
const F_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;
/// What the queues of every device can do.
const QUEUE_FEATURES: u64 = F_INDIRECT | F_EVENT_IDX | F_VERSION_1;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// A virtio device as a PCI function.
pub struct Transport {
    config: ConfigSpace,
    msix: Msix,
    msix_at: usize,
    window_access: usize,
    platform: Box<dyn Platform>,
    device: Box<dyn Device>,
    memory: GuestMemory,
    doorbells: Arc<[EventFd]>,
    /// Where the function's doorbells are at the moment.
    doorbells_at: Option<u64>,
    /// Counted on when the device's thread is to look at the device anew.
    wake: EventFd,
    queues: Vec<Queue>,
    registers: Registers,
    paused: bool,
    /// How often a driver broke the rules, and how it did last.
    violations: u64,
    last_violation: Option<String>,
}

/// The registers that are no queue's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Registers {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    queue_select: u16,
    isr: u8,
}

/// All that is to be known about a function.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TransportState {
    /// The device's type.
    pub kind: u16,
    config: Vec<u8>,
    registers: Registers,
    queues: Vec<Queue>,
    msix: Vec<[u8; Msix::ENTRY_BYTES]>,
    /// How often the driver broke the rules so that the device wanted a reset.
    pub violations: u64,
    /// How it did so last.
    pub last_violation: Option<String>,
    /// What the device says about itself.
    pub device: Value,
}

impl Transport {
    /// A function whose registers are at `registers` until a guest moves them.
    ///
    /// # Errors
    /// When the system has no event counters left.
    pub fn new(
        device: Box<dyn Device>,
        memory: GuestMemory,
        mut platform: Box<dyn Platform>,
        registers: u64,
    ) -> io::Result<Self> {
        let kind = device.kind();
        let identity = Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE + kind.id(),
            class: kind.class(),
            revision: 1,
            subsystem: 0x40 + kind.id(),
        };
        let mut config = ConfigSpace::new(identity);
        config.set_bar(registers as u32, WINDOW_BYTES);
        let queues: Vec<_> = device.queue_sizes().iter().copied().map(Queue::new).collect();
        let msix = Msix::new(queues.len() + 1)?;
        let msix_at = add_msix(&mut config, msix.count());
        for (kind, at) in [(1, COMMON), (3, ISR), (4, DEVICE)] {
            config.add_capability(&Capability {
                id: CAP_VENDOR,
                body: &virtio_capability(kind, at, &[]),
                writable: &[],
            });
        }
        let notify = virtio_capability(2, NOTIFY, &(DOORBELL_STRIDE as u32).to_le_bytes());
        config.add_capability(&Capability { id: CAP_VENDOR, body: &notify, writable: &[] });
        // Another way to the registers, by configuration: bar, offset, length and data are the guest's.
        let writable = [[0, 0, 0xff, 0, 0, 0], [0xff; 6], [0xff; 6]].concat();
        let access = virtio_capability(5, 0, &[0; 4]);
        let window_access = config.add_capability(&Capability { id: CAP_VENDOR, body: &access, writable: &writable });

        let doorbells: Arc<[_]> = queues.iter().map(|_| counter()).collect::<io::Result<_>>()?;
        let doorbells_at = config.registers().map(|at| at + NOTIFY);
        platform.place_doorbells(doorbells_at, DOORBELL_STRIDE, &doorbells);
        Ok(Self {
            config,
            msix,
            msix_at,
            window_access,
            platform,
            device,
            memory,
            doorbells,
            doorbells_at,
            wake: counter()?,
            queues,
            registers: Registers { config_vector: NO_VECTOR, ..Registers::default() },
            paused: false,
            violations: 0,
            last_violation: None,
        })
    }

    /// What the device's thread waits for: the doorbells that it answers, and the counter that wakes it.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub(super) fn events(&self) -> io::Result<(Arc<[EventFd]>, EventFd)> {
        Ok((self.doorbells.clone(), self.wake.try_clone()?))
    }

    /// The device.
    pub(super) fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Serves a queue, as much as was there; if more came meanwhile, its doorbell rings again.
    pub fn serve(&mut self, queue: usize) {
        if !self.runs() || !self.queues.get(queue).is_some_and(|queue| queue.ready) {
            return;
        }
        let served = self.device.serve(queue, &mut Service { memory: &self.memory, queues: &mut self.queues });
        let served = served.and_then(|()| {
            if self.queues[queue].listen(&self.memory)? && self.device.serves_again(queue) {
                let _ = self.doorbells[queue].write(1);
            }
            self.interrupt()
        });
        self.note(served);
    }

    /// Has the device do what is not about a queue.
    pub fn tend(&mut self) {
        if self.paused || self.registers.status & NEEDS_RESET != 0 {
            return;
        }
        let tended = self.device.ready(&mut Service { memory: &self.memory, queues: &mut self.queues });
        let tended =
            tended.and_then(|()| if self.runs() && self.device.serves_queues() { self.interrupt() } else { Ok(()) });
        self.note(tended);
    }

    /// Stands still: no queue changes any more, nor does the guest's memory by this device.
    pub fn pause(&mut self) {
        if self.runs() {
            self.device.stop(&self.memory, &mut self.queues);
        }
        self.paused = true;
    }

    /// Goes on after [`Transport::pause`].
    pub fn resume(&mut self) {
        self.paused = false;
        if self.runs() {
            self.start();
        }
    }

    /// All that is to be known.
    pub fn state(&self) -> TransportState {
        TransportState {
            kind: self.device.kind().id(),
            config: self.config.bytes().to_vec(),
            registers: self.registers.clone(),
            queues: self.queues.clone(),
            msix: self.msix.table(),
            violations: self.violations,
            last_violation: self.last_violation.clone(),
            device: self.device.state(),
        }
    }

    /// Whether the driver is ready and the device is not lost.
    fn runs(&self) -> bool {
        self.registers.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK && !self.paused
    }

    fn offered(&self) -> u64 {
        QUEUE_FEATURES | self.device.features()
    }

    /// Interrupts for each queue whose driver wants to know.
    fn interrupt(&mut self) -> Result<(), QueueError> {
        for queue in self.queues.iter_mut().filter(|queue| queue.ready) {
            if queue.wants_interrupt(&self.memory)? {
                self.registers.isr |= ISR_QUEUE;
                self.msix.trigger(queue.vector);
            }
        }
        Ok(())
    }

    /// A driver that broke the rules has to reset the device (section 2.1.2).
    fn note(&mut self, result: Result<(), QueueError>) {
        let Err(violation) = result else { return };
        self.violations += 1;
        self.last_violation = Some(violation.to_string());
        if self.runs() {
            self.device.stop(&self.memory, &mut self.queues);
        }
        self.registers.status |= NEEDS_RESET;
        self.registers.isr |= ISR_CONFIG;
        self.msix.trigger(self.registers.config_vector);
    }

    fn start(&mut self) {
        let interrupts = self.queues.iter().map(|queue| self.msix.event(queue.vector)).collect();
        self.device.start(&Activation {
            features: self.registers.driver_features,
            memory: &self.memory,
            queues: &self.queues,
            doorbells: &self.doorbells,
            interrupts,
        });
        // What was made available before is served without a doorbell.
        for event in self.doorbells.iter().chain([&self.wake]) {
            let _ = event.write(1);
        }
    }

    fn reset(&mut self) {
        if self.runs() {
            self.device.stop(&self.memory, &mut self.queues);
        }
        self.device.reset();
        for queue in &mut self.queues {
            *queue = Queue::new(queue.max_size);
        }
        self.registers = Registers { config_vector: NO_VECTOR, ..Registers::default() };
        let _ = self.wake.write(1);
    }

    fn set_status(&mut self, status: u8) {
        if status == 0 {
            return self.reset();
        }
        let before = self.registers.status;
        let mut status = status & (ACKNOWLEDGE_TO_OK | FAILED) | before;
        let acceptable =
            self.registers.driver_features & !self.offered() == 0 && self.registers.driver_features & F_VERSION_1 != 0;
        if before & FEATURES_OK == 0 && !acceptable {
            status &= !FEATURES_OK;
        }
        if status & FEATURES_OK == 0 {
            status &= !DRIVER_OK;
        }
        self.registers.status = status;
        if status & !before & DRIVER_OK != 0 && self.runs() {
            let event_idx = self.registers.driver_features & F_EVENT_IDX != 0;
            self.queues.iter_mut().for_each(|queue| queue.event_idx = event_idx);
            self.start();
        }
    }

    /// The queue that the driver configures.
    fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.registers.queue_select))
    }

    /// `struct virtio_pci_common_cfg`, section 4.1.4.3.
    fn common(&self) -> [u8; COMMON_BYTES] {
        let registers = &self.registers;
        let half = |word: u64, select: u32| match select {
            0 => word as u32,
            1 => (word >> 32) as u32,
            _ => 0,
        };
        let mut bytes = [0; COMMON_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &registers.device_feature_select.to_le_bytes());
        put(4, &half(self.offered(), registers.device_feature_select).to_le_bytes());
        put(8, &registers.driver_feature_select.to_le_bytes());
        put(12, &half(registers.driver_features, registers.driver_feature_select).to_le_bytes());
        put(16, &registers.config_vector.to_le_bytes());
        put(18, &(self.queues.len() as u16).to_le_bytes());
        put(20, &[registers.status, 0]); // the configuration never changes, so it has one generation
        put(22, &registers.queue_select.to_le_bytes());
        if let Some(queue) = self.selected() {
            put(24, &queue.size.to_le_bytes());
            put(26, &queue.vector.to_le_bytes());
            put(28, &u16::from(queue.ready).to_le_bytes());
            put(30, &registers.queue_select.to_le_bytes()); // its doorbell
            put(32, &queue.descriptors.to_le_bytes());
            put(40, &queue.available.to_le_bytes());
            put(48, &queue.used.to_le_bytes());
        }
        bytes
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) {
        let value = data.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let registers = &mut self.registers;
        let features_open = registers.status & FEATURES_OK == 0;
        match (offset, data.len()) {
            (0, 4) => registers.device_feature_select = value as u32,
            (8, 4) => registers.driver_feature_select = value as u32,
            (12, 4) if features_open => {
                let features = &mut registers.driver_features;
                match registers.driver_feature_select {
                    0 => *features = *features & !0xffff_ffff | value,
                    1 => *features = *features & 0xffff_ffff | value << 32,
                    // The other bits are not offered; a driver that sets one is not accepted, by a bit that is not either.
                    _ => *features |= u64::from(value != 0) << 63,
                }
            }
            (16, 2) => registers.config_vector = self.msix.event(value as u16).map_or(NO_VECTOR, |_| value as u16),
            (20, 1) => self.set_status(value as u8),
            (22, 2) => registers.queue_select = value as u16,
            (26, 2) => {
                let vector = self.msix.event(value as u16).map_or(NO_VECTOR, |_| value as u16);
                let select = usize::from(registers.queue_select);
                if let Some(queue) = self.queues.get_mut(select) {
                    queue.vector = vector;
                }
            }
            _ => self.write_queue(offset, data.len(), value),
        }
    }

    /// Configures the selected queue, which the driver may do until it enables it.
    fn write_queue(&mut self, offset: u64, len: usize, value: u64) {
        let select = usize::from(self.registers.queue_select);
        let started = self.registers.status & DRIVER_OK != 0;
        let Some(queue) = self.queues.get_mut(select).filter(|queue| !queue.ready && !started) else { return };
        let low = |address: u64| address & !0xffff_ffff | value;
        let high = |address: u64| address & 0xffff_ffff | value << 32;
        match (offset, len) {
            (24, 2) => queue.size = value as u16,
            (28, 2) if value == 1 => {
                let checked = queue.check(&self.memory);
                queue.ready = checked.is_ok();
                self.note(checked);
            }
            (32, 4) => queue.descriptors = low(queue.descriptors),
            (36, 4) => queue.descriptors = high(queue.descriptors),
            (32, 8) => queue.descriptors = value,
            (40, 4) => queue.available = low(queue.available),
            (44, 4) => queue.available = high(queue.available),
            (40, 8) => queue.available = value,
            (48, 4) => queue.used = low(queue.used),
            (52, 4) => queue.used = high(queue.used),
            (48, 8) => queue.used = value,
            _ => {}
        }
    }

    /// What a guest that reaches registers by configuration aims at; `None` when it makes no sense.
    fn window_target(&self) -> Option<(u64, usize)> {
        let at = self.window_access;
        let (bar, offset, len) =
            (self.config.u16_at(at + 4) & 0xff, self.config.u32_at(at + 8), self.config.u32_at(at + 12));
        (bar == 0 && matches!(len, 1 | 2 | 4)).then_some((u64::from(offset), len as usize))
    }
}

impl Function for Transport {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        let at = self.window_access + 16;
        if offset == at
            && let Some((register, len)) = self.window_target()
        {
            let mut value = [0; 4];
            self.read(register, &mut value[..len]);
            self.config.write(at, &value[..len]);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        let end = offset + data.len();
        let control = self.msix_at + MSIX_CONTROL;
        if offset < control + 2 && end > control {
            self.msix.control(self.config.u16_at(control), &mut *self.platform);
        }
        if offset == self.window_access + 16
            && let Some((register, len)) = self.window_target()
        {
            let mut value = [0; 4];
            self.config.read(offset, &mut value);
            self.write(register, &value[..len]);
        }
        let doorbells_at = self.config.registers().map(|at| at + NOTIFY);
        if doorbells_at != self.doorbells_at {
            self.doorbells_at = doorbells_at;
            self.platform.place_doorbells(doorbells_at, DOORBELL_STRIDE, &self.doorbells);
        }
    }

    fn registers(&self) -> Option<u64> {
        self.config.registers()
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let (part, within) = (offset / PART_BYTES * PART_BYTES, offset % PART_BYTES);
        match part {
            COMMON => read_config(&self.common(), within, data),
            ISR => {
                if let (0, Some(byte)) = (within, data.first_mut()) {
                    *byte = std::mem::take(&mut self.registers.isr);
                }
            }
            DEVICE => read_config(&self.device.config(), within, data),
            TABLE => self.msix.read_table(within as usize, data),
            PENDING => self.msix.read_pending(within as usize, data),
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (part, within) = (offset / PART_BYTES * PART_BYTES, offset % PART_BYTES);
        match part {
            COMMON => self.write_common(within, data),
            // Where the platform counts for itself, a guest's doorbell does not come here.
            NOTIFY => {
                let queue = usize::try_from(within / DOORBELL_STRIDE).ok();
                if let Some(doorbell) = queue.and_then(|queue| self.doorbells.get(queue)) {
                    let _ = doorbell.write(1);
                }
            }
            TABLE => self.msix.write_table(within as usize, data, &mut *self.platform),
            _ => {}
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        if self.runs() {
            self.device.stop(&self.memory, &mut self.queues);
        }
        self.msix.reset(&mut *self.platform);
        self.platform.place_doorbells(None, DOORBELL_STRIDE, &self.doorbells);
    }
}

fn add_msix(config: &mut ConfigSpace, vectors: usize) -> usize {
    let mut body = [0; 10];
    body[..2].copy_from_slice(&(vectors as u16 - 1).to_le_bytes());
    body[2..6].copy_from_slice(&(TABLE as u32).to_le_bytes());
    body[6..10].copy_from_slice(&(PENDING as u32).to_le_bytes());
    config.add_capability(&Capability { id: CAP_MSIX, body: &body, writable: &[0, 0xc0] })
}

/// `struct virtio_pci_cap` without its first two bytes (section 4.1.4), about a part of the window.
fn virtio_capability(kind: u8, at: u64, rest: &[u8]) -> Vec<u8> {
    let len = match kind {
        1 => COMMON_BYTES as u32,
        5 => 0,
        _ => PART_BYTES as u32,
    };
    let mut body = vec![16 + rest.len() as u8, kind, 0, 0, 0, 0];
    body.extend_from_slice(&(at as u32).to_le_bytes());
    body.extend_from_slice(&len.to_le_bytes());
    body.extend_from_slice(rest);
    body
}
