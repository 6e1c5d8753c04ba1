//! The SAEs that SAELens knows: releases and what is in them, as facts. Nothing is fetched here.
//!
//! The table is `saes.tsv.zst`, made from SAELens' `pretrained_saes.yaml` by `scripts/make_registry.py`,
//! which also says what its columns are. It is unpacked when it is first asked for.

mod search;

pub use search::{number_range, widths, Query};

use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// The version of SAELens whose registry this is.
pub const SOURCE: &str = "sae-lens 6.54.12";

const TABLE: &[u8] = include_bytes!("saes.tsv.zst");

/// SAEs that were published together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Release {
    /// SAELens' name.
    pub release: &'static str,
    /// The repository on the Hub.
    pub repo_id: &'static str,
    /// The language model, by the publisher's name or TransformerLens'.
    pub model: &'static str,
    /// SAELens' name of the loader, and so of the format: `sae_lens`, `gemma_2`, …
    pub loader: &'static str,
    /// Keys that replace those of the SAE's own configuration.
    pub config_overrides: Map<String, Value>,
    /// What it holds.
    #[serde(skip)]
    pub saes: Vec<RegisteredSae>,
}

/// What is known of an SAE without fetching it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegisteredSae {
    /// SAELens' name within the release.
    pub sae_id: &'static str,
    /// Folder or file in the repository.
    pub path: &'static str,
    /// Where in the model it belongs, by TransformerLens' name, if the names tell.
    pub hook_name: Option<&'static str>,
    /// Number of latents, if the names tell.
    pub d_sae: Option<usize>,
    /// Active latents on a token, as published.
    pub l0: Option<f64>,
    /// Explained variance, as published.
    pub variance_explained: Option<f64>,
    /// `model/layer-name` on Neuronpedia.
    pub neuronpedia_id: Option<&'static str>,
    /// What to fold into the weights of an SAE with `expected_average_only_in`.
    pub norm_scaling_factor: Option<f64>,
}

/// A release, and what to tell whoever called it by another name.
#[derive(Clone, Debug)]
pub struct Found {
    /// The release.
    pub release: &'static Release,
    /// For a name that is an alias: one sentence.
    pub note: Option<String>,
}

/// All releases, in SAELens' order.
pub fn releases() -> &'static [Release] {
    static RELEASES: OnceLock<Vec<Release>> = OnceLock::new();
    RELEASES.get_or_init(|| {
        static TEXT: OnceLock<String> = OnceLock::new();
        let text = TEXT.get_or_init(|| {
            let bytes = zstd::decode_all(TABLE).expect("the table was compressed by zstd");
            String::from_utf8(bytes).expect("the table is text")
        });
        parse(text)
    })
}

/// The release of a name. A name without its author's initials will do where only one release can be meant:
/// `gemma-2b-res` is `gemma-2b-res-jb`. None: it is neither.
pub fn find(name: &str) -> Option<Found> {
    if let Some(release) = releases().iter().find(|release| release.release == name) {
        return Some(Found { release, note: None });
    }
    let initials = |release: &&Release| {
        let rest = release.release.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest.len() == 2 && rest.chars().all(|c| c.is_ascii_lowercase()))
    };
    let mut meant = releases().iter().filter(initials);
    match (meant.next(), meant.next()) {
        (Some(release), None) => {
            let note = format!("{name} is {} in SAELens' registry; that is what is taken", release.release);
            Some(Found { release, note: Some(note) })
        }
        _ => None,
    }
}

/// The releases whose SAEs are in a repository.
pub fn of_repository(repo_id: &str) -> impl Iterator<Item = &'static Release> + use<'_> {
    releases().iter().filter(move |release| release.repo_id == repo_id)
}

/// The release's name that is most like `name`, for messages.
pub fn closest(name: &str) -> Option<&'static str> {
    let likeness = |release: &&Release| (strsim::jaro_winkler(release.release, name) * 1e6) as u64;
    let best = releases().iter().max_by_key(likeness)?;
    (strsim::jaro_winkler(best.release, name) > 0.85).then_some(best.release)
}

impl Release {
    /// The SAE of a name. Error: there is none; some that there are get named.
    pub fn sae(&self, sae_id: &str) -> Result<&RegisteredSae> {
        self.saes.iter().find(|sae| sae.sae_id == sae_id).ok_or_else(|| {
            let mut names: Vec<&str> = self.saes.iter().map(|sae| sae.sae_id).collect();
            names.sort_by_key(|name| -((strsim::jaro_winkler(name, sae_id) * 1e6) as i64));
            let more = if names.len() > 5 { ", …" } else { "" };
            let shown = names[..names.len().min(5)].join(", ");
            let what = format!(
                "release {} has no SAE {sae_id:?}, but {shown}{more}; cusae list {0} shows all {}",
                self.release,
                names.len()
            );
            Error::config("--sae", what)
        })
    }
}

