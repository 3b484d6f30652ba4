//! Names asked for over TCP, by a guest whose TCP is not ours.

use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use weft_services::NetworkId;
use weft_testkit::{Guest, SocketHandle, tcp};

use crate::bed::*;
use crate::dns::describe;

/// A guest, and the gateway.
struct Bench {
    bed: Bed,
    guest: Guest,
    net: NetworkId,
}

impl Bench {
    /// The laptop, in the office; or the database, on a network that nothing leaves.
    fn new(net: NetworkId) -> Self {
        let (mac, address, gateway) = match net {
            OFFICE => (LAPTOP, "10.20.0.77", (OFFICE_MAC, ip("10.20.0.1"))),
            _ => (DB, "10.30.0.77", (BACKSTAGE_MAC, ip("10.30.0.1"))),
        };
        let guest = Guest::new(mac, ip(address), gateway, if net == OFFICE { 1500 } else { 1400 });
        Self { bed: Bed::new(), guest, net }
    }

    fn connect(&mut self, port: u16) -> SocketHandle {
        let gateway = if self.net == OFFICE { "10.20.0.1:53" } else { "10.30.0.1:53" };
        let handle = self.guest.connect(port, gateway.parse().unwrap(), 64 * 1024);
        self.run();
        handle
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.guest.tcp(handle)
    }

    /// Lets happen what happens without time.
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

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.bed.sleep(Duration::from_secs(1));
            self.run();
        }
    }

    fn send(&mut self, handle: SocketHandle, bytes: &[u8]) {
        assert_eq!(self.tcp(handle).send_slice(bytes).unwrap(), bytes.len());
        self.run();
    }

    /// The answers that came, each in a line.
    fn heard(&mut self, handle: SocketHandle) -> Vec<String> {
        self.messages(handle).iter().map(|message| describe(message)).collect()
    }

    fn messages(&mut self, handle: SocketHandle) -> Vec<Vec<u8>> {
        let mut bytes = vec![0; 64 * 1024];
        let mut messages = Vec::new();
        if let Ok(count) = self.tcp(handle).recv_slice(&mut bytes) {
            let mut rest = &bytes[..count];
            while let Some((length, tail)) = rest.split_first_chunk::<2>() {
                let (message, tail) = tail.split_at(u16::from_be_bytes(*length).into());
                messages.push(message.to_vec());
                rest = tail;
            }
        }
        self.run();
        messages
    }
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let bytes = message.to_vec().unwrap();
    [&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()
}

const GATEWAY_OF_OFFICE: &str = "NoError authoritative [gateway.office.weft. 5 IN A 10.20.0.1]";

#[test]
fn names_of_ours_are_answered() {
    let mut bench = Bench::new(OFFICE);
    let socket = bench.connect(40_000);
    // Two at once, and one in pieces.
    bench.send(socket, &[query(1, "gateway.office.weft."), query(2, "nobody.office.weft.")].concat());
    assert_eq!(bench.heard(socket), [GATEWAY_OF_OFFICE, "NXDomain authoritative (weft. SOA)"]);
    for byte in query(3, "gateway.office.weft.") {
        assert!(bench.heard(socket).is_empty());
        bench.send(socket, &[byte]);
    }
    assert_eq!(bench.heard(socket), [GATEWAY_OF_OFFICE]);
    bench.tcp(socket).close();
    bench.run();
    bench.wait(5);
    assert_eq!((bench.bed.services.nat().flows(), bench.bed.services.next_timeout()), (0, None));
}

#[test]
fn a_network_that_nothing_leaves_has_names_too() {
    let mut bench = Bench::new(BACKSTAGE);
    let socket = bench.connect(40_000);
    bench.send(socket, &query(1, "gateway.backstage.weft."));
    bench.send(socket, &query(2, "www.example.org."));
    assert_eq!(bench.heard(socket), ["NoError authoritative [gateway.backstage.weft. 5 IN A 10.30.0.1]", "Refused"]);
    assert!(bench.bed.services.poll_dns().is_none());
}

