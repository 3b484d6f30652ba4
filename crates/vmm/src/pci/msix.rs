//! Interrupts by messages (PCI 3.0, section 6.8.2).
//!
//! Each vector has an event counter. While the vector may interrupt, the platform listens to the counter and sends
//! the vector's message; while it is masked nobody listens, and the counter itself is the pending bit. So a device,
//! or a switch in another process, writes to the counter and need not know.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::event::{counter, descriptor};

/// What a vector writes where, in place of a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// What a function needs from the machine around it: KVM, or nothing in tests.
pub trait Platform: Send {
    /// From now on, sends `message` when `event` was counted; also if it was before.
    ///
    /// # Errors
    /// When the system refuses.
    fn connect(&mut self, vector: usize, event: &EventFd, message: Message) -> io::Result<()>;

    /// Listens to `event` no longer.
    fn disconnect(&mut self, vector: usize, event: &EventFd);

    /// Counts on the one of `events` at whose place in memory a guest writes: from `at`, `stride` bytes apart.
    /// What was asked before does not hold any longer.
    fn place_doorbells(&mut self, at: Option<u64>, stride: u64, events: &[EventFd]);
}

/// The vectors of a function, with the table in which a guest configures them.
pub struct Msix {
    vectors: Vec<Vector>,
    enabled: bool,
    masked: bool,
}

struct Vector {
    message: Message,
    masked: bool,
    event: EventFd,
    /// The message that the platform sends at the moment.
    connected: Option<Message>,
}

impl Msix {
    /// Bytes of the table for each vector.
    pub const ENTRY_BYTES: usize = 16;
    /// Where enable and mask are in the message control register.
    const ENABLE: u16 = 1 << 15;
    const MASK_ALL: u16 = 1 << 14;

    /// `count` vectors, all masked.
    ///
    /// # Errors
    /// When the system has no event counters left.
    pub fn new(count: usize) -> io::Result<Self> {
        let vector = || -> io::Result<Vector> {
            let event = counter()?;
            Ok(Vector { message: Message::default(), masked: true, event, connected: None })
        };
        let vectors = (0..count).map(|_| vector()).collect::<io::Result<_>>()?;
        Ok(Self { vectors, enabled: false, masked: false })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.vectors.len()
    }

    /// Interrupts by a vector; nothing happens if there is no such.
    pub fn trigger(&self, vector: u16) {
        if let Some(vector) = self.vectors.get(usize::from(vector)) {
            // A counter that cannot count further is pending already.
            let _ = vector.event.write(1);
        }
    }

    /// The counter of a vector, for whoever interrupts by it on the device's behalf.
    pub fn event(&self, vector: u16) -> Option<&EventFd> {
        self.vectors.get(usize::from(vector)).map(|vector| &vector.event)
    }

    /// Takes the message control register.
    pub fn control(&mut self, register: u16, platform: &mut dyn Platform) {
        (self.enabled, self.masked) = (register & Self::ENABLE != 0, register & Self::MASK_ALL != 0);
        for index in 0..self.vectors.len() {
            self.update(index, platform);
        }
    }

    /// Reads the table.
    pub fn read_table(&self, offset: usize, data: &mut [u8]) {
        let Some(vector) = self.vectors.get(offset / Self::ENTRY_BYTES) else { return data.fill(0) };
        copy_from(&vector.entry(), offset % Self::ENTRY_BYTES, data);
    }

    /// Writes to the table.
    pub fn write_table(&mut self, offset: usize, data: &[u8], platform: &mut dyn Platform) {
        let index = offset / Self::ENTRY_BYTES;
        let Some(vector) = self.vectors.get_mut(index) else { return };
        let mut entry = vector.entry();
        for (byte, value) in entry[offset % Self::ENTRY_BYTES..].iter_mut().zip(data) {
            *byte = *value;
        }
        let [address, rest] = [u64_of(&entry, 0), u64_of(&entry, 8)];
        vector.message = Message { address: address & !3, data: rest as u32 };
        vector.masked = rest >> 32 & 1 != 0;
        self.update(index, platform);
    }

    /// Reads which vectors have interrupts that they may not send.
    pub fn read_pending(&self, offset: usize, data: &mut [u8]) {
        let mut bits = vec![0; self.vectors.len().div_ceil(64) * 8];
        for (index, vector) in self.vectors.iter().enumerate() {
            let pending = vector.connected.is_none() && is_counted(descriptor(&vector.event));
            bits[index / 8] |= u8::from(pending) << (index % 8);
        }
        copy_from(&bits, offset, data);
    }

