//! Steps on batches that a program brings: they are those of a run, bit for bit, from host memory and from
//! the device's.

use cusae::backend::{Backend, Cpu, Native};
use cusae::config::Recipe;
use cusae::formats::tensors::{self, Tensor};
use cusae::random::{Random, Stream};
use cusae::train::progress::{Reporter, StepMetrics};
use cusae::train::{self, Options, Trainer};
use cusae_emu::{calls, PageLocked};
use std::fs;
use std::path::Path;

const D_IN: usize = 12;
const ROWS: usize = 32;
const STEPS: usize = 20;

/// `[STEPS * ROWS, D_IN]`.
fn activations() -> Vec<f32> {
    let mut random = Random::new(7, Stream::Weights, 0);
    (0..STEPS * ROWS * D_IN).map(|_| random.uniform() * 4.0 - 1.0).collect()
}

fn recipe(settings: &[(&str, &str)]) -> Recipe {
    let mut recipe = Recipe::default();
    let common = [("d_sae", "64"), ("train_batch_size_tokens", "32"), ("training_tokens", "640")];
    let rest = [("dead_feature_window", "4"), ("feature_sampling_window", "8"), ("lr_warm_up_steps", "5")];
    for (key, text) in common.iter().chain(&rest).chain(settings) {
        recipe.set_text(key, text).unwrap();
    }
    recipe
}

struct Silent;

impl Reporter for Silent {
    fn message(&mut self, _: &str) {}
    fn start(&mut self, _: u64, _: u64) {}
    fn step(&mut self, _: u64) {}
    fn metrics(&mut self, _: &[StepMetrics]) {}
    fn finish(&mut self) {}
}

#[test]
fn a_trainer_does_what_a_run_does() {
    let folder = tempfile::tempdir().unwrap();
    let (file, x) = (folder.path().join("x.safetensors"), activations());
    tensors::save(&file, vec![("x".into(), Tensor::f32(&[STEPS * ROWS, D_IN], &x))]).unwrap();
    let of_topk = [("architecture", "topk"), ("k", "5")];
    let of_standard = [("architecture", "standard"), ("l1_coefficient", "0.5"), ("l1_warm_up_steps", "6")];
    for settings in [&of_topk[..], &of_standard] {
        let mut trainer = Trainer::new(&Cpu, &recipe(settings), D_IN).unwrap();
        x.chunks_exact(ROWS * D_IN).for_each(|batch| trainer.step(batch).unwrap());
        let [of_trainer, of_run] = ["trainer", "run"].map(|name| folder.path().join(settings[0].1).join(name));
        trainer.save(&of_trainer).unwrap();

        let file = file.to_str().unwrap();
        let recipe = recipe(&[settings, &[("cached_activations_path", file), ("shuffle", "false")]].concat());
        let options = Options { out: of_run.clone(), ..Options::default() };
        train::run(&Cpu, &recipe, &options, &mut Silent).unwrap();
        for name in ["sae_weights.safetensors", "sparsity.safetensors"] {
            let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
            assert!(read(&of_trainer) == read(&of_run), "{name} of {settings:?}");
        }
    }
}

#[test]
fn nothing_is_said_of_a_model_that_nobody_named() {
    let trainer = Trainer::new(&Cpu, &recipe(&[]), D_IN).unwrap();
    for key in ["model_name", "hook_name", "dataset_path"] {
        assert!(trainer.config().metadata[key].is_null(), "{key}");
    }
    let named = recipe(&[("model_name", "gpt2"), ("hook_name", "blocks.8.hook_resid_pre")]);
    let trainer = Trainer::new(&Cpu, &named, D_IN).unwrap();
    assert_eq!(trainer.config().metadata["model_name"], "gpt2");
    assert_eq!(trainer.config().hook_name(), Some("blocks.8.hook_resid_pre"));
}

