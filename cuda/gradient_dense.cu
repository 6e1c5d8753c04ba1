// gradient_dense: the gradients of both weight matrices and of b_enc, of dense features.
//
//   features, pre_gradient [B, F] f32      gradient, input [B, D] f32
//   norm_gradient, decoder_norm [F], w_dec [F, D] f32; norm_gradient NULL: no such term
//   out.w_enc, out.w_dec [F, D], out.b_enc [F] f32: written, or with accumulate in and out
//
//   needs   at most 8,388,480 rows; D <= 4,194,240, F too with bf16; operands rounded to f32 or bf16
//   work    two products of gemm.cuh, featuresT gradient and pre_gradientT input, and column sums. With
//           bf16 operands, rounded and transposed first, products of gemm_bf16.cuh; latents in
//           parts that fit scratch_limit()
//   moves   beside the products' tiles 8·D bytes a latent, 16·D with accumulate, and 4·B·F for b_enc;
//           rounding 12·B·(F + D)
//   exact   sums as gemm.cuh, in ascending b, or as gemm_bf16.cuh, and as column_sums.cuh, of what is not
//           rounded; what is accumulated to and the norm's term come last; the same bits on every run
#include "column_sums.cuh"
#include "dense.cuh"
#include "gemm.cuh"
#include "gemm_bf16.cuh"
#include "round_transposed.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) b_enc_gradient_kernel(cusae_gradient_dense a, const float* chunk_sums, uint64_t chunks) {
    const uint64_t latent = global_thread();
    if (latent >= a.d_sae) return;
    const float sum = sum_of_chunks(chunk_sums, chunks, a.d_sae, latent);
    a.out.b_enc[latent] = a.out.accumulate ? sum + a.out.b_enc[latent] : sum;
}

// of_latentsT [F, B] of_rows [B, D].
inline int product_f32(const cusae_gradient_dense& a, const float* of_latents, const float* of_rows, const KeepWeightGradient& keep, cusae_stream* stream) {
    const Operand<Layout::KOuter> latents{of_latents, a.d_sae, a.d_sae}, rows{of_rows, a.d_in, a.d_in};
    return gemm(latents, rows, a.rows, KeepElement<KeepWeightGradient>{keep, a.d_in}, stream);
}

inline int product_bf16(const cusae_gradient_dense& a, const float* of_latents, const float* of_rows, const KeepWeightGradient& keep, cusae_stream* stream) {
    const uint64_t n = lines_at_once(a.d_sae, a.rows * sizeof(bf16));
    bf16* rows = nullptr;
    // What follows starts on a multiple of 16 bytes, too.
    const uint64_t behind_rows = ceil_div(a.rows * a.d_in, 8) * 8;
    if (int error = scratch(stream, behind_rows + n * a.rows, &rows)) return error;
    bf16* const latents = rows + behind_rows;
    if (int error = round_transposed(of_rows, a.rows, a.d_in, a.d_in, rows, stream)) return error;
    for (uint64_t first = 0; first < a.d_sae; first += n) {
        const uint64_t lines = min(n, a.d_sae - first);
        if (int error = round_transposed(of_latents + first, a.rows, lines, a.d_sae, latents, stream)) return error;
        const Bf16Product product{latents, rows, nullptr, lines, a.d_in, a.rows, nullptr, nullptr};
        if (int error = gemm_bf16(product, keep.from(first, a.d_in), stream)) return error;
    }
    return CUSAE_OK;
}

}  // namespace CUSAE_NS

CUSAE_API(gradient_dense)(const cusae_gradient_dense* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->type > CUSAE_BF16) return refuse("the operands are neither f32 nor bf16");
    if (int error = refuse_columns(a->d_in)) return error;
    if (a->type == CUSAE_BF16) {
        if (int error = refuse_columns(a->d_sae)) return error;
    }
    const uint64_t chunks = column_chunks(a->rows);
    float* chunk_sums = nullptr;
    if (int error = scratch(stream, chunks * a->d_sae, &chunk_sums)) return error;
    if (int error = column_sums(MatrixTerm{a->pre_gradient, a->d_sae}, a->rows, a->d_sae, chunk_sums, stream)) return error;
    if (int error = launch(b_enc_gradient_kernel, grid_of_threads(a->d_sae), kThreads, 0, stream, *a, chunk_sums, chunks)) return error;
    const auto product = a->type == CUSAE_BF16 ? product_bf16 : product_f32;
    const KeepWeightGradient to_w_dec(a->out.w_dec, a->out.accumulate, a->norm);
    const KeepWeightGradient to_w_enc(a->out.w_enc, a->out.accumulate, {});
    if (int error = product(*a, a->features, a->gradient, to_w_dec, stream)) return error;
    return product(*a, a->pre_gradient, a->input, to_w_enc, stream);
}
