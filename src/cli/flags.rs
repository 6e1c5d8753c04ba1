//! Every key of the recipe as a flag: `--lr-warm-up-steps 100`, underscores accepted.

use clap::{Arg, ArgMatches, Command};
use cusae::config::{foreign_keys, Recipe, Sweep};
use cusae::error::Result;
use toml::Value;

/// The recipe keys given as flags, with their text, in the order of the recipe.
#[derive(Clone, Debug, Default)]
pub struct RecipeFlags(Vec<(&'static str, String)>);

/// Settable by a flag of another name that all commands share.
const COMMON: &[&str] = &["seed"];

impl RecipeFlags {
    /// Sets what the flags say. Errors: a value of the wrong type; SAELens' fields that are not here.
    pub fn apply(&self, sweep: &mut Sweep) -> Result<()> {
        self.0.iter().try_for_each(|(key, text)| sweep.set_text(key, text))
    }

    /// The keys given.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().map(|&(key, _)| key)
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    let keys = Recipe::keys().into_iter().map(|key| key.name);
    keys.filter(|name| !COMMON.contains(name)).chain(foreign_keys().filter(|name| !TAKEN.contains(name)))
}

/// SAELens' fields whose flags mean something here.
const TAKEN: &[&str] = &["device", "out", "resume"];

fn flag(name: &'static str) -> Arg {
    let arg = Arg::new(name).long(name.replace('_', "-")).allow_negative_numbers(true).value_name("VALUE");
    if name.contains('_') {
        return arg.alias(name);
    }
    arg
}

impl clap::Args for RecipeFlags {
    fn augment_args(mut command: Command) -> Command {
        for key in Recipe::keys().into_iter().filter(|key| !COMMON.contains(&key.name)) {
            let default = match key.default {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let help = format!("{} [{}; default: {default}]", key.doc.trim_end_matches('.'), key.expected);
            command = command.arg(flag(key.name).help(help).help_heading(key.group));
        }
        for name in foreign_keys().filter(|name| !TAKEN.contains(name)) {
            command = command.arg(flag(name).hide(true).num_args(0..=1).default_missing_value("true"));
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for RecipeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |name| matches.get_one::<String>(name).map(|text| (name, text.clone()));
        Ok(RecipeFlags(names().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}
