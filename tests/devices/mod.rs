//! The devices that kernels are tested on: the emulator and, where there is one, a GPU. The
//! environment variable `CUSAE_TEST_DEVICE` takes one of them alone: `emulated`, `emulated_once` (with
//! its threads in the last of the orders only, for what is slow) or `cuda`; then there must be a GPU.

use cusae::backend::Native;
use std::sync::Once;

/// The emulator with its threads in each of these orders, and a GPU.
pub fn devices(orders: &[usize]) -> Vec<Native> {
    let asked = std::env::var("CUSAE_TEST_DEVICE").ok();
    match asked.as_deref() {
        None => emulated(orders).chain(gpu_where_there_is_one()).collect(),
        Some("emulated") => emulated(orders).collect(),
        Some("emulated_once") => emulated(&orders[orders.len() - 1..]).collect(),
        Some("cuda") => vec![Native::cuda(0).unwrap_or_else(|why| panic!("CUSAE_TEST_DEVICE is cuda, but {why}"))],
        Some(other) => panic!("CUSAE_TEST_DEVICE is {other}, expected emulated, emulated_once or cuda"),
    }
}

fn emulated(orders: &[usize]) -> impl Iterator<Item = Native> + '_ {
    // SAFETY: the emulator's table is complete and constant.
    orders.iter().map(|&order| unsafe { Native::from_table(cusae_emu::table(), order) }.unwrap())
}

fn gpu_where_there_is_one() -> Option<Native> {
    static SAID: Once = Once::new();
    let skipped = |why| SAID.call_once(|| eprintln!("skipped on a GPU: {why}"));
    Native::cuda(0).map_err(skipped).ok()
}
