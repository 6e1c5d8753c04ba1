//! The table of speeds: every operation is in it, every row runs, and its work is what the operation
//! does.

use cusae::backend::{Backend, Cpu, Native};
use cusae::bench::{table, Bench, Ceilings, LmSizes, Report, SaeSizes, Sampling, Sizes, Work};
use cusae::error::Result;
use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

/// B 6, D 16, F 64, k 4; two sequences of 3 through two blocks.
const TINY: Sizes = Sizes {
    name: "tiny",
    sae: SaeSizes { rows: 6, d_in: 16, d_sae: 64, k: 4 },
    lm: Some(LmSizes { rows: 6, contexts: &[3], layers: 2, d_model: 8, n_heads: 2, d_vocab: 20 }),
};

const ONCE: Sampling = Sampling { budget: Duration::ZERO, least: 1, most: 1, large: 1 << 10 };

/// What `cuda/api.h` lists, and so the trait, the kernels and their cases.
fn operations() -> BTreeSet<&'static str> {
    let api = include_str!("../cuda/api.h");
    let list = api.split("#define CUSAE_OPERATIONS(X)").nth(1).unwrap().split("\n\n").next().unwrap();
    list.split("X(").skip(1).map(|name| name.split(')').next().unwrap()).collect()
}

#[test]
fn every_operation_has_a_row() {
    let timed: BTreeSet<_> = table::<Cpu>(&TINY).iter().map(|row| row.operation).collect();
    assert!(operations().len() > 30, "the list was not found");
    assert_eq!(operations().difference(&timed).collect::<Vec<_>>(), Vec::<&&str>::new());
    let whole: BTreeSet<String> = timed.difference(&operations()).map(|&name| name.into()).collect();
    let in_bf16 = [
        "adam_sparse",
        "decode_dense",
        "decode_sparse",
        "encode_topk",
        "gradient_dense",
        "gradient_sparse",
        "gradient_squares",
        "linear",
    ];
    let names: BTreeSet<_> = in_bf16.map(|name| format!("{name}_bf16")).into_iter().collect();
    let others = ["forward", "step standard", "step standard dense", "step topk"].map(String::from);
    assert_eq!(whole, names.into_iter().chain(others).collect::<BTreeSet<_>>());
}

fn every_row_runs_on<B: Backend>(backend: &B) {
    let mut bench = Bench::new(backend, ONCE).unwrap();
    let ceilings = Ceilings::measure(&mut bench, &TINY).unwrap();
    assert!(ceilings.copy > 0.0 && ceilings.product > 0.0 && ceilings.bf16_product > 0.0, "{ceilings:?}");
    for row in table(&TINY) {
        let outcome = bench.measure(&row, &ceilings).unwrap();
        let measured = outcome.measured.unwrap_or_else(|| panic!("{}: {:?}", row.operation, outcome.skipped));
        assert!(measured.seconds >= 0.0 && measured.samples == 1, "{}: {measured:?}", row.operation);
        assert!(row.memory(backend).unwrap() > 0, "{}", row.operation);
    }
}

#[test]
fn every_row_runs_on_the_cpu() {
    every_row_runs_on(&Cpu);
}

#[test]
fn every_row_runs_in_the_emulator() {
    // SAFETY: the emulator's table is complete and constant.
    every_row_runs_on(&unsafe { Native::from_table(cusae_emu::table(), 0) }.unwrap());
}

/// The work of the one row with this name, or with this name and size.
fn work(operation: &str, size: &str) -> (u64, u64) {
    let rows = table::<Cpu>(&TINY);
    let mut found = rows.iter().filter(|row| row.operation == operation && row.size.contains(size));
    let Work { flops, bytes, .. } = found.next().unwrap_or_else(|| panic!("{operation}, {size}")).work();
    assert!(found.next().is_none(), "{operation}, {size} is not one row");
    (flops, bytes)
}

