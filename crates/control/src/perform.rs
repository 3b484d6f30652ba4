//! Single pieces of work, each with what the controller must know about it before and after.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use weft_dataplane_protocol::DataplaneConfig;
use weft_machine::{Process, Running, StopOutcome};
use weft_store::Op;
use weft_types::VmName;

use crate::desired::dataplane_config;
use crate::events::Happening;
use crate::host::{STALE, Trouble};
use crate::inner::{Inner, Notice};
use crate::launch::{GRACE_WITH_DISK, Launch};
use crate::objects::{APPLIED, put};
use crate::plan::Work;
use crate::ready;
use crate::state::{Lease, Life, Phase};

/// How often the switch is given its configuration, when it dies over it.
const TRIES: usize = 3;

/// How a machine's process came to be ours to watch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// This operation has started it, when its adapters had these leases.
    Now { old_leases: BTreeSet<Lease>, operation: u64 },
    /// An earlier controller has.
    Before,
    /// An earlier controller has, and has seen it ready.
    Ready,
}

impl Inner {
    /// Does one piece of work of operation `id`, which was planned for desired state `generation`.
    pub(crate) fn perform(self: &Arc<Self>, id: u64, generation: u64, work: &Work) -> Result<(), Trouble> {
        match work {
            Work::StartSwitch => {
                let _alone = self.switch_work.lock().unwrap_or_else(PoisonError::into_inner);
                self.ensure_switch()
            }
            Work::EnsureImage { image, source } => {
                self.host.ensure_image(image, source.as_ref(), &|words| self.tell_progress(id, image, words))
            }
            Work::StopVm { vm, grace, again } => {
                again.as_ref().map_or(Ok(()), |launch| self.host.check_restart(vm, launch))?;
                self.stop_vm(id, vm, *grace)
            }
            Work::RemoveVm { vm } => {
                self.host.remove_vm(vm)?;
                self.state().lives.remove(vm);
                Ok(())
            }
            Work::ApplyDataplane(config) => {
                let _alone = self.switch_work.lock().unwrap_or_else(PoisonError::into_inner);
                self.apply_dataplane(config)
            }
            Work::StartVm { vm, launch } => self.start_vm(id, generation, vm, launch),
            Work::ShareVm { vm, launch } => self.share_vm(id, vm, launch),
            Work::StopSwitch => self.stop_switch(generation),
        }
    }

    /// Starts the switch unless it runs. The caller holds `switch_work`.
    pub(crate) fn ensure_switch(self: &Arc<Self>) -> Result<(), Trouble> {
        let process = self.host.start_switch()?;
        self.adopt_switch(process);
        Ok(())
    }

    /// Watches the switch's process.
    pub(crate) fn adopt_switch(self: &Arc<Self>, process: Process) {
        if self.state().switch.replace(process) != Some(process) {
            let notices = self.notices.clone();
            let on_exit = move |_| drop(notices.send(Notice::SwitchEnded { process }));
            self.host.watch(process, Box::new(on_exit));
        }
    }

    /// Lets the switch become `config`, starting it if need be. The caller holds `switch_work`.
    pub(crate) fn apply_dataplane(self: &Arc<Self>, config: &DataplaneConfig) -> Result<(), Trouble> {
        let mut tries = 0..TRIES;
        loop {
            let outcome = self.ensure_switch().and_then(|()| self.host.apply_dataplane(config));
            match outcome {
                Ok(()) => break,
                Err(trouble) if trouble.code == STALE => return self.answer_stale(config, trouble),
                // It died, maybe over this: a new one is given the same once more.
                Err(_) if tries.next().is_some() && !self.closing() && self.host.find_switch().is_none() => {}
                Err(trouble) => return Err(trouble),
            }
        }
        self.write(put(APPLIED.to_owned(), config))?;
        Ok(())
    }

    /// The switch follows something newer than `config`.
    fn answer_stale(self: &Arc<Self>, config: &DataplaneConfig, trouble: Trouble) -> Result<(), Trouble> {
        let newest = self.records()?.desired.generation;
        if newest > config.revision {
            return Ok(()); // somebody was faster, and the operation behind this one goes on from there
        }
        // The switch is from a store that is no more: nothing of it can be trusted.
        tracing::warn!(newest, "the switch is ahead of the store and is made anew");
        self.state().switch = None;
        self.host.stop_switch()?;
        self.ensure_switch()?;
        self.host.apply_dataplane(config).map_err(|_| trouble)?;
        self.write(put(APPLIED.to_owned(), config))?;
        Ok(())
    }

    fn stop_switch(self: &Arc<Self>, generation: u64) -> Result<(), Trouble> {
        let _alone = self.switch_work.lock().unwrap_or_else(PoisonError::into_inner);
        let records = self.records()?;
        if records.desired.generation != generation && records.desired.needs_switch() {
            return Ok(());
        }
        self.state().switch = None; // its end is no accident
        self.host.stop_switch()?;
        self.write(Op::delete(APPLIED))?;
        Ok(())
    }

