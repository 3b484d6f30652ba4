//! What machines ask of 169.254.169.254, by a guest whose TCP is not ours.

use std::collections::BTreeMap;
use std::time::Duration;

use expect_test::{Expect, expect};
use weft_services::{NetworkId, NetworkServices};
use weft_testkit::{Guest, tcp};
use weft_types::{MacAddr, Metadata, UserData};

use crate::bed::*;

/// The services, with a guest on one of their networks.
struct Bench {
    bed: Bed,
    guest: Guest,
    net: NetworkId,
    port: u16,
}

fn web() -> Metadata {
    Metadata {
        vm: "web".parse().unwrap(),
        instance_id: "5eed".to_owned(),
        ssh_key: Some("ssh-ed25519 AAAA me@home\n".to_owned()),
        user_data: UserData::Text("#!/bin/sh\necho hello\n".to_owned()),
    }
}

fn with(network: NetworkServices, machines: &[(MacAddr, Metadata)]) -> NetworkServices {
    NetworkServices { metadata: machines.iter().cloned().collect::<BTreeMap<_, _>>(), ..network }
}

impl Bench {
    /// `web`, on a network with a way out or on one without.
    fn new(net: NetworkId, machine: Metadata) -> Self {
        let networks = vec![with(office(), &[(WEB, machine.clone())]), with(backstage(), &[(WEB_BACKSTAGE, machine)])];
        let (mac, address, gateway) = match net {
            OFFICE => (WEB, "10.20.0.10", (OFFICE_MAC, ip("10.20.0.1"))),
            _ => (WEB_BACKSTAGE, "10.30.0.77", (BACKSTAGE_MAC, ip("10.30.0.1"))),
        };
        Self { bed: Bed::with(networks), guest: Guest::new(mac, ip(address), gateway, 1400), net, port: 40_000 }
    }

    /// What is answered on a connection of its own to `request`, which comes in such pieces.
    fn ask_in(&mut self, request: &[u8], piece_bytes: usize) -> String {
        self.port += 1;
        let handle = self.guest.connect(self.port, "169.254.169.254:80".parse().unwrap(), 64 * 1024);
        self.run();
        let mut answer = Vec::new();
        for piece in request.chunks(piece_bytes) {
            let _ = self.guest.tcp(handle).send_slice(piece);
            self.run();
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = self.guest.tcp(handle).recv_slice(&mut bytes) {
                answer.extend_from_slice(&bytes[..count]);
                self.run();
            }
        }
        assert_ne!(self.guest.tcp(handle).state(), tcp::State::Established, "the answer ends the connection");
        self.guest.tcp(handle).close();
        self.run();
        String::from_utf8(answer).unwrap()
    }

    fn ask(&mut self, request: &str) -> String {
        self.ask_in(request.as_bytes(), 4096)
    }

