//! What machines may take of the host, where control groups are not to be had: by niceness, and said where not.

use std::fs;

use crate::harness::Home;

fn world(keys: &str) -> String {
    format!("[network.office]\nsubnet = '10.73.0.0/24'\n[vm.web]\nnics = ['office']\n{keys}")
}

/// The niceness of a process and of each of its threads (proc_pid_stat(5), field 19).
fn niceness(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of = |stat: String| stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap();
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).map(of).collect()
}

fn processors(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
}

#[test]
fn shares_without_control_groups() {
    let home = Home::rootless("shares");
    assert!(home.weft(&["doctor"]).out.contains("machines have no groups of their own"));
    home.write("weft.toml", &world("cpu_weight = 33\ncpu_pin = '0'\ncpu_limit = '150%'\n"));
    home.weft(&["up"]).ok();
    let (pid, usual) = (home.pid("web"), niceness(home.pid("switch"))[0]);
    assert!(niceness(pid).iter().all(|nice| *nice == (usual + 5).min(19)), "{:?}", niceness(pid));
    assert_eq!(processors(pid), "0");
    let events = home.weft(&["events"]).ok();
    assert!(events.contains("web: cpu_limit cannot be kept without one"), "{events}");

    // Edits are in force while it runs.
    home.write("weft.toml", &world("cpu_weight = 20\n"));
    let plan = home.json(&["plan"]);
    assert!(plan["steps"][0]["kind"] == "vm" && plan["steps"][0]["impact"] == "hitless", "{plan:#}");
    home.weft(&["up"]).ok();
    assert_eq!(home.pid("web"), pid);
    assert!(niceness(pid).iter().all(|nice| *nice == (usual + 7).min(19)), "{:?}", niceness(pid));
    assert_eq!(processors(pid), processors(home.pid("switch")));
    assert!(home.json(&["plan"])["steps"].as_array().unwrap().is_empty());

    let refused = {
        home.write("bad.toml", &world("cpu_weight = 0\ncpu_limit = '1.5'\ncpu_pin = 'all'\nmemory_limit = '256MiB'\n"));
        home.weft(&["up", "bad.toml"])
    };
    assert_ne!(refused.code, 0);
    for words in ["cpu_weight", "`1.5` is no processor time", "`all` names no processors", "256MiB do not hold"] {
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
    home.weft(&["down"]).ok();
}
