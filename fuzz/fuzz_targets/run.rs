//! Runs the target that `WEFT_FUZZ_TARGET` names under libFuzzer.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fn chosen() -> fn(&[u8]) {
    static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("WEFT_FUZZ_TARGET").expect("WEFT_FUZZ_TARGET names a target");
        let found = weft_fuzz::targets().into_iter().find(|(name, _)| *name == wanted);
        found.unwrap_or_else(|| panic!("there is no target `{wanted}`")).1
    })
}

fuzz_target!(|data: &[u8]| chosen()(data));
