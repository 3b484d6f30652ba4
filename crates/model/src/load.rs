//! From a file to a world.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use toml::de::{DeTable, DeValue};
use weft_types::{ByteSize, Dhcp6, DnsNames, Ipv4Net, Label, MacAddr, NetworkName, Provenance, VmName};

use crate::acl;
use crate::adapters;
use crate::check::{self, HostFacts};
use crate::dhcp::{self, KeptForVm};
use crate::disk::Disk;
use crate::files::{check_disk, read_ssh_key, read_user_data};
use crate::forward;
use crate::image;
use crate::ipv6;
use crate::mirror;
use crate::names;
use crate::port_keys;
use crate::problem::{Problem, Report};
use crate::read::{Lines, Notes, Section, items, list, one_of, parse, subtables, wrong_type};
use crate::router;
use crate::shares;
use crate::uplink;
use crate::{
    Acl, DiskFormat, Display, EngineKind, Image, ImageSource, MICRO, Mode, Network, Nic, PortRules, Ready, Uplink, Vm,
    World,
};

/// A world that a person writes has a few hundred lines; this many bytes are no such file.
const MAX_FILE_BYTES: u64 = 4 << 20;
const DEFAULT_MTU: i64 = 1500;
/// The networks that an adapter can be on without a block for them, named after their modes.
const IMPLIED: [(&str, Mode); 2] = [("nat", Mode::Nat), ("host-only", Mode::HostOnly)];
const KERNEL_MEMORY: ByteSize = ByteSize::from_mib(256);
const DISK_MEMORY: ByteSize = ByteSize::from_mib(1024);
/// Room to spare below what QEMU takes, so that a size which is refused is refused here.
const MAX_DISK: ByteSize = ByteSize::from_mib(1024 << 20);

/// Reads and validates the world in a file.
///
/// # Errors
/// Everything that is wrong with it, in one report.
pub fn load(path: &Path, facts: &HostFacts) -> Result<World, Report> {
    let shown = path.display().to_string();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let missing = "name the file (`weft up FILE`), or write `weft.toml` here; the README shows one";
    let source = read_file(path, missing).map_err(|problem| Report::of_file(&shown, problem))?;
    parse_world(&source, &absolute, &shown, facts)
}

/// Validates the world in `source`. `path` is the file's absolute path, from which relative paths in it are meant
/// and which objects carry as their provenance; `shown` is the file's name for people.
///
/// # Errors
/// Everything that is wrong with it, in one report.
pub fn parse_world(source: &str, path: &Path, shown: &str, facts: &HostFacts) -> Result<World, Report> {
    let root = parse_toml(source, shown)?;
    let mut loader = Loader {
        source,
        path,
        facts,
        lines: Lines::new(source, path),
        notes: Notes::default(),
        world: World::default(),
        disks: BTreeMap::new(),
        kept: Vec::new(),
    };
    loader.world(&root);
    let Loader { mut notes, world, .. } = loader;
    for finding in check::findings(&world, facts) {
        if !finding.rests_on.is_some_and(|path| notes.is_broken(&path)) {
            notes.complain(&finding.path, finding.problem);
        }
    }
    match notes.into_problems() {
        problems if problems.is_empty() => Ok(world),
        problems => Err(Report::new(shown, source, problems)),
    }
}

/// The tables of a TOML text; everything that its grammar does not allow, in one report.
pub(crate) fn parse_toml<'a>(source: &'a str, shown: &str) -> Result<DeTable<'a>, Report> {
    let (root, errors) = DeTable::parse_recoverable(source);
    if errors.is_empty() {
        return Ok(root.into_inner());
    }
    let syntax = |error: &toml::de::Error| {
        (error.span().or(Some(0..0)), Problem::plain("syntax", format!("this is not TOML: {}", error.message())))
    };
    Err(Report::new(shown, source, errors.iter().map(syntax).collect()))
}

