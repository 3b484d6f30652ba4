//! Writing cpio archives in the `newc` format, of which Linux makes its first root file system
//! (the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes an archive, entry by entry. Everything belongs to root and is of the same age, so that the same contents give
/// the same bytes.
#[derive(Debug)]
pub struct Writer<W: Write> {
    inner: W,
    inode: u32,
}

impl<W: Write> Writer<W> {
    /// An empty archive.
    pub fn new(inner: W) -> Self {
        Self { inner, inode: 0 }
    }

    /// A folder; its parent must have been written before.
    pub fn directory(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        self.entry(path, DIRECTORY | permissions, (0, 0), &[])
    }

    /// A file.
    pub fn file(&mut self, path: &str, permissions: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | permissions, (0, 0), contents)
    }

    /// A symbolic link to `target`.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// A character device with these two numbers.
    pub fn device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE | permissions, (major, minor), &[])
    }

    /// Writes the end and gives back what was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    /// A header of thirteen numbers in hexadecimal, the name with a zero at its end, and the contents; name and contents
    /// each filled up to a multiple of four bytes.
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "too long for a cpio archive");
        let length = u32::try_from(contents.len()).map_err(too_long)?;
        let name_length = u32::try_from(path.len() + 1).map_err(too_long)?;
        self.inode += 1;
        let (owner, group, links, age, check) = (0, 0, 1, 0, 0);
        let (major, minor) = device;
        let numbers = [self.inode, mode, owner, group, links, age, length, 0, 0, major, minor, name_length, check];
        let mut header = String::from("070701");
        for number in numbers {
            header += &format!("{number:08x}");
        }
        self.inner.write_all(header.as_bytes())?;
        self.inner.write_all(path.as_bytes())?;
        self.pad(header.len() + path.len(), 1)?;
        self.inner.write_all(contents)?;
        self.pad(contents.len(), 0)
    }

    /// At least `least` zeros, and up to the next multiple of four.
    fn pad(&mut self, written: usize, least: usize) -> io::Result<()> {
        let end = (written + least).next_multiple_of(4);
        self.inner.write_all(&[0; 4][..end - written])
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::host;

    fn archive() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.directory("etc", 0o755).unwrap();
        writer.file("etc/hostname", 0o644, b"web\n").unwrap();
        writer.link("init", "bin/busybox").unwrap();
        writer.device("console", 0o600, 5, 1).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = archive();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(
            b"070701\
              00000001000041ed000000000000000000000001000000000000000000000000000000000000000000000000\
              0000000400000000etc\x00\x00\x00070701"
        ));
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert_eq!(bytes, archive(), "the same contents give the same bytes");
    }

    #[test]
    fn another_implementation_reads_it() {
        let Some(busybox) = host::program("busybox") else {
            eprintln!("SKIPPED: busybox is not installed");
            return;
        };
        let mut child = Command::new(busybox)
            .args(["cpio", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive()).unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let kinds: Vec<_> = listing.lines().map(|line| line.split_once(' ').unwrap().0).collect();
        assert_eq!(kinds, ["drwxr-xr-x", "-rw-r--r--", "lrwxrwxrwx", "crw-------"], "{listing}");
        assert!(listing.contains("etc/hostname") && listing.contains("init -> bin/busybox"), "{listing}");
    }
}
