//! Machines that hold a lease no more ask for a new one at once, instead of when the old one would have run out.
//!
//! A lease ends early when its network moves to another subnet, or its adapter to another fixed address.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_machine::Process;
use weft_model::Ready;
use weft_types::{MacAddr, NetworkName, VmName};

use crate::events::Happening;
use crate::inner::Inner;
use crate::state::Phase;

/// A machine that was ready, and what it has lost.
struct Loser {
    vm: VmName,
    process: Process,
    lost: BTreeSet<(NetworkName, MacAddr)>,
}

impl Inner {
    /// Sends those who were ready and have lost a lease for a new one; `operation` waits until they have it.
    pub(crate) fn renew_lost_leases(self: &Arc<Self>, operation: u64) {
        for Loser { vm, process, lost } in self.losers() {
            let networks: Vec<_> = lost.iter().map(|(network, _)| network.as_str()).collect();
            let words = format!("a new lease on {}", networks.join(", "));
            match self.state().life(&vm, process) {
                Some(life) if life.phase == Phase::Ready => life.phase = Phase::Starting(words.clone()),
                _ => continue,
            }
            self.tell(Happening::new("vm-renews", format!("{vm} asks for {words}")).of(operation).to("vm", &vm));
            self.await_ready(&vm, process, Some(operation));
            self.spawn("renew", move |inner| {
                let macs = lost.into_iter().map(|(_, mac)| mac).collect();
                inner.host.renew_leases(&vm, &macs);
            });
        }
    }

    fn losers(&self) -> Vec<Loser> {
        let ready: Vec<_> = {
            let state = self.state();
            let ready = state.lives.iter().filter(|(_, life)| life.phase == Phase::Ready);
            ready.map(|(vm, life)| (vm.clone(), life.running.process)).collect()
        };
        if ready.is_empty() {
            return Vec::new();
        }
        // Where the switch does not answer, nobody can tell what was lost.
        let (Ok(records), Ok(status)) = (self.records(), self.host.switch_status()) else { return Vec::new() };
        let held: BTreeSet<_> = status.leases.into_iter().map(|lease| (lease.network, lease.mac)).collect();
        let lost = |vm: &VmName| {
            let declared = records.desired.vms.get(vm).filter(|declared| declared.should_run())?;
            let waits = declared.spec.ready != Ready::Running;
            waits.then(|| &records.desired.lease_needs(&declared.spec) - &held)
        };
        let losers = ready.into_iter().filter_map(|(vm, process)| Some(Loser { lost: lost(&vm)?, vm, process }));
        losers.filter(|loser| !loser.lost.is_empty()).collect()
    }
}
