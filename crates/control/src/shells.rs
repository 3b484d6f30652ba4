//! Shells that stand on networks: who they are, and that their ports, names and leases end with them.
//!
//! A shell is a process of a user, which nobody here starts or stops. As long as it lives, its network has a port for it
//! as for a machine's adapter. It is known by process id and start time, so a daemon that comes later learns who ended.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_dataplane_protocol::{PortConfig, PortKind, Reservation};
use weft_machine::Process;
use weft_model::view::{ProblemView, ShellRequest, ShellView};
use weft_model::{Mode, nearest};
use weft_store::Op;
use weft_types::{MacAddr, NetworkName, PortName, PortRates, PortVlans, Provenance, VmName};

use crate::Paths;
use crate::access::known_addresses;
use crate::desired::{Desired, Records};
use crate::host::Trouble;
use crate::inner::{Inner, Notice};
use crate::objects::{Goal, put, shell_key};
use crate::propose::Change;

/// The most shells at a time.
const MAX_SHELLS: usize = 64;

/// A shell that stands on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shell {
    /// The network.
    pub network: NetworkName,
    /// Its adapter's address.
    pub mac: MacAddr,
    /// The process with which it ends.
    pub process: Process,
    /// The command that made it.
    pub provenance: Provenance,
}

impl Inner {
    /// Plugs a shell into a network, as long as its process lives.
    pub(crate) fn add_shell(self: &Arc<Self>, request: &ShellRequest) -> Result<u64, Vec<ProblemView>> {
        let process = Process::of_pid(request.pid).ok_or_else(|| {
            let title = format!("there is no process {}", request.pid);
            vec![Trouble::new("no-such-process", title, "a shell's port lives as long as its process").problem()]
        })?;
        let id = self.propose(|records| add(records, request, process).map_err(|trouble| vec![trouble.problem()]))?;
        if let Some((name, _)) = self.shell_of(process) {
            self.watch_shell(name, process);
        }
        Ok(id)
    }

    /// Takes a shell's port, name and lease away; nothing where it is gone already, or another process has its name.
    pub(crate) fn remove_shell(
        self: &Arc<Self>,
        name: &VmName,
        process: Option<Process>,
    ) -> Result<u64, Vec<ProblemView>> {
        self.propose(|records| {
            let mut next = records.desired.clone();
            match next.shells.remove(name) {
                Some(shell) if process.is_none_or(|process| process == shell.process) => {}
                _ => {
                    let title = format!("there is no shell `{name}`");
                    return Err(vec![Trouble::new("no-such-shell", title, "`weft ls` lists them").problem()]);
                }
            }
            let title = format!("shell {name} has ended");
            Ok(Change { title, goal: Goal::Tidy, ops: vec![Op::delete(shell_key(name))], next })
        })
    }

    /// Has the supervisor hear when a shell's process ends; at once if it has.
    pub(crate) fn watch_shell(&self, name: VmName, process: Process) {
        let notices = self.notices.clone();
        let on_exit = move |_| drop(notices.send(Notice::ShellEnded { name, process }));
        self.host.watch(process, Box::new(on_exit));
    }

    fn shell_of(&self, process: Process) -> Option<(VmName, Shell)> {
        self.records().ok()?.desired.shells.into_iter().find(|(_, shell)| shell.process == process)
    }
}

/// The change that adds a shell.
fn add(records: &Records, request: &ShellRequest, process: Process) -> Result<Change, Trouble> {
    let desired = &records.desired;
    let network = &request.network;
    if !desired.networks.contains_key(network) {
        let names: Vec<_> = desired.networks.keys().map(NetworkName::as_str).collect();
        let hint = match nearest(network.as_str(), names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "`weft up FILE` makes the networks that a file declares".to_owned(),
            None => format!("there are: {}", names.join(", ")),
        };
        return Err(Trouble::new("no-such-network", format!("there is no network `{network}`"), hint));
    }
    if desired.shells.len() >= MAX_SHELLS {
        let title = format!("{MAX_SHELLS} shells stand on networks already");
        return Err(Trouble::new("too-many-shells", title, "end some of them: `weft ls` lists them"));
    }
    let is_free = |name: &VmName| !desired.shells.contains_key(name) && !desired.vms.contains_key(name);
    let name = match &request.name {
        Some(name) if is_free(name) => name.clone(),
        Some(name) => {
            let title = format!("there is a machine or a shell `{name}` already");
            return Err(Trouble::new("name-taken", title, "give it another `--name`"));
        }
        // More names than there are machines and shells: one is free.
        None => (1..).find_map(|number| format!("shell-{number}").parse().ok().filter(is_free)).ok_or_else(|| {
            Trouble::new("too-many-shells", "there is no name left for a shell", "give it a `--name`")
        })?,
    };
    let title = format!("weft shell {network}");
    let mac = MacAddr::derive(&format!("shell/{name}"));
    let shell = Shell { network: network.clone(), mac, process, provenance: Provenance::command(&title) };
    let ops = vec![put(shell_key(&name), &shell)];
    let mut next = desired.clone();
    next.shells.insert(name, shell);
    Ok(Change { title, goal: Goal::Tidy, ops, next })
}

impl Desired {
    /// Forgets shells whose network is no more.
    pub(crate) fn drop_dangling_shells(&mut self) {
        let networks = &self.networks;
        self.shells.retain(|_, shell| networks.contains_key(&shell.network));
    }

    /// Whether a shell gets its address from Weft's DHCP server, or from one of the LAN.
    fn shell_leases(&self, shell: &Shell) -> bool {
        let network = self.networks.get(&shell.network).map(|object| &object.spec);
        network.is_some_and(|network| network.dhcp.is_some() || network.mode == Mode::Bridged)
    }

