//! One switch on its own: the file of `weft switch run`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use weft_types::{Allowance, Attach, Ipv4Net, Label, MacAddr, NetworkName, NicDriver, PortName, PortVlans, Provenance};

use crate::acl::{self, Cast, check_groups, check_rules};
use crate::load::{parse_toml, read_file};
use crate::port_keys::{self, Run, meetings};
use crate::problem::{Problem, Report};
use crate::read::{Lines, Notes, Section, list, parse, subtables, wrong_type};
use crate::team::{self, Team};
use crate::{Acl, Mirror, PortRules, mirror, uplink};

const DEFAULT_NAME: &str = "switch";
const DEFAULT_MTU: i64 = 1500;

/// What fits into the address of a Unix socket (unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// What fits into an interface's name, as the kernel's `IFNAMSIZ` says.
const MAX_INTERFACE_NAME_BYTES: usize = 15;

/// The keys that say what plugs into a port; each port has exactly one of them.
const KINDS: [&str; 6] = ["vhost", "tap", "stream", "dgram", "udp", "nic"];

/// A switch, as its file says it: one broadcast domain without services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchFile {
    /// The switch's name.
    pub name: NetworkName,
    /// The largest IP packet, in bytes; TAP devices that the switch makes get it.
    pub mtu: u16,
    /// Where frames between its ports are switched.
    pub mode: SwitchMode,
    /// How it uses its uplinks, if they are a team.
    pub team: Option<Team>,
    /// Who may begin what with whom; its groups are of ports.
    pub acl: Acl,
    /// Who gets copies of which frames.
    pub mirrors: BTreeMap<Label, Mirror>,
    /// Its ports.
    pub ports: BTreeMap<PortName, SwitchPort>,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// Where frames between the ports of a switch are switched (IEEE 802.1Qbg).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwitchMode {
    /// Here: a virtual Ethernet bridge.
    #[default]
    Veb,
    /// By the switch at the other end of the uplink, which sends them back.
    Vepa,
}

/// A port of a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchPort {
    /// What plugs into it.
    pub plug: Plug,
    /// Whether it leads out of the switch, to stations that nobody names.
    pub uplink: bool,
    /// What it may be and do; its MAC addresses are those of what stands behind it.
    pub rules: PortRules,
    /// Who knows what its adapter listens to.
    pub monitor: Option<Monitor>,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// The monitor of a QEMU (QMP), and which of its adapters is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// The Unix socket at which QEMU listens; the switch keeps it for itself.
    pub socket: PathBuf,
    /// The adapter's `id`; `None` for the machine's only one.
    pub device: Option<String>,
}

impl SwitchPort {
    /// Whether it leads out: a pNIC always does.
    pub fn is_uplink(&self) -> bool {
        self.uplink || matches!(self.plug, Plug::Nic { .. })
    }
}

/// What plugs into a port. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plug {
    /// A VMM's vhost-user front end.
    Vhost {
        /// The Unix socket.
        socket: PathBuf,
        /// Whether the VMM listens there, rather than the switch.
        connect: bool,
    },
    /// A TAP device of this name, made if it does not exist.
    Tap {
        /// The interface's name.
        name: String,
        /// The host's address there, and the network's prefix: the device is an adapter of the host, made for it.
        host: Option<Ipv4Net>,
    },
    /// A network interface of the host, which exists: the switch's uplink.
    Nic {
        /// The interface's name.
        name: String,
        /// How it is used.
        attach: Attach,
        /// How frames get to and from it.
        driver: NicDriver,
    },
    /// Frames behind their lengths on a Unix stream socket.
    Stream {
        /// The Unix socket.
        socket: PathBuf,
        /// Whether the peer listens there, rather than the switch.
        connect: bool,
    },
    /// A frame a datagram on a Unix socket.
    Dgram {
        /// The switch's own socket.
        socket: PathBuf,
        /// The peer's; `None` for whoever sent last.
        peer: Option<PathBuf>,
    },
    /// A frame a datagram of UDP.
    Udp {
        /// The switch's own address.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
    },
}

/// Reads and validates the switch in a file.
///
/// # Errors
/// Everything that is wrong with it, in one report.
pub fn load_switch(path: &Path) -> Result<SwitchFile, Report> {
    let shown = path.display().to_string();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let missing = "write one; `examples/switch/` shows how";
    let source = read_file(path, missing).map_err(|problem| Report::of_file(&shown, problem))?;
    parse_switch(&source, &absolute, &shown)
}

