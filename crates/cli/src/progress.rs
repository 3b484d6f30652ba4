//! Watching an operation until it has ended: a line for each thing that is done, and on a terminal one that says what is
//! going on now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use weft_api::{Client, ClientError};
use weft_model::view::{EventView, OperationState, OperationView};

use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output::{self, Style};
use crate::terminal;

/// How long one question waits for events.
const WAIT: Duration = Duration::from_secs(1);
/// How often the live line is drawn.
const TICK: Duration = Duration::from_millis(100);
/// How an interrupted command ends: 128 and SIGINT's number.
const INTERRUPTED: u8 = 130;

/// How an operation went.
#[derive(Debug)]
pub(crate) struct Course {
    /// How it ended.
    pub(crate) operation: OperationView,
    /// How long each machine took to be ready, by name.
    pub(crate) ready_after: BTreeMap<String, Duration>,
}

impl Course {
    /// The failure, if it was one.
    pub(crate) fn succeeded(self) -> Result<Self> {
        match self.operation.state {
            OperationState::Failed => Err(Failure::Problems(self.operation.problems)),
            _ => Ok(self),
        }
    }
}

/// Watches an operation until it has ended. `undo` says how to take it back, should it be interrupted.
///
/// # Errors
/// When the daemon is lost for good, or SIGINT comes: the daemon goes on then.
pub(crate) async fn watch(link: &mut Link, operation: OperationView, undo: &str) -> Result<Course> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Failure::of("signal", &error, ""))?;
    let mut screen = Screen::new();
    let mut tick = tokio::time::interval(TICK);
    let watched = follow(link, operation, &mut screen, &mut tick);
    let ended = tokio::select! {
        course = watched => Some(course),
        _ = interrupt.recv() => None,
    };
    screen.clear();
    ended.unwrap_or_else(|| {
        output::say("interrupted: the daemon goes on with it");
        output::say(format!("{}: `weft events -f` watches it, `{undo}` undoes it", Style::Hint.paint("hint")));
        Err(Failure::Told(INTERRUPTED))
    })
}

async fn follow(
    link: &mut Link,
    mut operation: OperationView,
    screen: &mut Screen,
    tick: &mut tokio::time::Interval,
) -> Result<Course> {
    let id = operation.id;
    let (mut after, mut ready_after) = (0, BTreeMap::new());
    let began_unix_ms = unix_ms().saturating_sub(WAIT.as_millis() as u64);
    while matches!(operation.state, OperationState::Waiting | OperationState::Running) {
        let (now, events) = {
            let asked = link.ask(async |client| look(client, id, after).await);
            tokio::pin!(asked);
            loop {
                tokio::select! {
                    answer = &mut asked => break answer?,
                    _ = tick.tick() => screen.draw(),
                }
            }
        };
        // Numbers of operations begin anew with a new store, but the history goes on.
        for event in events.iter().filter(|event| event.unix_ms >= began_unix_ms) {
            screen.tell(event);
            if let (Some(vm), Some(took)) = (&event.object, screen.ready_after(event)) {
                ready_after.insert(vm.clone(), took);
            }
        }
        after = events.last().map_or(after, |event| event.id);
        operation = now;
    }
    Ok(Course { operation, ready_after })
}

/// What has happened since event `after`, and how the operation stands now.
async fn look(client: &Client, id: u64, after: u64) -> Result<(OperationView, Vec<EventView>), ClientError> {
    let events = client.events(after, Some(id), WAIT).await?;
    // The end is told before it is seen; and no event must be relied on, for a full disk may have swallowed it.
    let ends = |event: &EventView| matches!(event.kind.as_str(), "operation-done" | "operation-failed");
    let wait = if events.iter().any(ends) { WAIT } else { Duration::ZERO };
    Ok((client.operation(id, wait).await?, events))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What is told of an operation.
struct Screen {
    began: Instant,
    live: bool,
    /// The steps that are being done, and the machines that are not ready yet.
    doing: BTreeSet<String>,
    /// When each machine's start began, in milliseconds since the Unix epoch.
    started: BTreeMap<String, u64>,
}

impl Screen {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            live: terminal::stderr_is_terminal(),
            doing: BTreeSet::new(),
            started: BTreeMap::new(),
        }
    }

    /// Takes an event in, and tells it if it is worth a line.
    fn tell(&mut self, event: &EventView) {
        let subject = event.message.split(':').next().unwrap_or_default().to_owned();
        let name = event.object.clone().unwrap_or_default();
        let starts = ["create", "update", "start"].iter().any(|verb| subject == format!("{verb} vm {name}"));
        let waits = format!("wait for {name}");
        let word = match event.kind.as_str() {
            "step-started" => {
                if starts {
                    self.started.insert(name, event.unix_ms);
                }
                self.doing.insert(subject);
                return;
            }
            "operation-started" | "operation-done" | "operation-failed" | "vm-started" => return,
            "step-done" => {
                self.doing.remove(&subject);
                if starts {
                    self.doing.insert(waits);
                }
                Style::Dim.paint("done")
            }
            "vm-ready" => {
                self.doing.remove(&waits);
                Style::Good.paint("ready")
            }
            "step-failed" | "vm-died" | "switch-died" | "switch-failed" => {
                self.doing.remove(&subject);
                self.doing.remove(&waits);
                Style::Error.paint("failed")
            }
            "step-skipped" => Style::Warning.paint("skipped"),
            _ => Style::Dim.paint("note"),
        };
        self.clear();
        let elapsed = self.began.elapsed().as_secs_f64();
        output::say(format!("{elapsed:>7.2} s  {word}  {}", output::printable(&event.message)));
        self.draw();
    }

    /// How long the machine took that this event says to be ready.
    fn ready_after(&self, event: &EventView) -> Option<Duration> {
        let started = *self.started.get(event.object.as_deref()?)?;
        (event.kind == "vm-ready").then(|| Duration::from_millis(event.unix_ms.saturating_sub(started)))
    }

    /// Draws what is going on, on a terminal.
    fn draw(&self) {
        if !self.live || self.doing.is_empty() {
            return;
        }
        let elapsed = self.began.elapsed().as_secs_f64();
        let doing: Vec<_> = self.doing.iter().collect();
        draw(&format!("{elapsed:>7.2} s  {} …", output::list(&doing)));
    }

    /// Takes the drawn line away.
    fn clear(&self) {
        if self.live {
            clear();
        }
    }
}

/// Draws the line on the terminal that says what is going on.
pub(crate) fn draw(line: &str) {
    let (_, columns) = terminal::size();
    let line: String = line.chars().take(usize::from(columns).saturating_sub(1)).collect();
    output::talk(&format!("\r\x1b[K{line}"));
}

/// Takes that line away.
pub(crate) fn clear() {
    output::talk("\r\x1b[K");
}
