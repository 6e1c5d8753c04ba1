//! Every kernel, on every device at hand, against the CPU backend.

mod cases;
mod devices;

use cases::{activation, check, check_both_paths, decoder, devices, encode, fails, ghost, listed, lm, refused, sae};
use cusae::backend::{
    bf16, ActivationFunction, Backend, Buffer, Cpu, DecodeDense, Decoder, EncodeRelu, Encoder, FeatureLists,
    GatherRows, Linear, Matrix, StepScalars, UnembedCrossEntropy,
};

#[test]
fn embed() {
    check(lm::embed());
}

#[test]
fn a_token_outside_the_vocabulary_is_reported() {
    let case = lm::EmbedCase { last_token: Some(5), ..lm::embed().swap_remove(1) };
    fails(case, "embed: token id 5 is outside the vocabulary of 5");
}

#[test]
fn layer_norm() {
    check(lm::layer_norm());
}

#[test]
fn layer_norm_refuses_rows_without_columns() {
    refused(lm::LayerNormCase { rows: 0, d_model: 0, ..lm::layer_norm().swap_remove(0) }, "layer_norm: d_model is 0");
}

#[test]
fn linear() {
    check(lm::linear());
}

#[test]
fn linear_refuses_more_columns_than_its_grid_has_room_for() {
    let case = lm::LinearCase { rows: 0, d_input: 0, d_output: 4_194_241, ..lm::linear().swap_remove(0) };
    refused(case, "linear: a product has more than 4194240 columns");
}

#[test]
fn linear_in_bf16() {
    check_both_paths(lm::linear_in_bf16());
}

#[test]
fn products_refuse_operands_of_two_types_and_weights_laid_out_for_another() {
    let case = || lm::LinearCase { bf16: true, ..lm::linear().swap_remove(0) };
    assert!(!case().w_is_transposed);
    fails(case(), "linear: bf16 weights are not transposed");
    let (x, w, mut out) = (vec![1.0f32], vec![bf16::ONE], vec![0.0]);
    let error = Cpu.linear(Linear {
        x: Matrix::F32(&x),
        w: Matrix::Bf16(&w),
        w_is_transposed: true,
        bias: None,
        function: ActivationFunction::Identity,
        residual: None,
        rows: 1,
        d_input: 1,
        d_output: 1,
        out: &mut out,
    });
    let sentence = "linear: x is f32, w is bf16; a product takes two of one type";
    assert_eq!(error.unwrap_err().to_string(), sentence);
}

#[test]
fn activate() {
    check(lm::activate());
}

#[test]
fn attention_and_its_pattern() {
    check(lm::attention());
}

#[test]
fn attention_mix() {
    check(lm::attention().into_iter().map(lm::AttentionMixCase));
}

#[test]
fn attention_refuses_heads_without_columns() {
    let case = || lm::AttentionCase { d_head: 0, ..lm::attention().swap_remove(0) };
    refused(case(), "attention: d_head is 0");
    refused(lm::AttentionMixCase(case()), "attention_mix: d_head is 0");
}

#[test]
fn attention_refuses_caches_without_room() {
    let case = || lm::AttentionCase { past: 3, room: 4, ..lm::attention().swap_remove(1) };
    fails(case(), "attention: k and v have room for 4 positions, 5 are needed");
    fails(lm::AttentionMixCase(case()), "attention_mix: k and v have room for 4 positions, 5 are needed");
}

#[test]
fn sample_token() {
    check(lm::sample_token());
}

