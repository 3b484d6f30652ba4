//! Where copies of frames leave the process: a thread for each capture, behind a queue that is never waited for.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use weft_wire::segment::segment_with;
use weft_wire::{Offload, pcapng, vxlan};

/// So many copies, and so many bytes of them, wait at most.
const QUEUE_FRAMES: usize = 1024;
const QUEUE_BYTES: usize = 8 << 20;

/// What is written at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How often a thread that has nothing to do looks whether anybody still wants its copies.
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
    /// Into a descriptor, as pcapng.
    Stream { descriptor: OwnedFd, snap_bytes: u32 },
    /// To a collector; as long as the other end of the descriptor is open.
    Vxlan { descriptor: OwnedFd, socket: UdpSocket, vni: u32 },
}

/// What both sides of a queue see.
#[derive(Default)]
struct Shared {
    waiting_bytes: AtomicUsize,
    /// How many copies were lost, by interface. Touched when one is, and by the thread now and then.
    lost: Mutex<Vec<u64>>,
}

/// The worker's side of a sink: what does not fit is lost, counted, and waited for by nobody.
pub(crate) struct Outlet {
    queue: SyncSender<Item>,
    shared: Arc<Shared>,
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
        builder.spawn(move || writer.run(&items))?;
        Ok(Self { queue, shared })
    }

    /// Tells the name of the next interface; whether there was room.
    pub(crate) fn announce(&self, name: String) -> Result<bool, Ended> {
        let is_taken = self.offer(Item::Interface(name))?;
        if is_taken {
            self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner).push(0);
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
            let mut lost = self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(lost) = lost.get_mut(interface) {
                *lost += 1;
            }
        }
        Ok(is_taken)
    }

    fn offer(&self, item: Item) -> Result<bool, Ended> {
        match self.queue.try_send(item) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Disconnected(_)) => Err(Ended),
        }
    }
}

/// The thread's side.
struct Writer {
    sink: Sink,
    shared: Arc<Shared>,
    /// What waits to be written, or is being sent.
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
        let mut is_wanted = self.flush().is_ok();
        while is_wanted {
            match items.recv_timeout(TICK) {
                Ok(item) => {
                    self.take(item);
                    while self.buffer.len() < CHUNK_BYTES
                        && let Ok(item) = items.try_recv()
                    {
                        self.take(item);
                    }
                }
                Err(RecvTimeoutError::Timeout) => is_wanted = self.is_wanted(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tell_losses();
            is_wanted &= self.flush().is_ok();
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
                match &self.sink {
                    Sink::Stream { .. } => pcapng::packet(&mut self.buffer, interface, unix_nanos, &bytes, len),
                    Sink::Vxlan { socket, vni, .. } => {
                        let mut send = |frame: &[u8]| {
                            self.buffer.clear();
                            self.buffer.extend_from_slice(&vxlan::header(*vni));
                            self.buffer.extend_from_slice(frame);
                            // A collector that is not there, or slow, loses it: the next one may arrive.
                            let _ = socket.send(&self.buffer);
                        };
                        if offload == Offload::default() {
                            send(&bytes);
                        } else {
                            // What contradicts its own offload is no packet.
                            let _ = segment_with(&mut self.scratch, &bytes, offload, &mut send);
                        }
                        self.buffer.clear();
                    }
                }
            }
        }
    }

    fn tell_losses(&mut self) {
        let lost = self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Sink::Stream { .. } = &self.sink {
            for (interface, (told, lost)) in (0..).zip(self.told.iter_mut().zip(lost)) {
                if *told != lost {
                    *told = lost;
                    pcapng::statistics(&mut self.buffer, interface, self.last_nanos, lost);
                }
            }
        }
    }

    /// Whether the other end of the descriptor is open.
    fn is_wanted(&self) -> bool {
        let (Sink::Stream { descriptor, .. } | Sink::Vxlan { descriptor, .. }) = &self.sink;
        let mut fds = [PollFd::new(descriptor, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().is_empty()
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

/// A socket that talks to a collector.
pub(crate) fn socket_to(collector: SocketAddr) -> io::Result<UdpSocket> {
    let any = match collector {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(collector)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
