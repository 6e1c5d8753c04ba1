//! As much of HTTP/1.1 as a local page needs: one request on a connection, bounded in size and time, and an
//! answer that ends with the connection.

use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a request's first line and headers.
const LARGEST_HEAD: usize = 16 << 10;

/// Bytes of a request's body: a prompt and some numbers.
const LARGEST_BODY: usize = 64 << 10;

const MOST_HEADERS: usize = 64;

/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a reader looks whether the server stops.
const GLANCE: Duration = Duration::from_millis(100);

/// Nothing is loaded from elsewhere, nobody frames the page, nothing is guessed or kept.
const SAFETY_HEADERS: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; \
    style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
    Cache-Control: no-store\r\nConnection: close\r\n";

/// What a browser asks.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// From the `/` on, as it was sent, without what follows a `?`.
    pub path: String,
    headers: Vec<(String, String)>,
    /// At most 64 KiB.
    pub body: Vec<u8>,
}

/// A request that is not answered: the status and a sentence.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    /// HTTP's number.
    pub status: u16,
    /// For people.
    pub what: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: u16, what: impl Into<String>) -> Self {
        Refusal { status, what: what.into() }
    }

    /// Answers with the sentence as `{"error": …}`. Whoever asked may be gone.
    pub fn send(&self, stream: &mut TcpStream) {
        let body = json!({ "error": self.what }).to_string();
        let _ = send(stream, self.status, "application/json", body.as_bytes());
    }
}

impl Request {
    /// The only header of a name. Error: there are several.
    pub fn header(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut found = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(Refusal::new(400, format!("several {name} headers"))),
            (first, None) => Ok(first.map(|(_, value)| value.as_str())),
        }
    }

    /// Reads one; none if the connection ends before its first byte. Errors: it is no HTTP, too large, or
    /// takes too long; the server stops.
    pub fn read(stream: &mut TcpStream, stop: &AtomicBool) -> Result<Option<Request>, Refusal> {
        let mut incoming = Incoming { stream, stop, until: Instant::now() + PATIENCE, bytes: Vec::new() };
        let (mut request, head) = loop {
            if !incoming.more()? {
                return if incoming.bytes.is_empty() { Ok(None) } else { Err(ended()) };
            }
            let parsed = parse(&incoming.bytes)?;
            if parsed.as_ref().map_or(incoming.bytes.len(), |(_, head)| *head) > LARGEST_HEAD {
                return Err(Refusal::new(431, format!("headers of more than {LARGEST_HEAD} bytes")));
            }
            if let Some(found) = parsed {
                break found;
            }
        };
        let length = request.body_length()?;
        while incoming.bytes.len() < head + length {
            if !incoming.more()? {
                return Err(ended());
            }
        }
        request.body = incoming.bytes[head..head + length].to_vec();
        Ok(Some(request))
    }

    fn body_length(&self) -> Result<usize, Refusal> {
        if self.header("Transfer-Encoding")?.is_some() {
            return Err(Refusal::new(411, "a body needs a Content-Length"));
        }
        let Some(text) = self.header("Content-Length")? else { return Ok(0) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<usize>() {
            _ if !digits => Err(Refusal::new(400, format!("Content-Length {text:?} is no number"))),
            Ok(length) if length <= LARGEST_BODY => Ok(length),
            _ => Err(Refusal::new(413, format!("a body of {text} bytes, at most {LARGEST_BODY} are read"))),
        }
    }
}

fn ended() -> Refusal {
    Refusal::new(400, "the request ended in its middle")
}

/// A request without its body and the length of its head; none if there is more to come.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(431, format!("more than {MOST_HEADERS} headers")));
        }
        Err(error) => return Err(Refusal::new(400, format!("not a request: {error}"))),
    };
    let text = |header: &httparse::Header| {
        let value = std::str::from_utf8(header.value).ok()?;
        Some((header.name.to_string(), value.to_string()))
    };
    let headers: Option<Vec<(String, String)>> = parsed.headers.iter().map(text).collect();
    let target = parsed.path.unwrap_or_default();
    if !target.starts_with('/') {
        return Err(Refusal::new(400, format!("{target:?}, expected a path")));
    }
    let request = Request {
        method: parsed.method.unwrap_or_default().to_string(),
        path: target.split(['?', '#']).next().unwrap_or_default().to_string(),
        headers: headers.ok_or_else(|| Refusal::new(400, "a header is not text"))?,
        body: Vec::new(),
    };
    Ok(Some((request, head)))
}

/// Bytes as they come.
struct Incoming<'a> {
    stream: &'a mut TcpStream,
    stop: &'a AtomicBool,
    until: Instant,
    bytes: Vec<u8>,
}

impl Incoming<'_> {
    /// Waits for more; false at the end.
    fn more(&mut self) -> Result<bool, Refusal> {
        let mut buffer = [0; 4096];
        let lost = |error: std::io::Error| Refusal::new(400, error.to_string());
        self.stream.set_read_timeout(Some(GLANCE)).map_err(lost)?;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Refusal::new(503, "the server stops"));
            }
            if Instant::now() > self.until {
                return Err(Refusal::new(408, format!("the request took more than {} seconds", PATIENCE.as_secs())));
            }
            match self.stream.read(&mut buffer) {
                Ok(count) => {
                    self.bytes.extend_from_slice(&buffer[..count]);
                    return Ok(count > 0);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
    }
}

/// Sends a status line and headers; without a length the body ends with the connection.
pub fn send_head(stream: &mut TcpStream, status: u16, content_type: &str, length: Option<u64>) -> std::io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    let length = length.map_or(String::new(), |length| format!("Content-Length: {length}\r\n"));
    let allow = if status == 405 { "Allow: GET, HEAD, POST\r\n" } else { "" };
    let head =
        format!("HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n{length}{allow}{SAFETY_HEADERS}\r\n");
    stream.write_all(head.as_bytes())
}

/// Sends a whole answer.
pub fn send(stream: &mut TcpStream, status: u16, content_type: &str, body: &[u8]) -> std::io::Result<()> {
    send_head(stream, status, content_type, Some(body.len() as u64))?;
    stream.write_all(body)
}

/// Ends a connection so that the last of the answer arrives: what the browser still sends is taken and
/// forgotten, as long as it is little.
pub fn close(stream: &mut TcpStream) {
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.set_read_timeout(Some(GLANCE));
    let mut buffer = [0; 4096];
    for _ in 0..64 {
        if !matches!(stream.read(&mut buffer), Ok(count) if count > 0) {
            return;
        }
    }
}
