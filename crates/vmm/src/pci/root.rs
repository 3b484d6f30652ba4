//! The bus: which functions there are, and the two ways to their configuration.

use super::config::{ConfigSpace, Identity};
use crate::bus::{BusDevice, Shared, lock};
use crate::layout::{PCI_WINDOW, PCI_WINDOW_BYTES};

/// Devices that a bus has room for.
const MAX_DEVICES: usize = 32;
/// Registers that are nowhere.
const NOWHERE: u64 = u64::MAX;

/// A PCI function: configuration, and registers in memory.
pub trait Function: Send {
    /// Reads configuration.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);
    /// Changes configuration.
    fn write_config(&mut self, offset: usize, data: &[u8]);
    /// Where the function's registers are now, if it answers.
    fn registers(&self) -> Option<u64>;
    /// Reads registers.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes registers.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Registers of each function: so many bytes of the window.
pub(super) const REGISTER_BYTES: u64 = 0x8000;

/// Bus 0, with the host's own bridge as device 0.
pub struct PciRoot {
    bridge: ConfigSpace,
    slots: Vec<Slot>,
}

struct Slot {
    function: Shared<dyn Function>,
    /// Copied from the function when its configuration changes, so that looking for one locks no other.
    registers: u64,
}

impl Default for PciRoot {
    fn default() -> Self {
        // A host bridge of Intel's, as other VMMs have it.
        let identity = Identity { vendor: 0x8086, device: 0x0d57, class: [6, 0, 0], revision: 0, subsystem: 0 };
        Self { bridge: ConfigSpace::new(identity), slots: Vec::new() }
    }
}

impl PciRoot {
    /// Where the registers of the next function are to be; `None` when the bus is full.
    pub fn next_registers(&self) -> Option<u64> {
        (self.slots.len() + 1 < MAX_DEVICES).then(|| PCI_WINDOW + self.slots.len() as u64 * REGISTER_BYTES)
    }

    /// Plugs in a function; the device's number.
    pub fn plug(&mut self, function: Shared<dyn Function>) -> usize {
        let registers = lock(&function).registers().unwrap_or(NOWHERE);
        self.slots.push(Slot { function, registers });
        self.slots.len()
    }

    /// Reads a function's configuration; where there is none, all ones.
    fn read_config(&self, device: usize, offset: usize, data: &mut [u8]) {
        match device.checked_sub(1) {
            None => self.bridge.read(offset, data),
            Some(index) => match self.slots.get(index) {
                Some(slot) => lock(&slot.function).read_config(offset, data),
                None => data.fill(0xff),
            },
        }
    }

    fn write_config(&mut self, device: usize, offset: usize, data: &[u8]) {
        match device.checked_sub(1) {
            None => self.bridge.write(offset, data),
            Some(index) => {
                let Some(slot) = self.slots.get_mut(index) else { return };
                let mut function = lock(&slot.function);
                function.write_config(offset, data);
                slot.registers = function.registers().unwrap_or(NOWHERE);
            }
        }
    }

    /// The function whose registers are at `at`.
    fn at(&self, at: u64) -> Option<(u64, &Shared<dyn Function>)> {
        self.slots.iter().find_map(|slot| {
            let offset = at.checked_sub(slot.registers)?;
            (offset < REGISTER_BYTES).then_some((offset, &slot.function))
        })
    }
}

/// Configuration in memory (PCI Express 4.0, section 7.2.2): 4 KiB for each function of bus 0.
pub struct Ecam(pub Shared<PciRoot>);

impl Ecam {
    /// Device and offset; functions other than the first are not there.
    fn target(offset: u64) -> Option<(usize, usize)> {
        ((offset >> 12) & 7 == 0).then_some(((offset >> 15) as usize, (offset & 0xfff) as usize))
    }
}

impl BusDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match Self::target(offset) {
            Some((device, offset)) => lock(&self.0).read_config(device, offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some((device, offset)) = Self::target(offset) {
            lock(&self.0).write_config(device, offset, data);
        }
    }
}

/// Configuration by ports: an address, and a window onto four bytes of configuration.
pub struct ConfigPorts {
    root: Shared<PciRoot>,
    address: u32,
}

impl ConfigPorts {
    /// How many ports there are.
    pub const PORTS: u64 = 8;

    /// The ports to a bus.
    pub fn new(root: Shared<PciRoot>) -> Self {
        Self { root, address: 0 }
    }

