use rustix::io::Errno;
use weft_services::nat::HostError;

/// What an error of a socket means for a guest.
pub(super) fn of(errno: Errno) -> HostError {
    match errno {
        Errno::CONNREFUSED | Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE | Errno::NOTCONN => HostError::Refused,
        Errno::NETUNREACH | Errno::NETDOWN => HostError::NetUnreachable,
        Errno::ACCESS | Errno::PERM => HostError::Prohibited,
        Errno::TIMEDOUT => HostError::TimedOut,
        Errno::MFILE
        | Errno::NFILE
        | Errno::NOBUFS
        | Errno::NOMEM
        | Errno::NOSPC
        | Errno::ADDRNOTAVAIL
        | Errno::AGAIN => HostError::Exhausted,
        _ => HostError::HostUnreachable,
    }
}
