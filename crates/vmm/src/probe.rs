//! A machine's devices against plain memory, without KVM, driven by any bytes: for fuzz targets, and for tests.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{Bus, Shared, lock};
use crate::layout::{ECAM, ECAM_BYTES, PCI_CONFIG_PORT, PCI_WINDOW};
use crate::memory::GuestMemory;
use crate::pci::{ConfigPorts, Ecam, Message, PciRoot, Platform, Windows};
use crate::terminal::Terminal;
use crate::virtio::{Block, Console, Device, Direction, Image, Ports, Rng, Segment, Transport};

/// The guest's memory: small, so that addresses made of any bytes hit it and miss it.
const MEMORY_BYTES: usize = 0x2_0000;
/// The disk.
const DISK_BYTES: u64 = 0x4000;
/// What one step takes from the bytes.
const STEP_BYTES: usize = 8;
/// The most steps.
const MAX_STEPS: usize = 512;

/// Nobody listens to interrupts or doorbells.
struct Deaf;

impl Platform for Deaf {
    fn connect(&mut self, _: usize, _: &EventFd, _: Message) -> io::Result<()> {
        Ok(())
    }
    fn disconnect(&mut self, _: usize, _: &EventFd) {}
    fn place_doorbells(&mut self, _: Option<u64>, _: u64, _: &[EventFd]) {}
}

/// Randomness, a console, ports and a disk on a bus, with the guest's memory.
pub(crate) struct World {
    pub(crate) memory: GuestMemory,
    pub(crate) buses: [Bus; 2],
    pub(crate) functions: Vec<Shared<Transport>>,
    disk: File,
}

impl World {
    pub(crate) fn new() -> io::Result<Self> {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).map_err(io::Error::other)?;
        let disk = File::from(memfd_create("disk", MemfdFlags::CLOEXEC)?);
        disk.set_len(DISK_BYTES)?;
        let terminal = Arc::new(Mutex::new(Terminal::new(256, None, None)?));
        let block = Block::new(Image::raw(disk.try_clone()?), false, "probe").map_err(io::Error::other)?;
        let console = Console::new(terminal)?;
        let ports = Ports::new(vec![("probe".to_owned(), unconnected()?)])?;
        let devices: [Box<dyn Device>; 4] = [Box::new(Rng), Box::new(console), Box::new(block), Box::new(ports)];
        let mut root = PciRoot::default();
        let mut functions = Vec::new();
        for device in devices {
            let Some(at) = root.next_registers() else { break };
            let transport = Arc::new(Mutex::new(Transport::new(device, memory.clone(), Box::new(Deaf), at)?));
            root.plug(transport.clone());
            functions.push(transport);
        }
        let root = Arc::new(Mutex::new(root));
        let (mut ports, mut addresses) = (Bus::default(), Bus::default());
        ports.insert(PCI_CONFIG_PORT.into(), ConfigPorts::PORTS, Arc::new(Mutex::new(ConfigPorts::new(root.clone()))));
        addresses.insert(ECAM, ECAM_BYTES, Arc::new(Mutex::new(Ecam(root.clone()))));
        addresses.insert(PCI_WINDOW, Windows::BYTES, Arc::new(Mutex::new(Windows::new(root))));
        Ok(Self { memory, buses: [ports, addresses], functions, disk })
    }

    /// Does what eight bytes say: which kind of access, how wide, where, and with what.
    fn step(&self, step: [u8; STEP_BYTES]) {
        let [kind, place_low, place_high, device, value @ ..] = step;
        let place = u64::from(u16::from_le_bytes([place_low, place_high]));
        let width = 1 << (kind >> 4 & 3);
        // Eight bytes are the four of the value, twice.
        let mut data = [value, value].concat();
        data.truncate(width);
        let [ports, addresses] = &self.buses;
        let function = &self.functions[usize::from(device) % self.functions.len()];
        let window = PCI_WINDOW + (u64::from(device) % 5) * 0x8000 + place % 0x8000;
        let config = ECAM + ((u64::from(device) % 5) << 15) + place % 0x1000;
        match kind & 15 {
            0..=3 => addresses.write(window, &data),
            4 => addresses.read(window, &mut data),
            5 => addresses.write(config, &data),
            6 => addresses.read(config, &mut data),
            7 => ports.write(u64::from(PCI_CONFIG_PORT) + place % 8, &data),
            8 => ports.read(u64::from(PCI_CONFIG_PORT) + place % 8, &mut data),
            9 | 10 => {
                // A guest writes to its memory whenever it wants; what is outside is no memory.
                let _ = self.memory.write_slice(&data, GuestAddress(place));
            }
            11 | 12 => lock(function).serve(usize::from(value[0] % 8)),
            13 => lock(function).tend(),
            14 => {
                lock(function).pause();
                let _ = lock(function).state();
                lock(function).resume();
            }
            _ => addresses.write(u64::from(u32::from_le_bytes(value)), &data),
        }
    }
}

