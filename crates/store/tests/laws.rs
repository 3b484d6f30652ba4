//! The laws of every store: each runs against SQLite, against memory, and against a model too simple to be wrong.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use weft_store::{
    Change, Compare, Entry, Event, MemoryStore, Op, Revision, Snapshot, SqliteStore, Store, StoreError, Txn, TxnOutcome,
};

const SOON: Duration = Duration::from_secs(10);

/// Runs `law` on an empty store of each kind.
fn each(law: impl Fn(&dyn Store)) {
    law(&MemoryStore::new());
    let folder = tempfile::tempdir().unwrap();
    law(&SqliteStore::open(folder.path().join("store.db")).unwrap());
}

fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.put(key, value).unwrap()
}

/// Everything a watch can tell at once.
fn drain(store: &dyn Store, prefix: &str, from: Revision) -> Vec<Change> {
    let mut watch = store.watch(prefix, from).unwrap();
    std::iter::from_fn(|| watch.try_recv().unwrap()).collect()
}

#[test]
fn a_new_store_is_empty_at_revision_zero() {
    each(|store| {
        assert_eq!(store.range("").unwrap(), Snapshot { revision: 0, entries: vec![] });
        assert_eq!(store.get("a").unwrap(), None);
        assert_eq!(drain(store, "", 0), []);
    });
}

#[test]
fn entries_carry_their_place_in_history() {
    each(|store| {
        put(store, "a", "1");
        put(store, "b", "2");
        put(store, "a", "3");
        let a = Entry { key: "a".into(), value: b"3".into(), create_revision: 1, mod_revision: 3, version: 2 };
        assert_eq!(store.get("a").unwrap(), Some(a));
        store.delete("a").unwrap();
        put(store, "a", "5");
        let a = store.get("a").unwrap().unwrap();
        assert_eq!((a.create_revision, a.mod_revision, a.version), (5, 5, 1), "a key that comes back is a new one");
    });
}

#[test]
fn prefixes_are_bytes_and_keys_come_in_their_order() {
    each(|store| {
        for key in ["/vm/web", "/vm", "/vmx", "/vm/", "/vm/é", "/vm/\u{10FFFF}", "/vm/a\0b", "/vm/db"] {
            put(store, key, "");
        }
        let keys: Vec<String> = store.range("/vm/").unwrap().entries.into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["/vm/", "/vm/a\0b", "/vm/db", "/vm/web", "/vm/é", "/vm/\u{10FFFF}"]);
        assert_eq!(store.range("/vm/\u{10FFFF}").unwrap().entries.len(), 1);
    });
}

#[test]
fn a_transaction_does_all_or_nothing_in_one_revision() {
    each(|store| {
        let make = Txn::new().when(Compare::absent("a")).then(Op::put("a", "1")).then(Op::put("b", "2"));
        assert_eq!(store.txn(make.clone()).unwrap(), TxnOutcome { succeeded: true, revision: 1 });
        assert_eq!(store.txn(make).unwrap(), TxnOutcome { succeeded: false, revision: 1 });

        let swap = |revision| Txn::new().when(Compare::mod_revision("a", revision)).then(Op::delete_prefix(""));
        assert_eq!(store.txn(swap(7)).unwrap(), TxnOutcome { succeeded: false, revision: 1 });
        let value = |value: &str| Txn::new().when(Compare::value("b", value)).then(Op::put("a", "3"));
        assert!(!store.txn(value("3")).unwrap().succeeded);
        assert!(store.txn(value("2")).unwrap().succeeded);
        assert!(!store.txn(Txn::new().when(Compare::value("none", ""))).unwrap().succeeded, "absent is not empty");
        assert_eq!(store.txn(swap(2)).unwrap(), TxnOutcome { succeeded: true, revision: 3 });
        assert_eq!(
            drain(store, "", 3),
            [Change {
                revision: 3,
                events: vec![Event::Delete { key: "a".into() }, Event::Delete { key: "b".into() }]
            }]
        );
    });
}

#[test]
fn what_changes_nothing_takes_no_revision() {
    each(|store| {
        put(store, "a", "1");
        for txn in [Txn::new(), Txn::new().then(Op::delete("b")), Txn::new().then(Op::delete_prefix("b"))] {
            assert_eq!(store.txn(txn).unwrap(), TxnOutcome { succeeded: true, revision: 1 });
        }
        assert_eq!(put(store, "a", "1"), 2, "but writing the same value is a write");
    });
}

