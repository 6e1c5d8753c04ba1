//! Activations are stored in shards, several hooks at once, and come back as batches in the order
//! of the files or of the seed.

use cusae::backend::Cpu;
use cusae::data::store::StoredHook;
use cusae::data::{
    ActivationSource, FromFiles, FromFilesSettings, StoreIndex, StoreSettings, StoreWriter, StoredActivations,
};
use cusae::formats::tensors::{self, Tensor, TensorFile};
use safetensors::Dtype;
use serde_json::Map;
use std::path::{Path, PathBuf};

const ROWS: usize = 100;

/// Row n of hook "a" is [n, n + 0.5], of hook "b" [-n].
fn write_store(folder: &Path, dtype: Dtype, shuffle: Option<u64>) -> StoreIndex {
    let hook = |name: &str, d_in| StoredHook { hook_name: name.to_string(), d_in };
    let settings = StoreSettings {
        hooks: vec![hook("a", 2), hook("b", 1)],
        dtype,
        expected_rows: ROWS,
        shard_bytes: 30 * 12,
        shuffle,
        metadata: Map::from_iter([("model_name".to_string(), "embedded".into())]),
    };
    let mut writer = StoreWriter::create(folder, settings).unwrap();
    for first in (0..ROWS).step_by(7) {
        let numbers: Vec<f32> = (first..ROWS.min(first + 7)).map(|n| n as f32).collect();
        let a = numbers.iter().flat_map(|n| [*n, n + 0.5]).collect();
        writer.append(&[a, numbers.iter().map(|n| -n).collect()]).unwrap();
    }
    writer.finish().unwrap()
}

fn read_hook(folder: &Path, index: &StoreIndex, hook: &str) -> Vec<f32> {
    index
        .shards
        .iter()
        .flat_map(|shard| TensorFile::open(folder.join(&shard.file)).unwrap().f32(hook).unwrap())
        .collect()
}

fn settings(batch_size: usize) -> FromFilesSettings {
    FromFilesSettings { batch_size, shuffle: false, seed: 3, repeat: false }
}

fn open(path: impl AsRef<Path>, settings: FromFilesSettings) -> FromFiles<Cpu> {
    let stored = StoredActivations::open(path.as_ref().to_str().unwrap(), "a").unwrap();
    FromFiles::new(&Cpu, vec![stored], settings).unwrap()
}

fn batch(source: &mut FromFiles<Cpu>) -> Option<Vec<f32>> {
    let [width] = source.widths()[..] else { panic!("one hook is read") };
    let mut batch = [vec![f32::NAN; source.batch_size() * width]];
    source.next_batches(&mut batch).unwrap().then_some(batch.concat())
}

fn batches(source: &mut FromFiles<Cpu>, n: usize) -> Vec<Vec<f32>> {
    (0..n).map_while(|_| batch(source)).collect()
}

fn save(folder: &Path, name: &str, tensors: &[(&str, Tensor)]) -> PathBuf {
    let path = folder.join(name);
    tensors::save(&path, tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect()).unwrap();
    path
}

fn error(path: impl AsRef<Path>, settings: FromFilesSettings) -> String {
    let read = || -> cusae::error::Result<()> {
        let stored = StoredActivations::open(path.as_ref().to_str().unwrap(), "a")?;
        let mut source = FromFiles::new(&Cpu, vec![stored], settings)?;
        let mut batch = [vec![0.0; source.batch_size() * source.widths()[0]]];
        while source.next_batches(&mut batch)? {}
        Ok(())
    };
    read().unwrap_err().to_string()
}

#[test]
fn a_store_in_order_holds_the_rows_as_they_came() {
    let folder = tempfile::tempdir().unwrap();
    let index = write_store(folder.path(), Dtype::F32, None);
    assert_eq!(index, StoreIndex::read(folder.path()).unwrap());
    assert_eq!(index.rows, ROWS);
    assert_eq!(index.shards.iter().map(|shard| shard.rows).collect::<Vec<_>>(), [25, 25, 25, 25]);
    assert_eq!(index.metadata["model_name"], "embedded");
    let a: Vec<f32> = (0..ROWS).flat_map(|n| [n as f32, n as f32 + 0.5]).collect();
    assert_eq!(read_hook(folder.path(), &index, "a"), a);
    assert_eq!(batches(&mut open(folder.path(), settings(10)), 99).concat(), a);
}

