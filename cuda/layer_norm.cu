// layer_norm: every row to mean 0 and variance 1, then gain and bias; or from a given scale or
// normalised row on, where a hook has edited it.
//
//   x [rows, D] f32        gain, bias [D] f32, NULL where folded into the next weights
//   scale [rows] f32, normalized [rows, D] f32: out where wanted, or in      output out [rows, D] f32
//
//   needs   D >= 1; the input that `from` names
//   work    a warp owns a row: three passes over it, the second and third from L1
//   moves   4·D bytes a row in, 4·D out for each output
//   exact   f32 sums over each lane's packs, then a butterfly; the variance from distances to the
//           mean, so nothing cancels; the same bits on every run
#include "pack.cuh"

namespace CUSAE_NS {

// gain · normalized + bias, in some columns of a row.
template <int N>
__device__ __forceinline__ void put_output(const cusae_layer_norm& a, uint64_t row, uint64_t column, const Pack<N>& normalized) {
    const Pack<N> gain = load_or<N>(a.gain, column, 1.0f), bias = load_or<N>(a.bias, column, 0.0f);
    Pack<N> output;
#pragma unroll
    for (int n = 0; n < N; n++) output.at[n] = normalized.at[n] * gain.at[n] + bias.at[n];
    store(a.output + row * a.d_model + column, output);
}

template <int N> __device__ __forceinline__ void normalize_row(const cusae_layer_norm& a, uint64_t row) {
    const float* x = a.x + row * a.d_model;
    const float width = float(a.d_model);
    float sum = 0;
    for_each_of_lane<N>(x, a.d_model, [&](float value) { sum += value; });
    const float mean = warp_sum(sum) / width;
    float scale;
    if (a.from == CUSAE_FROM_SCALE) {
        scale = a.scale[row];
    } else {
        float squares = 0;
        for_each_of_lane<N>(x, a.d_model, [&](float value) { squares = fmaf(value - mean, value - mean, squares); });
        scale = sqrtf(warp_sum(squares) / width + a.epsilon);
        if (a.scale && lane_index() == 0) a.scale[row] = scale;
    }
    for (uint64_t i = lane_index() * N; i < a.d_model; i += 32 * N) {
        Pack<N> normalized = load<N>(x + i);
#pragma unroll
        for (int n = 0; n < N; n++) normalized.at[n] = (normalized.at[n] - mean) / scale;
        if (a.normalized) store(a.normalized + row * a.d_model + i, normalized);
        put_output(a, row, i, normalized);
    }
}

template <int N> __global__ void __launch_bounds__(kThreads) layer_norm_kernel(cusae_layer_norm a) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    if (a.from != CUSAE_FROM_NORMALIZED) return normalize_row<N>(a, row);
    for (uint64_t i = lane_index() * N; i < a.d_model; i += 32 * N)
        put_output(a, row, i, load<N>(a.normalized + row * a.d_model + i));
}

}  // namespace CUSAE_NS

CUSAE_API(layer_norm)(const cusae_layer_norm* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->d_model == 0) return refuse("d_model is 0");
    if (a->from > CUSAE_FROM_NORMALIZED) return refuse("from is none of the places where it can start");
    if (a->from == CUSAE_FROM_SCALE && !a->scale) return refuse("it is to start from scale, which is not given");
    if (a->from == CUSAE_FROM_NORMALIZED && !a->normalized) return refuse("it is to start from normalized, which is not given");
    const auto kernel = pack_width(a->d_model) == 4 ? layer_norm_kernel<4> : layer_norm_kernel<1>;
    return launch(kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a);
}
