//! What must hold between the objects of a world, wherever it came from: a file or the API.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use weft_types::{ByteSize, ForwardHost, Ipv4Net, Label, MacAddr, NetworkName, PortName, VmName};

use crate::acl::{Cast, check_groups, check_rules};
use crate::adapters;
use crate::ipv6;
use crate::mirror;
use crate::names;
use crate::port_keys::{self, MAX_LEARNED, Run, meetings};
use crate::problem::Problem;
use crate::read::{list, nearest};
use crate::router;
use crate::shares;
use crate::{Forward, ImageSource, MICRO, Mode, Network, Nic, Vm, World};

/// The least that a Debian kernel boots in.
const MIN_MEMORY: ByteSize = ByteSize::from_mib(64);
/// PCI slots of one machine, less what its other devices need.
const MAX_NICS: usize = 24;
/// What no VM can be called, and who is called so (RFC 6761, section 6.3).
const RESERVED_NAMES: [(&str, &str); 2] =
    [("gateway", "each network's gateway"), ("localhost", "every machine itself")];

/// What the host is called on a network where it has an adapter.
pub(crate) const HOST: &str = "host";

/// What must be known about the host to judge a world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The host's memory; `None` if it is not known.
    pub memory: Option<ByteSize>,
    /// The images that the host keeps for all files; a file's own come before them.
    pub images: BTreeMap<Label, ImageSource>,
}

