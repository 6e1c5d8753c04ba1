//! The forward pass: one block after another, every hook where TransformerLens has it, and an end
//! as soon as the last hook asked for is passed.

use super::autocast::{Part, Weights};
use super::cache::Cache;
use super::hooks::{BlockHook, Hook, Visitor};
use super::model::LanguageModel;
use super::weights::{Block, Norm};
use crate::backend::*;
use crate::error::{Error, Result};

/// Work buffers for runs of a model over sequences of one length. A run makes none, except that the
/// first run in which an optional value is wanted makes the buffer for it.
pub struct Forward<B: Backend> {
    max_sequences: usize,
    context: usize,
    /// Rows of the last run if it was a whole one, else 0.
    whole_rows: usize,
    host_targets: Vec<u32>,
    tokens: B::Buffer<u32>,
    targets: B::Buffer<u32>,
    /// The residual stream, and where the next one is written.
    resid: B::Buffer<f32>,
    next_resid: B::Buffer<f32>,
    /// Output of the latest LayerNorm.
    normed: B::Buffer<f32>,
    q: B::Buffer<f32>,
    k: B::Buffer<f32>,
    v: B::Buffer<f32>,
    z: B::Buffer<f32>,
    mlp: B::Buffer<f32>,
    /// The input of the latest product, where products take bf16.
    rounded: Option<B::Buffer<bf16>>,
    loss: B::Buffer<f32>,
    optional: Optional<B>,
    /// Present if runs go on where the one before ended.
    cache: Option<Cache<B>>,
}

/// Buffers for values that are only made when somebody wants them.
struct Optional<B: Backend> {
    /// Attention or MLP output before it is added to the stream; token or position embedding.
    branch: Option<B::Buffer<f32>>,
    other_branch: Option<B::Buffer<f32>>,
    scale: Option<B::Buffer<f32>>,
    normalized: Option<B::Buffer<f32>>,
    pattern: Option<B::Buffer<f32>>,
    logits: Option<B::Buffer<f32>>,
    shifted_loss: Option<B::Buffer<f32>>,
    /// `ln_final.output` of the last position of each sequence.
    last_normed: Option<B::Buffer<f32>>,
}

/// The buffer in `slot`, made at first use.
fn made<'a, B: Backend>(
    backend: &B,
    slot: &'a mut Option<B::Buffer<f32>>,
    len: usize,
) -> Result<&'a mut B::Buffer<f32>> {
    if slot.is_none() {
        *slot = Some(backend.zeros(len)?);
    }
    slot.as_mut().ok_or_else(|| Error::Shape { operation: "forward", what: "a buffer was not made".into() })
}

/// Why the pass ends early.
enum Halt {
    /// The last hook asked for was passed.
    Done,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Halt::Failed(error)
    }
}

/// One run: who looks, and how far it goes.
struct Run<'a, B: Backend> {
    model: &'a LanguageModel<B>,
    visitor: &'a mut dyn Visitor<B>,
    last: Hook,
    sequences: usize,
    /// Tokens of each sequence in this run, and before it.
    context: usize,
    past: usize,
}

impl<B: Backend> Run<'_, B> {
    fn rows(&self) -> usize {
        self.sequences * self.context
    }

    fn wants(&self, hook: Hook) -> bool {
        hook <= self.last && self.visitor.wants(self.model.hooks.name(hook))
    }

    /// Shows `value` to the visitor if it wants it. `shape` follows `[sequences]`.
    fn visit(&mut self, hook: Hook, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<(), Halt> {
        if self.wants(hook) {
            let mut full = [self.sequences; 4];
            full[1..=shape.len()].copy_from_slice(shape);
            let name = self.model.hooks.name(hook);
            self.visitor.visit(&self.model.backend, name, value, &full[..=shape.len()])?;
        }
        self.go_on_after(hook)
    }

    fn go_on_after(&self, hook: Hook) -> Result<(), Halt> {
        if hook < self.last {
            Ok(())
        } else {
            Err(Halt::Done)
        }
    }
}

impl<B: Backend> Forward<B> {
    pub(super) fn new(model: &LanguageModel<B>, max_sequences: usize, context: usize) -> Result<Self> {
        Self::with_cache(model, max_sequences, context, None)
    }

