//! A disk's image: a raw file or a block device, or a qcow2 file with those behind it (QEMU's docs/interop/qcow2.rst).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder as _};
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use vm_memory::{GuestAddress, GuestMemoryBackend as _};

use super::chain::{Segment, cut, gather, scatter, total};
use crate::memory::GuestMemory;

/// Bytes that are copied at a time between guest memory and a qcow2 file.
const COPIED_BYTES: u64 = 128 << 10;

/// What a disk's sectors are in. Clones are the same image.
#[derive(Clone)]
pub enum Image {
    /// They are a file's, or a block device's, own bytes.
    Raw(Arc<File>),
    /// A qcow2 file says where they are, or that the file behind it has them.
    Qcow2(Arc<Mutex<FormatAccess<Storage>>>),
}

/// What is behind a qcow2 file: an image that is only read.
pub struct Layer(FormatAccess<Storage>);

impl Layer {
    /// A file's own bytes.
    ///
    /// # Errors
    /// When its size cannot be told.
    pub fn raw(file: File) -> io::Result<Self> {
        let image = Raw::builder(Storage::try_from(file)?).open(DenyImplicitOpenGate::default())?;
        Ok(Self(FormatAccess::new(image)))
    }

    /// A qcow2 file, with this behind it.
    ///
    /// # Errors
    /// Like [`Image::qcow2`].
    pub fn qcow2(file: File, behind: Option<Self>) -> io::Result<Self> {
        Ok(Self(open_qcow2(file, false, behind)?))
    }
}

fn open_qcow2(file: File, writable: bool, behind: Option<Layer>) -> io::Result<FormatAccess<Storage>> {
    let mut builder = Qcow2::<Storage>::builder(Storage::try_from(file)?).write(writable);
    if let Some(Layer(behind)) = behind {
        builder = builder.backing(Some(behind));
    }
    Ok(FormatAccess::new(builder.open(DenyImplicitOpenGate::default())?))
}

/// How bytes become zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clear {
    /// Nobody needs them; what they read as does not matter.
    Discard,
    /// They read as zero, and may give up their room.
    ZeroAndFree,
    /// They read as zero, and keep their room.
    Zero,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    FromDisk,
    ToDisk,
}

impl Image {
    /// The image that is a file's own bytes.
    pub fn raw(file: File) -> Self {
        Self::Raw(Arc::new(file))
    }

    /// The image in a qcow2 file, with this behind it. What the file itself names is not opened.
    ///
    /// # Errors
    /// When it is damaged, or names something that is not given.
    pub fn qcow2(file: File, writable: bool, behind: Option<Layer>) -> io::Result<Self> {
        let image = open_qcow2(file, writable, behind)?;
        Ok(Self::Qcow2(Arc::new(Mutex::new(image))))
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> io::Result<u64> {
        match self {
            Self::Raw(file) => io::Seek::seek(&mut &**file, io::SeekFrom::End(0)),
            Self::Qcow2(image) => Ok(lock(image).size()),
        }
    }

    /// Moves bytes between guest memory and the image, all of them.
    pub(crate) fn transfer(
        &self,
        memory: &GuestMemory,
        segments: &[Segment],
        way: Direction,
        start: u64,
    ) -> io::Result<()> {
        let bytes = total(segments);
        let mut done = 0;
        while done < bytes {
            let (left, at) = (cut(segments, done, u64::MAX), start + done);
            let moved = match self {
                Self::Raw(file) => in_place(file, memory, &left, way, at),
                Self::Qcow2(image) => copied(&lock(image), memory, &cut(&left, 0, COPIED_BYTES), way, at),
            };
            match moved {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()), // the image became shorter, or full
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has all that was written outlive the host's power.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self {
            Self::Raw(file) => Ok(fdatasync(file)?),
            Self::Qcow2(image) => {
                let image = lock(image);
                image.flush()?;
                image.sync()
            }
        }
    }

    pub(super) fn clear(&self, start: u64, bytes: u64, how: Clear) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        match self {
            Self::Raw(file) => {
                let hole = match how {
                    Clear::Discard | Clear::ZeroAndFree => FallocateFlags::PUNCH_HOLE,
                    Clear::Zero => FallocateFlags::ZERO_RANGE,
                };
                match fallocate(file, hole | FallocateFlags::KEEP_SIZE, start, bytes) {
                    // A hint, which a file system need not understand; zeroes are a promise.
                    Err(rustix::io::Errno::OPNOTSUPP) if how == Clear::Discard => Ok(()),
                    Err(rustix::io::Errno::OPNOTSUPP) => write_zeroes(file, start, bytes),
                    done => Ok(done?),
                }
            }
            Self::Qcow2(image) => {
                let mut image = lock(image);
                match how {
                    Clear::Discard => image.discard_to_any(start, bytes),
                    Clear::ZeroAndFree | Clear::Zero => image.write_zeroes(start, bytes),
                }
            }
        }
    }
}

