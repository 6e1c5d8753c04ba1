// encode.cuh: the encoder's product h = input · w_encᵀ + b_enc with something done to every element and
// to every group of 64 latents of a row, before anything is written: see keep.cuh.
//
//   encode(rows, keep, stream)    in f32 by gemm.cuh, in bf16 by gemm_bf16.cuh
#pragma once
#include "gemm.cuh"
#include "gemm_bf16.cuh"

namespace CUSAE_NS {

// What an encoder reads: some rows of a batch, all `n_latents` latents or those that `latents` names.
struct EncoderRows {
    const void *input, *w_enc;  // of `type`
    const float* b_enc;
    uint64_t rows, d_in, n_latents;
    uint32_t type;            // enum cusae_type
    const uint32_t* latents;  // NULL: all
    const uint32_t* chosen;   // how many `latents` there are; n_latents is a bound then
    __device__ __forceinline__ uint64_t count() const { return chosen ? min(uint64_t(*chosen), n_latents) : n_latents; }
    __device__ __forceinline__ uint64_t latent(uint64_t column) const { return latents ? latents[column] : column; }
    // `n` rows from `first` on.
    EncoderRows part(uint64_t first, uint64_t n) const {
        EncoderRows part = *this;
        part.input = static_cast<const char*>(input) + first * d_in * (type == CUSAE_BF16 ? sizeof(bf16) : sizeof(float));
        part.rows = n;
        return part;
    }
};

inline EncoderRows rows_of(const cusae_encoder& a) {
    return {a.input, a.w_enc, a.b_enc, a.rows, a.d_in, a.d_sae, a.type, nullptr, nullptr};
}

template <class Keep> __global__ void __launch_bounds__(kGemmThreads) encode_kernel(EncoderRows a, Keep keep) {
    constexpr Layout kLayout = Layout::OuterK;
    const uint64_t first_row = uint64_t(blockIdx.x) * kGemmRows, first_column = uint64_t(blockIdx.y) * kGroup;
    const uint64_t n_latents = a.count();
    if (first_column >= n_latents) return;
    const Operand<kLayout> input{static_cast<const float*>(a.input), a.rows, a.d_in};
    const Operand<kLayout> w_enc{static_cast<const float*>(a.w_enc), n_latents, a.d_in, a.latents};
    float product[kMicro][kMicro];
    gemm_tile(shared<GemmShared<kLayout, kLayout>>(), input, w_enc, a.d_in, first_row, first_column, product);

    const unsigned columns = unsigned(min(n_latents - first_column, uint64_t(kGroup)));
    float bias[kMicro];
#pragma unroll
    for (unsigned j = 0; j < kMicro; j++) {
        const unsigned column = gemm_column<kLayout>(j);
        bias[j] = column < columns ? a.b_enc[a.latent(first_column + column)] : 0.0f;
    }
#pragma unroll
    for (unsigned i = 0; i < kMicro; i++) {
        const uint64_t row = first_row + gemm_row<kLayout>(i), row_start = row * a.n_latents + first_column;
        uint32_t number = 0;
#pragma unroll
        for (unsigned j = 0; j < kMicro; j++) {
            const unsigned column = gemm_column<kLayout>(j);
            if (row >= a.rows || column >= columns) continue;
            const float h = product[i][j] + bias[j];
            number = Keep::combine(number, keep_one(keep, row, first_column + column, row_start + column, h));
        }
#pragma unroll
        for (unsigned lanes = kGemmColumnThreads / 2; lanes > 0; lanes /= 2)
            number = Keep::combine(number, __shfl_xor_sync(kAllLanes, number, int(lanes)));
        if (row < a.rows && threadIdx.x % kGemmColumnThreads == 0) keep.group(row, blockIdx.y, number);
    }
}

// Keeps max(h, 0), and counts the positive ones of every row.
struct KeepRectified {
    float* out;
    uint32_t* counts;  // [rows]
    static __device__ __forceinline__ uint32_t combine(uint32_t a, uint32_t b) { return a + b; }
    template <int N> __device__ __forceinline__ uint32_t operator()(uint64_t, uint64_t, uint64_t, Pack<N>& h) const {
        uint32_t positive = 0;
#pragma unroll
        for (int n = 0; n < N; n++) {
            h.at[n] = h.at[n] <= 0.0f ? 0.0f : h.at[n];
            positive += h.at[n] > 0.0f;
        }
        return positive;
    }
    __device__ __forceinline__ void group(uint64_t row, unsigned, uint32_t positive) const {
        if (positive > 0) atomicAdd(&counts[row], positive);
    }
};

// Refuses operands of another type, and more than 65,535 groups.
inline int refuse_encoder(uint32_t type, uint64_t n_latents) {
    if (type > CUSAE_BF16) return refuse("the operands are neither f32 nor bf16");
    return ceil_div(n_latents, kGroup) > 65535 ? refuse("an encoder has more than 4194240 latents") : CUSAE_OK;
}

// Of f32 operands.
template <class Keep> int encode_f32(const EncoderRows& a, const Keep& keep, cusae_stream* stream) {
    if (int error = refuse_encoder(a.type, a.n_latents)) return error;
    const dim3 grid(unsigned(ceil_div(a.rows, kGemmRows)), unsigned(ceil_div(a.n_latents, kGroup)));
    const size_t bytes = sizeof(GemmShared<Layout::OuterK, Layout::OuterK>);
    return launch(encode_kernel<Keep>, grid, kGemmThreads, bytes, stream, a, keep);
}

// Of operands of any type.
template <class Keep> int encode(const EncoderRows& a, const Keep& keep, cusae_stream* stream) {
    if (a.type != CUSAE_BF16) return encode_f32(a, keep, stream);
    if (int error = refuse_encoder(a.type, a.n_latents)) return error;
    const auto of = [](const void* data) { return static_cast<const bf16*>(data); };
    return gemm_bf16({of(a.input), of(a.w_enc), a.b_enc, a.rows, a.n_latents, a.d_in, a.latents, a.chosen}, keep, stream);
}

}  // namespace CUSAE_NS
