//! What follows from a recipe, and the settings that cannot work, each refused with the arithmetic.

use super::{Architecture, Auto, LrSchedulerName, Recipe};
use crate::error::{Error, Result};

/// Fails with a sentence about `key` when a condition does not hold.
pub(super) fn require(key: &str, holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::config(key, what()))
}

impl Recipe {
    /// Steps of the whole run: `training_tokens / train_batch_size_tokens`, rounded down.
    pub fn total_training_steps(&self) -> usize {
        self.training_tokens / self.train_batch_size_tokens.max(1)
    }

    /// Steps of learning-rate warm-up; auto is 5 % of all steps.
    pub fn lr_warm_up_steps(&self) -> usize {
        self.lr_warm_up_steps.value().copied().unwrap_or(self.total_training_steps() / 20)
    }

    /// Steps of learning-rate decay; auto is 20 % of all steps.
    pub fn lr_decay_steps(&self) -> usize {
        self.lr_decay_steps.value().copied().unwrap_or(self.total_training_steps() / 5)
    }

    /// Learning rate at the end of the cosine schedules; auto is `lr / 10`.
    pub fn lr_end(&self) -> f64 {
        self.lr_end.value().copied().unwrap_or(self.lr / 10.0)
    }

    /// Steps over which `l1_coefficient` rises; auto is 5 % of all steps.
    pub fn l1_warm_up_steps(&self) -> usize {
        self.l1_warm_up_steps.value().copied().unwrap_or(self.total_training_steps() / 20)
    }

    /// Steps over which `l0_coefficient` rises; auto is 5 % of all steps.
    pub fn l0_warm_up_steps(&self) -> usize {
        self.l0_warm_up_steps.value().copied().unwrap_or(self.total_training_steps() / 20)
    }

    /// Steps until k is what it stays; auto is 5 % of all steps.
    pub fn k_anneal_steps(&self) -> usize {
        self.k_anneal_steps.value().copied().unwrap_or(self.total_training_steps() / 20)
    }

    /// The most latents that a token ever has active by the recipe, in the batch kinds on average.
    pub fn largest_k(&self) -> f64 {
        self.k_start.unwrap_or(self.k).max(self.k)
    }

    /// The widths with d_sae, which SAELens adds, too.
    fn matryoshka_widths(&self, d_sae: usize) -> Vec<usize> {
        let mut widths = self.matryoshka_widths.clone();
        if self.architecture == Architecture::Matryoshka && widths.last() != Some(&d_sae) {
            widths.push(d_sae);
        }
        widths
    }

    /// Norm of every decoder row at the start: 1 where it stays that; matching pursuit needs 1, as SAELens
    /// sees to.
    fn decoder_init_norm(&self) -> Option<f64> {
        match self.architecture {
            Architecture::MatchingPursuit => Some(1.0),
            _ if self.normalize_sae_decoder => Some(1.0),
            _ => self.decoder_init_norm,
        }
    }

    /// Seed of the order of activations; auto is `seed`.
    pub fn data_seed(&self) -> u64 {
        self.data_seed.value().copied().unwrap_or(self.seed)
    }

    /// Rows in a batch of an evaluation; auto is `store_batch_size_prompts`.
    pub fn eval_batch_size_prompts(&self) -> usize {
        self.eval_batch_size_prompts.value().copied().unwrap_or(self.store_batch_size_prompts)
    }

    /// Number of latents for activations of width `d_in`; auto is `expansion_factor * d_in`, with 16
    /// where no factor is given.
    pub fn d_sae(&self, d_in: usize) -> usize {
        self.d_sae.value().copied().unwrap_or(self.expansion_factor.unwrap_or(16).saturating_mul(d_in))
    }

    /// Positions of a row whose activations are used.
    pub fn training_context_size(&self) -> usize {
        self.seqpos_slice.positions(self.context_size).len()
    }

