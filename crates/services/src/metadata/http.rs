//! As much of HTTP/1.1 as the service needs (RFC 9112): one request on each connection, without a body that means anything.

use std::fmt::Write as _;

/// The longest request line and headers that are read.
pub(crate) const MAX_HEAD_BYTES: usize = 8192;
/// The most headers.
const MAX_HEADERS: usize = 64;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// One that can be understood.
    Sound {
        /// What is to be done.
        method: Method,
        /// With what.
        path: String,
        /// It was passed on by a proxy: then somebody from elsewhere asks by way of the machine.
        is_forwarded: bool,
    },
    /// Something else, and what is said to it.
    Unsound(Status),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// To say it.
    Get,
    /// To say how long it is.
    Head,
    /// To take something.
    Put,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    TooLong,
    Unavailable,
}

impl Status {
    /// The code and the words of the status line (RFC 9110, section 15; RFC 6585, section 5).
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::Forbidden => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::TooLong => "431 Request Header Fields Too Large",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

impl Request {
    /// The request that `bytes` begin with; `None` while more of it has to come.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Request::new(&mut headers);
        match head.parse(bytes) {
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return None,
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Some(Self::Unsound(Status::TooLong));
            }
            Err(_) => return Some(Self::Unsound(Status::BadRequest)),
            Ok(httparse::Status::Complete(_)) => {}
        }
        let method = match head.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            Some("PUT") => Method::Put,
            _ => return Some(Self::Unsound(Status::MethodNotAllowed)),
        };
        let is_forwarded = head.headers.iter().any(|header| header.name.eq_ignore_ascii_case("x-forwarded-for"));
        Some(Self::Sound { method, path: head.path.unwrap_or_default().to_owned(), is_forwarded })
    }

    /// Whether the answer goes without its body.
    pub(super) fn is_head(&self) -> bool {
        matches!(self, Self::Sound { method: Method::Head, .. })
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    status: Status,
    content_type: &'static str,
    body: String,
}

impl Response {
    /// Text.
    pub(super) fn plain(status: Status, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// A JSON document.
    pub(super) fn json(body: &serde_json::Value) -> Self {
        Self { status: Status::Ok, content_type: "application/json", body: body.to_string() }
    }

    /// What goes over the connection, which ends with it.
    pub(super) fn bytes(&self, is_head: bool) -> Vec<u8> {
        let Self { status, content_type, body } = self;
        let mut text = format!("HTTP/1.1 {}\r\nContent-Type: {content_type}\r\n", status.line());
        if *status == Status::MethodNotAllowed {
            text += "Allow: GET, HEAD, PUT\r\n";
        }
        let _ = write!(text, "Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        if !is_head {
            text += body;
        }
        text.into_bytes()
    }
}