impl HostFacts {
    /// The facts about the host that we run on, which keeps these images.
    pub fn of_this_host(images: BTreeMap<Label, ImageSource>) -> Self {
        let total = |text: String| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        };
        let kib = std::fs::read_to_string("/proc/meminfo").ok().and_then(total);
        Self { memory: kib.map(|kib| ByteSize::from_bytes(kib << 10)), images }
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The value it is about, like `vm.web.nics[1].ip`.
    pub path: String,
    /// Another value that the finding takes for granted; where that one is wrong, the finding means nothing.
    pub rests_on: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// Everything that does not hold in a world on such a host; empty for a good one.
pub fn findings(world: &World, facts: &HostFacts) -> Vec<Finding> {
    let mut check = Check { world, facts, findings: Vec::new() };
    check.networks();
    check.adapters();
    check.overlaps();
    check.prefixes();
    check.uplinks();
    for (name, vm) in &world.vms {
        check.vm(name, vm);
    }
    check.rules();
    check.forwards();
    check.routers();
    check.names();
    check.clashes();
    check.memory();
    check.findings
}

struct Check<'a> {
    world: &'a World,
    facts: &'a HostFacts,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn find(&mut self, path: impl Into<String>, problem: Problem) {
        self.findings.push(Finding { path: path.into(), rests_on: None, problem });
    }

    /// A finding that takes a network's subnet for granted.
    fn find_in_subnet(&mut self, network: &NetworkName, path: impl Into<String>, problem: Problem) {
        let rests_on = Some(format!("network.{network}.subnet"));
        self.findings.push(Finding { path: path.into(), rests_on, problem });
    }

    fn networks(&mut self) {
        for (name, network) in &self.world.networks {
            let path = format!("network.{name}");
            if let Some(problem) = uplink_problem(name, network) {
                let rests_on = Some(format!("{path}.nic"));
                self.findings.push(Finding { path: path.clone(), rests_on, problem });
            }
            if network.mode == Mode::Bridged {
                continue; // its addresses are the LAN's
            }
            if let Some(problem) = unusable_subnet(network.subnet) {
                self.find(format!("{path}.subnet"), problem);
                continue;
            }
            if !is_host(network.subnet, network.gateway) {
                let message =
                    format!("the gateway {} is not an address for a host of {}", network.gateway, network.subnet);
                let hint = hosts_hint(network.subnet);
                self.find_in_subnet(name, format!("{path}.gateway"), Problem::new("outside-subnet", message, hint));
            }
            let no_access = match network.mode {
                _ if !network.host_access => None,
                Mode::Nat | Mode::Bridged => None,
                Mode::HostOnly => Some(format!("the host is on network `{name}` itself, at an address of its own")),
                Mode::Internal => {
                    Some(format!("nobody but its VMs is on the internal network `{name}`, so it has no host access"))
                }
            };
            if let Some(message) = no_access {
                let hint = "write `mode = \"nat\"`, or remove `host_access`";
                self.find(format!("{path}.host_access"), Problem::new("contradiction", message, hint));
            }
            self.dhcp(name, network);
        }
    }

    fn adapters(&mut self) {
        let mut taken = BTreeMap::new();
        for (name, network) in &self.world.networks {
            let mut in_subnet = Vec::new();
            let findings = &mut self.findings;
            let mut find = |path, problem| findings.push(Finding { path, rests_on: None, problem });
            adapters::check(name, network, &mut taken, &mut find, &mut |path, problem| in_subnet.push((path, problem)));
            for (path, problem) in in_subnet {
                self.find_in_subnet(name, path, problem);
            }
        }
    }

    fn rules(&mut self) {
        let all: BTreeSet<_> = self.world.vms.keys().map(VmName::as_str).collect();
        for (name, network) in &self.world.networks {
            let vms = self.world.vms.iter();
            let adapters =
                vms.flat_map(|(vm, spec)| spec.nics.iter().enumerate().map(move |(index, nic)| (vm, index, nic)));
            let here = adapters.filter(|(.., nic)| nic.network == *name);
            let cast = Cast {
                all: all.clone(),
                what: "a VM",
                here: here
                    .flat_map(|(vm, index, _)| [vm.to_string(), PortName::of_vnic(vm, index).to_string()])
                    .chain((!network.adapters.is_empty()).then(|| HOST.to_owned()))
                    .chain(network.adapters.keys().map(|adapter| PortName::of_adapter(adapter).to_string()))
                    .collect(),
                place: format!("network `{name}`"),
                gateway: network.mode != Mode::Bridged,
            };
            let findings = &mut self.findings;
            let mut find = |path, problem| findings.push(Finding { path, rests_on: None, problem });
            check_groups(&network.acl.groups, &all, cast.what, &mut find);
            check_rules(&network.acl, &format!("network.{name}"), &cast, &mut find);
            let ports_of = |member: &PortName| ports_of(self.world, name, member);
            mirror::check(&network.mirrors, &network.acl, &cast, &BTreeSet::new(), ports_of, &mut find);
        }
    }

    fn forwards(&mut self) {
        let mut earlier: Vec<&Forward> = Vec::new();
        let mut networks: Vec<_> = self.world.networks.iter().collect();
        networks.sort_by_key(|(_, network)| network.provenance.line); // the later one in the file is the one to change
        for (name, network) in networks {
            for (index, forward) in network.forwards.iter().enumerate() {
                let path = format!("network.{name}.forwards[{index}]");
                if let Some(problem) = forward.problem(name, network, |vm| self.world.vms.get(vm)) {
                    match forward.to.host {
                        ForwardHost::Ip(_) => self.find_in_subnet(name, path.clone(), problem),
                        ForwardHost::Vm(_) => self.find(path.clone(), problem),
                    }
                }
                if let Some(problem) = earlier.iter().find_map(|other| forward.clash(other)) {
                    self.find(path, problem);
                }
                earlier.push(forward);
            }
        }
    }

    fn routers(&mut self) {
        let findings = &mut self.findings;
        router::check(self.world, |path, problem| findings.push(Finding { path, rests_on: None, problem }));
    }

    fn names(&mut self) {
        for (name, network) in &self.world.networks {
            let is_here = |vm: &&VmName| self.world.vms[*vm].nics.iter().any(|nic| nic.network == *name);
            let host = (!network.adapters.is_empty()).then_some(HOST);
            let members: BTreeSet<_> = self.world.vms.keys().filter(is_here).map(VmName::as_str).chain(host).collect();
            let findings = &mut self.findings;
            let mut find = |path, problem| findings.push(Finding { path, rests_on: None, problem });
            names::check(name, network, &members, &mut find);
        }
    }

    fn dhcp(&mut self, name: &NetworkName, network: &Network) {
        let Some(dhcp) = &network.dhcp else { return };
        let path = format!("network.{name}.dhcp.range");
        if !is_host(network.subnet, dhcp.first) || !is_host(network.subnet, dhcp.last) {
            let message = format!("the range {}-{} does not lie in {}", dhcp.first, dhcp.last, network.subnet);
            let problem = Problem::new("outside-subnet", message, hosts_hint(network.subnet));
            self.find_in_subnet(name, path, problem);
        } else if dhcp.first > dhcp.last {
            let message = format!("the range {}-{} ends before it begins", dhcp.first, dhcp.last);
            let hint = format!("write `{}-{}`", dhcp.last, dhcp.first);
            self.find(path, Problem::new("bad-value", message, hint));
        }
        let machines = self.world.vms.values().flat_map(|vm| &vm.nics).filter(|nic| nic.network == *name);
        let mut taken: BTreeSet<_> = machines.filter_map(|nic| nic.ip).collect();
        for (client, ip) in &dhcp.kept {
            let path = format!("network.{name}.dhcp.reserve.{client}");
            let (code, message) = if !is_host(network.subnet, *ip) {
                ("outside-subnet", format!("{ip} is not an address for a host of {}", network.subnet))
            } else if *ip == network.gateway {
                ("duplicate-ip", format!("{ip} is the gateway of network `{name}`"))
            } else if network.is_of_host(*ip) {
                ("duplicate-ip", format!("{ip} is the host's on network `{name}`"))
            } else if !taken.insert(*ip) {
                ("duplicate-ip", format!("{ip} is kept for somebody else already"))
            } else {
                continue;
            };
            self.find_in_subnet(name, path, Problem::new(code, message, hosts_hint(network.subnet)));
        }
    }

    fn overlaps(&mut self) {
        let networks: Vec<_> = self.world.networks.iter().collect();
        for (index, (name, network)) in networks.iter().enumerate() {
            for (earlier_name, earlier) in &networks[..index] {
                let (a, b) = (network.subnet, earlier.subnet);
                if network.mode == Mode::Bridged || earlier.mode == Mode::Bridged {
                    continue;
                }
                if a.contains(&b) || b.contains(&a) {
                    // The later one in the file is the one to move.
                    let (later, other, first_net) = match network.provenance.line >= earlier.provenance.line {
                        true => (*name, *earlier_name, b),
                        false => (*earlier_name, *name, a),
                    };
                    let message = format!("the subnet of `{later}` overlaps with {first_net} of network `{other}`");
                    let hint = match self.free_subnet() {
                        Some(free) => format!("{free} is free; or leave `subnet` out, and Weft chooses one"),
                        None => "choose another one".to_owned(),
                    };
                    let problem = Problem::new("overlapping-subnets", message, hint);
                    self.find_in_subnet(other, format!("network.{later}.subnet"), problem);
                }
            }
        }
    }

    fn prefixes(&mut self) {
        let findings = &mut self.findings;
        ipv6::check(self.world, &mut |path, problem| findings.push(Finding { path, rests_on: None, problem }));
    }

    /// A pNIC has one network.
    fn uplinks(&mut self) {
        let mut networks: Vec<_> = self
            .world
            .networks
            .iter()
            .filter_map(|(name, network)| Some((name, network, network.uplink.as_ref()?)))
            .collect();
        networks.sort_by_key(|(_, network, _)| network.provenance.line); // the later one in the file is the one to change
        for (index, (name, _, uplink)) in networks.iter().enumerate() {
            let earlier = networks[..index].iter();
            if let Some(problem) = earlier.clone().find_map(|(other, _, its)| uplink.clash(its, other)) {
                self.find(format!("network.{name}.nic"), problem);
            }
        }
    }

    fn free_subnet(&self) -> Option<Ipv4Net> {
        let nets = (20..=250).filter_map(|b| Ipv4Net::new(Ipv4Addr::new(10, b, 0, 0), 24).ok());
        let taken = |net: &Ipv4Net| {
            let mut networks = self.world.networks.values().filter(|network| network.mode != Mode::Bridged);
            networks.any(|n| n.subnet.contains(net) || net.contains(&n.subnet))
        };
        nets.into_iter().find(|net| !taken(net))
    }

    fn vm(&mut self, name: &VmName, vm: &Vm) {
        let path = format!("vm.{name}");
        if let Some((_, whose)) = RESERVED_NAMES.iter().find(|(reserved, _)| *reserved == name.as_str()) {
            let message = format!("`{name}` is the name of {whose}");
            self.find(&path, Problem::new("reserved-name", message, "call the VM something else"));
        }
        let source = self.world.source(vm);
        if source.is_none() && vm.image.as_str() != MICRO {
            let images = self.world.images.keys().chain(self.facts.images.keys());
            let known: BTreeSet<_> = std::iter::once(MICRO).chain(images.map(|name| name.as_str())).collect();
            let known = Vec::from_iter(known);
            let hint = match nearest(vm.image.as_str(), known.iter().copied()) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!(
                    "describe it in `[image.{image}]`, or bring it in: weft image import {image} FILE; known are {}",
                    list(&known),
                    image = vm.image,
                ),
            };
            let message = format!("there is no image `{}`", vm.image);
            self.find(format!("{path}.image"), Problem::new("missing-image", message, hint));
        }
        let has_disk = source.is_some_and(|source| source.disk().is_some());
        let has_kernel = !matches!(source, Some(ImageSource::Disk(_)));
        let given = [
            ("ssh_key", vm.ssh_key.is_some(), true),
            ("user_data", vm.user_data.is_some(), true),
            ("disk_size", vm.disk_size.is_some(), true),
            ("cmdline", vm.cmdline.is_some(), false),
        ];
        let is_idle = |wants_disk: bool| if wants_disk { !has_disk } else { !has_kernel };
        for (key, _, wants_disk) in given.into_iter().filter(|(_, given, wants_disk)| *given && is_idle(*wants_disk)) {
            let (has, hint) = match wants_disk {
                true => ("has no disk", "it is for images with a disk, whose cloud-init reads it"),
                false => ("boots its own kernel", "it is for images with `kernel`"),
            };
            let message = format!("`{key}` does nothing here: image `{}` {has}", vm.image);
            self.find(format!("{path}.{key}"), Problem::new("contradiction", message, hint));
        }
        if vm.memory < MIN_MEMORY {
            let message = format!("{} are too little memory to boot in", vm.memory);
            self.find(format!("{path}.memory"), Problem::new("out-of-range", message, "give it 64MiB or more"));
        }
        if let Some(problem) = shares::problem(vm) {
            self.find(format!("{path}.memory_limit"), problem);
        }
        if vm.nics.len() > MAX_NICS {
            let message = format!("a VM has at most {MAX_NICS} adapters, not {}", vm.nics.len());
            self.find(format!("{path}.nics"), Problem::new("out-of-range", message, "use fewer networks for one VM"));
        }
        let meets_host = |nic: &&Nic| self.world.networks.get(&nic.network).is_some_and(|it| !it.adapters.is_empty());
        if let Some(nic) = vm.nics.iter().find(meets_host).filter(|_| name.as_str() == HOST) {
            let message = format!("`{HOST}` is the name of the host itself on network `{}`", nic.network);
            self.find(&path, Problem::new("reserved-name", message, "call the VM something else"));
        }
        for (index, nic) in vm.nics.iter().enumerate() {
            self.nic(&format!("{path}.nics[{index}]"), nic);
        }
    }

    fn nic(&mut self, path: &str, nic: &Nic) {
        for (index, mac) in nic.port.macs.iter().enumerate().filter(|(_, mac)| !mac.is_station()) {
            let message = format!("{mac} is not the address of a single adapter");
            let hint = "use one whose first octet is even, like 02:00:5e:10:00:01";
            self.find(format!("{path}.macs[{index}]"), Problem::new("bad-value", message, hint));
        }
        if nic.port.learn > MAX_LEARNED {
            let message = format!("`learn` cannot be {}", nic.port.learn);
            self.find(
                format!("{path}.learn"),
                Problem::new("out-of-range", message, format!("choose 0 to {MAX_LEARNED}")),
            );
        }
        if let Some(problem) = port_keys::rates_problem(&nic.port.rates) {
            self.find(format!("{path}.rate"), problem);
        }
        if !nic.mac.is_station() {
            let message = format!("{} is not the address of a single adapter", nic.mac);
            let hint = format!("{} would do, or leave `mac` out", MacAddr::derive(path));
            self.find(format!("{path}.mac"), Problem::new("bad-value", message, hint));
        }
        let Some(network) = self.world.networks.get(&nic.network) else {
            let known: Vec<_> = self.world.networks.keys().map(NetworkName::as_str).collect();
            let hint = match nearest(nic.network.as_str(), known.iter().copied()) {
                Some(word) => format!("did you mean `{word}`?"),
                None if known.is_empty() => format!("declare it: `[network.{}]`", nic.network),
                None => format!("declare it in `[network.{}]`; there are {}", nic.network, list(&known)),
            };
            let message = format!("there is no network `{}`", nic.network);
            self.find(format!("{path}.network"), Problem::new("missing-network", message, hint));
            return;
        };
        let Some(ip) = nic.ip else { return };
        if network.mode == Mode::Bridged {
            let message = format!("network `{}` is bridged: addresses on it are given by the LAN", nic.network);
            let hint = "set it in the guest, and write `addresses` here, so that the guest may use it";
            let problem = Problem::new("contradiction", message, hint);
            return self.find(format!("{path}.ip"), problem);
        }
        let (code, message) = if !is_host(network.subnet, ip) {
            let subnet = network.subnet;
            ("outside-subnet", format!("{ip} is not an address for a host of network `{}` ({subnet})", nic.network))
        } else if ip == network.gateway {
            ("duplicate-ip", format!("{ip} is the gateway of network `{}`", nic.network))
        } else if network.is_of_host(ip) {
            ("duplicate-ip", format!("{ip} is the host's on network `{}`", nic.network))
        } else {
            return;
        };
        let problem = Problem::new(code, message, hosts_hint(network.subnet));
        self.find_in_subnet(&nic.network, format!("{path}.ip"), problem);
    }

    /// Two adapters with one address.
    fn clashes(&mut self) {
        let mut ips: BTreeMap<(&NetworkName, Ipv4Addr), &VmName> = BTreeMap::new();
        let mut macs: BTreeMap<MacAddr, &VmName> = BTreeMap::new();
        let mut vms: Vec<_> = self.world.vms.iter().collect();
        vms.sort_by_key(|(_, vm)| vm.provenance.line); // the later one in the file is the one to change
        for (name, vm) in vms {
            for (index, nic) in vm.nics.iter().enumerate() {
                let path = format!("vm.{name}.nics[{index}]");
                if let Some(ip) = nic.ip
                    && let Some(holder) = ips.insert((&nic.network, ip), name)
                {
                    let message = format!("`{name}` and `{holder}` both want {ip} on network `{}`", nic.network);
                    let hint = "give one of them another address, or leave `ip` out";
                    self.find(format!("{path}.ip"), Problem::new("duplicate-ip", message, hint));
                }
                if let Some(holder) = macs.insert(nic.mac, name) {
                    let message = format!("`{name}` and `{holder}` both have the MAC address {}", nic.mac);
                    let hint = "leave `mac` out, and Weft chooses one";
                    self.find(format!("{path}.mac"), Problem::new("duplicate-mac", message, hint));
                }
                for mac in &nic.port.macs {
                    if let Some(holder) = macs.insert(*mac, name) {
                        let message = format!("`{name}` and `{holder}` both have the MAC address {mac}");
                        let problem = Problem::new("duplicate-mac", message, "remove it from one of the two");
                        self.find(format!("{path}.macs"), problem);
                    }
                }
            }
        }
        self.range_clashes();
    }

    /// A run of MAC addresses that meets another one, or an address of another adapter.
    fn range_clashes(&mut self) {
        let mut runs = Vec::new();
        for (name, vm) in &self.world.vms {
            for (index, Nic { mac, port, .. }) in vm.nics.iter().enumerate() {
                let owner = (name, index);
                runs.extend(port.mac_ranges.iter().map(|range| Run::of_range(*range, owner)));
                runs.extend(std::iter::once(mac).chain(&port.macs).map(|mac| Run::of(*mac, owner)));
            }
        }
        for ((name, index), range, (other, _)) in meetings(runs) {
            let message = format!("the MAC addresses {range} of `{name}` meet others of `{other}`");
            let problem = Problem::new("duplicate-mac", message, "choose ranges that nobody else has addresses in");
            self.find(format!("vm.{name}.nics[{index}].macs"), problem);
        }
    }

    fn memory(&mut self) {
        let Some(total) = self.facts.memory else { return };
        let mut sum = 0u64;
        let mut vms: Vec<_> = self.world.vms.iter().collect();
        vms.sort_by_key(|(_, vm)| vm.provenance.line);
        for (name, vm) in vms {
            sum = sum.saturating_add(vm.memory.bytes());
            let shown = ByteSize::from_mib(total.mib());
            let message = if vm.memory > total {
                format!("`{name}` asks for {}, and this host has {shown} of memory", vm.memory)
            } else if sum > total.bytes() {
                let sum = ByteSize::from_mib(sum >> 20);
                format!("with `{name}` the VMs ask for {sum}, and this host has {shown} of memory")
            } else {
                continue;
            };
            self.find(format!("vm.{name}.memory"), Problem::new("no-memory", message, "give the VMs less"));
            return; // the rest would only repeat it
        }
    }
}

