//! Whether a frame's checksum is still to be completed: no field beside the frame says so here. A cable of the kernel (veth)
//! hands over what the kernel left to a network adapter.

use std::net::{Ipv4Addr, Ipv6Addr};

use weft_wire::checksum::Sum;
use weft_wire::{Csum, Offload, Protocol};

/// What is left to do on a frame: to complete its checksum, where the field holds the sum of the pseudo-header, as those who
/// leave it to others write it.
///
/// A right checksum can have that value by chance; then completing it makes the same of it. A wrong one becomes right once
/// in 65,536 times, which is as often as it would not be noticed.
pub(super) fn left_to_do(frame: &[u8]) -> Offload {
    let csum = partial(frame).map_or(Csum::default(), |(start, offset)| Csum::Partial { start, offset });
    Offload { csum, ..Offload::default() }
}

/// Where the transport header begins, and where in it the checksum is, if that is partial.
fn partial(frame: &[u8]) -> Option<(u16, u16)> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81, 0x00] | [0x88, 0xa8]) {
        at += 4;
    }
    let packet = at + 2;
    let (protocol, start, sum) = match frame.get(at..packet)? {
        [0x08, 0x00] => {
            let header: &[u8; 20] = frame.get(packet..)?.first_chunk()?;
            let start = packet + usize::from(header[0] & 0x0f) * 4;
            let is_fragment = header[6] & 0x3f != 0 || header[7] != 0;
            let total = u16::from_be_bytes([header[2], header[3]]);
            let len = total.checked_sub(u16::try_from(start - packet).ok()?).filter(|_| !is_fragment)?;
            let [source, destination] =
                [12, 16].map(|at| Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap_or_default()));
            let protocol = Protocol(header[9]);
            (protocol, start, Sum::ZERO.pseudo_ipv4(source, destination, protocol, len))
        }
        [0x86, 0xdd] => {
            let header: &[u8; 40] = frame.get(packet..)?.first_chunk()?;
            let len = u16::from_be_bytes([header[4], header[5]]);
            let [source, destination] =
                [8, 24].map(|at| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap_or_default()));
            let protocol = Protocol(header[6]);
            (protocol, packet + 40, Sum::ZERO.pseudo_ipv6(source, destination, protocol, len))
        }
        _ => return None,
    };
    let offset = match protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        _ => return None,
    };
    let field = frame.get(start + offset..start + offset + 2)?;
    (field == sum.folded().to_be_bytes()).then_some((u16::try_from(start).ok()?, offset as u16))
}

#[cfg(test)]
mod tests {
    use weft_testkit::{mac, tcp4, udp4};
    use weft_wire::checksum::complete_checksum;

    use super::*;

    #[test]
    fn what_others_left_to_do() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut partial = tcp4(mac(2), mac(1), a, b, b"payload");
        let sum = Sum::ZERO.pseudo_ipv4(a, b, Protocol::TCP, 27).folded();
        partial[50..52].copy_from_slice(&sum.to_be_bytes());
        let mut complete = partial.clone();
        complete_checksum(&mut complete, 34, 16).unwrap();
        let tagged = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 20], &frame[12..]].concat();
        let mut datagram = udp4(mac(2), mac(1), "10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap(), b"hello");
        let sum = Sum::ZERO.pseudo_ipv4(a, b, Protocol::UDP, 13).folded();
        assert_eq!(left_to_do(&datagram), Offload::default());
        datagram[40..42].copy_from_slice(&sum.to_be_bytes());
        let left = |start, offset| Offload { csum: Csum::Partial { start, offset }, ..Offload::default() };
        assert_eq!(left_to_do(&complete), Offload::default());
        assert_eq!(left_to_do(&partial), left(34, 16));
        assert_eq!(left_to_do(&tagged(&partial)), left(38, 16));
        assert_eq!(left_to_do(&datagram), left(34, 6));
        for len in 0..partial.len() {
            left_to_do(&partial[..len]); // cut anywhere
        }
    }
}
