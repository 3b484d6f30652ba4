//! What the daemon says to the switch process, and what it answers.
//!
//! One JSON object a line over a Unix stream socket: the daemon sends a [`Request`], the switch answers with
//! one [`Response`]. A descriptor that a request needs (a TAP, the pipe of a capture) travels beside its line as `SCM_RIGHTS`.
//!
//! The configuration is always whole ([`DataplaneConfig`]): applying it twice changes nothing, applying a new
//! one changes only the difference, and ports that stay are not touched. The switch writes it to its own disk
//! before it answers, so that a restarted switch is complete without the daemon.

mod access;
mod client;
mod config;
mod forward;
mod history;
mod line;
mod listens;
mod message;
mod mirror;
mod neighbour;
mod router;

pub use access::{AccessConfig, AclConfig, AddressConfig, EndConfig, RuleConfig};
pub use client::{Client, ClientError, MAX_DESCRIPTORS};
pub use config::{
    DataplaneConfig, DhcpConfig, ForwardConfig, GatewayConfig, HostRecord, NetworkConfig, NetworkMode, PortConfig,
    PortKind, Reservation, Switching, TeamConfig, TeamMode,
};
pub use forward::why_not_listening;
pub use history::{DroppedFrame, History, LoggedDecision};
pub use line::{LineBuffer, LineError, MAX_LINE_BYTES, to_line};
pub use listens::{ListensRequest, ReceiveFilter};
pub use message::{
    AclStatus, DropCount, ErrorCode, ExplainRequest, ExplainStep, Explanation, ForwardStatus, LeaseStatus, PortStatus,
    Refusal, Request, Response, RuleStatus, SwitchStatus,
};
pub use mirror::{CaptureRequest, MirrorConfig, MirrorStatus, MirrorTo};
pub use neighbour::NeighbourStatus;
pub use router::{RouteEndConfig, RouteRuleConfig, RouterConfig, RouterStatus, StationConfig};
