//! What only a file can suffer: kills, strangers, damage.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use weft_store::{Compare, Op, SqliteStore, Store, StoreError, Txn};

const WRITER: &str = "WEFT_STORE_TEST_FILE";

/// The other half of the next test: writes until it is killed, and says each revision once it is acknowledged.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(WRITER) else { return };
    let store = SqliteStore::open(path).unwrap();
    let mut out = std::io::stdout();
    for n in store.revision().unwrap() + 1.. {
        let txn = Txn::new().then(Op::put(format!("a/{n}"), "x".repeat(500))).then(Op::put("b", n.to_string()));
        let revision = store.txn(txn).unwrap().revision;
        writeln!(out, "acknowledged {revision}").unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    for round in 1..=4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
            .env(WRITER, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // The test harness may put its own words before the first line.
        let mut acknowledged =
            lines.filter_map(|line| Some(line.split_once("acknowledged ")?.1.parse::<u64>().unwrap()));
        let mut last = acknowledged.by_ref().take(25 * round).last().expect("the writer writes");
        child.kill().unwrap();
        last = acknowledged.last().unwrap_or(last);
        child.wait().unwrap();

        let store = SqliteStore::open(&path).unwrap();
        let snapshot = store.range("a/").unwrap();
        assert!(snapshot.revision >= last, "revision {last} was acknowledged, {} is there", snapshot.revision);
        assert_eq!(snapshot.entries.len() as u64, snapshot.revision, "every revision is whole");
        assert_eq!(store.get("b").unwrap().unwrap().value, snapshot.revision.to_string().into_bytes());
        let changes: Vec<u64> = {
            let mut watch = store.watch("", 1).unwrap();
            std::iter::from_fn(|| watch.try_recv().unwrap()).map(|change| change.revision).collect()
        };
        assert_eq!(changes, (1..=snapshot.revision).collect::<Vec<_>>(), "history has no gaps");
    }
}

#[test]
fn it_is_all_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    SqliteStore::open(&path).unwrap().put("a", "1").unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others may not read it");
    let store = SqliteStore::open(&path).unwrap();
    store.put("a", "2").unwrap();
    store.compact(2).unwrap();
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.get("a").unwrap().unwrap().version, 2);
    assert!(matches!(store.watch("", 1), Err(StoreError::Compacted { oldest: 2, .. })));
}

#[test]
fn two_processes_never_lose_a_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let (one, two) = (SqliteStore::open(&path).unwrap(), SqliteStore::open(&path).unwrap());
    assert_eq!(one.put("a", "1").unwrap(), 1);
    assert_eq!(two.put("b", "2").unwrap(), 2);
    assert!(!one.txn(Txn::new().when(Compare::absent("b")).then(Op::put("b", "3"))).unwrap().succeeded);
    let mut watch = one.watch("", 3).unwrap();
    two.put("c", "3").unwrap();
    assert_eq!(watch.recv_timeout(Duration::from_millis(1)).unwrap().unwrap().revision, 3);
}

/// Opens `path`, which holds `bytes`; says how it failed and checks that nothing was changed.
fn refused(path: &Path, bytes: &[u8]) -> StoreError {
    fs::write(path, bytes).unwrap();
    let error = SqliteStore::open(path).map(drop).unwrap_err();
    assert_eq!(fs::read(path).unwrap(), bytes, "a file that is refused is left alone");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(!error.hint().is_empty());
    error
}

#[test]
fn strangers_and_damage_are_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    assert!(matches!(refused(&path, b"[network.office]\nmode = \"nat\"\n"), StoreError::Foreign { .. }));
    assert!(matches!(refused(&path, &[0xA5; 70_000]), StoreError::Foreign { .. }));

    let other = folder.path().join("other.db");
    let foreign = rusqlite::Connection::open(&other).unwrap();
    foreign.execute_batch("CREATE TABLE t (x); PRAGMA user_version = 1").unwrap();
    drop(foreign);
    assert!(matches!(refused(&path, &fs::read(&other).unwrap()), StoreError::Foreign { .. }));

    let own = folder.path().join("own.db");
    let store = SqliteStore::open(&own).unwrap();
    for n in 0..100 {
        store.put(&format!("{n}"), &"x".repeat(1000)).unwrap();
    }
    drop(store);
    let whole = fs::read(&own).unwrap();
    let mut broken = whole.clone();
    broken[4096..].fill(0xA5);
    assert!(matches!(refused(&path, &broken), StoreError::Corrupt { .. }));
    assert!(matches!(refused(&path, &whole[..whole.len() / 2]), StoreError::Corrupt { .. }));
    let mut newer = whole;
    newer[60..64].copy_from_slice(&9_u32.to_be_bytes());
    assert!(matches!(refused(&path, &newer), StoreError::Schema { found: 9, known: 1, .. }));
}

#[test]
fn a_missing_folder_and_a_folder_in_its_place_are_said() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("none/store.db"), folder.path().to_owned()] {
        let error = SqliteStore::open(&path).map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
    }
}
