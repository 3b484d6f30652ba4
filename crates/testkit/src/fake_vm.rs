use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::SealFlags;

use crate::vmm_link::{Request, VmmLink, event, guest_memory};

/// The guest's memory, from address 0.
pub const MEMORY_BYTES: u64 = 8 << 20;

/// Where the VMM would see it.
pub const VMM_ADDRESS: u64 = 0x7f12_3400_0000;

/// All that a present-day Linux driver and QEMU accept: checksums, TSO, mergeable buffers, indirect
/// descriptors, event indices, protocol features, virtio 1.
pub const VM_FEATURES: u64 = 1
    | 1 << 1
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 15
    | 1 << 28
    | 1 << 29
    | 1 << 30
    | 1 << 32;

/// `LOG_SHMFD`, `RARP`, `REPLY_ACK` and `CONFIGURE_MEM_SLOTS`.
const PROTOCOL_FEATURES: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 15;

/// `VHOST_F_LOG_ALL`.
const LOG_ALL: u64 = 1 << 26;

const QUEUE_SIZE: u16 = 256;
const HEADER_BYTES: usize = 12;
const RX_BUFFERS_AT: u64 = 0x10_0000;
const RX_BUFFER_BYTES: u64 = 2048;
const TX_BUFFERS_AT: u64 = 0x30_0000;
const TX_BUFFER_BYTES: u64 = 128 << 10;
const PAGE_BYTES: usize = 4096;
/// Descriptors for one frame: a header, and the pages of 64 KiB and a bit.
const DESCRIPTORS_PER_FRAME: u16 = 18;
const TX_SLOTS: u16 = QUEUE_SIZE / DESCRIPTORS_PER_FRAME;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// The rings of one queue in the guest's memory, and the driver's indices.
#[derive(Clone, Debug)]
struct Queue {
    at: u64,
    available: u16,
    seen: u16,
}

impl Queue {
    fn descriptors(&self) -> u64 {
        self.at
    }

    fn available_ring(&self) -> u64 {
        self.at + 0x4000
    }

    fn used_ring(&self) -> u64 {
        self.at + 0x8000
    }
}

/// A frame that a VM received, and its virtio-net header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The header.
    pub header: [u8; HEADER_BYTES],
    /// The frame.
    pub frame: Vec<u8>,
}

/// A VM without a processor: a VMM's vhost-user front end and a guest's virtio-net driver in one, for tests.
/// The guest's memory is reached by reading and writing its memfd, as coherent as the real thing.
#[derive(Debug)]
pub struct FakeVm {
    socket: PathBuf,
    features: u64,
    memory: File,
    link: Option<VmmLink>,
    rx: Queue,
    tx: Queue,
    kick: OwnedFd,
    call: OwnedFd,
}

impl FakeVm {
    /// Boots with [`VM_FEATURES`] and connects to the vhost-user socket.
    ///
    /// # Errors
    /// When the back end refuses.
    pub fn boot(socket: &Path) -> io::Result<Self> {
        Self::boot_with(socket, VM_FEATURES)
    }

