//! Every operation at real sizes, whole training steps and the forward pass: the table of
//! `cusae::bench` in criterion's hands, timed by the device's own clock. `cusae bench` prints the same
//! table without criterion.
//!
//! `cargo bench -- gpt2/encode` takes one size and operation; `CUSAE_BENCH_DEVICE` names the device as
//! `--device` does.

use criterion::{criterion_group, criterion_main, BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use cusae::backend::{Backend, Device};
use cusae::bench::{table, Bench, Ceilings, Row, Sampling, Sizes};
use std::time::Duration;

fn operations(criterion: &mut Criterion) {
    let name = std::env::var("CUSAE_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    match Device::open(&name).unwrap_or_else(|why| panic!("CUSAE_BENCH_DEVICE: {why}")) {
        Device::Cpu(cpu) => on(&cpu, criterion),
        Device::Native(native) => on(&native, criterion),
    }
}

fn on<B: Backend>(backend: &B, criterion: &mut Criterion) {
    println!("on {}", backend.describe());
    for sizes in [Sizes::GPT2, Sizes::GEMMA] {
        let mut group = criterion.benchmark_group(sizes.name);
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        let mut bench = Bench::new(backend, Sampling::THOROUGH).expect("memory");
        let mut ceilings = None;
        for row in table::<B>(&sizes) {
            time(&mut group, &mut bench, &mut ceilings, &sizes, &row);
        }
        group.finish();
    }
}

/// One row: criterion's statistics, and the percentage of the ceilings, which are measured before the
/// first row that criterion's filter lets through.
fn time<B: Backend>(
    group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>,
    bench: &mut Bench<B>,
    ceilings: &mut Option<Ceilings>,
    sizes: &Sizes,
    row: &Row<B>,
) {
    if let Some(why) = bench.too_large(row).expect("a count") {
        return println!("{}/{}/{}: {why}", sizes.name, row.operation, row.size);
    }
    let work = row.work();
    group.throughput(match row.tokens {
        Some(tokens) => Throughput::Elements(tokens as u64),
        None if work.flops > 0 => Throughput::Elements(work.flops),
        None => Throughput::BytesDecimal(work.bytes),
    });
    let (mut fastest, mut data) = (f64::INFINITY, None);
    group.bench_function(BenchmarkId::new(row.operation, &row.size), |bencher| {
        ceilings.get_or_insert_with(|| Ceilings::measure(bench, sizes).expect("the ceilings"));
        // Criterion calls this once for every sample.
        let run = data.get_or_insert_with(|| row.prepare(bench.backend()).expect("memory"));
        bencher.iter_custom(|iterations| {
            let seconds = (0..iterations).map(|_| bench.sample(run).expect("the operation"));
            let total = seconds.inspect(|&seconds| fastest = fastest.min(seconds)).sum();
            Duration::from_secs_f64(total)
        });
    });
    if let (Some(ceilings), true) = (ceilings, fastest.is_finite()) {
        let shortest: f64 = row.parts.iter().map(|part| part.shortest(ceilings)).sum();
        println!("{:24}{:.1} % of the ceiling (fastest sample)", "", 100.0 * shortest / fastest);
    }
}

criterion_group!(benches, operations);
criterion_main!(benches);
