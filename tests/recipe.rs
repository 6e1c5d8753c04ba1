//! Recipes: reading, writing, what is refused and in which words.

use cusae::config::{
    foreign_keys, Architecture, Auto, DatasetPath, ExcludeSpecialTokens, LrSchedulerName, Recipe, SeqposSlice,
    SpecialToken,
};
use std::path::Path;

fn read(text: &str) -> cusae::error::Result<Recipe> {
    Recipe::from_toml(Path::new("my.toml"), text)
}

fn refusal(text: &str) -> String {
    let error = read(text).and_then(|recipe| recipe.validate()).expect_err(text);
    assert_eq!(error.exit_code(), 2, "{text}");
    error.to_string()
}

#[test]
fn the_defaults_are_possible() {
    Recipe::default().validate().unwrap();
    let resolved = Recipe::default().resolve(128).unwrap();
    assert_eq!(resolved.d_sae, Auto::Value(2048));
}

#[test]
fn a_written_recipe_is_complete_and_reads_back_equal() {
    let mut recipe = Recipe::default().resolve(128).unwrap();
    recipe.lr = 3.0000001e-7;
    recipe.max_grad_norm = None;
    recipe.decoder_init_norm = None;
    recipe.lr_scheduler_name = LrSchedulerName::CosineAnnealing;
    recipe.dataset_path = DatasetPath::Paths(vec!["a \"quoted\", name.txt".into(), "b".into()]);
    recipe.exclude_special_tokens = ExcludeSpecialTokens::Ids(vec![0, 50256]);
    recipe.sequence_separator_token = Some(SpecialToken::Id(7));
    recipe.seqpos_slice = SeqposSlice { start: Some(5), stop: Some(-5), step: None };
    let text = recipe.to_toml();
    assert_eq!(read(&text).unwrap(), recipe, "{text}");
    for key in Recipe::keys() {
        assert!(text.contains(&format!("\n{} = ", key.name)), "{} is missing", key.name);
    }
}

#[test]
fn a_key_left_out_keeps_its_default() {
    let recipe = read("k = 7\n").unwrap();
    assert_eq!(recipe, Recipe { k: 7.0, ..Recipe::default() });
}

#[test]
fn flags_and_toml_read_the_same_values() {
    let mut recipe = Recipe::default();
    for (key, text) in [
        ("k", "7"),
        ("lr", "3e-4"),
        ("training_tokens", "2e6"),
        ("max_grad_norm", "none"),
        ("d_sae", "auto"),
        ("exclude_special_tokens", "[1, 2]"),
        ("model_name", "2024"),
        ("seqpos_slice", "5:-5"),
        ("dataset_path", "a,b.txt"),
        ("eval_dataset_path", "[\"a\", \"b\"]"),
    ] {
        recipe.set_text(key, text).unwrap();
    }
    let toml = "k = 7\nlr = 3e-4\ntraining_tokens = 2_000_000\nmax_grad_norm = \"none\"\nd_sae = \"auto\"\n\
                exclude_special_tokens = [1, 2]\nmodel_name = \"2024\"\nseqpos_slice = \"5:-5\"\n\
                dataset_path = \"a,b.txt\"\neval_dataset_path = [\"a\", \"b\"]\n";
    assert_eq!(recipe, read(toml).unwrap());
    assert_eq!((recipe.training_tokens, recipe.max_grad_norm), (2_000_000, None));
}

#[test]
fn an_unknown_key_is_answered_with_the_closest_one() {
    let message = refusal("lr_warmup_steps = 5");
    assert_eq!(message, "my.toml, key lr_warmup_steps: there is no such key; did you mean lr_warm_up_steps?");
    assert!(refusal("zzz = 5").ends_with("cusae train --help lists all"));
}

#[test]
fn fields_of_saelens_that_are_not_here_are_answered_by_name() {
    assert!(refusal("n_batches_in_buffer = 20").ends_with("use buffer_tokens"));
    assert!(refusal("wandb_project = \"x\"").contains("Weights & Biases"));
    assert!(refusal("[sae]\nk = 5").contains("one flat list"));
    let keys: Vec<_> = Recipe::keys().iter().map(|key| key.name).collect();
    for foreign in foreign_keys() {
        assert!(!keys.contains(&foreign), "{foreign} is both here and not here");
    }
}

