//! The README's lists of recipe keys and of SAE layouts are those of the program.

use cusae::config::Recipe;
use cusae::formats::FORMATS;
use toml::Value;

/// One table for each group of keys.
fn recipe_tables() -> String {
    let mut text = String::new();
    let mut group = "";
    for key in Recipe::keys() {
        if key.group != group {
            group = key.group;
            text += &format!("\n### {group}\n\n| key | default | possible | |\n|---|---|---|---|\n");
        }
        let default = match key.default {
            Value::String(text) => text,
            other => other.to_string(),
        };
        text += &format!("| `{}` | `{default}` | {} | {} |\n", key.name, key.expected.replace(" | ", ", "), key.doc);
    }
    text + "\n"
}

/// A row for each layout, with the architectures of the files that tests/formats.rs compares.
fn format_table() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/formats/cases.json");
    let cases: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut text = "\n| layout | files | compared in the tests |\n|---|---|---|\n".to_string();
    for format in FORMATS {
        let cases = cases.iter().filter(|case| case["format"] == format.name);
        let mut compared: Vec<_> = cases.map(|case| case["architecture"].as_str().unwrap()).collect();
        compared.sort();
        compared.dedup();
        let compared = match format.name {
            "sae_lens" => "standard, gated, jumprelu, topk, abstopk, matching_pursuit, temporal and the transcoders: \
                 tests/sae_inference.rs"
                .into(),
            _ => compared.join(", "),
        };
        text += &format!("| `{}` | {} | {compared} |\n", format.name, format.files);
    }
    text + "\n"
}

/// With `UPDATE_README=1` in the environment the lists are rewritten instead.
#[test]
fn the_lists_in_the_readme_are_those_of_the_program() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let mut right = readme.clone();
    for (name, list) in [("recipe", recipe_tables()), ("formats", format_table())] {
        let begin = format!("<!-- {name}: begin -->\n");
        let begin = right.find(&begin).expect("the README marks where the list begins") + begin.len();
        let end = right.find(&format!("<!-- {name}: end -->")).expect("the README marks where the list ends");
        right.replace_range(begin..end, &list);
    }
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(path, right).unwrap();
    } else {
        assert!(readme == right, "the README's lists are not the program's: UPDATE_README=1 cargo test --test readme");
    }
}
