use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};
use weft_types::{
    Listen, MacAddr, MacRange, NetworkName, Permission, PortName, PortRates, PortVlans, Provenance, VmName,
};

use crate::{
    AccessConfig, AddressConfig, CaptureRequest, DataplaneConfig, History, ListensRequest, MirrorStatus,
    NeighbourStatus, ReceiveFilter, RouterStatus,
};

/// What the daemon asks of the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request", content = "body")]
pub enum Request {
    /// Become this; answered with [`Response::Done`] when it is durable and in force.
    Apply(DataplaneConfig),
    /// Tell everything; answered with [`Response::Status`].
    Status,
    /// Tell the access lists, which can be long; answered with [`Response::Rules`].
    Rules,
    /// Tell what rules decided and which frames were dropped last; answered with [`Response::History`].
    History,
    /// Copy frames into the one descriptor that travels beside; answered with [`Response::Done`] once they are.
    Capture(CaptureRequest),
    /// What would happen to a frame; answered with [`Response::Explained`].
    Explain(ExplainRequest),
    /// What a vNIC listens to; answered with [`Response::Done`]. Once the connection has ended by which it came, nobody
    /// would tell of changes: then the port hears every group, and keeps its addresses.
    Listens(ListensRequest),
    /// End after the answer, remove the sockets and, when told to, the state on disk too.
    Shutdown {
        /// Whether leases and the snapshot are forgotten.
        forget: bool,
    },
}

/// What the switch answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "response", content = "body")]
pub enum Response {
    /// It is done.
    Done,
    /// The state of everything.
    Status(SwitchStatus),
    /// The access list of every network that has one, in name order.
    Rules(Vec<AclStatus>),
    /// What was decided lately.
    History(History),
    /// What would happen, and why.
    Explained(Explanation),
    /// It was not done, and nothing has changed.
    Refused(Refusal),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind of reason.
    pub code: ErrorCode,
    /// What and where.
    pub message: String,
    /// How to fix it.
    pub hint: String,
}

/// Kinds of refusals; stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is not understood.
    BadRequest,
    /// The configuration contradicts itself or the law.
    BadConfig,
    /// The configuration is older than the one in force.
    Stale,
    /// A port could not be opened; nothing was changed.
    PortFailed,
    /// The host does not give the place of a port forward; nothing was changed.
    ForwardFailed,
    /// The state could not be written.
    DiskFailed,
}

/// The state of a data plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// The process.
    pub pid: u32,
    /// The revision in force; 0 before the first configuration.
    pub revision: u64,
    /// Every port, in name order, the gateways' among them.
    pub ports: Vec<PortStatus>,
    /// Every lease that is held.
    pub leases: Vec<LeaseStatus>,
    /// Every port forward, in the order of the networks.
    #[serde(default)]
    pub forwards: Vec<ForwardStatus>,
    /// Flows in the cache, and lookups that hit and missed.
    pub cached_flows: u64,
    /// Lookups that the cache answered.
    pub cache_hits: u64,
    /// Lookups that ran the policy pipeline.
    pub cache_misses: u64,
    /// Flows of the NAT device that are open.
    pub nat_flows: u64,
    /// Every mirror and every capture.
    #[serde(default)]
    pub mirrors: Vec<MirrorStatus>,
    /// Every router.
    #[serde(default)]
    pub routers: Vec<RouterStatus>,
    /// Where programs of the host can ask for the names of machines.
    #[serde(default)]
    pub host_names: Option<SocketAddrV4>,
    /// What does not work on this host, in sentences (for example: ICMP sockets are closed to this user).
    pub notes: Vec<String>,
}