#[test]
fn sample_token_refuses_settings_out_of_range() {
    let case = |change: fn(&mut lm::SampleTokenCase)| {
        let mut case = lm::sample_token().swap_remove(1);
        change(&mut case);
        case
    };
    let sentence = |what: &str| format!("sample_token: {what}");
    fails(case(|it| it.d_vocab = 0), &sentence("d_vocab is 0, expected 1 to 8388608"));
    fails(case(|it| it.sampling.temperature = -1.0), &sentence("temperature is -1, expected a number of at least 0"));
    fails(
        case(|it| it.sampling.temperature = f32::NAN),
        &sentence("temperature is NaN, expected a number of at least 0"),
    );
    fails(case(|it| it.sampling.top_p = 0.0), &sentence("top_p is 0, expected above 0 and at most 1"));
    fails(case(|it| it.sampling.top_p = 1.5), &sentence("top_p is 1.5, expected above 0 and at most 1"));
}

#[test]
fn unembed_cross_entropy() {
    check(lm::unembed());
}

#[test]
fn unembed_kl_divergence() {
    check(lm::unembed().into_iter().map(lm::KlDivergenceCase));
}

#[test]
fn a_target_outside_the_vocabulary_is_reported() {
    let case = lm::UnembedCase { last_target: Some(7), ..lm::unembed().swap_remove(1) };
    fails(case, "unembed_cross_entropy: token id 7 is outside the vocabulary of 7");
}

#[test]
fn unembedding_refuses_an_empty_vocabulary() {
    let case = || lm::UnembedCase { rows: 0, d_vocab: 0, ..lm::unembed().swap_remove(0) };
    refused(case(), "unembed_cross_entropy: d_vocab is 0");
    refused(lm::KlDivergenceCase(case()), "unembed_kl_divergence: d_vocab is 0");
}

#[test]
fn add() {
    check(lm::add());
}

#[test]
fn gather_rows() {
    check(sae::gather_rows());
}

#[test]
fn scatter_rows() {
    check(sae::scatter_rows());
}

#[test]
fn a_row_outside_the_matrix_is_reported() {
    let case = |rows: &[u32], scatter, last_to| {
        let rows = rows.to_vec();
        sae::RowsCase { rows, available: 9, columns: 40, first: 0, scatter, last_to }
    };
    fails(case(&[0, 9, 1], false, None), "gather_rows: row 9 is asked for, the source has 9");
    fails(case(&[0, 9, 1], true, None), "scatter_rows: row 9 is asked for, the source has 9");
    fails(case(&[0, 8, 1], true, Some(5)), "scatter_rows: row 5 is asked for, the destination has 5");
}

#[test]
fn what_a_bad_index_stands_for_is_not_a_number() {
    for device in devices() {
        let (from, rows) = (device.upload(&[1.0f32; 9]).unwrap(), device.upload(&[2u32, 9]).unwrap());
        let mut to = device.upload(&[0.0f32; 2]).unwrap();
        let op = GatherRows { from: &from, rows: &rows, first: 0, n: 2, columns: 1, to: &mut to };
        device.gather_rows(op).unwrap();
        assert!(device.download(&to).is_err());
        let gathered = device.download(&to).unwrap();
        assert!(gathered[0] == 1.0 && gathered[1].is_nan(), "{gathered:?}");

        let (w_u, targets) = (device.upload(&[1.0f32; 3]).unwrap(), device.upload(&[0u32, 3]).unwrap());
        let mut loss = device.upload(&[0.0f32; 2]).unwrap();
        let (x, loss_out) = (&from, &mut loss);
        let (rows, d_model, d_vocab) = (2, 1, 3);
        let targets = &targets;
        let op = UnembedCrossEntropy { x, w_u: &w_u, b_u: None, targets, rows, d_model, d_vocab, loss: loss_out };
        device.unembed_cross_entropy(op).unwrap();
        assert!(device.download(&loss).is_err());
        let loss = device.download(&loss).unwrap();
        assert!(!loss[0].is_nan() && loss[1].is_nan(), "{loss:?}");
    }
}

#[test]
fn prepare_input() {
    check(sae::prepare_input());
}

#[test]
fn encode_topk() {
    check(encode::topk());
}

