//! Transactions: compare, then write.

use std::collections::HashSet;

use crate::record::Revision;
use crate::{Result, StoreError};

/// The longest value, in bytes; a cluster's store has such a limit too.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 20;

/// Comparisons, and what to write if all of them hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a transaction does nothing until it is given to a store"]
pub struct Txn {
    /// Must all hold, at the moment of writing; none means always.
    pub compares: Vec<Compare>,
    /// What to write. No key may be touched twice (etcd refuses that too): say the final state of each.
    pub then: Vec<Op>,
}

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at this revision; 0 says that the key is absent.
    ModRevision(String, Revision),
    /// The key is present and has this value.
    Value(String, Vec<u8>),
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets the key to the value.
    Put(String, Vec<u8>),
    /// Removes the key, if it is there.
    Delete(String),
    /// Removes every key that starts with this.
    DeletePrefix(String),
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a failed comparison is reported here"]
pub struct TxnOutcome {
    /// Whether every comparison held and the writes were made.
    pub succeeded: bool,
    /// The store's revision afterwards: a new one if anything changed, otherwise the one that stood.
    pub revision: Revision,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a write.
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Refuses what etcd would refuse, before anything is written.
    pub(crate) fn validate(&self) -> Result<()> {
        let mut put: HashSet<&str> = HashSet::new();
        for op in &self.then {
            match op {
                Op::Put(key, _) | Op::Delete(key) if key.is_empty() => return Err(StoreError::EmptyKey),
                Op::Put(key, value) if value.len() > VALUE_BYTES_MAX => {
                    return Err(StoreError::TooLarge { key: key.clone(), bytes: value.len() });
                }
                Op::Put(key, _) if !put.insert(key) => return Err(StoreError::DuplicateKey { key: key.clone() }),
                _ => {}
            }
        }
        let clash = self.then.iter().find_map(|op| match op {
            Op::Put(..) => None,
            Op::Delete(key) => put.get(key.as_str()).copied(),
            Op::DeletePrefix(prefix) => put.iter().copied().filter(|key| key.starts_with(prefix.as_str())).min(),
        });
        clash.map_or(Ok(()), |key| Err(StoreError::DuplicateKey { key: key.to_owned() }))
    }
}

impl Compare {
    /// The condition that nothing is at `key`.
    pub fn absent(key: impl Into<String>) -> Self {
        Self::ModRevision(key.into(), 0)
    }

    /// The condition that `key` is unchanged since it was read with this `mod_revision`.
    pub fn mod_revision(key: impl Into<String>, revision: Revision) -> Self {
        Self::ModRevision(key.into(), revision)
    }

    /// The condition that `key` holds `value`.
    pub fn value(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Value(key.into(), value.into())
    }
}

impl Op {
    /// Sets `key` to `value`.
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put(key.into(), value.into())
    }

    /// Removes `key`.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete(key.into())
    }

    /// Removes every key that starts with `prefix`.
    pub fn delete_prefix(prefix: impl Into<String>) -> Self {
        Self::DeletePrefix(prefix.into())
    }
}
