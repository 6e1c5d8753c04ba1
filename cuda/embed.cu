// embed: the residual stream before the first block, token plus position embedding.
//
//   tokens [rows] u32      w_e [V, D] f32, w_pos [past + T or more, D] f32
//   embed, pos_embed       out [rows, D] f32, each only where wanted      resid  out [rows, D] f32
//
//   needs   T >= 1
//   work    a warp owns a row
//   moves   2·4·D bytes a row in (the tables mostly from L2), 4·D out for each output
//   exact   one f32 addition: the same bits everywhere. A token outside the vocabulary is reported
//           at the next synchronisation, and its row is NaN
#include "pack.cuh"

namespace CUSAE_NS {

template <int N> __global__ void __launch_bounds__(kThreads) embed_kernel(cusae_embed a, cusae_fault* fault) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    const uint32_t token = a.tokens[row];
    const bool known = index_fits(fault, CUSAE_FAULT_EMBED_TOKEN, token, a.d_vocab);
    const float* of_token = a.w_e + uint64_t(known ? token : 0) * a.d_model;
    const float* of_position = a.w_pos + (a.past + row % a.context) * a.d_model;
    for (uint64_t i = lane_index() * N; i < a.d_model; i += 32 * N) {
        Pack<N> sum = known ? load<N>(of_token + i) : filled<N>(not_a_number());
        const Pack<N> position = load<N>(of_position + i);
        const uint64_t at = row * a.d_model + i;
        if (a.embed) store(a.embed + at, sum);
        if (a.pos_embed) store(a.pos_embed + at, position);
        add(sum, position);
        store(a.resid + at, sum);
    }
}

}  // namespace CUSAE_NS

CUSAE_API(embed)(const cusae_embed* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->context == 0) return refuse("the context is 0");
    const auto kernel = pack_width(a->d_model) == 4 ? embed_kernel<4> : embed_kernel<1>;
    return launch(kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a, stream->device_fault);
}