/// The text of a file that a person wrote; `missing` is the way out where there is none.
pub(crate) fn read_file(path: &Path, missing: &str) -> Result<String, Problem> {
    let unreadable = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => missing,
            std::io::ErrorKind::PermissionDenied => "make it readable for you",
            _ => "look at the file and its disk",
        };
        Problem::new("unreadable", format!("cannot read {}: {error}", path.display()), hint)
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        let hint = "name the file in it";
        return Err(Problem::new("unreadable", format!("{} is a folder", path.display()), hint));
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Problem::new("too-large", "the file is larger than 4 MiB", "is it the right one?"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::new("not-text", format!("the file is not UTF-8 text (byte {at})"), "save it as UTF-8")
    })
}

struct Loader<'a> {
    source: &'a str,
    path: &'a Path,
    facts: &'a HostFacts,
    lines: Lines,
    notes: Notes,
    world: World,
    /// The disks of the images, as far as they can be used.
    disks: BTreeMap<Label, Disk>,
    /// The addresses that networks keep for machines.
    kept: Vec<(NetworkName, KeptForVm)>,
}

/// What a file says about a network's addresses.
struct Written {
    /// Its subnet, and rightly.
    subnet: bool,
    ipv6: ipv6::Written,
}

impl<'a> Loader<'a> {
    fn world(&mut self, root: &'a DeTable<'a>) {
        let mut section = Section::new(root, "", "a world");
        let networks = subtables(&mut self.notes, &mut section, "network");
        let images = subtables(&mut self.notes, &mut section, "image");
        let vms = subtables(&mut self.notes, &mut section, "vm");
        let groups = subtables(&mut self.notes, &mut section, "group");
        let mirrors = subtables(&mut self.notes, &mut section, "mirror");
        let routers = subtables(&mut self.notes, &mut section, "router");
        section.finish(&mut self.notes);
        let groups = acl::read_groups(&mut self.notes, groups, "the names of VMs");
        let mut automatic = Vec::new();
        let mut wanting_ipv6 = Vec::new();
        for (name, span, table) in networks {
            let provenance = self.provenance(span.start);
            let name: Option<NetworkName> = parse(&mut self.notes, &format!("network.{name}"), name);
            let Some(name) = name else { continue };
            let Written { subnet, ipv6 } = self.network(&name, table, provenance);
            if !subnet {
                automatic.push(name.clone());
            }
            if ipv6 == ipv6::Written::Any {
                wanting_ipv6.push(name);
            }
        }
        for name in automatic {
            self.choose_subnet(&name);
        }
        ipv6::choose(&mut self.world, &self.path.display().to_string(), &wanting_ipv6);
        for network in self.world.networks.values_mut() {
            network.acl.groups.clone_from(&groups);
        }
        self.mirrors(mirrors);
        self.world.routers = router::read(&mut self.notes, routers, &groups, self.source, &self.lines);
        for (name, span, table) in images {
            let provenance = self.provenance(span.start);
            if let Some(label) = parse::<Label>(&mut self.notes, &format!("image.{name}"), name) {
                self.image(&label, table, provenance);
            }
        }
        for (name, span, table) in vms {
            let provenance = self.provenance(span.start);
            if let Some(name) = parse::<VmName>(&mut self.notes, &format!("vm.{name}"), name) {
                self.vm(&name, table, provenance);
            }
        }
        self.keep_for_vms();
        for (name, mode) in IMPLIED {
            self.imply(name, mode);
        }
        for (name, network) in &mut self.world.networks {
            if network.mode == Mode::HostOnly && network.adapters.is_empty() {
                network.adapters = adapters::by_default(name, network.subnet);
            }
        }
    }

