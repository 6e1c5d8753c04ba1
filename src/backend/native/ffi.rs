//! Generated from cuda/api.h by scripts/generate_ffi.sh; do not edit.
#![allow(non_camel_case_types, dead_code, reason = "names are api.h's")]

pub const CUSAE_OK: u32 = 0;
pub const CUSAE_EINVAL: i32 = -1;
pub const CUSAE_EINDEX: i32 = -3;
pub const CUSAE_MAX_GRADIENTS: u32 = 16;
pub const CUSAE_FAULT_NONE: cusae_fault_kind = 0;
pub const CUSAE_FAULT_EMBED_TOKEN: cusae_fault_kind = 1;
pub const CUSAE_FAULT_UNEMBED_TARGET: cusae_fault_kind = 2;
pub const CUSAE_FAULT_GATHER_SOURCE: cusae_fault_kind = 3;
pub const CUSAE_FAULT_SCATTER_SOURCE: cusae_fault_kind = 4;
pub const CUSAE_FAULT_SCATTER_DESTINATION: cusae_fault_kind = 5;
pub type cusae_fault_kind = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_fault {
    pub kind: u32,
    pub index: u32,
    pub limit: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_fault"][::core::mem::size_of::<cusae_fault>() - 16usize];
    ["Alignment of cusae_fault"][::core::mem::align_of::<cusae_fault>() - 4usize];
    ["Offset of field: cusae_fault::kind"][::core::mem::offset_of!(cusae_fault, kind) - 0usize];
    ["Offset of field: cusae_fault::index"][::core::mem::offset_of!(cusae_fault, index) - 4usize];
    ["Offset of field: cusae_fault::limit"][::core::mem::offset_of!(cusae_fault, limit) - 8usize];
    ["Offset of field: cusae_fault::unused"][::core::mem::offset_of!(cusae_fault, unused) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_stream {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_event {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_graph {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_device {
    pub name: [::core::ffi::c_char; 256usize],
    pub compute_major: i32,
    pub compute_minor: i32,
    pub multiprocessors: i32,
    pub driver_version: i32,
    pub runtime_version: i32,
    pub unused: i32,
    pub memory_total_bytes: u64,
    pub memory_free_bytes: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_device"][::core::mem::size_of::<cusae_device>() - 296usize];
    ["Alignment of cusae_device"][::core::mem::align_of::<cusae_device>() - 8usize];
    ["Offset of field: cusae_device::name"][::core::mem::offset_of!(cusae_device, name) - 0usize];
    ["Offset of field: cusae_device::compute_major"][::core::mem::offset_of!(cusae_device, compute_major) - 256usize];
    ["Offset of field: cusae_device::compute_minor"][::core::mem::offset_of!(cusae_device, compute_minor) - 260usize];
    ["Offset of field: cusae_device::multiprocessors"]
        [::core::mem::offset_of!(cusae_device, multiprocessors) - 264usize];
    ["Offset of field: cusae_device::driver_version"][::core::mem::offset_of!(cusae_device, driver_version) - 268usize];
    ["Offset of field: cusae_device::runtime_version"]
        [::core::mem::offset_of!(cusae_device, runtime_version) - 272usize];
    ["Offset of field: cusae_device::unused"][::core::mem::offset_of!(cusae_device, unused) - 276usize];
    ["Offset of field: cusae_device::memory_total_bytes"]
        [::core::mem::offset_of!(cusae_device, memory_total_bytes) - 280usize];
    ["Offset of field: cusae_device::memory_free_bytes"]
        [::core::mem::offset_of!(cusae_device, memory_free_bytes) - 288usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_embed {
    pub tokens: *const u32,
    pub w_e: *const f32,
    pub w_pos: *const f32,
    pub embed: *mut f32,
    pub pos_embed: *mut f32,
    pub resid: *mut f32,
    pub rows: u64,
    pub context: u64,
    pub past: u64,
    pub d_model: u64,
    pub d_vocab: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_embed"][::core::mem::size_of::<cusae_embed>() - 88usize];
    ["Alignment of cusae_embed"][::core::mem::align_of::<cusae_embed>() - 8usize];
    ["Offset of field: cusae_embed::tokens"][::core::mem::offset_of!(cusae_embed, tokens) - 0usize];
    ["Offset of field: cusae_embed::w_e"][::core::mem::offset_of!(cusae_embed, w_e) - 8usize];
    ["Offset of field: cusae_embed::w_pos"][::core::mem::offset_of!(cusae_embed, w_pos) - 16usize];
    ["Offset of field: cusae_embed::embed"][::core::mem::offset_of!(cusae_embed, embed) - 24usize];
    ["Offset of field: cusae_embed::pos_embed"][::core::mem::offset_of!(cusae_embed, pos_embed) - 32usize];
    ["Offset of field: cusae_embed::resid"][::core::mem::offset_of!(cusae_embed, resid) - 40usize];
    ["Offset of field: cusae_embed::rows"][::core::mem::offset_of!(cusae_embed, rows) - 48usize];
    ["Offset of field: cusae_embed::context"][::core::mem::offset_of!(cusae_embed, context) - 56usize];
    ["Offset of field: cusae_embed::past"][::core::mem::offset_of!(cusae_embed, past) - 64usize];
    ["Offset of field: cusae_embed::d_model"][::core::mem::offset_of!(cusae_embed, d_model) - 72usize];
    ["Offset of field: cusae_embed::d_vocab"][::core::mem::offset_of!(cusae_embed, d_vocab) - 80usize];
};
pub const CUSAE_FROM_INPUT: cusae_layer_norm_from = 0;
pub const CUSAE_FROM_SCALE: cusae_layer_norm_from = 1;
pub const CUSAE_FROM_NORMALIZED: cusae_layer_norm_from = 2;
pub type cusae_layer_norm_from = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_layer_norm {
    pub x: *const f32,
    pub gain: *const f32,
    pub bias: *const f32,
    pub scale: *mut f32,
    pub normalized: *mut f32,
    pub output: *mut f32,
    pub rows: u64,
    pub d_model: u64,
    pub epsilon: f32,
    pub from: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_layer_norm"][::core::mem::size_of::<cusae_layer_norm>() - 72usize];
    ["Alignment of cusae_layer_norm"][::core::mem::align_of::<cusae_layer_norm>() - 8usize];
    ["Offset of field: cusae_layer_norm::x"][::core::mem::offset_of!(cusae_layer_norm, x) - 0usize];
    ["Offset of field: cusae_layer_norm::gain"][::core::mem::offset_of!(cusae_layer_norm, gain) - 8usize];
    ["Offset of field: cusae_layer_norm::bias"][::core::mem::offset_of!(cusae_layer_norm, bias) - 16usize];
    ["Offset of field: cusae_layer_norm::scale"][::core::mem::offset_of!(cusae_layer_norm, scale) - 24usize];
    ["Offset of field: cusae_layer_norm::normalized"][::core::mem::offset_of!(cusae_layer_norm, normalized) - 32usize];
    ["Offset of field: cusae_layer_norm::output"][::core::mem::offset_of!(cusae_layer_norm, output) - 40usize];
    ["Offset of field: cusae_layer_norm::rows"][::core::mem::offset_of!(cusae_layer_norm, rows) - 48usize];
    ["Offset of field: cusae_layer_norm::d_model"][::core::mem::offset_of!(cusae_layer_norm, d_model) - 56usize];
    ["Offset of field: cusae_layer_norm::epsilon"][::core::mem::offset_of!(cusae_layer_norm, epsilon) - 64usize];
    ["Offset of field: cusae_layer_norm::from"][::core::mem::offset_of!(cusae_layer_norm, from) - 68usize];
};
pub const CUSAE_IDENTITY: cusae_function = 0;
pub const CUSAE_RELU: cusae_function = 1;
pub const CUSAE_GELU_TANH: cusae_function = 2;
pub const CUSAE_GELU_ERF: cusae_function = 3;
pub const CUSAE_SILU: cusae_function = 4;
pub const CUSAE_QUICK_GELU: cusae_function = 5;
pub const CUSAE_TANH: cusae_function = 6;
pub type cusae_function = ::core::ffi::c_uint;
pub const CUSAE_F32: cusae_type = 0;
pub const CUSAE_BF16: cusae_type = 1;
pub type cusae_type = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_linear {
    pub x: *const ::core::ffi::c_void,
    pub w: *const ::core::ffi::c_void,
    pub bias: *const f32,
    pub residual: *const f32,
    pub out: *mut f32,
    pub rows: u64,
    pub d_input: u64,
    pub d_output: u64,
    pub w_is_transposed: u32,
    pub function: u32,
    pub type_: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_linear"][::core::mem::size_of::<cusae_linear>() - 80usize];
    ["Alignment of cusae_linear"][::core::mem::align_of::<cusae_linear>() - 8usize];
    ["Offset of field: cusae_linear::x"][::core::mem::offset_of!(cusae_linear, x) - 0usize];
    ["Offset of field: cusae_linear::w"][::core::mem::offset_of!(cusae_linear, w) - 8usize];
    ["Offset of field: cusae_linear::bias"][::core::mem::offset_of!(cusae_linear, bias) - 16usize];
    ["Offset of field: cusae_linear::residual"][::core::mem::offset_of!(cusae_linear, residual) - 24usize];
    ["Offset of field: cusae_linear::out"][::core::mem::offset_of!(cusae_linear, out) - 32usize];
    ["Offset of field: cusae_linear::rows"][::core::mem::offset_of!(cusae_linear, rows) - 40usize];
    ["Offset of field: cusae_linear::d_input"][::core::mem::offset_of!(cusae_linear, d_input) - 48usize];
    ["Offset of field: cusae_linear::d_output"][::core::mem::offset_of!(cusae_linear, d_output) - 56usize];
    ["Offset of field: cusae_linear::w_is_transposed"]
        [::core::mem::offset_of!(cusae_linear, w_is_transposed) - 64usize];
    ["Offset of field: cusae_linear::function"][::core::mem::offset_of!(cusae_linear, function) - 68usize];
    ["Offset of field: cusae_linear::type_"][::core::mem::offset_of!(cusae_linear, type_) - 72usize];
    ["Offset of field: cusae_linear::unused"][::core::mem::offset_of!(cusae_linear, unused) - 76usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_activate {
    pub to: *mut f32,
    pub len: u64,
    pub function: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_activate"][::core::mem::size_of::<cusae_activate>() - 24usize];
    ["Alignment of cusae_activate"][::core::mem::align_of::<cusae_activate>() - 8usize];
    ["Offset of field: cusae_activate::to"][::core::mem::offset_of!(cusae_activate, to) - 0usize];
    ["Offset of field: cusae_activate::len"][::core::mem::offset_of!(cusae_activate, len) - 8usize];
    ["Offset of field: cusae_activate::function"][::core::mem::offset_of!(cusae_activate, function) - 16usize];
    ["Offset of field: cusae_activate::unused"][::core::mem::offset_of!(cusae_activate, unused) - 20usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_attention_dims {
    pub rows: u64,
    pub context: u64,
    pub past: u64,
    pub room: u64,
    pub n_heads: u64,
    pub d_head: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_attention_dims"][::core::mem::size_of::<cusae_attention_dims>() - 48usize];
    ["Alignment of cusae_attention_dims"][::core::mem::align_of::<cusae_attention_dims>() - 8usize];
    ["Offset of field: cusae_attention_dims::rows"][::core::mem::offset_of!(cusae_attention_dims, rows) - 0usize];
    ["Offset of field: cusae_attention_dims::context"][::core::mem::offset_of!(cusae_attention_dims, context) - 8usize];
    ["Offset of field: cusae_attention_dims::past"][::core::mem::offset_of!(cusae_attention_dims, past) - 16usize];
    ["Offset of field: cusae_attention_dims::room"][::core::mem::offset_of!(cusae_attention_dims, room) - 24usize];
    ["Offset of field: cusae_attention_dims::n_heads"]
        [::core::mem::offset_of!(cusae_attention_dims, n_heads) - 32usize];
    ["Offset of field: cusae_attention_dims::d_head"][::core::mem::offset_of!(cusae_attention_dims, d_head) - 40usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_attention {
    pub q: *const f32,
    pub k: *const f32,
    pub v: *const f32,
    pub z: *mut f32,
    pub dims: cusae_attention_dims,
    pub scale: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_attention"][::core::mem::size_of::<cusae_attention>() - 88usize];
    ["Alignment of cusae_attention"][::core::mem::align_of::<cusae_attention>() - 8usize];
    ["Offset of field: cusae_attention::q"][::core::mem::offset_of!(cusae_attention, q) - 0usize];
    ["Offset of field: cusae_attention::k"][::core::mem::offset_of!(cusae_attention, k) - 8usize];
    ["Offset of field: cusae_attention::v"][::core::mem::offset_of!(cusae_attention, v) - 16usize];
    ["Offset of field: cusae_attention::z"][::core::mem::offset_of!(cusae_attention, z) - 24usize];
    ["Offset of field: cusae_attention::dims"][::core::mem::offset_of!(cusae_attention, dims) - 32usize];
    ["Offset of field: cusae_attention::scale"][::core::mem::offset_of!(cusae_attention, scale) - 80usize];
    ["Offset of field: cusae_attention::unused"][::core::mem::offset_of!(cusae_attention, unused) - 84usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_attention_pattern {
    pub q: *const f32,
    pub k: *const f32,
    pub pattern: *mut f32,
    pub dims: cusae_attention_dims,
    pub scale: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_attention_pattern"][::core::mem::size_of::<cusae_attention_pattern>() - 80usize];
    ["Alignment of cusae_attention_pattern"][::core::mem::align_of::<cusae_attention_pattern>() - 8usize];
    ["Offset of field: cusae_attention_pattern::q"][::core::mem::offset_of!(cusae_attention_pattern, q) - 0usize];
    ["Offset of field: cusae_attention_pattern::k"][::core::mem::offset_of!(cusae_attention_pattern, k) - 8usize];
    ["Offset of field: cusae_attention_pattern::pattern"]
        [::core::mem::offset_of!(cusae_attention_pattern, pattern) - 16usize];
    ["Offset of field: cusae_attention_pattern::dims"]
        [::core::mem::offset_of!(cusae_attention_pattern, dims) - 24usize];
    ["Offset of field: cusae_attention_pattern::scale"]
        [::core::mem::offset_of!(cusae_attention_pattern, scale) - 72usize];
    ["Offset of field: cusae_attention_pattern::unused"]
        [::core::mem::offset_of!(cusae_attention_pattern, unused) - 76usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_attention_mix {
    pub pattern: *const f32,
    pub v: *const f32,
    pub z: *mut f32,
    pub dims: cusae_attention_dims,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_attention_mix"][::core::mem::size_of::<cusae_attention_mix>() - 72usize];
    ["Alignment of cusae_attention_mix"][::core::mem::align_of::<cusae_attention_mix>() - 8usize];
    ["Offset of field: cusae_attention_mix::pattern"][::core::mem::offset_of!(cusae_attention_mix, pattern) - 0usize];
    ["Offset of field: cusae_attention_mix::v"][::core::mem::offset_of!(cusae_attention_mix, v) - 8usize];
    ["Offset of field: cusae_attention_mix::z"][::core::mem::offset_of!(cusae_attention_mix, z) - 16usize];
    ["Offset of field: cusae_attention_mix::dims"][::core::mem::offset_of!(cusae_attention_mix, dims) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_add {
    pub from: *const f32,
    pub to: *mut f32,
    pub len: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_add"][::core::mem::size_of::<cusae_add>() - 24usize];
    ["Alignment of cusae_add"][::core::mem::align_of::<cusae_add>() - 8usize];
    ["Offset of field: cusae_add::from"][::core::mem::offset_of!(cusae_add, from) - 0usize];
    ["Offset of field: cusae_add::to"][::core::mem::offset_of!(cusae_add, to) - 8usize];
    ["Offset of field: cusae_add::len"][::core::mem::offset_of!(cusae_add, len) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_unembed_cross_entropy {
    pub x: *const f32,
    pub w_u: *const f32,
    pub b_u: *const f32,
    pub targets: *const u32,
    pub loss: *mut f32,
    pub rows: u64,
    pub d_model: u64,
    pub d_vocab: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_unembed_cross_entropy"][::core::mem::size_of::<cusae_unembed_cross_entropy>() - 64usize];
    ["Alignment of cusae_unembed_cross_entropy"][::core::mem::align_of::<cusae_unembed_cross_entropy>() - 8usize];
    ["Offset of field: cusae_unembed_cross_entropy::x"]
        [::core::mem::offset_of!(cusae_unembed_cross_entropy, x) - 0usize];
    ["Offset of field: cusae_unembed_cross_entropy::w_u"]
        [::core::mem::offset_of!(cusae_unembed_cross_entropy, w_u) - 8usize];
    ["Offset of field: cusae_unembed_cross_entropy::b_u"]
        [::core::mem::offset_of!(cusae_unembed_cross_entropy, b_u) - 16usize];
    ["Offset of field: cusae_unembed_cross_entropy::targets"]
        [::core::mem::offset_of!(cusae_unembed_cross_entropy, targets) - 24usize];
    ["Offset of field: cusae_unembed_cross_entropy::loss"]
        [::core::mem::offset_of!(cusae_unembed_cross_entropy, loss) - 32usize];
    ["Offset of field: cusae_unembed_cross_entropy::rows"]
        [::core::mem::offset_of!(cusae_unembed_cross_entropy, rows) - 40usize];
    ["Offset of field: cusae_unembed_cross_entropy::d_model"]
        [::core::mem::offset_of!(cusae_unembed_cross_entropy, d_model) - 48usize];
    ["Offset of field: cusae_unembed_cross_entropy::d_vocab"]
        [::core::mem::offset_of!(cusae_unembed_cross_entropy, d_vocab) - 56usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_unembed_kl_divergence {
    pub x: *const f32,
    pub y: *const f32,
    pub w_u: *const f32,
    pub b_u: *const f32,
    pub kl: *mut f32,
    pub rows: u64,
    pub d_model: u64,
    pub d_vocab: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_unembed_kl_divergence"][::core::mem::size_of::<cusae_unembed_kl_divergence>() - 64usize];
    ["Alignment of cusae_unembed_kl_divergence"][::core::mem::align_of::<cusae_unembed_kl_divergence>() - 8usize];
    ["Offset of field: cusae_unembed_kl_divergence::x"]
        [::core::mem::offset_of!(cusae_unembed_kl_divergence, x) - 0usize];
    ["Offset of field: cusae_unembed_kl_divergence::y"]
        [::core::mem::offset_of!(cusae_unembed_kl_divergence, y) - 8usize];
    ["Offset of field: cusae_unembed_kl_divergence::w_u"]
        [::core::mem::offset_of!(cusae_unembed_kl_divergence, w_u) - 16usize];
    ["Offset of field: cusae_unembed_kl_divergence::b_u"]
        [::core::mem::offset_of!(cusae_unembed_kl_divergence, b_u) - 24usize];
    ["Offset of field: cusae_unembed_kl_divergence::kl"]
        [::core::mem::offset_of!(cusae_unembed_kl_divergence, kl) - 32usize];
    ["Offset of field: cusae_unembed_kl_divergence::rows"]
        [::core::mem::offset_of!(cusae_unembed_kl_divergence, rows) - 40usize];
    ["Offset of field: cusae_unembed_kl_divergence::d_model"]
        [::core::mem::offset_of!(cusae_unembed_kl_divergence, d_model) - 48usize];
    ["Offset of field: cusae_unembed_kl_divergence::d_vocab"]
        [::core::mem::offset_of!(cusae_unembed_kl_divergence, d_vocab) - 56usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_sample_token {
    pub logits: *const f32,
    pub tokens: *mut u32,
    pub rows: u64,
    pub d_vocab: u64,
    pub top_k: u64,
    pub seed: u64,
    pub step: u64,
    pub temperature: f32,
    pub top_p: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_sample_token"][::core::mem::size_of::<cusae_sample_token>() - 64usize];
    ["Alignment of cusae_sample_token"][::core::mem::align_of::<cusae_sample_token>() - 8usize];
    ["Offset of field: cusae_sample_token::logits"][::core::mem::offset_of!(cusae_sample_token, logits) - 0usize];
    ["Offset of field: cusae_sample_token::tokens"][::core::mem::offset_of!(cusae_sample_token, tokens) - 8usize];
    ["Offset of field: cusae_sample_token::rows"][::core::mem::offset_of!(cusae_sample_token, rows) - 16usize];
    ["Offset of field: cusae_sample_token::d_vocab"][::core::mem::offset_of!(cusae_sample_token, d_vocab) - 24usize];
    ["Offset of field: cusae_sample_token::top_k"][::core::mem::offset_of!(cusae_sample_token, top_k) - 32usize];
    ["Offset of field: cusae_sample_token::seed"][::core::mem::offset_of!(cusae_sample_token, seed) - 40usize];
    ["Offset of field: cusae_sample_token::step"][::core::mem::offset_of!(cusae_sample_token, step) - 48usize];
    ["Offset of field: cusae_sample_token::temperature"]
        [::core::mem::offset_of!(cusae_sample_token, temperature) - 56usize];
    ["Offset of field: cusae_sample_token::top_p"][::core::mem::offset_of!(cusae_sample_token, top_p) - 60usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_step_scalars {
    pub step_size: f32,
    pub root_correction: f32,
    pub coefficient: f32,
    pub step: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_step_scalars"][::core::mem::size_of::<cusae_step_scalars>() - 16usize];
    ["Alignment of cusae_step_scalars"][::core::mem::align_of::<cusae_step_scalars>() - 4usize];
    ["Offset of field: cusae_step_scalars::step_size"][::core::mem::offset_of!(cusae_step_scalars, step_size) - 0usize];
    ["Offset of field: cusae_step_scalars::root_correction"]
        [::core::mem::offset_of!(cusae_step_scalars, root_correction) - 4usize];
    ["Offset of field: cusae_step_scalars::coefficient"]
        [::core::mem::offset_of!(cusae_step_scalars, coefficient) - 8usize];
    ["Offset of field: cusae_step_scalars::step"][::core::mem::offset_of!(cusae_step_scalars, step) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_gather_rows {
    pub from: *const f32,
    pub rows: *const u32,
    pub to: *mut f32,
    pub n: u64,
    pub from_rows: u64,
    pub columns: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_gather_rows"][::core::mem::size_of::<cusae_gather_rows>() - 48usize];
    ["Alignment of cusae_gather_rows"][::core::mem::align_of::<cusae_gather_rows>() - 8usize];
    ["Offset of field: cusae_gather_rows::from"][::core::mem::offset_of!(cusae_gather_rows, from) - 0usize];
    ["Offset of field: cusae_gather_rows::rows"][::core::mem::offset_of!(cusae_gather_rows, rows) - 8usize];
    ["Offset of field: cusae_gather_rows::to"][::core::mem::offset_of!(cusae_gather_rows, to) - 16usize];
    ["Offset of field: cusae_gather_rows::n"][::core::mem::offset_of!(cusae_gather_rows, n) - 24usize];
    ["Offset of field: cusae_gather_rows::from_rows"][::core::mem::offset_of!(cusae_gather_rows, from_rows) - 32usize];
    ["Offset of field: cusae_gather_rows::columns"][::core::mem::offset_of!(cusae_gather_rows, columns) - 40usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_scatter_rows {
    pub from: *const f32,
    pub from_rows: *const u32,
    pub to_rows: *const u32,
    pub to: *mut f32,
    pub n: u64,
    pub from_limit: u64,
    pub to_limit: u64,
    pub columns: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_scatter_rows"][::core::mem::size_of::<cusae_scatter_rows>() - 64usize];
    ["Alignment of cusae_scatter_rows"][::core::mem::align_of::<cusae_scatter_rows>() - 8usize];
    ["Offset of field: cusae_scatter_rows::from"][::core::mem::offset_of!(cusae_scatter_rows, from) - 0usize];
    ["Offset of field: cusae_scatter_rows::from_rows"][::core::mem::offset_of!(cusae_scatter_rows, from_rows) - 8usize];
    ["Offset of field: cusae_scatter_rows::to_rows"][::core::mem::offset_of!(cusae_scatter_rows, to_rows) - 16usize];
    ["Offset of field: cusae_scatter_rows::to"][::core::mem::offset_of!(cusae_scatter_rows, to) - 24usize];
    ["Offset of field: cusae_scatter_rows::n"][::core::mem::offset_of!(cusae_scatter_rows, n) - 32usize];
    ["Offset of field: cusae_scatter_rows::from_limit"]
        [::core::mem::offset_of!(cusae_scatter_rows, from_limit) - 40usize];
    ["Offset of field: cusae_scatter_rows::to_limit"][::core::mem::offset_of!(cusae_scatter_rows, to_limit) - 48usize];
    ["Offset of field: cusae_scatter_rows::columns"][::core::mem::offset_of!(cusae_scatter_rows, columns) - 56usize];
};
pub const CUSAE_NORMALIZE_NONE: cusae_normalization = 0;
pub const CUSAE_NORMALIZE_LAYER_NORM: cusae_normalization = 1;
pub const CUSAE_NORMALIZE_CONSTANT: cusae_normalization = 2;
pub type cusae_normalization = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_prepare_input {
    pub x: *const f32,
    pub b_dec: *const f32,
    pub target: *mut f32,
    pub input: *mut f32,
    pub row_scale: *mut f32,
    pub row_shift: *mut f32,
    pub rows: u64,
    pub d_in: u64,
    pub scale: f32,
    pub normalization: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_prepare_input"][::core::mem::size_of::<cusae_prepare_input>() - 72usize];
    ["Alignment of cusae_prepare_input"][::core::mem::align_of::<cusae_prepare_input>() - 8usize];
    ["Offset of field: cusae_prepare_input::x"][::core::mem::offset_of!(cusae_prepare_input, x) - 0usize];
    ["Offset of field: cusae_prepare_input::b_dec"][::core::mem::offset_of!(cusae_prepare_input, b_dec) - 8usize];
    ["Offset of field: cusae_prepare_input::target"][::core::mem::offset_of!(cusae_prepare_input, target) - 16usize];
    ["Offset of field: cusae_prepare_input::input"][::core::mem::offset_of!(cusae_prepare_input, input) - 24usize];
    ["Offset of field: cusae_prepare_input::row_scale"]
        [::core::mem::offset_of!(cusae_prepare_input, row_scale) - 32usize];
    ["Offset of field: cusae_prepare_input::row_shift"]
        [::core::mem::offset_of!(cusae_prepare_input, row_shift) - 40usize];
    ["Offset of field: cusae_prepare_input::rows"][::core::mem::offset_of!(cusae_prepare_input, rows) - 48usize];
    ["Offset of field: cusae_prepare_input::d_in"][::core::mem::offset_of!(cusae_prepare_input, d_in) - 56usize];
    ["Offset of field: cusae_prepare_input::scale"][::core::mem::offset_of!(cusae_prepare_input, scale) - 64usize];
    ["Offset of field: cusae_prepare_input::normalization"]
        [::core::mem::offset_of!(cusae_prepare_input, normalization) - 68usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_encoder {
    pub input: *const ::core::ffi::c_void,
    pub w_enc: *const ::core::ffi::c_void,
    pub b_enc: *const f32,
    pub rows: u64,
    pub d_in: u64,
    pub d_sae: u64,
    pub type_: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_encoder"][::core::mem::size_of::<cusae_encoder>() - 56usize];
    ["Alignment of cusae_encoder"][::core::mem::align_of::<cusae_encoder>() - 8usize];
    ["Offset of field: cusae_encoder::input"][::core::mem::offset_of!(cusae_encoder, input) - 0usize];
    ["Offset of field: cusae_encoder::w_enc"][::core::mem::offset_of!(cusae_encoder, w_enc) - 8usize];
    ["Offset of field: cusae_encoder::b_enc"][::core::mem::offset_of!(cusae_encoder, b_enc) - 16usize];
    ["Offset of field: cusae_encoder::rows"][::core::mem::offset_of!(cusae_encoder, rows) - 24usize];
    ["Offset of field: cusae_encoder::d_in"][::core::mem::offset_of!(cusae_encoder, d_in) - 32usize];
    ["Offset of field: cusae_encoder::d_sae"][::core::mem::offset_of!(cusae_encoder, d_sae) - 40usize];
    ["Offset of field: cusae_encoder::type_"][::core::mem::offset_of!(cusae_encoder, type_) - 48usize];
    ["Offset of field: cusae_encoder::unused"][::core::mem::offset_of!(cusae_encoder, unused) - 52usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_lists {
    pub counts: *mut u32,
    pub indices: *mut u32,
    pub values: *mut f32,
    pub stride: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_lists"][::core::mem::size_of::<cusae_lists>() - 32usize];
    ["Alignment of cusae_lists"][::core::mem::align_of::<cusae_lists>() - 8usize];
    ["Offset of field: cusae_lists::counts"][::core::mem::offset_of!(cusae_lists, counts) - 0usize];
    ["Offset of field: cusae_lists::indices"][::core::mem::offset_of!(cusae_lists, indices) - 8usize];
    ["Offset of field: cusae_lists::values"][::core::mem::offset_of!(cusae_lists, values) - 16usize];
    ["Offset of field: cusae_lists::stride"][::core::mem::offset_of!(cusae_lists, stride) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_encode_topk {
    pub encoder: cusae_encoder,
    pub lists: cusae_lists,
    pub decoder_norm: *const f32,
    pub k: u64,
    pub magnitude: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_encode_topk"][::core::mem::size_of::<cusae_encode_topk>() - 112usize];
    ["Alignment of cusae_encode_topk"][::core::mem::align_of::<cusae_encode_topk>() - 8usize];
    ["Offset of field: cusae_encode_topk::encoder"][::core::mem::offset_of!(cusae_encode_topk, encoder) - 0usize];
    ["Offset of field: cusae_encode_topk::lists"][::core::mem::offset_of!(cusae_encode_topk, lists) - 56usize];
    ["Offset of field: cusae_encode_topk::decoder_norm"]
        [::core::mem::offset_of!(cusae_encode_topk, decoder_norm) - 88usize];
    ["Offset of field: cusae_encode_topk::k"][::core::mem::offset_of!(cusae_encode_topk, k) - 96usize];
    ["Offset of field: cusae_encode_topk::magnitude"][::core::mem::offset_of!(cusae_encode_topk, magnitude) - 104usize];
    ["Offset of field: cusae_encode_topk::unused"][::core::mem::offset_of!(cusae_encode_topk, unused) - 108usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_encode_batch_topk {
    pub encoder: cusae_encoder,
    pub lists: cusae_lists,
    pub decoder_norm: *const f32,
    pub threshold: *mut f64,
    pub longest: *mut u32,
    pub n: u64,
    pub threshold_lr: f64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_encode_batch_topk"][::core::mem::size_of::<cusae_encode_batch_topk>() - 128usize];
    ["Alignment of cusae_encode_batch_topk"][::core::mem::align_of::<cusae_encode_batch_topk>() - 8usize];
    ["Offset of field: cusae_encode_batch_topk::encoder"]
        [::core::mem::offset_of!(cusae_encode_batch_topk, encoder) - 0usize];
    ["Offset of field: cusae_encode_batch_topk::lists"]
        [::core::mem::offset_of!(cusae_encode_batch_topk, lists) - 56usize];
    ["Offset of field: cusae_encode_batch_topk::decoder_norm"]
        [::core::mem::offset_of!(cusae_encode_batch_topk, decoder_norm) - 88usize];
    ["Offset of field: cusae_encode_batch_topk::threshold"]
        [::core::mem::offset_of!(cusae_encode_batch_topk, threshold) - 96usize];
    ["Offset of field: cusae_encode_batch_topk::longest"]
        [::core::mem::offset_of!(cusae_encode_batch_topk, longest) - 104usize];
    ["Offset of field: cusae_encode_batch_topk::n"][::core::mem::offset_of!(cusae_encode_batch_topk, n) - 112usize];
    ["Offset of field: cusae_encode_batch_topk::threshold_lr"]
        [::core::mem::offset_of!(cusae_encode_batch_topk, threshold_lr) - 120usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_encode_jumprelu {
    pub encoder: cusae_encoder,
    pub lists: cusae_lists,
    pub threshold: *const f32,
    pub pre_activations: *mut f32,
    pub longest: *mut u32,
    pub bandwidth: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_encode_jumprelu"][::core::mem::size_of::<cusae_encode_jumprelu>() - 120usize];
    ["Alignment of cusae_encode_jumprelu"][::core::mem::align_of::<cusae_encode_jumprelu>() - 8usize];
    ["Offset of field: cusae_encode_jumprelu::encoder"]
        [::core::mem::offset_of!(cusae_encode_jumprelu, encoder) - 0usize];
    ["Offset of field: cusae_encode_jumprelu::lists"][::core::mem::offset_of!(cusae_encode_jumprelu, lists) - 56usize];
    ["Offset of field: cusae_encode_jumprelu::threshold"]
        [::core::mem::offset_of!(cusae_encode_jumprelu, threshold) - 88usize];
    ["Offset of field: cusae_encode_jumprelu::pre_activations"]
        [::core::mem::offset_of!(cusae_encode_jumprelu, pre_activations) - 96usize];
    ["Offset of field: cusae_encode_jumprelu::longest"]
        [::core::mem::offset_of!(cusae_encode_jumprelu, longest) - 104usize];
    ["Offset of field: cusae_encode_jumprelu::bandwidth"]
        [::core::mem::offset_of!(cusae_encode_jumprelu, bandwidth) - 112usize];
    ["Offset of field: cusae_encode_jumprelu::unused"]
        [::core::mem::offset_of!(cusae_encode_jumprelu, unused) - 116usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_encode_relu {
    pub encoder: cusae_encoder,
    pub lists: cusae_lists,
    pub longest: *mut u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_encode_relu"][::core::mem::size_of::<cusae_encode_relu>() - 96usize];
    ["Alignment of cusae_encode_relu"][::core::mem::align_of::<cusae_encode_relu>() - 8usize];
    ["Offset of field: cusae_encode_relu::encoder"][::core::mem::offset_of!(cusae_encode_relu, encoder) - 0usize];
    ["Offset of field: cusae_encode_relu::lists"][::core::mem::offset_of!(cusae_encode_relu, lists) - 56usize];
    ["Offset of field: cusae_encode_relu::longest"][::core::mem::offset_of!(cusae_encode_relu, longest) - 88usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_encode_relu_dense {
    pub encoder: cusae_encoder,
    pub features: *mut f32,
    pub counts: *mut u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_encode_relu_dense"][::core::mem::size_of::<cusae_encode_relu_dense>() - 72usize];
    ["Alignment of cusae_encode_relu_dense"][::core::mem::align_of::<cusae_encode_relu_dense>() - 8usize];
    ["Offset of field: cusae_encode_relu_dense::encoder"]
        [::core::mem::offset_of!(cusae_encode_relu_dense, encoder) - 0usize];
    ["Offset of field: cusae_encode_relu_dense::features"]
        [::core::mem::offset_of!(cusae_encode_relu_dense, features) - 56usize];
    ["Offset of field: cusae_encode_relu_dense::counts"]
        [::core::mem::offset_of!(cusae_encode_relu_dense, counts) - 64usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_encode_dead_topk {
    pub encoder: cusae_encoder,
    pub lists: cusae_lists,
    pub decoder_norm: *const f32,
    pub dead: *const u32,
    pub n_dead: *const u32,
    pub k: u64,
    pub magnitude: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_encode_dead_topk"][::core::mem::size_of::<cusae_encode_dead_topk>() - 128usize];
    ["Alignment of cusae_encode_dead_topk"][::core::mem::align_of::<cusae_encode_dead_topk>() - 8usize];
    ["Offset of field: cusae_encode_dead_topk::encoder"]
        [::core::mem::offset_of!(cusae_encode_dead_topk, encoder) - 0usize];
    ["Offset of field: cusae_encode_dead_topk::lists"]
        [::core::mem::offset_of!(cusae_encode_dead_topk, lists) - 56usize];
    ["Offset of field: cusae_encode_dead_topk::decoder_norm"]
        [::core::mem::offset_of!(cusae_encode_dead_topk, decoder_norm) - 88usize];
    ["Offset of field: cusae_encode_dead_topk::dead"][::core::mem::offset_of!(cusae_encode_dead_topk, dead) - 96usize];
    ["Offset of field: cusae_encode_dead_topk::n_dead"]
        [::core::mem::offset_of!(cusae_encode_dead_topk, n_dead) - 104usize];
    ["Offset of field: cusae_encode_dead_topk::k"][::core::mem::offset_of!(cusae_encode_dead_topk, k) - 112usize];
    ["Offset of field: cusae_encode_dead_topk::magnitude"]
        [::core::mem::offset_of!(cusae_encode_dead_topk, magnitude) - 120usize];
    ["Offset of field: cusae_encode_dead_topk::unused"]
        [::core::mem::offset_of!(cusae_encode_dead_topk, unused) - 124usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_decoder {
    pub w_dec: *const ::core::ffi::c_void,
    pub b_dec: *const f32,
    pub target: *const f32,
    pub row_scale: *const f32,
    pub row_shift: *const f32,
    pub reconstruction: *mut f32,
    pub gradient: *mut f32,
    pub squared_error: *mut f32,
    pub rows: u64,
    pub d_in: u64,
    pub d_sae: u64,
    pub gradient_scale: f32,
    pub w_dec_type: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_decoder"][::core::mem::size_of::<cusae_decoder>() - 96usize];
    ["Alignment of cusae_decoder"][::core::mem::align_of::<cusae_decoder>() - 8usize];
    ["Offset of field: cusae_decoder::w_dec"][::core::mem::offset_of!(cusae_decoder, w_dec) - 0usize];
    ["Offset of field: cusae_decoder::b_dec"][::core::mem::offset_of!(cusae_decoder, b_dec) - 8usize];
    ["Offset of field: cusae_decoder::target"][::core::mem::offset_of!(cusae_decoder, target) - 16usize];
    ["Offset of field: cusae_decoder::row_scale"][::core::mem::offset_of!(cusae_decoder, row_scale) - 24usize];
    ["Offset of field: cusae_decoder::row_shift"][::core::mem::offset_of!(cusae_decoder, row_shift) - 32usize];
    ["Offset of field: cusae_decoder::reconstruction"]
        [::core::mem::offset_of!(cusae_decoder, reconstruction) - 40usize];
    ["Offset of field: cusae_decoder::gradient"][::core::mem::offset_of!(cusae_decoder, gradient) - 48usize];
    ["Offset of field: cusae_decoder::squared_error"][::core::mem::offset_of!(cusae_decoder, squared_error) - 56usize];
    ["Offset of field: cusae_decoder::rows"][::core::mem::offset_of!(cusae_decoder, rows) - 64usize];
    ["Offset of field: cusae_decoder::d_in"][::core::mem::offset_of!(cusae_decoder, d_in) - 72usize];
    ["Offset of field: cusae_decoder::d_sae"][::core::mem::offset_of!(cusae_decoder, d_sae) - 80usize];
    ["Offset of field: cusae_decoder::gradient_scale"]
        [::core::mem::offset_of!(cusae_decoder, gradient_scale) - 88usize];
    ["Offset of field: cusae_decoder::w_dec_type"][::core::mem::offset_of!(cusae_decoder, w_dec_type) - 92usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_decode_sparse {
    pub decoder: cusae_decoder,
    pub lists: cusae_lists,
    pub n_dead: *const u32,
    pub full_dead: u64,
    pub value_gradient: *mut f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_decode_sparse"][::core::mem::size_of::<cusae_decode_sparse>() - 152usize];
    ["Alignment of cusae_decode_sparse"][::core::mem::align_of::<cusae_decode_sparse>() - 8usize];
    ["Offset of field: cusae_decode_sparse::decoder"][::core::mem::offset_of!(cusae_decode_sparse, decoder) - 0usize];
    ["Offset of field: cusae_decode_sparse::lists"][::core::mem::offset_of!(cusae_decode_sparse, lists) - 96usize];
    ["Offset of field: cusae_decode_sparse::n_dead"][::core::mem::offset_of!(cusae_decode_sparse, n_dead) - 128usize];
    ["Offset of field: cusae_decode_sparse::full_dead"]
        [::core::mem::offset_of!(cusae_decode_sparse, full_dead) - 136usize];
    ["Offset of field: cusae_decode_sparse::value_gradient"]
        [::core::mem::offset_of!(cusae_decode_sparse, value_gradient) - 144usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_decode_dense {
    pub decoder: cusae_decoder,
    pub features: *const f32,
    pub feature_gradient: *mut f32,
    pub type_: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_decode_dense"][::core::mem::size_of::<cusae_decode_dense>() - 120usize];
    ["Alignment of cusae_decode_dense"][::core::mem::align_of::<cusae_decode_dense>() - 8usize];
    ["Offset of field: cusae_decode_dense::decoder"][::core::mem::offset_of!(cusae_decode_dense, decoder) - 0usize];
    ["Offset of field: cusae_decode_dense::features"][::core::mem::offset_of!(cusae_decode_dense, features) - 96usize];
    ["Offset of field: cusae_decode_dense::feature_gradient"]
        [::core::mem::offset_of!(cusae_decode_dense, feature_gradient) - 104usize];
    ["Offset of field: cusae_decode_dense::type_"][::core::mem::offset_of!(cusae_decode_dense, type_) - 112usize];
    ["Offset of field: cusae_decode_dense::unused"][::core::mem::offset_of!(cusae_decode_dense, unused) - 116usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_sparsity_lp {
    pub lists: cusae_lists,
    pub decoder_norm: *const f32,
    pub value_gradient: *mut f32,
    pub norm_gradient: *mut f32,
    pub loss: *mut f32,
    pub scalars: *const cusae_step_scalars,
    pub rows: u64,
    pub p: f32,
    pub gradient_scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_sparsity_lp"][::core::mem::size_of::<cusae_sparsity_lp>() - 88usize];
    ["Alignment of cusae_sparsity_lp"][::core::mem::align_of::<cusae_sparsity_lp>() - 8usize];
    ["Offset of field: cusae_sparsity_lp::lists"][::core::mem::offset_of!(cusae_sparsity_lp, lists) - 0usize];
    ["Offset of field: cusae_sparsity_lp::decoder_norm"]
        [::core::mem::offset_of!(cusae_sparsity_lp, decoder_norm) - 32usize];
    ["Offset of field: cusae_sparsity_lp::value_gradient"]
        [::core::mem::offset_of!(cusae_sparsity_lp, value_gradient) - 40usize];
    ["Offset of field: cusae_sparsity_lp::norm_gradient"]
        [::core::mem::offset_of!(cusae_sparsity_lp, norm_gradient) - 48usize];
    ["Offset of field: cusae_sparsity_lp::loss"][::core::mem::offset_of!(cusae_sparsity_lp, loss) - 56usize];
    ["Offset of field: cusae_sparsity_lp::scalars"][::core::mem::offset_of!(cusae_sparsity_lp, scalars) - 64usize];
    ["Offset of field: cusae_sparsity_lp::rows"][::core::mem::offset_of!(cusae_sparsity_lp, rows) - 72usize];
    ["Offset of field: cusae_sparsity_lp::p"][::core::mem::offset_of!(cusae_sparsity_lp, p) - 80usize];
    ["Offset of field: cusae_sparsity_lp::gradient_scale"]
        [::core::mem::offset_of!(cusae_sparsity_lp, gradient_scale) - 84usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_sparsity_lp_dense {
    pub features: *const f32,
    pub decoder_norm: *const f32,
    pub feature_gradient: *mut f32,
    pub norm_gradient: *mut f32,
    pub loss: *mut f32,
    pub scalars: *const cusae_step_scalars,
    pub rows: u64,
    pub d_sae: u64,
    pub p: f32,
    pub gradient_scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_sparsity_lp_dense"][::core::mem::size_of::<cusae_sparsity_lp_dense>() - 72usize];
    ["Alignment of cusae_sparsity_lp_dense"][::core::mem::align_of::<cusae_sparsity_lp_dense>() - 8usize];
    ["Offset of field: cusae_sparsity_lp_dense::features"]
        [::core::mem::offset_of!(cusae_sparsity_lp_dense, features) - 0usize];
    ["Offset of field: cusae_sparsity_lp_dense::decoder_norm"]
        [::core::mem::offset_of!(cusae_sparsity_lp_dense, decoder_norm) - 8usize];
    ["Offset of field: cusae_sparsity_lp_dense::feature_gradient"]
        [::core::mem::offset_of!(cusae_sparsity_lp_dense, feature_gradient) - 16usize];
    ["Offset of field: cusae_sparsity_lp_dense::norm_gradient"]
        [::core::mem::offset_of!(cusae_sparsity_lp_dense, norm_gradient) - 24usize];
    ["Offset of field: cusae_sparsity_lp_dense::loss"]
        [::core::mem::offset_of!(cusae_sparsity_lp_dense, loss) - 32usize];
    ["Offset of field: cusae_sparsity_lp_dense::scalars"]
        [::core::mem::offset_of!(cusae_sparsity_lp_dense, scalars) - 40usize];
    ["Offset of field: cusae_sparsity_lp_dense::rows"]
        [::core::mem::offset_of!(cusae_sparsity_lp_dense, rows) - 48usize];
    ["Offset of field: cusae_sparsity_lp_dense::d_sae"]
        [::core::mem::offset_of!(cusae_sparsity_lp_dense, d_sae) - 56usize];
    ["Offset of field: cusae_sparsity_lp_dense::p"][::core::mem::offset_of!(cusae_sparsity_lp_dense, p) - 64usize];
    ["Offset of field: cusae_sparsity_lp_dense::gradient_scale"]
        [::core::mem::offset_of!(cusae_sparsity_lp_dense, gradient_scale) - 68usize];
};
pub const CUSAE_SPARSITY_STEP: _bindgen_ty_1 = 0;
pub const CUSAE_SPARSITY_TANH: _bindgen_ty_1 = 1;
pub const CUSAE_SPARSITY_QUADRATIC: _bindgen_ty_1 = 2;
pub type _bindgen_ty_1 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_jumprelu_gradient {
    pub lists: cusae_lists,
    pub pre_activations: *const f32,
    pub threshold: *const f32,
    pub decoder_norm: *const f32,
    pub value_gradient: *mut f32,
    pub threshold_gradient: *mut f32,
    pub norm_gradient: *mut f32,
    pub active: *mut u32,
    pub loss: *mut f32,
    pub scalars: *const cusae_step_scalars,
    pub rows: u64,
    pub bandwidth: f32,
    pub ste_to_input: u32,
    pub sparsity: u32,
    pub parameter: f32,
    pub gradient_scale: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_jumprelu_gradient"][::core::mem::size_of::<cusae_jumprelu_gradient>() - 136usize];
    ["Alignment of cusae_jumprelu_gradient"][::core::mem::align_of::<cusae_jumprelu_gradient>() - 8usize];
    ["Offset of field: cusae_jumprelu_gradient::lists"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, lists) - 0usize];
    ["Offset of field: cusae_jumprelu_gradient::pre_activations"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, pre_activations) - 32usize];
    ["Offset of field: cusae_jumprelu_gradient::threshold"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, threshold) - 40usize];
    ["Offset of field: cusae_jumprelu_gradient::decoder_norm"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, decoder_norm) - 48usize];
    ["Offset of field: cusae_jumprelu_gradient::value_gradient"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, value_gradient) - 56usize];
    ["Offset of field: cusae_jumprelu_gradient::threshold_gradient"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, threshold_gradient) - 64usize];
    ["Offset of field: cusae_jumprelu_gradient::norm_gradient"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, norm_gradient) - 72usize];
    ["Offset of field: cusae_jumprelu_gradient::active"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, active) - 80usize];
    ["Offset of field: cusae_jumprelu_gradient::loss"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, loss) - 88usize];
    ["Offset of field: cusae_jumprelu_gradient::scalars"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, scalars) - 96usize];
    ["Offset of field: cusae_jumprelu_gradient::rows"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, rows) - 104usize];
    ["Offset of field: cusae_jumprelu_gradient::bandwidth"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, bandwidth) - 112usize];
    ["Offset of field: cusae_jumprelu_gradient::ste_to_input"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, ste_to_input) - 116usize];
    ["Offset of field: cusae_jumprelu_gradient::sparsity"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, sparsity) - 120usize];
    ["Offset of field: cusae_jumprelu_gradient::parameter"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, parameter) - 124usize];
    ["Offset of field: cusae_jumprelu_gradient::gradient_scale"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, gradient_scale) - 128usize];
    ["Offset of field: cusae_jumprelu_gradient::unused"]
        [::core::mem::offset_of!(cusae_jumprelu_gradient, unused) - 132usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_gate {
    pub gates: cusae_lists,
    pub features: cusae_lists,
    pub b_gate: *const f32,
    pub b_mag: *const f32,
    pub r_mag: *const f32,
    pub rows: u64,
    pub rectify: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_gate"][::core::mem::size_of::<cusae_gate>() - 104usize];
    ["Alignment of cusae_gate"][::core::mem::align_of::<cusae_gate>() - 8usize];
    ["Offset of field: cusae_gate::gates"][::core::mem::offset_of!(cusae_gate, gates) - 0usize];
    ["Offset of field: cusae_gate::features"][::core::mem::offset_of!(cusae_gate, features) - 32usize];
    ["Offset of field: cusae_gate::b_gate"][::core::mem::offset_of!(cusae_gate, b_gate) - 64usize];
    ["Offset of field: cusae_gate::b_mag"][::core::mem::offset_of!(cusae_gate, b_mag) - 72usize];
    ["Offset of field: cusae_gate::r_mag"][::core::mem::offset_of!(cusae_gate, r_mag) - 80usize];
    ["Offset of field: cusae_gate::rows"][::core::mem::offset_of!(cusae_gate, rows) - 88usize];
    ["Offset of field: cusae_gate::rectify"][::core::mem::offset_of!(cusae_gate, rectify) - 96usize];
    ["Offset of field: cusae_gate::unused"][::core::mem::offset_of!(cusae_gate, unused) - 100usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_gate_gradient {
    pub gates: cusae_lists,
    pub features: cusae_lists,
    pub b_gate: *const f32,
    pub r_mag: *const f32,
    pub value_gradient: *mut f32,
    pub b_mag_gradient: *mut f32,
    pub r_mag_gradient: *mut f32,
    pub rows: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_gate_gradient"][::core::mem::size_of::<cusae_gate_gradient>() - 112usize];
    ["Alignment of cusae_gate_gradient"][::core::mem::align_of::<cusae_gate_gradient>() - 8usize];
    ["Offset of field: cusae_gate_gradient::gates"][::core::mem::offset_of!(cusae_gate_gradient, gates) - 0usize];
    ["Offset of field: cusae_gate_gradient::features"]
        [::core::mem::offset_of!(cusae_gate_gradient, features) - 32usize];
    ["Offset of field: cusae_gate_gradient::b_gate"][::core::mem::offset_of!(cusae_gate_gradient, b_gate) - 64usize];
    ["Offset of field: cusae_gate_gradient::r_mag"][::core::mem::offset_of!(cusae_gate_gradient, r_mag) - 72usize];
    ["Offset of field: cusae_gate_gradient::value_gradient"]
        [::core::mem::offset_of!(cusae_gate_gradient, value_gradient) - 80usize];
    ["Offset of field: cusae_gate_gradient::b_mag_gradient"]
        [::core::mem::offset_of!(cusae_gate_gradient, b_mag_gradient) - 88usize];
    ["Offset of field: cusae_gate_gradient::r_mag_gradient"]
        [::core::mem::offset_of!(cusae_gate_gradient, r_mag_gradient) - 96usize];
    ["Offset of field: cusae_gate_gradient::rows"][::core::mem::offset_of!(cusae_gate_gradient, rows) - 104usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_slice_lists {
    pub lists: cusae_lists,
    pub out: cusae_lists,
    pub rows: u64,
    pub first: u64,
    pub last: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_slice_lists"][::core::mem::size_of::<cusae_slice_lists>() - 88usize];
    ["Alignment of cusae_slice_lists"][::core::mem::align_of::<cusae_slice_lists>() - 8usize];
    ["Offset of field: cusae_slice_lists::lists"][::core::mem::offset_of!(cusae_slice_lists, lists) - 0usize];
    ["Offset of field: cusae_slice_lists::out"][::core::mem::offset_of!(cusae_slice_lists, out) - 32usize];
    ["Offset of field: cusae_slice_lists::rows"][::core::mem::offset_of!(cusae_slice_lists, rows) - 64usize];
    ["Offset of field: cusae_slice_lists::first"][::core::mem::offset_of!(cusae_slice_lists, first) - 72usize];
    ["Offset of field: cusae_slice_lists::last"][::core::mem::offset_of!(cusae_slice_lists, last) - 80usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_gradient_values {
    pub lists: cusae_lists,
    pub w_dec: *const ::core::ffi::c_void,
    pub gradient: *const f32,
    pub value_gradient: *mut f32,
    pub rows: u64,
    pub d_in: u64,
    pub type_: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_gradient_values"][::core::mem::size_of::<cusae_gradient_values>() - 80usize];
    ["Alignment of cusae_gradient_values"][::core::mem::align_of::<cusae_gradient_values>() - 8usize];
    ["Offset of field: cusae_gradient_values::lists"][::core::mem::offset_of!(cusae_gradient_values, lists) - 0usize];
    ["Offset of field: cusae_gradient_values::w_dec"][::core::mem::offset_of!(cusae_gradient_values, w_dec) - 32usize];
    ["Offset of field: cusae_gradient_values::gradient"]
        [::core::mem::offset_of!(cusae_gradient_values, gradient) - 40usize];
    ["Offset of field: cusae_gradient_values::value_gradient"]
        [::core::mem::offset_of!(cusae_gradient_values, value_gradient) - 48usize];
    ["Offset of field: cusae_gradient_values::rows"][::core::mem::offset_of!(cusae_gradient_values, rows) - 56usize];
    ["Offset of field: cusae_gradient_values::d_in"][::core::mem::offset_of!(cusae_gradient_values, d_in) - 64usize];
    ["Offset of field: cusae_gradient_values::type_"][::core::mem::offset_of!(cusae_gradient_values, type_) - 72usize];
    ["Offset of field: cusae_gradient_values::unused"]
        [::core::mem::offset_of!(cusae_gradient_values, unused) - 76usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_latent_lists {
    pub offsets: *mut u32,
    pub entries: *mut u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_latent_lists"][::core::mem::size_of::<cusae_latent_lists>() - 16usize];
    ["Alignment of cusae_latent_lists"][::core::mem::align_of::<cusae_latent_lists>() - 8usize];
    ["Offset of field: cusae_latent_lists::offsets"][::core::mem::offset_of!(cusae_latent_lists, offsets) - 0usize];
    ["Offset of field: cusae_latent_lists::entries"][::core::mem::offset_of!(cusae_latent_lists, entries) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_transpose_lists {
    pub lists: cusae_lists,
    pub by_latent: cusae_latent_lists,
    pub rows: u64,
    pub d_sae: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_transpose_lists"][::core::mem::size_of::<cusae_transpose_lists>() - 64usize];
    ["Alignment of cusae_transpose_lists"][::core::mem::align_of::<cusae_transpose_lists>() - 8usize];
    ["Offset of field: cusae_transpose_lists::lists"][::core::mem::offset_of!(cusae_transpose_lists, lists) - 0usize];
    ["Offset of field: cusae_transpose_lists::by_latent"]
        [::core::mem::offset_of!(cusae_transpose_lists, by_latent) - 32usize];
    ["Offset of field: cusae_transpose_lists::rows"][::core::mem::offset_of!(cusae_transpose_lists, rows) - 48usize];
    ["Offset of field: cusae_transpose_lists::d_sae"][::core::mem::offset_of!(cusae_transpose_lists, d_sae) - 56usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_sum_by_latent {
    pub values: *const f32,
    pub by_latent: cusae_latent_lists,
    pub out: *mut f32,
    pub d_sae: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_sum_by_latent"][::core::mem::size_of::<cusae_sum_by_latent>() - 40usize];
    ["Alignment of cusae_sum_by_latent"][::core::mem::align_of::<cusae_sum_by_latent>() - 8usize];
    ["Offset of field: cusae_sum_by_latent::values"][::core::mem::offset_of!(cusae_sum_by_latent, values) - 0usize];
    ["Offset of field: cusae_sum_by_latent::by_latent"]
        [::core::mem::offset_of!(cusae_sum_by_latent, by_latent) - 8usize];
    ["Offset of field: cusae_sum_by_latent::out"][::core::mem::offset_of!(cusae_sum_by_latent, out) - 24usize];
    ["Offset of field: cusae_sum_by_latent::d_sae"][::core::mem::offset_of!(cusae_sum_by_latent, d_sae) - 32usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_weight_gradients {
    pub w_enc: *mut f32,
    pub b_enc: *mut f32,
    pub w_dec: *mut f32,
    pub accumulate: u32,
    pub only_listed: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_weight_gradients"][::core::mem::size_of::<cusae_weight_gradients>() - 32usize];
    ["Alignment of cusae_weight_gradients"][::core::mem::align_of::<cusae_weight_gradients>() - 8usize];
    ["Offset of field: cusae_weight_gradients::w_enc"][::core::mem::offset_of!(cusae_weight_gradients, w_enc) - 0usize];
    ["Offset of field: cusae_weight_gradients::b_enc"][::core::mem::offset_of!(cusae_weight_gradients, b_enc) - 8usize];
    ["Offset of field: cusae_weight_gradients::w_dec"]
        [::core::mem::offset_of!(cusae_weight_gradients, w_dec) - 16usize];
    ["Offset of field: cusae_weight_gradients::accumulate"]
        [::core::mem::offset_of!(cusae_weight_gradients, accumulate) - 24usize];
    ["Offset of field: cusae_weight_gradients::only_listed"]
        [::core::mem::offset_of!(cusae_weight_gradients, only_listed) - 28usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_norm_gradient {
    pub norm_gradient: *const f32,
    pub decoder_norm: *const f32,
    pub w_dec: *const f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_norm_gradient"][::core::mem::size_of::<cusae_norm_gradient>() - 24usize];
    ["Alignment of cusae_norm_gradient"][::core::mem::align_of::<cusae_norm_gradient>() - 8usize];
    ["Offset of field: cusae_norm_gradient::norm_gradient"]
        [::core::mem::offset_of!(cusae_norm_gradient, norm_gradient) - 0usize];
    ["Offset of field: cusae_norm_gradient::decoder_norm"]
        [::core::mem::offset_of!(cusae_norm_gradient, decoder_norm) - 8usize];
    ["Offset of field: cusae_norm_gradient::w_dec"][::core::mem::offset_of!(cusae_norm_gradient, w_dec) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_gradient_sparse {
    pub lists: cusae_lists,
    pub by_latent: cusae_latent_lists,
    pub pre_gradient: *const f32,
    pub gradient: *const ::core::ffi::c_void,
    pub input: *const ::core::ffi::c_void,
    pub norm: cusae_norm_gradient,
    pub out: cusae_weight_gradients,
    pub rows: u64,
    pub d_in: u64,
    pub d_sae: u64,
    pub type_: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_gradient_sparse"][::core::mem::size_of::<cusae_gradient_sparse>() - 160usize];
    ["Alignment of cusae_gradient_sparse"][::core::mem::align_of::<cusae_gradient_sparse>() - 8usize];
    ["Offset of field: cusae_gradient_sparse::lists"][::core::mem::offset_of!(cusae_gradient_sparse, lists) - 0usize];
    ["Offset of field: cusae_gradient_sparse::by_latent"]
        [::core::mem::offset_of!(cusae_gradient_sparse, by_latent) - 32usize];
    ["Offset of field: cusae_gradient_sparse::pre_gradient"]
        [::core::mem::offset_of!(cusae_gradient_sparse, pre_gradient) - 48usize];
    ["Offset of field: cusae_gradient_sparse::gradient"]
        [::core::mem::offset_of!(cusae_gradient_sparse, gradient) - 56usize];
    ["Offset of field: cusae_gradient_sparse::input"][::core::mem::offset_of!(cusae_gradient_sparse, input) - 64usize];
    ["Offset of field: cusae_gradient_sparse::norm"][::core::mem::offset_of!(cusae_gradient_sparse, norm) - 72usize];
    ["Offset of field: cusae_gradient_sparse::out"][::core::mem::offset_of!(cusae_gradient_sparse, out) - 96usize];
    ["Offset of field: cusae_gradient_sparse::rows"][::core::mem::offset_of!(cusae_gradient_sparse, rows) - 128usize];
    ["Offset of field: cusae_gradient_sparse::d_in"][::core::mem::offset_of!(cusae_gradient_sparse, d_in) - 136usize];
    ["Offset of field: cusae_gradient_sparse::d_sae"][::core::mem::offset_of!(cusae_gradient_sparse, d_sae) - 144usize];
    ["Offset of field: cusae_gradient_sparse::type_"][::core::mem::offset_of!(cusae_gradient_sparse, type_) - 152usize];
    ["Offset of field: cusae_gradient_sparse::unused"]
        [::core::mem::offset_of!(cusae_gradient_sparse, unused) - 156usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_listed_gradient {
    pub lists: cusae_lists,
    pub by_latent: cusae_latent_lists,
    pub pre_gradient: *const f32,
    pub gradient: *const ::core::ffi::c_void,
    pub input: *const ::core::ffi::c_void,
    pub norm_gradient: *const f32,
    pub stored_w_enc: *const f32,
    pub stored_w_dec: *const f32,
    pub stored_offsets: *const u32,
    pub rows: u64,
    pub d_in: u64,
    pub d_sae: u64,
    pub type_: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_listed_gradient"][::core::mem::size_of::<cusae_listed_gradient>() - 136usize];
    ["Alignment of cusae_listed_gradient"][::core::mem::align_of::<cusae_listed_gradient>() - 8usize];
    ["Offset of field: cusae_listed_gradient::lists"][::core::mem::offset_of!(cusae_listed_gradient, lists) - 0usize];
    ["Offset of field: cusae_listed_gradient::by_latent"]
        [::core::mem::offset_of!(cusae_listed_gradient, by_latent) - 32usize];
    ["Offset of field: cusae_listed_gradient::pre_gradient"]
        [::core::mem::offset_of!(cusae_listed_gradient, pre_gradient) - 48usize];
    ["Offset of field: cusae_listed_gradient::gradient"]
        [::core::mem::offset_of!(cusae_listed_gradient, gradient) - 56usize];
    ["Offset of field: cusae_listed_gradient::input"][::core::mem::offset_of!(cusae_listed_gradient, input) - 64usize];
    ["Offset of field: cusae_listed_gradient::norm_gradient"]
        [::core::mem::offset_of!(cusae_listed_gradient, norm_gradient) - 72usize];
    ["Offset of field: cusae_listed_gradient::stored_w_enc"]
        [::core::mem::offset_of!(cusae_listed_gradient, stored_w_enc) - 80usize];
    ["Offset of field: cusae_listed_gradient::stored_w_dec"]
        [::core::mem::offset_of!(cusae_listed_gradient, stored_w_dec) - 88usize];
    ["Offset of field: cusae_listed_gradient::stored_offsets"]
        [::core::mem::offset_of!(cusae_listed_gradient, stored_offsets) - 96usize];
    ["Offset of field: cusae_listed_gradient::rows"][::core::mem::offset_of!(cusae_listed_gradient, rows) - 104usize];
    ["Offset of field: cusae_listed_gradient::d_in"][::core::mem::offset_of!(cusae_listed_gradient, d_in) - 112usize];
    ["Offset of field: cusae_listed_gradient::d_sae"][::core::mem::offset_of!(cusae_listed_gradient, d_sae) - 120usize];
    ["Offset of field: cusae_listed_gradient::type_"][::core::mem::offset_of!(cusae_listed_gradient, type_) - 128usize];
    ["Offset of field: cusae_listed_gradient::unused"]
        [::core::mem::offset_of!(cusae_listed_gradient, unused) - 132usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_gradient_squares {
    pub of: cusae_listed_gradient,
    pub w_dec: *const f32,
    pub decoder_norm: *const f32,
    pub b_enc: *mut f32,
    pub squares: *mut f64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_gradient_squares"][::core::mem::size_of::<cusae_gradient_squares>() - 168usize];
    ["Alignment of cusae_gradient_squares"][::core::mem::align_of::<cusae_gradient_squares>() - 8usize];
    ["Offset of field: cusae_gradient_squares::of"][::core::mem::offset_of!(cusae_gradient_squares, of) - 0usize];
    ["Offset of field: cusae_gradient_squares::w_dec"]
        [::core::mem::offset_of!(cusae_gradient_squares, w_dec) - 136usize];
    ["Offset of field: cusae_gradient_squares::decoder_norm"]
        [::core::mem::offset_of!(cusae_gradient_squares, decoder_norm) - 144usize];
    ["Offset of field: cusae_gradient_squares::b_enc"]
        [::core::mem::offset_of!(cusae_gradient_squares, b_enc) - 152usize];
    ["Offset of field: cusae_gradient_squares::squares"]
        [::core::mem::offset_of!(cusae_gradient_squares, squares) - 160usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_adam_state {
    pub parameter: *mut f32,
    pub exp_avg: *mut f32,
    pub exp_avg_sq: *mut f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_adam_state"][::core::mem::size_of::<cusae_adam_state>() - 24usize];
    ["Alignment of cusae_adam_state"][::core::mem::align_of::<cusae_adam_state>() - 8usize];
    ["Offset of field: cusae_adam_state::parameter"][::core::mem::offset_of!(cusae_adam_state, parameter) - 0usize];
    ["Offset of field: cusae_adam_state::exp_avg"][::core::mem::offset_of!(cusae_adam_state, exp_avg) - 8usize];
    ["Offset of field: cusae_adam_state::exp_avg_sq"][::core::mem::offset_of!(cusae_adam_state, exp_avg_sq) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_adam_sparse {
    pub of: cusae_listed_gradient,
    pub w_enc: cusae_adam_state,
    pub w_dec: cusae_adam_state,
    pub decoder_norm: *mut f32,
    pub clip: *const f32,
    pub scalars: *const cusae_step_scalars,
    pub beta1: f32,
    pub beta2: f32,
    pub complement1: f32,
    pub complement2: f32,
    pub epsilon: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_adam_sparse"][::core::mem::size_of::<cusae_adam_sparse>() - 232usize];
    ["Alignment of cusae_adam_sparse"][::core::mem::align_of::<cusae_adam_sparse>() - 8usize];
    ["Offset of field: cusae_adam_sparse::of"][::core::mem::offset_of!(cusae_adam_sparse, of) - 0usize];
    ["Offset of field: cusae_adam_sparse::w_enc"][::core::mem::offset_of!(cusae_adam_sparse, w_enc) - 136usize];
    ["Offset of field: cusae_adam_sparse::w_dec"][::core::mem::offset_of!(cusae_adam_sparse, w_dec) - 160usize];
    ["Offset of field: cusae_adam_sparse::decoder_norm"]
        [::core::mem::offset_of!(cusae_adam_sparse, decoder_norm) - 184usize];
    ["Offset of field: cusae_adam_sparse::clip"][::core::mem::offset_of!(cusae_adam_sparse, clip) - 192usize];
    ["Offset of field: cusae_adam_sparse::scalars"][::core::mem::offset_of!(cusae_adam_sparse, scalars) - 200usize];
    ["Offset of field: cusae_adam_sparse::beta1"][::core::mem::offset_of!(cusae_adam_sparse, beta1) - 208usize];
    ["Offset of field: cusae_adam_sparse::beta2"][::core::mem::offset_of!(cusae_adam_sparse, beta2) - 212usize];
    ["Offset of field: cusae_adam_sparse::complement1"]
        [::core::mem::offset_of!(cusae_adam_sparse, complement1) - 216usize];
    ["Offset of field: cusae_adam_sparse::complement2"]
        [::core::mem::offset_of!(cusae_adam_sparse, complement2) - 220usize];
    ["Offset of field: cusae_adam_sparse::epsilon"][::core::mem::offset_of!(cusae_adam_sparse, epsilon) - 224usize];
    ["Offset of field: cusae_adam_sparse::unused"][::core::mem::offset_of!(cusae_adam_sparse, unused) - 228usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_gradient_dense {
    pub features: *const f32,
    pub pre_gradient: *const f32,
    pub gradient: *const f32,
    pub input: *const f32,
    pub norm: cusae_norm_gradient,
    pub out: cusae_weight_gradients,
    pub rows: u64,
    pub d_in: u64,
    pub d_sae: u64,
    pub type_: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_gradient_dense"][::core::mem::size_of::<cusae_gradient_dense>() - 120usize];
    ["Alignment of cusae_gradient_dense"][::core::mem::align_of::<cusae_gradient_dense>() - 8usize];
    ["Offset of field: cusae_gradient_dense::features"]
        [::core::mem::offset_of!(cusae_gradient_dense, features) - 0usize];
    ["Offset of field: cusae_gradient_dense::pre_gradient"]
        [::core::mem::offset_of!(cusae_gradient_dense, pre_gradient) - 8usize];
    ["Offset of field: cusae_gradient_dense::gradient"]
        [::core::mem::offset_of!(cusae_gradient_dense, gradient) - 16usize];
    ["Offset of field: cusae_gradient_dense::input"][::core::mem::offset_of!(cusae_gradient_dense, input) - 24usize];
    ["Offset of field: cusae_gradient_dense::norm"][::core::mem::offset_of!(cusae_gradient_dense, norm) - 32usize];
    ["Offset of field: cusae_gradient_dense::out"][::core::mem::offset_of!(cusae_gradient_dense, out) - 56usize];
    ["Offset of field: cusae_gradient_dense::rows"][::core::mem::offset_of!(cusae_gradient_dense, rows) - 88usize];
    ["Offset of field: cusae_gradient_dense::d_in"][::core::mem::offset_of!(cusae_gradient_dense, d_in) - 96usize];
    ["Offset of field: cusae_gradient_dense::d_sae"][::core::mem::offset_of!(cusae_gradient_dense, d_sae) - 104usize];
    ["Offset of field: cusae_gradient_dense::type_"][::core::mem::offset_of!(cusae_gradient_dense, type_) - 112usize];
    ["Offset of field: cusae_gradient_dense::unused"][::core::mem::offset_of!(cusae_gradient_dense, unused) - 116usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_pre_act_loss {
    pub encoder: cusae_encoder,
    pub threshold: *const f32,
    pub decoder_norm: *const f32,
    pub w_dec: *const f32,
    pub dead: *const u32,
    pub n_dead: *const u32,
    pub out: cusae_weight_gradients,
    pub threshold_gradient: *mut f32,
    pub loss: *mut f32,
    pub coefficient: f32,
    pub gradient_scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_pre_act_loss"][::core::mem::size_of::<cusae_pre_act_loss>() - 152usize];
    ["Alignment of cusae_pre_act_loss"][::core::mem::align_of::<cusae_pre_act_loss>() - 8usize];
    ["Offset of field: cusae_pre_act_loss::encoder"][::core::mem::offset_of!(cusae_pre_act_loss, encoder) - 0usize];
    ["Offset of field: cusae_pre_act_loss::threshold"]
        [::core::mem::offset_of!(cusae_pre_act_loss, threshold) - 56usize];
    ["Offset of field: cusae_pre_act_loss::decoder_norm"]
        [::core::mem::offset_of!(cusae_pre_act_loss, decoder_norm) - 64usize];
    ["Offset of field: cusae_pre_act_loss::w_dec"][::core::mem::offset_of!(cusae_pre_act_loss, w_dec) - 72usize];
    ["Offset of field: cusae_pre_act_loss::dead"][::core::mem::offset_of!(cusae_pre_act_loss, dead) - 80usize];
    ["Offset of field: cusae_pre_act_loss::n_dead"][::core::mem::offset_of!(cusae_pre_act_loss, n_dead) - 88usize];
    ["Offset of field: cusae_pre_act_loss::out"][::core::mem::offset_of!(cusae_pre_act_loss, out) - 96usize];
    ["Offset of field: cusae_pre_act_loss::threshold_gradient"]
        [::core::mem::offset_of!(cusae_pre_act_loss, threshold_gradient) - 128usize];
    ["Offset of field: cusae_pre_act_loss::loss"][::core::mem::offset_of!(cusae_pre_act_loss, loss) - 136usize];
    ["Offset of field: cusae_pre_act_loss::coefficient"]
        [::core::mem::offset_of!(cusae_pre_act_loss, coefficient) - 144usize];
    ["Offset of field: cusae_pre_act_loss::gradient_scale"]
        [::core::mem::offset_of!(cusae_pre_act_loss, gradient_scale) - 148usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_gradient_b_dec {
    pub gradient: *const f32,
    pub w_enc: *const f32,
    pub g_b_enc: *const f32,
    pub out: *mut f32,
    pub rows: u64,
    pub d_in: u64,
    pub d_sae: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_gradient_b_dec"][::core::mem::size_of::<cusae_gradient_b_dec>() - 56usize];
    ["Alignment of cusae_gradient_b_dec"][::core::mem::align_of::<cusae_gradient_b_dec>() - 8usize];
    ["Offset of field: cusae_gradient_b_dec::gradient"]
        [::core::mem::offset_of!(cusae_gradient_b_dec, gradient) - 0usize];
    ["Offset of field: cusae_gradient_b_dec::w_enc"][::core::mem::offset_of!(cusae_gradient_b_dec, w_enc) - 8usize];
    ["Offset of field: cusae_gradient_b_dec::g_b_enc"]
        [::core::mem::offset_of!(cusae_gradient_b_dec, g_b_enc) - 16usize];
    ["Offset of field: cusae_gradient_b_dec::out"][::core::mem::offset_of!(cusae_gradient_b_dec, out) - 24usize];
    ["Offset of field: cusae_gradient_b_dec::rows"][::core::mem::offset_of!(cusae_gradient_b_dec, rows) - 32usize];
    ["Offset of field: cusae_gradient_b_dec::d_in"][::core::mem::offset_of!(cusae_gradient_b_dec, d_in) - 40usize];
    ["Offset of field: cusae_gradient_b_dec::d_sae"][::core::mem::offset_of!(cusae_gradient_b_dec, d_sae) - 48usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_clip_scale {
    pub gradients: [*const f32; 16usize],
    pub lens: [u64; 16usize],
    pub squares: *const f64,
    pub n_squares: u64,
    pub out: *mut f32,
    pub n_gradients: u32,
    pub clip: u32,
    pub max_norm: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_clip_scale"][::core::mem::size_of::<cusae_clip_scale>() - 296usize];
    ["Alignment of cusae_clip_scale"][::core::mem::align_of::<cusae_clip_scale>() - 8usize];
    ["Offset of field: cusae_clip_scale::gradients"][::core::mem::offset_of!(cusae_clip_scale, gradients) - 0usize];
    ["Offset of field: cusae_clip_scale::lens"][::core::mem::offset_of!(cusae_clip_scale, lens) - 128usize];
    ["Offset of field: cusae_clip_scale::squares"][::core::mem::offset_of!(cusae_clip_scale, squares) - 256usize];
    ["Offset of field: cusae_clip_scale::n_squares"][::core::mem::offset_of!(cusae_clip_scale, n_squares) - 264usize];
    ["Offset of field: cusae_clip_scale::out"][::core::mem::offset_of!(cusae_clip_scale, out) - 272usize];
    ["Offset of field: cusae_clip_scale::n_gradients"]
        [::core::mem::offset_of!(cusae_clip_scale, n_gradients) - 280usize];
    ["Offset of field: cusae_clip_scale::clip"][::core::mem::offset_of!(cusae_clip_scale, clip) - 284usize];
    ["Offset of field: cusae_clip_scale::max_norm"][::core::mem::offset_of!(cusae_clip_scale, max_norm) - 288usize];
    ["Offset of field: cusae_clip_scale::unused"][::core::mem::offset_of!(cusae_clip_scale, unused) - 292usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_adam {
    pub parameter: *mut f32,
    pub gradient: *const f32,
    pub exp_avg: *mut f32,
    pub exp_avg_sq: *mut f32,
    pub clip: *const f32,
    pub scalars: *const cusae_step_scalars,
    pub len: u64,
    pub beta1: f32,
    pub beta2: f32,
    pub complement1: f32,
    pub complement2: f32,
    pub epsilon: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_adam"][::core::mem::size_of::<cusae_adam>() - 80usize];
    ["Alignment of cusae_adam"][::core::mem::align_of::<cusae_adam>() - 8usize];
    ["Offset of field: cusae_adam::parameter"][::core::mem::offset_of!(cusae_adam, parameter) - 0usize];
    ["Offset of field: cusae_adam::gradient"][::core::mem::offset_of!(cusae_adam, gradient) - 8usize];
    ["Offset of field: cusae_adam::exp_avg"][::core::mem::offset_of!(cusae_adam, exp_avg) - 16usize];
    ["Offset of field: cusae_adam::exp_avg_sq"][::core::mem::offset_of!(cusae_adam, exp_avg_sq) - 24usize];
    ["Offset of field: cusae_adam::clip"][::core::mem::offset_of!(cusae_adam, clip) - 32usize];
    ["Offset of field: cusae_adam::scalars"][::core::mem::offset_of!(cusae_adam, scalars) - 40usize];
    ["Offset of field: cusae_adam::len"][::core::mem::offset_of!(cusae_adam, len) - 48usize];
    ["Offset of field: cusae_adam::beta1"][::core::mem::offset_of!(cusae_adam, beta1) - 56usize];
    ["Offset of field: cusae_adam::beta2"][::core::mem::offset_of!(cusae_adam, beta2) - 60usize];
    ["Offset of field: cusae_adam::complement1"][::core::mem::offset_of!(cusae_adam, complement1) - 64usize];
    ["Offset of field: cusae_adam::complement2"][::core::mem::offset_of!(cusae_adam, complement2) - 68usize];
    ["Offset of field: cusae_adam::epsilon"][::core::mem::offset_of!(cusae_adam, epsilon) - 72usize];
    ["Offset of field: cusae_adam::unused"][::core::mem::offset_of!(cusae_adam, unused) - 76usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_note_non_finite {
    pub sums: *const f64,
    pub clip: *const f32,
    pub scalars: *const cusae_step_scalars,
    pub first: *mut u32,
    pub n_sums: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_note_non_finite"][::core::mem::size_of::<cusae_note_non_finite>() - 40usize];
    ["Alignment of cusae_note_non_finite"][::core::mem::align_of::<cusae_note_non_finite>() - 8usize];
    ["Offset of field: cusae_note_non_finite::sums"][::core::mem::offset_of!(cusae_note_non_finite, sums) - 0usize];
    ["Offset of field: cusae_note_non_finite::clip"][::core::mem::offset_of!(cusae_note_non_finite, clip) - 8usize];
    ["Offset of field: cusae_note_non_finite::scalars"]
        [::core::mem::offset_of!(cusae_note_non_finite, scalars) - 16usize];
    ["Offset of field: cusae_note_non_finite::first"][::core::mem::offset_of!(cusae_note_non_finite, first) - 24usize];
    ["Offset of field: cusae_note_non_finite::n_sums"]
        [::core::mem::offset_of!(cusae_note_non_finite, n_sums) - 32usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_row_norms {
    pub matrix: *const f32,
    pub norms: *mut f32,
    pub rows: u64,
    pub columns: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_row_norms"][::core::mem::size_of::<cusae_row_norms>() - 32usize];
    ["Alignment of cusae_row_norms"][::core::mem::align_of::<cusae_row_norms>() - 8usize];
    ["Offset of field: cusae_row_norms::matrix"][::core::mem::offset_of!(cusae_row_norms, matrix) - 0usize];
    ["Offset of field: cusae_row_norms::norms"][::core::mem::offset_of!(cusae_row_norms, norms) - 8usize];
    ["Offset of field: cusae_row_norms::rows"][::core::mem::offset_of!(cusae_row_norms, rows) - 16usize];
    ["Offset of field: cusae_row_norms::columns"][::core::mem::offset_of!(cusae_row_norms, columns) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_scale {
    pub from: *const f32,
    pub to: *mut f32,
    pub len: u64,
    pub factor: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_scale"][::core::mem::size_of::<cusae_scale>() - 32usize];
    ["Alignment of cusae_scale"][::core::mem::align_of::<cusae_scale>() - 8usize];
    ["Offset of field: cusae_scale::from"][::core::mem::offset_of!(cusae_scale, from) - 0usize];
    ["Offset of field: cusae_scale::to"][::core::mem::offset_of!(cusae_scale, to) - 8usize];
    ["Offset of field: cusae_scale::len"][::core::mem::offset_of!(cusae_scale, len) - 16usize];
    ["Offset of field: cusae_scale::factor"][::core::mem::offset_of!(cusae_scale, factor) - 24usize];
    ["Offset of field: cusae_scale::unused"][::core::mem::offset_of!(cusae_scale, unused) - 28usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_round_bf16 {
    pub from: *const f32,
    pub to: *mut u16,
    pub len: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_round_bf16"][::core::mem::size_of::<cusae_round_bf16>() - 24usize];
    ["Alignment of cusae_round_bf16"][::core::mem::align_of::<cusae_round_bf16>() - 8usize];
    ["Offset of field: cusae_round_bf16::from"][::core::mem::offset_of!(cusae_round_bf16, from) - 0usize];
    ["Offset of field: cusae_round_bf16::to"][::core::mem::offset_of!(cusae_round_bf16, to) - 8usize];
    ["Offset of field: cusae_round_bf16::len"][::core::mem::offset_of!(cusae_round_bf16, len) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_find_dead {
    pub since_fired: *const u32,
    pub dead: *mut u32,
    pub n_dead: *mut u32,
    pub first: u64,
    pub last: u64,
    pub window: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_find_dead"][::core::mem::size_of::<cusae_find_dead>() - 48usize];
    ["Alignment of cusae_find_dead"][::core::mem::align_of::<cusae_find_dead>() - 8usize];
    ["Offset of field: cusae_find_dead::since_fired"][::core::mem::offset_of!(cusae_find_dead, since_fired) - 0usize];
    ["Offset of field: cusae_find_dead::dead"][::core::mem::offset_of!(cusae_find_dead, dead) - 8usize];
    ["Offset of field: cusae_find_dead::n_dead"][::core::mem::offset_of!(cusae_find_dead, n_dead) - 16usize];
    ["Offset of field: cusae_find_dead::first"][::core::mem::offset_of!(cusae_find_dead, first) - 24usize];
    ["Offset of field: cusae_find_dead::last"][::core::mem::offset_of!(cusae_find_dead, last) - 32usize];
    ["Offset of field: cusae_find_dead::window"][::core::mem::offset_of!(cusae_find_dead, window) - 40usize];
    ["Offset of field: cusae_find_dead::unused"][::core::mem::offset_of!(cusae_find_dead, unused) - 44usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_update_firing {
    pub offsets: *const u32,
    pub entries: *const u32,
    pub values: *const f32,
    pub features: *const f32,
    pub fired_count: *mut u32,
    pub since_fired: *mut u32,
    pub rows: u64,
    pub d_sae: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_update_firing"][::core::mem::size_of::<cusae_update_firing>() - 64usize];
    ["Alignment of cusae_update_firing"][::core::mem::align_of::<cusae_update_firing>() - 8usize];
    ["Offset of field: cusae_update_firing::offsets"][::core::mem::offset_of!(cusae_update_firing, offsets) - 0usize];
    ["Offset of field: cusae_update_firing::entries"][::core::mem::offset_of!(cusae_update_firing, entries) - 8usize];
    ["Offset of field: cusae_update_firing::values"][::core::mem::offset_of!(cusae_update_firing, values) - 16usize];
    ["Offset of field: cusae_update_firing::features"]
        [::core::mem::offset_of!(cusae_update_firing, features) - 24usize];
    ["Offset of field: cusae_update_firing::fired_count"]
        [::core::mem::offset_of!(cusae_update_firing, fired_count) - 32usize];
    ["Offset of field: cusae_update_firing::since_fired"]
        [::core::mem::offset_of!(cusae_update_firing, since_fired) - 40usize];
    ["Offset of field: cusae_update_firing::rows"][::core::mem::offset_of!(cusae_update_firing, rows) - 48usize];
    ["Offset of field: cusae_update_firing::d_sae"][::core::mem::offset_of!(cusae_update_firing, d_sae) - 56usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_sum {
    pub values: *const f32,
    pub out: *mut f64,
    pub len: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_sum"][::core::mem::size_of::<cusae_sum>() - 24usize];
    ["Alignment of cusae_sum"][::core::mem::align_of::<cusae_sum>() - 8usize];
    ["Offset of field: cusae_sum::values"][::core::mem::offset_of!(cusae_sum, values) - 0usize];
    ["Offset of field: cusae_sum::out"][::core::mem::offset_of!(cusae_sum, out) - 8usize];
    ["Offset of field: cusae_sum::len"][::core::mem::offset_of!(cusae_sum, len) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_row_variance {
    pub x: *const f32,
    pub variance: *mut f32,
    pub rows: u64,
    pub d_in: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_row_variance"][::core::mem::size_of::<cusae_row_variance>() - 32usize];
    ["Alignment of cusae_row_variance"][::core::mem::align_of::<cusae_row_variance>() - 8usize];
    ["Offset of field: cusae_row_variance::x"][::core::mem::offset_of!(cusae_row_variance, x) - 0usize];
    ["Offset of field: cusae_row_variance::variance"][::core::mem::offset_of!(cusae_row_variance, variance) - 8usize];
    ["Offset of field: cusae_row_variance::rows"][::core::mem::offset_of!(cusae_row_variance, rows) - 16usize];
    ["Offset of field: cusae_row_variance::d_in"][::core::mem::offset_of!(cusae_row_variance, d_in) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_exponential {
    pub x: *const f32,
    pub factor: *const f32,
    pub to: *mut f32,
    pub len: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_exponential"][::core::mem::size_of::<cusae_exponential>() - 32usize];
    ["Alignment of cusae_exponential"][::core::mem::align_of::<cusae_exponential>() - 8usize];
    ["Offset of field: cusae_exponential::x"][::core::mem::offset_of!(cusae_exponential, x) - 0usize];
    ["Offset of field: cusae_exponential::factor"][::core::mem::offset_of!(cusae_exponential, factor) - 8usize];
    ["Offset of field: cusae_exponential::to"][::core::mem::offset_of!(cusae_exponential, to) - 16usize];
    ["Offset of field: cusae_exponential::len"][::core::mem::offset_of!(cusae_exponential, len) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_ghost_error {
    pub ghost: *const f32,
    pub error: *const f32,
    pub gradient: *mut f32,
    pub loss: *mut f32,
    pub rows: u64,
    pub d_in: u64,
    pub error_scale: f32,
    pub gradient_scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_ghost_error"][::core::mem::size_of::<cusae_ghost_error>() - 56usize];
    ["Alignment of cusae_ghost_error"][::core::mem::align_of::<cusae_ghost_error>() - 8usize];
    ["Offset of field: cusae_ghost_error::ghost"][::core::mem::offset_of!(cusae_ghost_error, ghost) - 0usize];
    ["Offset of field: cusae_ghost_error::error"][::core::mem::offset_of!(cusae_ghost_error, error) - 8usize];
    ["Offset of field: cusae_ghost_error::gradient"][::core::mem::offset_of!(cusae_ghost_error, gradient) - 16usize];
    ["Offset of field: cusae_ghost_error::loss"][::core::mem::offset_of!(cusae_ghost_error, loss) - 24usize];
    ["Offset of field: cusae_ghost_error::rows"][::core::mem::offset_of!(cusae_ghost_error, rows) - 32usize];
    ["Offset of field: cusae_ghost_error::d_in"][::core::mem::offset_of!(cusae_ghost_error, d_in) - 40usize];
    ["Offset of field: cusae_ghost_error::error_scale"]
        [::core::mem::offset_of!(cusae_ghost_error, error_scale) - 48usize];
    ["Offset of field: cusae_ghost_error::gradient_scale"]
        [::core::mem::offset_of!(cusae_ghost_error, gradient_scale) - 52usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_fill {
    pub to: *mut ::core::ffi::c_void,
    pub len: u64,
    pub pattern: [u64; 2usize],
    pub element_bytes: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_fill"][::core::mem::size_of::<cusae_fill>() - 40usize];
    ["Alignment of cusae_fill"][::core::mem::align_of::<cusae_fill>() - 8usize];
    ["Offset of field: cusae_fill::to"][::core::mem::offset_of!(cusae_fill, to) - 0usize];
    ["Offset of field: cusae_fill::len"][::core::mem::offset_of!(cusae_fill, len) - 8usize];
    ["Offset of field: cusae_fill::pattern"][::core::mem::offset_of!(cusae_fill, pattern) - 16usize];
    ["Offset of field: cusae_fill::element_bytes"][::core::mem::offset_of!(cusae_fill, element_bytes) - 32usize];
    ["Offset of field: cusae_fill::unused"][::core::mem::offset_of!(cusae_fill, unused) - 36usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cusae_table {
    pub table_bytes: u64,
    pub error_text:
        ::core::option::Option<unsafe extern "C" fn(status: ::core::ffi::c_int) -> *const ::core::ffi::c_char>,
    pub device_count:
        ::core::option::Option<unsafe extern "C" fn(count: *mut ::core::ffi::c_int) -> ::core::ffi::c_int>,
    pub device_properties: ::core::option::Option<
        unsafe extern "C" fn(ordinal: ::core::ffi::c_int, out: *mut cusae_device) -> ::core::ffi::c_int,
    >,
    pub stream_create: ::core::option::Option<
        unsafe extern "C" fn(out: *mut *mut cusae_stream, ordinal: ::core::ffi::c_int) -> ::core::ffi::c_int,
    >,
    pub stream_destroy: ::core::option::Option<unsafe extern "C" fn(stream: *mut cusae_stream) -> ::core::ffi::c_int>,
    pub synchronize: ::core::option::Option<unsafe extern "C" fn(stream: *mut cusae_stream) -> ::core::ffi::c_int>,
    pub take_fault: ::core::option::Option<
        unsafe extern "C" fn(stream: *mut cusae_stream, out: *mut cusae_fault) -> ::core::ffi::c_int,
    >,
    pub memory_allocate: ::core::option::Option<
        unsafe extern "C" fn(
            out: *mut *mut ::core::ffi::c_void,
            bytes: u64,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub memory_free: ::core::option::Option<
        unsafe extern "C" fn(memory: *mut ::core::ffi::c_void, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub memory_set: ::core::option::Option<
        unsafe extern "C" fn(
            to: *mut ::core::ffi::c_void,
            byte: ::core::ffi::c_int,
            bytes: u64,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub copy_to_device: ::core::option::Option<
        unsafe extern "C" fn(
            to: *mut ::core::ffi::c_void,
            from: *const ::core::ffi::c_void,
            bytes: u64,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub copy_to_host: ::core::option::Option<
        unsafe extern "C" fn(
            to: *mut ::core::ffi::c_void,
            from: *const ::core::ffi::c_void,
            bytes: u64,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub copy_on_device: ::core::option::Option<
        unsafe extern "C" fn(
            to: *mut ::core::ffi::c_void,
            from: *const ::core::ffi::c_void,
            bytes: u64,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub event_create: ::core::option::Option<
        unsafe extern "C" fn(out: *mut *mut cusae_event, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub event_destroy: ::core::option::Option<unsafe extern "C" fn(event: *mut cusae_event) -> ::core::ffi::c_int>,
    pub event_record: ::core::option::Option<
        unsafe extern "C" fn(event: *mut cusae_event, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub event_elapsed_ms: ::core::option::Option<
        unsafe extern "C" fn(out: *mut f32, from: *mut cusae_event, to: *mut cusae_event) -> ::core::ffi::c_int,
    >,
    pub capture_begin: ::core::option::Option<unsafe extern "C" fn(stream: *mut cusae_stream) -> ::core::ffi::c_int>,
    pub capture_end: ::core::option::Option<
        unsafe extern "C" fn(out: *mut *mut cusae_graph, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub graph_launch: ::core::option::Option<
        unsafe extern "C" fn(graph: *mut cusae_graph, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub graph_destroy: ::core::option::Option<unsafe extern "C" fn(graph: *mut cusae_graph) -> ::core::ffi::c_int>,
    pub embed: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_embed, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub layer_norm: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_layer_norm, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub linear: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_linear, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub activate: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_activate, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub attention: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_attention, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub attention_pattern: ::core::option::Option<
        unsafe extern "C" fn(
            arguments: *const cusae_attention_pattern,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub attention_mix: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_attention_mix, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub add: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_add, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub unembed_cross_entropy: ::core::option::Option<
        unsafe extern "C" fn(
            arguments: *const cusae_unembed_cross_entropy,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub unembed_kl_divergence: ::core::option::Option<
        unsafe extern "C" fn(
            arguments: *const cusae_unembed_kl_divergence,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub sample_token: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_sample_token, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub gather_rows: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_gather_rows, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub scatter_rows: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_scatter_rows, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub prepare_input: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_prepare_input, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub encode_topk: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_encode_topk, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub encode_batch_topk: ::core::option::Option<
        unsafe extern "C" fn(
            arguments: *const cusae_encode_batch_topk,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub encode_jumprelu: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_encode_jumprelu, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub encode_relu: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_encode_relu, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub encode_relu_dense: ::core::option::Option<
        unsafe extern "C" fn(
            arguments: *const cusae_encode_relu_dense,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub encode_dead_topk: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_encode_dead_topk, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub decode_sparse: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_decode_sparse, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub decode_dense: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_decode_dense, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub sparsity_lp: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_sparsity_lp, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub sparsity_lp_dense: ::core::option::Option<
        unsafe extern "C" fn(
            arguments: *const cusae_sparsity_lp_dense,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub jumprelu_gradient: ::core::option::Option<
        unsafe extern "C" fn(
            arguments: *const cusae_jumprelu_gradient,
            stream: *mut cusae_stream,
        ) -> ::core::ffi::c_int,
    >,
    pub pre_act_loss: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_pre_act_loss, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub gate: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_gate, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub gate_gradient: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_gate_gradient, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub slice_lists: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_slice_lists, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub sum_by_latent: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_sum_by_latent, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub gradient_values: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_gradient_values, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub transpose_lists: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_transpose_lists, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub gradient_sparse: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_gradient_sparse, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub gradient_squares: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_gradient_squares, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub gradient_dense: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_gradient_dense, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub gradient_b_dec: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_gradient_b_dec, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub clip_scale: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_clip_scale, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub adam: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_adam, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub adam_sparse: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_adam_sparse, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub row_norms: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_row_norms, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub scale: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_scale, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub round_bf16: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_round_bf16, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub find_dead: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_find_dead, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub update_firing: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_update_firing, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub note_non_finite: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_note_non_finite, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub sum: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_sum, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub row_variance: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_row_variance, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub exponential: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_exponential, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub ghost_error: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_ghost_error, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
    pub fill: ::core::option::Option<
        unsafe extern "C" fn(arguments: *const cusae_fill, stream: *mut cusae_stream) -> ::core::ffi::c_int,
    >,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cusae_table"][::core::mem::size_of::<cusae_table>() - 576usize];
    ["Alignment of cusae_table"][::core::mem::align_of::<cusae_table>() - 8usize];
    ["Offset of field: cusae_table::table_bytes"][::core::mem::offset_of!(cusae_table, table_bytes) - 0usize];
    ["Offset of field: cusae_table::error_text"][::core::mem::offset_of!(cusae_table, error_text) - 8usize];
    ["Offset of field: cusae_table::device_count"][::core::mem::offset_of!(cusae_table, device_count) - 16usize];
    ["Offset of field: cusae_table::device_properties"]
        [::core::mem::offset_of!(cusae_table, device_properties) - 24usize];
    ["Offset of field: cusae_table::stream_create"][::core::mem::offset_of!(cusae_table, stream_create) - 32usize];
    ["Offset of field: cusae_table::stream_destroy"][::core::mem::offset_of!(cusae_table, stream_destroy) - 40usize];
    ["Offset of field: cusae_table::synchronize"][::core::mem::offset_of!(cusae_table, synchronize) - 48usize];
    ["Offset of field: cusae_table::take_fault"][::core::mem::offset_of!(cusae_table, take_fault) - 56usize];
    ["Offset of field: cusae_table::memory_allocate"][::core::mem::offset_of!(cusae_table, memory_allocate) - 64usize];
    ["Offset of field: cusae_table::memory_free"][::core::mem::offset_of!(cusae_table, memory_free) - 72usize];
    ["Offset of field: cusae_table::memory_set"][::core::mem::offset_of!(cusae_table, memory_set) - 80usize];
    ["Offset of field: cusae_table::copy_to_device"][::core::mem::offset_of!(cusae_table, copy_to_device) - 88usize];
    ["Offset of field: cusae_table::copy_to_host"][::core::mem::offset_of!(cusae_table, copy_to_host) - 96usize];
    ["Offset of field: cusae_table::copy_on_device"][::core::mem::offset_of!(cusae_table, copy_on_device) - 104usize];
    ["Offset of field: cusae_table::event_create"][::core::mem::offset_of!(cusae_table, event_create) - 112usize];
    ["Offset of field: cusae_table::event_destroy"][::core::mem::offset_of!(cusae_table, event_destroy) - 120usize];
    ["Offset of field: cusae_table::event_record"][::core::mem::offset_of!(cusae_table, event_record) - 128usize];
    ["Offset of field: cusae_table::event_elapsed_ms"]
        [::core::mem::offset_of!(cusae_table, event_elapsed_ms) - 136usize];
    ["Offset of field: cusae_table::capture_begin"][::core::mem::offset_of!(cusae_table, capture_begin) - 144usize];
    ["Offset of field: cusae_table::capture_end"][::core::mem::offset_of!(cusae_table, capture_end) - 152usize];
    ["Offset of field: cusae_table::graph_launch"][::core::mem::offset_of!(cusae_table, graph_launch) - 160usize];
    ["Offset of field: cusae_table::graph_destroy"][::core::mem::offset_of!(cusae_table, graph_destroy) - 168usize];
    ["Offset of field: cusae_table::embed"][::core::mem::offset_of!(cusae_table, embed) - 176usize];
    ["Offset of field: cusae_table::layer_norm"][::core::mem::offset_of!(cusae_table, layer_norm) - 184usize];
    ["Offset of field: cusae_table::linear"][::core::mem::offset_of!(cusae_table, linear) - 192usize];
    ["Offset of field: cusae_table::activate"][::core::mem::offset_of!(cusae_table, activate) - 200usize];
    ["Offset of field: cusae_table::attention"][::core::mem::offset_of!(cusae_table, attention) - 208usize];
    ["Offset of field: cusae_table::attention_pattern"]
        [::core::mem::offset_of!(cusae_table, attention_pattern) - 216usize];
    ["Offset of field: cusae_table::attention_mix"][::core::mem::offset_of!(cusae_table, attention_mix) - 224usize];
    ["Offset of field: cusae_table::add"][::core::mem::offset_of!(cusae_table, add) - 232usize];
    ["Offset of field: cusae_table::unembed_cross_entropy"]
        [::core::mem::offset_of!(cusae_table, unembed_cross_entropy) - 240usize];
    ["Offset of field: cusae_table::unembed_kl_divergence"]
        [::core::mem::offset_of!(cusae_table, unembed_kl_divergence) - 248usize];
    ["Offset of field: cusae_table::sample_token"][::core::mem::offset_of!(cusae_table, sample_token) - 256usize];
    ["Offset of field: cusae_table::gather_rows"][::core::mem::offset_of!(cusae_table, gather_rows) - 264usize];
    ["Offset of field: cusae_table::scatter_rows"][::core::mem::offset_of!(cusae_table, scatter_rows) - 272usize];
    ["Offset of field: cusae_table::prepare_input"][::core::mem::offset_of!(cusae_table, prepare_input) - 280usize];
    ["Offset of field: cusae_table::encode_topk"][::core::mem::offset_of!(cusae_table, encode_topk) - 288usize];
    ["Offset of field: cusae_table::encode_batch_topk"]
        [::core::mem::offset_of!(cusae_table, encode_batch_topk) - 296usize];
    ["Offset of field: cusae_table::encode_jumprelu"][::core::mem::offset_of!(cusae_table, encode_jumprelu) - 304usize];
    ["Offset of field: cusae_table::encode_relu"][::core::mem::offset_of!(cusae_table, encode_relu) - 312usize];
    ["Offset of field: cusae_table::encode_relu_dense"]
        [::core::mem::offset_of!(cusae_table, encode_relu_dense) - 320usize];
    ["Offset of field: cusae_table::encode_dead_topk"]
        [::core::mem::offset_of!(cusae_table, encode_dead_topk) - 328usize];
    ["Offset of field: cusae_table::decode_sparse"][::core::mem::offset_of!(cusae_table, decode_sparse) - 336usize];
    ["Offset of field: cusae_table::decode_dense"][::core::mem::offset_of!(cusae_table, decode_dense) - 344usize];
    ["Offset of field: cusae_table::sparsity_lp"][::core::mem::offset_of!(cusae_table, sparsity_lp) - 352usize];
    ["Offset of field: cusae_table::sparsity_lp_dense"]
        [::core::mem::offset_of!(cusae_table, sparsity_lp_dense) - 360usize];
    ["Offset of field: cusae_table::jumprelu_gradient"]
        [::core::mem::offset_of!(cusae_table, jumprelu_gradient) - 368usize];
    ["Offset of field: cusae_table::pre_act_loss"][::core::mem::offset_of!(cusae_table, pre_act_loss) - 376usize];
    ["Offset of field: cusae_table::gate"][::core::mem::offset_of!(cusae_table, gate) - 384usize];
    ["Offset of field: cusae_table::gate_gradient"][::core::mem::offset_of!(cusae_table, gate_gradient) - 392usize];
    ["Offset of field: cusae_table::slice_lists"][::core::mem::offset_of!(cusae_table, slice_lists) - 400usize];
    ["Offset of field: cusae_table::sum_by_latent"][::core::mem::offset_of!(cusae_table, sum_by_latent) - 408usize];
    ["Offset of field: cusae_table::gradient_values"][::core::mem::offset_of!(cusae_table, gradient_values) - 416usize];
    ["Offset of field: cusae_table::transpose_lists"][::core::mem::offset_of!(cusae_table, transpose_lists) - 424usize];
    ["Offset of field: cusae_table::gradient_sparse"][::core::mem::offset_of!(cusae_table, gradient_sparse) - 432usize];
    ["Offset of field: cusae_table::gradient_squares"]
        [::core::mem::offset_of!(cusae_table, gradient_squares) - 440usize];
    ["Offset of field: cusae_table::gradient_dense"][::core::mem::offset_of!(cusae_table, gradient_dense) - 448usize];
    ["Offset of field: cusae_table::gradient_b_dec"][::core::mem::offset_of!(cusae_table, gradient_b_dec) - 456usize];
    ["Offset of field: cusae_table::clip_scale"][::core::mem::offset_of!(cusae_table, clip_scale) - 464usize];
    ["Offset of field: cusae_table::adam"][::core::mem::offset_of!(cusae_table, adam) - 472usize];
    ["Offset of field: cusae_table::adam_sparse"][::core::mem::offset_of!(cusae_table, adam_sparse) - 480usize];
    ["Offset of field: cusae_table::row_norms"][::core::mem::offset_of!(cusae_table, row_norms) - 488usize];
    ["Offset of field: cusae_table::scale"][::core::mem::offset_of!(cusae_table, scale) - 496usize];
    ["Offset of field: cusae_table::round_bf16"][::core::mem::offset_of!(cusae_table, round_bf16) - 504usize];
    ["Offset of field: cusae_table::find_dead"][::core::mem::offset_of!(cusae_table, find_dead) - 512usize];
    ["Offset of field: cusae_table::update_firing"][::core::mem::offset_of!(cusae_table, update_firing) - 520usize];
    ["Offset of field: cusae_table::note_non_finite"][::core::mem::offset_of!(cusae_table, note_non_finite) - 528usize];
    ["Offset of field: cusae_table::sum"][::core::mem::offset_of!(cusae_table, sum) - 536usize];
    ["Offset of field: cusae_table::row_variance"][::core::mem::offset_of!(cusae_table, row_variance) - 544usize];
    ["Offset of field: cusae_table::exponential"][::core::mem::offset_of!(cusae_table, exponential) - 552usize];
    ["Offset of field: cusae_table::ghost_error"][::core::mem::offset_of!(cusae_table, ghost_error) - 560usize];
    ["Offset of field: cusae_table::fill"][::core::mem::offset_of!(cusae_table, fill) - 568usize];
};