#[test]
fn a_value_of_another_type_says_what_was_found_and_expected() {
    for (toml, message) in [
        ("k = \"many\"", "my.toml, key k: found the text \"many\", expected a number"),
        ("d_in = -3", "my.toml, key d_in: found the whole number -3, expected a whole number or auto"),
        ("lr = nan", "my.toml, key lr: found the number nan, expected a number"),
        ("prepend_bos = 1", "my.toml, key prepend_bos: found the whole number 1, expected true or false"),
        (
            "architecture = \"topp\"",
            "my.toml, key architecture: found the text \"topp\", expected standard | gated | jumprelu | topk | \
             abstopk | batchtopk | matryoshka_batchtopk | matching_pursuit | transcoder | \
             skip_transcoder | jumprelu_transcoder | jumprelu_skip_transcoder",
        ),
        ("max_grad_norm = \"off\"", "my.toml, key max_grad_norm: found the text \"off\", expected a number or none"),
        ("d_sae = 1.5", "my.toml, key d_sae: found the number 1.5, expected a whole number or auto"),
    ] {
        assert_eq!(refusal(toml), message);
    }
    let message = Recipe::default().set_text("k", "many").unwrap_err().to_string();
    assert_eq!(message, "k: found \"many\", expected a number");
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    let message = refusal("k = 5\nlr = = 3\n");
    assert!(message.starts_with("my.toml, line 2: not TOML: "), "{message}");
    assert!(!message.contains('\n'));
}