    /// Gives machines the addresses that their networks keep for them.
    fn keep_for_vms(&mut self) {
        for (network, KeptForVm { path, vm, ip }) in std::mem::take(&mut self.kept) {
            let nics = self.world.vms.get_mut(&vm).into_iter().flat_map(|vm| &mut vm.nics);
            let problem = match nics.into_iter().find(|nic| nic.network == network) {
                Some(nic) if nic.ip.is_none_or(|own| own == ip) => {
                    nic.ip = Some(ip);
                    continue;
                }
                Some(_) => {
                    let message = format!("the adapter of `{vm}` has another address in `nics`");
                    Problem::new("contradiction", message, "write the address at one of the two places")
                }
                None => {
                    let message = format!("there is no machine `{vm}` on network `{network}`");
                    let hint = "other clients are known by a MAC address, `id:TEXT` or `id:hex:DIGITS`";
                    Problem::new("missing-vm", message, hint)
                }
            };
            self.notes.complain(&path, problem);
        }
    }

    /// An adapter on the network called `name` needs no block for it: without one, it is there with everything as it is
    /// by default.
    fn imply(&mut self, name: &str, mode: Mode) {
        let nics = self.world.vms.values().flat_map(|vm| &vm.nics).filter(|nic| nic.network.as_str() == name);
        let Some(first) = nics.min_by_key(|nic| nic.provenance.line) else { return };
        let (name, provenance) = (first.network.clone(), first.provenance.clone());
        if self.world.networks.contains_key(&name) {
            return;
        }
        let subnet = Ipv4Net::default(); // not chosen yet
        let network = Network {
            mode,
            uplink: None,
            subnet,
            gateway: first_host(subnet),
            subnet6: None,
            dhcp6: None,
            host_access: false,
            adapters: BTreeMap::new(),
            dhcp: Some(dhcp::whole_subnet(subnet)),
            dns: true,
            names: DnsNames::default(),
            mtu: DEFAULT_MTU as u16,
            acl: Acl::default(),
            mirrors: BTreeMap::new(),
            forwards: Vec::new(),
            provenance,
        };
        self.world.networks.insert(name.clone(), network);
        self.choose_subnet(&name);
    }

    /// Reads mirrors, each for the network that it names; the only one need not be named.
    fn mirrors(&mut self, tables: Vec<(&'a str, Range<usize>, &'a DeTable<'a>)>) {
        let read = |notes: &mut Notes, section: &mut Section<'a>| {
            (section.parsed::<NetworkName>(notes, "network", "office"), section.has("network"))
        };
        for (name, mirror, (network, is_named)) in mirror::read(&mut self.notes, tables, &self.lines, read) {
            let mut networks = self.world.networks.iter_mut();
            let found = match &network {
                Some(network) => networks.find(|(name, _)| *name == network),
                None if is_named => continue, // that was told
                None => networks.next().filter(|_| networks.next().is_none()),
            };
            if let Some((_, network)) = found {
                network.mirrors.insert(name, mirror);
                continue;
            }
            let known: Vec<_> = self.world.networks.keys().map(NetworkName::as_str).collect();
            let (key, code, message) = match network {
                Some(network) => (".network", "missing-network", format!("there is no network `{network}`")),
                None => ("", "missing-key", "the mirror names no network".to_owned()),
            };
            let hint = format!("write `network = \"NAME\"`; the file declares {}", list(&known));
            self.notes.complain(&format!("mirror.{name}{key}"), Problem::new(code, message, hint));
        }
    }

