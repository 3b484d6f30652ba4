//! Copies of frames at a collector on another host, which speaks ERSPAN.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use weft_testkit::{Netns, ethernet, in_netns, mac, skipped};

use crate::bed::Bed;

const FILE: &str = "
[port.web]
dgram = 'web.sock'
mac = '02:00:00:00:00:01'

[port.db]
dgram = 'db.sock'
mac = '02:00:00:00:00:02'

[mirror.watch]
from = ['web']
direction = 'in'
to = 'erspan://192.0.2.2/7'
";

/// Writes the first GRE packets that come into a capture file, as they are.
const COLLECTOR: &str = "
import signal, socket, struct, sys
signal.alarm(60)  # nobody waits for ever for what does not come
heard = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
print('ready', flush=True)
packets = [heard.recv(65535) for _ in range(2)]
with open(sys.argv[1], 'wb') as capture:
    capture.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 101))
    for packet in packets:
        capture.write(struct.pack('<IIII', 0, 0, len(packet), len(packet)) + packet)
";

/// What comes before the packets of a capture file, and before each of them.
const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;

fn run(program: &mut Command) {
    let output = program.output().unwrap();
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn copies_reach_a_collector_by_erspan() {
    in_netns("collector::copies_reach_a_collector_by_erspan", || {
        let far = Netns::new();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for args in [
            format!("link add near type veth peer name eth0 netns {}", far.pid()),
            "addr add 192.0.2.1/24 dev near".to_owned(),
            "link set near up".to_owned(),
        ] {
            run(Command::new("ip").args(words(&args)));
        }
        for args in ["addr add 192.0.2.2/24 dev eth0", "link set eth0 up"] {
            run(far.command("ip").args(words(args)));
        }
        let bed = Bed::run(FILE);
        let capture = bed.path("collected.pcap");
        let mut collector =
            far.command("python3").args(["-c", COLLECTOR]).arg(&capture).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(collector.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "ready");

        // One frame goes to its station; the other is dropped for its tag, and seen all the same.
        let web = UnixDatagram::bind(bed.path("web.peer")).unwrap();
        let plain = ethernet(mac(2), mac(1), 0x88b5, &[7; 80]);
        let tagged = [&plain[..12], &[0x81, 0, 0xa0, 20], &plain[12..]].concat();
        for frame in [&plain, &tagged] {
            web.send_to(frame, bed.path("web.sock")).unwrap();
        }
        assert!(collector.wait().unwrap().success());

        let file = std::fs::read(&capture).unwrap();
        let mut rest = &file[FILE_HEADER_BYTES..];
        for (number, (frame, tag)) in [(&plain, [0, 0]), (&tagged, [0, 20])].into_iter().enumerate() {
            let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
            let packet = &rest[RECORD_HEADER_BYTES..][..len];
            assert_eq!((packet[9], &packet[16..20]), (47, &[192, 0, 2, 2][..]), "GRE over IPv4");
            let (gre, erspan, copy) = (&packet[20..28], &packet[28..36], &packet[36..]);
            assert_eq!(gre[..4], [0x10, 0, 0x88, 0xbe], "with a sequence number, ERSPAN of type II");
            assert_eq!(gre[4..], (number as u32).to_be_bytes());
            assert_eq!((erspan[0] >> 4, [erspan[0] & 0x0f, erspan[1]]), (1, tag), "the version, and the VLAN");
            assert_eq!(u16::from_be_bytes([erspan[2] & 0x03, erspan[3]]), 7, "the session");
            assert!(copy.starts_with(frame), "{copy:02x?}");
            rest = &rest[RECORD_HEADER_BYTES + len..];
        }
        assert!(rest.is_empty());

        // Somebody else reads the same.
        let fields = ["erspan.version", "erspan.vlan", "erspan.cos", "erspan.spanid", "eth.src", "eth.dst"];
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(&capture).args(["-T", "fields", "-E", "separator=/s"]);
        tshark.args(fields.iter().flat_map(|field| ["-e", field])).stderr(Stdio::null());
        match tshark.output() {
            Err(error) => skipped("copies_reach_a_collector_by_erspan", &format!("`tshark` does not run: {error}")),
            Ok(output) => assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "1 0 0 7 02:00:00:00:00:01 02:00:00:00:00:02\n1 20 5 7 02:00:00:00:00:01 02:00:00:00:00:02\n"
            ),
        }
    });
}