/// Validates the switch in `source`. `path` is the file's absolute path, from which relative paths in it are meant;
/// `shown` is the file's name for people.
///
/// # Errors
/// Everything that is wrong with it, in one report.
pub fn parse_switch(source: &str, path: &Path, shown: &str) -> Result<SwitchFile, Report> {
    let root = parse_toml(source, shown)?;
    let mut loader = Loader {
        source,
        path,
        lines: Lines::new(source, path),
        notes: Notes::default(),
        taken: BTreeMap::new(),
        macs: BTreeMap::new(),
        listeners: BTreeSet::new(),
    };
    let switch = loader.switch(&root);
    match loader.notes.into_problems() {
        problems if problems.is_empty() => Ok(switch),
        problems => Err(Report::new(shown, source, problems)),
    }
}

struct Loader<'a> {
    source: &'a str,
    path: &'a Path,
    lines: Lines,
    notes: Notes,
    /// What only one port can have, and which has it.
    taken: BTreeMap<String, PortName>,
    /// Which ports have a MAC address, and in which VLANs.
    macs: BTreeMap<MacAddr, Vec<(PortName, PortVlans)>>,
    /// The ports to which mirrors send copies.
    listeners: BTreeSet<PortName>,
}

impl<'a> Loader<'a> {
    fn switch(&mut self, root: &'a DeTable<'a>) -> SwitchFile {
        let mut section = Section::new(root, "", "a switch's file");
        let about = section.value(&mut self.notes, "switch");
        let start = self.notes.span("switch").map_or(0, |span| span.start);
        let mut switch = SwitchFile {
            name: DEFAULT_NAME.parse().expect("`switch` is a name"),
            mtu: DEFAULT_MTU as u16,
            mode: SwitchMode::default(),
            team: None,
            acl: Acl::default(),
            mirrors: BTreeMap::new(),
            ports: BTreeMap::new(),
            provenance: self.lines.provenance(start),
        };
        let team = match about.map(|value| (value, value.as_table())) {
            Some((_, Some(table))) => self.about(table, &mut switch),
            Some((value, None)) => wrong_type(&mut self.notes, "switch", value, "a table", "{ name = \"lab\" }"),
            None => None,
        };
        let ports = subtables(&mut self.notes, &mut section, "port");
        let groups = subtables(&mut self.notes, &mut section, "group");
        let mirrors = subtables(&mut self.notes, &mut section, "mirror");
        section.finish(&mut self.notes);
        switch.acl.groups = acl::read_groups(&mut self.notes, groups, "the names of ports");
        let mirrors = mirror::read(&mut self.notes, mirrors, &self.lines, |_, _| ());
        switch.mirrors = mirrors.into_iter().map(|(name, mirror, ())| (name, mirror)).collect();
        let listeners = switch.mirrors.values().filter_map(|mirror| mirror.to.port().cloned());
        self.listeners = listeners.collect();
        let declared: BTreeSet<_> = ports.iter().map(|(name, ..)| *name).collect();
        for (name, span, table) in ports {
            let provenance = self.lines.provenance(span.start);
            if let Some(name) = parse::<PortName>(&mut self.notes, &format!("port.{name}"), name)
                && let Some(port) = self.port(&name, table, provenance)
            {
                switch.ports.insert(name, port);
            }
        }
        switch.team = self.team(&switch, team);
        self.check(&switch, &declared);
        switch
    }

    fn about(&mut self, table: &'a DeTable<'a>, switch: &mut SwitchFile) -> Option<team::Wanted> {
        let mut section = Section::new(table, "switch", "a switch");
        let notes = &mut self.notes;
        if let Some(name) = section.parsed(notes, "name", "lab") {
            switch.name = name;
        }
        if let Some(mtu) = section.integer(notes, "mtu", 576..=9000) {
            switch.mtu = mtu as u16;
        }
        match section.string(notes, "mode", "veb") {
            None | Some("veb") => {}
            Some("vepa") => switch.mode = SwitchMode::Vepa,
            Some(other) => {
                let message = format!("`{}` is not a value of `mode`", other.escape_debug());
                let hint = "choose `veb`, or `vepa` where the switch behind the uplink sends frames back";
                notes.complain("switch.mode", Problem::new("bad-value", message, hint));
            }
        }
        let team = team::read(notes, &mut section);
        switch.acl = acl::read(notes, &mut section, self.source, &self.lines);
        section.finish(notes);
        team
    }

