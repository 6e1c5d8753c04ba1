//! The settings that stand beside weights: JSON, and the YAML of wandb and of simple configs, both as
//! JSON values that are asked for by a dotted name.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The settings in a file.
pub struct Notes {
    path: PathBuf,
    value: Value,
}

impl Notes {
    /// Reads a `.json` or `.yaml` file. Errors: it cannot be read; it is not JSON.
    pub fn read(path: &Path) -> Result<Notes> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        let is_yaml = matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml"));
        let value = match is_yaml {
            true => yaml(&text),
            false => serde_json::from_str(&text).map_err(|e| Error::format(path, format!("not JSON: {e}")))?,
        };
        Ok(Notes { path: path.to_path_buf(), value })
    }

    /// The value of a dotted name, unless it is null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let value = name.split('.').try_fold(&self.value, |value, key| value.get(key))?;
        (!value.is_null()).then_some(value)
    }

    /// A text, where there is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// A switch, or what is usual.
    pub fn switch(&self, name: &str, default: bool) -> Result<bool> {
        self.get(name)
            .map_or(Ok(default), |value| value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false")))
    }

    /// A whole number above 0, where there is one.
    pub fn size(&self, name: &str) -> Result<Option<usize>> {
        let size = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
        let found = |value| size(value).ok_or_else(|| self.wrong(name, value, "a whole number above 0"));
        self.get(name).map(found).transpose()
    }

    /// A number, where there is one.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        let found = |value: &Value| value.as_f64().ok_or_else(|| self.wrong(name, value, "a number"));
        self.get(name).map(found).transpose()
    }

    /// Error: `name` is not there.
    pub fn missing(&self, name: &str) -> Error {
        Error::format(&self.path, format!("key {name} is missing; fetch or write it again"))
    }

    /// Error: the value of `name` is of no use.
    pub fn wrong(&self, name: &str, found: &Value, expected: &str) -> Error {
        Error::format(&self.path, format!("{name} is {found}, expected {expected}"))
    }
}

/// The part of YAML that configs of SAEs are written in: keys with plain values, one to a line, nested
/// by indentation. Lists, anchors and whatever else there is are passed over.
fn yaml(text: &str) -> Value {
    let mut root = Value::Object(Map::new());
    // The open maps: how far each is indented, and its dotted name.
    let mut open: Vec<(usize, String)> = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some((key, value)) = line.trim().split_once(':') else { continue };
        if key.starts_with(['#', '-']) {
            continue;
        }
        while open.last().is_some_and(|(outer, _)| *outer >= indent) {
            open.pop();
        }
        let parent = open.last().map_or("", |(_, name)| name);
        let pointer = format!("{parent}/{}", unquoted(key).replace('~', "~0").replace('/', "~1"));
        let value = value.split(" #").next().unwrap_or_default().trim();
        let value = if value.is_empty() { Value::Object(Map::new()) } else { scalar(value) };
        if let Some(Value::Object(map)) = root.pointer_mut(parent) {
            map.insert(unquoted(key).into(), value);
        }
        open.push((indent, pointer));
    }
    root
}

fn scalar(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null | Value::String(_))) => value,
        _ => match text {
            "True" | "yes" => true.into(),
            "False" | "no" => false.into(),
            "~" => Value::Null,
            _ => unquoted(text).into(),
        },
    }
}

fn unquoted(text: &str) -> &str {
    let inside = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_yaml_of_wandb_and_of_plain_configs_is_read() {
        let text =
            "# of a run\nwandb_version: 1\n\nd_model:\n  desc: null\n  value: 2304\nname: 'a: b'\nlist:\n- x: 1\n\
                    sae:\n  inner:\n    rate: 1.5e-3  # small\n  tied: true\nhook: hook_resid_mid\n";
        let expected = json!({
            "wandb_version": 1, "d_model": {"desc": null, "value": 2304}, "name": "a: b", "list": {},
            "sae": {"inner": {"rate": 1.5e-3}, "tied": true}, "hook": "hook_resid_mid"
        });
        assert_eq!(yaml(text), expected);
    }
}
