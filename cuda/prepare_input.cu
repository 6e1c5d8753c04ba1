// prepare_input: a batch on its way into the encoder, scaled, normalised row by row, less b_dec.
//
//   x [B, D] f32       b_dec [D] f32 or NULL
//   target, input      out [B, D] f32        row_scale, row_shift  out [B] f32, only when normalising
//
//   needs   D >= 1 (LayerNorm: what D = 1 gives, 0 / 0, is NaN as in torch)
//   work    a warp owns a row: up to three passes over it, the later ones from L1
//   moves   4·D bytes a row in, 8·D out
//   exact   mean, deviation and norm in f64 over each lane's packs, then a butterfly; the rest one f32
//           operation after another; the same bits on every run
#include "pack.cuh"

namespace CUSAE_NS {

// What normalises a row, (x - shift) * factor, and what undoes it, y * scale + shift.
struct RowNormalization { float factor, scale, shift; };

template <int N> __device__ __forceinline__ RowNormalization layer_norm_of(const float* target, uint64_t width) {
    double sum = 0;
    for_each_of_lane<N>(target, width, [&](float value) { sum += double(value); });
    const double mean = warp_sum(sum) / double(width);
    double squares = 0;
    for_each_of_lane<N>(target, width, [&](float value) { squares += (double(value) - mean) * (double(value) - mean); });
    const float deviation = float(sqrt(warp_sum(squares) / (double(width) - 1.0)));
    return {1.0f / (deviation + 1e-5f), deviation, float(mean)};
}

template <int N> __device__ __forceinline__ RowNormalization constant_norm_of(const float* target, uint64_t width) {
    double squares = 0;
    for_each_of_lane<N>(target, width, [&](float value) { squares += double(value) * double(value); });
    const float factor = sqrtf(float(width)) / float(sqrt(warp_sum(squares)));
    return {factor, 1.0f / factor, 0.0f};
}

template <int N> __global__ void __launch_bounds__(kThreads) prepare_input_kernel(cusae_prepare_input a) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    const float* x = a.x + row * a.d_in;
    float *target = a.target + row * a.d_in, *input = a.input + row * a.d_in;
    // Every lane reads back only what it has written itself.
    for (uint64_t i = lane_index() * N; i < a.d_in; i += 32 * N) store(target + i, scaled(load<N>(x + i), a.scale));
    RowNormalization row_is{1.0f, 1.0f, 0.0f};
    if (a.normalization == CUSAE_NORMALIZE_LAYER_NORM) row_is = layer_norm_of<N>(target, a.d_in);
    if (a.normalization == CUSAE_NORMALIZE_CONSTANT) row_is = constant_norm_of<N>(target, a.d_in);
    if (a.normalization != CUSAE_NORMALIZE_NONE && lane_index() == 0) {
        a.row_scale[row] = row_is.scale;
        a.row_shift[row] = row_is.shift;
    }
    for (uint64_t i = lane_index() * N; i < a.d_in; i += 32 * N) {
        const Pack<N> b_dec = load_or<N>(a.b_dec, i, 0.0f);
        Pack<N> values = load<N>(target + i);
#pragma unroll
        for (int n = 0; n < N; n++) values.at[n] = (values.at[n] - row_is.shift) * row_is.factor - b_dec.at[n];
        store(input + i, values);
    }
}

}  // namespace CUSAE_NS

CUSAE_API(prepare_input)(const cusae_prepare_input* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->d_in == 0) return refuse("d_in is 0");
    if (a->normalization > CUSAE_NORMALIZE_CONSTANT) return refuse("there is no such normalization");
    const auto kernel = pack_width(a->d_in) == 4 ? prepare_input_kernel<4> : prepare_input_kernel<1>;
    return launch(kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a);
}
