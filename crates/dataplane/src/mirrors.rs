//! Copies of frames (law 7): to ports as any frame, and out of the process through queues that nobody waits for.

use std::os::fd::OwnedFd;

use weft_dataplane_protocol::{
    CaptureDirection, CaptureFilter, CaptureOf, CaptureRequest, CaptureTo, ErrorCode, MirrorStatus, Refusal,
};
use weft_port::Frame;
use weft_switch::{
    Direction, Mirror, MirrorCopy, MirrorFilter, MirrorId, MirrorTarget, Segment, Switch, Traffic, VSwitchId,
};
use weft_types::{Instant, PortId, PortName, Provenance};
use weft_wire::{Offload, Protocol, vxlan};

use crate::clock;
use crate::mirror_sink::{Copy, Ended, Outlet, Sink, socket_to};
use crate::slot::{Delivery, Others};
use crate::worker::Worker;

/// Captures are numbered from here on; what a configuration says, below.
const FIRST_CAPTURE: u32 = 1 << 31;

/// So many captures there are at most, each with a thread.
const MAX_CAPTURES: usize = 16;

/// What leaves the process.
#[derive(Default)]
pub(crate) struct Mirrors {
    captures: Vec<Capture>,
    started: u32,
    /// The names of all ports.
    pub(crate) names: Vec<(PortId, PortName)>,
}

struct Capture {
    id: MirrorId,
    outlet: Outlet,
    /// The ports that were announced, in their order.
    interfaces: Vec<PortId>,
    /// The Unix time at the origin of time, in nanoseconds.
    unix_origin: u64,
    copies: u64,
    lost: u64,
}

impl Mirrors {
    fn send(&mut self, now: Instant, copy: &MirrorCopy, ingress: PortId, frame: &Frame<'_>) -> Result<(), Ended> {
        let Some(capture) = self.captures.iter_mut().find(|capture| capture.id == copy.mirror) else {
            return Err(Ended);
        };
        let interface = match capture.interfaces.iter().position(|port| *port == ingress) {
            Some(interface) => interface,
            None => {
                let name = self.names.iter().find(|(port, _)| *port == ingress);
                if !capture.outlet.announce(name.map_or_else(|| ingress.to_string(), |(_, name)| name.to_string()))? {
                    capture.lost += 1;
                    return Ok(());
                }
                capture.interfaces.push(ingress);
                capture.interfaces.len() - 1
            }
        };
        let mut bytes = Vec::new();
        let is_whole = cut(frame, copy.snap_bytes, &mut bytes);
        let is_taken = capture.outlet.send(Copy {
            interface: interface as u32,
            unix_nanos: capture.unix_origin.saturating_add(now.as_nanos()),
            len: frame.len() as u32,
            bytes,
            offload: if is_whole { frame.offload() } else { Offload::default() },
        })?;
        capture.copies += u64::from(is_taken);
        capture.lost += u64::from(!is_taken);
        Ok(())
    }

    /// How each capture does.
    pub(crate) fn status(&self) -> impl Iterator<Item = MirrorStatus> {
        self.captures.iter().map(|capture| MirrorStatus {
            name: name(capture.id),
            copies: capture.copies,
            lost: capture.lost,
        })
    }
}

/// Appends what is to be copied of a frame to `bytes`; whether that is all of it.
fn cut(frame: &Frame<'_>, snap_bytes: Option<u32>, bytes: &mut Vec<u8>) -> bool {
    let room = snap_bytes.map_or(usize::MAX, |snap| snap as usize);
    if room <= frame.head().len() {
        bytes.extend_from_slice(&frame.head()[..room]);
    } else {
        frame.append_to(bytes);
        bytes.truncate(room);
    }
    room >= frame.len()
}

fn name(id: MirrorId) -> String {
    format!("capture-{}", id.0 - FIRST_CAPTURE)
}

impl Delivery {
    /// Hands out the copies of the frame that was decided about last. Whoever has no room loses its copy.
    pub(crate) fn mirror(
        &mut self,
        now: Instant,
        ingress: PortId,
        frame: &Frame<'_>,
        switch: &mut Switch,
        others: &mut Others<'_>,
        slot_of: &[Option<usize>],
    ) {
        let mut ended = None;
        for copy in switch.copies() {
            match copy.to {
                MirrorTarget::Outside => {
                    if self.mirrors.send(now, copy, ingress, frame) == Err(Ended) {
                        ended = Some(copy.mirror);
                    }
                }
                MirrorTarget::Port(port) => {
                    let index = slot_of.get(port.0 as usize).copied().flatten();
                    let Some(target) = index.and_then(|index| others.get_mut(index)) else { continue };
                    // The port counts what it has no room for; the frame itself goes its way.
                    let _ = if copy.snap_bytes.is_some_and(|snap| (snap as usize) < frame.len()) {
                        let mut bytes = Vec::new();
                        cut(frame, copy.snap_bytes, &mut bytes);
                        target.deliver(now, None, &Frame::new(&bytes, Offload::default()), copy.edit, self)
                    } else {
                        target.deliver(now, None, frame, copy.edit, self)
                    };
                }
            }
        }
        if let Some(id) = ended {
            switch.stop_capture(id);
            self.mirrors.captures.retain(|capture| capture.id != id);
        }
    }
}