#[test]
fn encode_topk_refuses_what_cannot_be_selected() {
    let case = |k, stride| encode::TopkCase { k, stride, ..encode::topk().swap_remove(0) };
    fails(case(0, 5), "encode_topk: k = 0 is not between 1 and d_sae = 5");
    fails(case(6, 6), "encode_topk: k = 6 is not between 1 and d_sae = 5");
    fails(case(3, 2), "encode_topk: lists of 3 x 2 are too small for 3 x 3");
}

#[test]
fn encode_dead_topk() {
    check(encode::dead_topk());
}

#[test]
fn encode_dead_topk_refuses_what_cannot_be_selected() {
    let case = |k, stride| encode::TopkCase { k, stride, ..encode::dead_topk().swap_remove(0) };
    fails(case(0, 5), "encode_dead_topk: k = 0 is not between 1 and the stride of the lists, 5");
    fails(case(3, 2), "encode_dead_topk: k = 3 is not between 1 and the stride of the lists, 2");
}

#[test]
fn encode_relu() {
    check(encode::relu());
}

/// What comes after must not read beyond the lists, before the host has learnt of the longest row.
#[test]
fn counts_stay_within_lists_that_are_too_short() {
    for device in devices() {
        let ones = device.upload(&[1.0f32; 3]).unwrap();
        let (mut lists, mut longest) = (FeatureLists::new(&device, 1, 2).unwrap(), device.zeros(1).unwrap());
        let encoder =
            Encoder { input: Matrix::F32(&ones), w_enc: Matrix::F32(&ones), b_enc: &ones, rows: 1, d_in: 1, d_sae: 3 };
        device.encode_relu(EncodeRelu { encoder, lists: &mut lists, longest: &mut longest }).unwrap();
        assert_eq!(device.download(&longest).unwrap(), [3]);
        assert_eq!(device.download(&lists.counts).unwrap(), [2]);
        assert_eq!(device.download(&lists.indices).unwrap(), [0, 1]);
    }
}

#[test]
fn encode_relu_dense() {
    check(encode::relu_dense());
}

#[test]
fn encode_topk_in_bf16() {
    check_both_paths(encode::topk_in_bf16());
}

#[test]
fn encode_dead_topk_in_bf16() {
    check_both_paths(encode::dead_topk_in_bf16());
}

#[test]
fn encode_relu_in_bf16() {
    check_both_paths(encode::relu_in_bf16());
}

#[test]
fn encode_relu_dense_in_bf16() {
    check_both_paths(encode::relu_dense_in_bf16());
}

#[test]
fn encode_batch_topk_in_bf16() {
    check_both_paths(encode::batch_topk_in_bf16());
}

#[test]
fn encode_jumprelu_in_bf16() {
    check_both_paths(encode::jumprelu_in_bf16());
}

#[test]
fn pre_act_loss_refuses_bf16() {
    fails(encode::pre_act_loss().swap_remove(1).in_bf16(), "pre_act_loss: the operands are bf16, expected f32");
}

#[test]
fn transpose_lists() {
    check(sae::transpose_lists());
}

#[test]
fn update_firing() {
    check(sae::update_firing());
}

#[test]
fn find_dead() {
    check(sae::find_dead());
}

#[test]
fn decode_sparse() {
    check(decoder::decode_sparse());
}

#[test]
fn decode_sparse_of_bf16() {
    check(decoder::decode_sparse_of_bf16());
}

#[test]
fn decode_dense() {
    check(decoder::decode_dense());
}

#[test]
fn decode_dense_rounds_w_dec_by_itself() {
    let (w_dec, features) = (vec![bf16::ONE], vec![1.0]);
    let (mut gradient, mut squared_error, mut feature_gradient) = (vec![0.0], vec![0.0], vec![0.0]);
    let decoder = Decoder {
        w_dec: Matrix::Bf16(&w_dec),
        b_dec: None,
        target: &vec![1.0],
        denormalize: None,
        gradient_scale: 1.0,
        rows: 1,
        d_in: 1,
        d_sae: 1,
        reconstruction: None,
        gradient: &mut gradient,
        squared_error: &mut squared_error,
    };
    let feature_gradient = &mut feature_gradient;
    let refused = Cpu.decode_dense(DecodeDense { decoder, features: &features, feature_gradient, bf16: true });
    assert_eq!(refused.unwrap_err().to_string(), "decode_dense: w_dec is bf16; it is rounded here");
}

