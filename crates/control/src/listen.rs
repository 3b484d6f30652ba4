//! Has a switch know what guests listen to: one thread that hears the monitors of their machines and tells the switch, for
//! as long as this process lives.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use weft_dataplane_protocol::{Client, ClientError, ListensRequest, ReceiveFilter, Request, Response};
use weft_machine::{RxFilter, RxFilters, RxWish};
use weft_types::PortName;

/// How long after a monitor or a switch that is of no use it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the switch may take to answer.
const SWITCH_PATIENCE: Duration = Duration::from_secs(2);

/// An adapter of a machine, and the port that it plugs into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its name in QEMU; `None` for the only one.
    pub device: Option<String>,
    /// Its port.
    pub port: PortName,
}

/// Has a switch know what guests listen to.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The switch's control socket.
    switch: PathBuf,
    desk: Mutex<Desk>,
    /// Readable when something on the desk is new.
    wake: OwnedFd,
}

/// What is wanted of the thread.
#[derive(Debug, Default)]
struct Desk {
    /// By the sockets of their monitors.
    machines: BTreeMap<PathBuf, Wanted>,
    changes: u64,
    closed: bool,
}

/// A machine that is to be heard.
#[derive(Clone, Debug)]
struct Wanted {
    adapters: Vec<Adapter>,
    /// Whether a monitor that is not there may come (back).
    waits: bool,
    /// Tells it from others at the same socket.
    number: u64,
}

impl Listener {
    /// Starts the thread, which tells the switch at this control socket.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn start(switch: &Path) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { switch: switch.to_owned(), desk: Mutex::default(), wake });
        let theirs = shared.clone();
        std::thread::Builder::new().name("listen".to_owned()).stack_size(256 << 10).spawn(move || theirs.run())?;
        Ok(Self { shared })
    }

    /// Hears a machine that runs, until its monitor ends.
    pub fn hear(&self, monitor: PathBuf, adapters: Vec<Adapter>) {
        self.shared
            .change(|desk, number| drop(desk.machines.insert(monitor, Wanted { adapters, waits: false, number })));
    }

    /// Hears these machines and no others, whenever they run.
    pub fn hear_all(&self, machines: BTreeMap<PathBuf, Vec<Adapter>>) {
        self.shared.change(|desk, number| {
            let mut before = std::mem::take(&mut desk.machines);
            let machines = machines.into_iter().map(|(monitor, adapters)| {
                let known = before.remove(&monitor).filter(|known| known.adapters == adapters);
                (monitor, known.unwrap_or(Wanted { adapters, waits: true, number }))
            });
            desk.machines = machines.collect();
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.change(|desk, _| desk.closed = true);
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Desk, u64)) {
        let mut desk = self.desk();
        desk.changes += 1;
        let number = desk.changes;
        change(&mut desk, number);
        drop(desk);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes()); // a counter at its limit wakes, too
    }

    fn run(&self) {
        let mut machines: BTreeMap<PathBuf, Machine> = BTreeMap::new();
        let mut teller = Teller::new(&self.switch);
        let mut read = 0;
        loop {
            let now = Instant::now();
            let desk = self.desk();
            if desk.closed {
                return;
            }
            if std::mem::replace(&mut read, desk.changes) != desk.changes {
                take_up(&mut machines, &desk.machines, now);
            }
            drop(desk);
            machines.retain(|socket, machine| {
                let stays = machine.hear(socket, now);
                if !stays {
                    let mut desk = self.desk();
                    if desk.machines.get(socket).is_some_and(|wanted| wanted.number == machine.wanted.number) {
                        desk.machines.remove(socket);
                    }
                }
                stays
            });
            let known = machines.values().flat_map(|machine| machine.known.iter());
            teller.tell(&known.map(|(port, filter)| (port.clone(), filter.clone())).collect(), now);
            self.wait(&machines, &teller, now);
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, machines: &BTreeMap<PathBuf, Machine>, teller: &Teller<'_>, now: Instant) {
        let monitors = || machines.values().filter_map(|machine| machine.monitor.as_ref());
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(self.wake.as_fd())
            .chain(teller.client.as_ref().map(|client| client.as_fd()))
            .chain(monitors().map(|monitor| monitor.as_fd()))
            .collect();
        let mut fds: Vec<_> = fds.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let due = machines.values().filter_map(Machine::due).chain(teller.due).min();
        let timeout = due.map(|due| {
            // To whole milliseconds, so that it is due once it wakes.
            let left = due.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
        });
        if let Err(error) = poll(&mut fds, timeout.as_ref())
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "what guests listen to cannot be heard");
            std::thread::sleep(RETRY);
        }
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]); // resets the counter; empty if nobody called
    }
}

