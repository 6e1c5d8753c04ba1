// unembed.cuh: logits in tiles, and what is kept of them. A block has 128 rows and one part of the
// vocabulary, 4,096 tokens in tiles of 64; a second kernel puts the parts together in their order, so
// that a result depends on nothing but its row.
#pragma once
#include "functions.cuh"
#include "gemm.cuh"

namespace CUSAE_NS {

using LogitsShared = GemmShared<Layout::OuterK, Layout::OuterK>;

constexpr unsigned kPartTokens = 64 * kGemmColumns;

inline uint64_t parts_of(uint64_t d_vocab) { return ceil_div(d_vocab, kPartTokens); }

// Σ e^logit of some of a row's logits: sum e^largest.
struct LogSumExp {
    float largest = -INFINITY, sum = 0;  // of none: largest is -infinity

    // Takes in `count` logits more; returns the factor by which sums relative to `largest` shrink.
    __device__ __forceinline__ float add(const float (&logits)[kMicro], unsigned count) {
        float top = largest;
#pragma unroll
        for (unsigned j = 0; j < kMicro; j++)
            if (j < count && logits[j] > top) top = logits[j];
        const float factor = move_to(top);
#pragma unroll
        for (unsigned j = 0; j < kMicro; j++)
            if (j < count) sum += exponential(logits[j] - top);
        return factor;
    }

    __device__ __forceinline__ float move_to(float top) {
        const float factor = sum == 0 ? 0.0f : exponential(largest - top);
        largest = top;
        sum *= factor;
        return factor;
    }

    // Joins what the 8 threads of a row have: all get it. Returns this thread's factor.
    __device__ __forceinline__ float join_row() {
        const float factor = move_to(gemm_row_max(largest));
        sum = gemm_row_sum(sum);
        return factor;
    }
};

// The logits x w_uT + b_u of a tile.
template <class A>
__device__ __forceinline__ void logits_tile(LogitsShared& shared, const float* x, const A& a, uint64_t first_row,
                                            uint64_t first_token, float (&logits)[kMicro][kMicro]) {
    const Operand<Layout::OuterK> rows{x, a.rows, a.d_model}, tokens{a.w_u, a.d_vocab, a.d_model};
    gemm_tile(shared, rows, tokens, a.d_model, first_row, first_token, logits);
    if (!a.b_u) return;
#pragma unroll
    for (unsigned j = 0; j < kMicro; j++) {
        const uint64_t token = first_token + gemm_column<Layout::OuterK>(j);
        const float bias = token < a.d_vocab ? a.b_u[token] : 0.0f;
#pragma unroll
        for (unsigned i = 0; i < kMicro; i++) logits[i][j] += bias;
    }
}

// How many of a thread's 8 logits of a row are of tokens that exist.
__device__ __forceinline__ unsigned tokens_of_thread(uint64_t first_token, uint64_t d_vocab) {
    const uint64_t first = first_token + gemm_column<Layout::OuterK>(0);
    const uint64_t tokens = first < d_vocab ? ceil_div(d_vocab - first, kGemmColumnThreads) : 0;
    return tokens < kMicro ? unsigned(tokens) : kMicro;
}

// Calls visit(first token) for every tile of this block's part of the vocabulary.
template <class F> __device__ __forceinline__ void for_each_tile(uint64_t d_vocab, const F& visit) {
    const uint64_t first = uint64_t(blockIdx.y) * kPartTokens;
    const uint64_t end = first + kPartTokens < d_vocab ? first + kPartTokens : d_vocab;
    for (uint64_t token = first; token < end; token += kGemmColumns) visit(token);
}

// log Σ e^logit of all parts; get(part) is a LogSumExp.
template <class Get> __device__ __forceinline__ double log_sum_exp(uint64_t parts, const Get& get) {
    float top = get(0).largest;
    for (uint64_t part = 1; part < parts; part++) top = get(part).largest > top ? get(part).largest : top;
    double sum = 0;
    for (uint64_t part = 0; part < parts; part++) sum += get(part).sum * exp(double(get(part).largest) - top);
    return top + log(sum);
}

}  // namespace CUSAE_NS
