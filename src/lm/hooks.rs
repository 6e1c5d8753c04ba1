//! TransformerLens' hook points: their names, shapes and order in the forward pass, and the trait
//! through which values are read and edited.

use super::config::ModelConfig;
use crate::backend::Backend;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Looks at, and may edit, values in the middle of a forward pass.
pub trait Visitor<B: Backend> {
    /// Whether [`Visitor::visit`] is to be called at this hook. What nobody wants is not computed
    /// unless the model itself needs it.
    fn wants(&self, hook: &str) -> bool;

    /// Called with the value at `hook`, row-major `shape = [sequences, T, …]`
    /// (`[sequences, H, T, T]` for attention patterns), in the first elements of `value`. The model
    /// goes on with whatever is in `value` afterwards.
    fn visit(&mut self, backend: &B, hook: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()>;
}

/// Looks at nothing.
impl<B: Backend> Visitor<B> for () {
    fn wants(&self, _: &str) -> bool {
        false
    }

    fn visit(&mut self, _: &B, _: &str, _: &mut B::Buffer<f32>, _: &[usize]) -> Result<()> {
        Ok(())
    }
}

/// Copies the values at some hooks to the host.
#[derive(Debug, Default)]
pub struct Record {
    wanted: Vec<String>,
    /// What was seen in the latest run: shape and values by hook name.
    pub values: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Record {
    /// A recorder of these hooks.
    pub fn of(hooks: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Record { wanted: hooks.into_iter().map(Into::into).collect(), values: BTreeMap::new() }
    }
}

impl<B: Backend> Visitor<B> for Record {
    fn wants(&self, hook: &str) -> bool {
        self.wanted.iter().any(|wanted| wanted == hook)
    }

    fn visit(&mut self, backend: &B, hook: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()> {
        let mut values = vec![0.0; shape.iter().product()];
        backend.read(value, 0, &mut values)?;
        self.values.insert(hook.to_string(), (shape.to_vec(), values));
        Ok(())
    }
}

/// A place in the forward pass. The order of the variants is the order in which they are passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    Embed,
    PosEmbed,
    Block(usize, BlockHook),
    FinalScale,
    FinalNormalized,
    FinalOutput,
    Logits,
    LossPerToken,
}

/// A place inside a block, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BlockHook {
    ResidPre,
    Ln1Scale,
    Ln1Normalized,
    Ln1Output,
    Q,
    K,
    V,
    Pattern,
    Z,
    AttnOut,
    ResidMid,
    Ln2Scale,
    Ln2Normalized,
    Ln2Output,
    MlpPre,
    MlpPost,
    MlpOut,
    ResidPost,
}

/// The hooks of a block in order, with their names after `blocks.L.`. `ln1.output` and `ln2.output`
/// (after gain and bias) are not TransformerLens' names; its 2.x called them `hook_normalized`.
const BLOCK_HOOKS: [(BlockHook, &str); 18] = [
    (BlockHook::ResidPre, "hook_resid_pre"),
    (BlockHook::Ln1Scale, "ln1.hook_scale"),
    (BlockHook::Ln1Normalized, "ln1.hook_normalized"),
    (BlockHook::Ln1Output, "ln1.output"),
    (BlockHook::Q, "attn.hook_q"),
    (BlockHook::K, "attn.hook_k"),
    (BlockHook::V, "attn.hook_v"),
    (BlockHook::Pattern, "attn.hook_pattern"),
    (BlockHook::Z, "attn.hook_z"),
    (BlockHook::AttnOut, "hook_attn_out"),
    (BlockHook::ResidMid, "hook_resid_mid"),
    (BlockHook::Ln2Scale, "ln2.hook_scale"),
    (BlockHook::Ln2Normalized, "ln2.hook_normalized"),
    (BlockHook::Ln2Output, "ln2.output"),
    (BlockHook::MlpPre, "mlp.hook_pre"),
    (BlockHook::MlpPost, "mlp.hook_post"),
    (BlockHook::MlpOut, "hook_mlp_out"),
    (BlockHook::ResidPost, "hook_resid_post"),
];

impl Hook {
    /// Shape of the value for one sequence of `context` tokens.
    pub fn shape(self, config: &ModelConfig, context: usize) -> Vec<usize> {
        use BlockHook::*;
        let t = context;
        match self {
            Hook::FinalScale | Hook::Block(_, Ln1Scale | Ln2Scale) => vec![t, 1],
            Hook::Block(_, Q | K | V | Z) => vec![t, config.n_heads, config.d_head],
            Hook::Block(_, Pattern) => vec![config.n_heads, t, t],
            Hook::Block(_, MlpPre | MlpPost) => vec![t, config.d_mlp],
            Hook::Logits => vec![t, config.d_vocab],
            Hook::LossPerToken => vec![t.saturating_sub(1)],
            _ => vec![t, config.d_model],
        }
    }

