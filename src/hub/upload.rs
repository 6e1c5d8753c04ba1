//! Files to the Hub: a repository, its large objects, and a commit, by the requests that `huggingface_hub` makes.

use super::download::{bar, hash};
use super::http::{Content, Failure, Request};
use super::listing::text;
use super::{Hub, Repository};
use crate::error::{Error, Result};
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde_json::{json, Value};
use sha2::Sha256;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes at a file's beginning by which the Hub decides how it is to be uploaded.
const SAMPLE: u64 = 512;

/// A file to be uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its path in the repository.
    pub path: String,
    /// What it holds.
    pub contents: Contents,
}

/// What a file to be uploaded holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// What this file holds.
    File(PathBuf),
    /// This text.
    Text(String),
}

impl Contents {
    /// Up to so many bytes from the beginning. Error: the file cannot be read.
    fn read(&self, most: u64) -> Result<Vec<u8>> {
        match self {
            Contents::Text(text) => Ok(text.as_bytes().iter().copied().take(most as usize).collect()),
            Contents::File(path) => {
                let mut bytes = Vec::new();
                let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
                read.map(|_| bytes).map_err(Error::io(path, "read"))
            }
        }
    }

    fn size(&self) -> Result<u64> {
        match self {
            Contents::Text(text) => Ok(text.len() as u64),
            Contents::File(path) => Ok(fs::metadata(path).map_err(Error::io(path, "read"))?.len()),
        }
    }
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its address.
    pub url: String,
    /// Its id.
    pub id: String,
}

/// A file that is uploaded as a large object, before the commit names it.
struct Object<'a> {
    /// In the repository.
    path: &'a str,
    from: &'a Path,
    sha256: String,
    size: u64,
}

impl Hub {
    /// Makes the repository, and the branch that its revision names, where they are not there. Errors: no
    /// token; no network; the Hub refuses.
    pub fn create(&self, repository: &Repository, private: bool) -> Result<()> {
        if self.offline {
            return Err(Error::hub(repository.to_string(), "HF_HUB_OFFLINE is set; unset it to push"));
        }
        if self.token.is_none() {
            let what = "pushing needs a token with write access; set HF_TOKEN, or log in with hf auth login";
            return Err(Error::hub(repository.to_string(), what));
        }
        let (owner, name) = repository.id.split_once('/').unwrap_or(("", &repository.id));
        let mut body = json!({"name": name, "private": private});
        if !owner.is_empty() {
            body["organization"] = owner.into();
        }
        self.make(repository, &format!("{}/api/repos/create", self.endpoint), &body)?;
        match repository.revision.as_str() {
            "main" => Ok(()),
            branch => {
                let branch = format!("branch/{}", branch.replace('/', "%2F"));
                self.make(repository, &self.api(repository, &branch), &json!({}))
            }
        }
    }

    /// Asks for something to be made; that it is there already is as good.
    fn make(&self, repository: &Repository, url: &str, body: &Value) -> Result<()> {
        match self.send(&Request::post_json(url, body.to_string().as_bytes())) {
            Ok(_) | Err(Failure::Refused { status: 409, .. }) => Ok(()),
            Err(failure) => Err(self.error_online(repository, failure)),
        }
    }

    /// Uploads files in one commit. Errors: a file cannot be read; no network; the Hub refuses.
    pub fn upload(&self, repository: &Repository, uploads: &[Upload], summary: &str) -> Result<Commit> {
        let modes = self.modes(repository, uploads)?;
        let mut lines = vec![json!({"key": "header", "value": {"summary": summary, "description": ""}})];
        let mut objects = Vec::new();
        for (upload, mode) in uploads.iter().zip(modes) {
            let (path, size) = (upload.path.as_str(), upload.contents.size()?);
            lines.push(match (&upload.contents, mode.as_str()) {
                (Contents::File(from), "lfs") => {
                    let sha256 = hash::<Sha256>(from, b"").map_err(Error::io(from, "read"))?;
                    let value = json!({"path": path, "algo": "sha256", "oid": sha256, "size": size});
                    objects.push(Object { path, from, sha256, size });
                    json!({"key": "lfsFile", "value": value})
                }
                (contents, _) => {
                    let content = STANDARD.encode(contents.read(size)?);
                    json!({"key": "file", "value": {"path": path, "encoding": "base64", "content": content}})
                }
            });
        }
        self.upload_objects(repository, &objects)?;
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let url = self.api(repository, &format!("commit/{}", repository.revision.replace('/', "%2F")));
        let request = Request { method: "POST", content: Content::Bytes(body.as_bytes()), ..Request::get(url) };
        let (_, answer) = self
            .json(&request.header("content-type", "application/x-ndjson"))
            .map_err(|failure| self.error_online(repository, failure))?;
        Ok(Commit { url: text(&answer, "commitUrl"), id: text(&answer, "commitOid") })
    }

