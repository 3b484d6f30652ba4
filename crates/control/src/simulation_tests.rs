//! The whole controller on a simulated host: killed anywhere, by two users at once, on a full disk.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weft_machine::Exit;
use weft_model::view::{ApplyRequest, ForwardRequest, OperationState, OperationView, ProblemView, VmState};
use weft_store::{MemoryStore, Store as _};
use weft_types::{ByteSize, Listen, VmName};

use crate::Paths;
use crate::controller::{Controller, VmAction};
use crate::desired::{Desired, Records};
use crate::inner::Settings;
use crate::objects;
use crate::observed::Observed;
use crate::plan::plan;
use crate::sample::{EDITED, OWNER, THREE, world, world_of};
use crate::simulation::{Fuse, SimulatedHost, SimulatedStore, World, crash_switch, crash_vm, lock};

const PATIENCE: Duration = Duration::from_secs(30);

/// What outlives a controller.
struct Bed {
    home: tempfile::TempDir,
    world: Arc<Mutex<World>>,
    store: Arc<MemoryStore>,
    full: Arc<AtomicBool>,
    settings: Settings,
}

impl Bed {
    fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            world: Arc::default(),
            store: Arc::default(),
            full: Arc::default(),
            settings: Settings { parallel: 1, ..Settings::default() },
        }
    }

    fn paths(&self) -> Paths {
        let below = |name: &str| self.home.path().join(name);
        Paths { state: below("state"), cache: below("cache"), run: below("run") }
    }

    fn open(&self) -> Controller {
        self.open_with(&Fuse::endless())
    }

    fn open_with(&self, fuse: &Arc<Fuse>) -> Controller {
        let host = SimulatedHost { world: self.world.clone(), fuse: fuse.clone() };
        let store = SimulatedStore { store: self.store.clone(), fuse: fuse.clone(), full: self.full.clone() };
        self.paths().create().unwrap();
        Controller::begin(self.paths(), Arc::new(host), Arc::new(store), self.settings.clone()).unwrap()
    }

    fn desired(&self) -> Desired {
        Records::read(&self.store.range(objects::ROOT).unwrap()).unwrap().desired
    }

    /// What was done since the last call.
    fn done(&self) -> String {
        std::mem::take(&mut lock(&self.world).log).join(", ")
    }

    /// Holds the host against the store: everything that should be is, and nothing else.
    #[track_caller]
    fn assert_converged(&self) {
        let records = Records::read(&self.store.range(objects::ROOT).unwrap()).unwrap();
        let host = SimulatedHost { world: self.world.clone(), fuse: Fuse::endless() };
        use crate::host::Host as _;
        let follows = |revision| host.switch_status().is_ok_and(|status| status.revision == revision);
        let observed = Observed {
            switch: host.find_switch(),
            switch_remains: host.switch_remains(),
            applied: records.applied.clone(),
            in_force: records.applied.as_ref().is_some_and(|applied| follows(applied.revision)),
            vms: host.vms(),
            images: host.built_images(),
        };
        assert_eq!(plan(&records.desired, &observed, &self.paths()), Default::default());
        assert!(records.operations.values().all(|operation| operation.ended()), "{:?}", records.operations);
        if records.desired.is_empty() {
            assert!(observed.vms.is_empty() && observed.switch.is_none(), "something leaked: {observed:?}");
            let keys: Vec<_> = self.store.range(objects::ROOT).unwrap().entries.into_iter().map(|e| e.key).collect();
            let allowed = |key: &String| {
                key.starts_with(objects::OPERATIONS) || key == objects::GENERATION || key == objects::BOOT
            };
            assert!(keys.iter().all(allowed), "something leaked: {keys:?}");
        }
    }
}

fn request(source: &str) -> ApplyRequest {
    ApplyRequest { owner: OWNER.to_owned(), world: world(source), if_revision: None }
}

fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

#[track_caller]
fn apply(controller: &Controller, source: &str) -> OperationView {
    wait(controller, controller.apply(request(source)).unwrap())
}

#[track_caller]
fn act(controller: &Controller, name: &str, action: VmAction) -> OperationView {
    wait(controller, controller.vm_action(&vm(name), action).unwrap())
}

