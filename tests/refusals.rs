//! Every `needs` line of cuda/*.cu, asked of the C functions themselves: what the Rust side's `check()`
//! would refuse first is refused by them too, before any pointer is looked at. The emulator's functions
//! are asked or, with CUSAE_TEST_DEVICE=cuda, those for a GPU, of which there must be one.

#[path = "../src/backend/native/ffi.rs"]
mod ffi;

use ffi::*;
use std::ffi::{c_int, CStr};
use std::mem::zeroed;
use std::ptr::{null_mut, NonNull};

type Operation<A> = Option<unsafe extern "C" fn(*const A, *mut cusae_stream) -> c_int>;

/// The functions for a GPU, in a build that has them.
#[cfg(has_cuda)]
fn cuda_table() -> *const cusae_table {
    use cusae as _; // which has them linked in
    unsafe extern "C" {
        safe fn cusae_cuda_table() -> *const cusae_table;
    }
    cusae_cuda_table()
}

#[cfg(not(has_cuda))]
fn cuda_table() -> *const cusae_table {
    panic!("CUSAE_TEST_DEVICE is cuda, but this build has no CUDA kernels")
}

/// A table of functions and a stream on its first device.
struct Device {
    table: &'static cusae_table,
    stream: *mut cusae_stream,
}

impl Device {
    fn new() -> Device {
        let on_a_gpu = std::env::var("CUSAE_TEST_DEVICE").is_ok_and(|device| device == "cuda");
        let table = if on_a_gpu { cuda_table() } else { cusae_emu::table().cast() };
        // SAFETY: both tables are complete and constant.
        let table = unsafe { &*table };
        let mut stream = null_mut();
        // SAFETY: `stream` can be written.
        let status = unsafe { table.stream_create.unwrap()(&mut stream, 0) };
        let device = Device { table, stream };
        assert_eq!(status, CUSAE_OK as c_int, "{}", device.text(status));
        device
    }

    fn status<A>(&self, operation: Operation<A>, arguments: &A) -> c_int {
        // SAFETY: arguments of these tests are refused, or have no work to do.
        unsafe { operation.unwrap()(arguments, self.stream) }
    }

    fn text(&self, status: c_int) -> String {
        // SAFETY: the text is valid until the next call of this thread.
        unsafe { CStr::from_ptr(self.table.error_text.unwrap()(status)) }.to_str().unwrap().to_owned()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.stream.is_null() {
            // SAFETY: nobody uses the stream any more.
            unsafe { self.table.stream_destroy.unwrap()(self.stream) };
        }
    }
}

/// Calls an operation with arguments that are zero but for what `fill` writes: it must refuse them with
/// this sentence.
fn refused<A>(operation: impl Fn(&cusae_table) -> Operation<A>, fill: impl Fn(&mut A), sentence: &str) {
    let device = Device::new();
    // SAFETY: the argument structs are numbers and pointers, of which zero is one.
    let mut arguments: A = unsafe { zeroed() };
    fill(&mut arguments);
    let status = device.status(operation(device.table), &arguments);
    assert_eq!((status, device.text(status).as_str()), (CUSAE_EINVAL, sentence));
}

/// Not NULL, where an operation only asks whether it is.
fn some<T>() -> *mut T {
    NonNull::dangling().as_ptr()
}

const TOO_MANY_COLUMNS: u64 = 4_194_241;
const TOO_MANY_ROWS: u64 = 8_388_481;

#[test]
fn a_function_that_there_is_not() {
    let sentence = "function is none of the activation functions";
    refused(|table| table.activate, |a| a.function = CUSAE_TANH + 1, sentence);
    refused(|table| table.linear, |a| a.function = CUSAE_TANH + 1, sentence);
}

