//! Real kernels make themselves addresses of what a gateway advertises, and find it and each other.

mod common;

use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{World, eventually, network_with_gateway, port};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData};
use rustix::net::{AddressFamily, RecvFlags, SocketType, ipproto, recv, socket, sockopt};
use weft_dataplane_protocol::{AddressConfig, DataplaneConfig, NetworkConfig, NetworkMode, PortConfig, PortKind};
use weft_testkit::{Netns, in_netns, mac, skipped};
use weft_types::Dhcp6;

const NET: &str = "fd00:20::/64";

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn ip(arguments: &str) -> String {
    run(Command::new("ip").args(arguments.split(' ')))
}

fn network(mode: NetworkMode, prefix: Option<&str>) -> NetworkConfig {
    let mut network = network_with_gateway("office", 20);
    network.mode = mode;
    network.mtu = 1400;
    network.gateway.as_mut().unwrap().subnet6 = prefix.map(|prefix| prefix.parse().unwrap());
    network
}

fn client(name: &str, vm: &str, last: u8) -> PortConfig {
    PortConfig {
        vm: Some(vm.parse().unwrap()),
        addresses: AddressConfig::Known { fixed: vec![], learn: 16 },
        ..port(name, "office", mac(last), PortKind::Tap { name: name.into(), host: None })
    }
}

/// Whether the machine can do this; it is said when it cannot.
fn works(test: &str) -> bool {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        skipped(test, &format!("/dev/net/tun cannot be opened: {error}"));
        return false;
    }
    if !std::path::Path::new("/proc/net/if_inet6").exists() {
        skipped(test, "this kernel has no IPv6");
        return false;
    }
    true
}

/// The addresses of an interface, those that are not ready left out.
fn addresses(tell: impl Fn(&str) -> String, interface: &str) -> Vec<Ipv6Addr> {
    let text = tell(&format!("-6 -o addr show dev {interface} scope global -tentative -deprecated"));
    let address = |line: &str| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok();
    text.lines().filter_map(address).collect()
}

/// The name server's addresses of `name`, asked by IPv6.
fn ask(server: &str, name: &str) -> Vec<Ipv6Addr> {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), "AAAA".parse().unwrap()));
    let socket = UdpSocket::bind("[::]:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(&query.to_vec().unwrap(), (server, 53)).unwrap();
    let mut answer = [0; 1500];
    let len = socket.recv(&mut answer).expect("the name server answers");
    let answer = Message::from_vec(&answer[..len]).unwrap();
    let address = |data: &RData| if let RData::AAAA(ip) = data { Some(ip.0) } else { None };
    answer.answers.iter().filter_map(|record| address(&record.data)).collect()
}

/// The next router advertisement that comes to this host: what stands behind its header, and its router lifetime.
fn hear_router(socket: &OwnedFd) -> (u16, Vec<u8>) {
    loop {
        let mut message = [0; 1500];
        let (len, _) = recv(socket, &mut message[..], RecvFlags::empty()).expect("a router is heard");
        if message[0] == 134 {
            return (u16::from_be_bytes([message[6], message[7]]), message[16..len].to_vec());
        }
    }
}

/// What an option of an advertisement says, behind type and length.
fn option(mut options: &[u8], kind: u8) -> Option<Vec<u8>> {
    while let [found, len, ..] = *options {
        let (option, rest) = options.split_at(8 * usize::from(len));
        if found == kind {
            return Some(option[2..].to_vec());
        }
        options = rest;
    }
    None
}

/// Two stations: `c0` here, which is `web`, and `c1` elsewhere, which is `db` and likes to be nobody.
fn two_stations(mode: NetworkMode) -> (World, DataplaneConfig, OwnedFd, Netns) {
    let heard = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
    sockopt::set_socket_timeout(&heard, sockopt::Timeout::Recv, Some(Duration::from_secs(30))).unwrap();
    let world = World::new();
    let ports = vec![client("c0", "web", 1), client("c1", "db", 2)];
    let networks = vec![network(mode, Some(NET))];
    let config = DataplaneConfig { revision: 1, networks, ports, ..DataplaneConfig::default() };
    world.apply(&config);
    let far = Netns::new();
    ip("link set c0 address 02:00:00:00:00:01");
    ip("link set c1 address 02:00:00:00:00:02");
    ip(&format!("link set c1 netns {}", far.pid()));
    let private = "echo 2 >/proc/sys/net/ipv6/conf/c1/use_tempaddr; ip link set c1 up";
    run(far.command("sh").args(["-c", private]));
    ip("link set c0 up");
    (world, config, heard, far)
}

