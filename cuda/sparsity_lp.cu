// sparsity_lp, sparsity_lp_dense: the p-norm of every row's features weighted by the decoder's norms,
// and its gradients. Source: SAELens standard_sae.py, (acts * |W_dec_i|).norm(p, dim=-1): the norm,
// not its power.
//
//   decoder_norm [F] f32      scalars: coefficient      loss out [B] f32
//   sparsity_lp         lists [B, S]            value_gradient in and out [B, S] f32
//                       norm_gradient out [B, S] f32: the listed places are written
//   sparsity_lp_dense   features [B, F] f32     feature_gradient in and out [B, F] f32
//                       norm_gradient out [F] f32, summed over the batch
//
//   needs   p > 0; dense: at most 8,388,480 rows
//   work    lists: a warp owns a row; dense: a block owns a row's norm, then the gradients and their
//           sums down the columns
//   moves   20 bytes an entry; 16 an element where dense
//   exact   the norm in f64, strided parts and a butterfly; derivatives in f32; norm_gradient in the
//           order of column_sums.cuh; the same bits on every run
#include "column_sums.cuh"

namespace CUSAE_NS {

// u^p of a weighted feature u = f n.
__device__ __forceinline__ double power(float u, float p) { return p == 1.0f ? double(u) : pow(double(u), double(p)); }
__device__ __forceinline__ float root(double sum, float p) { return float(p == 1.0f ? sum : pow(sum, 1.0 / double(p))); }

// d norm / du.
__device__ __forceinline__ float derivative(float u, float norm, float p) {
    if (p == 1.0f) return 1.0f;
    return norm == 0.0f ? 0.0f : powf(u / norm, p - 1.0f);
}

__global__ void __launch_bounds__(kThreads) sparsity_lp_kernel(cusae_sparsity_lp a) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    const uint64_t first = row * a.lists.stride, last = first + a.lists.counts[row];
    double sum = 0;
    for (uint64_t i = first + lane_index(); i < last; i += 32) sum += power(a.lists.values[i] * a.decoder_norm[a.lists.indices[i]], a.p);
    const float norm = root(warp_sum(sum), a.p), coefficient = a.scalars->coefficient;
    const float factor = coefficient * a.gradient_scale;
    if (lane_index() == 0) a.loss[row] = coefficient * norm;
    for (uint64_t i = first + lane_index(); i < last; i += 32) {
        const float f = a.lists.values[i], n = a.decoder_norm[a.lists.indices[i]];
        const float gradient = factor * derivative(f * n, norm, a.p);
        a.value_gradient[i] += gradient * n;
        a.norm_gradient[i] = gradient * f;
    }
}

struct SparsityShared { double partial[32]; };

__global__ void __launch_bounds__(kThreads) dense_norms_kernel(cusae_sparsity_lp_dense a, float* norms) {
    const uint64_t row = blockIdx.x;
    double sum = 0;
    for (uint64_t i = threadIdx.x; i < a.d_sae; i += kThreads) sum += power(a.features[row * a.d_sae + i] * a.decoder_norm[i], a.p);
    const float norm = root(block_sum(sum, shared<SparsityShared>().partial), a.p);
    if (threadIdx.x > 0) return;
    norms[row] = norm;
    a.loss[row] = a.scalars->coefficient * norm;
}

// Adds to the feature's gradient; returns its part of norm_gradient.
struct SparsityTerm {
    cusae_sparsity_lp_dense a;
    const float* norms;
    __device__ float operator()(uint64_t row, uint64_t latent) const {
        const uint64_t at = row * a.d_sae + latent;
        const float f = a.features[at], n = a.decoder_norm[latent];
        if (!(f > 0.0f)) return 0.0f;
        const float gradient = a.scalars->coefficient * a.gradient_scale * derivative(f * n, norms[row], a.p);
        a.feature_gradient[at] += gradient * n;
        return gradient * f;
    }
};

__global__ void __launch_bounds__(kThreads) dense_norm_gradient_kernel(cusae_sparsity_lp_dense a, const float* chunk_sums, uint64_t chunks) {
    const uint64_t latent = global_thread();
    if (latent < a.d_sae) a.norm_gradient[latent] = sum_of_chunks(chunk_sums, chunks, a.d_sae, latent);
}

}  // namespace CUSAE_NS

CUSAE_API(sparsity_lp)(const cusae_sparsity_lp* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (!(a->p > 0.0f)) return refuse("p is not greater than 0");
    return launch(sparsity_lp_kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a);
}

CUSAE_API(sparsity_lp_dense)(const cusae_sparsity_lp_dense* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (!(a->p > 0.0f)) return refuse("p is not greater than 0");
    if (int error = refuse_rows(a->rows)) return error;
    const uint64_t chunks = column_chunks(a->rows);
    float* chunk_sums = nullptr;
    if (int error = scratch(stream, chunks * a->d_sae + a->rows, &chunk_sums)) return error;
    float* const norms = chunk_sums + chunks * a->d_sae;
    if (int error = launch(dense_norms_kernel, dim3(unsigned(a->rows)), kThreads, sizeof(SparsityShared), stream, *a, norms)) return error;
    if (int error = column_sums(SparsityTerm{*a, norms}, a->rows, a->d_sae, chunk_sums, stream)) return error;
    return launch(dense_norm_gradient_kernel, grid_of_threads(a->d_sae), kThreads, 0, stream, *a, chunk_sums, chunks);
}
