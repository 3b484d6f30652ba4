//! Machines of User-Mode Linux.

use std::fs;
use std::time::Duration;

use crate::harness::{Home, eventually, kill, said};

const PAIR: &str = "
[network.lan]
subnet = '10.40.0.0/24'
[vm.a]
engine = 'uml'
nics = [{ network = 'lan', ip = '10.40.0.10' }]
[vm.b]
engine = 'uml'
nics = ['lan']
";

/// Whether guests of User-Mode Linux can run here.
fn runs(home: &Home) -> bool {
    let tried = said(
        home.command("unshare").args(["--user", "--map-current-user", "--pid", "--fork", "true"]).output().unwrap(),
    );
    if tried.code != 0 {
        eprintln!("SKIPPED: there are no user namespaces here: {}", tried.err);
    }
    tried.code == 0
}

fn ping(home: &Home) -> crate::harness::Said {
    home.exec("b", &["ping", "-c", "1", "-W", "2", "10.40.0.10"])
}

fn state(home: &Home, vm: &str) -> String {
    let vms = home.json(&["vm", "ls"]);
    let found = vms.as_array().unwrap().iter().find(|v| v["name"] == vm);
    found.map_or_else(|| "absent".to_owned(), |v| v["state"].as_str().unwrap().to_owned())
}

/// The host's processes of guests: their kernels, and what runs on them.
fn guests(home: &Home) -> Vec<i32> {
    let is_guests = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("vmlinuz"));
    home.processes().into_iter().map(|(pid, _)| pid).filter(is_guests).collect()
}

/// The kernel of the machine that a keeper keeps: of its processes the one that no other has begun.
fn kernel(home: &Home, keeper: i32) -> i32 {
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let ancestors = |pid| std::iter::successors(parent(pid), |pid| parent(*pid)).collect::<Vec<_>>();
    let guests = guests(home);
    let is_kernel = |pid: &i32| {
        let ancestors = ancestors(*pid);
        ancestors.contains(&keeper) && !ancestors.iter().any(|ancestor| guests.contains(ancestor))
    };
    guests.iter().copied().find(is_kernel).unwrap_or_else(|| panic!("no kernel of {keeper} among {guests:?}"))
}

fn whatever_is_killed(home: &Home) {
    if !runs(home) {
        return;
    }
    home.write("weft.toml", PAIR);
    home.weft(&["up"]).ok();
    let vms = home.json(&["vm", "ls"]);
    assert!(vms.as_array().unwrap().iter().all(|vm| vm["engine"] == "uml"), "{vms:#}");
    assert_eq!(home.exec("a", &["uname", "-n"]).ok().trim(), "a");
    assert_eq!(home.exec("a", &["sh", "-c", "exit 3"]).code, 3);
    let long = home.exec("a", &["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"]).ok();
    assert_eq!(long.len(), 3_000_000, "nothing is lost on the way");
    ping(home).ok();

    // The switch: the adapters stay, and go on.
    let old = home.pid("switch");
    kill(old);
    eventually("a new switch runs", Duration::from_secs(10), || {
        home.json(&["ls"])["switch"]["pid"].as_i64().is_some_and(|pid| pid as i32 != old)
    });
    eventually("traffic flows again", Duration::from_secs(20), || ping(home).code == 0);

    // The daemon: everything is adopted.
    let before = (home.pid("a"), home.pid("b"));
    kill(home.pid("daemon"));
    assert_eq!((home.pid("a"), home.pid("b")), before);
    ping(home).ok();

    // The keeper: its guest ends with it, and nothing else.
    kill(home.pid("a"));
    eventually("the death is noticed", Duration::from_secs(10), || state(home, "a") == "failed");
    home.exec("b", &["true"]).ok();
    home.weft(&["up"]).ok();
    eventually("traffic flows again", Duration::from_secs(20), || ping(home).code == 0);

    // A guest's kernel: its keeper tells.
    kill(kernel(home, home.pid("b")));
    eventually("the death is noticed", Duration::from_secs(10), || state(home, "b") == "failed");
    home.weft(&["up"]).ok();

    // A guest that powers itself off.
    home.exec("a", &["poweroff", "-f"]);
    eventually("it is off", Duration::from_secs(10), || state(home, "a") == "stopped");
    home.weft(&["down"]).ok();
    assert!(guests(home).is_empty());
    home.assert_gone();
    let left = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let left: Vec<_> =
        left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with("vm_file")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn whatever_is_killed_of_uml_nothing_stays() {
    whatever_is_killed(&Home::new("uml"));
}

#[test]
fn whatever_is_killed_of_uml_nothing_stays_rootless() {
    whatever_is_killed(&Home::rootless("uml-rootless"));
}

#[test]
fn what_uml_cannot_do_is_said() {
    let home = Home::new("uml-two-cpus");
    if !runs(&home) {
        return;
    }
    home.write("weft.toml", "[vm.a]\nengine = 'uml'\ncpus = 2\n");
    let refused = home.weft(&["up"]);
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("has one CPU, and the machine asks for 2"), "{}", refused.err);
}
