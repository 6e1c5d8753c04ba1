//! Which of the registry's SAEs answer a question.

use super::{releases, RegisteredSae, Release};
use std::ops::RangeInclusive;

/// What is looked for; what is not given is anything.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Words that the release, the id, the model or the repository holds, all of them.
    pub words: Vec<String>,
    /// The model's name, or part of it.
    pub model: Option<String>,
    /// The hook's name, or parts of it that follow one another: `blocks.8`, `resid_pre`, `8.hook_resid_pre`.
    pub hook: Option<String>,
    /// Number of latents.
    pub d_sae: Option<RangeInclusive<usize>>,
    /// Active latents on a token.
    pub l0: Option<RangeInclusive<f64>>,
}

impl Query {
    /// Whether nothing is asked that tells one SAE of a release from another.
    pub fn is_about_releases(&self) -> bool {
        self.hook.is_none() && self.d_sae.is_none() && self.l0.is_none()
    }

    /// The releases that answer: at least one of their SAEs does.
    pub fn releases(&self) -> Vec<&'static Release> {
        let model = self.model_filter();
        let answers = |release: &&Release| model(release) && release.saes.iter().any(|sae| self.fits(release, sae));
        releases().iter().filter(answers).collect()
    }

    /// The SAEs that answer, in the registry's order.
    pub fn saes(&self) -> Vec<(&'static Release, &'static RegisteredSae)> {
        let model = self.model_filter();
        let within = |release: &'static Release| {
            release.saes.iter().filter(move |sae| self.fits(release, sae)).map(move |sae| (release, sae))
        };
        releases().iter().filter(|release| model(release)).flat_map(within).collect()
    }

    /// A model's full name, with or without the publisher, means that one; anything else is part of a name.
    fn model_filter(&self) -> impl Fn(&Release) -> bool {
        let wanted = self.model.as_deref().unwrap_or_default().to_lowercase();
        let is = |model: &str, wanted: &str| model == wanted || model.rsplit('/').next() == Some(wanted);
        let exact = releases().iter().any(|release| is(&release.model.to_lowercase(), &wanted));
        move |release| {
            let model = release.model.to_lowercase();
            if exact {
                is(&model, &wanted)
            } else {
                model.contains(&wanted)
            }
        }
    }

    fn fits(&self, release: &Release, sae: &RegisteredSae) -> bool {
        let names = [release.release, sae.sae_id, release.model, release.repo_id].join(" ").to_lowercase();
        self.words.iter().all(|word| names.contains(&word.to_lowercase()))
            && self.hook.as_deref().is_none_or(|hook| sae.hook_name.is_some_and(|name| names_hook(name, hook)))
            && self.d_sae.as_ref().is_none_or(|range| sae.d_sae.is_some_and(|width| range.contains(&width)))
            && self.l0.as_ref().is_none_or(|range| sae.l0.is_some_and(|l0| range.contains(&l0)))
    }
}

/// Whether the parts of `wanted` follow one another in `hook`: numbers must be equal, words may be parts.
fn names_hook(hook: &str, wanted: &str) -> bool {
    let hook: Vec<&str> = hook.split('.').collect();
    let wanted: Vec<&str> = wanted.split('.').collect();
    let same = |(part, wanted): (&&str, &&str)| match wanted.parse::<u32>() {
        Ok(_) => part == wanted,
        Err(_) => part.contains(*wanted),
    };
    hook.windows(wanted.len()).any(|parts| parts.iter().zip(&wanted).all(same))
}

/// Reads `A..B`, `A..`, `..B` or one number, both ends included. Error: what was expected.
pub fn number_range(text: &str) -> Result<RangeInclusive<f64>, String> {
    range(text, |number| number.parse().ok().filter(|number: &f64| number.is_finite()))
        .map(|(first, last)| first.unwrap_or(f64::MIN)..=last.unwrap_or(f64::MAX))
        .ok_or_else(|| format!("{text} is neither a number nor a range such as 20..60"))
}

/// Reads a width or a range of widths; `16k` is 16,384 and `1m` 1,048,576, as the publishers write them.
/// Error: what was expected.
pub fn widths(text: &str) -> Result<RangeInclusive<usize>, String> {
    range(text, width)
        .map(|(first, last)| first.unwrap_or(0)..=last.unwrap_or(usize::MAX))
        .ok_or_else(|| format!("{text} is neither a width such as 24576 or 16k nor a range such as 16k..65k"))
}

type Ends<T> = (Option<T>, Option<T>);

