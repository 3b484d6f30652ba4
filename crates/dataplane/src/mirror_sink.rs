//! Where copies of frames leave the process: a thread for each reader, behind a queue that is never waited for.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use weft_wire::segment::segment_with;
use weft_wire::{Offload, pcapng};

use crate::collector::Tunnel;

/// So many copies, and so many bytes of them, wait at most.
const QUEUE_FRAMES: usize = 1024;
const QUEUE_BYTES: usize = 8 << 20;

/// What is written at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How often a thread that has nothing to do looks whether anybody still reads.
const TICK: Duration = Duration::from_millis(250);

/// It copies bytes into a buffer; JSON and frames live on the heap.
const STACK_BYTES: usize = 128 << 10;

/// A copy of a frame.
pub(crate) struct Copy {
    /// The number of the interface by which it came in, in the order in which they were announced.
    pub(crate) interface: u32,
    /// When, in nanoseconds since 1970 began.
    pub(crate) unix_nanos: u64,
    /// How long the frame was.
    pub(crate) len: u32,
    pub(crate) bytes: Vec<u8>,
    /// What is left to do on it, if it is whole.
    pub(crate) offload: Offload,
}

enum Item {
    /// The next interface's name.
    Interface(String),
    Copy(Copy),
}

/// Where copies go.
pub(crate) enum Sink {
    /// Into a descriptor, as pcapng, as long as its other end is open.
    Stream { descriptor: OwnedFd, snap_bytes: u32 },
    /// To a collector.
    Collector(Tunnel),
}

/// What both sides of a queue see.
#[derive(Default)]
struct Shared {
    waiting_bytes: AtomicUsize,
    /// How many copies were lost, by interface. Touched when one is, and by the thread now and then.
    lost: Mutex<Vec<u64>>,
    /// How many copies left the queue and could not be sent.
    unsent: AtomicU64,
}

impl Shared {
    fn lost(&self) -> MutexGuard<'_, Vec<u64>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker's side of a sink: what does not fit is lost, counted, and waited for by nobody.
pub(crate) struct Outlet {
    queue: SyncSender<Item>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// Nobody takes copies any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

impl Outlet {
    /// Starts a sink's thread.
    pub(crate) fn open(sink: Sink) -> io::Result<Self> {
        let (queue, items) = sync_channel(QUEUE_FRAMES);
        let shared = Arc::new(Shared::default());
        let writer = Writer::new(sink, shared.clone())?;
        let builder = thread::Builder::new().name("mirror".into()).stack_size(STACK_BYTES);
        let thread = builder.spawn(move || writer.run(&items))?;
        Ok(Self { queue, shared, thread })
    }

    /// Tells the name of the next interface; whether there was room.
    pub(crate) fn announce(&self, name: String) -> Result<bool, Ended> {
        let is_taken = self.offer(Item::Interface(name))?;
        if is_taken {
            self.shared.lost().push(0);
        }
        Ok(is_taken)
    }

    /// Hands a copy over; whether there was room.
    pub(crate) fn send(&self, copy: Copy) -> Result<bool, Ended> {
        let (bytes, interface) = (copy.bytes.len(), copy.interface as usize);
        let waiting = self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_taken = waiting < QUEUE_BYTES && self.offer(Item::Copy(copy))?;
        if !is_taken {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.lose(interface);
        }
        Ok(is_taken)
    }

    /// Whether so many bytes wait that a copy need not even be made.
    pub(crate) fn is_full(&self) -> bool {
        self.shared.waiting_bytes.load(Ordering::Relaxed) >= QUEUE_BYTES
    }

    /// Counts a copy that came in by this interface, and for which there was no room.
    pub(crate) fn lose(&self, interface: usize) {
        if let Some(lost) = self.shared.lost().get_mut(interface) {
            *lost += 1;
        }
    }

    /// How many copies were taken and could not be sent.
    pub(crate) fn unsent(&self) -> u64 {
        self.shared.unsent.load(Ordering::Relaxed)
    }

    /// Whether nobody takes copies any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    fn offer(&self, item: Item) -> Result<bool, Ended> {
        match self.queue.try_send(item) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Disconnected(_)) => Err(Ended),
        }
    }
}

/// What a stream's reader does.
#[derive(PartialEq, Eq)]
enum Reader {
    /// It reads.
    There,
    /// It has said that it wants no more than what is under way.
    Leaving,
    /// It is gone.
    Gone,
}

/// The thread's side.
struct Writer {
    sink: Sink,
    shared: Arc<Shared>,
    /// What waits to be written.
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    /// How many losses of each interface have been told.
    told: Vec<u64>,
    last_nanos: u64,
}

