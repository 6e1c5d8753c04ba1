//! How much each feature adds to a logit: directly, through the residual stream, and by the gradient
//! through everything that comes after.

use super::features::FeatureReader;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::lm::{LanguageModel, LogitSum, Record};
use crate::sae::inference::Sae;

/// One active feature at one position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribution {
    /// Position in the prompt.
    pub position: usize,
    /// Which feature.
    pub feature: u32,
    /// Its activation there.
    pub activation: f32,
    /// `activation · decoder row · d logits / d stream` with the final LayerNorm's scale held fixed, by
    /// the residual stream alone; none where that does not reach: at other positions than the target's,
    /// and at hooks that are not added to the stream.
    pub direct: Option<f32>,
    /// `activation · decoder row · d logits / d activation there`, exact to first order: the gradient
    /// attribution of SAELens' tutorials, with the error term.
    pub gradient: f32,
}

/// Attribution of `of` to every feature that is active on `tokens` but those of `exclude_tokens`, which pass
/// the SAE by; the largest absolute gradient attribution first. Errors: the SAE does not fit the model; as of
/// [`LanguageModel::logit_gradient`].
pub fn attribute<B: Backend>(
    model: &LanguageModel<B>,
    sae: &Sae<B>,
    tokens: &[u32],
    of: &LogitSum,
    exclude_tokens: &[u32],
) -> Result<Vec<Attribution>> {
    let hook = crate::eval::hooks_of(model, sae)?.output;
    let d_out = sae.config().d_out();
    let mut reader = FeatureReader::new(model, sae, 1, tokens.len())?;
    let features = reader.read(tokens)?;
    let row_scale = reader.row_scale()?;
    let gradient = model.logit_gradient(tokens, hook, of)?;
    let direct = match reaches_the_end(hook) {
        true => Some(direct_direction(model, tokens, of)?),
        false => None,
    };
    let mut found = Vec::with_capacity(features.values().len());
    for position in (0..tokens.len()).filter(|&position| !exclude_tokens.contains(&tokens[position])) {
        let scale = row_scale.as_ref().map_or(1.0, |scale| scale[position]);
        let (indices, values) = features.row(position);
        for (&feature, &activation) in indices.iter().zip(values) {
            let decoder = sae.decoder_direction(feature)?;
            let along = |direction: &[f32]| -> f32 {
                let dot: f64 = decoder.iter().zip(direction).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                (dot * f64::from(activation) * f64::from(scale)) as f32
            };
            let direct = direct.as_deref().filter(|_| position == of.position).map(along);
            let gradient = along(&gradient[position * d_out..(position + 1) * d_out]);
            found.push(Attribution { position, feature, activation, direct, gradient });
        }
    }
    found.sort_by(|a, b| {
        let size = b.gradient.abs().total_cmp(&a.gradient.abs());
        size.then(a.position.cmp(&b.position)).then(a.feature.cmp(&b.feature))
    });
    Ok(found)
}

/// Whether what is at the hook is part of the residual stream from there on.
pub(super) fn reaches_the_end(hook: &str) -> bool {
    ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"]
        .iter()
        .any(|part| hook.ends_with(part))
}

/// `d of / d (residual stream at the target's position)` by the final LayerNorm and the unembedding
/// alone, the LayerNorm's scale held fixed `[d_model]`.
fn direct_direction<B: Backend>(model: &LanguageModel<B>, tokens: &[u32], of: &LogitSum) -> Result<Vec<f32>> {
    let scale_hook = "ln_final.hook_scale";
    let mut record = Record::of([scale_hook]);
    model.forward(1, tokens.len())?.run(model, tokens, &mut record, Some(scale_hook))?;
    let (_, scales) = record.values.remove(scale_hook).unwrap_or_default();
    let scale = scales.get(of.position).copied().ok_or_else(|| {
        let what = format!("position {} of {} tokens", of.position, tokens.len());
        Error::Shape { operation: "attribute", what }
    })?;
    let direction = model.logit_direction(&of.weights)?;
    let mean = direction.iter().map(|&x| f64::from(x)).sum::<f64>() / direction.len() as f64;
    Ok(direction.iter().map(|&x| ((f64::from(x) - mean) / f64::from(scale)) as f32).collect())
}
