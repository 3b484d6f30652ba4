//! The host goes down and comes back: machines are shut down before, and those whose owner is enabled return.

use std::sync::Arc;

use weft_model::view::ProblemView;
use weft_store::{Op, Txn};
use weft_types::{Provenance, VmName};

use crate::ControlError;
use crate::desired::{Desired, Records};
use crate::host::Trouble;
use crate::inner::Inner;
use crate::objects::{BOOT, GENERATION, Goal, Override, Wish, enabled_key, fate_key, override_key, put};
use crate::observed::Observed;
use crate::propose::Change;

impl Inner {
    /// Has the machines of `owner` come back when the host does, or no more.
    pub(crate) fn enable(&self, owner: &str, enabled: bool) -> Result<(), ProblemView> {
        let written = (|| -> Result<(), Trouble> {
            let records = self.records()?;
            if enabled && !records.owners.contains_key(owner) {
                let hint = "`weft up` it first; `weft ls` shows what each file made";
                return Err(Trouble::new("no-such-owner", format!("nothing was made from {owner}"), hint));
            }
            let key = enabled_key(owner);
            self.write(if enabled { Op::put(key, "") } else { Op::delete(key) })?;
            Ok(())
        })();
        written.map_err(|trouble| trouble.problem())
    }

    /// Shuts all machines down because the host goes down; nobody is asked whether they should come back.
    pub(crate) fn halt(self: &Arc<Self>) -> Result<u64, Vec<ProblemView>> {
        self.propose(|records| {
            let running = |desired: &Desired| -> Vec<VmName> {
                desired.vms.iter().filter(|(_, vm)| vm.should_run()).map(|(name, _)| name.clone()).collect()
            };
            let mut next = records.desired.clone();
            let ops = running(&next).iter().map(|vm| halted(&mut next, vm, "weft halt")).collect();
            Ok(Change { title: "weft halt".to_owned(), goal: Goal::Tidy, ops, next })
        })
    }

    /// Lets the machines run again that were shut down with the host, and whose owner is enabled.
    pub(crate) fn boot(self: &Arc<Self>) -> Result<u64, Vec<ProblemView>> {
        self.propose(|records| {
            let mut next = records.desired.clone();
            let mut ops = Vec::new();
            for (name, vm) in &mut next.vms {
                if vm.halted() && records.desired.enabled.contains(&vm.owner) {
                    (vm.override_, vm.fate) = (None, None);
                    ops.extend([override_key(name), fate_key(name)].map(Op::delete));
                }
            }
            Ok(Change { title: "weft boot".to_owned(), goal: Goal::Boot, ops, next })
        })
    }

    /// Notes that the host was started since the last daemon looked, if it was: what ran then went down with it. Whether
    /// there is something that is to come back.
    pub(crate) fn notice_boot(&self, records: &Records, observed: &Observed) -> Result<bool, ControlError> {
        let boot = self.host.boot_id();
        if records.boot.as_deref() == Some(&boot) {
            return Ok(false);
        }
        let mut txn = Txn::new().then(put(BOOT.to_owned(), &boot));
        let mut desired = records.desired.clone();
        if records.boot.is_some() {
            let runs = |vm: &VmName| observed.vms.get(vm).is_some_and(|seen| seen.running.is_some());
            let cut_off: Vec<_> =
                records.desired.vms.iter().filter(|(name, vm)| vm.should_run() && !runs(name)).collect();
            if !cut_off.is_empty() {
                txn = txn.then(Op::put(GENERATION, boot)); // a new revision: what should be has changed
            }
            txn.then.extend(cut_off.into_iter().map(|(name, _)| halted(&mut desired, name, "the host's restart")));
        }
        let _unconditional = self.store.txn(txn)?;
        Ok(desired.vms.values().any(|vm| vm.halted() && desired.enabled.contains(&vm.owner)))
    }
}

/// The write by which a machine does not run while the host is down.
fn halted(desired: &mut Desired, name: &VmName, by: &str) -> Op {
    let override_ = Override { wish: Wish::Halted, by: Provenance::command(by) };
    let op = put(override_key(name), &override_);
    if let Some(vm) = desired.vms.get_mut(name) {
        vm.override_ = Some(override_);
    }
    op
}