    /// The recipe with every `auto` that a number stands behind replaced by it, for activations of
    /// width `d_in`: what is saved with a run. Errors: `d_in` or `expansion_factor` says otherwise;
    /// a setting is impossible (as [`Recipe::validate`]).
    pub fn resolve(&self, d_in: usize) -> Result<Recipe> {
        if let Auto::Value(stated) = self.d_in {
            require("d_in", stated == d_in, || {
                format!("found {stated}, but the activations of {} are {d_in} wide", self.activations())
            })?;
        }
        let d_sae = self.d_sae(d_in);
        if let Some(factor) = self.expansion_factor {
            let product = factor.saturating_mul(d_in);
            require("expansion_factor", product == d_sae, || {
                format!("{factor} * d_in = {factor} * {d_in} = {product}, but d_sae is {d_sae}; give one of them")
            })?;
        }
        let resolved = Recipe {
            d_in: Auto::Value(d_in),
            d_sae: Auto::Value(d_sae),
            k_anneal_steps: Auto::Value(self.k_anneal_steps()),
            matryoshka_widths: self.matryoshka_widths(d_sae),
            decoder_init_norm: self.decoder_init_norm(),
            // A transcoder's b_dec is of its output.
            apply_b_dec_to_input: self.apply_b_dec_to_input && !self.architecture.transcodes(),
            l1_warm_up_steps: Auto::Value(self.l1_warm_up_steps()),
            l0_warm_up_steps: Auto::Value(self.l0_warm_up_steps()),
            lr_warm_up_steps: Auto::Value(self.lr_warm_up_steps()),
            lr_decay_steps: Auto::Value(self.lr_decay_steps()),
            lr_end: Auto::Value(self.lr_end()),
            data_seed: Auto::Value(self.data_seed()),
            eval_batch_size_prompts: Auto::Value(self.eval_batch_size_prompts()),
            ..self.clone()
        };
        resolved.validate()?;
        Ok(resolved)
    }

    /// Refuses settings that cannot work, as far as the recipe alone tells. Errors: the key, what
    /// was found, what is possible, the arithmetic.
    pub fn validate(&self) -> Result<()> {
        self.validate_sae()?;
        self.validate_text()?;
        self.validate_steps()?;
        self.validate_optimizer()?;
        self.validate_rest()
    }

    fn activations(&self) -> &str {
        self.cached_activations_path.as_deref().unwrap_or(&self.hook_name)
    }

    fn validate_text(&self) -> Result<()> {
        require("context_size", self.context_size >= 2, || {
            format!("found {}, expected at least 2: a token and the one that is predicted from it", self.context_size)
        })?;
        for (key, rows) in [
            ("store_batch_size_prompts", self.store_batch_size_prompts),
            ("eval_batch_size_prompts", self.eval_batch_size_prompts()),
        ] {
            let context = self.context_size;
            fits_in_32_bits(key, "the tokens of a batch are numbered", rows.saturating_mul(context), || {
                format!("{key} * context_size = {rows} * {context}")
            })?;
        }
        require("seqpos_slice", self.training_context_size() > 0, || {
            format!("no position of a row of context_size = {} is left", self.context_size)
        })
    }

