//! Plans: the arithmetic of memory, disk and time, each number worked out by hand.

use cusae::backend::Cpu;
use cusae::config::{Recipe, Sweep};
use cusae::lm::ModelConfig;
use cusae::machine::Memory;
use cusae::train::plan::{Measured, Plan, Rates, Source};
use std::path::Path;

const RATES: Rates = Rates { dense: 1e9, adam: 1e6 };

/// A model of 2 layers: d_model 8, d_mlp 32, 10 tokens, 16 positions.
fn model(blocks: usize) -> Source {
    let json = r#"{"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 10, "n_positions": 16}"#;
    Source::Model { config: Box::new(ModelConfig::parse(Path::new("config.json"), json).unwrap()), blocks }
}

/// 10 steps of 100 tokens; 3 rows of 16 tokens at once.
fn recipe(more: &str) -> Recipe {
    let text = format!(
        "training_tokens = 1000\ntrain_batch_size_tokens = 100\nk = 4\nd_sae = 64\ncontext_size = 16\n\
         buffer_tokens = 200\nstore_batch_size_prompts = 3\nlog_every = 2\n{more}"
    );
    Recipe::from_toml(Path::new("recipe.toml"), &text).unwrap()
}

fn plan(more: &str, source: &Source) -> Plan {
    Plan::of(&recipe(more), source, 8, None, Some(RATES)).unwrap()
}

fn memory(plan: &Plan, what: &str) -> Option<u64> {
    plan.memory.iter().find(|part| part.what.contains(what)).map(|part| part.bytes)
}

fn disk(plan: &Plan, what: &str) -> u64 {
    plan.disk.iter().find(|part| part.what == what).unwrap().bytes
}

/// W_enc and W_dec of 8 x 64, b_enc of 64, b_dec of 8.
const PARAMETERS: u64 = 2 * 8 * 64 + 64 + 8;

/// 199 rows may be left when three rows of 16 tokens come in.
const BUFFER_ROWS: u64 = 199 + 3 * 16;

#[test]
fn steps_and_parameters_follow_from_the_recipe() {
    let plan = plan("", &model(1));
    assert_eq!((plan.steps, plan.training_tokens, plan.saes[0].parameters), (10, 1000, PARAMETERS));
}

#[test]
fn memory_of_topk_counts_every_buffer() {
    let plan = plan("", &model(1));
    assert_eq!(memory(&plan, "weights"), Some(16 * PARAMETERS));
    // Four batches of 100 x 8, four vectors of latents, four numbers for each of 100 x 4 active
    // latents; AuxK: the same for 100 x 4 dead latents, and two batches.
    let aux = 4 * 100 * 4 + 2 * 100 * 8;
    assert_eq!(memory(&plan, "work space of a step"), Some(4 * (4 * 100 * 8 + 4 * 64 + 4 * 100 * 4 + aux)));
    assert_eq!(memory(&plan, "activation buffer"), Some(BUFFER_ROWS * (4 * 8 + 12)));
    assert_eq!(plan.memory_bytes, plan.memory.iter().map(|part| part.bytes).sum::<u64>());
}

#[test]
fn without_auxk_there_is_no_work_space_for_it() {
    let plan = plan("aux_loss_coefficient = 0", &model(1));
    assert_eq!(memory(&plan, "work space of a step"), Some(4 * (4 * 100 * 8 + 4 * 64 + 4 * 100 * 4)));
}

#[test]
fn memory_of_standard_counts_dense_features_and_their_gradient() {
    let plan = plan("architecture = \"standard\"", &model(1));
    assert_eq!(memory(&plan, "work space of a step"), Some(4 * (4 * 100 * 8 + 4 * 64 + 2 * 100 * 64)));
}