    fn start_vm(self: &Arc<Self>, id: u64, generation: u64, vm: &VmName, launch: &Launch) -> Result<(), Trouble> {
        let records = self.records()?;
        if records.desired.generation != generation {
            let wanted = records.desired.vms.get(vm).filter(|vm| vm.should_run());
            if wanted.is_none_or(|wanted| records.desired.launch(wanted) != *launch) {
                return Ok(()); // a newer operation knows better what is to become of it
            }
        }
        let old_leases = self.leases_of(vm);
        let running = self.host.start_vm(vm, launch)?;
        self.share_vm(id, vm, launch)?;
        self.adopt_vm(vm, running, Beginning::Now { old_leases, operation: id });
        Ok(())
    }

    /// Gives a machine that runs its shares of the host. That some of them cannot be had does not keep it from running.
    fn share_vm(self: &Arc<Self>, id: u64, vm: &VmName, launch: &Launch) -> Result<(), Trouble> {
        for lacking in self.host.share_vm(vm, launch)? {
            self.tell(Happening::new("shares-lacking", format!("{vm}: {lacking}")).of(id).to("vm", vm));
        }
        Ok(())
    }

    /// The leases that a machine's adapters have.
    fn leases_of(&self, vm: &VmName) -> BTreeSet<Lease> {
        let leases = self.host.switch_status().map(|status| status.leases).unwrap_or_default();
        leases.iter().filter(|lease| lease.vm.as_ref() == Some(vm)).map(Lease::of).collect()
    }

    /// Watches a machine's process, and waits for it to be ready unless it was.
    pub(crate) fn adopt_vm(self: &Arc<Self>, vm: &VmName, running: Running, beginning: Beginning) {
        let process = running.process;
        let ready = beginning == Beginning::Ready;
        let phase = if ready { Phase::Ready } else { Phase::Starting("its first sign of life".to_owned()) };
        let (old_leases, operation) = match beginning {
            Beginning::Now { old_leases, operation } => (old_leases, Some(operation)),
            Beginning::Before | Beginning::Ready => (BTreeSet::new(), None),
        };
        let known = {
            let mut state = self.state();
            let known = state.life(vm, process).is_some_and(|life| !matches!(life.phase, Phase::Dead(_)));
            if !known {
                state.lives.insert(vm.clone(), Life { running, phase, old_leases });
            }
            known
        };
        if known {
            return;
        }
        let (notices, name) = (self.notices.clone(), vm.clone());
        let on_exit = move |exit| drop(notices.send(Notice::VmEnded { vm: name, process, exit }));
        self.host.watch(process, Box::new(on_exit));
        self.host.hear_filters(vm);
        if !ready {
            self.await_ready(vm, process, operation);
        }
        self.notify();
    }

    pub(crate) fn await_ready(self: &Arc<Self>, vm: &VmName, process: Process, operation: Option<u64>) {
        let vm = vm.clone();
        self.spawn("ready", move |inner| ready::wait(inner, &vm, process, operation));
    }

    fn stop_vm(self: &Arc<Self>, id: u64, vm: &VmName, grace: Duration) -> Result<(), Trouble> {
        // From here on its end is no accident.
        let before = self.state().lives.get_mut(vm).map(|life| std::mem::replace(&mut life.phase, Phase::Stopping));
        let trouble = match self.host.stop_vm(vm, grace, &|| !self.in_a_hurry(vm)) {
            Ok(outcome) => {
                self.state().lives.remove(vm);
                if grace >= GRACE_WITH_DISK && matches!(outcome, StopOutcome::Quit | StopOutcome::Killed) {
                    let words = format!("{vm} did not shut down and was ended: what its guest had not written is lost");
                    self.tell(Happening::new("vm-cut-off", words).of(id).to("vm", vm));
                }
                return Ok(());
            }
            Err(trouble) => trouble,
        };
        if let Some(phase) = before {
            let waits = matches!(phase, Phase::Starting(_) | Phase::Late(_));
            let process = self.state().lives.get_mut(vm).map(|life| {
                life.phase = phase;
                life.running.process
            });
            if let Some(process) = process.filter(|_| waits) {
                self.await_ready(vm, process, None);
            }
        }
        Err(trouble)
    }

    /// Whether somebody has asked meanwhile that a machine end at once.
    fn in_a_hurry(&self, vm: &VmName) -> bool {
        let records = self.records();
        records.is_ok_and(|it| it.desired.vms.get(vm).is_none_or(|vm| vm.removed() || vm.stopped_by_force()))
    }

    /// Starts a switch in the place of one that has died, and gives it what it should be.
    pub(crate) fn heal_switch(self: &Arc<Self>) -> Result<(), Trouble> {
        let _alone = self.switch_work.lock().unwrap_or_else(PoisonError::into_inner);
        let records = self.records()?;
        if !records.desired.needs_switch() || self.state().switch.is_some() || self.closing() {
            return Ok(());
        }
        self.apply_dataplane(&dataplane_config(&records.desired, &self.paths))?;
        let pid = self.state().switch.map_or(0, |process| process.pid);
        let words = format!("a new switch runs as process {pid}; leases are kept, NAT flows begin anew");
        self.tell(Happening::new("switch-restarted", words).to("switch", "switch"));
        Ok(())
    }
}
