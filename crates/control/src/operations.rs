//! Operations: one plan is carried out at a time, in the order in which they were asked for; then each waits for its
//! own machines, while the next one's plan is carried out already.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use weft_model::view::{OperationState, ProblemView, StepView};
use weft_types::{Label, VmName};

use crate::desired::{Desired, Records, dataplane_config};
use crate::events::Happening;
use crate::execute::{Conductor, execute};
use crate::host::Trouble;
use crate::inner::Inner;
use crate::objects::{Fate, Goal, OperationRecord};
use crate::plan::{Task, Work, plan};
use crate::state::{Operation, Phase, State};

/// How long the worker sleeps at most; it is woken when there is work.
const NAP: Duration = Duration::from_secs(3600);

/// Carries out queued operations until the controller ends.
pub(crate) fn work(inner: &Arc<Inner>) {
    let mut state = inner.state();
    while !state.closing {
        let Some(id) = state.queue.pop_front() else {
            state = inner.wait(state, NAP);
            continue;
        };
        if let Some(operation) = state.operations.get_mut(&id) {
            operation.record.state = OperationState::Running;
            let goal = operation.record.goal.clone();
            let title = operation.record.title.clone();
            drop(state);
            inner.tell(Happening::new("operation-started", format!("{title} begins")).of(id));
            inner.carry_out(id, &goal);
            inner.settle();
            state = inner.state();
        }
    }
}

impl Inner {
    /// Carries out what an operation asks for, and says what it waits for then.
    fn carry_out(self: &Arc<Self>, id: u64, goal: &Goal) {
        let (problems, awaits) = match self.records() {
            Err(error) => (vec![Trouble::from(error).problem()], BTreeSet::new()),
            Ok(records) => match goal {
                Goal::Image { image } => (self.build_now(id, &records.desired, image), BTreeSet::new()),
                _ => {
                    let (problems, failed) = self.converge(id, &records);
                    (problems, &awaited(&records.desired, goal) - &failed)
                }
            },
        };
        let mut state = self.state();
        if state.closing {
            return; // the next controller does it again, from the record
        }
        if let Some(operation) = state.operations.get_mut(&id) {
            operation.record.problems = problems;
            operation.awaits = Some(awaits);
        }
    }

