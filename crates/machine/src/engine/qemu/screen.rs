//! A machine's screen.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::{QMP, Qmp, VNC};
use crate::MachineError;

/// The picture, in the run folder for a moment.
pub(super) const PICTURE: &str = "screen.png";
/// How long QEMU may take to draw it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket at which a machine's screen is seen by VNC (RFC 6143), if it has one.
pub fn screen_socket(run_dir: &Path) -> PathBuf {
    run_dir.join(VNC)
}

/// A picture of a machine's screen as it is now, as PNG.
///
/// # Errors
/// When it has none, or its engine is too old to draw (QEMU before 7.1).
pub fn screenshot(run_dir: &Path) -> Result<Vec<u8>, MachineError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = run_dir.join(PICTURE);
    let words = json!({ "filename": super::argv::text(&path)?, "format": "png" });
    Qmp::connect(&run_dir.join(QMP), PATIENCE)?.execute("screendump", words, PATIENCE)?;
    let picture = fs::read(&path).map_err(MachineError::io("read", &path));
    let _ = fs::remove_file(&path);
    picture
}
