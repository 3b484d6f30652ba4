//! What the adapters of a machine listen to, as its guest's drivers have told them (QEMU's `query-rx-filter`).
//!
//! QEMU announces one change (`NIC_RX_FILTER_CHANGED`) and no other before it was asked again: a guest that changes its
//! mind all the time is heard as often as we ask. It knows the filters of vhost-user adapters, too, because it serves
//! their control queue itself. Nothing here waits, so that one thread can listen to every machine.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Deserialize;
use serde_json::{Value, json};
use weft_types::MacAddr;

use super::qmp::{Lines, Message, QmpError, decode};

/// How long after one question the next may follow.
const PACE: Duration = Duration::from_millis(100);
/// How long the monitor may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that are taken from a monitor before others get their turn.
const MAX_READ_BYTES: usize = 64 << 10;
/// The most addresses of each kind that are taken from an answer; QEMU's table has room for 64 in all.
const MAX_ADDRESSES: usize = 128;

/// What an adapter listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RxFilter {
    /// The adapter's name: its `id`, or what QEMU calls it without one.
    pub device: String,
    /// What its driver asks for; `None` while that has not said anything.
    pub wish: Option<RxWish>,
}

/// What an adapter's driver asks to hear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RxWish {
    /// Unicast addresses, the adapter's own first.
    pub stations: Vec<MacAddr>,
    /// Groups.
    pub groups: Vec<MacAddr>,
    /// Every group.
    pub all_multicast: bool,
    /// Everything.
    pub promiscuous: bool,
}

/// What a monitor is waited for to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Greeting,
    Agreement,
    Filters,
    Nothing,
}

const AGREE: u64 = 1;
const QUERY: u64 = 2;

/// A connection to a monitor that tells what adapters listen to. It has the monitor for itself.
#[derive(Debug)]
pub struct RxFilters {
    stream: UnixStream,
    lines: Lines,
    awaits: Awaits,
    /// When it was asked last, or connected to.
    asked: Instant,
    /// Something may be otherwise since.
    stale: bool,
}

impl RxFilters {
    /// Connects to the monitor at `socket`.
    ///
    /// # Errors
    /// When nobody listens there, or somebody else is served.
    pub fn connect(socket: &Path, now: Instant) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&stream, &SocketAddrUnix::new(socket)?)?;
        Ok(Self { stream: stream.into(), lines: Lines::default(), awaits: Awaits::Greeting, asked: now, stale: true })
    }

    /// Takes what the monitor has said, and asks it if that is due; what all its adapters listen to, if it was answered.
    ///
    /// # Errors
    /// When the connection is of no use any more.
    pub fn drive(&mut self, now: Instant) -> Result<Option<Vec<RxFilter>>, QmpError> {
        let mut answer = None;
        let hung_up = self.read()?;
        while let Some(line) = self.lines.pop()? {
            match (decode(&line)?, self.awaits) {
                (Message::Greeting, Awaits::Greeting) => self.ask(AGREE, "qmp_capabilities", Awaits::Agreement, now)?,
                (Message::Return { id: Some(AGREE), .. }, Awaits::Agreement) => self.awaits = Awaits::Nothing,
                (Message::Return { id: Some(QUERY), value }, Awaits::Filters) => {
                    self.awaits = Awaits::Nothing;
                    answer = Some(read_filters(value)?);
                }
                // A guest that starts anew has said nothing again, of which no event tells.
                (Message::Event { name, .. }, _) if name == "NIC_RX_FILTER_CHANGED" || name == "RESET" => {
                    self.stale = true;
                }
                (Message::Error { class, description, .. }, _) => {
                    return Err(QmpError::Refused { command: "query-rx-filter".to_owned(), class, description });
                }
                _ => {}
            }
        }
        if hung_up {
            return Err(QmpError::Closed);
        }
        match self.awaits {
            Awaits::Nothing if self.stale && now >= self.asked + PACE => {
                self.stale = false;
                self.ask(QUERY, "query-rx-filter", Awaits::Filters, now)?;
            }
            Awaits::Nothing => {}
            _ if now >= self.asked + PATIENCE => return Err(QmpError::TimedOut),
            _ => {}
        }
        Ok(answer)
    }

    /// When [`Self::drive`] has something to do even if the monitor says nothing.
    pub fn due(&self) -> Option<Instant> {
        match self.awaits {
            Awaits::Nothing => self.stale.then(|| self.asked + PACE),
            _ => Some(self.asked + PATIENCE),
        }
    }

    /// Takes what was said; whether that was the last.
    fn read(&mut self) -> Result<bool, QmpError> {
        let mut chunk = [0; 4096];
        for _ in 0..MAX_READ_BYTES / chunk.len() {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(true),
                Ok(count) => self.lines.push(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Says a line, which a monitor that reads always has room for.
    fn ask(&mut self, id: u64, command: &str, awaits: Awaits, now: Instant) -> Result<(), QmpError> {
        let mut line = json!({ "execute": command, "id": id }).to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes())?;
        (self.awaits, self.asked) = (awaits, now);
        Ok(())
    }
}

impl AsFd for RxFilters {
    /// Readable when there is something to take.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// An adapter, as QEMU shows it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Adapter {
    name: String,
    promiscuous: bool,
    main_mac: MacAddr,
    unicast: Amount,
    unicast_overflow: bool,
    unicast_table: Vec<MacAddr>,
    multicast: Amount,
    multicast_overflow: bool,
    multicast_table: Vec<MacAddr>,
}

/// How much of a kind of frames an adapter takes.
#[derive(PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Amount {
    None,
    /// What its table says.
    Normal,
    All,
}

