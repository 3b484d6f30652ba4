//! What the store holds and tells: entries, snapshots, changes.

/// A point in the store's history: how many changing transactions there have been.
pub type Revision = u64;

/// One key, its value, and its place in history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key; keys sort by their bytes.
    pub key: String,
    /// The value; the store never looks inside.
    pub value: Vec<u8>,
    /// The revision at which the key came (again) into being.
    pub create_revision: Revision,
    /// The revision of the latest write to the key.
    pub mod_revision: Revision,
    /// How often the key was written since it came into being; 1 for a new one.
    pub version: u64,
}

/// What a prefix held at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's revision at which `entries` is the whole truth; a watch continues at the next one.
    pub revision: Revision,
    /// The entries, in key order.
    pub entries: Vec<Entry>,
}

/// What one transaction did to the keys of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The transaction's revision.
    pub revision: Revision,
    /// What it did, in the transaction's order; never empty.
    pub events: Vec<Event>,
}

/// What happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written; this is the entry since then.
    Put(Entry),
    /// The key, which existed, was removed.
    Delete {
        /// The key that is gone.
        key: String,
    },
}

impl Event {
    /// The key to which it happened.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key } => key,
        }
    }
}

/// The smallest byte string above every key that starts with `prefix`, or `None` where there is no such bound.
pub(crate) fn prefix_end(prefix: &str) -> Option<Vec<u8>> {
    let mut end = prefix.as_bytes().to_vec();
    // UTF-8 never contains 0xFF, so the last byte can always be counted up.
    *end.last_mut()? += 1;
    Some(end)
}
