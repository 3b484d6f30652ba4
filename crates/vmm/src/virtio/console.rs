//! A console (virtio 1.2, section 5.3), with one port on a terminal.

use std::os::fd::BorrowedFd;

use super::chain::{gather, scatter, total};
use super::device::{Activation, Device, DeviceKind, Service};
use super::queue::QueueError;
use crate::bus::{Shared, lock};
use crate::terminal::Terminal;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Bytes that are copied at a time.
const PIECE_BYTES: usize = 4096;

/// A console whose other end is a terminal.
pub struct Console {
    terminal: Shared<Terminal>,
    /// The terminal's descriptor, which lives as long as it.
    ready: std::os::fd::OwnedFd,
    active: bool,
}

impl Console {
    /// A console on `terminal`.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new(terminal: Shared<Terminal>) -> std::io::Result<Self> {
        let ready = lock(&terminal).ready().try_clone_to_owned()?;
        Ok(Self { terminal, ready, active: false })
    }

    fn receive(&mut self, service: &mut Service<'_>) -> Result<(), QueueError> {
        let Service { memory, queues } = service;
        let queue = &mut queues[RECEIVE];
        let mut terminal = lock(&self.terminal);
        while self.active && queue.ready && terminal.has_input() {
            let Some(chain) = queue.pop(memory)? else { break };
            let room = total(&chain.writable).min(PIECE_BYTES as u64) as usize;
            let written = scatter(memory, &chain.writable, &terminal.input(room)).map_err(|_| QueueError::Request)?;
            queue.push(memory, chain.head, written as u32)?;
        }
        Ok(())
    }

    fn transmit(&mut self, service: &mut Service<'_>) -> Result<(), QueueError> {
        let Service { memory, queues } = service;
        let queue = &mut queues[TRANSMIT];
        let mut piece = [0; PIECE_BYTES];
        for _ in 0..queue.size {
            let Some(chain) = queue.pop(memory)? else { break };
            let mut done = 0;
            while done < total(&chain.readable) {
                let rest = super::chain::cut(&chain.readable, done, PIECE_BYTES as u64);
                let count = gather(memory, &rest, &mut piece).map_err(|_| QueueError::Request)?;
                lock(&self.terminal).output(&piece[..count]);
                done += count as u64;
            }
            queue.push(memory, chain.head, 0)?;
        }
        Ok(())
    }
}

impl Device for Console {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 64]
    }

    fn config(&self) -> Vec<u8> {
        vec![0; 12]
    }

    fn start(&mut self, _: &Activation<'_>) {
        self.active = true;
    }

    fn stop(&mut self, _: &crate::memory::GuestMemory, _: &mut [super::Queue]) {
        self.active = false;
    }

    fn serve(&mut self, queue: usize, service: &mut Service<'_>) -> Result<(), QueueError> {
        if queue == RECEIVE { self.receive(service) } else { self.transmit(service) }
    }

    fn serves_again(&self, queue: usize) -> bool {
        queue == TRANSMIT
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd as _;
        Some(self.ready.as_fd())
    }

    fn ready(&mut self, service: &mut Service<'_>) -> Result<(), QueueError> {
        lock(&self.terminal).serve();
        self.receive(service)
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{describe, memory, offer, queue};
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::{Arc, Mutex};
    use vm_memory::{Bytes as _, GuestAddress};

    #[test]
    fn bytes_go_both_ways() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("console");
        let listener = UnixListener::bind(&path).expect("a socket");
        let terminal = Arc::new(Mutex::new(Terminal::new(64, None, Some(listener)).expect("a terminal")));
        let mut console = Console::new(terminal.clone()).expect("a console");
        console.active = true;
        let mut client = UnixStream::connect(&path).expect("a connection");
        lock(&terminal).serve();

        let memory = memory();
        memory.write_slice(b"hello", GuestAddress(0x1_0000)).expect("memory");
        describe(&memory, 0x1000, 0, 0x1_0000, 5, 0, 0);
        offer(&memory, &[0]);
        let mut queues = [queue(), queue()];
        console.serve(TRANSMIT, &mut Service { memory: &memory, queues: &mut queues }).expect("a good driver");
        let mut seen = [0; 5];
        client.read_exact(&mut seen).expect("output");
        assert_eq!(&seen, b"hello");

        client.write_all(b"you").expect("typing");
        describe(&memory, 0x1000, 0, 0x1_0000, 16, 2, 0);
        console.ready(&mut Service { memory: &memory, queues: &mut queues }).expect("a good driver");
        assert_eq!(memory.read_obj::<[u8; 3]>(GuestAddress(0x1_0000)).expect("memory"), *b"you");
    }
}
