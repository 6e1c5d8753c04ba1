//! `cusae find`: the places of a text where a feature fires above a value, from the file beside a dashboard:
//! at once, without the model.

use super::dashboard::FEATURES_FILE;
use super::number::number;
use super::Common;
use cusae::analysis::{FeatureIndex, Place};
use cusae::error::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Tokens shown before and after a place.
const AROUND: usize = 8;

/// Where to look, and for what.
#[derive(clap::Args)]
pub struct Args {
    /// A folder that `cusae dashboard` wrote, or the features.safetensors in it.
    #[arg(value_name = "PAGE")]
    page: PathBuf,
    /// Which feature.
    #[arg(long, value_name = "N", value_parser = number::<usize>)]
    feature: usize,
    /// Its activation is larger than this.
    #[arg(long, value_name = "A", default_value_t = 0.0, allow_negative_numbers = true, value_parser = number::<f32>)]
    above: f32,
    /// Places shown, the largest activation first.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = number::<usize>)]
    top: usize,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    feature: usize,
    above: f32,
    /// All places.
    found: usize,
    places: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    place: Place,
    before: String,
    token: String,
    after: String,
}

/// Reads the index and prints.
pub fn run(args: Args, common: &Common) -> anyhow::Result<()> {
    let path = if args.page.is_dir() { args.page.join(FEATURES_FILE) } else { args.page.clone() };
    if args.page.is_dir() && !path.exists() {
        let what = format!("holds no {FEATURES_FILE}; give a folder that cusae dashboard wrote");
        return Err(Error::format(&args.page, what).into());
    }
    let index = FeatureIndex::open(&path)?;
    let vocabulary: Option<Vec<String>> = index.note("vocabulary").and_then(|it| serde_json::from_str(it).ok());
    let vocabulary = vocabulary.ok_or_else(|| Error::format(&path, "has no vocabulary in its header"))?;
    let mut places = index.above(args.feature, args.above)?;
    let found = places.len();
    // Stable: of equal ones the earlier stays first.
    places.sort_by(|a, b| b.activation.total_cmp(&a.activation));
    places.truncate(args.top);
    let shown = |place: &Place| -> Result<Shown> {
        let row = index.row(place.row)?;
        let at = place.position;
        let text = |ids: &[u32]| -> String {
            ids.iter().filter_map(|&id| vocabulary.get(id as usize)).map(String::as_str).collect()
        };
        Ok(Shown {
            place: *place,
            before: text(&row[at.saturating_sub(AROUND)..at]),
            token: text(&row[at..=at]),
            after: text(&row[at + 1..(at + 1 + AROUND).min(row.len())]),
        })
    };
    let places = places.iter().map(shown).collect::<Result<_>>()?;
    common.print(&Report { feature: args.feature, above: args.above, found, places })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { feature, above, found, places } = self;
        writeln!(f, "feature {feature} is above {above} in {found} places\n")?;
        for Shown { place, before, token, after } in places {
            let text = format!("{before}[{token}]{after}").replace('\n', "⏎");
            writeln!(f, "{:>9.3}  row {:<5} {text}", place.activation, place.row)?;
        }
        Ok(())
    }
}
