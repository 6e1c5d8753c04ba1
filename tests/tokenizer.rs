//! Text becomes the ids that transformers gives it (golden data: scripts/make_tokenizer_cases.py).

use cusae::config::{ExcludeSpecialTokens, SpecialToken};
use cusae::data::tokenizer::excluded_ids;
use cusae::data::Tokenizer;
use serde_json::{json, Value};
use std::path::Path;

const VOCABULARY: &[u8] = include_bytes!("data/tokenizer/gpt2-vocab.json.zst");
const MERGES: &[u8] = include_bytes!("data/tokenizer/gpt2-merges.txt.zst");

fn unpack(packed: &[u8]) -> String {
    String::from_utf8(zstd::decode_all(packed).unwrap()).unwrap()
}

/// GPT-2's own tokenizer as OpenAI's two files.
fn write_two_files(folder: &Path) {
    std::fs::write(folder.join("vocab.json"), unpack(VOCABULARY)).unwrap();
    std::fs::write(folder.join("merges.txt"), unpack(MERGES)).unwrap();
}

/// The same as one tokenizer.json.
fn write_one_file(folder: &Path) {
    let vocabulary: Value = serde_json::from_str(&unpack(VOCABULARY)).unwrap();
    let merges: Vec<String> = unpack(MERGES).lines().skip(1).map(str::to_string).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "normalizer": null, "post_processor": null,
        // As saved by a training run: neither must have an effect.
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
        "added_tokens": [{"id": 50256, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

fn check_golden(tokenizer: &Tokenizer, key: &str) {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/tokenizer/cases.json")).unwrap();
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case[key].clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

#[test]
fn gpt2_reads_alike_from_one_file_and_from_two() {
    for write in [write_one_file, write_two_files] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        check_golden(&tokenizer, "gpt2");
        assert_eq!(tokenizer.encode("Hello world").unwrap(), [15496, 995]);
        assert_eq!(tokenizer.vocabulary_size(), 50257);
        assert_eq!(tokenizer.bos_token_id(), Some(50256));
        assert_eq!(tokenizer.eos_token_id(), Some(50256));
        assert_eq!(tokenizer.special_ids(), [50256]);
        tokenizer.check_model(50257).unwrap();
        tokenizer.check_model(50304).unwrap();
    }
}

#[test]
fn the_embedded_tokenizer_is_that_of_the_embedded_model() {
    let tokenizer = Tokenizer::embedded().unwrap();
    check_golden(&tokenizer, "tinygpt2");
    assert_eq!(tokenizer.bos_token_id(), Some(4095));
    let config: Value = serde_json::from_str(cusae::embedded::MODEL_CONFIG).unwrap();
    tokenizer.check_model(config["vocab_size"].as_u64().unwrap() as usize).unwrap();
}

#[test]
fn roles_come_from_the_files_beside_the_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    write_two_files(folder.path());
    let write = |name: &str, value: Value| std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    let roles = || {
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        (
            tokenizer.bos_token_id(),
            tokenizer.eos_token_id(),
            tokenizer.special_token(SpecialToken::Sep).ok(),
            tokenizer.special_ids(),
        )
    };
    write("config.json", json!({"bos_token_id": 5, "eos_token_id": [6, 7]}));
    assert_eq!(roles(), (Some(5), Some(6), None, vec![5, 6]));
    write("special_tokens_map.json", json!({"bos_token": {"content": "!"}, "sep_token": "#"}));
    assert_eq!(roles(), (Some(0), Some(6), Some(2), vec![0, 2, 6]));
    write("tokenizer_config.json", json!({"bos_token": "$", "eos_token": null, "pad_token": "%"}));
    assert_eq!(roles(), (Some(3), Some(6), Some(2), vec![2, 3, 4, 6]));
}

#[test]
fn excluded_tokens_are_none_the_special_ones_or_a_list() {
    let tokenizer = Tokenizer::embedded().unwrap();
    assert!(excluded_ids(&ExcludeSpecialTokens::No, None).unwrap().is_empty());
    assert_eq!(excluded_ids(&ExcludeSpecialTokens::Yes, Some(&tokenizer)).unwrap(), [4095]);
    assert_eq!(excluded_ids(&ExcludeSpecialTokens::Ids(vec![7, 3]), None).unwrap(), [7, 3]);
    let message = excluded_ids(&ExcludeSpecialTokens::Yes, None).unwrap_err().to_string();
    assert!(message.contains("exclude_special_tokens: the model has no tokenizer"), "{message}");
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = || Tokenizer::from_folder(folder.path()).err().unwrap().to_string();
    assert!(error().contains("no tokenizer: expected tokenizer.json, or vocab.json and merges.txt"));
    std::fs::write(folder.path().join("tokenizer.json"), "{\"version\": ").unwrap();
    assert!(error().contains("tokenizer.json: not a tokenizer"));
    std::fs::write(folder.path().join("tokenizer_config.json"), "[]").unwrap();
    assert!(error().contains("tokenizer_config.json: not a JSON object"));
}

#[test]
fn an_id_outside_the_vocabulary_cannot_be_decoded() {
    let message = Tokenizer::embedded().unwrap().decode(&[1, 4096]).unwrap_err().to_string();
    assert_eq!(message, "embedded tokenizer.json: has no token 4096");
}
