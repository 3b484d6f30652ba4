//! Debian, put together by `mmdebstrap` out of its packages: as root, or in a user namespace of the user's own.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::tree::Tree;
use crate::MachineError;
use crate::host;

/// What a machine needs beyond the least of a Debian.
const PACKAGES: [&str; 7] =
    ["systemd-sysv", "systemd-resolved", "udev", "dbus", "iproute2", "iputils-ping", "linux-image-cloud-amd64"];

/// Which Debian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debian {
    /// Its name, like `bookworm`.
    suite: String,
    /// Packages beyond those that a machine needs.
    include: Vec<String>,
}

impl Debian {
    /// The Debian of this name, by default this host's or the stable one, with more packages.
    ///
    /// # Errors
    /// When a name cannot be one of a suite or a package.
    pub fn new(suite: Option<String>, include: Vec<String>) -> Result<Self, MachineError> {
        let suite = suite.or_else(own_suite).unwrap_or_else(|| "stable".to_owned());
        let legal = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:".contains(&b))
        };
        match std::iter::once(&suite).chain(&include).find(|name| !legal(name)) {
            Some(name) => Err(failed(&format!("`{}` is no name of a suite or a package", name.escape_debug()))),
            None => Ok(Self { suite, include }),
        }
    }

    pub(super) fn origin(&self) -> String {
        let with = if self.include.is_empty() { String::new() } else { format!(" with {}", self.include.join(", ")) };
        format!("built from Debian {}'s packages{with}", self.suite)
    }

    /// Lays it into an empty tree.
    pub(super) fn lay(&self, tree: &mut Tree, progress: &dyn Fn(String)) -> Result<(), MachineError> {
        let needed_for = "building an image of Debian";
        let program =
            host::program("mmdebstrap").ok_or(MachineError::ToolMissing { tool: "mmdebstrap", needed_for })?;
        if !rustix::process::geteuid().is_root() && host::program("newuidmap").is_none() {
            return Err(MachineError::ToolMissing { tool: "newuidmap", needed_for });
        }
        let packages: Vec<_> = PACKAGES.iter().copied().chain(self.include.iter().map(String::as_str)).collect();
        let mut command = Command::new(&program);
        command
            .args(["--variant=minbase", "--format=tar", &format!("--include={}", packages.join(","))])
            .args([self.suite.as_str(), "-"])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map(Ended).map_err(|source| MachineError::Run { program, source })?;
        let stdout = child.0.stdout.take().expect("it has a pipe");
        let stderr = BufReader::new(child.0.stderr.take().expect("it has a pipe"));
        let (laid, words) = std::thread::scope(|scope| {
            let laying = scope.spawn(|| tree.lay(stdout, false));
            let mut words = String::new();
            for line in stderr.lines().map_while(Result::ok) {
                match line.strip_prefix("I: ") {
                    Some(step) => progress(step.to_owned()),
                    None if line.starts_with("E: ") || !words.starts_with("E: ") => words = line,
                    None => {}
                }
            }
            (laying.join().expect("no panic"), words)
        });
        let status = child.0.wait().map_err(MachineError::io("wait for", "mmdebstrap"))?;
        if !status.success() {
            return Err(failed(words.strip_prefix("E: ").unwrap_or(&words)));
        }
        laid.map_err(|error| failed(&error.to_string()))?;
        self.make_ours(tree).map_err(|error| failed(&error.to_string()))
    }

    /// What of it is the building host's goes, and its root may come in by the console: who has that, has the machine.
    fn make_ours(&self, tree: &mut Tree) -> io::Result<()> {
        tree.remove(b"etc/hostname");
        if let Some(shadow) = tree.contents("etc/shadow") {
            let text = fs::read_to_string(shadow)?;
            let open = |line: &str| match line.strip_prefix("root:*:") {
                Some(rest) => format!("root::{rest}\n"),
                None => format!("{line}\n"),
            };
            let owner = tree.find("etc/shadow").map(|(_, node)| node.gid).unwrap_or_default();
            tree.file("etc/shadow", 0o640, text.lines().map(open).collect::<String>().as_bytes())?;
            tree.give("etc/shadow", 0, owner);
        }
        tree.file("etc/fstab", 0o644, b"/dev/vda / ext4 rw,x-systemd.growfs 0 1\n")
    }
}

/// This host's Debian, if it is one.
fn own_suite() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let field = |key: &str| text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_matches('"').to_owned()));
    field("VERSION_CODENAME=").filter(|_| field("ID=").as_deref() == Some("debian"))
}

fn failed(words: &str) -> MachineError {
    MachineError::Program { program: "mmdebstrap", words: words.trim().to_owned() }
}

/// A child that does not outlive this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
