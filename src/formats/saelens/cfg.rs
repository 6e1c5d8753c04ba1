//! `cfg.json` and [`SaeConfig`].

use super::legacy;
use crate::config::{NormalizeActivations, Setting};
use crate::error::{Error, Result};
use crate::formats::tensors::parse_dtype;
use crate::sae::config::{InferenceArchitecture, ReshapeActivations, SaeConfig, Transcoder};
use crate::sae::pursuit::PursuitConfig;
use crate::sae::temporal::TemporalConfig;
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

/// The version of SAELens whose layout is written.
pub const SAELENS_VERSION: &str = "6.54.12";

/// Every architecture that can be read.
const KNOWN: &[&str] = &[
    "standard",
    "gated",
    "jumprelu",
    "topk",
    "abstopk",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
    "topk_transcoder",
    "topk_skip_transcoder",
    "batchtopk",
    "matryoshka_batchtopk",
    "matching_pursuit",
    "temporal",
];

/// A normalisation that only temporal SAEs know.
const CONSTANT_SCALAR: &str = "constant_scalar_rescale";

/// Reads a `cfg.json` of any version. A checkpoint of BatchTopK is read as what SAELens saves of it for
/// inference, JumpReLU, and keeps its training settings until the weights are read.
pub fn read(path: &Path) -> Result<SaeConfig> {
    let text = fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| Error::format(path, format!("not JSON: {e}")))?;
    let Value::Object(keys) = json else {
        return Err(Error::format(path, "holds no JSON object, expected the settings of an SAE"));
    };
    let keys = if is_legacy(path, &keys)? { legacy::convert(keys) } else { keys };
    Keys { path, keys }.config()
}

/// The object to be written as `cfg.json`.
pub fn to_json(config: &SaeConfig, training: bool) -> Value {
    let mut metadata = config.metadata.clone();
    metadata.insert("sae_lens_version".into(), SAELENS_VERSION.into());
    let mut keys = Map::new();
    let mut set = |key: &str, value: Value| keys.insert(key.into(), value);
    set("d_in", config.d_in.into());
    set("d_sae", config.d_sae.into());
    set("dtype", dtype_name(config.dtype).into());
    set("device", "cpu".into());
    set("apply_b_dec_to_input", config.apply_b_dec_to_input.into());
    set("normalize_activations", config.normalize_activations.name().into());
    set("reshape_activations", config.reshape_activations.name().into());
    set("metadata", Value::Object(metadata));
    if training {
        for (key, value) in &config.training_settings {
            set(key, value.clone());
        }
    }
    if let Some(transcoder) = config.transcoder {
        set("d_out", transcoder.d_out.into());
    }
    match config.architecture {
        InferenceArchitecture::TopK { k, rescale_acts_by_decoder_norm }
        | InferenceArchitecture::AbsTopK { k, rescale_acts_by_decoder_norm } => {
            set("k", k.into());
            set("rescale_acts_by_decoder_norm", rescale_acts_by_decoder_norm.into());
        }
        InferenceArchitecture::MatchingPursuit(pursuit) => {
            set("residual_threshold", pursuit.residual_threshold.into());
            set("max_iterations", pursuit.max_iterations.into());
            set("stop_on_duplicate_support", pursuit.stop_on_duplicate_support.into());
        }
        InferenceArchitecture::Temporal(temporal) => {
            let factor = temporal.activation_normalization_factor;
            set("n_heads", temporal.n_heads.into());
            set("n_attn_layers", temporal.n_attn_layers.into());
            set("bottleneck_factor", temporal.bottleneck_factor.into());
            set("sae_diff_type", if temporal.k.is_some() { "topk" } else { "relu" }.into());
            set("kval_topk", temporal.k.into());
            set("tied_weights", temporal.tied_weights.into());
            set("activation_normalization_factor", factor.unwrap_or(1.0).into());
            if factor.is_some() {
                set("normalize_activations", CONSTANT_SCALAR.into());
            }
        }
        _ => {}
    }
    let trained_as = config.training_architecture().filter(|_| training);
    set("architecture", trained_as.map_or_else(|| config.architecture_name(), str::to_owned).into());
    Value::Object(keys)
}

fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "float64",
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// SAELens' rule: a file that does not name a version of at least 6 is from before it.
fn is_legacy(path: &Path, keys: &Map<String, Value>) -> Result<bool> {
    let in_metadata = || keys.get("metadata")?.get("sae_lens_version")?.as_str();
    let Some(version) = keys.get("sae_lens_version").and_then(Value::as_str).or_else(in_metadata) else {
        return Ok(true);
    };
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u64>().ok());
    let major = major.ok_or_else(|| {
        Error::format(path, format!("sae_lens_version is {version:?}, expected a version such as {SAELENS_VERSION:?}"))
    })?;
    Ok(major < 6)
}

/// The keys of a file, taken out one by one.
struct Keys<'a> {
    path: &'a Path,
    keys: Map<String, Value>,
}

impl Keys<'_> {
    fn config(mut self) -> Result<SaeConfig> {
        let (d_in, d_sae) = (self.size("d_in")?, self.size("d_sae")?);
        let (architecture, transcoder) = self.architecture(d_sae)?;
        let config = SaeConfig {
            architecture,
            transcoder,
            d_in,
            d_sae,
            dtype: self.dtype()?,
            apply_b_dec_to_input: self.switch("apply_b_dec_to_input", transcoder.is_none())?,
            normalize_activations: self.normalize_activations()?,
            reshape_activations: self.reshape_activations()?,
            metadata: self.metadata()?,
            training_settings: Map::new(),
        };
        if config.apply_b_dec_to_input && transcoder.is_some() {
            return Err(self.wrong(
                "apply_b_dec_to_input",
                &true.into(),
                "false: a transcoder's b_dec is of its output",
            ));
        }
        self.keys.shift_remove("device");
        Ok(SaeConfig { training_settings: self.keys, ..config })
    }

    fn architecture(&mut self, d_sae: usize) -> Result<(InferenceArchitecture, Option<Transcoder>)> {
        let name = self.text("architecture", None)?;
        if !KNOWN.contains(&name.as_str()) {
            let what = format!("architecture {name} is not known; {} are", KNOWN.join(", "));
            return Err(Error::format(self.path, what));
        }
        let (encoder, transcoder) = match name.strip_suffix("transcoder") {
            None => (name.as_str(), None),
            Some(rest) => {
                let (rest, skip) = rest.strip_suffix("skip_").map_or((rest, false), |rest| (rest, true));
                let d_out = self.size("d_out")?;
                (rest.strip_suffix('_').unwrap_or("standard"), Some(Transcoder { d_out, skip }))
            }
        };
        let architecture = match encoder {
            "gated" => InferenceArchitecture::Gated,
            "jumprelu" | "batchtopk" | "matryoshka_batchtopk" => InferenceArchitecture::JumpRelu,
            "topk" | "abstopk" => {
                let k = self.size("k")?;
                if k > d_sae {
                    return Err(self.wrong("k", &k.into(), &format!("at most d_sae = {d_sae}")));
                }
                let rescale_acts_by_decoder_norm = self.switch("rescale_acts_by_decoder_norm", false)?;
                match encoder {
                    "topk" => InferenceArchitecture::TopK { k, rescale_acts_by_decoder_norm },
                    _ => InferenceArchitecture::AbsTopK { k, rescale_acts_by_decoder_norm },
                }
            }
            "matching_pursuit" => InferenceArchitecture::MatchingPursuit(self.pursuit()?),
            "temporal" => InferenceArchitecture::Temporal(self.temporal(d_sae)?),
            _ => InferenceArchitecture::Standard,
        };
        Ok((architecture, transcoder))
    }

    /// SAELens' defaults where a key is missing.
    fn pursuit(&mut self) -> Result<PursuitConfig> {
        Ok(PursuitConfig {
            residual_threshold: match self.keys.shift_remove("residual_threshold") {
                None => 0.01,
                Some(value) => value.as_f64().ok_or_else(|| self.wrong("residual_threshold", &value, "a number"))?,
            },
            max_iterations: match self.keys.get("max_iterations") {
                None | Some(Value::Null) => None,
                Some(_) => Some(self.size("max_iterations")?),
            },
            stop_on_duplicate_support: self.switch("stop_on_duplicate_support", true)?,
        })
    }

    /// SAELens' defaults where a key is missing.
    fn temporal(&mut self, d_sae: usize) -> Result<TemporalConfig> {
        let mut size = |key: &str, default: usize| match self.keys.contains_key(key) {
            true => self.size(key),
            false => Ok(default),
        };
        let (n_heads, n_attn_layers) = (size("n_heads", 8)?, size("n_attn_layers", 1)?);
        let bottleneck_factor = size("bottleneck_factor", 64)?;
        let activation_normalization_factor = self.factor()?;
        let temporal = TemporalConfig {
            n_heads,
            n_attn_layers,
            bottleneck_factor,
            k: self.kval_topk(d_sae)?,
            tied_weights: self.switch("tied_weights", true)?,
            activation_normalization_factor,
        };
        temporal.check(d_sae).map_err(|what| Error::format(self.path, what))?;
        Ok(temporal)
    }

    /// The factor of `constant_scalar_rescale`, where that is the normalisation: it then is no other.
    fn factor(&mut self) -> Result<Option<f64>> {
        let key = "activation_normalization_factor";
        let value = self.keys.shift_remove(key).unwrap_or(1.0.into());
        let factor = value.as_f64().filter(|&factor| (factor as f32).is_normal());
        let factor = factor.ok_or_else(|| self.wrong(key, &value, "a number that is not 0"))?;
        if self.keys.get("normalize_activations").and_then(Value::as_str) != Some(CONSTANT_SCALAR) {
            return Ok(None);
        }
        self.keys.shift_remove("normalize_activations");
        Ok(Some(factor))
    }

    fn kval_topk(&mut self, d_sae: usize) -> Result<Option<usize>> {
        let kind = self.text("sae_diff_type", Some("topk"))?;
        let k = match self.keys.get("kval_topk") {
            None | Some(Value::Null) => {
                self.keys.shift_remove("kval_topk");
                None
            }
            Some(_) => Some(self.size("kval_topk")?),
        };
        match (kind.as_str(), k) {
            ("relu", _) => Ok(None),
            ("topk", Some(k)) if k > d_sae => {
                Err(self.wrong("kval_topk", &k.into(), &format!("at most d_sae = {d_sae}")))
            }
            ("topk", k) => Ok(k),
            _ => Err(self.wrong("sae_diff_type", &kind.into(), "relu or topk")),
        }
    }

    fn dtype(&mut self) -> Result<Dtype> {
        let name = self.text("dtype", None)?;
        parse_dtype(&name).ok_or_else(|| self.wrong("dtype", &name.into(), "float32, float64, float16 or bfloat16"))
    }

    fn normalize_activations(&mut self) -> Result<NormalizeActivations> {
        let name = self.text("normalize_activations", Some("none"))?;
        if name == "covariance_whitening" {
            // SAELens applies nothing for it at inference either: its matrix is folded when training ends.
            return Ok(NormalizeActivations::None);
        }
        name.parse().map_err(|_| {
            self.wrong("normalize_activations", &name.into(), &NormalizeActivations::expected().replace(" | ", ", "))
        })
    }

    fn reshape_activations(&mut self) -> Result<ReshapeActivations> {
        let name = self.text("reshape_activations", Some("none"))?;
        match name.as_str() {
            "none" => Ok(ReshapeActivations::None),
            "hook_z" => Ok(ReshapeActivations::HookZ),
            _ => Err(self.wrong("reshape_activations", &name.into(), "none or hook_z")),
        }
    }

    fn metadata(&mut self) -> Result<Map<String, Value>> {
        match self.keys.shift_remove("metadata") {
            None => Ok(Map::new()),
            Some(Value::Object(metadata)) => Ok(metadata),
            Some(other) => Err(self.wrong("metadata", &other, "an object")),
        }
    }

    fn size(&mut self, key: &str) -> Result<usize> {
        let value = self.take(key)?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
        size.ok_or_else(|| self.wrong(key, &value, "a whole number above 0"))
    }

    fn switch(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.keys.shift_remove(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(self.wrong(key, &other, "true or false")),
        }
    }

    fn text(&mut self, key: &str, default: Option<&str>) -> Result<String> {
        if let (Some(default), false) = (default, self.keys.contains_key(key)) {
            return Ok(default.into());
        }
        match self.take(key)? {
            Value::String(text) => Ok(text),
            other => Err(self.wrong(key, &other, "text")),
        }
    }

    fn take(&mut self, key: &str) -> Result<Value> {
        self.keys
            .shift_remove(key)
            .ok_or_else(|| Error::format(self.path, format!("key {key} is missing; is this the cfg.json of an SAE?")))
    }

    fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
        Error::format(self.path, format!("{key} is {found}, expected {expected}"))
    }
}
