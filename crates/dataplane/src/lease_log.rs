//! Leases on disk: one JSON record a line, appended and made durable before a client hears of its lease.
//!
//! A thread of its own waits for the disk, so that no frame does. A tail that a kill tore off is cut away at
//! the next start; the file is written anew when it has grown to many times what it says.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use weft_services::{LeaseRecord, PersistRequest};

use crate::state_dir::{replace, sync_folder_of};

/// How long a disk that refused gets before it is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The log may grow by so many bytes before it is compacted.
const GROWTH_BYTES: u64 = 256 << 10;

/// What the disk's thread has to do.
enum Order {
    Append(PersistRequest),
    Compact(Vec<LeaseRecord>),
}

/// What it says.
#[derive(Debug)]
pub(crate) enum Report {
    /// The request is durable.
    Durable { token: u64, wants_compaction: bool },
    /// The disk refused, and will be asked again.
    Refused(String),
}

/// The worker's handle of the log.
pub(crate) struct LeaseLog {
    orders: Option<Sender<Order>>,
    reports: Receiver<Report>,
    doorbell: Arc<OwnedFd>,
    writer: Option<JoinHandle<()>>,
}

impl LeaseLog {
    /// Opens the log, or makes it, and reads what it says, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Vec<LeaseRecord>)> {
        let (log, records) = Log::open(path)?;
        let doorbell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (orders, inbox) = channel();
        let (outbox, reports) = channel();
        let bell = doorbell.clone();
        let writer = thread::Builder::new().name("leases".into()).stack_size(256 << 10).spawn(move || {
            write_all(log, &inbox, |report| {
                let sent = outbox.send(report).is_ok();
                let _ = rustix::io::write(&*bell, &1u64.to_ne_bytes());
                sent
            });
        })?;
        Ok((Self { orders: Some(orders), reports, doorbell, writer: Some(writer) }, records))
    }

    /// Begins to make a request durable; [`Self::poll`] tells when it is.
    pub(crate) fn append(&self, request: PersistRequest) {
        self.order(Order::Append(request));
    }

    /// Begins to write the log anew, with `records` only.
    pub(crate) fn compact(&self, records: Vec<LeaseRecord>) {
        self.order(Order::Compact(records));
    }

    /// The next report, if there is one. [`Self::as_fd`] is readable while there may be.
    pub(crate) fn poll(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    /// Acknowledges the wake-up.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::read(&*self.doorbell, &mut [0; 8]);
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
    }
}

impl AsFd for LeaseLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}

