//! The kernel's list of IP addresses, by rtnetlink (RFC 3549): the one request that the agent needs of it.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use weft_agent::message::Address;

/// Protocol number 0.
const NETLINK_ROUTE: Option<Protocol> = None;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const DUMP_REQUEST: u16 = 0x301;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER_BYTES: usize = 16;
/// `struct ifaddrmsg`: family, prefix length, flags, scope, interface.
const ADDRESS_BYTES: usize = 8;

/// Every interface's addresses, by the interface's index.
pub(crate) fn addresses() -> io::Result<BTreeMap<u32, Vec<Address>>> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, NETLINK_ROUTE)?;
    let mut request = Vec::new();
    request.extend(((HEADER_BYTES + ADDRESS_BYTES) as u32).to_ne_bytes());
    request.extend(RTM_GETADDR.to_ne_bytes());
    request.extend(DUMP_REQUEST.to_ne_bytes());
    request.resize(HEADER_BYTES + ADDRESS_BYTES, 0);
    send(&socket, &request, SendFlags::empty())?;

    let mut found: BTreeMap<u32, Vec<Address>> = BTreeMap::new();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let (count, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..count];
        while let Some((kind, body, tail)) = message(rest) {
            match kind {
                NLMSG_DONE | NLMSG_ERROR => return Ok(found),
                RTM_NEWADDR => {
                    if let Some((interface, address)) = address(body) {
                        found.entry(interface).or_default().push(address);
                    }
                }
                _ => {}
            }
            rest = tail;
        }
    }
}

/// Splits off the first message: its type, its body, and what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER_BYTES..len)?;
    Some((kind, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

fn address(body: &[u8]) -> Option<(u32, Address)> {
    let prefix_len = *body.get(1)?;
    let interface = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    let mut rest = body.get(ADDRESS_BYTES..)?;
    let mut ip = None;
    // On point-to-point links ADDRESS is the other end's; LOCAL, where there is one, is always our own.
    while let Some((kind, value, tail)) = attribute(rest) {
        match kind {
            IFA_LOCAL => ip = parse_ip(value),
            IFA_ADDRESS if ip.is_none() => ip = parse_ip(value),
            _ => {}
        }
        rest = tail;
    }
    Some((interface, Address { ip: ip?, prefix_len }))
}

fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
    Some((kind, bytes.get(4..len)?, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}
