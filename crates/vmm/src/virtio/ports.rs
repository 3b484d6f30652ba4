//! A console device with several ports (virtio 1.2, section 5.3.6), each of which has a name and is a stream: programs
//! in the guest talk by them with programs on the host, without a network.
//!
//! A port's other end is a socket that serves one program at a time; the next one waits. What the guest says while nobody
//! is there is lost, and it is told whether somebody is. Whoever reads slowly has the guest wait.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{Timespec, epoll};
use serde_json::{Value, json};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Chain, gather, scatter, total};
use super::device::{Device, DeviceKind, Service};
use super::queue::{Queue, QueueError};
use crate::event::{counter, descriptor};
use crate::memory::GuestMemory;

const F_MULTIPORT: u64 = 1 << 1;
/// The most ports.
const MAX_PORTS: usize = 8;
/// Queues: the first two are those of port 0, which is a console and not there; two for control; and two for each port.
const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;
const FIRST_PORT: usize = 4;
const QUEUE_SIZES: [u16; FIRST_PORT + 2 * MAX_PORTS] = [64; FIRST_PORT + 2 * MAX_PORTS];

/// `struct virtio_console_control`: the port, the event and its value.
const CONTROL_BYTES: usize = 8;
const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// The longest request of a driver; Linux cuts what is written into pieces of 32 KiB.
const MAX_REQUEST_BYTES: u64 = 1 << 20;
/// Bytes that are taken from a program at a time.
const INPUT_BYTES: usize = 4096;
/// Chains that are served in a row, until others that wait for the device have their turn.
const MAX_ROUND: usize = 64;

/// What the descriptor of readiness says: that we want to go on, or of which port the socket or the program is ready.
const AGAIN: u64 = u64::MAX;

/// A console device with several ports.
pub struct Ports {
    ports: Vec<Port>,
    /// The driver is ready, and the machine does not stand still.
    active: bool,
    /// Ready when somebody connects, says something, has room or leaves, or there is more to do.
    ready: OwnedFd,
    again: EventFd,
}

struct Port {
    name: String,
    listener: UnixListener,
    client: Option<UnixStream>,
    /// What the driver is yet to be told.
    untold: Untold,
    /// The driver knows the port, and was told this about whether somebody is there.
    told_open: Option<bool>,
    /// A program in the guest has the port open.
    guest_open: bool,
    /// What the guest said and the client has had no room for.
    output: Vec<u8>,
    /// What the client said and the guest has had no room for.
    input: Vec<u8>,
    /// What the client's readiness is watched for.
    interest: epoll::EventFlags,
}

#[derive(Default)]
struct Untold {
    added: bool,
    name: bool,
}

impl Ports {
    /// Ports of these names, for whoever connects to these sockets.
    ///
    /// # Errors
    /// When there are more than eight, or the process has no descriptors left.
    pub fn new(ports: Vec<(String, UnixListener)>) -> io::Result<Self> {
        if ports.len() > MAX_PORTS {
            return Err(io::Error::other(format!("a machine has at most {MAX_PORTS} ports")));
        }
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let again = counter()?;
        epoll::add(&ready, descriptor(&again), epoll::EventData::new_u64(AGAIN), epoll::EventFlags::IN)?;
        for (index, (_, listener)) in ports.iter().enumerate() {
            listener.set_nonblocking(true)?;
            epoll::add(&ready, listener, listener_of(index), epoll::EventFlags::IN)?;
        }
        let ports = ports.into_iter().map(|(name, listener)| Port {
            name,
            listener,
            client: None,
            untold: Untold::default(),
            told_open: None,
            guest_open: false,
            output: Vec::new(),
            input: Vec::new(),
            interest: epoll::EventFlags::empty(),
        });
        Ok(Self { ports: ports.collect(), active: false, ready, again })
    }

