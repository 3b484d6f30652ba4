//! Pieces of packets (RFC 791, section 3.2): later ones show no ports, and pass where the first one did.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use weft_types::Instant;

use super::packet::Packet;

/// Packets of which pieces may be on their way at a time; the oldest makes room.
const MAX_PACKETS: usize = 256;
/// How long the first piece is remembered: as long as receivers wait for the others (RFC 791).
const PATIENCE: Duration = Duration::from_secs(15);

/// What the pieces of one packet have in common.
type Id = (IpAddr, IpAddr, u8, u16);

/// The packets whose first pieces have passed, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Pieces(VecDeque<(Id, Instant)>);

impl Pieces {
    /// The first piece of a packet passes.
    pub(super) fn note(&mut self, now: Instant, packet: &Packet) {
        self.0.retain(|(known, until)| *known != id(packet) && now < *until);
        if self.0.len() == MAX_PACKETS {
            self.0.pop_front();
        }
        self.0.push_back((id(packet), now + PATIENCE));
    }

    /// Whether the first piece of this one's packet has passed.
    pub(super) fn passed(&self, now: Instant, packet: &Packet) -> bool {
        self.0.iter().any(|(known, until)| *known == id(packet) && now < *until)
    }
}

fn id(packet: &Packet) -> Id {
    (packet.src, packet.dst, packet.protocol, packet.ident)
}
