//! A root file system, put together from files of this host.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use weft_machine::CpioWriter;

/// What will lie at each path (without the `/` in front). A folder comes before what is in it.
#[derive(Debug, Default)]
pub(super) struct Root {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    Folder,
    File { permissions: u32, bytes: Vec<u8> },
    Link(String),
}

impl Root {
    /// A folder, and those above it.
    pub(super) fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if !path.is_empty() && !self.entries.contains_key(path) {
            self.folder(parent(path));
            self.entries.insert(path.to_owned(), Entry::Folder);
        }
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.put(path, Entry::Link(target.to_owned()));
    }

    /// A file.
    pub(super) fn file(&mut self, path: &str, permissions: u32, bytes: Vec<u8>) {
        self.put(path, Entry::File { permissions, bytes });
    }

    /// A file of text.
    pub(super) fn text(&mut self, path: &str, permissions: u32, text: &str) {
        self.file(path, permissions, text.as_bytes().to_vec());
    }

    /// A program of this host, and its libraries at the paths where its loader looks for them.
    pub(super) fn program(&mut self, path: &str, program: &Path) {
        self.file(path, 0o755, stripped(program));
        for library in libraries(program) {
            let at = library.to_string_lossy();
            if !self.entries.contains_key(at.trim_matches('/')) {
                self.file(&at, 0o755, read(&library));
            }
        }
    }

    /// All that is in a folder of this host.
    pub(super) fn tree(&mut self, path: &str, folder: &Path) {
        let children = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
        for child in children.flatten() {
            let (from, to) = (child.path(), format!("{path}/{}", child.file_name().to_string_lossy()));
            let metadata = fs::metadata(&from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            let permissions = metadata.permissions().mode() & 0o777;
            match metadata.is_dir() {
                true => {
                    self.folder(&to);
                    self.tree(&to, &from);
                }
                false if permissions & 0o111 != 0 => self.program(&to, &from),
                false => self.file(&to, permissions, read(&from)),
            }
        }
    }

    fn put(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        self.folder(parent(path));
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes it as the archive that the kernel unpacks.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut archive = CpioWriter::new(BufWriter::new(File::create(path)?));
        for (path, entry) in &self.entries {
            match entry {
                Entry::Folder => archive.directory(path, 0o755)?,
                Entry::File { permissions, bytes } => archive.file(path, *permissions, bytes)?,
                Entry::Link(target) => archive.link(path, target)?,
            }
        }
        // The kernel opens it for `init` before anything is mounted.
        archive.device("dev/console", 0o600, 5, 1)?;
        archive.device("dev/null", 0o666, 1, 3)?;
        archive.finish().map(drop)
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// A program's bytes, without what only debuggers need where that can be taken out: a test has a hundred megabytes of it.
/// What is no ELF file stays as it is: strip(1) takes a kernel's image for a program of another system's.
fn stripped(program: &Path) -> Vec<u8> {
    let whole = read(program);
    if !whole.starts_with(b"\x7fELF") {
        return whole;
    }
    let draft = tempfile::NamedTempFile::new().expect("a file for a program");
    let strip = Command::new("strip").arg("-o").arg(draft.path()).arg(program).stderr(Stdio::null()).status();
    match strip {
        Ok(status) if status.success() => read(draft.path()),
        _ => whole, // no tool
    }
}

/// The libraries that a program's loader would load, by `ldd(1)`; none for a static program or a script.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).stderr(Stdio::null()).output().expect("`ldd` runs");
    // `name => /path (address)`, or `/path (address)` for the loader itself.
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut root = Root::default();
        root.text("/a/b/c", 0o644, "");
        root.link("a-b", "a");
        root.folder("a/b");
        let paths: Vec<_> = root.entries.keys().map(String::as_str).collect();
        assert_eq!(paths, ["a", "a-b", "a/b", "a/b/c"]);
    }

    #[test]
    fn a_program_brings_its_libraries() {
        let own = std::env::current_exe().unwrap();
        let found = libraries(&own);
        assert!(found.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{found:?}");
        assert!(found.iter().all(|path| path.is_file()), "{found:?}");
        assert!(stripped(&own).len() as u64 <= fs::metadata(&own).unwrap().len());
        let kernel = tempfile::NamedTempFile::new().unwrap();
        let image = [&b"MZ"[..], &[0; 4096], b"PE"].concat();
        fs::write(kernel.path(), &image).unwrap();
        assert_eq!(stripped(kernel.path()), image);
    }
}
