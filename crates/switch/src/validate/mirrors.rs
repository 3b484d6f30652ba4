//! What must hold of mirrors (law 7).

use weft_types::PortId;

use super::acl::check_traffic;
use super::{Map, rival};
use crate::config::MAX_MIRRORS;
use crate::{Config, ConfigError, Mirror, MirrorTarget, PortConfig, Role, VSwitchConfig, VSwitchId};

/// Everything that is wrong with the mirrors of `config`.
pub(super) fn check(config: &Config, problems: &mut Vec<ConfigError>) {
    let ports: Map<PortId, &PortConfig> = config.ports.iter().map(|port| (port.id, &**port)).collect();
    let mut numbers = Map::default();
    for vswitch in &config.vswitches {
        if vswitch.mirrors.len() > MAX_MIRRORS {
            let (network, provenance) = (vswitch.name.clone(), vswitch.provenance.clone());
            problems.push(ConfigError::TooManyMirrors { network, mirrors: vswitch.mirrors.len(), provenance });
        }
        check_identities(vswitch, &mut numbers, problems);
        for mirror in &vswitch.mirrors {
            let port = |id: PortId| ports.get(&id).copied();
            check_mirror(vswitch.id, mirror, port, problems);
        }
    }
}

fn check_identities<'a>(
    vswitch: &'a VSwitchConfig,
    numbers: &mut Map<crate::MirrorId, &'a Mirror>,
    problems: &mut Vec<ConfigError>,
) {
    let mut names = Map::default();
    for mirror in &vswitch.mirrors {
        let same = rival(names.entry(&mirror.name), mirror).or(rival(numbers.entry(mirror.id), mirror));
        if let Some(first) = same {
            let (name, first, second) = (mirror.name.clone(), first.provenance.clone(), mirror.provenance.clone());
            problems.push(ConfigError::DuplicateMirror { name, first, second });
        }
    }
}

/// What must hold of one mirror of a vSwitch; `port` finds a port.
pub(crate) fn check_mirror<'a>(
    vswitch: VSwitchId,
    mirror: &Mirror,
    port: impl Fn(PortId) -> Option<&'a PortConfig>,
    problems: &mut Vec<ConfigError>,
) {
    let (name, place) = (|| mirror.name.clone(), || mirror.provenance.clone());
    let target = match mirror.to {
        MirrorTarget::Port(target) => Some(target),
        MirrorTarget::Outside => None,
    };
    for id in mirror.ports.iter().copied().chain(target) {
        if port(id).is_none_or(|port| port.vswitch != vswitch) {
            problems.push(ConfigError::MirrorElsewhere { mirror: name(), port: id, provenance: place() });
        }
    }
    if let Some(target) = target.and_then(port)
        && (mirror.ports.contains(&target.id) || matches!(target.role, Role::Uplink | Role::Gateway))
    {
        let port = target.name.clone();
        problems.push(ConfigError::MirrorTarget { mirror: name(), port, provenance: place() });
    }
    if let Some(filter) = &mirror.filter {
        check_traffic(&filter.traffic, || format!("mirror `{}`", mirror.name), &mirror.provenance, problems);
    }
}
