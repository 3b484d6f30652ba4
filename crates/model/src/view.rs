//! What the API shows: the state of the world as plain data.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_types::{
    Allowance, ByteSize, ForwardTarget, IpNet, Ipv4Net, Ipv6Net, Label, Listen, MacAddr, MacRange, NetworkName,
    Permission, PortName, PortRates, PortVlans, Provenance, VlanSet, VmName,
};

use crate::{EngineKind, Mode, Uplink, World};

/// Ask for a file's objects to become this world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// Who owns the objects: the file's absolute path.
    pub owner: String,
    /// What the file declares; an empty world removes everything that the file made.
    pub world: World,
    /// Refuse if the owner's objects have changed since this revision was planned.
    #[serde(default)]
    pub if_revision: Option<u64>,
}

/// What would be done, and what stands in the way of the file's word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// The revision of the store that the plan was computed from.
    pub revision: u64,
    /// The steps, in an order in which they can be done.
    pub steps: Vec<StepView>,
    /// Where commands or accidents have moved the world away from the file.
    pub drift: Vec<DriftView>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    /// What happens to the object.
    pub action: StepAction,
    /// The object's kind: `network`, `vm`, `port`, `image` or `switch`.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The step in a few words, like `start on engine qemu (tcg)`.
    pub detail: String,
    /// What the change does to those who use the object now.
    pub impact: Impact,
    /// The declaration behind it.
    pub provenance: Option<Provenance>,
}

/// What a step does to its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepAction {
    /// It does not exist yet.
    Create,
    /// It changes in place.
    Update,
    /// It is started.
    Start,
    /// It is stopped.
    Stop,
    /// It goes.
    Remove,
}

/// What a step does to those who use its object now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Impact {
    /// Nobody notices.
    Hitless,
    /// Clients get another address, or hear something else from their lease: at once where they can be told, else when
    /// they renew it.
    ReLease,
    /// The machine is restarted or removed.
    Restart,
}

/// A difference between the file's word and the world that the file did not cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DriftView {
    /// The object's kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// What is different and through whom, like ``stopped by `weft vm stop web` ``.
    pub detail: String,
}

/// Everything at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorldView {
    /// The store's revision.
    pub revision: u64,
    /// The networks, by name.
    pub networks: Vec<NetworkView>,
    /// The machines, by name.
    pub vms: Vec<VmView>,
    /// The ports, by name.
    pub ports: Vec<PortView>,
    /// The leases, by address.
    pub leases: Vec<LeaseView>,
    /// The mirrors, and the captures that run.
    #[serde(default)]
    pub mirrors: Vec<MirrorView>,
    /// The port forwards, by network.
    #[serde(default)]
    pub forwards: Vec<ForwardView>,
    /// The shells that stand on networks, by name.
    #[serde(default)]
    pub shells: Vec<ShellView>,
    /// The files whose machines come back when the host does.
    #[serde(default)]
    pub enabled: Vec<String>,
    /// What joins networks, by name.
    #[serde(default)]
    pub routers: Vec<RouterView>,
    /// The daemon.
    pub daemon: DaemonView,
    /// The data plane's process; `None` when none runs.
    pub switch: Option<SwitchView>,
}