    /// The way out, of which a switch has one: an uplink, or a team of them.
    fn team(&mut self, switch: &SwitchFile, wanted: Option<team::Wanted>) -> Option<Team> {
        let mut uplinks: Vec<_> = switch.ports.iter().filter(|(_, port)| port.is_uplink()).collect();
        uplinks.sort_by_key(|(_, port)| port.provenance.line);
        let uplinks: Vec<_> = uplinks.into_iter().map(|(name, _)| name).collect();
        let is_unread = self.notes.is_broken("switch.team");
        if let ([first, others @ ..], None, false) = (&uplinks[..], &wanted, is_unread) {
            for name in others {
                let message = format!("port `{first}` is the uplink already, and a switch has one way out");
                let hint = "remove one of the two, or make them one way out: `team = \"active-standby\"` in `[switch]`";
                self.notes.complain(&format!("port.{name}.uplink"), Problem::new("second-uplink", message, hint));
            }
        }
        wanted.map(|team| team.of_uplinks(&mut self.notes, &uplinks))
    }

    /// What must hold between the ports, the groups and the rules. `declared` are all ports, read or not.
    fn check(&mut self, switch: &SwitchFile, declared: &BTreeSet<&str>) {
        if switch.mode == SwitchMode::Vepa && !switch.ports.values().any(SwitchPort::is_uplink) {
            let message = "in mode `vepa` every frame leaves by the uplink, and there is none";
            let problem = Problem::new("contradiction", message, "write `uplink = true` in the port that leads out");
            self.notes.complain("switch.mode", problem);
        }
        let runs = switch.ports.iter().flat_map(|(name, port)| {
            let ranges = port.rules.mac_ranges.iter().map(move |range| Run::of_range(*range, name));
            ranges.chain(port.rules.macs.iter().map(move |mac| Run::of(*mac, name)))
        });
        for (name, range, other) in meetings(runs.collect()) {
            let message = format!("the MAC addresses {range} meet others of port `{other}`");
            let problem = Problem::new("taken", message, "choose ranges that no other port has addresses in");
            self.notes.complain(&format!("port.{name}.macs"), problem);
        }
        let cast = Cast {
            all: declared.clone(),
            what: "a port",
            here: declared.iter().map(|name| (*name).to_owned()).collect(),
            place: "a switch on its own".to_owned(),
            gateway: false,
        };
        let notes = &mut self.notes;
        check_groups(&switch.acl.groups, declared, cast.what, |path, problem| notes.complain(&path, problem));
        check_rules(&switch.acl, "switch", &cast, |path, problem| notes.complain(&path, problem));
        let outward = switch.ports.iter().filter(|(_, port)| port.uplink).map(|(name, _)| name).collect();
        let itself = |name: &PortName| vec![name.clone()];
        mirror::check(&switch.mirrors, &switch.acl, &cast, &outward, itself, |path, problem| {
            notes.complain(&path, problem);
        });
    }

    /// Reads a port; `None` when what plugs into it cannot be told.
    fn port(&mut self, name: &PortName, table: &'a DeTable<'a>, provenance: Provenance) -> Option<SwitchPort> {
        let mut section = Section::new(table, format!("port.{name}"), "a port");
        let plug = self.plug(name, &mut section);
        let monitor = self.monitor(name, &mut section);
        let mac = section.parsed::<MacAddr>(&mut self.notes, "mac", "02:00:5e:10:00:01");
        let mut rules = port_keys::read(&mut self.notes, &mut section);
        if let Some(mac) = mac {
            rules.macs.insert(0, mac);
        }
        self.check_macs(name, &section, &mut rules);
        let uplink = section.boolean(&mut self.notes, "uplink").unwrap_or(false);
        let is_listener = rules.allow.contains(&Allowance::Promiscuous) || self.listeners.contains(name);
        let hears = uplink || rules.learn > 0 || is_listener;
        if !section.has("mac") && !section.has("macs") && !section.has("nic") && !hears {
            let message = format!("port `{name}` has no MAC address, so nothing would ever be sent to it");
            let hint = "write `mac = \"…\"`, the address of the adapter behind it; a switch does not guess";
            self.notes.complain(&section.path_of("mac"), Problem::new("missing-mac", message, hint));
        }
        section.finish(&mut self.notes);
        Some(SwitchPort { plug: plug?, uplink, rules, monitor, provenance })
    }

