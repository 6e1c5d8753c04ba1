// encode.cuh: the encoder's product h = input · w_encᵀ + b_enc with something done to every element and
// to every group of 64 latents of a row, before anything is written.
#pragma once
#include "gemm.cuh"

namespace CUSAE_NS {

constexpr unsigned kGroup = kGemmColumns;  // latents of a group: the columns of a tile

// What an encoder reads: some rows of a batch, all `n_latents` latents or those that `latents` names.
struct EncoderRows {
    const float *input, *w_enc, *b_enc;
    uint64_t rows, d_in, n_latents;
    const uint32_t* latents;  // NULL: all
    const uint32_t* chosen;   // how many `latents` there are; n_latents is a bound then
    __device__ __forceinline__ uint64_t count() const { return chosen ? min(uint64_t(*chosen), n_latents) : n_latents; }
    __device__ __forceinline__ uint64_t latent(uint64_t column) const { return latents ? latents[column] : column; }
};

inline EncoderRows rows_of(const cusae_encoder& a) {
    return {a.input, a.w_enc, a.b_enc, a.rows, a.d_in, a.d_sae, nullptr, nullptr};
}

// `keep(row * n_latents + column, column, h)` is called for every element and gives a number; what
// Keep::combine makes of a group's numbers, starting from 0, goes to `keep.group(row, group, number)`.
template <class Keep> __global__ void __launch_bounds__(kGemmThreads) encode_kernel(EncoderRows a, Keep keep) {
    constexpr Layout kLayout = Layout::OuterK;
    const uint64_t first_row = uint64_t(blockIdx.x) * kGemmRows, first_column = uint64_t(blockIdx.y) * kGroup;
    const uint64_t n_latents = a.count();
    if (first_column >= n_latents) return;
    const Operand<kLayout> input{a.input, a.rows, a.d_in}, w_enc{a.w_enc, n_latents, a.d_in, a.latents};
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
            number = Keep::combine(number, keep(row_start + column, first_column + column, product[i][j] + bias[j]));
        }
#pragma unroll
        for (unsigned lanes = kGemmColumnThreads / 2; lanes > 0; lanes /= 2)
            number = Keep::combine(number, __shfl_xor_sync(kAllLanes, number, int(lanes)));
        if (row < a.rows && threadIdx.x % kGemmColumnThreads == 0) keep.group(row, blockIdx.y, number);
    }
}

// Refuses more than 65,535 groups, 4,194,240 latents.
template <class Keep> int encode(const EncoderRows& a, const Keep& keep, cusae_stream* stream) {
    if (ceil_div(a.n_latents, kGroup) > 65535) return refuse("an encoder has more than 4194240 latents");
    const dim3 grid(unsigned(ceil_div(a.rows, kGemmRows)), unsigned(ceil_div(a.n_latents, kGroup)));
    const size_t bytes = sizeof(GemmShared<Layout::OuterK, Layout::OuterK>);
    return launch(encode_kernel<Keep>, grid, kGemmThreads, bytes, stream, a, keep);
}

}  // namespace CUSAE_NS
