//! Tests of the NAT device: a guest whose TCP is not ours on one side, a host without a kernel on the other.

mod bench;
mod datagrams;
mod forwards;
mod ipv6;
mod limits;
mod tcp_guest;
mod tcp_segments;