#[test]
fn work_is_what_the_operations_do() {
    // [6, 8] x [8, 32]; input, weights and output, and where there is one a residual.
    assert_eq!(work("linear", "8 to 32"), (2 * 6 * 8 * 32, 4 * (48 + 256 + 192)));
    assert_eq!(work("linear", "32 to 8"), (2 * 6 * 8 * 32, 4 * (192 + 256 + 48 + 48)));
    // 2 sequences x 2 heads x (1 + 2 + 3) products of 4 numbers, once for scores and once for values.
    assert_eq!(work("attention", ""), (2 * 2 * 2 * 6 * 4 * 2, 4 * 4 * 48));
    // The pattern is written, read and written; the values are mixed above the diagonal, too.
    assert_eq!(work("attention_pattern", ""), (2 * 2 * 6 * 4 * 2, 4 * 2 * 48 + 12 * 36));
    assert_eq!(work("attention_mix", ""), (2 * 36 * 4, 4 * 2 * 48 + 4 * 36));
    // Input, weights, biases and norms in; 24 entries and 6 counts out.
    assert_eq!(work("encode_topk", ""), (2 * 6 * 16 * 64, 4 * (96 + 1024 + 64 + 64) + 8 * 24 + 4 * 6));
    // One of sixteen latents is dead.
    assert_eq!(work("encode_dead_topk", ""), (2 * 6 * 16 * 4, 4 * (96 + 64 + 4 + 4 + 4) + 8 * 24 + 4 * 6));
    // 24 rows of 16 are gathered; each is added and multiplied with the gradient.
    assert_eq!(work("decode_sparse", ""), (2 * 2 * 24 * 16, 4 * 24 * 16 + 12 * 96));
    assert_eq!(work("decode_sparse_bf16", ""), (2 * 2 * 24 * 16, 2 * 24 * 16 + 12 * 96));
    assert_eq!(work("gradient_sparse", ""), (2 * 2 * 24 * 16, 8 * 24 * 16 + 8 * 1024));
    assert_eq!(work("gradient_sparse_bf16", ""), (2 * 2 * 24 * 16, 4 * 24 * 16 + 8 * 1024));
    assert_eq!(work("gradient_squares", ""), (2 * 2 * 24 * 16, 8 * 24 * 16 + 12 * 64));
    // The same, and two matrices' parameters and moments in and out.
    assert_eq!(work("adam_sparse", ""), (2 * 2 * 24 * 16, 8 * 24 * 16 + 48 * 1024 + 8 * 64));
    // Two products of [6, 64] and [64, 16].
    assert_eq!(work("decode_dense", ""), (2 * 2 * 6 * 64 * 16, 4 * (384 + 1024) + 16 * 96 + 8 * 384));
    assert_eq!(work("gradient_dense", ""), (2 * 2 * 6 * 64 * 16, 8 * (384 + 96) + 8 * 1024 + 4 * 384));
    assert_eq!(work("gradient_b_dec", ""), (2 * 1024, 4 * (96 + 1024)));
    assert_eq!(work("transpose_lists", ""), (0, 20 * 24 + 16 * 64));
    assert_eq!(work("clip_scale", ""), (0, 4 * (1024 + 64 + 1024 + 16)));
    // Parameter, gradient and two moments in; three of them out.
    assert_eq!(work("adam", ""), (0, 28 * 1024));
    assert_eq!(work("sum", ""), (0, 4 * 1024));
    assert_eq!(work("update_firing", "dense"), (0, 4 * 384 + 16 * 64));
}

#[test]
fn the_work_of_a_step_is_that_of_its_operations() {
    let sum = |parts: &[(u64, u64)]| parts.iter().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    let of = |operations: &[&str]| sum(&operations.iter().map(|name| work(name, "")).collect::<Vec<_>>());
    let shared = of(&["prepare_input", "gradient_b_dec"]);
    let lists = of(&["encode_topk", "decode_sparse", "transpose_lists", "gradient_squares", "adam_sparse"]);
    assert_eq!(work("step topk", ""), sum(&[shared, lists, work("update_firing", "lists")]));
    let dense = of(&["encode_relu_dense", "decode_dense", "sparsity_lp_dense", "gradient_dense"]);
    let written = of(&["adam", "adam", "row_norms", "clip_scale"]);
    assert_eq!(work("step standard dense", ""), sum(&[shared, dense, written, work("update_firing", "dense")]));
    // Two blocks: four products of 8 x 8, of which the last has a residual, two of 8 x 32.
    let flops = 2 * (2 * 6 * 8 * (4 * 8 + 2 * 32) + work("attention", "").0);
    assert_eq!(work("forward", "").0, flops);
}

#[test]
fn the_percentage_is_the_shortest_possible_time_by_the_measured_one() {
    let ceilings = Ceilings { copy: 100.0, product: 1000.0, bf16_product: 2000.0 };
    // 0.3 seconds of memory traffic beside 0.2 of products.
    assert_eq!(Work { flops: 200, bf16_flops: 0, bytes: 30 }.shortest(&ceilings), 0.3);
    assert_eq!(Work { flops: 400, bf16_flops: 0, bytes: 30 }.shortest(&ceilings), 0.4);
    assert_eq!(Work { flops: 400, bf16_flops: 800, bytes: 30 }.shortest(&ceilings), 0.8);
    let mut bench = Bench::new(&Cpu, ONCE).unwrap();
    for row in table(&TINY) {
        let shortest: f64 = row.parts.iter().map(|part| part.shortest(&ceilings)).sum();
        let measured = bench.measure(&row, &ceilings).unwrap().measured.unwrap();
        let expected = 100.0 * shortest / measured.seconds;
        assert!((measured.percent_of_ceiling / expected - 1.0).abs() < 1e-12, "{}: {measured:?}", row.operation);
        let rates = [measured.gflop_per_second * 1e9, measured.gb_per_second * 1e9];
        let work = row.work();
        for (rate, amount) in rates.into_iter().zip([work.flops + work.bf16_flops, work.bytes]) {
            assert!((rate * measured.seconds - amount as f64).abs() <= 1e-9 * amount as f64, "{}", row.operation);
        }
    }
}

