//! What is different between the ports of two configurations.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::PortId;

use crate::PortConfig;

/// The most ports that are taken out and put in one by one. Beyond that, it is faster to begin anew: others have to be
/// looked through for each of them.
const MOST: usize = 64;

/// The ports that go and those that come; one that changes does both.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) gone: Vec<PortId>,
    pub(crate) come: Vec<Arc<PortConfig>>,
}

impl Difference {
    /// What makes `new` of `old`, in which no number stands twice; `None` when that is much.
    pub(crate) fn between(old: &[Arc<PortConfig>], new: &[Arc<PortConfig>]) -> Option<Self> {
        // Most are the same and in the same place.
        let same = |(old, new): &(&Arc<PortConfig>, &Arc<PortConfig>)| old == new;
        let front = old.iter().zip(new).take_while(same).count();
        let (old, new) = (&old[front..], &new[front..]);
        let back = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
        let (old, new) = (&old[..old.len() - back], &new[..new.len() - back]);
        let mut left: HashMap<PortId, &Arc<PortConfig>, FixedState> = old.iter().map(|port| (port.id, port)).collect();
        let mut difference = Self::default();
        for port in new {
            match left.remove(&port.id) {
                Some(before) if before == port => {}
                before => {
                    difference.gone.extend(before.map(|before| before.id));
                    difference.come.push(port.clone());
                }
            }
        }
        difference.gone.extend(left.into_keys());
        (difference.gone.len() + difference.come.len() <= MOST).then_some(difference)
    }

    /// Whether a port goes or changes.
    pub(crate) fn takes(&self, port: PortId) -> bool {
        self.gone.contains(&port)
    }

    /// What comes of a port that changes.
    pub(crate) fn brings(&self, port: PortId) -> Option<&PortConfig> {
        self.come.iter().find(|config| config.id == port).map(Arc::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use weft_types::Provenance;

    use super::*;
    use crate::{Role, VSwitchId};

    fn port(id: u32) -> PortConfig {
        let name = format!("p{id}").parse().unwrap();
        PortConfig::new(PortId(id), name, VSwitchId(0), Role::Vnic, Provenance::file("lab.toml", id))
    }

    fn ports(ids: impl IntoIterator<Item = u32>) -> Vec<Arc<PortConfig>> {
        ids.into_iter().map(|id| Arc::new(port(id))).collect()
    }

    #[track_caller]
    fn check(old: &[Arc<PortConfig>], new: &[Arc<PortConfig>], expected: Option<(&[u32], &[u32])>) {
        let difference = Difference::between(old, new).map(|difference| {
            let gone: Vec<_> = difference.gone.iter().map(|id| id.0).collect();
            (gone, difference.come.iter().map(|port| port.id.0).collect::<Vec<_>>())
        });
        assert_eq!(difference, expected.map(|(gone, come)| (gone.to_vec(), come.to_vec())));
    }

    #[test]
    fn what_goes_comes_and_changes() {
        check(&ports(0..9), &ports(0..9), Some((&[], &[])));
        check(&ports(0..9), &ports(0..10), Some((&[], &[9])));
        check(&ports(0..9), &ports((0..9).rev()), Some((&[], &[])));
        check(&ports(0..9), &ports([0, 1, 2, 4, 5, 6, 7, 8]), Some((&[3], &[])));
        check(&ports(0..9), &ports([0, 1, 2, 3, 99, 5, 6, 7, 8]), Some((&[4], &[99])));
        // One that stands there twice is said to come, which no table takes.
        check(&ports(0..3), &ports([0, 1, 1, 2]), Some((&[], &[1])));
        let mut changed = ports(0..9);
        Arc::make_mut(&mut changed[4]).learn = 7;
        check(&ports(0..9), &changed, Some((&[4], &[4])));
    }

    #[test]
    fn much_is_no_difference() {
        check(&ports(0..9), &ports(100..200), None);
        check(&ports(0..100), &[], None);
    }
}