    /// Buffers for runs of up to `context` tokens that go on where the one before ended, if there is a
    /// cache.
    pub(super) fn with_cache(
        model: &LanguageModel<B>,
        max_sequences: usize,
        context: usize,
        cache: Option<Cache<B>>,
    ) -> Result<Self> {
        let (backend, config) = (&model.backend, &model.config);
        if context == 0 || context > config.n_ctx {
            let what = format!("{context} tokens, this model takes from 1 to {}", config.n_ctx);
            return Err(Error::config("context_size", what));
        }
        let rows = max_sequences * context;
        let stream = || backend.zeros(rows * config.d_model);
        Ok(Forward {
            max_sequences,
            context,
            whole_rows: 0,
            host_targets: Vec::with_capacity(rows),
            tokens: backend.zeros(rows)?,
            targets: backend.zeros(rows)?,
            resid: stream()?,
            next_resid: stream()?,
            normed: stream()?,
            q: stream()?,
            k: stream()?,
            v: stream()?,
            z: stream()?,
            mlp: backend.zeros(rows * config.d_mlp)?,
            rounded: model
                .rounded
                .as_ref()
                .map(|_| backend.zeros(rows * config.d_mlp.max(config.d_model)))
                .transpose()?,
            loss: backend.zeros(rows)?,
            optional: Optional {
                branch: None,
                other_branch: None,
                scale: None,
                normalized: None,
                pattern: None,
                logits: None,
                shifted_loss: None,
                last_normed: None,
            },
            cache,
        })
    }

    /// Tokens of one sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Sequences that one run can take.
    pub fn max_sequences(&self) -> usize {
        self.max_sequences
    }

    /// Runs the model on `tokens [sequences, T]`, up to and including the hook `stop_after`, or, if
    /// it is none, to the end. `logits` and `loss_per_token` are only made if the visitor wants
    /// them; what it writes there has no further effect. Errors: too many sequences, a token that
    /// is not in the vocabulary, a hook that does not exist; all before anything is computed.
    pub fn run(
        &mut self,
        model: &LanguageModel<B>,
        tokens: &[u32],
        visitor: &mut dyn Visitor<B>,
        stop_after: Option<&str>,
    ) -> Result<()> {
        self.check(model, tokens, self.context)?;
        let last = stop_after.map_or(Ok(Hook::LossPerToken), |name| model.hooks.find(name))?;
        self.whole_rows = 0;
        self.upload(model, tokens)?;
        let (sequences, context) = (tokens.len() / self.context, self.context);
        self.finish(Run { model, visitor, last, sequences, context, past: 0 })
    }

    /// Runs the model on the next tokens `[sequences, T]`, all sequences that there is a cache for, and
    /// returns the logits of each sequence's last position `[sequences, V]`. That is what the hook
    /// `logits` holds here, `[sequences, 1, V]`; `loss_per_token` is not made. Errors: as of
    /// [`Forward::run`], or the cache is full.
    pub(super) fn extend(
        &mut self,
        model: &LanguageModel<B>,
        tokens: &[u32],
        visitor: &mut dyn Visitor<B>,
    ) -> Result<&mut B::Buffer<f32>> {
        self.check(model, tokens, tokens.len() / self.max_sequences)?;
        let (sequences, context) = (self.max_sequences, tokens.len() / self.max_sequences);
        let past = self.cache.as_ref().map_or(Ok(0), |cache| cache.past_before(context))?;
        model.backend.write(&mut self.tokens, 0, tokens)?;
        self.finish(Run { model, visitor, last: Hook::Logits, sequences, context, past })?;
        if let Some(cache) = &mut self.cache {
            cache.past += context;
        }
        made(&model.backend, &mut self.optional.logits, sequences * model.config.d_vocab)
    }