#[track_caller]
fn wait(controller: &Controller, id: u64) -> OperationView {
    let operation = controller.wait_operation(id, PATIENCE).unwrap();
    let ended = matches!(operation.state, OperationState::Done | OperationState::Failed);
    assert!(ended, "{operation:?} {:?}", controller.events(0, None, Duration::ZERO));
    operation
}

#[track_caller]
fn assert_done(operation: &OperationView) {
    assert_eq!((operation.state, &operation.problems[..]), (OperationState::Done, &[][..]));
}

fn wait_for_all(controller: &Controller) {
    for operation in controller.operations() {
        wait(controller, operation.id);
    }
}

#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn states(controller: &Controller) -> String {
    let view = controller.view();
    let line = |vm: &weft_model::view::VmView| {
        let reason = vm.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{} {:?}{reason}\n", vm.name, vm.state).to_lowercase()
    };
    view.vms.iter().map(line).collect()
}

fn problems(problems: &[ProblemView]) -> String {
    let line = |problem: &ProblemView| {
        let rest = [&problem.detail, &problem.hint].into_iter().flatten();
        format!("{}: {}\n{}", problem.code, problem.title, rest.map(|text| format!("  {text}\n")).collect::<String>())
    };
    problems.iter().map(line).collect()
}

fn check_problems(found: &[ProblemView], expected: Expect) {
    expected.assert_eq(&problems(found));
}

fn kinds(controller: &Controller) -> Vec<String> {
    controller.events(0, None, Duration::ZERO).into_iter().map(|event| event.kind).collect()
}