    /// Reads a network.
    fn network(&mut self, name: &NetworkName, table: &'a DeTable<'a>, provenance: Provenance) -> Written {
        let path = format!("network.{name}");
        let notes = &mut self.notes;
        let mut section = Section::new(table, &path, "a network");
        let mode = section.string(notes, "mode", "nat");
        let mode = mode.and_then(|text| one_of(notes, &format!("{path}.mode"), text, MODES)).unwrap_or(Mode::Nat);
        let uplink = uplink::read(notes, &mut section, mode == Mode::Bridged);
        let subnet_text = section.string(notes, "subnet", "10.20.0.0/24");
        let written = subnet_text.and_then(|text| read_subnet(notes, &format!("{path}.subnet"), text));
        let subnet = written.unwrap_or_default();
        let gateway = section.parsed::<Ipv4Addr>(notes, "gateway", "10.20.0.1");
        let ipv6 = ipv6::read(notes, &mut section);
        let dhcp6 = section.string(notes, "dhcp6", "stateless");
        let dhcp6 = dhcp6.and_then(|text| one_of(notes, &format!("{path}.dhcp6"), text, Dhcp6::WORDS));
        let host_access = section.boolean(notes, "host_access").unwrap_or(false);
        let adapters = adapters::read(notes, &mut section, name);
        let (dns, names) = names::read(notes, &mut section);
        let inherited =
            || uplink.as_ref().and_then(Uplink::mtu).map_or(DEFAULT_MTU, |mtu| i64::from(mtu).clamp(576, 9000));
        let mtu = section.integer(notes, "mtu", 576..=9000).unwrap_or_else(inherited) as u16;
        let (dhcp, kept) = dhcp::read(notes, &mut section, subnet);
        let acl = acl::read(notes, &mut section, self.source, &self.lines);
        let forwards = forward::read(notes, &mut section, &self.lines);
        let is_bridged = mode == Mode::Bridged;
        if is_bridged {
            uplink::refuse_others(notes, &section);
        }
        section.finish(notes);
        let (dhcp, dns) = if is_bridged { (None, false) } else { (dhcp, dns) };
        let ipv6 = if is_bridged { ipv6::Written::Off } else { ipv6 };
        let subnet = if is_bridged { Ipv4Net::default() } else { subnet };
        let first = if is_bridged { Ipv4Addr::UNSPECIFIED } else { first_host(subnet) };
        let gateway = gateway.filter(|_| !is_bridged).unwrap_or(first);
        self.kept.extend(kept.into_iter().map(|kept| (name.clone(), kept)));
        let mirrors = BTreeMap::new(); // they stand beside the networks
        let network = Network {
            mode,
            uplink,
            subnet,
            gateway,
            dhcp6,
            subnet6: if let ipv6::Written::Prefix(net) = ipv6 { Some(net) } else { None },
            host_access,
            adapters,
            dhcp,
            dns,
            names,
            mtu,
            acl,
            mirrors,
            forwards,
            provenance,
        };
        self.world.networks.insert(name.clone(), network);
        Written { subnet: written.is_some() || is_bridged, ipv6 }
    }

    /// Gives a network whose file names no subnet the first 10.x.0.0/24 that is free.
    fn choose_subnet(&mut self, name: &NetworkName) {
        let taken = |candidate: &Ipv4Net| {
            let chosen = self.world.networks.values().map(|n| n.subnet).filter(|net| *net != Ipv4Net::default());
            chosen.into_iter().any(|net| net.contains(candidate) || candidate.contains(&net))
        };
        let candidates = (20..=250).flat_map(|b| (0..=250).map(move |c| Ipv4Addr::new(10, b, c, 0)));
        let free = candidates.filter_map(|ip| Ipv4Net::new(ip, 24).ok()).find(|net| !taken(net));
        if let (Some(subnet), Some(network)) = (free, self.world.networks.get_mut(name)) {
            if network.gateway == first_host(Ipv4Net::default()) {
                network.gateway = first_host(subnet);
            }
            network.subnet = subnet;
            if let Some(dhcp) = network.dhcp.as_mut().filter(|dhcp| dhcp.first.is_unspecified()) {
                (dhcp.first, dhcp.last) = dhcp::whole_pool(subnet);
            }
        }
    }