impl Drop for LeaseLog {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// The writer's thread: each order until it is done, or until nobody waits for it any more.
fn write_all(mut log: Log, orders: &Receiver<Order>, report: impl Fn(Report) -> bool) {
    while let Ok(order) = orders.recv() {
        let (token, lines) = match &order {
            Order::Append(request) => (Some(request.token), to_lines(&request.records)),
            Order::Compact(records) => (None, to_lines(records)),
        };
        loop {
            let result = if token.is_some() { log.append(&lines) } else { log.compact(&lines) };
            match (result, token) {
                (Ok(()), Some(token)) => {
                    report(Report::Durable { token, wants_compaction: log.wants_compaction() });
                    break;
                }
                (Ok(()), None) => break,
                (Err(error), _) => {
                    let closed = matches!(orders.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
                    if closed || !report(Report::Refused(format!("leases cannot be written: {error}"))) {
                        return;
                    }
                    thread::sleep(RETRY_AFTER);
                }
            }
        }
    }
}

/// The file.
struct Log {
    path: PathBuf,
    file: File,
    /// Bytes that are known to be whole lines on the disk.
    len: u64,
    /// The length after the last compaction.
    compacted_len: u64,
    /// A write failed: something may stand behind `len`.
    is_dirty: bool,
}

impl Log {
    fn open(path: &Path) -> io::Result<(Self, Vec<LeaseRecord>)> {
        let mut file = open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // What stands behind the last end of line was torn off in the middle of a write.
        let len = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let lines = bytes[..len].split(|&byte| byte == b'\n');
        let records = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let len = len as u64;
        file.set_len(len)?;
        file.seek(SeekFrom::Start(len))?;
        sync_folder_of(path)?; // a file that nobody finds after a power cut is not durable
        Ok((Self { path: path.to_owned(), file, len, compacted_len: 0, is_dirty: false }, records))
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if std::mem::replace(&mut self.is_dirty, true) {
            // Whatever a failed write left behind goes first.
            self.file.set_len(self.len)?;
            self.file.seek(SeekFrom::Start(self.len))?;
        }
        self.file.write_all(lines)?;
        self.file.sync_data()?;
        self.len += lines.len() as u64;
        self.is_dirty = false;
        Ok(())
    }

    fn compact(&mut self, lines: &[u8]) -> io::Result<()> {
        replace(&self.path, lines)?;
        self.is_dirty = true; // until the new file is open, where nothing is behind its end
        self.file = open(&self.path)?;
        self.len = lines.len() as u64;
        self.compacted_len = self.len;
        Ok(())
    }

    fn wants_compaction(&self) -> bool {
        self.len > 2 * self.compacted_len + GROWTH_BYTES
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn to_lines(records: &[LeaseRecord]) -> Vec<u8> {
    let mut lines = Vec::new();
    for record in records {
        // A record has no part that JSON lacks.
        if serde_json::to_writer(&mut lines, record).is_ok() {
            lines.push(b'\n');
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use weft_services::LeaseState;
    use weft_testkit::mac;

    use super::*;

    fn record(last: u8, expires_unix_s: u64) -> LeaseRecord {
        LeaseRecord {
            network: "office".parse().unwrap(),
            ip: [10, 0, 0, last].into(),
            mac: mac(last),
            state: LeaseState::Held,
            expires_unix_s,
            client_name: Some("tester \"x\"\n".into()),
        }
    }

    fn wait_for_durable(log: &LeaseLog, wanted: u64) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            match log.poll() {
                Some(Report::Durable { token, .. }) if token == wanted => return,
                Some(other) => panic!("{other:?}"),
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("request {wanted} never became durable");
    }

    #[test]
    fn what_was_reported_durable_is_there_whatever_was_torn_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.jsonl");
        let (log, records) = LeaseLog::open(&path).unwrap();
        assert!(records.is_empty());
        log.append(PersistRequest { token: 1, records: vec![record(1, 100), record(2, 100)] });
        wait_for_durable(&log, 1);
        log.append(PersistRequest { token: 2, records: vec![record(3, 100)] });
        wait_for_durable(&log, 2);
        drop(log);

        let whole = fs::read(&path).unwrap();
        let third_starts = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
        for torn in 0..=whole.len() {
            fs::write(&path, &whole[..torn]).unwrap();
            let (_, records) = Log::open(&path).unwrap();
            let expected = whole[..torn].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(records.len(), expected, "torn at {torn}");
            assert!(torn < whole.len() || records == [record(1, 100), record(2, 100), record(3, 100)]);
        }
        // Zeros, as a file system may leave them behind, and a line of another time.
        fs::write(&path, [&whole[..third_starts], b"{\"old\":1}\n", &[0; 100]].concat()).unwrap();
        let (mut log, records) = Log::open(&path).unwrap();
        assert_eq!(records.len(), 2);
        log.append(&to_lines(&[record(4, 1)])).unwrap();
        assert_eq!(Log::open(&path).unwrap().1, [record(1, 100), record(2, 100), record(4, 1)]);
    }

    #[test]
    fn compaction_keeps_what_it_was_told_to_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.jsonl");
        let (log, _) = LeaseLog::open(&path).unwrap();
        let many = (0..4000).map(|expires| record(1, expires)).collect();
        log.append(PersistRequest { token: 1, records: many });
        let wants = loop {
            if let Some(Report::Durable { wants_compaction, .. }) = log.poll() {
                break wants_compaction;
            }
            thread::sleep(Duration::from_millis(1));
        };
        assert!(wants);
        log.compact(vec![record(1, 3999)]);
        log.append(PersistRequest { token: 2, records: vec![record(2, 5)] });
        wait_for_durable(&log, 2);
        drop(log);
        assert_eq!(LeaseLog::open(&path).unwrap().1, [record(1, 3999), record(2, 5)]);
    }
}