    /// Does all that can be done now.
    fn pump(&mut self, service: &mut Service<'_>) -> Result<(), QueueError> {
        if !self.active {
            return Ok(());
        }
        let Service { memory, queues } = service;
        let mut left = MAX_ROUND;
        while let Some(chain) = next(&mut queues[CONTROL_TRANSMIT], memory, &mut left)? {
            let mut message = [0; CONTROL_BYTES];
            let count = gather(memory, &chain.readable, &mut message).map_err(|_| QueueError::Request)?;
            if count == CONTROL_BYTES {
                self.hear(message);
            }
            queues[CONTROL_TRANSMIT].push(memory, chain.head, 0)?;
        }
        for (index, port) in self.ports.iter_mut().enumerate() {
            while let Some(message) = port.message(index) {
                let Some(chain) = next(&mut queues[CONTROL_RECEIVE], memory, &mut left)? else { break };
                let count = scatter(memory, &chain.writable, &message).map_err(|_| QueueError::Request)?;
                queues[CONTROL_RECEIVE].push(memory, chain.head, count as u32)?;
                port.was_told();
            }
            let [receive, transmit] = [0, 1].map(|which| FIRST_PORT + 2 * index + which);
            port.transmit(memory, &mut queues[transmit], &mut left)?;
            port.receive(memory, &mut queues[receive], &mut left)?;
            port.watch(&self.ready, index);
        }
        if left == 0 {
            let _ = self.again.write(1); // a counter at its end is ready, too
        }
        Ok(())
    }

    /// Hears what the driver says about a port, or about itself.
    fn hear(&mut self, message: [u8; CONTROL_BYTES]) {
        let [a, b, c, d, e, f, g, h] = message;
        let (id, event, value) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), [g, h] != [0, 0]);
        if event == DEVICE_READY {
            self.ports.iter_mut().for_each(|port| port.untold.added = value);
            return;
        }
        let port = (id as usize).checked_sub(1).and_then(|index| self.ports.get_mut(index));
        match (event, port) {
            (PORT_READY, Some(port)) if value => {
                port.untold.name = true;
                port.told_open = Some(false);
            }
            (PORT_OPEN, Some(port)) => {
                port.guest_open = value;
                if !value {
                    port.input.clear(); // it was meant for the program that has left
                }
            }
            _ => {}
        }
    }

    /// Looks who came and left.
    fn look(&mut self) {
        let mut room = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 8];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.ready, room.as_mut_slice(), Some(&now)).unwrap_or(0);
        for event in room.iter().take(count) {
            let (id, flags) = (event.data.u64(), event.flags);
            if id == AGAIN {
                let _ = self.again.read();
                continue;
            }
            let index = (id / 2) as usize;
            let Some(port) = self.ports.get_mut(index) else { continue };
            match id % 2 {
                0 => port.accept(&self.ready, index),
                // What was said before the end is read as long as the guest has room for it.
                _ if flags.contains(epoll::EventFlags::HUP) && !port.wants_input() => port.hang_up(&self.ready, index),
                _ => port.read(&self.ready, index),
            }
        }
    }
}

/// The next chain of a queue, if there is one and there is time left; the driver tells when there is one after that.
fn next(queue: &mut Queue, memory: &GuestMemory, left: &mut usize) -> Result<Option<Chain>, QueueError> {
    if !queue.ready || *left == 0 {
        return Ok(None);
    }
    loop {
        if let Some(chain) = queue.pop(memory)? {
            *left -= 1;
            return Ok(Some(chain));
        }
        if !queue.listen(memory)? {
            return Ok(None);
        }
    }
}

fn listener_of(index: usize) -> epoll::EventData {
    epoll::EventData::new_u64(2 * index as u64)
}

fn client_of(index: usize) -> epoll::EventData {
    epoll::EventData::new_u64(2 * index as u64 + 1)
}