/// Rows of 64 latents of which 5/8 are listed, 40: see each architecture for what it keeps of an entry.
#[test]
fn memory_of_other_architectures_counts_their_lists() {
    let work = |more: &str| memory(&plan(more, &model(1)), "work space of a step").unwrap() / 4 - 4 * 100 * 8 - 4 * 64;
    assert_eq!(work("architecture = \"gated\""), 10 * 100 * 40 + 100 * 8);
    // Ghost gradients: 3 of 64 latents are taken for dead.
    let of_ghosts = 100 * 8 + 5 * 100 * 3 + 64;
    let gated = work("architecture = \"gated\"\nuse_ghost_grads = true");
    assert_eq!(gated, 10 * 100 * 40 + 100 * 8 + of_ghosts);
    assert_eq!(work("architecture = \"jumprelu\""), 7 * 100 * 40);
    assert_eq!(work("architecture = \"abstopk\""), work(""));
    // Room for 16 latents in rows of 4 on average.
    let aux = 4 * 100 * 4 + 2 * 100 * 8;
    assert_eq!(work("architecture = \"batchtopk\""), 4 * 100 * 16 + aux);
    let matryoshka = "architecture = \"matryoshka_batchtopk\"\nmatryoshka_widths = [8, 64]";
    assert_eq!(work(matryoshka), 6 * 100 * 16 + 3 * 100 * 8 + aux);
}

#[test]
fn memory_counts_the_activations_that_b_dec_is_found_from() {
    assert_eq!(memory(&plan("", &model(1)), "b_dec"), None);
    assert_eq!(memory(&plan("b_dec_init_method = \"mean\"", &model(1)), "b_dec"), Some(4 * 200 * 8));
}

#[test]
fn an_average_of_the_weights_needs_room_beside_them() {
    let plan = plan("ema_decay = 0.9", &model(1));
    assert_eq!(memory(&plan, "average"), Some(8 * PARAMETERS));
    assert_eq!(disk(&plan, "checkpoints"), 2 * (16 * PARAMETERS + 8 * 64));
}

#[test]
fn a_decoder_of_norm_one_and_a_larger_k_at_the_start_need_room() {
    assert_eq!(memory(&plan("normalize_sae_decoder = true", &model(1)), "norm 1"), Some(4 * (2 * 64 * 8 + 7 * 64)));
    let work = |more: &str| memory(&plan(more, &model(1)), "work space of a step").unwrap();
    assert_eq!(work("k_start = 16") - work(""), 4 * 4 * 100 * (16 - 4));
    assert_eq!(work("k_start = 2"), work(""));
}

#[test]
fn parameters_count_the_vectors_of_an_architecture() {
    assert_eq!(plan("architecture = \"jumprelu\"", &model(1)).saes[0].parameters, PARAMETERS + 64);
    assert_eq!(plan("architecture = \"gated\"", &model(1)).saes[0].parameters, PARAMETERS + 2 * 64);
}

#[test]
fn memory_of_the_language_model_counts_all_its_weights() {
    let block = 4 * (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8) + 2 * (8 + 8);
    let tied = 2 * block + (10 + 16) * 8 + (8 + 8);
    assert_eq!(memory(&plan("", &model(1)), "language model"), Some(4 * tied));
    let own_unembedding = plan("processing = \"transformer-lens\"", &model(1));
    assert_eq!(memory(&own_unembedding, "language model"), Some(4 * (tied + 10 * 8)));
    // Three rows of 16 tokens at once.
    let work = 4 * 48 * (7 * 8 + 32);
    assert_eq!(memory(&plan("", &model(1)), "work space of the language model"), Some(work));
}

#[test]
fn memory_of_an_evaluation_counts_copies_of_the_sae_and_its_batch() {
    // Five rows of 16 tokens: the model's work space, its last output, four vectors, and a list.
    let topk = 8 * PARAMETERS + 4 * 80 * ((7 * 8 + 32) + 8 + 4 * 8 + 2 * 4);
    assert_eq!(memory(&plan("eval_batch_size_prompts = 5", &model(1)), "evaluation"), Some(topk));
    let standard = 8 * PARAMETERS + 4 * 80 * ((7 * 8 + 32) + 8 + 4 * 8 + 2 * 64);
    let more = "eval_batch_size_prompts = 5\narchitecture = \"standard\"";
    assert_eq!(memory(&plan(more, &model(1)), "evaluation"), Some(standard));
}

