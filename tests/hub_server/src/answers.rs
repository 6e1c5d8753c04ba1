//! What the Hub and its storage answer.

use super::wire::{Answer, Asked};
use super::{hex, identity, Files, Repo, State, PAGE, PART, TOKEN};
use base64::Engine;
use serde_json::{json, Value};
use sha2::Sha256;

/// The storage server: `/blob/SHA256`, uploads to `/upload/SHA256`, whole or in parts.
pub fn storage(state: &mut State, asked: &Asked) -> Answer {
    let (path, _) = asked.path_and_query();
    let Some((what, hash)) = path.trim_start_matches('/').split_once('/') else { return Answer::new(404, "") };
    let hash = hash.to_string();
    match (asked.method.as_str(), what) {
        ("GET" | "HEAD", "blob") => match state.blobs.get(&hash) {
            Some(bytes) => Answer::new(200, bytes.clone()),
            None => Answer::new(404, ""),
        },
        ("PUT", "upload") => {
            let part = asked.query("part").map(|part| part.parse::<usize>().unwrap());
            match part {
                Some(part) => {
                    state.parts.entry(hash).or_default().insert(part, asked.body.clone());
                    Answer::new(200, "").with("ETag", &format!("\"part-{part}\""))
                }
                None => keep(state, hash, asked.body.clone()),
            }
        }
        ("POST", "complete") => {
            let parts = state.parts.remove(&hash).unwrap_or_default();
            let said: Value = serde_json::from_slice(&asked.body).unwrap();
            let expected: Vec<Value> =
                parts.keys().map(|part| json!({"partNumber": part, "etag": format!("\"part-{part}\"")})).collect();
            match said["parts"].as_array() == Some(&expected) {
                true => keep(state, hash, parts.into_values().flatten().collect()),
                false => Answer::new(400, format!("expected {expected:?}, found {said}")),
            }
        }
        _ => Answer::new(405, ""),
    }
}

fn keep(state: &mut State, hash: String, bytes: Vec<u8>) -> Answer {
    if hex::<Sha256>(&bytes) != hash {
        return Answer::new(400, "the bytes have another hash");
    }
    state.blobs.insert(hash, bytes);
    Answer::new(200, "")
}

/// The Hub itself.
pub fn hub(state: &mut State, asked: &Asked, endpoint: &str, storage_at: &str) -> Answer {
    let (path, _) = asked.path_and_query();
    let has_token = asked.header("authorization") == Some(&format!("Bearer {TOKEN}"));
    let path = path.trim_start_matches('/');
    if asked.method == "POST" && !has_token {
        return Answer::new(401, json!({"error": "Invalid username or password."}).to_string());
    }
    if let Some(path) = path.strip_prefix("api/") {
        return api(state, asked, path, has_token, endpoint);
    }
    if let Some((id, rest)) = path.split_once(".git/info/lfs/") {
        return match rest {
            "objects/batch" => lfs_batch(state, asked, id, endpoint, storage_at),
            _ => lfs_verify(state, asked),
        };
    }
    match path.split_once("/resolve/") {
        Some((repo, rest)) => resolve(state, asked, repo, rest, has_token, storage_at),
        None => Answer::new(404, "no such page"),
    }
}

fn refused(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(status, json!({"error": message}).to_string())
        .with("X-Error-Code", code)
        .with("X-Error-Message", message)
}

/// A repository that may be seen. `name`: `models/id` or `datasets/id`.
fn open<'a>(state: &'a State, name: &str, has_token: bool) -> Result<&'a Repo, Answer> {
    let status = if has_token { 404 } else { 401 };
    match state.repos.get(name) {
        Some(repo) if !repo.private || has_token => Ok(repo),
        _ => Err(refused(status, "RepoNotFound", "Repository not found")),
    }
}

fn resolve(state: &mut State, asked: &Asked, repo: &str, rest: &str, has_token: bool, storage_at: &str) -> Answer {
    let (kind, id) = match repo.strip_prefix("datasets/") {
        Some(id) => ("datasets", id),
        None => ("models", repo),
    };
    let repo = match open(state, &format!("{kind}/{id}"), has_token) {
        Ok(repo) => repo,
        Err(answer) => return answer,
    };
    if let Some(new) = &repo.moved_to {
        return Answer::new(307, "").with("Location", &asked.target.replacen(id, new, 1));
    }
    if repo.gated && !has_token {
        return refused(401, "GatedRepo", "Access to this repository is restricted.");
    }
    // A branch may have a slash.
    let of_branch = |branch: &&String| rest.strip_prefix(branch.as_str()).is_some_and(|rest| rest.starts_with('/'));
    let (revision, path) = match repo.branches.keys().find(of_branch) {
        Some(branch) => (branch.as_str(), &rest[branch.len() + 1..]),
        None => rest.split_once('/').unwrap_or((rest, "")),
    };
    let Some((commit, files)) = repo.at(revision) else {
        return refused(404, "RevisionNotFound", "Invalid rev id");
    };
    let Some(bytes) = files.get(path) else {
        return refused(404, "EntryNotFound", "Entry not found").with("X-Repo-Commit", &commit);
    };
    let (hash, large) = identity(path, bytes);
    if !large {
        let answer = Answer::new(200, bytes.clone());
        return answer.with("ETag", &format!("\"{hash}\"")).with("X-Repo-Commit", &commit);
    }
    let size = bytes.len().to_string();
    state.blobs.insert(hash.clone(), bytes.clone());
    let answer = Answer::new(302, "").with("Location", &format!("{storage_at}/blob/{hash}"));
    answer.with("X-Linked-ETag", &format!("\"{hash}\"")).with("X-Linked-Size", &size).with("X-Repo-Commit", &commit)
}