/// The ports on a network that are meant by a name: a VM's, or the one that is called so.
fn ports_of(world: &World, network: &NetworkName, member: &PortName) -> Vec<PortName> {
    match world.vms.iter().find(|(vm, _)| vm.as_str() == member.as_str()) {
        Some((vm, spec)) => {
            let here = spec.nics.iter().enumerate().filter(|(_, nic)| nic.network == *network);
            here.map(|(index, _)| PortName::of_vnic(vm, index)).collect()
        }
        None => match world.networks.get(network).filter(|_| member.as_str() == HOST) {
            Some(network) => network.adapters.keys().map(PortName::of_adapter).collect(),
            None => vec![member.clone()],
        },
    }
}

/// What is wrong with a network that is bridged, or has what only bridged ones have.
fn uplink_problem(name: &NetworkName, network: &Network) -> Option<Problem> {
    let serves = network.dhcp.is_some() || network.dns || network.host_access;
    let message = match (network.mode, &network.uplink) {
        (Mode::Bridged, None) => format!("bridged network `{name}` has no uplink"),
        (Mode::Bridged, Some(_)) if serves || network.subnet != Ipv4Net::default() => {
            format!("bridged network `{name}` has addresses or services of its own")
        }
        (Mode::Bridged, Some(_)) | (_, None) => return None,
        (_, Some(uplink)) => format!("network `{name}` is not bridged, and has the uplink `{}`", uplink.nic),
    };
    Some(Problem::new(
        "contradiction",
        message,
        "bridged networks have an uplink and no services, all others the opposite",
    ))
}

