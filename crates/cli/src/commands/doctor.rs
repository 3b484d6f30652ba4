//! `weft doctor`: what this host can and cannot do, and what to install.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{Access, access, statvfs};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, getegid, geteuid, getgroups, getrlimit};
use serde::Serialize;
use weft_machine::{GroupState, HostReport, KvmState};

use crate::commands::{Context, shell};
use crate::failure::{Failure, Result};
use crate::output::{self, Style, human_bytes};
use crate::table::Table;

/// Less memory than this is not enough for a machine beside the rest.
const LITTLE_MEMORY_BYTES: u64 = 512 << 20;
/// Less room than this does not last long.
const LITTLE_ROOM_BYTES: u64 = 1 << 30;
/// Fewer descriptors than this do not last long for NAT flows.
const FEW_DESCRIPTORS: u64 = 4096;

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    /// What.
    name: &'static str,
    state: State,
    /// What was found, in a sentence.
    finding: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// It is as it should be.
    Ok,
    /// Weft works without it, but less well.
    Limited,
    /// Weft does not work without it.
    Missing,
}

impl Check {
    fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, state: State::Ok, finding: finding.into(), hint: String::new() }
    }

    fn limited(name: &'static str, finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, state: State::Limited, finding: finding.into(), hint: hint.into() }
    }

    fn missing(name: &'static str, finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, state: State::Missing, finding: finding.into(), hint: hint.into() }
    }
}

pub(crate) fn run(context: &Context) -> Result<ExitCode> {
    let report = weft_machine::probe();
    let mut checks = machines(&report);
    checks.extend([memory(&report), tun(), host_only(), lan(), xdp(), shells(), ping(), cgroups(), descriptors()]);
    let paths = &context.paths;
    checks.extend([("state", &paths.state), ("cache", &paths.cache), ("run", &paths.run)].map(|(n, p)| folder(n, p)));
    match context.json {
        true => output::json(&checks)?,
        false => output::data(&render(&checks))?,
    }
    match checks.iter().any(|check| check.state == State::Missing) {
        true => Err(Failure::Told(1)),
        false => Ok(ExitCode::SUCCESS),
    }
}

fn render(checks: &[Check]) -> String {
    let mut table = Table::plain();
    for check in checks {
        let state = match check.state {
            State::Ok => Style::Good.paint("ok"),
            State::Limited => Style::Warning.paint("limited"),
            State::Missing => Style::Error.paint("missing"),
        };
        let hint = if check.hint.is_empty() { String::new() } else { format!("; {}", check.hint) };
        table.row([state, check.name.to_owned(), format!("{}{hint}", check.finding)]);
    }
    table.render()
}

fn machines(report: &HostReport) -> Vec<Check> {
    let mut checks = vec![match &report.qemu {
        Ok(qemu) => Check::ok("qemu", format!("QEMU {} at {}", qemu.version, qemu.path.display())),
        Err(error) => Check::missing("qemu", error.to_string(), error.hint()),
    }];
    let hint = report.kvm.hint();
    checks.push(match &report.kvm {
        KvmState::Usable => Check::ok("kvm", "hardware virtualization works"),
        KvmState::Unusable(why) => Check::limited("kvm", format!("/dev/kvm cannot run guests: {why}"), hint),
        KvmState::Absent => Check::limited("kvm", "there is no /dev/kvm", hint),
        KvmState::NoPermission => Check::limited("kvm", "this user may not open /dev/kvm", hint),
    });
    checks.push(engines(&report.kvm));
    checks.extend(report.tools.iter().map(|tool| match &tool.path {
        Some(path) => Check::ok(tool.name, format!("{}; it {}", path.display(), tool.purpose)),
        None => Check::limited(tool.name, format!("not found; it {}", tool.purpose), tool.hint),
    }));
    checks
}

/// Which engine machines get that name none, and why.
fn engines(kvm: &KvmState) -> Check {
    const NAME: &str = "engine";
    match kvm {
        KvmState::Usable => Check::ok(
            NAME,
            "images with a kernel (`micro` is one) run on `kvm`, Weft's own VMM; those with a disk \
             alone on `qemu` with KVM, as `kvm` has no firmware to boot it",
        ),
        _ => Check::ok(NAME, "everything runs on `qemu`, which translates (TCG): `kvm` needs hardware virtualization"),
    }
}

