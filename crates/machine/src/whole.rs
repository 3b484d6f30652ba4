//! Files that are there whole or not at all.

use std::io::{self, Write as _};
use std::path::Path;

use tempfile::NamedTempFile;

/// Writes a file such that a reader, or a kill, finds its old contents or its new ones and never a part of either.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = draft_beside(path)?;
    draft.write_all(bytes)?;
    draft.persist(path).map_err(|error| error.error).map(drop)
}

/// An empty file beside `path`, that will take its place or go.
pub(crate) fn draft_beside(path: &Path) -> io::Result<NamedTempFile> {
    let parent = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    tempfile::Builder::new().prefix(".new-").tempfile_in(parent)
}
