//! Training steps on a device that records them: after two like it, a step is one graph, for which the
//! host neither waits nor copies; and what is replayed is what would have been queued, bit for bit.

use cusae::backend::{Backend, Cpu, Native, Rank};
use cusae::config::NormalizeActivations;
use cusae::error::Error;
use cusae::random::{Random, Stream};
use cusae::sae::architecture::ArchitectureConfig;
use cusae::sae::init::initial_weights;
use cusae::sae::parameters::Named;
use cusae::sae::standard::StandardConfig;
use cusae::sae::step::{StepSettings, TrainingConfig, TrainingSae};
use cusae::sae::topk::TopKConfig;
use cusae::sae::weights::HostTensor;
use cusae_emu::{calls, Calls, PageLocked};
use std::sync::mpsc::channel;
use std::thread;

const ROWS: usize = 24;
const D_IN: usize = 12;
const D_SAE: usize = 96;

fn emulator() -> Native {
    // SAFETY: the emulator's table is complete and constant.
    unsafe { Native::from_table(cusae_emu::table(), 0) }.unwrap()
}

/// What the work asks of the runtime.
fn calls_of(work: impl FnOnce()) -> Calls {
    let before = calls();
    work();
    let after = calls();
    Calls {
        launches: after.launches - before.launches,
        graph_launches: after.graph_launches - before.graph_launches,
        waits: after.waits - before.waits,
        copies_from_host: after.copies_from_host - before.copies_from_host,
        copies_to_host: after.copies_to_host - before.copies_to_host,
        allocations: after.allocations - before.allocations,
        frees: after.frees - before.frees,
    }
}

/// Latents die after two silent steps, so that AuxK sets in while steps are replayed.
fn topk() -> ArchitectureConfig {
    let (rank, rescale_acts_by_decoder_norm) = (Rank::Value, true);
    ArchitectureConfig::TopK(TopKConfig { k: 3, rank, aux_loss_coefficient: 1.0, rescale_acts_by_decoder_norm })
}

fn standard() -> ArchitectureConfig {
    ArchitectureConfig::Standard(StandardConfig { lp_norm: 1.0 })
}

/// An SAE whose latents are active for one token in twenty, about.
fn sae(backend: &Native, architecture: ArchitectureConfig) -> TrainingSae<Native> {
    sae_of(backend, architecture, NormalizeActivations::None)
}

fn sae_of(
    backend: &Native,
    architecture: ArchitectureConfig,
    normalize_activations: NormalizeActivations,
) -> TrainingSae<Native> {
    let config = TrainingConfig {
        architecture,
        normalize_activations,
        d_in: D_IN,
        d_sae: D_SAE,
        train_batch_size_tokens: ROWS,
        apply_b_dec_to_input: true,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: Some(1.0),
        autocast: false,
        dead_feature_window: 2,
    };
    let mut weights = initial_weights([D_IN, D_SAE], &[("b_enc", 0.0)], Some(1.0), 1);
    weights.insert("b_enc", HostTensor { shape: vec![D_SAE], values: vec![-0.9; D_SAE] });
    TrainingSae::new(backend, config, &weights).unwrap()
}

/// Uniform numbers of deviation `size / sqrt(3)`.
fn batch(step: u32, size: f32) -> Vec<f32> {
    let mut random = Random::new(7, Stream::Shuffle, step);
    (0..ROWS * D_IN).map(|_| size * (2.0 * random.uniform() - 1.0)).collect()
}

/// Every number of the schedules is another in every step.
fn settings(step: usize) -> StepSettings {
    StepSettings { lr: 0.01 / (step + 1) as f64, coefficient: 0.1 * step as f64 }
}

#[test]
fn a_steady_step_is_one_graph_for_which_the_host_waits_in_no_way() {
    let backend = emulator();
    let batches: Vec<_> = (0..8).map(|step| backend.upload(&batch(step, 1.0)).unwrap()).collect();
    let mut sae = sae(&backend, topk());
    let mut steps = batches.iter().enumerate().map(|(step, x)| sae.step(x, &settings(step)).unwrap());
    steps.by_ref().take(3).for_each(drop);
    let calls = calls_of(|| steps.for_each(drop));
    // Beside the graph: the step's scalars, and the batch that it trains on.
    let expected = Calls {
        launches: 5 * 2,
        graph_launches: 5,
        waits: 0,
        copies_from_host: 0,
        copies_to_host: 0,
        allocations: 0,
        frees: 0,
    };
    assert_eq!(calls, expected);
}

