//! What others read: the file of everything known of the features and its places, Neuronpedia's files, and
//! SAEBench's core metrics. The packages themselves read them in `scripts/parity_analysis.py`.

use cusae::analysis::FeatureIndex;
use cusae::formats::tensors::TensorFile;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

fn output(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cusae")).args(arguments).args(["--device", "cpu"]).output().unwrap()
}

fn cusae(arguments: &[&str]) -> String {
    let output = output(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A small SAE `sae`, its page `page` and Neuronpedia's files `np`, made once for all tests of this file.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let [sae, page, np] = ["sae", "page", "np"].map(|name| folder.join(name).to_str().unwrap().to_string());
        let train = "train --architecture topk --k 8 --d-sae 256 --training-tokens 20000 --quiet --out";
        cusae(&[&train.split(' ').collect::<Vec<_>>()[..], &[&sae]].concat());
        cusae(&["dashboard", "--max-tokens", "1280", "--quiet", "--sae", &sae, "--out", &page, "--neuronpedia", &np]);
        folder
    })
}

/// What a data file hands to the page.
fn page(name: &str) -> Value {
    let text = std::fs::read_to_string(folder().join("page/data").join(format!("{name}.js"))).unwrap();
    let inside = text.strip_prefix(&format!("cusae.receive(\"{name}\", ")).unwrap().strip_suffix(");\n").unwrap();
    serde_json::from_str(inside).unwrap()
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join(path)).unwrap()).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn one_file_holds_what_the_page_shows_of_every_feature() {
    let file = TensorFile::open(folder().join("page/features.safetensors")).unwrap();
    let quantiles = file.f32("quantiles").unwrap();
    let (count, max) = (file.u32("count").unwrap(), file.f32("max").unwrap());
    let (places, values) = (file.u32("top_places").unwrap(), file.f32("top_values").unwrap());
    let (together, correlated) = (file.u32("together").unwrap(), file.f32("correlated_pearson").unwrap());
    let lens = file.f32("top_token_logits").unwrap();
    let width = |name: &str| file.shape(name).unwrap()[1];
    assert_eq!(file.shape("histogram").unwrap(), [256, 50]);
    for feature in 0..256 {
        let shown = &page(&format!("features/{}", feature / 64))[feature % 64];
        assert_eq!(shown["count"], count[feature]);
        assert_eq!(shown["max"].as_f64().unwrap() as f32, max[feature]);
        let close = |name: &str, found: &[f32], expected: Vec<f64>| {
            let of_feature = &found[feature * found.len() / 256..][..expected.len()];
            let pairs = of_feature.iter().zip(expected);
            pairs.for_each(|(&a, b)| assert!((f64::from(a) - b).abs() < 1e-6, "{name} of {feature}: {a} {b}"));
        };
        close("quantiles", &quantiles, numbers(&shown["quantiles"]));
        let pairs = |name: &str| shown[name].as_array().unwrap().iter().map(|it| it[1].as_f64().unwrap()).collect();
        close("top_token_logits", &lens, pairs("top_tokens"));
        close("correlated_pearson", &correlated, pairs("correlated"));
        let n = width("together");
        for (slot, found) in together[feature * n..(feature + 1) * n].iter().enumerate() {
            match shown["together"].get(slot) {
                Some(expected) => assert_eq!(expected[0], *found),
                None => assert_eq!(*found, u32::MAX),
            }
        }
        let n = width("top_places");
        for (slot, context) in shown["top"].as_array().unwrap().iter().enumerate() {
            let place = context["row"].as_u64().unwrap() * 128 + context["position"].as_u64().unwrap();
            assert_eq!(place, u64::from(places[feature * n + slot]));
            assert_eq!(context["activation"].as_f64().unwrap() as f32, values[feature * n + slot]);
        }
    }
    let notes = file.text_metadata().unwrap();
    let vocabulary: Vec<String> = serde_json::from_str(&notes["vocabulary"]).unwrap();
    assert_eq!(vocabulary.len(), 4096);
}

