//! The kernel inside a bzImage (the kernel's Documentation/arch/x86/boot.rst, `payload_offset`): unpacked once on the host, it
//! need not unpack itself at each start of a machine, which takes most of the time until its first program.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::digest;
use crate::host;
use crate::whole::draft_beside;

/// Where the header says how many sectors come before the part that runs in protected mode.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const HEADER_BYTES: usize = 0x250;
const SECTOR_BYTES: u64 = 512;
/// The first version that says where its payload is, 2.8.
const MIN_VERSION: u32 = 0x208;
/// The largest kernel that is unpacked, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// How a kernel is packed.
struct Packing {
    /// How it begins.
    magic: &'static [u8],
    /// The program that unpacks it from its input to its output.
    program: &'static [&'static str],
    /// Bytes behind it that say how long the kernel is, where the format itself does not.
    trailer: u64,
}

const PACKINGS: [Packing; 4] = [
    Packing { magic: &[0xfd, b'7', b'z', b'X', b'Z', 0], program: &["xz", "-dc", "--single-stream"], trailer: 4 },
    Packing { magic: &[0x28, 0xb5, 0x2f, 0xfd], program: &["zstd", "-dcq"], trailer: 4 },
    Packing { magic: &[0x02, 0x21, 0x4c, 0x18], program: &["lz4", "-dcq"], trailer: 4 },
    Packing { magic: &[0x1f, 0x8b], program: &["gzip", "-dc"], trailer: 0 },
];

/// The folder of unpacked kernels, in the cache, and the file that is locked by whoever changes something there.
const FOLDER: &str = "kernels";
const LOCK: &str = ".lock";

/// The kernel `kernel` as its engine starts it fastest: unpacked, in the cache, where that can be done, else itself.
pub(crate) fn unpacked(kernel: &Path, cache_dir: &Path) -> PathBuf {
    match ensure(kernel, &cache_dir.join(FOLDER)) {
        Ok(Some(unpacked)) => unpacked,
        Ok(None) => kernel.to_owned(),
        Err(error) => {
            tracing::warn!(target: "weft::machine", %error, kernel = %kernel.display(), "a kernel stays packed");
            kernel.to_owned()
        }
    }
}