/// The daemon's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DaemonView {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// The data plane's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwitchView {
    /// Its process.
    pub pid: u32,
    /// The revision in force.
    pub revision: u64,
    /// Flows in the cache.
    pub cached_flows: u64,
    /// Lookups that the cache answered.
    pub cache_hits: u64,
    /// Lookups that ran the policy pipeline.
    pub cache_misses: u64,
    /// Open flows of the NAT device.
    pub nat_flows: u64,
    /// Where programs of this host can ask for the names of machines, by UDP.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "127.87.12.34:5300")]
    pub host_names: Option<SocketAddrV4>,
    /// What does not work on this host, in sentences.
    pub notes: Vec<String>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkView {
    /// Its name.
    pub name: NetworkName,
    /// How it reaches the outside.
    pub mode: Mode,
    /// By what it reaches the LAN; bridged networks only.
    #[serde(default)]
    pub uplink: Option<Uplink>,
    /// Its addresses; those of a bridged network are the LAN's, any that there are: `0.0.0.0/0`.
    #[schema(value_type = String, example = "10.20.0.0/24")]
    pub subnet: Ipv4Net,
    /// The gateway's address; `0.0.0.0` where the LAN has its own.
    #[schema(value_type = String, format = "ipv4")]
    pub gateway: Ipv4Addr,
    /// Its IPv6 prefix; the gateway has the first address of it.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "fd12:3456:789a:1::/64")]
    pub subnet6: Option<Ipv6Net>,
    /// Whether the host's services are reachable at the gateway's address.
    pub host_access: bool,
    /// The adapters by which the host itself stands on it, with its addresses there.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>, example = json!({"weft-lab": "10.20.0.254"}))]
    pub adapters: BTreeMap<Label, Ipv4Addr>,
    /// The machines on it.
    pub vms: Vec<VmName>,
    /// Who made it.
    pub owner: String,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmView {
    /// Its name.
    pub name: VmName,
    /// What it does now.
    pub state: VmState,
    /// What went wrong, when `state` is failed, or what it waits for.
    pub reason: Option<String>,
    /// Its image's name.
    pub image: String,
    /// What runs it.
    pub engine: EngineKind,
    /// How: `kvm` or `tcg`.
    pub accelerator: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// Its memory.
    pub memory: ByteSize,
    /// Its virtual CPUs.
    pub cpus: u16,
    /// Its adapters, in order.
    pub nics: Vec<NicView>,
    /// Who made it.
    pub owner: String,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// What a machine does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// It does not run, as it should be.
    Stopped,
    /// Its process runs, and it is not ready yet.
    Starting,
    /// It is ready.
    Ready,
    /// It is going down.
    Stopping,
    /// It should run and does not, or never became ready.
    Failed,
}

/// A machine's adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NicView {
    /// Its network.
    pub network: NetworkName,
    /// Its port.
    pub port: PortName,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The address that it holds a lease for; its fixed one on a network without DHCP.
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub ip: Option<Ipv4Addr>,
    /// The IPv6 addresses that it was seen to take, the oldest first, and those that its file gives it; link-local ones are
    /// left out.
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["fd12:3456:789a:1::10"]))]
    pub ipv6: Vec<Ipv6Addr>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PortView {
    /// Its name.
    pub name: PortName,
    /// Its network.
    pub network: NetworkName,
    /// Its driver.
    pub driver: String,
    /// The machine behind it.
    pub vm: Option<VmName>,
    /// The addresses registered for it.
    pub macs: Vec<MacAddr>,
    /// The runs of addresses registered for it.
    #[serde(default)]
    pub mac_ranges: Vec<MacRange>,
    /// Whether it leads out of the switch.
    #[serde(default)]
    pub uplink: bool,
    /// Of an uplink of a team: whether it takes frames now. The others wait until it is down.
    #[serde(default)]
    pub active: Option<bool>,
    /// The VLANs of its frames.
    #[serde(default)]
    pub vlans: PortVlans,
    /// How many stations behind it may be learned.
    #[serde(default)]
    pub learn: u32,
    /// The IP addresses and prefixes that are its own; absent where that is not known, so that any could be.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub addresses: Option<Vec<IpNet>>,
    /// The IP addresses that it was seen to get, by DHCP or by duplicate address detection.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub learned: Vec<IpAddr>,
    /// What it is allowed beyond the ordinary.
    #[serde(default)]
    pub allow: Vec<Allowance>,
    /// What its guest listens to, as far as that was granted; absent where it is not known, so that it hears every group.
    #[serde(default)]
    pub listens: Option<ListensView>,
    /// How fast it may be.
    #[serde(default)]
    pub rates: PortRates,
    /// Whether a peer is connected.
    pub up: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Frames in.
    pub rx_frames: u64,
    /// Bytes in.
    pub rx_bytes: u64,
    /// Frames out.
    pub tx_frames: u64,
    /// Bytes out.
    pub tx_bytes: u64,
    /// Frames that came in here and were dropped, by reason.
    pub drops: Vec<DropView>,
    /// What its guest asked for and was denied, by what it was.
    #[serde(default)]
    pub denials: Vec<DropView>,
    /// What the services behind a gateway dropped, refused or gave up, by reason; `nat-…` is the NAT device.
    #[serde(default)]
    pub refusals: Vec<DropView>,
    /// Who is at the other end of an uplink's cable, if it said so.
    #[serde(default)]
    pub neighbour: Option<NeighbourView>,
    /// The mirrors whose copies go to it.
    #[serde(default)]
    pub mirrors: Vec<MirrorView>,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// What a guest's adapter listens to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListensView {
    /// The unicast addresses.
    pub stations: Vec<MacAddr>,
    /// The groups.
    pub groups: Vec<MacAddr>,
    /// Whether it hears every group.
    pub all_multicast: bool,
    /// Whether it hears everything.
    pub promiscuous: bool,
}

