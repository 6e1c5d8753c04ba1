//! What the emulator of `tests/emu` must see, shown by kernels with one fault each, and what it must let
//! pass. They are in `tests/emu/faults.cu`, which is compiled here as a program of its own, with and
//! without AddressSanitizer.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Threads of a block, and numbers of what a kernel writes.
const N: usize = 64;
/// Threads in order, and two orders drawn from seeds.
const ORDERS: [usize; 3] = [0, 1, 2];

fn compiled(name: &str, flags: &[&str]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let compiler = std::env::var("CXX").unwrap_or("c++".into());
    let out = Command::new(&compiler)
        .args("-std=c++20 -O1 -g -pthread -Wno-unknown-pragmas -Itests/emu/include -Icuda -xc++".split(' '))
        .args(flags)
        .args(["tests/emu/faults.cu", "-o"])
        .arg(&program)
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    program
}

fn run_program(program: &Path, name: &str, order: usize) -> Output {
    let mut command = Command::new(program);
    command.args([name, &order.to_string()]).env("ASAN_OPTIONS", "detect_leaks=0").output().unwrap()
}

/// What a case prints.
fn run(name: &str, order: usize) -> String {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let out = run_program(PROGRAM.get_or_init(|| compiled("faults", &[])), name, order);
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

/// What a case prints as it is aborted.
fn aborts(name: &str, order: usize) -> String {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let out = run_program(PROGRAM.get_or_init(|| compiled("faults", &[])), name, order);
    assert!(!out.status.success(), "{name}");
    String::from_utf8(out.stderr).unwrap()
}

/// AddressSanitizer's report on a case.
fn sanitizer_report(name: &str) -> String {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let out = run_program(PROGRAM.get_or_init(|| compiled("faults_asan", &["-fsanitize=address"])), name, 0);
    assert!(!out.status.success(), "{name}");
    String::from_utf8(out.stderr).unwrap()
}

fn numbers(name: &str, order: usize) -> Vec<f64> {
    let text = run(name, order);
    let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{name}: {text}"));
    text.split(' ').map(number).collect()
}

fn gives(name: &str, expected: impl Fn(usize) -> f64) {
    let expected: Vec<f64> = (0..N).map(expected).collect();
    for order in ORDERS {
        assert_eq!(numbers(name, order), expected, "{name} in order {order}");
    }
}

/// The places of what is not a number.
fn unknown(name: &str, order: usize) -> Vec<usize> {
    let numbers = numbers(name, order);
    (0..N).filter(|&i| numbers[i].is_nan()).collect()
}

#[track_caller]
fn says(name: &str, sentence: &str) {
    for order in ORDERS {
        let text = run(name, order);
        assert!(text.contains(sentence), "{name} in order {order}: {text}");
    }
}

#[test]
fn kernels_without_faults_pass() {
    gives("barrier", |i| (N - 1 - i) as f64);
    gives("copy", |i| (N - 1 - i) as f64);
    gives("copy_of_nothing", |i| if i / 4 % 2 == 0 { (i % 4) as f64 } else { 0.0 });
    gives("shuffle", |i| (i ^ 1) as f64);
    gives("product", |_| 32.0);
}

#[test]
fn threads_that_have_left_hold_up_neither_a_barrier_nor_the_lanes_of_a_smaller_mask() {
    for order in ORDERS {
        assert_eq!(unknown("barrier_of_those_left", order), (32..64).collect::<Vec<_>>());
        assert_eq!(unknown("shuffle_of_a_half", order), (16..32).chain(48..64).collect::<Vec<_>>());
    }
}

#[test]
fn a_missing_barrier_leaves_what_is_not_a_number() {
    for name in ["missing_barrier", "missing_syncwarp", "copy_without_barrier"] {
        for order in ORDERS {
            assert!(!unknown(name, order).is_empty(), "{name} in order {order}");
        }
    }
}

#[test]
fn a_race_that_threads_in_order_win_is_lost_in_another_order() {
    assert_eq!(unknown("missing_barrier_in_order", 0), []);
    assert_ne!(unknown("missing_barrier_in_order", 1), []);
    assert_ne!(unknown("missing_barrier_in_order", 2), []);
}

#[test]
fn a_missing_barrier_before_memory_is_used_again_gives_wrong_sums() {
    let right: Vec<f64> = (0..N).map(|i| (N - 1 - i + 2 * N - 1 - i) as f64).collect();
    for order in ORDERS {
        assert_ne!(numbers("missing_barrier_before_reuse", order), right);
    }
}

#[test]
fn two_barriers_for_one_block_are_named() {
    says("divergent_barrier", "threads of one block met at two different __syncthreads(): ");
    let source = include_str!("emu/faults.cu").lines();
    let mut lines = source.enumerate().skip_while(|(_, line)| !line.contains("divergent_barrier"));
    let mut barrier = || lines.find(|(_, line)| line.contains("__syncthreads")).unwrap().0 + 1;
    says("divergent_barrier", &format!("tests/emu/faults.cu:{}", barrier()));
    says("divergent_barrier", &format!("tests/emu/faults.cu:{}", barrier()));
}

#[test]
fn a_deadlock_is_reported_with_who_waits_where() {
    says("deadlock", "deadlock: no thread can run; block 0 has 32 of 64 threads at tests/emu/faults.cu:");
    says("deadlock", "; block 0 has 16 of 32 lanes at an operation of warp 1");
    says("lanes_that_have_left", "deadlock: no thread can run; block 0 has 16 of 32 lanes at an operation of warp 0");
}

#[test]
fn blocks_of_a_cluster_arrive_at_one_another_and_one_that_has_left_is_named() {
    for order in ORDERS {
        assert_eq!(numbers("cluster", order)[..2], [0.0, 1.0]);
    }
    says("left_cluster", "emulator: a block of the cluster has left, and its shared memory with it");
    says("half_a_cluster", "invalid cluster size");
    says("arrival_at_no_barrier", "emulator: nobody has initialised this mbarrier yet");
}

#[test]
fn memory_that_nobody_has_written_is_not_a_number() {
    for name in ["unwritten_shared", "shared_of_another_block", "unwritten_memory"] {
        for order in ORDERS {
            assert_eq!(unknown(name, order).len(), N, "{name} in order {order}");
        }
    }
}

#[test]
fn what_is_read_around_memory_is_not_a_number_or_ends_the_program() {
    for order in ORDERS {
        assert_eq!(unknown("read_behind_shared", order).len(), N);
        assert_eq!(unknown("read_before_memory", order), [0]);
        assert!(aborts("read_behind_memory", order).starts_with("emu: a kernel has left its memory"));
    }
}

#[test]
fn what_is_written_around_memory_is_noticed() {
    says("write_before_shared", "emulator: a block wrote before the beginning of its shared memory");
    says("write_behind_shared", "emulator: a block wrote past the end of its shared memory");
    for order in ORDERS {
        assert!(aborts("write_behind_memory", order).starts_with("emu: a kernel has left its memory"));
        let close_behind = aborts("write_close_behind_memory", order);
        assert_eq!(close_behind, "emu: memory was written 4 bytes from the start of an allocation of 4 bytes\n");
        let before = aborts("write_before_memory", order);
        assert_eq!(before, "emu: memory was written -4 bytes from the start of an allocation of 256 bytes\n");
    }
}

#[test]
fn address_sanitizer_names_the_line_that_leaves_memory() {
    for name in [
        "read_behind_memory",
        "write_behind_memory",
        "write_before_memory",
        "read_behind_shared",
        "write_before_shared",
        "write_behind_shared",
    ] {
        let report = sanitizer_report(name);
        assert!(report.contains("AddressSanitizer: use-after-poison"), "{name}: {report}");
        let line = include_str!("emu/faults.cu").lines().position(|line| line.contains(&format!(" {name}(")));
        let first = line.unwrap() + 1;
        let named = (first..first + 3).any(|line| report.contains(&format!("faults.cu:{line}")));
        assert!(named, "{name}: {report}");
    }
}

#[test]
fn blocks_come_in_more_than_one_order() {
    assert_eq!(numbers("block_that_needs_another", 0)[1], 1.0);
    assert!(numbers("block_that_needs_another", 1)[1].is_nan());
}

#[test]
fn an_asynchronous_copy_is_there_when_it_was_waited_for_and_not_before() {
    for order in ORDERS {
        assert_eq!(unknown("copy_without_wait", order).len(), N);
        assert_eq!(unknown("copy_without_commit", order).len(), N);
        let newer: Vec<usize> = (1..N).step_by(2).collect();
        assert_eq!(unknown("copy_of_the_newer_group", order), newer);
    }
}

#[test]
fn addresses_that_are_no_multiples_of_16_are_reported() {
    says("copy_to_odd_places", "cp.async: an address is not a multiple of 16");
    says("copy_from_odd_places", "cp.async: an address is not a multiple of 16");
    says("matrix_from_odd_places", "ldmatrix: a row's address is not a multiple of 16");
}

#[test]
fn warp_operations_with_wrong_masks_are_reported() {
    says(
        "lane_outside_its_mask",
        "a lane takes part in a warp operation whose mask leaves it out (block 0,0,0 thread ",
    );
    says("two_operations", "lanes of one warp met at two different warp operations");
    for order in ORDERS {
        assert_eq!(unknown("shuffle_from_outside_its_mask", order).len(), N);
    }
}

#[test]
fn launches_that_a_gpu_would_refuse_are_refused() {
    for name in ["full_block", "all_shared", "high_grid"] {
        for order in ORDERS {
            assert_eq!(numbers(name, order)[0], 0.0, "{name}");
        }
    }
    for name in [
        "too_many_threads",
        "no_threads",
        "too_much_shared",
        "shared_not_asked_for",
        "too_high_grid",
        "too_deep_grid",
        "too_deep_block",
    ] {
        says(name, "invalid configuration argument");
    }
}

#[test]
fn a_launch_asks_for_all_the_shared_memory_that_there_is() {
    says("shared_asked_for", "launched");
}

#[test]
fn tiles_of_other_layouts_are_reported() {
    for name in ["product_of_another_swizzle", "product_from_a_base_offset", "product_along_lines"] {
        says(name, "wgmma: a tile's lines are not swizzled by 128 bytes (block 0,0,0 thread ");
    }
}

#[test]
fn memory_that_is_not_the_devices_is_refused() {
    let (ok, invalid_value) = (0.0, 1.0);
    let expected = [vec![invalid_value; 5], vec![ok]].concat();
    assert_eq!(numbers("memory_of_the_host", 0), expected);
}

#[test]
fn work_is_done_when_somebody_waits_for_it() {
    says("read_too_early", "-1, then 0");
}

#[test]
fn what_cannot_be_recorded_takes_the_recording_down() {
    for name in ["wait_in_capture", "allocation_in_capture", "copy_in_capture"] {
        says(name, "operation not permitted when stream is capturing; ");
        says(name, "; operation failed due to a previous error during capture");
    }
}