impl Port {
    /// What the driver is to be told next.
    fn message(&self, index: usize) -> Option<Vec<u8>> {
        let here = self.client.is_some();
        let (event, value) = match (&self.untold, self.told_open) {
            (Untold { added: true, .. }, _) => (PORT_ADD, 1),
            (Untold { name: true, .. }, _) => (PORT_NAME, 1),
            (_, Some(told)) if told != here => (PORT_OPEN, u16::from(here)),
            _ => return None,
        };
        let id = index as u32 + 1;
        let mut message = [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        if event == PORT_NAME {
            message.extend_from_slice(self.name.as_bytes());
        }
        Some(message)
    }

    /// The driver has what [`Self::message`] said.
    fn was_told(&mut self) {
        if std::mem::take(&mut self.untold.added) || std::mem::take(&mut self.untold.name) {
            return;
        }
        self.told_open = self.told_open.map(|_| self.client.is_some());
    }

    /// Hands on what the guest says, as long as there is room for it.
    fn transmit(&mut self, memory: &GuestMemory, queue: &mut Queue, left: &mut usize) -> Result<(), QueueError> {
        loop {
            self.flush();
            if !self.output.is_empty() {
                return Ok(());
            }
            let Some(chain) = next(queue, memory, left)? else { return Ok(()) };
            let bytes = total(&chain.readable);
            if bytes > MAX_REQUEST_BYTES {
                return Err(QueueError::Request);
            }
            if self.client.is_some() {
                self.output.resize(bytes as usize, 0);
                gather(memory, &chain.readable, &mut self.output).map_err(|_| QueueError::Request)?;
            }
            queue.push(memory, chain.head, 0)?;
        }
    }

    fn flush(&mut self) {
        let Some(client) = &mut self.client else { return self.output.clear() };
        while !self.output.is_empty() {
            match client.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It has left, which it is about to be noticed by.
                Err(_) => self.output.clear(),
            }
        }
    }

    /// Hands on what the client said, as long as there is room for it.
    fn receive(&mut self, memory: &GuestMemory, queue: &mut Queue, left: &mut usize) -> Result<(), QueueError> {
        while self.guest_open && !self.input.is_empty() {
            let Some(chain) = next(queue, memory, left)? else { break };
            let count = scatter(memory, &chain.writable, &self.input).map_err(|_| QueueError::Request)?;
            self.input.drain(..count);
            queue.push(memory, chain.head, count as u32)?;
        }
        Ok(())
    }

    fn wants_input(&self) -> bool {
        self.guest_open && self.input.is_empty()
    }

    fn accept(&mut self, ready: &OwnedFd, index: usize) {
        let Ok((client, _)) = self.listener.accept() else { return };
        if client.set_nonblocking(true).is_err()
            || epoll::add(ready, &client, client_of(index), epoll::EventFlags::empty()).is_err()
        {
            return;
        }
        self.interest = epoll::EventFlags::empty();
        self.client = Some(client);
        // It fails for nobody: it was added.
        let _ = epoll::modify(ready, &self.listener, listener_of(index), epoll::EventFlags::empty());
    }

    fn read(&mut self, ready: &OwnedFd, index: usize) {
        let (true, Some(client)) = (self.wants_input(), &mut self.client) else { return };
        let mut bytes = [0; INPUT_BYTES];
        match client.read(&mut bytes) {
            Ok(0) => self.hang_up(ready, index),
            Ok(count) => self.input.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.hang_up(ready, index),
        }
    }

    /// The client has left: the next one may come.
    fn hang_up(&mut self, ready: &OwnedFd, index: usize) {
        self.client = None; // which ends the watch over it
        self.output.clear();
        let _ = epoll::modify(ready, &self.listener, listener_of(index), epoll::EventFlags::IN);
    }

