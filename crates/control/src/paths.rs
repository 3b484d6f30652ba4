//! Where things are: the three folders of a home, and every file in them that other rooms must find.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use weft_machine::MAX_SOCKET_PATH_BYTES;
use weft_types::{MacAddr, VmName};

/// The longest name below the run folder that must fit into a socket's path: a VM's folder and its longest socket.
const LONGEST_SOCKET_BYTES: usize = "/vm/0123456789abcdef/console.sock".len();

/// The folders of one home, `WEFT_HOME` or the system's conventions.
///
/// Two homes are two worlds: they share nothing, and can run side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What lasts: the store, per-VM folders, the switch's snapshot, logs.
    pub state: PathBuf,
    /// What can be made again: images.
    pub cache: PathBuf,
    /// What lasts as long as processes do: sockets and locks.
    pub run: PathBuf,
}

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// Nothing says where the home is.
    #[error("nothing says where to keep state: neither WEFT_HOME, XDG_STATE_HOME nor HOME is set")]
    NoHome,
    /// A path from the environment is relative, and would mean another place in each process.
    #[error("{variable} is `{}`, which is not an absolute path", path.display())]
    Relative {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// A folder could not be made or looked at.
    #[error("cannot use the folder `{}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could plant sockets or files there.
    #[error("the folder `{}` cannot be trusted: {why}", path.display())]
    Untrusted {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl PathsError {
    /// How to fix it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoHome => "set WEFT_HOME to a folder of yours",
            Self::Relative { .. } => "write the whole path, from `/` on",
            Self::Folder { .. } => {
                "check that it belongs to you and can be written, or set WEFT_HOME to another folder"
            }
            Self::Untrusted { .. } => "remove it, or set WEFT_HOME to a shorter path so that it is not needed",
        }
    }
}

impl Paths {
    /// The home that the environment names: `WEFT_HOME`, else the system's folders for root, else the user's own.
    ///
    /// # Errors
    /// When the environment names none, or a fallback folder in `/tmp` is not safely ours. Makes no other folder.
    pub fn discover() -> Result<Self, PathsError> {
        let uid = rustix::process::geteuid().as_raw();
        let paths = Self::from_environment(uid, |variable| env::var_os(variable).filter(|value| !value.is_empty()))?;
        paths.with_short_run(uid, Path::new("/tmp"))
    }

    /// The home in `folder`, as `WEFT_HOME` would name it.
    ///
    /// # Errors
    /// As [`Self::discover`].
    pub fn of_home(folder: &Path) -> Result<Self, PathsError> {
        Self::below(folder).with_short_run(rustix::process::geteuid().as_raw(), Path::new("/tmp"))
    }

    fn below(home: &Path) -> Self {
        Self { state: home.join("state"), cache: home.join("cache"), run: home.join("run") }
    }

    fn from_environment(uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, PathsError> {
        let absolute = |name: &'static str| match variable(name).map(PathBuf::from) {
            Some(path) if path.is_relative() => Err(PathsError::Relative { variable: name, path }),
            path => Ok(path),
        };
        if let Some(home) = absolute("WEFT_HOME")? {
            return Ok(Self::below(&home));
        }
        if uid == 0 {
            let [state, cache, run] = ["/var/lib/weft", "/var/cache/weft", "/run/weft"].map(PathBuf::from);
            return Ok(Self { state, cache, run });
        }
        let home = absolute("HOME")?;
        let of = |name: &'static str, fallback: &str| -> Result<PathBuf, PathsError> {
            let base = match absolute(name)? {
                Some(base) => base,
                None => home.as_ref().ok_or(PathsError::NoHome)?.join(fallback),
            };
            Ok(base.join("weft"))
        };
        let state = of("XDG_STATE_HOME", ".local/state")?;
        let cache = of("XDG_CACHE_HOME", ".cache")?;
        // Without a session there is no runtime folder; `with_short_run` may move this one further.
        let run = match absolute("XDG_RUNTIME_DIR")? {
            Some(base) => base.join("weft"),
            None => state.join("run"),
        };
        Ok(Self { state, cache, run })
    }

    /// These folders, with `run` moved to `tmp` where sockets below it would have too long a path.
    fn with_short_run(mut self, uid: u32, tmp: &Path) -> Result<Self, PathsError> {
        if self.run.as_os_str().as_bytes().len() + LONGEST_SOCKET_BYTES <= MAX_SOCKET_PATH_BYTES {
            return Ok(self);
        }
        let short = tmp.join(format!("weft-{uid}-{}", digest(self.run.as_os_str().as_bytes())));
        trusted_folder(&short, uid)?;
        self.run = short;
        Ok(self)
    }

    /// Makes the folders, readable by nobody else.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn create(&self) -> Result<(), PathsError> {
        for path in [&self.state, &self.cache, &self.run] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|source| PathsError::Folder { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// Where the daemon's API listens.
    pub fn daemon_socket(&self) -> PathBuf {
        self.run.join("daemon.sock")
    }

    /// What a daemon locks as long as it lives.
    pub fn daemon_lock(&self) -> PathBuf {
        self.state.join("daemon.lock")
    }

    /// What the daemon says.
    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("daemon.log")
    }

    /// Where the switch listens for the daemon.
    pub fn switch_socket(&self) -> PathBuf {
        self.run.join("switch.sock")
    }

    /// The folder in which the switch keeps its snapshot and leases.
    pub fn switch_state(&self) -> PathBuf {
        self.state.join("switch")
    }

    /// The folder of a switch that runs on its own from `file`, an absolute path; it is gone when that switch is.
    pub fn standalone_switch(&self, file: &Path) -> PathBuf {
        self.run.join("switch").join(digest(file.as_os_str().as_bytes()))
    }

    /// What the switch says.
    pub fn switch_log(&self) -> PathBuf {
        self.state.join("switch.log")
    }

    /// Who the switch's process is.
    pub(crate) fn switch_process(&self) -> PathBuf {
        self.run.join("switch.json")
    }

    /// Where the switch listens for the engine of `vm`'s adapter `index`; short, however long the name.
    pub fn port_socket(&self, vm: &VmName, index: usize) -> PathBuf {
        self.run.join("port").join(format!("{}-{index}", digest(vm.as_str().as_bytes())))
    }

    /// The folder of the ports' sockets.
    pub(crate) fn port_sockets(&self) -> PathBuf {
        self.run.join("port")
    }

    /// The folder with a folder for each VM's lasting files.
    pub(crate) fn vm_states(&self) -> PathBuf {
        self.state.join("vms")
    }

    /// The folder of what lasts of a VM: its disk, its logs.
    pub fn vm_state(&self, vm: &VmName) -> PathBuf {
        self.vm_states().join(vm.as_str())
    }

    /// The folder with a folder for each VM's sockets.
    pub(crate) fn vm_runs(&self) -> PathBuf {
        self.run.join("vm")
    }

    /// The folder of a VM's sockets; short, however long the name.
    pub fn vm_run(&self, vm: &VmName) -> PathBuf {
        self.vm_runs().join(digest(vm.as_str().as_bytes()))
    }

    /// The catalogue of images that users have brought.
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.state.join("store.db")
    }

    /// The history of events.
    pub fn events(&self) -> PathBuf {
        self.state.join("events.jsonl")
    }
}

