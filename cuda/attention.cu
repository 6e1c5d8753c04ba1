// attention: causal attention of every sequence and head, fused: scores exist as a tile only.
//
//   q [rows, H, d_head] f32      k, v [sequences, room, H, d_head] f32      z  out [rows, H, d_head] f32
//
//   needs   rows a multiple of the context, past + context <= room, d_head >= 1
//   work    a block owns 128 queries of a head and 64 columns of z, and goes through the keys in tiles
//           of 64: scores as in gemm.cuh, online softmax, e^(score - largest) through shared memory,
//           times the values. Heads wider than 64 make the scores once for every 64 columns
//   moves   q once, k and v once for every 128 queries, through L2; z out
//   exact   scores as in gemm.cuh; keys in ascending order; the same bits on every run, and for a
//           query the same whether the positions before it were queries too or are in `past`
// Source: Dao et al., "FlashAttention" (2022).
#include "attention.cuh"

namespace CUSAE_NS {

constexpr unsigned kKeySteps = kGemmColumns / kGemmDepth;  // a tile of keys is the depth of z's product

struct AttentionShared {
    union {
        ScoresShared scores;                                // while scores are made
        OperandTile<Layout::OuterK, kGemmRows> p[kKeySteps];  // then e^(score - largest)
    };
    OperandTile<Layout::KOuter, kGemmColumns> v[kKeySteps];
};

// The tile of e^(score - largest) to shared memory, as the left operand of z's product.
__device__ __forceinline__ void store_p(AttentionShared& shared, const float (&p)[kMicro][kMicro]) {
#pragma unroll
    for (unsigned i = 0; i < kMicro; i++)
#pragma unroll
        for (unsigned j = 0; j < kMicro; j++) {
            const unsigned row = gemm_row<Layout::OuterK>(i), key = gemm_column<Layout::OuterK>(j);
            auto& tile = shared.p[key / kGemmDepth];
            tile.values[row * tile.kStride + key % kGemmDepth] = p[i][j];
        }
}

__global__ void __launch_bounds__(kGemmThreads, 2) attention_kernel(cusae_attention a) {
    AttentionShared& shared = CUSAE_NS::shared<AttentionShared>();
    const AttentionBlock block(a.dims, a.dims.d_head);
    const Operand<Layout::KOuter> v{a.v + block.key_start + block.column, a.dims.d_head - block.column, block.width};
    OnlineSoftmax softmax;
    float z[kMicro][kMicro] = {};
    for (unsigned first_key = 0; first_key < block.keys; first_key += kGemmColumns) {
        __syncthreads();  // p and v of the tile before have been read by all
#pragma unroll 1
        for (unsigned step = 0; step < kKeySteps; step++)
            load_operand(shared.v[step], v, block.keys, 0, first_key + step * kGemmDepth);  // in the group of the scores' first step
        float scores[kMicro][kMicro];
        attention_scores(shared.scores, a, block, first_key, scores);
        softmax.add(block, first_key, scores, [&](unsigned i, float factor) {
#pragma unroll
            for (unsigned j = 0; j < kMicro; j++) z[i][j] *= factor;
        });
        __syncthreads();  // the scores' operands, in place of which p comes, have been read by all
        store_p(shared, scores);
        __syncthreads();  // p is complete
#pragma unroll 1
        for (unsigned step = 0; step < kKeySteps; step++) multiply_tiles(shared.p[step], shared.v[step], z);
    }
#pragma unroll
    for (unsigned i = 0; i < kMicro; i++) {
        const float sum = gemm_row_sum(softmax.sum[i]);
        const unsigned query = query_of(block, i);
#pragma unroll
        for (unsigned j = 0; j < kMicro; j++) {
            const unsigned column = gemm_column<Layout::KOuter>(j);
            if (query < a.dims.context && column < v.outer)
                a.z[block.start + query * block.width + block.column + column] = z[i][j] / sum;
        }
    }
}

}  // namespace CUSAE_NS

CUSAE_API(attention)(const cusae_attention* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (int error = refuse_attention(a->dims)) return error;
    return launch(attention_kernel, attention_grid(a->dims, a->dims.d_head), kGemmThreads, sizeof(AttentionShared), stream, *a);
}