/// Machines become those that are wanted; what stays is not touched.
fn take_up(machines: &mut BTreeMap<PathBuf, Machine>, wanted: &BTreeMap<PathBuf, Wanted>, now: Instant) {
    machines.retain(|socket, machine| wanted.get(socket).is_some_and(|wanted| wanted.number == machine.wanted.number));
    for (socket, wanted) in wanted {
        machines.entry(socket.clone()).or_insert_with(|| Machine {
            wanted: wanted.clone(),
            monitor: None,
            retry: now,
            known: BTreeMap::new(),
        });
    }
}

/// A machine that is heard.
struct Machine {
    wanted: Wanted,
    monitor: Option<RxFilters>,
    /// When its monitor is tried (again).
    retry: Instant,
    /// What its adapters listen to.
    known: BTreeMap<PortName, ReceiveFilter>,
}

impl Machine {
    /// Takes what its monitor has said; whether it is to be heard any longer.
    fn hear(&mut self, socket: &Path, now: Instant) -> bool {
        if self.monitor.is_none() && now >= self.retry {
            match RxFilters::connect(socket, now) {
                Ok(monitor) => self.monitor = Some(monitor),
                Err(error) => {
                    let absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
                    if absent && !self.wanted.waits {
                        return false;
                    }
                    self.retry = now + RETRY;
                }
            }
        }
        match self.monitor.as_mut().map(|monitor| monitor.drive(now)) {
            Some(Ok(Some(filters))) => self.known = by_port(&self.wanted.adapters, filters),
            Some(Err(error)) => {
                tracing::debug!(%error, socket = %socket.display(), "a monitor is of no use");
                self.monitor = None;
                self.known.clear();
                self.retry = now + RETRY;
            }
            Some(Ok(None)) | None => {}
        }
        true
    }

    fn due(&self) -> Option<Instant> {
        self.monitor.as_ref().map_or(Some(self.retry), RxFilters::due)
    }
}

/// What is known of the adapters that plug into ports.
fn by_port(adapters: &[Adapter], filters: Vec<RxFilter>) -> BTreeMap<PortName, ReceiveFilter> {
    let is_only = filters.len() == 1;
    let known = adapters.iter().filter_map(|adapter| {
        let is_it = |filter: &&RxFilter| adapter.device.as_ref().map_or(is_only, |device| *device == filter.device);
        let RxWish { stations, groups, all_multicast, promiscuous } = filters.iter().find(is_it)?.wish.clone()?;
        Some((adapter.port.clone(), ReceiveFilter { stations, groups, all_multicast, promiscuous }))
    });
    known.collect()
}

/// Tells a switch what vNICs listen to.
struct Teller<'a> {
    switch: &'a Path,
    client: Option<Client>,
    told: BTreeMap<PortName, ReceiveFilter>,
    /// When the switch is tried again, if something could not be told.
    due: Option<Instant>,
}

impl<'a> Teller<'a> {
    fn new(switch: &'a Path) -> Self {
        Self { switch, client: None, told: BTreeMap::new(), due: None }
    }

    /// Tells what is not told yet.
    fn tell(&mut self, known: &BTreeMap<PortName, ReceiveFilter>, now: Instant) {
        self.notice_end();
        if *known == self.told || self.due.is_some_and(|due| now < due) {
            return;
        }
        self.due = None;
        if let Err(error) = self.try_to_tell(known) {
            tracing::debug!(%error, "the switch cannot be told what guests listen to");
            self.hang_up();
        }
        if *known != self.told {
            self.due = Some(now + RETRY);
        }
    }

