//! A root file system as a tree in memory, with the files' contents in a folder.
//!
//! Archives are hostile: no name of theirs is ever a path of the host's. What a name leads through is looked up in the
//! tree, and the tree alone is written out.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tar::EntryType;

/// The most entries of a tree.
const MAX_ENTRIES: usize = 1 << 20;
/// The longest name of one entry, in bytes (ext4's limit).
const MAX_NAME_BYTES: usize = 255;
/// The longest path, in bytes (Linux' `PATH_MAX`).
const MAX_PATH_BYTES: usize = 4095;
/// How many symbolic links a path may lead through, as in Linux.
const MAX_LINKS: usize = 40;
/// The latest that a file can have been changed: the end of ext4's time.
const MAX_MTIME: u64 = 1 << 33;
/// What an OCI layer calls an entry that is gone (OCI image specification 1.1, layer, whiteouts).
const WHITEOUT: &[u8] = b".wh.";
/// What it calls it when all that was in a folder is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path from the root, without a slash at its beginning or end; the root's is empty.
type Name = Vec<u8>;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// The permission bits, with set-user-id and the like.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// When it was changed last, in seconds since 1970-01-01T00:00:00Z.
    pub(super) mtime: u64,
    pub(super) kind: Kind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    /// A file; those of one number are one file with several names.
    File(u64),
    Link(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// A root file system.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<Name, Node>,
    /// The folder of the files' contents.
    contents: PathBuf,
    files: u64,
    /// How many bytes all files have.
    bytes: u64,
}

impl Tree {
    /// A tree with nothing but its root; `contents` is an empty folder.
    pub(super) fn new(contents: PathBuf) -> Self {
        let root = Node { mode: 0o755, uid: 0, gid: 0, mtime: 0, kind: Kind::Directory };
        Self { nodes: [(Name::new(), root)].into(), contents, files: 0, bytes: 0 }
    }

