//! A disk (virtio 1.2, section 5.2).

use std::io;

use serde_json::{Value, json};

use super::chain::{Chain, Segment, cut, gather, scatter, total};
use super::device::{Device, DeviceKind, Service};
use super::image::{Clear, Direction, Image};
use super::queue::QueueError;
use crate::memory::GuestMemory;

const SECTOR_BYTES: u64 = 512;
const HEADER_BYTES: u64 = 16;
const QUEUE_SIZE: u16 = 256;
/// Pieces that one call to the system takes (`IOV_MAX`); a chain has fewer.
const _: () = assert!(2 * (QUEUE_SIZE as usize) < 1024);

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// The longest name of a disk.
const ID_BYTES: usize = 20;
/// The most ranges that a discard has.
const MAX_RANGES: usize = 16;
/// One range: sector, count and flags.
const RANGE_BYTES: usize = 16;
/// The largest range: so many sectors.
const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// Why an image cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Its size cannot be told.
    #[error("Cannot tell the size of the disk image: {0}")]
    Size(#[from] io::Error),
    /// It is not made of sectors.
    #[error("The disk image has {0} bytes, which is no multiple of 512")]
    Sectors(u64),
}

/// A disk.
pub struct Block {
    image: Image,
    sectors: u64,
    read_only: bool,
    id: [u8; ID_BYTES],
    counters: Counters,
    /// Why the last request failed that did, which is said once.
    trouble: Option<String>,
}

/// What became of requests.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    requests: u64,
    failed: u64,
    unsupported: u64,
}

impl Block {
    /// A disk in `image`, whose size it has from now on; `id` is what the guest sees as its serial number.
    ///
    /// # Errors
    /// When the image cannot be a disk.
    pub fn new(image: Image, read_only: bool, id: &str) -> Result<Self, DiskError> {
        let bytes = image.bytes()?;
        if !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(DiskError::Sectors(bytes));
        }
        let mut padded = [0; ID_BYTES];
        for (place, byte) in padded.iter_mut().zip(id.bytes()) {
            *place = byte;
        }
        Ok(Self {
            image,
            sectors: bytes / SECTOR_BYTES,
            read_only,
            id: padded,
            counters: Counters::default(),
            trouble: None,
        })
    }

    /// Does a request, and says how many bytes it wrote for the driver.
    fn answer(&mut self, memory: &GuestMemory, chain: &Chain) -> Result<u32, QueueError> {
        // The last byte that can be written is the status; without one there is no way to answer.
        let room = total(&chain.writable).checked_sub(1).ok_or(QueueError::Request)?;
        let mut header = [0; HEADER_BYTES as usize];
        if gather(memory, &chain.readable, &mut header).map_err(|_| QueueError::Request)? < header.len() {
            return Err(QueueError::Request);
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (kind, sector) = (word(0), u64::from(word(8)) | u64::from(word(12)) << 32);
        let data = cut(&chain.readable, HEADER_BYTES, u64::MAX);
        let answer = cut(&chain.writable, 0, room);
        let done = match kind {
            READ => self.transfer(memory, sector, &answer, Direction::FromDisk).map(|()| room as u32),
            WRITE => self.writable().and_then(|()| self.transfer(memory, sector, &data, Direction::ToDisk)).map(|()| 0),
            FLUSH => self.image.flush().map(|()| 0).map_err(|error| self.complain("flushed", &error)),
            GET_ID => scatter(memory, &answer, &self.id).map(|count| count as u32).map_err(|_| IO_ERROR),
            DISCARD | WRITE_ZEROES => self.writable().and_then(|()| self.clear(memory, kind, &data)).map(|()| 0),
            _ => Err(UNSUPPORTED),
        };
        self.counters.requests += 1;
        self.counters.failed += u64::from(done == Err(IO_ERROR));
        self.counters.unsupported += u64::from(done == Err(UNSUPPORTED));
        let (written, status) = match done {
            Ok(written) => (written, OK),
            Err(status) => (0, status),
        };
        scatter(memory, &cut(&chain.writable, room, 1), &[status]).map_err(|_| QueueError::Request)?;
        // Bytes count from the first; where fewer were written than there is room, the status is not counted.
        Ok(if u64::from(written) == room { written + 1 } else { written })
    }

    /// Tells the host what it could not do, unless it was the same before; the guest hears of an error.
    fn complain(&mut self, what: &str, error: &io::Error) -> u8 {
        let words = format!("the disk could not be {what}: {error}");
        if self.trouble.as_ref() != Some(&words) {
            eprintln!("weft vmm: {words}");
            self.trouble = Some(words);
        }
        IO_ERROR
    }

    fn writable(&self) -> Result<(), u8> {
        if self.read_only { Err(IO_ERROR) } else { Ok(()) }
    }

    /// The byte at which `bytes` from a sector on begin, if all of them are on the disk.
    fn place(&self, sector: u64, bytes: u64) -> Result<u64, u8> {
        let whole = bytes.is_multiple_of(SECTOR_BYTES);
        let end = sector.checked_add(bytes / SECTOR_BYTES).filter(|end| whole && *end <= self.sectors);
        end.map(|_| sector * SECTOR_BYTES).ok_or(IO_ERROR)
    }

    fn transfer(&mut self, memory: &GuestMemory, sector: u64, segments: &[Segment], way: Direction) -> Result<(), u8> {
        let start = self.place(sector, total(segments))?;
        let moved = self.image.transfer(memory, segments, way, start);
        moved.map_err(|error| self.complain(if way == Direction::ToDisk { "written" } else { "read" }, &error))
    }

    /// Does what a list of ranges says: they read as zeroes then, or as anything.
    fn clear(&mut self, memory: &GuestMemory, kind: u32, data: &[Segment]) -> Result<(), u8> {
        let mut ranges = [0; MAX_RANGES * RANGE_BYTES];
        if total(data) > ranges.len() as u64 || !total(data).is_multiple_of(RANGE_BYTES as u64) {
            return Err(UNSUPPORTED);
        }
        let len = gather(memory, data, &mut ranges).map_err(|_| IO_ERROR)?;
        for range in ranges[..len].as_chunks::<RANGE_BYTES>().0 {
            let range = u128::from_le_bytes(*range);
            let (sector, count, flags) = (range as u64, (range >> 64) as u32, (range >> 96) as u32);
            let unmap = flags & 1 != 0;
            if flags & !1 != 0 || kind == DISCARD && unmap {
                return Err(UNSUPPORTED);
            }
            if count > MAX_RANGE_SECTORS {
                return Err(IO_ERROR);
            }
            let bytes = u64::from(count) * SECTOR_BYTES;
            let start = self.place(sector, bytes)?;
            let how = match kind {
                DISCARD => Clear::Discard,
                _ if unmap => Clear::ZeroAndFree,
                _ => Clear::Zero,
            };
            self.image.clear(start, bytes, how).map_err(|error| self.complain("cleared", &error))?;
        }
        Ok(())
    }
}