    fn image(&mut self, name: &Label, table: &'a DeTable<'a>, provenance: Provenance) {
        let path = format!("image.{name}");
        if name.as_str() == MICRO {
            let hint = "call yours something else";
            self.notes.complain(&path, Problem::new("reserved-name", "`micro` is Weft's own image", hint));
            return;
        }
        let section = Section::new(table, &path, "an image");
        let (source, disk) = image::read(&mut self.notes, section, name, self.path);
        self.disks.extend(disk.map(|disk| (name.clone(), disk)));
        self.world.images.insert(name.clone(), Image { source, provenance });
    }

    fn vm(&mut self, name: &VmName, table: &'a DeTable<'a>, provenance: Provenance) {
        let path = format!("vm.{name}");
        let mut section = Section::new(table, &path, "a VM");
        let notes = &mut self.notes;
        let image = section.parsed::<Label>(notes, "image", MICRO);
        let image = image.unwrap_or_else(|| MICRO.parse().expect("`micro` is a label"));
        let declared = self.world.images.get(&image).map(|image| &image.source);
        let kept_image = self.facts.images.get(&image).filter(|_| declared.is_none()).cloned();
        if let Some(disk) = kept_image.as_ref().and_then(ImageSource::disk)
            && !self.disks.contains_key(&image)
            && let Some(disk) = check_disk(notes, &format!("{path}.image"), &disk.path, Some(disk.format))
        {
            self.disks.insert(image.clone(), disk);
        }
        let source = kept_image.as_ref().or(declared);
        let is_disk = source.is_some_and(|source| source.disk().is_some());
        let memory =
            section.parsed(notes, "memory", "256MiB").unwrap_or(if is_disk { DISK_MEMORY } else { KERNEL_MEMORY });
        let cpus = section.integer(notes, "cpus", 1..=128).unwrap_or(1) as u16;
        let engine = section.string(notes, "engine", "qemu");
        let engine = engine.and_then(|text| one_of(notes, &format!("{path}.engine"), text, ENGINES));
        let cmdline = section.string(notes, "cmdline", "quiet").map(str::to_owned);
        let ssh_key = section.string(notes, "ssh_key", "~/.ssh/id_ed25519.pub");
        let ssh_key = ssh_key.and_then(|text| read_ssh_key(notes, &format!("{path}.ssh_key"), self.path, text));
        let user_data = section.string(notes, "user_data", "user-data.yaml");
        let user_data = user_data.and_then(|text| read_user_data(notes, &format!("{path}.user_data"), self.path, text));
        let disk_size = section.parsed(notes, "disk_size", "10GiB");
        if let (Some(asked), Some(disk)) = (disk_size, self.disks.get(&image)) {
            check_disk_size(notes, &format!("{path}.disk_size"), &image, asked, disk);
        }
        let display = section.string(notes, "display", "vnc");
        let display = display.and_then(|text| one_of(notes, &format!("{path}.display"), text, DISPLAYS));
        let shares = shares::read(notes, &mut section);
        let ready = section.string(notes, "ready", "agent");
        let ready = ready.and_then(|text| one_of(notes, &format!("{path}.ready"), text, READY));
        let nics = items(notes, &mut section, "nics", "[{ network = \"office\" }]");
        section.finish(notes);
        let default_ready = match source {
            None => Ready::Agent,
            Some(_) if nics.is_empty() => Ready::Running,
            Some(_) => Ready::Lease,
        };
        let nics = nics.into_iter().fold(Vec::new(), |mut nics, (path, value)| {
            nics.extend(self.nic(name, &nics, &path, value));
            nics
        });
        let ready = ready.unwrap_or(default_ready);
        let vm = Vm {
            image,
            kept_image,
            memory,
            cpus,
            engine,
            nics,
            cmdline,
            ssh_key,
            user_data,
            disk_size,
            display,
            shares,
            ready,
            provenance,
        };
        self.world.vms.insert(name.clone(), vm);
    }