#[test]
fn kernels_find_their_gateway_and_each_other() {
    in_netns("kernels_find_their_gateway_and_each_other", || {
        if !works("kernels_find_their_gateway_and_each_other") {
            return;
        }
        let (world, config, heard, far) = two_stations(NetworkMode::Nat);
        let there = |arguments: &str| run(far.command("ip").args(arguments.split(' ')));

        let web: Ipv6Addr = "fd00:20::ff:fe00:1".parse().unwrap();
        eventually("web makes itself an address", || addresses(ip, "c0") == [web]);
        let route = ip("-6 route show default");
        assert!(route.starts_with("default via fe80::1 dev c0 proto ra"), "{route}");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/c0/mtu").unwrap().trim(), "1400");
        let (lifetime_s, options) = hear_router(&heard);
        assert_eq!(lifetime_s, 1800);
        let servers = option(&options, 25).expect("who knows names");
        assert_eq!(servers[6..], "fd00:20::1".parse::<Ipv6Addr>().unwrap().octets());
        assert!(option(&options, 31).unwrap()[6..].starts_with(b"\x06office\x04weft\0"));

        // The gateway, and what is not there.
        run(Command::new("ping").args(["-6", "-c", "2", "-i", "0.2", "-W", "5", "fd00:20::1"]));
        run(Command::new("ping").args(["-6", "-c", "1", "-W", "5", "fe80::1%c0"]));
        run(Command::new("ping").args(["-6", "-c", "1", "-W", "5", "-s", "1352", "-M", "do", "fd00:20::1"]));

        // Of db's addresses names know the one of its adapter's, and not the one that changes.
        let own: Ipv6Addr = "fd00:20::ff:fe00:2".parse().unwrap();
        let of_db = || addresses(there, "c1");
        eventually("db makes itself two", || of_db().contains(&own) && of_db().len() >= 2);
        let learned = |name: &str| world.port(name).learned;
        let db = of_db();
        assert!(db.iter().all(|ip| learned("c1").contains(&IpAddr::V6(*ip))), "{db:?} {:?}", learned("c1"));
        eventually("names know", || ask("fd00:20::1", "db.office.weft.") == [own]);
        assert_eq!(ask("fd00:20::1", "web.office.weft."), [web]);
        for address in &db {
            run(Command::new("ping").args(["-6", "-c", "1", "-W", "5", &address.to_string()]));
        }
        run(far.command("ping").args(["-6", "-c", "2", "-i", "0.2", "-W", "5", &web.to_string()]));
        assert!(learned("c0").contains(&IpAddr::V6(web)), "{:?}", learned("c0"));

        // Nobody is the gateway but the gateway.
        ip("-6 addr add fd00:20::1/64 dev c0");
        eventually("the kernel finds it taken", || ip("-6 addr show dev c0").contains("dadfailed"));

        // Another prefix: there is an address of it, and the old one is for old connections only.
        let networks = vec![network(NetworkMode::Nat, Some("fd00:21::/64"))];
        world.apply(&DataplaneConfig { revision: 2, networks, ..config });
        eventually("web has the new one", || {
            addresses(ip, "c0") == ["fd00:21::ff:fe00:1".parse::<Ipv6Addr>().unwrap()]
        });
        let old = ip("-6 -o addr show dev c0 deprecated");
        assert!(old.contains("fd00:20::ff:fe00:1"), "{old}");
        eventually("names follow", || ask("fd00:21::1", "web.office.weft.") != [web]);
    });
}

#[test]
fn an_internal_network_is_no_way_out() {
    in_netns("an_internal_network_is_no_way_out", || {
        if !works("an_internal_network_is_no_way_out") {
            return;
        }
        let (_world, _, heard, _far) = two_stations(NetworkMode::Internal);
        eventually("web makes itself an address", || addresses(ip, "c0").len() == 1);
        assert_eq!(hear_router(&heard).0, 0);
        assert_eq!(ip("-6 route show default"), "", "it leads nowhere");
        run(Command::new("ping").args(["-6", "-c", "1", "-W", "5", "fd00:20::1"]));
    });
}

/// Who has an address already does not look for duplicates again.
#[test]
fn names_come_back_with_the_prefix() {
    in_netns("names_come_back_with_the_prefix", || {
        if !works("names_come_back_with_the_prefix") {
            return;
        }
        let (world, config, ..) = two_stations(NetworkMode::Internal);
        eventually("web makes itself an address", || addresses(ip, "c0").len() == 1);
        let off =
            DataplaneConfig { revision: 2, networks: vec![network(NetworkMode::Internal, None)], ..config.clone() };
        world.apply(&off);
        world.apply(&DataplaneConfig { revision: 3, ..config });
        eventually("names know", || ask("fd00:20::1", "web.office.weft.").len() == 1);
    });
}