    /// Width of the vectors at this hook, heads joined; none where there is no vector per token.
    pub fn width(self, config: &ModelConfig) -> Option<usize> {
        use BlockHook::*;
        match self {
            Hook::FinalScale | Hook::Block(_, Ln1Scale | Ln2Scale | Pattern) | Hook::LossPerToken => None,
            _ => Some(self.shape(config, 1).iter().product()),
        }
    }
}

impl ModelConfig {
    /// Width of the vectors at a hook, heads joined: `d_in` of an SAE there. Errors: there is no
    /// such hook, or it holds no vector per token.
    pub fn hook_width(&self, hook: &str) -> Result<usize> {
        HookTable::new(self.n_layers).find(hook)?.width(self).ok_or_else(|| {
            Error::config("hook_name", format!("{hook} does not hold one vector per token; choose another hook"))
        })
    }

    /// Blocks that a forward pass up to a hook runs, the last of them perhaps in part. Error: there
    /// is no such hook.
    pub fn blocks_to(&self, hook: &str) -> Result<usize> {
        Ok(match HookTable::new(self.n_layers).find(hook)? {
            Hook::Embed | Hook::PosEmbed => 0,
            Hook::Block(layer, BlockHook::ResidPre) => layer,
            Hook::Block(layer, _) => layer + 1,
            _ => self.n_layers,
        })
    }
}

/// All hooks of a model in order, with their names.
#[derive(Debug)]
pub(super) struct HookTable(Vec<(Hook, String)>);

impl HookTable {
    pub fn new(n_layers: usize) -> Self {
        let named = |hook, name: &str| (hook, name.to_string());
        let mut table = vec![named(Hook::Embed, "hook_embed"), named(Hook::PosEmbed, "hook_pos_embed")];
        for layer in 0..n_layers {
            let in_block = |(hook, name)| (Hook::Block(layer, hook), format!("blocks.{layer}.{name}"));
            table.extend(BLOCK_HOOKS.map(in_block));
        }
        table.extend([
            named(Hook::FinalScale, "ln_final.hook_scale"),
            named(Hook::FinalNormalized, "ln_final.hook_normalized"),
            named(Hook::FinalOutput, "ln_final.output"),
            named(Hook::Logits, "logits"),
            named(Hook::LossPerToken, "loss_per_token"),
        ]);
        HookTable(table)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, name)| name.as_str())
    }

    pub fn name(&self, hook: Hook) -> &str {
        let index = match hook {
            Hook::Embed => 0,
            Hook::PosEmbed => 1,
            Hook::Block(layer, hook) => 2 + layer * BLOCK_HOOKS.len() + hook as usize,
            Hook::FinalScale => self.0.len() - 5,
            Hook::FinalNormalized => self.0.len() - 4,
            Hook::FinalOutput => self.0.len() - 3,
            Hook::Logits => self.0.len() - 2,
            Hook::LossPerToken => self.0.len() - 1,
        };
        &self.0[index].1
    }

    /// The hook of that name. Error: there is none; the nearest names are given.
    pub fn find(&self, name: &str) -> Result<Hook> {
        let found = self.0.iter().find(|(_, known)| known == name);
        found.map(|&(hook, _)| hook).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Error {
        let mut nearest: Vec<&str> = self.names().collect();
        nearest.sort_by_key(|known| strsim::damerau_levenshtein(known, name));
        nearest.truncate(4);
        let in_block = BLOCK_HOOKS.map(|(_, name)| name).join(", ");
        let layers = (self.0.len() - 7) / BLOCK_HOOKS.len();
        Error::config(
            "hook_name",
            format!(
                "{name} does not exist in this model; nearest are {}. There are hook_embed, hook_pos_embed, \
                 ln_final.hook_scale, ln_final.hook_normalized, ln_final.output, logits, loss_per_token, and for L from \
                 0 to {} blocks.L.{{{in_block}}}",
                nearest.join(", "),
                layers - 1
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_forward_pass_and_finds_every_name() {
        let table = HookTable::new(3);
        assert!(table.0.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (hook, name) in &table.0 {
            assert_eq!(table.name(*hook), name);
            assert_eq!(table.find(name).unwrap(), *hook);
        }
        assert_eq!(table.name(Hook::Block(2, BlockHook::Z)), "blocks.2.attn.hook_z");
    }

    #[test]
    fn an_unknown_hook_is_answered_with_the_nearest_and_all_names() {
        let message = HookTable::new(3).find("blocks.1.hook_residpre").unwrap_err().to_string();
        let start =
            "hook_name: blocks.1.hook_residpre does not exist in this model; nearest are blocks.1.hook_resid_pre,";
        assert!(message.starts_with(start), "{message}");
        assert!(message.contains("for L from 0 to 2 blocks.L.{hook_resid_pre,"), "{message}");
    }
}