    fn plug(&mut self, name: &PortName, section: &mut Section<'a>) -> Option<Plug> {
        let vhost = self.socket(name, section, "vhost");
        let stream = self.socket(name, section, "stream");
        let dgram = self.socket(name, section, "dgram");
        let tap = self.interface(name, section, "tap", "tap0");
        let nic = self.interface(name, section, "nic", "eth1");
        let udp = section.parsed::<SocketAddr>(&mut self.notes, "udp", "127.0.0.1:4000");
        if let Some(local) = udp {
            self.take(name, &section.path_of("udp"), format!("address {local}"));
        }
        let host = self.host(section);
        let connect = section.boolean(&mut self.notes, "connect");
        let peer = section.string(&mut self.notes, "peer", "the peer's address");
        let attach = uplink::read_attach(&mut self.notes, section);
        let driver = section.parsed::<NicDriver>(&mut self.notes, "driver", "auto");
        let given: Vec<_> = KINDS.into_iter().filter(|kind| section.has(kind)).collect();
        let kind = match given[..] {
            [kind] => kind,
            [] => {
                let message = format!("nothing plugs into port `{name}`");
                let hint = format!("give it one of the keys {}", list(&KINDS));
                self.notes.complain(&section.path_of("vhost"), Problem::new("missing-plug", message, hint));
                return None;
            }
            [.., last] => {
                let message = format!("port `{name}` has {}, and one thing plugs into a port", list(&given));
                let hint = "make a port of its own for each";
                self.notes.complain(&section.path_of(last), Problem::new("contradiction", message, hint));
                return None;
            }
        };
        self.only_for(section, "connect", kind, &["vhost", "stream"]);
        self.only_for(section, "peer", kind, &["dgram", "udp"]);
        self.only_for(section, "qmp", kind, &["vhost", "tap", "stream", "dgram", "udp"]);
        self.only_for(section, "host", kind, &["tap"]);
        self.only_for(section, "attach", kind, &["nic"]);
        self.only_for(section, "driver", kind, &["nic"]);
        if driver == Some(NicDriver::Xdp) && attach.is_some_and(|attach| attach != Attach::Apart) {
            let message = "with AF_XDP the host hears nothing by the interface, so that it can share nothing";
            let problem = Problem::new("contradiction", message, "remove `attach`, or choose `driver = \"packet\"`");
            self.notes.complain(&section.path_of("driver"), problem);
        }
        let connect = connect.unwrap_or(false);
        match kind {
            "vhost" => Some(Plug::Vhost { socket: vhost?, connect }),
            "stream" => Some(Plug::Stream { socket: stream?, connect }),
            "tap" => Some(Plug::Tap { name: tap?, host }),
            "nic" => {
                Some(Plug::Nic { name: nic?, attach: attach.unwrap_or_default(), driver: driver.unwrap_or_default() })
            }
            "dgram" => {
                let path = section.path_of("peer");
                let peer = peer.and_then(|peer| self.socket_path(&path, peer));
                Some(Plug::Dgram { socket: dgram?, peer })
            }
            _ => {
                let path = section.path_of("peer");
                if !section.has("peer") {
                    let message = format!("port `{name}` does not say who it talks to");
                    let hint = "write `peer = \"ADDRESS:PORT\"`: from everybody else, nothing is taken";
                    self.notes.complain(&path, Problem::new("missing-peer", message, hint));
                }
                let peer = peer.and_then(|peer| parse(&mut self.notes, &path, peer));
                Some(Plug::Udp { local: udp?, peer: peer? })
            }
        }
    }

    /// The host's address at its adapter.
    fn host(&mut self, section: &mut Section<'a>) -> Option<Ipv4Net> {
        let host = section.parsed::<Ipv4Net>(&mut self.notes, "host", "10.9.0.1/24")?;
        let path = section.path_of("host");
        let ip = host.addr();
        let edge = host.prefix_len() < 31 && (ip == host.network() || ip == host.broadcast());
        if edge || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || ip.is_broadcast() {
            let message = format!("{host} is no address that the host can have on a network");
            let hint = "write one of the network's addresses, neither its first nor its last, like `10.9.0.1/24`";
            self.notes.complain(&path, Problem::new("bad-value", message, hint));
        }
        if !section.has("mac") && !section.has("macs") {
            let message = "the host's adapter needs a MAC address".to_owned();
            self.notes.complain(&path, Problem::new("missing-mac", message, "write `mac = \"02:00:5e:10:00:01\"`"));
        }
        Some(host)
    }

    /// Complains about a key that says nothing about a port of this kind.
    fn only_for(&mut self, section: &Section<'_>, key: &'static str, kind: &str, kinds: &[&str]) {
        if section.has(key) && !kinds.contains(&kind) {
            let message = format!("`{key}` means nothing for a port with `{kind}`");
            let hint = format!("remove it; it goes with {}", list(kinds));
            self.notes.complain(&section.path_of(key), Problem::new("contradiction", message, hint));
        }
    }

