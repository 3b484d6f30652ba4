//! DHCP to the byte: which options a client hears, where they stand, and what relays and firmware add.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use weft_services::{DhcpServer, NetworkServices};
use weft_types::{Boot, ClientKey, MacAddr, Metadata, UserData};

use crate::bed::*;

const DISCOVER: (u8, &[u8]) = (53, &[1]);
const INFORM: (u8, &[u8]) = (53, &[8]);

/// A message, before it is changed: the fixed part with the cookie, and options without an end mark.
struct Ask {
    mac: MacAddr,
    /// Who sends it, when it is a relay: then from the servers' port.
    relay: Option<MacAddr>,
    fixed: [u8; 240],
    options: Vec<u8>,
}

fn ask(mac: MacAddr, options: &[(u8, &[u8])]) -> Ask {
    let mut fixed = [0; 240];
    fixed[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
    fixed[28..34].copy_from_slice(&mac.octets());
    fixed[236..].copy_from_slice(&[99, 130, 83, 99]);
    Ask { mac, relay: None, fixed, options: encode(options) }
}

/// Options as they are sent, without an end mark.
fn encode(options: &[(u8, &[u8])]) -> Vec<u8> {
    options.iter().flat_map(|(code, value)| [&[*code, value.len() as u8][..], value].concat()).collect()
}

impl Ask {
    fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.fixed[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Passed on by a relay at `giaddr`.
    fn relayed(mut self, relay: MacAddr, giaddr: &str) -> Self {
        self.relay = Some(relay);
        self.with(3, &[1]).with(24, &ip(giaddr).octets())
    }

    /// What the office's gateway answers, if it does.
    fn answer(&self, bed: &mut Bed) -> Option<Answer> {
        let giaddr = Ipv4Addr::from(<[u8; 4]>::try_from(&self.fixed[24..28]).unwrap());
        let ciaddr = Ipv4Addr::from(<[u8; 4]>::try_from(&self.fixed[12..16]).unwrap());
        let everyone = way(self.mac, "0.0.0.0:68", "255.255.255.255:67");
        let way = match self.relay {
            Some(mac) => Way { mac, from: SocketAddrV4::new(giaddr, 67), ..way(mac, "0.0.0.0:67", "10.20.0.1:67") },
            None => Way { to_mac: MacAddr::BROADCAST, from: SocketAddrV4::new(ciaddr, 68), ..everyone },
        };
        bed.send(OFFICE, &udp(way, &[&self.fixed[..], &self.options, &[255]].concat()));
        bed.persist();
        let mut frames = bed.frames();
        assert!(frames.len() < 2, "{frames:?}");
        frames.pop().map(Answer::read)
    }
}

/// An answer, taken to pieces.
struct Answer {
    /// To which MAC, IP address and port it went.
    to: String,
    message: Vec<u8>,
    /// The options, in their order, pieces put together; those in `file` and `sname` after the others.
    options: Vec<(u8, Vec<u8>)>,
}

impl Answer {
    fn read(frame: Vec<u8>) -> Self {
        let to_mac = MacAddr::new(frame[..6].try_into().unwrap());
        let to_ip = Ipv4Addr::from(<[u8; 4]>::try_from(&frame[30..34]).unwrap());
        let to = format!("{to_mac} {to_ip}:{}", u16::from_be_bytes([frame[36], frame[37]]));
        let message = frame[42..].to_vec();
        let mut options: Vec<(u8, Vec<u8>)> = Vec::new();
        let mut areas = vec![&message[240..]];
        let mut next = 0;
        while let Some(mut area) = areas.get(next).copied() {
            next += 1;
            loop {
                match area {
                    [] => panic!("no end mark"),
                    [255, padding @ ..] => {
                        assert!(padding.iter().all(|byte| *byte == 0));
                        break;
                    }
                    [0, rest @ ..] => area = rest,
                    [code, len, rest @ ..] => {
                        let (value, rest) = rest.split_at((*len).into());
                        match options.iter_mut().find(|(known, _)| known == code) {
                            Some((_, known)) => known.extend_from_slice(value),
                            None => options.push((*code, value.to_vec())),
                        }
                        if *code == 52 {
                            let places = [(1, 108..236), (2, 44..108)];
                            areas.extend(
                                places.into_iter().filter(|(bit, _)| value[0] & bit != 0).map(|(_, at)| &message[at]),
                            );
                        }
                        area = rest;
                    }
                    [_] => panic!("an option without a length"),
                }
            }
        }
        Self { to, options, message }
    }

    fn codes(&self) -> Vec<u8> {
        self.options.iter().map(|(code, _)| *code).collect()
    }

    fn option(&self, wanted: u8) -> Option<&[u8]> {
        self.options.iter().find(|(code, _)| *code == wanted).map(|(_, value)| value.as_slice())
    }

    /// The zero-terminated text of a field of the fixed part.
    fn text(&self, at: std::ops::Range<usize>) -> String {
        let field = &self.message[at];
        String::from_utf8(field.iter().copied().take_while(|byte| *byte != 0).collect()).unwrap()
    }

    fn yiaddr(&self) -> Ipv4Addr {
        <[u8; 4]>::try_from(&self.message[16..20]).unwrap().into()
    }
}

/// The office, with another server.
fn bed(change: impl FnOnce(&mut DhcpServer)) -> Bed {
    let mut office = office();
    change(office.dhcp.as_mut().unwrap());
    Bed::with(vec![office])
}

fn options(of: &[(u8, &[u8])]) -> BTreeMap<u8, Vec<u8>> {
    of.iter().map(|(code, value)| (*code, value.to_vec())).collect()
}

#[test]
fn a_client_hears_what_it_asked_for_in_its_order() {
    let mut bed = bed(|dhcp| dhcp.options = options(&[(42, &[10, 20, 0, 9]), (6, &[9, 9, 9, 9])]));
    let lease = [53, 54, 51, 58, 59];
    let mut heard = |wanted: Option<&[u8]>| {
        let wanted: Vec<_> = wanted.map(|codes| (55, codes)).into_iter().collect();
        ask(STRANGER, &[&[DISCOVER][..], &wanted].concat()).answer(&mut bed).unwrap()
    };
    // The mask stands before the routers; what we do not have, what is asked twice, and what is ours alone to say is not.
    let some = heard(Some(&[15, 3, 42, 250, 51, 1, 42, 0, 255, 53]));
    assert_eq!(some.codes(), [&lease[..], &[1, 15, 3, 42]].concat());
    assert_eq!(some.option(42), Some(&[10, 20, 0, 9][..]));
    assert_eq!(heard(Some(&[])).codes(), [&lease[..], &[1]].concat());
    let all = heard(None);
    assert_eq!(all.codes(), [&lease[..], &[1, 3, 26, 28, 6, 15, 119, 42]].concat());
    assert_eq!(all.option(6), Some(&[9, 9, 9, 9][..]), "the file's word counts");
}

#[test]
fn who_has_an_address_hears_nothing_of_leases() {
    let answer =
        ask(STRANGER, &[INFORM, (55, &[51, 58, 1, 6])]).with(12, &[10, 20, 0, 50]).answer(&mut Bed::new()).unwrap();
    assert_eq!((answer.to.as_str(), answer.yiaddr()), ("02:00:00:00:00:0e 10.20.0.50:68", Ipv4Addr::UNSPECIFIED));
    assert_eq!(answer.codes(), [53, 54, 1, 6]);
    assert_eq!(&answer.message[12..16], [10, 20, 0, 50]);
}

#[test]
fn an_identifier_of_any_length_comes_back() {
    for len in [1, 2, 7, 255] {
        let id: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        let answer = ask(STRANGER, &[DISCOVER, (61, &id)]).answer(&mut Bed::new()).unwrap();
        assert_eq!(answer.option(61), Some(&id[..]));
    }
    // In two pieces, of which the second stands in `sname`.
    let place = encode(&[(61, &[3, 4]), (255, &[])]);
    let answer =
        ask(STRANGER, &[DISCOVER, (52, &[2]), (61, &[1, 2])]).with(44, &place).answer(&mut Bed::new()).unwrap();
    assert_eq!(answer.option(61), Some(&[1, 2, 3, 4][..]));
}

/// A long value goes in pieces; what finds no room among the options goes where names would stand; the rest is left out.
#[test]
fn long_answers() {
    let long: Vec<u8> = (0..600).map(|at| at as u8).collect();
    let mut bed = bed(|dhcp| {
        dhcp.options = options(&[(43, &long), (17, &[b'a'; 100]), (252, &[b'b'; 60]), (100, &[b'c'; 120])]);
    });
    let mut heard = |max_size: u16, wanted: &[u8]| {
        let size = max_size.to_be_bytes();
        let answer = ask(STRANGER, &[DISCOVER, (57, &size), (55, wanted)]).answer(&mut bed).unwrap();
        assert!(answer.message.len() + 28 <= usize::from(max_size).max(576));
        answer
    };
    let whole = heard(1400, &[43, 17]);
    assert_eq!((whole.option(43), whole.option(52)), (Some(&long[..]), None));
    // 600 bytes have no room in 576: they are left out, whole.
    let short = heard(0, &[43, 17, 6]);
    assert_eq!(short.codes(), [53, 54, 51, 58, 59, 1, 17, 6]);
    // Three that do not fit among the options together.
    let full = heard(576, &[17, 100, 252, 6, 15]);
    assert_eq!(full.option(17), Some(&[b'a'; 100][..]));
    assert_eq!(full.option(100), Some(&[b'c'; 120][..]));
    assert_eq!(full.option(252), Some(&[b'b'; 60][..]));
    assert!(full.option(6).is_some() && full.option(15).is_some());
    assert!(full.option(52).is_some(), "{:?}", full.codes());
}

#[test]
fn routes_include_the_router() {
    let route = [16, 10, 8, 10, 20, 0, 5];
    let heard = |nat: bool, configured: &[u8]| {
        let mut office = NetworkServices { nat, ..office() };
        office.dhcp.as_mut().unwrap().options = options(&[(121, configured)]);
        let answer = ask(STRANGER, &[DISCOVER, (55, &[121, 3])]).answer(&mut Bed::with(vec![office])).unwrap();
        (answer.option(121).map(<[u8]>::to_vec), answer.option(3).is_some())
    };
    let default = [0, 10, 20, 0, 1];
    assert_eq!(heard(true, &route), (Some([&default[..], &route].concat()), true));
    assert_eq!(heard(false, &route), (Some(route.to_vec()), false));
    let own = [&route[..], &[0, 10, 20, 0, 7]].concat();
    assert_eq!(heard(true, &own), (Some(own), true));
}

#[test]
fn who_is_told_of_itself_hears_the_way_to_it() {
    let heard = |nat: bool, mac: MacAddr| {
        let machine = Metadata {
            vm: "web".parse().unwrap(),
            instance_id: String::new(),
            ssh_key: None,
            user_data: UserData::None,
        };
        let office = NetworkServices { nat, metadata: [(WEB, machine)].into(), ..office() };
        let answer = ask(mac, &[DISCOVER, (55, &[121])]).answer(&mut Bed::with(vec![office])).unwrap();
        answer.option(121).map(<[u8]>::to_vec)
    };
    assert_eq!(heard(false, WEB), Some(vec![32, 169, 254, 169, 254, 10, 20, 0, 1]));
    assert_eq!(heard(true, WEB), None, "the router leads there");
    assert_eq!(heard(false, LAPTOP), None);
}

#[test]
fn rapid_commit() {
    let mut bed = Bed::new();
    let answer = ask(LAPTOP, &[DISCOVER, (80, &[])]).answer(&mut bed).unwrap();
    assert_eq!((answer.option(53), answer.option(80)), (Some(&[5][..]), Some(&[][..])));
    assert_eq!(bed.leases(), "10.20.0.100 02:00:00:00:00:0d laptop until +3600");
    assert_eq!(bed.disk.len(), 1, "it was written before");
    // A client that does not say so gets an offer.
    assert_eq!(ask(STRANGER, &[DISCOVER]).answer(&mut bed).unwrap().option(53), Some(&[2][..]));
    assert!(ask(STRANGER, &[DISCOVER, (80, &[1])]).answer(&mut bed).is_none());
    assert_eq!(bed.counted(), "dhcp-malformed 1");
}

#[test]
fn relays() {
    const RELAY: MacAddr = mac(0x77);
    let info = [1, 2, b'e', b'1', 2, 1, 9];
    let mut bed = Bed::new();
    let through = |options: &[(u8, &[u8])]| ask(STRANGER, options).relayed(RELAY, "10.20.0.9");
    let answer = through(&[DISCOVER, (82, &info)]).answer(&mut bed).unwrap();
    assert_eq!(answer.to, "02:00:00:00:00:77 10.20.0.9:67");
    assert_eq!(answer.options.last(), Some(&(82, info.to_vec())), "the last of all");
    assert_eq!(&answer.message[24..28], [10, 20, 0, 9]);
    let offered = answer.yiaddr();
    let select: [(u8, &[u8]); 3] = [(53, &[3]), (50, &offered.octets()), (54, &[10, 20, 0, 1])];
    assert_eq!(through(&select).answer(&mut bed).unwrap().option(53), Some(&[5][..]));
    assert_eq!(bed.leases(), format!("{offered} 02:00:00:00:00:0e - until +3600"), "the client's, not the relay's");
    // A refusal comes back to the relay, which is to broadcast it (RFC 2131, section 4.3.2).
    let refusal = through(&[(53, &[3]), (50, &[192, 168, 0, 1])]).answer(&mut bed).unwrap();
    assert_eq!((refusal.to.as_str(), &refusal.message[10..12]), ("02:00:00:00:00:77 10.20.0.9:67", &[0x80, 0][..]));

    // Only the relay's own subnet is ours, unless it says that the client is on ours (RFC 3527).
    assert!(ask(WEB, &[DISCOVER]).relayed(RELAY, "10.99.0.1").answer(&mut bed).is_none());
    assert!(ask(WEB, &[DISCOVER, (82, &[5, 4, 10, 30, 0, 0])]).relayed(RELAY, "10.20.0.9").answer(&mut bed).is_none());
    assert_eq!(bed.counted(), "dhcp-other-subnet 2, dhcp-refused 1");
    let selected = ask(WEB, &[DISCOVER, (82, &[5, 4, 10, 20, 0, 0])]).relayed(RELAY, "10.99.0.1").answer(&mut bed);
    assert_eq!(selected.unwrap().to, "02:00:00:00:00:77 10.99.0.1:67");
    assert!(ask(WEB, &[DISCOVER, (118, &[10, 20, 0, 0])]).relayed(RELAY, "10.99.0.1").answer(&mut bed).is_some());

    // Who is no relay does not pass anything on.
    let mut forged = through(&[DISCOVER]);
    forged.relay = None;
    forged.mac = LAPTOP;
    assert!(forged.answer(&mut bed).is_none());
    // What a relay adds has to be whole.
    assert!(through(&[DISCOVER, (82, &[1, 9, 0])]).answer(&mut bed).is_none());
    assert_eq!(bed.counted(), "forged-source 1, dhcp-malformed 1, dhcp-other-subnet 2, dhcp-refused 1");
}

#[test]
fn what_relays_add_has_room() {
    let info = [&[1, 250][..], &[7; 250]].concat();
    let mut bed = bed(|dhcp| dhcp.options = options(&[(17, &[b'a'; 200])]));
    let options: [(u8, &[u8]); 3] = [DISCOVER, (55, &[17, 3, 6]), (82, &info)];
    let answer = ask(STRANGER, &options).relayed(mac(0x77), "10.20.0.9").answer(&mut bed).unwrap();
    assert_eq!(answer.option(82), Some(&info[..]));
    assert!(answer.option(17).is_some() && answer.option(6).is_some());
}

#[test]
fn what_firmware_boots() {
    let text = |text: &str| Some(text.to_owned());
    let mut bed = bed(|dhcp| {
        dhcp.boot = Some(Boot {
            server: Some(ip("10.20.0.2")),
            file: text("pxelinux.0"),
            efi: text("grubx64.efi"),
            arm64: None,
            http: text("http://10.20.0.2/boot.efi"),
            ipxe: text("http://10.20.0.2/menu.ipxe"),
        });
    });
    let mut boots = |more: &[(u8, &[u8])]| {
        let answer = ask(STRANGER, &[&[DISCOVER, (55, &[66, 67])][..], more].concat()).answer(&mut bed).unwrap();
        assert_eq!(&answer.message[20..24], [10, 20, 0, 2]);
        assert_eq!(answer.option(66), Some(&b"10.20.0.2"[..]));
        let file = answer.text(108..236);
        assert_eq!(answer.option(67), Some(file.as_bytes()));
        let class = answer.option(60).map(<[u8]>::to_vec);
        assert_eq!(
            class.is_some_and(|class| class == b"HTTPClient"),
            file.starts_with("http") && !file.contains("ipxe")
        );
        file
    };
    assert_eq!(boots(&[]), "pxelinux.0");
    assert_eq!(boots(&[(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, &[0, 0])]), "pxelinux.0");
    assert_eq!(boots(&[(93, &[0, 7])]), "grubx64.efi");
    assert_eq!(boots(&[(93, &[0, 11])]), "pxelinux.0", "nothing of its own");
    assert_eq!(boots(&[(60, b"HTTPClient:Arch:00016:UNDI:003001"), (93, &[0, 16])]), "http://10.20.0.2/boot.efi");
    assert_eq!(boots(&[(77, b"iPXE"), (93, &[0, 0])]), "http://10.20.0.2/menu.ipxe");
    assert_eq!(boots(&[(77, b"\x04iPXE"), (93, &[0, 7])]), "http://10.20.0.2/menu.ipxe");
    assert!(ask(STRANGER, &[DISCOVER, (93, &[0])]).answer(&mut bed).is_none());
}

#[test]
fn a_long_boot_file_is_an_option() {
    let url = format!("http://boot.example/{}", "x".repeat(120));
    let mut bed = bed(|dhcp| {
        let file = Some(url.clone());
        dhcp.boot = Some(Boot { server: Some(ip("10.20.0.2")), file, efi: None, arm64: None, http: None, ipxe: None });
    });
    let answer = ask(STRANGER, &[DISCOVER, (55, &[3])]).answer(&mut bed).unwrap();
    assert_eq!(answer.option(67), Some(url.as_bytes()));
    assert_eq!(answer.text(108..236), "");
}

#[test]
fn kept_addresses_and_excluded_ones() {
    let mut bed = bed(|dhcp| {
        dhcp.kept = BTreeMap::from([
            (ClientKey::Id(b"\0printer".to_vec()), ip("10.20.0.77")),
            (ClientKey::Mac(mac(0x31)), ip("10.20.0.102")),
        ]);
        dhcp.excluded = vec!["10.20.0.90-10.20.0.100".parse().unwrap()];
    });
    let mut offered = |mac: MacAddr, id: &[u8]| ask(mac, &[DISCOVER, (61, id)]).answer(&mut bed).map(|it| it.yiaddr());
    assert_eq!(offered(mac(0x30), b"\0printer"), Some(ip("10.20.0.77")));
    assert_eq!(offered(mac(0x31), b"\x01whatever"), Some(ip("10.20.0.102")));
    // Of four addresses one is somebody's, one excluded, one kept.
    assert_eq!(offered(mac(0x32), b"\0other"), Some(ip("10.20.0.103")));
    assert_eq!(offered(mac(0x33), b"\0another"), None);
    // Another adapter that says the same name does not get what the first one holds.
    let request: [(u8, &[u8]); 4] = [(53, &[3]), (50, &[10, 20, 0, 77]), (54, &[10, 20, 0, 1]), (61, b"\0printer")];
    assert_eq!(ask(mac(0x30), &request).answer(&mut bed).unwrap().option(53), Some(&[5][..]));
    assert!(ask(mac(0x34), &[DISCOVER, (61, b"\0printer")]).answer(&mut bed).is_none());
    // What is kept for a client by its identifier survives a restart.
    let networks = vec![{
        let mut office = office();
        office.dhcp.as_mut().unwrap().kept = BTreeMap::from([(ClientKey::Id(b"\0printer".to_vec()), ip("10.20.0.77"))]);
        office
    }];
    assert_eq!(bed.restart(networks).leases(), "10.20.0.77 02:00:00:00:00:30 - until +3600");
}

#[test]
fn networks_that_routers_join_are_reached_by_the_gateway() {
    let told = |nat: bool, options: &[(u8, &[u8])]| {
        let mut office = office();
        office.nat = nat;
        let dhcp = office.dhcp.as_mut().unwrap();
        dhcp.options = options.iter().map(|(code, value)| (*code, value.to_vec())).collect();
        let mut bed = Bed::with(vec![office, backstage()]);
        bed.services.set_routers(vec![crate::router::router(Vec::new())]);
        ask(LAPTOP, &[DISCOVER]).answer(&mut bed).unwrap().option(121).map(<[u8]>::to_vec)
    };
    let joined = [24, 10, 30, 0, 10, 20, 0, 1];
    let files = [16, 172, 16, 10, 20, 0, 9];
    assert_eq!(told(false, &[]).unwrap(), joined);
    assert_eq!(told(true, &[]), None, "the router leads there, too");
    assert_eq!(told(false, &[(121, &files)]).unwrap(), [&joined[..], &files].concat());
    // Who hears of routes forgets the router that the file names.
    assert_eq!(told(false, &[(3, &[10, 20, 0, 9])]).unwrap(), [&[0, 10, 20, 0, 9][..], &joined].concat());
}
