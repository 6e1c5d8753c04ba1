//! The weights of a GPT-2 model, on the host (`V = Vec<f32>`) or on a device: matrices are
//! `[in, out]` as Conv1D stores them, embeddings and unembedding `[V, D]`.

use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use crate::error::Result;

/// Gain and bias of a LayerNorm.
pub(super) struct Norm<V> {
    pub gain: V,
    pub bias: V,
}

/// Weights `[in, out]` and bias `[out]` of a linear map.
pub(super) struct Map<V> {
    pub w: V,
    pub b: V,
}

/// One transformer block. A LayerNorm that was folded into the next weights is none.
pub(super) struct Block<V> {
    pub ln1: Option<Norm<V>>,
    pub q: Map<V>,
    pub k: Map<V>,
    pub v: Map<V>,
    pub o: Map<V>,
    pub ln2: Option<Norm<V>>,
    pub mlp_in: Map<V>,
    pub mlp_out: Map<V>,
}

/// Everything outside the blocks.
pub(super) struct Ends<V> {
    /// `[V, D]`.
    pub w_e: V,
    /// `[P, D]`.
    pub w_pos: V,
    pub ln_final: Option<Norm<V>>,
    /// `[V, D]`; none where it is `w_e`.
    pub w_u: Option<V>,
    /// `[V]`; only processed models have one.
    pub b_u: Option<V>,
}

impl<V> Norm<V> {
    pub fn map<U>(self, f: &mut impl FnMut(V) -> Result<U>) -> Result<Norm<U>> {
        Ok(Norm { gain: f(self.gain)?, bias: f(self.bias)? })
    }
}

impl<V> Map<V> {
    fn map<U>(self, f: &mut impl FnMut(V) -> Result<U>) -> Result<Map<U>> {
        Ok(Map { w: f(self.w)?, b: f(self.b)? })
    }
}

impl<V> Block<V> {
    /// Applies `f`, such as an upload, to every tensor.
    pub fn map<U>(self, f: &mut impl FnMut(V) -> Result<U>) -> Result<Block<U>> {
        Ok(Block {
            ln1: self.ln1.map(|norm| norm.map(f)).transpose()?,
            q: self.q.map(f)?,
            k: self.k.map(f)?,
            v: self.v.map(f)?,
            o: self.o.map(f)?,
            ln2: self.ln2.map(|norm| norm.map(f)).transpose()?,
            mlp_in: self.mlp_in.map(f)?,
            mlp_out: self.mlp_out.map(f)?,
        })
    }
}

impl<V> Ends<V> {
    /// Applies `f`, such as an upload, to every tensor.
    pub fn map<U>(self, f: &mut impl FnMut(V) -> Result<U>) -> Result<Ends<U>> {
        Ok(Ends {
            w_e: f(self.w_e)?,
            w_pos: f(self.w_pos)?,
            ln_final: self.ln_final.map(|norm| norm.map(f)).transpose()?,
            w_u: self.w_u.map(&mut *f).transpose()?,
            b_u: self.b_u.map(f).transpose()?,
        })
    }
}

/// Fails, before anything is allocated, unless every tensor is there with the shape that the
/// configuration makes it. Other tensors (mask buffers `attn.bias`, `attn.masked_bias`) are ignored.
pub(super) fn expect_all(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<()> {
    let (d, m) = (config.d_model, config.d_mlp);
    let expect = |name: &str, shape: &[usize]| checkpoint.expect(&checkpoint.named(name), shape);
    expect("wte.weight", &[config.d_vocab, d])?;
    expect("wpe.weight", &[config.n_ctx, d])?;
    for layer in 0..config.n_layers {
        let maps = [("attn.c_attn", d, 3 * d), ("attn.c_proj", d, d), ("mlp.c_fc", d, m), ("mlp.c_proj", m, d)];
        for (name, input, output) in maps {
            expect(&format!("h.{layer}.{name}.weight"), &[input, output])?;
            expect(&format!("h.{layer}.{name}.bias"), &[output])?;
        }
        for name in ["ln_1", "ln_2"] {
            expect(&format!("h.{layer}.{name}.weight"), &[d])?;
            expect(&format!("h.{layer}.{name}.bias"), &[d])?;
        }
    }
    expect("ln_f.weight", &[d])?;
    expect("ln_f.bias", &[d])?;
    if has_own_unembedding(checkpoint, config)? {
        checkpoint.expect(LM_HEAD, &[config.d_vocab, d])?;
    }
    Ok(())
}

const LM_HEAD: &str = "lm_head.weight";

/// As `transformers` 5 decides: a tied model whose file holds a head that differs from the token
/// embedding is not tied after all.
fn has_own_unembedding(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<bool> {
    if !config.tie_word_embeddings {
        return Ok(true);
    }
    Ok(checkpoint.contains(LM_HEAD) && !checkpoint.same(LM_HEAD, &checkpoint.named("wte.weight"))?)
}

/// Reads what is outside the blocks.
pub(super) fn read_ends(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Ends<Vec<f32>>> {
    let w_u = if has_own_unembedding(checkpoint, config)? { Some(checkpoint.read(LM_HEAD)?) } else { None };
    Ok(Ends {
        w_e: checkpoint.read(&checkpoint.named("wte.weight"))?,
        w_pos: checkpoint.read(&checkpoint.named("wpe.weight"))?,
        ln_final: Some(read_norm(checkpoint, "ln_f")?),
        w_u,
        b_u: None,
    })
}

/// Reads one block; GPT-2's fused `c_attn` becomes q, k and v.
pub(super) fn read_block(checkpoint: &Checkpoint, config: &ModelConfig, layer: usize) -> Result<Block<Vec<f32>>> {
    let map = |name: &str| -> Result<Map<Vec<f32>>> {
        let read = |part| checkpoint.read(&checkpoint.named(&format!("h.{layer}.{name}.{part}")));
        Ok(Map { w: read("weight")?, b: read("bias")? })
    };
    let fused = map("attn.c_attn")?;
    let d = config.d_model;
    let part = |i: usize| {
        let mut w = Vec::with_capacity(d * d);
        fused.w.chunks_exact(3 * d).for_each(|row| w.extend_from_slice(&row[i * d..(i + 1) * d]));
        Map { w, b: fused.b[i * d..(i + 1) * d].to_vec() }
    };
    Ok(Block {
        ln1: Some(read_norm(checkpoint, &format!("h.{layer}.ln_1"))?),
        q: part(0),
        k: part(1),
        v: part(2),
        o: map("attn.c_proj")?,
        ln2: Some(read_norm(checkpoint, &format!("h.{layer}.ln_2"))?),
        mlp_in: map("mlp.c_fc")?,
        mlp_out: map("mlp.c_proj")?,
    })
}

fn read_norm(checkpoint: &Checkpoint, name: &str) -> Result<Norm<Vec<f32>>> {
    let read = |part| checkpoint.read(&checkpoint.named(&format!("{name}.{part}")));
    Ok(Norm { gain: read("weight")?, bias: read("bias")? })
}