/// A disk behind an overlay, which is only read, whose qcow2 file is these bytes: whatever they say, it is refused, or gives
/// errors, or is a disk. (Overlays are written by nobody but us.)
pub fn probe_disk(data: &[u8]) {
    // More than this is not read of it; a file may say that it is larger than any disk.
    const READ_BYTES: u64 = 4 << 20;
    const PIECE_BYTES: u64 = 0x8000;
    let open = || -> io::Result<Image> {
        let mut file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC)?);
        io::Write::write_all(&mut file, data)?;
        Image::qcow2(file, false, None)
    };
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]);
    let (Ok(image), Ok(memory)) = (open(), memory) else { return };
    let bytes = image.bytes().unwrap_or(0);
    let segments = [Segment { at: 0, bytes: PIECE_BYTES as u32 }];
    let last = bytes.saturating_sub(PIECE_BYTES);
    let places = (0..bytes.min(READ_BYTES).saturating_sub(PIECE_BYTES)).step_by(PIECE_BYTES as usize).chain([last]);
    for place in places.filter(|place| place.checked_add(PIECE_BYTES).is_some_and(|end| end <= bytes)) {
        // Errors are what a damaged image gives.
        let _ = image.transfer(&memory, &segments, Direction::FromDisk, place);
    }
}

/// A socket to which nobody connects: it has no name.
fn unconnected() -> io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    Ok(socket.into())
}

/// Lets a hostile guest, whose memory and accesses are `bytes`, use a machine's devices. Whatever it does is
/// survived, takes bounded work, and changes neither the disk's size nor what is not its own.
#[doc(hidden)]
pub fn probe_devices(bytes: &[u8]) {
    let Ok(world) = World::new() else { return };
    let (steps, _) = bytes.as_chunks::<STEP_BYTES>();
    // The second half is also what the guest's memory holds at first, so that rings are not all zeroes.
    let half = &bytes[bytes.len() / 2..];
    let _ = world.memory.write_slice(&half[..half.len().min(MEMORY_BYTES)], GuestAddress(0));
    for step in steps.iter().take(MAX_STEPS) {
        world.step(*step);
    }
    let size = world.disk.metadata().map(|meta| meta.len());
    assert!(size.is_ok_and(|size| size == DISK_BYTES), "a guest changed the size of its disk");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COMMON: u64 = 0;
    const NOTIFY: u64 = 0x3000;
    /// Where the disk's registers are: it is the third function.
    const DISK: u64 = PCI_WINDOW + 2 * 0x8000;

    struct Driver(World);

    impl Driver {
        fn write<const N: usize>(&self, at: u64, data: [u8; N]) {
            self.0.buses[1].write(DISK + at, &data);
        }

        fn status(&self) -> u8 {
            let mut data = [0];
            self.0.buses[1].read(DISK + COMMON + 20, &mut data);
            data[0]
        }

        /// Takes `features` beyond those of the first word, and configures the queue at 0x1000.
        fn begin(&self, features: u32, used: u32) {
            for status in [1, 3] {
                self.write(COMMON + 20, [status]);
            }
            self.write(COMMON + 8, 1_u32.to_le_bytes());
            self.write(COMMON + 12, features.to_le_bytes());
            self.write(COMMON + 20, [0x0b]);
            self.write(COMMON + 22, 0_u16.to_le_bytes());
            self.write(COMMON + 24, 8_u16.to_le_bytes());
            for (register, at) in [(32, 0x1000_u32), (40, 0x2000), (48, used)] {
                self.write(COMMON + register, at.to_le_bytes());
            }
            self.write(COMMON + 28, 1_u16.to_le_bytes());
            self.write(COMMON + 20, [0x0f]);
        }
    }

    #[test]
    fn a_driver_reads_a_sector_through_registers_only() {
        let driver = Driver(World::new().expect("a world"));
        driver.begin(1, 0x3000);
        assert_eq!(driver.status(), 0x0f);
        let memory = &driver.0.memory;
        let descriptors =
            [(0x4000_u64, 16_u64 | 1 << 32 | 1 << 48), (0x5000, 512 | 3 << 32 | 2 << 48), (0x6000, 1 | 2 << 32)];
        for (index, (at, rest)) in (0..).zip(descriptors) {
            memory.write_obj(at, GuestAddress(0x1000 + 16 * index)).expect("memory");
            memory.write_obj(rest, GuestAddress(0x1008 + 16 * index)).expect("memory");
        }
        memory.write_obj(0xff_u8, GuestAddress(0x6000)).expect("memory");
        memory.write_obj(1_u16, GuestAddress(0x2002)).expect("memory");
        driver.write(NOTIFY, 0_u16.to_le_bytes());
        lock(&driver.0.functions[2]).serve(0);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x6000)).expect("memory"), 0, "it is done");
        assert_eq!(memory.read_obj::<[u32; 2]>(GuestAddress(0x3004)).expect("memory"), [0, 513]);
    }

    #[test]
    fn a_device_whose_rings_are_nowhere_wants_a_reset() {
        let driver = Driver(World::new().expect("a world"));
        driver.begin(1, 0xffff_f000);
        assert_eq!(driver.status() & 64, 64);
        let state = lock(&driver.0.functions[2]).state();
        assert_eq!((state.violations, state.last_violation.is_some()), (1, true));
        driver.write(COMMON + 20, [0]);
        assert_eq!(driver.status(), 0, "and gets over it");
        driver.begin(1, 0x3000);
        assert_eq!(driver.status(), 0x0f);
    }

    #[test]
    fn a_driver_takes_virtio_1_or_nothing() {
        let driver = Driver(World::new().expect("a world"));
        driver.begin(0, 0x3000);
        assert_eq!(driver.status() & 0x0c, 0, "neither features nor driver are OK");
        let driver = Driver(World::new().expect("a world"));
        driver.begin(1 | 1 << 31, 0x3000);
        assert_eq!(driver.status() & 0x0c, 0, "a feature that was not offered");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_guest_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            probe_devices(&bytes);
        }
    }
}
