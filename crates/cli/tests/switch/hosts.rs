//! Hosts with kernels of their own on TAP devices of a switch, and what they send each other.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use weft_testkit::Netns;

/// Receives by TCP or UDP at a port for so many seconds; says how many bits a second came, the first second left out.
const RECEIVE: &str = "
import socket, sys, time
kind, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('0.0.0.0', port))
if kind == 'tcp':
    s.listen()
    s = s.accept()[0]
s.settimeout(10)
began = time.monotonic()
count = 0
while time.monotonic() - began < 1:
    s.recv(1 << 20)
began = time.monotonic()
while time.monotonic() - began < seconds:
    count += len(s.recv(1 << 20))
print(int(count * 8 / (time.monotonic() - began)))
";

/// Sends by TCP as fast as it goes, or by UDP so many bits a second, until it is ended.
const SEND: &str = "
import socket, sys, time
kind, host, port, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
if kind == 'tcp':
    for _ in range(500):
        try:
            s = socket.create_connection((host, port))
            break
        except OSError:
            time.sleep(.01)
    try:
        while True:
            s.sendall(bytes(1 << 17))
    except OSError:
        sys.exit()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((host, port))
began, sent = time.monotonic(), 0
while True:
    try:
        s.send(bytes(1400))
    except OSError:
        pass
    sent += 1400 * 8
    ahead = sent / rate - (time.monotonic() - began)
    if ahead > .002:
        time.sleep(ahead)
";

/// Whether `ip` does that, where we are.
pub(crate) fn ip(args: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(args.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether the kernel has TAP devices for us.
pub(crate) fn has_taps() -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_ok()
}

/// A host in a network namespace of its own.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    number: u8,
}

impl Host {
    /// The host with this number: its adapter is the TAP device `tap`, which exists, with the MAC address
    /// 02:00:00:00:00:NN and the IP address 10.0.0.NN.
    pub(crate) fn on_tap(tap: &str, number: u8) -> Self {
        let host = Self { netns: Netns::new(), number };
        assert!(ip(&format!("link set {tap} netns {}", host.netns.pid())));
        for args in [
            format!("link set {tap} address 02:00:00:00:00:{number:02x}"),
            format!("addr add 10.0.0.{number}/24 dev {tap}"),
            format!("link set {tap} up"),
        ] {
            assert!(host.runs("ip", &args), "{args}");
        }
        host
    }

    /// Whether a command ends well there.
    pub(crate) fn runs(&self, program: &str, args: &str) -> bool {
        let mut command = self.netns.command(program);
        command.args(args.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    /// Whether another host answers it.
    pub(crate) fn reaches(&self, other: &Self) -> bool {
        self.runs("ping", &format!("-c1 -W1 10.0.0.{}", other.number))
    }

    /// Begins to send to another host; ended when it is dropped.
    pub(crate) fn send(&self, kind: &str, to: &Self, port: u16, bits_per_s: u64) -> Stream {
        let mut command = self.netns.command("python3");
        command.args(["-c", SEND, kind, &format!("10.0.0.{}", to.number), &port.to_string(), &bits_per_s.to_string()]);
        Stream(command.stderr(Stdio::null()).spawn().unwrap())
    }

    /// Begins to receive.
    pub(crate) fn receive(&self, kind: &str, port: u16, seconds: u32) -> Stream {
        let mut command = self.netns.command("python3");
        command.args(["-c", RECEIVE, kind, &port.to_string(), &seconds.to_string()]).stdout(Stdio::piped());
        Stream(command.spawn().unwrap())
    }
}

/// A process that sends or receives.
pub(crate) struct Stream(Child);

impl Stream {
    /// Waits until it has received; how many bits came in a second.
    pub(crate) fn bits_per_s(mut self) -> u64 {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        text.trim().parse().expect("a receiver says how much came")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