    /// How the Hub wants each file: `lfs` or `regular`.
    fn modes(&self, repository: &Repository, uploads: &[Upload]) -> Result<Vec<String>> {
        let describe = |upload: &Upload| {
            let sample = STANDARD.encode(upload.contents.read(SAMPLE)?);
            Ok(json!({"path": upload.path, "sample": sample, "size": upload.contents.size()?}))
        };
        let files = uploads.iter().map(describe).collect::<Result<Vec<_>>>()?;
        let body = json!({ "files": files }).to_string();
        let url = self.api(repository, &format!("preupload/{}", repository.revision.replace('/', "%2F")));
        let (_, answer) = self
            .json(&Request::post_json(url, body.as_bytes()))
            .map_err(|failure| self.error_online(repository, failure))?;
        let said = answer["files"].as_array().cloned().unwrap_or_default();
        let mode = |upload: &Upload| {
            let of = said.iter().find(|file| file["path"] == upload.path.as_str());
            of.map_or("regular".into(), |file| text(file, "uploadMode"))
        };
        Ok(uploads.iter().map(mode).collect())
    }

    /// Uploads the objects that the Hub does not have yet, by git's LFS protocol.
    fn upload_objects(&self, repository: &Repository, objects: &[Object<'_>]) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let online = |failure| self.error_online(repository, failure);
        let named: Vec<Value> =
            objects.iter().map(|object| json!({"oid": object.sha256, "size": object.size})).collect();
        let body = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "objects": named, "hash_algo": "sha256",
            "ref": {"name": repository.revision},
        });
        let url = format!("{}/{}.git/info/lfs/objects/batch", self.endpoint, repository.id);
        let body = body.to_string();
        let request = Request::post_json(url, body.as_bytes()).header("accept", "application/vnd.git-lfs+json");
        let (_, answer) = self.json(&request).map_err(online)?;
        let said = answer["objects"].as_array().cloned().unwrap_or_default();
        for object in objects {
            let of = said.iter().find(|of| of["oid"] == object.sha256.as_str()).cloned().unwrap_or_default();
            if let Some(message) = of["error"]["message"].as_str() {
                let what = format!("{} cannot be uploaded: {message}", object.path);
                return Err(Error::hub(repository.to_string(), what));
            }
            let actions = &of["actions"];
            // Nothing to do for what is there already.
            if actions["upload"].is_object() {
                self.upload_object(object, &actions["upload"]).map_err(online)?;
            }
            if actions["verify"].is_object() {
                let body = json!({"oid": object.sha256, "size": object.size}).to_string();
                let request = Request::post_json(text(&actions["verify"], "href"), body.as_bytes());
                self.send(&with_headers(request, &actions["verify"])).map_err(online)?;
            }
        }
        Ok(())
    }

    /// Uploads an object, whole or in the parts that the Hub names.
    fn upload_object(&self, object: &Object<'_>, action: &Value) -> Result<(), Failure> {
        let bar = bar(object.path, Some(object.size));
        let put = |url: String, start: u64, length: u64| Request {
            method: "PUT",
            content: Content::Part(object.from, start, length),
            ..Request::get(url)
        };
        let href = text(action, "href");
        let part_size =
            action["header"]["chunk_size"].as_str().and_then(|size| size.parse().ok()).filter(|&size| size > 0);
        let Some(part_size) = part_size else {
            self.send(&with_headers(put(href, 0, object.size), action))?;
            bar.finish_and_clear();
            return Ok(());
        };
        let mut parts = Vec::new();
        for (part, start) in (1..).zip((0..object.size).step_by(part_size)) {
            let url = text(&action["header"], &part.to_string());
            let length = (part_size as u64).min(object.size - start);
            let answer = self.send(&put(url, start, length))?;
            let etag = answer.headers().get("etag").and_then(|etag| etag.to_str().ok());
            let etag = etag.ok_or_else(|| Failure::Broken(format!("part {part} has no ETag")))?;
            parts.push(json!({"partNumber": part, "etag": etag}));
            bar.inc(length);
        }
        let body = json!({"oid": object.sha256, "parts": parts}).to_string();
        let request = Request::post_json(href, body.as_bytes()).header("accept", "application/vnd.git-lfs+json");
        self.send(&request)?;
        bar.finish_and_clear();
        Ok(())
    }
}

/// A request with the headers that an action names.
fn with_headers<'a>(request: Request<'a>, action: &Value) -> Request<'a> {
    let headers = action["header"].as_object().into_iter().flatten();
    let texts = headers.filter_map(|(name, value)| Some((name, value.as_str()?)));
    texts.fold(request, |request, (name, value)| request.header(name, value))
}