/// A mirror or a capture: who gets copies of frames, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MirrorView {
    /// Its name.
    pub name: String,
    /// The networks whose frames it copies.
    pub networks: Vec<NetworkName>,
    /// Who gets them: a port, or a collector's URL; absent for the reader of a capture.
    pub to: Option<String>,
    /// How many copies were handed over since it was declared, or since the switch began.
    pub copies: u64,
    /// How many were lost, because whoever takes them was slower than the traffic, or not there.
    pub lost: u64,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// A router: what joins networks, and what it has let pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouterView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Label,
    /// The networks that it joins.
    pub networks: Vec<NetworkName>,
    /// Its rules in order.
    pub rules: Vec<RuleView>,
    /// What becomes of that which no rule fits.
    pub default: Permission,
    /// How often no rule fitted.
    pub default_hits: u64,
    /// Packets that went across since it was declared, or since the switch began.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Connections that are known.
    pub connections: u64,
    /// Who declared it.
    pub owner: String,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// The switch at the other end of an uplink's cable, as it introduces itself (LLDP).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NeighbourView {
    /// Which device it is: its name, or its address.
    pub device: String,
    /// Which of its ports the cable is in.
    pub port: String,
    /// The VLANs that it names for this port; many switches name none.
    #[schema(value_type = String, example = "10,20-29")]
    pub vlans: VlanSet,
    /// The VLANs that the uplink carries and the neighbour, which names others, does not.
    #[schema(value_type = String, example = "30")]
    pub missing_vlans: VlanSet,
}

/// A network's access list, as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AclView {
    /// The network.
    pub network: NetworkName,
    /// The rules in order.
    pub rules: Vec<RuleView>,
    /// What becomes of that which no rule fits.
    pub default: Permission,
}

/// A rule of an access list, and how often it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleView {
    /// Its name; without one, its text.
    pub name: String,
    /// What it says.
    pub permission: Permission,
    /// How often it has decided since it was declared, or since the switch began: about a connection's first packet, or
    /// about a packet that belongs to none.
    pub hits: u64,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// Frames dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropView {
    /// The reason.
    pub reason: String,
    /// How many.
    pub frames: u64,
}

/// What the switch decided lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryView {
    /// For every reason the last frames that were dropped for it, the oldest first.
    pub drops: Vec<DroppedFrameView>,
    /// The last decisions of the rules that have theirs logged, the oldest first.
    pub log: Vec<LoggedDecisionView>,
    /// How many decisions were logged before those.
    pub log_lost: u64,
}

/// A frame that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DroppedFrameView {
    /// The port by which it came in.
    pub port: PortName,
    /// The reason.
    pub reason: String,
    /// The name of the rule that denied or rejected it, if one did.
    pub rule: Option<String>,
    /// How long ago, in milliseconds.
    pub age_ms: u64,
    /// The frame in a line.
    pub summary: String,
    /// How many bytes it had.
    pub len: u64,
    /// The first of them, at most 128, in hexadecimal.
    pub head: String,
}

/// What a rule decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoggedDecisionView {
    /// The network whose rule it is.
    pub network: NetworkName,
    /// The rule's name.
    pub rule: String,
    /// What it says.
    pub permission: Permission,
    /// The port by which the packet came in.
    pub from: PortName,
    /// The port for which it was.
    pub to: PortName,
    /// How long ago, in milliseconds.
    pub age_ms: u64,
    /// The packet in a line.
    pub summary: String,
    /// How many bytes its frame had.
    pub len: u64,
}