    /// The ports of shells: a stream of frames each, which its process pumps to and from its namespace. So a switch that
    /// was killed finds everything in its snapshot, and the process finds the switch.
    pub(crate) fn shell_ports(&self, paths: &Paths) -> impl Iterator<Item = PortConfig> {
        self.shells.iter().map(|(name, shell)| PortConfig {
            name: PortName::of_vnic(name, 0),
            network: shell.network.clone(),
            kind: PortKind::UnixStream { socket: paths.port_socket(name, 0), connect: false },
            macs: vec![shell.mac],
            mac_ranges: Vec::new(),
            vm: Some(name.clone()),
            uplink: false,
            vlans: PortVlans::default(),
            learn: 0,
            addresses: known_addresses(&[], self.shell_leases(shell)),
            access: [].into_iter().collect(),
            rates: PortRates::default(),
            provenance: shell.provenance.clone(),
        })
    }

    /// What is kept for the shells of a network: their names.
    pub(crate) fn shell_reservations(&self, network: &NetworkName) -> impl Iterator<Item = Reservation> {
        let here = self.shells.iter().filter(move |(_, shell)| shell.network == *network);
        here.map(|(name, shell)| Reservation { mac: shell.mac, vm: name.clone(), ip: None })
    }

    /// The shells as the API shows them.
    pub(crate) fn shell_views(&self, paths: &Paths) -> Vec<ShellView> {
        let view = |(name, shell): (&VmName, &Shell)| ShellView {
            name: name.clone(),
            network: shell.network.clone(),
            port: PortName::of_vnic(name, 0),
            mac: shell.mac,
            mtu: self.networks.get(&shell.network).map_or(1500, |object| object.spec.mtu),
            leases: self.shell_leases(shell),
            socket: paths.port_socket(name, 0).display().to_string(),
            pid: shell.process.pid,
            provenance: shell.provenance.clone(),
        };
        self.shells.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conflicts::conflicts;
    use crate::desired::dataplane_config;
    use crate::sample::{OWNER, THREE, desired, paths, world};

    const PROCESS: Process = Process { pid: 7, start_ticks: 70 };

    fn records(desired: Desired) -> Records {
        Records { desired, ..Records::default() }
    }

    fn request(network: &str, name: Option<&str>) -> ShellRequest {
        let name = name.map(|name| name.parse().unwrap());
        ShellRequest { network: network.parse().unwrap(), name, pid: PROCESS.pid }
    }

    /// What there is with another shell.
    fn with(desired: &Desired, network: &str, name: Option<&str>) -> Result<Desired, Trouble> {
        add(&records(desired.clone()), &request(network, name), PROCESS).map(|change| change.next)
    }

    #[track_caller]
    fn check_refusal(desired: &Desired, network: &str, name: Option<&str>, code: &str, hint: &str) {
        let trouble = with(desired, network, name).unwrap_err();
        assert_eq!((trouble.code.as_str(), trouble.hint.as_str()), (code, hint));
    }

    #[test]
    fn a_shell_has_a_port_and_a_name_like_a_machine() {
        let before = desired(THREE);
        let after = with(&with(&before, "office", None).unwrap(), "office", Some("look")).unwrap();
        let config = dataplane_config(&after, &paths());
        let port = config.ports.iter().find(|port| port.name.as_str() == "shell-1-0").unwrap();
        let laptop = config.ports.iter().find(|port| port.name.as_str() == "laptop-0").unwrap();
        assert_eq!((&port.access, &port.addresses, &port.rates), (&laptop.access, &laptop.addresses, &laptop.rates));
        let office = config.networks.iter().find(|network| network.name.as_str() == "office").unwrap();
        let kept = &office.gateway.as_ref().unwrap().dhcp.as_ref().unwrap().reservations;
        let names: Vec<_> = kept.iter().map(|kept| kept.vm.as_str()).collect();
        assert_eq!(names, ["laptop", "web", "look", "shell-1"]);
        let macs: std::collections::BTreeSet<_> = config.ports.iter().flat_map(|port| &port.macs).collect();
        assert_eq!(macs.len(), config.ports.len(), "each has an address of its own");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let shells = with(&desired(THREE), "office", None).unwrap();
        check_refusal(&shells, "offise", None, "no-such-network", "did you mean `office`?");
        check_refusal(&shells, "lan-of-others", None, "no-such-network", "there are: backstage, office");
        check_refusal(&shells, "office", Some("web"), "name-taken", "give it another `--name`");
        check_refusal(&shells, "office", Some("shell-1"), "name-taken", "give it another `--name`");
        let mut many = shells;
        while many.shells.len() < MAX_SHELLS {
            many = with(&many, "backstage", None).unwrap();
        }
        check_refusal(&many, "office", None, "too-many-shells", "end some of them: `weft ls` lists them");
    }

    #[test]
    fn a_machine_cannot_have_a_shells_name_and_a_network_takes_its_shells_along() {
        let shells = with(&desired(THREE), "backstage", Some("mail")).unwrap();
        let problems = conflicts(&shells, OWNER, &world(&THREE.replace("vm.laptop", "vm.mail")));
        assert_eq!(problems.iter().map(|problem| problem.code.as_str()).collect::<Vec<_>>(), ["name-taken"]);
        assert_eq!(shells.with_world(OWNER, &world(THREE)).shells.len(), 1);
        assert!(shells.with_world(OWNER, &Default::default()).shells.is_empty());
    }
}
