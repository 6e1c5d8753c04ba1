//! SAEs by name: a local folder or file, `release:sae_id` of SAELens' registry, or `org/name:path` on the
//! Hub. What the registry knows of an SAE and its files do not say is added when it is loaded.

use super::models::no_folder;
use super::name::is_local;
use super::{say, Cached, Hub, Kind, Name, Repository, Snapshot};
use crate::backend::Backend;
use crate::config::{NormalizeActivations, Setting};
use crate::error::{Error, Result};
use crate::formats::repository::{files, files_listed, folder_of, folders_listed, Files};
use crate::formats::{self, SavedSae, FORMATS};
use crate::registry::{self, RegisteredSae, Release};
use crate::sae::config::SaeConfig;
use crate::sae::inference::Sae;
use serde_json::Value;
use std::path::PathBuf;

/// An SAE whose files are on this machine.
#[derive(Clone, Debug)]
pub struct NamedSae {
    /// Its folder or file.
    pub path: PathBuf,
    /// Its layout, where that is known without looking.
    pub layout: Option<&'static str>,
    /// What the registry knows of it.
    pub registered: Option<(&'static Release, &'static RegisteredSae)>,
    /// What was fetched of the Hub; none for what was here.
    pub snapshot: Option<Snapshot>,
}

/// Finds an SAE by its name and fetches it if it has to be; `key` is the recipe key or flag that named it.
/// Errors: there is no such release, id or repository, with the nearest that there is; what
/// [`Hub::get`] refuses.
pub fn sae(key: &str, name: &str) -> Result<NamedSae> {
    if is_local(name) {
        return Ok(NamedSae::new(name.into()));
    }
    match name.split_once(':') {
        Some((release, sae_id)) if !release.contains('/') => of_registry(key, release, sae_id),
        _ => of_hub(key, name),
    }
}

const WAYS: &str = "give a folder, RELEASE:ID of cusae list, or REPOSITORY:PATH of the Hub";

/// An SAE of a release, or of any repository of the Hub by its path: SAELens' `SAE.from_pretrained`. Its
/// configuration with what the registry adds to it, and how often each latent fired, if that was published.
/// Errors: as [`sae`]; the files are damaged.
pub fn from_pretrained(release: &str, sae_id: &str) -> Result<SavedSae> {
    sae("release", &format!("{release}:{sae_id}"))?.load()
}

impl<B: Backend> Sae<B> {
    /// An SAE by its release and id, ready to compute; [`from_pretrained`] gives what else is known of it.
    pub fn from_pretrained(backend: &B, release: &str, sae_id: &str) -> Result<Sae<B>> {
        let saved = from_pretrained(release, sae_id)?;
        Sae::new(backend, &saved.config, &saved.weights)
    }
}

impl NamedSae {
    fn new(path: PathBuf) -> NamedSae {
        NamedSae { path, layout: None, registered: None, snapshot: None }
    }

    fn registered(release: &'static Release, sae: &'static RegisteredSae) -> Result<NamedSae> {
        let repository = Repository { kind: Kind::Model, id: release.repo_id.into(), revision: "main".into() };
        let named = fetch(&Hub::from_env()?, &repository, files(release.loader, sae.path))?;
        Ok(NamedSae { layout: Some(release.loader), registered: Some((release, sae)), ..named })
    }

    /// Reads it. With the registry's overrides, its Neuronpedia id, and its norm factor folded into the
    /// weights where they expect scaled activations. Errors: as [`formats::load`].
    pub fn load(&self) -> Result<SavedSae> {
        self.load_as(self.layout(None)?)
    }

