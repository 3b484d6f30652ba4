//! Runs the machine that a file describes, as the role `weft vmm` does, in a small program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: boot DESCRIPTION.json");
        return ExitCode::from(2);
    };
    weft_vmm::abort_on_panic();
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let ending = weft_vmm::Config::parse(&text).map_err(Into::into).and_then(weft_vmm::run);
    match ending {
        Ok(ending) => {
            eprintln!("{ending:?}");
            ExitCode::from(ending.exit_code())
        }
        Err(error) => {
            eprintln!("error: {error}\nhint: {}", weft_vmm::RunError::hint(&error));
            ExitCode::FAILURE
        }
    }
}
