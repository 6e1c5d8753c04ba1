// attention_mix: the values mixed by a pattern that a hook may have edited, above the diagonal too.
//
//   pattern [sequences, H, T, past + T] f32      v [sequences, room, H, d_head] f32      z  out [rows, H, d_head] f32
//
//   needs   rows a multiple of the context, past + context <= room, d_head >= 1
//   work    gemm.cuh: a block owns 128 queries x 64 columns of a head
//   moves   the pattern once for every 64 columns, v once for every 128 queries; z out
//   exact   as gemm.cuh: the sum in the order of keys
#include "attention.cuh"

namespace CUSAE_NS {

using MixShared = GemmShared<Layout::OuterK, Layout::KOuter>;

__global__ void __launch_bounds__(kGemmThreads) attention_mix_kernel(cusae_attention_mix a) {
    const cusae_attention_dims& d = a.dims;
    const AttentionBlock block(d, d.d_head);
    const uint64_t keys = d.past + d.context;
    const Operand<Layout::OuterK> pattern{a.pattern + block.head * d.context * keys, d.context, keys};
    const Operand<Layout::KOuter> v{a.v + block.key_start, d.d_head, block.width};
    float z[kMicro][kMicro];
    gemm_tile(shared<MixShared>(), pattern, v, keys, block.first_query, block.column, z);
#pragma unroll
    for (unsigned i = 0; i < kMicro; i++)
#pragma unroll
        for (unsigned j = 0; j < kMicro; j++) {
            const unsigned query = query_of(block, i), column = block.column + gemm_column<Layout::KOuter>(j);
            if (query < d.context && column < d.d_head) a.z[block.start + query * block.width + column] = z[i][j];
        }
}

}  // namespace CUSAE_NS

CUSAE_API(attention_mix)(const cusae_attention_mix* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (int error = refuse_attention(a->dims)) return error;
    return launch(attention_mix_kernel, attention_grid(a->dims, a->dims.d_head), kGemmThreads, sizeof(MixShared), stream, *a);
}