#[test]
fn more_columns_than_a_grid_has() {
    let of_a_product = "a product has more than 4194240 columns";
    refused(|table| table.linear, |a| a.d_output = TOO_MANY_COLUMNS, of_a_product);
    let in_bf16 = |a: &mut cusae_linear| (a.type_, a.w_is_transposed, a.d_output) = (CUSAE_BF16, 1, TOO_MANY_COLUMNS);
    refused(|table| table.linear, in_bf16, of_a_product);
    refused(|table| table.decode_dense, |a| a.decoder.d_in = TOO_MANY_COLUMNS, of_a_product);
    refused(|table| table.decode_dense, |a| a.decoder.d_sae = TOO_MANY_COLUMNS, of_a_product);
    refused(|table| table.gradient_dense, |a| a.d_in = TOO_MANY_COLUMNS, of_a_product);
    let wide = |a: &mut cusae_decode_dense| (a.type_, a.decoder.d_in) = (CUSAE_BF16, TOO_MANY_COLUMNS);
    refused(|table| table.decode_dense, wide, of_a_product);
    let large = |a: &mut cusae_decode_dense| (a.type_, a.decoder.d_sae) = (CUSAE_BF16, TOO_MANY_COLUMNS);
    refused(|table| table.decode_dense, large, of_a_product);
    let wide = |a: &mut cusae_gradient_dense| (a.type_, a.d_in) = (CUSAE_BF16, TOO_MANY_COLUMNS);
    refused(|table| table.gradient_dense, wide, of_a_product);
    let large = |a: &mut cusae_gradient_dense| (a.type_, a.d_sae) = (CUSAE_BF16, TOO_MANY_COLUMNS);
    refused(|table| table.gradient_dense, large, of_a_product);
}

#[test]
fn more_rows_than_a_grid_has() {
    let sentence = "there are more than 8,388,480 rows";
    refused(|table| table.row_variance, |a| a.rows = TOO_MANY_ROWS, sentence);
    refused(|table| table.gradient_b_dec, |a| a.rows = TOO_MANY_ROWS, sentence);
    refused(|table| table.gradient_dense, |a| a.rows = TOO_MANY_ROWS, sentence);
    let latents = |a: &mut cusae_gradient_b_dec| (a.w_enc, a.g_b_enc, a.d_sae) = (some(), some(), TOO_MANY_ROWS);
    refused(|table| table.gradient_b_dec, latents, sentence);
    let dense = |a: &mut cusae_sparsity_lp_dense| (a.p, a.rows) = (1.0, TOO_MANY_ROWS);
    refused(|table| table.sparsity_lp_dense, dense, sentence);
}

#[test]
fn operands_of_no_known_type() {
    let sentence = "the operands are neither f32 nor bf16";
    refused(|table| table.linear, |a| a.type_ = CUSAE_BF16 + 1, sentence);
    refused(|table| table.encode_relu, |a| a.encoder.type_ = CUSAE_BF16 + 1, sentence);
    refused(|table| table.encode_jumprelu, |a| a.encoder.type_ = CUSAE_BF16 + 1, sentence);
    refused(|table| table.encode_relu_dense, |a| a.encoder.type_ = CUSAE_BF16 + 1, sentence);
    refused(|table| table.decode_dense, |a| a.type_ = CUSAE_BF16 + 1, sentence);
    refused(|table| table.gradient_dense, |a| a.type_ = CUSAE_BF16 + 1, sentence);
    refused(|table| table.gradient_sparse, |a| a.type_ = CUSAE_BF16 + 1, sentence);
    refused(|table| table.gradient_squares, |a| a.of.type_ = CUSAE_BF16 + 1, sentence);
    refused(|table| table.adam_sparse, |a| a.of.type_ = CUSAE_BF16 + 1, sentence);
    let rows = "w_dec is neither f32 nor bf16";
    let decoder = |a: &mut cusae_decode_sparse| (a.decoder.d_in, a.decoder.w_dec_type) = (1, CUSAE_BF16 + 1);
    refused(|table| table.decode_sparse, decoder, rows);
    refused(|table| table.gradient_values, |a| a.type_ = CUSAE_BF16 + 1, rows);
}

#[test]
fn bf16_where_only_f32_is_possible() {
    refused(|table| table.linear, |a| a.type_ = CUSAE_BF16, "bf16 weights are not transposed");
    refused(|table| table.pre_act_loss, |a| a.encoder.type_ = CUSAE_BF16, "the operands are not f32");
    refused(|table| table.decode_dense, |a| a.decoder.w_dec_type = CUSAE_BF16, "w_dec is not f32");
}

