//! Several SAEs from one stream of activations: recipes with lists, and runs in which every SAE is bit
//! for bit the one of its own run.

use cusae::backend::Cpu;
use cusae::config::{Auto, Sweep};
use cusae::data::store::StoredHook;
use cusae::data::{StoreSettings, StoreWriter};
use cusae::train::{self, progress::Silent, Options};
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn read(text: &str) -> cusae::error::Result<Sweep> {
    Sweep::from_toml(Path::new("my.toml"), text)
}

fn names(sweep: &Sweep) -> Vec<String> {
    sweep.members().unwrap().into_iter().map(|member| member.name).collect()
}

fn refusal(text: &str) -> String {
    let error = read(text).and_then(|sweep| sweep.members()).expect_err(text);
    assert_eq!(error.exit_code(), 2, "{text}");
    error.to_string()
}

#[test]
fn lists_make_every_combination_in_the_order_of_the_recipe() {
    let sweep = read("lr = [0.01, 1e-3]\nk = [16, 32]").unwrap();
    assert_eq!(names(&sweep), ["k=16,lr=0.01", "k=16,lr=0.001", "k=32,lr=0.01", "k=32,lr=0.001"]);
    let members = sweep.members().unwrap();
    assert_eq!((members[1].recipe.k, members[1].recipe.lr), (16.0, 0.001));
    assert_eq!(members[1].settings["lr"].as_float(), Some(0.001));
}

#[test]
fn zip_takes_the_nth_of_every_list_together() {
    let sweep = read("k = [16, 32]\nlr = [0.01, 0.001]\nsweep = \"zip\"").unwrap();
    assert_eq!(names(&sweep), ["k=16,lr=0.01", "k=32,lr=0.001"]);
}

#[test]
fn a_recipe_without_lists_is_a_sweep_of_one_that_needs_no_name() {
    let sweep = read("k = 16").unwrap();
    assert!(!sweep.is_several());
    assert_eq!(names(&sweep), [""]);
}

#[test]
fn flags_take_lists_between_commas_and_replace_those_of_the_recipe() {
    let mut sweep = read("k = [16, 32]\nlr = [0.01, 0.001]\nd_sae = 512").unwrap();
    for (key, text) in [
        ("k", "8"),
        ("lr", "[0.1, 0.2]"),
        ("d_sae", "64, 128"),
        ("architecture", "topk,standard"),
        ("hook_name", "blocks.1.hook_resid_pre,blocks.2.hook_resid_pre"),
        ("exclude_special_tokens", "[1, 2]"),
        ("matryoshka_widths", "[16, 32]"),
    ] {
        sweep.set_text(key, text).unwrap();
    }
    assert_eq!(sweep.common.k, 8.0);
    assert_eq!(sweep.common.matryoshka_widths, [16, 32]);
    let names = names(&sweep);
    assert_eq!(names.len(), 16);
    assert_eq!(names[15], "architecture=standard,d_sae=128,hook_name=blocks.2.hook_resid_pre,lr=0.2");
}

#[test]
fn a_key_whose_value_is_a_list_takes_a_list_of_lists() {
    let widths = "architecture = \"matryoshka_batchtopk\"\nd_sae = 128\nmatryoshka_widths = ";
    assert_eq!(names(&read(&format!("{widths}[16, 64]")).unwrap()), [""]);
    let several = read(&format!("{widths}[[16, 64], [32]]")).unwrap();
    assert_eq!(names(&several), ["matryoshka_widths=16-64", "matryoshka_widths=32"]);
}

#[test]
fn a_written_sweep_reads_back_equal() {
    let sweep = read("k = [16, 32]\nhook_name = [\"a\", \"b\"]\nmax_grad_norm = [\"none\", 1.0]\nlr = 0.5").unwrap();
    assert_eq!(read(&sweep.to_toml()).unwrap(), sweep);
}

