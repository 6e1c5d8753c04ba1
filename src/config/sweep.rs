//! Several SAEs from one recipe: a list where a key takes one value. All of them are trained from one
//! stream of activations, so only what belongs to a single SAE can have a list, not what makes the stream.

use super::{in_file, table_of, Auto, Recipe, SweepOrder};
use crate::error::{Error, Result};
use std::path::Path;
use toml::{Table, Value};

/// Groups of keys that belong to a single SAE, and a key of another group that does.
const OF_ONE_SAE: &[&str] = &["Sparse autoencoder", "Training"];
const HOOK_NAME: &str = "hook_name";

/// What these groups have that all SAEs share: the stream and its length, the batches that are taken off
/// it first, and what is counted and said of all at once.
const SHARED: &[&str] = &[
    "d_in",
    "normalize_activations",
    "n_batches_for_norm_estimate",
    "b_dec_init_method",
    "training_tokens",
    "train_batch_size_tokens",
    "feature_sampling_window",
    "sweep",
];

/// A recipe some of whose keys have a list of values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sweep {
    /// What all SAEs have in common; a key with a list has no meaning here.
    pub common: Recipe,
    /// In the order of the recipe.
    lists: Vec<List>,
}

#[derive(Clone, Debug, PartialEq)]
struct List {
    key: &'static str,
    values: Vec<Value>,
}

/// One SAE of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its settings where they differ from others', such as `k=16,lr=0.001`: the name of its folder. Empty
    /// where there is only one.
    pub name: String,
    /// The same as keys and values.
    pub settings: Table,
    /// The recipe of its own run, which trains the same SAE bit for bit.
    pub recipe: Recipe,
}

/// The sweep of one SAE.
impl From<Recipe> for Sweep {
    fn from(common: Recipe) -> Self {
        Sweep { common, lists: Vec::new() }
    }
}