/// Why a network cannot have this subnet.
fn unusable_subnet(subnet: Ipv4Net) -> Option<Problem> {
    let (code, message, hint) = if subnet.prefix_len() > 29 {
        ("too-small", format!("{subnet} has no room for a gateway and VMs"), "use a prefix of /29 or shorter")
    } else if subnet.prefix_len() < 8 {
        (
            "too-large",
            format!("{subnet} is more than a network can hold"),
            "use a prefix of /8 or longer, like 10.20.0.0/24",
        )
    } else {
        let taken = [
            ("0.0.0.0/8", "means \"this network\""),
            ("127.0.0.0/8", "is the loopback network"),
            ("169.254.0.0/16", "is for link-local addresses"),
            ("224.0.0.0/3", "is for multicast and the future"),
        ];
        let (range, why) = taken.iter().find(|(range, _)| {
            range.parse::<Ipv4Net>().is_ok_and(|range| range.contains(&subnet) || subnet.contains(&range))
        })?;
        ("reserved-subnet", format!("{subnet} cannot be used: {range} {why}"), "use a private one, like 10.20.0.0/24")
    };
    Some(Problem::new(code, message, hint))
}

/// Whether a host of `subnet` may have `ip`: inside, and neither the network's own nor the broadcast address.
pub(crate) fn is_host(subnet: Ipv4Net, ip: Ipv4Addr) -> bool {
    subnet.contains(&ip) && ip != subnet.network() && ip != subnet.broadcast()
}

pub(crate) fn hosts_hint(subnet: Ipv4Net) -> String {
    let (first, last) =
        (u32::from(subnet.network()).saturating_add(2), u32::from(subnet.broadcast()).saturating_sub(1));
    format!("choose from {} to {}", Ipv4Addr::from(first), Ipv4Addr::from(last))
}
