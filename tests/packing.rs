//! Documents become the rows that SAELens makes of them (golden data: scripts/make_packing_cases.py).

use cusae::config::SpecialToken;
use cusae::data::{Documents, Packing, Position, TokenRows, Tokenizer};
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const VOCABULARY: usize = 40;

/// A tokenizer of words "t0", "t1", …, of which 0 is bos, 1 eos and 2 sep.
fn word_tokenizer(folder: &Path) -> Arc<Tokenizer> {
    let vocabulary: serde_json::Map<String, Value> = (0..VOCABULARY).map(|id| (format!("t{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t39"},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let roles = json!({"bos_token": "t0", "eos_token": {"content": "t1"}, "sep_token": "t2"});
    std::fs::write(folder.join("tokenizer_config.json"), roles.to_string()).unwrap();
    Arc::new(Tokenizer::from_folder(folder).unwrap())
}

fn words(tokens: &[u32]) -> String {
    tokens.iter().map(|id| format!("t{id}")).collect::<Vec<_>>().join(" ")
}

fn write_documents(path: &Path, documents: &[Vec<u32>]) {
    let lines: Vec<String> = documents.iter().map(|d| json!({"text": words(d)}).to_string()).collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

fn rows_of(path: &Path, tokenizer: &Arc<Tokenizer>, packing: &Packing) -> TokenRows {
    let documents = Documents::open(&[path], None).unwrap();
    TokenRows::new(documents, Some(tokenizer.clone()), packing, VOCABULARY).unwrap()
}

fn remaining(rows: &mut TokenRows) -> Vec<Vec<u32>> {
    std::iter::from_fn(|| rows.next_row().unwrap()).collect()
}

fn plain(context_size: usize) -> Packing {
    Packing {
        context_size,
        prepend_bos: true,
        sequence_separator_token: Some(SpecialToken::Bos),
        disable_concat_sequences: false,
    }
}

struct Case {
    name: String,
    documents: PathBuf,
    packing: Packing,
    rows: Vec<Vec<u32>>,
}

fn saelens_cases(folder: &Path) -> Vec<Case> {
    let golden: Value = serde_json::from_str(include_str!("data/packing/cases.json")).unwrap();
    let sets: Vec<Vec<Vec<u32>>> = serde_json::from_value(golden["documents"].clone()).unwrap();
    for (number, documents) in sets.iter().enumerate() {
        write_documents(&folder.join(format!("{number}.jsonl")), documents);
    }
    let case = |case: &Value| Case {
        name: format!("{} {}", case["documents"], case),
        documents: folder.join(format!("{}.jsonl", case["documents"])),
        packing: Packing {
            context_size: case["context_size"].as_u64().unwrap() as usize,
            prepend_bos: case["prepend_bos"].as_bool().unwrap(),
            sequence_separator_token: match case["sequence_separator_token"].as_str().unwrap() {
                "bos" => Some(SpecialToken::Bos),
                "eos" => Some(SpecialToken::Eos),
                "sep" => Some(SpecialToken::Sep),
                "none" => None,
                id => Some(SpecialToken::Id(id.parse().unwrap())),
            },
            disable_concat_sequences: case["disable_concat_sequences"].as_bool().unwrap(),
        },
        rows: serde_json::from_value(case["rows"].clone()).unwrap(),
    };
    golden["cases"].as_array().unwrap().iter().map(case).collect()
}

#[test]
fn rows_are_those_of_saelens() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = word_tokenizer(folder.path());
    let cases = saelens_cases(folder.path());
    assert!(cases.len() > 500, "{}", cases.len());
    for case in cases.iter().filter(|case| !case.rows.is_empty()) {
        let mut rows = rows_of(&case.documents, &tokenizer, &case.packing);
        assert_eq!(remaining(&mut rows), case.rows, "{}", case.name);
    }
}

#[test]
fn rows_continue_from_every_position() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = word_tokenizer(folder.path());
    for case in saelens_cases(folder.path()).iter().filter(|case| case.packing.context_size > 2) {
        let mut rows = rows_of(&case.documents, &tokenizer, &case.packing);
        for given in 1..case.rows.len() {
            rows.next_row().unwrap();
            let saved = serde_json::to_string(&rows.position()).unwrap();
            let mut continued = rows_of(&case.documents, &tokenizer, &case.packing);
            continued.seek(&serde_json::from_str::<Position>(&saved).unwrap()).unwrap();
            assert_eq!(remaining(&mut continued), case.rows[given..], "after {given} rows of {}", case.name);
        }
    }
}

#[test]
fn a_second_pass_gives_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = word_tokenizer(folder.path());
    let path = folder.path().join("a.jsonl");
    write_documents(&path, &[vec![3, 4, 5], vec![6, 7, 8, 9]]);
    let mut rows = rows_of(&path, &tokenizer, &plain(3));
    let first = remaining(&mut rows);
    assert_eq!(first, [[0, 3, 4], [0, 5, 0], [0, 6, 7], [0, 8, 9]]);
    assert_eq!(rows.next_row().unwrap(), None);
    rows.rewind().unwrap();
    assert_eq!(remaining(&mut rows), first);
}

