//! Kills and collisions: whatever dies, the next command converges.

use std::time::Duration;

use crate::harness::{Home, eventually, kill, said};

/// On an engine that is everywhere; faults of others have tests of their own.
const PAIR: &str = "
[network.lan]
subnet = '10.40.0.0/24'
[vm.a]
engine = 'qemu'
nics = [{ network = 'lan', ip = '10.40.0.10' }]
[vm.b]
engine = 'qemu'
nics = ['lan']
";

fn ping(home: &Home, count: &str) -> crate::harness::Said {
    home.exec("b", &["ping", "-c", count, "-i", "0.2", "-W", "2", "10.40.0.10"])
}

fn state(home: &Home, vm: &str) -> String {
    let vms = home.json(&["vm", "ls"]);
    let found =
        vms.as_array().unwrap().iter().find(|v| v["name"] == vm).map(|v| v["state"].as_str().unwrap().to_owned());
    found.unwrap_or_else(|| "absent".to_owned())
}

#[test]
fn a_killed_daemon_stops_nothing_and_is_back_with_the_next_command() {
    let home = Home::new("kill-daemon");
    home.write("weft.toml", PAIR);
    home.weft(&["up"]).ok();
    let before = (home.pid("a"), home.pid("b"), home.pid("switch"));
    // A long ping inside the guest, started without a session that would die with the daemon.
    home.exec("b", &["sh", "-c", "ping -c 50 -i 0.1 -W 2 10.40.0.10 >/tmp/ping 2>&1 &"]).ok();
    kill(home.pid("daemon"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((home.pid("a"), home.pid("b"), home.pid("switch")), before, "everything was adopted");
    let report = || home.exec("b", &["cat", "/tmp/ping"]).ok();
    eventually("the ping ends", Duration::from_secs(20), || report().contains("packets transmitted"));
    assert!(report().contains(" 0% packet loss"), "{}", report());
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn a_killed_switch_comes_back_and_traffic_with_it() {
    let home = Home::new("kill-switch");
    home.write("weft.toml", PAIR);
    home.weft(&["up"]).ok();
    let leases = home.json(&["lease", "ls"]);
    for _ in 0..2 {
        let old = home.pid("switch");
        kill(old);
        eventually("a new switch runs", Duration::from_secs(5), || {
            let world = home.json(&["ls"]);
            world["switch"]["pid"].as_i64().is_some_and(|pid| pid as i32 != old)
        });
        eventually("traffic flows again", Duration::from_secs(15), || ping(&home, "1").code == 0);
        assert_eq!(home.json(&["lease", "ls"]).as_array().unwrap().len(), leases.as_array().unwrap().len());
    }
    // Both die, and only the next command brings them back.
    let switch = home.pid("switch");
    kill(home.pid("daemon"));
    kill(switch);
    home.weft(&["ls"]).ok();
    eventually("traffic flows again", Duration::from_secs(15), || ping(&home, "1").code == 0);
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn a_killed_machine_is_said_and_up_heals_it() {
    let home = Home::new("kill-vm");
    home.write("weft.toml", PAIR);
    home.weft(&["up"]).ok();
    let other = home.pid("b");
    kill(home.pid("a"));
    eventually("the death is noticed", Duration::from_secs(5), || state(&home, "a") == "failed");
    let plan = home.json(&["plan"]);
    assert!(plan["drift"].as_array().is_some_and(|drift| !drift.is_empty()), "{plan:#}");
    home.weft(&["up"]).ok();
    assert_eq!((state(&home, "a").as_str(), home.pid("b")), ("ready", other));
    ping(&home, "1").ok();
    // The same with nobody looking.
    kill(home.pid("daemon"));
    let pid = home.processes().into_iter().find(|(_, line)| line.contains("qemu") && line.contains("vms/a")).unwrap().0;
    kill(pid);
    home.weft(&["up"]).ok();
    ping(&home, "1").ok();
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn a_kill_at_any_point_of_up_or_down_is_healed() {
    let home = Home::new("kill-points");
    home.write("weft.toml", PAIR);
    for delay_ms in [5, 60, 250, 700, 1800] {
        let up = home.spawn(&["up"]);
        std::thread::sleep(Duration::from_millis(delay_ms));
        for (pid, line) in home.processes() {
            if line.contains("weft up") || line.contains("weft daemon") {
                kill(pid);
            }
        }
        let _ = up.wait_with_output();
    }
    home.weft(&["up"]).ok();
    ping(&home, "1").ok();
    for delay_ms in [5, 100, 400] {
        let down = home.spawn(&["down"]);
        std::thread::sleep(Duration::from_millis(delay_ms));
        for (pid, line) in home.processes() {
            if line.contains("weft down") || line.contains("weft daemon") {
                kill(pid);
            }
        }
        let _ = down.wait_with_output();
    }
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn two_ups_at_once_both_succeed() {
    let home = Home::new("two-ups");
    home.write("weft.toml", PAIR);
    let (first, second) = (home.spawn(&["up"]), home.spawn(&["up"]));
    let (first, second) = (said(first.wait_with_output().unwrap()), said(second.wait_with_output().unwrap()));
    first.ok();
    second.ok();
    assert_eq!(home.processes().iter().filter(|(_, line)| line.contains("qemu-system")).count(), 2);
    // And an `up` against a `down`: one of them wins, and the next one converges.
    let (down, up) = (home.spawn(&["down"]), home.spawn(&["up"]));
    let _ = (down.wait_with_output(), up.wait_with_output());
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn a_host_without_qemu_is_told_what_to_install() {
    let home = Home::new("no-qemu");
    home.write("weft.toml", PAIR);
    // A namespace of its own, in which QEMU cannot be run. Weft looks beyond PATH too.
    let hide = "mount --bind /dev/null \"$(command -v qemu-system-x86_64)\" && exec ./weft up";
    let isolate = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
    let result = said(home.command("unshare").args([isolate, "sh", "-c", hide]).output().unwrap());
    assert_eq!(result.code, 1, "{}", result.err);
    assert!(result.err.contains("qemu-system-x86"), "{}", result.err);
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn a_machine_that_exits_at_once_is_reported_in_its_engines_words() {
    let home = Home::new("exits");
    home.write("weft.toml", PAIR);
    let bin = home.dir().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let fake = bin.join("qemu-system-x86_64");
    std::fs::write(&fake, "#!/bin/sh\n[ \"$1\" = --version ] && { echo QEMU emulator version 7.2.0; exit; }\necho 'qemu: the moon is wrong' >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut up = home.command(home.dir().join("weft"));
    let result = said(up.arg("up").env("PATH", &path).output().unwrap());
    assert_eq!(result.code, 1, "{}", result.err);
    assert!(result.err.contains("the moon is wrong"), "{}", result.err);
    kill(home.pid("daemon")); // it was started with the other PATH
    home.weft(&["up"]).ok();
    home.weft(&["down"]).ok();
    home.assert_gone();
}

/// What systemd's unit does at the host's end and start, without systemd: the host of the test stays as it is.
#[test]
fn what_is_enabled_comes_back_after_the_host_was_down() {
    let home = Home::rootless("boot");
    home.write("weft.toml", "[vm.a]\n[vm.b]\n");
    home.write("other.toml", "[vm.c]\n");
    home.weft(&["up"]).ok();
    home.weft(&["up", "other.toml"]).ok();
    home.enable("weft.toml");
    assert_eq!(home.json(&["ls"])["enabled"].as_array().unwrap().len(), 1);
    let vms = |home: &Home| ["a", "b", "c"].map(|vm| state(home, vm)).join(" ");

    let said = home.weft(&["halt"]);
    assert_eq!((said.code, vms(&home).as_str()), (0, "stopped stopped stopped"), "{}", said.err);
    home.weft(&["boot"]).ok();
    assert_eq!(vms(&home), "ready ready stopped", "what is not enabled stays down");
    assert_eq!(home.exec("a", &["cat", "/proc/1/comm"]).code, 0);

    home.weft(&["vm", "start", "c"]).ok();
    home.weft(&["down", "--all"]).ok();
    home.assert_gone();
}
