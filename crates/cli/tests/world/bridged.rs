//! Machines on the physical LAN, with a kernel's bridge as its switch and BusyBox as its DHCP server.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use weft_testkit::{Netns, skipped};

use crate::harness::{Home, eventually, in_netns_of_root, kill};

const PATIENCE: Duration = Duration::from_secs(60);

/// A LAN 10.88.0.0/24 behind the host's interface `eth0`, where the host is 10.88.0.9: a switch that is 10.88.0.1, and
/// gives addresses from 10.88.0.100 on.
struct Lan {
    netns: Netns,
    server: Child,
    _files: tempfile::TempDir,
}

impl Lan {
    fn new() -> Self {
        let (lan, files) = (Netns::new(), tempfile::tempdir().unwrap());
        let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        ip("link set lo up");
        ip(&format!("link add eth0 type veth peer name far netns {}", lan.pid()));
        for words in ["link add br0 type bridge", "link set far master br0 up", "addr add 10.88.0.1/24 dev br0"] {
            inside(&lan, words);
        }
        inside(&lan, "link set br0 up");
        let file = |name: &str| files.path().join(name).display().to_string();
        fs::write(file("leases"), "").unwrap();
        let conf = format!(
            "start 10.88.0.100\nend 10.88.0.110\nmax_leases 11\ninterface br0\noption subnet 255.255.255.0\n\
             lease_file {}\npidfile {}\n",
            file("leases"),
            file("udhcpd.pid")
        );
        fs::write(file("udhcpd.conf"), conf).unwrap();
        let mut server = lan.command("busybox");
        server.args(["udhcpd", "-f", &file("udhcpd.conf")]).stdout(Stdio::null()).stderr(Stdio::null());
        let server = server.spawn().unwrap();
        Self { netns: lan, server, _files: files }
    }

