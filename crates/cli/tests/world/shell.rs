//! Shells that stand on networks: as root and as a user without any capability, through kills of everybody, and with
//! nothing left of them.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Child;
use std::time::Duration;

use weft_testkit::skipped;

use crate::harness::{Home, Said, eventually, kill};

const PATIENCE: Duration = Duration::from_secs(60);

const WORLD: &str = "
[network.lab]
mode = 'nat'
host_access = true
[network.quiet]
mode = 'internal'
dhcp = false
[network.lone]
mode = 'internal'
rules = ['deny any -> gateway icmp']
";

/// A shell that stays until it is killed, or its stdin ends.
struct Staying(Child);

impl Staying {
    fn begin(home: &Home, name: &str) -> Self {
        let mut command = home.command(home.dir().join("weft"));
        command.args(["shell", "lab", "--name", name, "--", "sh", "-c", "echo ready; cat"]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
        Self(child)
    }

    /// Ends its stdin, and with that its command.
    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Runs a command of the shell `sh` on a network.
fn shell(home: &Home, network: &str, script: &str) -> Said {
    home.weft(&["shell", network, "--", "sh", "-c", script])
}

/// The names of the shells that there are, of the ports of machines, and of those who hold leases.
fn who_is_there(home: &Home) -> [Vec<String>; 3] {
    let world = home.json(&["ls"]);
    let names = |list: &str, key: &str| -> Vec<String> {
        world[list].as_array().unwrap().iter().filter_map(|it| it[key].as_str().map(str::to_owned)).collect()
    };
    [names("shells", "name"), names("ports", "vm"), names("leases", "vm")]
}

fn nobody(home: &Home) -> bool {
    who_is_there(home).iter().all(Vec::is_empty)
}

/// Answers every client with a page, once.
fn serve_a_page() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\na page\n");
        }
    });
    port
}

fn tour(test: &str, home: &Home) {
    home.write("weft.toml", WORLD);
    let early = shell(home, "lab", "true");
    assert_eq!(early.code, 125);
    assert!(early.err.contains("no network `lab`") && early.err.contains("weft up"), "{}", early.err);
    home.weft(&["up"]).ok();
    let first = shell(home, "lab", "ip route; hostname; cat /etc/resolv.conf; exit 7");
    if first.err.contains("this user cannot have a shell") {
        return skipped(test, &first.err);
    }
    assert_eq!(first.code, 7, "{}", first.err);
    for expected in ["default via 10.20.0.1 dev eth0", "shell-1\n", "nameserver 10.20.0.1", "search lab.weft"] {
        assert!(first.out.contains(expected), "{expected} in {}", first.out);
    }
    assert!(nobody(home), "{:?}", who_is_there(home));

    // Mistakes, and how commands end.
    let typo = shell(home, "labb", "true");
    assert!(typo.code == 125 && typo.err.contains("did you mean `lab`?"), "{}", typo.err);
    assert_eq!(shell(home, "lab", "kill -9 $$").code, 137);
    assert_eq!(home.weft(&["shell", "lab", "--", "/no/such/program"]).code, 127);
    let quiet = shell(home, "quiet", "ip -4 -br addr show eth0; ip route");
    assert!(
        quiet.code == 0 && quiet.out.trim().is_empty() && quiet.err.contains("gives no addresses"),
        "{}",
        quiet.out
    );
    assert!(nobody(home), "{:?}", who_is_there(home));

    // The host's network through NAT, by name, and the port's policy.
    let port = serve_a_page();
    let page = format!("exec 3<>/dev/tcp/gateway/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    assert!(home.weft(&["shell", "lab", "--", "bash", "-c", &page]).ok().ends_with("a page\n"));
    shell(home, "lab", "ping -c1 -W10 gateway").ok();
    assert_ne!(shell(home, "lone", "ping -c1 -W1 gateway").code, 0, "the network's rules are for shells, too");
    let forged = "ip addr add 10.20.0.99/24 dev eth0; ping -c1 -W1 -I 10.20.0.99 gateway";
    assert_ne!(shell(home, "lab", forged).code, 0, "a shell speaks for itself only");

    // Two that talk, through the end of the daemon and of the switch.
    let staying = Staying::begin(home, "first");
    let [shells, ports, leases] = who_is_there(home);
    assert_eq!([&shells[..], &ports[..], &leases[..]], [["first"], ["first"], ["first"]]);
    assert!(home.weft(&["port", "show", "first-0"]).ok().contains("weft shell lab"));
    let taken = home.weft(&["shell", "lab", "--name", "first", "--", "true"]);
    assert!(taken.code == 125 && taken.err.contains("already"), "{}", taken.err);
    shell(home, "lab", "ping -c1 -W10 first").ok();
    kill(home.pid("daemon"));
    shell(home, "lab", "ping -c1 -W10 first").ok();
    kill(home.pid("switch"));
    eventually("the shell is back on its network", PATIENCE, || shell(home, "lab", "ping -c1 -W2 first").code == 0);
    staying.end();
    assert!(nobody(home), "{:?}", who_is_there(home));

    // Whoever is killed leaves nothing.
    let staying = Staying::begin(home, "second");
    staying.kill();
    eventually("what was killed is gone", PATIENCE, || nobody(home));
    let staying = Staying::begin(home, "third");
    kill(home.pid("daemon"));
    staying.kill();
    eventually("the next daemon sees who is gone", PATIENCE, || nobody(home));

    // A network that goes takes its shells' places along.
    let staying = Staying::begin(home, "fourth");
    home.weft(&["down"]).ok();
    staying.end();
    home.assert_gone();
}

#[test]
fn a_tour_as_root() {
    if !rustix::process::geteuid().is_root() {
        return skipped("a_tour_as_root", "we are not root");
    }
    tour("a_tour_as_root", &Home::new("shell-root"));
}

#[test]
fn a_tour_without_root() {
    tour("a_tour_without_root", &Home::rootless("shell"));
}
