// exponential, ghost_error: what ghost gradients need besides lists and their products.
//
//   exponential  x, factor [len] f32, factor NULL: 1      to  out [len] f32: factor e^x
//   ghost_error  ghost, error [B, D] f32      gradient  out [B, D] f32      loss  out [B] f32: with
//                r = error_scale error, s = |r| / (1e-6 + 2 |ghost|), e = s ghost - r and
//                m = r² / (e² + 1e-6): the loss is Σ m e², its gradient gradient_scale m e s
//
//   needs   nothing
//   work    exponential: a thread owns an element. ghost_error: a block owns a row and goes over it twice
//   moves   exponential: 8 bytes an element, 12 with a factor. ghost_error: 12 bytes an element
//   exact   e^x as in functions.cuh; norms and losses are summed in f64; the same bits on every run
// Source: Jermyn and Templeton 2024, "Ghost Grads: An improvement on resampling".
#include "functions.cuh"
#include "pack.cuh"

namespace CUSAE_NS {

struct GhostShared { double partial[32]; };

__global__ void __launch_bounds__(kThreads) exponential_kernel(cusae_exponential a) {
    const uint64_t i = global_thread();
    if (i < a.len) a.to[i] = (a.factor ? a.factor[i] : 1.0f) * exponential(a.x[i]);
}

__global__ void __launch_bounds__(kThreads) ghost_error_kernel(cusae_ghost_error a) {
    auto& s = shared<GhostShared>();
    const uint64_t first = blockIdx.x * a.d_in;
    double of_ghost = 0, of_error = 0, loss = 0;
    for (uint64_t i = first + threadIdx.x; i < first + a.d_in; i += blockDim.x) {
        const double ghost = double(a.ghost[i]), error = double(a.error_scale * a.error[i]);
        of_ghost += ghost * ghost;
        of_error += error * error;
    }
    of_ghost = block_sum(of_ghost, s.partial);
    of_error = block_sum(of_error, s.partial);
    const float scale = float(sqrt(of_error) / (1e-6 + 2 * sqrt(of_ghost)));
    for (uint64_t i = first + threadIdx.x; i < first + a.d_in; i += blockDim.x) {
        const float r = a.error_scale * a.error[i], e = scale * a.ghost[i] - r;
        const float weighted = r * r / (e * e + 1e-6f) * e;
        loss += double(weighted) * double(e);
        a.gradient[i] = a.gradient_scale * weighted * scale;
    }
    loss = block_sum(loss, s.partial);
    if (threadIdx.x == 0) a.loss[blockIdx.x] = float(loss);
}

}  // namespace CUSAE_NS

CUSAE_API(exponential)(const cusae_exponential* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return launch(exponential_kernel, grid_of_threads(a->len), kThreads, 0, stream, *a);
}

CUSAE_API(ghost_error)(const cusae_ghost_error* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return launch(ghost_error_kernel, dim3(unsigned(a->rows)), threads_for_row(a->d_in, 64), sizeof(GhostShared), stream, *a);
}
