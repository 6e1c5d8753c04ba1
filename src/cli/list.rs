//! `cusae list`: which SAEs there are, in SAELens' registry or on the Hub.

use super::number::number;
use super::Common;
#[cfg(feature = "hub")]
use cusae::hub::{FoundRepository, Hub};
use cusae::registry::{self, Query, RegisteredSae, Release};
use serde::Serialize;
use std::fmt;
use std::ops::RangeInclusive;

/// What to look for.
#[derive(clap::Args)]
pub struct Args {
    /// Words of a release, an SAE's id, a model or a repository; all must be there.
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
    /// The language model, or part of its name.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// The hook, or parts of its name: blocks.8, resid_pre, 8.hook_resid_pre.
    #[arg(long, value_name = "HOOK")]
    hook: Option<String>,
    /// Number of latents: 24576, 16k, or a range such as 16k..65k.
    #[arg(long, value_name = "WIDTH", value_parser = registry::widths)]
    width: Option<RangeInclusive<usize>>,
    /// Active latents on a token: a range such as 20..60.
    #[arg(long, value_name = "L0", value_parser = registry::number_range)]
    l0: Option<RangeInclusive<f64>>,
    /// Lines to print; 0 for all [default: 40, with --json all].
    #[arg(long, value_name = "N", value_parser = number::<usize>)]
    limit: Option<usize>,
    /// Search the Hub for repositories that are tagged saelens and whose names hold TEXT.
    #[cfg(feature = "hub")]
    #[arg(long, conflicts_with_all = ["model", "hook", "width", "l0"])]
    hub: bool,
}

/// Prints the SAEs, or, where nothing tells one SAE of a release from another, the releases.
pub fn run(args: Args, common: &Common) -> anyhow::Result<()> {
    let limit = match args.limit {
        Some(0) => usize::MAX,
        None if common.json => usize::MAX,
        limit => limit.unwrap_or(40),
    };
    #[cfg(feature = "hub")]
    if args.hub {
        let limit = if common.json { args.limit.filter(|&n| n > 0).unwrap_or(1000) } else { limit };
        return common.print(&OnHub { repositories: Hub::from_env()?.search_saes(&args.text, limit)? });
    }
    // A release's own name, or what stands for it, means what it holds.
    let named = match args.text.as_slice() {
        [name] => registry::find(name),
        _ => None,
    };
    if let (Some(note), false) = (named.as_ref().and_then(|named| named.note.as_ref()), common.quiet) {
        eprintln!("{note}");
    }
    let query = Query {
        words: if named.is_some() { Vec::new() } else { args.text },
        model: args.model,
        hook: args.hook,
        d_sae: args.width,
        l0: args.l0,
    };
    if named.is_none() && query.is_about_releases() {
        let found = query.releases();
        return common.print(&Releases { found: found.len(), releases: first(found.into_iter().map(Row::of), limit) });
    }
    let is_named = |release: &Release| named.as_ref().is_none_or(|named| named.release.release == release.release);
    let found: Vec<_> = query.saes().into_iter().filter(|(release, _)| is_named(release)).collect();
    let saes = first(found.iter().map(|&(release, sae)| Sae { release, sae }), limit);
    common.print(&Saes { found: found.len(), saes })
}

fn first<T>(all: impl Iterator<Item = T>, limit: usize) -> Vec<T> {
    all.take(limit).collect()
}

#[derive(Serialize)]
struct Releases {
    found: usize,
    releases: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    release: &'static Release,
    saes: usize,
}

impl Row {
    fn of(release: &'static Release) -> Self {
        Row { release, saes: release.saes.len() }
    }
}

#[derive(Serialize)]
struct Saes {
    found: usize,
    saes: Vec<Sae>,
}

#[derive(Serialize)]
struct Sae {
    #[serde(flatten)]
    release: &'static Release,
    #[serde(flatten)]
    sae: &'static RegisteredSae,
}

#[cfg(feature = "hub")]
#[derive(Serialize)]
struct OnHub {
    repositories: Vec<FoundRepository>,
}

#[cfg(feature = "hub")]
impl fmt::Display for OnHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.repositories.iter().map(|found| {
            let changed = found.last_modified.split('T').next().unwrap_or_default();
            [found.repo_id.clone(), found.downloads.to_string(), found.likes.to_string(), changed.to_string()]
        });
        table(f, ["repository", "downloads", "likes", "changed"], rows.collect())?;
        writeln!(f, "{} repositories tagged saelens", self.repositories.len())
    }
}

impl fmt::Display for Releases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.releases.iter().map(|row| {
            [row.release.release.into(), row.release.model.into(), row.saes.to_string(), row.release.repo_id.into()]
        });
        table(f, ["release", "model", "SAEs", "repository"], rows.collect())?;
        rest(f, self.releases.len(), self.found, "releases")
    }
}

impl fmt::Display for Saes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<f64>| number.map_or("-".into(), |number| format!("{number}"));
        let rows = self.saes.iter().map(|Sae { release, sae }| {
            [
                format!("{}:{}", release.release, sae.sae_id),
                sae.hook_name.unwrap_or("-").into(),
                sae.d_sae.map_or("-".into(), |width| width.to_string()),
                number(sae.l0),
                number(sae.variance_explained),
                sae.neuronpedia_id.unwrap_or("-").into(),
            ]
        });
        table(f, ["SAE", "hook", "width", "L0", "explained variance", "Neuronpedia"], rows.collect())?;
        rest(f, self.saes.len(), self.found, "SAEs")
    }
}

/// Columns as wide as their widest cell, two spaces between them.
pub fn table<const N: usize>(f: &mut fmt::Formatter<'_>, head: [&str; N], rows: Vec<[String; N]>) -> fmt::Result {
    let rows: Vec<[String; N]> = std::iter::once(head.map(String::from)).chain(rows).collect();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            line += &format!("{cell:<width$}  ");
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

/// How many there are beyond those shown.
pub fn rest(f: &mut fmt::Formatter<'_>, shown: usize, found: usize, what: &str) -> fmt::Result {
    match found - shown {
        0 => writeln!(f, "{found} {what}"),
        more => writeln!(f, "{found} {what}, {more} more than shown; --limit 0 shows all"),
    }
}
