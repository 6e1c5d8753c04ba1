//! `config.json` of a GPT-2 model: every key that changes the result is honoured or refused by name.

use crate::backend::ActivationFunction;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Shape and variant of a GPT-2 model, in TransformerLens' names.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Blocks (`n_layer`).
    pub n_layers: usize,
    /// Width of the residual stream (`n_embd`).
    pub d_model: usize,
    /// Attention heads of a block (`n_head`).
    pub n_heads: usize,
    /// Width of a head: `d_model / n_heads`.
    pub d_head: usize,
    /// Neurons of an MLP (`n_inner`, by default `4 d_model`).
    pub d_mlp: usize,
    /// Tokens in the vocabulary (`vocab_size`).
    pub d_vocab: usize,
    /// Longest context (`n_positions`).
    pub n_ctx: usize,
    /// Activation function of the MLPs (`activation_function`).
    pub activation: ActivationFunction,
    /// Added to the variance by every LayerNorm (`layer_norm_epsilon`).
    pub layer_norm_epsilon: f32,
    /// Whether scores are divided by `sqrt(d_head)` (`scale_attn_weights`).
    pub scale_attn_weights: bool,
    /// Whether scores of layer L are divided by `L + 1` too (`scale_attn_by_inverse_layer_idx`).
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether the unembedding may be the token embedding (`tie_word_embeddings`).
    pub tie_word_embeddings: bool,
    /// Token that begins a text, if the vocabulary has it.
    pub bos_token_id: Option<u32>,
    /// Token that ends a text (the first, where several do), if the vocabulary has it.
    pub eos_token_id: Option<u32>,
}

/// Activation functions by the names of `transformers`.
const ACTIVATIONS: [(&str, ActivationFunction); 12] = [
    ("gelu_new", ActivationFunction::GeluTanh),
    ("gelu_pytorch_tanh", ActivationFunction::GeluTanh),
    ("gelu_python_tanh", ActivationFunction::GeluTanh),
    ("gelu_fast", ActivationFunction::GeluTanh),
    ("gelu_accurate", ActivationFunction::GeluTanh),
    ("gelu", ActivationFunction::GeluErf),
    ("gelu_python", ActivationFunction::GeluErf),
    ("relu", ActivationFunction::Relu),
    ("silu", ActivationFunction::Silu),
    ("swish", ActivationFunction::Silu),
    ("quick_gelu", ActivationFunction::QuickGelu),
    ("tanh", ActivationFunction::Tanh),
];

impl ModelConfig {
    /// Reads the text of a `config.json`; `path` is for messages. A missing key has the default of
    /// `transformers`' GPT2Config. Errors: a key has the wrong type, or a value that is not
    /// supported.
    pub fn parse(path: &Path, json: &str) -> Result<Self> {
        let map = serde_json::from_str(json).map_err(|e| Error::format(path, format!("not a JSON object: {e}")))?;
        let keys = Keys { path, map };
        keys.refuse_what_is_not_gpt2()?;
        let d_model = keys.size(&["n_embd", "hidden_size"], 768)?;
        let n_heads = keys.size(&["n_head", "num_attention_heads"], 12)?;
        if d_model % n_heads != 0 {
            return Err(keys.error(format!("n_embd {d_model} is not a multiple of n_head {n_heads}")));
        }
        let d_vocab = keys.size(&["vocab_size"], 50257)?;
        Ok(ModelConfig {
            n_layers: keys.size(&["n_layer", "num_hidden_layers"], 12)?,
            d_model,
            n_heads,
            d_head: d_model / n_heads,
            d_mlp: keys.size(&["n_inner"], 4 * d_model)?,
            d_vocab,
            n_ctx: keys.size(&["n_positions", "max_position_embeddings", "n_ctx"], 1024)?,
            activation: keys.activation()?,
            layer_norm_epsilon: keys.epsilon()?,
            scale_attn_weights: keys.flag("scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: keys.flag("scale_attn_by_inverse_layer_idx", false)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings", true)?,
            bos_token_id: keys.token_id("bos_token_id", d_vocab)?,
            eos_token_id: keys.token_id("eos_token_id", d_vocab)?,
        })
    }

    /// The factor on the attention scores of a layer.
    pub fn attention_scale(&self, layer: usize) -> f32 {
        let by_width = if self.scale_attn_weights { (self.d_head as f64).sqrt() } else { 1.0 };
        let by_layer = if self.scale_attn_by_inverse_layer_idx { (layer + 1) as f64 } else { 1.0 };
        (1.0 / (by_width * by_layer)) as f32
    }
}

/// The keys of a `config.json`, read with errors that name them.
struct Keys<'a> {
    path: &'a Path,
    map: Map<String, Value>,
}

