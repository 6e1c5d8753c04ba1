//! Documents are read from every kind of file, from every position, and damage is named.

use cusae::data::documents::{Content, DocumentPosition, Documents, Record};
use cusae::error::Result;
use std::io::Write;
use std::path::{Path, PathBuf};

const TEXTS: [&str; 5] = ["one", "", "three 東京", "four", "five"];
const ROWS: [[u32; 3]; 5] = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], [40000, 1, 2]];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/documents").join(name)
}

fn open(path: &Path) -> Documents {
    Documents::open(&[path], None).unwrap()
}

fn contents(documents: &mut Documents) -> Vec<Content> {
    std::iter::from_fn(|| documents.next_record().unwrap()).map(|(_, record)| record.content).collect()
}

fn error(path: &Path) -> String {
    let read = || -> Result<()> {
        let mut documents = Documents::open(&[path], None)?;
        while documents.next_record()?.is_some() {}
        Ok(())
    };
    read().unwrap_err().to_string()
}

fn texts() -> Vec<Content> {
    TEXTS.map(|text| Content::Text(text.to_string())).to_vec()
}

fn rows() -> Vec<Content> {
    ROWS.map(|row| Content::Row(row.to_vec())).to_vec()
}

fn json_lines() -> Vec<u8> {
    let line = |text: &str| serde_json::json!({"id": 1, "text": text}).to_string() + "\n";
    TEXTS.map(line).concat().into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Every record gives its position; reading from there must give it and all that follow.
fn continues_everywhere(path: &Path) {
    let mut documents = open(path);
    let mut positions: Vec<DocumentPosition> = Vec::new();
    let mut all: Vec<Record> = Vec::new();
    while let Some((position, record)) = documents.next_record().unwrap() {
        positions.push(position);
        all.push(record);
        positions.push(documents.position());
    }
    for (n, position) in positions.iter().enumerate() {
        let mut documents = open(path);
        documents.seek(position).unwrap();
        let rest: Vec<Record> = std::iter::from_fn(|| documents.next_record().unwrap()).map(|(_, r)| r).collect();
        assert_eq!(rest, all[n.div_ceil(2)..], "{} from {position:?}", path.display());
    }
}

#[test]
fn json_lines_are_read_plain_and_compressed_from_every_position() {
    let folder = tempfile::tempdir().unwrap();
    let plain = json_lines();
    for (name, bytes) in [
        ("a.jsonl", plain.clone()),
        ("a.jsonl.gz", gzip(&plain)),
        // Two gzip members one after another, as log writers make them.
        ("b.jsonl.gz", [gzip(&plain[..40]), gzip(&plain[40..])].concat()),
        ("a.jsonl.zst", zstd::encode_all(&plain[..], 3).unwrap()),
    ] {
        let path = write(folder.path(), name, &bytes);
        assert_eq!(contents(&mut open(&path)), texts(), "{name}");
        continues_everywhere(&path);
    }
}

/// An array over many lines, as `json.dump` with an indent writes it, one on one line, and objects without an array.
#[test]
fn json_is_read_plain_and_compressed_from_every_position() {
    let folder = tempfile::tempdir().unwrap();
    let objects = TEXTS.map(|text| serde_json::json!({"id": {"of": [1, "}"]}, "text": text}));
    let array = serde_json::Value::from(objects.to_vec());
    let indented = serde_json::to_string_pretty(&array).unwrap();
    for (name, text) in [
        ("a.json", indented.clone()),
        ("b.json", array.to_string()),
        ("c.json", objects.map(|it| it.to_string()).concat()),
    ] {
        let path = write(folder.path(), name, text.as_bytes());
        assert_eq!(contents(&mut open(&path)), texts(), "{name}");
        continues_everywhere(&path);
    }
    let path = write(folder.path(), "a.json.gz", &gzip(indented.as_bytes()));
    assert_eq!(contents(&mut open(&path)), texts());
    continues_everywhere(&path);
}

#[test]
fn parquet_columns_of_texts_and_of_tokens_are_read_from_every_position() {
    for name in ["text.parquet", "text-zstd.parquet"] {
        assert_eq!(contents(&mut open(&fixture(name))), texts(), "{name}");
        continues_everywhere(&fixture(name));
    }
    for name in ["tokens-int64.parquet", "tokens-int32.parquet", "tokens-uint16.parquet"] {
        assert_eq!(contents(&mut open(&fixture(name))), rows(), "{name}");
        continues_everywhere(&fixture(name));
    }
}

#[test]
fn token_files_are_read_from_every_position() {
    for name in ["tokens-int64.npy", "tokens-int32.npy", "tokens-uint32.npy", "tokens-uint16.npy"] {
        assert_eq!(contents(&mut open(&fixture(name))), rows(), "{name}");
        continues_everywhere(&fixture(name));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    let flat = ROWS.concat();
    let tensor = cusae::formats::tensors::Tensor::i64(&[5, 3], &flat);
    cusae::formats::tensors::save(&path, vec![("mask".into(), tensor.clone()), ("tokens".into(), tensor)]).unwrap();
    assert_eq!(contents(&mut open(&path)), rows());
    continues_everywhere(&path);
}

#[test]
fn a_flat_tensor_and_a_bin_file_are_streams() {
    let stream = vec![Content::Stream((0..7).collect())];
    assert_eq!(contents(&mut open(&fixture("flat-uint16.npy"))), stream);
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0u16..7).flat_map(u16::to_le_bytes).collect();
    assert_eq!(contents(&mut open(&write(folder.path(), "a.bin", &bytes))), stream);

    let long: Vec<u8> = (0..200_000u32).flat_map(|n| (n as u16).to_le_bytes()).collect();
    let path = write(folder.path(), "long.bin", &long);
    continues_everywhere(&path);
    let mut documents = open(&path);
    let starts: Vec<bool> =
        std::iter::from_fn(|| documents.next_record().unwrap()).map(|(_, record)| record.starts_document).collect();
    assert_eq!(starts, [true, false, false, false]);
}

#[test]
fn a_text_file_is_one_document() {
    let folder = tempfile::tempdir().unwrap();
    let text = "First line.\n\nSecond 東京.\n";
    for (name, bytes) in [("a.txt", text.as_bytes().to_vec()), ("a.txt.gz", gzip(text.as_bytes()))] {
        let path = write(folder.path(), name, &bytes);
        assert_eq!(contents(&mut open(&path)), [Content::Text(text.to_string())]);
    }
    // No space for a megabyte: cut between characters.
    let path = write(folder.path(), "b.txt", "京".repeat(1 << 20).as_bytes());
    let mut documents = open(&path);
    let records: Vec<Record> = std::iter::from_fn(|| documents.next_record().unwrap()).map(|(_, r)| r).collect();
    let whole = |record: &Record| matches!(&record.content, Content::Text(text) if text.chars().all(|c| c == '京'));
    assert!(records.iter().all(whole));
    assert!(records.len() > 2 && records[0].starts_document && !records[1].starts_document);
    continues_everywhere(&path);
}

#[test]
fn a_folder_gives_its_files_by_name_and_ignores_the_others() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "b.txt", b"second");
    write(folder.path(), "a.txt", b"first");
    write(folder.path(), "README.md", b"not text to train on");
    write(folder.path(), "dataset_info.json", br#"{"citation": "beside text"}"#);
    let mut documents = open(folder.path());
    assert_eq!(contents(&mut documents), [Content::Text("first".into()), Content::Text("second".into())]);
    documents.seek(&DocumentPosition { file: 1, ..DocumentPosition::default() }).unwrap();
    assert_eq!(contents(&mut documents), [Content::Text("second".into())]);
}

