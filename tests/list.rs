//! `cusae list`: searching the registry from the command line.

use serde_json::Value;
use std::process::{Command, Output};

fn list(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cusae")).arg("list").args(args).output().unwrap()
}

fn lines(args: &[&str]) -> Vec<String> {
    let output = list(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_string).collect()
}

fn json(args: &[&str]) -> Value {
    let output = list(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn without_a_question_it_lists_releases() {
    let shown = lines(&[]);
    assert!(shown[0].starts_with("release "), "{}", shown[0]);
    assert_eq!(shown.len(), 1 + 40 + 1);
    assert_eq!(shown[41], "170 releases, 130 more than shown; --limit 0 shows all");
    assert_eq!(lines(&["--limit", "0"]).len(), 1 + 170 + 1);
}

#[test]
fn a_release_lists_its_saes_with_what_is_known_of_them() {
    let shown = lines(&["gpt2-small-res-jb"]);
    assert_eq!(shown.len(), 1 + 13 + 1);
    let words: Vec<&str> = shown[9].split_whitespace().collect();
    let name = "gpt2-small-res-jb:blocks.8.hook_resid_pre";
    assert_eq!(words[..3], [name, "blocks.8.hook_resid_pre", "24576"]);
    assert_eq!(words[5], "gpt2-small/8-res-jb");
}

#[test]
fn an_alias_lists_the_same_and_says_what_it_stands_for() {
    let output = list(&["gemma-2b-res", "--json"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message, "gemma-2b-res is gemma-2b-res-jb in SAELens' registry; that is what is taken\n");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["found"], 5);
    assert_eq!(found["saes"][0]["release"], "gemma-2b-res-jb");
    let twelfth = &found["saes"][3];
    assert_eq!(twelfth["sae_id"], "blocks.12.hook_resid_post");
    // As text: reading JSON rounds the last digit.
    assert!(String::from_utf8(output.stdout).unwrap().contains("0.21381938399317255"));
    assert!(list(&["gemma-2b-res", "--quiet"]).stderr.is_empty());
}

#[test]
fn model_hook_width_and_l0_narrow_the_search() {
    let found = json(&["--model", "gpt2-small", "--hook", "8.hook_resid_pre", "--width", "24k"]);
    assert_eq!(found["saes"].as_array().unwrap().len(), 2);
    let found = json(&["gemma-scope-2b-pt-res", "--hook", "blocks.20", "--width", "65k", "--l0", "..100"]);
    let saes = found["saes"].as_array().unwrap();
    assert!(!saes.is_empty());
    for sae in saes {
        assert_eq!((&sae["hook_name"], &sae["d_sae"]), (&"blocks.20.hook_resid_post".into(), &65_536.into()));
        assert!(sae["l0"].as_f64().unwrap() <= 100.0);
    }
    assert_eq!(json(&["--model", "gpt7"])["found"], 0);
}

#[test]
fn a_range_that_is_none_is_wrong_usage() {
    for (args, message) in [
        (["--width", "wide"], "wide is neither a width such as 24576 or 16k nor a range such as 16k..65k"),
        (["--l0", "60..20"], "60..20 is neither a number nor a range such as 20..60"),
    ] {
        let output = list(&args);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(message), "{text}");
    }
}
