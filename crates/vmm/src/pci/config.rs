//! The configuration space of a function (PCI 3.0, chapter 6): bytes, and which bits of them a guest may change.

use crate::layout::{PCI_WINDOW, PCI_WINDOW_BYTES};

/// The part that every PCI function has.
const BYTES: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
/// Where the first capability is.
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What a function says that it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Who made it, and what it is.
    pub vendor: u16,
    /// The maker's number for it.
    pub device: u16,
    /// Base class, subclass and programming interface.
    pub class: [u8; 3],
    /// The maker's revision.
    pub revision: u8,
    /// The subsystem's number, with the same maker.
    pub subsystem: u16,
}

/// A capability: its id, what follows its header, and the bits of that which a guest may change.
pub struct Capability<'a> {
    /// The capability's id.
    pub id: u8,
    /// What follows the id and the pointer to the next capability.
    pub body: &'a [u8],
    /// Bits of `body` that can be written; none where it is shorter.
    pub writable: &'a [u8],
}

/// A function's configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; BYTES],
    writable: [u8; BYTES],
    last_capability: Option<usize>,
    end: usize,
}

impl ConfigSpace {
    /// A function without registers in memory.
    pub fn new(identity: Identity) -> Self {
        let mut config = Self { bytes: [0; BYTES], writable: [0; BYTES], last_capability: None, end: FIRST_CAPABILITY };
        let [base, sub, interface] = identity.class;
        config.put(0x00, &identity.vendor.to_le_bytes());
        config.put(0x02, &identity.device.to_le_bytes());
        config.put(0x08, &[identity.revision, interface, sub, base]);
        config.put(0x2c, &identity.vendor.to_le_bytes());
        config.put(0x2e, &identity.subsystem.to_le_bytes());
        config.writable[INTERRUPT_LINE] = 0xff;
        let commands = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTX;
        config.writable[COMMAND..COMMAND + 2].copy_from_slice(&commands.to_le_bytes());
        config
    }

    /// Gives the function `bytes` (a power of two) of registers in memory, at `at` until a guest moves them.
    pub fn set_bar(&mut self, at: u32, bytes: u32) {
        debug_assert!(bytes.is_power_of_two() && at.is_multiple_of(bytes));
        self.put(BAR0, &at.to_le_bytes());
        self.writable[BAR0..BAR0 + 4].copy_from_slice(&(!(bytes - 1)).to_le_bytes());
        self.put(COMMAND, &COMMAND_MEMORY.to_le_bytes());
    }

    /// Adds a capability and says where it is. All that a function has must fit.
    pub fn add_capability(&mut self, capability: &Capability<'_>) -> usize {
        let at = self.end;
        let body = at + 2;
        self.put(at, &[capability.id, 0]);
        self.put(body, capability.body);
        self.writable[body..body + capability.writable.len()].copy_from_slice(capability.writable);
        self.end = (body + capability.body.len()).next_multiple_of(4);
        self.put(self.last_capability.map_or(CAPABILITIES, |last| last + 1), &[at as u8]);
        self.last_capability = Some(at);
        self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        at
    }

    /// Reads configuration; what is behind its end is zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(offset + index).copied().unwrap_or(0);
        }
    }

    /// Changes what may be changed.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (index, value) in data.iter().enumerate() {
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(offset + index), self.writable.get(offset + index)) {
                *byte = *byte & !mask | value & mask;
            }
        }
    }

    /// Where the function's registers are, if it answers there. A guest can put them anywhere; outside of the
    /// window for them nobody answers.
    pub fn registers(&self) -> Option<u64> {
        let at = u64::from(self.u32_at(BAR0));
        let size = u64::from(!u32::from_le_bytes([
            self.writable[BAR0],
            self.writable[BAR0 + 1],
            self.writable[BAR0 + 2],
            self.writable[BAR0 + 3],
        ])) + 1;
        let inside = at >= PCI_WINDOW && at + size <= PCI_WINDOW + PCI_WINDOW_BYTES;
        (inside && self.u16_at(COMMAND) & COMMAND_MEMORY != 0).then_some(at)
    }

    /// Two bytes of it.
    pub fn u16_at(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// Four bytes of it.
    pub fn u32_at(&self, offset: usize) -> u32 {
        u32::from(self.u16_at(offset)) | u32::from(self.u16_at(offset + 2)) << 16
    }

    /// All of it, to be kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ConfigSpace {
        let identity = Identity { vendor: 0x1af4, device: 0x1044, class: [0xff, 0, 0], revision: 1, subsystem: 0x40 };
        let mut config = ConfigSpace::new(identity);
        config.set_bar(PCI_WINDOW as u32, 0x8000);
        config
    }

    #[test]
    fn a_guest_finds_out_the_size_of_registers_and_moves_them() {
        let mut config = config();
        assert_eq!(config.registers(), Some(PCI_WINDOW));
        config.write(BAR0, &[0xff; 4]);
        assert_eq!(config.u32_at(BAR0), 0xffff_8000);
        assert_eq!(config.registers(), None, "outside of the window");
        config.write(BAR0, &0xd000_0000_u32.to_le_bytes());
        assert_eq!(config.registers(), Some(0xd000_0000));
        config.write(COMMAND, &[0, 0]);
        assert_eq!(config.registers(), None, "switched off");
    }

    #[test]
    fn what_is_not_writable_stays() {
        let mut config = config();
        let before = config.bytes[..BAR0].to_vec();
        config.write(0, &[0; 4]);
        config.write(8, &[0xff; 8]);
        config.write(254, &[0xff; 8]);
        assert_eq!(config.bytes[..BAR0], before);
        let mut tail = [0xff; 4];
        config.read(254, &mut tail);
        assert_eq!(tail, [0; 4]);
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut config = config();
        let first = config.add_capability(&Capability { id: 9, body: &[1, 2, 3], writable: &[] });
        let second = config.add_capability(&Capability { id: 0x11, body: &[0, 0], writable: &[0, 0xc0] });
        assert_eq!((first, second), (0x40, 0x48));
        assert_eq!(config.bytes[CAPABILITIES], 0x40);
        assert_eq!(config.bytes[first + 1], 0x48);
        assert_eq!(config.bytes[second + 1], 0);
        config.write(second + 2, &[0xff, 0xff]);
        assert_eq!(config.u16_at(second + 2), 0xc000);
    }
}