/// What is too long for a datagram comes over TCP, and is asked for over TCP.
#[test]
fn long_answers_come_whole() {
    let mut bench = Bench::new(OFFICE);
    let socket = bench.connect(40_000);
    bench.send(socket, &query(1, "many.example."));
    // The client is done, and waits for the answer.
    bench.tcp(socket).close();
    bench.run();
    let forward = bench.bed.services.poll_dns().unwrap();
    assert!(forward.is_stream && forward.servers.is_empty());
    let mut answer = Message::from_vec(&forward.message).unwrap().into_response();
    for last in 0..=255 {
        let name = answer.queries[0].name.clone();
        answer.add_answer(Record::from_rdata(name, 300, RData::A(rdata::A::new(198, 51, 100, last))));
    }
    let bytes = answer.to_vec().unwrap();
    assert!(bytes.len() > 4000);
    assert!(bench.bed.services.dns_answer(bench.bed.now, forward.id, Some(&bytes)));
    bench.run();
    let heard = bench.messages(socket);
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0][2..], bytes[2..]);
    bench.wait(5);
    assert_eq!(bench.bed.services.nat().flows(), 0);

    // From then on it is known; by datagram only that there is more.
    let mut bed = bench.bed;
    bed.send(OFFICE, &udp(way(LAPTOP, "10.20.0.77:5353", "10.20.0.1:53"), &query(2, "many.example.")[2..]));
    assert!(bed.heard().ends_with("NoError truncated"));
}

#[test]
fn a_silent_client_has_to_go() {
    let mut bench = Bench::new(OFFICE);
    let socket = bench.connect(40_000);
    bench.send(socket, &query(1, "gateway.office.weft.")[..7]);
    bench.wait(20);
    assert_eq!(bench.tcp(socket).state(), tcp::State::CloseWait, "it is told that nothing comes");
    bench.wait(20);
    assert_eq!(bench.tcp(socket).state(), tcp::State::Closed);
    assert_eq!((bench.bed.services.nat().flows(), bench.bed.services.next_timeout()), (0, None));
}

#[test]
fn who_breaks_the_rules_is_reset() {
    let mut bench = Bench::new(OFFICE);
    let socket = bench.connect(40_000);
    bench.send(socket, &[0xff, 0xff, 0, 1]);
    assert_eq!(bench.tcp(socket).state(), tcp::State::Closed);
    // What cannot be read is answered like everywhere, and what is an answer is not.
    let socket = bench.connect(40_001);
    bench.send(socket, &[0, 0, 0, 13, 0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(bench.heard(socket), ["FormErr"]);
    let mut reflected = query(1, "gateway.office.weft.");
    reflected[4] |= 0x80;
    bench.send(socket, &reflected);
    assert!(bench.heard(socket).is_empty());
    assert_eq!(bench.bed.counted(), "dns-malformed 4");
}

#[test]
fn one_machine_cannot_take_all_connections() {
    let mut bench = Bench::new(OFFICE);
    let sockets: Vec<_> = (0..40).map(|number| bench.connect(40_000 + number)).collect();
    let open = sockets.iter().filter(|socket| bench.guest.tcp(**socket).may_send()).count();
    assert_eq!(open, 32);
    // Nor ask for more than it listens to: the rest stays in its own hands.
    let query = query(1, "www.example.");
    for _ in 0..100 {
        let _ = bench.tcp(sockets[0]).send_slice(&query).unwrap();
        bench.run();
    }
    assert_eq!(std::iter::from_fn(|| bench.bed.services.poll_dns()).count(), 16);
}

#[test]
fn connections_end_with_the_name_server() {
    let mut bench = Bench::new(OFFICE);
    let socket = bench.connect(40_000);
    assert!(bench.tcp(socket).may_send());
    let off = weft_services::NetworkServices { dns: false, ..office() };
    bench.bed.services.configure(bench.bed.now, vec![off, backstage()]);
    bench.run();
    assert_eq!(bench.tcp(socket).state(), tcp::State::Closed);
    assert_eq!(bench.bed.services.next_timeout(), None);
}
