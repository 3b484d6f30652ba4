use std::borrow::Cow;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use weft_wire::{Csum, GsoKind, Offload};

use crate::Frame;

/// The most frames that a port lends at once.
pub const BURST_FRAMES: usize = 64;

/// Where something plugs into a vSwitch. Nothing here blocks.
pub trait Port: Send {
    /// The driver's name, as the configuration spells it.
    fn driver(&self) -> &'static str;

    /// What the peer takes as it is; the rest is up to [`crate::Egress`].
    fn caps(&self) -> Caps;

    /// Whether a peer is there and ready.
    fn link(&self) -> Link;

    /// Lends the next frames, at most [`BURST_FRAMES`]; what was lent before must have been released.
    fn recv(&mut self) -> Lent;

    /// A frame that was lent by the last [`Self::recv`].
    ///
    /// # Panics
    /// When `index` is not below [`Lent::frames`].
    fn frame(&self, index: usize) -> Frame<'_>;

    /// Gives everything that was lent back to the peer, in order.
    fn release(&mut self);

    /// Copies a frame to the peer; it may become visible only with [`Self::flush`].
    ///
    /// # Errors
    /// When the peer cannot take it now, or never could; the frame is lost then.
    fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendError>;

    /// Shows the peer what was sent, and wakes it if it wants to be woken. Where each showing has its price, a port
    /// may wait for more; not when it sleeps, nor when it was asked for frames a few times without being sent any.
    fn flush(&mut self);

    /// Readable when [`Self::recv`] is worth a call; stays the same for the port's life. Sleep on it between
    /// [`Self::sleep`] and [`Self::wake`].
    fn fd(&self) -> BorrowedFd<'_>;

    /// Asks the peer for wake-ups. `false` when there is work already, so that the caller must not sleep.
    fn sleep(&mut self) -> bool;

    /// Asks the peer to spare its wake-ups, and acknowledges those that came.
    fn wake(&mut self);

    /// Lets go of memory that would only make the next frame faster. Called when no frame came for a while.
    fn trim(&mut self) {}
}

/// What [`Port::recv`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lent {
    /// Frames that are lent until [`Port::release`].
    pub frames: usize,
    /// Frames that made no sense and were thrown away.
    pub malformed: u32,
}

/// What a peer takes without help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Frames whose transport checksum is still partial.
    pub csum: bool,
    /// TCP over IPv4 larger than the MTU.
    pub tso4: bool,
    /// TCP over IPv6 larger than the MTU.
    pub tso6: bool,
    /// Either of them with ECN's CWR flag set.
    pub ecn: bool,
    /// UDP larger than the MTU.
    pub uso: bool,
}

impl Caps {
    /// Takes everything: what stands inside of our own process.
    pub const ALL: Self = Self { csum: true, tso4: true, tso6: true, ecn: true, uso: true };

    /// Whether a frame with this work left undone can be sent as it is.
    pub fn accepts(self, offload: Offload) -> bool {
        let csum = self.csum || !matches!(offload.csum, Csum::Partial { .. });
        let gso = offload.gso.is_none_or(|gso| match gso.kind {
            GsoKind::Tcp4 { ecn } => self.tso4 && (self.ecn || !ecn),
            GsoKind::Tcp6 { ecn } => self.tso6 && (self.ecn || !ecn),
            GsoKind::UdpL4 => self.uso,
        });
        csum && gso
    }
}

/// Whether a port's peer is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It is, and ready.
    Up,
    /// It is not; why, in a few words.
    Down(Cow<'static, str>),
}

impl Link {
    /// Whether it is [`Self::Up`].
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }
}