/// Writes zeroes, where the file system knows no other way.
fn write_zeroes(file: &File, start: u64, bytes: u64) -> io::Result<()> {
    let zeroes = vec![0; bytes.min(COPIED_BYTES) as usize];
    let mut done = 0;
    while done < bytes {
        let count = (bytes - done).min(COPIED_BYTES);
        file.write_all_at(&zeroes[..count as usize], start + done)?;
        done += count;
    }
    Ok(())
}

/// A disk's thread that panicked in between left nothing half done that later requests could make worse.
fn lock(image: &Mutex<FormatAccess<Storage>>) -> MutexGuard<'_, FormatAccess<Storage>> {
    image.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves bytes through a buffer of ours; how many.
fn copied(
    image: &FormatAccess<Storage>,
    memory: &GuestMemory,
    segments: &[Segment],
    way: Direction,
    at: u64,
) -> io::Result<u64> {
    let mut buffer = vec![0; total(segments) as usize];
    match way {
        Direction::FromDisk => {
            image.read(&mut buffer[..], at)?;
            scatter(memory, segments, &buffer)?;
        }
        Direction::ToDisk => {
            gather(memory, segments, &mut buffer)?;
            image.write(&buffer[..], at)?;
        }
    }
    Ok(buffer.len() as u64)
}

