//! From a recipe to the parts of a run: activations, evaluation, settings, first weights.

use super::progress::Reporter;
use super::schedule::LearningRate;
use crate::backend::{Backend, RowNorms, Sum};
use crate::config::{Auto, DatasetPath, Member, NormalizeActivations, Recipe};
use crate::data::tokenizer::excluded_ids;
use crate::data::{
    open_model, ActivationSource, Documents, FromFiles, FromFilesSettings, FromModel, FromModelSettings,
    ModelAndTokenizer, Packing, StoredActivations, TokenRows,
};
use crate::error::{Error, Result};
use crate::eval::{self, EvalConfig, Report};
use crate::formats::saelens;
use crate::hub;
use crate::lm::{LanguageModel, Processing};
use crate::sae::config::{ReshapeActivations, SaeConfig, Transcoder};
use crate::sae::inference::Sae;
use crate::sae::init::initial_weights;
use crate::sae::kind;
use crate::sae::step::{TrainingConfig, TrainingSae};
use crate::sae::weights::{HostTensor, Weights};
use serde_json::{json, Map, Value};
use std::sync::Arc;

/// Where a run's activations come from and what it is evaluated with.
pub struct Parts<B: Backend> {
    /// The batches of every hook.
    pub source: Box<dyn ActivationSource<B>>,
    /// What judges an SAE; none where activations come from files.
    pub evaluator: Option<Evaluator<B>>,
    /// What stored activations of every hook say about where they come from, by the keys of the SAE's
    /// metadata.
    pub origins: Vec<Map<String, Value>>,
}