impl Worker {
    /// Starts a capture, which ends when the other end of `descriptor` does.
    ///
    /// # Errors
    /// When the request makes no sense, or there are enough captures.
    pub(crate) fn capture(&mut self, request: &CaptureRequest, descriptor: OwnedFd) -> Result<(), Refusal> {
        let mirrors = &mut self.delivery.mirrors;
        if mirrors.captures.len() >= MAX_CAPTURES {
            return Err(refused(format!("{MAX_CAPTURES} captures run already"), "end one of them"));
        }
        let unknown = |what: &str| refused(format!("there is no {what}"), "`weft port ls` lists all ports");
        let slots = self.slots.iter();
        let (vswitch, ports) = match &request.of {
            CaptureOf::Port(name) => {
                let slot = slots.clone().find(|slot| slot.about.name == *name);
                let slot = slot.ok_or_else(|| unknown(&format!("port `{name}`")))?;
                (VSwitchId(slot.about.network_id.0), vec![slot.id])
            }
            CaptureOf::Network(name) => {
                let slot = slots.clone().find(|slot| slot.about.network == *name);
                let slot = slot.ok_or_else(|| unknown(&format!("network `{name}` with ports")))?;
                (VSwitchId(slot.about.network_id.0), Vec::new())
            }
        };
        let id = MirrorId(FIRST_CAPTURE + mirrors.started);
        let mirror = Mirror {
            id,
            name: name(id),
            ports,
            segments: request.vlans.iter().copied().map(Segment::Vlan).collect(),
            direction: match request.direction {
                CaptureDirection::In => Direction::In,
                CaptureDirection::Out => Direction::Out,
                CaptureDirection::Both => Direction::Both,
            },
            filter: request.filter.as_ref().map(filter).transpose()?,
            snap_bytes: request.snap_bytes,
            to: MirrorTarget::Outside,
            provenance: Provenance::command("capture"),
        };
        let failed = |error: std::io::Error| refused(format!("the capture cannot start: {error}"), "see `ulimit -n`");
        let sink = match request.to {
            CaptureTo::Stream => Sink::Stream { descriptor, snap_bytes: request.snap_bytes.unwrap_or(0) },
            CaptureTo::Vxlan { vni, .. } if vni > vxlan::MAX_VNI => {
                return Err(refused(format!("{vni} is no VXLAN network identifier"), "choose 0 to 16777215"));
            }
            CaptureTo::Vxlan { collector, vni } => {
                Sink::Vxlan { descriptor, socket: socket_to(collector).map_err(failed)?, vni }
            }
        };
        self.switch.start_capture(vswitch, mirror).map_err(|problem| match problem {
            Some(problem) => refused(problem.to_string(), problem.hint()),
            None => unknown("such network"),
        })?;
        let outlet = match Outlet::open(sink) {
            Ok(outlet) => outlet,
            Err(error) => {
                self.switch.stop_capture(id);
                return Err(failed(error));
            }
        };
        let unix_origin = u64::try_from(clock::unix_origin().as_nanos()).unwrap_or(0);
        mirrors.captures.push(Capture { id, outlet, interfaces: Vec::new(), unix_origin, copies: 0, lost: 0 });
        mirrors.started = mirrors.started.wrapping_add(1) % FIRST_CAPTURE;
        Ok(())
    }
}

fn filter(filter: &CaptureFilter) -> Result<MirrorFilter, Refusal> {
    let traffic = match (filter.protocol.map(Protocol), filter.port) {
        (None, None) => Traffic::Any,
        (Some(protocol), None) => Traffic::Protocol(protocol),
        (Some(protocol), Some(port)) => Traffic::Ports { protocol, src: 0..=u16::MAX, dst: port..=port },
        (None, Some(port)) => {
            return Err(refused(format!("port {port} of no protocol is no filter"), "write it like tcp/5432"));
        }
    };
    Ok(MirrorFilter { from: filter.from, to: filter.to, traffic })
}

fn refused(message: String, hint: &str) -> Refusal {
    Refusal { code: ErrorCode::BadRequest, message, hint: hint.into() }
}
