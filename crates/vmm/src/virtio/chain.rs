//! Chains of descriptors (virtio 1.2, section 2.7.5): the buffers of one request.

use std::io;

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

use crate::memory::GuestMemory;

/// A piece of guest memory, which is all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where.
    pub at: u64,
    /// How many bytes; never none.
    pub bytes: u32,
}

/// The buffers of one request: first those that the device reads, then those that it writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The descriptor by which the chain is given back.
    pub head: u16,
    /// What the driver says.
    pub readable: Vec<Segment>,
    /// Where there is room for the answer.
    pub writable: Vec<Segment>,
}

impl Segment {
    /// The piece, if it lies in memory.
    pub(super) fn checked(memory: &GuestMemory, at: u64, bytes: u32) -> Option<Self> {
        (bytes > 0 && memory.get_slice(GuestAddress(at), bytes as usize).is_ok()).then_some(Self { at, bytes })
    }
}

/// How many bytes segments have.
pub(super) fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.bytes)).sum()
}

/// What is left of `segments` after `skip` bytes, up to `limit` bytes. How a driver cuts a request into buffers
/// means nothing (section 2.7.4), so devices count bytes.
pub(super) fn cut(segments: &[Segment], mut skip: u64, mut limit: u64) -> Vec<Segment> {
    let mut left = Vec::with_capacity(segments.len());
    for segment in segments {
        let bytes = u64::from(segment.bytes);
        let skipped = skip.min(bytes);
        skip -= skipped;
        let taken = (bytes - skipped).min(limit);
        limit -= taken;
        if taken > 0 {
            left.push(Segment { at: segment.at + skipped, bytes: taken as u32 });
        }
    }
    left
}

/// Copies from guest memory as many bytes as there are, and room for; how many.
///
/// # Errors
/// When the memory is gone.
pub(super) fn gather(memory: &GuestMemory, segments: &[Segment], room: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    for segment in segments {
        let part = &mut room[done..];
        let count = part.len().min(segment.bytes as usize);
        memory.read_slice(&mut part[..count], GuestAddress(segment.at)).map_err(io::Error::other)?;
        done += count;
    }
    Ok(done)
}

/// Copies to guest memory as many bytes as there is room for; how many.
///
/// # Errors
/// When the memory is gone.
pub(super) fn scatter(memory: &GuestMemory, segments: &[Segment], bytes: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    for segment in segments {
        let part = &bytes[done..];
        let count = part.len().min(segment.bytes as usize);
        memory.write_slice(&part[..count], GuestAddress(segment.at)).map_err(io::Error::other)?;
        done += count;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_cut_by_bytes() {
        let segment = |at, bytes| Segment { at, bytes };
        let all = [segment(100, 10), segment(200, 1), segment(300, 20)];
        let check = |skip, limit, expected: &[Segment]| assert_eq!(cut(&all, skip, limit), expected, "{skip} {limit}");
        check(0, u64::MAX, &all);
        check(4, 8, &[segment(104, 6), segment(200, 1), segment(300, 1)]);
        check(10, 1, &[segment(200, 1)]);
        check(31, 5, &[]);
        check(0, 0, &[]);
        assert_eq!(total(&all), 31);
    }
}