#[test]
fn a_transaction_that_contradicts_itself_is_refused_whole() {
    each(|store| {
        let twice = Txn::new().then(Op::put("x", "")).then(Op::put("a", "1")).then(Op::put("a", "2"));
        assert!(matches!(store.txn(twice), Err(StoreError::DuplicateKey { key }) if key == "a"));
        let both = Txn::new().then(Op::delete("a")).then(Op::put("a", "2"));
        assert!(matches!(store.txn(both), Err(StoreError::DuplicateKey { .. })));
        let under = Txn::new().then(Op::put("a/b", "2")).then(Op::delete_prefix("a/"));
        assert!(matches!(store.txn(under), Err(StoreError::DuplicateKey { key }) if key == "a/b"));
        assert!(matches!(store.put("", "1"), Err(StoreError::EmptyKey)));
        assert!(matches!(store.delete(""), Err(StoreError::EmptyKey)));
        assert!(matches!(store.put("a", &"x".repeat((1 << 20) + 1)), Err(StoreError::TooLarge { .. })));
        assert_eq!(store.range("").unwrap(), Snapshot { revision: 0, entries: vec![] });
    });
}

#[test]
fn a_watch_tells_the_past_and_then_waits() {
    each(|store| {
        put(store, "/a", "1");
        put(store, "/b", "2");
        let mut watch = store.watch("/a", 0).unwrap();
        assert_eq!(watch.recv().unwrap().revision, 1);
        assert_eq!(watch.recv_timeout(Duration::from_millis(5)).unwrap(), None);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| watch.recv_timeout(SOON).unwrap().unwrap().revision);
            put(store, "/c", "3");
            put(store, "/a", "4");
            assert_eq!(waiting.join().unwrap(), 4);
        });
    });
}

#[test]
fn a_watch_from_the_future_skips_what_comes_before() {
    each(|store| {
        let mut watch = store.watch("", 3).unwrap();
        for _ in 0..3 {
            put(store, "a", "");
        }
        assert_eq!(watch.recv().unwrap().revision, 3);
        assert_eq!(store.watch("", u64::MAX).unwrap().try_recv().unwrap(), None);
    });
}

#[test]
fn a_long_history_comes_whole_and_in_order() {
    each(|store| {
        let wide = |n| (0..300).fold(Txn::new(), |txn, key| txn.then(Op::put(format!("{key:03}"), format!("{n}"))));
        for n in 0..4 {
            let _ = store.txn(wide(n)).unwrap();
            put(store, "z", "");
        }
        let told = drain(store, "", 1);
        assert_eq!(told.iter().map(|change| change.revision).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
        assert!(told.iter().step_by(2).all(|change| change.events.len() == 300), "a revision is never cut");
    });
}

#[test]
fn compaction_forgets_the_past_but_not_the_present() {
    each(|store| {
        for value in ["1", "2", "3", "4"] {
            put(store, "a", value);
        }
        let mut behind = store.watch("", 1).unwrap();
        store.compact(3).unwrap();
        store.compact(3).unwrap();
        store.compact(1).unwrap();
        assert_eq!(store.get("a").unwrap().unwrap().version, 4);
        assert_eq!(drain(store, "", 3).len(), 2);
        for from in [0, 1, 2] {
            let error = store.watch("", from).unwrap_err();
            assert!(matches!(error, StoreError::Compacted { oldest: 3, requested } if requested == from), "{error}");
        }
        assert!(matches!(store.compact(5), Err(StoreError::FutureRevision { requested: 5, current: 4 })));
        assert_eq!(behind.recv().unwrap().revision, 1, "what was read ahead is still told");
    });
}

#[test]
fn a_watch_ends_with_its_store() {
    let folder = tempfile::tempdir().unwrap();
    let stores: [Box<dyn Store>; 2] =
        [Box::new(MemoryStore::new()), Box::new(SqliteStore::open(folder.path().join("s")).unwrap())];
    for store in stores {
        let mut watch = store.watch("", 0).unwrap();
        let waiting = thread::spawn(move || (watch.by_ref().count(), watch.recv()));
        store.put("a", "").unwrap();
        thread::sleep(Duration::from_millis(20));
        drop(store);
        let (told, after) = waiting.join().unwrap();
        assert_eq!(told, 1);
        assert!(matches!(after, Err(StoreError::Closed)));
    }
}

#[test]
fn counters_swapped_by_many_threads_lose_no_step() {
    each(|store| {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        while !count_up(store) {}
                    }
                });
            }
        });
        assert_eq!(store.get("n").unwrap().unwrap().value, b"100");
        assert_eq!(drain(store, "n", 1).len(), 100);
    });
}

fn count_up(store: &dyn Store) -> bool {
    let old = store.get("n").unwrap();
    let revision = old.as_ref().map_or(0, |entry| entry.mod_revision);
    let number: u32 = old.map_or(0, |entry| String::from_utf8(entry.value).unwrap().parse().unwrap());
    let next = Txn::new().when(Compare::mod_revision("n", revision)).then(Op::put("n", (number + 1).to_string()));
    store.txn(next).unwrap().succeeded
}

/// The whole history as a list of worlds: slow, and obviously right.
#[derive(Default)]
struct Model {
    worlds: Vec<BTreeMap<String, Entry>>,
}

impl Model {
    fn now(&self) -> BTreeMap<String, Entry> {
        self.worlds.last().cloned().unwrap_or_default()
    }

    fn revision(&self) -> Revision {
        self.worlds.len() as Revision
    }