#[test]
fn find_shows_the_places_above_a_value_without_the_model() {
    let page = folder().join("page");
    let path = page.join("features.safetensors");
    let index = FeatureIndex::open(&path).unwrap();
    let feature = (0..256).max_by_key(|&feature| index.above(feature, 0.0).unwrap().len()).unwrap();
    let places = index.above(feature, 0.0).unwrap();
    let largest = places.iter().map(|place| place.activation).fold(0.0, f32::max);
    let above = format!("{}", 0.6 * largest);
    let number = feature.to_string();
    let found: Value = serde_json::from_str(&cusae(&[
        "find",
        page.to_str().unwrap(),
        "--feature",
        &number,
        "--above",
        &above,
        "--json",
    ]))
    .unwrap();
    let expected = places.iter().filter(|place| place.activation > 0.6 * largest).count();
    assert_eq!(found["found"], expected);
    let shown = found["places"].as_array().unwrap();
    assert_eq!((shown.len(), shown[0]["activation"].as_f64().unwrap() as f32), (expected.min(20), largest));
    let table = cusae(&["find", path.to_str().unwrap(), "--feature", &number, "--top", "2"]);
    assert!(table.starts_with(&format!("feature {feature} is above 0 in {} places\n", places.len())), "{table}");
    let token = shown[0]["token"].as_str().unwrap().replace('\n', "⏎");
    assert!(table.lines().count() == 4 && table.contains(&format!("[{token}]")), "{table}");

    let refusal = |arguments: &[&str]| String::from_utf8(output(arguments).stderr).unwrap();
    let found = refusal(&["find", page.to_str().unwrap(), "--feature", "256"]);
    assert_eq!(found, "error: feature: 256, this index has features 0 to 255\n");
    let found = refusal(&["find", "nowhere", "--feature", "1"]);
    assert!(found.starts_with("error: nowhere: cannot open"), "{found}");
}

#[test]
fn neuronpedias_files_have_its_keys_and_the_pages_values() {
    let vocabulary: Vec<String> = serde_json::from_value(page("vocabulary")).unwrap();
    for number in 0..4 {
        let batch = json(&format!("np/batch-{number}.json"));
        assert_eq!(keys(&batch), ["features", "layer", "model_id", "sae_id_suffix", "sae_set"]);
        assert_eq!(
            (&batch["model_id"], &batch["layer"], &batch["sae_set"]),
            (&"embedded".into(), &2.into(), &"sae".into())
        );
        let features = batch["features"].as_array().unwrap();
        assert_eq!(features.len(), 64);
        for (slot, feature) in features.iter().enumerate() {
            let shown = &page(&format!("features/{number}"))[slot];
            assert_eq!(feature["feature_index"], number * 64 + slot);
            assert_eq!(feature["frac_nonzero"], shown["density"]);
            assert_eq!((&feature["n_prompts_total"], &feature["n_tokens_in_prompt"]), (&10.into(), &128.into()));
            let close = |found: &Value, expected: Vec<f64>| {
                let found = numbers(found);
                assert_eq!(found.len(), expected.len());
                assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 6e-4), "{found:?} {expected:?}");
            };
            let values = |name: &str| -> Vec<f64> {
                shown[name].as_array().unwrap().iter().map(|it| it[1].as_f64().unwrap()).collect()
            };
            // As after SAELens' fold_W_dec_norm: decoder rows have norm 1.
            let norm = shown["decoder_norm"].as_f64().unwrap();
            let [times, by] = [norm, 1.0 / norm];
            let scaled = |values: Vec<f64>, by: f64| values.into_iter().map(|x| x * by).collect::<Vec<_>>();
            close(&feature["pos_values"], scaled(values("top_tokens"), by));
            close(&feature["neg_values"], scaled(values("bottom_tokens"), by));
            let neurons = ["indices", "l1", "pearson"].map(|it| &feature[format!("correlated_neurons_{it}")]);
            let expected = if shown["count"] == 0 { 0 } else { 3 };
            assert!(neurons.iter().all(|it| it.as_array().unwrap().len() == expected), "{neurons:?}");
            assert!(numbers(neurons[0]).iter().all(|&it| it < 128.0));
            assert!(numbers(neurons[2]).is_sorted_by(|a, b| a >= b && *a <= 1.0));
            close(&feature["correlated_features_pearson"], values("correlated").into_iter().take(3).collect());
            let words = |name: &str| -> Vec<&str> {
                let tokens = shown[name].as_array().unwrap().iter();
                tokens.map(|it| vocabulary[it[0].as_u64().unwrap() as usize].as_str()).collect()
            };
            assert_eq!(feature["pos_str"], serde_json::json!(words("top_tokens")));
            let lens: f64 = numbers(&feature["logits_hist_data_bar_heights"]).iter().sum();
            assert_eq!(lens, 4096.0, "every token is in the histogram");
            let fired: f64 = numbers(&feature["freq_hist_data_bar_heights"]).iter().sum();
            assert_eq!(fired, shown["count"].as_f64().unwrap());
            let contexts = feature["activations"].as_array().unwrap();
            let examples = shown["examples"].as_array().unwrap().iter().flat_map(|it| it.as_array().unwrap());
            let all: Vec<&Value> = shown["top"].as_array().unwrap().iter().chain(examples).collect();
            assert_eq!(contexts.len(), all.len());
            for (found, expected) in contexts.iter().zip(all) {
                close(&found["values"], scaled(numbers(&expected["activations"]), times));
                assert_eq!(found["qualifying_token_index"], expected["center"]);
                assert_eq!(found["tokens"].as_array().unwrap().len(), expected["tokens"].as_array().unwrap().len());
            }
        }
    }
}