    /// Its layout: the one that the user names, the registry's, or what its files show. Errors: there is none
    /// of that name; none fits.
    pub fn layout(&self, named: Option<&str>) -> Result<&'static str> {
        match (named, self.layout) {
            (Some(name), _) => formats::named(name),
            (None, Some(layout)) => Ok(layout),
            (None, None) => formats::layout(&self.path),
        }
    }

    /// Reads it as a layout of this name. Errors: as [`formats::load`].
    pub fn load_as(&self, layout: &str) -> Result<SavedSae> {
        let mut saved = formats::load(&self.path, Some(layout))?;
        if let Some((release, sae)) = self.registered {
            override_config(&mut saved.config, release, sae)?;
            let scaled = saved.config.normalize_activations == NormalizeActivations::ExpectedAverageOnlyIn;
            if let (Some(factor), true) = (sae.norm_scaling_factor, scaled) {
                saved.weights.fold_activation_norm_scaling_factor(&mut saved.config, factor as f32);
            }
        }
        Ok(saved)
    }
}

/// SAELens' `get_config_overrides`: most keys are of the metadata.
fn override_config(config: &mut SaeConfig, release: &Release, sae: &RegisteredSae) -> Result<()> {
    for (key, value) in &release.config_overrides {
        match key.as_str() {
            "normalize_activations" => {
                let read = value.as_str().and_then(NormalizeActivations::parse);
                config.normalize_activations = read.ok_or_else(|| {
                    Error::config(
                        key,
                        format!("the registry has {value}, expected {}", NormalizeActivations::expected()),
                    )
                })?;
            }
            _ => {
                config.metadata.insert(key.clone(), value.clone());
            }
        }
    }
    if let Some(id) = sae.neuronpedia_id {
        config.metadata.insert("neuronpedia_id".into(), id.into());
    }
    // Layouts that do not say where they belong are named by the registry.
    for (key, known) in [("model_name", Some(release.model)), ("hook_name", sae.hook_name)] {
        if let (None | Some(Value::Null), Some(known)) = (config.metadata.get(key), known) {
            config.metadata.insert(key.into(), known.into());
        }
    }
    Ok(())
}

fn of_registry(key: &str, release: &str, sae_id: &str) -> Result<NamedSae> {
    let Some(found) = registry::find(release) else {
        return match registry::closest(release) {
            Some(closest) => Err(Error::config(key, format!("there is no release {release}; did you mean {closest}?"))),
            None if Name::parse(Kind::Model, release).is_some() => of_hub(key, &format!("{release}:{sae_id}")),
            None => Err(Error::config(key, format!("there is no release {release}; {WAYS}"))),
        };
    };
    let sae = found.release.sae(sae_id).map_err(|error| match error {
        Error::Config { what, .. } => Error::config(key, what),
        error => error,
    })?;
    found.note.iter().for_each(|note| say(note));
    NamedSae::registered(found.release, sae)
}

/// A repository's SAE, by its path or as the only one there. If the registry has it, by the registry's word.
fn of_hub(key: &str, name: &str) -> Result<NamedSae> {
    let parsed = Name::parse(Kind::Model, name)
        .ok_or_else(|| Error::config(key, format!("{name} is neither a local folder nor a name on the Hub; {WAYS}")))?;
    let Name { repository, path } = parsed;
    let mut releases = registry::of_repository(&repository.id);
    let registered = releases.find_map(|release| {
        let same = |sae: &&RegisteredSae| sae.path == path || sae.sae_id == path;
        release.saes.iter().find(same).map(|sae| (release, sae))
    });
    if let (Some((release, sae)), "main") = (registered, repository.revision.as_str()) {
        say(&format!("{name} is {}:{} of SAELens' registry; that is what is taken", release.release, sae.sae_id));
        return NamedSae::registered(release, sae);
    }
    let hub = Hub::from_env().map_err(|error| no_folder(name, error))?;
    let files = find_files(&hub, &repository, &path, name)?;
    fetch(&hub, &repository, files)
}