#[test]
fn a_row_that_does_not_fit_the_memory_is_skipped_with_a_sentence() {
    // The emulator's device has 1 GiB; an eighth is left to the operations, and the bench takes 12 KiB.
    // SAFETY: the emulator's table is complete and constant.
    let emulator = unsafe { Native::from_table(cusae_emu::table(), 0) }.unwrap();
    let huge = SaeSizes { d_sae: 1 << 30, ..TINY.sae };
    let mut bench = Bench::new(&emulator, ONCE).unwrap();
    let adam = table(&Sizes { sae: huge, ..TINY }).into_iter().find(|row| row.operation == "adam").unwrap();
    let outcome = bench.measure(&adam, &Ceilings { copy: 1.0, product: 1.0, bf16_product: 1.0 }).unwrap();
    assert_eq!(outcome.measured, None);
    // Four buffers of 2³⁴ numbers, and a factor.
    assert_eq!(outcome.skipped.as_deref(), Some("needs 256.00 GiB of memory, 895.99 MiB are free"));
}

#[test]
fn the_report_is_a_table_and_json() -> Result<()> {
    let mut bench = Bench::new(&Cpu, ONCE)?;
    let ceilings = Ceilings { copy: 2e9, product: 3e9, bf16_product: 6e9 };
    let mut report = Report::new(&Cpu, &TINY, ceilings);
    for row in table(&TINY).iter().filter(|row| ["adam", "step topk"].contains(&row.operation)) {
        report.rows.push(bench.measure(row, &ceilings)?);
    }
    let text = report.to_string();
    assert!(text.contains("ceilings  copy 2.0 GB/s, product 3.0 GFLOP/s"), "{text}");
    assert!(text.contains("adam                   1024 numbers"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["sizes"], &json["ceilings"]["copy"]), (&"tiny".into(), &2e9.into()));
    let adam = &json["rows"][0];
    assert_eq!((&adam["operation"], &adam["bytes"], &adam["limit"]), (&"adam".into(), &28672.into(), &"copy".into()));
    assert!(adam["percent_of_ceiling"].is_f64() && adam.get("skipped").is_none() && adam.get("measured").is_none());
    assert!(json["rows"][1]["tokens_per_second"].is_f64());
    Ok(())
}

fn cusae(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cusae")).args(arguments).output().unwrap()
}

#[test]
fn the_command_times_what_it_is_asked_for() {
    let done = cusae(&["bench", "--device", "cpu", "--sizes", "small", "--quick", "--filter", "norm", "--json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().collect();
    let documented = ["version", "commit", "date", "command", "machine", "device", "sizes", "ceilings", "rows"];
    assert_eq!(keys, documented);
    assert_eq!(json["sizes"], "small");
    assert_eq!(json["command"], "cusae bench --device cpu --sizes small --quick --filter norm --json");
    assert!(json["machine"]["threads"].as_u64() > Some(0), "{}", json["machine"]);
    let names: Vec<_> = json["rows"].as_array().unwrap().iter().map(|row| row["operation"].clone()).collect();
    assert_eq!(names, ["layer_norm", "row_norms"]);
    assert!(json["rows"][0]["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn rows_for_which_no_time_is_left_are_listed() {
    let flags = ["--sizes", "small", "--quick", "--filter", "norm", "--seconds", "0", "--json"];
    let done = cusae(&[&["bench", "--device", "cpu"], &flags[..]].concat());
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    for (row, operation) in json["rows"].as_array().unwrap().iter().zip(["layer_norm", "row_norms"]) {
        assert_eq!((&row["operation"], &row["skipped"]), (&operation.into(), &"no time was left".into()));
        assert!(row.get("seconds").is_none(), "{row}");
    }
    assert_eq!(json["rows"].as_array().unwrap().len(), 2);
}

#[test]
fn a_filter_that_fits_no_operation_is_answered_with_their_names() {
    let failed = cusae(&["bench", "--filter", "encode_top_k"]);
    let error = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(failed.status.code(), Some(2), "{error}");
    assert!(
        error.contains("no operation's name contains encode_top_k; there are embed, layer_norm, linear"),
        "{error}"
    );
}
