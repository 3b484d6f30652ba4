//! Virtual bare metal itself.

use std::time::Duration;

use weft_testkit::{Metal, in_metal, skipped};

/// Runs a script; its exit code and what was said must be these.
fn check(test: &str, metal: &Metal, script: &str, code: Option<i32>, said: &[&str]) {
    match metal.run(script) {
        Err(missing) => skipped(test, &missing),
        Ok(outcome) => {
            assert_eq!(outcome.code, code, "{}", outcome.output);
            assert!(said.iter().all(|words| outcome.output.contains(words)), "{said:?} in {}", outcome.output);
        }
    }
}

#[test]
fn a_script_ends_with_its_code_and_all_its_words() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("words"), "from the host\n").unwrap();
    let metal = Metal::new().kvm().processors(2).folder(folder.path());
    let script = "cat words; nproc; cat /sys/fs/cgroup/cgroup.subtree_control; test -c /dev/kvm && echo has kvm
        sleep 1000 & seq 1 2000; echo the end; exit 7";
    let said = ["from the host\n2\n", "cpu io memory", "has kvm\n", "\n1999\n2000\nthe end\n"];
    check("a_script_ends_with_its_code_and_all_its_words", &metal, script, Some(7), &said);
}

#[test]
fn a_kernel_that_panics_is_noticed() {
    let script = "echo c >/proc/sysrq-trigger; sleep 1000";
    check("a_kernel_that_panics_is_noticed", &Metal::new(), script, None, &["sysrq triggered crash", "QEMU said"]);
}

#[test]
fn whoever_takes_too_long_is_ended() {
    let metal = Metal::new().patience(Duration::from_secs(1));
    check("whoever_takes_too_long_is_ended", &metal, "sleep 1000", None, &["QEMU said"]);
}

#[test]
fn a_test_runs_there() {
    in_metal("a_test_runs_there", Metal::new(), || {
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), "metal\n");
        assert!(std::path::Path::new("/proc/1/exe").read_link().unwrap().ends_with("busybox"));
    });
}
