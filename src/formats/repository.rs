//! Which files of a repository make up an SAE. Each layout names its files once, here: a repository's are
//! fetched by that list, and a listing is searched by it.

use super::Format;

/// The files of an SAE in a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Without these there is no SAE.
    pub needed: Vec<String>,
    /// These may be there.
    pub optional: Vec<String>,
    /// What is given to [`super::load`]: the folder, or one of the files.
    pub open: String,
}

impl Files {
    fn in_folder(folder: &str, needed: &[&str], optional: &[&str]) -> Files {
        let within = |name: &&str| join(folder, name);
        let (needed, optional) = (needed.iter().map(within).collect(), optional.iter().map(within).collect());
        Files { needed, optional, open: folder.into() }
    }

    fn file(path: &str, optional: &[&str]) -> Files {
        let beside = optional.iter().map(|name| join(folder_of(path), name)).collect();
        Files { needed: vec![path.into()], optional: beside, open: path.into() }
    }
}

/// The files of the SAE at a path of the registry, of the layout of this name.
pub fn files(layout: &str, path: &str) -> Files {
    match layout {
        "connor_rob_hook_z" => {
            let mut files = Files::file(path, &[]);
            files.needed.push(format!("{}_cfg.json", path.strip_suffix(".pt").unwrap_or(path)));
            files
        }
        "mntss_clt_layer_transcoder" => {
            // The registry has the layer, others the file.
            let layer = path.trim_start_matches("W_enc_").trim_end_matches(".safetensors");
            let names =
                [format!("W_enc_{layer}.safetensors"), format!("W_dec_{layer}.safetensors"), "config.yaml".into()];
            Files { open: names[0].clone(), needed: names.to_vec(), optional: Vec::new() }
        }
        "mwhanna_transcoder" => Files::file(path, &["config.yaml", "wandb-config.yaml", "wanb-config.yaml"]),
        _ if in_folder(layout).is_empty() => Files::file(path, &[]),
        _ => Files::in_folder(path, in_folder(layout), optional(layout)),
    }
}

/// What the folder of a layout must hold; nothing for layouts that are single files.
fn in_folder(layout: &str) -> &'static [&'static str] {
    match layout {
        "sae_lens" => &["cfg.json", "sae_weights.safetensors"],
        "sparsify" => &["cfg.json", "sae.safetensors"],
        "gemma_2" | "gemma_2_transcoder" => &["params.npz"],
        "gemma_3" => &["params.safetensors"],
        "llama_scope" => &["hyperparams.json", "checkpoints/final.safetensors"],
        "llama_scope_r1_distill" => &["config.json", "sae_weights.safetensors"],
        "dictionary_learning_1" => &["ae.pt"],
        "temporal" => &["conf.yaml", "latest_ckpt.safetensors"],
        _ => &[],
    }
}

fn optional(layout: &str) -> &'static [&'static str] {
    match layout {
        "sae_lens" => &["sparsity.safetensors"],
        "gemma_3" | "dictionary_learning_1" => &["config.json"],
        _ => &[],
    }
}

/// The files of the SAE at a path of a repository that lists these files, whatever layout it shows: of a
/// folder the first that fits, of a file also what some layouts have beside it. None: there is no SAE.
pub fn files_listed(formats: &[Format], path: &str, listed: &[String]) -> Option<Files> {
    let has = |name: &String| listed.contains(name);
    if has(&path.to_string()) {
        if path.ends_with("/params.npz") {
            return Some(Files::in_folder(folder_of(path), &["params.npz"], &[]));
        }
        let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
        let name = path.rsplit('/').next().unwrap_or(path);
        let decoder = name.replace("W_enc_", "W_dec_");
        let beside = ["config.yaml", "wandb-config.yaml", "wanb-config.yaml", "config.json", decoder.as_str()];
        let mut files = Files::file(path, &beside);
        files.optional.push(format!("{stem}_cfg.json"));
        files.optional.retain(|name| has(name) && name != path);
        return Some(files);
    }
    let shown = formats.iter().map(|format| format.name).filter(|name| !in_folder(name).is_empty());
    let mut files = shown.map(|name| files(name, path)).find(|files| files.needed.iter().all(has))?;
    files.optional.retain(has);
    Some(files)
}

/// The folders of a listing that hold an SAE.
pub fn folders_listed(formats: &[Format], listed: &[String]) -> Vec<String> {
    let mut folders: Vec<String> = listed.iter().map(|path| folder_of(path).to_string()).collect();
    folders.sort();
    folders.dedup();
    folders.retain(|folder| files_listed(formats, folder, listed).is_some());
    folders
}

/// A path below a folder; the empty folder is the repository itself.
pub fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.into()
    } else {
        format!("{folder}/{name}")
    }
}

/// The folder that a path lies in.
pub fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::super::FORMATS;
    use super::*;

    fn listed(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| path.to_string()).collect()
    }

    #[test]
    fn every_loader_of_the_registry_has_its_files() {
        for release in crate::registry::releases() {
            assert!(FORMATS.iter().any(|format| format.name == release.loader), "{}", release.loader);
            for sae in &release.saes {
                let files = files(release.loader, sae.path);
                let whole = |name: &String| name.contains('.') && !name.starts_with('/') && !name.contains("//");
                assert!(!files.needed.is_empty() && files.needed.iter().all(whole), "{files:?}");
            }
        }
        let hook_z = files("connor_rob_hook_z", "gpt2-small_L0_lr1.20e-03_v9.pt");
        assert_eq!(hook_z.needed[1], "gpt2-small_L0_lr1.20e-03_v9_cfg.json");
        assert_eq!(files("mntss_clt_layer_transcoder", "3").open, "W_enc_3.safetensors");
    }

    #[test]
    fn the_layout_of_a_repository_is_seen_in_its_listing() {
        let all =
            listed(&["README.md", "a/cfg.json", "a/sae_weights.safetensors", "a/sparsity.safetensors", "b/cfg.json"]);
        let found = files_listed(FORMATS, "a", &all).unwrap();
        assert_eq!(found.needed, ["a/cfg.json", "a/sae_weights.safetensors"]);
        assert_eq!(found.optional, ["a/sparsity.safetensors"]);
        assert_eq!(files_listed(FORMATS, "b", &all), None);
        assert_eq!(folders_listed(FORMATS, &all), ["a"]);
        let root = listed(&["cfg.json", "sae.safetensors"]);
        assert_eq!(files_listed(FORMATS, "", &root).unwrap().open, "");
        let files = listed(&["x/layer_0.safetensors", "x/config.yaml", "x/ae.pt", "x/ae_cfg.json"]);
        assert_eq!(files_listed(FORMATS, "x/layer_0.safetensors", &files).unwrap().optional, ["x/config.yaml"]);
        assert_eq!(files_listed(FORMATS, "x/ae.pt", &files).unwrap().optional, ["x/config.yaml", "x/ae_cfg.json"]);
    }
}