fn range<T: Copy + PartialOrd>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Ends<T>> {
    let end = |text: &str| if text.is_empty() { Some(None) } else { read(text).map(Some) };
    match text.split_once("..") {
        None => read(text).map(|only| (Some(only), Some(only))),
        Some((first, last)) => Some((end(first)?, end(last.trim_start_matches('='))?)),
    }
    .filter(|ends| !matches!(ends, (Some(first), Some(last)) if first > last))
}

/// `65k` is 65,536: names count thousands of what is a power of two, and in 1,024 what is not.
fn width(text: &str) -> Option<usize> {
    let text = text.replace('_', "");
    if let Some(thousands) = text.strip_suffix(['k', 'K']) {
        let thousands = thousands.parse::<usize>().ok().filter(|&k| k > 0 && k < 1 << 20)?;
        let power = ((1000 * thousands) as f64).log2().round().exp2() as usize;
        let is_near = power.abs_diff(1000 * thousands) * 100 <= 3 * power;
        return Some(if is_near { power } else { 1024 * thousands });
    }
    match text.strip_suffix(['m', 'M']) {
        Some(millions) => millions.parse::<usize>().ok()?.checked_mul(1 << 20),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(change: impl FnOnce(&mut Query)) -> Vec<(&'static Release, &'static RegisteredSae)> {
        let mut query = Query::default();
        change(&mut query);
        query.saes()
    }

    #[test]
    fn without_a_question_everything_answers() {
        assert_eq!(asked(|_| {}).len(), 13_857);
        assert_eq!(Query::default().releases().len(), 170);
    }

    #[test]
    fn a_models_full_name_means_that_model_and_a_part_all_that_have_it() {
        let full = asked(|query| query.model = Some("gemma-2-2b".into()));
        assert!(!full.is_empty() && full.iter().all(|(release, _)| release.model == "gemma-2-2b"));
        let llama = asked(|query| query.model = Some("Llama-3.1-8B".into()));
        assert!(!llama.is_empty() && llama.iter().all(|(release, _)| release.model == "meta-llama/Llama-3.1-8B"));
        let part = asked(|query| query.model = Some("gpt2".into()));
        assert_eq!(part.iter().map(|(release, _)| release.release).collect::<std::collections::HashSet<_>>().len(), 18);
        assert!(asked(|query| query.model = Some("gpt7".into())).is_empty());
    }

    #[test]
    fn hooks_are_compared_part_by_part() {
        assert!(names_hook("blocks.11.hook_resid_pre", "blocks.11.hook_resid_pre"));
        assert!(names_hook("blocks.11.hook_resid_pre", "resid_pre"));
        assert!(names_hook("blocks.11.attn.hook_z", "11.attn"));
        assert!(!names_hook("blocks.11.hook_resid_pre", "blocks.1"));
        assert!(!names_hook("blocks.1.hook_resid_pre", "blocks.1.hook_resid_pre.x"));
    }

    #[test]
    fn width_and_l0_are_ranges_with_both_ends() {
        let found = asked(|query| {
            query.words = vec!["GPT2".into(), "feature-splitting".into()];
            query.d_sae = Some(1536..=6144);
        });
        assert_eq!(found.iter().map(|(_, sae)| sae.d_sae.unwrap()).collect::<Vec<_>>(), [1536, 3072, 6144]);
        let found = asked(|query| {
            query.words = vec!["gemma-scope-2b-pt-res".into()];
            query.hook = Some("blocks.12".into());
            query.l0 = Some(70.0..=90.0);
        });
        assert!(!found.is_empty() && found.iter().all(|(_, sae)| (70.0..=90.0).contains(&sae.l0.unwrap())));
    }

    #[test]
    fn widths_are_read_as_publishers_write_them() {
        for (text, width) in [("16k", 16_384), ("65k", 65_536), ("131k", 131_072), ("128k", 131_072), ("24k", 24_576)] {
            assert_eq!(widths(text), Ok(width..=width), "{text}");
        }
        assert_eq!(widths("1m"), Ok(1_048_576..=1_048_576));
        assert_eq!(widths("80k"), Ok(81_920..=81_920));
        assert_eq!(widths("24576"), Ok(24_576..=24_576));
        assert_eq!(widths("16k..65k"), Ok(16_384..=65_536));
        assert_eq!(widths("16k.."), Ok(16_384..=usize::MAX));
        assert_eq!(number_range("..60.5"), Ok(f64::MIN..=60.5));
        for wrong in ["", "k", "16q", "9..3", "-1"] {
            assert!(widths(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "nan", "9..3", "a..b"] {
            assert!(number_range(wrong).is_err(), "{wrong}");
        }
    }
}