/// Has the system move bytes between guest memory and a file, without a copy of ours; how many.
#[expect(unsafe_code, reason = "the system reads and writes guest memory in place")]
fn in_place(file: &File, memory: &GuestMemory, segments: &[Segment], way: Direction, offset: u64) -> io::Result<u64> {
    let slices = segments
        .iter()
        .map(|segment| memory.get_slice(GuestAddress(segment.at), segment.bytes as usize))
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    let guards: Vec<_> = slices.iter().map(|slice| slice.ptr_guard_mut()).collect();
    let pieces: Vec<_> = guards
        .iter()
        .zip(segments)
        .map(|(guard, segment)| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: segment.bytes as usize })
        .collect();
    let (fd, list, count, offset) = (file.as_raw_fd(), pieces.as_ptr(), pieces.len() as i32, offset as i64);
    // SAFETY: each piece is a range of guest memory that `memory` checked and keeps mapped while it is borrowed;
    // no reference to guest memory exists, and the guest may change it meanwhile as it may at any time.
    let moved = unsafe {
        match way {
            Direction::FromDisk => libc::preadv(fd, list, count, offset),
            Direction::ToDisk => libc::pwritev(fd, list, count, offset),
        }
    };
    u64::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;
    use vm_memory::Bytes as _;

    use super::super::queue::tests::memory;
    use super::*;

    const AT: u64 = 0x1_0000;
    const MIB: u64 = 1 << 20;
    /// Tells the test program to write to an image until it is killed.
    const WRITE_TO: &str = "WEFT_TEST_WRITE_TO";

    fn qemu_img(arguments: &[&str]) {
        let output = Command::new("qemu-img").args(arguments).output().expect("`make setup` installs qemu-img");
        let words = [output.stdout, output.stderr].map(|words| String::from_utf8_lossy(&words).into_owned()).concat();
        assert!(output.status.success(), "{arguments:?}: {words}");
    }

    /// A raw file with a byte of its own in each sector, and an overlay over it, 1 MiB larger.
    fn overlay(dir: &Path) -> std::path::PathBuf {
        let (base, overlay) = (dir.join("base"), dir.join("overlay"));
        std::fs::write(&base, base_bytes()).unwrap();
        let size = (base_bytes().len() as u64 + MIB).to_string();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &text(&base), &text(&overlay), &size]);
        overlay
    }

    /// The overlay, with the base that lies beside it.
    fn open(path: &Path) -> io::Result<Image> {
        let behind = Layer::raw(File::open(path.with_file_name("base"))?)?;
        Image::qcow2(read_write(path), true, Some(behind))
    }

    fn read_write(path: &Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    fn base_bytes() -> Vec<u8> {
        (0..MIB).map(|at| (at / 512) as u8 | 1).collect()
    }

    fn put(image: &Image, memory: &GuestMemory, at: u64, bytes: &[u8]) {
        memory.write_slice(bytes, GuestAddress(AT)).unwrap();
        let segments = [Segment { at: AT, bytes: bytes.len() as u32 }];
        image.transfer(memory, &segments, Direction::ToDisk, at).unwrap();
    }

    /// What stands at a place, read in two pieces.
    fn get(image: &Image, memory: &GuestMemory, at: u64, bytes: usize) -> Vec<u8> {
        let half = bytes as u32 / 2;
        let segments =
            [Segment { at: AT, bytes: half }, Segment { at: AT + u64::from(half), bytes: bytes as u32 - half }];
        image.transfer(memory, &segments, Direction::FromDisk, at).unwrap();
        let mut read = vec![0; bytes];
        memory.read_slice(&mut read, GuestAddress(AT)).unwrap();
        read
    }

    #[derive(Clone, Debug)]
    enum Act {
        Write(u64, usize, u8),
        Clear(u64, u64),
        Discard(u64, u64),
        Flush,
        Reopen,
    }

    fn any_act() -> impl Strategy<Value = Act> {
        let place = || (0u64..4096, 1u64..300);
        prop_oneof![
            4 => (place(), any::<u8>()).prop_map(|((at, count), byte)| Act::Write(at * 512, count as usize * 512, byte)),
            1 => place().prop_map(|(at, count)| Act::Clear(at * 512, count * 512)),
            1 => place().prop_map(|(at, count)| Act::Discard(at * 512, count * 512)),
            1 => Just(Act::Flush),
            1 => Just(Act::Reopen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn an_overlay_is_what_was_written_over_what_is_behind_it(acts in prop::collection::vec(any_act(), 1..30)) {
            let dir = tempfile::tempdir().unwrap();
            let path = overlay(dir.path());
            let mut model = [base_bytes(), vec![0; MIB as usize]].concat();
            let (mut image, memory) = (open(&path).unwrap(), memory());
            prop_assert_eq!(image.bytes().unwrap(), model.len() as u64);
            let end = model.len() as u64;
            for act in acts {
                match act {
                    Act::Write(at, bytes, byte) => {
                        let bytes = bytes.min((end - at) as usize);
                        put(&image, &memory, at, &vec![byte; bytes]);
                        model[at as usize..at as usize + bytes].fill(byte);
                    }
                    Act::Clear(at, bytes) => {
                        let bytes = bytes.min(end - at);
                        image.clear(at, bytes, Clear::ZeroAndFree).unwrap();
                        model[at as usize..(at + bytes) as usize].fill(0);
                    }
                    Act::Discard(at, bytes) => {
                        let bytes = bytes.min(end - at);
                        image.clear(at, bytes, Clear::Discard).unwrap();
                        // Whatever stands there now stays until it is written.
                        let now = get_all(&image, &memory, at, bytes as usize);
                        model[at as usize..(at + bytes) as usize].copy_from_slice(&now);
                    }
                    Act::Flush => image.flush().unwrap(),
                    Act::Reopen => {
                        image.flush().unwrap();
                        drop(image);
                        image = open(&path).unwrap();
                    }
                }
            }
            prop_assert!(get_all(&image, &memory, 0, model.len()) == model);
            drop(image);
            qemu_img(&["check", "-q", path.to_str().unwrap()]);
            prop_assert_eq!(std::fs::read(dir.path().join("base")).unwrap(), base_bytes());
        }
    }

    fn get_all(image: &Image, memory: &GuestMemory, at: u64, bytes: usize) -> Vec<u8> {
        let pieces = (0..bytes).step_by(64 << 10);
        pieces.flat_map(|done| get(image, memory, at + done as u64, (bytes - done).min(64 << 10))).collect()
    }

    /// Not a test of its own: the process that the next one kills.
    #[test]
    fn writer() {
        let Some(path) = std::env::var_os(WRITE_TO) else { return };
        let (image, memory) = (open(path.as_ref()).unwrap(), memory());
        for round in 1u64.. {
            put(&image, &memory, place(round), &round.to_le_bytes().repeat(64));
            if round % 8 == 0 {
                image.flush().unwrap();
                println!("flushed {round}");
            }
        }
    }

    /// Where the writer's round goes: at all places in turn, in an order that is not theirs.
    fn place(round: u64) -> u64 {
        round * 389 % 512 * 4096
    }

    #[test]
    fn a_killed_writer_leaves_a_sound_image_with_all_that_was_flushed() {
        for lines in [1, 9, 90] {
            let dir = tempfile::tempdir().unwrap();
            let path = overlay(dir.path());
            let mut writer = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "virtio::image::tests::writer", "--nocapture", "--test-threads=1"])
                .env(WRITE_TO, &path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = BufReader::new(writer.stdout.take().unwrap()).lines();
            let flushed = |line: String| line.split_once("flushed ").map(|(_, round)| round.parse::<u64>().unwrap());
            let last = said.by_ref().map(Result::unwrap).filter_map(flushed).nth(lines).expect("it writes");
            writer.kill().unwrap();
            writer.wait().unwrap();
            // Clusters that nobody uses may be left; nothing may be used twice, or be missing.
            let check = Command::new("qemu-img").arg("check").arg(&path).output().unwrap();
            assert!(matches!(check.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&check.stdout));
            let (image, memory) = (open(&path).unwrap(), memory());
            let mut flushed = std::collections::BTreeMap::new();
            for round in 1..=last {
                flushed.insert(place(round), round);
            }
            for (at, round) in flushed {
                let found = get(&image, &memory, at, 512);
                let written = u64::from_le_bytes(found[..8].try_into().unwrap());
                // It, or a later one that was not flushed and is there all the same.
                assert!(written >= round && place(written) == at, "{at}: {written} and not {round}");
                assert_eq!(found, written.to_le_bytes().repeat(64), "whole");
            }
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = overlay(dir.path());
        let whole = std::fs::read(&path).unwrap();
        for bytes in [0, 4, 71, 100] {
            std::fs::write(&path, &whole[..bytes]).unwrap();
            assert!(open(&path).is_err(), "{bytes}");
        }
    }

    #[test]
    fn what_an_image_names_is_opened_only_if_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = overlay(dir.path());
        let error = Image::qcow2(read_write(&path), true, None).err().expect("its base is not given");
        assert!(error.to_string().contains("denied"), "{error}");
        // Each behind the other: there is an end to what is given.
        let other = dir.path().join("other");
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &text(&path), &text(&other)]);
        qemu_img(&["rebase", "-u", "-F", "qcow2", "-b", &text(&other), &text(&path)]);
        let layer = |path: &Path, behind| Layer::qcow2(File::open(path).unwrap(), behind);
        assert!(layer(&other, None).is_err());
        let end = Layer::raw(File::open(dir.path().join("base")).unwrap()).unwrap();
        let behind = layer(&other, Some(layer(&path, Some(end)).unwrap())).unwrap();
        assert!(Image::qcow2(read_write(&path), true, Some(behind)).is_ok());
    }

    #[test]
    fn zeroes_are_written_where_the_file_system_cannot_clear() {
        // tmpfs has holes, and no other way.
        let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return };
        file.write_all_at(&[7; 4096], 0).unwrap();
        let image = Image::raw(file);
        for how in [Clear::Zero, Clear::ZeroAndFree, Clear::Discard] {
            image.clear(512, 1024, how).unwrap();
        }
        let memory = memory();
        assert_eq!(get(&image, &memory, 0, 2048), [[7; 512].to_vec(), vec![0; 1024], [7; 512].to_vec()].concat());
    }
}
