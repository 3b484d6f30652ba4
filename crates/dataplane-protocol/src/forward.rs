//! Why the host does not give a place to a port forward, in words: the daemon finds out before anything is changed, and
//! the switch when it opens the place.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use weft_types::Transport;

use crate::{ErrorCode, Refusal};

/// What is in the way of listening at a place, and how to get on.
pub fn why_not_listening(transport: Transport, address: SocketAddr, error: &io::Error) -> Refusal {
    let (place, port) = (format!("{transport}/{address}"), address.port());
    let (message, hint) = match error.kind() {
        ErrorKind::AddrInUse => {
            let listing = if transport == Transport::Tcp { "ss -ltnp" } else { "ss -lunp" };
            let message = format!("{place} is in use by another program on this host");
            (message, format!("choose another port, or end that program: `{listing} sport = :{port}` names it"))
        }
        ErrorKind::PermissionDenied => {
            let message = format!("{place} needs a privilege: this host keeps low ports for root");
            let below = port.saturating_add(1).max(1024);
            let hint = format!(
                "choose a port from {below} on, or let everybody have it: \
                 sudo sysctl net.ipv4.ip_unprivileged_port_start={port}"
            );
            (message, hint)
        }
        ErrorKind::AddrNotAvailable => {
            let message = format!("{place}: this host has no address {}", address.ip());
            (message, "`ip address` lists those that it has; 0.0.0.0 means all of them".to_owned())
        }
        _ => {
            let message = format!("nobody can listen at {place}: {error}");
            (
                message,
                "raise the limit of open files (`ulimit -n`) if there are too many, or choose another place".into(),
            )
        }
    };
    Refusal { code: ErrorCode::ForwardFailed, message, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_way_out() {
        let check = |kind: ErrorKind, message: &str, hint: &str| {
            let refusal = why_not_listening(Transport::Tcp, "127.0.0.1:80".parse().unwrap(), &kind.into());
            assert_eq!(refusal.message, message);
            assert!(refusal.hint.contains(hint), "{}", refusal.hint);
        };
        check(
            ErrorKind::AddrInUse,
            "tcp/127.0.0.1:80 is in use by another program on this host",
            "ss -ltnp sport = :80",
        );
        check(
            ErrorKind::PermissionDenied,
            "tcp/127.0.0.1:80 needs a privilege: this host keeps low ports for root",
            "ip_unprivileged_port_start=80",
        );
        check(ErrorKind::AddrNotAvailable, "tcp/127.0.0.1:80: this host has no address 127.0.0.1", "`ip address`");
        check(ErrorKind::OutOfMemory, "nobody can listen at tcp/127.0.0.1:80: out of memory", "ulimit");
    }
}