/// Has a DHCPv6 client ask for what there is to know, and compares what it was told: name servers and domains.
fn inform(test: &str, program: &str, command: &[&str]) {
    const SCRIPT: &str = "#!/bin/sh\n[ -n \"$new_dhcp6_name_servers\" ] && \
         echo \"$new_dhcp6_name_servers $new_dhcp6_domain_search\" > \"$TOLD\"\nexit 0\n";
    with_client(test, program, Dhcp6::Stateless, SCRIPT, command, |text| {
        assert_eq!(text.trim_end().trim_end_matches('.'), "fd00:20::1 office.weft");
    });
}

/// Has a DHCPv6 client ask for an address, which it then can use.
fn get_an_address(test: &str, program: &str, command: &[&str]) {
    const SCRIPT: &str = "#!/bin/sh\n[ -n \"$new_ip6_address\" ] && ip -6 addr add \"$new_ip6_address/64\" dev c0\n\
         own=$new_ip6_address$new_dhcp6_ia_na1_ia_addr1\n[ -n \"$own\" ] && echo \"$own\" > \"$TOLD\"\nexit 0\n";
    with_client(test, program, Dhcp6::Stateful, SCRIPT, command, |text| {
        let own: Ipv6Addr = text.trim_end().parse().unwrap();
        // Once it is found free, the switch knows it.
        eventually("the address can be used", || {
            let words = ["-6", "-c", "1", "-W", "1", "-I", &own.to_string(), "fd00:20::1"];
            Command::new("ping").args(words).output().unwrap().status.success()
        });
        let all = addresses(ip, "c0");
        assert!(all.contains(&own) && all.len() > 1, "beside those that it has made itself: {all:?}");
    });
}

/// Has a DHCPv6 client ask; `check` gets what its script has written.
fn with_client(test: &str, program: &str, mode: Dhcp6, script: &str, command: &[&str], check: impl FnOnce(&str)) {
    in_netns(test, || {
        if !works(test) {
            return;
        }
        if Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output()
            .is_ok_and(|it| !it.status.success())
        {
            return skipped(test, &format!("`{program}` is not installed"));
        }
        let mut network = network(NetworkMode::Internal, Some(NET));
        network.gateway.as_mut().unwrap().dhcp6 = Some(mode);
        let world = World::new();
        let (networks, ports) = (vec![network], vec![client("c0", "web", 1)]);
        world.apply(&DataplaneConfig { revision: 1, networks, ports, ..DataplaneConfig::default() });
        ip("link set c0 address 02:00:00:00:00:01");
        ip("link set c0 up");
        eventually("web makes itself an address", || addresses(ip, "c0").len() == 1);
        let (path, told) = (world.path("script"), world.path("told"));
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let words = command.iter().map(|word| word.replace("{dir}", world.directory.path().to_str().unwrap()));
        let words: Vec<String> = words.collect();
        let mut asking = Command::new(&words[0]);
        let mut asking = asking.args(&words[1..]).env("TOLD", &told).stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60); // clients wait a little before they ask
        let text = loop {
            match std::fs::read_to_string(&told) {
                Ok(text) if text.ends_with('\n') => break text,
                _ => assert!(Instant::now() < deadline, "`{program}` was told nothing"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        check(&text);
        // Not asked to end: dhcpcd, which lacks the user that it wants to become here, has been seen never to do it.
        asking.kill().unwrap();
        asking.wait().unwrap();
    });
}

#[test]
fn dhclient_asks_for_information() {
    let files = ["-lf", "{dir}/leases", "-pf", "{dir}/pid", "-cf", "/dev/null", "-sf", "{dir}/script"];
    let command = [&["dhclient", "-6", "-S", "-d", "-e", "TOLD={dir}/told"][..], &files, &["c0"]].concat();
    inform("dhclient_asks_for_information", "dhclient", &command);
}

#[test]
fn dhclient_gets_an_address() {
    let files = ["-lf", "{dir}/leases", "-pf", "{dir}/pid", "-cf", "/dev/null", "-sf", "{dir}/script"];
    let command = [&["dhclient", "-6", "-d", "-e", "TOLD={dir}/told"][..], &files, &["c0"]].concat();
    get_an_address("dhclient_gets_an_address", "dhclient", &command);
}

#[test]
fn dhcpcd_gets_an_address() {
    let start = "mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mkdir /var/lib/dhcpcd && exec dhcpcd -6 -B \
                 -f /dev/null -e TOLD={dir}/told -c {dir}/script c0";
    get_an_address("dhcpcd_gets_an_address", "dhcpcd", &["unshare", "-mpf", "--kill-child", "sh", "-c", start]);
}

/// It has places of its own on the host, which it does not get here.
#[test]
fn dhcpcd_asks_for_information() {
    let start = "mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mkdir /var/lib/dhcpcd && exec dhcpcd -6 -B \
                 -f /dev/null -o dhcp6_name_servers -o dhcp6_domain_search -e TOLD={dir}/told -c {dir}/script c0";
    inform("dhcpcd_asks_for_information", "dhcpcd", &["unshare", "-mpf", "--kill-child", "sh", "-c", start]);
}
