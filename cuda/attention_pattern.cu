// attention_pattern: the causal softmax of scaled scores, for those who look at it.
//
//   q [rows, H, d_head] f32      k [sequences, room, H, d_head] f32
//   pattern  out [sequences, H, T, past + T] f32, 0 after the query's own position
//
//   needs   rows a multiple of the context, past + context <= room, d_head >= 1
//   work    a block owns 128 queries of a head and goes through the keys in tiles of 64: it writes the
//           scores and keeps each query's largest score and sum, then makes of its scores the pattern
//   moves   4 bytes an element of the pattern out, in and out again
//   exact   scores as in gemm.cuh; keys in ascending order; the same bits on every run
#include "attention.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kGemmThreads) attention_pattern_kernel(cusae_attention_pattern a) {
    const AttentionBlock block(a.dims, 1);
    const uint64_t context = a.dims.context, all_keys = a.dims.past + context;
    float* pattern = a.pattern + block.head * context * all_keys;
    OnlineSoftmax softmax;
    for (unsigned first_key = 0; first_key < block.keys; first_key += kGemmColumns) {
        float scores[kMicro][kMicro];
        attention_scores(shared<ScoresShared>(), a, block, first_key, scores);
#pragma unroll
        for (unsigned i = 0; i < kMicro; i++)
#pragma unroll
            for (unsigned j = 0; j < kMicro; j++) {
                const unsigned query = query_of(block, i), key = key_of(first_key, j);
                if (query < context && sees(block, i, key)) pattern[query * all_keys + key] = scores[i][j];
            }
        softmax.add(block, first_key, scores, [](unsigned, float) {});
    }
#pragma unroll
    for (unsigned i = 0; i < kMicro; i++) {
        const float sum = gemm_row_sum(softmax.sum[i]);
        const unsigned query = query_of(block, i);
        if (query >= context) continue;
        // Every thread reads what it has written itself.
        for (unsigned key = key_of(0, 0); key < all_keys; key += kGemmColumnThreads) {
            float& at = pattern[query * all_keys + key];
            at = sees(block, i, key) ? exponential(at - softmax.largest[i]) / sum : 0.0f;
        }
    }
}

}  // namespace CUSAE_NS

CUSAE_API(attention_pattern)(const cusae_attention_pattern* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (int error = refuse_attention(a->dims)) return error;
    return launch(attention_pattern_kernel, attention_grid(a->dims, 1), kGemmThreads, sizeof(ScoresShared), stream, *a);
}