impl Sweep {
    /// Reads a recipe with lists. Errors: as [`Recipe::from_toml`]; a list where all SAEs share a value.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self> {
        let mut sweep = Sweep::default();
        for (key, value) in &table_of(path, text)? {
            sweep.set(key, value).map_err(in_file(path))?;
        }
        Ok(sweep)
    }

    /// Reads a recipe file. Errors: it cannot be read; as [`Sweep::from_toml`].
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_toml(path, &std::fs::read_to_string(path).map_err(Error::io(path, "read"))?)
    }

    /// Sets one key to a value or to a list of values. Errors: as [`Sweep::from_toml`].
    pub fn set(&mut self, key: &str, value: &Value) -> Result<()> {
        match (self.common.set(key, value), value) {
            (Err(_), Value::Array(values)) if !values.is_empty() && is_key(key) => {
                self.set_list(key, values, |recipe, value| recipe.set(key, value))
            }
            (outcome, _) => self.no_list(key, outcome),
        }
    }

    /// Sets one key to what a flag's text stands for: a value, or a list of values between commas.
    /// Errors: as [`Sweep::from_toml`].
    pub fn set_text(&mut self, key: &str, text: &str) -> Result<()> {
        // Any text is a hook's name, but none has a comma.
        let may_be_one = key != HOOK_NAME || !text.contains(',');
        let outcome = if may_be_one { self.common.set_text(key, text) } else { Ok(()) };
        if may_be_one && (outcome.is_ok() || !is_key(key)) {
            return self.no_list(key, outcome);
        }
        match text.parse() {
            Ok(Value::Array(values)) if !values.is_empty() => {
                self.set_list(key, &values, |recipe, value| recipe.set(key, value))
            }
            _ if text.contains(',') => {
                let parts: Vec<&str> = text.split(',').map(str::trim).collect();
                self.set_list(key, &parts, |recipe, part| recipe.set_text(key, part))
            }
            _ => outcome,
        }
    }

    /// The key has one value now, or none that is possible.
    fn no_list(&mut self, key: &str, outcome: Result<()>) -> Result<()> {
        self.lists.retain(|list| list.key != key);
        outcome
    }

    fn set_list<T>(&mut self, key: &str, values: &[T], set: impl Fn(&mut Recipe, &T) -> Result<()>) -> Result<()> {
        let mut probe = Recipe::default();
        let mut list = List { key: can_differ(key)?, values: Vec::with_capacity(values.len()) };
        for value in values {
            set(&mut probe, value)?;
            let value = probe.to_table()[key].clone();
            if list.values.contains(&value) {
                return Err(Error::config(key, format!("{value} is in the list twice")));
            }
            list.values.push(value);
        }
        self.lists.retain(|list| list.key != key);
        self.lists.push(list);
        let order = |list: &List| Recipe::keys().iter().position(|key| key.name == list.key);
        self.lists.sort_by_key(order);
        Ok(())
    }

    /// Every SAE: the first list changes slowest; with `sweep = "zip"` the n-th values of all lists together.
    /// Errors: lists of different lengths there; two SAEs whose folders would have the same name; a recipe
    /// that cannot work.
    pub fn members(&self) -> Result<Vec<Member>> {
        let rows = match self.common.sweep {
            SweepOrder::Product => self.product(),
            SweepOrder::Zip => self.zip()?,
        };
        let mut members = rows.into_iter().map(|row| self.member(&row)).collect::<Result<Vec<_>>>()?;
        // One order of the data for all: the first's, if they have different seeds.
        let data_seed = members[0].recipe.data_seed();
        for n in 0..members.len() {
            members[n].recipe.data_seed = Auto::Value(data_seed);
            members[n].recipe.validate()?;
            if let Some(twin) = members[..n].iter().find(|other| other.name == members[n].name) {
                let what = format!("two SAEs would have the folder {}; give values that read differently", twin.name);
                return Err(Error::config("sweep", what));
            }
        }
        Ok(members)
    }

    fn product(&self) -> Vec<Vec<&Value>> {
        let start = vec![Vec::new()];
        self.lists.iter().fold(start, |rows, list| {
            let with = |row: &Vec<_>, value| row.iter().copied().chain([value]).collect();
            rows.iter().flat_map(|row| list.values.iter().map(move |value| with(row, value))).collect()
        })
    }

    fn zip(&self) -> Result<Vec<Vec<&Value>>> {
        let Some((first, others)) = self.lists.split_first() else { return Ok(vec![Vec::new()]) };
        if let Some(other) = others.iter().find(|list| list.values.len() != first.values.len()) {
            let [a, b] = [first, other].map(|list| format!("{} has {}", list.key, list.values.len()));
            return Err(Error::config("sweep", format!("zip takes lists of one length, but {a} values and {b}")));
        }
        Ok((0..first.values.len()).map(|n| self.lists.iter().map(|list| &list.values[n]).collect()).collect())
    }

    fn member(&self, values: &[&Value]) -> Result<Member> {
        let mut member = Member { name: String::new(), settings: Table::new(), recipe: self.common.clone() };
        for (list, &value) in self.lists.iter().zip(values) {
            member.recipe.set(list.key, value)?;
            let separator = if member.name.is_empty() { "" } else { "," };
            member.name += &format!("{separator}{}={}", list.key, in_a_name(value));
            member.settings.insert(list.key.into(), value.clone());
        }
        Ok(member)
    }

    /// Whether there are lists.
    pub fn is_several(&self) -> bool {
        !self.lists.is_empty()
    }

    /// The recipe as TOML, complete, in groups, with its lists.
    pub fn to_toml(&self) -> String {
        let mut table = self.common.to_table();
        table.extend(self.lists.iter().map(|list| (list.key.into(), Value::from(list.values.clone()))));
        super::written(&table)
    }
}

fn is_key(key: &str) -> bool {
    Recipe::keys().iter().any(|known| known.name == key)
}

/// The key, if it can have a list. Error: all SAEs share it.
fn can_differ(key: &str) -> Result<&'static str> {
    let known = Recipe::keys().into_iter().find(|known| known.name == key);
    let known = known.filter(|known| OF_ONE_SAE.contains(&known.group) || known.name == HOOK_NAME);
    known.filter(|known| !SHARED.contains(&known.name)).map(|known| known.name).ok_or_else(|| {
        let what =
            "found a list, expected one value: all SAEs that are trained from one stream of activations share it";
        Error::config(key, what)
    })
}

/// A value as it can stand in the name of a folder.
fn in_a_name(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        // 16, not 16.0.
        Value::Float(number) => number.to_string(),
        other => other.to_string(),
    };
    let kept = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    let parts: Vec<&str> = text.split(|c| !kept(c)).filter(|part| !part.is_empty()).collect();
    parts.join("-")
}
