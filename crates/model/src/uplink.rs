//! By what a network is part of the LAN.

use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_types::{Attach, NetworkName};

use crate::problem::Problem;
use crate::read::{Notes, Section, list, nearest};

/// What the names of interfaces can be at most, as the kernel's `IFNAMSIZ` says.
const MAX_INTERFACE_NAME_BYTES: usize = 15;

/// The interface of the host that is a bridged network's way to the LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// The interface's name.
    pub nic: String,
    /// How it is used.
    pub attach: Attach,
}

impl Uplink {
    /// What is wrong with two networks that have one way to the LAN.
    pub fn clash(&self, other: &Self, whose: &NetworkName) -> Option<Problem> {
        (self.nic == other.nic).then(|| {
            let message = format!("`{}` belongs to network `{whose}` already", self.nic);
            let hint = format!("plug into `{whose}` instead; `vlan` in an adapter gives it a VLAN of its own there");
            Problem::new("taken", message, hint)
        })
    }

    /// The largest IP packet that the interface takes, if it is there.
    pub(crate) fn mtu(&self) -> Option<u16> {
        let path = Path::new("/sys/class/net").join(&self.nic).join("mtu");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }
}

/// Keys of a network that say nothing where its addresses are the LAN's.
const OTHERS: [&str; 10] =
    ["subnet", "gateway", "ipv6", "dhcp6", "host", "host_access", "dhcp", "dns", "hosts", "cnames"];

/// The uplink of a network, which it has if and only if it is bridged.
pub(crate) fn read(notes: &mut Notes, section: &mut Section<'_>, is_bridged: bool) -> Option<Uplink> {
    let nic = section.string(notes, "nic", "eth0").map(str::to_owned);
    let attach = read_attach(notes, section);
    if !is_bridged {
        for key in ["nic", "attach"].into_iter().filter(|key| section.has(key)) {
            let message = format!("`{key}` means nothing for a network that is not bridged");
            let hint = "write `mode = \"bridged\"`, or remove it";
            notes.complain(&section.path_of(key), Problem::new("contradiction", message, hint));
        }
        return None;
    }
    if !section.has("nic") {
        let message = "the bridged network does not say by which interface of the host it reaches the LAN";
        let hint = "write `nic = \"eth0\"`; `ip -br link` lists what this host has";
        notes.complain(&section.path_of("nic"), Problem::new("missing-key", message, hint));
    }
    let nic = nic?;
    let odd = |byte: u8| matches!(byte, b'/' | b':' | b'%') || !byte.is_ascii_graphic();
    if nic.is_empty() || nic.len() > MAX_INTERFACE_NAME_BYTES || nic.bytes().any(odd) || matches!(&nic[..], "." | "..")
    {
        let message = format!("`{}` cannot be an interface's name", nic.escape_debug());
        notes.complain(
            &section.path_of("nic"),
            Problem::new("bad-value", message, "use 1 to 15 characters without `/`, `:`, `%` and spaces"),
        );
        return None;
    }
    Some(Uplink { nic, attach: attach.unwrap_or(Attach::Shared) })
}

/// Complains about what a bridged network has not.
pub(crate) fn refuse_others(notes: &mut Notes, section: &Section<'_>) {
    for key in OTHERS.into_iter().filter(|key| section.has(key)) {
        let message = format!("`{key}` means nothing for a bridged network: its addresses and names are the LAN's");
        let hint = "remove it, or choose another `mode`";
        notes.complain(&section.path_of(key), Problem::new("contradiction", message, hint));
    }
}

/// How an interface is used.
pub(crate) fn read_attach(notes: &mut Notes, section: &mut Section<'_>) -> Option<Attach> {
    let text = section.string(notes, "attach", "existing-bridge")?;
    let found = Attach::ALL.into_iter().find(|attach| attach.as_str() == text);
    if found.is_none() {
        let words = Attach::ALL.map(Attach::as_str);
        let hint = match nearest(text, words.into_iter()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("choose from {}", list(&words)),
        };
        let message = format!("`{}` is not a value of `attach`", text.escape_debug());
        notes.complain(&section.path_of("attach"), Problem::new("bad-value", message, hint));
    }
    found
}
