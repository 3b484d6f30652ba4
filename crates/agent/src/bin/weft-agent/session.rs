//! One session: a command, its windows, and its way from start to exit.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use weft_agent::message::{DATA_BYTES_MAX, Exec, ExitStatus, Size, WINDOW_BYTES};

use crate::port::is_temporary;
use crate::process::{Process, SpawnError, spawn};

/// The character by which a terminal's input ends (`VEOF`).
const END_OF_INPUT: u8 = 0x04;

pub(crate) struct Session {
    pub(crate) process: Process,
    stdin: Input,
    stdout: Output,
    stderr: Output,
    /// How much output may still be sent.
    credit: usize,
    exit: Option<ExitStatus>,
}

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// What to do about a session's input.
pub(crate) enum Fed {
    /// Nothing, for now.
    Waiting,
    /// Tell the host that so many bytes were taken.
    Credit(u32),
}

/// The way to the command's input.
struct Input {
    /// `None` once it is closed; what comes then is taken and forgotten.
    file: Option<File>,
    queue: VecDeque<u8>,
    /// No more comes after the queue.
    ended: bool,
    /// Taken by the command, and not yet told to the host.
    taken: usize,
    /// The last byte that was queued, which decides how a terminal's input ends.
    last: u8,
}

/// The way from one of the command's outputs.
struct Output {
    file: Option<File>,
    /// After the command's end: how much of its own words is still in the pipe. What its orphans say after that is not
    /// waited for. A terminal has no such limit: the kernel ends it with the command.
    left: Option<u64>,
}

impl Session {
    pub(crate) fn start(exec: &Exec) -> Result<Self, SpawnError> {
        let (process, streams) = spawn(exec)?;
        Ok(Self {
            process,
            stdin: Input {
                file: Some(streams.stdin.into()),
                queue: VecDeque::new(),
                ended: false,
                taken: 0,
                last: b'\n',
            },
            stdout: Output { file: Some(streams.stdout.into()), left: None },
            stderr: Output { file: streams.stderr.map(File::from), left: None },
            credit: WINDOW_BYTES,
            exit: None,
        })
    }

    /// Queues input. `false`: the host has overdrawn its window.
    #[must_use]
    pub(crate) fn feed(&mut self, data: &[u8]) -> bool {
        if self.stdin.queue.len() + self.stdin.taken + data.len() > WINDOW_BYTES {
            return false;
        }
        self.stdin.last = data.last().copied().unwrap_or(self.stdin.last);
        self.stdin.queue.extend(data);
        true
    }

    /// Ends the input once what is queued has been taken.
    pub(crate) fn end_input(&mut self) {
        if self.process.has_terminal() && !self.stdin.ended {
            // On a line that has begun, the first one only sends what is there.
            let count = if self.stdin.last == b'\n' { 1 } else { 2 };
            self.stdin.queue.extend([END_OF_INPUT; 2].iter().take(count));
        }
        self.stdin.ended = true;
    }

    /// Moves queued input on as far as the command takes it.
    pub(crate) fn pump_input(&mut self) -> Fed {
        let terminal = self.process.has_terminal();
        let input = &mut self.stdin;
        while !input.queue.is_empty() {
            let (front, _) = input.queue.as_slices();
            let count = match input.file.as_mut().map(|file| file.write(front)) {
                Some(Ok(count)) => count,
                Some(Err(error)) if is_temporary(&error) => break,
                // The command has closed its input; that is its right.
                Some(Err(_)) | None => {
                    input.file = None;
                    front.len()
                }
            };
            input.queue.drain(..count);
            input.taken += count;
        }
        if input.ended && input.queue.is_empty() && !terminal {
            input.file = None;
        }
        if input.taken < WINDOW_BYTES / 4 {
            return Fed::Waiting;
        }
        Fed::Credit(std::mem::take(&mut input.taken) as u32)
    }

    /// The input's file, if something waits for it to become writable.
    pub(crate) fn wants_write(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.file.as_ref().filter(|_| !self.stdin.queue.is_empty()).map(File::as_fd)
    }

    /// The output's file, if it is open and the host has credit for it.
    pub(crate) fn wants_read(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        self.output(stream).file.as_ref().filter(|_| self.credit > 0).map(File::as_fd)
    }

    /// Reads a piece of output; `None` if there is none.
    pub(crate) fn read(&mut self, stream: Stream) -> Option<Vec<u8>> {
        let limit = self.credit.min(DATA_BYTES_MAX);
        if limit == 0 {
            return None; // the other stream has just used it up
        }
        let output = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let data = output.read(limit)?;
        self.credit -= data.len();
        Some(data)
    }

    /// The host has passed on so many bytes.
    pub(crate) fn earn(&mut self, bytes: u32) {
        self.credit = (self.credit + bytes as usize).min(WINDOW_BYTES);
    }

    /// Looks whether the command has ended.
    pub(crate) fn reap(&mut self) {
        if self.exit.is_none() {
            self.exit = self.process.try_wait();
            if self.exit.is_some() && !self.process.has_terminal() {
                self.stdout.bound();
                self.stderr.bound();
            }
        }
    }

    /// Whether [`Session::reap`] need not look any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.exit.is_some()
    }

    /// How it ended, once all its output has been read.
    pub(crate) fn over(&self) -> Option<ExitStatus> {
        self.exit.filter(|_| self.stdout.file.is_none() && self.stderr.file.is_none())
    }

    pub(crate) fn resize(&self, size: Size) {
        self.process.resize(size);
    }

    pub(crate) fn signal(&self, number: u8) {
        if self.exit.is_none() {
            self.process.signal(number);
        }
    }

    /// The process, for its end, if it still runs.
    pub(crate) fn into_process(self) -> Option<Process> {
        self.exit.is_none().then_some(self.process)
    }

    fn output(&self, stream: Stream) -> &Output {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }
}

impl Output {
    /// Reads up to `limit` bytes; closes the stream at its end.
    fn read(&mut self, limit: usize) -> Option<Vec<u8>> {
        let file = self.file.as_mut()?;
        let limit = self.left.map_or(limit, |left| limit.min(usize::try_from(left).unwrap_or(usize::MAX)));
        let mut data = vec![0; limit];
        match file.read(&mut data) {
            Err(error) if is_temporary(&error) => return None,
            // A terminal without a command ends with EIO.
            Ok(0) | Err(_) => {
                self.file = None;
                return None;
            }
            Ok(count) => data.truncate(count),
        }
        if let Some(left) = &mut self.left {
            *left -= data.len() as u64;
            if *left == 0 {
                self.file = None;
            }
        }
        Some(data)
    }

    /// The command has ended: only what is in the pipe now is its own.
    fn bound(&mut self) {
        let waiting = |file: &File| -> io::Result<u64> { Ok(rustix::io::ioctl_fionread(file)?) };
        self.left = self.file.as_ref().map(|file| waiting(file).unwrap_or(0));
        if self.left == Some(0) {
            self.file = None;
        }
    }
}
