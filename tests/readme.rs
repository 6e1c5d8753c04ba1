//! The README's list of recipe keys is the one in the program.

use cusae::config::Recipe;
use toml::Value;

const BEGIN: &str = "<!-- recipe: begin -->\n";
const END: &str = "<!-- recipe: end -->";

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

/// With `UPDATE_README=1` in the environment the list is rewritten instead.
#[test]
fn the_recipe_in_the_readme_is_that_of_the_program() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let begin = readme.find(BEGIN).expect("the README marks where the recipe begins") + BEGIN.len();
    let end = readme.find(END).expect("the README marks where the recipe ends");
    let right = [&readme[..begin], &recipe_tables(), &readme[end..]].concat();
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(path, right).unwrap();
    } else {
        assert!(readme == right, "the README's recipe is not the program's: UPDATE_README=1 cargo test --test readme");
    }
}
