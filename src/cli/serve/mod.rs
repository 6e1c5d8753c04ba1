//! `cusae serve`: the dashboard on an address of this machine, with the features of what is typed and text
//! with features changed. One thread for each connection; nothing leaves the page's folder.

mod files;
mod http;
mod live;

use super::dashboard::{draw, ReadArgs};
use super::look::LookArgs;
use super::number::number;
use super::{stop_on_signals, Common};
use anyhow::Context;
use cusae::backend::Backend;
use cusae::error::{Error, Result};
use files::Files;
use http::{Refusal, Request};
use live::Live;
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Connections at a time; a browser opens six.
const MOST_CONNECTIONS: usize = 64;

/// How often is looked for a new connection.
const GLANCE: Duration = Duration::from_millis(20);

/// How long a browser may take to accept a part of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to show, and where.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
    /// A folder that `cusae dashboard` wrote for this SAE [default: a text is read and a page written first].
    #[arg(long, value_name = "DIR", conflicts_with_all = ["text", "tokens"])]
    page: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
    /// Port; 0 takes a free one.
    #[arg(long, value_name = "N", default_value_t = 8650, value_parser = number::<u16>)]
    port: u16,
    /// Address to listen on. Whoever can reach another one than this machine's own can use the model.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
}

/// What is printed once the server listens.
#[derive(Serialize)]
struct Listening {
    url: String,
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "open {} (Ctrl-C stops)", self.url)
    }
}

/// Answers until it is interrupted.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let look = args.look.open(backend)?;
    let (listener, address) = listen(&args.host, args.port)?;
    let temporary = tempfile::tempdir().context("a temporary folder for the page")?;
    let folder = match &args.page {
        Some(folder) => folder,
        None => {
            draw(&look, args.look.sae(), &args.read, temporary.path(), None, common)?;
            temporary.path()
        }
    };
    check_page(folder, look.sae.config().d_sae)?;
    let stop = stop_on_signals()?;
    let server = Server { files: Files::of(folder)?, live: Live { look: &look, stop: &stop }, host: &args.host };
    common.say_device();
    common.print(&Listening { url: format!("http://{address}/") })?;
    server.answer_until_stopped(&listener)
}

fn listen(host: &str, port: u16) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((host, port)).map_err(|error| {
        let advice =
            if error.kind() == ErrorKind::AddrInUse { "; give another --port, or 0 for a free one" } else { "" };
        anyhow::anyhow!("cannot listen on {host}, port {port}: {error}{advice}")
    })?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Refuses a folder that holds no page, or another SAE's.
fn check_page(folder: &Path, d_sae: usize) -> Result<()> {
    let path = folder.join("data/overview.js");
    if folder.is_dir() && !path.exists() {
        let what = "holds no page (data/overview.js is missing); make one with cusae dashboard --out";
        return Err(Error::format(folder, what));
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    let inside = text.split_once(", ").and_then(|(_, rest)| rest.trim_end().strip_suffix(");"));
    let overview: Option<Value> = inside.and_then(|inside| serde_json::from_str(inside).ok());
    match overview.as_ref().and_then(|it| it["d_sae"].as_u64()) {
        Some(found) if found == d_sae as u64 => Ok(()),
        Some(found) => {
            let what = format!("the page is of an SAE of {found} features, this one has {d_sae}");
            Err(Error::format(folder, what))
        }
        None => Err(Error::format(path, "not of a page that `cusae dashboard` wrote")),
    }
}

/// Everything that an answer is made of.
struct Server<'a, B: Backend> {
    files: Files,
    live: Live<'a, B>,
    host: &'a str,
}

impl<B: Backend> Server<'_, B> {
    /// A thread for each connection; when told to stop, those that are open are ended first.
    fn answer_until_stopped(&self, listener: &TcpListener) -> anyhow::Result<()> {
        let stop: &AtomicBool = self.live.stop;
        let open = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        if open.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
                            open.fetch_sub(1, Ordering::Relaxed);
                            Refusal::new(503, "too many connections").send(&mut stream);
                            continue;
                        }
                        let open = &open;
                        scope.spawn(move || {
                            self.answer(stream);
                            open.fetch_sub(1, Ordering::Relaxed);
                        });
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(GLANCE),
                    // A connection that was given up before it was taken, or no file left for it.
                    Err(_) => std::thread::sleep(GLANCE),
                }
            }
        });
        Ok(())
    }

    /// Answers one connection. That a browser is gone in the middle is no error.
    fn answer(&self, mut stream: TcpStream) {
        let ready = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        if ready.is_err() {
            return;
        }
        match Request::read(&mut stream, self.live.stop) {
            Ok(None) => return,
            Ok(Some(request)) => {
                if let Err(refusal) = self.reply(&request, &mut stream) {
                    refusal.send(&mut stream);
                }
            }
            Err(refusal) => refusal.send(&mut stream),
        }
        http::close(&mut stream);
    }

    fn reply(&self, request: &Request, stream: &mut TcpStream) -> std::result::Result<(), Refusal> {
        self.check_origin(request)?;
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/api/features") => self.live.features(request, stream),
            ("POST", "/api/steer") => self.live.steer(request, stream),
            ("GET", "/data/live.js") => {
                let script = format!("cusae.receive(\"live\", {});\n", self.live.about());
                let _ = http::send(stream, 200, "text/javascript; charset=utf-8", script.as_bytes());
                Ok(())
            }
            (method @ ("GET" | "HEAD"), path) => self.send_file(path, method == "HEAD", stream),
            (method, path) => Err(Refusal::new(405, format!("{method} {path}"))),
        }
    }

    fn send_file(&self, path: &str, only_head: bool, stream: &mut TcpStream) -> std::result::Result<(), Refusal> {
        let found = self.files.open(path).ok_or_else(|| Refusal::new(404, format!("{path} is not here")))?;
        let (mut file, length, content_type) = found;
        let sent = http::send_head(stream, 200, content_type, Some(length)).and_then(|()| match only_head {
            true => Ok(0),
            false => std::io::copy(&mut file, stream),
        });
        let _ = sent.and_then(|_| stream.flush());
        Ok(())
    }

    /// Refuses what another site sends: by a name that it has pointed at this machine (DNS rebinding: the
    /// Host is neither an address, nor localhost, nor what `--host` says), or by a script of its own.
    fn check_origin(&self, request: &Request) -> std::result::Result<(), Refusal> {
        let host = request.header("Host")?.ok_or_else(|| Refusal::new(400, "no Host header"))?;
        let name = name_of(host);
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        if !(is_address || name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(self.host)) {
            return Err(Refusal::new(403, format!("Host {host:?}; open the page by an address or as localhost")));
        }
        match request.header("Origin")? {
            Some(origin) if origin != format!("http://{host}") => {
                Err(Refusal::new(403, format!("a page of {origin} may not ask here")))
            }
            _ => Ok(()),
        }
    }
}

/// A Host header without its port.
fn name_of(host: &str) -> &str {
    let port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    port.map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_without_its_port() {
        for (host, name) in
            [("127.0.0.1:8650", "127.0.0.1"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("localhost", "localhost")]
        {
            assert_eq!(name_of(host), name);
        }
    }
}