#[test]
fn stored_activations_need_neither_model_nor_buffer() {
    let plan = plan("", &Source::Stored);
    assert_eq!(memory(&plan, "language model"), None);
    assert_eq!(memory(&plan, "buffer"), None);
    assert_eq!(disk(&plan, "checkpoints"), 2 * (12 * PARAMETERS + 8 * 64));
    let time = plan.time.unwrap();
    assert_eq!((time.model_operations, time.evaluation_operations), (0.0, 0.0));
}

/// Of input, the output's gradient and both matrices.
#[test]
fn autocast_needs_copies_in_bf16() {
    assert_eq!(memory(&plan("autocast = true", &model(1)), "in bf16"), Some(2 * (2 * 100 * 8 + 2 * 64 * 8)));
}

#[test]
fn saving_needs_two_copies_of_the_weights() {
    assert_eq!(memory(&plan("", &model(1)), "checkpoint"), Some(8 * PARAMETERS));
}

#[test]
fn disk_counts_the_checkpoints_that_exist_at_a_time() {
    let plan = |more| plan(more, &model(1));
    assert_eq!(disk(&plan(""), "trained SAE"), 4 * PARAMETERS + 4 * 64);
    let one = 12 * PARAMETERS + 8 * 64;
    assert_eq!(disk(&plan(""), "checkpoints"), 2 * one);
    assert_eq!(disk(&plan(""), "activation buffers in them"), 2 * 4 * 8 * BUFFER_ROWS);
    assert_eq!(disk(&plan("n_checkpoints = 3"), "checkpoints"), 5 * one);
    assert_eq!(disk(&plan("n_checkpoints = 3"), "activation buffers in them"), 5 * 4 * 8 * BUFFER_ROWS);
    let none = "checkpoint_every_seconds = \"none\"\nsave_final_checkpoint = false\nn_checkpoints = 3";
    assert_eq!(disk(&plan(none), "checkpoints"), 4 * one);
    assert_eq!(disk(&plan(""), "logs"), 5 * 1500);
}

#[test]
fn time_counts_operations_at_the_measured_rates() {
    let time = plan("eval_every_n_steps = 4\nn_eval_batches = 2", &model(1)).time.unwrap();
    // Every weight of a block once, and attention over 8 positions on average: twice 8 x 8.
    let block = 2.0 * (4.0 * 64.0 + 2.0 * 8.0 * 32.0 + 8.0 * 16.0);
    assert_eq!(time.model_operations, (1000.0 + 200.0) * block);
    assert_eq!(time.passes, 1200.0 / 48.0);
    // After steps 4, 8 and 10: two batches of 48 tokens, three passes through both blocks, seven
    // unembeddings and the SAE; then two batches through one block and the SAE.
    let unembeddings = 7.0 * 2.0 * 8.0 * 10.0;
    let sae = 2.0 * 8.0 * 64.0;
    assert_eq!(time.evaluation_operations, 3.0 * 96.0 * (7.0 * block + unembeddings + 2.0 * sae));
    assert_eq!(time.sae_operations, 10.0 * 2.0 * 100.0 * 8.0 * 64.0);
    assert_eq!(time.sparse_operations, 10.0 * 12.0 * 100.0 * 8.0 * 4.0);
    assert_eq!(time.adam_updates, 10.0 * PARAMETERS as f64);
    let dense = time.model_operations + time.evaluation_operations + time.sae_operations;
    let every_fifth = plan("eval_every_n_steps = 5\nn_eval_batches = 2", &model(1)).time.unwrap();
    assert_eq!(every_fifth.evaluation_operations, time.evaluation_operations * 2.0 / 3.0);
    let seconds = (dense + 10.0 * time.sparse_operations) / 1e9 + time.adam_updates / 1e6;
    assert!((time.seconds - seconds).abs() < 1e-12 * seconds);
}