fn downloaded(backend: &Native, named: &Named<Native>) -> Vec<Vec<f32>> {
    named.iter().map(|(_, buffer)| backend.download(buffer).unwrap()).collect()
}

/// Everything that training has changed.
fn state(backend: &Native, sae: &TrainingSae<Native>) -> (Vec<Vec<f32>>, Vec<Vec<u32>>) {
    let weights = [&sae.values, &sae.exp_avg, &sae.exp_avg_sq].map(|named| downloaded(backend, named)).concat();
    let firing = [&sae.firing.fired_count, &sae.firing.since_fired].map(|buffer| backend.download(buffer).unwrap());
    (weights, firing.to_vec())
}

/// Trains twice on batches of these sizes, the second time with a buffer given back between the steps,
/// after which nothing that was recorded is used. Returns which of the first one's steps were replayed.
fn replayed_is_queued(architecture: ArchitectureConfig, sizes: &[f32]) -> Vec<bool> {
    let backend = emulator();
    let train = |gives_back: bool| {
        let mut sae = sae(&backend, architecture.clone());
        let mut reports = Vec::new();
        let mut replayed = Vec::new();
        for (step, &size) in sizes.iter().enumerate() {
            let x = backend.upload(&batch(step as u32, size)).unwrap();
            let calls = calls_of(|| sae.step(&x, &settings(step)).unwrap());
            replayed.push(calls.graph_launches > 0);
            reports.push(sae.report(true).unwrap());
            if !gives_back {
                std::mem::forget(x);
            }
        }
        (state(&backend, &sae), reports, replayed)
    };
    let (state, reports, replayed) = train(false);
    let (expected, expected_reports, none) = train(true);
    assert!(none.iter().all(|replayed| !replayed));
    assert_eq!(reports, expected_reports);
    assert!(state == expected, "weights, moments or counts differ");
    replayed
}

#[test]
fn replayed_steps_of_topk_are_queued_ones() {
    let replayed = replayed_is_queued(topk(), &[1.0; 5]);
    assert_eq!(replayed, [false, true, true, true, true]);
}

/// A step on lists that do not fit goes over to the dense form, which is not recorded, and back.
#[test]
fn replayed_steps_of_standard_are_queued_ones_through_changes_of_form() {
    let (sparse, dense) = (1.0, 40.0);
    let sizes = [sparse, sparse, sparse, sparse, dense, dense, sparse, sparse, sparse, sparse, sparse];
    let replayed = replayed_is_queued(standard(), &sizes);
    // Dense, lists, replayed twice; dense until the weights have settled, lists, replayed twice.
    let [x, o] = [true, false];
    assert_eq!(replayed, [o, o, x, x, o, o, o, o, o, x, x]);
}

/// Trains with a change of settings after three steps, the second time with a buffer given back before each, after
/// which nothing that was recorded is used.
fn holds_from_the_next_step_on(change: impl Fn(&mut TrainingSae<Native>)) {
    let backend = emulator();
    let batches: Vec<_> = (0..6).map(|step| backend.upload(&batch(step, 1.0)).unwrap()).collect();
    let train = |gives_back: bool| {
        let mut sae = sae(&backend, topk());
        for (step, x) in batches.iter().enumerate() {
            if step == 3 {
                change(&mut sae);
            }
            if gives_back {
                drop(backend.zeros::<f32>(1).unwrap());
            }
            sae.step(x, &settings(step)).unwrap();
        }
        let [gradients, result] = [sae.gradients(), sae.result()].map(|named| downloaded(&backend, named));
        (state(&backend, &sae), gradients, result)
    };
    assert!(train(false) == train(true));
}

#[test]
fn an_average_that_is_kept_from_now_on_is_updated_by_the_next_step() {
    holds_from_the_next_step_on(|sae| sae.keep_average(0.5).unwrap());
}

#[test]
fn rows_that_keep_norm_1_from_now_on_keep_it_in_the_next_step() {
    holds_from_the_next_step_on(|sae| sae.keep_unit_norm().unwrap());
}

#[test]
fn gradients_that_are_all_written_from_now_on_are_written_by_the_next_step() {
    holds_from_the_next_step_on(|sae| sae.write_all_gradients(true));
}

/// What a transcoder decodes is not brought back to the size of its input, so that a step is other work.
#[test]
fn a_step_towards_something_else_is_not_replayed_as_one_without_it() {
    let backend = emulator();
    let batches: Vec<_> = (0..10).map(|step| backend.upload(&batch(step, 1.0)).unwrap()).collect();
    let train = |gives_back: bool| {
        let mut sae = sae_of(&backend, topk(), NormalizeActivations::LayerNorm);
        for (step, x) in batches.iter().enumerate() {
            if gives_back {
                drop(backend.zeros::<f32>(1).unwrap());
            }
            let y = (3..6).contains(&step).then_some(&batches[9 - step]);
            sae.step_towards(x, y, &settings(step)).unwrap();
        }
        state(&backend, &sae)
    };
    assert!(train(false) == train(true));
}