impl Writer {
    fn new(sink: Sink, shared: Arc<Shared>) -> io::Result<Self> {
        let mut buffer = Vec::new();
        if let Sink::Stream { descriptor, .. } = &sink {
            ioctl_fionbio(descriptor, true)?;
            pcapng::section_header(&mut buffer, "weft");
        }
        Ok(Self { sink, shared, buffer, scratch: Vec::new(), told: Vec::new(), last_nanos: 0 })
    }

    /// Passes on what comes, until nothing more does or nobody wants it.
    fn run(mut self, items: &Receiver<Item>) {
        if self.flush().is_err() {
            return;
        }
        loop {
            match self.next(items) {
                Ok(item) => {
                    self.take(item);
                    while self.buffer.len() < CHUNK_BYTES
                        && let Ok(item) = items.try_recv()
                    {
                        self.take(item);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tell_losses(false);
            if self.flush().is_err() {
                return;
            }
            match self.reader() {
                Reader::There => {}
                Reader::Leaving => break,
                Reader::Gone => return,
            }
        }
        // What is under way, but not what comes meanwhile.
        for item in items.try_iter().take(QUEUE_FRAMES) {
            self.take(item);
            if self.buffer.len() >= CHUNK_BYTES && self.flush().is_err() {
                return;
            }
        }
        self.tell_losses(true);
        let _ = self.flush(); // who does not hear the last word has left
    }

    /// The next that is to be passed on. A stream's reader may leave while nothing comes.
    fn next(&self, items: &Receiver<Item>) -> Result<Item, RecvTimeoutError> {
        match self.sink {
            Sink::Stream { .. } => items.recv_timeout(TICK),
            Sink::Collector(_) => items.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Interface(name) => {
                self.told.push(0);
                if let Sink::Stream { snap_bytes, .. } = &self.sink {
                    pcapng::interface(&mut self.buffer, &name, *snap_bytes);
                }
            }
            Item::Copy(Copy { interface, unix_nanos, len, bytes, offload }) => {
                self.shared.waiting_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
                self.last_nanos = unix_nanos;
                match &mut self.sink {
                    Sink::Stream { .. } => pcapng::packet(&mut self.buffer, interface, unix_nanos, &bytes, len),
                    Sink::Collector(tunnel) => {
                        let is_cut = (bytes.len() as u64) < u64::from(len);
                        let mut is_sent = true;
                        let mut send = |frame: &[u8]| is_sent &= tunnel.send(frame, is_cut);
                        let has_sense = match offload == Offload::default() {
                            true => {
                                send(&bytes);
                                true
                            }
                            // What contradicts its own offload is no packet.
                            false => segment_with(&mut self.scratch, &bytes, offload, &mut send).is_ok(),
                        };
                        let is_lost = !(is_sent && has_sense);
                        self.shared.unsent.fetch_add(is_lost.into(), Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Tells a stream's reader how much was lost: where that has changed, or at the end of each interface.
    fn tell_losses(&mut self, is_end: bool) {
        if !matches!(self.sink, Sink::Stream { .. }) {
            return;
        }
        for (interface, (told, lost)) in (0..).zip(self.told.iter_mut().zip(self.shared.lost().iter())) {
            if *told != *lost || is_end {
                *told = *lost;
                pcapng::statistics(&mut self.buffer, interface, self.last_nanos, *lost);
            }
        }
    }

    /// What a stream's reader does.
    fn reader(&self) -> Reader {
        let Sink::Stream { descriptor, .. } = &self.sink else { return Reader::There };
        let mut fds = [PollFd::new(descriptor, PollFlags::RDHUP)];
        match poll(&mut fds, Some(&Timespec::default())) {
            Err(Errno::INTR) => Reader::There,
            Err(_) => Reader::Gone,
            Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => Reader::Gone,
            Ok(_) if fds[0].revents().contains(PollFlags::RDHUP) => Reader::Leaving,
            Ok(_) => Reader::There,
        }
    }

    /// Writes what waits to be written, however long the reader takes.
    fn flush(&mut self) -> io::Result<()> {
        let Sink::Stream { descriptor, .. } = &self.sink else { return Ok(()) };
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            match rustix::io::write(descriptor, rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(descriptor, PollFlags::OUT)];
                    match poll(&mut fds, None) {
                        Err(error) if error != Errno::INTR => return Err(error.into()),
                        _ => {}
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.buffer.clear();
        Ok(())
    }
}
