//! What comes packed, unpacked by the program that knows how.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use crate::host;

/// How much is looked at to tell whether it is all zeros, in bytes.
const BLOCK_BYTES: usize = 64 << 10;

/// The program that unpacks what begins like this; `None` if it is not packed.
pub(super) fn program(magic: &[u8]) -> Option<&'static str> {
    match magic {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [0xfd, b'7', b'z', b'X', ..] => Some("xz"),
        [b'B', b'Z', b'h', _, ..] => Some("bzip2"),
        _ => None,
    }
}

/// How a file is packed, if it is.
pub(super) fn packing(path: &Path) -> io::Result<Option<&'static str>> {
    Ok(program(&head(path)?))
}

/// Whether a file is a tar archive (POSIX.1-1988, `ustar`).
pub(super) fn is_tar(path: &Path) -> io::Result<bool> {
    Ok(head(path)?.get(257..262) == Some(b"ustar"))
}

/// Whether a file is an archive, or packed, as no disk is.
pub fn is_archive(path: &Path) -> bool {
    packing(path).is_ok_and(|packing| packing.is_some()) || is_tar(path).unwrap_or(false)
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut head)?;
    Ok(head)
}

/// Writes what is in a packed file into another, with holes where it is zeros.
pub(super) fn unpack_to(program: &'static str, from: &Path, to: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(to)?;
    unpack(program, &mut File::open(from)?, |plain| {
        let mut block = Vec::new();
        let mut length = 0;
        loop {
            block.clear();
            if plain.take(BLOCK_BYTES as u64).read_to_end(&mut block)? == 0 {
                return file.set_len(length);
            }
            length += block.len() as u64;
            match block.iter().all(|byte| *byte == 0) {
                true => drop(file.seek(SeekFrom::Start(length))?),
                false => file.write_all(&block)?,
            }
        }
    })
}

/// Has a program unpack what is read, and reads that.
pub(super) fn unpack(
    program: &'static str,
    from: &mut (impl Read + Send),
    use_it: impl FnOnce(&mut ChildStdout) -> io::Result<()>,
) -> io::Result<()> {
    let path = host::program(program)
        .ok_or_else(|| io::Error::other(format!("`{program}`, which unpacks it, is not installed")))?;
    let mut child =
        Command::new(path).arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().expect("it has a pipe");
    let mut stdout = child.stdout.take().expect("it has a pipe");
    let used = std::thread::scope(|scope| {
        // It is given what it wants as long as it takes it; who has seen enough may stop reading.
        scope.spawn(move || io::copy(from, &mut stdin).map(drop));
        let used = use_it(&mut stdout);
        if used.is_ok() {
            let _ = io::copy(&mut stdout, &mut io::sink());
        }
        drop(stdout);
        used
    });
    let status = child.wait()?;
    used?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("`{program}` cannot unpack it: it is damaged"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packing_is_told_of_a_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (magic, expected) in [
            (&[0x1f, 0x8b, 8, 0][..], Some("gzip")),
            (&[0x28, 0xb5, 0x2f, 0xfd], Some("zstd")),
            (b"\xfd7zXZ\0", Some("xz")),
            (b"BZh9", Some("bzip2")),
            (b"QFI\xfb", None),
        ] {
            for length in [magic.len(), 4096] {
                let mut bytes = magic.to_vec();
                bytes.resize(length, 7);
                std::fs::write(&path, bytes).unwrap();
                assert_eq!(packing(&path).unwrap(), expected, "{length} bytes");
                assert_eq!(is_archive(&path), expected.is_some());
            }
        }
    }

    #[test]
    fn what_was_packed_comes_back_with_its_holes() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (plain, packed, back) = (dir.path().join("p"), dir.path().join("p.gz"), dir.path().join("b"));
        let mut bytes = vec![0; 3 << 20];
        bytes[1 << 20..(1 << 20) + 5].copy_from_slice(b"apart");
        bytes.extend_from_slice(b"end");
        std::fs::write(&plain, &bytes).unwrap();
        let gzip = Command::new("gzip").arg("-k").arg(&plain).status().unwrap();
        assert!(gzip.success());
        assert_eq!((packing(&packed).unwrap(), packing(&plain).unwrap()), (Some("gzip"), None));
        assert!(is_archive(&packed) && !is_archive(&plain) && !is_archive(dir.path()));
        unpack_to("gzip", &packed, &back).unwrap();
        assert!(std::fs::read(&back).unwrap() == bytes);
        assert!(back.metadata().unwrap().blocks() * 512 < 1 << 20, "it has no holes");
        std::fs::write(&packed, &std::fs::read(&packed).unwrap()[..100]).unwrap();
        let error = unpack_to("gzip", &packed, &dir.path().join("c")).unwrap_err().to_string();
        assert!(error.contains("cannot unpack it"), "{error}");
    }
}