fn memory(report: &HostReport) -> Check {
    let bytes = report.memory_available.bytes();
    let finding = format!("{} available", human_bytes(bytes));
    match bytes < LITTLE_MEMORY_BYTES {
        true => Check::limited("memory", finding, "end other programs, or give machines little `memory`"),
        false => Check::ok("memory", finding),
    }
}

fn tun() -> Check {
    let hint = "only TAP ports and `host-only` networks need it; machines do not";
    match fs::File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) if may_administer_networks() => Check::ok("tun", "TAP devices can be made"),
        Ok(_) => Check::limited("tun", "TAP devices need CAP_NET_ADMIN", hint),
        Err(error) => Check::limited("tun", format!("/dev/net/tun cannot be opened: {error}"), hint),
    }
}

fn host_only() -> Check {
    let can_open = fs::File::options().read(true).write(true).open("/dev/net/tun").is_ok();
    if can_open && may_administer_networks() {
        return Check::ok("host-only", "the host can stand on networks by adapters of its own");
    }
    let finding = "the host's adapters on `host-only` networks cannot be made";
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("weft"));
    let hint = match can_open {
        true => format!(
            "run as root, `setcap cap_net_admin+ep {}`, or have root make them: `weft up` prints the line",
            program.display()
        ),
        false => "`modprobe tun`, and let this user open /dev/net/tun".to_owned(),
    };
    Check::limited("host-only", finding, hint)
}

/// Whether this process, and so the switch that it starts, has CAP_NET_ADMIN (capabilities(7)).
fn may_administer_networks() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    capabilities() & CAP_NET_ADMIN != 0
}

/// The capabilities in force, a bit each.
fn capabilities() -> u64 {
    let status = read("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

/// Whether machines can stand on the LAN.
fn lan() -> Check {
    const NAME: &str = "LAN";
    // linux/capability.h
    const NEEDED: [(&str, u32); 3] = [("CAP_NET_RAW", 13), ("CAP_NET_ADMIN", 12), ("CAP_BPF", 39)];
    let held = capabilities();
    let lacking: Vec<_> = NEEDED.iter().filter(|(_, bit)| held >> bit & 1 == 0).map(|(name, _)| *name).collect();
    if !lacking.is_empty() {
        let hint = "run `weft` as root for `bridged` networks; `nat` needs nothing";
        return Check::limited(NAME, format!("`bridged` networks need {}", lacking.join(", ")), hint);
    }
    let (mut wired, mut wireless) = (Vec::new(), Vec::new());
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        match (path.join("wireless").exists() || path.join("phy80211").exists(), path.join("device").exists()) {
            (true, _) => wireless.push(name),
            (false, true) => wired.push(name),
            (false, false) => {}
        }
    }
    wired.sort_unstable();
    wireless.sort_unstable();
    match (&wired[..], &wireless[..]) {
        ([], []) => Check::ok(NAME, "`bridged` networks can be made, but this host shows no network card"),
        ([], names) => Check::limited(
            NAME,
            format!("{} is wireless, and access points take frames from one address only", names.join(", ")),
            "use networks of mode `nat`",
        ),
        (names, _) => Check::ok(NAME, format!("`bridged` networks can use {}", names.join(", "))),
    }
}

/// Whether pNICs can be driven by AF_XDP.
fn xdp() -> Check {
    const NAME: &str = "AF_XDP";
    const OTHERWISE: &str = "packet sockets are used, which do the same and copy each frame";
    match socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Ok(_) => {
            Check::ok(NAME, "pNICs that move frames without a copy, and have no address of the host, are driven by it")
        }
        Err(Errno::PERM | Errno::ACCESS) => {
            Check::limited(NAME, format!("not for this user; {OTHERWISE}"), "run `weft` as root")
        }
        Err(Errno::AFNOSUPPORT) => Check::limited(
            NAME,
            format!("this kernel has none; {OTHERWISE}"),
            "a kernel with CONFIG_XDP_SOCKETS has it",
        ),
        Err(error) => Check::limited(
            NAME,
            format!("cannot be used ({error}); {OTHERWISE}"),
            "see `driver` in `weft switch run --help`",
        ),
    }
}

