//! The way to the daemon, which is started if none answers.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use weft_api::{About, Client, ClientError};
use weft_control::Paths;
use weft_model::view::ProblemView;

use crate::descriptors;
use crate::failure::{Failure, Result};
use crate::output::{self, Style};

/// How long a new daemon may take until it answers.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is tried.
const INTERVAL: Duration = Duration::from_millis(5);
/// How often a connection may break before we give up.
const MAX_BREAKS: usize = 5;
/// How large the daemon's log may be when it is continued, in bytes.
const MAX_LOG_BYTES: u64 = 4 << 20;
/// How much of the log's end an error quotes, in bytes and lines.
const QUOTED: (u64, usize) = (4096, 8);

/// A connection to the daemon. While it lives, the daemon does.
#[derive(Debug)]
pub(crate) struct Link {
    paths: Paths,
    client: Client,
}

impl Link {
    /// Connects to the daemon if one answers; starts none.
    pub(crate) async fn to_running(paths: &Paths) -> Option<Self> {
        Client::connect(&paths.daemon_socket()).await.ok().map(|client| Self::over(paths, client))
    }

    /// Connects to the daemon, which is started if none answers.
    pub(crate) async fn open(paths: &Paths) -> Result<Self> {
        connect(paths).await.map(|client| Self::over(paths, client))
    }

    fn over(paths: &Paths, client: Client) -> Self {
        let About { version, pid } = client.about();
        if version != env!("CARGO_PKG_VERSION") {
            let note = Style::Warning.paint("note");
            output::say(format!(
                "{note}: the daemon that runs is version {version}; `kill {pid}` lets this version's take over"
            ));
        }
        Self { paths: paths.clone(), client }
    }

    /// The client itself, for streams.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Asks the daemon. One that has been killed meanwhile is replaced and asked again, so the request must bear that.
    pub(crate) async fn ask<T>(&mut self, ask: impl AsyncFn(&Client) -> Result<T, ClientError>) -> Result<T> {
        for _ in 0..MAX_BREAKS {
            match ask(&self.client).await {
                Err(error) if error.is_connection() => self.client = connect(&self.paths).await?,
                answer => return Ok(answer?),
            }
        }
        Ok(ask(&self.client).await?)
    }
}

/// Connects to the daemon, which is started if none answers.
async fn connect(paths: &Paths) -> Result<Client> {
    let deadline = Instant::now() + PATIENCE;
    let mut started: Option<Started> = None;
    loop {
        match Client::connect(&paths.daemon_socket()).await {
            Err(error) if error.is_connection() && Instant::now() < deadline => {}
            Err(error) if error.is_connection() => return Err(silent(paths, &error)),
            connected => return Ok(connected?),
        }
        started = match started {
            None => Some(Started::begin(paths)?),
            // One that ends in good order has met another one, which may be about to end.
            Some(mut started) => started.runs(paths)?.then_some(started),
        };
        sleep(INTERVAL).await;
    }
}

fn silent(paths: &Paths, error: &ClientError) -> Failure {
    let detail = error.problems().into_iter().find_map(|problem| problem.detail);
    let owner = fs::read_to_string(paths.daemon_lock()).unwrap_or_default();
    let hint = match owner.trim() {
        "" => format!("see {}", paths.daemon_log().display()),
        pid => format!("end it (kill {pid}; no machine stops) and try again; see {}", paths.daemon_log().display()),
    };
    let title = format!("the daemon does not answer within {} s", PATIENCE.as_secs());
    Failure::Problems(vec![ProblemView {
        code: "daemon-silent".to_owned(),
        title,
        detail,
        hint: Some(hint),
        provenance: None,
    }])
}

/// A daemon that we have started.
struct Started {
    child: Child,
    /// How long the log was before.
    log_bytes: u64,
}

impl Started {
    fn begin(paths: &Paths) -> Result<Self> {
        paths.create()?;
        let cannot = |what: &str, error: std::io::Error| {
            let title = format!("cannot start the daemon: {what}: {error}");
            Failure::new("daemon-start", title, "check the owner of the folder, and that its disk is not full")
        };
        let path = paths.daemon_log();
        let opened = File::options().create(true).append(true).mode(0o600).open(&path);
        let log = opened.map_err(|error| cannot(&path.display().to_string(), error))?;
        let mut log_bytes = log.metadata().map_or(0, |metadata| metadata.len());
        if log_bytes > MAX_LOG_BYTES && log.set_len(0).is_ok() {
            log_bytes = 0;
        }
        let copy = log.try_clone().map_err(|error| cannot("its log", error))?;
        let exe = std::env::current_exe().map_err(|error| cannot("this program", error))?;
        descriptors::keep_to_ourselves();
        let child = Command::new(&exe)
            .arg("daemon")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy)
            .spawn()
            .map_err(|error| cannot(&exe.display().to_string(), error))?;
        Ok(Self { child, log_bytes })
    }

    /// Whether it still runs; an error if it has ended with one.
    fn runs(&mut self, paths: &Paths) -> Result<bool> {
        match self.child.try_wait() {
            Ok(Some(status)) if !status.success() => {
                let title = format!("the daemon ended as soon as it was started ({status})");
                Err(Failure::Problems(vec![ProblemView {
                    code: "daemon-start".to_owned(),
                    title,
                    detail: Some(self.said(paths)).filter(|said| !said.is_empty()),
                    hint: Some(format!("see {}", paths.daemon_log().display())),
                    provenance: None,
                }]))
            }
            Ok(ended) => Ok(ended.is_none()),
            Err(_) => Ok(true),
        }
    }

    /// The last that it has said.
    fn said(&self, paths: &Paths) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(paths.daemon_log())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.log_bytes.max(length.saturating_sub(QUOTED.0))))?;
            let mut bytes = Vec::new();
            file.take(QUOTED.0).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(QUOTED.1)..].join("\n")
    }
}
