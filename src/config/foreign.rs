//! SAELens' config fields that have no counterpart here, each with the sentence that answers it.

/// SAELens' fields that a recipe does not have.
pub fn foreign_keys() -> impl Iterator<Item = &'static str> {
    FOREIGN.iter().flat_map(|(keys, _)| keys.iter().copied())
}

/// Why a field of SAELens is not here and what to use instead; none if SAELens has no such field.
pub fn foreign_reason(key: &str) -> Option<&'static str> {
    FOREIGN.iter().find(|(keys, _)| keys.contains(&key)).map(|&(_, reason)| reason)
}

const FOREIGN: &[(&[&str], &str)] = &[
    (&["n_batches_in_buffer"], "the activation buffer is stated in tokens here: use buffer_tokens"),
    (&["wandb_log_frequency"], "metrics go to metrics.jsonl and TensorBoard: use log_every"),
    (&["eval_every_n_wandb_logs"], "use eval_every_n_steps, which counts training steps"),
    (
        &[
            "log_to_wandb",
            "log_activations_store_to_wandb",
            "log_optimizer_state_to_wandb",
            "log_weights_to_wandb",
            "wandb_project",
            "wandb_id",
            "wandb_entity",
            "run_name",
        ],
        "Weights & Biases is not used: metrics go to metrics.jsonl and TensorBoard files in the run folder; remove it",
    ),
    (&["sae", "logger"], "a recipe is one flat list: write the keys of this table at the top level"),
    (&["device", "llm_device", "act_store_device"], "the device is not part of a recipe: use the option --device"),
    (&["output_path", "checkpoint_path", "out"], "the run folder is not part of a recipe: use the option --out DIR"),
    (&["resume_from_checkpoint", "resume"], "use the option --resume DIR"),
    (&["verbose"], "use the option --quiet for silence"),
    (&["use_cached_activations"], "naming cached_activations_path is enough; remove it"),
    (&["streaming", "dataset_trust_remote_code"], "text is read from local files, always streamed; remove it"),
    (
        &["is_dataset_tokenized"],
        "whether a column holds text or tokens is seen from it; remove it or name dataset_column",
    ),
    (&["use_chat_formatting"], "chat templates are not supported; write the conversations as text"),
    (&["hook_head_index"], "a single head cannot be chosen; hooks with heads, such as hook_z, are taken whole"),
    (&["hook_eval"], "SAELens itself does not use it; remove it"),
    (&["dead_feature_threshold"], "SAELens itself does not use it; use dead_feature_window"),
    (&["model_class_name", "model_kwargs"], "models are read from GPT-2 folders; remove it"),
    (&["model_from_pretrained_kwargs"], "use processing to say how weights are treated"),
    (&["prefetch_llm_batches"], "the model and the SAE share one device; remove it"),
    (
        &["compile_llm", "llm_compilation_mode", "compile_sae", "sae_compilation_mode"],
        "the program is compiled ahead and computes in dtype; remove it",
    ),
    (&["use_sparse_activations"], "topk always computes sparsely; remove it"),
    (&["reshape_activations"], "it follows from hook_name; remove it"),
    (&["sae_lens_version", "sae_lens_training_version"], "a recipe carries no version; remove it"),
];