    fn reaches(&self, address: &str) -> bool {
        let ping = self.netns.command("ping").args(["-c", "1", "-W", "2", address]).output().unwrap();
        ping.status.success()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
}

fn inside(netns: &Netns, words: &str) {
    assert!(netns.command("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
}

/// All of the host's interfaces, addresses and routes.
fn of_the_host() -> String {
    let said = |args: &[&str]| String::from_utf8(Command::new("ip").args(args).output().unwrap().stdout).unwrap();
    let details = said(&["-d", "link"]); // among them timers
    let promiscuity =
        details.lines().filter_map(|line| Some(line.split_once("promiscuity")?.1.split_once("minmtu")?.0));
    let promiscuity: String = promiscuity.collect();
    [promiscuity, said(&["addr"]), said(&["route", "show", "table", "all"]), said(&["rule"])].concat()
}

fn host_reaches(address: &str) -> bool {
    Command::new("ping").args(["-c", "1", "-W", "2", address]).output().unwrap().status.success()
}

/// The machine's address, once the LAN's server has given it one.
fn address(home: &Home) -> String {
    let address = || home.json(&["ls"])["vms"][0]["nics"][0]["ip"].as_str().map(str::to_owned);
    eventually("the LAN's server gives an address", PATIENCE, || address().is_some());
    address().unwrap()
}

/// A machine on the LAN, the host and the LAN all reach each other; the host's interfaces are as they were afterwards.
fn all_reach_each_other(home: &Home, lan: &Lan, host: &str) {
    eventually("the host has its own connectivity", PATIENCE, || host_reaches("10.88.0.1"));
    let before = of_the_host();
    home.weft(&["up"]).ok();
    let vm = address(home);
    assert!(vm.starts_with("10.88.0.1"), "{vm}");
    let from_vm = |to: &str| home.exec("a", &["ping", "-c", "1", "-W", "2", to]).code == 0;
    let all_do = || from_vm("10.88.0.1") && from_vm(host) && lan.reaches(&vm) && host_reaches(&vm);
    eventually("all reach each other", PATIENCE, all_do);
    assert!(host_reaches("10.88.0.1") || host == "10.88.0.1", "the host keeps its own connectivity");

    // So does a shell, with an address that the LAN's server gives it.
    let shell = home.weft(&[
        "shell",
        "lan",
        "--",
        "sh",
        "-c",
        &format!("ip -o -4 addr show && ping -c 1 -W 5 {vm} && ping -c 1 -W 5 10.88.0.1"),
    ]);
    assert!(shell.out.contains("10.88.0.1"), "{}", shell.out);
    shell.ok();

    // A station that it is not, it cannot be.
    home.exec("a", &["ip", "addr", "add", "10.88.0.66/24", "dev", "eth0"]).ok();
    assert!(home.exec("a", &["ping", "-c", "1", "-W", "2", "-I", "10.88.0.66", "10.88.0.1"]).code != 0);

    is_kept(home, &vm);
    kill(home.pid("switch"));
    eventually("all reach each other again", PATIENCE, all_do);
    kill(home.pid("daemon"));
    kill(home.pid("switch"));
    eventually("and again", PATIENCE, all_do);

    home.weft(&["down"]).ok();
    home.assert_gone();
    assert_eq!(of_the_host(), before, "nothing is left");
}

/// Waits until the switch would know the address again, if it were killed: it writes what it saw at most once a second.
fn is_kept(home: &Home, ip: &str) {
    let book = || std::fs::read_to_string(home.dir().join("state/switch/addresses.json")).unwrap_or_default();
    eventually("its address is kept", PATIENCE, || book().contains(ip));
}

#[test]
fn a_machine_on_the_lan_of_a_pnic_that_the_host_shares() {
    in_netns_of_root("bridged::a_machine_on_the_lan_of_a_pnic_that_the_host_shares", || {
        let home = Home::new("bridged");
        let lan = Lan::new();
        ip("link set eth0 up");
        ip("addr add 10.88.0.9/24 dev eth0");
        home.write("weft.toml", "[network.lan]\nmode = 'bridged'\nnic = 'eth0'\n[vm.a]\nnics = ['lan']\n");
        all_reach_each_other(&home, &lan, "10.88.0.9");
        home.write("weft.toml", "[network.lan]\nmode = 'bridged'\nnic = 'eth7'\n[vm.a]\nnics = ['lan']\n");
        let said = home.weft(&["up"]);
        assert!(said.code != 0 && said.err.contains("eth7") && said.err.contains("ip link"), "{}", said.err);
        home.weft(&["down"]).ok();
    });
}

#[test]
fn a_machine_at_a_bridge_that_the_host_has() {
    in_netns_of_root("bridged::a_machine_at_a_bridge_that_the_host_has", || {
        let home = Home::new("at-bridge");
        let lan = Lan::new();
        for words in ["link add br7 type bridge", "link set eth0 master br7 up", "addr add 10.88.0.9/24 dev br7"] {
            ip(words);
        }
        ip("link set br7 address 02:00:00:00:00:09"); // or it would take that of its lowest port
        ip("link set br7 up");
        let world =
            "[network.lan]\nmode = 'bridged'\nnic = 'br7'\nattach = 'existing-bridge'\n[vm.a]\nnics = ['lan']\n";
        home.write("weft.toml", world);
        all_reach_each_other(&home, &lan, "10.88.0.9");
    });
}

#[test]
fn a_machine_on_a_pnic_that_the_kernel_gives_to_it_alone() {
    const NAME: &str = "bridged::a_machine_on_a_pnic_that_the_kernel_gives_to_it_alone";
    in_netns_of_root(NAME, || {
        let home = Home::new("macvtap");
        let lan = Lan::new();
        ip("link set eth0 up");
        let world = "[network.lan]\nmode = 'bridged'\nnic = 'eth0'\nattach = 'macvtap'\n[vm.a]\nnics = ['lan']\n";
        home.write("weft.toml", world);
        ip("addr add 10.88.0.9/24 dev eth0");
        let said = home.weft(&["up"]);
        assert!(said.code != 0 && said.err.contains("would hear nothing there any more"), "{}", said.err);
        home.weft(&["down"]).ok();
        ip("addr del 10.88.0.9/24 dev eth0");
        let before = of_the_host();
        let said = home.weft(&["up"]);
        if said.code != 0 && said.err.contains("modprobe macvtap") {
            home.weft(&["down"]).ok();
            return skipped(NAME, "this kernel has no macvtap");
        }
        said.ok();
        let vm = address(&home);
        let meet = || lan.reaches(&vm) && home.exec("a", &["ping", "-c", "1", "-W", "2", "10.88.0.1"]).code == 0;
        eventually("both reach each other", PATIENCE, meet);
        is_kept(&home, &vm);
        kill(home.pid("switch"));
        eventually("both reach each other again", PATIENCE, meet);
        let pids = [home.pid("daemon"), home.pid("switch")];
        pids.into_iter().for_each(kill);
        eventually("nothing is left on the host", PATIENCE, || of_the_host() == before);
        home.weft(&["up"]).ok();
        eventually("and again", PATIENCE, meet);
        home.weft(&["down"]).ok();
        home.assert_gone();
        eventually("nothing is left", PATIENCE, || of_the_host() == before);
    });
}
