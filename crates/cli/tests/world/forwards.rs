//! Port forwards to real guests: what comes through is what went in, and what comes and goes disturbs nobody.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::harness::{Home, eventually, kill};

const MIB: usize = 1 << 20;

/// Ports of the host that nobody has just now.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn world([file, udp]: [u16; 2]) -> String {
    format!(
        "[network.office]
subnet = '10.41.0.0/24'
forwards = ['127.0.0.1:{file} -> web:80', 'udp/{udp} -> web:53']
[vm.web]
memory = '512MiB'
nics = ['office']
[vm.other]
nics = [{{ network = 'office', ip = '10.41.0.20' }}]
"
    )
}

/// What `wget` of the guest's web server gives, and whether all of it came.
fn get(port: u16, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    Ok(answer.split_off(body.unwrap_or(answer.len())))
}

/// A web server on the guest, with a file of `mib` MiB that no two pieces of are alike.
fn serve(home: &Home, vm: &str, mib: usize) {
    let program = format!(
        "mkdir -p /tmp/www && cd /tmp/www && i=0 && while [ $i -lt {mib} ]; do \
         printf '%08d' $i; head -c 1048568 /bin/busybox; i=$((i + 1)); done > big; echo it is {vm} > name; \
         httpd -p 80 -h /tmp/www"
    );
    home.exec(vm, &["sh", "-c", &program]).ok();
}

#[test]
fn forwards_lead_to_machines() {
    let home = Home::rootless("forwards");
    let [file, udp, live, closed] = free_ports();
    home.write("weft.toml", &world([file, udp]));
    home.weft(&["up"]).ok();
    serve(&home, "web", 100);
    serve(&home, "other", 0);
    assert_eq!(get(file, "/name").unwrap(), b"it is web\n");
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.send_to(b"hello", (Ipv4Addr::LOCALHOST, udp)).unwrap();
    eventually("a datagram is led in", Duration::from_secs(10), || home.json(&["forward", "ls"])[1]["served"] == 1);

    // Byte for byte, while other forwards come and go.
    let download = std::thread::spawn(move || get(file, "/big"));
    let (at, to) = (format!("127.0.0.1:{live}"), "other:80");
    for _ in 0..3 {
        home.weft(&["forward", "add", &at, to]).ok();
        assert_eq!(get(live, "/name").unwrap(), b"it is other\n");
        home.weft(&["forward", "rm", &at]).ok();
        assert_eq!(get(live, "/name").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    let big = download.join().unwrap().unwrap();
    let busybox = home.exec("web", &["sh", "-c", "sha256sum /tmp/www/big"]).ok();
    assert_eq!(big.len(), 100 * MIB);
    let path = home.dir().join("big");
    std::fs::write(&path, &big).unwrap();
    let ours = std::process::Command::new("sha256sum").arg(&path).output().unwrap();
    assert_eq!(ours.stdout[..64], busybox.as_bytes()[..64]);

    // Nobody listens there: a client hears a reset.
    home.weft(&["forward", "add", &format!("{closed}"), "web:81"]).ok();
    assert_eq!(get(closed, "/").unwrap_err().kind(), ErrorKind::ConnectionReset);

    // What `up` does not know, it leaves alone; what is declared by a file is removed there.
    assert!(home.weft(&["up"]).err.contains("nothing to do"));
    let forwards = home.json(&["forward", "ls"]);
    let shown: Vec<_> = forwards.as_array().unwrap().iter().map(|it| it["listen"].as_str().unwrap()).collect();
    let place = |port: u16| format!("tcp/127.0.0.1:{port}");
    assert_eq!(shown, [place(file), format!("udp/127.0.0.1:{udp}"), place(closed)]);
    let declared = home.weft(&["forward", "rm", &format!("{file}")]);
    assert!(declared.code == 1 && declared.err.contains("weft.toml:3"), "{}", declared.err);

    // A daemon that is killed stops none; a switch that is killed is back at the same places.
    kill(home.pid("daemon"));
    assert_eq!(get(file, "/name").unwrap(), b"it is web\n");
    kill(home.pid("switch"));
    eventually("a new switch listens", Duration::from_secs(20), || {
        get(file, "/name").is_ok_and(|it| it == b"it is web\n")
    });

    // A machine that is gone takes what a command has added along.
    home.write("weft.toml", &world([file, udp]).replace("[vm.other]", "[vm.third]"));
    home.weft(&["forward", "add", &at, to]).ok();
    home.weft(&["up"]).ok();
    assert_eq!(home.json(&["forward", "ls"]).as_array().unwrap().len(), 3);
    home.weft(&["down"]).ok();
    assert_eq!(get(file, "/name").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    home.assert_gone();
}

#[test]
fn what_cannot_be_forwarded_changes_nothing() {
    let home = Home::rootless("no-forwards");
    let [file, udp, free] = free_ports();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let source = "[network.office]\nsubnet = '10.42.0.0/24'\n[network.lab]\nmode = 'internal'\n[vm.web]\nnics = ['office', 'lab']\n";
    home.write(
        "weft.toml",
        &source.replace("[network.lab]", &format!("forwards = ['{taken} -> web:80']\n[network.lab]")),
    );
    let up = home.weft(&["up"]);
    assert!(up.code == 1 && up.err.contains("in use by another program"), "{}", up.err);
    assert!(home.processes().iter().all(|(_, line)| !line.contains("qemu")), "nothing was begun");
    home.write("weft.toml", source);
    home.weft(&["up"]).ok();
    let (file, free) = (file.to_string(), free.to_string());
    home.weft(&["forward", "add", &file, "web:80"]).ok();
    let revision = || home.json(&["forward", "ls"]);
    let before = revision();
    let check = |args: &[&str], code: i32, expected: &str| {
        let said = home.weft(&[&["forward", "add"], args].concat());
        assert!(said.code == code && said.err.contains(expected), "{args:?}: {} {}", said.code, said.err);
        assert!(said.err.contains("hint"), "{args:?} has a way out: {}", said.err);
        assert_eq!(revision(), before, "{args:?}");
    };
    check(&[&taken, "web:80"], 1, "in use by another program");
    check(&[&free, "nobody:80"], 1, "there is no VM `nobody`");
    check(&[&file, "web:81"], 1, "leads to web:80 already");
    check(&[&format!("0.0.0.0:{file}"), "web:81"], 1, "leads to web:80 already");
    check(&[&free, "web:80", "--network", "lab"], 1, "nothing from outside reaches network `lab`");
    check(&[&free, "10.42.0.1:80"], 1, "no machine's address");
    check(&[&free, "192.0.2.1:80"], 1, "an address of no network");
    check(&[&format!("192.0.2.7:{free}"), "web:80"], 1, "this host has no address 192.0.2.7");
    check(&[&free, "web"], 2, "no port of a machine");
    // The same port is another one for UDP.
    home.weft(&["forward", "add", "--udp", &udp.to_string(), "web:53"]).ok();
    let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if start.trim().parse::<u16>().unwrap() > 1023 {
        let low = home.weft(&["forward", "add", "1023", "web:80"]);
        assert!(low.code == 1 && low.err.contains("needs a privilege"), "{}", low.err);
    }
    home.weft(&["down"]).ok();
    home.assert_gone();
}
