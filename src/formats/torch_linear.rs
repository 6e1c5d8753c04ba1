//! Single `.pt` files with a bias on both of torch's `Linear` layers: `deepseek_r1`
//! (`encoder.weight`, …) and `goodfire` (`encoder_linear.weight`, …). ReLU SAEs that leave b_dec out of
//! the input. Source: SAELens' loaders of these names; the layer is in the file's name.

use super::saelens::SavedSae;
use super::source::*;
use super::torch;
use crate::error::Result;
use crate::sae::config::{InferenceArchitecture, SaeConfig};
use serde_json::json;

/// Whether this is a file of qresearch's SAE of DeepSeek-R1-Distill.
pub fn holds_deepseek_r1(source: &Source) -> bool {
    source.is_torch_with(&["encoder.weight", "encoder.bias", "decoder.bias"])
}

/// Whether this is a file of Goodfire.
pub fn holds_goodfire(source: &Source) -> bool {
    source.is_torch_with(&["encoder_linear.weight", "decoder_linear.bias"])
}

/// Reads qresearch's SAE.
pub fn load_deepseek_r1(source: &Source) -> Result<SavedSae> {
    let mut saved = load(source, "encoder", "decoder", |_| Some("deepseek-ai/DeepSeek-R1-Distill-Llama-8B".into()))?;
    saved.config.metadata.insert("context_size".into(), json!(1024));
    Ok(saved)
}

/// Reads one of Goodfire's SAEs.
pub fn load_goodfire(source: &Source) -> Result<SavedSae> {
    load(source, "encoder_linear", "decoder_linear", |file| {
        Some(format!("meta-llama/{}", file.split("-SAE-").next().filter(|_| file.contains("-SAE-"))?))
    })
}

fn load(source: &Source, encoder: &str, decoder: &str, model: impl Fn(&str) -> Option<String>) -> Result<SavedSae> {
    let file = torch::open(source.path())?.tensors;
    let w_enc = transposed(&file, &format!("{encoder}.weight"))?;
    let mut config = SaeConfig::new(InferenceArchitecture::Standard, w_enc.shape[0], w_enc.shape[1]);
    config.apply_b_dec_to_input = false;
    config.dtype = file.info(&format!("{encoder}.weight"))?.dtype;
    let name = source.parts().next().unwrap_or_default();
    let layer = number_after(name, "-l");
    config.metadata = metadata([
        ("model_name", model(name).map(Into::into)),
        ("hook_name", layer.map(|layer| format!("blocks.{layer}.hook_resid_post").into())),
        ("dataset_path", Some(json!("lmsys/lmsys-chat-1m"))),
        ("prepend_bos", Some(true.into())),
    ]);
    let tensors = [
        ("W_enc", w_enc),
        ("W_dec", transposed(&file, &format!("{decoder}.weight"))?),
        ("b_enc", tensor(&file, &format!("{encoder}.bias"))?),
        ("b_dec", tensor(&file, &format!("{decoder}.bias"))?),
    ];
    assemble(file.path(), config, tensors)
}
