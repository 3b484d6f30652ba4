//! Machines that hold a lease no more ask for a new one at once, instead of when the old one would have run out.
//!
//! A lease ends early when its network moves to another subnet, or its adapter to another fixed address. Where a network
//! changes only what its leases say, the machines on it ask for that, and keep what they have.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_dataplane_protocol::DataplaneConfig;
use weft_machine::Process;
use weft_model::Ready;
use weft_types::{Ipv4Net, MacAddr, NetworkName, VmName};

use crate::events::Happening;
use crate::inner::Inner;
use crate::plan_network::told_by_leases;
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

    /// Lets those who keep their leases ask what these say now, on networks where that is something else than before.
    pub(crate) fn refresh_leases(self: &Arc<Self>, operation: u64, before: &DataplaneConfig, now: &DataplaneConfig) {
        let told = |config: &DataplaneConfig, name: &NetworkName| {
            let network = config.networks.iter().find(|network| network.name == *name)?;
            Some((told_by_leases(network)?, routes(config, name)))
        };
        let networks = now.networks.iter().map(|network| &network.name);
        let changed: BTreeSet<_> = networks
            .filter(|name| told(before, name).is_some_and(|old| told(now, name).is_some_and(|new| new != old)))
            .collect();
        let Ok(records) = self.records() else { return };
        let mut asked = Vec::new();
        for (vm, declared) in records.desired.vms.iter().filter(|(_, declared)| declared.should_run()) {
            let is_ready = self.state().lives.get(vm).is_some_and(|life| life.phase == Phase::Ready);
            let needs = records.desired.lease_needs(&declared.spec).into_iter();
            let macs: BTreeSet<_> =
                needs.filter(|(network, _)| changed.contains(network)).map(|(_, mac)| mac).collect();
            if macs.is_empty() || !is_ready {
                continue; // who has just begun has heard nothing else
            }
            let words = format!("{vm} asks what its leases say now");
            self.tell(Happening::new("vm-refreshes", words).of(operation).to("vm", vm));
            asked.push((vm, macs));
        }
        // All at once, and the operation waits: who comes after it finds everybody told.
        std::thread::scope(|scope| {
            for (vm, macs) in &asked {
                scope.spawn(|| self.host.refresh_leases(vm, macs));
            }
        });
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

/// The subnets to which routers lead from a network.
fn routes(config: &DataplaneConfig, from: &NetworkName) -> BTreeSet<Ipv4Net> {
    let joined = config.routers.iter().filter(|router| router.networks.contains(from));
    let others: BTreeSet<_> = joined.flat_map(|router| &router.networks).filter(|name| *name != from).collect();
    let networks = config.networks.iter().filter(|network| others.contains(&network.name));
    networks.filter_map(|network| Some(network.gateway.as_ref()?.subnet)).collect()
}