#[test]
fn steps_and_passes_that_take_little_are_measured_and_others_estimated() {
    let mut small = Sweep::default();
    for (key, text) in [("d_sae", "64,96"), ("k", "4"), ("train_batch_size_tokens", "64"), ("context_size", "16")] {
        small.set_text(key, text).unwrap();
    }
    let fast = Rates { dense: 1e9, adam: 1e9 };
    let plan = Plan::new(&small, None, Some(fast)).unwrap().measure(&Cpu, &small).unwrap();
    let time = plan.time.unwrap();
    let Measured { step_seconds, pass_seconds } = time.measured.unwrap();
    assert!(step_seconds > 0.0 && pass_seconds > 0.0);
    // As the model does its operations in a pass, so it does in evaluations.
    let of_model = time.passes * pass_seconds * (1.0 + time.evaluation_operations / time.model_operations);
    let seconds = plan.steps as f64 * step_seconds + of_model;
    assert!((time.seconds - seconds).abs() < 1e-12 * seconds, "{} {seconds}", time.seconds);

    let slow = Rates { dense: 1e3, adam: 1e3 };
    let time = Plan::new(&small, None, Some(slow)).unwrap().measure(&Cpu, &small).unwrap().time.unwrap();
    assert_eq!(time.measured, None);
}

#[test]
fn positions_that_are_not_used_cost_the_model_all_the_same() {
    let half = plan("seqpos_slice = \":8\"", &model(1)).time.unwrap();
    assert_eq!(half.model_operations, 2.0 * plan("", &model(1)).time.unwrap().model_operations);
}

#[test]
fn a_run_larger_than_the_machine_is_refused_with_the_sum() {
    let plan_on = |total| {
        let machine = Some(Memory { total, available: total });
        Plan::of(&recipe(""), &model(1), 8, machine, None).unwrap()
    };
    let needed = plan_on(1).memory_bytes;
    plan_on(needed).check().unwrap();
    let error = plan_on(needed - 1).check().unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let message = error.to_string();
    assert!(message.starts_with("memory: the run needs "), "{message}");
    assert!(message.contains("activation buffer 10.61 KiB + "), "{message}");
    assert!(!message.contains('\n'));
}

#[test]
fn a_run_larger_than_its_disk_is_refused_with_the_sum() {
    let plan = plan("", &model(1));
    let with = |free_disk| Plan { free_disk: Some(free_disk), ..plan.clone() };
    with(plan.disk_bytes).check().unwrap();
    let message = with(plan.disk_bytes - 1).check().unwrap_err().to_string();
    assert!(message.starts_with("disk: the run needs "), "{message}");
    assert!(message.contains(" + checkpoints "), "{message}");
    let folder = tempfile::tempdir().unwrap();
    assert!(plan.in_folder(&folder.path().join("runs/topk-1")).free_disk.unwrap() > 0);
}

#[test]
fn plans_of_the_embedded_model_and_of_gpt2_small_know_their_sizes() {
    let embedded = Plan::new(&Sweep::default(), None, None).unwrap();
    assert_eq!((embedded.saes[0].d_in, embedded.saes[0].d_sae), (128, 2048));
    assert_eq!(memory(&embedded, "language model"), Some(4 * 1_350_400));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    let small = Recipe { model_name: folder.path().display().to_string(), ..Recipe::default() };
    let small = Plan::new(&small.into(), None, None).unwrap();
    assert_eq!(small.saes[0].d_in, 768);
    assert_eq!(memory(&small, "language model"), Some(4 * 124_439_808));
}

#[test]
fn what_the_model_cannot_do_is_refused_before_it_is_loaded() {
    let refused = |recipe: Recipe| Plan::new(&recipe.into(), None, None).unwrap_err().to_string();
    let message = refused(Recipe { context_size: 257, ..Recipe::default() });
    assert_eq!(message, "context_size: found 257, this model takes at most 256");
    let message = refused(Recipe { hook_name: "blocks.4.hook_resid_pre".into(), ..Recipe::default() });
    assert!(message.starts_with("hook_name: blocks.4.hook_resid_pre does not exist"), "{message}");
    let message = refused(Recipe { hook_name: "blocks.0.attn.hook_pattern".into(), ..Recipe::default() });
    assert!(message.contains("does not hold one vector per token"), "{message}");
}