fn api(state: &mut State, asked: &Asked, path: &str, has_token: bool, endpoint: &str) -> Answer {
    match (asked.method.as_str(), path) {
        ("GET", "whoami-v2") => return Answer::json(json!({"name": "tester", "type": "user", "auth": {}})),
        ("GET", "models") => return search(state, asked),
        ("POST", "repos/create") => return create(state, asked, endpoint),
        _ => {}
    }
    let (kind, rest) = path.split_once('/').unwrap_or((path, ""));
    let verbs = ["tree", "revision", "preupload", "commit", "branch", "paths-info"];
    let at = verbs.iter().find_map(|verb| Some((rest.split_once(&format!("/{verb}/"))?, *verb)));
    let ((id, rest), verb) = at.unwrap_or(((rest, "main"), "revision"));
    let name = format!("{kind}/{id}");
    let repo = match open(state, &name, has_token) {
        Ok(repo) => repo,
        Err(answer) => return answer,
    };
    match verb {
        "tree" => return tree(repo, asked, rest, endpoint),
        "branch" => {
            let commit = repo.branches["main"].clone();
            let repo = state.repos.get_mut(&name).unwrap();
            return match repo.branches.insert(rest.into(), commit) {
                None => Answer::json(json!({})),
                Some(_) => Answer::new(409, json!({"error": "it is there"}).to_string()),
            };
        }
        _ => {}
    }
    let Some((commit, files)) = repo.at(rest) else { return refused(404, "RevisionNotFound", "Invalid rev id") };
    match verb {
        "preupload" => preupload(asked),
        "commit" => {
            let files = files.clone();
            write_commit(state, asked, &name, rest, files, endpoint)
        }
        _ => {
            let siblings: Vec<Value> = files.keys().map(|path| json!({"rfilename": path})).collect();
            Answer::json(json!({"id": id, "modelId": id, "sha": commit, "siblings": siblings, "private": repo.private,
                                "tags": tags(files), "downloads": 7, "likes": 1, "gated": false}))
        }
    }
}

/// The tags that the front matter of the README gives.
fn tags(files: &Files) -> Vec<String> {
    let readme = files.get("README.md").map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
    let front = readme.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")).map_or("", |(front, _)| front);
    let value = |line: &str| {
        line.strip_prefix("library_name: ").or_else(|| line.strip_prefix("- ")).map(|tag| tag.trim().to_string())
    };
    front.lines().filter_map(value).collect()
}

fn search(state: &State, asked: &Asked) -> Answer {
    let (tag, words) = (asked.query("filter").unwrap_or_default(), asked.query("search").unwrap_or_default());
    let found = state.repos.iter().filter_map(|(name, repo)| {
        let id = name.strip_prefix("models/")?;
        let (_, files) = repo.at("main")?;
        let answers = tags(files).contains(&tag) && words.split_whitespace().all(|word| id.contains(word));
        answers.then(|| json!({"id": id, "downloads": 7, "likes": 1, "lastModified": "2026-01-02T03:04:05.000Z"}))
    });
    Answer::json(found.collect())
}

fn tree(repo: &Repo, asked: &Asked, rest: &str, endpoint: &str) -> Answer {
    let of_branch = |branch: &&String| rest == branch.as_str() || rest.starts_with(&format!("{branch}/"));
    let length = repo.branches.keys().find(of_branch).map_or_else(|| rest.find('/').unwrap_or(rest.len()), |b| b.len());
    let (revision, folder) = (&rest[..length], rest[length..].trim_start_matches('/'));
    let Some((_, files)) = repo.at(revision) else { return refused(404, "RevisionNotFound", "Invalid rev id") };
    let inside = |path: &str| folder.is_empty() || path.starts_with(&format!("{folder}/"));
    let mut entries: Vec<Value> = Vec::new();
    for (path, bytes) in files.iter().filter(|(path, _)| inside(path)) {
        let (hash, large) = identity(path, bytes);
        let mut entry = json!({"type": "file", "path": path, "size": bytes.len(), "oid": hash});
        if large {
            entry["lfs"] = json!({"oid": hash, "size": bytes.len(), "pointerSize": 130});
        }
        entries.push(entry);
    }
    entries.extend(repo.listed_too.iter().map(|path| json!({"type": "file", "path": path, "size": 1, "oid": "0"})));
    if entries.is_empty() && !folder.is_empty() {
        return refused(404, "EntryNotFound", "no such folder");
    }
    let from: usize = asked.query("cursor").map_or(0, |cursor| cursor.parse().unwrap());
    let page: Vec<Value> = entries.iter().skip(from).take(PAGE).cloned().collect();
    let more = entries.len() > from + PAGE;
    let mut answer = Answer::json(page.into());
    if more {
        let (path, _) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let next = format!("<{endpoint}{path}?recursive=true&cursor={}>; rel=\"next\"", from + PAGE);
        answer.set("Link", &next);
    }
    answer
}

