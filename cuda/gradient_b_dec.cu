// gradient_b_dec: the gradient of b_dec, which the decoder adds and, where w_enc is given, the
// encoder's input lacks.
//
//   gradient [B, D] f32      w_enc [F, D], g_b_enc [F] f32, or NULL both      out [D] f32
//
//   needs   at most 8,388,480 rows and latents
//   work    column sums of the gradient, and of w_enc weighted by g_b_enc: the sum over the batch comes
//           first, then one matrix-vector product. Source: OpenAI's sparse_autoencoder, EncWrapper.backward
//   moves   4·D bytes a row and a latent; latents with g_b_enc = 0 are not read
//   exact   f32 in the order of column_sums.cuh; the same bits on every run
#include "column_sums.cuh"

namespace CUSAE_NS {

struct EncoderTerm {
    const float *w_enc, *g_b_enc;
    uint64_t columns;
    __device__ float operator()(uint64_t latent, uint64_t column) const {
        const float weight = g_b_enc[latent];
        return weight == 0.0f ? 0.0f : weight * w_enc[latent * columns + column];
    }
};

__global__ void __launch_bounds__(kThreads) gradient_b_dec_kernel(cusae_gradient_b_dec a, const float* of_rows, uint64_t n_rows, const float* of_latents, uint64_t n_latents) {
    const uint64_t column = global_thread();
    if (column >= a.d_in) return;
    a.out[column] = sum_of_chunks(of_rows, n_rows, a.d_in, column) - sum_of_chunks(of_latents, n_latents, a.d_in, column);
}

}  // namespace CUSAE_NS

CUSAE_API(gradient_b_dec)(const cusae_gradient_b_dec* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (!a->w_enc != !a->g_b_enc) return refuse("it takes both of w_enc and g_b_enc, or neither");
    const uint64_t n_rows = column_chunks(a->rows), n_latents = a->w_enc ? column_chunks(a->d_sae) : 0;
    float* of_rows = nullptr;
    if (int error = scratch(stream, (n_rows + n_latents) * a->d_in, &of_rows)) return error;
    float* const of_latents = of_rows + n_rows * a->d_in;
    if (int error = column_sums(MatrixTerm{a->gradient, a->d_in}, a->rows, a->d_in, of_rows, stream)) return error;
    const EncoderTerm of_latent{a->w_enc, a->g_b_enc, a->d_in};
    if (int error = column_sums(of_latent, a->w_enc ? a->d_sae : 0, a->d_in, of_latents, stream)) return error;
    return launch(gradient_b_dec_kernel, grid_of_threads(a->d_in), kThreads, 0, stream, *a, of_rows, n_rows, of_latents, n_latents);
}
