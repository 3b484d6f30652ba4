//! What a file's world was before it was changed last.

use std::collections::BTreeMap;

use weft_model::World;
use weft_model::view::ProblemView;
use weft_store::{Op, Store};

use crate::ControlError;
use crate::desired::{Desired, Records};
use crate::host::Trouble;
use crate::inner::Inner;
use crate::objects::{self, Object, put};

/// Beside the state of things, which is read as a whole at every turn.
const BEFORE: &str = "/before/";
/// Of how many owners it is remembered.
const REMEMBERED: usize = 50;

impl Inner {
    /// The world that `owner` had before it was changed last; an empty one where there was none.
    pub(crate) fn world_before(&self, owner: &str) -> Result<World, ProblemView> {
        let entry = self.store.get(&key(owner)).map_err(|error| Trouble::from(ControlError::from(error)).problem())?;
        let Some(entry) = entry else {
            let title = format!("nothing of {owner} has changed that could be undone");
            let hint = "name the file as `weft up` did; `weft ls` shows what each file made";
            return Err(Trouble::new("nothing-to-undo", title, hint).problem());
        };
        objects::get(&entry).map_err(|error| Trouble::from(error).problem())
    }
}

/// The writes by which it is remembered what `owner` has, if that is about to become another `world`.
pub(crate) fn remember(
    store: &dyn Store,
    records: &Records,
    owner: &str,
    world: &World,
) -> Result<Vec<Op>, ControlError> {
    let current = records.desired.world_of(owner);
    if current == *world {
        return Ok(Vec::new());
    }
    let key = key(owner);
    let mut known = store.range(BEFORE)?.entries;
    known.retain(|entry| entry.key != key);
    known.sort_by_key(|entry| entry.mod_revision);
    let forgotten = (known.len() + 1).saturating_sub(REMEMBERED);
    let forget = known.drain(..forgotten).map(|entry| Op::delete(entry.key));
    Ok(forget.chain([put(key, &current)]).collect())
}

fn key(owner: &str) -> String {
    format!("{BEFORE}{owner}")
}

impl Desired {
    /// All that an owner has declared.
    pub fn world_of(&self, owner: &str) -> World {
        World {
            networks: declared_by(owner, &self.networks),
            images: declared_by(owner, &self.images),
            routers: declared_by(owner, &self.routers),
            vms: self
                .vms
                .iter()
                .filter(|(_, it)| it.owner == owner)
                .map(|(n, it)| (n.clone(), it.spec.clone()))
                .collect(),
        }
    }
}

/// What an owner has declared of one kind.
fn declared_by<K: Ord + Clone, T: Clone>(owner: &str, objects: &BTreeMap<K, Object<T>>) -> BTreeMap<K, T> {
    let own = objects.iter().filter(|(_, object)| object.owner == owner);
    own.map(|(name, object)| (name.clone(), object.spec.clone())).collect()
}
