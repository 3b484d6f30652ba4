use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use weft_wire::Offload;

use crate::{BURST_FRAMES, Caps, Frame, Lent, Link, Port, PortError, SendError};

/// Frames that wait for the other end at most.
const CAPACITY_FRAMES: usize = 1024;

/// One direction of a pair.
struct Channel {
    frames: Mutex<VecDeque<(Vec<u8>, Offload)>>,
    ready: OwnedFd,
}

impl Channel {
    fn new() -> std::io::Result<Arc<Self>> {
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { frames: Mutex::default(), ready }))
    }

    fn frames(&self) -> MutexGuard<'_, VecDeque<(Vec<u8>, Offload)>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end of a cable inside of this process, for tests.
pub struct MemoryPort {
    caps: Caps,
    incoming: Arc<Channel>,
    outgoing: Arc<Channel>,
    lent: Vec<(Vec<u8>, Offload)>,
}

/// A cable; what one end sends, the other receives. `caps` are those of either end.
///
/// # Errors
/// When the process has no descriptors left.
pub fn memory_pair(caps: Caps) -> Result<(MemoryPort, MemoryPort), PortError> {
    let (there, back) = (Channel::new()?, Channel::new()?);
    let end = |incoming: &Arc<Channel>, outgoing: &Arc<Channel>| MemoryPort {
        caps,
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        lent: Vec::new(),
    };
    Ok((end(&back, &there), end(&there, &back)))
}

impl Port for MemoryPort {
    fn driver(&self) -> &'static str {
        "memory"
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    fn link(&self) -> Link {
        // Two owners are the two ends.
        if Arc::strong_count(&self.outgoing) == 2 { Link::Up } else { Link::Down("the other end is gone".into()) }
    }

    fn recv(&mut self) -> Lent {
        let mut frames = self.incoming.frames();
        let count = frames.len().min(BURST_FRAMES);
        self.lent.extend(frames.drain(..count));
        Lent { frames: self.lent.len(), malformed: 0 }
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        let (bytes, offload) = &self.lent[index];
        Frame::new(bytes, *offload)
    }

    fn release(&mut self) {
        self.lent.clear();
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendError> {
        let mut frames = self.outgoing.frames();
        if frames.len() == CAPACITY_FRAMES {
            return Err(SendError::Full);
        }
        let mut bytes = Vec::with_capacity(frame.len());
        frame.append_to(&mut bytes);
        frames.push_back((bytes, frame.offload()));
        Ok(())
    }

    fn flush(&mut self) {
        let _ = rustix::io::write(&self.outgoing.ready, &1u64.to_ne_bytes());
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.incoming.ready.as_fd()
    }

    fn sleep(&mut self) -> bool {
        self.incoming.frames().is_empty()
    }

    fn wake(&mut self) {
        let _ = rustix::io::read(&self.incoming.ready, &mut [0; 8]);
    }
}