#[test]
fn more_latents_than_an_encoder_has_groups() {
    let sentence = "an encoder has more than 4194240 latents";
    let encoder = |a: &mut cusae_encoder| (a.rows, a.d_sae) = (1, TOO_MANY_COLUMNS);
    let topk = |a: &mut cusae_encode_topk| {
        encoder(&mut a.encoder);
        (a.k, a.lists.stride) = (1, 1);
    };
    refused(|table| table.encode_topk, topk, sentence);
    let of_bf16 = |a: &mut cusae_encode_topk| {
        topk(a);
        a.encoder.type_ = CUSAE_BF16;
    };
    refused(|table| table.encode_topk, of_bf16, sentence);
    refused(|table| table.encode_relu, |a: &mut cusae_encode_relu| encoder(&mut a.encoder), sentence);
    refused(|table| table.encode_relu_dense, |a: &mut cusae_encode_relu_dense| encoder(&mut a.encoder), sentence);
    refused(|table| table.encode_jumprelu, |a: &mut cusae_encode_jumprelu| encoder(&mut a.encoder), sentence);
    let dead = |a: &mut cusae_encode_dead_topk| {
        encoder(&mut a.encoder);
        (a.k, a.lists.stride) = (1, 1);
    };
    refused(|table| table.encode_dead_topk, dead, sentence);
    let of_batch = |a: &mut cusae_encode_batch_topk| {
        encoder(&mut a.encoder);
        a.n = 1;
    };
    refused(|table| table.encode_batch_topk, of_batch, sentence);
    refused(|table| table.pre_act_loss, |a: &mut cusae_pre_act_loss| encoder(&mut a.encoder), sentence);
}

#[test]
fn rows_without_columns() {
    refused(|table| table.layer_norm, |_| {}, "d_model is 0");
    refused(|table| table.prepare_input, |_| {}, "d_in is 0");
    refused(|table| table.decode_sparse, |_| {}, "d_in is 0");
    refused(|table| table.gradient_sparse, |_| {}, "d_in is 0");
    refused(|table| table.gradient_squares, |_| {}, "d_in is 0");
    refused(|table| table.adam_sparse, |_| {}, "d_in is 0");
    refused(|table| table.unembed_cross_entropy, |_| {}, "d_vocab is 0");
    refused(|table| table.unembed_kl_divergence, |_| {}, "d_vocab is 0");
}

#[test]
fn attention_without_a_context_or_heads_without_columns() {
    let sentence = "rows are not a multiple of the context";
    refused(|table| table.embed, |_| {}, "the context is 0");
    refused(|table| table.attention, |_| {}, sentence);
    refused(|table| table.attention_pattern, |_| {}, sentence);
    refused(|table| table.attention_mix, |_| {}, sentence);
    refused(|table| table.attention, |a| (a.dims.rows, a.dims.context) = (5, 2), sentence);
    refused(|table| table.attention_pattern, |a| (a.dims.rows, a.dims.context) = (5, 2), sentence);
    refused(|table| table.attention_mix, |a| (a.dims.rows, a.dims.context) = (5, 2), sentence);
    refused(|table| table.attention, |a| (a.dims.rows, a.dims.context, a.dims.room) = (4, 2, 2), "d_head is 0");
    refused(|table| table.attention_pattern, |a| (a.dims.rows, a.dims.context, a.dims.room) = (4, 2, 2), "d_head is 0");
    refused(|table| table.attention_mix, |a| (a.dims.rows, a.dims.context, a.dims.room) = (4, 2, 2), "d_head is 0");
}

#[test]
fn keys_and_values_without_room_for_all_positions() {
    let sentence = "k and v have no room for all positions";
    let small = |dims: &mut cusae_attention_dims| (dims.rows, dims.context, dims.past, dims.room) = (4, 2, 3, 4);
    refused(|table| table.attention, |a| small(&mut a.dims), sentence);
    refused(|table| table.attention_pattern, |a| small(&mut a.dims), sentence);
    refused(|table| table.attention_mix, |a| small(&mut a.dims), sentence);
}