    fn socket(&mut self, name: &PortName, section: &mut Section<'a>, key: &'static str) -> Option<PathBuf> {
        let text = section.string(&mut self.notes, key, "web.sock")?;
        let path = section.path_of(key);
        let socket = self.socket_path(&path, text)?;
        self.take(name, &path, format!("socket {}", socket.display()));
        Some(socket)
    }

    /// A socket's path, from the file's own folder.
    fn socket_path(&mut self, path: &str, text: &str) -> Option<PathBuf> {
        let socket = self.path.with_file_name(text);
        let len = socket.as_os_str().as_bytes().len();
        if text.is_empty() || text.contains('\0') {
            let message = format!("`{}` is no path of a socket", text.escape_debug());
            self.notes.complain(path, Problem::new("bad-value", message, "write a path like `/run/web.sock`"));
            None
        } else if len > MAX_SOCKET_PATH_BYTES {
            let message = format!("{} has {len} bytes, and a socket's path at most 107", socket.display());
            self.notes.complain(path, Problem::new("bad-value", message, "choose a folder nearer to `/`"));
            None
        } else {
            Some(socket)
        }
    }

    /// Reads whose monitor knows the adapter behind the port.
    fn monitor(&mut self, name: &PortName, section: &mut Section<'a>) -> Option<Monitor> {
        let notes = &mut self.notes;
        let path = section.path_of("qmp");
        let (socket, device) = match section.value(notes, "qmp")? {
            DeValue::String(socket) => (socket.as_ref(), None),
            DeValue::Table(table) => {
                let mut section = Section::new(table, path.clone(), "a monitor");
                let socket = section.string(notes, "socket", "web.qmp");
                let device = section.string(notes, "device", "nic0").map(str::to_owned);
                let has_socket = section.has("socket");
                section.finish(notes);
                if !has_socket {
                    let hint = "write `socket = \"web.qmp\"`, where QEMU's `-qmp` listens";
                    notes.complain(&path, Problem::new("missing-socket", "a monitor has a socket", hint));
                }
                (socket?, device)
            }
            other => return wrong_type(notes, &path, other, "a socket or a table", "\"web.qmp\""),
        };
        let socket = self.socket_path(&path, socket)?;
        let adapter = device.as_ref().map_or("only adapter".to_owned(), |device| format!("adapter {device}"));
        self.take(name, &path, format!("{adapter} of the machine at {}", socket.display()));
        Some(Monitor { socket, device })
    }

    fn interface(
        &mut self,
        name: &PortName,
        section: &mut Section<'a>,
        key: &'static str,
        example: &str,
    ) -> Option<String> {
        let interface = section.string(&mut self.notes, key, example)?;
        let path = section.path_of(key);
        let forbidden = |c: char| matches!(c, '/' | ':' | '%' | '\0') || c.is_whitespace();
        if interface.is_empty()
            || interface.len() > MAX_INTERFACE_NAME_BYTES
            || interface.contains(forbidden)
            || matches!(interface, "." | "..")
        {
            let message = format!("`{}` cannot be an interface's name", interface.escape_debug());
            let hint = "use 1 to 15 characters without `/`, `:`, `%` and spaces";
            self.notes.complain(&path, Problem::new("bad-value", message, hint));
            return None;
        }
        self.take(name, &path, format!("network interface {interface}"));
        Some(interface.to_owned())
    }

    /// Each MAC address is one station's, and in each VLAN one port's.
    fn check_macs(&mut self, name: &PortName, section: &Section<'_>, rules: &mut PortRules) {
        let path = section.path_of(if section.has("mac") { "mac" } else { "macs" });
        let PortRules { macs, vlans, .. } = rules;
        macs.retain(|mac| {
            if !mac.is_station() {
                let message = format!("{mac} is no address that an adapter can have");
                let hint = "use one whose first octet is even, like 02:00:5e:10:00:01";
                self.notes.complain(&path, Problem::new("bad-value", message, hint));
                return false;
            }
            let owners = self.macs.entry(*mac).or_default();
            match owners.iter().find(|(_, other)| other.overlaps(vlans)) {
                Some((other, _)) => {
                    let message = format!("port `{other}` has the MAC address {mac} already");
                    self.notes.complain(&path, Problem::new("taken", message, "give each port its own"));
                }
                None => owners.push((name.clone(), vlans.clone())),
            }
            true
        });
    }

    /// Notes that a port has what no other can have.
    fn take(&mut self, name: &PortName, path: &str, what: String) {
        if let Some(other) = self.taken.get(&what) {
            let message = format!("port `{other}` has the {what} already");
            self.notes.complain(path, Problem::new("taken", message, "give each port its own"));
        } else {
            self.taken.insert(what, name.clone());
        }
    }
}
