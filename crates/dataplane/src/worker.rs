//! The one thread that moves frames.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::rand::{GetRandomFlags, getrandom};
use weft_dataplane_protocol::{DataplaneConfig, Response};
use weft_port::{BURST_FRAMES, Frame, Port};
use weft_services::{LeaseRecord, NetworkId, Services};
use weft_switch::{DropReason, Foreseen, Switch, Verdict};
use weft_types::{Instant, NetworkName, PortId, PortName};

use crate::address_book::AddressBook;
use crate::apply::Staged;
use crate::forwards::Numbered;
use crate::lease_log::{LeaseLog, Report};
use crate::listens::Wish;
use crate::mailbox::{Letter, Mailbox, Task};
use crate::patience::Patience;
use crate::resolved::Resolved;
use crate::signals::Signals;
use crate::slot::{Delivery, Others, Plug, Slot, hold};
use crate::state_dir::{Snapshot, StateDir};
use crate::stations::StationNotes;
use crate::{DataplaneError, HostSockets, clock};

/// After so long without a frame, ports let go of memory that they hold only to be fast.
const TRIM_AFTER: Duration = Duration::from_secs(1);

/// While frames keep coming, descriptors are looked at once in so many rounds.
const ROUNDS_PER_LOOK: u32 = 64;

/// Frames of the services that are forwarded in one round, so that ports get their turn.
const SERVICE_BURST: usize = 256;

// What is no port's number in the worker's epoll.
const MAILBOX: u64 = u64::MAX;
const HOST: u64 = u64::MAX - 1;
const LEASES: u64 = u64::MAX - 2;
const SIGNALS: u64 = u64::MAX - 3;

/// Who rang since the worker looked. Looking costs more than a frame, so it looks only at those.
struct Rung {
    mailbox: bool,
    host: bool,
    leases: bool,
}

/// The worker and everything that it alone touches.
pub(crate) struct Worker {
    pub(crate) slots: Vec<Slot>,
    pub(crate) switch: Switch,
    pub(crate) delivery: Delivery,
    pub(crate) host: HostSockets,
    /// Where the slot of a port is, by the port's number.
    pub(crate) slot_of: Vec<Option<usize>>,
    /// Where the slot of a network's gateway is, by the network's number.
    pub(crate) gateway_of: Vec<Option<usize>>,
    /// The slots of uplinks, whose links are watched.
    pub(crate) uplinks: Vec<usize>,
    /// The slots at which frames may have to wait.
    pub(crate) paced: Vec<usize>,
    /// The configuration in force.
    pub(crate) config: DataplaneConfig,
    pub(crate) staged: Option<Staged>,
    pub(crate) next_port: u32,
    pub(crate) next_network: u32,
    pub(crate) next_forward: u32,
    /// The port forwards in force.
    pub(crate) forwards: Vec<Numbered>,
    pub(crate) generation: u64,
    /// How many captures were started, and how many mirrors for them.
    pub(crate) captures_started: u64,
    pub(crate) next_capture_mirror: u32,
    /// What vNICs ask to hear, by their ports.
    pub(crate) wishes: BTreeMap<PortName, Wish>,
    /// What rules have decided under earlier configurations, by network and name.
    pub(crate) rule_hits: BTreeMap<(NetworkName, String), u64>,
    /// Leases from before the restart that wait for the first configuration.
    pub(crate) unrestored: Vec<LeaseRecord>,
    /// What ports were seen to get from servers of others.
    pub(crate) addresses: AddressBook,
    /// What of that the services know.
    pub(crate) stations: StationNotes,
    /// What the host's own resolver was told.
    pub(crate) resolved: Resolved,
    /// What could not be taken up at the start, until the first configuration, in sentences.
    pub(crate) start_notes: Vec<String>,
    /// Why leases are not durable, if they are not.
    pub(crate) lease_note: Option<String>,
    pub(crate) epoll: OwnedFd,
    leases: LeaseLog,
    mailbox: Mailbox,
    _signals: Signals,
    rung: Rung,
    /// Nothing happened since the ports were trimmed.
    trimmed: bool,
    ending: Option<bool>,
}

