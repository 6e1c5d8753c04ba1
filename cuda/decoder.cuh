// decoder.cuh: what becomes of the decoder's output y, for decode_sparse and decode_dense.
#pragma once
#include "pack.cuh"

namespace CUSAE_NS {

// From y of some columns of a row to x_hat and the gradient, whose factor is `gradient_scale`. Returns their part of the squared error.
template <int N>
__device__ __forceinline__ double finish_columns(const cusae_decoder& a, float gradient_scale, uint64_t row, uint64_t column, const Pack<N>& y) {
    const float scale = a.row_scale ? a.row_scale[row] : 1.0f, shift = a.row_shift ? a.row_shift[row] : 0.0f;
    const float factor = gradient_scale * scale;
    const uint64_t at = row * a.d_in + column;
    const Pack<N> target = load<N>(a.target + at);
    Pack<N> x_hat, gradient;
    double squares = 0;
#pragma unroll
    for (int n = 0; n < N; n++) {
        x_hat.at[n] = y.at[n] * scale + shift;
        const float error = x_hat.at[n] - target.at[n];
        gradient.at[n] = factor * error;
        squares += double(error) * double(error);
    }
    if (a.reconstruction) store(a.reconstruction + at, x_hat);
    store(a.gradient + at, gradient);
    return squares;
}

}  // namespace CUSAE_NS