    fn validate_steps(&self) -> Result<()> {
        let (batch, tokens) = (self.train_batch_size_tokens, self.training_tokens);
        at_least_one("train_batch_size_tokens", batch)?;
        require("training_tokens", tokens >= batch, || {
            format!("found {tokens}, expected at least train_batch_size_tokens = {batch}, which is one step")
        })?;
        at_least_one("store_batch_size_prompts", self.store_batch_size_prompts)?;
        require("buffer_tokens", self.buffer_tokens >= batch, || {
            format!("found {}, expected at least train_batch_size_tokens = {batch}", self.buffer_tokens)
        })?;
        fits_in_32_bits("buffer_tokens", "its rows are numbered", self.buffer_tokens, || {
            self.buffer_tokens.to_string()
        })?;
        require("activations_mixing_fraction", (0.0..=1.0).contains(&self.activations_mixing_fraction), || {
            format!("found {}, expected from 0 to 1", self.activations_mixing_fraction)
        })?;
        require("shuffle", self.shuffle || self.cached_activations_path.is_some(), || {
            "only stored activations can be taken in order: give cached_activations_path (--activations)".into()
        })?;
        let (warm_up, decay, steps) = (self.lr_warm_up_steps(), self.lr_decay_steps(), self.total_training_steps());
        require("lr_warm_up_steps", warm_up.saturating_add(decay) <= steps, || {
            format!(
                "lr_warm_up_steps + lr_decay_steps = {warm_up} + {decay} is more than the {steps} steps of the run \
                 (training_tokens / train_batch_size_tokens = {tokens} / {batch})"
            )
        })?;
        require("k_anneal_steps", self.k_start.is_none() || self.k_anneal_steps() <= steps, || {
            format!("found {}, expected at most the {steps} steps of the run", self.k_anneal_steps())
        })?;
        at_least_one("resample_every", self.resample_every.unwrap_or(1))?;
        at_least_one("resample_batches", self.resample_batches)?;
        let main = steps.saturating_sub(warm_up + decay);
        require("lr_scheduler_name", self.lr_scheduler_name == LrSchedulerName::Constant || main > 0, || {
            format!("{} has no step: {steps} - {warm_up} warm-up - {decay} decay = 0", self.lr_scheduler_name)
        })?;
        let restarts = self.lr_scheduler_name == LrSchedulerName::CosineAnnealingWarmRestarts;
        at_least_one("n_restart_cycles", self.n_restart_cycles)?;
        require("n_restart_cycles", !restarts || self.n_restart_cycles <= main, || {
            format!("found {}, expected at most the {main} steps between warm-up and decay", self.n_restart_cycles)
        })
    }

    fn validate_optimizer(&self) -> Result<()> {
        positive("lr", self.lr)?;
        let (lr, lr_end) = (self.lr, self.lr_end());
        require("lr_end", (0.0..=lr).contains(&lr_end), || format!("found {lr_end}, expected from 0 to lr = {lr}"))?;
        let cosine = self.lr_scheduler_name != LrSchedulerName::Constant;
        require("lr_end", !cosine || lr_end > 0.0 || self.lr_decay_steps() == 0, || {
            format!("found 0, but lr_decay_steps = {} would then decay from 0 to 0", self.lr_decay_steps())
        })?;
        for (key, beta) in [("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2)] {
            require(key, (0.0..1.0).contains(&beta), || format!("found {beta}, expected at least 0 and less than 1"))?;
        }
        let decay = self.ema_decay.unwrap_or(0.0);
        require("ema_decay", (0.0..1.0).contains(&decay), || {
            format!("found {decay}, expected at least 0 and less than 1, or none")
        })?;
        positive("adam_epsilon", self.adam_epsilon)?;
        positive("max_grad_norm", self.max_grad_norm.unwrap_or(1.0))
    }

    fn validate_rest(&self) -> Result<()> {
        at_least_one("n_batches_for_norm_estimate", self.n_batches_for_norm_estimate)?;
        at_least_one("dead_feature_window", self.dead_feature_window)?;
        at_least_one("feature_sampling_window", self.feature_sampling_window)?;
        at_least_one("n_eval_batches", self.n_eval_batches)?;
        at_least_one("eval_batch_size_prompts", self.eval_batch_size_prompts())?;
        at_least_one("eval_every_n_steps", self.eval_every_n_steps.unwrap_or(1))?;
        at_least_one("log_every", self.log_every)?;
        positive("checkpoint_every_seconds", self.checkpoint_every_seconds.unwrap_or(1.0))
    }
}

pub(super) fn at_least_one(key: &str, found: usize) -> Result<()> {
    require(key, found > 0, || "found 0, expected at least 1".into())
}

pub(super) fn fits_in_32_bits(key: &str, why: &str, found: usize, arithmetic: impl FnOnce() -> String) -> Result<()> {
    require(key, u32::try_from(found).is_ok(), || {
        format!("found {}, expected at most {}: {why} with 32 bits", arithmetic(), u32::MAX)
    })
}

pub(super) fn positive(key: &str, found: f64) -> Result<()> {
    require(key, found > 0.0, || format!("found {found}, expected more than 0"))
}

pub(super) fn not_negative(key: &str, found: f64) -> Result<()> {
    require(key, found >= 0.0, || format!("found {found}, expected at least 0"))
}