    /// Status and body of what is found at a path.
    fn get(&mut self, path: &str) -> String {
        let answer = self.ask(&format!("GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        format!("{} {body}", head.lines().next().unwrap().trim_start_matches("HTTP/1.1 "))
    }

    fn run(&mut self) {
        loop {
            self.guest.poll(self.bed.now);
            let mut is_quiet = true;
            while let Some(frame) = self.guest.transmit() {
                self.bed.send(self.net, &frame);
                is_quiet = false;
            }
            while let Some((_, frame)) = self.bed.services.poll_frame() {
                self.guest.receive(&frame.bytes, frame.offload);
                is_quiet = false;
            }
            if is_quiet {
                return;
            }
        }
    }
}

#[test]
fn what_cloud_init_reads() {
    for net in [OFFICE, BACKSTAGE] {
        let mut bench = Bench::new(net, web());
        let mut all = String::new();
        for path in [
            "/meta-data",
            "/user-data",
            "/vendor-data",
            "/openstack",
            "/openstack/latest/meta_data.json",
            "/openstack/2018-08-27/user_data",
            "/openstack/latest/vendor_data.json",
            "/",
            "/latest",
            "/2009-04-04/meta-data/",
            "/2009-04-04/meta-data/instance-id",
            "/latest/meta-data/local-hostname",
            "/latest/meta-data/public-keys/",
            "/latest/meta-data/public-keys/0/",
            "/latest/meta-data/public-keys/0/openssh-key",
            "/latest//user-data?x=1",
        ] {
            all += &format!("== {path}\n{}\n", bench.get(path));
        }
        expect![[r##"
            == /meta-data
            200 OK {"instance-id":"5eed","local-hostname":"web","public-keys":["ssh-ed25519 AAAA me@home"]}
            == /user-data
            200 OK #!/bin/sh
            echo hello

            == /vendor-data
            200 OK #cloud-config
            {"disable_root":false}

            == /openstack
            200 OK 2012-08-10
            2013-04-04
            2013-10-17
            2015-10-15
            2018-08-27
            latest
            == /openstack/latest/meta_data.json
            200 OK {"availability_zone":"weft","hostname":"web","launch_index":0,"name":"web","public_keys":{"weft":"ssh-ed25519 AAAA me@home"},"uuid":"5eed"}
            == /openstack/2018-08-27/user_data
            200 OK #!/bin/sh
            echo hello

            == /openstack/latest/vendor_data.json
            200 OK {"cloud-init":"#cloud-config\n{\"disable_root\":false}\n"}
            == /
            200 OK 2009-04-04
            2016-09-02
            2018-09-24
            2021-03-23
            latest
            openstack/
            == /latest
            200 OK meta-data/
            user-data
            == /2009-04-04/meta-data/
            200 OK ami-id
            hostname
            instance-id
            instance-type
            local-hostname
            local-ipv4
            public-keys/
            == /2009-04-04/meta-data/instance-id
            200 OK 5eed
            == /latest/meta-data/local-hostname
            200 OK web
            == /latest/meta-data/public-keys/
            200 OK 0=weft
            == /latest/meta-data/public-keys/0/
            200 OK openssh-key
            == /latest/meta-data/public-keys/0/openssh-key
            200 OK ssh-ed25519 AAAA me@home

            == /latest//user-data?x=1
            200 OK #!/bin/sh
            echo hello

        "##]]
        .assert_eq(&all);
        let own = if net == OFFICE { "200 OK 10.20.0.10" } else { "200 OK 10.30.0.77" };
        assert_eq!(bench.get("/latest/meta-data/local-ipv4"), own);
    }
}

#[test]
fn what_is_not_there() {
    let mut bench = Bench::new(OFFICE, Metadata { ssh_key: None, user_data: UserData::None, ..web() });
    let mut check = |path: &str, expected: Expect| expected.assert_eq(&bench.get(path));
    let nothing = || expect!["404 Not Found there is nothing of that name; `/` lists what there is\n"];
    for path in [
        "/latest/user-data",
        "/latest/meta-data/public-keys/",
        "/latest/meta-data/public-keys/0/openssh-key",
        "/latest/meta-data/instance-id/more",
        "/openstack/latest/user_data",
        "/openstack/latest/network_data.json",
        "/openstack/1999-01-01/meta_data.json",
        "/../../etc/passwd",
        "/network-config",
        "*",
    ] {
        check(path, nothing());
    }
    check("/user-data", expect!["200 OK #cloud-config\n{}\n"]);
    check("/vendor-data", expect!["200 OK #cloud-config\n{\"disable_root\":true}\n"]);

    let mut bench = Bench::new(OFFICE, Metadata { user_data: UserData::OnDisk, ..web() });
    for path in ["/user-data", "/latest/user-data", "/openstack/latest/user_data"] {
        assert!(bench.get(path).starts_with("503 Service Unavailable the user data are too long"), "{path}");
    }
}

#[test]
fn requests_of_every_kind() {
    let mut bench = Bench::new(OFFICE, web());
    let hello = bench.ask("GET /latest/meta-data/instance-id HTTP/1.0\r\n\r\n");
    assert!(hello.ends_with("Content-Length: 4\r\nConnection: close\r\n\r\n5eed"), "{hello}");
    assert_eq!(bench.ask_in(b"GET /latest/meta-data/instance-id HTTP/1.1\r\nhost: x\r\n\r\n", 1), hello);
    assert_eq!(bench.ask("GET /latest/meta-data/instance-id HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"), hello);
    let head = bench.ask("HEAD /latest/meta-data/instance-id HTTP/1.1\r\n\r\n");
    assert_eq!(format!("{head}5eed"), hello);
    let mut check = |request: &str, status: &str| {
        let answer = bench.ask(request);
        assert_eq!(answer.lines().next(), Some(&*format!("HTTP/1.1 {status}")), "{request:.100}");
    };
    check(
        "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n",
        "200 OK",
    );
    check("PUT /latest/user-data HTTP/1.1\r\n\r\n", "405 Method Not Allowed");
    check("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "405 Method Not Allowed");
    check("GET / HTTP/1.1\r\nx-forwarded-FOR: 10.0.0.1\r\n\r\n", "403 Forbidden");
    check("GET /\r\n\r\n", "400 Bad Request");
    check("\x16\x03\x01\x02\x00 a TLS greeting", "400 Bad Request");
    check(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000)), "431 Request Header Fields Too Large");
    check(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100)), "431 Request Header Fields Too Large");
}

#[test]
fn only_a_machine_that_is_told_something_is_answered() {
    // Somebody else on the same network.
    let mut bench = Bench::new(OFFICE, web());
    bench.guest = Guest::new(LAPTOP, ip("10.20.0.77"), (OFFICE_MAC, ip("10.20.0.1")), 1400);
    let socket = bench.guest.connect(40_000, "169.254.169.254:80".parse().unwrap(), 4096);
    bench.run();
    assert_eq!(bench.guest.tcp(socket).state(), tcp::State::Closed, "refused");
    // Another port of the address.
    let mut bench = Bench::new(BACKSTAGE, web());
    let socket = bench.guest.connect(40_000, "169.254.169.254:22".parse().unwrap(), 4096);
    bench.run();
    assert_ne!(bench.guest.tcp(socket).state(), tcp::State::Established);
    // A network without such machines.
    let mut bench = Bench::new(BACKSTAGE, web());
    bench.bed.services.configure(bench.bed.now, vec![backstage()]);
    let socket = bench.guest.connect(40_000, "169.254.169.254:80".parse().unwrap(), 4096);
    bench.run();
    assert_ne!(bench.guest.tcp(socket).state(), tcp::State::Established);
}

#[test]
fn who_asks_for_nothing_is_let_go() {
    let mut bench = Bench::new(OFFICE, web());
    let socket = bench.guest.connect(40_000, "169.254.169.254:80".parse().unwrap(), 4096);
    bench.run();
    assert_eq!(bench.guest.tcp(socket).state(), tcp::State::Established);
    for _ in 0..40 {
        bench.bed.sleep(Duration::from_secs(1));
        bench.run();
    }
    assert_ne!(bench.guest.tcp(socket).state(), tcp::State::Established);
    assert_eq!(bench.bed.services.nat().flows(), 0);
}
