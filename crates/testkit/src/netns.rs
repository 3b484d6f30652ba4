use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::skipped;

/// Tells a test process that it was started inside of its namespaces.
const INSIDE: &str = "WEFT_TEST_NETNS";

/// Runs `body` in a network namespace of its own, as its root: the test named `test` (its full path in this
/// test program) is started again in there, and everything it makes ends with it. Works for ordinary users
/// through a user namespace; where that is closed, the test is skipped, loudly.
///
/// # Panics
/// When the test fails inside.
pub fn in_netns(test: &str, body: impl FnOnce()) {
    unshared(test, &["--user", "--map-root-user", "--net"], body);
}

/// The same for what only the host's own root may do, like loading programs into the kernel; for others the test is
/// skipped, loudly.
///
/// # Panics
/// When the test fails inside.
pub fn in_netns_of_root(test: &str, body: impl FnOnce()) {
    if !rustix::process::geteuid().is_root() {
        return skipped(test, "we are not root");
    }
    unshared(test, &["--net"], body);
}

/// Whether this process is the one that was started again inside of its namespaces.
pub fn is_in_netns() -> bool {
    env::var_os(INSIDE).is_some()
}

fn unshared(test: &str, namespaces: &[&str], body: impl FnOnce()) {
    if is_in_netns() {
        return body();
    }
    let unshared = || {
        let mut command = Command::new("unshare");
        command.args(namespaces).args(["--kill-child", "--fork", "--"]);
        command
    };
    match unshared().arg("true").output() {
        Err(error) => return skipped(test, &format!("`unshare` does not run: {error}")),
        Ok(output) if !output.status.success() => {
            let why = String::from_utf8_lossy(&output.stderr);
            return skipped(test, &format!("no user and network namespaces for us: {}", why.trim()));
        }
        Ok(_) => {}
    }
    let program = env::current_exe().expect("the test program's path");
    let status = unshared()
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("the test starts again in its namespaces");
    assert!(status.success(), "`{test}` failed inside of its namespaces: {status}");
}

/// What the host (or who plays it in a namespace) has: interfaces, addresses, routes, rules and firewall.
pub fn what_the_host_has() -> String {
    let tell = |program: &str, args: &str| {
        let output = Command::new(program).args(args.split(' ')).output();
        output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let listings = ["link", "addr", "route show table all", "-6 route show table all", "rule"].map(|it| tell("ip", it));
    listings.join("\n") + &tell("nft", "list ruleset")
}

/// One more network namespace, for those who are root in their own; ends when this is dropped.
#[derive(Debug)]
pub struct Netns {
    keeper: Child,
}

impl Netns {
    /// Makes it.
    ///
    /// # Panics
    /// When the system refuses.
    #[expect(clippy::new_without_default, reason = "it starts a process")]
    pub fn new() -> Self {
        let mut keeper = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo ready; exec cat >/dev/null"])
            .stdin(Stdio::piped()) // the keeper ends with us, however we end
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` runs");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("piped")).read_line(&mut line).expect("the keeper speaks");
        assert_eq!(line, "ready\n", "`unshare --net` is refused");
        Self { keeper }
    }

    /// The process that `ip link set … netns PID` wants.
    pub fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// A command that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.pid().to_string(), "--", program]);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
