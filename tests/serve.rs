//! `cusae serve` over real sockets: what it answers, what it refuses, and how it stops. The page in a browser
//! is tested by `scripts/check_dashboard.py`.

use serde_json::{json, Value};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const PROMPT: &str = "The king went to the castle and";

fn cusae(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_cusae")).args(arguments).args(["--device", "cpu"]).output().unwrap()
}

/// A small SAE and its page, made once for all tests of this file.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let (sae, page) = (folder.join("sae"), folder.join("page"));
        let train = "train --architecture topk --k 8 --d-sae 256 --training-tokens 20000 --quiet --out";
        let dashboard = ["dashboard", "--max-tokens", "1280", "--quiet", "--sae", sae.to_str().unwrap(), "--out"];
        for (flags, out) in [(train.split(' ').collect::<Vec<_>>(), &sae), (dashboard.to_vec(), &page)] {
            let output = cusae(&[&flags[..], &[out.to_str().unwrap()]].concat());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        std::fs::write(folder.join("secret.js"), "secret").unwrap();
        std::os::unix::fs::symlink(folder.join("secret.js"), page.join("link.js")).unwrap();
        folder
    })
}

/// A server on a free port; gone when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(flags: &[&str]) -> Server {
        let (sae, page) = (folder().join("sae"), folder().join("page"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_cusae"))
            .args(["serve", "--port", "0", "--json", "--quiet", "--device", "cpu", "--sae", sae.to_str().unwrap()])
            .args(["--page", page.to_str().unwrap()])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while !said.contains('}') {
            assert!(out.read_line(&mut said).unwrap() > 0, "it ended: {said}");
        }
        let url = serde_json::from_str::<Value>(&said).unwrap()["url"].as_str().unwrap().to_string();
        let address = url.strip_prefix("http://").unwrap().trim_end_matches('/').to_string();
        Server { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends bytes, and reads to the end of the answer: its status and all of it.
    fn raw(&self, request: &[u8]) -> (u16, String) {
        let mut stream = self.connect();
        // The server may have refused before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no answer: {answer:?}")), answer)
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).as_bytes())
    }

    fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.raw(self.post_request(path, body).as_bytes())
    }

    fn post_request(&self, path: &str, body: &str) -> String {
        let (host, length) = (&self.address, body.len());
        format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    }

    fn interrupt(&self) {
        let killed = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

fn error(answer: &str) -> String {
    serde_json::from_str::<Value>(body(answer)).unwrap()["error"].as_str().unwrap().to_string()
}

#[test]
fn the_page_is_served_and_nothing_outside_of_its_folder() {
    let server = Server::start(&[]);
    assert!(server.address.starts_with("127.0.0.1:"));
    let (status, answer) = server.get("/");
    assert_eq!(status, 200);
    assert_eq!(body(&answer), std::fs::read_to_string(folder().join("page/index.html")).unwrap());
    for part in ["Content-Type: text/html; charset=utf-8", "default-src 'none'", "nosniff", "Connection: close"] {
        assert!(answer.contains(part), "{answer}");
    }
    let (status, answer) = server.get("/data/features/0.js?x=1");
    assert_eq!((status, body(&answer).len() > 1000), (200, true));
    let (_, answer) = server.get("/data/live.js");
    assert_eq!(body(&answer), "cusae.receive(\"live\", {\"n_ctx\":256,\"d_sae\":256});\n");
    let (status, answer) = server.raw(format!("HEAD / HTTP/1.1\r\nHost: {}\r\n\r\n", server.address).as_bytes());
    assert_eq!((status, body(&answer)), (200, ""));

    for path in [
        "/../secret.js",
        "/data/../../secret.js",
        "/%2e%2e/secret.js",
        "/%2E%2E%2Fsecret.js",
        "/..%5csecret.js",
        "/....//secret.js",
        "//etc/passwd",
        "/link.js",
        "/etc/passwd",
        "/data/",
        "/nothing",
    ] {
        let (status, answer) = server.get(path);
        assert!(status == 404 && !answer.contains("secret\n") && !answer.contains("root:"), "{path}: {answer}");
    }
}

#[test]
fn other_hosts_other_origins_and_other_kinds_of_requests_are_refused() {
    let server = Server::start(&[]);
    let (address, port) = (&server.address, server.address.rsplit_once(':').unwrap().1);
    let get = |headers: &str| server.raw(format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes());
    for host in [format!("localhost:{port}"), format!("[::1]:{port}"), "127.0.0.1".to_string()] {
        assert_eq!(get(&format!("Host: {host}")).0, 200, "{host}");
    }
    let (status, answer) = get(&format!("Host: evil.example:{port}"));
    assert_eq!(status, 403);
    assert!(error(&answer).contains("open the page by an address or as localhost"), "{answer}");
    assert_eq!(get("Host: 127.0.0.1.evil.example").0, 403);
    assert_eq!(get(&format!("Host: {address}\r\nHost: evil.example")).0, 400);
    assert_eq!(get("Accept: */*").0, 400);
    assert_eq!(get(&format!("Host: {address}\r\nOrigin: http://evil.example")).0, 403);
    assert_eq!(get(&format!("Host: {address}\r\nOrigin: null")).0, 403);

    let post = |headers: &str, body: &str| {
        let length = body.len();
        let head = format!("POST /api/features HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n{headers}");
        server.raw(format!("{head}\r\n\r\n{body}").as_bytes())
    };
    let asked = json!({ "prompt": PROMPT }).to_string();
    assert_eq!(post("Content-Type: application/json; charset=utf-8", &asked).0, 200);
    assert_eq!(post("Content-Type: text/plain", &asked).0, 415);
    assert_eq!(post("Accept: */*", &asked).0, 415);
    assert_eq!(server.post("/", &asked).0, 405);
    assert_eq!(server.get("/api/features").0, 404);
    assert_eq!(server.raw(format!("DELETE / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).0, 405);
}

#[test]
fn requests_are_bounded_in_size_and_must_be_requests() {
    let server = Server::start(&[]);
    let host = format!("Host: {}\r\n", server.address);
    let raw = |text: &str| server.raw(text.as_bytes());
    assert_eq!(raw(&format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a".repeat(20_000))).0, 431);
    let many: String = (0..100).map(|i| format!("X-{i}: 1\r\n")).collect();
    assert_eq!(raw(&format!("GET / HTTP/1.1\r\n{host}{many}\r\n")).0, 431);
    let post = format!("POST /api/features HTTP/1.1\r\n{host}Content-Type: application/json\r\n");
    assert_eq!(raw(&format!("{post}Content-Length: 70000\r\n\r\n")).0, 413);
    assert_eq!(raw(&format!("{post}Content-Length: 99999999999999999999999\r\n\r\n")).0, 413);
    assert_eq!(raw(&format!("{post}Content-Length: -1\r\n\r\n")).0, 400);
    assert_eq!(raw(&format!("{post}Transfer-Encoding: chunked\r\n\r\n")).0, 411);
    assert_eq!(raw("hello\r\n\r\n").0, 400);
    assert_eq!(raw(&format!("GET http://evil.example/ HTTP/1.1\r\n{host}\r\n")).0, 400);

    let mut half = server.connect();
    half.write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && error(&answer) == "the request ended in its middle", "{answer}");
    assert_eq!(server.get("/").0, 200, "after all that it still answers");
}

#[test]
fn the_features_of_a_prompt_are_those_of_the_command() {
    let server = Server::start(&[]);
    let (status, answer) = server.post("/api/features", &json!({ "prompt": PROMPT, "top": 4 }).to_string());
    assert_eq!(status, 200, "{answer}");
    let found: Value = serde_json::from_str(body(&answer)).unwrap();
    let sae = folder().join("sae");
    let output = cusae(&["features", "--json", "--top", "4", "--prompt", PROMPT, "--sae", sae.to_str().unwrap()]);
    let expected: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = expected["prompts"][0]["tokens"].as_array().unwrap();
    assert_eq!(found["tokens"].as_array().unwrap().len(), expected.len());
    for (position, token) in expected.iter().enumerate() {
        assert_eq!(found["tokens"][position], token["id"]);
        let pair = |it: &Value| json!([it["feature"], it["activation"]]);
        let pairs: Vec<Value> = token["features"].as_array().unwrap().iter().map(pair).collect();
        assert_eq!(found["features"][position], Value::Array(pairs));
    }

    for (asked, expected) in [
        (json!({ "prompt": "" }).to_string(), "prompt: it is empty"),
        (
            json!({ "prompt": "word ".repeat(1000) }).to_string(),
            "prompt: it has 1002 tokens, this model takes at most 256",
        ),
        (json!({ "prompt": PROMPT, "tip": 4 }).to_string(), "the body: unknown field `tip`"),
        ("{".to_string(), "the body: EOF"),
        (String::new(), "the body: EOF"),
    ] {
        let (status, answer) = server.post("/api/features", &asked);
        assert!(status == 400 && error(&answer).starts_with(expected), "{answer}");
    }
}

/// The text that lines of an answer grow into, of both.
fn grown(answer: &str) -> [String; 2] {
    let lines: Vec<Value> = body(answer).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap(), &json!({ "done": true }));
    ["without", "steered"].map(|of| {
        let texts = lines.iter().filter(|line| line["of"] == of).map(|line| line["text"].as_str().unwrap());
        texts.collect()
    })
}

#[test]
fn steered_text_comes_beside_the_other_and_is_that_of_the_command() {
    let server = Server::start(&[]);
    let asked = json!({ "prompt": PROMPT, "features": ["3=+200"], "max_new_tokens": 12 }).to_string();
    let sae = folder().join("sae");
    let flags = ["--feature", "3=+200", "--max-new-tokens", "12", "--prompt", PROMPT, "--json"];
    let output = cusae(&[&["steer", "--sae", sae.to_str().unwrap()][..], &flags].concat());
    let expected: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = ["without", "steered"].map(|of| expected[of]["text"].as_str().unwrap().to_string());
    assert_ne!(expected[0], expected[1]);
    // Several at the same time.
    std::thread::scope(|scope| {
        let ask = || server.post("/api/steer", &asked);
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        for answer in asking {
            let (status, answer) = answer.join().unwrap();
            assert_eq!(status, 200, "{answer}");
            assert_eq!(grown(&answer), expected);
        }
    });
    for (asked, expected) in [
        (json!({ "prompt": PROMPT, "features": ["256=+1"] }), "feature: 256, this SAE has features 0 to 255"),
        (json!({ "prompt": PROMPT, "features": ["x"] }), "features: expected FEATURE=+8"),
        (json!({ "prompt": PROMPT, "features": [], "temperature": -1 }), "sample_token: "),
        (json!({ "prompt": PROMPT, "features": [], "positions": "here" }), "positions: expected all, generated"),
        (json!({ "prompt": PROMPT, "features": vec!["1=1"; 101] }), "101 changes, at most 100"),
    ] {
        let (status, answer) = server.post("/api/steer", &asked.to_string());
        assert!(status == 400 && error(&answer).starts_with(expected), "{asked}: {answer}");
    }
}

#[test]
fn an_interrupt_ends_it_cleanly_in_the_middle_of_a_text() {
    let mut server = Server::start(&[]);
    let asked = json!({ "prompt": "The", "features": ["3=+1"], "max_new_tokens": 250, "temperature": 1.0 }).to_string();
    let mut writing = server.connect();
    writing.write_all(server.post_request("/api/steer", &asked).as_bytes()).unwrap();
    let mut first = [0; 200];
    writing.read_exact(&mut first).unwrap();
    let idle = server.connect();
    let begun = Instant::now();
    server.interrupt();
    let status = server.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    drop((writing, idle));
}

#[test]
fn what_cannot_be_served_gets_a_sentence() {
    let (sae, page) = (folder().join("sae"), folder().join("page"));
    let refusal = |flags: &[&str]| {
        let output = cusae(&[&["serve", "--quiet", "--sae", sae.to_str().unwrap()], flags].concat());
        assert!(output.stdout.is_empty() && !output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let server = Server::start(&[]);
    let port = server.address.rsplit_once(':').unwrap().1;
    let page = page.to_str().unwrap();
    let found = refusal(&["--port", port, "--page", page]);
    assert!(found.contains("give another --port, or 0 for a free one"), "{found}");
    let found = refusal(&["--port", "0", "--page", sae.to_str().unwrap()]);
    assert!(found.ends_with("holds no page (data/overview.js is missing); make one with cusae dashboard --out\n"));
    let found = refusal(&["--port", "0", "--page", "nowhere"]);
    assert!(found.starts_with("error: nowhere/data/overview.js: cannot read"), "{found}");
    let found = refusal(&["--port", "0", "--page", page, "--host", "no.such.host.invalid"]);
    assert!(found.starts_with("error: cannot listen on no.such.host.invalid, port 0"), "{found}");
    let other = folder().join("other");
    std::fs::create_dir_all(other.join("data")).unwrap();
    std::fs::write(other.join("data/overview.js"), "cusae.receive(\"overview\", {\"d_sae\": 7});\n").unwrap();
    let found = refusal(&["--port", "0", "--page", other.to_str().unwrap()]);
    assert!(found.contains("the page is of an SAE of 7 features, this one has 256"), "{found}");
}
