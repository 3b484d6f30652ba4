//! One switch on its own: the file of `weft switch run`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use toml::de::DeTable;
use weft_types::{MacAddr, NetworkName, PortName, Provenance};

use crate::load::{parse_toml, read_file};
use crate::problem::{Problem, Report};
use crate::read::{Notes, Section, items, list, parse, subtables, wrong_type};

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
    /// Its ports.
    pub ports: BTreeMap<PortName, SwitchPort>,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// A port of a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchPort {
    /// What plugs into it.
    pub plug: Plug,
    /// The MAC addresses of what stands behind it.
    pub macs: Vec<MacAddr>,
    /// Whether it may send from other MAC addresses, too.
    pub forged_macs: bool,
    /// Whether it hears frames for other ports.
    pub promiscuous: bool,
    /// Where it is declared.
    pub provenance: Provenance,
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
    },
    /// A network interface of the host, which exists: the switch's uplink.
    Nic {
        /// The interface's name.
        name: String,
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
    let mut loader = Loader { source, path, notes: Notes::default(), taken: BTreeMap::new() };
    let switch = loader.switch(&root);
    match loader.notes.into_problems() {
        problems if problems.is_empty() => Ok(switch),
        problems => Err(Report::new(shown, source, problems)),
    }
}

struct Loader<'a> {
    source: &'a str,
    path: &'a Path,
    notes: Notes,
    /// What only one port can have, and which has it.
    taken: BTreeMap<String, PortName>,
}

impl<'a> Loader<'a> {
    fn switch(&mut self, root: &'a DeTable<'a>) -> SwitchFile {
        let mut section = Section::new(root, "", "a switch's file");
        let about = section.value(&mut self.notes, "switch");
        let start = self.notes.span("switch").map_or(0, |span| span.start);
        let (name, mtu) = match about.map(|value| (value, value.as_table())) {
            Some((_, Some(table))) => self.about(table),
            Some((value, None)) => {
                wrong_type::<()>(&mut self.notes, "switch", value, "a table", "{ name = \"lab\" }");
                (None, None)
            }
            None => (None, None),
        };
        let ports = subtables(&mut self.notes, &mut section, "port");
        section.finish(&mut self.notes);
        let mut switch = SwitchFile {
            name: name.unwrap_or_else(|| DEFAULT_NAME.parse().expect("`switch` is a name")),
            mtu: mtu.unwrap_or(DEFAULT_MTU) as u16,
            ports: BTreeMap::new(),
            provenance: self.provenance(start),
        };
        for (name, span, table) in ports {
            let provenance = self.provenance(span.start);
            if let Some(name) = parse::<PortName>(&mut self.notes, &format!("port.{name}"), name)
                && let Some(port) = self.port(&name, table, provenance)
            {
                switch.ports.insert(name, port);
            }
        }
        switch
    }

    fn about(&mut self, table: &'a DeTable<'a>) -> (Option<NetworkName>, Option<i64>) {
        let mut section = Section::new(table, "switch", "a switch");
        let name = section.parsed(&mut self.notes, "name", "lab");
        let mtu = section.integer(&mut self.notes, "mtu", 576..=9000);
        section.finish(&mut self.notes);
        (name, mtu)
    }

    /// Reads a port; `None` when what plugs into it cannot be told.
    fn port(&mut self, name: &PortName, table: &'a DeTable<'a>, provenance: Provenance) -> Option<SwitchPort> {
        let mut section = Section::new(table, format!("port.{name}"), "a port");
        let plug = self.plug(name, &mut section);
        let macs = self.macs(name, &mut section);
        let forged_macs = section.boolean(&mut self.notes, "forged_macs").unwrap_or(false);
        let promiscuous = section.boolean(&mut self.notes, "promiscuous").unwrap_or(false);
        if !section.has("mac") && !section.has("macs") && !section.has("nic") && !promiscuous {
            let message = format!("port `{name}` has no MAC address, so nothing would ever be sent to it");
            let hint = "write `mac = \"…\"`, the address of the adapter behind it; a switch does not guess";
            self.notes.complain(&section.path_of("mac"), Problem::new("missing-mac", message, hint));
        }
        section.finish(&mut self.notes);
        Some(SwitchPort { plug: plug?, macs, forged_macs, promiscuous, provenance })
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
        let connect = section.boolean(&mut self.notes, "connect");
        let peer = section.string(&mut self.notes, "peer", "the peer's address");
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
        let connect = connect.unwrap_or(false);
        match kind {
            "vhost" => Some(Plug::Vhost { socket: vhost?, connect }),
            "stream" => Some(Plug::Stream { socket: stream?, connect }),
            "tap" => Some(Plug::Tap { name: tap? }),
            "nic" => Some(Plug::Nic { name: nic? }),
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

    fn macs(&mut self, name: &PortName, section: &mut Section<'a>) -> Vec<MacAddr> {
        let one = section.string(&mut self.notes, "mac", "02:00:5e:10:00:01");
        let mut texts: Vec<_> = one.map(|text| (section.path_of("mac"), text)).into_iter().collect();
        for (path, value) in items(&mut self.notes, section, "macs", "[\"02:00:5e:10:00:01\"]") {
            match value.as_str() {
                Some(text) => texts.push((path, text)),
                None => drop(wrong_type::<()>(&mut self.notes, &path, value, "a text", "02:00:5e:10:00:01")),
            }
        }
        let mut macs = Vec::new();
        for (path, text) in texts {
            let Some(mac) = parse::<MacAddr>(&mut self.notes, &path, text) else { continue };
            if !mac.is_station() {
                let message = format!("{mac} is no address that an adapter can have");
                let hint = "use one whose first octet is even, like 02:00:5e:10:00:01";
                self.notes.complain(&path, Problem::new("bad-value", message, hint));
            } else {
                self.take(name, &path, format!("MAC address {mac}"));
                macs.push(mac);
            }
        }
        macs
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

    /// The line of a byte of the file.
    fn provenance(&self, at: usize) -> Provenance {
        let line = self.source[..at].matches('\n').count() + 1;
        Provenance::file(self.path.display().to_string(), line as u32)
    }
}
