//! Edits of a file, owners, overrides, and files that are no good.

use std::time::Duration;

use crate::harness::{Home, eventually};

const BASE: &str = "
[network.lan]
subnet = '10.50.0.0/24'
[vm.a]
nics = [{ network = 'lan', ip = '10.50.0.10' }]
";

#[test]
fn an_edit_changes_only_the_difference() {
    let home = Home::new("edit");
    home.write("weft.toml", BASE);
    home.weft(&["up"]).ok();
    let a = home.pid("a");
    // A second machine and network come, the first machine stays.
    home.write("weft.toml", &format!("{BASE}\n[network.two]\n[vm.b]\nnics = ['lan', 'two']\n"));
    home.weft(&["up"]).ok();
    assert_eq!(home.pid("a"), a);
    home.exec("b", &["ping", "-c", "1", "-W", "5", "a"]).ok();
    // A network's property changes without touching a machine.
    let pids = (home.pid("a"), home.pid("b"));
    let edited = BASE.replace("[vm.a]", "host_access = true\n[vm.a]");
    home.write("weft.toml", &format!("{edited}\n[network.two]\n[vm.b]\nnics = ['lan', 'two']\n"));
    home.weft(&["up"]).ok();
    assert_eq!((home.pid("a"), home.pid("b")), pids);
    // Only the machine that changed is restarted.
    home.write("weft.toml", &format!("{edited}\n[network.two]\n[vm.b]\nmemory = '192MiB'\nnics = ['lan', 'two']\n"));
    home.weft(&["up"]).ok();
    assert_eq!(home.pid("a"), pids.0);
    assert_ne!(home.pid("b"), pids.1);
    // And what is gone from the file goes.
    home.write("weft.toml", BASE);
    home.weft(&["up"]).ok();
    let world = home.json(&["ls"]);
    assert_eq!((world["vms"].as_array().unwrap().len(), world["networks"].as_array().unwrap().len()), (1, 1));
    home.exec("a", &["ping", "-c", "1", "-W", "5", "10.50.0.1"]).ok();
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn a_machine_that_runs_follows_its_network_to_other_addresses() {
    let home = Home::new("move");
    let world = |subnet: &str, ip: &str| {
        format!(
            "[network.lan]\nsubnet = '{subnet}'\n[vm.a]\nnics = [{{ network = 'lan'{ip} }}]\n[vm.b]\nnics = ['lan']\n"
        )
    };
    home.write("weft.toml", &world("10.50.0.0/24", ""));
    home.weft(&["up"]).ok();
    let pids = (home.pid("a"), home.pid("b"));
    for (subnet, ip, address) in [
        ("10.50.0.0/24", ", ip = '10.50.0.99'", "inet 10.50.0.99/24"),
        ("10.51.0.0/24", ", ip = '10.51.0.7'", "inet 10.51.0.7/24"),
    ] {
        home.write("weft.toml", &world(subnet, ip));
        home.weft(&["up"]).ok();
        let addresses = home.exec("a", &["ip", "-4", "addr", "show", "dev", "eth0"]).ok();
        assert!(addresses.contains(address), "{addresses}");
        home.exec("b", &["ping", "-c", "1", "-W", "5", "a"]).ok();
        assert_eq!(home.json(&["plan"])["steps"], serde_json::json!([]), "nothing is left to do");
    }
    // And back, without the file; `undo` takes itself back too.
    for address in ["inet 10.50.0.99/24", "inet 10.51.0.7/24"] {
        home.weft(&["undo"]).ok();
        let addresses = home.exec("a", &["ip", "-4", "addr", "show", "dev", "eth0"]).ok();
        assert!(addresses.contains(address), "{addresses}");
    }
    assert_eq!((home.pid("a"), home.pid("b")), pids);
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn what_leases_say_changes_while_addresses_and_connections_stay() {
    let home = Home::new("re-lease");
    let world = |more: &str| {
        format!("[network.lan]\nsubnet = '10.50.0.0/24'\n{more}[vm.a]\nnics = ['lan']\n[vm.b]\nnics = ['lan']\n")
    };
    home.write("weft.toml", &world(""));
    home.weft(&["up"]).ok();
    let pids = (home.pid("a"), home.pid("b"));
    home.exec(
        "a",
        &["sh", "-c", "setsid sh -c 'sleep 1000 | nc -l -p 7000 >/tmp/got' </dev/null >/dev/null 2>&1 & sleep 0.5"],
    )
    .ok();
    home.exec(
        "b",
        &[
            "sh",
            "-c",
            "setsid sh -c 'while sleep 0.2; do echo tick; done | nc a 7000' </dev/null >/dev/null 2>&1 & sleep 0.5",
        ],
    )
    .ok();
    let ticks = || home.exec("a", &["sh", "-c", "wc -l </tmp/got"]).ok().trim().parse::<u32>().unwrap();
    let flows = || {
        let before = ticks();
        eventually("the connection goes on", Duration::from_secs(20), || ticks() > before);
    };
    flows();
    let address = home.exec("a", &["ip", "-4", "addr", "show", "dev", "eth0"]).ok();
    let says = |gateway: bool, servers: bool| {
        let holds = |command: &str, word: &str| home.exec("a", &["sh", "-c", command]).ok().contains(word);
        eventually("the lease is heard of", Duration::from_secs(20), || {
            holds("ip route", "default") == gateway && holds("cat /etc/resolv.conf", "nameserver") == servers
        });
        assert_eq!(home.exec("a", &["ip", "-4", "addr", "show", "dev", "eth0"]).ok(), address);
        flows();
    };
    says(true, true);
    for (more, gateway, servers) in [("mode = 'host-only'\n", false, true), ("dns = false\n", true, false)] {
        home.write("weft.toml", &world(more));
        let plan = home.json(&["plan"]);
        assert_eq!(plan["steps"][0]["impact"], "re-lease", "{plan:#}");
        home.weft(&["up"]).ok();
        says(gateway, servers);
    }
    home.weft(&["undo"]).ok();
    says(false, true);
    assert_eq!((home.pid("a"), home.pid("b")), pids);
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn owners_and_overrides() {
    let home = Home::new("owners");
    home.write("one.toml", BASE);
    home.write("two.toml", "[network.other]\nsubnet = '10.60.0.0/24'\n[vm.z]\nnics = ['other']\n");
    home.weft(&["up", "one.toml"]).ok();
    home.weft(&["up", "two.toml"]).ok();
    assert_eq!(home.json(&["vm", "ls"]).as_array().unwrap().len(), 2);
    // Another file cannot take what is owned.
    home.write("three.toml", BASE);
    let refused = home.weft(&["up", "three.toml"]);
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("one.toml"), "{}", refused.err);
    // A command overrides the file, the plan says so, `up` puts it right.
    home.weft(&["vm", "stop", "a"]).ok();
    let plan = home.json(&["plan", "one.toml"]);
    assert!(plan["drift"][0]["detail"].as_str().is_some_and(|text| text.contains("weft vm stop a")), "{plan:#}");
    home.weft(&["up", "one.toml"]).ok();
    home.exec("a", &["true"]).ok();
    home.weft(&["vm", "restart", "a"]).ok();
    home.exec("a", &["true"]).ok();
    // Down takes only its own file's objects, even when the file is gone.
    std::fs::remove_file(home.dir().join("one.toml")).unwrap();
    home.weft(&["down", "one.toml"]).ok();
    assert_eq!(home.json(&["vm", "ls"]).as_array().unwrap().len(), 1);
    home.exec("z", &["true"]).ok();
    home.weft(&["down", "two.toml"]).ok();
    home.assert_gone();
}

#[test]
fn a_bad_file_changes_nothing() {
    let home = Home::new("bad-file");
    home.write("weft.toml", "[vm.a]\nimage = 'mikro'\nnics = ['nowhere']\nmemroy = '1GiB'\n");
    let result = home.weft(&["up"]);
    assert_eq!(result.code, 2);
    for sentence in
        ["there is no image `mikro`", "there is no network `nowhere`", "did you mean `memory`?", ":2:", ":3:", ":4:"]
    {
        assert!(result.err.contains(sentence), "{sentence} is not in: {}", result.err);
    }
    assert!(home.processes().is_empty());
    let missing = home.weft(&["up", "nothing.toml"]);
    assert_eq!(missing.code, 2, "{}", missing.err);
    assert!(missing.err.contains("nothing.toml"), "{}", missing.err);
}
