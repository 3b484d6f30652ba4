//! Our own stdin, stdout and stderr, byte for byte and without buffers. Whoever gave them to us may have made them
//! non-blocking, which is theirs to decide and ours to bear.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};

/// Reads what there is, up to the buffer's length; 0 at the end.
pub(crate) fn read_some(file: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match read(file, &mut *buffer) {
            Err(Errno::AGAIN) => await_readiness(file, PollFlags::IN)?,
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Writes all of it.
pub(crate) fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(file, bytes) {
            Err(Errno::AGAIN) => await_readiness(file, PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            result => bytes = &bytes[result?..],
        }
    }
    Ok(())
}

fn await_readiness(file: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(file, flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_pipe_that_does_not_block_takes_everything() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        for end in [reader.as_fd(), writer.as_fd()] {
            rustix::io::ioctl_fionbio(end, true).unwrap();
        }
        let sent: Vec<u8> = (0..500_000u32).map(|i| i as u8).collect();
        let expected = sent.clone();
        let writing = std::thread::spawn(move || write_all(writer.as_fd(), &sent).unwrap());
        let (mut came, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match read_some(reader.as_fd(), &mut buffer).unwrap() {
                0 => break,
                count => came.extend_from_slice(&buffer[..count]),
            }
        }
        writing.join().unwrap();
        assert!(came == expected);
    }

    #[test]
    fn a_reader_that_left_is_an_error() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        assert_eq!(write_all(writer.as_fd(), b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