fn create(state: &mut State, asked: &Asked, endpoint: &str) -> Answer {
    let said: Value = serde_json::from_slice(&asked.body).unwrap();
    let owner = said["organization"].as_str().unwrap_or("tester");
    let id = format!("{owner}/{}", said["name"].as_str().unwrap());
    let kind = if said["type"] == "dataset" { "datasets" } else { "models" };
    let url = json!({"url": format!("{endpoint}/{id}"), "name": id});
    if state.repos.contains_key(&format!("{kind}/{id}")) {
        return Answer::new(409, url.to_string());
    }
    let mut repo = Repo { private: said["private"] == true, ..Repo::default() };
    repo.commit("main", [(".gitattributes".to_string(), Vec::new())].into());
    state.repos.insert(format!("{kind}/{id}"), repo);
    Answer::json(url)
}

fn preupload(asked: &Asked) -> Answer {
    let said: Value = serde_json::from_slice(&asked.body).unwrap();
    let files = said["files"].as_array().unwrap().iter().map(|file| {
        let path = file["path"].as_str().unwrap();
        let sample = base64::engine::general_purpose::STANDARD.decode(file["sample"].as_str().unwrap()).unwrap();
        assert!(sample.len() <= 512 && file["size"].as_u64().unwrap() >= sample.len() as u64);
        let mode = if identity(path, b"").1 { "lfs" } else { "regular" };
        json!({"path": path, "uploadMode": mode, "shouldIgnore": false, "oid": null})
    });
    Answer::json(json!({"files": files.collect::<Vec<_>>()}))
}

fn lfs_batch(state: &State, asked: &Asked, id: &str, endpoint: &str, storage_at: &str) -> Answer {
    let said: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!((&said["operation"], &said["hash_algo"]), (&"upload".into(), &"sha256".into()));
    let parts_are_known = said["transfers"].as_array().unwrap().contains(&"multipart".into());
    let mut transfer = "basic";
    let objects: Vec<Value> = said["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| {
            let (hash, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
            if state.blobs.contains_key(hash) {
                return json!({"oid": hash, "size": size});
            }
            let mut upload = json!({"href": format!("{storage_at}/upload/{hash}"), "header": {}});
            if size > PART && parts_are_known {
                transfer = "multipart";
                upload["href"] = format!("{storage_at}/complete/{hash}").into();
                upload["header"]["chunk_size"] = PART.to_string().into();
                for part in 1..=size.div_ceil(PART) {
                    upload["header"][part.to_string()] = format!("{storage_at}/upload/{hash}?part={part}").into();
                }
            }
            let verify = json!({"href": format!("{endpoint}/{id}.git/info/lfs/verify")});
            json!({"oid": hash, "size": size, "actions": {"upload": upload, "verify": verify}})
        })
        .collect();
    Answer::json(json!({"transfer": transfer, "objects": objects}))
}

fn lfs_verify(state: &State, asked: &Asked) -> Answer {
    let said: Value = serde_json::from_slice(&asked.body).unwrap();
    let stored = state.blobs.get(said["oid"].as_str().unwrap()).map(|bytes| bytes.len() as u64);
    let fits = stored == said["size"].as_u64();
    Answer::new(if fits { 200 } else { 404 }, "{}")
}

fn write_commit(
    state: &mut State,
    asked: &Asked,
    name: &str,
    branch: &str,
    mut files: Files,
    endpoint: &str,
) -> Answer {
    let text = std::str::from_utf8(&asked.body).unwrap();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let value = &line["value"];
        let path = || value["path"].as_str().unwrap().to_string();
        match line["key"].as_str().unwrap() {
            "header" => assert!(!value["summary"].as_str().unwrap().is_empty()),
            "file" => {
                assert_eq!(value["encoding"], "base64");
                let content = value["content"].as_str().unwrap();
                files.insert(path(), base64::engine::general_purpose::STANDARD.decode(content).unwrap());
            }
            "lfsFile" => {
                assert_eq!(value["algo"], "sha256");
                let Some(bytes) = state.blobs.get(value["oid"].as_str().unwrap()) else {
                    return Answer::new(400, json!({"error": "an object was not uploaded"}).to_string());
                };
                files.insert(path(), bytes.clone());
            }
            other => return Answer::new(400, format!("unknown line {other}")),
        }
    }
    let commit = state.repos.get_mut(name).unwrap().commit(branch, files);
    let url = format!("{endpoint}/{}/commit/{commit}", name.split_once('/').unwrap().1);
    Answer::json(json!({"success": true, "commitOid": commit, "commitUrl": url, "hookOutput": ""}))
}