    fn target(&self, port: u64) -> Option<(usize, usize)> {
        let address = self.address as usize;
        let [enabled, bus, device, function] =
            [address >> 31, address >> 16 & 0xff, address >> 11 & 31, address >> 8 & 7];
        (enabled == 1 && bus == 0 && function == 0).then_some((device, (address & 0xfc) + (port & 3) as usize))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset >= 4 {
            match self.target(offset) {
                Some((device, at)) => lock(&self.root).read_config(device, at, data),
                None => data.fill(0xff),
            }
        } else {
            super::msix::copy_from(&self.address.to_le_bytes(), offset as usize, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= 4 {
            if let Some((device, at)) = self.target(offset) {
                lock(&self.root).write_config(device, at, data);
            }
        } else if let (0, Ok(address)) = (offset, data.try_into()) {
            self.address = u32::from_le_bytes(address);
        }
    }
}

/// The window in memory in which all functions' registers are.
pub struct Windows(Shared<PciRoot>);

impl Windows {
    /// Its length.
    pub const BYTES: u64 = PCI_WINDOW_BYTES;

    /// The registers of a bus's functions.
    pub fn new(root: Shared<PciRoot>) -> Self {
        Self(root)
    }

    fn find(&self, offset: u64) -> Option<(u64, Shared<dyn Function>)> {
        lock(&self.0).at(PCI_WINDOW + offset).map(|(offset, function)| (offset, function.clone()))
    }
}

impl BusDevice for Windows {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some((offset, function)) = self.find(offset) {
            lock(&function).read(offset, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some((offset, function)) = self.find(offset) {
            lock(&function).write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A function that reads as its configuration, and whose registers read as sevens.
    struct Plain(ConfigSpace);

    impl Function for Plain {
        fn read_config(&mut self, offset: usize, data: &mut [u8]) {
            self.0.read(offset, data);
        }
        fn write_config(&mut self, offset: usize, data: &[u8]) {
            self.0.write(offset, data);
        }
        fn registers(&self) -> Option<u64> {
            self.0.registers()
        }
        fn read(&mut self, _: u64, data: &mut [u8]) {
            data.fill(7);
        }
        fn write(&mut self, _: u64, _: &[u8]) {}
    }

    fn root() -> Shared<PciRoot> {
        let identity = Identity { vendor: 0x1234, device: 1, class: [0xff, 0, 0], revision: 0, subsystem: 0 };
        let mut root = PciRoot::default();
        let mut config = ConfigSpace::new(identity);
        config.set_bar(root.next_registers().expect("room") as u32, REGISTER_BYTES as u32);
        root.plug(Arc::new(Mutex::new(Plain(config))));
        Arc::new(Mutex::new(root))
    }

    #[test]
    fn both_ways_lead_to_the_same_configuration() {
        let root = root();
        let mut ports = ConfigPorts::new(root.clone());
        let mut ecam = Ecam(root);
        let check = |device: u32, expected: [u8; 4], ports: &mut ConfigPorts, ecam: &mut Ecam| {
            let mut data = [0; 4];
            ports.write(0, &(1 << 31 | device << 11).to_le_bytes());
            ports.read(4, &mut data);
            assert_eq!(data, expected, "ports, {device}");
            ecam.read(u64::from(device) << 15, &mut data);
            assert_eq!(data, expected, "memory, {device}");
        };
        check(0, [0x86, 0x80, 0x57, 0x0d], &mut ports, &mut ecam);
        check(1, [0x34, 0x12, 1, 0], &mut ports, &mut ecam);
        check(2, [0xff; 4], &mut ports, &mut ecam);
        check(31, [0xff; 4], &mut ports, &mut ecam);
        ports.write(1, &[0xff; 4]);
        let mut data = [0; 2];
        ports.read(2, &mut data);
        assert_eq!(data, [0, 0x80], "the address register changes as a whole");
    }

    #[test]
    fn registers_are_where_configuration_says() {
        let root = root();
        let mut windows = Windows::new(root.clone());
        let mut ecam = Ecam(root);
        let mut read = |offset| {
            let mut data = [0];
            windows.read(offset, &mut data);
            data[0]
        };
        assert_eq!((read(0), read(REGISTER_BYTES)), (7, 0));
        ecam.write(1 << 15 | 0x10, &(PCI_WINDOW as u32 + 0x8000).to_le_bytes());
        assert_eq!((read(0), read(REGISTER_BYTES)), (0, 7));
    }
}