#[test]
fn decode_dense_in_bf16() {
    check_both_paths(decoder::decode_dense_in_bf16());
}

#[test]
fn sparsity() {
    check(decoder::sparsity());
}

#[test]
fn sparsity_refuses_a_norm_without_power() {
    let case = |dense| decoder::SparsityCase { p: 0.0, dense, ..decoder::sparsity().swap_remove(0) };
    refused(case(false), "sparsity_lp: p is not greater than 0");
    refused(case(true), "sparsity_lp_dense: p is not greater than 0");
}

#[test]
fn gradient_sparse() {
    check(decoder::gradient_sparse());
}

#[test]
fn gradient_sparse_of_bf16() {
    check(decoder::gradient_sparse_of_bf16());
}

/// Rows of latents without entries are left as they were.
#[test]
fn gradient_sparse_of_listed_rows_only() {
    let cases = decoder::gradient_sparse().into_iter();
    check(cases.map(|case| decoder::GradientCase { accumulate: false, only_listed: true, ..case }));
}

#[test]
fn gradient_squares() {
    check(listed::listed().into_iter().map(listed::SquaresCase));
}

#[test]
fn gradient_squares_of_bf16() {
    check(listed::listed_of_bf16().into_iter().map(listed::SquaresCase));
}

#[test]
fn adam_sparse() {
    check(listed::listed().into_iter().map(listed::AdamSparseCase));
}

#[test]
fn adam_sparse_of_bf16() {
    check(listed::listed_of_bf16().into_iter().map(listed::AdamSparseCase));
}

#[test]
fn gradient_dense() {
    check(decoder::gradient_dense());
}

#[test]
fn gradient_dense_in_bf16() {
    check_both_paths(decoder::gradient_dense_in_bf16());
}

#[test]
fn rows_without_columns_are_refused() {
    let decode = decoder::DecodeCase { d_in: 0, ..decoder::decode_sparse().swap_remove(1) };
    refused(decode, "decode_sparse: d_in is 0");
    let of = || listed::ListedCase { d_in: 0, ..listed::listed().swap_remove(1) };
    refused(listed::SquaresCase(of()), "gradient_squares: d_in is 0");
    refused(listed::AdamSparseCase(of()), "adam_sparse: d_in is 0");
    let gradient = decoder::GradientCase { d_in: 0, ..decoder::gradient_sparse().swap_remove(1) };
    refused(gradient, "gradient_sparse: d_in is 0");
}

#[test]
fn gradient_b_dec() {
    check(decoder::gradient_b_dec());
}

#[test]
fn gradient_b_dec_refuses_more_rows_than_a_grid_has() {
    let case = decoder::GradientBDecCase { rows: 8_388_481, d_in: 0, d_sae: 0, through_encoder: false };
    refused(case, "gradient_b_dec: there are more than 8,388,480 rows");
}

#[test]
fn clip_scale() {
    check(sae::clip_scale());
}

#[test]
fn clip_scale_refuses_more_gradients_than_it_has_room_for() {
    let case = sae::ClipScaleCase { lens: vec![1; 17], squares: 0, max_norm: None, factor: 1.0 };
    refused(case, "clip_scale: 17 gradients are given, at most 16 are possible");
}

#[test]
fn adam() {
    check(sae::adam());
}

#[test]
fn row_norms() {
    check(sae::rows_of_matrix().into_iter().map(sae::RowNormsCase));
}

