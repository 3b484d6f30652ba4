//! A throw-away home for the real binary: its own `WEFT_HOME`, its own user if need be, and nothing left afterwards.

use std::fs;
use std::io::{Read as _, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// A user id that nobody has, for worlds that run without root.
const FRESH_UID: u32 = 61_234;

/// Two cores boot one world at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A world's home, and the right to boot machines while it lives.
pub(crate) struct Home {
    dir: PathBuf,
    uid: Option<u32>,
    _turn: MutexGuard<'static, ()>,
}

/// Runs `body` as [`weft_testkit::in_netns_of_root`] does, while nobody else boots machines.
pub(crate) fn in_netns_of_root(test: &str, body: impl FnOnce()) {
    // Inside, where the home takes its turn, this is another process.
    let is_outside = !weft_testkit::is_in_netns();
    let _turn = is_outside.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    weft_testkit::in_netns_of_root(test, body);
}

/// What a command said and how it ended.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The output of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }
}

impl Home {
    /// A home for the user who runs the test.
    pub(crate) fn new(name: &str) -> Self {
        Self::build(name, None)
    }

    /// A home for a user without any capability; the user who runs the test, unless that is root.
    pub(crate) fn rootless(name: &str) -> Self {
        Self::build(name, rustix::process::geteuid().is_root().then_some(FRESH_UID))
    }

    fn build(name: &str, uid: Option<u32>) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = std::env::temp_dir().join(format!("weft-e2e-{}-{name}", std::process::id()));
        fs::create_dir(&dir).expect("a fresh folder");
        copy_tree(&image_cache(), &dir.join("cache"));
        // The binary is copied too: its own folder may be closed to other users.
        fs::copy(WEFT, dir.join("weft")).expect("a copy of the binary");
        if let Some(uid) = uid {
            let owner = format!("{uid}:{uid}");
            assert!(Command::new("chown").args(["-R", &owner]).arg(&dir).status().unwrap().success());
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, uid, _turn: turn }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that runs `program` as this home's user, in its folder.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = match self.uid {
            None => Command::new(program),
            Some(uid) => {
                let mut command = Command::new("setpriv");
                command
                    .args([format!("--reuid={uid}"), format!("--regid={uid}")])
                    .args(["--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"])
                    .arg(program);
                command
            }
        };
        command.env("WEFT_HOME", &self.dir).env("HOME", &self.dir).current_dir(&self.dir).stdin(Stdio::null());
        command.env_remove("XDG_RUNTIME_DIR");
        command
    }

    /// Starts `weft` with these words.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(self.dir.join("weft"));
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("weft starts")
    }

    /// Runs `weft` with these words.
    pub(crate) fn weft(&self, args: &[&str]) -> Said {
        said(self.spawn(args).wait_with_output().expect("weft ends"))
    }

    /// Runs `weft` with these words and this on its standard input.
    pub(crate) fn weft_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(self.dir.join("weft"));
        let mut child =
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let _ = writer.join().unwrap();
        output
    }

    /// Has what a file made come back with the host, as `weft enable` does, but without a unit for systemd.
    pub(crate) fn enable(&self, file: &str) {
        let owner = self.dir.canonicalize().unwrap().join(file);
        let mut daemon = UnixStream::connect(self.dir.join("run/daemon.sock")).unwrap();
        let asked = format!(
            "PUT /v1/world/enabled?owner={} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\r\n",
            owner.display()
        );
        daemon.write_all(asked.as_bytes()).unwrap();
        let mut answer = String::new();
        daemon.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }

    /// Writes a file of the world.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).unwrap();
    }

    /// Runs a command in a machine.
    pub(crate) fn exec(&self, vm: &str, args: &[&str]) -> Said {
        self.weft(&[&["exec", vm, "--"], args].concat())
    }

    /// A listing as JSON.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let out = self.weft(&[args, &["--json"]].concat()).ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out}"))
    }

    /// The pid of the world's daemon, switch or machine, from the listing.
    #[track_caller]
    pub(crate) fn pid(&self, what: &str) -> i32 {
        let world = self.json(&["ls"]);
        let pid = match what {
            "daemon" | "switch" => &world[what]["pid"],
            vm => &world["vms"].as_array().unwrap().iter().find(|v| v["name"] == vm).unwrap()["pid"],
        };
        pid.as_i64().unwrap_or_else(|| panic!("no pid of {what} in {world}")) as i32
    }

    /// Every process that belongs to this home.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let needle = self.dir.as_os_str().as_encoded_bytes();
        let holds = |text: &[u8]| text.windows(needle.len()).any(|window| window == needle);
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        let ours = |pid: &i32| {
            let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let zombie = fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
            *pid != std::process::id() as i32 && !zombie && (holds(&read("cmdline")) || holds(&read("environ")))
        };
        let line = |pid: i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pids.filter(ours).map(|pid| (pid, String::from_utf8_lossy(&line(pid)).replace('\0', " "))).collect()
    }

    /// Nothing of the world is left but its image cache, its history and its logs.
    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        eventually("every process ends", Duration::from_secs(5), || self.processes().is_empty());
        let mut sockets = Vec::new();
        walk(&self.dir, &mut |path, metadata| {
            use std::os::unix::fs::FileTypeExt;
            if metadata.file_type().is_socket() {
                sockets.push(path.to_owned());
            }
        });
        assert!(sockets.is_empty(), "sockets are left: {sockets:?}");
        let vms = self.dir.join("state/vms");
        let left: Vec<_> = fs::read_dir(vms).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "folders of machines are left: {left:?}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}", self.dir.display());
            for log in ["state/daemon.log", "state/switch.log"] {
                if let Ok(text) = fs::read_to_string(self.dir.join(log)) {
                    eprintln!("--- {log}\n{}", text.lines().rev().take(40).collect::<Vec<_>>().join("\n"));
                }
            }
        }
        for _ in 0..20 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                kill(pid);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if std::env::var_os("WEFT_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Ends a process of a test's own home, as `kill -9` does.
pub(crate) fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "this did not happen in {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The image `micro`, built once for all tests.
/// The cache that holds the image `micro`.
pub(crate) fn image_cache() -> PathBuf {
    if weft_testkit::is_in_metal() {
        return PathBuf::from("/lab/cache"); // whoever started us there has put it there
    }
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-home");
        fs::create_dir_all(&home).unwrap();
        let output = Command::new(WEFT).args(["image", "build", "micro"]).env("WEFT_HOME", &home).output().unwrap();
        assert!(output.status.success(), "`weft image build micro`: {}", String::from_utf8_lossy(&output.stderr));
        home.join("cache")
    };
    CACHE.get_or_init(build).clone()
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-R").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cp -R {} {}", from.display(), to.display());
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        visit(&entry.path(), &metadata);
        if metadata.is_dir() {
            walk(&entry.path(), visit);
        }
    }
}