    /// Reads an adapter: a table, or just the name of its network. `earlier` are those of the VM that stand before it.
    fn nic(&mut self, vm: &VmName, earlier: &[Nic], path: &str, value: &'a DeValue<'a>) -> Option<Nic> {
        let provenance = self.provenance(self.notes.span(path).map_or(0, |span| span.start));
        let notes = &mut self.notes;
        // Of the network, not of the place in the list: an adapter keeps its address when others come and go, and its
        // neighbours may go on using what they know.
        let derived = |network: &NetworkName| {
            let ordinal = earlier.iter().filter(|nic| nic.network == *network).count();
            MacAddr::derive(&format!("{vm}/{network}/{ordinal}"))
        };
        match value {
            DeValue::String(name) => {
                let network = parse(notes, path, name)?;
                Some(Nic { mac: derived(&network), network, ip: None, port: PortRules::default(), provenance })
            }
            DeValue::Table(table) => {
                let mut section = Section::new(table, path, "an adapter");
                let given = section.value(notes, "network").is_some();
                let network = section.parsed(notes, "network", "office");
                let ip = section.parsed(notes, "ip", "10.20.0.10");
                let mac = section.parsed(notes, "mac", "02:00:5e:10:00:01");
                let port = port_keys::read(notes, &mut section);
                section.finish(notes);
                if !given {
                    let known: Vec<_> = self.world.networks.keys().map(NetworkName::as_str).collect();
                    let hint = format!("add `network = \"NAME\"`; the file declares {}", list(&known));
                    notes.complain(path, Problem::new("missing-key", "the adapter names no network", hint));
                }
                let network = network?;
                Some(Nic { mac: mac.unwrap_or_else(|| derived(&network)), network, ip, port, provenance })
            }
            other => wrong_type(notes, path, other, "an adapter", "[{ network = \"office\" }]"),
        }
    }

    fn provenance(&self, at: usize) -> Provenance {
        self.lines.provenance(at)
    }
}

const MODES: &[(&str, Mode)] =
    &[("nat", Mode::Nat), ("host-only", Mode::HostOnly), ("internal", Mode::Internal), ("bridged", Mode::Bridged)];
const DISPLAYS: &[(&str, Display)] = &[("vnc", Display::Vnc)];
const ENGINES: &[(&str, EngineKind)] =
    &[("qemu", EngineKind::Qemu), ("kvm", EngineKind::Kvm), ("uml", EngineKind::Uml)];
const READY: &[(&str, Ready)] = &[("agent", Ready::Agent), ("lease", Ready::Lease), ("running", Ready::Running)];

fn read_subnet(notes: &mut Notes, path: &str, text: &str) -> Option<Ipv4Net> {
    let Ok(net) = Ipv4Net::from_str(text) else {
        let hint = "write the network's address and its prefix length, like `10.20.0.0/24`";
        notes.complain(path, Problem::new("bad-value", format!("`{text}` is not a subnet"), hint));
        return None;
    };
    if net.trunc() != net {
        let hint = format!("write `{}`", net.trunc());
        notes.complain(path, Problem::new("bad-value", format!("`{text}` is an address inside a subnet"), hint));
    }
    Some(net.trunc())
}

/// A machine's disk is its image's, grown: it cannot be smaller, and nobody else than QEMU knows larger ones.
fn check_disk_size(notes: &mut Notes, path: &str, image: &Label, asked: ByteSize, disk: &Disk) {
    let least = if disk.format == DiskFormat::Iso { 0 } else { disk.bytes };
    let (code, message, hint) = if asked.bytes() < least {
        let least = ByteSize::from_mib(least.div_ceil(1 << 20));
        let message = format!("{asked} are less than the disk of image `{image}` has already");
        ("out-of-range", message, format!("write {least} or more, or leave it out"))
    } else if asked > MAX_DISK {
        ("out-of-range", format!("a disk of {asked} is larger than can be made"), format!("write {MAX_DISK} or less"))
    } else {
        return;
    };
    notes.complain(path, Problem::new(code, message, hint));
}

fn first_host(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}
