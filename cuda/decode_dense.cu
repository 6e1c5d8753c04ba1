// decode_dense: dense features through the decoder, the reconstruction's error, its gradient, and the
// gradient of every feature.
//
//   features [B, F], w_dec [F, D] f32      b_dec [D], row_scale, row_shift [B] f32 or NULL
//   target [B, D] f32      reconstruction out [B, D] f32 or NULL      gradient out [B, D] f32
//   squared_error out [B] f32      feature_gradient out [B, F] f32, 0 where the feature is not positive
//
//   needs   D, F <= 4,194,240; w_dec in f32; operands rounded to f32 or bf16
//   work    two products of gemm.cuh, y = features w_dec and gradient w_decT; between them a block owns
//           a row of y, which lies where the gradient goes, and adds b_dec. With bf16 operands, rounded
//           and where need be transposed first, products of gemm_bf16.cuh; features in parts that
//           fit scratch_limit()
//   moves   beside the products' tiles 16·D bytes a row, and 8·F for the features' gradient; rounding 6
//           bytes a feature, 12 a weight and 6 a number of the gradient
//   exact   sums as gemm.cuh, in the order of F and of D, or as gemm_bf16.cuh; the squared error in f64;
//           the same bits on every run
#include "decoder.cuh"
#include "dense.cuh"
#include "gemm.cuh"
#include "gemm_bf16.cuh"
#include "round.cuh"
#include "round_transposed.cuh"

namespace CUSAE_NS {

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

inline int finish_rows(const cusae_decoder& d, cusae_stream* stream) {
    const auto finish = pack_width(d.d_in) == 4 ? finish_rows_kernel<4> : finish_rows_kernel<1>;
    const unsigned threads = threads_for_row(d.d_in, 32);
    return launch(finish, dim3(unsigned(d.rows)), threads, sizeof(FinishShared), stream, d);
}

inline int decode_f32(const cusae_decode_dense& a, cusae_stream* stream) {
    const cusae_decoder& d = a.decoder;
    const float* const of_w_dec = static_cast<const float*>(d.w_dec);
    const Operand<Layout::OuterK> features{a.features, d.rows, d.d_sae}, gradient{d.gradient, d.rows, d.d_in};
    const Operand<Layout::KOuter> w_dec{of_w_dec, d.d_in, d.d_in};
    const Operand<Layout::OuterK> w_dec_transposed{of_w_dec, d.d_sae, d.d_in};
    const KeepElement<KeepOutput> to_y{KeepOutput(d.gradient), d.d_in};
    if (int error = gemm(features, w_dec, d.d_sae, to_y, stream)) return error;
    if (int error = finish_rows(d, stream)) return error;
    const KeepElement<KeepFeatureGradient> masked{KeepFeatureGradient(a.feature_gradient, a.features), d.d_sae};
    return gemm(gradient, w_dec_transposed, d.d_in, masked, stream);
}

inline int decode_bf16(const cusae_decode_dense& a, cusae_stream* stream) {
    const cusae_decoder& d = a.decoder;
    const float* const of_w_dec = static_cast<const float*>(d.w_dec);
    const uint64_t weights = d.d_sae * d.d_in, n = lines_at_once(d.rows, d.d_sae * sizeof(bf16));
    // Both copies of w_dec start on a multiple of 16 bytes, and so does what follows them.
    const uint64_t behind_weights = ceil_div(weights, 8) * 8;
    bf16* w_dec = nullptr;
    if (int error = scratch(stream, behind_weights + max(n * d.d_sae, d.rows * d.d_in), &w_dec)) return error;
    bf16* const rounded = w_dec + behind_weights;
    if (int error = round_transposed(of_w_dec, d.d_sae, d.d_in, d.d_in, w_dec, stream)) return error;
    for (uint64_t first = 0; first < d.rows; first += n) {
        const uint64_t rows = min(n, d.rows - first);
        if (int error = round_to_bf16(a.features + first * d.d_sae, rows * d.d_sae, rounded, stream)) return error;
        const Bf16Product y{rounded, w_dec, nullptr, rows, d.d_in, d.d_sae, nullptr, nullptr};
        if (int error = gemm_bf16(y, KeepOutput(d.gradient + first * d.d_in), stream)) return error;
    }
    if (int error = finish_rows(d, stream)) return error;
    if (int error = round_to_bf16(of_w_dec, weights, w_dec, stream)) return error;
    if (int error = round_to_bf16(d.gradient, d.rows * d.d_in, rounded, stream)) return error;
    const Bf16Product of_features{rounded, w_dec, nullptr, d.rows, d.d_sae, d.d_in, nullptr, nullptr};
    return gemm_bf16(of_features, KeepFeatureGradient(a.feature_gradient, a.features), stream);
}

}  // namespace CUSAE_NS

CUSAE_API(decode_dense)(const cusae_decode_dense* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->type > CUSAE_BF16) return refuse("the operands are neither f32 nor bf16");
    if (a->decoder.w_dec_type != CUSAE_F32) return refuse("w_dec is not f32");
    // Of both products, before anything is written.
    if (int error = refuse_columns(max(a->decoder.d_sae, a->decoder.d_in))) return error;
    return a->type == CUSAE_BF16 ? decode_bf16(*a, stream) : decode_f32(*a, stream);
}