#[test]
fn sampling_that_makes_no_sense() {
    let sample = |change: fn(&mut cusae_sample_token), sentence| {
        let with = move |a: &mut cusae_sample_token| {
            (a.d_vocab, a.temperature, a.top_p) = (10, 1.0, 1.0);
            change(a);
        };
        refused(|table| table.sample_token, with, sentence);
    };
    sample(|a| a.d_vocab = 0, "d_vocab is not between 1 and 8388608");
    sample(|a| a.d_vocab = (1 << 23) + 1, "d_vocab is not between 1 and 8388608");
    sample(|a| a.temperature = -0.5, "temperature is less than 0");
    sample(|a| a.temperature = f32::NAN, "temperature is less than 0");
    sample(|a| a.top_p = 0.0, "top_p is not above 0 and at most 1");
    sample(|a| a.top_p = 1.5, "top_p is not above 0 and at most 1");
}

#[test]
fn layer_norm_from_what_is_not_given() {
    let from = |from| {
        move |a: &mut cusae_layer_norm| {
            (a.d_model, a.from) = (1, from);
        }
    };
    refused(|table| table.layer_norm, from(CUSAE_FROM_SCALE), "it is to start from scale, which is not given");
    let of_normalized = "it is to start from normalized, which is not given";
    refused(|table| table.layer_norm, from(CUSAE_FROM_NORMALIZED), of_normalized);
    let none = from(CUSAE_FROM_NORMALIZED + 1);
    refused(|table| table.layer_norm, none, "from is none of the places where it can start");
}

#[test]
fn a_normalization_that_there_is_not() {
    let unknown = |a: &mut cusae_prepare_input| (a.d_in, a.normalization) = (1, CUSAE_NORMALIZE_CONSTANT + 1);
    refused(|table| table.prepare_input, unknown, "there is no such normalization");
}

#[test]
fn a_selection_that_is_none() {
    let topk =
        |k, d_sae, stride| move |a: &mut cusae_encode_topk| (a.k, a.encoder.d_sae, a.lists.stride) = (k, d_sae, stride);
    refused(|table| table.encode_topk, topk(0, 5, 5), "k is not between 1 and d_sae");
    refused(|table| table.encode_topk, topk(6, 5, 9), "k is not between 1 and d_sae");
    refused(|table| table.encode_topk, topk(3, 5, 2), "the lists have no room for k entries in a row");
    let dead = |k, stride| move |a: &mut cusae_encode_dead_topk| (a.k, a.lists.stride) = (k, stride);
    refused(|table| table.encode_dead_topk, dead(0, 5), "k is 0");
    refused(|table| table.encode_dead_topk, dead(3, 2), "the lists have no room for k entries in a row");
    let without_room = |a: &mut cusae_decode_sparse| (a.decoder.d_in, a.n_dead) = (1, some());
    refused(|table| table.decode_sparse, without_room, "AuxK's weight is full with 0 dead latents");
}

#[test]
fn a_selection_from_the_batch_that_is_none() {
    let batch = |n, rows, d_sae| {
        move |a: &mut cusae_encode_batch_topk| {
            (a.n, a.encoder.rows, a.encoder.d_sae, a.lists.stride) = (n, rows, d_sae, 5);
        }
    };
    refused(|table| table.encode_batch_topk, batch(0, 2, 3), "n is not between 1 and rows times d_sae");
    refused(|table| table.encode_batch_topk, batch(7, 2, 3), "n is not between 1 and rows times d_sae");
    refused(|table| table.encode_batch_topk, batch(1 << 32, 1 << 31, 2), "n does not fit 32 bits");
}

#[test]
fn lists_of_another_stride() {
    refused(|table| table.gate, |a| a.gates.stride = 1, "the gates' stride is not the features'");
    refused(|table| table.gate_gradient, |a| a.features.stride = 1, "the gates' stride is not the features'");
    refused(|table| table.slice_lists, |a| a.out.stride = 1, "the stride is not that of the slice");
}

#[test]
fn a_window_without_width() {
    for bandwidth in [0.0, -1.0, f32::NAN] {
        refused(|table| table.jumprelu_gradient, |a| a.bandwidth = bandwidth, "the bandwidth is not greater than 0");
    }
}