#[test]
fn a_shuffled_store_holds_every_row_once_with_its_hooks_together() {
    let folder = tempfile::tempdir().unwrap();
    let index = write_store(&folder.path().join("x"), Dtype::F32, Some(5));
    let (a, b) = (read_hook(&folder.path().join("x"), &index, "a"), read_hook(&folder.path().join("x"), &index, "b"));
    assert!(index.shuffled && index.shards.len() == 4);
    for (a, b) in a.chunks(2).zip(&b) {
        assert_eq!((a[0], a[1]), (-b, 0.5 - b));
    }
    let mut sorted: Vec<usize> = b.iter().map(|n| -n as usize).collect();
    // Early and late rows are in every shard.
    assert!(sorted[..10].iter().any(|n| *n < 50) && sorted[..10].iter().any(|n| *n >= 50), "{sorted:?}");
    sorted.sort_unstable();
    assert_eq!(sorted, (0..ROWS).collect::<Vec<_>>());

    let again = write_store(&folder.path().join("y"), Dtype::F32, Some(5));
    assert_eq!(read_hook(&folder.path().join("y"), &again, "a"), a);
    let other = write_store(&folder.path().join("z"), Dtype::F32, Some(6));
    assert_ne!(read_hook(&folder.path().join("z"), &other, "a"), a);
}

#[test]
fn half_precision_is_stored_and_read() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let folder = tempfile::tempdir().unwrap();
        let index = write_store(folder.path(), dtype, None);
        let shard = TensorFile::open(folder.path().join(&index.shards[0].file)).unwrap();
        assert_eq!(shard.info("a").unwrap().dtype, dtype);
        // Halves up to 100 are exact in both formats.
        assert_eq!(batches(&mut open(folder.path(), settings(ROWS)), 1)[0][198..], [99.0, 99.5]);
    }
}

#[test]
fn only_finished_stores_are_read_and_none_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let request = || StoreSettings {
        hooks: vec![StoredHook { hook_name: "a".into(), d_in: 2 }],
        dtype: Dtype::F32,
        expected_rows: ROWS,
        shard_bytes: 100,
        shuffle: Some(1),
        metadata: Map::new(),
    };
    let mut writer = StoreWriter::create(&path, request()).unwrap();
    writer.append(&[vec![1.0; 20]]).unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    assert!(error(&path, settings(2)).contains("holds no index.json"));
    write_store(&path, Dtype::F32, None);
    let message = StoreWriter::create(&path, request()).err().unwrap().to_string();
    assert!(message.contains("holds stored activations already"), "{message}");
    let integers = StoreSettings { dtype: Dtype::I64, ..request() };
    let message = StoreWriter::create(&folder.path().join("y"), integers).err().unwrap().to_string();
    assert!(message.contains("dtype: I64 cannot be stored"), "{message}");
}

#[test]
fn a_damaged_or_exchanged_shard_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let index = write_store(folder.path(), Dtype::F32, None);
    let shard = folder.path().join(&index.shards[2].file);
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    assert!(error(folder.path(), settings(2)).contains("activations-00002.safetensors: not a whole safetensors file"));
    save(folder.path(), &index.shards[2].file, &[("a", Tensor::f32(&[1, 2], &[1.0, 2.0]))]);
    let message = error(folder.path(), settings(2));
    assert!(message.contains("activations-00002.safetensors: holds 1 rows, the index says 25"), "{message}");
    std::fs::remove_file(&shard).unwrap();
    assert!(error(folder.path(), settings(2)).contains("activations-00002.safetensors: cannot open"));
    std::fs::write(folder.path().join("index.json"), "{}").unwrap();
    assert!(error(folder.path(), settings(2)).contains("index.json: not an index of activations"));
}

#[test]
fn a_tensor_of_batches_is_read_batch_by_batch() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..24).map(|n| n as f32).collect();
    let path = save(folder.path(), "x.safetensors", &[("x", Tensor::f32(&[4, 3, 2], &values))]);
    // As its batches, or cut in another way: the rows stand in their order.
    for batch_size in [3, 4] {
        let read = batches(&mut open(&path, settings(batch_size)), 99);
        assert_eq!(read, values.chunks(2 * batch_size).map(<[f32]>::to_vec).collect::<Vec<_>>());
    }
}

#[test]
fn npy_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let values: Vec<f32> = (0..12).map(|n| n as f32 / 4.0).collect();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 2), }";
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{header:<117}\n").bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(batches(&mut open(&path, settings(3)), 9).concat(), values);
}

#[test]
fn the_tensor_is_the_one_named_or_the_hook_or_the_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(
        folder.path(),
        "x.safetensors",
        &[("a", Tensor::f32(&[2, 1], &[1.0, 2.0])), ("b", Tensor::f32(&[2, 1], &[3.0, 4.0]))],
    );
    assert_eq!(batches(&mut open(&path, settings(2)), 1), [[1.0, 2.0]]);
    assert_eq!(batches(&mut open(format!("{}:b", path.display()), settings(2)), 1), [[3.0, 4.0]]);
    let message = error(format!("{}:c", path.display()), settings(2));
    assert!(message.contains("tensor c is missing; the file holds a, b"), "{message}");
    let message = StoredActivations::open(path.to_str().unwrap(), "c").map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("x.safetensors holds no c; name one of a, b"), "{message}");
    let only = save(folder.path(), "y.safetensors", &[("whatever", Tensor::f32(&[1, 1], &[7.0]))]);
    assert_eq!(batches(&mut open(&only, settings(1)), 1), [[7.0]]);
}

