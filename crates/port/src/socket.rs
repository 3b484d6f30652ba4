use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};

use crate::PortError;

/// Peers that may wait to be served.
const BACKLOG: i32 = 4;

/// Which side of a Unix stream socket we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We listen, and the peer comes when it likes.
    Listen,
    /// The peer listens; we try again as long as it does not.
    Connect,
}

/// How long to wait before connecting again to a peer that was not there, or that left.
pub(crate) const REDIAL: Duration = Duration::from_millis(100);

/// Connects to the peer that listens at `path`; `None` when it does not.
pub(crate) fn dial(path: &Path, flags: SocketFlags) -> Option<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None).ok()?;
    connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    Some(socket)
}

/// Device, inode, and when it was made: the number of a removed inode may be given to the next one.
type Identity = (u64, u64, i64, i64);

/// The file of a bound Unix socket, removed when this is dropped, unless another took its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Option<Identity>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// Listens at `path`, without blocking and open to our own user only; a socket that a dead process left there
/// is replaced.
///
/// # Errors
/// When something else is there, or the system refuses.
pub fn listen_at(path: &Path) -> Result<(OwnedFd, SocketFile), PortError> {
    let (socket, file) = bind_at(path, SocketType::STREAM)?;
    listen(&socket, BACKLOG).map_err(|error| PortError::Listen { path: path.to_owned(), source: error.into() })?;
    Ok((socket, file))
}

/// Binds a non-blocking socket at `path`; see [`listen_at`].
pub(crate) fn bind_at(path: &Path, kind: SocketType) -> Result<(OwnedFd, SocketFile), PortError> {
    let address = SocketAddrUnix::new(path).map_err(|_| PortError::PathTooLong { path: path.to_owned() })?;
    let failed = |source: io::Error| PortError::Listen { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(PortError::NotASocket { path: path.to_owned() }),
        Ok(_) => {
            let probe = new_socket(kind)?;
            // A full backlog says `EAGAIN`: somebody is there, too.
            if matches!(connect(&probe, &address), Ok(()) | Err(rustix::io::Errno::AGAIN)) {
                return Err(PortError::InUse { path: path.to_owned() });
            }
            fs::remove_file(path).map_err(failed)?;
        }
    }
    let socket = new_socket(kind)?;
    // Linux gives the file the mode that the socket has when it is bound, so it is never open to others.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
    bind(&socket, &address).map_err(|error| failed(error.into()))?;
    Ok((socket, SocketFile { path: path.to_owned(), identity: identity(path) }))
}

fn new_socket(kind: SocketType) -> Result<OwnedFd, PortError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None).map_err(io::Error::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_sockets_are_replaced_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port");
        let (socket, file) = listen_at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(listen_at(&path), Err(PortError::InUse { .. })));
        drop(socket); // as if its process had been killed
        let (second, second_file) = listen_at(&path).unwrap();
        drop(file);
        assert!(path.exists(), "the first owner must not remove what the second one made");
        drop((second, second_file));
        assert!(!path.exists());

        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen_at(&path), Err(PortError::NotASocket { .. })));
        assert!(matches!(listen_at(&directory.path().join("x".repeat(120))), Err(PortError::PathTooLong { .. })));
        assert!(matches!(listen_at(&directory.path().join("no/port")), Err(PortError::Listen { .. })));
    }
}