#[test]
fn a_sparsity_that_there_is_not() {
    let unknown = |a: &mut cusae_jumprelu_gradient| {
        (a.bandwidth, a.sparsity) = (1.0, CUSAE_SPARSITY_QUADRATIC + 1);
    };
    refused(|table| table.jumprelu_gradient, unknown, "there is no such sparsity");
}

#[test]
fn a_window_of_negative_width() {
    let sentence = "the bandwidth is negative";
    refused(|table| table.encode_jumprelu, |a| a.bandwidth = -1.0, sentence);
    refused(|table| table.encode_jumprelu, |a| a.bandwidth = f32::NAN, sentence);
}

#[test]
fn a_norm_without_power() {
    for p in [0.0, -1.0, f32::NAN] {
        refused(|table| table.sparsity_lp, |a| a.p = p, "p is not greater than 0");
        refused(|table| table.sparsity_lp_dense, |a| a.p = p, "p is not greater than 0");
    }
}

#[test]
fn lists_with_more_places_than_32_bits_count() {
    let sentence = "rows times stride does not fit 32 bits";
    refused(|table| table.transpose_lists, |a| (a.rows, a.lists.stride) = (1 << 31, 2), sentence);
    let gradient = |a: &mut cusae_gradient_sparse| (a.d_in, a.rows, a.lists.stride) = (1, 1 << 31, 2);
    refused(|table| table.gradient_sparse, gradient, sentence);
    let listed = |of: &mut cusae_listed_gradient| (of.d_in, of.rows, of.lists.stride) = (1, 1 << 31, 2);
    refused(|table| table.gradient_squares, |a| listed(&mut a.of), sentence);
    refused(|table| table.adam_sparse, |a| listed(&mut a.of), sentence);
}

#[test]
fn one_of_two_buffers_that_belong_together() {
    let sentence = "it takes both of w_enc and g_b_enc, or neither";
    refused(|table| table.gradient_b_dec, |a| a.w_enc = some(), sentence);
    refused(|table| table.gradient_b_dec, |a| a.g_b_enc = some(), sentence);
}

#[test]
fn both_or_neither_of_two_forms_of_features() {
    let both = |a: &mut cusae_update_firing| (a.offsets, a.features) = (some(), some());
    refused(|table| table.update_firing, both, "it takes either offsets or features, not both");
    refused(|table| table.update_firing, |a| a.rows = 1, "it takes either offsets or features");
}

#[test]
fn more_gradients_than_there_is_room_for() {
    let sentence = "there are more than 16 gradients";
    refused(|table| table.clip_scale, |a| a.n_gradients = CUSAE_MAX_GRADIENTS + 1, sentence);
}

#[test]
fn elements_of_another_size() {
    let sentence = "elements have neither 2, 4, 8 nor 16 bytes";
    refused(|table| table.fill, |a| (a.len, a.element_bytes) = (1, 3), sentence);
}

#[test]
fn scratch_memory_that_would_move_under_recorded_work() {
    let device = Device::new();
    // SAFETY: the stream is valid.
    assert_eq!(unsafe { device.table.capture_begin.unwrap()(device.stream) }, CUSAE_OK as c_int);
    let values = cusae_sum { values: some(), out: some(), len: 1 };
    let status = device.status(device.table.sum, &values);
    let sentence = "scratch memory must grow: run the work once before it is captured";
    assert_eq!((status, device.text(status).as_str()), (CUSAE_EINVAL, sentence));
    let mut graph = null_mut();
    // SAFETY: `graph` can be written, and is destroyed once.
    unsafe {
        assert_eq!(device.table.capture_end.unwrap()(&mut graph, device.stream), CUSAE_OK as c_int);
        device.table.graph_destroy.unwrap()(graph);
    }
}

/// The sentences of cuda/*.cu, each of which must be expected by a test of this file.
#[test]
fn every_refusal_is_tested_here() {
    for file in std::fs::read_dir("cuda").unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        for sentence in text.split("refuse(\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let tests = include_str!("refusals.rs");
            assert!(tests.contains(sentence), "{}: nothing tests that it refuses: {sentence}", file.display());
        }
    }
}