#[test]
fn rows_that_are_set_aside_are_in_no_pass() {
    let folder = tempfile::tempdir().unwrap();
    let (tokenizer, path) = (word_tokenizer(folder.path()), folder.path().join("a.jsonl"));
    // Rows end within documents.
    write_documents(&path, &[(3..20).collect(), (5..9).collect(), (10..39).collect()]);
    let rows = || rows_of(&path, &tokenizer, &plain(8));
    let all = remaining(&mut rows());
    let mut training = rows();
    assert_eq!(training.set_aside(2).unwrap(), all[..2]);
    assert_eq!(remaining(&mut training), all[2..]);
    training.rewind().unwrap();
    assert_eq!(training.next_row().unwrap().unwrap(), all[2]);
    // In another process: the same rows are set aside, then the position is taken up.
    let mut continued = rows();
    continued.set_aside(2).unwrap();
    continued.seek(&training.position()).unwrap();
    assert_eq!(remaining(&mut continued), all[3..]);
    continued.rewind().unwrap();
    assert_eq!(remaining(&mut continued), all[2..]);
    let message = rows().set_aside(all.len()).unwrap_err().to_string();
    let expected = format!("eval_dataset_path: the {} rows of the data would all be set aside", all.len());
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn rows_that_are_tokens_already_are_only_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, "{\"text\": \"no\", \"input_ids\": [9, 8, 7, 6]}\n{\"input_ids\": [5, 4, 3]}\n").unwrap();
    let open = || TokenRows::new(Documents::open(&[&path], None).unwrap(), None, &plain(3), VOCABULARY).unwrap();
    assert_eq!(remaining(&mut open()), [[9, 8, 7], [5, 4, 3]]);
    let (mut rows, mut continued) = (open(), open());
    rows.next_row().unwrap();
    continued.seek(&rows.position()).unwrap();
    assert_eq!(remaining(&mut continued), [[5, 4, 3]]);
}

#[test]
fn a_flat_sequence_of_tokens_is_cut_as_it_stands_across_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, tokens: &[u16]| {
        let path = folder.path().join(name);
        std::fs::write(&path, tokens.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        path
    };
    let files = [write("a.bin", &[1, 2, 3, 4, 5]), write("b.bin", &[6, 7, 8])];
    let open = || TokenRows::new(Documents::open(&files, None).unwrap(), None, &plain(2), VOCABULARY).unwrap();
    let mut rows = open();
    assert_eq!(remaining(&mut rows), [[1, 2], [3, 4], [5, 6], [7, 8]]);
    rows.rewind().unwrap();
    for _ in 0..3 {
        rows.next_row().unwrap();
    }
    let mut continued = open();
    continued.seek(&rows.position()).unwrap();
    assert_eq!(remaining(&mut continued), [[7, 8]]);
}

#[test]
fn large_texts_come_in_pieces_and_give_the_tokens_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.txt");
    let sentence =
        "It was the best of times, it was the worst of times;\n\n  \"naïve\" people say they've 1859 reasons. ";
    let text = sentence.repeat((2 << 20) / sentence.len() + 2);
    std::fs::write(&path, &text).unwrap();
    let mut documents = Documents::open(&[&path], None).unwrap();
    let pieces = std::iter::from_fn(|| documents.next_record().unwrap()).count();
    assert!(pieces > 2, "{pieces} pieces");

    let tokenizer = Arc::new(Tokenizer::embedded().unwrap());
    let whole = tokenizer.encode(&text).unwrap();
    let packing = Packing { prepend_bos: false, ..plain(100) };
    let open = || {
        let documents = Documents::open(&[&path], None).unwrap();
        TokenRows::new(documents, Some(tokenizer.clone()), &packing, 4096).unwrap()
    };
    let mut rows = open();
    let packed = remaining(&mut rows).concat();
    assert_eq!(packed, whole[..packed.len()]);
    assert!(whole.len() - packed.len() < 100);

    // A position inside the second piece.
    rows.rewind().unwrap();
    let given = whole.len() / 100 / 2;
    (0..given).for_each(|_| drop(rows.next_row().unwrap()));
    let mut continued = open();
    continued.seek(&rows.position()).unwrap();
    assert_eq!(remaining(&mut continued).concat(), packed[given * 100..]);

    // One row a document: the first piece gives it, the others belong to the same document.
    let one = Packing { disable_concat_sequences: true, ..packing };
    let documents = Documents::open(&[&path, &path], None).unwrap();
    let mut rows = TokenRows::new(documents, Some(tokenizer.clone()), &one, 4096).unwrap();
    assert_eq!(remaining(&mut rows), [&whole[..100], &whole[..100]]);
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = word_tokenizer(folder.path());
    let path = folder.path().join("a.jsonl");
    write_documents(&path, &[vec![3, 4, 5]]);
    let error = |tokenizer: &Arc<Tokenizer>, packing: Packing, d_vocab: usize| {
        let documents = Documents::open(&[&path], None).unwrap();
        TokenRows::new(documents, Some(tokenizer.clone()), &packing, d_vocab).err().unwrap().to_string()
    };
    assert_eq!(error(&tokenizer, plain(1), VOCABULARY), "context_size: 1 is too small, expected at least 2");
    let without_bos = Packing { prepend_bos: false, ..plain(0) };
    assert_eq!(error(&tokenizer, without_bos, VOCABULARY), "context_size: 0 is too small, expected at least 1");

    let message = error(&tokenizer, plain(4), 30);
    assert!(message.contains("tokenizer.json: this is the tokenizer of another model: it has 40 tokens"), "{message}");
    assert!(error(&tokenizer, plain(4), 40 + 2000).contains("the model has 2040"));

    let embedded = Arc::new(Tokenizer::embedded().unwrap());
    let sep = Packing { sequence_separator_token: Some(SpecialToken::Sep), ..plain(4) };
    let message = error(&embedded, sep, 4096);
    assert_eq!(message, "sequence_separator_token: the tokenizer has no sep token; use a token id or none");
}