/// Eight bytes that tell texts apart, in hexadecimal.
fn digest(text: &[u8]) -> String {
    // Two independent 46-bit hashes of the text; clashes would need a purpose, and hurt only who makes them.
    let text = String::from_utf8_lossy(text);
    let [a, b] = ["a:", "b:"].map(|salt| MacAddr::derive(&format!("{salt}{text}")).octets());
    a[2..].iter().chain(&b[2..]).map(|byte| format!("{byte:02x}")).collect()
}

/// Makes `path` a folder that nobody but user `uid` can touch, or says why it is not.
fn trusted_folder(path: &Path, uid: u32) -> Result<(), PathsError> {
    let folder = |source| PathsError::Folder { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(folder(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(path).map_err(folder)?;
    let why = if found.file_type().is_symlink() {
        "it is a symbolic link"
    } else if !found.is_dir() {
        "it is no folder"
    } else if found.uid() != uid {
        "it belongs to somebody else"
    } else if found.mode() & 0o777 != 0o700 {
        "others may enter it"
    } else {
        return Ok(());
    };
    Err(PathsError::Untrusted { path: path.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn from(uid: u32, variables: &[(&str, &str)]) -> Result<Paths, PathsError> {
        Paths::from_environment(uid, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[track_caller]
    fn check(uid: u32, variables: &[(&str, &str)], folders: [&str; 3]) {
        let [state, cache, run] = folders.map(PathBuf::from);
        assert_eq!(from(uid, variables).unwrap(), Paths { state, cache, run });
    }

    #[test]
    fn the_environment_says_where() {
        check(0, &[("HOME", "/root")], ["/var/lib/weft", "/var/cache/weft", "/run/weft"]);
        check(0, &[("WEFT_HOME", "/w")], ["/w/state", "/w/cache", "/w/run"]);
        check(1, &[("WEFT_HOME", "/w"), ("HOME", "/h")], ["/w/state", "/w/cache", "/w/run"]);
        let xdg = [("XDG_STATE_HOME", "/s"), ("XDG_CACHE_HOME", "/c"), ("XDG_RUNTIME_DIR", "/r")];
        check(1, &xdg, ["/s/weft", "/c/weft", "/r/weft"]);
        let home = ["/h/.local/state/weft", "/h/.cache/weft", "/h/.local/state/weft/run"];
        check(1, &[("HOME", "/h")], home);
        assert!(matches!(from(1, &[]), Err(PathsError::NoHome)));
        assert!(matches!(from(1, &[("WEFT_HOME", "w")]), Err(PathsError::Relative { .. })));
    }

    #[test]
    fn every_socket_fits_however_deep_the_home_and_long_the_names() {
        let tmp = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let vm: VmName = "v".repeat(63).parse().unwrap();
        for depth in 1..40 {
            let home = Path::new("/").join("deep/".repeat(depth));
            let paths = Paths::below(&home).with_short_run(uid, tmp.path()).unwrap();
            let fits = |path: PathBuf| assert!(path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES, "{path:?}");
            fits(paths.port_socket(&vm, 23));
            fits(paths.vm_run(&vm).join("console.sock"));
            fits(paths.switch_socket());
            fits(paths.daemon_socket());
        }
    }

    #[test]
    fn two_homes_never_share_a_folder() {
        let tmp = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let run =
            |name: &str| Paths::below(&Path::new("/").join("x/".repeat(50)).join(name)).with_short_run(uid, tmp.path());
        assert_eq!(run("a").unwrap().run, run("a").unwrap().run);
        assert_ne!(run("a").unwrap().run, run("b").unwrap().run);
    }

    #[test]
    fn a_planted_folder_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let path = tmp.path().join("weft");
        let refused = |path: &Path, uid| matches!(trusted_folder(path, uid), Err(PathsError::Untrusted { .. }));
        symlink(tmp.path(), &path).unwrap();
        assert!(refused(&path, uid), "a link");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(refused(&path, uid), "a file");
        fs::remove_file(&path).unwrap();
        trusted_folder(&path, uid).unwrap();
        trusted_folder(&path, uid).unwrap();
        assert!(refused(&path, uid + 1), "somebody else's");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(refused(&path, uid), "open to others");
    }
}
