// layer_norm: every row to mean 0 and variance 1, then gain and bias; or from a given scale or
// normalised row on, where a hook has edited it.
//
//   x [rows, D] f32        gain, bias [D] f32, NULL where folded into the next weights
//   scale [rows] f32, normalized [rows, D] f32: out where wanted, or in      output out [rows, D] f32
//
//   needs   D >= 1; the input that `from` names
//   work    a warp owns a row: three passes over it, the second and third from L1
//   moves   4·D bytes a row in, 4·D out for each output
//   exact   f32 sums over 32 strided parts, then a butterfly; the variance from distances to the
//           mean, so nothing cancels; the same bits on every run
#include "common.cuh"

namespace CUSAE_NS {

__device__ __forceinline__ void normalize_row(const cusae_layer_norm& a, uint64_t row) {
    const float* x = a.x + row * a.d_model;
    const float width = float(a.d_model);
    float sum = 0;
    for (uint64_t i = lane_index(); i < a.d_model; i += 32) sum += x[i];
    const float mean = warp_sum(sum) / width;
    float scale;
    if (a.from == CUSAE_FROM_SCALE) {
        scale = a.scale[row];
    } else {
        float squares = 0;
        for (uint64_t i = lane_index(); i < a.d_model; i += 32) squares = fmaf(x[i] - mean, x[i] - mean, squares);
        scale = sqrtf(warp_sum(squares) / width + a.epsilon);
        if (a.scale && lane_index() == 0) a.scale[row] = scale;
    }
    for (uint64_t i = lane_index(); i < a.d_model; i += 32) {
        const uint64_t at = row * a.d_model + i;
        const float normalized = (x[i] - mean) / scale;
        if (a.normalized) a.normalized[at] = normalized;
        a.output[at] = normalized * (a.gain ? a.gain[i] : 1.0f) + (a.bias ? a.bias[i] : 0.0f);
    }
}

__global__ void __launch_bounds__(kThreads) layer_norm_kernel(cusae_layer_norm a) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    if (a.from != CUSAE_FROM_NORMALIZED) return normalize_row(a, row);
    for (uint64_t i = lane_index(); i < a.d_model; i += 32) {
        const uint64_t at = row * a.d_model + i;
        a.output[at] = a.normalized[at] * (a.gain ? a.gain[i] : 1.0f) + (a.bias ? a.bias[i] : 0.0f);
    }
}

}  // namespace CUSAE_NS

CUSAE_API(layer_norm)(const cusae_layer_norm* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->d_model == 0) return refuse("d_model is 0");
    if (a->from > CUSAE_FROM_NORMALIZED) return refuse("from is none of the places where it can start");
    if (a->from == CUSAE_FROM_SCALE && !a->scale) return refuse("it is to start from scale, which is not given");
    if (a->from == CUSAE_FROM_NORMALIZED && !a->normalized) return refuse("it is to start from normalized, which is not given");
    return launch(layer_norm_kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a);
}
