//! The main job, as root and as a user without any capability.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::harness::Home;

const QUICKSTART: &str = include_str!("../../../../examples/quickstart.toml");

/// A host service on the loopback that says hello to `guests` guests.
fn host_service(guests: usize) -> (u16, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move || {
        for _ in 0..guests {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n");
        }
    };
    (port, std::thread::spawn(serve))
}

fn quickstart(home: &Home) {
    home.write("quickstart.toml", QUICKSTART);
    let planned = home.weft(&["plan", "quickstart.toml"]);
    assert_eq!(planned.code, 0, "{}", planned.err);
    assert!(home.processes().is_empty(), "a plan starts nothing: {:?}", home.processes());

    home.weft(&["up", "quickstart.toml"]).ok();
    let world = home.json(&["ls"]);
    let vms = world["vms"].as_array().unwrap();
    assert_eq!(vms.len(), 3);
    assert!(vms.iter().all(|vm| vm["state"] == "ready"), "{world:#}");
    let web = vms.iter().find(|vm| vm["name"] == "web").unwrap();
    assert_eq!(web["nics"][0]["ip"], "10.20.0.10");
    let db = vms.iter().find(|vm| vm["name"] == "db").unwrap();
    let db_ip = db["nics"][0]["ip"].as_str().unwrap().to_owned();

    let top = home.json(&["top", "--every", "0.2"]);
    let rows = top.as_array().unwrap().iter().map(|row| (row["name"].as_str().unwrap(), row["memory_bytes"].as_u64()));
    assert_eq!(rows.clone().map(|(name, _)| name).collect::<Vec<_>>(), ["db", "laptop", "web", "(switch)", "(daemon)"]);
    assert!(rows.clone().all(|(_, memory)| memory > Some(1 << 20)), "{top:#}");

    // Neighbours, by every form of their names.
    for name in ["web", "web.office.weft", "10.20.0.10"] {
        home.exec("laptop", &["ping", "-c", "1", "-W", "5", name]).ok();
    }
    home.exec("web", &["ping", "-c", "1", "-W", "5", "db"]).ok();
    home.exec("web", &["ping", "-c", "1", "-W", "5", "laptop"]).ok();
    home.exec("db", &["ping", "-c", "1", "-W", "5", "web.backstage.weft"]).ok();
    home.exec("laptop", &["ping", "-c", "1", "-W", "5", "gateway.office.weft"]).ok();
    assert_eq!(home.exec("laptop", &["hostname"]).ok(), "laptop\n");

    // HTTP between guests, large enough to need many segments.
    home.exec("web", &["sh", "-c", "mkdir /www && head -c 3000000 /dev/urandom >/www/f && httpd -p 80 -h /www"]).ok();
    let sum = |vm: &str, script: &str| home.exec(vm, &["sh", "-c", script]).ok();
    assert_eq!(sum("laptop", "wget -q -O - http://web/f | md5sum"), sum("web", "md5sum </www/f"));

    // The host's own services, through the NAT device.
    let (port, service) = host_service(1);
    let url = format!("http://10.20.0.1:{port}/");
    assert_eq!(home.exec("laptop", &["wget", "-q", "-O", "-", &url]).ok(), "hello\n");
    service.join().unwrap();
    assert_ne!(home.exec("laptop", &["wget", "-q", "-T", "5", "-O", "-", &url]).code, 0, "nobody listens any more");

    // Kept apart.
    assert_ne!(home.exec("laptop", &["ping", "-c", "1", "-W", "2", &db_ip]).code, 0);
    assert_ne!(home.exec("db", &["ping", "-c", "1", "-W", "2", "10.20.0.10"]).code, 0);
    assert_ne!(home.exec("laptop", &["nslookup", "db.backstage.weft"]).code, 0, "a name of another network");
    let url = format!("http://10.30.0.1:{port}/");
    assert_ne!(home.exec("db", &["wget", "-q", "-T", "2", "-O", "-", &url]).code, 0, "backstage has no host access");

    // Again: nothing changes.
    let pids: Vec<_> = ["web", "db", "laptop", "switch"].map(|what| home.pid(what)).into();
    home.weft(&["up", "quickstart.toml"]).ok();
    assert_eq!(pids, ["web", "db", "laptop", "switch"].map(|what| home.pid(what)));
    let plan = home.json(&["plan", "quickstart.toml"]);
    assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0), "{plan:#}");

    home.weft(&["down", "quickstart.toml"]).ok();
    home.assert_gone();
    assert_eq!(home.json(&["ls"])["vms"].as_array().map(Vec::len), Some(0));
    home.assert_gone();
}

#[test]
fn quickstart_as_whoever_runs_this() {
    quickstart(&Home::new("quick"));
}

#[test]
fn quickstart_without_any_capability() {
    quickstart(&Home::rootless("rootless"));
}
