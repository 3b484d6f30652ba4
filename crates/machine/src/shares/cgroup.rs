//! Control groups, version 2 (Linux' Documentation/admin-guide/cgroup-v2.rst): a group for each machine, below one of ours.
//!
//! Ours stands where controllers are handed down to us already: nothing of the host's own groups is changed, and ours
//! goes with the last machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::geteuid;
use weft_types::Shares;

/// Our own group, which holds the machines'.
const OURS: &str = "weft";
/// What is made use of.
const CONTROLLERS: [&str; 3] = ["cpu", "io", "memory"];
/// The period of CPU limits, in microseconds: the kernel's own.
const PERIOD_US: u64 = 100_000;

/// Whether machines can have groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// Here, with these controllers.
    Usable(Base),
    /// Not, for this reason: the end of a sentence that begins with `as`.
    Absent(String),
}

/// A group below which we may make others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its folder.
    path: PathBuf,
    /// What it hands down.
    pub controllers: Vec<&'static str>,
}

/// Finds out whether machines can have groups.
pub fn state() -> GroupState {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let (Some(mount), Some(own)) = (mount_point(&mounts), own_group(&own)) else {
        return GroupState::Absent("control groups of version 2 are not mounted".to_owned());
    };
    // Root's stand at the top, beside those of services and users; others' at the nearest place that is theirs.
    let places: Vec<PathBuf> = match geteuid().is_root() {
        true => vec![mount],
        false => own.ancestors().map(|group| join(&mount, group)).collect(),
    };
    let usable = places.into_iter().find_map(|path| {
        let controllers = handed_down(&path);
        let is_ours =
            access(&path, Access::WRITE_OK).is_ok() && access(path.join("cgroup.procs"), Access::WRITE_OK).is_ok();
        (is_ours && controllers.contains(&"cpu")).then_some(Base { path, controllers })
    });
    usable.map_or_else(
        || GroupState::Absent("no control group that hands down `cpu` is this user's".to_owned()),
        GroupState::Usable,
    )
}

/// Where control groups of version 2 are mounted, by the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next() == Some("cgroup2")).then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// The group that this process is in, by the text of `/proc/self/cgroup`.
fn own_group(groups: &str) -> Option<PathBuf> {
    groups.lines().find_map(|line| line.strip_prefix("0::")).map(PathBuf::from)
}

fn join(mount: &Path, group: &Path) -> PathBuf {
    mount.join(group.strip_prefix("/").unwrap_or(group))
}

/// The controllers that a group hands down to those below it.
fn handed_down(group: &Path) -> Vec<&'static str> {
    let all = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
    CONTROLLERS.into_iter().filter(|controller| all.split_whitespace().any(|word| word == *controller)).collect()
}

/// A machine's group.
pub(super) struct Group(PathBuf);