#[test]
fn every_pass_takes_every_row_once_in_an_order_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    write_store(folder.path(), Dtype::F32, None);
    let shuffled = FromFilesSettings { shuffle: true, repeat: true, ..settings(20) };
    let mut source = open(folder.path(), shuffled);
    let mut pass = || batches(&mut source, 5).concat().chunks(2).map(|row| row[0] as usize).collect::<Vec<_>>();
    let (first, second) = (pass(), pass());
    assert_ne!(first, second);
    for mut rows in [first.clone(), second] {
        rows.sort_unstable();
        assert_eq!(rows, (0..ROWS).collect::<Vec<_>>());
    }
    assert_eq!((source.epochs(), source.tokens_read()), (1, 200));
    let again: Vec<usize> =
        batches(&mut open(folder.path(), shuffled), 5).concat().chunks(2).map(|row| row[0] as usize).collect();
    assert_eq!(again, first);
    let other = batches(&mut open(folder.path(), FromFilesSettings { seed: 4, ..shuffled }), 5).concat();
    assert_ne!(other.chunks(2).map(|row| row[0] as usize).collect::<Vec<_>>(), first);
}

#[test]
fn a_pass_ends_with_its_last_full_batch() {
    let folder = tempfile::tempdir().unwrap();
    write_store(folder.path(), Dtype::F32, None);
    let mut once = open(folder.path(), settings(30));
    assert_eq!(batches(&mut once, 99).len(), 3);
    let mut endless = open(folder.path(), FromFilesSettings { repeat: true, ..settings(30) });
    let read = batches(&mut endless, 4);
    assert_eq!((read.len(), endless.epochs()), (4, 1));
    assert_eq!(read[3], read[0]);
}

#[test]
fn a_saved_position_continues_after_every_batch() {
    let folder = tempfile::tempdir().unwrap();
    write_store(folder.path(), Dtype::F32, None);
    let state = tempfile::tempdir().unwrap();
    for shuffle in [false, true] {
        let settings = FromFilesSettings { shuffle, repeat: true, ..settings(30) };
        let expected = batches(&mut open(folder.path(), settings), 8);
        let mut source = open(folder.path(), settings);
        for given in 0..8 {
            source.save_state(state.path()).unwrap();
            let mut continued = open(folder.path(), settings);
            continued.load_state(state.path()).unwrap();
            assert_eq!(batches(&mut continued, 8 - given), expected[given..]);
            batch(&mut source);
        }
    }
    let path = save(state.path(), "x.safetensors", &[("a", Tensor::f32(&[2, 1], &[1.0, 2.0]))]);
    let message = open(&path, settings(1)).load_state(state.path()).unwrap_err().to_string();
    assert!(
        message.contains(
            "x.safetensors: holds 2 rows, read in batches of 1; the run that is resumed had 100 rows and batches of 30"
        ),
        "{message}"
    );
    std::fs::write(state.path().join("data_position.json"), "{").unwrap();
    let message = open(&path, settings(1)).load_state(state.path()).unwrap_err().to_string();
    assert!(message.contains("data_position.json: not the position of this kind of data"), "{message}");
}

#[test]
fn what_is_no_number_is_named_with_file_tensor_and_row() {
    let folder = tempfile::tempdir().unwrap();
    for (bad, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let path =
            save(folder.path(), "x.safetensors", &[("a", Tensor::f32(&[3, 2], &[0.0, 0.0, 0.0, 0.0, 0.0, bad]))]);
        for shuffle in [false, true] {
            let message = error(&path, FromFilesSettings { shuffle, ..settings(1) });
            assert!(message.contains(&format!("x.safetensors: tensor a, row 2 holds {text}")), "{message}");
        }
    }
}

#[test]
fn activations_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    assert!(error(&path, settings(1)).contains("x.safetensors: cannot open"));
    let with = |tensor: Tensor| error(save(folder.path(), "x.safetensors", &[("a", tensor)]), settings(4));
    assert!(with(Tensor::f32(&[4], &[0.0; 4])).contains("tensor a has shape [4], expected [n, d_in] or [batches"));
    assert!(with(Tensor::u32(&[4, 1], &[0; 4])).contains("tensor a has dtype U32, expected F32, F16, BF16 or F64"));
    assert!(with(Tensor::f32(&[3, 1], &[0.0; 3])).contains("holds 3 rows, less than a batch of 4"));
    assert!(with(Tensor::f32(&[0, 1], &[])).contains("holds no activations"));
}
