//! Moves a shell's frames between its adapter and the switch, and keeps its lease.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use weft_port::{Egress, Frame, Outpost, Port, TapPort, UnixStreamPort};
use weft_types::Ipv4Net;
use weft_wire::Offload;

use super::dhcp::{Client, Lease};
use crate::output::{self, Style};

/// How long the switch may be away before its absence is told.
const ABSENCE: Duration = Duration::from_secs(3);

/// What the pump works on.
pub(super) struct Works {
    pub(super) adapter: TapPort,
    pub(super) switch: UnixStreamPort,
    pub(super) outpost: Outpost,
    /// Who asks for addresses, where somebody gives them.
    pub(super) client: Option<Client>,
    /// What the shell sees as `/etc/resolv.conf`.
    pub(super) resolv_conf: File,
    /// The network's MTU.
    pub(super) mtu: u16,
}

/// The thread that pumps, until it is told to stop.
pub(super) struct Pump {
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Pump {
    /// Starts it; `leases` hears of each new address.
    pub(super) fn start(works: Works, leases: mpsc::Sender<Ipv4Net>) -> io::Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let theirs = stop.try_clone()?;
        let pumping = Pumping { works, leases, egress: Egress::default(), whole: Vec::new(), absent_since: None };
        let thread = std::thread::Builder::new().name("pump".to_owned()).spawn(move || pumping.run(&theirs))?;
        Ok(Self { stop, thread })
    }

    /// Gives the lease back, and ends.
    pub(super) fn stop(self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        let _ = self.thread.join();
    }
}

struct Pumping {
    works: Works,
    leases: mpsc::Sender<Ipv4Net>,
    egress: Egress,
    /// Room for a frame in one piece.
    whole: Vec<u8>,
    /// When the switch was seen to be away first, and whether that was told.
    absent_since: Option<(Instant, bool)>,
}

impl Pumping {
    fn run(mut self, stop: &OwnedFd) {
        loop {
            let now = Instant::now();
            let busy = self.send_out() | self.take_in(now) | self.lease(now);
            self.watch_switch(now);
            if !busy && self.rest(now, stop) {
                break;
            }
        }
        if let Some(release) = self.works.client.as_ref().and_then(Client::release) {
            let _ = self.works.switch.send(&Frame::new(&release, Offload::default()));
            self.works.switch.flush();
            self.works.switch.sleep(); // what waits for more is written now
        }
    }

    /// The adapter's frames, to the switch; whether there were some.
    fn send_out(&mut self) -> bool {
        let Works { adapter, switch, .. } = &mut self.works;
        let lent = adapter.recv();
        for index in 0..lent.frames {
            let _ = self.egress.send(switch, &adapter.frame(index)); // what has no room is lost, as on any cable
        }
        adapter.release();
        switch.flush();
        lent.frames > 0
    }

    /// The switch's frames, to the adapter, but what is for the DHCP client; whether there were some.
    fn take_in(&mut self, now: Instant) -> bool {
        let Works { adapter, switch, client, .. } = &mut self.works;
        let lent = switch.recv();
        for index in 0..lent.frames {
            let frame = switch.frame(index);
            if let Some(client) = client
                && may_be_dhcp(frame.head())
            {
                self.whole.clear();
                frame.append_to(&mut self.whole);
                if client.hear(now, &self.whole) {
                    continue;
                }
            }
            let _ = self.egress.send(adapter, &frame);
        }
        switch.release();
        adapter.flush();
        lent.frames > 0
    }

    /// Has the client say what is due, and does what it has learned; whether there was something.
    fn lease(&mut self, now: Instant) -> bool {
        let Some(client) = &mut self.works.client else { return false };
        if !self.works.switch.link().is_up() {
            return false;
        }
        let due = client.poll(now);
        let busy = due.is_some();
        if let Some(frame) = due {
            let _ = self.works.switch.send(&Frame::new(&frame, Offload::default()));
            self.works.switch.flush();
        }
        if client.take_change() {
            let lease = client.lease().cloned();
            if let Err(error) = self.settle(lease.as_ref()) {
                note(&format!("the address cannot be set: {error}"));
            }
            if let Some(lease) = lease {
                let _ = self.leases.send(lease.address);
            }
        }
        busy
    }

    /// Has the namespace be as the lease says.
    fn settle(&mut self, lease: Option<&Lease>) -> io::Result<()> {
        let Works { outpost, resolv_conf, mtu, .. } = &mut self.works;
        let told = lease.and_then(|lease| lease.mtu).unwrap_or(*mtu);
        outpost.set_mtu(told.min(*mtu))?;
        outpost.set_address(lease.map(|lease| lease.address), lease.map_or(&[], |lease| &lease.routes))?;
        let text = resolv_conf_of(lease);
        resolv_conf.rewind()?;
        resolv_conf.set_len(0)?;
        resolv_conf.write_all(text.as_bytes())
    }

    /// Tells when the switch is away for long, and when it is back.
    fn watch_switch(&mut self, now: Instant) {
        match (self.works.switch.link().is_up(), self.absent_since) {
            (true, Some((_, told))) => {
                self.absent_since = None;
                if told {
                    note("the network is back");
                }
            }
            (false, None) => self.absent_since = Some((now, false)),
            (false, Some((since, false))) if now >= since + ABSENCE => {
                self.absent_since = Some((since, true));
                note("the network is away: its switch does not run, or the network was removed");
            }
            _ => {}
        }
    }

    /// Sleeps until there is work; whether it is time to end.
    fn rest(&mut self, now: Instant, stop: &OwnedFd) -> bool {
        let is_up = self.works.switch.link().is_up();
        let lease = self.works.client.as_ref().filter(|_| is_up).map(Client::next_timeout);
        let absence = self.absent_since.filter(|(_, told)| !told).map(|(since, _)| since + ABSENCE);
        let due = [lease, absence].into_iter().flatten().min();
        let timeout = due.map(|due| {
            let span = due.saturating_duration_since(now);
            // Rounded up: who wakes too early only turns once more.
            Timespec { tv_sec: span.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: span.subsec_nanos().into() }
        });
        let Works { adapter, switch, .. } = &mut self.works;
        let mut stopped = false;
        if adapter.sleep() & switch.sleep() {
            let mut fds = [
                PollFd::new(stop, PollFlags::IN),
                PollFd::from_borrowed_fd(adapter.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(switch.fd(), PollFlags::IN),
            ];
            let polled = poll(&mut fds, timeout.as_ref());
            stopped = polled.is_ok() && !fds[0].revents().is_empty();
        }
        adapter.wake();
        switch.wake();
        stopped
    }
}

/// Whether a frame's head is that of a datagram for a DHCP client, as far as can be seen without reading it.
fn may_be_dhcp(head: &[u8]) -> bool {
    head.get(12..14) == Some(&[0x08, 0x00]) && head.get(23) == Some(&17) && head.get(36..38) == Some(&[0, 68])
}

/// What resolves names under this lease.
fn resolv_conf_of(lease: Option<&Lease>) -> String {
    let mut text = String::from("# By `weft shell`, from the lease of this network.\n");
    if let Some(domain) = lease.and_then(|lease| lease.domain.as_ref()) {
        text += &format!("search {domain}\n");
    }
    let servers = lease.map_or(&[][..], |lease| &lease.dns);
    servers.iter().take(3).for_each(|server: &Ipv4Addr| text += &format!("nameserver {server}\n"));
    text
}

fn note(text: &str) {
    output::say(format!("{}: {}", Style::Warning.paint("note"), output::printable(text)));
}