#[test]
fn saes_of_different_seeds_see_the_data_in_the_order_of_the_first_ones() {
    let order = |text: &str| -> Vec<Auto<u64>> {
        read(text).unwrap().members().unwrap().into_iter().map(|member| member.recipe.data_seed).collect()
    };
    assert_eq!(order("seed = [7, 8]"), [Auto::Value(7), Auto::Value(7)]);
    assert_eq!(order("seed = [7, 8]\ndata_seed = 9"), [Auto::Value(9), Auto::Value(9)]);
    assert_eq!(order("seed = 7"), [Auto::Value(7)]);
}

#[test]
fn lists_that_cannot_be_are_refused() {
    for (text, message) in [
        ("buffer_tokens = [1, 2]", "my.toml, key buffer_tokens: found a list, expected one value: all SAEs that are"),
        ("normalize_activations = [\"none\", \"layer_norm\"]", "my.toml, key normalize_activations: found a list"),
        ("b_dec_init_method = [\"zeros\", \"mean\"]", "my.toml, key b_dec_init_method: found a list"),
        ("model_name = [\"a\", \"b\"]", "my.toml, key model_name: found a list"),
        ("k = [16, 16]", "my.toml, key k: 16.0 is in the list twice"),
        ("k = [16, \"x\"]", "my.toml, key k: found the text \"x\", expected a number"),
        ("k = []", "my.toml, key k: found the list [], expected a number"),
        ("kk = [1, 2]", "my.toml, key kk: there is no such key"),
        (
            "k = [16, 32]\nlr = [0.1, 0.2, 0.3]\nsweep = \"zip\"",
            "sweep: zip takes lists of one length, but k has 2 values and lr has 3",
        ),
        ("d_sae = [16, 64]", "k: found 32, expected at most d_sae = 16"),
        (
            "from_pretrained_path = [\"a/b\", \"a+/b\", \"a:b\"]",
            "sweep: two SAEs would have the folder from_pretrained_path=a-b",
        ),
    ] {
        let found = refusal(text);
        assert!(found.starts_with(message), "{text}: {found}");
    }
    let mut sweep = Sweep::default();
    let message = sweep.set_text("training_tokens", "1,2").unwrap_err().to_string();
    assert!(message.starts_with("training_tokens: found a list"), "{message}");
    assert_eq!(sweep.set_text("k", "many").unwrap_err().to_string(), "k: found \"many\", expected a number");
    assert_eq!(sweep.set_text("k", "8,many").unwrap_err().to_string(), "k: found \"many\", expected a number");
}

/// Twenty steps of 64 tokens, with an evaluation, a window of firing and a checkpoint on the way.
const SMALL: &str = "d_sae = 64\nk = 4\ntraining_tokens = 1280\ntrain_batch_size_tokens = 64\ncontext_size = 16\n\
                     buffer_tokens = 256\nstore_batch_size_prompts = 4\nn_eval_batches = 1\neval_every_n_steps = 7\n\
                     feature_sampling_window = 6\ndead_feature_window = 5\nlog_every = 3\nn_checkpoints = 1\n\
                     tensorboard = false\n";

fn train(sweep: &Sweep, out: &Path) {
    let options = Options { out: out.to_path_buf(), ..Options::default() };
    train::run_sweep(&Cpu, sweep, &options, &mut Silent).unwrap();
}

/// Every file under a folder, by its path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(folder).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Trains the sweep and then every SAE alone, from the recipe in its folder; compares all files.
fn each_is_that_of_its_own_run(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (all, own) = (folder.path().join("all"), folder.path().join("own"));
    let sweep = read(text).unwrap();
    train(&sweep, &all);
    for member in sweep.members().unwrap() {
        let alone = Sweep::load(&all.join(&member.name).join("recipe.toml")).unwrap();
        train(&alone, &own);
        let mut expected = files(&own);
        let mut found = files(&all.join(&member.name));
        for step in [10, 20] {
            let checkpoint = format!("checkpoints/{step}");
            let of_all = all.join(&checkpoint);
            let parts = [of_all.join(&member.name), of_all.join("activations"), of_all.join("trainer_state.json")];
            let at = Path::new(&checkpoint);
            found.extend(files(&parts[0]).into_iter().map(|(name, bytes)| (at.join(name), bytes)));
            let activations =
                files(&parts[1]).into_iter().map(|(name, bytes)| (at.join("activations").join(name), bytes));
            found.extend(activations.filter(|(name, _)| expected.contains_key(name)));
            found.insert(at.join("trainer_state.json"), std::fs::read(&parts[2]).unwrap());
        }
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{}", member.name);
        for (name, bytes) in &found {
            assert!(expected.remove(name).as_ref() == Some(bytes), "{}: {} differs", member.name, name.display());
        }
        std::fs::remove_dir_all(&own).unwrap();
    }
    folder
}

