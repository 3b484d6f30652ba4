//! Networks on which the host stands itself: it reaches its machines, they reach it, and nothing else changes, neither
//! for them nor for the host.

use std::process::{Command, Stdio};
use std::time::Duration;

use weft_testkit::{Netns, in_netns, skipped, what_the_host_has};

use crate::harness::{Home, eventually, kill};

const PATIENCE: Duration = Duration::from_secs(60);

fn ip(args: &str) -> bool {
    Command::new("ip").args(args.split(' ')).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn the_host_and_its_machines() {
    in_netns("host_only::the_host_and_its_machines", || {
        const NAME: &str = "the_host_and_its_machines";
        if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
            return skipped(NAME, "/dev/net/tun is closed to us");
        }
        if std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").is_err() {
            return skipped(NAME, "/proc/sys/net is closed to us");
        }
        // Another network of the host, for which it is a router.
        let lan = Netns::new();
        assert!(ip(&format!("link add lan type veth peer name eth0 netns {}", lan.pid())));
        assert!(ip("addr add 192.168.7.1/24 dev lan") && ip("link set lan up") && ip("link set lo up"));
        for args in ["addr add 192.168.7.2/24 dev eth0", "link set eth0 up", "route add default via 192.168.7.1"] {
            assert!(lan.command("ip").args(args.split(' ')).status().unwrap().success(), "{args}");
        }
        eventually("the host's own addresses are settled", PATIENCE, || !what_the_host_has().contains("tentative"));
        let before = what_the_host_has();
        let home = Home::new("host-only");
        let world = |network: &str| home.write("weft.toml", &format!("{network}\n[vm.web]\nnics = ['host-only']\n"));
        world("");
        home.weft(&["up"]).ok();
        let ping = |mut command: Command, to: &str| {
            command.args(["-c1", "-W2", to]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
        };
        let address = home.json(&["ls"])["vms"][0]["nics"][0]["ip"].as_str().unwrap().to_owned();
        assert!(ping(Command::new("ping"), &address));
        home.exec("web", &["ping", "-c", "1", "-W", "5", "host"]).ok();
        let shown = home.weft(&["network", "show", "host-only"]).ok();
        assert!(shown.contains("10.20.0.254 by weft-host-only"), "{shown}");
        // A shell stands there like any machine.
        home.weft(&["shell", "host-only", "--", "ping", "-c", "1", "-W", "5", "10.20.0.254"]).ok();
        home.weft(&["shell", "host-only", "--", "ping", "-c", "1", "-W", "5", &address]).ok();
        // No way out, and none in: not even where the guest takes the host for a router, and the LAN does.
        assert!(!home.exec("web", &["ip", "route"]).ok().contains("default"));
        home.exec("web", &["ip", "route", "add", "default", "via", "10.20.0.254"]).ok();
        assert_ne!(home.exec("web", &["ping", "-c", "1", "-W", "2", "192.168.7.2"]).code, 0);
        assert_ne!(home.exec("web", &["ping", "-c", "1", "-W", "2", "192.168.7.1"]).code, 0);
        assert!(ping(lan.command("ping"), "192.168.7.1") && !ping(lan.command("ping"), &address));

        // Edits disturb nobody: the machine's port, its address and its process stay.
        let pid = home.pid("web");
        let edits = [
            ("[network.host-only]\nmode = 'nat'", false),
            ("[network.host-only]\nmode = 'host-only'", true),
            ("[network.host-only]\nmode = 'host-only'\nhost = '10.20.0.250'", true),
            ("[network.host-only]\nmode = 'internal'", false),
            ("[network.host-only]\nmode = 'nat'\nhost = '10.20.0.251'", true),
        ];
        for (network, reaches) in edits {
            world(network);
            home.weft(&["up"]).ok();
            assert_eq!(ping(Command::new("ping"), &address), reaches, "{network}");
            assert_eq!(what_the_host_has() == before, !reaches, "{network}");
            assert_eq!(
                (home.pid("web"), &home.json(&["ls"])["vms"][0]["nics"][0]["ip"]),
                (pid, &address.as_str().into())
            );
            home.exec("web", &["ping", "-c", "1", "-W", "5", "gateway"]).ok();
        }
        assert!(!ping(lan.command("ping"), &address), "a `nat` network's adapter is an end too");

        // A switch that dies is there again, with its adapter; where nobody starts it again, nothing is left.
        kill(home.pid("switch"));
        eventually("a new switch", PATIENCE, || ping(Command::new("ping"), &address));
        let pids = [home.pid("daemon"), home.pid("switch")];
        pids.into_iter().for_each(kill);
        eventually("nothing is left on the host", PATIENCE, || what_the_host_has() == before);
        home.weft(&["up"]).ok();
        eventually("all is there again", PATIENCE, || ping(Command::new("ping"), &address));
        home.weft(&["down"]).ok();
        home.assert_gone();
        assert_eq!(what_the_host_has(), before);
    });
}

#[test]
fn who_may_not_is_told_how() {
    let home = Home::rootless("host-only-user");
    home.write("weft.toml", "[network.lab]\nmode = 'host-only'\nsubnet = '10.87.0.0/24'\n");
    home.weft(&["plan"]).ok();
    let refused = home.weft(&["up"]);
    let said = refused.err.replace('\n', " ");
    assert_ne!(refused.code, 0);
    let (what, how) = match said.contains("/dev/net/tun") {
        true => ("/dev/net/tun", "CAP_NET_ADMIN"), // closed to us
        false => ("not allowed to make `weft-lab`", "ip addr add 10.87.0.254/24 dev weft-lab"),
    };
    assert!(said.contains(what) && said.contains(how) && said.contains("weft.toml:1"), "{said}");
    let doctor = home.weft(&["doctor"]).out;
    assert!(doctor.contains("host-only"), "{doctor}");
    home.weft(&["down"]).ok();
    home.assert_gone();
}