impl Device for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        F_SEG_MAX | F_FLUSH | if self.read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    /// `struct virtio_blk_config`, section 5.2.4.
    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.sectors.to_le_bytes());
        put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes()); // seg_max: all but header and status
        put(36, &MAX_RANGE_SECTORS.to_le_bytes()); // max_discard_sectors
        put(40, &(MAX_RANGES as u32).to_le_bytes()); // max_discard_seg
        put(44, &8_u32.to_le_bytes()); // discard_sector_alignment: a page of a file
        put(48, &MAX_RANGE_SECTORS.to_le_bytes()); // max_write_zeroes_sectors
        put(52, &(MAX_RANGES as u32).to_le_bytes()); // max_write_zeroes_seg
        put(56, &[1]); // write_zeroes_may_unmap
        config
    }

    fn serve(&mut self, queue: usize, service: &mut Service<'_>) -> Result<(), QueueError> {
        let Service { memory, queues } = service;
        for _ in 0..queues[queue].size {
            let Some(chain) = queues[queue].pop(memory)? else { break };
            let written = self.answer(memory, &chain)?;
            queues[queue].push(memory, chain.head, written)?;
        }
        Ok(())
    }

    fn state(&self) -> Value {
        let Counters { requests, failed, unsupported } = self.counters;
        json!({ "sectors": self.sectors, "requests": requests, "failed": failed, "unsupported": unsupported })
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{describe, memory, offer, queue};
    use super::*;
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};
    use vm_memory::{Bytes as _, GuestAddress};

    const SECTORS: u64 = 16;
    const HEADER: u64 = 0x1_0000;
    const DATA: u64 = 0x2_0000;
    const STATUS: u64 = 0x3_0000;

    fn disk(read_only: bool) -> (File, Block) {
        let mut file = tempfile::tempfile().expect("a file");
        let bytes: Vec<u8> = (0..SECTORS * SECTOR_BYTES).map(|at| (at / SECTOR_BYTES) as u8 + 1).collect();
        file.write_all(&bytes).expect("room");
        (file.try_clone().expect("a descriptor"), Block::new(Image::raw(file), read_only, "disk-0").expect("a disk"))
    }

    /// Makes one request with `data` that is read or written, and returns what was written and the status.
    fn request(block: &mut Block, kind: u32, sector: u64, data: Result<&[u8], u32>) -> (Vec<u8>, u8) {
        let memory = memory();
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        memory.write_slice(&header, GuestAddress(HEADER)).expect("memory");
        memory.write_obj(0xff_u8, GuestAddress(STATUS)).expect("memory");
        let (bytes, flags) = match data {
            Ok(data) => {
                memory.write_slice(data, GuestAddress(DATA)).expect("memory");
                (data.len() as u32, 0)
            }
            Err(room) => (room, 2),
        };
        // The header comes in two buffers: how it is cut must not matter.
        describe(&memory, 0x1000, 0, HEADER, 7, 1, 1);
        describe(&memory, 0x1000, 1, HEADER + 7, 9, 1, if bytes > 0 { 2 } else { 3 });
        describe(&memory, 0x1000, 2, DATA, bytes, 1 | flags, 3);
        describe(&memory, 0x1000, 3, STATUS, 1, 2, 0);
        offer(&memory, &[0]);
        let mut queues = [queue()];
        block.serve(0, &mut Service { memory: &memory, queues: &mut queues }).expect("a good driver");
        let [_, written]: [u32; 2] = memory.read_obj(GuestAddress(0x3004)).expect("memory");
        let mut answer = vec![0; written.saturating_sub(1) as usize];
        memory.read_slice(&mut answer, GuestAddress(DATA)).expect("memory");
        (answer, memory.read_obj(GuestAddress(STATUS)).expect("memory"))
    }

    #[test]
    fn sectors_are_read_and_written() {
        let (_, mut block) = disk(false);
        assert_eq!(request(&mut block, READ, 3, Err(1024)), ([vec![4; 512], vec![5; 512]].concat(), OK));
        assert_eq!(request(&mut block, WRITE, 3, Ok(&[9; 512])), (vec![], OK));
        assert_eq!(request(&mut block, FLUSH, 0, Ok(&[])), (vec![], OK));
        assert_eq!(request(&mut block, READ, 3, Err(1024)), ([vec![9; 512], vec![5; 512]].concat(), OK));
    }

    #[test]
    fn what_is_not_on_the_disk_is_an_error() {
        let (_, mut block) = disk(false);
        for (sector, bytes) in [(SECTORS, 512), (SECTORS - 1, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 100)] {
            assert_eq!(request(&mut block, READ, sector, Err(bytes)).1, IO_ERROR, "{sector} {bytes}");
        }
        assert_eq!(request(&mut block, 77, 0, Ok(&[])).1, UNSUPPORTED);
        assert_eq!(block.counters.failed, 5);
    }

    #[test]
    fn an_image_that_became_shorter_is_an_error() {
        let (file, mut block) = disk(false);
        file.set_len(512).expect("a shorter file");
        assert_eq!(request(&mut block, READ, 1, Err(512)).1, IO_ERROR);
    }

    #[test]
    fn a_read_only_disk_is_not_written() {
        let (mut file, mut block) = disk(true);
        assert_eq!(request(&mut block, WRITE, 0, Ok(&[9; 512])).1, IO_ERROR);
        assert_eq!(request(&mut block, WRITE_ZEROES, 0, Ok(&[0; 16])).1, IO_ERROR);
        file.rewind().expect("a file");
        let mut first = [0; 1];
        file.read_exact(&mut first).expect("a file");
        assert_eq!(first, [1]);
        assert_ne!(block.features() & F_RO, 0);
    }

    #[test]
    fn ranges_become_zero() {
        let (_, mut block) = disk(false);
        let range = |sector: u64, count: u32, flags: u32| {
            [sector.to_le_bytes().to_vec(), count.to_le_bytes().to_vec(), flags.to_le_bytes().to_vec()].concat()
        };
        assert_eq!(request(&mut block, WRITE_ZEROES, 0, Ok(&range(2, 1, 1))).1, OK);
        assert_eq!(request(&mut block, READ, 1, Err(1536)).0, [vec![2; 512], vec![0; 512], vec![4; 512]].concat());
        assert_eq!(request(&mut block, DISCARD, 0, Ok(&range(4, 1, 0))).1, OK);
        assert_eq!(request(&mut block, DISCARD, 0, Ok(&range(SECTORS, 1, 0))).1, IO_ERROR);
        assert_eq!(request(&mut block, DISCARD, 0, Ok(&range(0, 1, 1))).1, UNSUPPORTED);
        assert_eq!(request(&mut block, DISCARD, 0, Ok(&[0; 15])).1, UNSUPPORTED);
    }

    #[test]
    fn a_disk_has_a_name() {
        let (_, mut block) = disk(false);
        let (name, status) = request(&mut block, GET_ID, 0, Err(20));
        assert_eq!((&name[..7], status), (&b"disk-0\0"[..], OK));
    }

    #[test]
    fn requests_without_header_or_status_break_the_rules() {
        let (_, mut block) = disk(false);
        for (readable, writable) in [(16, 0), (15, 1), (0, 1)] {
            let memory = memory();
            let mut chain = Chain::default();
            chain.readable.extend((readable > 0).then_some(Segment { at: HEADER, bytes: readable }));
            chain.writable.extend((writable > 0).then_some(Segment { at: STATUS, bytes: writable }));
            assert!(matches!(block.answer(&memory, &chain), Err(QueueError::Request)), "{readable} {writable}");
        }
    }

    #[test]
    fn an_image_is_made_of_sectors() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1000).expect("room");
        assert!(matches!(Block::new(Image::raw(file), false, ""), Err(DiskError::Sectors(1000))));
    }
}
