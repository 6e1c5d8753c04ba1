// encode_topk, encode_dead_topk, encode_relu, encode_jumprelu: the encoder's pre-activations h = input · w_encᵀ + b_enc,
// of which each row keeps the largest, or the positive, as a list.
//
//   input [B, D], w_enc [F, D] f32 or bf16      b_enc [F] f32      decoder_norm [F] f32 or NULL: 1
//   encode_dead_topk: dead [F] u32, of which the first n_dead [1] u32 count, ascending, each below F
//   lists  out [B, S]: latents ascending, values h; what lies beyond a row's count stays as it was
//   encode_jumprelu: threshold [F] f32; pre_activations  out [B, S] f32 or NULL: h of the entries
//   encode_relu, encode_jumprelu: longest  out [1] u32: entries of the longest row, of which S at most are listed
//
//   needs   F <= 4,194,240; 1 <= k <= F; k <= S; bandwidth >= 0
//   work    encode_kernel stores h, and the largest key h·decoder_norm of every group of 64 latents. A
//           block then selects in a row: the k-th largest group maximum is not above the k-th largest
//           key, since k groups hold a key that large; so only the groups that reach it are read. Both
//           are found by radix select, 11 bits at a time. No case is special: where k exceeds the
//           number of groups the bound lets every group through, and the row is radix selected
//   moves   the product's, 4 bytes a pre-activation out; then 4·F/64 + about 5·64·4·k a row, mostly in
//           L1; rows are taken in chunks whose h fits scratch_limit()
//   exact   the set that a stable sort by descending key gives, for every k: ties go to the smaller
//           latent, 0 and -0 tie. Never selected: NaN, -inf, and with encode_topk keys that are not
//           positive. The same bits on every run
#include "jumprelu.cuh"
#include "select.cuh"

namespace CUSAE_NS {

template <class Order> __global__ void __launch_bounds__(kThreads) select_kernel(Chunk<Order> a) {
    auto& s = shared<SelectShared>();
    const uint64_t row = blockIdx.x;
    Cut cut{0, 0};
    if (a.k > 0) {
        const Cut of_maxima = cut_after(s, a.k, 1, [&](auto count) {
            for (uint64_t i = threadIdx.x; i < a.used_groups(); i += kThreads) count(a.maxima[row * a.groups + i]);
        });
        const uint32_t bound = of_maxima.least();
        cut = cut_after(s, a.k, bound, [&](auto count) {
            walk(a, row, bound, [&](uint64_t, float, uint32_t key) { count(key); });
        });
    }
    list(s, a, row, cut);
}

// ---- The host's side -----------------------------------------------------------------------------------

// As many rows as scratch_limit() allows, whole tiles of them where it allows one.
static uint64_t chunk_rows(uint64_t rows, uint64_t bytes_of_row) {
    const uint64_t fit = max(scratch_limit() / max(bytes_of_row, uint64_t(1)), uint64_t(1));
    return min(rows, fit > kGemmRows ? fit / kGemmRows * kGemmRows : fit);
}

template <class Order>
int encode_lists(const EncoderRows& all, const Order& order, const cusae_lists& lists, uint32_t k, uint32_t* longest,
                 float* pre_activations, cusae_stream* stream) {
    const uint64_t groups = ceil_div(all.n_latents, kGroup);
    const uint64_t n = chunk_rows(all.rows, (all.n_latents + groups) * sizeof(float));
    float* h = nullptr;  // first, since products are stored 16 bytes at a time
    if (int error = scratch(stream, n * (all.n_latents + groups), &h)) return error;
    uint32_t* const maxima = reinterpret_cast<uint32_t*>(h + n * all.n_latents);
    for (uint64_t first = 0; first < all.rows; first += n) {
        const EncoderRows encoder = all.part(first, min(n, all.rows - first));
        const uint64_t entry = first * lists.stride;
        const cusae_lists of_chunk{lists.counts + first, lists.indices + entry, lists.values + entry, lists.stride};
        float* const pre_activations_of_chunk = pre_activations ? pre_activations + entry : nullptr;
        const Chunk<Order> chunk{encoder, order, h, maxima, groups, of_chunk, pre_activations_of_chunk, longest, k};
        if (int error = encode_chunk(chunk, stream)) return error;
        const dim3 grid(unsigned(encoder.rows));
        if (int error = launch(select_kernel<Order>, grid, kThreads, sizeof(SelectShared), stream, chunk)) return error;
    }
    return CUSAE_OK;
}

}  // namespace CUSAE_NS

CUSAE_API(encode_topk)(const cusae_encode_topk* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->k < 1 || a->k > a->encoder.d_sae) return refuse("k is not between 1 and d_sae");
    if (a->k > a->lists.stride) return refuse("the lists have no room for k entries in a row");
    // What is selected but not positive would be rectified to zero, so only positive keys matter.
    return encode_lists(rows_of(a->encoder), KeyOrder{a->decoder_norm, 0.0f, a->magnitude != 0}, a->lists, uint32_t(a->k), nullptr, nullptr,
                        stream);
}

CUSAE_API(encode_dead_topk)(const cusae_encode_dead_topk* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->k < 1) return refuse("k is 0");
    if (a->k > a->lists.stride) return refuse("the lists have no room for k entries in a row");
    EncoderRows encoder = rows_of(a->encoder);
    encoder.latents = a->dead;
    encoder.chosen = a->n_dead;
    return encode_lists(encoder, KeyOrder{a->decoder_norm, -INFINITY, a->magnitude != 0}, a->lists, uint32_t(a->k), nullptr,
                        nullptr, stream);
}

CUSAE_API(encode_relu)(const cusae_encode_relu* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (int error = refuse_encoder(a->encoder.type, a->encoder.d_sae)) return error;
    if (int error = memory_set(a->longest, 0, sizeof(uint32_t), stream)) return error;
    return encode_lists(rows_of(a->encoder), KeyOrder{nullptr, 0.0f, false}, a->lists, 0, a->longest, nullptr, stream);
}

CUSAE_API(encode_jumprelu)(const cusae_encode_jumprelu* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (!(a->bandwidth >= 0.0f)) return refuse("the bandwidth is negative");
    if (int error = refuse_encoder(a->encoder.type, a->encoder.d_sae)) return error;
    if (int error = memory_set(a->longest, 0, sizeof(uint32_t), stream)) return error;
    return encode_lists(rows_of(a->encoder), JumpReluOrder{a->threshold, a->bandwidth}, a->lists, 0, a->longest,
                        a->pre_activations, stream);
}
