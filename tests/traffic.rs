//! What the kernels ask of a GPU, counted and not measured: `cuda/traffic.txt`.
//!
//! Every operation of the bench at the size of GPT-2 small with the SAE of `gpt2-small-res-jb` is called
//! in the emulator, which only notes the launches. From their grids follow the products that the tiles
//! multiply and the bytes that they read through L2; the bytes of memory are those of the contracts'
//! `moves` lines, as the bench has them. Divided by what an H200 can do they give the least time the
//! launches can take, which stands beside the floor of the operation itself. Products of bf16 operands stand
//! there twice: as Hopper (sm_90a) does them, and as the portable kernels (sm_80).

use cusae::backend::Native;
use cusae::bench::{table, Row, SaeSizes, Sizes, Work};
use cusae_emu::{CountOnly, Launched};

/// Bytes a second from memory, and through L2; operations a second of bfloat16 tensor cores: measured on an
/// H200 by others.
const MEMORY: f64 = 4.3e12;
const L2: f64 = 6e12;
const TENSOR: f64 = 790e12;
const MULTIPROCESSORS: u64 = 132;
/// In f32: 128 fused multiplications and additions of each multiprocessor, at 1.98 GHz.
const F32: f64 = MULTIPROCESSORS as f64 * 128.0 * 2.0 * 1.98e9;

/// The emulator's devices of compute capability 9.0 and 8.0.
const CARDS: [(&str, usize); 2] = [("sm_90a", 0), ("sm_80", 8)];

/// A tile of gemm.cuh: rows, columns, and what it reads for each element of depth.
const TILE: [u64; 2] = [128, 64];
const TILE_BYTES: u64 = 4 * (TILE[0] + TILE[1]);

/// Floating-point operations of products, of f32 and of bf16, and bytes through L2.
#[derive(Default)]
struct Counted {
    flops: u64,
    bf16_flops: u64,
    l2: u64,
}

impl Counted {
    /// Each block makes so many tiles, one after the other, of products of this depth.
    fn tiles(launch: &Launched, tiles: u64, depth: u64) -> Counted {
        assert_eq!(launch.threads, 128, "these are not the tiles of gemm.cuh");
        let tiles = tiles * launch.grid.iter().map(|&blocks| u64::from(blocks)).product::<u64>();
        Counted { flops: 2 * tiles * TILE[0] * TILE[1] * depth, l2: tiles * TILE_BYTES * depth, bf16_flops: 0 }
    }

    /// The tiles of gemm_bf16.cuh, one to a block, or of gemm_sm90.cu, whose blocks walk over them.
    fn bf16_tiles(launch: &Launched, rows: u64, columns: u64, depth: u64) -> Counted {
        let width = if launch.threads == 288 { 192 } else { 128 };
        let tiles = rows.div_ceil(128) * columns.div_ceil(width);
        let blocks = launch.grid.iter().map(|&blocks| u64::from(blocks)).product::<u64>();
        assert_eq!(blocks, if width == 192 { tiles.min(MULTIPROCESSORS) } else { tiles }, "{launch:?}");
        // Two blocks above one another share the lines of b.
        let lines = if width == 192 && rows.div_ceil(128).is_multiple_of(2) { width / 2 } else { width };
        Counted { flops: 0, bf16_flops: 2 * tiles * 128 * width * depth, l2: 2 * tiles * (128 + lines) * depth }
    }

    /// As many blocks have work as there are `part`s in all of them.
    fn part(self, part: f64) -> Counted {
        let of = |all: u64| (all as f64 * part).round() as u64;
        Counted { flops: of(self.flops), bf16_flops: of(self.bf16_flops), l2: of(self.l2) }
    }
}

impl std::ops::Add for Counted {
    type Output = Counted;
    fn add(self, other: Counted) -> Counted {
        Counted {
            flops: self.flops + other.flops,
            bf16_flops: self.bf16_flops + other.bf16_flops,
            l2: self.l2 + other.l2,
        }
    }
}

/// The launches of two products of bf16 among others, by the shared memory that the tiles take.
fn products(launches: &[Launched]) -> [&Launched; 2] {
    let products = launches.iter().filter(|launch| launch.shared_bytes > 64 << 10).collect::<Vec<_>>();
    products.try_into().expect("two products")
}