/// The hooks of a run, each once.
pub fn hook_names(members: &[Member]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for Member { recipe, .. } in members {
        for name in [Some(&recipe.hook_name), recipe.hook_name_out.as_ref()].into_iter().flatten() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}

/// A transcoder's output among the hooks of the run; none of another SAE. Error: it is not as wide as the input.
pub fn target_hook(recipe: &Recipe, hook_names: &[String], widths: &[usize]) -> Result<Option<usize>> {
    let place = |wanted: &str| hook_names.iter().position(|name| name == wanted);
    let (Some(out), Some(input)) = (&recipe.hook_name_out, place(&recipe.hook_name)) else { return Ok(None) };
    let target = place(out);
    let (d_in, d_out) = (widths[input], target.map_or(widths[input], |target| widths[target]));
    if d_in != d_out {
        let what = format!("{out} is {d_out} wide and {} {d_in}, expected hooks of one width", recipe.hook_name);
        return Err(Error::config("hook_name_out", what));
    }
    Ok(target)
}

/// Judges an SAE on rows of held-out text.
pub struct Evaluator<B: Backend> {
    model: Arc<LanguageModel<B>>,
    rows: Vec<Vec<u32>>,
    /// The embedded held-out text, until it becomes `rows`: no first step waits for it.
    unread: Option<TokenRows>,
    config: EvalConfig,
}

impl<B: Backend> Evaluator<B> {
    /// Reads the rows, if they were not read.
    pub fn read_rows(&mut self) -> Result<()> {
        if let Some(mut held_out) = self.unread.take() {
            self.rows = held_out.take_rows(rows_wanted(&self.config))?;
        }
        Ok(())
    }

    /// All of SAELens' metrics that are one number. Once the weights are on the device the host's are given back.
    pub fn evaluate(&mut self, backend: &B, config: &SaeConfig, weights: Weights) -> Result<Report> {
        self.read_rows()?;
        let sae = Sae::new(backend, config, &weights)?;
        drop(weights);
        let mut rows = self.rows.iter().cloned().map(Ok);
        eval::evaluate(&self.model, &sae, &mut rows, &self.config)
    }
}

/// Opens what the recipe names, to read these hooks.
pub fn open<B: Backend>(
    backend: &B,
    recipe: &Recipe,
    hook_names: &[String],
    reporter: &mut dyn Reporter,
) -> Result<Parts<B>> {
    if let Some(path) = &recipe.cached_activations_path {
        let stored = hook_names.iter().map(|name| StoredActivations::open(path, name)).collect::<Result<Vec<_>>>()?;
        for (stored, hook_name) in stored.iter().zip(hook_names) {
            if hook_names.len() > 1 && stored.tensor() != hook_name {
                let what = format!("{path} gives {} for {hook_name}; name a store of all hooks", stored.tensor());
                return Err(Error::config("cached_activations_path", what));
            }
            reporter.message(&format!("activations: {} of width {} from {path}", stored.rows(), stored.width()));
        }
        let settings = FromFilesSettings {
            batch_size: recipe.train_batch_size_tokens,
            shuffle: recipe.shuffle,
            seed: recipe.data_seed(),
            repeat: true,
        };
        let origins = stored.iter().map(|stored| origin(stored, recipe)).collect();
        return Ok(Parts { source: Box::new(FromFiles::new(backend, stored, settings)?), evaluator: None, origins });
    }
    let model = open_model(backend, "model_name", &recipe.model_name, recipe.processing, recipe.autocast_lm)?;
    let config = model.model.config();
    reporter.message(&format!(
        "model: {} ({} layers, d_model {}, vocabulary {}), activations of {}",
        recipe.model_name,
        config.n_layers,
        config.d_model,
        config.d_vocab,
        hook_names.join(", ")
    ));
    let column = recipe.dataset_column.value().map(String::as_str);
    let mut rows = rows_for(&model, Documents::of(&recipe.dataset_path, column)?, recipe)?;
    let evaluator = evaluator(&model, &mut rows, recipe)?;
    let of_one = FromModelSettings::of(recipe, model.tokenizer.as_deref())?;
    let settings = FromModelSettings { hook_names: hook_names.to_vec(), ..of_one };
    let source = Box::new(FromModel::new(backend, model.model, rows, settings)?);
    Ok(Parts { source, evaluator: Some(evaluator), origins: vec![Map::new(); hook_names.len()] })
}

/// Of a store its own word. A lone file says at most the hook, as its tensor's name: for the rest
/// the recipe's word is taken, but not its defaults, which are about the embedded model.
fn origin(stored: &StoredActivations, recipe: &Recipe) -> Map<String, Value> {
    let mut origin = match stored.metadata() {
        Some(metadata) => metadata.clone(),
        None => stated_origin(recipe),
    };
    if let Some(processing) = origin.remove("processing") {
        origin.insert("model_from_pretrained_kwargs".into(), model_arguments(processing == "transformer-lens"));
    }
    if stored.tensor().contains("hook_") {
        origin.insert("hook_name".into(), stored.tensor().into());
    }
    origin
}

/// What the recipe says of where activations come from, unless it is its default, about the embedded model.
fn stated_origin(recipe: &Recipe) -> Map<String, Value> {
    let model = (recipe.model_name != Recipe::default().model_name).then_some(&recipe.model_name);
    let text = (recipe.dataset_path != DatasetPath::Embedded).then(|| setting(recipe, "dataset_path"));
    object(json!({ "model_name": model, "dataset_path": text }))
}

/// As [`sae_config`], for activations of which nothing is known but what the recipe states.
pub fn sae_config_of_stated_origin(recipe: &Recipe) -> SaeConfig {
    let mut origin = stated_origin(recipe);
    if origin["model_name"].is_null() {
        origin.insert("hook_name".into(), Value::Null);
    }
    sae_config(recipe, origin)
}

/// How SAELens is told to load the model.
fn model_arguments(centred: bool) -> Value {
    json!({ "center_writing_weights": centred })
}

fn rows_for<B: Backend>(model: &ModelAndTokenizer<B>, documents: Documents, recipe: &Recipe) -> Result<TokenRows> {
    TokenRows::new(documents, model.tokenizer.clone(), &Packing::of(recipe), model.model.config().d_vocab)
}

/// As in SAELens' trainer, both parts of the metrics get `n_eval_batches`.
fn rows_wanted(config: &EvalConfig) -> usize {
    2 * config.n_eval_reconstruction_batches * config.batch_size_prompts
}

/// Takes the rows to evaluate on: of `eval_dataset_path`, of the embedded held-out text for the
/// embedded training text, or else the first rows of the data, which are then not trained on.
fn evaluator<B: Backend>(
    model: &ModelAndTokenizer<B>,
    training: &mut TokenRows,
    recipe: &Recipe,
) -> Result<Evaluator<B>> {
    let config = EvalConfig {
        batch_size_prompts: recipe.eval_batch_size_prompts(),
        n_eval_reconstruction_batches: recipe.n_eval_batches,
        n_eval_sparsity_variance_batches: recipe.n_eval_batches,
        exclude_tokens: excluded_ids(&recipe.exclude_special_tokens, model.tokenizer.as_deref())?,
        featurewise: false,
    };
    let wanted = rows_wanted(&config);
    let column = recipe.dataset_column.value().map(String::as_str);
    let (rows, unread) = match (&recipe.eval_dataset_path, &recipe.dataset_path) {
        (Auto::Value(path), _) => (rows_for(model, Documents::of(path, column)?, recipe)?.take_rows(wanted)?, None),
        (Auto::Auto, DatasetPath::Embedded) => {
            (Vec::new(), Some(rows_for(model, Documents::embedded_heldout()?, recipe)?))
        }
        (Auto::Auto, DatasetPath::Paths(_)) => (training.set_aside(wanted)?, None),
    };
    Ok(Evaluator { model: model.model.clone(), rows, unread, config })
}

fn d_in(recipe: &Recipe) -> usize {
    recipe.d_in.value().copied().expect("the recipe was resolved")
}

/// The settings of the training step, of a resolved recipe.
pub fn training_config(recipe: &Recipe) -> TrainingConfig {
    TrainingConfig {
        architecture: kind::of(recipe).config(recipe),
        d_in: d_in(recipe),
        d_sae: recipe.d_sae(d_in(recipe)),
        train_batch_size_tokens: recipe.train_batch_size_tokens,
        apply_b_dec_to_input: recipe.apply_b_dec_to_input,
        normalize_activations: recipe.normalize_activations,
        adam_beta1: recipe.adam_beta1,
        adam_beta2: recipe.adam_beta2,
        adam_epsilon: recipe.adam_epsilon,
        max_grad_norm: recipe.max_grad_norm.map(|norm| norm as f32),
        autocast: recipe.autocast,
        dead_feature_window: recipe.dead_feature_window as u32,
    }
}

/// The learning rate's course.
pub fn learning_rate(recipe: &Recipe) -> LearningRate {
    LearningRate {
        scheduler: recipe.lr_scheduler_name,
        lr: recipe.lr,
        lr_end: recipe.lr_end(),
        warm_up_steps: recipe.lr_warm_up_steps() as u64,
        decay_steps: recipe.lr_decay_steps() as u64,
        n_restart_cycles: recipe.n_restart_cycles as u64,
        total_steps: recipe.total_training_steps() as u64,
    }
}

/// What `cfg.json` says of the SAE, with the metadata that SAELens' training writes; where `origin`
/// has a key, it is right and the recipe is not.
pub fn sae_config(recipe: &Recipe, origin: Map<String, Value>) -> SaeConfig {
    let mut config = SaeConfig::new(kind::of(recipe).inference(recipe), d_in(recipe), recipe.d_sae(d_in(recipe)));
    config.apply_b_dec_to_input = recipe.apply_b_dec_to_input;
    if recipe.architecture.transcodes() {
        config.transcoder = Some(Transcoder { d_out: config.d_in, skip: kind::of(recipe).skips() });
    }
    config.normalize_activations = recipe.normalize_activations;
    config.metadata = object(json!({
        "cusae_version": env!("CARGO_PKG_VERSION"),
        "dataset_path": setting(recipe, "dataset_path"),
        "hook_name": recipe.hook_name,
        "hook_head_index": null,
        "model_name": recipe.model_name,
        "model_class_name": "HookedTransformer",
        "model_from_pretrained_kwargs": model_arguments(recipe.processing == Processing::TransformerLens),
        "context_size": recipe.context_size,
        "seqpos_slice": recipe.seqpos_slice.arguments(),
        "prepend_bos": recipe.prepend_bos,
        "exclude_special_tokens": setting(recipe, "exclude_special_tokens"),
        "sequence_separator_token": setting(recipe, "sequence_separator_token"),
        "disable_concat_sequences": recipe.disable_concat_sequences,
    }));
    if let Some(hook_name_out) = &recipe.hook_name_out {
        config.metadata.insert("hook_name_out".into(), hook_name_out.as_str().into());
    }
    config.metadata.extend(origin);
    if config.metadata["hook_name"].as_str().is_some_and(|name| name.ends_with("hook_z")) {
        config.reshape_activations = ReshapeActivations::HookZ;
    }
    config.set_training(recipe.architecture.name(), training_settings(recipe));
    config
}

/// The keys that SAELens' training configuration of the architecture has beyond the inference one's.
fn training_settings(recipe: &Recipe) -> Map<String, Value> {
    let mut settings = object(json!({ "decoder_init_norm": recipe.decoder_init_norm }));
    settings.extend(object(kind::of(recipe).training_settings(recipe)));
    settings
}

/// `runner_cfg.json`: the recipe, with the SAE's own settings under `sae` as SAELens nests them.
pub fn runner_config(recipe: &Recipe, config: &SaeConfig) -> Value {
    let mut runner = object(serde_json::to_value(recipe.to_table()).expect("a table of plain values"));
    runner.insert("sae".into(), saelens::cfg_json(config, true));
    Value::Object(runner)
}

/// A recipe key's value as JSON.
fn setting(recipe: &Recipe, key: &str) -> Value {
    serde_json::to_value(&recipe.to_table()[key]).expect("a plain value")
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other} is written as an object"),
    }
}