    /// Boots with a driver that accepts `features`.
    ///
    /// # Errors
    /// When the back end refuses.
    pub fn boot_with(socket: &Path, features: u64) -> io::Result<Self> {
        let memory = guest_memory(MEMORY_BYTES, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
        Self::boot_in(socket, features, memory)
    }

    /// Boots in this memory, of [`MEMORY_BYTES`].
    ///
    /// # Errors
    /// When the back end refuses.
    pub fn boot_in(socket: &Path, features: u64, memory: File) -> io::Result<Self> {
        let mut vm = Self {
            socket: socket.to_owned(),
            features,
            memory,
            link: None,
            rx: Queue { at: 0, available: 0, seen: 0 },
            tx: Queue { at: 0x1_0000, available: 0, seen: 0 },
            kick: event(),
            call: event(),
        };
        for id in 0..QUEUE_SIZE {
            let addr = RX_BUFFERS_AT + u64::from(id) * RX_BUFFER_BYTES;
            vm.write_descriptor(vm.rx.descriptors(), id, addr, RX_BUFFER_BYTES as u32, WRITE, 0);
            vm.offer_rx(id);
        }
        vm.reconnect()?;
        Ok(vm)
    }

    /// What a VMM does when it connects, for the first time or again: rings go on where the guest's memory
    /// says that they stand.
    ///
    /// # Errors
    /// When the back end refuses.
    pub fn reconnect(&mut self) -> io::Result<()> {
        self.link = None;
        let mut link = VmmLink::connect(&self.socket)?;
        let word = |value: u64| value.to_le_bytes();
        link.tell(Request::SetOwner, &[], &[])?;
        link.ask(Request::GetFeatures, &[])?;
        link.ask(Request::GetProtocolFeatures, &[])?;
        link.tell(Request::SetProtocolFeatures, &word(PROTOCOL_FEATURES), &[])?;
        for index in [0u32, 1] {
            // QEMU enables the rings of a network adapter once, and before everything else.
            link.order(Request::SetVringEnable, &[index.to_le_bytes(), 1u32.to_le_bytes()].concat(), &[])?;
        }
        link.order(Request::SetFeatures, &word(self.features), &[])?;
        link.order(Request::SetMemTable, &Self::memory_table(), &[self.memory.as_fd()])?;
        for (index, queue) in [(0u32, &self.rx), (1, &self.tx)] {
            let state = |value: u32| [index.to_le_bytes(), value.to_le_bytes()].concat();
            let base = self.read_u16(queue.used_ring() + 2);
            link.order(Request::SetVringNum, &state(QUEUE_SIZE.into()), &[])?;
            link.order(Request::SetVringBase, &state(base.into()), &[])?;
            link.order(Request::SetVringAddr, &Self::ring_addresses(index, queue), &[])?;
            link.order(Request::SetVringCall, &word(index.into()), &[self.call.as_fd()])?;
            link.order(Request::SetVringKick, &word(index.into()), &[self.kick.as_fd()])?;
        }
        self.link = Some(link);
        self.kick();
        Ok(())
    }

    /// The payload of `SET_MEM_TABLE` for this VM's one region.
    pub fn memory_table() -> Vec<u8> {
        let mut table = [1u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
        for value in [0, MEMORY_BYTES, VMM_ADDRESS, 0u64] {
            table.extend_from_slice(&value.to_le_bytes());
        }
        table
    }

    fn ring_addresses(index: u32, queue: &Queue) -> Vec<u8> {
        let mut addresses = [index.to_le_bytes(), 0u32.to_le_bytes()].concat();
        for at in [queue.descriptors(), queue.used_ring(), queue.available_ring()] {
            addresses.extend_from_slice(&(VMM_ADDRESS + at).to_le_bytes());
        }
        addresses.extend_from_slice(&[0; 8]);
        addresses
    }

    /// Has the back end note in `log`, from its start to `len`, what it writes.
    ///
    /// # Errors
    /// When the back end refuses.
    pub fn log_to(&mut self, log: &File, len: u64) -> io::Result<()> {
        let features = self.features | LOG_ALL;
        let link = self.link();
        link.tell(Request::SetLogBase, &[len.to_le_bytes(), [0; 8]].concat(), &[log.as_fd()])?;
        link.answer()?;
        link.order(Request::SetFeatures, &features.to_le_bytes(), &[])
    }

    /// Stops its rings, as a VMM does whose guest has left it.
    ///
    /// # Errors
    /// When the back end hung up.
    pub fn stop(&mut self) -> io::Result<()> {
        for index in [0u32, 1] {
            self.link().ask(Request::GetVringBase, &[index.to_le_bytes(), [0; 4]].concat())?;
        }
        Ok(())
    }

    /// The connection, to say something unheard of.
    ///
    /// # Panics
    /// After [`Self::hang_up`].
    pub fn link(&mut self) -> &mut VmmLink {
        self.link.as_mut().expect("connected")
    }

    /// Ends the connection, as a VMM that is killed does.
    pub fn hang_up(&mut self) {
        self.link = None;
    }

    /// Sends a frame that needs nothing done.
    pub fn send(&mut self, frame: &[u8]) {
        self.send_with(&[0; HEADER_BYTES], frame);
    }

    /// Sends a frame behind `header`: a chain of a header and pages, as Linux does it.
    ///
    /// # Panics
    /// When the back end has not given the frame before the last [`TX_SLOTS`] back.
    pub fn send_with(&mut self, header: &[u8; HEADER_BYTES], frame: &[u8]) {
        let slot = self.tx.available % TX_SLOTS;
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.tx.available.wrapping_sub(self.read_u16(self.tx.used_ring() + 2)) >= TX_SLOTS {
            assert!(Instant::now() < deadline, "the back end keeps our buffers");
            thread::sleep(Duration::from_micros(200));
        }
        let first = slot * DESCRIPTORS_PER_FRAME;
        let buffer = TX_BUFFERS_AT + u64::from(slot) * TX_BUFFER_BYTES;
        self.write(buffer, header);
        self.write(buffer + PAGE_BYTES as u64, frame);
        let pages = frame.len().div_ceil(PAGE_BYTES);
        assert!(pages < usize::from(DESCRIPTORS_PER_FRAME), "the frame is too large for this VM");
        let table = self.tx.descriptors();
        self.write_descriptor(table, first, buffer, HEADER_BYTES as u32, NEXT, first + 1);
        for page in 0..pages {
            let id = first + 1 + page as u16;
            let len = (frame.len() - page * PAGE_BYTES).min(PAGE_BYTES) as u32;
            let flags = if page + 1 < pages { NEXT } else { 0 };
            self.write_descriptor(table, id, buffer + ((page + 1) * PAGE_BYTES) as u64, len, flags, id + 1);
        }
        self.offer_tx(first);
        self.kick();
    }

    /// Makes any chain of the send queue available and kicks.
    pub fn offer_tx(&mut self, first: u16) {
        let entry = self.tx.available_ring() + 4 + 2 * u64::from(self.tx.available % QUEUE_SIZE);
        self.write(entry, &first.to_le_bytes());
        self.tx.available = self.tx.available.wrapping_add(1);
        self.write(self.tx.available_ring() + 2, &self.tx.available.to_le_bytes());
        self.kick();
    }

    /// Writes any descriptor of the send queue.
    pub fn write_tx_descriptor(&self, id: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.write_descriptor(self.tx.descriptors(), id, addr, len, flags, next);
    }

    /// Writes any available index of the send queue and kicks.
    pub fn jump_tx(&self, index: u16) {
        self.write(self.tx.available_ring() + 2, &index.to_le_bytes());
        self.kick();
    }

    /// Writes any descriptor of the receive queue.
    pub fn write_rx_descriptor(&self, id: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.write_descriptor(self.rx.descriptors(), id, addr, len, flags, next);
    }

    /// Chains of the send queue that the back end has given back since the VM booted, modulo 2^16.
    pub fn given_back(&self) -> u16 {
        self.read_u16(self.tx.used_ring() + 2)
    }

    /// Waits for a frame; `None` when none comes.
    pub fn recv(&mut self, patience: Duration) -> Option<Received> {
        let deadline = Instant::now() + patience;
        while self.read_u16(self.rx.used_ring() + 2) == self.rx.seen {
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_micros(200));
        }
        let mut bytes = self.take_rx();
        let header: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().expect("a header comes first");
        let buffers = u16::from_le_bytes([header[10], header[11]]);
        for _ in 1..buffers {
            bytes.extend_from_slice(&self.take_rx()); // they became visible together
        }
        Some(Received { header, frame: bytes.split_off(HEADER_BYTES) })
    }

    /// Takes one used buffer and offers it again.
    fn take_rx(&mut self) -> Vec<u8> {
        let entry = self.rx.used_ring() + 4 + 8 * u64::from(self.rx.seen % QUEUE_SIZE);
        let (id, len) = (self.read_u16(entry), self.read_u16(entry + 4));
        self.rx.seen = self.rx.seen.wrapping_add(1);
        let mut bytes = vec![0; len.into()];
        let buffer = RX_BUFFERS_AT + u64::from(id) * RX_BUFFER_BYTES;
        self.memory.read_exact_at(&mut bytes, buffer).expect("our own memory");
        self.offer_rx(id);
        bytes
    }

    fn offer_rx(&mut self, id: u16) {
        let entry = self.rx.available_ring() + 4 + 2 * u64::from(self.rx.available % QUEUE_SIZE);
        self.write(entry, &id.to_le_bytes());
        self.rx.available = self.rx.available.wrapping_add(1);
        self.write(self.rx.available_ring() + 2, &self.rx.available.to_le_bytes());
    }

    /// Kicks the send queue, whatever is in it.
    pub fn kick(&self) {
        let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
    }

    fn write_descriptor(&self, table: u64, id: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&next.to_le_bytes());
        self.write(table + 16 * u64::from(id), &bytes);
    }

    /// Writes to the guest's memory.
    ///
    /// # Panics
    /// Outside of it.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).expect("inside of our memory");
    }

    fn read_u16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read_exact_at(&mut bytes, at).expect("our own memory");
        u16::from_le_bytes(bytes)
    }
}
