//! Fetching packages from Debian's archive through `apt-get`, as whatever user, without changing the system.
//!
//! The system's own lists of packages serve if they are there and fresh; otherwise lists are fetched into a folder of our
//! own, from the sources and with the keys that the system trusts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::Progress;
use crate::MachineError;
use crate::host;

/// What the tool is needed for, in an error's words.
const NEEDED_FOR: &str = "building the image `micro` from Debian's packages";
/// Words of apt's that mean that the network, not the package, is the problem.
const OFFLINE_WORDS: [&str; 6] = [
    "Temporary failure resolving",
    "Could not resolve",
    "Could not connect",
    "Unable to connect",
    "Connection timed out",
    "Network is unreachable",
];

/// A way to Debian's archive.
pub(super) struct Apt<'a> {
    /// The folder for lists of our own.
    own: PathBuf,
    /// Whether the lists of our own are in use.
    own_lists: bool,
    progress: &'a dyn Fn(Progress),
}

impl<'a> Apt<'a> {
    /// Begins with the system's lists; `scratch` is a folder that the caller removes.
    pub(super) fn new(scratch: &Path, progress: &'a dyn Fn(Progress)) -> Self {
        Self { own: scratch.join("apt"), own_lists: false, progress }
    }

    /// Downloads a package into `dir` and says which file it became. A `meta` package stands for the one that it needs
    /// whose name begins with `prefix`.
    pub(super) fn download_newest(&mut self, meta: &str, prefix: &str, dir: &Path) -> Result<PathBuf, MachineError> {
        self.with_lists(meta, |apt| {
            let shown = apt.run("apt-cache", &["show", "--no-all-versions", meta], dir)?;
            let text = String::from_utf8_lossy(&shown.stdout);
            match dependency(&text, prefix) {
                Some(package) => apt.fetch(&package, dir),
                None => Err(apt.failed(meta, &shown)),
            }
        })
    }

    /// Downloads a package into `dir` and says which file it became.
    pub(super) fn download(&mut self, package: &str, dir: &Path) -> Result<PathBuf, MachineError> {
        self.with_lists(package, |apt| apt.fetch(package, dir))
    }

    /// Tries with the lists that there are and, where that fails, once more with fresh ones.
    fn with_lists(
        &mut self,
        package: &str,
        attempt: impl Fn(&Self) -> Result<PathBuf, MachineError>,
    ) -> Result<PathBuf, MachineError> {
        match attempt(self) {
            Err(MachineError::Download { words, offline: false, .. }) if !self.own_lists => {
                tracing::debug!(target: "weft::machine", %words, "apt's own lists do not serve");
                let refreshed = self.refresh()?;
                attempt(self).map_err(|error| match self.failed(package, &refreshed) {
                    // If not even the lists could be had, that is the reason for everything after it.
                    reason @ MachineError::Download { offline: true, .. } => reason,
                    reason if !refreshed.status.success() => reason,
                    _ => error,
                })
            }
            outcome => outcome,
        }
    }

    /// Fetches fresh lists into the folder of our own.
    fn refresh(&mut self) -> Result<Output, MachineError> {
        (self.progress)(Progress::Refreshing);
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            let folder = self.own.join(folder);
            fs::create_dir_all(&folder).map_err(MachineError::io("create", &folder))?;
        }
        self.own_lists = true;
        self.run("apt-get", &["--quiet", "update"], &self.own)
    }

    fn fetch(&self, package: &str, dir: &Path) -> Result<PathBuf, MachineError> {
        (self.progress)(Progress::Downloading(package.to_owned()));
        let output = self.run("apt-get", &["--quiet", "download", package], dir)?;
        let file = deb_in(dir, package);
        match file {
            Some(file) if output.status.success() => Ok(file),
            _ => Err(self.failed(package, &output)),
        }
    }

    fn run(&self, program: &'static str, args: &[&str], dir: &Path) -> Result<Output, MachineError> {
        let path = tool(program)?;
        let mut command = Command::new(&path);
        command
            .args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1"])
            .args(["-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20"])
            .args(["-o", "Acquire::Languages=none"]);
        if self.own_lists {
            for (key, folder) in [("Dir::State", "state"), ("Dir::Cache", "cache")] {
                command.arg("-o").arg(format!("{key}={}", self.own.join(folder).display()));
            }
            command.args(["-o", "Dir::State::status=/var/lib/dpkg/status"]);
        }
        let output = command.args(args).current_dir(dir).env("LC_ALL", "C").stdin(Stdio::null()).output();
        output.map_err(|source| MachineError::Run { program: path, source })
    }

    /// An error in apt's own words, as far as they are errors.
    fn failed(&self, package: &str, output: &Output) -> MachineError {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let offline = OFFLINE_WORDS.iter().any(|words| text.contains(words));
        let line = text.lines().find_map(|line| line.strip_prefix("E: ").or_else(|| line.strip_prefix("W: ")));
        let words = line.unwrap_or(text.lines().last().unwrap_or("no repository has it")).trim().to_owned();
        if words.contains("o space left on device") {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return MachineError::Io { action: "download packages to", path: self.own.clone(), source };
        }
        MachineError::Download { package: package.to_owned(), words, offline }
    }
}

/// Where a tool is that cannot be done without.
pub(super) fn tool(name: &'static str) -> Result<PathBuf, MachineError> {
    host::program(name).ok_or(MachineError::ToolMissing { tool: name, needed_for: NEEDED_FOR })
}

/// The package that the described one needs whose name begins with `prefix`.
fn dependency(described: &str, prefix: &str) -> Option<String> {
    let needs = described.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let mut names = needs.split([',', '|']).filter_map(|need| need.split_whitespace().next());
    let legal = |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    names.find(|name| name.starts_with(prefix) && legal(name)).map(str::to_owned)
}

/// The file of a package in `dir`.
fn deb_in(dir: &Path, package: &str) -> Option<PathBuf> {
    let prefix = format!("{package}_");
    let mut files = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    files.find(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&prefix) && name.ends_with(".deb")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_meta_package_stands_for() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(dependency(text, "linux-image-").as_deref(), expected, "{text}");
        };
        check(
            "Package: x\nDepends: linux-image-6.1.0-44-cloud-amd64 (= 6.1.1-1)\n",
            Some("linux-image-6.1.0-44-cloud-amd64"),
        );
        check("Depends: kmod, linux-image-6+x | other", Some("linux-image-6+x"));
        check("Depends: kmod", None);
        check("Depends: linux-image-$(reboot)", None);
        check("Pre-Depends: linux-image-6", None);
        check("", None);
    }
}