#[test]
fn too_little_text_for_one_row_is_an_error_that_says_how_little() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = word_tokenizer(folder.path());
    let path = folder.path().join("a.jsonl");
    write_documents(&path, &[vec![3, 4, 5], vec![6]]);
    let error = |packing: &Packing| rows_of(&path, &tokenizer, packing).next_row().unwrap_err().to_string();
    let message = error(&plain(7));
    assert!(message.contains("a.jsonl: all the text is 6 tokens, less than one row of context_size 7"), "{message}");
    let message = error(&Packing { disable_concat_sequences: true, ..plain(5) });
    assert!(message.contains("no document fills a row of context_size 5"), "{message}");
    std::fs::write(&path, "").unwrap();
    let message = error(&plain(7));
    assert!(message.contains("all the text is 0 tokens"), "{message}");
}

#[test]
fn tokens_that_do_not_fit_the_model_or_the_context_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, "{\"tokens\": [1, 2, 3]}\n{\"tokens\": [1, 40, 3]}\n{\"tokens\": [1, 2]}\n").unwrap();
    let mut rows = TokenRows::new(Documents::open(&[path], None).unwrap(), None, &plain(3), VOCABULARY).unwrap();
    rows.next_row().unwrap();
    let message = rows.next_row().unwrap_err().to_string();
    assert!(message.contains("a.jsonl: record 2 holds token 40, outside the model's vocabulary of 40"), "{message}");
    let message = rows.next_row().unwrap_err().to_string();
    assert!(message.contains("a.jsonl: record 3 has 2 tokens, expected at least context_size 3"), "{message}");
}

#[test]
fn text_without_a_tokenizer_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    std::fs::write(&path, "words").unwrap();
    let mut rows = TokenRows::new(Documents::open(&[path], None).unwrap(), None, &plain(3), VOCABULARY).unwrap();
    assert!(rows.next_row().unwrap_err().to_string().contains("a.txt: holds text, and the model has no tokenizer"));
}

#[test]
fn rows_before_damaged_text_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = word_tokenizer(folder.path());
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, "{\"text\": \"t3 t4 t5\"}\n{\"text\": \"t6 t7\"}\nno JSON\n").unwrap();
    let mut rows = rows_of(&path, &tokenizer, &plain(3));
    assert_eq!(rows.next_row().unwrap().unwrap(), [0, 3, 4]);
    assert_eq!(rows.next_row().unwrap().unwrap(), [0, 5, 0]);
    assert_eq!(rows.next_row().unwrap().unwrap(), [0, 6, 7]);
    let message = rows.next_row().unwrap_err().to_string();
    assert!(message.contains("a.jsonl: record 3: not a JSON object"), "{message}");
}

#[test]
fn a_file_is_opened_when_its_turn_comes() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = word_tokenizer(folder.path());
    let files = ["a.jsonl", "b.jsonl"].map(|name| folder.path().join(name));
    write_documents(&files[0], &[vec![3, 4], vec![5, 6]]);
    std::fs::write(&files[1], "not yet").unwrap();
    let documents = Documents::open(&files, None).unwrap();
    let mut rows = TokenRows::new(documents, Some(tokenizer.clone()), &plain(3), VOCABULARY).unwrap();
    assert_eq!(rows.next_row().unwrap().unwrap(), [0, 3, 4]);
    assert_eq!(rows.next_row().unwrap().unwrap(), [0, 5, 6]);
    write_documents(&files[1], &[vec![7, 8]]);
    assert_eq!(rows.next_row().unwrap().unwrap(), [0, 7, 8]);
}