    /// All entries but the root, parents first.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = (&[u8], &Node)> {
        self.nodes.iter().skip(1).map(|(name, node)| (name.as_slice(), node))
    }

    /// How many bytes all files have, and how many entries there are.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.bytes, self.nodes.len() as u64)
    }

    /// The entry at a path, through links that lead to it; its name.
    pub(super) fn find(&self, path: &str) -> Option<(&[u8], &Node)> {
        let name = self.resolve(path.as_bytes(), true).ok()?;
        self.nodes.get_key_value(&name).map(|(name, node)| (name.as_slice(), node))
    }

    /// Where the contents of the file at a path are.
    pub(super) fn contents(&self, path: &str) -> Option<PathBuf> {
        match self.find(path)?.1.kind {
            Kind::File(file) => Some(self.contents.join(file.to_string())),
            _ => None,
        }
    }

    /// Lays an archive over the tree. In a `layer` of several, names may say that something below is gone.
    ///
    /// # Errors
    /// When the archive is damaged, or no file system could have what is in it, or the contents cannot be written.
    pub(super) fn lay(&mut self, archive: impl Read, layer: bool) -> io::Result<()> {
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let header = entry.header();
            let kind = header.entry_type();
            if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
                continue;
            }
            let device = |header: &tar::Header| -> io::Result<(u32, u32)> {
                Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
            };
            let mut node = Node {
                mode: header.mode()? & 0o7777,
                // Some writers leave out what they do not know.
                uid: u32::try_from(header.uid().unwrap_or(0)).map_err(io::Error::other)?,
                gid: u32::try_from(header.gid().unwrap_or(0)).map_err(io::Error::other)?,
                mtime: header.mtime().unwrap_or(0).min(MAX_MTIME),
                kind: match kind {
                    EntryType::Directory => Kind::Directory,
                    EntryType::Symlink => Kind::Link(entry.link_name_bytes().unwrap_or_default().into_owned()),
                    EntryType::Char => device(header).map(|(major, minor)| Kind::Character(major, minor))?,
                    EntryType::Block => device(header).map(|(major, minor)| Kind::Block(major, minor))?,
                    EntryType::Fifo => Kind::Fifo,
                    EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Link => {
                        Kind::File(0)
                    }
                    _ => return Err(refused(&entry.path_bytes(), "is of a kind that no root file system has")),
                },
            };
            let path = entry.path_bytes().into_owned();
            let name = self.resolve(&path, false)?;
            let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if layer && last == OPAQUE {
                let folder = name[..name.len() - last.len()].to_vec();
                self.remove_below(folder.strip_suffix(b"/").unwrap_or_default());
                continue;
            }
            if let Some(gone) = last.strip_prefix(WHITEOUT).filter(|_| layer) {
                let mut name = name[..name.len() - last.len()].to_vec();
                name.extend_from_slice(gone);
                self.remove(&name);
                continue;
            }
            if kind == EntryType::Link {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = self.resolve(&target, false)?;
                node = match self.nodes.get(&target) {
                    Some(other) if other.kind != Kind::Directory => other.clone(),
                    _ => return Err(refused(&path, "is another name of what is not there")),
                };
            } else if let Kind::File(_) = node.kind {
                node.kind = Kind::File(self.keep(&mut entry)?);
            }
            self.insert(name, node)?;
        }
        Ok(())
    }

    /// Puts a file of ours at a path, with these permissions.
    pub(super) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        let file = self.keep(&mut &contents[..])?;
        self.put(path, mode, Kind::File(file))
    }

    /// Puts a symbolic link at a path.
    pub(super) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.put(path, 0o777, Kind::Link(target.as_bytes().to_vec()))
    }

    /// Puts a folder at a path, unless there is one.
    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        match self.find(path) {
            Some((_, node)) if node.kind == Kind::Directory => Ok(()),
            _ => self.put(path, 0o755, Kind::Directory),
        }
    }

    fn put(&mut self, path: &str, mode: u32, kind: Kind) -> io::Result<()> {
        let name = self.resolve(path.as_bytes(), false)?;
        self.insert(name, Node { mode, uid: 0, gid: 0, mtime: 0, kind })
    }

    /// Writes what is read into a new file.
    fn keep(&mut self, from: &mut impl Read) -> io::Result<u64> {
        self.files += 1;
        let mut file = File::options().write(true).create_new(true).open(self.contents.join(self.files.to_string()))?;
        self.bytes += io::copy(from, &mut file)?;
        Ok(self.files)
    }

    fn insert(&mut self, name: Name, node: Node) -> io::Result<()> {
        if name.is_empty() {
            if node.kind == Kind::Directory {
                self.nodes.insert(name, node);
            }
            return Ok(());
        }
        if self.nodes.len() >= MAX_ENTRIES {
            return Err(io::Error::other(format!("it has more than {MAX_ENTRIES} entries")));
        }
        for (at, _) in name.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let parent = self.nodes.entry(name[..at].to_vec());
            let made = Node { mode: 0o755, uid: 0, gid: 0, mtime: node.mtime, kind: Kind::Directory };
            if parent.or_insert(made).kind != Kind::Directory {
                return Err(refused(&name, "lies in what is no folder"));
            }
        }
        if node.kind != Kind::Directory {
            self.remove_below(&name);
        }
        self.nodes.insert(name, node);
        Ok(())
    }

    /// Gives the entry at a path to somebody.
    pub(super) fn give(&mut self, path: &str, uid: u32, gid: u32) {
        if let Some(node) = self.resolve(path.as_bytes(), false).ok().and_then(|name| self.nodes.get_mut(&name)) {
            (node.uid, node.gid) = (uid, gid);
        }
    }

    /// Removes an entry, and what is in it.
    pub(super) fn remove(&mut self, name: &[u8]) {
        if !name.is_empty() {
            self.remove_below(name);
            self.nodes.remove(name);
        }
    }

    /// Removes all that is in a folder.
    fn remove_below(&mut self, folder: &[u8]) {
        let begin = if folder.is_empty() { Name::new() } else { [folder, b"/"].concat() };
        let below = self.nodes.range(begin.clone()..).skip_while(|(name, _)| name.is_empty());
        let below: Vec<_> = below.map(|(name, _)| name.clone()).take_while(|name| name.starts_with(&begin)).collect();
        for name in below {
            self.nodes.remove(&name);
        }
    }

    /// The name that a path has in the tree: links on the way are followed, that at its end only if `last` is said.
    fn resolve(&self, path: &[u8], last: bool) -> io::Result<Name> {
        if path.len() > MAX_PATH_BYTES {
            return Err(refused(&path[..64], "is too long a path"));
        }
        let mut links = 0;
        let mut name = Name::new();
        let mut rest: Vec<Vec<u8>> = parts(path).rev().collect();
        while let Some(part) = rest.pop() {
            if part == b".." {
                let parent = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                name.truncate(parent);
                continue;
            }
            // A control character would mean something to the program that writes the file system.
            if part.len() > MAX_NAME_BYTES || part.iter().any(u8::is_ascii_control) {
                return Err(refused(&part, "is no name for a file"));
            }
            let parent = name.len();
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(&part);
            if let Some(Node { kind: Kind::Link(target), .. }) = self.nodes.get(&name)
                && (last || !rest.is_empty())
            {
                links += 1;
                if links > MAX_LINKS {
                    return Err(refused(path, "leads through too many links"));
                }
                name.truncate(if target.starts_with(b"/") { 0 } else { parent });
                rest.extend(parts(target).rev());
            }
        }
        Ok(name)
    }

    /// Writes the tree into a folder, as far as a user without privileges can: all but devices and owners.
    pub(super) fn write(&self, root: &Path) -> io::Result<()> {
        let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
        for (name, node) in self.entries() {
            let path = root.join(std::ffi::OsStr::from_bytes(name));
            match &node.kind {
                Kind::Directory => fs::create_dir(&path)?,
                Kind::Link(target) => symlink(std::ffi::OsStr::from_bytes(target), &path)?,
                Kind::File(file) => match first.get(file) {
                    Some(first) => fs::hard_link(first, &path)?,
                    None => {
                        fs::rename(self.contents.join(file.to_string()), &path)?;
                        let written = File::options().read(true).write(true).open(&path)?;
                        written.set_permissions(Permissions::from_mode(readable(node)))?;
                        written.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(node.mtime))?;
                        first.insert(*file, path);
                    }
                },
                Kind::Character(..) | Kind::Block(..) | Kind::Fifo => {} // where the disk is made
            }
        }
        for (name, node) in self.entries().rev().filter(|(_, node)| node.kind == Kind::Directory) {
            let folder = File::open(root.join(std::ffi::OsStr::from_bytes(name)))?;
            folder.set_permissions(Permissions::from_mode(readable(node)))?;
            folder.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(node.mtime))?;
        }
        Ok(())
    }
}

