//! Watches: a reader's place in the history.
//!
//! A watch pulls from the history rather than being pushed to, so a slow reader costs no memory and cannot miss
//! anything: it merely stands further back, until compaction passes it and it is told so.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::record::{Change, Revision};
use crate::{Result, StoreError};

/// How many events a watch reads ahead, give or take one transaction.
const READ_AHEAD: usize = 256;

/// Where changes are read from.
pub(crate) trait History: Send + Sync {
    /// The changes to `prefix` at or after `from`, until about `limit` events are found.
    fn changes(&self, prefix: &str, from: Revision, limit: usize) -> Result<Page>;
}

/// A piece of history.
pub(crate) struct Page {
    /// In revision order.
    pub(crate) changes: Vec<Change>,
    /// Where the next page begins; everything before it is in this page or does not concern the prefix.
    pub(crate) next: Revision,
}

/// Wakes watches when a revision is done.
#[derive(Default)]
pub(crate) struct Bell {
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Default)]
struct BellState {
    revision: Revision,
    closed: bool,
}

impl Bell {
    /// Tells that `revision` is done.
    pub(crate) fn ring(&self, revision: Revision) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.revision = state.revision.max(revision);
        self.rung.notify_all();
    }

    /// Tells that no revision will follow.
    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.rung.notify_all();
    }

    /// Waits until `revision` is done, the store is closed, or `deadline` has passed.
    fn wait(&self, revision: Revision, deadline: Option<Instant>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.revision < revision && !state.closed {
            state = match deadline {
                None => self.rung.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    self.rung.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// The changes to the keys under a prefix, one transaction at a time, in revision order and without gaps.
///
/// As an iterator it blocks, and ends when the store is closed or after an error.
pub struct Watch {
    history: Weak<dyn History>,
    bell: Arc<Bell>,
    prefix: String,
    next: Revision,
    ready: VecDeque<Change>,
    failed: bool,
}

impl Watch {
    pub(crate) fn new(history: Weak<dyn History>, bell: Arc<Bell>, prefix: &str, next: Revision) -> Result<Self> {
        let mut watch = Self { history, bell, prefix: prefix.to_owned(), next, ready: VecDeque::new(), failed: false };
        watch.pull()?;
        Ok(watch)
    }

    /// The next change; waits for it as long as it takes.
    ///
    /// Writes through other processes are only noticed together with the next write of this one.
    pub fn recv(&mut self) -> Result<Change> {
        loop {
            if let Some(change) = self.try_recv()? {
                return Ok(change);
            }
            self.bell.wait(self.next, None);
        }
    }

    /// The next change, or `None` if there is none within `timeout`.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Change>> {
        // A timeout beyond the clock's range is no timeout.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if let Some(change) = self.try_recv()? {
                return Ok(Some(change));
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(None);
            }
            self.bell.wait(self.next, deadline);
        }
    }

    /// The next change, if it is there already.
    pub fn try_recv(&mut self) -> Result<Option<Change>> {
        if self.ready.is_empty() {
            self.pull()?;
        }
        Ok(self.ready.pop_front())
    }

    fn pull(&mut self) -> Result<()> {
        let history = self.history.upgrade().ok_or(StoreError::Closed)?;
        let page = history.changes(&self.prefix, self.next, READ_AHEAD)?;
        self.ready.extend(page.changes);
        self.next = page.next;
        Ok(())
    }
}

impl Iterator for Watch {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.recv();
        self.failed = item.is_err();
        (!matches!(item, Err(StoreError::Closed))).then_some(item)
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("prefix", &self.prefix).field("next", &self.next).finish_non_exhaustive()
    }
}