/// What an operation's launches multiply and read; where they have no tiles, what its contract says.
fn counted(row: &Row<Native>, launches: &[Launched], sizes: &Sizes) -> Counted {
    let SaeSizes { rows, d_in, d_sae, .. } = sizes.sae;
    let (rows, d_in, d_sae) = (rows as u64, d_in as u64, d_sae as u64);
    let lm = sizes.lm.unwrap();
    let (d_model, d_head) = (lm.d_model as u64, lm.d_head() as u64);
    let Work { flops, bf16_flops, bytes } = row.work();
    // Of `rows 4096, T 128, 12 heads of 64`.
    let context = || row.size.split(", T ").nth(1).and_then(|text| text.split(',').next()?.parse().ok()).unwrap();
    // Of each tile of 128 queries the keys up to its end, in tiles of 64.
    let key_tiles = |context: u64| {
        let queries = context.div_ceil(TILE[0]);
        (0..queries).map(|tile| ((tile + 1) * TILE[0]).min(context).div_ceil(TILE[1])).sum::<u64>() as f64
            / queries as f64
    };
    let dead = 1.0 / 16.0;
    match row.operation {
        "linear" => {
            let blocks: u64 = launches[0].grid.iter().map(|&n| u64::from(n)).product();
            Counted::tiles(&launches[0], 1, flops.div_ceil(2 * blocks * TILE[0] * TILE[1]))
        }
        // Of `rows 4096, 768 to 3072, GeluTanh`.
        "linear_bf16" => {
            let numbers = row.size.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse().ok());
            let [rows, depth, columns] = numbers.take(3).collect::<Vec<u64>>()[..] else { panic!("{}", row.size) };
            Counted::bf16_tiles(&launches[0], rows, columns, depth)
        }
        "encode_topk_bf16" => Counted::bf16_tiles(&launches[0], rows, d_sae, d_in),
        "encode_topk" | "encode_relu" | "encode_jumprelu" | "encode_batch_topk" | "encode_relu_dense" => {
            Counted::tiles(&launches[0], 1, d_in)
        }
        "encode_dead_topk" => Counted::tiles(&launches[0], 1, d_in).part(dead),
        "pre_act_loss" => {
            Counted::tiles(&launches[0], 1, d_in).part(dead)
                + Counted { l2: (bytes as f64 * dead) as u64, ..Counted::default() }
        }
        "decode_dense" => Counted::tiles(&launches[0], 1, d_sae) + Counted::tiles(&launches[2], 1, d_in),
        "decode_dense_bf16" => {
            let [y, of_features] = products(launches);
            Counted::bf16_tiles(y, rows, d_in, d_sae) + Counted::bf16_tiles(of_features, rows, d_sae, d_in)
        }
        "gradient_dense_bf16" => {
            let [of_w_dec, of_w_enc] = products(launches);
            Counted::bf16_tiles(of_w_dec, d_sae, d_in, rows) + Counted::bf16_tiles(of_w_enc, d_sae, d_in, rows)
        }
        "gradient_dense" => Counted::tiles(&launches[2], 1, rows) + Counted::tiles(&launches[3], 1, rows),
        "unembed_cross_entropy" | "unembed_kl_divergence" => {
            let runs = if row.operation == "unembed_kl_divergence" { 2 } else { 1 };
            let tiles = (lm.d_vocab as u64).div_ceil(TILE[1]);
            let of_block = Counted::tiles(&launches[0], runs * tiles, d_model);
            of_block.part(1.0 / f64::from(launches[0].grid[1]))
        }
        // Scores and their product with the values, 64 columns of a head at once.
        "attention" => {
            let scores = Counted::tiles(&launches[0], 1, d_head);
            let values = Counted { l2: scores.l2 / 3, ..Counted::tiles(&launches[0], 1, d_head) };
            (scores + values).part(key_tiles(context()))
        }
        "attention_pattern" => Counted::tiles(&launches[0], 1, d_head).part(key_tiles(context())),
        "attention_mix" => Counted::tiles(&launches[0], 1, context()),
        _ => Counted { flops, bf16_flops, l2: bytes },
    }
}