/// Why a port did not take a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The peer is slower than its senders.
    #[error("the peer has no room")]
    Full,
    /// No peer is connected and ready.
    #[error("no peer is there")]
    Down,
    /// Larger than the peer could ever take.
    #[error("the frame is too long")]
    TooLong,
    /// What is left to do on the frame cannot be done, because it is not what it says it is.
    #[error("the frame's offload does not fit the frame")]
    Malformed,
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A Unix socket's path does not fit into an address.
    #[error("the socket path `{}` is longer than 107 bytes", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Somebody listens there.
    #[error("another process listens at `{}`", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something else is there, which we will not delete.
    #[error("`{}` exists and is no socket", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("cannot listen at `{}`", path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A UDP socket could not be made, or cannot reach its peer.
    #[error("cannot talk UDP from {local} to {peer}")]
    Udp {
        /// Our own address.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel's TUN/TAP driver is missing or closed to us.
    #[error("cannot open `/dev/net/tun`")]
    OpenTun {
        /// What the system said.
        source: io::Error,
    },
    /// The interface cannot be made, or cannot be used as we need it.
    #[error("cannot {action} the TAP device `{name}`")]
    Tap {
        /// The interface's name.
        name: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// We may not make an adapter of the host.
    #[error("not allowed to make `{name}`, an adapter of the host")]
    HostAdapter {
        /// The adapter's name.
        name: String,
        /// What would help.
        hint: String,
    },
    /// Another interface has the name of an adapter of the host.
    #[error("`{name}` exists, and is not this adapter of the host: {found}")]
    OtherAdapter {
        /// The name.
        name: String,
        /// In what it differs.
        found: String,
        /// What would help.
        hint: String,
    },
    /// The host reaches the network of an adapter by another interface.
    #[error("`{name}` cannot have {ip}/{prefix_len}: the host reaches that network by `{other}`")]
    TakenSubnet {
        /// The adapter's name.
        name: String,
        /// The host's address there.
        ip: Ipv4Addr,
        /// How many bits of it name the network.
        prefix_len: u8,
        /// The other interface.
        other: String,
    },
    /// No interface can have this name.
    #[error("`{name}` cannot be an interface's name")]
    TapName {
        /// The name.
        name: String,
    },
    /// A pNIC cannot be used as we need it.
    #[error("cannot {action} the network interface `{name}`")]
    Nic {
        /// The interface's name.
        name: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A pNIC cannot be taken over.
    #[error("cannot put a macvtap device upon the network interface `{name}`")]
    Macvtap {
        /// The interface's name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The host needs a pNIC itself.
    #[error("this host has an address on the network interface `{name}`, and would hear nothing there any more")]
    HostsOwn {
        /// The interface's name.
        name: String,
    },
    /// The host cannot share its pNIC with a switch.
    #[error("cannot let this host talk through the switch on its network interface `{name}`")]
    Share {
        /// The interface's name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A pNIC belongs to another switch.
    #[error("another switch has the network interface `{name}`")]
    NicInUse {
        /// The interface's name.
        name: String,
    },
    /// The process is out of something.
    #[error("cannot set up a port")]
    System(#[from] io::Error),
}

impl PortError {
    /// How to fix it.
    pub fn hint(&self) -> &str {
        match self {
            Self::PathTooLong { .. } => "choose a folder nearer to `/` (or a shorter WEFT_HOME)",
            Self::InUse { .. } => "end that process, or use another path (or WEFT_HOME)",
            Self::NotASocket { .. } => "move that file away",
            Self::Listen { .. } => "check that the folder exists, is yours, and is on a disk that is not full",
            Self::Udp { .. } => "use an address of this host and a port that is free, both of IPv4 or both of IPv6",
            Self::OpenTun { .. } => "load the kernel module `tun`, and run as root or grant CAP_NET_ADMIN",
            Self::Tap { source, .. } if source.kind() == io::ErrorKind::ResourceBusy => {
                "choose another name, or end what has the device: `ip link` shows it"
            }
            Self::Tap { .. } => {
                "grant CAP_NET_ADMIN, or make the device with `ip tuntap add NAME mode tap user USER vnet_hdr`"
            }
            Self::TakenSubnet { .. } => "choose another `subnet`, one that the host does not know yet",
            Self::HostAdapter { hint, .. } | Self::OtherAdapter { hint, .. } => hint,
            Self::TapName { .. } => "use 1 to 15 characters without `/`, `:` and spaces",
            Self::Nic { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as root or grant CAP_NET_RAW (`setcap cap_net_raw+ep` on the program)"
            }
            Self::Nic { .. } => "see `ip link` for the interfaces that this host has",
            Self::Macvtap { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "only root may: it needs CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_MKNOD; `attach = \"apart\"` needs CAP_NET_RAW only"
            }
            Self::Macvtap { .. } => {
                "the kernel needs macvtap (`modprobe macvtap`), and the interface must be no bridge's and have no other macvlan; \
                 or write `attach = \"apart\"`"
            }
            Self::HostsOwn { .. } => {
                "write `attach = \"shared\"`, which leaves it to the host, or take the address away"
            }
            Self::Share { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as root or grant CAP_NET_ADMIN and CAP_BPF, or do without the host: its own connectivity stays"
            }
            Self::Share { .. } => {
                "the kernel needs tun, BPF and traffic control (`modprobe -a tun sch_ingress cls_bpf`); or do without the host"
            }
            Self::NicInUse { .. } => "end that switch, or use another interface: a pNIC has one vSwitch",
            Self::System(_) => "see whether the limit of open files (`ulimit -n`) or memory is used up",
        }
    }
}
