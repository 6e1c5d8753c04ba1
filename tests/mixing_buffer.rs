//! The mixing buffer serves the batches that SAELens serves (golden data:
//! scripts/make_mixing_cases.py) and continues bit for bit.

use cusae::backend::{Backend, Cpu};
use cusae::data::{MixingBuffer, MixingSettings};
use serde_json::Value;
use std::path::Path;

const WIDTH: usize = 2;

struct Case {
    settings: MixingSettings,
    appends: Vec<usize>,
    batches: Vec<Vec<u32>>,
}

fn saelens_cases() -> Vec<Case> {
    let golden: Vec<Value> = serde_json::from_str(include_str!("data/mixing/cases.json")).unwrap();
    let case = |case: &Value| Case {
        settings: MixingSettings {
            buffer_tokens: case["buffer_tokens"].as_u64().unwrap() as usize,
            batch_size: case["batch_size"].as_u64().unwrap() as usize,
            mix_fraction: case["mix_fraction"].as_f64().unwrap(),
            seed: case["seed"].as_u64().unwrap(),
        },
        appends: serde_json::from_value(case["appends"].clone()).unwrap(),
        batches: serde_json::from_value(case["batches"].clone()).unwrap(),
    };
    golden.iter().map(case).collect()
}

fn buffer(case: &Case) -> MixingBuffer<Cpu> {
    MixingBuffer::new(&Cpu, case.settings, WIDTH, *case.appends.iter().max().unwrap()).unwrap()
}

/// Row n is [n, -n]; the model's output holds rows that are not used between those that are.
struct Rows<'a> {
    appends: &'a [usize],
    given: usize,
}

impl Rows<'_> {
    fn append_next(&mut self, buffer: &mut MixingBuffer<Cpu>) {
        let Some((&count, rest)) = self.appends.split_first() else { return buffer.finish().unwrap() };
        let row = |n: usize| [-1.0, -1.0, n as f32, -(n as f32)];
        let output: Vec<f32> = (self.given..self.given + count).flat_map(row).collect();
        let chosen: Vec<u32> = (0..count as u32).map(|n| 2 * n + 1).collect();
        buffer.append(&output, &chosen).unwrap();
        (self.appends, self.given) = (rest, self.given + count);
    }
}

/// The numbers of the next batch's rows; none at the end.
fn next(buffer: &mut MixingBuffer<Cpu>, rows: &mut Rows, batch_size: usize) -> Option<Vec<u32>> {
    while buffer.wants_rows() {
        rows.append_next(buffer);
    }
    let mut batch = vec![0.0; batch_size * WIDTH];
    if !buffer.next_batch(&mut batch).unwrap() {
        return None;
    }
    assert!(batch.chunks(WIDTH).all(|row| row[0] == -row[1]));
    Some(batch.chunks(WIDTH).map(|row| row[0] as u32).collect())
}

#[test]
fn batches_are_those_of_saelens() {
    for case in saelens_cases() {
        let (mut buffer, mut rows) = (buffer(&case), Rows { appends: &case.appends, given: 0 });
        let batches: Vec<Vec<u32>> =
            std::iter::from_fn(|| next(&mut buffer, &mut rows, case.settings.batch_size)).collect();
        assert_eq!(batches, case.batches, "{:?} {:?}", case.settings, case.appends);
        assert!(!buffer.next_batch(&mut vec![0.0; case.settings.batch_size * WIDTH]).unwrap());
    }
}

/// The batches that are left, from a buffer that continues where `saving` stands.
fn batches_of_a_saved(saving: &MixingBuffer<Cpu>, case: &Case, rows: &Rows, folder: &Path) -> Vec<Vec<u32>> {
    let path = folder.join("activation_buffer.safetensors");
    saving.save(&path).unwrap();
    let (mut continued, mut rest) = (buffer(case), Rows { ..*rows });
    continued.load(&path).unwrap();
    std::iter::from_fn(|| next(&mut continued, &mut rest, case.settings.batch_size)).collect()
}

#[test]
fn a_saved_buffer_continues_after_every_batch() {
    let folder = tempfile::tempdir().unwrap();
    for case in saelens_cases() {
        let (mut saving, mut rows) = (buffer(&case), Rows { appends: &case.appends, given: 0 });
        for given in 0..=case.batches.len() {
            let batches = batches_of_a_saved(&saving, &case, &rows, folder.path());
            assert_eq!(batches, case.batches[given..], "after {given} of {:?} {:?}", case.settings, case.appends);
            next(&mut saving, &mut rows, case.settings.batch_size);
        }
    }
}