/// The unpacked kernel in `folder`, made if it is not there. What a path held before it changed is removed then.
fn ensure(kernel: &Path, folder: &Path) -> io::Result<Option<PathBuf>> {
    let metadata = kernel.metadata()?;
    let place = digest(&[kernel.as_os_str().as_bytes()]);
    let path = folder.join(format!("{place}-{}-{}", metadata.len(), metadata.mtime_nsec() ^ metadata.mtime()));
    if path.is_file() {
        return Ok(Some(path));
    }
    fs::create_dir_all(folder)?;
    let lock = File::create(folder.join(LOCK))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if path.is_file() {
        return Ok(Some(path)); // by whoever had the lock before
    }
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        let stale = name.as_bytes().starts_with(place.as_bytes()) || name.as_bytes().starts_with(b".new-");
        if stale {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(unpack(kernel, &path)?.then_some(path))
}

/// Writes the ELF file inside the bzImage `kernel` to `to`; whether that could be done. Where it cannot (no bzImage, no
/// program to unpack it), the kernel itself still can.
fn unpack(kernel: &Path, to: &Path) -> io::Result<bool> {
    let mut file = File::open(kernel)?;
    let mut header = Vec::new();
    (&file).take(HEADER_BYTES as u64).read_to_end(&mut header)?;
    let Some((offset, length)) = payload(&header) else { return Ok(false) };
    let mut magic = [0; 6];
    file.seek(SeekFrom::Start(offset))?;
    if file.read_exact(&mut magic).is_err() {
        return Ok(false);
    }
    let Some(packing) = PACKINGS.iter().find(|packing| magic.starts_with(packing.magic)) else { return Ok(false) };
    let [name, args @ ..] = packing.program else { return Ok(false) };
    let Some(program) = host::program(name) else { return Ok(false) };

    file.seek(SeekFrom::Start(offset))?;
    let mut packed = file.take(length.saturating_sub(packing.trailer));
    let mut draft = draft_beside(to)?;
    let mut unpacker =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (input, output) = (unpacker.stdin.take(), unpacker.stdout.take());
    let copied = std::thread::scope(|scope| {
        // A program that has read enough hangs up: its exit code tells whether that was all.
        scope.spawn(move || input.map(|mut input| io::copy(&mut packed, &mut input)));
        match output {
            Some(output) => io::copy(&mut output.take(MAX_BYTES), draft.as_file_mut()),
            None => Ok(0),
        }
    });
    let well = unpacker.wait()?.success() && copied? < MAX_BYTES;
    let mut begin = [0; 4];
    draft.as_file_mut().rewind()?;
    if !well || draft.as_file_mut().read_exact(&mut begin).is_err() || &begin != b"\x7fELF" {
        return Ok(false);
    }
    draft.persist(to).map_err(|error| error.error)?;
    Ok(true)
}

/// Where the packed kernel is in a bzImage with this header: its offset and its length.
fn payload(header: &[u8]) -> Option<(u64, u64)> {
    let word = |at: usize| Some(u32::from_le_bytes(*header.get(at..)?.first_chunk()?));
    if header.get(MAGIC..VERSION)? != b"HdrS" || word(VERSION)? & 0xffff < MIN_VERSION {
        return None;
    }
    // A kernel from before there was a number has four.
    let sectors = match header.get(SETUP_SECTORS)? {
        0 => 4,
        sectors => u64::from(*sectors),
    };
    let length = u64::from(word(PAYLOAD_LENGTH)?);
    (length > 0).then_some(((sectors + 1) * SECTOR_BYTES + u64::from(word(PAYLOAD_OFFSET)?), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with this payload and four bytes of length behind it.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..VERSION].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&[0x0f, 0x02]);
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..HEADER_BYTES].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
        [&image, &[0; 16][..], payload, &[1, 2, 3, 4]].concat()
    }

    fn packed(program: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
        use std::io::Write as _;
        let (name, args) = program.split_first()?;
        let mut child =
            Command::new(host::program(name)?).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        Some(child.wait_with_output().unwrap().stdout)
    }

    /// What becomes of a file.
    fn unpacked(bytes: &[u8]) -> Option<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["vmlinuz", "vmlinux"].map(|name| dir.path().join(name));
        std::fs::write(&from, bytes).unwrap();
        let done = unpack(&from, &to).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1 + usize::from(done), "no draft stays");
        done.then(|| std::fs::read(&to).unwrap())
    }

    #[test]
    fn packed_kernels_are_unpacked() {
        let kernel = [&b"\x7fELF"[..], &[7; 5000]].concat();
        let mut tried = 0;
        for program in [&["xz", "--check=crc32"][..], &["zstd", "-q"], &["lz4", "-lq"]] {
            if let Some(payload) = packed(program, &kernel) {
                assert_eq!(unpacked(&image(&payload)).as_ref(), Some(&kernel), "{program:?}");
                tried += 1;
            }
        }
        eprintln!("{tried} of three programs are here");
    }

    #[test]
    fn a_kernel_is_unpacked_once_and_its_predecessor_goes() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("vmlinuz");
        let Some(payload) = packed(&["xz"], b"\x7fELF and more") else { return };
        std::fs::write(&kernel, image(&payload)).unwrap();
        let first = super::unpacked(&kernel, dir.path());
        assert_eq!((first == kernel, super::unpacked(&kernel, dir.path()) == first), (false, true));
        std::fs::write(&kernel, [image(&payload), vec![0]].concat()).unwrap();
        let second = super::unpacked(&kernel, dir.path());
        assert!(second != first && second.is_file() && !first.exists());
        std::fs::write(&kernel, b"no kernel").unwrap();
        assert_eq!(super::unpacked(&kernel, dir.path()), kernel);
        assert_eq!(super::unpacked(Path::new("/none"), dir.path()), Path::new("/none"));
    }

    #[test]
    fn what_is_no_packed_kernel_is_left_alone() {
        for bytes in [&b""[..], b"\x7fELF", &image(b"nothing that is known"), &image(b""), &image(b"\x1f\x8bno gzip")] {
            assert_eq!(unpacked(bytes), None);
        }
        let mut cut_off = image(&[0; 64]);
        cut_off.truncate(700);
        assert_eq!(unpacked(&cut_off), None);
        if let Some(payload) = packed(&["xz"], b"no ELF file") {
            assert_eq!(unpacked(&image(&payload)), None);
        }
    }
}