/// An SAE at the start of its training: see [`first_weights`].
pub fn training_sae<B: Backend>(backend: &B, recipe: &Recipe, config: &SaeConfig) -> Result<TrainingSae<B>> {
    let (weights, state) = first_weights(recipe, config)?;
    let mut sae = TrainingSae::new(backend, training_config(recipe), &weights)?;
    if !state.is_empty() {
        sae.restore_architecture(&state)?;
    }
    if recipe.normalize_sae_decoder {
        sae.keep_unit_norm()?;
    }
    if recipe.use_ghost_grads {
        sae.keep_ghost_gradients()?;
    }
    if let Some(decay) = recipe.ema_decay {
        sae.keep_average(decay)?;
    }
    Ok(sae)
}

/// The weights to start from, random or those of `from_pretrained_path`, and the architecture's state
/// that goes with them, if there is one.
fn first_weights(recipe: &Recipe, config: &SaeConfig) -> Result<(Weights, Vec<f64>)> {
    let kind = kind::of(recipe);
    let Some(path) = &recipe.from_pretrained_path else {
        let norm = recipe.decoder_init_norm.map(|norm| norm as f32);
        let mut weights = initial_weights([config.d_in, config.d_sae], &kind.vectors(recipe), norm, recipe.seed);
        if kind.is_tied() {
            weights.remove("W_enc");
        }
        if kind.skips() {
            let shape = vec![config.d_out(), config.d_in];
            weights.insert("W_skip", HostTensor { values: vec![0.0; shape[0] * shape[1]], shape });
        }
        return Ok((weights, Vec::new()));
    };
    let saved = hub::sae("from_pretrained_path", path)?.load()?;
    let (found, wanted) = (&saved.config, config);
    if (found.d_in, found.d_sae) != (wanted.d_in, wanted.d_sae) {
        let what = format!(
            "{path} is {} x {}, expected d_in {} x d_sae {}; set d_sae or choose another SAE",
            found.d_in, found.d_sae, wanted.d_in, wanted.d_sae
        );
        return Err(Error::config("from_pretrained_path", what));
    }
    if found.architecture_name() != wanted.architecture_name() {
        let (found, wanted) = (found.architecture_name(), wanted.architecture_name());
        let what = format!("{path} is a {found} SAE, expected {wanted}; set architecture");
        return Err(Error::config("from_pretrained_path", what));
    }
    let mut weights = saved.weights;
    if recipe.normalize_sae_decoder {
        weights.fold_w_dec_norm();
    }
    let state = kind.start_from(recipe, &mut weights);
    Ok((weights, state))
}

