use weft_wire::Offload;
use weft_wire::segment::segment_with;

use crate::{Frame, Port, SendError};

/// Sends frames to ports that may not take them as they are: does in software what the sender left to do and
/// the receiver does not do.
#[derive(Debug, Default)]
pub struct Egress {
    whole: Vec<u8>,
    scratch: Vec<u8>,
}

impl Egress {
    /// Sends `frame` by `port`, as it is where the port accepts that.
    ///
    /// # Errors
    /// When the port does not take it, or not all of its segments, or when the frame is not what its offload
    /// says that it is.
    #[inline]
    pub fn send(&mut self, port: &mut dyn Port, frame: &Frame<'_>) -> Result<(), SendError> {
        let offload = frame.offload();
        if offload == Offload::default() || port.caps().accepts(offload) {
            return port.send(frame);
        }
        self.send_cut(port, frame, offload)
    }

    /// Sends what the receiver does not do of `offload` as done.
    #[inline(never)]
    fn send_cut(&mut self, port: &mut dyn Port, frame: &Frame<'_>, offload: Offload) -> Result<(), SendError> {
        self.whole.clear();
        frame.append_to(&mut self.whole);
        let mut result = Ok(());
        segment_with(&mut self.scratch, &self.whole, offload, &mut |bytes| {
            if result.is_ok() {
                result = port.send(&Frame::new(bytes, Offload::default()));
            }
        })
        .map_err(|_| SendError::Malformed)?;
        result
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use weft_testkit::{mac, tcp4};
    use weft_wire::checksum::Sum;
    use weft_wire::{Csum, Gso, GsoKind, Protocol};

    use super::*;
    use crate::{Caps, memory_pair};

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const TSO: Offload = Offload {
        csum: Csum::Partial { start: 34, offset: 16 },
        gso: Some(Gso { kind: GsoKind::Tcp4 { ecn: false }, size: 1460 }),
    };

    /// What arrives at a peer with `caps` of a TCP segment with `payload` bytes.
    fn arrives(caps: Caps, payload: usize, offload: Offload) -> Result<Vec<Vec<u8>>, SendError> {
        let (mut near, mut far) = memory_pair(caps).unwrap();
        let frame = tcp4(mac(2), mac(1), A, B, &vec![0x5a; payload]);
        Egress::default().send(&mut near, &Frame::new(&frame, offload))?;
        let mut frames = Vec::new();
        loop {
            let lent = far.recv();
            for index in 0..lent.frames {
                let mut bytes = Vec::new();
                far.frame(index).append_to(&mut bytes);
                frames.push(bytes);
            }
            far.release();
            if lent.frames == 0 {
                return Ok(frames);
            }
        }
    }

    #[test]
    fn a_peer_that_can_gets_the_frame_as_it_is() {
        assert_eq!(arrives(Caps::ALL, 60_000, TSO).unwrap().len(), 1);
    }

    #[test]
    fn a_peer_that_cannot_gets_complete_segments() {
        let frames = arrives(Caps::default(), 60_000, TSO).unwrap();
        assert_eq!(frames.len(), 60_000_usize.div_ceil(1460));
        for frame in frames {
            let tcp = &frame[34..];
            assert_eq!(Sum::ZERO.pseudo_ipv4(A, B, Protocol::TCP, tcp.len() as u16).bytes(tcp).checksum(), 0);
        }
        let plain = arrives(Caps::default(), 100, Offload { gso: None, ..TSO }).unwrap();
        assert_eq!(Sum::ZERO.pseudo_ipv4(A, B, Protocol::TCP, 120).bytes(&plain[0][34..]).checksum(), 0);
    }

    #[test]
    fn a_sender_cannot_have_us_cut_crumbs() {
        let crumbs = Offload { gso: Some(Gso { kind: GsoKind::Tcp4 { ecn: false }, size: 1 }), ..TSO };
        assert_eq!(arrives(Caps::default(), 60_000, crumbs), Err(SendError::Malformed));
    }
}
