//! The unit by which systemd starts what is enabled with the host, and shuts machines down before it (systemd.service(5)).

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

use crate::failure::{Failure, Result};
use crate::output;

/// systemd's own sign that it runs this host (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// How long the machines may take to shut down, in seconds.
const FAREWELL_S: u32 = 180;

/// A home's unit.
pub(crate) struct Unit {
    name: String,
    folder: PathBuf,
    /// `WEFT_HOME`, where it is set.
    home: Option<PathBuf>,
    is_systems: bool,
}

impl Unit {
    /// The unit of the home that the environment names: the system's for root, else the user's own. `None` where systemd
    /// does not run.
    pub(crate) fn here() -> Option<Self> {
        if !Path::new(BOOTED).exists() {
            return None;
        }
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let is_systems = geteuid().is_root();
        let folder = match is_systems {
            true => PathBuf::from("/etc/systemd/system"),
            false => path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")))?.join("systemd/user"),
        };
        let home = path("WEFT_HOME");
        let name = home.as_deref().map_or("weft.service".to_owned(), |home| format!("weft-{}.service", escaped(home)));
        Some(Self { name, folder, home, is_systems })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Writes it, and has systemd follow it from now on.
    pub(crate) fn install(&self) -> Result<PathBuf> {
        let path = self.path();
        let cannot = |error: io::Error| {
            let hint = "check the owner of the folder, and that its disk is not full";
            Failure::new("unit", format!("cannot write {}: {error}", path.display()), hint)
        };
        let exe = env::current_exe().map_err(cannot)?;
        fs::create_dir_all(&self.folder).map_err(cannot)?;
        fs::write(&path, text(&exe, self.home.as_deref(), self.is_systems)).map_err(cannot)?;
        self.systemctl(&["daemon-reload"])?;
        self.systemctl(&["enable", "--now", &self.name])?;
        if !self.is_systems && !Command::new("loginctl").arg("enable-linger").status().is_ok_and(|it| it.success()) {
            output::say(
                "the machines come back when you log in; for the host's start: sudo loginctl enable-linger $USER",
            );
        }
        Ok(path)
    }

    /// Removes it, if it is there. No machine stops.
    pub(crate) fn remove(&self) -> Result {
        if !self.path().exists() {
            return Ok(());
        }
        self.systemctl(&["disable", &self.name])?;
        let gone = fs::remove_file(self.path());
        gone.map_err(|error| Failure::of("unit", &error, format!("remove {}", self.path().display())))?;
        self.systemctl(&["daemon-reload"])
    }

    fn systemctl(&self, words: &[&str]) -> Result {
        let scope = if self.is_systems { "--system" } else { "--user" };
        let said = Command::new("systemctl").arg(scope).arg("--no-ask-password").args(words).output();
        let (failed, words) = match said {
            Ok(said) if said.status.success() => return Ok(()),
            Ok(said) => (String::from_utf8_lossy(&said.stderr).trim().to_owned(), words.join(" ")),
            Err(error) => (error.to_string(), words.join(" ")),
        };
        let hint = format!("see `systemctl {scope} status {}`", self.name);
        Err(Failure::new("systemd", format!("systemctl {scope} {words}: {}", output::printable(&failed)), hint))
    }
}

/// The unit's file.
fn text(exe: &Path, home: Option<&Path>, is_systems: bool) -> String {
    let home = home.map(|home| format!("Environment={}\n", quoted(&format!("WEFT_HOME={}", home.display()))));
    let (exe, home) = (quoted(&exe.display().to_string()).replace('$', "$$"), home.unwrap_or_default());
    let target = if is_systems { "multi-user.target" } else { "default.target" };
    format!(
        "# Written by `weft enable`; `weft disable` removes it.\n\
         [Unit]\n\
         Description=Weft's machines and networks\n\
         Documentation=man:weft(1)\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         {home}\
         ExecStart={exe} boot\n\
         ExecStop={exe} halt\n\
         TimeoutStartSec=infinity\n\
         TimeoutStopSec={FAREWELL_S}\n\
         \n\
         [Install]\n\
         WantedBy={target}\n"
    )
}

/// A word as unit files take it, whatever is in it.
fn quoted(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// A path as part of a unit's name, as systemd-escape(1) writes it.
fn escaped(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = path.as_os_str().as_bytes();
    let write = |byte: &u8| match byte {
        b'/' => "-".to_owned(),
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'.' => char::from(*byte).to_string(),
        other => format!("\\x{other:02x}"),
    };
    bytes.strip_prefix(b"/").unwrap_or(bytes).iter().map(write).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_systemd_is_told() {
        expect![[r#"
            # Written by `weft enable`; `weft disable` removes it.
            [Unit]
            Description=Weft's machines and networks
            Documentation=man:weft(1)
            Wants=network-online.target
            After=network-online.target

            [Service]
            Type=oneshot
            RemainAfterExit=yes
            ExecStart="/usr/local/bin/weft" boot
            ExecStop="/usr/local/bin/weft" halt
            TimeoutStartSec=infinity
            TimeoutStopSec=180

            [Install]
            WantedBy=multi-user.target
        "#]]
        .assert_eq(&text(Path::new("/usr/local/bin/weft"), None, true));
        let odd = text(Path::new("/o pt/50%/we$ft"), Some(Path::new("/my \"home\"")), false);
        for line in [
            r#"Environment="WEFT_HOME=/my \"home\"""#,
            r#"ExecStart="/o pt/50%%/we$$ft" boot"#,
            "WantedBy=default.target",
        ] {
            assert!(odd.lines().any(|found| found == line), "{line}\n{odd}");
        }
    }

    #[test]
    fn each_home_has_a_unit_of_its_own() {
        assert_eq!(escaped(Path::new("/srv/a-b/c d")), r"srv-a\x2db-c\x20d");
    }

    /// As systemd itself reads it, where it is installed.
    #[test]
    fn systemd_understands_it() {
        let dir = tempfile::tempdir().unwrap();
        let (exe, path) = (dir.path().join("we ft"), dir.path().join("weft.service"));
        std::os::unix::fs::symlink("/bin/true", &exe).unwrap();
        fs::write(&path, text(&exe, Some(Path::new("/a b%")), true)).unwrap();
        match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() {
            Ok(said) => assert!(!String::from_utf8_lossy(&said.stderr).contains("weft.service"), "{said:?}"),
            Err(error) => weft_testkit::skipped("systemd_understands_it", &format!("`systemd-analyze`: {error}")),
        }
    }
}