#[test]
fn rows_that_come_in_ahead_change_no_batch_and_are_saved_with_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut came_ahead = 0;
    for case in saelens_cases() {
        let (mut saving, mut rows) = (buffer(&case), Rows { appends: &case.appends, given: 0 });
        for given in 0..=case.batches.len() {
            while rows.appends.first().is_some_and(|&count| saving.has_room(count)) {
                came_ahead += usize::from(!saving.wants_rows());
                rows.append_next(&mut saving);
            }
            let batches = batches_of_a_saved(&saving, &case, &rows, folder.path());
            assert_eq!(batches, case.batches[given..], "after {given} of {:?} {:?}", case.settings, case.appends);
            next(&mut saving, &mut rows, case.settings.batch_size);
        }
    }
    assert!(came_ahead > 10, "{came_ahead}");
}

fn settings() -> MixingSettings {
    MixingSettings { buffer_tokens: 64, batch_size: 8, mix_fraction: 0.5, seed: 1 }
}

fn first_batch(settings: MixingSettings) -> Vec<u32> {
    let mut buffer = MixingBuffer::new(&Cpu, settings, WIDTH, 64).unwrap();
    next(&mut buffer, &mut Rows { appends: &[64], given: 0 }, 8).unwrap()
}

#[test]
fn the_order_is_a_function_of_the_seed() {
    assert_eq!(first_batch(settings()), first_batch(settings()));
    assert_ne!(first_batch(settings()), first_batch(MixingSettings { seed: 2, ..settings() }));
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    let error = |settings| MixingBuffer::new(&Cpu, settings, WIDTH, 8).err().unwrap().to_string();
    let small = MixingSettings { buffer_tokens: 7, ..settings() };
    assert_eq!(error(small), "buffer_tokens: 7 is less than a batch, train_batch_size_tokens = 8");
    for mix_fraction in [-0.1, 1.1, f64::NAN] {
        let message = error(MixingSettings { mix_fraction, ..settings() });
        assert!(message.contains("activations_mixing_fraction") && message.contains("between 0 and 1"), "{message}");
    }
    assert!(error(MixingSettings { batch_size: 0, ..settings() }).contains("less than a batch"));
}

#[test]
fn rows_that_are_not_wanted_are_refused() {
    let mut buffer = MixingBuffer::new(&Cpu, settings(), WIDTH, 64).unwrap();
    let rows = vec![0.0; 64 * WIDTH];
    let chosen: Vec<u32> = (0..64).collect();
    buffer.append(&rows, &chosen).unwrap();
    assert!(buffer.append(&rows, &chosen).unwrap_err().to_string().contains("when they are not wanted"));
}

#[test]
fn a_state_of_another_run_or_a_damaged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("activation_buffer.safetensors");
    let mut buffer = MixingBuffer::new(&Cpu, settings(), WIDTH, 64).unwrap();
    Rows { appends: &[64], given: 0 }.append_next(&mut buffer);
    buffer.save(&path).unwrap();

    let mut wider = MixingBuffer::new(&Cpu, settings(), WIDTH + 1, 64).unwrap();
    let message = wider.load(&path).unwrap_err().to_string();
    assert!(message.contains("activation_buffer.safetensors: holds a buffer of 64 rows of 2"), "{message}");
    let smaller = MixingSettings { buffer_tokens: 16, ..settings() };
    let message = MixingBuffer::new(&Cpu, smaller, WIDTH, 16).unwrap().load(&path).unwrap_err().to_string();
    assert!(message.contains("resume with the recipe of the run"), "{message}");

    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let message = buffer.load(&path).unwrap_err().to_string();
    assert!(message.contains("not a whole safetensors file"), "{message}");
}

#[test]
fn a_row_that_the_model_did_not_give_is_refused() {
    let mut buffer = MixingBuffer::new(&Cpu, settings(), WIDTH, 64).unwrap();
    let rows = Cpu.zeros(10 * WIDTH).unwrap();
    let message = buffer.append(&rows, &[9, 10]).unwrap_err().to_string();
    assert_eq!(message, "scatter_rows: row 10 is asked for, the source has 10");
}
