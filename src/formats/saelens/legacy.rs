//! `cfg.json` from before SAELens 6: one flat object in which the settings of the SAE, of the model
//! and of the run stand side by side. Source: SAELens' `handle_pre_6_0_config`.

use serde_json::{Map, Value};

/// Old names of keys.
const RENAMED: &[(&str, &str)] = &[
    ("hook_point", "hook_name"),
    ("hook_point_head_index", "hook_head_index"),
    ("activation_fn_str", "activation_fn"),
];

/// Keys that stand under `metadata` today.
const METADATA: &[&str] = &[
    "model_name",
    "hook_name",
    "model_class_name",
    "hook_head_index",
    "model_from_pretrained_kwargs",
    "prepend_bos",
    "exclude_special_tokens",
    "neuronpedia_id",
    "context_size",
    "seqpos_slice",
    "dataset_path",
    "sae_lens_version",
    "sae_lens_training_version",
    "hook_name_out",
    "hook_head_index_out",
    "hf_hook_name",
    "hf_hook_name_out",
];

/// The same settings as today's SAELens would write them.
pub fn convert(old: Map<String, Value>) -> Map<String, Value> {
    let renamed = |key: String| RENAMED.iter().find(|(old, _)| *old == key).map_or(key, |(_, new)| new.to_string());
    let mut keys: Map<String, Value> = old.into_iter().map(|(key, value)| (renamed(key), value)).collect();
    // Nested metadata in an old file is not read, as in SAELens.
    keys.shift_remove("metadata");
    keys.entry("prepend_bos").or_insert(true.into());
    keys.entry("architecture").or_insert("standard".into());
    let of_hook_z = keys.get("hook_name").and_then(Value::as_str).is_some_and(|hook| hook.contains("hook_z"));
    keys.entry("reshape_activations").or_insert(if of_hook_z { "hook_z" } else { "none" }.into());
    read_topk(&mut keys);
    read_normalize_activations(&mut keys);
    let (metadata, mut keys): (Map<_, _>, Map<_, _>) =
        keys.into_iter().partition(|(key, _)| METADATA.contains(&key.as_str()));
    keys.insert("metadata".into(), Value::Object(metadata));
    keys
}

/// TopK was an activation function of the standard architecture.
fn read_topk(keys: &mut Map<String, Value>) {
    let k = keys.get("activation_fn_kwargs").and_then(|kwargs| kwargs.get("k")).filter(|k| !k.is_null()).cloned();
    let is_topk = |key: &str| keys.get(key).is_some_and(|value| value == "topk");
    if let (Some(k), true) = (k, is_topk("activation_fn") || is_topk("architecture")) {
        keys.insert("architecture".into(), "topk".into());
        keys.insert("k".into(), k);
    }
}

/// `normalize_activations` was a switch for what is called `expected_average_only_in` today.
fn read_normalize_activations(keys: &mut Map<String, Value>) {
    let name = match keys.get("normalize_activations") {
        None | Some(Value::Null | Value::Bool(false)) => "none",
        Some(Value::Bool(true)) => "expected_average_only_in",
        Some(_) => return,
    };
    keys.insert("normalize_activations".into(), name.into());
}
