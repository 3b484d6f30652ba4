//! What follows from a change: the plan as people see it, and the laws that hold for any plan.

use std::time::Duration;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weft_machine::Process;
use weft_model::view::StepView;
use weft_types::{Provenance, VmName};

use crate::desired::{Desired, dataplane_config};
use crate::objects::{Fate, Override, Wish};
use crate::observed::Observed;
use crate::plan::{Plan, Work, plan};
use crate::sample::{EDITED, OWNER, THREE, converged, desired, paths, world};

fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

fn line(step: &StepView) -> String {
    let (action, impact) = (format!("{:?}", step.action).to_lowercase(), format!("{:?}", step.impact).to_lowercase());
    let place = step.provenance.as_ref().map(|place| format!(" @{}", place.line.unwrap_or(0))).unwrap_or_default();
    format!("{action} {} {}: {} ({impact}){place}\n", step.kind, step.name, step.detail)
}

fn shown(plan: &Plan) -> String {
    plan.steps().map(line).collect()
}

fn check(before: &Desired, after: &Desired, expected: Expect) {
    expected.assert_eq(&shown(&plan(after, &converged(before), &paths())));
}

fn check_edit(before: &str, after: &str, expected: Expect) {
    check(&desired(before), &desired(before).with_world(OWNER, &world(after)), expected);
}