#[test]
fn impossible_settings_are_refused_with_the_arithmetic() {
    for (toml, message) in [
        ("d_sae = 16", "k: found 32, expected at most d_sae = 16"),
        ("k = 0", "k: found 0, expected a whole number of at least 1"),
        ("buffer_tokens = 2047", "buffer_tokens: found 2047, expected at least train_batch_size_tokens = 2048"),
        ("training_tokens = 2047", "training_tokens: found 2047, expected at least train_batch_size_tokens = 2048"),
        ("train_batch_size_tokens = 0", "train_batch_size_tokens: found 0"),
        (
            "training_tokens = 20480\nlr_warm_up_steps = 6\nlr_decay_steps = 5",
            "6 + 5 is more than the 10 steps of the run (training_tokens / train_batch_size_tokens = 20480 / 2048)",
        ),
        (
            "training_tokens = 20480\nlr_warm_up_steps = 5\nlr_decay_steps = 5\nlr_scheduler_name = \"cosineannealing\"",
            "cosineannealing has no step: 10 - 5 warm-up - 5 decay = 0",
        ),
        (
            "training_tokens = 20480\nlr_scheduler_name = \"cosineannealingwarmrestarts\"\nn_restart_cycles = 9",
            "n_restart_cycles: found 9, expected at most the 8 steps",
        ),
        ("lr = 0", "lr: found 0, expected more than 0"),
        ("lr_end = 2", "lr_end: found 2, expected from 0 to lr = 0.001"),
        ("lr_end = 0\nlr_scheduler_name = \"cosineannealing\"", "lr_end: found 0, but lr_decay_steps = 195"),
        ("adam_beta1 = 1", "adam_beta1: found 1, expected at least 0 and less than 1"),
        ("ema_decay = 1", "ema_decay: found 1, expected at least 0 and less than 1, or none"),
        ("adam_epsilon = 0", "adam_epsilon: found 0, expected more than 0"),
        ("max_grad_norm = 0", "max_grad_norm: found 0, expected more than 0"),
        ("activations_mixing_fraction = 1.1", "activations_mixing_fraction: found 1.1, expected from 0 to 1"),
        ("d_sae = 4294967296", "d_sae: found 4294967296, expected at most 4294967295"),
        ("buffer_tokens = 4294967296", "buffer_tokens: found 4294967296, expected at most 4294967295"),
        (
            "train_batch_size_tokens = 65536\nk = 65536\nd_sae = 65536",
            "k: found k * train_batch_size_tokens = 65536 * 65536, expected at most 4294967295",
        ),
        (
            "store_batch_size_prompts = 33554432",
            "store_batch_size_prompts: found store_batch_size_prompts * context_size = 33554432 * 128, expected at most",
        ),
        ("shuffle = false", "shuffle: only stored activations can be taken in order"),
        ("context_size = 1", "context_size: found 1, expected at least 2"),
        ("seqpos_slice = \"200:\"", "seqpos_slice: no position of a row of context_size = 128 is left"),
        ("normalize_activations = \"layer_norm\"", "aux_loss_coefficient: found 1, expected 0 with"),
        ("log_every = 0", "log_every: found 0"),
        ("k = 2.5", "k: found 2.5, expected a whole number of at least 1 for architecture topk; batchtopk takes parts"),
        (
            "architecture = \"batchtopk\"\nk = 0.0001",
            "k: k * train_batch_size_tokens = 0.0001 * 2048 is less than one latent in the batch",
        ),
        ("architecture = \"batchtopk\"\nnormalize_activations = \"layer_norm\"", "aux_loss_coefficient: found 1"),
        ("architecture = \"matryoshka_batchtopk\"", "matryoshka_widths: found [], expected widths such as [128, 512]"),
        (
            "architecture = \"matryoshka_batchtopk\"\nmatryoshka_widths = [64, 64]",
            "matryoshka_widths: found [64, 64], expected whole numbers from 1, each larger than the one before",
        ),
        (
            "architecture = \"matryoshka_batchtopk\"\nmatryoshka_widths = [64, 513]\nd_sae = 512",
            "matryoshka_widths: found [64, 513], expected at most d_sae = 512",
        ),
        (
            "b_dec_init_method = \"mean\"\narchitecture = \"standard\"\nnormalize_activations = \"layer_norm\"",
            "b_dec_init_method: found mean, expected zeros with normalize_activations = layer_norm",
        ),
        (
            "b_dec_init_method = \"mean\"\nfrom_pretrained_path = \"sae\"",
            "b_dec_init_method: found mean, expected zeros with from_pretrained_path",
        ),
        ("k_start = 2.5", "k_start: found 2.5, expected a whole number of at least 1 for architecture topk"),
        ("k_start = 600\nd_sae = 512", "k_start: found 600, expected at most d_sae = 512"),
        ("k_start = 64\nk_anneal_steps = 9999", "k_anneal_steps: found 9999, expected at most the 976 steps of the run"),
        (
            "architecture = \"matching_pursuit\"\nresample_every = 100",
            "resample_every: found 100, expected none for architecture matching_pursuit",
        ),
        (
            "architecture = \"matching_pursuit\"\nuse_ghost_grads = true",
            "use_ghost_grads: found true, expected false for architecture matching_pursuit: without an encoder a dead \
             latent has no pre-activation to grow by",
        ),
        (
            "normalize_activations = \"layer_norm\"\naux_loss_coefficient = 0\nuse_ghost_grads = true",
            "use_ghost_grads: found true, expected false with normalize_activations = layer_norm, for which they are not \
             defined",
        ),
        ("resample_every = 0", "resample_every: found 0, expected at least 1"),
        (
            "architecture = \"standard\"\nl1_coefficient = 0\ntarget_l0 = 20",
            "l1_coefficient: found 0, expected more than 0 with target_l0",
        ),
        (
            "architecture = \"matching_pursuit\"\nautocast = true",
            "autocast: found true, expected false for architecture matching_pursuit, which has no encoder",
        ),
        ("topk_threshold_lr = 1.5", "topk_threshold_lr: found 1.5, expected from 0 to 1"),
        (
            "architecture = \"jumprelu\"\njumprelu_sparsity_loss_mode = \"quadratic\"",
            "target_l0: found none, but jumprelu_sparsity_loss_mode = quadratic aims at it",
        ),
        ("target_l0 = 513\nd_sae = 512", "target_l0: found 513, expected at most d_sae = 512"),
        ("jumprelu_bandwidth = 0", "jumprelu_bandwidth: found 0, expected more than 0"),
        ("jumprelu_init_threshold = -1", "jumprelu_init_threshold: found -1, expected at least 0"),
    ] {
        let found = refusal(toml);
        assert!(found.contains(message), "{toml}: {found}");
    }
}