/// The table's rows: see `scripts/make_registry.py`.
fn parse(text: &'static str) -> Vec<Release> {
    let mut releases: Vec<Release> = Vec::new();
    for line in text.lines() {
        let mut cells = line.split('\t');
        let mut next = || cells.next().unwrap_or_default();
        match (next(), releases.last_mut()) {
            ("release", _) => releases.push(Release {
                release: next(),
                repo_id: next(),
                model: next(),
                loader: next(),
                config_overrides: serde_json::from_str(next()).unwrap_or_default(),
                saes: Vec::new(),
            }),
            (sae_id, Some(release)) => release.saes.push(RegisteredSae {
                sae_id,
                path: Some(next()).filter(|path| !path.is_empty()).unwrap_or(sae_id),
                hook_name: Some(next()).filter(|name| !name.is_empty()),
                d_sae: next().parse().ok(),
                l0: next().parse().ok(),
                variance_explained: next().parse().ok(),
                neuronpedia_id: Some(next()).filter(|id| !id.is_empty()),
                norm_scaling_factor: next().parse().ok(),
            }),
            (_, None) => unreachable!("the table begins with a release"),
        }
    }
    releases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_what_saelens_registry_holds() {
        assert_eq!(releases().len(), 170);
        let all = || releases().iter().flat_map(|release| &release.saes);
        assert_eq!(all().count(), 13_857);
        assert_eq!(all().filter(|sae| sae.l0.is_some()).count(), 12_147);
        assert_eq!(all().filter(|sae| sae.neuronpedia_id.is_some()).count(), 2_441);
        assert_eq!(all().filter(|sae| sae.norm_scaling_factor.is_some()).count(), 304);
        assert_eq!(all().filter(|sae| sae.variance_explained.is_some()).count(), 78);
        assert_eq!(releases().iter().filter(|release| !release.config_overrides.is_empty()).count(), 15);
        assert_eq!(releases().iter().filter(|release| release.loader == "gemma_3").count(), 75);
    }

    #[test]
    fn the_residual_stream_of_gpt2_small_is_described_in_full() {
        let release = find("gpt2-small-res-jb").unwrap().release;
        assert_eq!(release.repo_id, "jbloom/GPT2-Small-SAEs-Reformatted");
        assert_eq!((release.model, release.loader), ("gpt2-small", "sae_lens"));
        assert_eq!(release.config_overrides["model_from_pretrained_kwargs"]["center_writing_weights"], true);
        let sae = release.sae("blocks.8.hook_resid_pre").unwrap();
        assert_eq!(sae.path, "blocks.8.hook_resid_pre");
        assert_eq!(sae.hook_name, Some("blocks.8.hook_resid_pre"));
        assert_eq!((sae.d_sae, sae.neuronpedia_id), (Some(24576), Some("gpt2-small/8-res-jb")));
        assert_eq!(release.sae("blocks.11.hook_resid_post").unwrap().neuronpedia_id, Some("gpt2-small/12-res-jb"));
    }

    #[test]
    fn facts_of_other_loaders_come_from_their_names() {
        let release = find("gemma-scope-2b-pt-res").unwrap().release;
        let sae = release.sae("layer_12/width_131k/average_l0_67").unwrap();
        assert_eq!((sae.hook_name, sae.d_sae), (Some("blocks.12.hook_resid_post"), Some(131_072)));
        let sae = find("llama_scope_lxa_32x").unwrap().release.sae("l0a_32x").unwrap();
        assert_eq!(sae.path, "Llama3_1-8B-Base-L0A-32x");
        assert_eq!((sae.hook_name, sae.d_sae), (Some("blocks.0.hook_attn_out"), Some(131_072)));
        assert_eq!(sae.norm_scaling_factor, Some(112.219_178_082_191_77));
        let sae = find("gpt2-small-hook-z-kk").unwrap().release.sae("blocks.3.hook_z").unwrap();
        assert_eq!(sae.hook_name, Some("blocks.3.attn.hook_z"));
    }

    #[test]
    fn a_release_is_found_without_its_authors_initials_and_says_so() {
        let found = find("gemma-2b-res").unwrap();
        assert_eq!(found.release.release, "gemma-2b-res-jb");
        assert_eq!(found.note.unwrap(), "gemma-2b-res is gemma-2b-res-jb in SAELens' registry; that is what is taken");
        assert!(find("gemma-2b-res-jb").unwrap().note.is_none());
        assert!(find("gpt2-small-res").unwrap().release.release == "gpt2-small-res-jb");
        for unknown in ["gemma-2b", "gpt2", "", "gemma-2b-res-"] {
            assert!(find(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn an_unknown_sae_is_answered_by_those_that_there_are() {
        let error = find("gpt2-small-res-jb").unwrap().release.sae("blocks.8.hook_resid_post").unwrap_err().to_string();
        assert!(error.starts_with("--sae: release gpt2-small-res-jb has no SAE \"blocks.8.hook_resid_post\", but "));
        assert!(error.contains("blocks.8.hook_resid_pre, ") && error.contains("shows all 13"), "{error}");
        assert_eq!(closest("gpt2-smal-res-jb"), Some("gpt2-small-res-jb"));
        assert_eq!(closest("xyz"), None);
    }

    #[test]
    fn a_repository_knows_its_releases() {
        let names: Vec<_> = of_repository("canrager/lm_sae").map(|release| release.release).collect();
        assert_eq!(names.len(), 4);
        assert!(names.contains(&"sae_bench_pythia70m_sweep_topk_ctx128_0730"));
    }
}
