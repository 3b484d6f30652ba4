//! The typed client.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use weft_model::World;
use weft_model::view::{
    AclView, ApplyRequest, EventView, ForwardRequest, HistoryView, ImageView, OperationView, PlanView, ProblemView,
    ShellRequest, WorldView,
};
use weft_types::{Listen, VmName};

use crate::message::{EventsQuery, LogQuery, OwnerQuery, StopQuery, WaitQuery};
use crate::tunnel::{CAPTURE, CONSOLE, EXEC, SCREEN, Tunnel};
use crate::{About, CaptureBody, ExecBody, ExplainBody, ExplanationView, Problem};

/// How long a daemon may take to answer who it is.
const GREETING_PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes; streams are not answers.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens.
    #[error("cannot reach the daemon at `{}`", socket.display())]
    Unreachable {
        /// Where it should listen.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon went away, or does not answer, in the middle of a request.
    #[error("the connection to the daemon broke")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The daemon says no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The daemon answers something that this client does not understand.
    #[error("the daemon's answer is not understood")]
    Nonsense(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the daemon says when it says no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.title)]
pub struct Refused(pub Problem);

impl ClientError {
    /// Whether another try, perhaps with a new daemon, may help.
    pub fn is_connection(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost(_))
    }

    /// The problems, as the API shows them.
    pub fn problems(&self) -> Vec<ProblemView> {
        let code = match self {
            Self::Refused(Refused(problem)) => return problem.problems.clone(),
            Self::Unreachable { .. } => "daemon-unreachable",
            Self::Lost(_) => "daemon-lost",
            Self::Nonsense(_) => "daemon-nonsense",
        };
        let hint = match self {
            Self::Nonsense(_) => "is another version's daemon running? end it (SIGTERM stops no machine) and try again",
            _ => "try again; daemon.log in the state folder says more",
        };
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        let detail = causes.map(ToString::to_string).collect::<Vec<_>>().join("\n");
        vec![ProblemView {
            code: code.to_owned(),
            title: self.to_string(),
            detail: Some(detail).filter(|detail| !detail.is_empty()),
            hint: Some(hint.to_owned()),
            provenance: None,
        }]
    }

    fn lost(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Lost(error.into())
    }

    fn nonsense(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Nonsense(error.into())
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// A connection to the daemon, which stays as long as the connection does. Streams get connections of their own.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    about: About,
    sender: Mutex<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Connects to the daemon at `socket`, and hears who it is.
    ///
    /// # Errors
    /// When none listens there, or it does not answer.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let greet = async {
            let mut sender = open(socket).await?;
            let answer = sender.send_request(request(Method::GET, "/v1", Bytes::new())?).await;
            let about = read(answer.map_err(ClientError::lost)?).await?;
            Ok(Self { socket: socket.to_owned(), about, sender: Mutex::new(sender) })
        };
        tokio::time::timeout(GREETING_PATIENCE, greet).await.map_err(ClientError::lost)?
    }

    /// Who answers.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Everything at once.
    pub async fn world(&self) -> Result<WorldView> {
        self.get("/v1/world").await
    }

    /// The access lists in force.
    pub async fn rules(&self) -> Result<Vec<AclView>> {
        self.get("/v1/rules").await
    }

    /// What the switch decided lately.
    pub async fn history(&self) -> Result<HistoryView> {
        self.get("/v1/history").await
    }

    /// Captures frames; the stream is pcapng.
    pub async fn capture(&self, body: &CaptureBody) -> Result<Tunnel> {
        let body = serde_json::to_vec(body).map_err(ClientError::nonsense)?;
        upgrade(&self.socket, CAPTURE, "/v1/capture", body.into()).await
    }

    /// What [`Self::apply`] would do.
    pub async fn plan(&self, request: &ApplyRequest) -> Result<PlanView> {
        self.send(Method::POST, "/v1/plan", request).await
    }

    /// Makes the owner's objects become the request's world; the operation that does it.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<OperationView> {
        self.send(Method::PUT, "/v1/world", request).await
    }

    /// What an owner's world was before it was changed last.
    pub async fn world_before(&self, owner: &str) -> Result<World> {
        self.get(&with_query("/v1/world/before", &OwnerQuery { owner: owner.to_owned() })?).await
    }

    /// Has an owner's machines come back when the host does.
    pub async fn enable(&self, owner: &str) -> Result<()> {
        self.set_enabled(Method::PUT, owner).await
    }

    /// Has them come back no more.
    pub async fn disable(&self, owner: &str) -> Result<()> {
        self.set_enabled(Method::DELETE, owner).await
    }

    async fn set_enabled(&self, method: Method, owner: &str) -> Result<()> {
        let path = with_query("/v1/world/enabled", &OwnerQuery { owner: owner.to_owned() })?;
        let answer = self.answer(request(method, &path, Bytes::new())?).await?;
        succeeded(answer).await.map(drop)
    }

    /// Shuts all machines down, because the host goes down; the operation that does it.
    pub async fn halt(&self) -> Result<OperationView> {
        self.send(Method::POST, "/v1/host/halt", &()).await
    }

    /// Starts those that went down with the host and are to come back; the operation that does it.
    pub async fn boot(&self) -> Result<OperationView> {
        self.send(Method::POST, "/v1/host/boot", &()).await
    }

    /// Adds a port forward; the operation that does it.
    pub async fn add_forward(&self, request: &ForwardRequest) -> Result<OperationView> {
        self.send(Method::POST, "/v1/forwards", request).await
    }

    /// Asks for a shell's place on a network; the operation that makes it.
    pub async fn add_shell(&self, request: &ShellRequest) -> Result<OperationView> {
        self.send(Method::POST, "/v1/shells", request).await
    }

    /// Takes a shell's place on its network away; the operation that does it.
    pub async fn remove_shell(&self, name: &VmName) -> Result<OperationView> {
        self.send(Method::DELETE, &format!("/v1/shells/{name}"), &()).await
    }

    /// Removes a port forward that a command has added; the operation that does it.
    pub async fn remove_forward(&self, listen: &Listen) -> Result<OperationView> {
        self.send(Method::DELETE, &format!("/v1/forwards/{}", segment(&listen.to_string())), &()).await
    }

    /// Lets a machine run again.
    pub async fn start(&self, vm: &VmName) -> Result<OperationView> {
        self.send(Method::POST, &format!("/v1/vms/{vm}/start"), &()).await
    }

    /// Ends a machine, and keeps its disk; `force`: without asking the guest.
    pub async fn stop(&self, vm: &VmName, force: bool) -> Result<OperationView> {
        self.send(Method::POST, &with_query(&format!("/v1/vms/{vm}/stop"), &StopQuery { force })?, &()).await
    }

    /// Ends a machine and starts it.
    pub async fn restart(&self, vm: &VmName) -> Result<OperationView> {
        self.send(Method::POST, &format!("/v1/vms/{vm}/restart"), &()).await
    }

    /// Ends a machine and forgets its disk.
    pub async fn remove(&self, vm: &VmName) -> Result<OperationView> {
        self.send(Method::DELETE, &format!("/v1/vms/{vm}"), &()).await
    }

    /// An operation when it has ended, or how far it is after `wait`.
    pub async fn operation(&self, id: u64, wait: Duration) -> Result<OperationView> {
        let query = WaitQuery { wait_ms: millis(wait) };
        self.get(&with_query(&format!("/v1/operations/{id}"), &query)?).await
    }

    /// The events after number `after`, of one operation if given; waits up to `wait` for the first.
    pub async fn events(&self, after: u64, operation: Option<u64>, wait: Duration) -> Result<Vec<EventView>> {
        self.get(&with_query("/v1/events", &EventsQuery { after, operation, wait_ms: millis(wait) })?).await
    }

    /// The images.
    pub async fn images(&self) -> Result<Vec<ImageView>> {
        self.get("/v1/images").await
    }

    /// Builds an image if it is not there; the operation that does it.
    pub async fn build_image(&self, name: &str) -> Result<OperationView> {
        self.send(Method::POST, &format!("/v1/images/{}/build", segment(name)), &()).await
    }

    /// Removes an image from the cache.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let path = format!("/v1/images/{}", segment(name));
        let answer = self.answer(request(Method::DELETE, &path, Bytes::new())?).await?;
        succeeded(answer).await.map(drop)
    }

    /// What the switch would do with a frame.
    pub async fn explain(&self, body: &ExplainBody) -> Result<ExplanationView> {
        self.send(Method::POST, "/v1/explain", body).await
    }

    /// Runs a command in a machine; the stream speaks [`weft_agent::session`] frames.
    pub async fn exec(&self, vm: &VmName, body: &ExecBody) -> Result<Tunnel> {
        let body = serde_json::to_vec(body).map_err(ClientError::nonsense)?;
        upgrade(&self.socket, EXEC, &format!("/v1/vms/{vm}/exec"), body.into()).await
    }

    /// A machine's serial console.
    pub async fn console(&self, vm: &VmName) -> Result<Tunnel> {
        upgrade(&self.socket, CONSOLE, &format!("/v1/vms/{vm}/console"), Bytes::new()).await
    }

    /// A machine's screen; the stream speaks VNC (RFC 6143).
    pub async fn screen(&self, vm: &VmName) -> Result<Tunnel> {
        upgrade(&self.socket, SCREEN, &format!("/v1/vms/{vm}/screen"), Bytes::new()).await
    }

    /// A picture of a machine's screen, as PNG.
    pub async fn screenshot(&self, vm: &VmName) -> Result<Bytes> {
        let path = format!("/v1/vms/{vm}/screen");
        collect(succeeded(self.answer(request(Method::GET, &path, Bytes::new())?).await?).await?).await
    }

    /// What a machine's console has said.
    pub async fn log(&self, vm: &VmName, query: LogQuery) -> Result<LogStream> {
        let mut sender = open(&self.socket).await?;
        let path = with_query(&format!("/v1/vms/{vm}/log"), &query)?;
        let answer = sender.send_request(request(Method::GET, &path, Bytes::new())?).await;
        let body = succeeded(answer.map_err(ClientError::lost)?).await?.into_body();
        Ok(LogStream { body, _sender: sender })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(self.answer(request(Method::GET, path, Bytes::new())?).await?).await
    }

    async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(ClientError::nonsense)?;
        read(self.answer(request(method, path, body.into())?).await?).await
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let mut sender = self.sender.lock().await;
        sender.ready().await.map_err(ClientError::lost)?;
        sender.send_request(request).await.map_err(ClientError::lost)
    }
}