    /// Carries out the plan for what is desired now; what went wrong, and the machines that were not started for it.
    fn converge(self: &Arc<Self>, id: u64, records: &Records) -> (Vec<ProblemView>, BTreeSet<VmName>) {
        let observed = self.observe(records);
        let plan = plan(&records.desired, &observed, &self.paths);
        let run = Run { inner: self, id, desired: &records.desired, failures: Mutex::default() };
        execute(&plan.tasks, self.settings.parallel, &run);
        self.renew_lost_leases(id);
        if let Some(before) = &observed.applied {
            self.refresh_leases(id, before, &dataplane_config(&records.desired, &self.paths));
        }
        run.failures.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn build_now(&self, id: u64, desired: &Desired, image: &Label) -> Vec<ProblemView> {
        let source = desired.images.get(image).map(|object| &object.spec.source);
        match self.host.ensure_image(image, source, &|words| self.tell_progress(id, image, words)) {
            Ok(()) => Vec::new(),
            Err(trouble) => vec![trouble.problem()],
        }
    }

    pub(crate) fn tell_progress(&self, id: u64, image: &Label, words: String) {
        self.tell(Happening::new("progress", format!("image {image}: {words}")).of(id).to("image", image));
    }

    /// Looks which operations have what they waited for, or will never have it, and ends them.
    pub(crate) fn settle(&self) {
        let _alone = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        // First who waits, then the store: read the other way round, it could be older than what is waited for.
        let waiting: Vec<u64> = {
            let state = self.state();
            let waits = |operation: &&Operation| operation.awaits.is_some() && !operation.record.ended();
            state.operations.values().filter(waits).map(|operation| operation.record.id).collect()
        };
        if waiting.is_empty() || self.closing() {
            return self.notify();
        }
        let desired = match self.records() {
            Ok(records) => records.desired,
            Err(error) => return tracing::error!(%error, "the store cannot be read"),
        };
        let ended: Vec<_> = {
            let mut state = self.state();
            waiting.into_iter().filter_map(|id| settle_one(&mut state, &desired, id)).collect()
        };
        for record in ended {
            if let Err(error) = self.write(record.put()) {
                // It stays unfinished in the store: a later controller will find that nothing is left to do.
                tracing::warn!(%error, operation = record.id, "the end of an operation could not be recorded");
            }
            let (kind, words) = match record.state {
                OperationState::Failed => {
                    let why = record.problems.first().map_or("", |problem| &problem.title);
                    ("operation-failed", format!("{} failed: {why}", record.title))
                }
                _ => ("operation-done", format!("{} is done", record.title)),
            };
            self.tell(Happening::new(kind, words).of(record.id));
            // Only now: who sees the end must find it recorded, and all events told.
            if let Some(operation) = self.state().operations.get_mut(&record.id) {
                operation.record = record;
            }
        }
        self.notify();
    }
}

/// Looks what an operation waits for still; its record, if it has ended.
fn settle_one(state: &mut State, desired: &Desired, id: u64) -> Option<OperationRecord> {
    let awaits = state.operations.get(&id)?.awaits.clone()?;
    let mut left = BTreeSet::new();
    let mut problems = Vec::new();
    for vm in awaits {
        match standing(state, desired, &vm) {
            Standing::Ready => {}
            Standing::Open => drop(left.insert(vm)),
            Standing::Hopeless(problem) => problems.push(*problem),
        }
    }
    let operation = state.operations.get_mut(&id)?;
    operation.record.problems.append(&mut problems);
    let ended = left.is_empty();
    operation.awaits = Some(left);
    let failed = !operation.record.problems.is_empty();
    let outcome = if failed { OperationState::Failed } else { OperationState::Done };
    ended.then(|| OperationRecord { state: outcome, ..operation.record.clone() })
}

/// The machines that must be ready for a goal.
fn awaited(desired: &Desired, goal: &Goal) -> BTreeSet<VmName> {
    let runs = desired.vms.iter().filter(|(_, vm)| vm.should_run());
    runs.filter(|(name, vm)| match goal {
        Goal::World { owner } => vm.owner == *owner,
        Goal::Vm { vm } => vm == *name,
        Goal::Boot => desired.enabled.contains(&vm.owner),
        Goal::Image { .. } | Goal::Tidy => false,
    })
    .map(|(name, _)| name.clone())
    .collect()
}

/// How a machine stands to being ready.
enum Standing {
    Ready,
    Open,
    Hopeless(Box<ProblemView>),
}

fn standing(state: &State, desired: &Desired, name: &VmName) -> Standing {
    let Some(vm) = desired.vms.get(name).filter(|vm| !vm.removed()) else {
        let title = format!("`{name}` was taken away before it was ready");
        return Standing::Hopeless(Box::new(Trouble::new("superseded", title, "").problem()));
    };
    let hopeless = |code: &str, words: String| {
        let hint = format!("`weft logs {name}` shows its console; `weft vm start {name}` starts it again");
        let problem = Trouble::new(code, words, hint).problem();
        Standing::Hopeless(Box::new(ProblemView { provenance: Some(vm.spec.provenance.clone()), ..problem }))
    };
    if let Some(drift) = vm.override_.as_ref().and_then(|_| vm.drift()) {
        return hopeless("superseded", format!("`{name}` was {drift} before it was ready"));
    }
    match state.lives.get(name).map(|life| &life.phase) {
        Some(Phase::Ready) => Standing::Ready,
        Some(Phase::Starting(_) | Phase::Stopping) => Standing::Open,
        Some(Phase::Late(problem)) => Standing::Hopeless(Box::new(problem.clone())),
        Some(Phase::Dead(fate)) => {
            hopeless("vm-died", format!("`{name}` is not ready: {}", fate.reason().unwrap_or("its process has ended")))
        }
        None => match vm.fate.as_ref().and_then(|fate| fate.reason()) {
            Some(reason) => hopeless("vm-died", format!("`{name}` is not ready: {reason}")),
            None if state.planning() => Standing::Open,
            None => hopeless("vm-not-started", format!("`{name}` does not run")),
        },
    }
}

/// One operation's plan being carried out.
struct Run<'a> {
    inner: &'a Arc<Inner>,
    id: u64,
    desired: &'a Desired,
    /// What went wrong, and the machines that were not started for it.
    failures: Mutex<(Vec<ProblemView>, BTreeSet<VmName>)>,
}