impl Keys<'_> {
    fn error(&self, what: impl Into<String>) -> Error {
        Error::format(self.path, what)
    }

    fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
        self.error(format!("{key} is {found}, expected {expected}"))
    }

    /// The value of the first of these names that is there and not null.
    fn get<'k>(&self, names: &[&'k str]) -> Option<(&'k str, &Value)> {
        names.iter().find_map(|&name| self.map.get(name).filter(|value| !value.is_null()).map(|value| (name, value)))
    }

    fn size(&self, names: &[&str], default: usize) -> Result<usize> {
        let Some((name, value)) = self.get(names) else { return Ok(default) };
        let size = value.as_u64().and_then(|size| u32::try_from(size).ok()).filter(|&size| size > 0);
        size.map(|size| size as usize).ok_or_else(|| self.wrong(name, value, "a whole number above 0"))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let Some((_, value)) = self.get(&[name]) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    fn epsilon(&self) -> Result<f32> {
        let name = "layer_norm_epsilon";
        let Some((_, value)) = self.get(&[name]) else { return Ok(1e-5) };
        let epsilon = value.as_f64().filter(|&epsilon| epsilon >= 0.0);
        epsilon.map(|epsilon| epsilon as f32).ok_or_else(|| self.wrong(name, value, "a number of at least 0"))
    }

    fn activation(&self) -> Result<ActivationFunction> {
        let name = "activation_function";
        let Some((_, value)) = self.get(&[name]) else { return Ok(ActivationFunction::GeluTanh) };
        let known = ACTIVATIONS.iter().find(|(name, _)| Some(*name) == value.as_str());
        known.map(|&(_, function)| function).ok_or_else(|| {
            let names = ACTIVATIONS.map(|(name, _)| name).join(", ");
            self.wrong(name, value, &format!("one of {names}"))
        })
    }

    fn token_id(&self, name: &str, d_vocab: usize) -> Result<Option<u32>> {
        let value = match self.map.get(name) {
            None => Value::from(50256),
            Some(Value::Array(several)) => several.first().cloned().unwrap_or(Value::Null),
            Some(value) => value.clone(),
        };
        if value.is_null() {
            return Ok(None);
        }
        // transformers writes its default, or -1, beside smaller vocabularies: there is no such token.
        let id = value.as_i64().ok_or_else(|| self.wrong(name, &value, "a token id or null"))?;
        Ok(u32::try_from(id).ok().filter(|&id| (id as usize) < d_vocab))
    }

    fn refuse_what_is_not_gpt2(&self) -> Result<()> {
        match self.map.get("model_type") {
            Some(Value::String(name)) if name == "gpt2" => (),
            Some(other) => return Err(self.wrong("model_type", other, "\"gpt2\"; only the GPT-2 family can be run")),
            None => return Err(self.error("model_type is missing, expected \"gpt2\"")),
        }
        if self.flag("add_cross_attention", false)? {
            return Err(self.error("add_cross_attention is true, expected false: cross-attention is not supported"));
        }
        if self.get(&["quantization_config"]).is_some() {
            return Err(self.error("quantization_config is set, expected plain F32, F16 or BF16 weights"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ModelConfig> {
        ModelConfig::parse(Path::new("config.json"), json)
    }

    fn message(json: &str) -> String {
        parse(json).unwrap_err().to_string()
    }

    #[test]
    fn missing_keys_have_the_defaults_of_transformers() {
        let config = parse(r#"{"model_type": "gpt2", "n_inner": null}"#).unwrap();
        assert_eq!((config.n_layers, config.d_model, config.n_heads, config.d_head), (12, 768, 12, 64));
        assert_eq!((config.d_mlp, config.d_vocab, config.n_ctx), (3072, 50257, 1024));
        assert_eq!((config.activation, config.layer_norm_epsilon), (ActivationFunction::GeluTanh, 1e-5));
        assert_eq!((config.bos_token_id, config.eos_token_id), (Some(50256), Some(50256)));
        assert_eq!(config.attention_scale(3), 0.125);
        assert!(config.tie_word_embeddings);
    }

    #[test]
    fn keys_that_change_the_result_are_read() {
        let config = parse(
            r#"{"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_inner": 100, "activation_function": "gelu",
                "layer_norm_epsilon": 1e-6, "scale_attn_weights": false, "scale_attn_by_inverse_layer_idx": true,
                "n_ctx": 32, "vocab_size": 10, "eos_token_id": [7, 8], "tie_word_embeddings": false}"#,
        )
        .unwrap();
        assert_eq!((config.d_head, config.d_mlp, config.n_ctx), (16, 100, 32));
        assert_eq!((config.activation, config.layer_norm_epsilon), (ActivationFunction::GeluErf, 1e-6));
        assert_eq!((config.attention_scale(0), config.attention_scale(3)), (1.0, 0.25));
        // The default id 50256 is outside this vocabulary.
        assert_eq!((config.bos_token_id, config.eos_token_id), (None, Some(7)));
        assert!(!config.tie_word_embeddings);
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        assert!(message("[]").starts_with("config.json: not a JSON object"));
        assert_eq!(message("{}"), "config.json: model_type is missing, expected \"gpt2\"");
        assert!(message(r#"{"model_type": "llama"}"#).contains("model_type is \"llama\", expected \"gpt2\""));
        for (json, part) in [
            (r#""n_embd": 10"#, "n_embd 10 is not a multiple of n_head 12"),
            (r#""n_layer": 0"#, "n_layer is 0, expected a whole number above 0"),
            (r#""n_inner": 1e300"#, "n_inner is 1e+300, expected a whole number above 0"),
            (r#""activation_function": "mish""#, "activation_function is \"mish\", expected one of gelu_new,"),
            (r#""layer_norm_epsilon": "small""#, "layer_norm_epsilon is \"small\", expected a number"),
            (r#""scale_attn_weights": 1"#, "scale_attn_weights is 1, expected true or false"),
            (r#""add_cross_attention": true"#, "add_cross_attention is true"),
            (r#""quantization_config": {}"#, "quantization_config is set"),
            (r#""bos_token_id": "x""#, "bos_token_id is \"x\", expected a token id or null"),
        ] {
            let message = message(&format!(r#"{{"model_type": "gpt2", {json}}}"#));
            assert!(message.contains(part), "{message}");
        }
    }
}
