//! Captures: mirrors that no configuration declares, for as long as somebody reads them.

use std::os::fd::OwnedFd;

use weft_dataplane_protocol::{CaptureRequest, ErrorCode, MirrorStatus, Refusal};
use weft_port::Frame;
use weft_switch::{Mirror, MirrorId, MirrorTarget, Segment, VSwitchId};
use weft_types::{Instant, PortId, PortName, Provenance};

use crate::mirror_sink::{Ended, Outlet, Sink};
use crate::mirrors::{FIRST_CAPTURE, Tally, copied};
use crate::worker::Worker;
use crate::{clock, law};

/// So many captures there are at most, each with a thread.
const MAX_CAPTURES: usize = 16;

/// A capture that runs.
pub(crate) struct Capture {
    name: String,
    request: CaptureRequest,
    /// One for each network.
    mirrors: Vec<MirrorId>,
    outlet: Outlet,
    /// The ports that were announced, in their order.
    interfaces: Vec<PortId>,
    /// The Unix time at the origin of time, in nanoseconds.
    unix_origin: u64,
    tally: Tally,
}

impl Capture {
    pub(crate) fn mirrors(&self) -> impl Iterator<Item = MirrorId> {
        self.mirrors.iter().copied()
    }

    pub(crate) fn has(&self, mirror: MirrorId) -> bool {
        self.mirrors.contains(&mirror)
    }

    /// Hands over the copy of a frame that came in by `ingress`.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        snap_bytes: Option<u32>,
        ingress: PortId,
        frame: &Frame<'_>,
        names: &[(PortId, PortName)],
    ) -> Result<(), Ended> {
        let interface = match self.interfaces.iter().position(|port| *port == ingress) {
            Some(interface) => interface,
            None => {
                let name = names.iter().find(|(port, _)| *port == ingress);
                if !self.announce(ingress, name.map_or_else(|| ingress.to_string(), |(_, name)| name.to_string()))? {
                    self.outlet.lose(0);
                    self.tally.note(false);
                    return Ok(());
                }
                self.interfaces.len() - 1
            }
        };
        if self.outlet.is_full() && !self.outlet.has_ended() {
            self.outlet.lose(interface);
            self.tally.note(false);
            return Ok(());
        }
        let mut copy = copied(frame, snap_bytes);
        copy.interface = interface as u32;
        copy.unix_nanos = self.unix_origin.saturating_add(now.as_nanos());
        self.tally.note(self.outlet.send(copy)?);
        Ok(())
    }

    /// Tells the reader of a port; whether there was room.
    fn announce(&mut self, port: PortId, name: String) -> Result<bool, Ended> {
        let is_taken = self.outlet.announce(name)?;
        if is_taken {
            self.interfaces.push(port);
        }
        Ok(is_taken)
    }

    /// Whether nobody reads it any more.
    fn is_over(&self) -> bool {
        self.outlet.has_ended()
    }

    pub(crate) fn status(&self) -> MirrorStatus {
        MirrorStatus {
            name: self.name.clone(),
            networks: self.request.networks.clone(),
            to: None,
            copies: self.tally.copies,
            lost: self.tally.lost,
            provenance: by_command(),
        }
    }
}

fn by_command() -> Provenance {
    Provenance::command("weft capture")
}