    fn holds(&self, compare: &Compare) -> bool {
        let now = self.now();
        match compare {
            Compare::ModRevision(key, 0) => !now.contains_key(key),
            Compare::ModRevision(key, revision) => now.get(key).is_some_and(|entry| entry.mod_revision == *revision),
            Compare::Value(key, value) => now.get(key).is_some_and(|entry| entry.value == *value),
        }
    }

    fn txn(&mut self, txn: &Txn) -> TxnOutcome {
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return TxnOutcome { succeeded: false, revision: self.revision() };
        }
        let (mut now, next) = (self.now(), self.revision() + 1);
        for op in &txn.then {
            match op {
                Op::Put(key, value) => {
                    let old = now.get(key);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: old.map_or(next, |old| old.create_revision),
                        mod_revision: next,
                        version: old.map_or(1, |old| old.version + 1),
                    };
                    now.insert(key.clone(), entry);
                }
                Op::Delete(key) => drop(now.remove(key)),
                Op::DeletePrefix(prefix) => now.retain(|key, _| !key.starts_with(prefix)),
            }
        }
        if now != self.now() {
            self.worlds.push(now);
        }
        TxnOutcome { succeeded: true, revision: self.revision() }
    }

    /// What changed at each revision, sorted by key.
    fn changes(&self, prefix: &str, from: Revision) -> Vec<Change> {
        let empty = BTreeMap::new();
        let before = std::iter::once(&empty).chain(&self.worlds);
        let steps = (1..).zip(before.zip(&self.worlds)).filter(|(revision, _)| *revision >= from);
        steps
            .map(|(revision, (old, new))| {
                let gone =
                    old.keys().filter(|key| !new.contains_key(*key)).map(|key| Event::Delete { key: key.clone() });
                let put = new.values().filter(|entry| entry.mod_revision == revision).cloned().map(Event::Put);
                let mut events: Vec<Event> = gone.chain(put).filter(|e| e.key().starts_with(prefix)).collect();
                events.sort_by(|a, b| a.key().cmp(b.key()));
                Change { revision, events }
            })
            .filter(|change| !change.events.is_empty())
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Txn(Txn),
    Range(String),
    Watch(String, Revision),
    Compact(Revision),
}

fn key() -> impl Strategy<Value = String> {
    "[ab]/[abc]{0,1}"
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..2, 0..2)
}

fn prefix() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[ab]", "[ab]/[abc]"]
}

fn txn() -> impl Strategy<Value = Txn> {
    let compare = prop_oneof![
        (key(), 0_u64..8).prop_map(|(key, revision)| Compare::ModRevision(key, revision)),
        (key(), value()).prop_map(|(key, value)| Compare::Value(key, value)),
    ];
    let op = prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Op::Put(key, value)),
        1 => key().prop_map(Op::Delete),
        1 => prefix().prop_map(Op::DeletePrefix),
    ];
    (prop::collection::vec(compare, 0..2), prop::collection::vec(op, 0..4))
        .prop_map(|(compares, then)| Txn { compares, then })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => txn().prop_map(Step::Txn),
        2 => prefix().prop_map(Step::Range),
        2 => (prefix(), 0_u64..12).prop_map(|(prefix, from)| Step::Watch(prefix, from)),
        1 => (0_u64..12).prop_map(Step::Compact),
    ]
}

fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    changes.iter_mut().for_each(|change| change.events.sort_by(|a, b| a.key().cmp(b.key())));
    changes
}

fn obeys_the_model(store: &dyn Store, steps: &[Step]) {
    let (mut model, mut oldest) = (Model::default(), 0);
    for step in steps {
        match step {
            Step::Txn(txn) => match store.txn(txn.clone()) {
                Ok(outcome) => assert_eq!(outcome, model.txn(txn)),
                Err(error) => assert!(matches!(error, StoreError::DuplicateKey { .. }), "{error}"),
            },
            Step::Range(prefix) => {
                let entries = model.now().into_values().filter(|entry| entry.key.starts_with(prefix)).collect();
                assert_eq!(store.range(prefix).unwrap(), Snapshot { revision: model.revision(), entries });
            }
            Step::Watch(prefix, from) if (*from).max(1) >= oldest => {
                assert_eq!(sorted(drain(store, prefix, *from)), model.changes(prefix, *from));
            }
            Step::Watch(prefix, from) => {
                assert!(matches!(store.watch(prefix, *from), Err(StoreError::Compacted { .. })));
            }
            Step::Compact(revision) => {
                let known = *revision <= model.revision();
                assert_eq!(store.compact(*revision).is_ok(), known);
                oldest = if known { oldest.max(*revision) } else { oldest };
            }
        }
    }
    for (key, entry) in model.now() {
        assert_eq!(store.get(&key).unwrap(), Some(entry));
    }
    assert_eq!(store.revision().unwrap(), model.revision());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_store_obeys_the_model(steps in prop::collection::vec(step(), 0..24)) {
        each(|store| obeys_the_model(store, &steps));
    }
}
