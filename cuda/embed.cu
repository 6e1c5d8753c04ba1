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
#include "common.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) embed_kernel(cusae_embed a, cusae_fault* fault) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    const uint32_t token = a.tokens[row];
    const bool known = index_fits(fault, CUSAE_FAULT_EMBED_TOKEN, token, a.d_vocab);
    const float* of_token = a.w_e + uint64_t(known ? token : 0) * a.d_model;
    const float* of_position = a.w_pos + (a.past + row % a.context) * a.d_model;
    for (uint64_t i = lane_index(); i < a.d_model; i += 32) {
        const float token_value = known ? of_token[i] : not_a_number(), position_value = of_position[i];
        const uint64_t at = row * a.d_model + i;
        if (a.embed) a.embed[at] = token_value;
        if (a.pos_embed) a.pos_embed[at] = position_value;
        a.resid[at] = token_value + position_value;
    }
}

}  // namespace CUSAE_NS

CUSAE_API(embed)(const cusae_embed* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->context == 0) return refuse("the context is 0");
    return launch(embed_kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a, stream->device_fault);
}