/// The state of a port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The port's name.
    pub name: PortName,
    /// Its network.
    pub network: NetworkName,
    /// The driver's name, `gateway` for a network's services.
    pub driver: String,
    /// The VM whose vNIC it is.
    pub vm: Option<VmName>,
    /// Its registered addresses.
    pub macs: Vec<MacAddr>,
    /// Its registered runs of addresses.
    #[serde(default)]
    pub mac_ranges: Vec<MacRange>,
    /// Whether it leads out of the switch.
    #[serde(default)]
    pub uplink: bool,
    /// Of an uplink of a team: whether it takes frames now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// The VLANs of its frames.
    #[serde(default)]
    pub vlans: PortVlans,
    /// How many stations behind it may be learned.
    #[serde(default)]
    pub learn: u32,
    /// The IP addresses that were configured as its own.
    #[serde(default)]
    pub addresses: AddressConfig,
    /// The IP addresses that it got from a DHCP server or by duplicate address detection, oldest first.
    #[serde(default)]
    pub learned: Vec<IpAddr>,
    /// What it may do.
    #[serde(default)]
    pub access: AccessConfig,
    /// What its vNIC listens to, as far as that was granted; `None` where it is not known.
    #[serde(default)]
    pub listens: Option<ReceiveFilter>,
    /// How fast it may be.
    #[serde(default)]
    pub rates: PortRates,
    /// Whether a peer is connected and ready.
    pub up: bool,
    /// Why it is not, when it is not.
    pub reason: Option<String>,
    /// Frames that came in from the peer.
    pub rx_frames: u64,
    /// Bytes that came in from the peer.
    pub rx_bytes: u64,
    /// Frames that went out to the peer.
    pub tx_frames: u64,
    /// Bytes that went out to the peer.
    pub tx_bytes: u64,
    /// Frames that came in and were dropped, per named reason, none of them zero.
    pub drops: Vec<DropCount>,
    /// What its guest asked for and was denied, per named reason, none of them zero.
    #[serde(default)]
    pub denials: Vec<DropCount>,
    /// What the services behind a gateway's port dropped, refused or gave up, per named reason (those of the NAT
    /// device begin with `nat-`), none of them zero.
    #[serde(default)]
    pub refusals: Vec<DropCount>,
    /// Who is at the other end of an uplink's cable, if it said so.
    #[serde(default)]
    pub neighbour: Option<NeighbourStatus>,
    /// Where the port was declared.
    pub provenance: Provenance,
}

/// A network's access list, as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclStatus {
    /// The network.
    pub network: NetworkName,
    /// Its rules in order.
    pub rules: Vec<RuleStatus>,
    /// What becomes of that which no rule fits.
    pub default: Permission,
}

/// A rule, and how often it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// What it says.
    pub permission: Permission,
    /// How often it has decided since it was declared, or since the switch began: about a connection's first packet, or
    /// about a packet that belongs to none.
    pub hits: u64,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// How many frames were dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// The reason's stable name, like `unknown-unicast`.
    pub reason: String,
    /// How many.
    pub frames: u64,
}

/// A DHCP lease that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// The network.
    pub network: NetworkName,
    /// The address.
    pub ip: Ipv4Addr,
    /// The adapter.
    pub mac: MacAddr,
    /// The VM it belongs to, if it is one of ours.
    pub vm: Option<VmName>,
    /// The name the client gave itself, as it came, cleaned of control characters.
    pub client_name: Option<String>,
    /// When it ends, in seconds since the Unix epoch.
    pub expires_unix_s: u64,
}

/// The state of a port forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardStatus {
    /// Where on the host.
    pub listen: Listen,
    /// Why nobody can reach it there, if so: another program may have taken the place while the switch was away.
    pub reason: Option<String>,
    /// Clients that it serves now: connections, and senders of datagrams.
    pub clients: u64,
    /// Clients that it has had since the switch began.
    pub served: u64,
}

/// A frame to explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Where it comes in.
    pub port: PortName,
    /// The frame's bytes, from the destination MAC on.
    pub frame: Vec<u8>,
}

/// What would happen to a frame, decided by the code that would decide it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The verdict in a sentence.
    pub verdict: String,
    /// The ports that it would leave by.
    pub egress: Vec<PortName>,
    /// The steps that led there, in order.
    pub steps: Vec<ExplainStep>,
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainStep {
    /// The stage's name, like `ingress-policy` or `mac-table`.
    pub stage: String,
    /// What it found.
    pub finding: String,
    /// The declaration that made it so.
    pub because: Option<Provenance>,
}
