//! The language model's operations against plain loops in f64, at sizes that cross every tile border.

use cusae::backend::*;
use cusae::random::{Random, Stream};

/// Uniform values in [-1, 1).
fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut random = Random::new(seed, Stream::Weights, 0);
    (0..n).map(|_| 2.0 * random.uniform() - 1.0).collect()
}

/// Fails unless every value is within `tolerance` of the largest expected one.
fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f64, |max, x| max.max(x.abs()));
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= tolerance * largest, "{what}[{i}]: {found} for {expected}");
    }
}

/// Runs with 1 and with 7 threads and fails unless the bits agree.
fn same_for_any_number_of_threads(run: impl Fn() -> Vec<f32> + Sync + Send) -> Vec<f32> {
    let with = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&run);
    let one = with(1);
    assert_eq!(one, with(7));
    one
}

fn product(x: &[f32], w: &[f32], [m, n, k]: [usize; 3], transposed: bool) -> Vec<f64> {
    let weight = |l: usize, j: usize| f64::from(if transposed { w[j * k + l] } else { w[l * n + j] });
    let element = |i: usize, j: usize| (0..k).map(|l| f64::from(x[i * k + l]) * weight(l, j)).sum();
    (0..m * n).map(|e| element(e / n, e % n)).collect()
}