impl Worker {
    /// Starts a capture, which ends when the other end of `descriptor` does.
    ///
    /// # Errors
    /// When the request makes no sense, or there are enough captures.
    pub(crate) fn capture(&mut self, request: CaptureRequest, descriptor: OwnedFd) -> Result<(), Refusal> {
        self.end_idle_captures();
        if self.delivery.mirrors.captures.len() >= MAX_CAPTURES {
            return Err(refused(format!("{MAX_CAPTURES} captures run already"), "end one of them"));
        }
        let ports: Vec<_> = self.slots.iter().map(|slot| &slot.about).collect();
        let unknown = |what: &str| refused(format!("there is no {what}"), "`weft port ls` lists all ports");
        if let Some(name) = request.ports.iter().find(|name| ports.iter().all(|port| port.name != **name)) {
            return Err(unknown(&format!("port `{name}`")));
        }
        if let Some(name) = request.networks.iter().find(|name| ports.iter().all(|port| port.network != **name)) {
            return Err(unknown(&format!("network `{name}` with ports")));
        }
        if request.ports.is_empty() && request.networks.is_empty() {
            return Err(refused("a capture of nothing".into(), "name ports or networks"));
        }
        let failed = |error: std::io::Error| refused(format!("the capture cannot start: {error}"), "see `ulimit -n`");
        let sink = Sink::Stream { descriptor, snap_bytes: request.snap_bytes.unwrap_or(0) };
        let mut capture = Capture {
            name: format!("capture-{}", self.captures_started),
            outlet: Outlet::open(sink).map_err(failed)?,
            request,
            mirrors: Vec::new(),
            interfaces: Vec::new(),
            unix_origin: u64::try_from(clock::unix_origin().as_nanos()).unwrap_or(0),
            tally: Tally::default(),
        };
        self.captures_started += 1;
        // Known from the beginning, so that a capture of silence says of whom.
        for name in capture.request.ports.clone() {
            if let Some(slot) = self.slots.iter().find(|slot| slot.about.name == name) {
                let _ = capture.announce(slot.id, name.to_string());
            }
        }
        self.start_mirrors(&mut capture)?;
        self.delivery.mirrors.captures.push(capture);
        Ok(())
    }

    /// Takes away captures whose readers have left.
    pub(crate) fn end_idle_captures(&mut self) {
        self.delivery.mirrors.end_captures(&mut self.switch, Capture::is_over);
    }

    /// Has all captures look for their ports and networks again, which may have come, gone, or come back.
    pub(crate) fn renew_captures(&mut self) {
        let mut captures = std::mem::take(&mut self.delivery.mirrors.captures);
        for capture in &mut captures {
            capture.mirrors().for_each(|id| self.switch.stop_capture(id));
            capture.mirrors.clear();
            if let Err(refusal) = self.start_mirrors(capture) {
                tracing::warn!(target: "weft::dataplane", "{}: {refusal}", capture.name);
            }
        }
        self.delivery.mirrors.captures = captures;
    }

    /// Has the switch copy what a capture asks for: a mirror on each network that it is about.
    fn start_mirrors(&mut self, capture: &mut Capture) -> Result<(), Refusal> {
        let CaptureRequest { ports, networks, vlans, direction, filter, snap_bytes } = &capture.request;
        let mut places: Vec<(VSwitchId, Vec<PortId>)> = Vec::new();
        for slot in &self.slots {
            let (vswitch, about) = (VSwitchId(slot.about.network_id.0), &slot.about);
            let is_whole = networks.contains(&about.network);
            if !is_whole && !ports.contains(&about.name) {
                continue;
            }
            let at = places.iter().position(|(place, _)| *place == vswitch).unwrap_or_else(|| {
                places.push((vswitch, Vec::new()));
                places.len() - 1
            });
            if !is_whole {
                places[at].1.push(slot.id);
            }
        }
        for (vswitch, ports) in places {
            let id = MirrorId(FIRST_CAPTURE + self.next_capture_mirror);
            self.next_capture_mirror = (self.next_capture_mirror + 1) % FIRST_CAPTURE;
            let mirror = Mirror {
                id,
                name: capture.name.clone(),
                ports,
                segments: vlans.iter().copied().map(Segment::Vlan).collect(),
                direction: law::direction(*direction),
                filter: filter.as_ref().map(law::mirror_filter),
                snap_bytes: *snap_bytes,
                to: MirrorTarget::Outside,
                provenance: by_command(),
            };
            if let Err(problem) = self.switch.start_capture(vswitch, mirror) {
                capture.mirrors.iter().for_each(|id| self.switch.stop_capture(*id));
                return Err(problem.map_or_else(
                    || refused("the network is gone".into(), "`weft network ls` lists those that there are"),
                    |problem| refused(problem.to_string(), problem.hint()),
                ));
            }
            capture.mirrors.push(id);
        }
        Ok(())
    }
}

fn refused(message: String, hint: &str) -> Refusal {
    Refusal { code: ErrorCode::BadRequest, message, hint: hint.into() }
}
