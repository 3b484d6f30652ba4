//! `weft doctor` on a machine whose processor and kernel have what this one's may lack: on virtual bare metal.

use weft_testkit::{Metal, skipped};

/// What the doctor says, in turn: with hardware virtualization, as an ordinary user, and without it.
const SCRIPT: &str = "
weft doctor | cat
echo; echo --- nobody
su -s /bin/sh nobody -c 'WEFT_HOME=/tmp/home weft doctor' | cat
echo; echo --- without
rmmod kvm_amd
weft doctor | cat
";

/// The finding about `name`, after its state.
fn finding(said: &str, state: &str, name: &str) -> String {
    let mut lines = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let begin = format!("{state} {name} ");
    let found = lines.find_map(|line| line.strip_prefix(&begin).map(str::to_owned));
    found.unwrap_or_else(|| panic!("no `{begin}` in\n{said}"))
}

#[test]
fn a_doctor_on_bare_metal() {
    let metal = Metal::new().kvm().modules(&["tun"]).host_programs(&[env!("CARGO_BIN_EXE_weft")]);
    let outcome = match metal.run(SCRIPT) {
        Ok(outcome) => outcome,
        Err(missing) => return skipped("a_doctor_on_bare_metal", &missing),
    };
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let (root, rest) = outcome.output.split_once("--- nobody").unwrap();
    let (nobody, without) = rest.split_once("--- without").unwrap();

    assert_eq!(finding(root, "ok", "kvm"), "hardware virtualization works");
    assert_eq!(finding(root, "ok", "tun"), "TAP devices can be made");
    assert_eq!(finding(root, "ok", "cgroups"), "machines have groups of their own, with cpu, io, memory");
    assert!(finding(root, "missing", "qemu").contains("qemu-system-x86"), "{root}");
    assert!(finding(nobody, "limited", "kvm").starts_with("this user may not open /dev/kvm"), "{nobody}");
    assert!(finding(nobody, "limited", "tun").contains("/dev/net/tun"), "{nobody}");
    assert!(finding(without, "limited", "kvm").starts_with("there is no /dev/kvm"), "{without}");
}