#[test]
fn a_first_up() {
    let fresh = Observed::default();
    let plan = plan(&desired(THREE), &fresh, &paths());
    expect![[r#"
        start switch switch: the virtual switch's process (hitless)
        create image micro: build from Debian's packages (hitless)
        create network backstage: internal, 10.30.0.0/24 (hitless) @4
        create network office: nat, 10.20.0.0/24 (hitless) @2
        create vm db: start with image micro, 256MiB, 1 CPU, on backstage (hitless) @9
        create vm laptop: start with image micro, 256MiB, 1 CPU, on office (hitless) @11
        create vm web: start with image micro, 256MiB, 1 CPU, on office, backstage (hitless) @7
    "#]]
    .assert_eq(&shown(&plan));
    assert_eq!(plan.memory.mib(), 3 * 256);
}

#[test]
fn modes_change_and_ports_stay() {
    let with = |mode: &str| THREE.replace("mode = \"internal\"", mode);
    check_edit(
        &with("mode = 'nat'"),
        &with("mode = 'host-only'"),
        expect![[r#"
            update network backstage: mode nat -> host-only (release) @4
            create adapter weft-backstage: 10.30.0.254/24 of the host on backstage (hitless) @4
        "#]],
    );
    check_edit(
        &with("mode = 'host-only'"),
        &with("mode = 'internal'"),
        expect![[r#"
            update network backstage: mode host-only -> internal (hitless) @4
            remove adapter weft-backstage: 10.30.0.254/24 of the host on backstage (hitless) @4
        "#]],
    );
    check_edit(
        &with("mode = 'host-only'"),
        &with("mode = 'host-only'\nhost = { weft-backstage = '10.30.0.9', mgmt = '10.30.0.8' }"),
        expect![[r#"
            create adapter mgmt: 10.30.0.8/24 of the host on backstage (hitless) @4
            update adapter weft-backstage: 10.30.0.254/24 of the host on backstage -> 10.30.0.9/24 of the host on backstage (hitless) @4
        "#]],
    );
}

#[test]
fn forwards_come_and_go() {
    let with =
        |forwards: &str| THREE.replace("[network.backstage]", &format!("forwards = {forwards}\n[network.backstage]"));
    check_edit(
        &with("['8080 -> web:80', '8081 -> web:81', '8082 -> web:82']"),
        &with("['8080 -> web:80', '8081 -> laptop:81', 'udp/8082 -> web:82']"),
        expect![[r#"
            update forward tcp/127.0.0.1:8081: to web:81 on office -> laptop:81 on office (hitless) @4
            create forward udp/127.0.0.1:8082: to web:82 on office (hitless) @4
            remove forward tcp/127.0.0.1:8082: to web:82: its connections end (hitless) @4
        "#]],
    );
}

#[test]
fn routers_come_and_go_and_ports_stay() {
    let with = |router: &str| format!("{THREE}{router}");
    let core = "[router.core]\nnetworks = ['office', 'backstage']\n";
    let one = with(&format!("{core}rules = ['allow office -> db tcp/5432']\n"));
    check_edit(
        THREE,
        &one,
        expect![[r#"
        create router core: joins office backstage, 1 rule, else deny (hitless) @13
    "#]],
    );
    check_edit(
        &one,
        &with(&format!("{core}rules = ['allow office -> db tcp/5433']\n")),
        expect![[r#"
        update router core: rules changed (hitless) @13
    "#]],
    );
    check_edit(
        &one,
        &with(&format!("{core}default = 'allow'\n")),
        expect![[r#"
        update router core: 1 rule, else deny -> 0 rules, else allow (hitless) @13
    "#]],
    );
    check_edit(
        &one,
        THREE,
        expect![[r#"
        remove router core: joins office backstage no more (hitless) @13
    "#]],
    );
    let router = &dataplane_config(&desired(&one), &paths()).routers[0];
    expect![[r#"Stations { stations: [StationConfig { network: "backstage", mac: 2e:86:16:cc:3c:1f }] }"#]]
        .assert_eq(&format!("{:?}", router.rules[0].to));
}

#[test]
fn up_again_does_nothing() {
    let desired = desired(THREE);
    assert!(plan(&desired, &converged(&desired), &paths()).is_empty());
}

#[test]
fn lines_that_move_are_told_to_the_switch_and_to_nobody_else() {
    let moved = format!("# a comment\n{THREE}");
    let before = desired(THREE);
    let plan = plan(&desired(&moved), &converged(&before), &paths());
    assert_eq!(shown(&plan), "");
    assert!(matches!(plan.tasks[..], [crate::plan::Task { work: Work::ApplyDataplane(_), .. }]));
}

#[test]
fn an_edit_changes_only_the_difference() {
    check_edit(
        THREE,
        EDITED,
        expect![[r#"
            remove vm db: stop, and delete its files (restart)
            update network office: host access off -> on (hitless) @2
            remove network backstage: its switch and services go (hitless) @4
            create vm extra: start with image micro, 256MiB, 1 CPU, on office (hitless) @10
            update vm web: restart: memory 256MiB -> 512MiB, adapters changed (restart) @5
        "#]],
    );
}

#[test]
fn what_the_switch_can_change_alone_is_hitless() {
    let edit = |from: &str, to: &str| THREE.replace(from, to);
    check_edit(
        THREE,
        &edit("[network.backstage]", "dns = false\n[network.backstage]"),
        expect![[r#"
            update network office: DNS on -> off (release) @2
        "#]],
    );
    check_edit(
        THREE,
        &edit("10.30.0.0/24", "10.31.0.0/24"),
        expect![[r#"
            update network backstage: subnet 10.30.0.0/24 -> 10.31.0.0/24, gateway 10.30.0.1 -> 10.31.0.1, DHCP 10.30.0.1-10.30.0.254 -> 10.31.0.1-10.31.0.254 (release) @4
        "#]],
    );
    check_edit(
        THREE,
        &edit("10.20.0.10", "10.20.0.11"),
        expect![[r#"
            update vm web: address on office 10.20.0.10 -> 10.20.0.11 (release) @7
        "#]],
    );
}

#[test]
fn ipv6_comes_without_a_hitch_and_another_prefix_is_another_address() {
    let lab = |keys: &str| format!("[network.lab]\nsubnet = '10.20.0.0/24'\n{keys}[vm.web]\nnics = ['lab']\n");
    let (one, two) = ("ipv6 = 'fd00:1::/64'\n", "ipv6 = 'fd00:2::/64'\ndhcp6 = 'stateless'\n");
    check_edit(
        &lab(""),
        &lab(one),
        expect![[r#"
        update network lab: IPv6 off -> fd00:1::/64 (hitless) @1
    "#]],
    );
    check_edit(
        &lab(one),
        &lab(two),
        expect![[r#"
        update network lab: IPv6 fd00:1::/64 -> fd00:2::/64, DHCPv6 off -> stateless (release) @1
    "#]],
    );
    check_edit(
        &lab(two),
        &lab(""),
        expect![[r#"
        update network lab: IPv6 fd00:2::/64 -> off, DHCPv6 stateless -> off (release) @1
    "#]],
    );
}

#[test]
fn policy_vlans_and_rules_are_hitless() {
    let before = "[network.lab]\nsubnet = '10.20.0.0/24'\nrules = ['deny web -> db']\n\
                  [vm.web]\nnics = [{ network = 'lab', vlan = 20, macs = ['02:00:00:00:00:01'] }]\n\
                  [vm.db]\nnics = [{ network = 'lab', ip = '10.20.0.9' }]\n";
    let after = "[network.lab]\nsubnet = '10.20.0.0/24'\ndefault = 'deny'\nrules = ['deny web -> db', 'allow any -> web']\n\
                 [vm.web]\nnics = [{ network = 'lab', trunk = '10-20', allow = ['promiscuous'], learn = 9 }]\n\
                 [vm.db]\nnics = [{ network = 'lab', ip = '10.20.0.8', addresses = ['10.8.0.0/24'] }]\n";
    check_edit(
        before,
        after,
        expect![[r#"
        update network lab: access 1 rule, else allow -> 2 rules, else deny (hitless) @1
        update vm db: address on lab 10.20.0.9 -> 10.20.0.8 (release) @7
        update vm db: port db-0: addresses nothing -> 10.8.0.0/24 (hitless) @8
        update vm web: port web-0: VLAN: access 20 -> trunk 10-20, may nothing -> promiscuous, learns 0 -> 9, MAC addresses be:c3:7a:10:81:ef 02:00:00:00:00:01 -> be:c3:7a:10:81:ef (hitless) @6
    "#]],
    );
    check_edit(
        before,
        &before.replace("deny web", "allow web"),
        expect![[r#"
        update network lab: rules changed (hitless) @1
    "#]],
    );
    check_edit(before, &before.replace("rules", "# a line\nrules"), expect![[""]]);
    let mirrored = |to: &str| format!("{before}[mirror.watch]\nto = '{to}'\n");
    check_edit(
        before,
        &mirrored("web"),
        expect![[r#"
        update network lab: mirrors 0 -> 1 (hitless) @1
    "#]],
    );
    check_edit(
        &mirrored("web"),
        &mirrored("vxlan://10.0.0.5/1"),
        expect![[r#"
        update network lab: mirrors changed (hitless) @1
    "#]],
    );
    check_edit(
        "[network.lab]\nsubnet = '10.20.0.0/24'\n[vm.web]\n[vm.db]\n",
        before,
        expect![[r#"
        update network lab: access open -> 1 rule, else allow (hitless) @1
        update vm db: restart: adapters changed (restart) @6
        update vm web: restart: adapters changed (restart) @4
    "#]],
    );
}

/// What the switch enforces without being asked: whom Weft gives addresses speaks from these.
#[test]
fn addresses_are_known_where_weft_gives_them() {
    let desired = desired(
        "[network.lab]\nsubnet = '10.20.0.0/24'\n[network.own]\ndhcp = false\nsubnet = '10.30.0.0/24'\n\
         [vm.leased]\nnics = ['lab']\n\
         [vm.fixed]\nnics = [{ network = 'lab', ip = '10.20.0.9', addresses = ['10.8.0.0/24'] }]\n\
         [vm.vlan]\nnics = [{ network = 'lab', vlan = 20 }]\n\
         [vm.static]\nnics = [{ network = 'own', ip = '10.30.0.9' }]\n\
         [vm.free]\nnics = ['own']\n",
    );
    let config = crate::desired::dataplane_config(&desired, &paths());
    let known: Vec<_> = config.ports.iter().map(|port| format!("{}: {:?}", port.name, port.addresses)).collect();
    expect![[r#"
        fixed-0: Known { fixed: [10.20.0.9/32, 10.8.0.0/24], learn: 16 }
        free-0: Any
        leased-0: Known { fixed: [], learn: 16 }
        static-0: Known { fixed: [10.30.0.9/32], learn: 16 }
        vlan-0: Any
    "#]]
    .assert_eq(&(known.join("\n") + "\n"));
    let kept = |network: usize| {
        config.networks[network].gateway.as_ref().unwrap().dhcp.as_ref().map(|dhcp| dhcp.reservations.len())
    };
    assert_eq!((kept(0), kept(1)), (Some(2), None), "no server keeps an address for who does not hear it");
    let waits = |vm: &str| desired.lease_needs(&desired.vms[&vm.parse::<VmName>().unwrap()].spec).len();
    assert_eq!(["leased", "fixed", "vlan", "static", "free"].map(waits), [1, 1, 0, 0, 0]);
}

#[test]
fn down_stops_everything_and_the_switch_last() {
    check_edit(
        THREE,
        "",
        expect![[r#"
            remove vm db: stop, and delete its files (restart)
            remove vm laptop: stop, and delete its files (restart)
            remove vm web: stop, and delete its files (restart)
            remove network backstage: its switch and services go (hitless) @4
            remove network office: its switch and services go (hitless) @2
            stop switch switch: no network is left (hitless)
        "#]],
    );
}

#[test]
fn commands_and_accidents() {
    let before = desired(THREE);
    let by = || Provenance::command("weft vm stop db");
    let mut stopped = before.clone();
    let db = stopped.vms.get_mut(&vm("db")).unwrap();
    db.override_ = Some(Override { wish: Wish::Stopped { force: false }, by: by() });
    check(
        &before,
        &stopped,
        expect![[r#"
            stop vm db: stopped by `weft vm stop db` (restart) @9
        "#]],
    );
    check(
        &stopped,
        &before,
        expect![[r#"
            start vm db: start with image micro, 256MiB, 1 CPU, on backstage (hitless) @9
        "#]],
    );
    let mut removed = before.clone();
    removed.vms.get_mut(&vm("db")).unwrap().override_ = Some(Override { wish: Wish::Removed, by: by() });
    check(
        &before,
        &removed,
        expect![[r#"
            remove vm db: stop, and delete its files (restart) @9
        "#]],
    );
    let mut dead = before.clone();
    dead.vms.get_mut(&vm("db")).unwrap().fate = Some(Fate::Failed { reason: "killed".to_owned() });
    check(&dead, &dead, expect![""]);
    check(
        &dead,
        &dead.with_world(OWNER, &world(THREE)),
        expect![[r#"
            start vm db: start with image micro, 256MiB, 1 CPU, on backstage (hitless) @9
        "#]],
    );
    let mut again = before.clone();
    again.vms.get_mut(&vm("db")).unwrap().restarts = 1;
    check(
        &before,
        &again,
        expect![[r#"
            update vm db: restart: asked for by a command (restart) @9
        "#]],
    );
}

#[test]
fn shares_change_while_the_machine_runs() {
    let with = |keys: &str| THREE.replace("[vm.db]", &format!("[vm.db]\n{keys}"));
    check_edit(
        THREE,
        &with("cpu_weight = 300\ncpu_limit = '150%'\nmemory_limit = '1GiB'"),
        expect![[r#"
        update vm db: cpu_weight 100 -> 300, cpu_limit none -> 150%, memory_limit none -> 1GiB (hitless) @9
    "#]],
    );
    check_edit(
        &with("cpu_weight = 300\ncpu_pin = '0'"),
        THREE,
        expect![[r#"
        update vm db: cpu_weight 300 -> 100, cpu_pin 0 -> none (hitless) @9
    "#]],
    );
    check_edit(
        &with("cpu_weight = 300"),
        &with("cpu_weight = 200\nmemory = '512MiB'"),
        expect![[r#"
        update vm db: restart: memory 256MiB -> 512MiB (restart) @9
    "#]],
    );
}

#[test]
fn a_disk_outlives_a_restart_but_not_another_image() {
    let image = |path: &str| format!("[image.d]\ndisk = '{path}'\n[vm.a]\nimage = 'd'\n");
    let dir = tempfile::tempdir().unwrap();
    let disk = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, [0; 512]).unwrap();
        path.display().to_string()
    };
    let (one, two) = (disk("one"), disk("two"));
    let (before, after) = (desired(&image(&one)), desired(&image(&two)));
    let works = |before: &Desired, after: &Desired| -> Vec<String> {
        let plan = plan(after, &converged(before), &paths());
        plan.tasks.iter().map(|task| format!("{:?}", task.work).split_whitespace().next().unwrap().to_owned()).collect()
    };
    assert_eq!(works(&before, &after), ["EnsureImage", "StopVm", "RemoveVm", "StartVm"]);
    let larger = desired(&format!("{}memory = '2GiB'\n", image(&one)));
    assert_eq!(works(&before, &larger), ["EnsureImage", "StopVm", "StartVm"]);
    // Neither the firmware nor the CD in the drive is what a disk stands on.
    let other_firmware = desired(&image(&one).replace("[vm.a]", "firmware = 'uefi'\n[vm.a]"));
    assert_eq!(works(&before, &other_firmware), ["EnsureImage", "StopVm", "StartVm"]);
    let cd = |name: &str| {
        let path = dir.path().join(name);
        let mut medium = vec![0; 40 << 10];
        medium[0x8001..0x8006].copy_from_slice(b"CD001");
        std::fs::write(&path, medium).unwrap();
        desired(&image(&path.display().to_string()))
    };
    assert_eq!(works(&cd("cd1"), &cd("cd2")), ["EnsureImage", "StopVm", "StartVm"]);
    assert_eq!(works(&cd("cd1"), &before), ["EnsureImage", "StopVm", "RemoveVm", "StartVm"]);
}

#[test]
fn a_forced_stop_asks_nobody() {
    let before = desired(THREE);
    let grace = |force| {
        let mut stopped = before.clone();
        let by = Provenance::command("x");
        stopped.vms.get_mut(&vm("db")).unwrap().override_ = Some(Override { wish: Wish::Stopped { force }, by });
        let plan = plan(&stopped, &converged(&before), &paths());
        plan.tasks.into_iter().find_map(|task| match task.work {
            Work::StopVm { grace, .. } => Some(grace),
            _ => None,
        })
    };
    assert_eq!(grace(true), Some(Duration::ZERO));
    assert!(grace(false) > Some(Duration::ZERO));
}

/// A world out of a few names, so that two of them have much in common.
fn any_desired() -> impl Strategy<Value = Desired> {
    let vms = prop::collection::vec((0usize..6, 0usize..3, any::<bool>(), 0u8..4), 0..6);
    (vms, 0usize..3).prop_map(|(vms, networks)| {
        let mut source = String::new();
        for index in 0..networks {
            source += &format!("[network.n{index}]\nsubnet = '10.{index}.0.0/24'\n");
        }
        let mut marks = std::collections::BTreeMap::new();
        for (name, network, large, mark) in vms {
            if marks.insert(format!("v{name}"), mark).is_some() {
                continue;
            }
            let memory = if large { 512 } else { 256 };
            let weight = 100 + u32::from(mark) * 100;
            let nics = if network < networks { format!("['n{network}']") } else { "[]".to_owned() };
            source += &format!("[vm.v{name}]\nmemory = '{memory}MiB'\ncpu_weight = {weight}\nnics = {nics}\n");
        }
        let mut desired = desired(&source);
        for (name, mark) in marks {
            let Some(vm) = desired.vms.get_mut(&name.parse().unwrap()) else { continue };
            let by = Provenance::command("x");
            match mark {
                1 => vm.override_ = Some(Override { wish: Wish::Stopped { force: false }, by }),
                2 => vm.override_ = Some(Override { wish: Wish::Removed, by }),
                3 => vm.fate = Some(Fate::Failed { reason: "killed".to_owned() }),
                _ => {}
            }
        }
        desired
    })
}

/// What a host looks like after the tasks.
fn carried_out(plan: &Plan, mut observed: Observed) -> Observed {
    let process = Some(Process { pid: 7, start_ticks: 7 });
    for task in &plan.tasks {
        match &task.work {
            Work::StartSwitch => observed.switch = process,
            Work::StopSwitch => {
                (observed.switch, observed.applied, observed.in_force) = (None, None, false);
                observed.switch_remains = false;
            }
            Work::EnsureImage { image, .. } => drop(observed.images.insert(image.clone())),
            Work::ApplyDataplane(config) => {
                assert!(observed.switch.is_some(), "nobody to configure");
                (observed.applied, observed.in_force) = (Some(config.clone()), true);
            }
            Work::StopVm { vm, .. } => {
                let seen = observed.vms.get_mut(vm).unwrap();
                assert!(seen.running.take().is_some(), "stopped what did not run");
            }
            Work::RemoveVm { vm } => {
                let gone = observed.vms.remove(vm);
                assert!(gone.is_some_and(|seen| seen.running.is_none()), "removed what runs");
            }
            Work::ShareVm { vm, launch } => {
                let seen = observed.vms.get_mut(vm).unwrap();
                assert!(seen.running.is_some(), "only who runs has shares");
                seen.launch = Some((**launch).clone());
            }
            Work::StartVm { vm, launch } => {
                assert!(observed.images.contains(&launch.image), "no image");
                let ports = observed.applied.as_ref().map_or(&[][..], |config| &config.ports);
                let plugged = ports.iter().filter(|port| port.vm.as_ref() == Some(vm)).count();
                assert!(plugged >= launch.nics.len(), "no port");
                let seen = observed.vms.entry(vm.clone()).or_default();
                assert!(seen.running.is_none(), "started what runs");
                (seen.running, seen.launch) = (process.map(crate::sample::running), Some((**launch).clone()));
            }
        }
    }
    observed
}

proptest! {
    #[test]
    fn a_plan_leads_there_and_then_nothing_is_left_to_do(before in any_desired(), after in any_desired()) {
        let observed = converged(&before);
        let first = plan(&after, &observed, &paths());
        for (index, task) in first.tasks.iter().enumerate() {
            prop_assert!(task.needs.iter().chain(&task.after).all(|before| *before < index));
        }
        let reached = carried_out(&first, observed);
        prop_assert_eq!(plan(&after, &reached, &paths()), Plan::default());
        for (name, vm) in &after.vms {
            let runs = reached.vms.get(name).is_some_and(|seen| seen.running.is_some());
            prop_assert_eq!(runs, vm.should_run());
        }
        prop_assert!(reached.vms.keys().all(|name| after.vms.get(name).is_some_and(|vm| !vm.removed())));
        prop_assert_eq!(reached.switch.is_some(), after.needs_switch());
    }
}
