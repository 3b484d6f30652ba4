//! The IP addresses that ports were seen to get from servers of others, on disk: whoever holds a lease of the LAN's
//! server does not ask again because our switch was killed.
//!
//! Losing the last second of it costs a guest its voice until it renews, so it is neither synced nor written more often.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_switch::{Segment, Switch};
use weft_types::{Instant, PortId, PortName, VlanId};

/// Guests can make us write; no more often than this.
const INTERVAL: Duration = Duration::from_secs(1);

/// Who had which addresses.
type Book = BTreeMap<PortName, Vec<Entry>>;

/// An address of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vlan: Option<VlanId>,
    ip: IpAddr,
}

/// The file, and what is in it.
#[derive(Debug)]
pub(crate) struct AddressBook {
    path: PathBuf,
    /// What the last switch knew, until the first configuration.
    unrestored: Book,
    /// The switch's count of changes when the file was written.
    written: u64,
    not_before: Instant,
}

impl AddressBook {
    /// What the last switch wrote; nothing where that makes no sense.
    pub(crate) fn open(path: PathBuf) -> Self {
        let unrestored = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, unrestored, written: 0, not_before: Instant::default() }
    }

    /// Gives ports what they had; only once.
    pub(crate) fn restore<'a>(&mut self, switch: &mut Switch, ports: impl Iterator<Item = (PortId, &'a PortName)>) {
        let book = std::mem::take(&mut self.unrestored);
        if book.is_empty() {
            return;
        }
        for (id, name) in ports {
            for Entry { vlan, ip } in book.get(name).into_iter().flatten() {
                switch.restore_address(id, vlan.map_or(Segment::Untagged, Segment::Vlan), *ip);
            }
        }
    }

    /// When [`Self::keep`] wants to be called, if it does.
    pub(crate) fn due(&self, switch: &Switch) -> Option<Instant> {
        (switch.address_changes() != self.written).then_some(self.not_before)
    }

    /// Writes what the switch knows, if it is time.
    pub(crate) fn keep<'a>(
        &mut self,
        now: Instant,
        switch: &Switch,
        ports: impl Iterator<Item = (PortId, &'a PortName)>,
    ) {
        if self.due(switch).is_none_or(|due| due > now) {
            return;
        }
        self.written = switch.address_changes();
        self.not_before = now + INTERVAL;
        let entries = |id| {
            let known = switch.learned_in_segments(id);
            known.map(|(segment, ip)| match segment {
                Segment::Untagged => Entry { vlan: None, ip },
                Segment::Vlan(vlan) => Entry { vlan: Some(vlan), ip },
            })
        };
        let book = ports.map(|(id, name)| (name.clone(), entries(id).collect::<Vec<_>>()));
        let book: Book = book.filter(|(_, entries)| !entries.is_empty()).collect();
        let new = self.path.with_extension("new");
        let written = serde_json::to_vec(&book).map_err(Into::into).and_then(|bytes| fs::write(&new, bytes));
        if let Err(error) = written.and_then(|()| fs::rename(&new, &self.path)) {
            tracing::warn!(target: "weft::dataplane", %error, "the ports' addresses are not kept");
            let _ = fs::remove_file(&new);
        }
    }
}
