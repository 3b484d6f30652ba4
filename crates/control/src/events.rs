//! The history: what happened, numbered without gaps, kept on disk within bounds, and told to whoever waits for more.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_model::view::EventView;

use crate::ControlError;

/// How many events are kept.
const MAX_EVENTS: usize = 4096;
/// How large the file grows before the older half of it is dropped, in bytes.
const MAX_FILE_BYTES: u64 = 2 << 20;
/// The longest line that is read back, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

/// The history of events.
pub(crate) struct EventLog {
    path: PathBuf,
    state: Mutex<State>,
    grown: Condvar,
}

struct State {
    events: VecDeque<EventView>,
    file: Option<File>,
    file_bytes: u64,
    closed: bool,
}

/// Something that happened, before it has a number and a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Happening {
    kind: &'static str,
    operation: Option<u64>,
    object: Option<(String, String)>,
    message: String,
}

impl Happening {
    /// Something of this kind, in a sentence.
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), ..Self::default() }
    }

    /// The operation that it belongs to.
    pub(crate) fn of(mut self, operation: impl Into<Option<u64>>) -> Self {
        self.operation = operation.into();
        self
    }

    /// The object that it happened to.
    pub(crate) fn to(mut self, kind: impl Into<String>, name: impl ToString) -> Self {
        self.object = Some((kind.into(), name.to_string()));
        self
    }
}

impl EventLog {
    /// Opens the history in `path`; what a crash has left of a last line is dropped.
    pub(crate) fn open(path: PathBuf) -> Result<Self, ControlError> {
        let events = read(&path).map_err(|source| ControlError::Io { action: "read", path: path.clone(), source })?;
        let mut state = State { events, file: None, file_bytes: 0, closed: false };
        // Writing it anew ends a torn line and drops what is beyond the bounds; a full disk leaves it as it is.
        if let Err(error) = state.rewrite(&path) {
            tracing::warn!(path = %path.display(), %error, "the history of events cannot be written");
        }
        Ok(Self { path, state: Mutex::new(state), grown: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event.
    pub(crate) fn add(&self, unix_ms: u64, happening: Happening) {
        let mut state = self.lock();
        let (object_kind, object) = happening.object.unzip();
        let event = EventView {
            id: state.events.back().map_or(0, |event| event.id) + 1,
            unix_ms,
            kind: happening.kind.to_owned(),
            operation: happening.operation,
            object_kind,
            object,
            message: happening.message,
        };
        tracing::info!(target: "weft::event", kind = event.kind, operation = event.operation, "{}", event.message);
        let written = state.append(&event);
        state.events.push_back(event);
        if state.events.len() > MAX_EVENTS {
            state.events.pop_front();
        }
        // What could not be written is only in memory; the next rewrite, when there is room again, catches up.
        if written.is_err() || state.file_bytes > MAX_FILE_BYTES {
            let keep = state.events.len() / 2;
            if state.file_bytes > MAX_FILE_BYTES {
                let drop = state.events.len() - keep;
                state.events.drain(..drop);
            }
            let _ = state.rewrite(&self.path);
        }
        self.grown.notify_all();
    }

    /// The events after number `after`, of one operation if given; waits up to `wait` until there is one.
    pub(crate) fn after(&self, after: u64, operation: Option<u64>, wait: Duration) -> Vec<EventView> {
        let deadline = Instant::now().checked_add(wait);
        let mut state = self.lock();
        loop {
            let first = state.events.partition_point(|event| event.id <= after);
            let wanted = |event: &&EventView| operation.is_none() || event.operation == operation;
            let found: Vec<_> = state.events.range(first..).filter(wanted).cloned().collect();
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if !found.is_empty() || left.is_zero() || state.closed {
                return found;
            }
            state = self
                .grown
                .wait_timeout(state, left.min(Duration::from_secs(3600)))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Lets nobody wait any longer.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.grown.notify_all();
    }
}

impl State {
    fn append(&mut self, event: &EventView) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let written = file.write_all(&line);
        self.file_bytes += line.len() as u64;
        if written.is_err() {
            self.file = None; // a torn line must not be continued
        }
        written
    }

    /// Writes the whole history as a new file, and puts it in the old one's place.
    fn rewrite(&mut self, path: &Path) -> io::Result<()> {
        self.file = None;
        let draft = path.with_extension("new");
        let mut bytes = Vec::new();
        for event in &self.events {
            serde_json::to_writer(&mut bytes, event)?;
            bytes.push(b'\n');
        }
        let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&bytes)?;
        fs::rename(&draft, path)?;
        self.file = Some(file);
        self.file_bytes = bytes.len() as u64;
        Ok(())
    }
}

/// The last events of a file; damaged lines are skipped, and what follows a gap counts.
fn read(path: &Path) -> io::Result<VecDeque<EventView>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(VecDeque::new()),
        file => file?,
    };
    let mut events: VecDeque<EventView> = VecDeque::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        if line.len() > MAX_LINE_BYTES {
            continue;
        }
        let Ok(event) = serde_json::from_slice::<EventView>(&line) else { continue };
        if events.back().is_some_and(|last| event.id <= last.id) {
            continue;
        }
        events.push_back(event);
        if events.len() > MAX_EVENTS {
            events.pop_front();
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(log: &EventLog, after: u64, operation: Option<u64>) -> Vec<u64> {
        log.after(after, operation, Duration::ZERO).iter().map(|event| event.id).collect()
    }

    #[test]
    fn numbers_go_on_after_a_restart_and_a_torn_line_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let log = EventLog::open(path.clone()).unwrap();
        for operation in [Some(7), None, Some(7)] {
            log.add(1, Happening::new("step-done", "it is done").of(operation).to("vm", "web"));
        }
        assert_eq!(ids(&log, 0, None), [1, 2, 3]);
        assert_eq!(ids(&log, 1, Some(7)), [3]);
        drop(log);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"id\":4,\"unix").unwrap();
        let log = EventLog::open(path).unwrap();
        log.add(2, Happening::new("step-done", "it goes on"));
        assert_eq!(ids(&log, 2, None), [3, 4]);
    }

    #[test]
    fn the_history_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let log = EventLog::open(path.clone()).unwrap();
        for _ in 0..6000 {
            log.add(1, Happening::new("step-done", "x".repeat(500)));
        }
        assert!(log.lock().events.len() <= MAX_EVENTS);
        assert!(fs::metadata(&path).unwrap().len() <= MAX_FILE_BYTES + 1000);
        drop(log);
        assert_eq!(EventLog::open(path).unwrap().lock().events.back().map(|event| event.id), Some(6000));
    }

    #[test]
    fn who_waits_is_woken() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path().join("events.jsonl")).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| log.after(0, None, Duration::from_secs(60)));
            log.add(1, Happening::new("vm-ready", "web is ready"));
            assert_eq!(waiter.join().unwrap().len(), 1);
            let waiter = scope.spawn(|| log.after(1, None, Duration::from_secs(60)));
            log.close();
            assert_eq!(waiter.join().unwrap(), []);
        });
    }
}
