use rustix::io::Errno;
use weft_services::nat::HostError;

/// What an error of a socket means for a guest.
pub(super) fn of(errno: Errno) -> HostError {
    match errno {
        Errno::CONNREFUSED | Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE | Errno::NOTCONN => HostError::Refused,
        // A host without any IPv6 is one without a way.
        Errno::NETUNREACH | Errno::NETDOWN | Errno::AFNOSUPPORT => HostError::NetUnreachable,
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
