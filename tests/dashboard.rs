//! `cusae dashboard`: the folder it writes, against the features of the same tokens and the definitions.
//! The page itself is tested in a browser by `scripts/check_dashboard.py`.

use cusae::analysis::{weight_statistics, FeatureIndex};
use cusae::backend::Cpu;
use cusae::formats::saelens;
use cusae::lm::{LanguageModel, Processing};
use cusae::sae::inference::Sae;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn cusae(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_cusae")).args(arguments).args(["--json", "--device", "cpu"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// What a data file hands to the page.
fn data(folder: &Path, name: &str) -> Value {
    let text = std::fs::read_to_string(folder.join("data").join(format!("{name}.js"))).unwrap();
    let inside = text.strip_prefix(&format!("cusae.receive(\"{name}\", ")).unwrap().strip_suffix(");\n").unwrap();
    serde_json::from_str(inside).unwrap()
}

fn trained(folder: &Path) -> PathBuf {
    let run = folder.join("run");
    let flags = "train --architecture topk --k 8 --d-sae 256 --training-tokens 20000 --log-every 2 --quiet --out";
    cusae(&[&flags.split(' ').collect::<Vec<_>>()[..], &[run.to_str().unwrap()]].concat());
    run
}

#[test]
fn a_dashboard_holds_what_every_feature_does_over_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let (sae, out) = (run.to_str().unwrap(), folder.path().join("page"));
    let summary = cusae(&["dashboard", "--sae", sae, "--max-tokens", "1280", "--out", out.to_str().unwrap()]);
    let (overview, list, text) = (data(&out, "overview"), data(&out, "list"), data(&out, "text"));
    assert_eq!((&summary["tokens"], &overview["tokens"]), (&1280.into(), &1280.into()));
    assert_eq!(overview["d_sae"], 256);

    // The same tokens through `cusae features`: the text's first row, as the page has it.
    let vocabulary: Vec<String> = serde_json::from_value(data(&out, "vocabulary")).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(text[0]["tokens"].clone()).unwrap();
    let prompt: String = tokens[1..].iter().map(|&id| vocabulary[id as usize].as_str()).collect();
    let features = cusae(&["features", "--sae", sae, "--top", "10", "--prompt", &prompt]);
    let of_prompt = features["prompts"][0]["tokens"].as_array().unwrap();
    assert_eq!(of_prompt.len(), tokens.len());
    assert_eq!(text[0]["features"][0].as_array().unwrap().len(), 0, "special tokens have no features");
    for (position, expected) in of_prompt.iter().enumerate().skip(1) {
        let found = text[0]["features"][position].as_array().unwrap();
        let expected = expected["features"].as_array().unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found[0], expected["feature"]);
            assert!((found[1].as_f64().unwrap() - expected["activation"].as_f64().unwrap()).abs() < 1e-4);
        }
    }

    // Counts over the whole text, from the rows that the page shows: they are all there are.
    let mut places: HashMap<u64, Vec<(usize, usize, f64)>> = HashMap::new();
    for (row, of_row) in text.as_array().unwrap().iter().enumerate() {
        for (position, entries) in of_row["features"].as_array().unwrap().iter().enumerate() {
            for entry in entries.as_array().unwrap() {
                let place = (row, position, entry[1].as_f64().unwrap());
                places.entry(entry[0].as_u64().unwrap()).or_default().push(place);
            }
        }
    }
    let index = FeatureIndex::open(&out.join("features.safetensors")).unwrap();
    for feature in 0..256u64 {
        let page = &data(&out, &format!("features/{}", feature / 64))[feature as usize % 64];
        let of_feature = places.get(&feature).cloned().unwrap_or_default();
        assert_eq!(page["count"], of_feature.len());
        let max = of_feature.iter().map(|place| place.2).fold(0.0, f64::max);
        assert!((page["max"].as_f64().unwrap() - max).abs() < 1e-6);
        assert!((list["max"][feature as usize].as_f64().unwrap() - max).abs() <= 1e-4 * max);
        let above = index.above(feature as usize, 0.5 * max as f32).unwrap();
        assert_eq!(above.len(), of_feature.iter().filter(|place| place.2 > f64::from(0.5 * max as f32)).count());
        for context in page["top"].as_array().unwrap() {
            let (row, position) = (context["row"].as_u64().unwrap() as usize, context["position"].as_u64().unwrap());
            let center = context["center"].as_u64().unwrap() as usize;
            assert_eq!(context["tokens"][center], text[row]["tokens"][position as usize]);
            assert_eq!(context["activations"][center], context["activation"]);
        }
        let counted: u64 = page["histogram"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(counted as usize, of_feature.len());
    }
    let curves: Vec<&str> =
        overview["curves"].as_array().unwrap().iter().map(|curve| curve["name"].as_str().unwrap()).collect();
    assert!(curves.contains(&"metrics/explained_variance"), "{curves:?}");
    assert!(out.join("index.html").is_file() && out.join("page.js").is_file() && out.join("style.css").is_file());
}

#[test]
fn the_weights_of_a_feature_say_what_the_definition_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let model = LanguageModel::load(&Cpu, &root.join("gpt2-rand-tiny"), Processing::TransformerLens).unwrap();
    let saved = saelens::load_folder(&root.join("evals/trained-topk-resid/sae")).unwrap();
    let sae = Sae::new(&Cpu, &saved.config, &saved.weights).unwrap();
    let found = weight_statistics(&model, &sae, 3, 4).unwrap();
    let (w_enc, w_dec) = (&saved.weights.get("W_enc").values, &saved.weights.get("W_dec").values);
    let row = |feature: usize| &w_dec[feature * 128..(feature + 1) * 128];
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = |a: &[f32], b: &[f32]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    for feature in [0, 17, 511] {
        let column: Vec<f32> = (0..128).map(|i| w_enc[i * 512 + feature]).collect();
        let close = |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-5, "{a} {b}");
        close(found.encoder_decoder_cosine[feature], cosine(&column, row(feature)));
        close(found.decoder_norm[feature], dot(row(feature), row(feature)).sqrt());
        let mut others: Vec<(f64, usize)> =
            (0..512).filter(|&other| other != feature).map(|other| (cosine(row(feature), row(other)), other)).collect();
        others.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (&(other, value), expected) in found.decoder_neighbours[feature].iter().zip(&others) {
            assert_eq!(other as usize, expected.1);
            close(value, expected.0);
        }
        // Raising the final LayerNorm's normalised output by the centred row raises the logits by just that.
        let lens = model.logit_lens(row(feature)).unwrap();
        let (token, logit) = found.top_tokens[feature][0];
        // One row or many in a product: the last bits differ.
        close(logit, f64::from(lens[token as usize]));
        let least = found.bottom_tokens[feature][0].1;
        assert!(lens.iter().all(|&x| x <= logit + 1e-5 && x >= least - 1e-5));
        let direction = model.logit_direction(&[(token, 1.0)]).unwrap();
        let mean = row(feature).iter().map(|&x| f64::from(x)).sum::<f64>() / 128.0;
        let centred: Vec<f32> = row(feature).iter().map(|&x| (f64::from(x) - mean) as f32).collect();
        close(logit, dot(&centred, &direction));
    }
}