    fn finish(&mut self, run: Run<'_, B>) -> Result<()> {
        match self.pass(run) {
            Ok(()) | Err(Halt::Done) => Ok(()),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    /// Loss in nats of every next token `[sequences, T - 1]` in the last run, which must have been a
    /// whole one.
    pub fn loss_per_token(&mut self, model: &LanguageModel<B>) -> Result<Vec<f32>> {
        let rows = self.whole_run("loss_per_token")?;
        self.cross_entropy(model, rows)?;
        let mut loss = vec![0.0; rows];
        model.backend.read(&self.loss, 0, &mut loss)?;
        Ok(loss.chunks_exact(self.context).flat_map(|row| &row[..self.context - 1]).copied().collect())
    }

    /// Logits `[rows, V]` of some rows `sequence * T + position` of the last run, which must have been a
    /// whole one.
    pub fn logits_of_rows(&mut self, model: &LanguageModel<B>, rows: &[usize]) -> Result<Vec<f32>> {
        let (backend, d_model, there) = (&model.backend, model.config.d_model, self.whole_run("logits")?);
        let mut normed = backend.zeros(rows.len() * d_model)?;
        for (to, &row) in rows.iter().enumerate() {
            if row >= there {
                let what = format!("row {row} of {there}");
                return Err(Error::Shape { operation: "logits", what });
            }
            backend.copy(&self.normed, row * d_model, &mut normed, to * d_model, d_model)?;
        }
        let mut logits = backend.zeros(rows.len() * model.config.d_vocab)?;
        unembed(model, &normed, rows.len(), &mut logits)?;
        backend.download(&logits)
    }

    /// KL(first || last run) in nats of the next-token distribution at every position
    /// `[sequences, T]`; `first` is the `ln_final.output` of another run on the same tokens.
    pub fn kl_divergence_from(&mut self, model: &LanguageModel<B>, first: &B::Buffer<f32>) -> Result<Vec<f32>> {
        let rows = self.whole_run("kl_divergence")?;
        let (d_model, d_vocab) = (model.config.d_model, model.config.d_vocab);
        let (y, w_u, b_u, kl) = (&self.normed, model.w_u(), model.ends.b_u.as_ref(), &mut self.loss);
        let op = UnembedKlDivergence { x: first, y, w_u, b_u, rows, d_model, d_vocab, kl };
        model.backend.unembed_kl_divergence(op)?;
        let mut values = vec![0.0; rows];
        model.backend.read(&self.loss, 0, &mut values)?;
        Ok(values)
    }

    /// The final LayerNorm's output `[sequences, T, D]` of the last run, which must have been a
    /// whole one.
    pub fn final_output(&self) -> Result<&B::Buffer<f32>> {
        self.whole_run("ln_final.output").map(|_| &self.normed)
    }

    fn whole_run(&self, operation: &'static str) -> Result<usize> {
        if self.whole_rows > 0 {
            return Ok(self.whole_rows);
        }
        Err(Error::Shape { operation, what: "the last run did not go to the end of the model".into() })
    }

    fn check(&self, model: &LanguageModel<B>, tokens: &[u32], context: usize) -> Result<()> {
        let (most, d_vocab) = (self.max_sequences * self.context, model.config.d_vocab);
        let refuse = |what| Err(Error::Shape { operation: "forward", what });
        if tokens.is_empty() || !tokens.len().is_multiple_of(context) || tokens.len() > most {
            let (n, sequences) = (tokens.len(), self.max_sequences);
            return refuse(format!("{n} tokens are not 1 to {sequences} sequences of {context}"));
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= d_vocab) {
            let what = "was the text tokenized for another model?";
            return refuse(format!("token id {token} is outside the vocabulary of {d_vocab}; {what}"));
        }
        Ok(())
    }

    /// Tokens, and as targets the tokens one position on; a sequence's last position has none, and
    /// its loss is dropped.
    fn upload(&mut self, model: &LanguageModel<B>, tokens: &[u32]) -> Result<()> {
        self.host_targets.clear();
        self.host_targets.extend_from_slice(&tokens[1..]);
        self.host_targets.push(0);
        model.backend.write(&mut self.tokens, 0, tokens)?;
        model.backend.write(&mut self.targets, 0, &self.host_targets)
    }

    fn pass(&mut self, mut run: Run<'_, B>) -> Result<(), Halt> {
        let model = run.model;
        self.embed(&mut run)?;
        for (layer, block) in model.blocks.iter().enumerate() {
            self.attention(&mut run, layer, block)?;
            self.mlp(&mut run, layer, block)?;
        }
        let hooks = [Hook::FinalScale, Hook::FinalNormalized, Hook::FinalOutput];
        self.layer_norm(&mut run, model.ends.ln_final.as_ref(), hooks)?;
        if self.cache.is_some() {
            return self.last_logits(&mut run);
        }
        self.whole_rows = run.rows();
        self.outputs(&mut run)
    }

    fn embed(&mut self, run: &mut Run<'_, B>) -> Result<(), Halt> {
        let (backend, config) = (&run.model.backend, &run.model.config);
        let (rows, context, d_model) = (run.rows(), run.context, config.d_model);
        let looked_at = run.wants(Hook::Embed) || run.wants(Hook::PosEmbed);
        let Optional { branch, other_branch, .. } = &mut self.optional;
        let len = self.max_sequences * self.context * d_model;
        let mut parts = match looked_at {
            true => Some((made(backend, branch, len)?, made(backend, other_branch, len)?)),
            false => None,
        };
        let (embed, pos_embed) = match &mut parts {
            Some((embed, pos_embed)) => (Some(&mut **embed), Some(&mut **pos_embed)),
            None => (None, None),
        };
        backend.embed(Embed {
            tokens: &self.tokens,
            w_e: &run.model.ends.w_e,
            w_pos: &run.model.ends.w_pos,
            rows,
            context,
            past: run.past,
            d_model,
            embed,
            pos_embed,
            resid: &mut self.resid,
        })?;
        if let Some((embed, pos_embed)) = parts {
            run.visit(Hook::Embed, embed, &[context, d_model])?;
            run.visit(Hook::PosEmbed, pos_embed, &[context, d_model])?;
            backend.copy(embed, 0, &mut self.resid, 0, rows * d_model)?;
            backend.add(Add { from: pos_embed, to: &mut self.resid, len: rows * d_model })?;
        }
        run.go_on_after(Hook::PosEmbed)
    }

    fn attention(&mut self, run: &mut Run<'_, B>, layer: usize, block: &Block<B::Buffer<f32>>) -> Result<(), Halt> {
        use BlockHook::*;
        let at = |hook| Hook::Block(layer, hook);
        let (backend, config) = (&run.model.backend, &run.model.config);
        let (context, d_model) = (run.context, config.d_model);
        let heads = [context, config.n_heads, config.d_head];
        run.visit(at(ResidPre), &mut self.resid, &[context, d_model])?;
        self.layer_norm(run, block.ln1.as_ref(), [at(Ln1Scale), at(Ln1Normalized), at(Ln1Output)])?;
        let maps = [(Q, Part::Q, &mut self.q), (K, Part::K, &mut self.k), (V, Part::V, &mut self.v)];
        let x = run.model.operand(&self.normed, run.rows() * d_model, &mut self.rounded)?;
        for (hook, part, out) in maps {
            let map = run.model.weights(layer, part);
            linear(run, x, map, [d_model, d_model], ActivationFunction::Identity, None, out)?;
            run.visit(at(hook), out, &heads)?;
        }
        let (n_heads, d_head) = (config.n_heads, config.d_head);
        let mut dims = AttentionDims::whole(run.rows(), context, n_heads, d_head);
        let scale = config.attention_scale(layer);
        let (q, mut k, mut v, z) = (&self.q, &self.k, &self.v, &mut self.z);
        if let Some(cache) = &mut self.cache {
            dims = AttentionDims { past: run.past, room: cache.room, ..dims };
            [k, v] = cache.append(backend, layer, dims, [k, v])?;
        }
        if run.wants(at(Pattern)) {
            let len = self.max_sequences * n_heads * self.context * dims.room;
            let pattern = made(backend, &mut self.optional.pattern, len)?;
            backend.attention_pattern(AttentionPattern { q, k, scale, dims, pattern })?;
            run.visit(at(Pattern), pattern, &[n_heads, context, dims.keys()])?;
            backend.attention_mix(AttentionMix { pattern, v, dims, z })?;
        } else {
            run.go_on_after(at(Pattern))?;
            backend.attention(Attention { q, k, v, scale, dims, z })?;
        }
        run.visit(at(Z), &mut self.z, &heads)?;
        let x = run.model.operand(&self.z, run.rows() * d_model, &mut self.rounded)?;
        let (map, resid) = (run.model.weights(layer, Part::O), [&mut self.resid, &mut self.next_resid]);
        add_branch(run, x, map, d_model, at(AttnOut), resid, &mut self.optional.branch)?;
        run.visit(at(ResidMid), &mut self.resid, &[context, d_model])
    }

    fn mlp(&mut self, run: &mut Run<'_, B>, layer: usize, block: &Block<B::Buffer<f32>>) -> Result<(), Halt> {
        use BlockHook::*;
        let at = |hook| Hook::Block(layer, hook);
        let config = &run.model.config;
        let (context, d_model, d_mlp, function) = (run.context, config.d_model, config.d_mlp, config.activation);
        self.layer_norm(run, block.ln2.as_ref(), [at(Ln2Scale), at(Ln2Normalized), at(Ln2Output)])?;
        let x = run.model.operand(&self.normed, run.rows() * d_model, &mut self.rounded)?;
        let (map, out) = (run.model.weights(layer, Part::MlpIn), &mut self.mlp);
        if run.wants(at(MlpPre)) {
            linear(run, x, map, [d_model, d_mlp], ActivationFunction::Identity, None, out)?;
            run.visit(at(MlpPre), out, &[context, d_mlp])?;
            run.model.backend.activate(Activate { function, to: out, len: run.rows() * d_mlp })?;
        } else {
            run.go_on_after(at(MlpPre))?;
            linear(run, x, map, [d_model, d_mlp], function, None, out)?;
        }
        run.visit(at(MlpPost), out, &[context, d_mlp])?;
        let x = run.model.operand(&self.mlp, run.rows() * d_mlp, &mut self.rounded)?;
        let (map, resid) = (run.model.weights(layer, Part::MlpOut), [&mut self.resid, &mut self.next_resid]);
        add_branch(run, x, map, d_mlp, at(MlpOut), resid, &mut self.optional.branch)?;
        run.visit(at(ResidPost), &mut self.resid, &[context, d_model])
    }

    /// LayerNorm of the stream; what a visitor changes on the way is taken up where it stands.
    fn layer_norm(
        &mut self,
        run: &mut Run<'_, B>,
        norm: Option<&Norm<B::Buffer<f32>>>,
        [at_scale, at_normalized, at_output]: [Hook; 3],
    ) -> Result<(), Halt> {
        let (backend, config) = (&run.model.backend, &run.model.config);
        let (rows, context, d_model) = (run.rows(), run.context, config.d_model);
        let (x, output) = (&self.resid, &mut self.normed);
        let mut normalize = |from, scale: Option<&mut B::Buffer<f32>>, normalized: Option<&mut B::Buffer<f32>>| {
            let (gain, bias, epsilon) = (norm.map(|n| &n.gain), norm.map(|n| &n.bias), config.layer_norm_epsilon);
            let output = &mut *output;
            backend.layer_norm(LayerNorm { x, from, gain, bias, epsilon, rows, d_model, scale, normalized, output })
        };
        let (wants_scale, wants_normalized) = (run.wants(at_scale), run.wants(at_normalized));
        if wants_scale || wants_normalized {
            let max_rows = self.max_sequences * self.context;
            let scale = made(backend, &mut self.optional.scale, max_rows)?;
            let normalized = made(backend, &mut self.optional.normalized, max_rows * d_model)?;
            normalize(LayerNormFrom::Input, Some(&mut *scale), Some(&mut *normalized))?;
            if wants_scale {
                run.visit(at_scale, scale, &[context, 1])?;
                normalize(LayerNormFrom::Scale, Some(scale), Some(&mut *normalized))?;
            }
            if wants_normalized {
                run.visit(at_normalized, normalized, &[context, d_model])?;
                normalize(LayerNormFrom::Normalized, None, Some(normalized))?;
            }
        } else {
            run.go_on_after(at_normalized)?;
            normalize(LayerNormFrom::Input, None, None)?;
        }
        run.visit(at_output, &mut self.normed, &[context, d_model])
    }

    fn outputs(&mut self, run: &mut Run<'_, B>) -> Result<(), Halt> {
        let (backend, config) = (&run.model.backend, &run.model.config);
        let (rows, context, d_vocab) = (run.rows(), run.context, config.d_vocab);
        if run.wants(Hook::Logits) {
            let logits = made(backend, &mut self.optional.logits, self.max_sequences * context * d_vocab)?;
            unembed(run.model, &self.normed, rows, logits)?;
            run.visit(Hook::Logits, logits, &[context, d_vocab])?;
        }
        if run.wants(Hook::LossPerToken) {
            self.cross_entropy(run.model, rows)?;
            let shifted = made(backend, &mut self.optional.shifted_loss, self.max_sequences * context)?;
            for sequence in 0..run.sequences {
                let kept = context - 1;
                backend.copy(&self.loss, sequence * context, shifted, sequence * kept, kept)?;
            }
            run.visit(Hook::LossPerToken, shifted, &[context - 1])?;
        }
        Ok(())
    }

    /// The logits of every sequence's last position.
    fn last_logits(&mut self, run: &mut Run<'_, B>) -> Result<(), Halt> {
        let (backend, config) = (&run.model.backend, &run.model.config);
        let (sequences, d_model) = (run.sequences, config.d_model);
        let last = made(backend, &mut self.optional.last_normed, sequences * d_model)?;
        for sequence in 0..sequences {
            let row = (sequence + 1) * run.context - 1;
            backend.copy(&self.normed, row * d_model, last, sequence * d_model, d_model)?;
        }
        let logits = made(backend, &mut self.optional.logits, sequences * config.d_vocab)?;
        unembed(run.model, last, sequences, logits)?;
        run.visit(Hook::Logits, logits, &[1, config.d_vocab])
    }

    fn cross_entropy(&mut self, model: &LanguageModel<B>, rows: usize) -> Result<()> {
        model.backend.unembed_cross_entropy(UnembedCrossEntropy {
            x: &self.normed,
            w_u: model.w_u(),
            b_u: model.ends.b_u.as_ref(),
            targets: &self.targets,
            rows,
            d_model: model.config.d_model,
            d_vocab: model.config.d_vocab,
            loss: &mut self.loss,
        })
    }
}

/// Logits `[rows, V]` of the final LayerNorm's outputs `x [rows, D]`.
fn unembed<B: Backend>(
    model: &LanguageModel<B>,
    x: &B::Buffer<f32>,
    rows: usize,
    logits: &mut B::Buffer<f32>,
) -> Result<()> {
    model.backend.linear(Linear {
        x: Matrix::F32(x),
        w: Matrix::F32(model.w_u()),
        w_is_transposed: true,
        bias: model.ends.b_u.as_ref(),
        function: ActivationFunction::Identity,
        residual: None,
        rows,
        d_input: model.config.d_model,
        d_output: model.config.d_vocab,
        out: logits,
    })
}

/// `out = f(x · w + b) + residual`.
fn linear<B: Backend>(
    run: &Run<'_, B>,
    x: Matrix<'_, B>,
    Weights { w, b }: Weights<'_, B>,
    [d_input, d_output]: [usize; 2],
    function: ActivationFunction,
    residual: Option<&B::Buffer<f32>>,
    out: &mut B::Buffer<f32>,
) -> Result<()> {
    let (bias, rows, w_is_transposed) = (Some(b), run.rows(), w.is_bf16());
    run.model.backend.linear(Linear { x, w, w_is_transposed, bias, function, residual, rows, d_input, d_output, out })
}

/// Adds the output of attention or MLP, `x · w + b`, to the residual stream; on its way, shown at
/// `hook` if somebody looks.
fn add_branch<B: Backend>(
    run: &mut Run<'_, B>,
    x: Matrix<'_, B>,
    map: Weights<'_, B>,
    d_input: usize,
    hook: Hook,
    [resid, next_resid]: [&mut B::Buffer<f32>; 2],
    branch: &mut Option<B::Buffer<f32>>,
) -> Result<(), Halt> {
    let (backend, d_model) = (&run.model.backend, run.model.config.d_model);
    let identity = ActivationFunction::Identity;
    if run.wants(hook) {
        let branch = made(backend, branch, resid.len())?;
        linear(run, x, map, [d_input, d_model], identity, None, branch)?;
        run.visit(hook, branch, &[run.context, d_model])?;
        backend.add(Add { from: branch, to: resid, len: run.rows() * d_model })?;
    } else {
        run.go_on_after(hook)?;
        linear(run, x, map, [d_input, d_model], identity, Some(resid), next_resid)?;
        std::mem::swap(resid, next_resid);
    }
    Ok(())
}