/// Reads the answer to `query-rx-filter`.
fn read_filters(answer: Value) -> Result<Vec<RxFilter>, QmpError> {
    let adapters = Vec::<Adapter>::deserialize(answer).map_err(|error| QmpError::Garbage(error.to_string()))?;
    Ok(adapters.into_iter().map(Adapter::into_filter).collect())
}

impl Adapter {
    fn into_filter(self) -> RxFilter {
        // After a reset an adapter takes everything, until a driver says what it wants; and every driver wants a group.
        let is_new = self.promiscuous
            && self.multicast == Amount::Normal
            && self.unicast_table.is_empty()
            && self.multicast_table.is_empty();
        let wish = (!is_new).then(|| {
            let mut stations = match self.unicast {
                Amount::None => Vec::new(),
                _ => [&[self.main_mac], &self.unicast_table[..]].concat(),
            };
            let mut groups = if self.multicast == Amount::None { Vec::new() } else { self.multicast_table };
            stations.truncate(MAX_ADDRESSES);
            groups.truncate(MAX_ADDRESSES);
            RxWish {
                stations,
                groups,
                all_multicast: self.multicast == Amount::All || self.multicast_overflow,
                promiscuous: self.promiscuous || self.unicast == Amount::All || self.unicast_overflow,
            }
        });
        RxFilter { device: self.name, wish }
    }
}