#[test]
fn a_device_without_graphs_does_the_work_each_time() {
    let mut done = 0;
    for _ in 0..4 {
        Cpu.repeat(&mut (), &mut || {
            done += 1;
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(done, 4);
}

#[test]
fn work_is_done_once_recorded_once_and_then_replayed() {
    let backend = emulator();
    let mut buffer = backend.zeros::<f32>(4).unwrap();
    let mut to_add = 1.0;
    let (mut recording, mut called) = (Default::default(), 0);
    for expected in [1.0, 3.0, 3.0] {
        backend
            .repeat(&mut recording, &mut || {
                called += 1;
                to_add *= if called == 2 { 3.0 } else { 1.0 };
                backend.fill(&mut buffer, to_add)
            })
            .unwrap();
        assert_eq!(backend.download(&buffer).unwrap(), [expected; 4]);
        backend.fill(&mut buffer, 0.0).unwrap();
    }
    assert_eq!(called, 2);
}

#[test]
fn what_cannot_be_recorded_is_an_error_and_the_device_goes_on() {
    let backend = emulator();
    let mut buffer = backend.upload(&[1.0f32, 2.0]).unwrap();
    let mut recording = Default::default();
    let mut reads = || backend.read_element(&buffer, 1).map(|_| ());
    backend.repeat(&mut recording, &mut reads).unwrap();
    let error = backend.repeat(&mut recording, &mut reads).unwrap_err();
    assert!(matches!(&error, Error::Kernel { what, .. } if what.contains("capturing")), "{error}");
    let failed = || Error::Shape { operation: "test", what: "as it should".into() };
    let error = backend.repeat(&mut recording, &mut || Err(failed())).unwrap_err();
    assert_eq!(error.to_string(), failed().to_string());
    assert_eq!(backend.download(&buffer).unwrap(), [1.0, 2.0]);
    for _ in 0..3 {
        backend.repeat(&mut recording, &mut || backend.fill(&mut buffer, 5.0)).unwrap();
    }
    assert_eq!(backend.download(&buffer).unwrap(), [5.0, 5.0]);
}

/// A graph would read the host's memory when it is launched, whatever is there by then.
#[test]
fn copies_from_the_host_cannot_be_recorded() {
    let backend = emulator();
    let page_locked = PageLocked::new([1.0f32, 2.0].into());
    for numbers in [&[1.0f32, 2.0][..], &page_locked] {
        let mut buffer = backend.zeros::<f32>(2).unwrap();
        let mut recording = Default::default();
        let mut writes = || backend.write(&mut buffer, 0, numbers);
        backend.repeat(&mut recording, &mut writes).unwrap();
        let error = backend.repeat(&mut recording, &mut writes).unwrap_err();
        assert!(matches!(&error, Error::Kernel { what, .. } if what.contains("capturing")), "{error}");
    }
}

/// Another thread's operation, started while this one records, is not part of the record.
#[test]
fn one_thread_records_and_the_others_wait() {
    let backend = emulator();
    let (mut ours, mut theirs) = (backend.zeros::<f32>(1).unwrap(), backend.zeros::<f32>(1).unwrap());
    let mut recording = Default::default();
    backend.repeat(&mut recording, &mut || backend.fill(&mut ours, 1.0)).unwrap();
    thread::scope(|scope| {
        let (start, started) = channel();
        let (other, of_other) = (backend.clone(), &mut theirs);
        let (begin, wait_to_begin) = channel();
        scope.spawn(move || {
            wait_to_begin.recv().unwrap();
            start.send(()).unwrap();
            other.fill(of_other, 1.0).unwrap();
        });
        backend
            .repeat(&mut recording, &mut || {
                begin.send(()).unwrap();
                started.recv().unwrap();
                (0..1000).for_each(|_| thread::yield_now());
                backend.fill(&mut ours, 2.0)
            })
            .unwrap();
    });
    assert_eq!((backend.read_element(&ours, 0).unwrap(), backend.read_element(&theirs, 0).unwrap()), (2.0, 1.0));
    backend.fill(&mut theirs, 0.0).unwrap();
    backend.repeat(&mut recording, &mut || unreachable!("it is replayed")).unwrap();
    assert_eq!(backend.read_element(&theirs, 0).unwrap(), 0.0);
}
