//! Requests: redirects without giving the token away, waiting when a server asks for it, and answers that
//! are errors as sentences.

use super::client::Hub;
use super::say;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;
use ureq::http::{self, HeaderMap};
use ureq::{Body, SendBody};

/// How often a request is sent at most before its failure counts.
const ATTEMPTS: u32 = 5;
/// The first pause between attempts where the server does not ask for one; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A server that asks for a longer pause is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Answers that are read whole are at most so large.
const LARGEST_ANSWER: u64 = 64 << 20;

/// What is sent along.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// Nothing.
    None,
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// A part of a file: its path, where it begins, its length.
    Part(&'a Path, u64, u64),
}

/// Which redirects are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// All.
    All,
    /// Those within the server: the answer that sends elsewhere is the one wanted.
    Within,
}

/// A request.
pub struct Request<'a> {
    pub method: &'static str,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub content: Content<'a>,
    pub follow: Follow,
}

/// Why there is no good answer.
#[derive(Debug)]
pub enum Failure {
    /// The server said no.
    Refused { status: u16, code: Option<String>, message: String },
    /// There was no server.
    Unreachable(String),
    /// The connection broke, or what came is no answer.
    Broken(String),
}

pub type Response = http::Response<Body>;

impl<'a> Request<'a> {
    /// A `GET` that follows redirects.
    pub fn get(url: impl Into<String>) -> Request<'a> {
        Request { method: "GET", url: url.into(), headers: Vec::new(), content: Content::None, follow: Follow::All }
    }

    /// A `POST` of JSON.
    pub fn post_json(url: impl Into<String>, body: &'a [u8]) -> Request<'a> {
        let request = Request { method: "POST", content: Content::Bytes(body), ..Request::get(url) };
        request.header("content-type", "application/json")
    }

    /// With a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Request<'a> {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl Hub {
    /// Sends a request, again where the server asks to wait or has a passing trouble. Errors: [`Failure`].
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let last = attempt == ATTEMPTS;
            let pause = match self.attempt(request) {
                Ok(answer) if answer.status().as_u16() < 400 => return Ok(answer),
                Ok(answer) => match passing(request.method, answer.status().as_u16()).filter(|()| !last) {
                    Some(()) => match asked_pause(answer.headers()) {
                        Some(pause) if pause > LONGEST_PAUSE => return Err(too_long(pause)),
                        pause => pause,
                    },
                    None => return Err(refused(answer)),
                },
                Err(Failure::Broken(_)) if !last && request.method != "POST" => None,
                Err(failure) => return Err(failure),
            };
            let pause = pause.unwrap_or(FIRST_PAUSE * 2u32.pow(attempt - 1));
            if pause >= Duration::from_secs(2) {
                say(&format!("waiting {} s for {}", pause.as_secs(), origin(&request.url)));
            }
            std::thread::sleep(pause);
        }
    }

    /// The answer as JSON.
    pub(super) fn json(&self, request: &Request<'_>) -> Result<(HeaderMap, Value), Failure> {
        let (head, mut body) = self.send(request)?.into_parts();
        let text = body.with_config().limit(LARGEST_ANSWER).read_to_vec().map_err(|e| broken(&e))?;
        let value =
            serde_json::from_slice(&text).map_err(|e| Failure::Broken(format!("its answer is no JSON: {e}")))?;
        Ok((head.headers, value))
    }

    /// One attempt, redirects included.
    fn attempt(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let mut url = request.url.clone();
        for _ in 0..10 {
            let answer = self.once(request, &url)?;
            let location = answer.headers().get("location").and_then(|to| to.to_str().ok());
            let next = match location {
                Some(to) if matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) => absolute(&url, to),
                _ => return Ok(answer),
            };
            // Without the commit, the answer is not the wanted one yet: a mirror that sends to the Hub itself.
            let is_wanted = request.follow == Follow::Within && answer.headers().contains_key("x-repo-commit");
            if is_wanted && origin(&next) != origin(&url) {
                return Ok(answer);
            }
            if url.starts_with("https:") && !next.starts_with("https:") {
                return Err(Failure::Broken(format!("it sends to {}, which is not encrypted", origin(&next))));
            }
            url = next;
        }
        Err(Failure::Broken("it sends in circles".into()))
    }

    /// One request. The token goes to the Hub and to nobody that it sends to.
    fn once(&self, request: &Request<'_>, url: &str) -> Result<Response, Failure> {
        let mut builder = http::Request::builder().method(request.method).uri(url);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(token) = self.token.as_ref().filter(|_| origin(url) == origin(&self.endpoint)) {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        let bad = |e: http::Error| Failure::Broken(format!("{url} cannot be asked for: {e}"));
        let sent = match request.content {
            Content::None => self.agent.run(builder.body(()).map_err(bad)?),
            Content::Bytes(bytes) => self.agent.run(builder.body(bytes).map_err(bad)?),
            Content::Part(path, start, length) => {
                let mut part = open_part(path, start, length)
                    .map_err(|e| Failure::Broken(format!("{} cannot be read: {e}", path.display())))?;
                let builder = builder.header("content-length", length.to_string());
                self.agent.run(builder.body(SendBody::from_reader(&mut part)).map_err(bad)?)
            }
        };
        sent.map_err(|error| match error {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => Failure::Unreachable(error.to_string()),
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
                Failure::Unreachable(error.to_string())
            }
            ureq::Error::Io(ref io) if unreachable(io) => Failure::Unreachable(io.to_string()),
            error => broken(&error),
        })
    }
}