#[test]
fn up_again_edit_down() {
    let bed = Bed::new();
    let controller = bed.open();
    assert!(controller.is_empty());
    assert_done(&apply(&controller, THREE));
    expect!["start switch, image micro, apply, start db, start laptop, start web"].assert_eq(&bed.done());
    expect![[r#"
        db ready
        laptop ready
        web ready
    "#]]
    .assert_eq(&states(&controller));
    assert!(!controller.is_empty());
    bed.assert_converged();

    assert_done(&apply(&controller, THREE));
    assert_eq!(bed.done(), "");

    assert_done(&apply(&controller, EDITED));
    expect!["image micro, stop db, stop web, remove db, apply, start extra, start web"].assert_eq(&bed.done());
    bed.assert_converged();

    assert_done(&apply(&controller, ""));
    expect!["stop extra, stop laptop, stop web, remove extra, remove laptop, remove web, stop switch"]
        .assert_eq(&bed.done());
    bed.assert_converged();
    assert!(controller.is_empty());
    assert_done(&apply(&controller, ""));
    assert_eq!(bed.done(), "");
    controller.shutdown();
}

#[test]
fn a_kill_anywhere_is_healed_by_the_next_controller() {
    for (before, after) in [("", THREE), (THREE, EDITED), (THREE, "")] {
        for last_happens in [false, true] {
            for effects in 1.. {
                let bed = Bed::new();
                let controller = bed.open();
                assert_done(&apply(&controller, before));
                controller.shutdown();

                let fuse = Fuse::of(effects, last_happens);
                let controller = bed.open_with(&fuse);
                if let Ok(id) = controller.apply(request(after)) {
                    controller.wait_operation(id, PATIENCE);
                }
                controller.shutdown();
                let killed = fuse.blown();

                let controller = bed.open();
                wait_for_all(&controller);
                bed.assert_converged();
                for operation in controller.operations() {
                    assert_done(&operation);
                }
                assert_done(&apply(&controller, after));
                bed.assert_converged();
                assert_done(&apply(&controller, ""));
                bed.assert_converged();
                assert!(controller.is_empty());
                controller.shutdown();
                if !killed {
                    assert!(effects > 5, "nothing was killed");
                    break;
                }
            }
        }
    }
}

#[test]
fn two_at_once_take_turns() {
    let bed = Bed::new();
    let controller = bed.open();
    let other = ApplyRequest {
        owner: "/lab/other.toml".to_owned(),
        world: world_of("/lab/other.toml", "[network.far]\nsubnet = '10.99.0.0/24'\n[vm.far-1]\nnics = ['far']\n"),
        if_revision: None,
    };
    std::thread::scope(|scope| {
        for request in [request(THREE), request(EDITED), other, request(THREE)] {
            let controller = controller.clone();
            scope.spawn(move || controller.apply(request).map(|id| wait(&controller, id)).unwrap());
        }
    });
    wait_for_all(&controller);
    bed.assert_converged();
    assert_eq!(controller.view().vms.len(), 4);
    controller.shutdown();
}

#[test]
fn a_full_disk_changes_nothing() {
    let bed = Bed::new();
    let controller = bed.open();
    bed.full.store(true, Ordering::SeqCst);
    check_problems(
        &controller.apply(request(THREE)).unwrap_err(),
        expect![[r#"
            store-full: No space left to write the store /full/store.db
              make room on that file system, then run the same command again
        "#]],
    );
    assert_eq!((bed.done(), controller.is_empty()), (String::new(), true));
    bed.full.store(false, Ordering::SeqCst);
    assert_done(&apply(&controller, THREE));
    controller.shutdown();
}

#[test]
fn a_machine_that_cannot_be_started_takes_no_other_with_it() {
    let bed = Bed::new();
    lock(&bed.world).broken.insert(vm("db"));
    let controller = bed.open();
    let operation = apply(&controller, THREE);
    assert_eq!(operation.state, OperationState::Failed);
    check_problems(
        &operation.problems,
        expect![[r#"
            engine-exited: QEMU exited before `db` ran
        "#]],
    );
    assert_eq!(operation.problems[0].provenance.as_ref().and_then(|place| place.line), Some(9));
    let failed = expect![[r#"
        db failed (qemu exited before `db` ran)
        laptop ready
        web ready
    "#]];
    failed.assert_eq(&states(&controller));
    bed.done();
    controller.shutdown();

    let controller = bed.open();
    failed.assert_eq(&states(&controller));
    assert_eq!(bed.done(), "", "not tried again until somebody asks");
    lock(&bed.world).broken.clear();
    assert_done(&apply(&controller, THREE));
    expect!["image micro, start db"].assert_eq(&bed.done());
    controller.shutdown();
}

#[test]
fn a_machine_that_dies_stays_dead_until_somebody_asks() {
    let bed = Bed::new();
    let controller = bed.open();
    assert_done(&apply(&controller, THREE));
    bed.done();
    crash_vm(&bed.world, "db", Exit::Signal(9));
    crash_vm(&bed.world, "laptop", Exit::Code(0));
    let sad = expect![[r#"
        db failed (its engine was killed (signal 9))
        laptop stopped (powered off from inside)
        web ready
    "#]];
    eventually("both are noticed", || kinds(&controller).iter().filter(|kind| kind.starts_with("vm-")).count() == 5);
    eventually("both are shown", || !states(&controller).contains("db ready"));
    sad.assert_eq(&states(&controller));
    assert!(kinds(&controller).contains(&"vm-died".to_owned()) && kinds(&controller).contains(&"vm-off".to_owned()));
    let drift = |controller: &Controller| {
        let drift = controller.plan(&request(THREE)).unwrap().drift;
        drift.iter().map(|drift| format!("{}: {}\n", drift.name, drift.detail)).collect::<String>()
    };
    expect![[r#"
        db: its engine was killed (signal 9)
        laptop: powered off from inside
    "#]]
    .assert_eq(&drift(&controller));
    controller.shutdown();

    crash_vm(&bed.world, "web", Exit::Signal(9));
    let controller = bed.open();
    expect![[r#"
        db failed (its engine was killed (signal 9))
        laptop stopped (powered off from inside)
        web failed (its engine ended, while no daemon ran)
    "#]]
    .assert_eq(&states(&controller));
    wait_for_all(&controller);
    assert_eq!(bed.done(), "");
    assert_done(&apply(&controller, THREE));
    expect!["image micro, start db, start laptop, start web"].assert_eq(&bed.done());
    bed.assert_converged();
    controller.shutdown();
}

/// The host is started again: nothing that ran does.
fn restart_host(world: &Mutex<World>) {
    for name in ["db", "laptop", "web"] {
        crash_vm(world, name, Exit::Unknown);
    }
    crash_switch(world);
    lock(world).boot += 1;
}

#[test]
fn what_is_enabled_comes_back_with_the_host() {
    let bed = Bed::new();
    let controller = bed.open();
    let refused = controller.enable(OWNER, true).unwrap_err();
    assert_eq!(refused.code, "no-such-owner");
    assert_done(&apply(&controller, THREE));
    assert_done(&act(&controller, "laptop", VmAction::Stop { force: false }));
    bed.done();
    controller.shutdown();

    // The power fails, and nobody has asked for anything.
    restart_host(&bed.world);
    let controller = bed.open();
    expect![[r#"
        db stopped (stopped when the host went down)
        laptop stopped (stopped by `weft vm stop laptop`)
        web stopped (stopped when the host went down)
    "#]]
    .assert_eq(&states(&controller));
    wait_for_all(&controller);
    controller.enable(OWNER, true).unwrap();
    controller.enable(OWNER, true).unwrap();
    assert_eq!(controller.view().enabled, [OWNER]);
    assert_done(&wait(&controller, controller.boot().unwrap()));
    let ready = expect![[r#"
        db ready
        laptop stopped (stopped by `weft vm stop laptop`)
        web ready
    "#]];
    ready.assert_eq(&states(&controller));
    controller.shutdown();

    // It fails again.
    restart_host(&bed.world);
    let controller = bed.open();
    wait_for_all(&controller);
    ready.assert_eq(&states(&controller));
    bed.assert_converged();

    // It is taken down in good order, twice as it may be, and the daemon with it.
    assert_done(&wait(&controller, controller.halt().unwrap()));
    assert_done(&wait(&controller, controller.halt().unwrap()));
    assert!(!states(&controller).contains("ready"));
    controller.shutdown();
    let controller = bed.open();
    wait_for_all(&controller);
    assert!(!states(&controller).contains("ready"), "while the host goes down, a daemon brings nothing back");
    controller.shutdown();
    restart_host(&bed.world);
    let controller = bed.open();
    wait_for_all(&controller);
    ready.assert_eq(&states(&controller));

    // No more, and what is removed is forgotten.
    controller.enable(OWNER, false).unwrap();
    controller.shutdown();
    restart_host(&bed.world);
    let controller = bed.open();
    wait_for_all(&controller);
    assert!(!states(&controller).contains("ready"));
    controller.enable(OWNER, true).unwrap();
    assert_done(&apply(&controller, ""));
    bed.assert_converged();
    controller.shutdown();
}

#[test]
fn a_switch_that_dies_is_replaced_at_once() {
    let bed = Bed::new();
    let controller = bed.open();
    assert_done(&apply(&controller, THREE));
    bed.done();
    let before = lock(&bed.world).config.clone();
    crash_switch(&bed.world);
    eventually("a new switch", || kinds(&controller).contains(&"switch-restarted".to_owned()));
    assert_eq!(bed.done(), "start switch, apply");
    assert_eq!(lock(&bed.world).config, before);
    bed.assert_converged();
    controller.shutdown();

    crash_switch(&bed.world);
    let controller = bed.open();
    eventually("a new switch", || kinds(&controller).iter().filter(|kind| *kind == "switch-restarted").count() == 2);
    bed.assert_converged();
    assert_done(&apply(&controller, ""));
    bed.assert_converged();
    assert!(!kinds(&controller)[..].ends_with(&["switch-restarted".to_owned()]), "its end on purpose is no accident");
    controller.shutdown();
}

#[test]
fn commands_override_and_up_restores() {
    let bed = Bed::new();
    let controller = bed.open();
    assert_done(&apply(&controller, THREE));
    bed.done();
    assert_done(&act(&controller, "db", VmAction::Stop { force: false }));
    assert_eq!(bed.done(), "stop db, apply");
    assert_done(&act(&controller, "laptop", VmAction::Remove));
    assert_eq!(bed.done(), "stop laptop, remove laptop, apply");
    assert_done(&act(&controller, "web", VmAction::Restart));
    assert_eq!(bed.done(), "image micro, stop web, start web");
    expect![[r#"
        db stopped (stopped by `weft vm stop db`)
        web ready
    "#]]
    .assert_eq(&states(&controller));
    check_problems(
        &controller.vm_action(&vm("laptop"), VmAction::Start).unwrap_err(),
        expect![[r#"
            no-such-vm: there is no VM `laptop`
              `weft vm ls` lists them
        "#]],
    );
    bed.assert_converged();
    controller.shutdown();

    let controller = bed.open();
    assert_eq!(bed.done(), "");
    let plan = controller.plan(&request(THREE)).unwrap();
    let drift: Vec<_> = plan.drift.iter().map(|drift| format!("{}: {}", drift.name, drift.detail)).collect();
    assert_eq!(drift, ["db: stopped by `weft vm stop db`", "laptop: removed by `weft vm rm laptop`"]);
    assert_done(&act(&controller, "db", VmAction::Start));
    assert_eq!(bed.done(), "image micro, apply, start db");
    assert_done(&apply(&controller, THREE));
    assert_eq!(bed.done(), "image micro, apply, start laptop");
    assert!(controller.plan(&request(THREE)).unwrap().drift.is_empty());
    bed.assert_converged();
    controller.shutdown();
}

#[test]
fn others_objects_are_theirs() {
    let bed = Bed::new();
    let controller = bed.open();
    assert_done(&apply(&controller, THREE));
    bed.done();
    let other = |source: &str| ApplyRequest {
        owner: "/lab/other.toml".to_owned(),
        world: world_of("/lab/other.toml", source),
        if_revision: None,
    };
    let clash = "[network.wide]\nsubnet = '10.0.0.0/8'\n[network.office]\nsubnet = '192.168.7.0/24'\n[vm.web]\n";
    check_problems(
        &controller.apply(other(clash)).unwrap_err(),
        expect![[r#"
            name-taken: there is a network `office` already
              declared at /lab/other.toml:3, and already at /lab/lab.toml:2
              call this one something else, or take the other away: weft down /lab/lab.toml
            name-taken: there is a VM `web` already
              declared at /lab/other.toml:5, and already at /lab/lab.toml:7
              call this one something else, or take the other away: weft down /lab/lab.toml
            overlapping-subnets: the subnet 10.0.0.0/8 of network `wide` overlaps with 10.30.0.0/24 of network `backstage`
              declared at /lab/other.toml:1, and already at /lab/lab.toml:4
              choose another `subnet`
            overlapping-subnets: the subnet 10.0.0.0/8 of network `wide` overlaps with 10.20.0.0/24 of network `office`
              declared at /lab/other.toml:1, and already at /lab/lab.toml:2
              choose another `subnet`
        "#]],
    );
    assert_eq!(bed.done(), "");
    assert_done(&wait(&controller, controller.apply(other("[vm.alone]\n")).unwrap()));
    assert_done(&wait(&controller, controller.apply(other("")).unwrap()));
    expect!["image micro, start alone, stop alone, remove alone"].assert_eq(&bed.done());
    assert_eq!(controller.view().vms.len(), 3);
    controller.shutdown();
}

#[test]
fn a_plan_that_is_no_longer_true_is_refused() {
    let bed = Bed::new();
    let controller = bed.open();
    let revision = controller.plan(&request(THREE)).unwrap().revision;
    let planned = ApplyRequest { if_revision: Some(revision), ..request(THREE) };
    assert_done(&wait(&controller, controller.apply(planned.clone()).unwrap()));
    let refused = controller.apply(planned).unwrap_err();
    assert_eq!(refused[0].code, "changed-meanwhile");
    controller.shutdown();
}

#[test]
fn too_little_memory_starts_nothing() {
    let bed = Bed::new();
    lock(&bed.world).memory = Some(ByteSize::from_mib(700));
    let controller = bed.open();
    check_problems(
        &controller.apply(request(THREE)).unwrap_err(),
        expect![[r#"
            no-memory: not enough memory: this would take 768MiB, and 700MiB are available
              give the VMs less `memory`, start fewer of them, or end other programs
        "#]],
    );
    assert_eq!((bed.done(), bed.desired().is_empty()), (String::new(), true));
    controller.shutdown();
}

#[test]
fn a_machine_that_is_never_ready_is_named_with_its_last_words() {
    let mut bed = Bed::new();
    let soon = Duration::from_millis(50);
    bed.settings = Settings { ready_within: soon, silence: soon, ready_at_last: soon, ..bed.settings };
    lock(&bed.world).mute.insert(vm("db"));
    let controller = bed.open();
    let operation = apply(&controller, THREE);
    check_problems(
        &operation.problems,
        expect![[r#"
            not-ready: `db` is not ready after 1 s: it waits for its agent to answer
              the last lines of its console:
            [    1.0] booting
            login:
              `weft logs db` shows its console; `ready = "running"` waits for neither agent nor lease
        "#]],
    );
    lock(&bed.world).mute.clear();
    eventually("it is ready after all", || controller.view().vms.iter().all(|vm| vm.state == VmState::Ready));
    controller.shutdown();
}

#[test]
fn a_lease_of_an_earlier_run_makes_no_machine_ready() {
    let mut bed = Bed::new();
    let soon = Duration::from_millis(50);
    bed.settings = Settings { ready_within: soon, silence: soon, ready_at_last: soon, ..bed.settings };
    let world = "[network.a]\n[vm.x]\nready = 'lease'\nnics = ['a']\n[vm.y]\n";
    let controller = bed.open();
    assert_done(&apply(&controller, world));
    lock(&bed.world).leases.insert(vm("x"), 7);
    let again = act(&controller, "x", VmAction::Restart);
    assert_eq!((again.state, &again.problems[0].code[..]), (OperationState::Failed, "not-ready"));
    assert!(again.problems[0].title.ends_with("it waits for a lease on a"), "{:?}", again.problems);
    lock(&bed.world).leases.insert(vm("x"), 8);
    eventually("it has renewed it", || controller.view().vms.iter().all(|vm| vm.state == VmState::Ready));
    controller.shutdown();
}

#[test]
fn an_address_is_shown_where_no_lease_could_be() {
    let bed = Bed::new();
    let controller = bed.open();
    let fixed =
        "[network.a]\nsubnet = '10.20.0.0/24'\ndhcp = false\n[vm.x]\nnics = [{ network = 'a', ip = '10.20.0.9' }]\n";
    assert_done(&apply(&controller, fixed));
    let world = controller.view();
    assert_eq!(world.vms[0].nics[0].ip, Some("10.20.0.9".parse().unwrap()));
    controller.shutdown();
}

#[test]
fn what_was_changed_can_be_taken_back() {
    let bed = Bed::new();
    let controller = bed.open();
    assert_eq!(controller.world_before(OWNER).unwrap_err().code, "nothing-to-undo");
    assert_done(&apply(&controller, THREE));
    assert_eq!(controller.world_before(OWNER).unwrap(), weft_model::World::default());
    assert_done(&apply(&controller, EDITED));
    assert_eq!(controller.world_before(OWNER).unwrap(), world(THREE));
    // What changes nothing, and what commands do, is nothing to take back.
    assert_done(&apply(&controller, EDITED));
    assert_done(&act(&controller, "web", VmAction::Stop { force: true }));
    assert_done(&apply(&controller, EDITED));
    assert_eq!(controller.world_before(OWNER).unwrap(), world(THREE));
    controller.shutdown();
    // A later daemon knows it too, and what was taken back can be taken back.
    let controller = bed.open();
    let before = controller.world_before(OWNER).unwrap();
    let request = ApplyRequest { owner: OWNER.to_owned(), world: before, if_revision: None };
    assert_done(&wait(&controller, controller.apply(request).unwrap()));
    bed.assert_converged();
    assert_eq!(controller.world_before(OWNER).unwrap(), world(EDITED));
    assert_done(&apply(&controller, ""));
    assert_eq!(controller.world_before(OWNER).unwrap(), world(THREE));
    assert_eq!(controller.world_before("/else.toml").unwrap_err().code, "nothing-to-undo");
    controller.shutdown();
}

/// A machine with a disk of its own.
fn with_disk(dir: &Path) -> String {
    let disk = dir.join("disk");
    std::fs::write(&disk, [0; 512]).unwrap();
    format!("[image.d]\ndisk = '{}'\n[vm.x]\nimage = 'd'\n", disk.display())
}

#[test]
fn a_guest_that_does_not_hear_is_waited_for_until_a_forced_stop() {
    let bed = Bed::new();
    lock(&bed.world).deaf.insert(vm("x"));
    let controller = bed.open();
    let world = with_disk(bed.home.path());
    assert_done(&apply(&controller, &world));
    let polite = controller.vm_action(&vm("x"), VmAction::Stop { force: false }).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(controller.view().vms[0].state, VmState::Stopping);
    assert_done(&act(&controller, "x", VmAction::Stop { force: true }));
    assert_done(&wait(&controller, polite));
    let told = controller.events(0, None, Duration::ZERO);
    assert!(told.iter().any(|event| event.kind == "vm-cut-off"), "{told:?}");
    // What goes with its disk has nothing to write down first.
    assert_done(&apply(&controller, &world));
    let began = Instant::now();
    assert_done(&apply(&controller, ""));
    assert!(began.elapsed() < Duration::from_secs(5));
    bed.assert_converged();
    controller.shutdown();
}

#[test]
fn a_machine_without_room_to_write_is_told_of_until_it_goes_on() {
    let mut bed = Bed::new();
    bed.settings.housekeeping = Duration::from_millis(5);
    let controller = bed.open();
    assert_done(&apply(&controller, &with_disk(bed.home.path())));
    lock(&bed.world).stuck.insert(vm("x"));
    let reason = || controller.view().vms[0].reason.clone().unwrap_or_default();
    eventually("it is told", || reason().contains("waits for room on the host's disk"));
    lock(&bed.world).stuck.clear();
    eventually("it goes on", || reason().is_empty());
    let told = |kind: &str| controller.events(0, None, Duration::ZERO).iter().filter(|it| it.kind == kind).count();
    assert_eq!((told("vm-disk-full"), told("vm-goes-on")), (1, 1));
    controller.shutdown();
}

#[test]
fn a_machine_that_could_not_be_started_again_is_not_stopped() {
    let bed = Bed::new();
    let controller = bed.open();
    let world = with_disk(bed.home.path());
    assert_done(&apply(&controller, &world));
    lock(&bed.world).broken.insert(vm("x"));
    let larger = apply(&controller, &format!("{world}memory = '2GiB'\n"));
    assert_eq!((larger.state, &larger.problems[0].code[..]), (OperationState::Failed, "image-file-changed"));
    assert_eq!(controller.view().vms[0].state, VmState::Ready);
    controller.shutdown();
}

#[test]
fn an_agent_that_is_silent_for_a_moment_makes_no_machine_ready() {
    let bed = Bed::new();
    lock(&bed.world).unseen.insert(vm("db"));
    let controller = bed.open();
    controller.apply(request(THREE)).unwrap();
    eventually("the others are ready", || states(&controller).matches("ready").count() == 2);
    std::thread::sleep(Duration::from_millis(100));
    assert!(controller.view().vms.iter().any(|vm| vm.name.as_str() == "db" && vm.state == VmState::Starting));
    lock(&bed.world).unseen.clear();
    eventually("db is ready too", || controller.view().vms.iter().all(|vm| vm.state == VmState::Ready));
    controller.shutdown();
}

#[test]
fn who_has_lost_a_lease_asks_for_a_new_one_before_up_returns() {
    let bed = Bed::new();
    let controller = bed.open();
    assert_done(&apply(&controller, THREE));
    lock(&bed.world).lost.insert(vm("db"));
    let operation = apply(&controller, THREE);
    assert_done(&operation);
    assert!(lock(&bed.world).lost.is_empty());
    let told: Vec<_> = controller.events(0, Some(operation.id), Duration::ZERO);
    let told: Vec<_> = told.iter().filter(|event| event.object_kind.as_deref() == Some("vm")).collect();
    let told: Vec<_> = told.iter().map(|event| (&event.kind[..], &event.message[..])).collect();
    assert_eq!(told, [("vm-renews", "db asks for a new lease on backstage"), ("vm-ready", "db is ready")]);
    controller.shutdown();
}

#[test]
fn down_does_not_wait_for_an_up_that_waits() {
    let bed = Bed::new();
    lock(&bed.world).mute.insert(vm("db"));
    let controller = bed.open();
    let up = controller.apply(request(THREE)).unwrap();
    eventually("db starts", || {
        controller.view().vms.iter().any(|vm| vm.state == VmState::Starting && vm.pid.is_some())
    });
    let began = Instant::now();
    assert_done(&apply(&controller, ""));
    assert!(began.elapsed() < Duration::from_secs(2));
    let up = wait(&controller, up);
    assert_eq!((up.state, &up.problems[0].code[..]), (OperationState::Failed, "superseded"));
    bed.assert_converged();
    controller.shutdown();
}

#[test]
fn operations_are_forgotten_at_last() {
    let bed = Bed::new();
    let controller = bed.open();
    for _ in 0..130 {
        assert_done(&apply(&controller, ""));
    }
    assert!(controller.operations().len() <= 102);
    assert!(bed.store.range(objects::OPERATIONS).unwrap().entries.len() <= 102);
    assert!(controller.operation(130).is_some() && controller.operation(1).is_none());
    controller.shutdown();
}

/// What can happen to a world.
#[derive(Clone, Debug)]
enum Happening {
    Apply(&'static str),
    Act(&'static str, VmAction),
    CrashVm(&'static str),
    CrashSwitch,
    /// The controller dies after so many effects from now on.
    Kill(i64, bool),
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let vms = prop::sample::select(vec!["web", "db", "laptop", "extra"]);
    let actions = prop::sample::select(vec![
        VmAction::Start,
        VmAction::Stop { force: false },
        VmAction::Stop { force: true },
        VmAction::Restart,
        VmAction::Remove,
    ]);
    prop_oneof![
        3 => prop::sample::select(vec!["", THREE, EDITED]).prop_map(Happening::Apply),
        2 => (vms.clone(), actions).prop_map(|(vm, action)| Happening::Act(vm, action)),
        1 => vms.prop_map(Happening::CrashVm),
        1 => Just(Happening::CrashSwitch),
        3 => (1i64..25, any::<bool>()).prop_map(|(effects, happens)| Happening::Kill(effects, happens)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_the_next_up_and_down_converge(happenings in prop::collection::vec(any_happening(), 1..12)) {
        let bed = Bed::new();
        let mut fuse = Fuse::endless();
        let mut controller = bed.open_with(&fuse);
        for happening in happenings {
            match happening {
                Happening::Apply(source) => drop(controller.apply(request(source))),
                Happening::Act(name, action) => drop(controller.vm_action(&vm(name), action)),
                Happening::CrashVm(name) => crash_vm(&bed.world, name, Exit::Signal(9)),
                Happening::CrashSwitch => crash_switch(&bed.world),
                Happening::Kill(effects, last_happens) => {
                    controller.shutdown();
                    fuse = Fuse::of(effects, last_happens);
                    controller = bed.open_with(&fuse);
                }
            }
        }
        controller.shutdown();
        let controller = bed.open();
        wait_for_all(&controller);
        assert_done(&apply(&controller, THREE));
        bed.assert_converged();
        assert_done(&apply(&controller, ""));
        bed.assert_converged();
        prop_assert!(controller.is_empty());
        controller.shutdown();
    }
}

#[test]
fn forwards_are_added_and_removed() {
    let bed = Bed::new();
    let controller = bed.open();
    apply(&controller, THREE);
    bed.done();
    let place = |text: &str| text.parse::<Listen>().unwrap();
    let forward =
        |listen: &str, to: &str| ForwardRequest { listen: place(listen), to: to.parse().unwrap(), network: None };
    let add = |listen: &str, to: &str| controller.add_forward(&forward(listen, to));
    let codes = |problems: Vec<ProblemView>| problems.into_iter().map(|problem| problem.code).collect::<Vec<_>>();
    wait(&controller, add("8080", "web:80").unwrap());
    wait(&controller, add("udp/8080", "10.20.0.10:53").unwrap());
    bed.assert_converged();
    // Nothing that cannot be is written down.
    lock(&bed.world).taken.push(place("9000"));
    let before = bed.desired();
    assert_eq!(codes(add("0.0.0.0:8080", "web:81").unwrap_err()), ["taken"]);
    assert_eq!(codes(add("9000", "web:80").unwrap_err()), ["forward-failed"]);
    assert_eq!(codes(add("8081", "nobody:80").unwrap_err()), ["no-such-vm"]);
    assert_eq!(codes(add("8081", "db:80").unwrap_err()), ["contradiction"], "on an internal network only");
    assert_eq!(codes(controller.remove_forward(&place("8081")).unwrap_err()), ["no-such-forward"]);
    assert_eq!(bed.desired(), before);
    // A file cannot take what a command has, and leaves it alone otherwise.
    let with =
        |forwards: &str| THREE.replace("[network.backstage]", &format!("forwards = {forwards}\n[network.backstage]"));
    assert_eq!(codes(controller.apply(request(&with("['8080 -> laptop:80']"))).unwrap_err()), ["name-taken"]);
    apply(&controller, &with("['7070 -> laptop:80']"));
    assert_eq!(controller.view().forwards.len(), 3);
    assert_eq!(codes(controller.remove_forward(&place("7070")).unwrap_err()), ["declared-by-file"]);
    wait(&controller, controller.remove_forward(&place("udp/8080")).unwrap());
    assert_eq!(bed.desired().forwards.len(), 1);
    // It goes with its machine.
    apply(&controller, &with("[]").replace("[vm.web]", "[vm.spider]"));
    assert!(bed.desired().forwards.is_empty());
    apply(&controller, "");
    bed.assert_converged();
    controller.shutdown();
}