    /// Watches the client for what can be used of it.
    fn watch(&mut self, ready: &OwnedFd, index: usize) {
        let Some(client) = &self.client else { return };
        let mut interest = epoll::EventFlags::empty();
        interest.set(epoll::EventFlags::IN, self.wants_input());
        interest.set(epoll::EventFlags::OUT, !self.output.is_empty());
        if interest != self.interest && epoll::modify(ready, client, client_of(index), interest).is_ok() {
            self.interest = interest;
        }
    }
}

impl Device for Ports {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn features(&self) -> u64 {
        F_MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES[..FIRST_PORT + 2 * self.ports.len()]
    }

    /// `struct virtio_console_config`, section 5.3.4: no size, and one port more than there are, for port 0.
    fn config(&self) -> Vec<u8> {
        let count = self.ports.len() as u32 + 1;
        [&[0; 4], &count.to_le_bytes()[..], &[0; 4]].concat()
    }

    fn start(&mut self, _: &super::Activation<'_>) {
        self.active = true;
    }

    fn stop(&mut self, _: &GuestMemory, _: &mut [Queue]) {
        self.active = false;
    }

    fn reset(&mut self) {
        for port in &mut self.ports {
            (port.untold, port.told_open, port.guest_open) = (Untold::default(), None, false);
            port.input.clear();
        }
    }

    fn serve(&mut self, _: usize, service: &mut Service<'_>) -> Result<(), QueueError> {
        self.pump(service)
    }

