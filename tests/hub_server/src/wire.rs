//! HTTP/1.1, as far as it is needed: one request a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A request.
pub struct Asked {
    pub method: String,
    pub target: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The path, unescaped, and the query.
    pub fn path_and_query(&self) -> (String, &str) {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        (unescape(path), query)
    }

    /// A value of the query.
    pub fn query(&self, key: &str) -> Option<String> {
        let pairs = self.path_and_query().1.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| unescape(&value.replace('+', " "))).next()
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// `HEAD` says this size, whatever the body is.
    pub size: Option<usize>,
    /// Where the connection is closed.
    pub cut: Option<usize>,
    /// Whether a range is not honoured.
    pub whole: bool,
    /// Milliseconds before it is sent.
    pub wait: u64,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, headers: Vec::new(), body: body.into(), size: None, cut: None, whole: false, wait: 0 }
    }

    pub fn json(value: serde_json::Value) -> Answer {
        let mut answer = Answer::new(200, value.to_string());
        answer.set("Content-Type", "application/json");
        answer
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.push((name.into(), value.into()));
    }

    pub fn with(mut self, name: &str, value: &str) -> Answer {
        self.set(name, value);
        self
    }
}

/// Reads a request and sends its answer.
pub fn serve(stream: &TcpStream, answer: impl FnOnce(&Asked) -> Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_string);
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
    let mut asked = Asked { method, target, headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => asked.headers.push((name.to_lowercase(), value.trim().into())),
            None => break,
        }
    }
    if asked.header("expect").is_some() {
        (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    asked.body = match asked.header("transfer-encoding") {
        Some("chunked") => chunks(&mut reader)?,
        _ => {
            let length = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            body
        }
    };
    let answer = answer(&asked);
    std::thread::sleep(Duration::from_millis(answer.wait));
    send(stream, &asked, answer)
}

fn chunks(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk)?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

fn send(mut stream: &TcpStream, asked: &Asked, answer: Answer) -> std::io::Result<()> {
    let Answer { mut status, headers, mut body, size, cut, whole, .. } = answer;
    let mut head = String::new();
    let first = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    if let (Some(first), 200, false) = (first, status, whole) {
        let total = body.len();
        if first >= total {
            (status, body) = (416, Vec::new());
        } else {
            let last = asked.header("range").and_then(|range| range.rsplit('-').next()?.parse().ok());
            let end = last.map_or(total, |last: usize| total.min(last + 1));
            body = body[first..end].to_vec();
            status = 206;
            head += &format!("Content-Range: bytes {first}-{}/{total}\r\n", end - 1);
        }
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let length = size.filter(|_| asked.method == "HEAD").unwrap_or(body.len());
    let head = format!("HTTP/1.1 {status} X\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    if asked.method != "HEAD" {
        stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())])?;
    }
    stream.flush()
}
