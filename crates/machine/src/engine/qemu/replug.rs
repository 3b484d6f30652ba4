//! Pulling a machine's network cables and putting them back.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::{QMP, Qmp, QmpError};

/// How long the monitor may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a cable stays out: guests look away from what is shorter.
const PAUSE: Duration = Duration::from_millis(500);

/// Takes the link of the adapters with these numbers down and up again.
pub(super) fn replug(run_dir: &Path, nics: &[usize]) -> Result<(), QmpError> {
    let mut qmp = Qmp::connect(&run_dir.join(QMP), PATIENCE)?;
    let mut set = |up: bool| {
        nics.iter().try_for_each(|index| {
            qmp.execute("set_link", json!({ "name": format!("net{index}"), "up": up }), PATIENCE).map(drop)
        })
    };
    let down = set(false);
    if down.is_ok() {
        std::thread::sleep(PAUSE);
    }
    // Whatever went wrong: no cable is to stay out.
    set(true).and(down)
}
