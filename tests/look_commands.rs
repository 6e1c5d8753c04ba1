//! The commands that look inside, from the outside, on the embedded model and an SAE trained here.

mod sines;

use cusae::formats::saelens::{self, TrainingNotes};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A small SAE on the embedded model's second block, trained once for all tests of this file.
fn sae() -> &'static str {
    static SAE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = SAE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let arguments =
            "train --architecture topk --k 16 --d-sae 512 --training-tokens 40000 --quiet --device cpu --out";
        let output = cusae(&[&arguments.split(' ').collect::<Vec<_>>()[..], &[out.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder
    });
    Box::leak(folder.path().join("run").to_str().unwrap().to_string().into_boxed_str())
}

fn cusae(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cusae")).args(arguments).output().unwrap()
}

fn text(command: &str, arguments: &[&str]) -> String {
    let output = cusae(&[&[command, "--sae", sae(), "--device", "cpu"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(command: &str, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(command, &[arguments, &["--json"]].concat())).unwrap()
}

fn refusal(command: &str, arguments: &[&str]) -> String {
    let output = cusae(&[&[command, "--sae", sae(), "--device", "cpu"], arguments].concat());
    assert!(output.stdout.is_empty() && !output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

const PROMPT: &str = "The king went to the castle and";

#[test]
fn features_shows_the_top_of_each_token_largest_first() {
    let report = json("features", &["--prompt", PROMPT, "--top", "3"]);
    let tokens = report["prompts"][0]["tokens"].as_array().unwrap();
    let text: String = tokens[1..].iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!((tokens[0]["token"].as_str(), text.as_str()), (Some("<|endoftext|>"), PROMPT));
    for token in tokens {
        let values: Vec<f64> =
            token["features"].as_array().unwrap().iter().map(|it| it["activation"].as_f64().unwrap()).collect();
        assert!(!values.is_empty() && values.len() <= 3 && values.is_sorted_by(|a, b| a >= b), "{token}");
    }
    let table = self::text("features", &["--prompt", PROMPT, "--top", "3"]);
    let first = &tokens[2]["features"][0];
    let cell = format!("{}:{:.2}", first["feature"], first["activation"].as_f64().unwrap());
    assert!(table.lines().nth(2).unwrap().contains(&cell), "{table}");
}

#[test]
fn features_marks_where_one_fires_and_reads_a_file() {
    let report = json("features", &["--prompt", PROMPT, "--top", "1"]);
    let first = &report["prompts"][0]["tokens"][3];
    let (feature, activation) =
        (&first["features"][0]["feature"], first["features"][0]["activation"].as_f64().unwrap());
    let marked = text("features", &["--prompt", PROMPT, "--feature", &feature.to_string()]);
    assert!(marked.contains(&format!("[{} {activation:.2}]", first["token"].as_str().unwrap())), "{marked}");
    assert!(!marked.contains('\x1b'), "no colours into a pipe");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.txt");
    std::fs::write(&file, format!("{PROMPT}\n\nA second line\n")).unwrap();
    let of_file = json("features", &["--text", file.to_str().unwrap(), "--top", "1"]);
    assert_eq!(of_file["prompts"].as_array().unwrap().len(), 2);
    assert_eq!(of_file["prompts"][0], report["prompts"][0]);
}

#[test]
fn attribute_takes_the_prediction_or_tokens_by_name() {
    let report = json("attribute", &["--prompt", PROMPT, "--top", "5"]);
    let features = report["features"].as_array().unwrap();
    assert_eq!(features.len(), 5);
    let size = |row: &Value| row["gradient"].as_f64().unwrap().abs();
    assert!(features.is_sorted_by(|a, b| size(a) >= size(b)));
    let target = report["target"]["token"].as_str().unwrap();
    assert_eq!(json("attribute", &["--prompt", PROMPT, "--target", target, "--top", "5"]), report);
    // The difference of a token's logit and itself does not depend on anything.
    let none = json("attribute", &["--prompt", PROMPT, "--target", target, "--versus", target, "--top", "1"]);
    assert_eq!(none["features"][0]["gradient"].as_f64(), Some(0.0));
    let table = text("attribute", &["--prompt", PROMPT, "--top", "1"]);
    let gradient = features[0]["gradient"].as_f64().unwrap();
    assert!(table.contains(&format!("{gradient:.4}")), "{table}");
}

#[test]
fn ablate_shows_each_feature_alone_and_all_together() {
    let report = json("ablate", &["--prompt", PROMPT, "--position", "-1", "--top", "100"]);
    let features = report["features"].as_array().unwrap();
    assert_eq!(report["ablated"], features.len());
    let close = |a: &Value, b: &Value| assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-4, "{a} {b}");
    close(&report["model"]["logit"], &report["sae"]["logit"]);
    assert!(features.is_sorted_by(|a, b| a["logit"].as_f64() <= b["logit"].as_f64()));
    let most = features[0]["feature"].to_string();
    let alone = json("ablate", &["--prompt", PROMPT, "--position", "-1", "--feature", &most]);
    close(&alone["features"][0]["logit"], &features[0]["logit"]);
    let change = alone["together"]["logit"].as_f64().unwrap() - alone["sae"]["logit"].as_f64().unwrap();
    close(&change.into(), &features[0]["logit"]);
    let plain = json("ablate", &["--prompt", PROMPT, "--feature", &most, "--no-error-term"]);
    assert_ne!(plain["sae"]["logit"], plain["model"]["logit"]);
}

#[test]
fn special_tokens_pass_the_sae_by_where_that_is_asked_for() {
    let plain = ["--prompt", PROMPT, "--no-error-term", "--top", "1_000"];
    let excluded = |which| json("ablate", &[&plain[..], &["--exclude-special-tokens", which]].concat());
    let first = &json("features", &["--prompt", PROMPT])["prompts"][0]["tokens"][0]["id"];
    let (all, but_first, by_id) = (excluded("false"), excluded("true"), excluded(&format!("[{first}]")));
    assert_eq!(json("ablate", &plain), all);
    assert_eq!(but_first, by_id);
    assert_ne!(all["sae"], but_first["sae"]);
    assert!(all["ablated"].as_u64() > but_first["ablated"].as_u64(), "features of the first token alone");

    let attributed = |which: &[&str]| json("attribute", &[&["--prompt", PROMPT, "--top", "1_000"], which].concat());
    let (all, but_first) = (attributed(&[]), attributed(&["--exclude-special-tokens", "true"]));
    let rest: Vec<&Value> = all["features"].as_array().unwrap().iter().filter(|it| it["position"] != 0).collect();
    assert!(rest.len() < all["features"].as_array().unwrap().len());
    assert_eq!(but_first["features"].as_array().unwrap().iter().collect::<Vec<_>>(), rest);
    let found = refusal("ablate", &["--prompt", PROMPT, "--exclude-special-tokens", "some"]);
    assert!(found.contains("invalid value 'some'"), "{found}");
}

#[test]
fn steer_shows_both_texts_and_scales_by_the_maximum() {
    let none = json("steer", &["--prompt", PROMPT, "--feature", "3=+0", "--max-new-tokens", "8"]);
    assert_eq!(none["without"], none["steered"]);
    assert_eq!(none["without"]["tokens"].as_array().unwrap().len(), 8);
    let report = json("features", &["--prompt", PROMPT, "--top", "1"]);
    let feature = report["prompts"][0]["tokens"][4]["features"][0]["feature"].to_string();
    let strong = json("steer", &["--prompt", PROMPT, "--feature", &format!("{feature}=+200"), "--max-new-tokens", "8"]);
    assert_eq!(strong["without"], none["without"]);
    assert_ne!(strong["steered"], strong["without"]);
    let shown = text("steer", &["--prompt", PROMPT, "--feature", &format!("{feature}=+200"), "--max-new-tokens", "8"]);
    let expected = |name: &str| format!("{name}: {PROMPT}{}\n", strong[name]["text"].as_str().unwrap());
    assert_eq!(shown, expected("without") + &expected("steered"));

    // In a text of one line the largest activation is known: so many times it is the same as that number.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("line.txt");
    std::fs::write(&file, PROMPT).unwrap();
    let of_text = json("features", &["--prompt", PROMPT, "--prepend-bos", "false", "--feature", &feature]);
    let of_token = |token: &Value| token["features"][0]["activation"].as_f64().unwrap_or(0.0);
    let largest = of_text["prompts"][0]["tokens"].as_array().unwrap().iter().map(of_token).fold(0.0, f64::max);
    if largest > 0.0 {
        let times = format!("{feature}=+20");
        let by_max = [
            "--prompt",
            PROMPT,
            "--max-new-tokens",
            "8",
            "--times-max",
            "--max-text",
            file.to_str().unwrap(),
            "--feature",
        ];
        let by_max = json("steer", &[&by_max[..], &[&times]].concat());
        let number = format!("{feature}=+{}", (20.0 * largest) as f32);
        let by_number = json("steer", &["--prompt", PROMPT, "--max-new-tokens", "8", "--feature", &number]);
        assert_eq!(by_max["steered"], by_number["steered"]);
    }
}

#[test]
fn compare_ranks_what_sets_groups_apart_and_what_is_shared() {
    let kings = ["--prompt", "The king spoke", "--prompt", "A king came", "--prompt", "Our king was there"];
    let numbers = ["--against", "1 2 3 4", "--against", "5 6 7 8", "--against", "9 10 11"];
    let apart = json("compare", &[&kings[..], &numbers[..]].concat());
    assert_eq!((apart["prompts"].as_u64(), apart["divisions"].as_u64()), (Some(3), Some(20)));
    let features = apart["features"].as_array().unwrap();
    let difference = |it: &Value| (it["mean"].as_f64().unwrap() - it["mean_against"].as_f64().unwrap()).abs();
    assert!(features.is_sorted_by(|a, b| difference(a) >= difference(b)));
    assert!(features.iter().all(|it| (0.05..=1.0).contains(&it["p_value"].as_f64().unwrap())));
    let shared = json("compare", &kings);
    assert!(shared["features"].as_array().unwrap().is_sorted_by(|a, b| a["count"].as_u64() >= b["count"].as_u64()));
    assert_eq!(shared["features"][0]["count"], 3);
    assert!(text("compare", &kings).contains("3 of 3"));
}

#[test]
fn verify_takes_a_short_run_and_notices_another_l0() {
    let verdict = json("verify", &[]);
    assert!(verdict["checks"].as_array().unwrap().iter().all(|check| check["passed"] == true), "{verdict}");
    let folder = tempfile::tempdir().unwrap();
    for file in ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors"] {
        std::fs::copy(Path::new(sae()).join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("cfg.json");
    let mut cfg: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    cfg["metadata"]["l0"] = (cfg["metadata"]["l0"].as_f64().unwrap() * 1.01).into();
    std::fs::write(&path, cfg.to_string()).unwrap();
    let output = cusae(&["verify", "--sae", folder.path().to_str().unwrap()]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && printed.contains("cfg.json says l0 = 16.16"), "{printed}");
}

#[test]
fn what_is_not_there_gets_a_sentence() {
    let prompt = ["--prompt", PROMPT];
    for (command, arguments, expected) in [
        ("features", &["--feature", "512"][..], "error: --feature: 512, this SAE has features 0 to 511"),
        ("attribute", &["--target", " king went"], "error: --target: \" king went\" is 2 tokens"),
        ("attribute", &["--target", "#4096"], "error: --target: token #4096, the vocabulary has 4096"),
        ("attribute", &["--position", "99"], "error: --position: 99, the prompt has"),
        ("ablate", &["--feature", "700"], "error: feature: 700, this SAE has features 0 to 511"),
        ("ablate", &["--position", "x"], "error: --position: \"x\", expected a number or all"),
        ("steer", &["--feature", "3=+1", "--top-p", "2"], "error: sample_token: top_p is 2, expected above 0"),
        ("steer", &["--feature", "3=+1", "--positions", "2,50"], "error: positions: 50, expected less than 4"),
        ("steer", &["--feature", "512=+1"], "error: feature: 512, this SAE has features 0 to 511"),
        ("compare", &["--against", ""], "error: --against: it is empty"),
        ("compare", &["--against", "<|endoftext|>"], "error: --against: it holds special tokens alone"),
    ] {
        let found = refusal(command, &[&prompt[..], arguments].concat());
        assert!(found.starts_with(expected), "{command} {arguments:?}: {found}");
    }
    let usage = refusal("steer", &[&prompt[..], &["--feature", "3+8"]].concat());
    assert!(usage.contains("expected FEATURE=+8, FEATURE=-8 or FEATURE=8"), "{usage}");
    let long = "word ".repeat(400);
    let found = refusal("features", &["--prompt", &long]);
    assert!(found.starts_with("error: --prompt: it has") && found.contains("at most 256"), "{found}");
    for command in ["features", "attribute", "ablate", "compare"] {
        assert_eq!(refusal(command, &["--prompt", ""]), "error: --prompt: it is empty\n", "{command}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).to_str().unwrap().to_string()
    };
    let (empty, lines) = (file("empty.txt", "\n \n"), file("lines.txt", &format!("{PROMPT}\n\n{long}\n")));
    for (command, flag) in [("features", "--text"), ("compare", "--text"), ("compare", "--against-text")] {
        let others: &[&str] = if flag == "--against-text" { &prompt } else { &[] };
        let found = refusal(command, &[others, &[flag, &empty]].concat());
        assert!(found.ends_with("empty.txt: holds no text, expected a prompt on each line\n"), "{found}");
        let found = refusal(command, &[others, &[flag, &lines]].concat());
        assert!(found.contains("lines.txt, line 3: it has") && found.contains("at most 256"), "{found}");
    }
    let found = refusal("features", &["--text", "nowhere.txt"]);
    assert!(found.starts_with("error: nowhere.txt: cannot read"), "{found}");
    for command in ["dashboard", "serve"] {
        let page = folder.path().join("page");
        let more: &[&str] = if command == "serve" { &["--port", "0"] } else { &["--out", page.to_str().unwrap()] };
        let found = refusal(command, &[&["--text", &empty], more].concat());
        assert!(
            found.contains("empty.txt: all the text is ") && found.contains("one row of context_size 128"),
            "{found}"
        );
        let found = refusal(command, &[&["--max-tokens", "100"], more].concat());
        assert!(found.starts_with("error: --max-tokens: 100, but a row has 128"), "{found}");
        assert!(!page.exists(), "{command}");
    }
    let find =
        |page: &Path| String::from_utf8(cusae(&["find", page.to_str().unwrap(), "--feature", "1"]).stderr).unwrap();
    assert!(find(folder.path()).ends_with("holds no features.safetensors; give a folder that cusae dashboard wrote\n"));
    let damaged = file("features.safetensors", "");
    assert!(find(Path::new(&damaged)).contains("not a whole safetensors file"));
    let weights = Path::new(sae()).join("sae_weights.safetensors");
    assert!(find(&weights).contains("feature_starts"), "{}", find(&weights));
}

/// What happens to a file's bytes.
type Edit<'a> = dyn Fn(Vec<u8>) -> Vec<u8> + 'a;

/// Copies a folder's files, some of them changed.
fn changed_copy(from: &Path, changes: &[(&str, &Edit<'_>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, change) in changes {
        std::fs::write(folder.path().join(file), change(std::fs::read(from.join(file)).unwrap())).unwrap();
    }
    folder
}

#[test]
fn an_sae_and_a_model_that_do_not_fit_or_are_damaged_get_a_sentence() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let refusal = |sae: &Path, model: &Path| {
        let (sae, model) = (sae.to_str().unwrap(), model.to_str().unwrap());
        let mut said = Vec::new();
        for command in ["features", "attribute", "ablate", "compare", "steer", "dashboard", "serve"] {
            let more: &[&str] = match command {
                "steer" => &["--prompt", PROMPT, "--feature", "1=+1"],
                "dashboard" => &["--out", "nowhere-to-be-made"],
                "serve" => &["--port", "0"],
                _ => &["--prompt", PROMPT],
            };
            let flags = ["--sae", sae, "--model", model, "--device", "cpu", "--quiet"];
            let output = cusae(&[&[command], &flags[..], more].concat());
            assert!(output.stdout.is_empty() && matches!(output.status.code(), Some(1 | 2)), "{command}");
            said.push(String::from_utf8(output.stderr).unwrap());
        }
        assert!(said.iter().all(|it| it == &said[0] && it.lines().count() == 1), "{said:?}");
        assert!(!Path::new("nowhere-to-be-made").exists());
        said.remove(0)
    };
    let (embedded, sae) = (Path::new("embedded"), root.join("tests/data/evals/trained-topk-resid/sae"));
    let same: &Edit<'_> = &|bytes| bytes;
    let with_hook = |bytes: Vec<u8>, hook: &str| {
        String::from_utf8(bytes).unwrap().replace("blocks.2.hook_resid_pre", hook).into_bytes()
    };

    let found = refusal(&root.join("tests/data/saes/topk-none-bdec-rescale"), embedded);
    let expected = "d_in: the SAE takes 64 values, blocks.2.hook_resid_pre of this model has 128; is it another model?";
    assert_eq!(found, format!("error: {expected}\n"));
    for hook in ["blocks.9.hook_resid_pre", "blocks.2.hook_resid"] {
        let other: &Edit<'_> = &|bytes| with_hook(bytes, hook);
        let folder = changed_copy(&sae, &[("cfg.json", other), ("sae_weights.safetensors", same)]);
        let found = refusal(folder.path(), embedded);
        assert!(found.starts_with("error: ") && found.contains(hook), "{found}");
    }
    let nan = |mut bytes: Vec<u8>| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes
    };
    let none = |_| Vec::new();
    for (change, expected) in [(&nan as &Edit<'_>, " holds NaN "), (&none, "0 bytes found")] {
        let folder = changed_copy(&sae, &[("cfg.json", same), ("sae_weights.safetensors", change)]);
        let found = refusal(folder.path(), embedded);
        assert!(found.contains("sae_weights.safetensors: ") && found.contains(expected), "{found}");
        let model = changed_copy(
            &root.join("tests/data/gpt2-rand-tiny"),
            &[("config.json", same), ("model.safetensors", change)],
        );
        let found = refusal(&sae, model.path());
        assert!(found.contains("model.safetensors: ") && found.contains(expected), "{found}");
    }

    let model =
        changed_copy(&root.join("tests/data/gpt2-rand-tiny"), &[("config.json", same), ("model.safetensors", same)]);
    let found = refusal(&sae, model.path());
    assert!(found.contains("has no tokenizer; prompts need tokenizer.json"), "{found}");
    // A tokenizer with a token more than the model has.
    let tokenizer = std::fs::read(root.join("assets/tinygpt2/tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
    let mut token = tokenizer["added_tokens"][0].clone();
    (token["id"], token["content"]) = (4096.into(), "<|more|>".into());
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    std::fs::write(model.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let found = refusal(&sae, model.path());
    assert!(found.contains("it has 4097 tokens, the model has 4096; use the tokenizer that came"), "{found}");
}

/// Each command runs the SAE on the whole prompt: the same features of its last token, and none of them those that
/// the token has alone. What is evaluated are whole rows, of which no token has more than k features.
#[test]
fn a_temporal_sae_shows_the_same_features_in_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let (config, weights) = sines::temporal();
    saelens::save_inference(folder.path(), &config, &weights, TrainingNotes::default()).unwrap();
    let run = |command: &str, arguments: &[&str]| -> Value {
        let common = [command, "--sae", folder.path().to_str().unwrap(), "--device", "cpu", "--json", "--quiet"];
        let output = cusae(&[&common[..], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let by_feature = |rows: &[Value]| -> BTreeMap<u64, String> {
        rows.iter().map(|row| (row["feature"].as_u64().unwrap(), row["activation"].to_string())).collect()
    };
    let report = run("features", &["--prompt", PROMPT, "--top", "64"]);
    let tokens = report["prompts"][0]["tokens"].as_array().unwrap();
    let last = tokens.last().unwrap()["features"].as_array().unwrap();
    let expected = by_feature(last);
    assert_eq!(expected.len(), 8);

    let ablated = run("ablate", &["--prompt", PROMPT, "--position", "-1", "--top", "64"]);
    assert_eq!(by_feature(ablated["features"].as_array().unwrap()), expected);
    let close = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-4;
    assert!(close(&ablated["model"]["logit"], &ablated["sae"]["logit"]), "{ablated}");

    let attributed = run("attribute", &["--prompt", PROMPT, "--top", "1_000"]);
    let rows = attributed["features"].as_array().unwrap().iter();
    let of_last: Vec<Value> = rows.filter(|row| row["position"] == tokens.len() - 1).cloned().collect();
    assert_eq!(by_feature(&of_last), expected);

    let few = ["--batch-size-prompts", "2", "--n-eval-reconstruction-batches", "1", "--context-size", "32"];
    let report = run("eval", &few);
    let l0 = report["sparsity"]["l0"].as_f64().unwrap();
    assert!(l0 > 7.0 && l0 <= 8.0, "{l0}");
    let score = report["model_performance_preservation"]["ce_loss_score"].as_f64().unwrap();
    assert!(score.is_finite() && score < 1.0, "{score}");
}
