//! The recipe of a training run: every setting is declared once, below, with its name, type,
//! default, group and description. The struct, TOML, the command line's flags and the listings all
//! come from that table. Names are SAELens' config fields where SAELens has them, in one flat list.

mod foreign;
mod setting;
mod sweep;
mod validate;
mod validate_sae;
mod values;

pub use setting::{Auto, Setting};
pub use sweep::{Member, Sweep};
pub use values::{
    Architecture, BDecInitMethod, DatasetPath, Dtype, ExcludeSpecialTokens, Format, JumpReluSparsityLossMode,
    LrSchedulerName, NormalizeActivations, SeqposSlice, SpecialToken, SweepOrder,
};

pub use foreign::{foreign_keys, foreign_reason};

use crate::error::{Error, Result};
use crate::lm::Processing;
use setting::describe;
use std::path::Path;
use toml::{Table, Value};

/// One line of the recipe's table, for listings.
#[derive(Clone, Debug)]
pub struct Key {
    /// As in TOML and in SAELens.
    pub name: &'static str,
    /// What it belongs to.
    pub group: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// The default, as TOML writes it.
    pub default: Value,
    /// What is possible, to follow the word "expected".
    pub expected: String,
}

macro_rules! recipe {
    ($($group:literal { $(#[doc = $doc:literal] $name:ident: $type:ty = $default:expr,)+ })+) => {
        /// Every setting of a training run.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Recipe {
            $($(#[doc = $doc] pub $name: $type,)+)+
        }

        impl Default for Recipe {
            fn default() -> Self {
                Recipe { $($($name: $default,)+)+ }
            }
        }

        impl Recipe {
            /// The whole table, in the order of declaration.
            pub fn keys() -> Vec<Key> {
                let defaults = Recipe::default();
                vec![$($(Key {
                    name: stringify!($name),
                    group: $group,
                    doc: $doc.trim_ascii(),
                    default: defaults.$name.write(),
                    expected: <$type>::expected(),
                },)+)+]
            }

            /// Sets one key to a TOML value. Errors: no such key; the value has another type.
            pub fn set(&mut self, key: &str, value: &Value) -> Result<()> {
                match key {
                    $($(stringify!($name) => self.$name = accept(key, <$type>::read(value), || describe(value))?,)+)+
                    _ => return Err(unknown_key(key)),
                }
                Ok(())
            }

            /// Sets one key to what a flag's text stands for. Errors as for [`Recipe::set`].
            pub fn set_text(&mut self, key: &str, text: &str) -> Result<()> {
                match key {
                    $($(stringify!($name) => self.$name = accept(key, <$type>::parse(text), || format!("{text:?}"))?,)+)+
                    _ => return Err(unknown_key(key)),
                }
                Ok(())
            }

            /// Every key with its value, in the order of declaration.
            pub fn to_table(&self) -> Table {
                let mut table = Table::new();
                $($(table.insert(stringify!($name).into(), self.$name.write());)+)+
                table
            }
        }
    };
}

recipe! {
    "Sparse autoencoder" {
        /// Kind of sparse autoencoder.
        architecture: Architecture = Architecture::TopK,
        /// Width of the activations; auto takes the hook's, a number is checked against it.
        d_in: Auto<usize> = Auto::Auto,
        /// Number of latents; auto is expansion_factor times d_in, or 16 times without one.
        d_sae: Auto<usize> = Auto::Auto,
        /// Number of latents as a multiple of d_in.
        expansion_factor: Option<usize> = None,
        /// topk, abstopk, batchtopk, matryoshka_batchtopk: latents that stay active for each token, in the batch kinds on average.
        k: f64 = 32.0,
        /// The same four: k of the first step, from which it moves evenly to k; none is k.
        k_start: Option<f64> = None,
        /// The same four, with k_start: steps until k is reached; auto is 5 % of all steps.
        k_anneal_steps: Auto<usize> = Auto::Auto,
        /// The same four: factor on the loss that revives dead latents (AuxK).
        aux_loss_coefficient: f64 = 1.0,
        /// The same four: compare latents by pre-activation times decoder norm.
        rescale_acts_by_decoder_norm: bool = true,
        /// batchtopk, matryoshka_batchtopk: weight of a batch in the running mean of the threshold for inference.
        topk_threshold_lr: f64 = 0.01,
        /// matryoshka_batchtopk: numbers of first latents that must reconstruct on their own, ascending; d_sae is added.
        matryoshka_widths: Vec<usize> = Vec::new(),
        /// matryoshka_batchtopk: an AuxK for every width's own dead latents and error.
        use_matryoshka_aux_loss: bool = false,
        /// standard, gated: factor on the sparsity loss.
        l1_coefficient: f64 = 1.0,
        /// standard: p of the sparsity loss' norm.
        lp_norm: f64 = 1.0,
        /// standard, gated: steps over which the factor rises from 0; auto is 5 % of all steps.
        l1_warm_up_steps: Auto<usize> = Auto::Auto,
        /// jumprelu: factor on the sparsity loss.
        l0_coefficient: f64 = 1.0,
        /// jumprelu: steps over which the factor rises from 0; auto is 5 % of all steps.
        l0_warm_up_steps: Auto<usize> = Auto::Auto,
        /// jumprelu: the thresholds at the start.
        jumprelu_init_threshold: f64 = 0.01,
        /// jumprelu: width of the window in which thresholds get a gradient.
        jumprelu_bandwidth: f64 = 0.05,
        /// jumprelu: form of the sparsity loss.
        jumprelu_sparsity_loss_mode: JumpReluSparsityLossMode = JumpReluSparsityLossMode::Step,
        /// jumprelu with tanh: factor inside it.
        jumprelu_tanh_scale: f64 = 4.0,
        /// jumprelu: whether the window's gradient reaches the encoder, too.
        jumprelu_ste_to_input: bool = false,
        /// jumprelu: factor on a loss that pulls dead latents up to their thresholds.
        pre_act_loss_coefficient: Option<f64> = None,
        /// standard, gated, jumprelu: active latents of a token that the factor on the sparsity loss is moved for; with quadratic the loss' aim.
        target_l0: Option<f64> = None,
        /// matching_pursuit: a token is finished when the norm of what is left of it falls below; 0 for never.
        residual_threshold: f64 = 1e-2,
        /// matching_pursuit: latents of a token at most; none for d_in.
        max_iterations: Option<usize> = None,
        /// matching_pursuit: whether a token is finished when a latent is taken again.
        stop_on_duplicate_support: bool = true,
        /// Whether the decoder's bias is subtracted from the encoder's input; a transcoder's is not.
        apply_b_dec_to_input: bool = true,
        /// Scaling of the activations.
        normalize_activations: NormalizeActivations = NormalizeActivations::None,
        /// Norm of every decoder row at the start; none leaves the random one. Of matching_pursuit it is 1.
        decoder_init_norm: Option<f64> = Some(0.1),
        /// Whether the decoder's rows are kept at norm 1, and gradients lose what they have along their rows.
        normalize_sae_decoder: bool = false,
        /// Where b_dec starts; mean and geometric_median are those of buffer_tokens activations, not trained on.
        b_dec_init_method: BDecInitMethod = BDecInitMethod::Zeros,
        /// Number format of weights and activations.
        dtype: Dtype = Dtype::Float32,
        /// Folder or name of an SAE to start from instead of random weights (--init).
        from_pretrained_path: Option<String> = None,
    }
    "Language model" {
        /// Hugging Face folder of a GPT-2, its name on the Hub, or the embedded model.
        model_name: String = "embedded".into(),
        /// Where in the model activations are read, as TransformerLens names it.
        hook_name: String = "blocks.2.hook_resid_pre".into(),
        /// transcoders: where in the model the activations are that they predict, as wide as those they read.
        hook_name_out: Option<String> = None,
        /// What is done to the model's weights when they are loaded.
        processing: Processing = Processing::None,
    }
    "Text" {
        /// Text or token files or a data set of the Hub to train on, or the embedded text.
        dataset_path: DatasetPath = DatasetPath::Embedded,
        /// Column or JSON field to read; auto is the first of tokens, input_ids, text, problem.
        dataset_column: Auto<String> = Auto::Auto,
        /// Text for evaluation; auto is the embedded held-out text, or rows set aside from dataset_path.
        eval_dataset_path: Auto<DatasetPath> = Auto::Auto,
        /// Tokens in a row.
        context_size: usize = 128,
        /// Whether every row begins with the model's beginning-of-sequence token.
        prepend_bos: bool = true,
        /// Token between documents that share a row.
        sequence_separator_token: Option<SpecialToken> = Some(SpecialToken::Bos),
        /// One document a row, those shorter than a row left out.
        disable_concat_sequences: bool = false,
        /// Positions of a row that are used, as a Python slice.
        seqpos_slice: SeqposSlice = SeqposSlice::default(),
        /// Tokens whose activations are left out: the tokenizer's special ones, or a list of ids.
        exclude_special_tokens: ExcludeSpecialTokens = ExcludeSpecialTokens::No,
    }
    "Activations" {
        /// Stored activations to train on instead of a model's (--activations).
        cached_activations_path: Option<String> = None,
        /// Whether activations are shuffled (--no-shuffle takes stored ones in file order).
        shuffle: bool = true,
        /// Activations held for shuffling, in tokens.
        buffer_tokens: usize = 65_536,
        /// Seed of the order of activations; auto is seed, of several SAEs the first one's.
        data_seed: Auto<u64> = Auto::Auto,
        /// Part of the buffer that stays when new activations come in.
        activations_mixing_fraction: f64 = 0.5,
        /// Rows that the language model reads at once.
        store_batch_size_prompts: usize = 32,
    }
    "Training" {
        /// Tokens to train on, over all passes through the text.
        training_tokens: usize = 2_000_000,
        /// Tokens in a training step.
        train_batch_size_tokens: usize = 2048,
        /// Seed of every random choice.
        seed: u64 = 42,
        /// How lists of values make several SAEs: every combination, or the n-th of every list together.
        sweep: SweepOrder = SweepOrder::Product,
        /// Learning rate.
        lr: f64 = 1e-3,
        /// Course of the learning rate between warm-up and decay.
        lr_scheduler_name: LrSchedulerName = LrSchedulerName::Constant,
        /// Steps over which the learning rate rises; auto is 5 % of all steps.
        lr_warm_up_steps: Auto<usize> = Auto::Auto,
        /// Last steps, over which the learning rate falls to 0; auto is 20 % of all steps.
        lr_decay_steps: Auto<usize> = Auto::Auto,
        /// Where the cosine schedules end; auto is lr / 10.
        lr_end: Auto<f64> = Auto::Auto,
        /// Cycles of cosineannealingwarmrestarts.
        n_restart_cycles: usize = 1,
        /// Adam: decay of the mean of gradients.
        adam_beta1: f64 = 0.9,
        /// Adam: decay of the mean of squared gradients.
        adam_beta2: f64 = 0.999,
        /// Adam: added to the root of the mean square.
        adam_epsilon: f64 = 1e-8,
        /// Norm to which the gradient of all weights together is clipped.
        max_grad_norm: Option<f64> = Some(1.0),
        /// Decay of a moving average of the weights, which is evaluated and saved in their place; none keeps none.
        ema_decay: Option<f64> = None,
        /// Batches over which expected_average_only_in measures the norm of activations.
        n_batches_for_norm_estimate: usize = 100,
        /// Whether the encoder's product, the decoder's weights, products of dense features and the weights' gradients take bf16 operands, with f32 sums; parameters and all else stay f32.
        autocast: bool = false,
        /// Whether the products of the language model's linear maps do; its attention and the rest stay f32.
        autocast_lm: bool = false,
        /// Steps without firing after which a latent counts as dead.
        dead_feature_window: usize = 200,
        /// Steps between resamplings, in which dead latents start again from inputs with large errors; none has none.
        resample_every: Option<usize> = None,
        /// The last batches before a resampling that those inputs are drawn from.
        resample_batches: usize = 10,
        /// Whether dead latents get ghost gradients: they reconstruct the error that the others leave.
        use_ghost_grads: bool = false,
        /// Steps over which firing frequencies are counted.
        feature_sampling_window: usize = 500,
    }
    "Evaluation" {
        /// Batches of rows in an evaluation.
        n_eval_batches: usize = 10,
        /// Rows in a batch of an evaluation; auto is store_batch_size_prompts.
        eval_batch_size_prompts: Auto<usize> = Auto::Auto,
        /// Steps between evaluations during training; none leaves only the one at the end.
        eval_every_n_steps: Option<usize> = Some(500),
    }
    "Logs and checkpoints" {
        /// Steps between lines of metrics.jsonl.
        log_every: usize = 10,
        /// Whether TensorBoard event files are written.
        tensorboard: bool = true,
        /// Checkpoints that are kept, spread evenly over the run.
        n_checkpoints: usize = 0,
        /// Seconds between checkpoints that replace one another.
        checkpoint_every_seconds: Option<f64> = Some(600.0),
        /// Whether a finished run keeps a last checkpoint.
        save_final_checkpoint: bool = true,
        /// What the run folder holds at the end: an SAE for inference, or one that SAELens trains on.
        format: Format = Format::SaeLens,
    }
}

fn accept<T: Setting>(key: &str, read: Option<T>, found: impl FnOnce() -> String) -> Result<T> {
    read.ok_or_else(|| Error::config(key, format!("found {}, expected {}", found(), T::expected())))
}

fn unknown_key(key: &str) -> Error {
    if let Some(reason) = foreign_reason(key) {
        return Error::config(key, reason);
    }
    let closest = Recipe::keys()
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(key, known.name), known.name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match closest {
        Some((similarity, name)) if similarity > 0.5 => {
            Error::config(key, format!("there is no such key; did you mean {name}?"))
        }
        _ => Error::config(key, "there is no such key; cusae train --help lists all"),
    }
}

impl Recipe {
    /// Reads a recipe; keys it does not mention keep their defaults. `path` is for messages.
    /// Errors: not TOML (with the line), an unknown key (with the closest known one), a value of
    /// another type.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self> {
        let mut recipe = Recipe::default();
        for (key, value) in &table_of(path, text)? {
            recipe.set(key, value).map_err(in_file(path))?;
        }
        Ok(recipe)
    }

    /// Reads a recipe file. Errors: it cannot be read; as [`Recipe::from_toml`].
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_toml(path, &std::fs::read_to_string(path).map_err(Error::io(path, "read"))?)
    }

    /// The recipe as TOML, complete, in groups.
    pub fn to_toml(&self) -> String {
        written(&self.to_table())
    }
}

/// A file's keys and values. Error: it is not TOML, with the line.
fn table_of(path: &Path, text: &str) -> Result<Table> {
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Error::config(format!("{}, line {line}", path.display()), format!("not TOML: {}", error.message()))
    })
}

/// An error about a key, with the file that holds it.
fn in_file(path: &Path) -> impl Fn(Error) -> Error + '_ {
    move |error| match error {
        Error::Config { key, what } => Error::config(format!("{}, key {key}", path.display()), what),
        other => other,
    }
}

/// A value for every key, as TOML in the groups of the recipe.
fn written(table: &Table) -> String {
    let mut text = String::new();
    let mut group = "";
    for key in Recipe::keys() {
        if key.group != group {
            let separator = if group.is_empty() { "" } else { "\n" };
            text += &format!("{separator}# {}\n", key.group);
            group = key.group;
        }
        text += &format!("{} = {}\n", key.name, table[key.name]);
    }
    text
}
