//! Files that a shell or another program has left open for us, and that a daemon must not keep open for ever: a lock
//! held through one of them would be held as long as the daemon lives.

use std::fs;
use std::os::fd::BorrowedFd;

use rustix::io::{FdFlags, fcntl_setfd};

/// Lets the programs that this process starts inherit stdin, stdout and stderr, and nothing else.
#[expect(unsafe_code, reason = "descriptors that were inherited have no owner among our values")]
pub(crate) fn keep_to_ourselves() {
    let numbers = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: the borrow ends with the call; the call closes and reuses nothing, and a number that has been closed
        // meanwhile (the one of the listing itself) is answered with EBADF.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
}
