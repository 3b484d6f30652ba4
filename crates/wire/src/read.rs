//! Reading fields at constant places of a header whose length the type knows.

use std::net::Ipv4Addr;

use weft_types::MacAddr;

/// The `W` bytes at `AT`; that they are inside of `N` is checked when this is compiled.
pub(crate) const fn bytes<const AT: usize, const W: usize, const N: usize>(header: &[u8; N]) -> [u8; W] {
    const { assert!(AT + W <= N, "the field lies outside of the header") };
    let mut field = [0; W];
    let mut i = 0;
    while i < W {
        field[i] = header[AT + i];
        i += 1;
    }
    field
}

/// The 16-bit number at `AT`, in network order.
pub(crate) const fn u16_at<const AT: usize, const N: usize>(header: &[u8; N]) -> u16 {
    u16::from_be_bytes(bytes::<AT, 2, N>(header))
}

/// The 32-bit number at `AT`, in network order.
pub(crate) const fn u32_at<const AT: usize, const N: usize>(header: &[u8; N]) -> u32 {
    u32::from_be_bytes(bytes::<AT, 4, N>(header))
}

/// The MAC address at `AT`.
pub(crate) const fn mac_at<const AT: usize, const N: usize>(header: &[u8; N]) -> MacAddr {
    MacAddr::new(bytes::<AT, 6, N>(header))
}

/// The IPv4 address at `AT`.
pub(crate) const fn ipv4_at<const AT: usize, const N: usize>(header: &[u8; N]) -> Ipv4Addr {
    Ipv4Addr::from_octets(bytes::<AT, 4, N>(header))
}