/// The files of the SAE at a path that the registry does not know. Error: there is none; those that there
/// are get named.
fn find_files(hub: &Hub, repository: &Repository, path: &str, name: &str) -> Result<Files> {
    let is_file = [".pt", ".pth", ".npz", ".safetensors"].iter().any(|ending| path.ends_with(ending));
    let folder = if is_file { folder_of(path) } else { path };
    let within = |folder: &str| -> Result<Vec<String>> {
        let files = hub.list(repository, folder).map_err(|error| no_folder(name, error))?;
        Ok(files.into_iter().map(|file| file.path).collect())
    };
    let listed = within(folder)?;
    if let Some(files) = files_listed(FORMATS, path, &listed) {
        return Ok(files);
    }
    let all = if folder.is_empty() { listed } else { within("")? };
    let folders = folders_listed(FORMATS, &all);
    match (path, folders.as_slice()) {
        ("", [only]) => Ok(files_listed(FORMATS, only, &all).unwrap_or_default()),
        (_, []) => {
            let torch = all.iter().find(|path| path.ends_with(".pt") || path.ends_with(".safetensors"));
            let hint = torch.map_or(String::new(), |file| format!("; name a file, such as {}:{file}", repository.id));
            let at = if path.is_empty() { String::new() } else { format!(" at {path}") };
            Err(Error::hub(repository.to_string(), format!("it has no SAE of a known layout{at}{hint}")))
        }
        (_, folders) => {
            let mut nearest: Vec<&str> = folders.iter().map(String::as_str).collect();
            nearest.sort_by_key(|folder| -((strsim::jaro_winkler(folder, path) * 1e6) as i64));
            let more = if nearest.len() > 5 { format!(", … ({} in all)", nearest.len()) } else { String::new() };
            let shown = nearest[..nearest.len().min(5)].join(", ");
            let at = if path.is_empty() { "several SAEs".into() } else { format!("no SAE at {path}, but") };
            let what = format!("it has {at} {shown}{more}; name one as {}:PATH", repository.id);
            Err(Error::hub(repository.to_string(), what))
        }
    }
}

/// Fetches an SAE's files, all of one commit.
fn fetch(hub: &Hub, repository: &Repository, files: Files) -> Result<NamedSae> {
    let mut first: Option<Cached> = None;
    let mut held = Vec::new();
    for (name, needed) in files.needed.iter().map(|n| (n, true)).chain(files.optional.iter().map(|n| (n, false))) {
        let at = first.as_ref().map_or_else(|| repository.clone(), |first| repository.at(&first.commit));
        let cached = match needed {
            true => Some(hub.get(&at, name)?),
            false => hub.find(&at, name)?,
        };
        held.extend(cached.as_ref().map(|_| name.clone()));
        first = first.or(cached);
    }
    let (first, name) = first.as_ref().zip(files.needed.first()).expect("a layout has a file");
    // The snapshot's folder is what is left when the file's own path is taken away.
    let root = first.path.ancestors().nth(name.split('/').count()).unwrap_or(&first.path).to_path_buf();
    let snapshot = Some(Snapshot { root: root.clone(), files: held });
    Ok(NamedSae { snapshot, ..NamedSae::new(root.join(&files.open)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::config::InferenceArchitecture;

    #[test]
    fn every_override_of_the_registry_has_its_place() {
        for release in registry::releases() {
            let mut config = SaeConfig::new(InferenceArchitecture::Standard, 4, 8);
            override_config(&mut config, release, &release.saes[0]).unwrap();
            let of_metadata = ["dataset_path", "model_from_pretrained_kwargs", "model_name", "hook_name"];
            for key in release.config_overrides.keys().filter(|key| *key != "normalize_activations") {
                assert!(of_metadata.contains(&key.as_str()), "{key}");
            }
            assert!(config.metadata["model_name"].is_string());
        }
        let mistral = registry::find("mistral-7b-res-wg").unwrap().release;
        let mut config = SaeConfig::new(InferenceArchitecture::Standard, 4, 8);
        override_config(&mut config, mistral, &mistral.saes[0]).unwrap();
        assert_eq!(config.normalize_activations, NormalizeActivations::ConstantNormRescale);
    }
}