#[test]
fn columns_are_found_in_the_order_of_saelens_or_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.jsonl", br#"{"body": "b", "problem": "p", "text": "t"}"#);
    assert_eq!(contents(&mut open(&path)), [Content::Text("t".into())]);
    let mut documents = Documents::open(&[&path], Some("body")).unwrap();
    assert_eq!(contents(&mut documents), [Content::Text("b".into())]);
    let message = Documents::open(&[path], Some("title")).err().unwrap().to_string();
    assert!(
        message.contains("record 1: no column to read: expected \"title\", found body, problem, text"),
        "{message}"
    );

    let mut urls = Documents::open(&[fixture("text.parquet")], Some("url")).unwrap();
    assert_eq!(contents(&mut urls)[4], Content::Text("https://example.org/4".into()));
    let message = Documents::open(&[fixture("text.parquet")], Some("title")).err().unwrap().to_string();
    assert!(message.contains("text.parquet: no column to read: expected \"title\", found url, text"), "{message}");
}

#[test]
fn the_embedded_texts_are_whole_and_apart() {
    let mut training = Documents::embedded_training().unwrap();
    let training = contents(&mut training);
    let mut heldout = Documents::embedded_heldout().unwrap();
    let heldout = contents(&mut heldout);
    assert_eq!((training.len(), heldout.len()), (1014, 49));
    assert!(heldout.iter().all(|document| !training.contains(document)));
    let bytes: usize = training.iter().map(|d| if let Content::Text(text) = d { text.len() } else { 0 }).sum();
    assert_eq!(bytes, 11_955_973);
}