/// Reads hostile bytes as a monitor's answer.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(Message::Return { value, .. }) = decode(bytes) {
        let _ = read_filters(value);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What QEMU 7.2 answers for a Linux guest, with these members otherwise.
    fn answer(changes: Value) -> Value {
        let mut adapter = json!({
            "promiscuous": false, "name": "nic0", "main-mac": "02:00:00:00:00:01", "unicast": "normal",
            "vlan": "none", "vlan-table": [], "unicast-table": [], "multicast": "normal",
            "multicast-overflow": false, "unicast-overflow": false, "broadcast-allowed": false,
            "multicast-table": ["33:33:ff:00:00:01", "01:00:5e:00:00:01"],
        });
        let members = adapter.as_object_mut().unwrap();
        members.extend(changes.as_object().unwrap().clone());
        json!([adapter])
    }

    #[track_caller]
    fn check(changes: Value, expected: &str) {
        let shown = match read_filters(answer(changes)) {
            Err(error) => error.to_string(),
            Ok(filters) => match &filters[0].wish {
                None => "nothing is known".to_owned(),
                Some(RxWish { stations, groups, all_multicast, promiscuous }) => {
                    let list = |macs: &[MacAddr]| macs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                    let groups = if *all_multicast { "all".to_owned() } else { list(groups) };
                    let everything = if *promiscuous { ", everything" } else { "" };
                    format!("{} | {groups}{everything}", list(stations))
                }
            },
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_drivers_ask_for() {
        const OWN: &str = "02:00:00:00:00:01";
        const GROUPS: &str = "33:33:ff:00:00:01 01:00:5e:00:00:01";
        check(json!({}), &format!("{OWN} | {GROUPS}"));
        check(json!({ "unicast-table": ["02:00:00:00:00:07"] }), &format!("{OWN} 02:00:00:00:00:07 | {GROUPS}"));
        check(json!({ "multicast": "all" }), &format!("{OWN} | all"));
        check(json!({ "multicast-overflow": true, "multicast-table": [] }), &format!("{OWN} | all"));
        check(json!({ "multicast": "none" }), &format!("{OWN} | "));
        check(json!({ "unicast": "none" }), &format!(" | {GROUPS}"));
        check(json!({ "promiscuous": true }), &format!("{OWN} | {GROUPS}, everything"));
        check(json!({ "unicast": "all" }), &format!("{OWN} | {GROUPS}, everything"));
        check(json!({ "unicast-overflow": true }), &format!("{OWN} | {GROUPS}, everything"));
        check(json!({ "promiscuous": true, "multicast-table": [] }), "nothing is known");
        let many: Vec<_> = (0..200).map(|number| format!("02:00:00:00:01:{number:02x}")).collect();
        let kept = read_filters(answer(json!({ "unicast-table": many }))).unwrap();
        assert_eq!(kept[0].wish.as_ref().unwrap().stations.len(), MAX_ADDRESSES);
        check(
            json!({ "main-mac": "hello" }),
            "the monitor sent what is not QMP: `hello` is not a MAC address: write six octets like `02:00:5e:10:00:01`",
        );
    }

    /// A monitor that is played.
    struct Bed {
        filters: RxFilters,
        monitor: UnixStream,
        start: Instant,
    }

    impl Bed {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("qmp.sock");
            let listener = UnixListener::bind(&path).unwrap();
            let start = Instant::now();
            let filters = RxFilters::connect(&path, start).unwrap();
            let monitor = listener.accept().unwrap().0;
            monitor.set_nonblocking(true).unwrap();
            Self { filters, monitor, start }
        }

        fn say(&mut self, line: &Value) {
            writeln!(self.monitor, "{line}").unwrap();
        }

        /// Lets it work, so many milliseconds after the start.
        fn drive(&mut self, ms: u64) -> Result<Option<usize>, String> {
            let answer = self.filters.drive(self.start + Duration::from_millis(ms));
            answer.map(|answer| answer.map(|filters| filters.len())).map_err(|error| error.to_string())
        }

        /// What it has asked since.
        fn asked(&mut self) -> Vec<String> {
            let mut text = String::new();
            let _ = self.monitor.read_to_string(&mut text); // until there is no more
            let command = |line: &str| serde_json::from_str::<Value>(line).unwrap()["execute"].as_str().unwrap().into();
            text.lines().map(command).collect()
        }

        fn agree(&mut self) {
            self.say(&json!({ "QMP": {} }));
            assert_eq!(self.drive(0), Ok(None));
            assert_eq!(self.asked(), ["qmp_capabilities"]);
            self.say(&json!({ "return": {}, "id": AGREE }));
        }
    }

    #[test]
    fn it_asks_once_after_any_number_of_changes() {
        let mut bed = Bed::new();
        bed.agree();
        assert_eq!(bed.drive(50), Ok(None));
        assert!(bed.asked().is_empty() && bed.filters.due() == Some(bed.start + PACE), "too early");
        assert_eq!(bed.drive(100), Ok(None));
        assert_eq!(bed.asked(), ["query-rx-filter"]);
        bed.say(&json!({ "return": answer(json!({})), "id": QUERY }));
        assert_eq!(bed.drive(101), Ok(Some(1)));
        assert_eq!((bed.asked().len(), bed.filters.due()), (0, None));
        for _ in 0..100 {
            bed.say(&json!({ "event": "NIC_RX_FILTER_CHANGED", "data": { "path": "/machine" } }));
            bed.say(&json!({ "event": "SHUTDOWN" }));
            assert_eq!(bed.drive(150), Ok(None));
        }
        assert_eq!(bed.drive(200), Ok(None));
        assert_eq!(bed.asked(), ["query-rx-filter"]);
        bed.say(&json!({ "event": "RESET" }));
        bed.say(&json!({ "return": answer(json!({})), "id": QUERY }));
        assert_eq!(bed.drive(300), Ok(Some(1)), "a change while it answered");
        assert_eq!(bed.asked(), ["query-rx-filter"]);
    }

    #[test]
    fn monitors_that_are_of_no_use() {
        let mut bed = Bed::new();
        bed.agree();
        bed.say(&json!({ "error": { "class": "CommandNotFound", "desc": "no such thing" }, "id": QUERY }));
        let refused = Err("`query-rx-filter` was refused: no such thing (CommandNotFound)".to_owned());
        assert_eq!(bed.drive(100), refused);
        let mut bed = Bed::new();
        assert_eq!(bed.drive(9_999), Ok(None));
        assert_eq!(bed.drive(10_000), Err("the monitor did not answer in time".to_owned()));
        let mut bed = Bed::new();
        writeln!(bed.monitor, "hello").unwrap();
        assert_eq!(bed.drive(1), Err("the monitor sent what is not QMP: hello".to_owned()));
        let Bed { mut filters, monitor, start } = Bed::new();
        drop(monitor);
        assert!(matches!(filters.drive(start), Err(QmpError::Closed)));
    }
}
