// clip_scale: the norm of all gradients together and the factor that limits it, as torch's
// clip_grad_norm_.
//
//   gradients  up to 16 of [lens[i]] f32      out [2] f32: scale, norm
//
//   needs   at most 16 gradients
//   work    a block per 65,536 values, then one block
//   moves   4 bytes a value
//   exact   f64 in a fixed order; the same bits on every run
#include "sums.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) clip_scale_kernel(cusae_clip_scale a, const double* parts, uint64_t n) {
    const double norm = sqrt(sum_of_parts(parts, n));
    if (threadIdx.x > 0) return;
    const double scale = double(a.max_norm) / (norm + 1e-6);
    // fmin(NaN, 1) is 1, and so is Rust's min: the norm still says that something is wrong.
    a.out[0] = a.clip ? float(fmin(scale, 1.0)) : 1.0f;
    a.out[1] = float(norm);
}

}  // namespace CUSAE_NS

CUSAE_API(clip_scale)(const cusae_clip_scale* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->n_gradients > CUSAE_MAX_GRADIENTS) return refuse("there are more than 16 gradients");
    uint64_t n = 0;
    for (uint32_t i = 0; i < a->n_gradients; i++) n += ceil_div(a->lens[i], kPart);
    double* parts = nullptr;
    if (int error = scratch(stream, n, &parts)) return error;
    double* next = parts;
    for (uint32_t i = 0; i < a->n_gradients; i++) {
        if (int error = partial_sums<true>(a->gradients[i], a->lens[i], next, stream)) return error;
        next += ceil_div(a->lens[i], kPart);
    }
    return launch(clip_scale_kernel, 1, kThreads, sizeof(SumShared), stream, *a, parts, n);
}
