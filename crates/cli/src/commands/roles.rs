//! The hidden roles: processes that Weft starts for itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};
use tracing_subscriber::EnvFilter;
use weft_control::Paths;

use crate::failure::{Failure, Result};

/// `weft daemon`
pub(crate) fn daemon(paths: &Paths) -> Result {
    // What happens to the terminal of whoever started us is nothing to us. A leader of a session already is one.
    let _ = setsid();
    raise_descriptor_limit();
    log("info");
    let exe = std::env::current_exe().map_err(|error| Failure::of("daemon", &error, "is /proc mounted?"))?;
    weft_api::run(paths, exe).map_err(|error| Failure::of("daemon", &error, error.hint()))
}

/// `weft switch serve`
pub(crate) fn switch(control_socket: PathBuf, state_dir: PathBuf) -> Result {
    raise_descriptor_limit();
    log("info");
    let run = weft_dataplane::run(&weft_dataplane::Options { control_socket, state_dir });
    run.map_err(|error| Failure::of("switch", &error, error.hint()))
}

/// `weft vmm`
pub(crate) fn vmm(description: &Path) -> Result<ExitCode> {
    weft_vmm::abort_on_panic();
    let unreadable = |error| Failure::of("vmm", &error, format!("look at {}", description.display()));
    let text = std::fs::read_to_string(description).map_err(unreadable)?;
    let failed = |error: weft_vmm::RunError| Failure::of("vmm", &error, error.hint());
    let config = weft_vmm::Config::parse(&text).map_err(|error| failed(error.into()))?;
    let ending = weft_vmm::run(config).map_err(failed)?;
    if ending.exit_code() != 0 {
        // What it leaves in its log is for whoever asks why the machine is gone.
        eprintln!("{ending}");
    }
    Ok(ExitCode::from(ending.exit_code()))
}

/// `weft keeper`
pub(crate) fn keeper(description: &Path) -> Result<ExitCode> {
    let hint = || format!("look at {}", description.display());
    let text = std::fs::read_to_string(description).map_err(|error| Failure::of("keeper", &error, hint()))?;
    let config: weft_keeper::Config =
        serde_json::from_str(&text).map_err(|error| Failure::of("keeper", &error, hint()))?;
    let status = weft_keeper::run(&config).map_err(|error| Failure::of("keeper", &error, error.hint()))?;
    if status.success() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("User-Mode Linux ended with {status}");
    Ok(ExitCode::FAILURE)
}

/// Every port, session and flow to the host's network costs a descriptor: use as many as we may.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Logs control actions to stderr. `WEFT_LOG` chooses how much (`debug`, `weft::dataplane=trace`); `usual` is enough
/// where nobody chooses.
pub(crate) fn log(usual: &str) {
    let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    log.with_target(false).init();
}
