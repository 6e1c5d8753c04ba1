//! Language models by name: a local folder, a repository of the Hub, or TransformerLens' name of one.

use super::name::is_local;
use super::{Cached, Hub, Kind, Name, Repository, Snapshot};
use crate::error::{Error, Result};
use crate::lm::ModelConfig;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Repositories of the GPT-2 family, and TransformerLens' other names of them. Source: its
/// `supported_models.py`.
const ALIASES: &[(&str, &[&str])] = &[
    ("gpt2", &["gpt2-small"]),
    ("distilgpt2", &["distillgpt2", "distill-gpt2", "distil-gpt2", "gpt2-xs"]),
    (
        "stanford-crfm/alias-gpt2-small-x21",
        &["stanford-gpt2-small-a", "alias-gpt2-small-x21", "gpt2-mistral-small-a", "gpt2-stanford-small-a"],
    ),
    (
        "stanford-crfm/arwen-gpt2-medium-x21",
        &["stanford-gpt2-medium-a", "arwen-gpt2-medium-x21", "gpt2-medium-small-a", "gpt2-stanford-medium-a"],
    ),
    (
        "stanford-crfm/battlestar-gpt2-small-x49",
        &["stanford-gpt2-small-b", "battlestar-gpt2-small-x49", "gpt2-mistral-small-b"],
    ),
    (
        "stanford-crfm/beren-gpt2-medium-x49",
        &["stanford-gpt2-medium-b", "beren-gpt2-medium-x49", "gpt2-medium-small-b", "gpt2-stanford-medium-b"],
    ),
    (
        "stanford-crfm/caprica-gpt2-small-x81",
        &["stanford-gpt2-small-c", "caprica-gpt2-small-x81", "gpt2-mistral-small-c", "gpt2-stanford-small-c"],
    ),
    (
        "stanford-crfm/celebrimbor-gpt2-medium-x81",
        &["stanford-gpt2-medium-c", "celebrimbor-gpt2-medium-x81", "gpt2-medium-small-c"],
    ),
    (
        "stanford-crfm/darkmatter-gpt2-small-x343",
        &["stanford-gpt2-small-d", "darkmatter-gpt2-small-x343", "gpt2-mistral-small-d"],
    ),
    (
        "stanford-crfm/durin-gpt2-medium-x343",
        &["stanford-gpt2-medium-d", "durin-gpt2-medium-x343", "gpt2-medium-small-d", "gpt2-stanford-medium-d"],
    ),
    (
        "stanford-crfm/eowyn-gpt2-medium-x777",
        &["stanford-gpt2-medium-e", "eowyn-gpt2-medium-x777", "gpt2-medium-small-e", "gpt2-stanford-medium-e"],
    ),
    (
        "stanford-crfm/expanse-gpt2-small-x777",
        &["stanford-gpt2-small-e", "expanse-gpt2-small-x777", "gpt2-mistral-small-e"],
    ),
];

/// Files beside the weights, of which a model may have any.
const BESIDE: &[&str] = &["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
/// What stands for `tokenizer.json` where there is none.
const OLDER_TOKENIZER: &[&str] = &["vocab.json", "merges.txt"];
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The folder of a model, with all its files; `key` is the recipe key or flag that named it. Errors: it is
/// neither a folder nor on the Hub; it is not of a kind that can be run, or has no safetensors.
pub fn model(key: &str, name: &str) -> Result<PathBuf> {
    match is_local(name) {
        true => local(key, name),
        false => Ok(fetch_model(key, name)?.root),
    }
}

/// Fetches a model of the Hub. Errors: as [`model`].
pub fn fetch_model(key: &str, name: &str) -> Result<Snapshot> {
    let (hub, repository, config) = open(key, name)?;
    let mut files = vec![CONFIG.to_string()];
    match hub.find(&repository, WEIGHTS)? {
        Some(_) => files.push(WEIGHTS.into()),
        None => files.extend(fetch_shards(&hub, &repository)?),
    }
    let mut beside = BESIDE.to_vec();
    if hub.find(&repository, BESIDE[0])?.is_none() {
        beside.extend(OLDER_TOKENIZER);
    }
    for file in beside {
        if hub.find(&repository, file)?.is_some() {
            files.push(file.into());
        }
    }
    Ok(Snapshot { root: config.path.parent().unwrap_or(&config.path).to_path_buf(), files })
}

/// The `config.json` of a model, without its weights. Errors: as [`model`].
pub fn model_config(key: &str, name: &str) -> Result<PathBuf> {
    match is_local(name) {
        true => Ok(local(key, name)?.join(CONFIG)),
        false => Ok(open(key, name)?.2.path),
    }
}

fn local(key: &str, name: &str) -> Result<PathBuf> {
    match Path::new(name).exists() {
        true => Ok(name.into()),
        false => {
            Err(Error::config(key, format!("there is no folder {name}; give one, a model of the Hub, or embedded")))
        }
    }
}

/// The repository, at the commit of its configuration, which is read: weights of a model that cannot be run
/// are not fetched.
fn open(key: &str, name: &str) -> Result<(Hub, Repository, Cached)> {
    let known = ALIASES.iter().find(|(_, aliases)| aliases.contains(&name)).map_or(name, |(id, _)| id);
    let parsed = Name::parse(Kind::Model, known).filter(|name| name.path.is_empty()).ok_or_else(|| {
        let what = format!("{name} is neither a local folder nor a name on the Hub; give one of these, or embedded");
        Error::config(key, what)
    })?;
    let hub = Hub::from_env().map_err(|error| no_folder(name, error))?;
    let config = hub.get(&parsed.repository, CONFIG).map_err(|error| no_folder(name, error))?;
    let text = std::fs::read_to_string(&config.path).map_err(Error::io(&config.path, "read"))?;
    ModelConfig::parse(&config.path, &text)?;
    let repository = parsed.repository.at(&config.commit);
    Ok((hub, repository, config))
}

/// Who meant a folder is told that there is none.
pub(super) fn no_folder(name: &str, error: Error) -> Error {
    match error {
        Error::Hub { name: of, what } => Error::hub(of, format!("{what} (there is no local folder {name} either)")),
        error => error,
    }
}

/// Fetches the shards that an index names: its path and theirs.
fn fetch_shards(hub: &Hub, repository: &Repository) -> Result<Vec<String>> {
    let Some(index) = hub.find(repository, INDEX)? else {
        let what = format!(
            "it has neither {WEIGHTS} nor {INDEX}; weights in other forms are not read: save them with transformers' \
             save_pretrained"
        );
        return Err(Error::hub(repository.id.clone(), what));
    };
    let text = std::fs::read_to_string(&index.path).map_err(Error::io(&index.path, "read"))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| Error::format(&index.path, format!("not JSON: {e}")))?;
    let shards = json["weight_map"].as_object().into_iter().flatten().filter_map(|(_, shard)| shard.as_str());
    let mut files = vec![INDEX.to_string()];
    for shard in shards.collect::<BTreeSet<_>>() {
        hub.get(repository, shard)?;
        files.push(shard.into());
    }
    Ok(files)
}