/// The permissions with which an entry is written: its own, and that its owner can read it.
pub(super) fn readable(node: &Node) -> u32 {
    node.mode | if node.kind == Kind::Directory { 0o700 } else { 0o400 }
}

/// The parts of a path, without those that mean nothing.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec)
}

fn refused(name: &[u8], why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("`{}` {why}", String::from_utf8_lossy(name).escape_debug()))
}

/// Lays a hostile archive over an empty tree, twice.
pub fn fuzz(bytes: &[u8]) {
    let Ok(contents) = tempfile::tempdir() else { return };
    let mut tree = Tree::new(contents.path().to_owned());
    let _ = tree.lay(bytes, true);
    let _ = tree.lay(bytes, true);
    for (name, _) in tree.entries() {
        let parent = name.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &name[..at]);
        assert_eq!(tree.nodes[parent].kind, Kind::Directory, "an entry without a folder");
        assert!(
            !name.split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b"..")),
            "a name that leads out"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of these entries: the name, the kind, and what it links to or has in it.
    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_uid(7);
            header.set_gid(8);
            header.set_mtime(9);
            let contents = if *kind == EntryType::Regular { text.as_bytes() } else { b"" };
            header.set_size(contents.len() as u64);
            // Names that lead out cannot be made with the library's own help.
            let bytes = &mut header.as_gnu_mut().unwrap().name;
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            if matches!(kind, EntryType::Link | EntryType::Symlink) {
                header.as_gnu_mut().unwrap().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_cksum();
            builder.append(&header, contents).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// The folder goes with it.
    struct Bed(Tree, #[expect(dead_code)] tempfile::TempDir);

    impl Bed {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self(Tree::new(dir.path().to_owned()), dir)
        }

        fn lay(&mut self, entries: &[(&str, EntryType, &str)]) -> io::Result<()> {
            self.0.lay(&archive(entries)[..], true)
        }

        fn names(&self) -> Vec<String> {
            self.0.entries().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
        }

        fn text(&self, path: &str) -> String {
            fs::read_to_string(self.0.contents(path).unwrap()).unwrap()
        }
    }

    use EntryType::{Directory, Link, Regular, Symlink};

    #[test]
    fn layers_replace_remove_and_empty() {
        let mut bed = Bed::new();
        bed.lay(&[("./a/", Directory, ""), ("a/one", Regular, "1"), ("a/two", Regular, "2"), ("b/x", Regular, "")])
            .unwrap();
        bed.lay(&[("a/.wh.one", Regular, ""), ("a/three", Regular, "3"), ("b/.wh..wh..opq", Regular, "")]).unwrap();
        assert_eq!(bed.names(), ["a", "a/three", "a/two", "b"]);
        // A file where a folder was, and back.
        bed.lay(&[("a", Regular, "file"), ("b", Symlink, "/c"), ("c/", Directory, "")]).unwrap();
        assert_eq!((bed.names(), bed.text("a")), (vec!["a".into(), "b".into(), "c".into()], "file".to_owned()));
        bed.lay(&[(".wh.a", Regular, ""), (".wh..wh..opq", Regular, "")]).unwrap();
        assert_eq!(bed.names(), [""; 0]);
    }

    #[test]
    fn no_name_leads_out() {
        let mut bed = Bed::new();
        bed.lay(&[
            ("../../etc/passwd", Regular, "x"),
            ("/abs", Regular, "y"),
            ("up", Symlink, "../../.."),
            ("up/z", Regular, "z"),
        ])
        .unwrap();
        assert_eq!(bed.names(), ["abs", "etc", "etc/passwd", "up", "z"]);
        let out = tempfile::tempdir().unwrap();
        bed.0.write(out.path()).unwrap();
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 4);
        assert_eq!(fs::read_link(out.path().join("up")).unwrap(), Path::new("../../.."));
        assert_eq!(fs::read(out.path().join("z")).unwrap(), b"z");
    }

    #[test]
    fn links_lead_to_folders_and_hard_links_are_one_file() {
        let mut bed = Bed::new();
        bed.lay(&[("usr/bin/", Directory, ""), ("bin", Symlink, "usr/bin"), ("bin/sh", Regular, "sh")]).unwrap();
        bed.lay(&[("bash", Link, "bin/sh")]).unwrap();
        assert_eq!(bed.names(), ["bash", "bin", "usr", "usr/bin", "usr/bin/sh"]);
        assert_eq!(bed.0.find("bash").unwrap().1, bed.0.find("/bin/sh").unwrap().1);
        assert_eq!(bed.0.find("bash").unwrap().1.uid, 7);
    }

    #[test]
    fn what_no_file_system_has_is_refused() {
        let refused = |entries: &[(&str, EntryType, &str)], expected: &str| {
            let error = Bed::new().lay(entries).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(&[("a", Regular, ""), ("a/b", Regular, "")], "lies in what is no folder");
        refused(&[("a", Symlink, "b"), ("b", Symlink, "a"), ("a/c", Regular, "")], "leads through too many links");
        refused(&[("a", Link, "nothing")], "another name of what is not there");
        refused(&[("a\nb", Regular, "")], "`a\\nb` is no name for a file");
        let cut = archive(&[("a", Regular, "text")]);
        Bed::new().0.lay(&cut[..514], false).unwrap_err();
    }
}
