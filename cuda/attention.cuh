// attention.cuh: what the attention kernels share: which tile of which head a block has, the scores of
// a tile of queries and keys, and a softmax over keys that come tile by tile.
#pragma once
#include "functions.cuh"
#include "gemm.cuh"

namespace CUSAE_NS {

using ScoresShared = GemmShared<Layout::OuterK, Layout::OuterK>;

// A block's place: a tile of queries of one head of one sequence, and a tile of columns.
struct AttentionBlock {
    uint64_t head;                  // counted through all sequences
    unsigned first_query, column;   // of the tiles
    uint64_t start, key_start;      // the head's first element in q and z, and in k and v
    uint64_t width;                 // from row to row there
    unsigned past, keys;            // positions before query 0; how many keys the tile's queries see

    __device__ AttentionBlock(const cusae_attention_dims& d, uint64_t columns) {
        const uint64_t query_tiles = ceil_div(d.context, kGemmRows), column_tiles = ceil_div(columns, kGemmColumns);
        first_query = unsigned(blockIdx.x % query_tiles) * kGemmRows;
        column = unsigned(blockIdx.x / query_tiles % column_tiles) * kGemmColumns;
        head = blockIdx.x / query_tiles / column_tiles;
        width = d.n_heads * d.d_head;
        const uint64_t sequence = head / d.n_heads, of_head = head % d.n_heads * d.d_head;
        start = sequence * d.context * width + of_head;
        key_start = sequence * d.room * width + of_head;
        past = unsigned(d.past);
        keys = past + (first_query + kGemmRows < d.context ? first_query + kGemmRows : unsigned(d.context));
    }
};

// The grid of AttentionBlocks.
inline dim3 attention_grid(const cusae_attention_dims& d, uint64_t columns) {
    const uint64_t tiles = ceil_div(d.context, kGemmRows) * ceil_div(columns, kGemmColumns);
    return dim3(unsigned(d.rows / d.context * d.n_heads * tiles));
}

inline int refuse_attention(const cusae_attention_dims& d) {
    if (d.context == 0 || d.rows % d.context) return refuse("rows are not a multiple of the context");
    if (d.past + d.context > d.room) return refuse("k and v have no room for all positions");
    if (d.d_head == 0) return refuse("d_head is 0");
    return CUSAE_OK;
}

// A thread's rows and columns of a tile of scores: gemm_tile's with both operands OuterK.
__device__ __forceinline__ unsigned query_of(const AttentionBlock& block, unsigned i) {
    return block.first_query + gemm_row<Layout::OuterK>(i);
}
__device__ __forceinline__ bool sees(const AttentionBlock& block, unsigned i, unsigned key) {
    return key <= block.past + query_of(block, i);
}
__device__ __forceinline__ unsigned key_of(unsigned first_key, unsigned j) {
    return first_key + gemm_column<Layout::OuterK>(j);
}

// scores[i][j] = scale <q, k> of a tile of queries and keys.
template <class A>
__device__ __forceinline__ void attention_scores(ScoresShared& shared, const A& a, const AttentionBlock& block,
                                                 unsigned first_key, float (&scores)[kMicro][kMicro]) {
    const Operand<Layout::OuterK> q{a.q + block.start, a.dims.context, block.width};
    const Operand<Layout::OuterK> k{a.k + block.key_start, a.dims.past + a.dims.context, block.width};
    gemm_tile(shared, q, k, a.dims.d_head, block.first_query, first_key, scores);
#pragma unroll
    for (unsigned i = 0; i < kMicro; i++)
#pragma unroll
        for (unsigned j = 0; j < kMicro; j++) scores[i][j] *= a.scale;
}

// The softmax of a thread's rows of scores so far: the 8 threads of a row all know its largest score,
// each its own part of Σ e^(score - largest).
// Source: Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018).
struct OnlineSoftmax {
    float largest[kMicro], sum[kMicro];

    __device__ OnlineSoftmax() {
        for (unsigned i = 0; i < kMicro; i++) largest[i] = -INFINITY, sum[i] = 0;
    }

    // Takes in a tile of scores, of which a query sees those up to its own position, and makes each
    // e^(score - largest), 0 where not seen. shrink(i, factor) is told how what came before shrinks.
    template <class Shrink>
    __device__ __forceinline__ void add(const AttentionBlock& block, unsigned first_key, float (&scores)[kMicro][kMicro],
                                        const Shrink& shrink) {
#pragma unroll
        for (unsigned i = 0; i < kMicro; i++) {
            float top = largest[i];
#pragma unroll
            for (unsigned j = 0; j < kMicro; j++)
                if (sees(block, i, key_of(first_key, j)) && scores[i][j] > top) top = scores[i][j];
            top = gemm_row_max(top);
            const float factor = exponential(largest[i] - top);
            largest[i] = top;
            sum[i] *= factor;
            shrink(i, factor);
#pragma unroll
            for (unsigned j = 0; j < kMicro; j++) {
                scores[i][j] = sees(block, i, key_of(first_key, j)) ? exponential(scores[i][j] - top) : 0.0f;
                sum[i] += scores[i][j];
            }
        }
    }
};

}  // namespace CUSAE_NS
