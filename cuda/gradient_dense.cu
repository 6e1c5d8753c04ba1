// gradient_dense: the gradients of both weight matrices and of b_enc, of dense features.
//
//   features, pre_gradient [B, F] f32      gradient, input [B, D] f32
//   norm_gradient, decoder_norm [F], w_dec [F, D] f32; norm_gradient NULL: no such term
//   out.w_enc, out.w_dec [F, D], out.b_enc [F] f32: written, or with accumulate in and out
//
//   needs   at most 8,388,480 rows; D <= 4,194,240
//   work    two products of gemm.cuh, featuresT gradient and pre_gradientT input, and column sums
//   moves   beside the products' tiles 8·D bytes a latent, 16·D with accumulate, and 4·B·F for b_enc
//   exact   sums as gemm.cuh, in ascending b, and as column_sums.cuh; what is accumulated to and the
//           norm's term come last; the same bits on every run
#include "column_sums.cuh"
#include "gemm.cuh"

namespace CUSAE_NS {

struct WeightGradientEpilogue {
    float* out;
    uint64_t d_in;
    uint32_t accumulate;
    cusae_norm_gradient norm;
    __device__ __forceinline__ void operator()(uint64_t latent, uint64_t column, float value) const {
        const uint64_t at = latent * d_in + column;
        if (accumulate) value += out[at];
        if (norm.norm_gradient) {
            // d|w| / dw = w / |w|.
            const float of_norm = norm.norm_gradient[latent], length = norm.decoder_norm[latent];
            if (of_norm != 0.0f && length > 0.0f) value = fmaf(of_norm / length, norm.w_dec[at], value);
        }
        out[at] = value;
    }
};

__global__ void __launch_bounds__(kThreads) b_enc_gradient_kernel(cusae_gradient_dense a, const float* chunk_sums, uint64_t chunks) {
    const uint64_t latent = global_thread();
    if (latent >= a.d_sae) return;
    const float sum = sum_of_chunks(chunk_sums, chunks, a.d_sae, latent);
    a.out.b_enc[latent] = a.out.accumulate ? sum + a.out.b_enc[latent] : sum;
}

}  // namespace CUSAE_NS

CUSAE_API(gradient_dense)(const cusae_gradient_dense* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (int error = refuse_columns(a->d_in)) return error;
    const uint64_t chunks = column_chunks(a->rows);
    float* chunk_sums = nullptr;
    if (int error = scratch(stream, chunks * a->d_sae, &chunk_sums)) return error;
    if (int error = column_sums(MatrixTerm{a->pre_gradient, a->d_sae}, a->rows, a->d_sae, chunk_sums, stream)) return error;
    if (int error = launch(b_enc_gradient_kernel, grid_of_threads(a->d_sae), kThreads, 0, stream, *a, chunk_sums, chunks)) return error;
    const Operand<Layout::KOuter> features{a->features, a->d_sae, a->d_sae}, pre_gradient{a->pre_gradient, a->d_sae, a->d_sae};
    const Operand<Layout::KOuter> gradient{a->gradient, a->d_in, a->d_in}, input{a->input, a->d_in, a->d_in};
    const WeightGradientEpilogue to_w_dec{a->out.w_dec, a->d_in, a->out.accumulate, a->norm};
    const WeightGradientEpilogue to_w_enc{a->out.w_enc, a->d_in, a->out.accumulate, {}};
    if (int error = gemm(features, gradient, a->rows, to_w_dec, stream)) return error;
    return gemm(pre_gradient, input, a->rows, to_w_enc, stream);
}