    /// A queue that is not empty waits for whoever is at the port.
    fn serves_again(&self, _: usize) -> bool {
        false
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn ready(&mut self, service: &mut Service<'_>) -> Result<(), QueueError> {
        self.look();
        for (index, port) in self.ports.iter_mut().enumerate() {
            port.watch(&self.ready, index);
        }
        self.pump(service)
    }

    fn state(&self) -> Value {
        let port = |port: &Port| {
            json!({
                "name": port.name, "known": port.told_open.is_some(), "open": port.guest_open,
                "untold": { "added": port.untold.added, "name": port.untold.name },
                "input": port.input, "output": port.output,
            })
        };
        json!(self.ports.iter().map(port).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{describe, memory, offer, queue};
    use super::*;
    use vm_memory::{Bytes as _, GuestAddress};

    /// A device with one port, its driver's queues all in the same place: a test uses one at a time.
    struct Bed {
        device: Ports,
        memory: GuestMemory,
        socket: std::path::PathBuf,
        _dir: tempfile::TempDir,
    }

    const AVAILABLE: u64 = 0x2000;
    const BUFFER: u64 = 0x1_0000;

    impl Bed {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let socket = dir.path().join("port");
            let listener = UnixListener::bind(&socket).expect("a socket");
            let mut device = Ports::new(vec![("org.example.0".to_owned(), listener)]).expect("ports");
            device.active = true;
            Self { device, memory: memory(), socket, _dir: dir }
        }

        /// Has the device serve this queue, in which there is one buffer; what the buffer holds then.
        fn serve(&mut self, index: usize, bytes: u32, writable: bool) -> Vec<u8> {
            describe(&self.memory, 0x1000, 0, BUFFER, bytes, if writable { 2 } else { 0 }, 0);
            self.memory.write_obj(0_u32, GuestAddress(AVAILABLE)).expect("memory");
            offer(&self.memory, &[0]);
            let mut queues: Vec<_> = (0..6).map(|_| queue()).collect();
            for (other, queue) in queues.iter_mut().enumerate() {
                queue.ready = other == index;
            }
            self.device
                .ready(&mut Service { memory: &self.memory, queues: &mut queues })
                .expect("a driver that keeps the rules");
            let used = &queues[index];
            let written: u32 = match used.next_used {
                0 => return Vec::new(),
                _ => self.memory.read_obj(GuestAddress(used.used + 8)).expect("memory"),
            };
            let mut answer = vec![0; written as usize];
            self.memory.read_slice(&mut answer, GuestAddress(BUFFER)).expect("memory");
            answer
        }

        fn say(&mut self, index: usize, bytes: &[u8]) {
            self.memory.write_slice(bytes, GuestAddress(BUFFER)).expect("memory");
            self.serve(index, bytes.len() as u32, false);
        }

        fn control(&mut self, id: u32, event: u16, value: u16) {
            self.say(CONTROL_TRANSMIT, &[&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat());
        }

        fn hear(&mut self, index: usize) -> Vec<u8> {
            self.serve(index, 64, true)
        }

        /// The driver finds the port, and a program opens it.
        fn open(&mut self) {
            self.control(0, DEVICE_READY, 1);
            assert_eq!(self.hear(CONTROL_RECEIVE), [1, 0, 0, 0, PORT_ADD as u8, 0, 1, 0]);
            self.control(1, PORT_READY, 1);
            assert_eq!(self.hear(CONTROL_RECEIVE), b"\x01\0\0\0\x07\0\x01\0org.example.0");
            assert_eq!(self.hear(CONTROL_RECEIVE), b"", "nobody is there");
            self.control(1, PORT_OPEN, 1);
        }
    }

    #[test]
    fn a_stream_by_the_name_of_its_port() {
        let mut bed = Bed::new();
        bed.open();
        let mut client = UnixStream::connect(&bed.socket).expect("a connection");
        assert_eq!(bed.hear(CONTROL_RECEIVE), [1, 0, 0, 0, PORT_OPEN as u8, 0, 1, 0]);
        bed.say(FIRST_PORT + 1, b"hello");
        let mut seen = [0; 5];
        client.read_exact(&mut seen).expect("output");
        assert_eq!(&seen, b"hello");
        client.write_all(b"you").expect("room");
        assert_eq!(bed.hear(FIRST_PORT), b"you");
        client.write_all(b"bye").expect("room");
        drop(client);
        assert_eq!(bed.hear(FIRST_PORT), b"bye", "what was said before the end is heard");
        assert_eq!(bed.hear(CONTROL_RECEIVE), [1, 0, 0, 0, PORT_OPEN as u8, 0, 0, 0]);
    }

    #[test]
    fn who_reads_slowly_has_the_guest_wait_and_who_is_next_waits() {
        let mut bed = Bed::new();
        bed.open();
        let mut first = UnixStream::connect(&bed.socket).expect("a connection");
        assert_eq!(bed.hear(CONTROL_RECEIVE).len(), CONTROL_BYTES);
        let mut second = UnixStream::connect(&bed.socket).expect("a connection");
        let piece = [b'x'; 0x1000];
        let mut said = 0;
        while bed.device.ports[0].output.is_empty() {
            bed.say(FIRST_PORT + 1, &piece);
            said += piece.len();
            assert!(said < 64 << 20, "a socket has an end");
        }
        let mut heard = 0;
        let mut room = vec![0; 1 << 16];
        while heard < said {
            heard += first.read(&mut room).expect("output");
            bed.hear(CONTROL_RECEIVE);
        }
        drop(first);
        bed.hear(CONTROL_RECEIVE);
        bed.hear(CONTROL_RECEIVE);
        bed.say(FIRST_PORT + 1, b"next");
        let mut seen = [0; 4];
        second.read_exact(&mut seen).expect("output");
        assert_eq!(&seen, b"next");
    }

    #[test]
    fn a_driver_that_talks_nonsense_is_survived() {
        let mut bed = Bed::new();
        for (id, event) in [(0, PORT_OPEN), (2, PORT_READY), (u32::MAX, PORT_OPEN), (1, 99), (1, PORT_NAME)] {
            bed.control(id, event, 1);
        }
        bed.say(CONTROL_TRANSMIT, b"short");
        assert_eq!(bed.hear(CONTROL_RECEIVE), b"");
        bed.say(FIRST_PORT + 1, b"nobody listens");
        bed.device.reset();
        assert!(!bed.device.ports[0].guest_open);
    }
}