#[test]
fn saebenchs_file_has_its_keys_and_the_evaluations_values() {
    let [sae, core, report] =
        ["sae", "core.json", "report.json"].map(|name| folder().join(name).to_str().unwrap().to_string());
    let sizes = ["--batch-size-prompts", "4", "--n-eval-reconstruction-batches", "2", "--quiet"];
    cusae(&[&["eval", "--sae", &sae, "--sae-bench", &core, "--out", &report], &sizes[..]].concat());
    let (core, report) = (json("core.json"), json("report.json"));
    let expected = [
        "datetime_epoch_millis",
        "eval_config",
        "eval_id",
        "eval_result_details",
        "eval_result_metrics",
        "eval_result_unstructured",
        "eval_type_id",
        "sae_bench_commit_hash",
        "sae_cfg_dict",
        "sae_lens_id",
        "sae_lens_release_id",
        "sae_lens_version",
    ];
    assert_eq!(keys(&core), expected);
    let metrics = &core["eval_result_metrics"];
    for (group, values) in report.as_object().unwrap().iter().filter(|(group, _)| *group != "feature_metrics") {
        for (key, value) in values.as_object().unwrap().iter().filter(|(key, _)| *key != "dead_features") {
            assert_eq!(&metrics[group][key], value, "{group}/{key}");
        }
    }
    let features = &report["feature_metrics"];
    let densities = numbers(&features["feature_density"]);
    let share = |above: f64| densities.iter().filter(|&&x| x > above).count() as f64 / 256.0;
    let misc = &metrics["misc_metrics"];
    assert_eq!((&misc["frac_alive"], &misc["freq_over_1_percent"]), (&share(0.0).into(), &share(0.01).into()));
    let weights = TensorFile::open(folder().join("sae/sae_weights.safetensors")).unwrap();
    let decoder = weights.f32("W_dec").unwrap();
    let d_in = decoder.len() / 256;
    let row = |feature: usize| &decoder[feature * d_in..(feature + 1) * d_in];
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = |a: usize, b: usize| dot(row(a), row(b)) / (dot(row(a), row(a)) * dot(row(b), row(b))).sqrt();
    let details = core["eval_result_details"].as_array().unwrap();
    assert_eq!(details.len(), 256);
    for (feature, detail) in details.iter().enumerate() {
        assert_eq!((&detail["index"], &detail["feature_density"]), (&feature.into(), &densities[feature].into()));
        let largest = (0..256).filter(|&other| other != feature).map(|other| cosine(feature, other));
        let largest = largest.fold(f64::NEG_INFINITY, f64::max);
        assert!((detail["max_decoder_cosine_sim"].as_f64().unwrap() - largest).abs() < 1e-5, "{feature}");
        assert!(detail["consistent_activation_heuristic"].is_f64(), "no null, which SAEBench does not read");
    }
}