#[test]
fn a_pass_runs_the_blocks_up_to_its_hook() {
    let Source::Model { config, .. } = model(0) else { panic!("it is a model") };
    for (hook, blocks) in [
        ("hook_pos_embed", 0),
        ("blocks.0.hook_resid_pre", 0),
        ("blocks.0.ln1.hook_normalized", 1),
        ("blocks.1.hook_resid_pre", 1),
        ("blocks.1.hook_resid_post", 2),
        ("ln_final.hook_normalized", 2),
        ("logits", 2),
    ] {
        assert_eq!(config.blocks_to(hook).unwrap(), blocks, "{hook}");
    }
    assert!(config.blocks_to("blocks.2.hook_resid_pre").is_err());
}

/// Two widths on each of two hooks of the embedded model, whose blocks 1 and 3 the hooks come before.
#[test]
fn several_saes_are_added_up_and_what_they_share_counts_once() {
    let mut all = Sweep::default();
    all.set_text("d_sae", "256,512").unwrap();
    all.set_text("hook_name", "blocks.1.hook_resid_pre,blocks.3.hook_resid_pre").unwrap();
    let together = Plan::new(&all, None, Some(RATES)).unwrap();
    let alone: Vec<Plan> = all
        .members()
        .unwrap()
        .into_iter()
        .map(|member| Plan::new(&member.recipe.into(), None, Some(RATES)).unwrap())
        .collect();
    let of = |plan: &Plan, what: &str| {
        plan.memory.iter().chain(&plan.disk).find(|part| part.what == what).unwrap_or_else(|| panic!("{what}")).bytes
    };
    let largest = |what: &str| alone.iter().map(|plan| of(plan, what)).max().unwrap();
    for what in ["weights, gradients and Adam's two moments", "work space of a step", "trained SAE", "checkpoints"] {
        assert_eq!(of(&together, what), alone.iter().map(|plan| of(plan, what)).sum::<u64>(), "{what}");
    }
    for what in ["activation buffer", "activation buffers in them"] {
        assert_eq!(of(&together, what), 2 * of(&alone[0], what), "{what}");
    }
    for what in ["language model", "work space of the language model", "evaluation", "while a checkpoint is written"] {
        assert_eq!(of(&together, what), largest(what), "{what}");
    }
    assert_eq!(together.memory_bytes, together.memory.iter().map(|part| part.bytes).sum::<u64>());
    let (time, alone) = (together.time.unwrap(), alone.iter().map(|plan| plan.time.unwrap()));
    // The pass ends at the later hook, before block 3.
    assert_eq!(time.model_operations, alone.clone().nth(1).unwrap().model_operations);
    assert_eq!(time.adam_updates, alone.clone().map(|time| time.adam_updates).sum::<f64>());
    assert_eq!(time.sae_operations, alone.map(|time| time.sae_operations).sum::<f64>());
    assert_eq!(together.saes[3].name, "d_sae=512,hook_name=blocks.3.hook_resid_pre");
}

#[test]
fn a_sweep_larger_than_the_machine_is_refused_though_each_of_its_saes_would_fit() {
    let mut sweep = Sweep::default();
    let one = Plan::new(&sweep, None, None).unwrap().memory_bytes;
    let machine = Some(Memory { total: one + one / 2, available: one });
    Plan::new(&sweep, machine, None).unwrap().check().unwrap();
    sweep.set_text("k", "1,2,3,4,5,6,7,8").unwrap();
    let message = Plan::new(&sweep, machine, None).unwrap().check().unwrap_err().to_string();
    assert!(message.contains("which is of 8 SAEs, the largest one's is 4 bytes * (4 * batch 2048 "), "{message}");
}