/// Losses of all steps, and the weights' bytes; batches from host memory, or from the device's.
fn trained<B: Backend>(backend: &B, from_device: bool) -> (Vec<f64>, Vec<f32>) {
    let mut trainer = Trainer::new(backend, &recipe(&[("k", "5")]), D_IN).unwrap();
    let mut losses = Vec::new();
    for batch in activations().chunks_exact(ROWS * D_IN) {
        match from_device {
            false => trainer.step(batch).unwrap(),
            // SAFETY: the memory of the emulator's device, and of the CPU's, is the process'; the batch stays
            // as it is until the report has waited for the step.
            true => unsafe { trainer.step_at(batch.as_ptr()) }.unwrap(),
        }
        losses.push(trainer.report().unwrap().overall_loss());
    }
    (losses, trainer.sae().unwrap().weight("W_dec").unwrap().unwrap().values)
}

#[test]
fn batches_in_device_memory_give_the_same_bits() {
    assert_eq!(trained(&Cpu, true), trained(&Cpu, false));
    // SAFETY: the emulator's table is complete and constant.
    let emulator = unsafe { Native::from_table(cusae_emu::table(), 0) }.unwrap();
    assert_eq!(trained(&emulator, true), trained(&emulator, false));
}

/// What is page-locked is read by the device itself, and by device 8 everything.
#[test]
fn numbers_that_were_written_may_change_at_once() {
    for ordinal in [0, 8] {
        // SAFETY: the emulator's table is complete and constant.
        let emulator = unsafe { Native::from_table(cusae_emu::table(), ordinal) }.unwrap();
        let (mut pageable, mut page_locked) = ([1.0f32, 2.0], PageLocked::new([1.0f32, 2.0].into()));
        for numbers in [&mut pageable[..], &mut page_locked] {
            let buffer = emulator.upload(numbers).unwrap();
            numbers.fill(9.0);
            assert_eq!(emulator.download(&buffer).unwrap(), [1.0, 2.0]);
        }
    }
}

#[test]
fn nobody_waits_for_a_copy_that_the_device_does_not_read_by_itself() {
    // SAFETY: the emulator's table is complete and constant.
    let emulator = unsafe { Native::from_table(cusae_emu::table(), 0) }.unwrap();
    let waits = calls().waits;
    let _buffer = emulator.upload(&[1.0f32, 2.0]).unwrap();
    assert_eq!(calls().waits, waits);
}

#[test]
fn buffers_come_from_and_go_to_device_memory_in_part() {
    // SAFETY: the emulator's table is complete and constant.
    let emulator = unsafe { Native::from_table(cusae_emu::table(), 0) }.unwrap();
    fn check<B: Backend>(backend: &B) {
        let (from, mut to) = ([1.0f32, 2.0, 3.0], [0.0f32; 2]);
        let mut buffer = backend.upload(&[9.0f32; 4]).unwrap();
        // SAFETY: both lie in memory of the device, as above, and stay until the copies are done.
        unsafe {
            backend.copy_from_address(from.as_ptr(), &mut buffer, 3).unwrap();
            backend.copy_to_address(&buffer, to.as_mut_ptr(), 2).unwrap();
        }
        backend.synchronize().unwrap();
        assert_eq!((backend.download(&buffer).unwrap(), to), (vec![1.0, 2.0, 3.0, 9.0], [1.0, 2.0]));
        // SAFETY: nothing is copied.
        let refusals = unsafe {
            [
                backend.copy_from_address(from.as_ptr(), &mut buffer, 5),
                backend.copy_to_address(&buffer, to.as_mut_ptr(), 5),
            ]
        };
        let sentences = refusals.map(|refusal| refusal.unwrap_err().to_string());
        assert_eq!(sentences[0], "copy: destination holds 4 elements, 5 are needed");
        assert_eq!(sentences[1], "copy: source holds 4 elements, 5 are needed");
    }
    check(&Cpu);
    check(&emulator);
}