#[test]
fn every_sae_of_a_sweep_is_bit_for_bit_that_of_its_own_run() {
    let folder = each_is_that_of_its_own_run(&format!("{SMALL}seed = [7, 8]\nlr = [0.01, 0.001]"));
    let weights =
        |name: &str| std::fs::read(folder.path().join("all").join(name).join("sae_weights.safetensors")).unwrap();
    assert_ne!(weights("seed=7,lr=0.01"), weights("seed=8,lr=0.01"));
}

#[test]
fn so_is_that_of_another_architecture_width_or_hook_and_of_scaled_activations() {
    let text = SMALL.replace("d_sae = 64\n", "");
    let lists = "architecture = [\"topk\", \"standard\"]\nd_sae = [32, 96]\nsweep = \"zip\"\n\
                 hook_name = [\"blocks.1.mlp.hook_pre\", \"blocks.2.hook_attn_out\"]\n\
                 normalize_activations = \"expected_average_only_in\"\nn_batches_for_norm_estimate = 3\n\
                 b_dec_init_method = \"geometric_median\"\nema_decay = [0.9, \"none\"]\n";
    each_is_that_of_its_own_run(&format!("{text}{lists}"));
}

#[test]
fn stored_activations_of_several_hooks_train_their_saes_in_one_pass() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let hook = |name: &str, d_in| StoredHook { hook_name: name.to_string(), d_in };
    let settings = StoreSettings {
        hooks: vec![hook("hook_a", 8), hook("hook_b", 6)],
        dtype: Dtype::F32,
        expected_rows: 500,
        shard_bytes: 1 << 20,
        shuffle: None,
        metadata: Map::new(),
    };
    let mut writer = StoreWriter::create(&path, settings).unwrap();
    let values = |width: usize| (0..500 * width).map(|n| (n * n % 97) as f32).collect();
    writer.append(&[values(8), values(6)]).unwrap();
    writer.finish().unwrap();
    let stored = |lists: &str| format!("{SMALL}cached_activations_path = {:?}\n{lists}", path.display().to_string());
    each_is_that_of_its_own_run(&stored("hook_name = [\"hook_a\", \"hook_b\"]"));
    // A tensor that is named would be read for both.
    let named = stored("hook_name = [\"hook_a\", \"hook_b\"]").replace("store\"", "store:hook_a\"");
    let options = Options { out: folder.path().join("none"), ..Options::default() };
    let error = train::run_sweep(&Cpu, &read(&named).unwrap(), &options, &mut Silent).unwrap_err().to_string();
    assert!(error.starts_with("cached_activations_path: ") && error.contains("gives hook_a for hook_b"), "{error}");
    assert!(!options.out.exists());
}

fn cusae(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cusae")).args(args).current_dir(folder).output().unwrap()
}

