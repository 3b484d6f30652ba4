//! The ways by which a processor reaches devices: ports and physical addresses that are no memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device with registers. `offset` counts from where its window begins; an access has one to eight bytes and
/// may be anywhere in the window, of any width: whoever is asked something senseless reads zeroes and ignores
/// writes.
pub trait BusDevice: Send {
    /// Reads registers; what is not written to `data` is as the bus left it: all ones.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes registers.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that several threads reach.
pub type Shared<D> = Arc<Mutex<D>>;

/// Locks a device. A thread that panics takes the process of a machine with it ([`crate::abort_on_panic`]),
/// so nobody sees a device half changed.
pub fn lock<T: ?Sized>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An address space with devices in it. What is at no device reads as all ones, and swallows writes.
#[derive(Default)]
pub struct Bus {
    windows: BTreeMap<u64, Window>,
}

struct Window {
    bytes: u64,
    device: Shared<dyn BusDevice>,
}

impl Bus {
    /// Puts a device where no other is.
    ///
    /// # Panics
    /// When there is one: the machine's layout is wrong.
    pub fn insert(&mut self, at: u64, bytes: u64, device: Shared<dyn BusDevice>) {
        let clear = |(&start, window): (&u64, &Window)| start + window.bytes <= at;
        assert!(self.windows.range(..at + bytes).next_back().is_none_or(clear), "two devices at {at:#x}");
        self.windows.insert(at, Window { bytes, device });
    }

    /// Reads what a device says.
    pub fn read(&self, at: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(at, data.len()) {
            lock(device).read(offset, data);
        }
    }

    /// Tells a device something.
    pub fn write(&self, at: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(at, data.len()) {
            lock(device).write(offset, data);
        }
    }

    /// The device in whose window an access lies, with all its bytes.
    fn find(&self, at: u64, len: usize) -> Option<(u64, &Shared<dyn BusDevice>)> {
        let (&start, window) = self.windows.range(..=at).next_back()?;
        let offset = at - start;
        (offset.checked_add(len as u64)? <= window.bytes).then_some((offset, &window.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as the offset, and keeps what was written last.
    #[derive(Default)]
    struct Echo(Option<(u64, Vec<u8>)>);

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0 = Some((offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_the_device_in_whose_window_they_are() {
        let (first, second) = (Shared::<Echo>::default(), Shared::<Echo>::default());
        let mut bus = Bus::default();
        bus.insert(0x100, 8, first.clone());
        bus.insert(0x108, 8, second.clone());
        let read = |at, len| {
            let mut data = vec![0; len];
            bus.read(at, &mut data);
            data
        };
        assert_eq!(read(0x101, 2), [1, 1]);
        assert_eq!(read(0x10f, 1), [7]);
        assert_eq!(read(0x106, 4), [0xff; 4], "across two windows");
        assert_eq!(read(0x110, 1), [0xff], "behind the last");
        assert_eq!(read(u64::MAX, 8), [0xff; 8]);
        bus.write(0x10a, &[1, 2]);
        bus.write(0xff, &[1, 2]);
        assert_eq!(lock(&first).0, None);
        assert_eq!(lock(&second).0, Some((2, vec![1, 2])));
    }

    #[test]
    #[should_panic(expected = "two devices")]
    fn windows_do_not_overlap() {
        let mut bus = Bus::default();
        bus.insert(0, 8, Shared::<Echo>::default());
        bus.insert(4, 8, Shared::<Echo>::default());
    }
}
