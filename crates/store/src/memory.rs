//! A store that is gone with its process, for tests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::record::{Change, Entry, Event, Revision, Snapshot};
use crate::txn::{Compare, Op, Txn, TxnOutcome};
use crate::watch::{Bell, History, Page, Watch};
use crate::{Result, Store, StoreError};

/// A [`Store`] in memory: same semantics, no durability.
#[derive(Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    revision: Revision,
    /// Changes before this revision are forgotten.
    oldest: Revision,
    entries: BTreeMap<String, Entry>,
    changes: VecDeque<Change>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.bell.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision(key, revision) => {
                self.entries.get(key).map_or(0, |entry| entry.mod_revision) == *revision
            }
            Compare::Value(key, value) => self.entries.get(key).is_some_and(|entry| entry.value == *value),
        }
    }

    fn put(&mut self, key: String, value: Vec<u8>, revision: Revision) -> Event {
        let (create_revision, version) =
            self.entries.get(&key).map_or((revision, 1), |old| (old.create_revision, old.version + 1));
        let entry = Entry { key, value, create_revision, mod_revision: revision, version };
        self.entries.insert(entry.key.clone(), entry.clone());
        Event::Put(entry)
    }

    fn under(&self, prefix: &str) -> impl Iterator<Item = &Entry> {
        self.entries.range(prefix.to_owned()..).map(|(_, entry)| entry).take_while(move |e| e.key.starts_with(prefix))
    }

    fn delete(&mut self, keys: Vec<String>) -> Vec<Event> {
        keys.into_iter().filter_map(|key| self.entries.remove(&key).map(|_| Event::Delete { key })).collect()
    }
}

impl Store for MemoryStore {
    fn revision(&self) -> Result<Revision> {
        Ok(self.shared.lock().revision)
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        Ok(self.shared.lock().entries.get(key).cloned())
    }

    fn range(&self, prefix: &str) -> Result<Snapshot> {
        let state = self.shared.lock();
        Ok(Snapshot { revision: state.revision, entries: state.under(prefix).cloned().collect() })
    }

    fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn.validate()?;
        let mut state = self.shared.lock();
        if !txn.compares.iter().all(|compare| state.holds(compare)) {
            return Ok(TxnOutcome { succeeded: false, revision: state.revision });
        }
        let revision = state.revision + 1;
        let mut events = Vec::new();
        for op in txn.then {
            match op {
                Op::Put(key, value) => events.push(state.put(key, value, revision)),
                Op::Delete(key) => events.extend(state.delete(vec![key])),
                Op::DeletePrefix(prefix) => {
                    let keys = state.under(&prefix).map(|entry| entry.key.clone()).collect();
                    events.extend(state.delete(keys));
                }
            }
        }
        if !events.is_empty() {
            state.revision = revision;
            state.changes.push_back(Change { revision, events });
            self.bell.ring(revision);
        }
        Ok(TxnOutcome { succeeded: true, revision: state.revision })
    }

    fn watch(&self, prefix: &str, from_revision: Revision) -> Result<Watch> {
        let shared: Arc<dyn History> = self.shared.clone();
        Watch::new(Arc::downgrade(&shared), self.bell.clone(), prefix, from_revision)
    }

    fn compact(&self, revision: Revision) -> Result<()> {
        let mut state = self.shared.lock();
        if revision > state.revision {
            return Err(StoreError::FutureRevision { requested: revision, current: state.revision });
        }
        state.oldest = state.oldest.max(revision);
        let kept = state.changes.partition_point(|change| change.revision < revision);
        state.changes.drain(..kept);
        Ok(())
    }
}

impl History for Shared {
    fn changes(&self, prefix: &str, from: Revision, limit: usize) -> Result<Page> {
        let state = self.lock();
        // History begins with revision 1, so 0 asks for no more than 1 does.
        if from.max(1) < state.oldest {
            return Err(StoreError::Compacted { requested: from, oldest: state.oldest });
        }
        let mut page = Page { changes: Vec::new(), next: from.max(state.revision + 1) };
        let mut found = 0;
        let first = state.changes.partition_point(|change| change.revision < from);
        for change in state.changes.range(first..) {
            if found >= limit {
                page.next = change.revision;
                break;
            }
            let events: Vec<Event> = change.events.iter().filter(|e| e.key().starts_with(prefix)).cloned().collect();
            if !events.is_empty() {
                found += events.len();
                page.changes.push(Change { revision: change.revision, events });
            }
        }
        Ok(page)
    }
}