/// Whether `weft shell` works: it is tried.
fn shells() -> Check {
    const NAME: &str = "weft shell";
    let hint = "`weft exec` looks at networks from inside of machines";
    match shell::probe() {
        Ok(()) => Check::ok(NAME, "shells can stand on networks"),
        Err(Failure::Problems(problems)) => {
            let finding = problems.first().map_or(String::new(), |problem| problem.title.clone());
            let hint = problems.into_iter().find_map(|problem| problem.hint).unwrap_or_else(|| hint.to_owned());
            Check::limited(NAME, finding, hint)
        }
        Err(_) => Check::limited(NAME, "it could not be tried", hint),
    }
}

fn ping() -> Check {
    let range = read("/proc/sys/net/ipv4/ping_group_range").unwrap_or_default();
    let mut groups: Vec<u32> = getgroups().unwrap_or_default().into_iter().map(|group| group.as_raw()).collect();
    groups.push(getegid().as_raw());
    match geteuid().is_root() || in_range(&range, &groups) {
        true => Check::ok("ping", "machines on `nat` networks can ping the outside"),
        false => Check::limited(
            "ping",
            "machines on `nat` networks cannot ping the outside",
            "sysctl -w net.ipv4.ping_group_range='0 2147483647'",
        ),
    }
}

/// Whether one of these groups may ping (`icmp(7)`, `ping_group_range`).
fn in_range(range: &str, groups: &[u32]) -> bool {
    let mut bounds = range.split_whitespace().map(str::parse::<u32>);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(first)), Some(Ok(last))) => groups.iter().any(|group| (first..=last).contains(group)),
        _ => false,
    }
}

fn cgroups() -> Check {
    const NAME: &str = "cgroups";
    match weft_machine::group_state() {
        GroupState::Usable(base) => {
            let controllers = base.controllers.join(", ");
            Check::ok(NAME, format!("machines have groups of their own, with {controllers}"))
        }
        GroupState::Absent(why) => Check::limited(
            NAME,
            format!("machines have no groups of their own, as {why}: `cpu_weight` is kept by niceness, limits are not"),
            "run `weft` as root, or in a service with `Delegate=yes`",
        ),
    }
}

fn descriptors() -> Check {
    let most = getrlimit(Resource::Nofile).maximum;
    let finding = most.map_or("no limit".to_owned(), |most| format!("at most {most} a process"));
    match most.is_some_and(|most| most < FEW_DESCRIPTORS) {
        true => Check::limited("open files", finding, "raise the hard limit (ulimit -Hn): each NAT flow needs one"),
        false => Check::ok("open files", finding),
    }
}

fn folder(name: &'static str, path: &Path) -> Check {
    let there = nearest(path);
    if access(&there, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let finding = format!("{} cannot be written", there.display());
        return Check::missing(name, finding, "make it yours, or set WEFT_HOME to another folder");
    }
    let Ok(disk) = statvfs(&there) else { return Check::ok(name, path.display().to_string()) };
    let room = disk.f_bavail.saturating_mul(disk.f_frsize);
    let finding = format!("{}, {} free", path.display(), human_bytes(room));
    match room < LITTLE_ROOM_BYTES && name != "run" {
        true => Check::limited(name, finding, "free some space, or set WEFT_HOME to a larger disk"),
        false => Check::ok(name, finding),
    }
}

/// The path, or the folder above it that exists.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_ping() {
        for (range, groups, may) in [
            ("1\t0", &[0, 1][..], false),
            ("0\t2147483647", &[1000], true),
            ("100 200", &[99, 201], false),
            ("100 200", &[99, 200], true),
            ("", &[0], false),
            ("x y", &[0], false),
        ] {
            assert_eq!(in_range(range, groups), may, "{range:?} {groups:?}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest(&dir.path().join("a/b/c")), dir.path());
        assert_ne!(folder("state", &dir.path().join("a/b")).state, State::Missing);
    }
}
