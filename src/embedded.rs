//! What is compiled into the program: a small trained GPT-2 and a sample of public-domain text, so
//! that `cusae train` and the tests need no files and no network. Provenance: `assets/README.md`.

/// Hugging Face's `config.json` of the model: 4 layers, d_model 128, 4 heads, 256 positions.
pub const MODEL_CONFIG: &str = include_str!("../assets/tinygpt2/config.json");

/// The model's `model.safetensors`: 1.35 M parameters, f32, names as Hugging Face saves them.
pub const MODEL_WEIGHTS: &[u8] = include_bytes!("../assets/tinygpt2/model.safetensors");

/// The model's `tokenizer.json`: byte-level BPE, 4096 tokens, `<|endoftext|>` is 4095.
pub const TOKENIZER: &[u8] = include_bytes!("../assets/tinygpt2/tokenizer.json");

/// Training text: JSON Lines `{"text": …}`, one document a line, zstd; 12 MB uncompressed.
pub const TRAINING_TEXT: &[u8] = include_bytes!("../assets/text/training.jsonl.zst");

/// Documents that neither the model nor an SAE was trained on, in the same form; 0.4 MB.
pub const HELDOUT_TEXT: &[u8] = include_bytes!("../assets/text/heldout.jsonl.zst");