/// A log that is being read.
#[derive(Debug)]
pub struct LogStream {
    body: Incoming,
    /// The connection ends with it.
    _sender: SendRequest<Full<Bytes>>,
}

impl LogStream {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(piece) = frame.map_err(ClientError::lost)?.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

/// Asks for a stream over a connection of its own.
pub(crate) async fn upgrade(socket: &Path, protocol: &'static str, path: &str, body: Bytes) -> Result<Tunnel> {
    let mut sender = open(socket).await?;
    let mut request = request(Method::POST, path, body)?;
    request.headers_mut().insert(CONNECTION, hyper::header::HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(UPGRADE, hyper::header::HeaderValue::from_static(protocol));
    let answer = sender.send_request(request).await.map_err(ClientError::lost)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = answer.status();
        succeeded(answer).await?;
        return Err(ClientError::nonsense(format!("{status} where a stream should begin")));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(ClientError::lost)?;
    Tunnel::new(upgraded).map_err(ClientError::lost)
}

/// Opens a connection, which is driven by a task of its own.
async fn open(socket: &Path) -> Result<SendRequest<Full<Bytes>>> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|source| ClientError::Unreachable { socket: socket.to_owned(), source })?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::lost)?;
    tokio::spawn(async move {
        // How it ends is told to whoever waits for an answer.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "weft")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body));
    request.map_err(ClientError::nonsense)
}

/// An answer that is no problem.
async fn succeeded(answer: Response<Incoming>) -> Result<Response<Incoming>> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let bytes = collect(answer).await?;
    match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => Err(Refused(problem).into()),
        Err(error) => Err(ClientError::nonsense(format!("{status} without a reason: {error}"))),
    }
}

async fn read<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T> {
    let bytes = collect(succeeded(answer).await?).await?;
    serde_json::from_slice(&bytes).map_err(ClientError::nonsense)
}

async fn collect(answer: Response<Incoming>) -> Result<Bytes> {
    let body = http_body_util::Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
    Ok(body.collect().await.map_err(ClientError::Lost)?.to_bytes())
}

fn with_query(path: &str, query: &impl Serialize) -> Result<String> {
    // All our queries are flat; numbers and truth values need no escapes.
    let fields = serde_json::to_value(query).map_err(ClientError::nonsense)?;
    let pairs = fields.as_object().into_iter().flatten().map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name}={}", segment(text)),
        None => format!("{name}={value}"),
    });
    Ok(format!("{path}?{}", pairs.collect::<Vec<_>>().join("&")))
}

/// A name as a segment of a path (RFC 3986, section 3.3): everything but unreserved characters is escaped.
fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