/// For every hook `sqrt(d_in) / mean |x|` over the first `n_batches_for_norm_estimate` batches, which are
/// not trained on, where `expected_average_only_in` asks for it; else 1.
/// Source: SAELens `activation_scaler.py`.
pub fn input_scales<B: Backend>(
    backend: &B,
    recipe: &Recipe,
    source: &mut dyn ActivationSource<B>,
    reporter: &mut dyn Reporter,
) -> Result<Vec<f32>> {
    let widths = source.widths();
    if recipe.normalize_activations != NormalizeActivations::ExpectedAverageOnlyIn {
        return Ok(vec![1.0; widths.len()]);
    }
    let (rows, n) = (recipe.train_batch_size_tokens, recipe.n_batches_for_norm_estimate);
    reporter.message(&format!("measuring the norm of {n} batches"));
    let batches = widths.iter().map(|columns| backend.zeros(rows * columns));
    let mut batches = batches.collect::<Result<Vec<_>>>()?;
    let (mut norms, mut of_batch) = (backend.zeros(rows)?, backend.zeros(1)?);
    let mut sums = vec![0.0; widths.len()];
    for _ in 0..n {
        source.next_batches(&mut batches)?;
        for ((matrix, &columns), sum) in batches.iter().zip(&widths).zip(&mut sums) {
            backend.row_norms(RowNorms { matrix, rows, columns, norms: &mut norms })?;
            backend.sum(Sum { values: &norms, len: rows, out: &mut of_batch, slot: 0 })?;
            *sum += backend.read_element(&of_batch, 0)? / rows as f64;
        }
    }
    let scale = |(sum, columns): (f64, usize)| ((columns as f64).sqrt() / (sum / n as f64)) as f32;
    Ok(sums.into_iter().zip(widths).map(scale).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Rank;
    use crate::config::Architecture;
    use crate::sae::architecture::ArchitectureConfig;
    use crate::sae::standard::StandardConfig;
    use crate::sae::topk::TopKConfig;

    #[test]
    fn the_step_gets_its_settings_from_the_recipe() {
        let recipe = Recipe {
            d_in: Auto::Value(8),
            d_sae: Auto::Value(64),
            k: 3.0,
            aux_loss_coefficient: 0.5,
            rescale_acts_by_decoder_norm: false,
            apply_b_dec_to_input: false,
            normalize_activations: NormalizeActivations::ExpectedAverageOnlyIn,
            adam_beta1: 0.1,
            adam_beta2: 0.2,
            adam_epsilon: 0.3,
            max_grad_norm: Some(4.0),
            autocast: false,
            dead_feature_window: 9,
            train_batch_size_tokens: 32,
            ..Recipe::default()
        };
        let (rank, rescale_acts_by_decoder_norm) = (Rank::Value, false);
        let topk = TopKConfig { k: 3, rank, aux_loss_coefficient: 0.5, rescale_acts_by_decoder_norm };
        let expected = TrainingConfig {
            architecture: ArchitectureConfig::TopK(topk),
            d_in: 8,
            d_sae: 64,
            train_batch_size_tokens: 32,
            apply_b_dec_to_input: false,
            normalize_activations: NormalizeActivations::ExpectedAverageOnlyIn,
            adam_beta1: 0.1,
            adam_beta2: 0.2,
            adam_epsilon: 0.3,
            max_grad_norm: Some(4.0),
            autocast: false,
            dead_feature_window: 9,
        };
        assert_eq!(training_config(&recipe), expected);
        let standard = Recipe { architecture: Architecture::Standard, lp_norm: 2.0, max_grad_norm: None, ..recipe };
        let config = training_config(&standard);
        assert_eq!(config.architecture, ArchitectureConfig::Standard(StandardConfig { lp_norm: 2.0 }));
        assert_eq!(config.max_grad_norm, None);
    }
}