#[test]
fn files_that_cannot_be_opened_are_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(error(&folder.path().join("none.jsonl")).contains("none.jsonl: cannot open: No such file"));
    assert!(error(folder.path()).contains("the folder holds no file with the ending .txt, .jsonl"));
    let message = error(&write(folder.path(), "a.doc", b"x"));
    assert!(message.contains("a.doc: its ending says nothing about what it holds; expected .txt"), "{message}");
    assert!(Documents::open(&[] as &[PathBuf], None).err().unwrap().to_string().contains("no file was named"));
}

#[test]
fn truncated_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let plain = json_lines().repeat(1000);
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 10].to_vec();
    for (name, bytes) in [("a.jsonl.gz", gzip(&plain)), ("a.jsonl.zst", zstd::encode_all(&plain[..], 3).unwrap())] {
        let message = error(&write(folder.path(), name, &cut(bytes)));
        assert!(message.contains(name) && message.contains("cannot be read past byte"), "{message}");
    }
    for name in ["text.parquet", "tokens-int64.npy"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for length in [0, 6, bytes.len() - 10] {
            let message = error(&write(folder.path(), name, &bytes[..length]));
            assert!(message.contains(name) && message.contains("again"), "{length}: {message}");
        }
    }
    assert!(contents(&mut open(&write(folder.path(), "empty.bin", b""))).is_empty());
    let message = error(&write(folder.path(), "odd.bin", b"abc"));
    assert!(message.contains("odd.bin: holds 3 bytes, which are not whole uint16 numbers"), "{message}");
    // Damaged in the middle of the data rather than cut.
    let mut bytes = std::fs::read(fixture("text.parquet")).unwrap();
    bytes[4..600].fill(0xff);
    let message = error(&write(folder.path(), "text.parquet", &bytes));
    assert!(message.contains("text.parquet: not a whole parquet file"), "{message}");
}

#[test]
fn records_that_are_no_documents_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (lines, expected) in [
        ("{\"text\": \"a\"}\nnot json\n", "record 2: not a JSON object"),
        ("{\"text\": \"a\"}\n\n{\"title\": \"b\"}\n", "record 2: no column to read: expected \"text\", found title"),
        ("{\"text\": null}\n", "record 1: text is null, expected a text or a list of token ids"),
        ("{\"tokens\": [1, -2]}\n", "record 1: tokens holds -2, expected token ids from 0 on"),
        ("{\"tokens\": [1, 2.5]}\n", "record 1: tokens holds 2.5, expected token ids from 0 on"),
    ] {
        let message = error(&write(folder.path(), "a.jsonl", lines.as_bytes()));
        assert!(message.contains(expected), "{message}");
    }
    for (name, expected) in [
        ("null-text.parquet", "record 2: column text is null, expected a text"),
        ("null-token.parquet", "record 2: column input_ids holds null, expected token ids"),
        ("negative-token.parquet", "record 3: column input_ids holds -3, expected token ids from 0 on"),
        ("numbers.parquet", "column text holds neither texts nor lists of token ids"),
        ("negative.npy", "tensor array holds -2, expected values from 0"),
        ("big-endian.npy", "expected little-endian integers or floats"),
        ("fortran.npy", "is in column-major (Fortran) order"),
        ("cube.npy", "tensor array has shape [2, 2, 2], expected [rows, context] or [n]"),
        ("floats.npy", "tensor array has dtype F32, expected integers"),
    ] {
        let message = error(&fixture(name));
        assert!(message.contains(name) && message.contains(expected), "{message}");
    }
    for (text, expected) in [
        ("[{\"text\": \"a\"}, {\"text\"", "a.json: record 2: not a JSON object (EOF"),
        ("[{\"text\": \"a\"}, ", "a.json: record 2: the file ends before its array; write it again"),
        ("[\"a\"]", "a.json: record 1: not a JSON object; expected { … }, or an array of them"),
        ("[{\"text\": \"a\"}, {\"title\": \"b\"}]", "record 2: no column to read: expected \"text\", found title"),
    ] {
        let message = error(&write(folder.path(), "a.json", text.as_bytes()));
        assert!(message.contains(expected), "{message}");
    }
    let message = error(&write(folder.path(), "a.txt", b"good \xff bad"));
    assert!(message.contains("a.txt: byte 5 is not UTF-8"), "{message}");
}

#[test]
fn a_position_in_files_that_shrank_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("a.jsonl.gz", gzip(&json_lines())), ("a.jsonl", json_lines())] {
        let path = write(folder.path(), name, &bytes);
        let seek = |position: DocumentPosition| open(&path).seek(&position).unwrap_err().to_string();
        let message = seek(DocumentPosition { file: 0, record: 9, byte: 10_000 });
        assert!(message.contains("where 10000 had been read before; the file has changed"), "{message}");
        let message = seek(DocumentPosition { file: 2, record: 0, byte: 0 });
        assert!(message.contains("1 files are named where there had been more before"), "{message}");
    }
}