#[test]
fn the_command_prints_a_table_and_leaves_folders_that_other_commands_take() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("my.toml"), SMALL).unwrap();
    let output = cusae(folder.path(), &["train", "my.toml", "--k", "2,4"]);
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stderr}");
    assert!(stdout.starts_with("trained             20 steps, 1,280 tokens, 2 SAEs at once\n"), "{stdout}");
    assert!(stdout.contains("\nk=2     ") && stdout.contains("\nk=4     "), "{stdout}");
    assert!(stderr.contains("\n    k=4: loss "), "{stderr}");
    let run = folder.path().join("runs/sweep-1");
    let summary: Value = serde_json::from_slice(&std::fs::read(run.join("summary.json")).unwrap()).unwrap();
    assert_eq!((&summary[1]["name"], &summary[1]["settings"]["k"]), (&"k=4".into(), &4.0.into()));
    let evaluation: Value = serde_json::from_slice(&std::fs::read(run.join("k=4/eval.json")).unwrap()).unwrap();
    assert_eq!(summary[1]["l0"], evaluation["sparsity"]["l0"]);

    for sae in ["runs/sweep-1/k=2", "runs/sweep-1/checkpoints/20/k=2"] {
        let features = cusae(folder.path(), &["features", "--sae", sae, "--prompt", "The king"]);
        assert!(features.status.success(), "{sae}: {}", String::from_utf8_lossy(&features.stderr));
    }
    // The sweep is saved whole: it can be done again, and an SAE of it alone.
    for (recipe, out) in [("runs/sweep-1/recipe.toml", "again"), ("runs/sweep-1/k=4/recipe.toml", "again/alone")] {
        let done = cusae(folder.path(), &["train", recipe, "--out", out, "--quiet"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let weights = |run: &str| std::fs::read(folder.path().join(run).join("sae_weights.safetensors")).unwrap();
    assert_eq!(weights("again/k=4"), weights("runs/sweep-1/k=4"));
    assert_eq!(weights("again/alone"), weights("runs/sweep-1/k=4"));
}

#[test]
fn only_training_takes_several_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let plan = cusae(folder.path(), &["train", "--seed", "1,2", "--plan", "--json", "--quiet"]);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!((&plan["saes"][0]["name"], &plan["saes"][1]["name"]), (&"seed=1".into(), &"seed=2".into()));
    let arguments = ["activations", "--seed", "1,2", "--hook", "hook_embed", "--rows", "1", "--out", "store"];
    let output = cusae(folder.path(), &[&arguments[..], &["--quiet"]].concat());
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message, "error: seed: found [1, 2], expected one; only train takes several\n");
}

/// A rate of 1e38 leaves no weight finite.
#[test]
fn an_sae_that_is_not_finite_is_stopped_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let options = Options { out: out.clone(), ..Options::default() };
    let sweep = |rates: &str| read(&format!("{SMALL}lr = {rates}")).unwrap();
    let summary = train::run_sweep(&Cpu, &sweep("[1e38, 0.001]"), &options, &mut Silent).unwrap();
    let stopped: Vec<bool> = summary.saes.iter().map(|sae| sae.stopped.is_some()).collect();
    assert_eq!(stopped, [true, false]);
    let why = summary.saes[0].stopped.clone().unwrap();
    assert!(why.starts_with("step ") && why.ends_with(": the loss is not finite"), "{why}");
    let [lost, kept] = [&summary.saes[0].name, &summary.saes[1].name];
    assert!(
        !out.join(lost).join("sae_weights.safetensors").exists() && !out.join("checkpoints/20").join(lost).exists()
    );
    assert!(out.join(kept).join("sae_weights.safetensors").exists());

    // It stays stopped when the run is resumed, and the other is that of its own run.
    let again =
        train::run_sweep(&Cpu, &sweep("[1e38, 0.001]"), &Options { resume: true, ..options.clone() }, &mut Silent);
    assert_eq!(again.unwrap().saes[0].stopped, Some(why));
    let own = Options { out: folder.path().join("own"), ..Options::default() };
    train::run_sweep(&Cpu, &sweep("0.001"), &own, &mut Silent).unwrap();
    let weights = |folder: &Path| std::fs::read(folder.join("sae_weights.safetensors")).unwrap();
    assert_eq!(weights(&out.join(kept)), weights(&own.out));

    let none = Options { out: folder.path().join("none"), ..Options::default() };
    let error = train::run_sweep(&Cpu, &sweep("[1e37, 1e38]"), &none, &mut Silent).unwrap_err().to_string();
    assert!(error.starts_with("step ") && error.contains(": the loss is not finite (after step "), "{error}");
}