/// A DHCP lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseView {
    /// Its network.
    pub network: NetworkName,
    /// The address.
    #[schema(value_type = String, format = "ipv4")]
    pub ip: Ipv4Addr,
    /// Who holds it.
    pub mac: MacAddr,
    /// The machine that it belongs to.
    pub vm: Option<VmName>,
    /// What the client calls itself.
    pub client_name: Option<String>,
    /// When it ends, in seconds since the Unix epoch.
    pub expires_unix_s: u64,
}

/// A port forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForwardView {
    /// Where on the host.
    pub listen: Listen,
    /// To whom it leads.
    pub to: ForwardTarget,
    /// On which network.
    pub network: NetworkName,
    /// Whether clients can come in there.
    pub up: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Clients that it serves now: connections, and senders of datagrams.
    pub clients: u64,
    /// Clients that it has had since the switch began, or since it was declared.
    pub served: u64,
    /// Who made it: a file's absolute path, or a command.
    pub owner: String,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// Ask for a port forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardRequest {
    /// Where on the host.
    pub listen: Listen,
    /// To whom it leads.
    pub to: ForwardTarget,
    /// On which network; the first that it can be, if left out.
    #[serde(default)]
    pub network: Option<NetworkName>,
}

/// A shell that stands on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShellView {
    /// Its name, under which the network's name server knows it.
    pub name: VmName,
    /// The network.
    pub network: NetworkName,
    /// Its port there.
    pub port: PortName,
    /// Its adapter's address.
    pub mac: MacAddr,
    /// The largest IP packet on that network, in bytes.
    pub mtu: u16,
    /// Whether somebody there gives addresses.
    pub leases: bool,
    /// Where the switch takes and gives its frames, each behind a 32-bit big-endian length.
    pub socket: String,
    /// The process with which it ends.
    pub pid: u32,
    /// The command that made it.
    pub provenance: Provenance,
}

/// Ask for a shell's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShellRequest {
    /// The network.
    pub network: NetworkName,
    /// Its name; the first free one of `shell-1`, `shell-2` and so on, if left out.
    #[serde(default)]
    pub name: Option<VmName>,
    /// The process with which it ends.
    pub pid: u32,
}

/// An image in the cache, or a built-in that can be built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// Its name.
    pub name: String,
    /// What it is, like `Debian 6.1.0-56-cloud-amd64, BusyBox 1.35.0`.
    pub description: String,
    /// Where it comes from: `weft`, the line of a file, or how a user has brought it.
    pub origin: String,
    /// Whether it is there and complete.
    pub built: bool,
    /// Its size on disk.
    pub size: Option<ByteSize>,
    /// Machines that use it.
    pub used_by: Vec<VmName>,
}

/// A long piece of work that goes on while others look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationView {
    /// Its number.
    pub id: u64,
    /// What it does, like `up /home/ann/lab.toml`.
    pub title: String,
    /// How far it is.
    pub state: OperationState,
    /// What went wrong, one entry a problem.
    pub problems: Vec<ProblemView>,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// It waits for one before it.
    Waiting,
    /// It works.
    Running,
    /// It is done, and everything is as it was asked.
    Done,
    /// It has ended, and something is not as it was asked.
    Failed,
}

/// A problem, in the shape of RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemView {
    /// A stable code, like `missing-image`.
    pub code: String,
    /// What and where.
    pub title: String,
    /// The causes, one a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How to fix it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The declaration that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Its number; events are numbered without gaps, across restarts of the daemon.
    pub id: u64,
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What kind, like `vm-ready`, `step-started`, `step-done`, `step-failed`, `switch-restarted`.
    pub kind: String,
    /// The operation that it belongs to.
    pub operation: Option<u64>,
    /// The object's kind.
    pub object_kind: Option<String>,
    /// The object's name.
    pub object: Option<String>,
    /// It in a sentence.
    pub message: String,
}