impl Worker {
    /// A worker that is what the last one was: it reads the snapshot and the leases.
    pub(crate) fn new(state: &StateDir, mailbox: Mailbox, signals: Signals) -> Result<Self, DataplaneError> {
        let path = state.leases();
        let (leases, unrestored) = LeaseLog::open(&path).map_err(|source| DataplaneError::State { path, source })?;
        let host = HostSockets::new()?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        let watch = |fd: &dyn std::os::fd::AsFd, token| {
            epoll::add(&epoll, fd.as_fd(), EventData::new_u64(token), EventFlags::IN).map_err(io::Error::from)
        };
        watch(&mailbox, MAILBOX)?;
        watch(&host, HOST)?;
        watch(&leases, LEASES)?;
        watch(&signals, SIGNALS)?;
        let mut worker = Self {
            slots: Vec::new(),
            switch: Switch::new(u64::from_ne_bytes(random()?)),
            delivery: Delivery::new(Services::new(random()?, clock::unix_origin())),
            host,
            slot_of: Vec::new(),
            gateway_of: Vec::new(),
            uplinks: Vec::new(),
            paced: Vec::new(),
            config: DataplaneConfig::default(),
            staged: None,
            next_port: 0,
            next_network: 0,
            next_forward: 0,
            forwards: Vec::new(),
            generation: 0,
            captures_started: 0,
            next_capture_mirror: 0,
            wishes: BTreeMap::new(),
            rule_hits: BTreeMap::new(),
            unrestored,
            addresses: AddressBook::open(state.addresses()),
            stations: StationNotes::default(),
            resolved: Resolved::default(),
            start_notes: Vec::new(),
            lease_note: None,
            epoll,
            leases,
            mailbox,
            _signals: signals,
            rung: Rung { mailbox: true, host: true, leases: true },
            trimmed: true,
            ending: None,
        };
        match state.load()? {
            Snapshot::None => {}
            Snapshot::Config(config) => worker.resume(config),
            Snapshot::Damaged(why) => worker.start_notes.push(why),
        }
        Ok(worker)
    }

    /// Works until it is told to end; whether everything is to be forgotten.
    pub(crate) fn run(&mut self) -> bool {
        let mut patience = Patience::new(clock::now());
        let mut rounds = 0u32;
        loop {
            let now = clock::now();
            let mut busy = false;
            self.watch_links();
            for index in 0..self.slots.len() {
                busy |= self.forward_burst(now, index);
            }
            busy |= self.release(now);
            busy |= self.serve(now);
            if std::mem::take(&mut self.rung.mailbox) {
                busy |= self.read_mail();
            }
            if let Some(forget) = self.ending {
                return forget;
            }
            if busy {
                patience.worked(now);
                self.trimmed = false;
                rounds = rounds.wrapping_add(1);
                if rounds.is_multiple_of(ROUNDS_PER_LOOK) {
                    self.keep_addresses(now);
                    self.wait(Some(Duration::ZERO));
                }
            } else if patience.polls_on(now) {
                std::hint::spin_loop();
            } else {
                self.sleep(now, patience.last_work());
                patience.slept();
            }
        }
    }

    /// Has the switch know which uplinks are there, so that a team takes another at once.
    fn watch_links(&mut self) {
        for at in 0..self.uplinks.len() {
            let Some(slot) = self.slots.get_mut(self.uplinks[at]) else { continue };
            let is_up = matches!(&slot.plug, Plug::Port(port) if port.link().is_up());
            if std::mem::replace(&mut slot.is_up, is_up) != is_up {
                self.switch.set_link(slot.id, is_up);
            }
        }
    }

    /// Does what it is told; whether it was told something.
    fn read_mail(&mut self) -> bool {
        let mut busy = false;
        while let Some(letter) = self.mailbox.next() {
            let (task, answer) = letter.open();
            Letter::answer(answer, self.obey(task));
            self.delivery.services_fed = true; // a new configuration may end flows of the host
            busy = true;
        }
        busy
    }

