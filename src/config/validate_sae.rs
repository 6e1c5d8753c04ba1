//! Settings of the sparse autoencoder that cannot work, by architecture.

use super::validate::{at_least_one, fits_in_32_bits, not_negative, positive, require};
use super::{Architecture, Auto, BDecInitMethod, JumpReluSparsityLossMode, NormalizeActivations, Recipe};
use crate::error::Result;

impl Recipe {
    pub(super) fn validate_sae(&self) -> Result<()> {
        for (key, value) in [("d_in", self.d_in.value()), ("d_sae", self.d_sae.value())] {
            at_least_one(key, value.copied().unwrap_or(1))?;
        }
        at_least_one("expansion_factor", self.expansion_factor.unwrap_or(1))?;
        let d_sae = self.d_sae.value().copied().unwrap_or(1);
        fits_in_32_bits("d_sae", "latents are numbered", d_sae, || d_sae.to_string())?;
        self.validate_k()?;
        self.validate_auxk()?;
        self.validate_matryoshka()?;
        self.validate_jumprelu()?;
        self.validate_transcoder()?;
        self.validate_b_dec()?;
        self.validate_ghost_grads()?;
        let kind = self.architecture;
        require("autocast", !self.autocast || kind != Architecture::MatchingPursuit, || {
            format!("found true, expected false for architecture {kind}, which has no encoder")
        })?;
        not_negative("residual_threshold", self.residual_threshold)?;
        at_least_one("max_iterations", self.max_iterations.unwrap_or(1))?;
        self.validate_target()?;
        let resamples = self.resample_every.filter(|_| self.architecture == Architecture::MatchingPursuit);
        require("resample_every", resamples.is_none(), || {
            let found = resamples.unwrap_or_default();
            format!("found {found}, expected none for architecture matching_pursuit, which has no encoder to reset")
        })?;
        not_negative("l1_coefficient", self.l1_coefficient)?;
        positive("lp_norm", self.lp_norm)?;
        positive("decoder_init_norm", self.decoder_init_norm.unwrap_or(1.0))
    }

    fn validate_k(&self) -> Result<()> {
        if !self.architecture.has_auxk() {
            return Ok(());
        }
        self.validate_one_k("k", self.k)?;
        self.k_start.map_or(Ok(()), |k_start| self.validate_one_k("k_start", k_start))
    }

    fn validate_one_k(&self, key: &str, k: f64) -> Result<()> {
        let batch = self.train_batch_size_tokens;
        if self.architecture.selects_by_batch() {
            positive(key, k)?;
            require(key, k * batch as f64 >= 1.0, || {
                format!("{key} * train_batch_size_tokens = {k} * {batch} is less than one latent in the batch")
            })?;
        } else {
            require(key, k >= 1.0 && k.fract() == 0.0, || {
                let kind = self.architecture;
                format!(
                    "found {k}, expected a whole number of at least 1 for architecture {kind}; batchtopk takes parts"
                )
            })?;
        }
        let d_sae = self.d_sae.value().copied();
        require(key, d_sae.is_none_or(|d_sae| k <= d_sae as f64), || {
            let d_sae = d_sae.unwrap_or_default();
            format!("found {k}, expected at most d_sae = {d_sae}: no more latents than there are can be active")
        })?;
        fits_in_32_bits(key, "the active latents of a batch are numbered", (k as usize).saturating_mul(batch), || {
            format!("{key} * train_batch_size_tokens = {k} * {batch}")
        })
    }

    /// As SAELens, which finds out when the first latent has died.
    fn validate_auxk(&self) -> Result<()> {
        not_negative("aux_loss_coefficient", self.aux_loss_coefficient)?;
        let aux = self.architecture.has_auxk() && self.aux_loss_coefficient > 0.0;
        require("aux_loss_coefficient", !(aux && self.normalizes_by_row()), || {
            format!(
                "found {}, expected 0 with normalize_activations = {}: AuxK is not defined for it",
                self.aux_loss_coefficient, self.normalize_activations
            )
        })
    }

    /// As SAELens had them: in the space of the activations, which a transcoder's output is in however its input
    /// is normalised.
    fn validate_ghost_grads(&self) -> Result<()> {
        let (key, kind) = ("use_ghost_grads", self.architecture);
        let has = kind != Architecture::MatchingPursuit;
        require(key, !self.use_ghost_grads || has, || {
            format!(
                "found true, expected false for architecture {kind}: without an encoder a dead latent has no \
                 pre-activation to grow by"
            )
        })?;
        require(key, !(self.use_ghost_grads && self.normalizes_by_row() && !kind.transcodes()), || {
            let scaling = self.normalize_activations;
            format!("found true, expected false with normalize_activations = {scaling}, for which they are not defined")
        })
    }