impl Group {
    /// Makes the group of this name, unless it is there.
    pub(super) fn make(base: &Base, name: &str) -> io::Result<Self> {
        let ours = base.path.join(OURS);
        let path = ours.join(name);
        make(&ours)?;
        for controller in &base.controllers {
            // One that cannot be handed on is missed where it is used.
            let _ = fs::write(ours.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        match make(&path) {
            // Another daemon's last machine took ours away in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&ours).and_then(|()| make(&path))?,
            made => made?,
        }
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Moves a process with all its threads into the group.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
    }

    /// Gives the group these shares; what could not be given.
    pub(super) fn set(&self, shares: &Shares) -> Vec<String> {
        let Shares { cpu_weight, cpu_limit, io_weight, memory_limit, .. } = shares;
        let quota = cpu_limit.map(|limit| u64::from(limit.percent()) * PERIOD_US / 100);
        let usual = Shares::default();
        let all = [
            ("cpu_weight", "cpu.weight", cpu_weight.to_string(), *cpu_weight != usual.cpu_weight),
            ("cpu_limit", "cpu.max", format!("{} {PERIOD_US}", or_max(quota)), cpu_limit.is_some()),
            ("io_weight", "io.weight", format!("default {io_weight}"), *io_weight != usual.io_weight),
            ("memory_limit", "memory.max", or_max(memory_limit.map(|bytes| bytes.bytes())), memory_limit.is_some()),
        ];
        let write = |(key, file, text, is_asked): (&str, &str, String, bool)| {
            let written = fs::write(self.0.join(file), text);
            written.err().filter(|_| is_asked).map(|error| match error.kind() {
                io::ErrorKind::NotFound => format!("{key} cannot be kept: this host's control groups have no `{file}`"),
                _ => format!("{key} cannot be kept: {error}"),
            })
        };
        all.into_iter().filter_map(write).collect()
    }
}

fn or_max(number: Option<u64>) -> String {
    number.map_or_else(|| "max".to_owned(), |number| number.to_string())
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Removes a machine's group, and ours with the last one; processes that are still in it keep it.
pub(super) fn remove(group: &Path) {
    let is_ours = group.parent().and_then(Path::file_name).is_some_and(|name| name == OURS);
    if is_ours && fs::remove_dir(group).is_ok() {
        let _ = group.parent().map(fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_groups_are() {
        let mounts = "24 1 0:22 / /proc rw - proc proc rw\n\
                      30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n";
        assert_eq!(mount_point(mounts).as_deref(), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(mount_point("31 1 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
        let own = own_group("1:name=systemd:/x\n0::/user.slice/user-1000.slice/session-1.scope\n").unwrap();
        assert_eq!(own, Path::new("/user.slice/user-1000.slice/session-1.scope"));
        assert_eq!(own_group("1:cpu:/x\n"), None);
        let mount = Path::new("/sys/fs/cgroup");
        let places: Vec<_> = own.ancestors().map(|group| join(mount, group)).collect();
        assert_eq!(places.last().unwrap(), mount);
        assert_eq!(places[0], mount.join("user.slice/user-1000.slice/session-1.scope"));
    }

    /// A folder in the place of the kernel's: what is written can be read.
    #[test]
    fn what_is_written_for_a_machine() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "cpuset cpu memory pids\n").unwrap();
        assert_eq!(handed_down(dir.path()), ["cpu", "memory"]);
        let base = Base { path: dir.path().to_owned(), controllers: vec!["cpu", "memory"] };
        let group = Group::make(&base, "1234").unwrap();
        assert_eq!(group.path(), dir.path().join("weft/1234"));
        group.add(77).unwrap();
        let shares = Shares {
            cpu_weight: 300,
            cpu_limit: Some("150%".parse().unwrap()),
            memory_limit: Some("512MiB".parse().unwrap()),
            ..Shares::default()
        };
        assert_eq!(group.set(&shares), Vec::<String>::new());
        let read = |file: &str| fs::read_to_string(group.path().join(file)).unwrap();
        let files = ["cgroup.procs", "cpu.weight", "cpu.max", "io.weight", "memory.max"];
        assert_eq!(files.map(read), ["77", "300", "150000 100000", "default 100", "536870912"]);
        group.set(&Shares::default());
        assert_eq!(files.map(read), ["77", "100", "max 100000", "default 100", "max"]);
        fs::remove_dir_all(group.path()).unwrap();
        let lacking = group.set(&shares);
        assert_eq!(lacking.len(), 3, "{lacking:?}");
        assert!(lacking[0].contains("no `cpu.weight`"), "{lacking:?}");
    }

    #[test]
    fn only_groups_of_ours_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |path: &str| fs::create_dir_all(dir.path().join(path)).unwrap();
        ["weft/a", "weft/b", "other/c"].into_iter().for_each(folder);
        let is_there = |path: &str| dir.path().join(path).exists();
        remove(&dir.path().join("other/c"));
        remove(&dir.path().join("weft/a"));
        assert!(is_there("other/c") && !is_there("weft/a") && is_there("weft/b"));
        remove(&dir.path().join("weft/b"));
        assert!(!is_there("weft"));
    }
}