    fn try_to_tell(&mut self, known: &BTreeMap<PortName, ReceiveFilter>) -> Result<(), ClientError> {
        let ports: BTreeSet<_> = known.keys().chain(self.told.keys()).cloned().collect();
        for port in ports {
            let filter = known.get(&port);
            if self.told.get(&port) == filter {
                continue;
            }
            let client = match &mut self.client {
                Some(client) => client,
                None => self.client.insert(Client::connect(self.switch)?.with_timeout(SWITCH_PATIENCE)),
            };
            let request = ListensRequest { port: port.clone(), filter: filter.cloned() };
            match (client.call(&Request::Listens(request))?, filter) {
                (Response::Done, Some(filter)) => drop(self.told.insert(port, filter.clone())),
                // A port that is not there has nothing to forget.
                (_, None) => drop(self.told.remove(&port)),
                // The port may come.
                (_, Some(_)) => {}
            }
        }
        Ok(())
    }

    /// A switch that has ended knows nothing any more, and neither does its successor.
    fn notice_end(&mut self) {
        let Some(client) = &self.client else { return };
        let mut fds = [PollFd::new(client, PollFlags::IN)];
        if matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1)) {
            self.hang_up();
        }
    }

    fn hang_up(&mut self) {
        self.client = None;
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    use serde_json::{Value, json};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A machine whose adapters listen to what it is told.
    struct Qemu {
        listener: UnixListener,
    }

    /// A connection to it.
    struct Monitor(BufReader<std::os::unix::net::UnixStream>);

    impl Qemu {
        fn begin(socket: &Path) -> Self {
            let _ = std::fs::remove_file(socket);
            Self { listener: UnixListener::bind(socket).unwrap() }
        }

        fn accept(&self) -> Monitor {
            let mut monitor = Monitor(BufReader::new(self.listener.accept().unwrap().0));
            monitor.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
            monitor.say(&json!({ "QMP": {} }));
            monitor.answer(&json!({}));
            monitor
        }
    }

    impl Monitor {
        fn say(&mut self, line: &Value) {
            writeln!(self.0.get_mut(), "{line}").unwrap();
        }

        fn answer(&mut self, value: &Value) {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let id = serde_json::from_str::<Value>(&line).unwrap()["id"].clone();
            self.say(&json!({ "return": value, "id": id }));
        }

        /// Says what the adapters listen to: each a name and the last byte of its address.
        fn filters(&mut self, adapters: &[(&str, u8)]) {
            let adapter = |(name, last): &(&str, u8)| {
                json!({
                    "name": name, "main-mac": format!("02:00:00:00:00:{last:02x}"), "promiscuous": false,
                    "unicast": "normal", "unicast-overflow": false, "unicast-table": [],
                    "multicast": "normal", "multicast-overflow": false, "multicast-table": [],
                })
            };
            self.answer(&adapters.iter().map(adapter).collect());
        }
    }

    /// A switch that knows these ports, and passes on what it is told.
    fn switch(socket: &Path, ports: &'static [&'static str]) -> (mpsc::Receiver<String>, impl FnOnce() + use<>) {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let (sender, receiver) = mpsc::channel();
        let (path, stop) = (socket.to_owned(), Arc::new(Mutex::new(None::<std::os::unix::net::UnixStream>)));
        let current = stop.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                *current.lock().unwrap() = stream.try_clone().ok();
                let mut writer = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let body = serde_json::from_str::<Value>(&line).unwrap()["body"].clone();
                    let port = body["port"].as_str().unwrap().to_owned();
                    let knows = ports.contains(&port.as_str());
                    let refusal = json!({ "code": "bad-request", "message": "no such port", "hint": "" });
                    let answer = match knows {
                        true => json!({ "response": "done" }),
                        false => json!({ "response": "refused", "body": refusal }),
                    };
                    let _ = writeln!(writer, "{answer}");
                    let station = body["filter"]["stations"][0].as_str().unwrap_or("nothing").to_owned();
                    let _ = sender.send(format!("{port} {station}"));
                }
            }
        });
        let end = move || {
            std::fs::remove_file(path).unwrap();
            if let Some(stream) = stop.lock().unwrap().take() {
                stream.shutdown(std::net::Shutdown::Both).unwrap();
            }
        };
        (receiver, end)
    }

    fn adapter(device: Option<&str>, port: &str) -> Adapter {
        Adapter { device: device.map(str::to_owned), port: port.parse().unwrap() }
    }

    #[test]
    fn a_switch_knows_what_guests_listen_to() {
        let dir = tempfile::tempdir().unwrap();
        let [control, monitor] = ["switch", "monitor"].map(|name| dir.path().join(name));
        let (told, end) = switch(&control, &["web-0", "web-1"]);
        let next = |told: &mpsc::Receiver<String>| told.recv_timeout(PATIENCE).unwrap();
        let qemu = Qemu::begin(&monitor);
        let listener = Listener::start(&control).unwrap();
        listener.hear(monitor.clone(), vec![adapter(Some("nic0"), "web-0"), adapter(Some("nic1"), "web-1")]);
        let mut connection = qemu.accept();
        connection.filters(&[("nic0", 1), ("nic1", 2), ("nic9", 9)]);
        assert_eq!([next(&told), next(&told)], ["web-0 02:00:00:00:00:01", "web-1 02:00:00:00:00:02"]);
        connection.say(&json!({ "event": "NIC_RX_FILTER_CHANGED" }));
        connection.filters(&[("nic0", 1), ("nic1", 3)]);
        assert_eq!(next(&told), "web-1 02:00:00:00:00:03", "what is new, and nothing else");

        // Another switch is told all of it.
        end();
        let (told, _) = switch(&control, &["web-0", "web-1"]);
        assert_eq!([next(&told), next(&told)], ["web-0 02:00:00:00:00:01", "web-1 02:00:00:00:00:03"]);

        // A monitor that hangs up, though its machine runs on.
        drop(connection);
        assert_eq!([next(&told), next(&told)], ["web-0 nothing", "web-1 nothing"]);
        let mut connection = qemu.accept();
        connection.filters(&[("nic0", 1)]);
        assert_eq!(next(&told), "web-0 02:00:00:00:00:01");

        // The machine ends, and starts again.
        drop((qemu, connection));
        assert_eq!(next(&told), "web-0 nothing");
        let desk_is_empty = || listener.shared.desk().machines.is_empty();
        let deadline = Instant::now() + PATIENCE;
        while !desk_is_empty() {
            assert!(Instant::now() < deadline, "nobody waits for it");
            std::thread::sleep(Duration::from_millis(5));
        }
        let qemu = Qemu::begin(&monitor);
        listener.hear(monitor, vec![adapter(None, "web-0")]);
        let mut connection = qemu.accept();
        connection.filters(&[("virtio-net-pci.0", 5)]);
        assert_eq!(next(&told), "web-0 02:00:00:00:00:05", "its only adapter");
    }

    #[test]
    fn machines_that_come_when_they_like() {
        let dir = tempfile::tempdir().unwrap();
        let [control, monitor] = ["switch", "monitor"].map(|name| dir.path().join(name));
        let (told, _end) = switch(&control, &["a"]);
        let listener = Listener::start(&control).unwrap();
        let all = |adapters: &[Adapter]| BTreeMap::from([(monitor.clone(), adapters.to_vec())]);
        listener.hear_all(all(&[adapter(None, "a"), adapter(None, "absent")]));
        let qemu = Qemu::begin(&monitor);
        let mut connection = qemu.accept();
        connection.filters(&[("virtio-net-pci.0", 1)]);
        let next = || told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(next(), "a 02:00:00:00:00:01");
        assert_eq!([next(), next()], ["absent 02:00:00:00:00:01", "absent 02:00:00:00:00:01"], "it may come");
        listener.hear_all(BTreeMap::new());
        while next() != "a nothing" {}
    }
}