/// Launches as `blocks x threads`, with the KiB of shared memory, equal ones together.
fn in_words(launches: &[Launched]) -> String {
    let mut words: Vec<(usize, String)> = Vec::new();
    for Launched { grid, threads, shared_bytes } in launches {
        let blocks = grid.iter().enumerate().filter(|&(i, &n)| i == 0 || n > 1).map(|(_, n)| n.to_string());
        let blocks = blocks.collect::<Vec<_>>().join("·");
        let shared = if *shared_bytes > 0 { format!("/{:.1}", *shared_bytes as f64 / 1024.0) } else { String::new() };
        let word = format!("{blocks}x{threads}{shared}");
        match words.iter_mut().find(|(_, other)| *other == word) {
            Some((n, _)) => *n += 1,
            None => words.push((1, word)),
        }
    }
    let times = |(n, word): (usize, String)| if n > 1 { format!("{n} ({word})") } else { word };
    words.into_iter().map(times).collect::<Vec<_>>().join(", ")
}

fn line(row: &Row<Native>, card: &str, launches: &[Launched], sizes: &Sizes) -> String {
    let Counted { flops, bf16_flops, l2 } = counted(row, launches, sizes);
    let work = row.work();
    let (least_flops, bytes) = (work.flops + work.bf16_flops, work.bytes);
    let l2 = l2.max(bytes);
    let products = flops as f64 / F32 + bf16_flops as f64 / TENSOR;
    let bounds = [("products", products), ("L2", l2 as f64 / L2), ("memory", bytes as f64 / MEMORY)];
    let (bound, seconds) = bounds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let floor = (least_flops as f64 / TENSOR).max(bytes as f64 / MEMORY);
    format!(
        "{:<22} {:<40} {:<6} {:>9.2} {:>9.1} {:>9.1} {:>9.1} {:<9} {:>8.1}  {}\n",
        row.operation,
        row.size,
        card,
        (flops + bf16_flops) as f64 / 1e9,
        l2 as f64 / 1e6,
        bytes as f64 / 1e6,
        1e6 * seconds,
        bound,
        1e6 * floor,
        in_words(launches)
    )
}

fn traffic() -> String {
    let mut text = format!(
        "# Counted from the kernels' own launches by tests/traffic.rs, not measured: UPDATE_TRAFFIC=1 cargo test --test traffic.\n\
         # at least: the longest of products at {:.1} TFLOP/s (f32) or {:.0} (bf16), L2 at {} TB/s and memory at {} TB/s.\n\
         # floor: the operation's own products at {} TFLOP/s (bf16), or its bytes of memory.\n\
         # Rows that a list gathers count as memory each time, though most come from L2.\n\
         {:<22} {:<40} {:<6} {:>9} {:>9} {:>9} {:>9} {:<9} {:>8}  {}\n",
        F32 / 1e12, TENSOR / 1e12, L2 / 1e12, MEMORY / 1e12, TENSOR / 1e12,
        "operation", "size", "card", "GFLOP", "L2 MB", "memory MB", "at least", "us, of", "floor us", "blocks x threads / KiB shared"
    );
    let count = CountOnly::new();
    // SAFETY: the emulator's table is complete and constant.
    let devices =
        CARDS.map(|(card, ordinal)| (card, unsafe { Native::from_table(cusae_emu::table(), ordinal) }.unwrap()));
    for row in table::<Native>(&Sizes::GPT2) {
        // Whole steps consist of several operations.
        if row.parts.len() > 1 {
            continue;
        }
        let cards = if row.work().bf16_flops > 0 { &devices[..] } else { &devices[..1] };
        for (card, device) in cards {
            let mut run = row.prepare_zeros(device).unwrap();
            count.take();
            run(device).unwrap_or_else(|error| panic!("{}: {error}", row.operation));
            let card = if cards.len() > 1 { card } else { "any" };
            text += &line(&row, card, &count.take(), &Sizes::GPT2);
        }
    }
    text
}

/// With `UPDATE_TRAFFIC=1` in the environment the table is rewritten instead.
#[test]
fn the_table_of_traffic_is_that_of_the_launches() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/traffic.txt");
    let right = traffic();
    if std::env::var_os("UPDATE_TRAFFIC").is_some() {
        std::fs::write(path, right).unwrap();
    } else {
        let table = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            table == right,
            "cuda/traffic.txt is not that of the launches: UPDATE_TRAFFIC=1 cargo test --test traffic"
        );
    }
}