#[test]
fn settings_at_the_border_are_accepted() {
    for toml in [
        "d_sae = 32",
        "buffer_tokens = 2048",
        "training_tokens = 2048",
        "training_tokens = 20480\nlr_warm_up_steps = 5\nlr_decay_steps = 5",
        "lr_end = 0",
        "normalize_activations = \"layer_norm\"\naux_loss_coefficient = 0",
        "normalize_activations = \"layer_norm\"\narchitecture = \"standard\"",
        "architecture = \"standard\"\nd_sae = 16",
        "architecture = \"batchtopk\"\nk = 2.5",
        "architecture = \"jumprelu\"\njumprelu_sparsity_loss_mode = \"quadratic\"\ntarget_l0 = 512\nd_sae = 512",
        "architecture = \"gated\"\nnormalize_activations = \"layer_norm\"",
        "shuffle = false\ncached_activations_path = \"a.safetensors\"",
    ] {
        read(toml).unwrap().validate().expect(toml);
    }
}

#[test]
fn auto_values_follow_from_the_others() {
    let recipe = read("training_tokens = 1_000_000\ntrain_batch_size_tokens = 1000\nlr = 0.5").unwrap();
    assert_eq!(recipe.total_training_steps(), 1000);
    assert_eq!((recipe.lr_warm_up_steps(), recipe.lr_decay_steps(), recipe.l1_warm_up_steps()), (50, 200, 50));
    assert_eq!((recipe.lr_end(), recipe.eval_batch_size_prompts()), (0.05, 32));
    let resolved = recipe.resolve(64).unwrap();
    assert_eq!((resolved.d_in, resolved.d_sae), (Auto::Value(64), Auto::Value(1024)));
    assert_eq!((resolved.lr_warm_up_steps, resolved.lr_decay_steps), (Auto::Value(50), Auto::Value(200)));
    assert_eq!(resolved.resolve(64).unwrap(), resolved);
}

/// As SAELens does, which warns.
#[test]
fn the_whole_width_is_the_last_one_of_a_matryoshka() {
    let recipe = read("architecture = \"matryoshka_batchtopk\"\nmatryoshka_widths = [64, 256]\nd_sae = 512").unwrap();
    let resolved = recipe.resolve(128).unwrap();
    assert_eq!(resolved.matryoshka_widths, [64, 256, 512]);
    assert_eq!(resolved.resolve(128).unwrap(), resolved);
}

#[test]
fn widths_that_contradict_one_another_are_refused() {
    let refused = |toml: &str| read(toml).unwrap().resolve(128).unwrap_err().to_string();
    assert_eq!(refused("d_in = 64"), "d_in: found 64, but the activations of blocks.2.hook_resid_pre are 128 wide");
    assert_eq!(
        refused("expansion_factor = 8\nd_sae = 2048"),
        "expansion_factor: 8 * d_in = 8 * 128 = 1024, but d_sae is 2048; give one of them"
    );
    assert!(refused("expansion_factor = 1\nk = 129").starts_with("k: found 129, expected at most d_sae = 128"));
    assert_eq!(read("expansion_factor = 8\nd_sae = 1024").unwrap().resolve(128).unwrap().d_sae(128), 1024);
}

/// SAELens' `MatchingPursuitTrainingSAEConfig` sees to it, too.
#[test]
fn decoder_rows_of_matching_pursuit_start_with_norm_1() {
    let recipe = Recipe { architecture: Architecture::MatchingPursuit, ..Recipe::default() };
    assert_eq!(recipe.resolve(8).unwrap().decoder_init_norm, Some(1.0));
}