#[test]
fn embed_adds_token_and_position_and_gives_either_alone() {
    let (d, context) = (5, 3);
    let (w_e, w_pos) = (values(1, 4 * d), values(2, 10 * d));
    let tokens = vec![3, 0, 1, 1, 2, 3];
    let (mut resid, mut embed, mut pos_embed) = (vec![0.0; 6 * d], vec![0.0; 6 * d], vec![0.0; 6 * d]);
    let op = Embed::<Cpu> {
        tokens: &tokens,
        w_e: &w_e,
        w_pos: &w_pos,
        rows: 6,
        context,
        past: 0,
        d_model: d,
        embed: Some(&mut embed),
        pos_embed: Some(&mut pos_embed),
        resid: &mut resid,
    };
    Cpu.embed(op).unwrap();
    for row in 0..6 {
        for column in 0..d {
            let (token, position) = (w_e[tokens[row] as usize * d + column], w_pos[(row % context) * d + column]);
            let i = row * d + column;
            assert_eq!((embed[i], pos_embed[i], resid[i]), (token, position, token + position));
        }
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_refused_by_embed_and_cross_entropy() {
    let (w, tokens) = (values(1, 8), vec![1, 4]);
    let mut out = vec![0.0; 4];
    let op = Embed::<Cpu> {
        tokens: &tokens,
        w_e: &w,
        w_pos: &w,
        rows: 2,
        context: 2,
        past: 0,
        d_model: 2,
        embed: None,
        pos_embed: None,
        resid: &mut out,
    };
    let message = Cpu.embed(op).unwrap_err().to_string();
    assert_eq!(message, "embed: token id 4 is outside the vocabulary of 4");
    let (x, targets, mut loss) = (values(2, 4), vec![4, 0], vec![0.0; 2]);
    let op = UnembedCrossEntropy::<Cpu> {
        x: &x,
        w_u: &w,
        b_u: None,
        targets: &targets,
        rows: 2,
        d_model: 2,
        d_vocab: 4,
        loss: &mut loss,
    };
    let message = Cpu.unembed_cross_entropy(op).unwrap_err().to_string();
    assert_eq!(message, "unembed_cross_entropy: token id 4 is outside the vocabulary of 4");
}

#[test]
fn layer_norm_agrees_with_its_definition_for_values_far_from_zero() {
    let (rows, d, epsilon) = (70, 97, 1e-5);
    // A mean of 300 cancels where variance is computed as a difference of squares.
    let x: Vec<f32> = values(3, rows * d).iter().map(|x| x + 300.0).collect();
    let (gain, bias) = (values(4, d), values(5, d));
    let (mut scale, mut normalized, mut output) = (vec![0.0; rows], vec![0.0; rows * d], vec![0.0; rows * d]);
    let op = LayerNorm::<Cpu> {
        x: &x,
        from: LayerNormFrom::Input,
        gain: Some(&gain),
        bias: Some(&bias),
        epsilon,
        rows,
        d_model: d,
        scale: Some(&mut scale),
        normalized: Some(&mut normalized),
        output: &mut output,
    };
    Cpu.layer_norm(op).unwrap();
    let (mut scales, mut normals, mut outputs) = (vec![], vec![], vec![]);
    for row in x.chunks(d) {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / d as f64;
        let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / d as f64;
        scales.push((variance + f64::from(epsilon)).sqrt());
        for (i, &x) in row.iter().enumerate() {
            let normal = (f64::from(x) - mean) / scales[scales.len() - 1];
            normals.push(normal);
            outputs.push(normal * f64::from(gain[i]) + f64::from(bias[i]));
        }
    }
    // x has a unit in the last place of 3e-5.
    assert_close("scale", &scale, &scales, 1e-4);
    assert_close("normalized", &normalized, &normals, 1e-4);
    assert_close("output", &output, &outputs, 1e-4);
}

#[test]
fn layer_norm_goes_on_from_an_edited_scale_or_normalized_value() {
    let (rows, d) = (40, 8);
    let (x, gain, bias) = (values(6, rows * d), values(7, d), values(8, d));
    let run = |from, scale: &mut Vec<f32>, normalized: &mut Vec<f32>| {
        let mut output = vec![0.0; rows * d];
        let op = LayerNorm::<Cpu> {
            x: &x,
            from,
            gain: Some(&gain),
            bias: Some(&bias),
            epsilon: 1e-5,
            rows,
            d_model: d,
            scale: Some(scale),
            normalized: Some(normalized),
            output: &mut output,
        };
        Cpu.layer_norm(op).unwrap();
        output
    };
    let (mut scale, mut normalized) = (vec![0.0; rows], vec![0.0; rows * d]);
    let output = run(LayerNormFrom::Input, &mut scale, &mut normalized);
    let halved: Vec<f32> = normalized.iter().map(|x| x / 2.0).collect();
    scale.iter_mut().for_each(|x| *x *= 2.0);
    let from_scale = run(LayerNormFrom::Scale, &mut scale, &mut normalized);
    assert_eq!(normalized, halved);
    let from_normalized = run(LayerNormFrom::Normalized, &mut scale, &mut normalized);
    assert_eq!(from_scale, from_normalized);
    assert_ne!(from_scale, output);
}

#[test]
fn linear_applies_bias_function_and_residual_in_that_order() {
    // More than one block of rows and of columns.
    let [m, n, k] = [515, 1030, 7];
    let (x, w, bias, residual) = (values(9, m * k), values(10, n * k), values(11, n), values(12, m * n));
    for w_is_transposed in [false, true] {
        let found = same_for_any_number_of_threads(|| {
            let mut out = vec![0.0; m * n];
            let op = Linear::<Cpu> {
                x: Matrix::F32(&x),
                w: Matrix::F32(&w),
                w_is_transposed,
                bias: Some(&bias),
                function: ActivationFunction::Relu,
                residual: Some(&residual),
                rows: m,
                d_input: k,
                d_output: n,
                out: &mut out,
            };
            Cpu.linear(op).unwrap();
            out
        });
        let expected: Vec<f64> = product(&x, &w, [m, n, k], w_is_transposed)
            .into_iter()
            .enumerate()
            .map(|(i, sum)| (sum + f64::from(bias[i % n])).max(0.0) + f64::from(residual[i]))
            .collect();
        assert_close("out", &found, &expected, 1e-6);
    }
}

/// Pattern `[sequences, H, T, T]` and z `[rows, H * d_head]` by their definitions.
fn attention(q: &[f32], k: &[f32], v: &[f32], scale: f64, dims: AttentionDims) -> (Vec<f64>, Vec<f64>) {
    let AttentionDims { context, n_heads, d_head, .. } = dims;
    let width = n_heads * d_head;
    let mut pattern = vec![0.0; dims.pattern()];
    let mut z = vec![0.0; dims.values()];
    for (i, row) in pattern.chunks_mut(context).enumerate() {
        let (sequence, head, query) = (i / context / n_heads, i / context % n_heads, i % context);
        let at = |position: usize| (sequence * context + position) * width + head * d_head;
        let score = |key: usize| {
            let dot = (0..d_head).map(|c| f64::from(q[at(query) + c]) * f64::from(k[at(key) + c])).sum::<f64>();
            (scale * dot).exp()
        };
        let total: f64 = (0..=query).map(score).sum();
        for key in 0..=query {
            row[key] = score(key) / total;
            for c in 0..d_head {
                z[at(query) + c] += row[key] * f64::from(v[at(key) + c]);
            }
        }
    }
    (pattern, z)
}

#[test]
fn attention_and_its_halves_agree_with_the_definition() {
    // Contexts of one token, less than a tile of 64 queries, and more than two.
    for (sequences, context) in [(3, 1), (2, 20), (2, 150)] {
        let dims = AttentionDims::whole(sequences * context, context, 3, 10);
        let [q, k, v] = [13, 14, 15].map(|seed| values(seed, dims.values()));
        let scale = 2.0;
        let (expected_pattern, expected_z) = attention(&q, &k, &v, scale.into(), dims);
        let z = same_for_any_number_of_threads(|| {
            let mut z = vec![0.0; dims.values()];
            Cpu.attention(Attention { q: &q, k: &k, v: &v, scale, dims, z: &mut z }).unwrap();
            z
        });
        assert_close("z", &z, &expected_z, 1e-6);
        let pattern = same_for_any_number_of_threads(|| {
            let mut pattern = vec![f32::NAN; dims.pattern()];
            let op = AttentionPattern { q: &q, k: &k, scale, dims, pattern: &mut pattern };
            Cpu.attention_pattern(op).unwrap();
            pattern
        });
        assert_close("pattern", &pattern, &expected_pattern, 1e-6);
        let mixed = same_for_any_number_of_threads(|| {
            let mut z = vec![0.0; dims.values()];
            Cpu.attention_mix(AttentionMix { pattern: &pattern, v: &v, dims, z: &mut z }).unwrap();
            z
        });
        assert_close("mixed z", &mixed, &expected_z, 1e-6);
    }
}

#[test]
fn attention_mix_takes_a_pattern_that_looks_ahead_as_it_is() {
    let dims = AttentionDims::whole(2, 2, 1, 1);
    let mut z = vec![0.0; 2];
    let op = AttentionMix::<Cpu> { pattern: &vec![0.0, 1.0, 0.25, 0.5], v: &vec![3.0, 7.0], dims, z: &mut z };
    Cpu.attention_mix(op).unwrap();
    assert_eq!(z, [7.0, 4.25]);
}

/// log softmax of every row, in f64.
fn log_softmax(x: &[f32], w_u: &[f32], b_u: Option<&Vec<f32>>, dims: [usize; 3]) -> Vec<f64> {
    let n = dims[1];
    let mut logits = product(x, w_u, dims, true);
    for row in logits.chunks_mut(n) {
        for (logit, i) in row.iter_mut().zip(0..) {
            *logit += b_u.map_or(0.0, |b_u| f64::from(b_u[i]));
        }
        let largest = row.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        row.iter_mut().for_each(|x| *x -= largest + sum.ln());
    }
    logits
}

#[test]
fn cross_entropy_agrees_with_f64_over_tile_borders_and_for_large_logits() {
    // More than one tile of 256 rows and of 512 tokens; logits up to some 200.
    let dims @ [rows, d_vocab, d_model] = [260, 1026, 16];
    let x: Vec<f32> = values(16, rows * d_model).iter().map(|x| 40.0 * x).collect();
    let (w_u, b_u) = (values(17, d_vocab * d_model), values(18, d_vocab));
    // First and last token of the tiles are among the targets.
    let targets: Vec<u32> = (0..rows as u32).map(|i| [0, 511, 512, 1025, i * 3][i as usize % 5]).collect();
    for b_u in [None, Some(&b_u)] {
        let loss = same_for_any_number_of_threads(|| {
            let (mut loss, targets) = (vec![0.0; rows], &targets);
            let op =
                UnembedCrossEntropy::<Cpu> { x: &x, w_u: &w_u, b_u, targets, rows, d_model, d_vocab, loss: &mut loss };
            Cpu.unembed_cross_entropy(op).unwrap();
            loss
        });
        let logs = log_softmax(&x, &w_u, b_u, dims);
        let expected: Vec<f64> =
            targets.iter().enumerate().map(|(row, &t)| -logs[row * d_vocab + t as usize]).collect();
        assert_close("loss", &loss, &expected, 1e-6);
    }
}

#[test]
fn kl_divergence_agrees_with_f64_and_is_zero_between_equals() {
    let dims @ [rows, d_vocab, d_model] = [260, 1026, 16];
    let (x, y) = (values(19, rows * d_model), values(20, rows * d_model));
    let (w_u, b_u) = (values(21, d_vocab * d_model), values(22, d_vocab));
    let run = |y: &Vec<f32>| {
        same_for_any_number_of_threads(|| {
            let (mut kl, b_u) = (vec![f32::NAN; rows], Some(&b_u));
            let op = UnembedKlDivergence::<Cpu> { x: &x, y, w_u: &w_u, b_u, rows, d_model, d_vocab, kl: &mut kl };
            Cpu.unembed_kl_divergence(op).unwrap();
            kl
        })
    };
    let (p, q) = (log_softmax(&x, &w_u, Some(&b_u), dims), log_softmax(&y, &w_u, Some(&b_u), dims));
    let terms: Vec<f64> = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).collect();
    let expected: Vec<f64> = terms.chunks(d_vocab).map(|row| row.iter().sum()).collect();
    assert_close("kl", &run(&y), &expected, 1e-6);
    assert!(run(&x).iter().all(|&kl| kl == 0.0));
}

#[test]
fn values_that_are_not_numbers_are_not_hidden() {
    let (x, w_u, targets) = (vec![1.0, f32::NAN], values(23, 10), vec![1]);
    let mut loss = vec![0.0];
    let op = UnembedCrossEntropy::<Cpu> {
        x: &x,
        w_u: &w_u,
        b_u: None,
        targets: &targets,
        rows: 1,
        d_model: 2,
        d_vocab: 5,
        loss: &mut loss,
    };
    Cpu.unembed_cross_entropy(op).unwrap();
    assert!(loss[0].is_nan());
    let dims = AttentionDims::whole(1, 1, 1, 2);
    let mut z = vec![0.0; 2];
    let ones = vec![1.0; 2];
    Cpu.attention(Attention { q: &x, k: &ones, v: &ones, scale: 1.0, dims, z: &mut z }).unwrap();
    assert!(z[0].is_nan());
}

#[test]
fn operations_refuse_buffers_that_do_not_fit() {
    let dims = AttentionDims::whole(5, 2, 1, 1);
    let five = vec![0.0; 5];
    let mut z = vec![0.0; 5];
    let op = Attention::<Cpu> { q: &five, k: &five, v: &five, scale: 1.0, dims, z: &mut z };
    let message = Cpu.attention(op).unwrap_err().to_string();
    assert_eq!(message, "attention: 5 rows are not a multiple of the context 2");
    let dims = AttentionDims { rows: 6, ..dims };
    let op = Attention::<Cpu> { q: &five, k: &five, v: &five, scale: 1.0, dims, z: &mut z };
    assert_eq!(Cpu.attention(op).unwrap_err().to_string(), "attention: q holds 5 elements, 6 are needed");
    let op = LayerNorm::<Cpu> {
        x: &five,
        from: LayerNormFrom::Scale,
        gain: None,
        bias: None,
        epsilon: 0.0,
        rows: 1,
        d_model: 5,
        scale: None,
        normalized: None,
        output: &mut z,
    };
    let message = Cpu.layer_norm(op).unwrap_err().to_string();
    assert_eq!(message, "layer_norm: it is to start from Scale, which is not given");
}
