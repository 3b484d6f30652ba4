//! The port trait and its drivers: they move frames and know no policy.
//!
//! A frame lives in its sender's memory while the worker holds it: [`Port::recv`] lends a burst,
//! [`Port::frame`] shows one frame of it, [`Port::send`] on *another* port copies it straight into that
//! port's memory (the only copy), and [`Port::release`] gives the burst back to the sender, in order.
//! What is decided upon is the frame's private head, so a sender that rewrites its memory meanwhile gains
//! nothing.
//!
//! Peers are hostile: a peer that breaks its protocol loses its own connection and nothing else.

mod claim;
mod egress;
mod epoll;
mod ethtool;
mod frame;
mod guest_memory;
mod host_adapter;
mod interface;
mod macvtap;
mod memory;
mod namespace;
mod netlink;
mod nic;
mod packet;
mod pnic;
mod port;
mod socket;
mod tap;
mod udp;
mod unix_datagram;
mod unix_stream;
mod vhost_user;
mod vnet;
mod xdp;

pub use egress::Egress;
pub use frame::{Frame, HEAD_BYTES, MAX_FRAME_BYTES, MIN_FRAME_BYTES};
pub use host_adapter::HostAdapter;
pub use macvtap::MacvtapPort;
pub use memory::{MemoryPort, memory_pair};
pub use namespace::{NamespaceError, Outpost, cover, enter_namespace, furnish_namespace};
pub use nic::open_nic;
pub use packet::PacketPort;
pub use port::{BURST_FRAMES, Caps, Lent, Link, Port, PortError, SendError};
pub use socket::{Side, SocketFile, listen_at};
pub use tap::TapPort;
pub use udp::UdpPort;
pub use unix_datagram::UnixDatagramPort;
pub use unix_stream::{FrameSplitter, LengthError, UnixStreamPort};
pub use vhost_user::{VhostUserPort, probe_guest};
pub use xdp::XdpPort;