    fn normalizes_by_row(&self) -> bool {
        use NormalizeActivations::{ConstantNormRescale, LayerNorm};
        matches!(self.normalize_activations, LayerNorm | ConstantNormRescale)
    }

    fn validate_b_dec(&self) -> Result<()> {
        let (key, method) = ("b_dec_init_method", self.b_dec_init_method);
        let zeros = method == BDecInitMethod::Zeros;
        require(key, zeros || !self.normalizes_by_row(), || {
            let normalization = self.normalize_activations;
            format!("found {method}, expected zeros with normalize_activations = {normalization}, which centers rows")
        })?;
        require(key, zeros || self.from_pretrained_path.is_none(), || {
            format!("found {method}, expected zeros with from_pretrained_path (--init), whose b_dec is taken")
        })
    }

    /// A coefficient of 0 stays 0, whatever it is multiplied by.
    fn validate_target(&self) -> Result<()> {
        let (key, coefficient) = match self.architecture {
            kind if kind.has_thresholds() => ("l0_coefficient", self.l0_coefficient),
            Architecture::Standard | Architecture::Gated => ("l1_coefficient", self.l1_coefficient),
            Architecture::Transcoder | Architecture::SkipTranscoder => ("l1_coefficient", self.l1_coefficient),
            _ => return Ok(()),
        };
        require(key, self.target_l0.is_none() || coefficient > 0.0, || {
            format!("found {coefficient}, expected more than 0 with target_l0, which is reached by multiplying it")
        })
    }

    fn validate_matryoshka(&self) -> Result<()> {
        let key = "topk_threshold_lr";
        let lr = self.topk_threshold_lr;
        require(key, (0.0..=1.0).contains(&lr), || format!("found {lr}, expected from 0 to 1"))?;
        if self.architecture != Architecture::Matryoshka {
            return Ok(());
        }
        let (key, widths) = ("matryoshka_widths", &self.matryoshka_widths);
        require(key, !widths.is_empty(), || "found [], expected widths such as [128, 512]; d_sae is added".into())?;
        require(key, widths[0] > 0 && widths.is_sorted_by(|a, b| a < b), || {
            format!("found {widths:?}, expected whole numbers from 1, each larger than the one before")
        })?;
        let last = widths.last().copied().unwrap_or_default();
        let Auto::Value(d_sae) = self.d_sae else { return Ok(()) };
        require(key, last <= d_sae, || format!("found {widths:?}, expected at most d_sae = {d_sae}"))
    }

    fn validate_transcoder(&self) -> Result<()> {
        let (kind, out) = (self.architecture, self.hook_name_out.as_deref());
        if !kind.transcodes() {
            return require("hook_name_out", out.is_none(), || {
                format!("found {}, expected none: architecture {kind} gives what it reads", out.unwrap_or_default())
            });
        }
        require("hook_name_out", out.is_some_and(|out| out != self.hook_name), || {
            format!("found {}, expected another hook than hook_name for architecture {kind}", out.unwrap_or("none"))
        })
    }

    fn validate_jumprelu(&self) -> Result<()> {
        not_negative("l0_coefficient", self.l0_coefficient)?;
        not_negative("jumprelu_init_threshold", self.jumprelu_init_threshold)?;
        positive("jumprelu_bandwidth", self.jumprelu_bandwidth)?;
        positive("jumprelu_tanh_scale", self.jumprelu_tanh_scale)?;
        not_negative("pre_act_loss_coefficient", self.pre_act_loss_coefficient.unwrap_or(0.0))?;
        positive("target_l0", self.target_l0.unwrap_or(1.0))?;
        let quadratic = self.jumprelu_sparsity_loss_mode == JumpReluSparsityLossMode::Quadratic;
        let needs_target = self.architecture.has_thresholds() && quadratic;
        require("target_l0", !needs_target || self.target_l0.is_some(), || {
            "found none, but jumprelu_sparsity_loss_mode = quadratic aims at it; give a number of active latents".into()
        })?;
        let (Some(target), Auto::Value(d_sae)) = (self.target_l0, self.d_sae) else { return Ok(()) };
        require("target_l0", target <= d_sae as f64, || format!("found {target}, expected at most d_sae = {d_sae}"))
    }
}