    /// Forwards what a port has; whether it had something.
    fn forward_burst(&mut self, now: Instant, index: usize) -> bool {
        let Some((source, mut others)) = Others::split(&mut self.slots, index) else { return false };
        let Plug::Port(port) = &mut source.plug else { return false };
        let lent = port.recv();
        if lent.malformed > 0 {
            self.switch.count_drop(source.id, DropReason::Malformed, lent.malformed.into());
        }
        if self.switch.looks_ahead() {
            let mut foreseen = [Foreseen::default(); BURST_FRAMES];
            let foreseen = &mut foreseen[..lent.frames.min(BURST_FRAMES)];
            for (index, foreseen) in foreseen.iter_mut().enumerate() {
                let frame = port.frame(index);
                *foreseen = self.switch.foresee(source.id, frame.head(), frame.len());
            }
            foreseen.iter().for_each(|foreseen| self.switch.fetch(foreseen));
        }
        for index in 0..lent.frames {
            let frame = port.frame(index);
            source.counters.rx_frames += 1;
            source.counters.rx_bytes += frame.len() as u64;
            if let Some(queue) = &mut source.pacing.inward
                && !queue.pass(now, frame.len())
            {
                if let Err(reason) = hold(queue, Some(source.id), &frame, &mut self.delivery) {
                    self.switch.note_drop(now, source.id, reason, frame.head(), frame.len());
                }
                continue;
            }
            forward(now, source.id, &frame, &mut self.switch, &mut others, &self.slot_of, &mut self.delivery);
        }
        if lent.frames > 0 {
            // In this order, so that who is killed in between loses frames and has none twice when it goes on.
            port.release();
            others.flush();
            self.delivery.reply(now, source);
        }
        lent.frames > 0 || lent.malformed > 0
    }

    /// Lets the services and the host's sockets do what is due; whether they did something. Costs no system call
    /// while nothing is.
    fn serve(&mut self, now: Instant) -> bool {
        self.note_stations(now);
        let services = &mut self.delivery.services;
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let mut wants_host = std::mem::take(&mut self.delivery.services_fed);
        if is_due(services.next_timeout()) {
            services.handle_timeout(now);
            wants_host = true;
        }
        if std::mem::take(&mut self.rung.host) | wants_host || is_due(self.host.next_timeout()) {
            self.host.drive(now, services);
        }
        let mut busy = self.mind_leases(now);
        for _ in 0..SERVICE_BURST {
            let Some((network, out)) = self.delivery.services.poll_frame() else { break };
            self.forward_from_gateway(now, network, &Frame::new(&out.bytes, out.offload));
            busy = true;
        }
        if busy {
            self.slots.iter_mut().for_each(Slot::flush);
        }
        busy
    }

    fn forward_from_gateway(&mut self, now: Instant, network: NetworkId, frame: &Frame<'_>) {
        let index = self.gateway_of.get(network.0 as usize).copied().flatten();
        let Some((gateway, mut others)) = index.and_then(|index| Others::split(&mut self.slots, index)) else {
            return; // the network went while the frame waited
        };
        gateway.counters.rx_frames += 1;
        gateway.counters.rx_bytes += frame.len() as u64;
        forward(now, gateway.id, frame, &mut self.switch, &mut others, &self.slot_of, &mut self.delivery);
        self.delivery.reply(now, gateway);
    }

    /// Carries leases to the disk and its word back.
    fn mind_leases(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while self.rung.leases {
            let Some(report) = self.leases.poll() else {
                self.rung.leases = false;
                break;
            };
            busy = true;
            self.lease_note = None;
            match report {
                Report::Durable { token, wants_compaction } => {
                    self.delivery.services.persisted(now, token);
                    if wants_compaction {
                        self.leases.compact(self.delivery.services.lease_records());
                    }
                }
                Report::Refused(why) => self.lease_note = Some(why),
            }
        }
        while let Some(request) = self.delivery.services.poll_persist() {
            self.leases.append(request);
        }
        busy
    }

    fn obey(&mut self, task: Task) -> Response {
        let done = |result: Result<(), _>| result.map_or_else(Response::Refused, |()| Response::Done);
        match task {
            Task::Prepare { config, taps } => done(self.prepare(*config, taps)),
            Task::Commit => {
                self.commit(clock::now());
                Response::Done
            }
            Task::Abort => {
                self.staged = None;
                Response::Done
            }
            Task::Status => Response::Status(self.status(clock::now())),
            Task::Rules => Response::Rules(self.rules()),
            Task::Capture { request, descriptor } => done(self.capture(request, descriptor)),
            Task::History => Response::History(self.history(clock::now())),
            Task::Explain(request) => {
                self.explain(clock::now(), &request).map_or_else(Response::Refused, Response::Explained)
            }
            Task::Listens { request, client } => done(self.hear_filter(request, client)),
            Task::Unheard(client) => {
                self.hear_every_group(client);
                Response::Done
            }
            Task::End { forget } => {
                self.ending = Some(forget);
                Response::Done
            }
        }
    }

