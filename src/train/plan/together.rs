//! The plan of several SAEs that are trained at once, from the plans of their own runs.

use super::{sum, Of, Part, Plan, Time};
use std::collections::BTreeSet;

/// Formulas that are written out in one line.
const MOST_TERMS: usize = 3;

/// What all need at the same time. There is at least one plan.
pub(super) fn plan(plans: Vec<Plan>) -> Plan {
    let parts = |of: fn(&Plan) -> &[Part]| {
        let mut whats: Vec<&str> = Vec::new();
        // Not all SAEs have the same parts.
        for part in plans.iter().flat_map(of) {
            if !whats.contains(&part.what) {
                whats.push(part.what);
            }
        }
        whats.into_iter().filter_map(|what| together(&plans, of, what)).collect::<Vec<_>>()
    };
    let (memory, disk) = (parts(|plan| &plan.memory), parts(|plan| &plan.disk));
    let time = plans.iter().map(|plan| plan.time).collect::<Option<Vec<Time>>>();
    Plan {
        memory_bytes: sum(&memory),
        memory,
        disk_bytes: sum(&disk),
        disk,
        free_disk: None,
        time: time.and_then(|times| times.into_iter().reduce(Time::and)),
        steps: plans[0].steps,
        training_tokens: plans[0].training_tokens,
        machine_memory: plans[0].machine_memory,
        saes: plans.into_iter().flat_map(|plan| plan.saes).collect(),
    }
}

/// One part of all plans.
fn together(plans: &[Plan], parts: fn(&Plan) -> &[Part], what: &str) -> Option<Part> {
    let mut hooks = BTreeSet::new();
    let named = plans.iter().filter_map(|plan| {
        let part = parts(plan).iter().find(|part| part.what == what)?;
        Some((&plan.saes[0].hook_name, part))
    });
    let all: Vec<&Part> =
        named.filter(|(hook, part)| part.of != Of::Hook || hooks.insert(*hook)).map(|(_, part)| part).collect();
    let largest = *all.iter().max_by_key(|part| part.bytes)?;
    if largest.of == Of::Run || all.len() == 1 {
        return Some(largest.clone());
    }
    let bytes = all.iter().map(|part| part.bytes).sum();
    Some(Part { bytes, formula: formula(&all, largest), ..largest.clone() })
}

/// The sum of all formulas, equal ones once, or the largest's where there are too many.
fn formula(all: &[&Part], largest: &Part) -> String {
    let mut formulas: Vec<(&str, usize)> = Vec::new();
    for part in all {
        match formulas.iter_mut().find(|(formula, _)| *formula == part.formula) {
            Some((_, times)) => *times += 1,
            None => formulas.push((&part.formula, 1)),
        }
    }
    if formulas.len() > MOST_TERMS {
        return format!("of {} SAEs, the largest one's is {}", all.len(), largest.formula);
    }
    let term = |(formula, times): &(&str, usize)| match times {
        1 => (*formula).to_owned(),
        _ => format!("{times} * ({formula})"),
    };
    formulas.iter().map(term).collect::<Vec<_>>().join(" + ")
}