    /// Forgets everything that a guest configured.
    pub fn reset(&mut self, platform: &mut dyn Platform) {
        for index in 0..self.vectors.len() {
            self.vectors[index].masked = true;
            self.vectors[index].message = Message::default();
            self.update(index, platform);
            // Whether something was pending does not matter any more.
            let _ = self.vectors[index].event.read();
        }
        (self.enabled, self.masked) = (false, false);
    }

    /// The table's contents, to be kept.
    pub fn table(&self) -> Vec<[u8; Self::ENTRY_BYTES]> {
        self.vectors.iter().map(Vector::entry).collect()
    }

    /// Has the platform listen, or not, as the vector's state is now.
    fn update(&mut self, index: usize, platform: &mut dyn Platform) {
        let vector = &mut self.vectors[index];
        let open = self.enabled && !self.masked && !vector.masked;
        let wanted = open.then_some(vector.message);
        if wanted == vector.connected {
            return;
        }
        if vector.connected.take().is_some() {
            platform.disconnect(index, &vector.event);
        }
        if let Some(message) = wanted {
            // A guest whose message the platform does not take gets no interrupts, which is its own fault.
            vector.connected = platform.connect(index, &vector.event, message).ok().map(|()| message);
        }
    }
}

impl Vector {
    fn entry(&self) -> [u8; Msix::ENTRY_BYTES] {
        let mut entry = [0; Msix::ENTRY_BYTES];
        entry[..8].copy_from_slice(&self.message.address.to_le_bytes());
        entry[8..12].copy_from_slice(&self.message.data.to_le_bytes());
        entry[12] = u8::from(self.masked);
        entry
    }
}

/// Whether an event counter is above zero; it stays so.
fn is_counted(event: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(event, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

fn u64_of(entry: &[u8; Msix::ENTRY_BYTES], at: usize) -> u64 {
    entry[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Reads from `offset` on, and zeroes behind the end.
pub(crate) fn copy_from(bytes: &[u8], offset: usize, data: &mut [u8]) {
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = bytes.get(offset + index).copied().unwrap_or(0);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Remembers what is connected.
    #[derive(Clone, Default)]
    pub(crate) struct FakePlatform(pub(crate) Arc<Mutex<Vec<(usize, Message)>>>);

    impl Platform for FakePlatform {
        fn connect(&mut self, vector: usize, _: &EventFd, message: Message) -> io::Result<()> {
            self.0.lock().expect("no panic").push((vector, message));
            Ok(())
        }
        fn disconnect(&mut self, vector: usize, _: &EventFd) {
            self.0.lock().expect("no panic").retain(|(connected, _)| *connected != vector);
        }
        fn place_doorbells(&mut self, _: Option<u64>, _: u64, _: &[EventFd]) {}
    }

    fn pending(msix: &Msix) -> u8 {
        let mut data = [0];
        msix.read_pending(0, &mut data);
        data[0]
    }

    #[test]
    fn a_vector_is_connected_while_nothing_masks_it() {
        let mut platform = FakePlatform::default();
        let seen = |platform: &FakePlatform| platform.0.lock().expect("no panic").clone();
        let mut msix = Msix::new(2).expect("event counters");
        let message = Message { address: 0xfee0_0000, data: 0x41 };
        msix.write_table(16, &message.address.to_le_bytes(), &mut platform);
        msix.write_table(24, &message.data.to_le_bytes(), &mut platform);
        msix.write_table(28, &[0; 4], &mut platform);
        assert_eq!(seen(&platform), []);
        msix.trigger(1);
        assert_eq!(pending(&msix), 0b10);
        msix.control(Msix::ENABLE, &mut platform);
        assert_eq!(seen(&platform), [(1, message)]);
        msix.control(Msix::ENABLE | Msix::MASK_ALL, &mut platform);
        assert_eq!(seen(&platform), []);
        msix.control(Msix::ENABLE, &mut platform);
        msix.write_table(24, &7_u32.to_le_bytes(), &mut platform);
        assert_eq!(seen(&platform), [(1, Message { data: 7, ..message })]);
        msix.reset(&mut platform);
        assert_eq!((seen(&platform), pending(&msix)), (vec![], 0));
    }

    #[test]
    fn what_is_outside_of_the_table_is_nothing() {
        let mut msix = Msix::new(1).expect("event counters");
        msix.write_table(16, &[0xff; 8], &mut FakePlatform::default());
        msix.write_table(14, &[0xff; 8], &mut FakePlatform::default());
        let mut data = [0xff; 8];
        msix.read_table(12, &mut data);
        assert_eq!(data, [1, 0, 0, 0, 0, 0, 0, 0], "reserved bits are not kept");
        msix.read_table(usize::MAX & !15, &mut data);
        assert_eq!(data, [0; 8]);
        msix.trigger(9);
    }
}
