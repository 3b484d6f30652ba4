//! Real DHCP clients get, keep and give back a lease from a real switch.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{World, network_with_gateway, port};
use rustix::process::{Pid, Signal};
use weft_dataplane_protocol::{AddressConfig, DataplaneConfig, PortKind};
use weft_testkit::{Netns, in_netns, mac, skipped};

/// Writes down what a client was told: interface, address, mask, router, domain and name servers.
const UDHCPC_SCRIPT: &str = "#!/bin/sh\n[ \"$1\" = bound ] && echo \"$ip $subnet $domain $dns\" > \"$TOLD\"\nexit 0\n";
const DHCLIENT_SCRIPT: &str = "#!/bin/sh\n[ \"$reason\" = BOUND ] && \
     echo \"$new_ip_address $new_subnet_mask $new_domain_name $new_domain_name_servers\" > \"$TOLD\"\nexit 0\n";
const DHCPCD_SCRIPT: &str = "#!/bin/sh\n[ \"$reason\" = BOUND ] && \
     echo \"$new_ip_address $new_subnet_mask $new_domain_name $new_domain_name_servers\" > \"$TOLD\"\nexit 0\n";

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn installed(program: &str) -> bool {
    ["/bin", "/sbin", "/usr/bin", "/usr/sbin"].iter().any(|folder| Path::new(folder).join(program).exists())
}

/// Has a client with this command line ask for an address on the interface `c0`, and compares what it was told. `{script}`
/// and `{dir}` stand for a script that it runs and a folder of its own.
fn check(test: &str, program: &str, script: &str, command: &[&str]) {
    in_netns(test, || {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
            return skipped(test, &format!("/dev/net/tun cannot be opened: {error}"));
        }
        if !installed(program) {
            return skipped(test, &format!("`{program}` is not installed"));
        }
        let world = World::new();
        let mut tap = port("client", "office", mac(1), PortKind::Tap { name: "c0".into(), host: None });
        tap.addresses = AddressConfig::Known { fixed: vec![], learn: 4 };
        let networks = vec![network_with_gateway("office", 20)];
        world.apply(&DataplaneConfig { revision: 1, networks, ports: vec![tap], ..DataplaneConfig::default() });
        let client = Netns::new();
        ip("link set c0 address 02:00:00:00:00:01");
        ip(&format!("link set c0 netns {}", client.pid()));
        assert!(client.command("ip").args(["link", "set", "c0", "up"]).status().unwrap().success());

        let (script_path, told) = (world.path("script"), world.path("told"));
        std::fs::write(&script_path, script).unwrap();
        std::fs::set_permissions(&script_path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let places = [("{script}", &script_path), ("{dir}", &world.directory.path().to_owned())];
        let words = command.iter().map(|word| {
            places.iter().fold((*word).to_owned(), |word, (name, path)| word.replace(name, path.to_str().unwrap()))
        });
        let words: Vec<String> = words.collect();
        let mut asking = client.command(&words[0]);
        let mut asking = asking.args(&words[1..]).env("TOLD", &told).stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60); // clients wait a little before they ask
        let text = loop {
            match std::fs::read_to_string(&told) {
                Ok(text) if text.ends_with('\n') => break text,
                _ => assert!(Instant::now() < deadline, "`{program}` was told nothing"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        // Not killed: dhcpcd has processes that it ends itself.
        rustix::process::kill_process(Pid::from_child(&asking), Signal::TERM).unwrap();
        asking.wait().unwrap();
        let lease = &world.status().leases[0];
        assert_eq!(text.trim_end(), format!("{} 255.255.255.0 office.weft 10.20.0.1", lease.ip));
        assert_eq!(lease.mac, mac(1));
    });
}

#[test]
fn udhcpc() {
    let command = ["busybox", "udhcpc", "-i", "c0", "-f", "-s", "{script}"];
    check("udhcpc", "busybox", UDHCPC_SCRIPT, &command);
}

#[test]
fn dhclient() {
    let files = ["-lf", "{dir}/dhclient.leases", "-pf", "{dir}/dhclient.pid", "-cf", "/dev/null"];
    let command = [&["dhclient", "-4", "-d", "-sf", "{script}", "-e", "TOLD={dir}/told"][..], &files, &["c0"]].concat();
    check("dhclient", "dhclient", DHCLIENT_SCRIPT, &command);
}

/// It has places of its own on the host, which it does not get here.
#[test]
fn dhcpcd() {
    let start = "mount -t tmpfs none /run && mount -t tmpfs none /var/lib/dhcpcd && \
                 exec dhcpcd -4 -B -A -f /dev/null -o domain_name -o domain_name_servers -e TOLD={dir}/told -c {script} c0";
    check("dhcpcd", "dhcpcd", DHCPCD_SCRIPT, &["unshare", "-m", "sh", "-c", start]);
}
