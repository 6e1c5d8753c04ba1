// attention_pattern: the causal softmax of scaled scores, for those who look at it.
//
//   q, k [rows, H, d_head] f32      pattern  out [sequences, H, T, T] f32, 0 above the diagonal
//
//   needs   rows a multiple of the context, d_head >= 1
//   work    a block owns 128 queries of a head and goes through the keys in tiles of 64: it writes the
//           scores and keeps each query's largest score and sum, then makes of its scores the pattern
//   moves   4 bytes an element of the pattern out, in and out again
//   exact   scores as in gemm.cuh; keys in ascending order; the same bits on every run
#include "attention.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kGemmThreads) attention_pattern_kernel(cusae_attention_pattern a) {
    const AttentionBlock block(a, 1);
    float* pattern = a.pattern + block.head * a.context * a.context;
    const unsigned keys = block.keys(a.context);
    OnlineSoftmax softmax;
    for (unsigned first_key = 0; first_key < keys; first_key += kGemmColumns) {
        float scores[kMicro][kMicro];
        attention_scores(shared<ScoresShared>(), a, block, first_key, scores);
#pragma unroll
        for (unsigned i = 0; i < kMicro; i++)
#pragma unroll
            for (unsigned j = 0; j < kMicro; j++) {
                const unsigned query = query_of(block, i), key = key_of(first_key, j);
                if (query < a.context && key <= query) pattern[uint64_t(query) * a.context + key] = scores[i][j];
            }
        softmax.add(block, first_key, scores, [](unsigned, float) {});
    }
#pragma unroll
    for (unsigned i = 0; i < kMicro; i++) {
        const float sum = gemm_row_sum(softmax.sum[i]);
        const unsigned query = query_of(block, i);
        if (query >= a.context) continue;
        // Every thread reads what it has written itself.
        for (unsigned key = key_of(0, 0); key < a.context; key += kGemmColumnThreads) {
            float& at = pattern[uint64_t(query) * a.context + key];
            at = key <= query ? exponential(at - softmax.largest[i]) / sum : 0.0f;
        }
    }
}

}  // namespace CUSAE_NS

CUSAE_API(attention_pattern)(const cusae_attention_pattern* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (int error = refuse_attention(*a)) return error;
    return launch(attention_pattern_kernel, attention_grid(*a, 1), kGemmThreads, sizeof(ScoresShared), stream, *a);
}
