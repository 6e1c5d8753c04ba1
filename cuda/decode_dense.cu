// decode_dense: dense features through the decoder, the reconstruction's error, its gradient, and the
// gradient of every feature.
//
//   features [B, F], w_dec [F, D] f32      b_dec [D], row_scale, row_shift [B] f32 or NULL
//   target [B, D] f32      reconstruction out [B, D] f32 or NULL      gradient out [B, D] f32
//   squared_error out [B] f32      feature_gradient out [B, F] f32, 0 where the feature is not positive
//
//   needs   D, F <= 4,194,240
//   work    two products of gemm.cuh, y = features w_dec and gradient w_decT; between them a block owns
//           a row of y, which lies where the gradient goes, and adds b_dec
//   moves   beside the products' tiles 16·D bytes a row, and 8·F for the features' gradient
//   exact   sums as gemm.cuh, in the order of F and of D; the squared error in f64; the same bits on
//           every run
#include "decoder.cuh"
#include "gemm.cuh"

namespace CUSAE_NS {

struct DecodeEpilogue {
    float* y;
    uint64_t d_in;
    __device__ __forceinline__ void operator()(uint64_t row, uint64_t column, float value) const { y[row * d_in + column] = value; }
};

struct FeatureGradientEpilogue {
    const float* features;
    float* feature_gradient;
    uint64_t d_sae;
    __device__ __forceinline__ void operator()(uint64_t row, uint64_t latent, float value) const {
        const uint64_t at = row * d_sae + latent;
        feature_gradient[at] = features[at] > 0.0f ? value : 0.0f;
    }
};

struct FinishShared { double partial[32]; };

template <int N> __global__ void __launch_bounds__(kThreads) finish_rows_kernel(cusae_decoder a) {
    const uint64_t row = blockIdx.x;
    double squares = 0;
    for (uint64_t column = threadIdx.x * N; column < a.d_in; column += blockDim.x * N) {
        Pack<N> y = load<N>(a.gradient + row * a.d_in + column);
        if (a.b_dec) add(y, load<N>(a.b_dec + column));
        squares += finish_columns(a, a.gradient_scale, row, column, y);
    }
    squares = block_sum(squares, shared<FinishShared>().partial);
    if (threadIdx.x == 0) a.squared_error[row] = float(squares);
}

}  // namespace CUSAE_NS

CUSAE_API(decode_dense)(const cusae_decode_dense* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const cusae_decoder& d = a->decoder;
    if (int error = refuse_columns(d.d_sae)) return error;  // of the second product, before anything is written
    const Operand<Layout::OuterK> features{a->features, d.rows, d.d_sae}, gradient{d.gradient, d.rows, d.d_in};
    const Operand<Layout::KOuter> w_dec{d.w_dec, d.d_in, d.d_in};
    const Operand<Layout::OuterK> w_dec_transposed{d.w_dec, d.d_sae, d.d_in};
    const DecodeEpilogue to_y{d.gradient, d.d_in};
    if (int error = gemm(features, w_dec, d.d_sae, to_y, stream)) return error;
    const auto finish = pack_width(d.d_in) == 4 ? finish_rows_kernel<4> : finish_rows_kernel<1>;
    const unsigned threads = threads_for_row(d.d_in, 32);
    if (int error = launch(finish, dim3(unsigned(d.rows)), threads, sizeof(FinishShared), stream, d)) return error;
    const FeatureGradientEpilogue masked{a->features, a->feature_gradient, d.d_sae};
    return gemm(gradient, w_dec_transposed, d.d_in, masked, stream);
}