impl Conductor for Run<'_> {
    fn perform(&self, task: &Task) -> bool {
        self.tell("step-started", task, |step| format!("{}: {}", subject(step), step.detail));
        match self.inner.perform(self.id, self.desired.generation, &task.work) {
            Ok(()) => {
                self.tell("step-done", task, subject);
                true
            }
            Err(trouble) => {
                if self.ending() {
                    return false;
                }
                self.tell("step-failed", task, |step| format!("{}: {}", subject(step), trouble.sentence()));
                self.report(task, trouble);
                false
            }
        }
    }

    fn skip(&self, task: &Task, because: &Task) {
        let cause = because.steps.first().map_or_else(|| describe(&because.work), subject);
        self.tell("step-skipped", task, |step| format!("{}: not done, because this failed: {cause}", subject(step)));
        self.give_up(task, format!("not started, because this failed: {cause}"));
    }

    fn ending(&self) -> bool {
        self.inner.closing()
    }
}

impl Run<'_> {
    fn tell(&self, kind: &'static str, task: &Task, words: impl Fn(&StepView) -> String) {
        for step in &task.steps {
            self.inner.tell(Happening::new(kind, words(step)).of(self.id).to(step.kind.clone(), &step.name));
        }
    }

    fn report(&self, task: &Task, trouble: Trouble) {
        let mut problem = trouble.problem();
        if let Some(vm) = task.work.vm() {
            problem.provenance = self.desired.vms.get(vm).map(|vm| vm.spec.provenance.clone());
            if !problem.title.contains(vm.as_str()) {
                problem.title = format!("{}: {}", describe(&task.work), problem.title);
            }
        }
        self.give_up(task, trouble.sentence());
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).0.push(problem);
    }

    /// Records that a machine was not started, if that was the task: it is not tried again until somebody asks.
    fn give_up(&self, task: &Task, reason: String) {
        let Work::StartVm { vm, .. } = &task.work else { return };
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).1.insert(vm.clone());
        if let Err(error) = self.inner.record_fate(vm, &Fate::Failed { reason }) {
            tracing::warn!(%error, %vm, "what became of a machine could not be recorded");
        }
    }
}

/// A step's object and what happens to it.
fn subject(step: &StepView) -> String {
    use weft_model::view::StepAction::{Create, Remove, Start, Stop, Update};
    let verb = match step.action {
        Create => "create",
        Update => "update",
        Start => "start",
        Stop => "stop",
        Remove => "remove",
    };
    match step.kind == step.name {
        true => format!("{verb} {}", step.kind),
        false => format!("{verb} {} {}", step.kind, step.name),
    }
}

/// Work in a few words, where no step says it.
fn describe(work: &Work) -> String {
    match work {
        Work::StartSwitch => "start switch".to_owned(),
        Work::EnsureImage { image, .. } => format!("make ready image {image}"),
        Work::StopVm { vm, .. } => format!("stop vm {vm}"),
        Work::RemoveVm { vm } => format!("remove vm {vm}"),
        Work::ApplyDataplane(_) => "configure switch".to_owned(),
        Work::StartVm { vm, .. } => format!("start vm {vm}"),
        Work::ShareVm { vm, .. } => format!("give vm {vm} its shares"),
        Work::StopSwitch => "stop switch".to_owned(),
    }
}
