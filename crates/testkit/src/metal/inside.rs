//! Tests whose bodies run on virtual bare metal.

use std::env;

use super::Metal;
use crate::skipped;

/// Tells a test process that it was started on virtual bare metal.
const INSIDE: &str = "WEFT_TEST_METAL";

/// Whether this process runs on virtual bare metal.
pub fn is_in_metal() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Runs `body` on virtual bare metal, as root: the test named `test` (its full path in this test program) is started again
/// there, from a copy of this very program. The programs and modules that it needs are `metal`'s. Where the machine cannot
/// be had (no QEMU, no network for the kernel's package), the test is skipped, loudly.
///
/// # Panics
/// When the test fails there.
pub fn in_metal(test: &str, metal: Metal, body: impl FnOnce()) {
    if is_in_metal() {
        return body();
    }
    let program = env::current_exe().expect("the test program's path");
    let script = format!(
        "export {INSIDE}=1 RUST_BACKTRACE=1\n'{}' --exact '{test}' --nocapture --test-threads=1",
        program.display()
    );
    match metal.program(program).run(&script) {
        Err(missing) => skipped(test, &missing),
        // A name that fits no test is no failure to the test program.
        Ok(outcome) => assert!(
            outcome.code == Some(0) && outcome.output.contains("1 passed"),
            "`{test}` failed on virtual bare metal, whose console is above; exit code {:?}",
            outcome.code
        ),
    }
}