#[test]
fn row_variance() {
    check(sae::rows_of_matrix().into_iter().map(sae::RowVarianceCase));
}

#[test]
fn exponential() {
    check(ghost::exponential());
}

#[test]
fn ghost_error() {
    check(ghost::ghost_error());
}

#[test]
fn scale() {
    check(sae::scale());
}

#[test]
fn round_bf16() {
    check(sae::round_bf16());
}

#[test]
fn sum() {
    check(sae::sum());
}

#[test]
fn note_non_finite() {
    check(sae::note_non_finite());
}

#[test]
fn what_is_written_is_read() {
    for device in devices() {
        let mut buffer = device.zeros::<u32>(5).unwrap();
        device.write(&mut buffer, 1, &[7, 8]).unwrap();
        assert_eq!(device.download(&buffer).unwrap(), [0, 7, 8, 0, 0]);
        let mut copy = device.upload(&[1u32; 4]).unwrap();
        device.copy(&buffer, 1, &mut copy, 2, 2).unwrap();
        assert_eq!(device.download(&copy).unwrap(), [1, 1, 7, 8]);
        let mut part = [0; 2];
        device.read(&copy, 1, &mut part).unwrap();
        assert_eq!(part, [1, 7]);
        let empty = device.upload::<f64>(&[]).unwrap();
        assert!(empty.is_empty() && device.download(&empty).unwrap().is_empty());
    }
}

#[test]
fn buffers_are_filled_with_any_value() {
    for device in devices() {
        let mut floats = device.zeros::<f32>(257).unwrap();
        device.fill(&mut floats, -1.5).unwrap();
        assert_eq!(device.download(&floats).unwrap(), [-1.5f32; 257]);
        let mut halves = device.zeros::<bf16>(5).unwrap();
        device.fill(&mut halves, bf16::ONE).unwrap();
        assert_eq!(device.download(&halves).unwrap(), [bf16::ONE; 5]);
        let mut doubles = device.zeros::<f64>(3).unwrap();
        device.fill(&mut doubles, 0.1).unwrap();
        assert_eq!(device.download(&doubles).unwrap(), [0.1f64; 3]);
        let mut scalars = device.zeros::<StepScalars>(2).unwrap();
        let value = StepScalars { step_size: 0.5, root_correction: -2.0, coefficient: 0.1, step: 7 };
        device.fill(&mut scalars, value).unwrap();
        assert_eq!(device.download(&scalars).unwrap(), [value; 2]);
    }
}

#[test]
fn what_does_not_fit_is_refused_before_it_reaches_the_device() {
    for device in devices() {
        let mut buffer = device.zeros::<f32>(3).unwrap();
        let error = device.write(&mut buffer, 2, &[0.0; 2]).unwrap_err();
        assert_eq!(error.to_string(), "write: buffer holds 3 elements, 4 are needed");
        assert!(device.read(&buffer, 0, &mut [0.0; 4]).is_err());
    }
}

#[test]
fn topk_by_magnitude() {
    check(encode::magnitude());
}

#[test]
fn encode_batch_topk() {
    check(encode::batch_topk());
}

#[test]
fn encode_jumprelu() {
    check(encode::jumprelu());
}

#[test]
fn pre_act_loss() {
    check(encode::pre_act_loss());
}

#[test]
fn jumprelu_gradient() {
    check(activation::jumprelu_gradient());
}

#[test]
fn gate_and_its_gradient() {
    check(activation::gate());
}

#[test]
fn gates_of_another_stride_are_refused() {
    let case = activation::GateCase { wrong_stride: true, ..activation::gate().swap_remove(6) };
    fails(case, "gate: the gates' stride 7 is not the features' 8");
}

#[test]
fn slice_lists() {
    check(activation::slice_lists());
}

#[test]
fn sum_by_latent() {
    check(activation::sum_by_latent());
}

#[test]
fn gradient_values() {
    check(activation::gradient_values());
}