/// Whether there was no server. The standard library has no kind for names that are not found.
fn unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    let kinds = [ConnectionRefused, HostUnreachable, NetworkUnreachable, NetworkDown, AddrNotAvailable, NotFound];
    kinds.contains(&error.kind()) || error.to_string().contains("failed to lookup address")
}

fn open_part(path: &Path, start: u64, length: u64) -> io::Result<io::Take<File>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    Ok(file.take(length))
}

/// Whether the same request may be answered better later. What a `POST` has done is not known after most.
fn passing(method: &str, status: u16) -> Option<()> {
    let passing = match method {
        "POST" => matches!(status, 429 | 503),
        _ => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
    };
    passing.then_some(())
}

/// `Retry-After` in seconds; as a date it is not used on the Hub.
fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn too_long(pause: Duration) -> Failure {
    let message = format!("it asks to come back in {} s; do so", pause.as_secs());
    Failure::Refused { status: 429, code: None, message }
}

fn broken(error: &ureq::Error) -> Failure {
    Failure::Broken(error.to_string())
}

/// The Hub's own words for a refusal, in a header or as `{"error": …}`.
fn refused(answer: Response) -> Failure {
    let (head, mut body) = answer.into_parts();
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_string);
    let said = || {
        let text = body.with_config().limit(1 << 16).read_to_vec().ok()?;
        let value: Value = serde_json::from_slice(&text).ok()?;
        value.get("error")?.as_str().map(str::to_string)
    };
    let message = header("x-error-message").or_else(said).unwrap_or_default().replace('\n', " ");
    Failure::Refused { status: head.status.as_u16(), code: header("x-error-code"), message }
}

/// `scheme://host:port` of an address.
pub fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    &url[..url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at)]
}

/// An address that a page at `base` gives.
pub fn absolute(base: &str, to: &str) -> String {
    match to {
        to if to.contains("://") => to.into(),
        to if to.starts_with("//") => format!("{}:{to}", base.split(':').next().unwrap_or("https")),
        to if to.starts_with('/') => format!("{}{to}", origin(base)),
        to => format!("{}/{to}", base.rsplit_once('/').map_or(base, |(folder, _)| folder)),
    }
}

/// Bytes of a path that do not stand for themselves in an address, escaped.
pub fn escape(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_and_put_together() {
        assert_eq!(origin("https://huggingface.co/gpt2/resolve/main/a"), "https://huggingface.co");
        assert_eq!(origin("http://127.0.0.1:8080"), "http://127.0.0.1:8080");
        let base = "https://huggingface.co/gpt2/resolve/main/a";
        assert_eq!(absolute(base, "/openai-community/gpt2"), "https://huggingface.co/openai-community/gpt2");
        assert_eq!(absolute(base, "https://cdn.hf.co/x?y=1"), "https://cdn.hf.co/x?y=1");
        assert_eq!(absolute(base, "//cdn.hf.co/x"), "https://cdn.hf.co/x");
        assert_eq!(absolute(base, "b"), "https://huggingface.co/gpt2/resolve/main/b");
        assert_eq!(escape("layer 8/ä+#?.pt"), "layer%208/%C3%A4%2B%23%3F.pt");
    }
}
