//! Event counters (eventfd), as rust-vmm's crates have them.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// A counter that nobody waits for by reading it.
///
/// # Errors
/// When the process has no descriptors left.
pub(crate) fn counter() -> io::Result<EventFd> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
}

/// The counter's descriptor.
#[expect(unsafe_code, reason = "the counter's type does not lend its descriptor")]
pub(crate) fn descriptor(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the counter owns the descriptor, and is borrowed as long as that is used.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