    /// Sleeps until there is work.
    fn sleep(&mut self, now: Instant, last_work: Instant) {
        self.keep_addresses(now);
        if !self.trimmed && now.since(last_work) >= TRIM_AFTER {
            self.trimmed = true;
            self.ports().for_each(|port| port.trim());
            self.switch.trim();
        }
        if !self.ports().all(|port| port.sleep()) {
            return;
        }
        let trim = (!self.trimmed).then_some(last_work + TRIM_AFTER);
        let services = self.delivery.services.next_timeout();
        let addresses = self.addresses.due(&self.switch);
        let others = [trim, self.next_release(), addresses, self.stations_due()];
        let due = [services, self.host.next_timeout()].into_iter().chain(others).flatten().min();
        self.wait(due.map(|due| due.since(now)));
    }

    fn keep_addresses(&mut self, now: Instant) {
        let ports = self.slots.iter().map(|slot| (slot.id, &slot.about.name));
        self.addresses.keep(now, &self.switch, ports);
    }

    fn ports(&mut self) -> impl Iterator<Item = &mut Box<dyn Port>> {
        self.slots.iter_mut().filter_map(|slot| match &mut slot.plug {
            Plug::Port(port) => Some(port),
            Plug::Gateway | Plug::Broken(_) => None,
        })
    }

    /// Waits for descriptors, `None` for ever, and notes which are ready.
    fn wait(&mut self, timeout: Option<Duration>) {
        let timeout = timeout.map(|span| Timespec {
            tv_sec: span.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: span.subsec_nanos().into(),
        });
        let mut room = [MaybeUninit::<Event>::uninit(); 64];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut room, timeout.as_ref()) else { return };
        for event in events {
            match event.data.u64() {
                MAILBOX => {
                    self.mailbox.wake();
                    self.rung.mailbox = true;
                }
                HOST => self.rung.host = true,
                LEASES => {
                    self.leases.wake();
                    self.rung.leases = true;
                }
                SIGNALS => self.ending = Some(false),
                id => {
                    let index = usize::try_from(id).ok().and_then(|id| self.slot_of.get(id).copied().flatten());
                    if let Some(Slot { plug: Plug::Port(port), .. }) = index.and_then(|i| self.slots.get_mut(i)) {
                        port.wake();
                    }
                }
            }
        }
    }
}

/// One frame's way: the verdict, into the receivers, and to who gets a copy.
pub(crate) fn forward(
    now: Instant,
    ingress: PortId,
    frame: &Frame<'_>,
    switch: &mut Switch,
    others: &mut Others<'_>,
    slot_of: &[Option<usize>],
    delivery: &mut Delivery,
) {
    deliver(now, ingress, frame, switch, others, slot_of, delivery);
    if !switch.copies().is_empty() {
        delivery.mirror(now, ingress, frame, switch, others, slot_of);
    }
}

/// The verdict, and into the receivers.
#[inline(always)]
fn deliver(
    now: Instant,
    ingress: PortId,
    frame: &Frame<'_>,
    switch: &mut Switch,
    others: &mut Others<'_>,
    slot_of: &[Option<usize>],
    delivery: &mut Delivery,
) {
    let egress = match switch.forward(now, ingress, frame.head(), frame.len()) {
        Verdict::Forward(egress) => egress,
        Verdict::Drop(DropReason::ReservedGroup) => return delivery.hear_neighbour(now, ingress, frame),
        Verdict::Drop(reason) => return delivery.replies.note(reason, switch),
    };
    let mut result = Err(DropReason::EgressDown);
    for output in egress {
        let target = slot_of.get(output.port.0 as usize).copied().flatten().and_then(|index| others.get_mut(index));
        if let Some(target) = target {
            let delivered = target.deliver(now, Some(ingress), frame, output.edit, delivery);
            result = result.or(delivered); // it is lost only when nobody got it
        }
    }
    if let Err(reason) = result {
        switch.note_drop(now, ingress, reason, frame.head(), frame.len());
    }
    delivery.count_pushed_out(now, switch);
}

/// Bytes that nobody can guess.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}
