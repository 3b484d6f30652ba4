//! Whether a right configuration stays right when a few ports go and come, found without a look at the others.

use super::{check_macs, check_port_identities, check_ranges, check_rates};
use crate::difference::Difference;
use crate::table::Tables;
use crate::{PortConfig, Role};

/// Whether the configuration of `tables` is surely right after `difference`; its vSwitches stay as they are. Where that
/// is not sure, everything has to be checked.
pub(crate) fn is_harmless(tables: &Tables, difference: &Difference) -> bool {
    let mut problems = Vec::new();
    check_port_identities(&difference.come, &mut problems);
    check_macs(&difference.come, &mut problems);
    check_ranges(&difference.come, &mut problems);
    check_rates(&difference.come, &mut problems);
    // Whom a team, an access list or a mirror names has to stay what it is.
    let stays = |id| tables.index(id).zip(difference.brings(id)).is_some_and(|(index, new)| is_as(tables, index, new));
    let is_missed = difference.gone.iter().any(|id| tables.names_port(*id) && !stays(*id));
    problems.is_empty() && !is_missed && difference.come.iter().all(|port| fits(tables, difference, port))
}

/// Whether a port stays on its vSwitch, with what stands behind it.
fn is_as(tables: &Tables, index: crate::table::PortIndex, new: &PortConfig) -> bool {
    let before = &tables.port(index).config;
    before.vswitch == new.vswitch && before.role == new.role
}

/// Whether a port meets none of those that stay, and its vSwitch is there.
fn fits(tables: &Tables, difference: &Difference, port: &PortConfig) -> bool {
    let Some(vswitch) = tables.place(port.vswitch) else { return false };
    let before = tables.index(port.id);
    let is_free = |id| difference.takes(id);
    let may_be_uplink = || before.is_some_and(|before| is_as(tables, before, port));
    before.is_none_or(|_| is_free(port.id))
        && tables.port_named(&port.name).is_none_or(is_free)
        && (port.role != Role::Uplink || may_be_uplink())
        && port.mac_ranges.is_empty()
        && port.macs.iter().all(|mac| {
            let mut owners = tables.owners(vswitch, *mac, &port.vlans);
            owners.all(|owner| is_free(tables.port(owner).config.id))
        })
}
