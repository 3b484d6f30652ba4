//! Port forwards: what of the host's ports leads to machines of a network.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_types::{ForwardError, ForwardHost, ForwardTarget, Listen, NetworkName, Provenance, VmName};

use crate::port_keys::texts;
use crate::problem::Problem;
use crate::read::{Lines, Notes, Section};
use crate::{Mode, Network, Nic, Vm};

/// A port forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Where on the host.
    pub listen: Listen,
    /// To whom it leads.
    pub to: ForwardTarget,
    /// Where it is declared.
    pub provenance: Provenance,
}

impl Forward {
    /// Both ends, as a file has them: `127.0.0.1:8080 -> web:80`.
    fn ends(text: &str) -> Result<(Listen, ForwardTarget), ForwardError> {
        let ends = text.split_once("->").ok_or_else(|| ForwardError::Forward(text.to_owned()))?;
        let listen: Listen = ends.0.trim().parse()?;
        Ok((listen, ForwardTarget::parse(ends.1.trim(), &listen)?))
    }

    /// The adapter that it leads to, where it leads to this machine: the first on the network that the gateway meets.
    pub fn adapter<'a>(vm: &'a Vm, network: &NetworkName) -> Option<&'a Nic> {
        vm.nics.iter().find(|nic| nic.network == *network && nic.port.vlans.meets_services())
    }

    /// Why it cannot lead into this network, if so.
    pub fn problem<'a>(
        &self,
        name: &NetworkName,
        network: &Network,
        vm: impl Fn(&VmName) -> Option<&'a Vm>,
    ) -> Option<Problem> {
        let Self { listen, to, .. } = self;
        if network.mode == Mode::Bridged {
            let message = format!("the machines of `{name}` stand on the LAN, and are reached at their own addresses");
            return Some(Problem::new("contradiction", message, "remove the forward"));
        }
        if network.mode != Mode::Nat {
            let message = format!("nothing from outside reaches network `{name}`, so {listen} cannot lead there");
            return Some(Problem::new("contradiction", message, "write `mode = \"nat\"`, or remove the forward"));
        }
        if to.port.checked_add(listen.count() - 1).is_none() {
            let message = format!("{} ports from {} on do not exist", listen.count(), to.port);
            return Some(Problem::new("out-of-range", message, "forward fewer ports"));
        }
        match &to.host {
            ForwardHost::Vm(target) => match vm(target) {
                None => {
                    let message = format!("there is no VM `{target}` for {listen} to lead to");
                    Some(Problem::new("no-such-vm", message, format!("declare it in `[vm.{target}]`")))
                }
                Some(vm) if Self::adapter(vm, name).is_none() => {
                    let message = format!("`{target}` has no adapter on network `{name}` that the gateway meets");
                    let hint = format!("add `\"{name}\"` to its `nics`, or forward on a network that it is on");
                    Some(Problem::new("contradiction", message, hint))
                }
                Some(_) => None,
            },
            ForwardHost::Ip(ip) => {
                let subnet = network.subnet;
                let edge = *ip == subnet.network() || *ip == subnet.broadcast() || *ip == network.gateway;
                (edge || !subnet.contains(ip)).then(|| {
                    let message = format!("{ip} is no machine's address on network `{name}` ({subnet})");
                    Problem::new("outside-subnet", message, "name a machine, or an address of the network")
                })
            }
        }
    }

    /// What is wrong with two forwards at one place of the host.
    pub fn clash(&self, other: &Self) -> Option<Problem> {
        self.listen.overlaps(&other.listen).then(|| {
            let message = format!("{} leads to {} already ({})", other.listen, other.to, other.provenance);
            Problem::new("taken", message, "choose another port of the host")
        })
    }
}

/// The forwards of a network.
pub(crate) fn read(notes: &mut Notes, section: &mut Section<'_>, lines: &Lines) -> Vec<Forward> {
    let mut forwards = Vec::new();
    for (path, text) in texts(notes, section, "forwards", "127.0.0.1:8080 -> web:80") {
        let span = notes.span(&path).unwrap_or_default();
        match Forward::ends(text) {
            Ok((listen, to)) => {
                // By the number that it has among those that could be read.
                notes.place(&format!("{}[{}]", section.path_of("forwards"), forwards.len()), span.clone());
                forwards.push(Forward { listen, to, provenance: lines.provenance(span.start) });
            }
            Err(error) => notes.complain_at(span, Problem::new("bad-forward", error.to_string(), error.hint())),
        }
    }
    forwards
}
