//! A disk with a root file system, made by whatever user and without mounting it: `mke2fs` takes in a folder, and `debugfs`
//! writes what only root could have put there, owners and devices.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::tree::{Kind, Node, Tree, readable};
use crate::MachineError;
use crate::host;

/// The least that a disk is, in bytes; it takes room on the host only as it fills.
const MIN_BYTES: u64 = 4 << 30;
/// What the file system takes beside its files, in bytes for each entry.
const ENTRY_BYTES: u64 = 8 << 10;

/// Writes a disk that has this root file system, and room for as much again; `scratch` is an empty folder on a file system
/// that has room for the files, and they are gone from the tree afterwards.
///
/// # Errors
/// When there is no room, or a program that this needs is missing or has failed.
pub(super) fn write(tree: &Tree, disk: &Path, scratch: &Path) -> Result<(), MachineError> {
    let root = scratch.join("root");
    fs::create_dir(&root).map_err(MachineError::io("create", &root))?;
    tree.write(&root).map_err(MachineError::io("write to", &root))?;
    let (bytes, entries) = tree.size();
    let bytes = (2 * (bytes + entries * ENTRY_BYTES)).max(MIN_BYTES).next_multiple_of(1 << 20);
    let file = File::options().write(true).create_new(true).open(disk).map_err(MachineError::io("create", disk))?;
    file.set_len(bytes).map_err(MachineError::io("write", disk))?;
    let made = ["-q", "-F", "-t", "ext4", "-L", "root", "-m", "1", "-E", "root_owner=0:0", "-d"].map(OsStr::new);
    run("mke2fs", made.into_iter().chain([root.as_os_str(), disk.as_os_str()]))?;
    fs::remove_dir_all(&root).map_err(MachineError::io("remove", &root))?;
    let commands = commands(tree);
    if commands.is_empty() {
        return Ok(());
    }
    let script = scratch.join("commands");
    fs::write(&script, commands).map_err(MachineError::io("write", &script))?;
    let words = run("debugfs", ["-w", "-f"].map(OsStr::new).into_iter().chain([script.as_os_str(), disk.as_os_str()]))?;
    // It succeeds whatever becomes of its commands, and says after its own version what went wrong.
    match words.lines().find(|line| !line.starts_with("debugfs ") && !line.trim().is_empty()) {
        Some(words) => Err(failed("debugfs", words)),
        None => Ok(()),
    }
}

/// Runs a program to its end; what it says.
fn run<'a>(program: &'static str, args: impl Iterator<Item = &'a OsStr>) -> Result<String, MachineError> {
    let needed_for = "making a disk of a root file system";
    let path: PathBuf = host::program(program).ok_or(MachineError::ToolMissing { tool: program, needed_for })?;
    let mut command = Command::new(&path);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().map_err(|source| MachineError::Run { program: path, source })?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(words),
        false => Err(failed(program, words.lines().last().unwrap_or("it did not say why"))),
    }
}

fn failed(program: &'static str, words: &str) -> MachineError {
    MachineError::Program { program, words: words.trim().to_owned() }
}

/// What `debugfs` has to do: whatever of the tree cannot be written into a folder.
fn commands(tree: &Tree) -> String {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut text = String::new();
    for (name, node) in tree.entries() {
        let name = String::from_utf8_lossy(name);
        let special = match node.kind {
            Kind::Character(major, minor) => Some(format!("c {major} {minor}")),
            Kind::Block(major, minor) => Some(format!("b {major} {minor}")),
            Kind::Fifo => Some("p".to_owned()),
            Kind::Directory | Kind::File(_) | Kind::Link(_) => None,
        };
        if let Some(special) = &special {
            let (folder, last) = name.rsplit_once('/').unwrap_or(("", &name));
            let _ = writeln!(text, "cd {}\nmknod {} {special}\ncd /", quoted(folder), plain(last));
        }
        let path = quoted(&name);
        let mut set = |field: &str, value: String| {
            let _ = writeln!(text, "set_inode_field {path} {field} {value}");
        };
        // What it makes itself is root's.
        let (uid, gid) = if special.is_some() { (0, 0) } else { own };
        if node.uid != uid {
            set("uid", node.uid.to_string());
        }
        if node.gid != gid {
            set("gid", node.gid.to_string());
        }
        let is_link = matches!(node.kind, Kind::Link(_));
        if special.is_some() || (readable(node) != node.mode && !is_link) {
            set("mode", format!("0{:o}", kind_bits(node) | node.mode));
        }
    }
    text
}

/// The bits of an inode's mode that tell what it is (inode(7)).
fn kind_bits(node: &Node) -> u32 {
    match node.kind {
        Kind::Directory => 0o040_000,
        Kind::File(_) => 0o100_000,
        Kind::Link(_) => 0o120_000,
        Kind::Character(..) => 0o020_000,
        Kind::Block(..) => 0o060_000,
        Kind::Fifo => 0o010_000,
    }
}

/// A path as `debugfs` reads it: a quotation mark stands for itself when it is doubled.
fn quoted(path: &str) -> String {
    format!("\"/{}\"", path.replace('"', "\"\""))
}

fn plain(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `debugfs` says to a command about a disk.
    fn ask(disk: &Path, command: &str) -> String {
        let output = Command::new(host::program("debugfs").unwrap()).args(["-R", command]).arg(disk).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn owners_devices_and_modes_are_those_of_the_archive() {
        if host::program("mke2fs").is_none() || host::program("debugfs").is_none() {
            eprintln!("SKIPPED: e2fsprogs is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let entries = [
            ("dev/null", tar::EntryType::Char, 0o666, 0, &b""[..]),
            ("a \"b\"", tar::EntryType::Regular, 0o4755, 70_000, b"text"),
            ("secret", tar::EntryType::Regular, 0, 33, b"x"),
            ("var/empty/", tar::EntryType::Directory, 0o1777, 5, b""),
            ("pipe", tar::EntryType::Fifo, 0o600, 0, b""),
        ];
        for (name, kind, mode, owner, contents) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(owner);
            header.set_gid(owner);
            header.set_mtime(1_000_000_000);
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
            header.set_size(contents.len() as u64);
            builder.append_data(&mut header, name, contents).unwrap();
        }
        for folder in ["contents", "scratch"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let mut tree = Tree::new(dir.path().join("contents"));
        tree.lay(&builder.into_inner().unwrap()[..], false).unwrap();
        let disk = dir.path().join("disk");
        write(&tree, &disk, &dir.path().join("scratch")).unwrap();

        let stat = |path: &str| ask(&disk, &format!("stat {path}"));
        let null = stat("/dev/null");
        assert!(
            null.contains("Type: character special") && null.contains("01:03") && null.contains("Mode:  0666"),
            "{null}"
        );
        let file = stat("\"/a \"\"b\"\"\"");
        assert!(file.contains("Mode:  04755") && file.contains("User: 70000   Group: 70000"), "{file}");
        assert!(file.contains("Sun Sep  9"), "{file}");
        let secret = stat("/secret");
        assert!(secret.contains("Mode:  0000") && secret.contains("User:    33"), "{secret}");
        let folder = stat("/var/empty");
        assert!(folder.contains("Type: directory") && folder.contains("Mode:  01777"), "{folder}");
        assert!(stat("/pipe").contains("Type: FIFO"));
        assert_eq!(ask(&disk, "cat \"/a \"\"b\"\"\""), "text");
        let checked = Command::new(host::program("e2fsck").unwrap()).args(["-fn"]).arg(&disk).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        assert!(disk.metadata().unwrap().len() == MIN_BYTES);
    }
}
