// clip_scale: the norm of all gradients together and the factor that limits it, as torch's
// clip_grad_norm_.
// note_non_finite: the step in which that norm, or one of a step's sums, first was not finite.
//
//   gradients  up to 16 of [lens[i]] f32      squares [n_squares] f64: sums of squares of other gradients
//   out [2] f32: scale, norm
//   sums [n_sums] f64      clip [2] f32      scalars: step      first  in and out [1] u32, 0: none so far
//
//   needs   at most 16 gradients
//   work    a block per 65,536 values, then one block; note_non_finite: one thread
//   moves   4 bytes a value, 8 a sum of squares
//   exact   f64 in a fixed order; the same bits on every run
#include "sums.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) clip_scale_kernel(cusae_clip_scale a, const double* parts, uint64_t n) {
    const double of_gradients = sum_of_parts(parts, n);
    const double norm = sqrt(of_gradients + sum_of_parts(a.squares, a.n_squares));
    if (threadIdx.x > 0) return;
    const double scale = double(a.max_norm) / (norm + 1e-6);
    // fmin(NaN, 1) is 1, and so is Rust's min: the norm still says that something is wrong.
    a.out[0] = a.clip ? float(fmin(scale, 1.0)) : 1.0f;
    a.out[1] = float(norm);
}

__global__ void note_non_finite_kernel(cusae_note_non_finite a) {
    bool finite = isfinite(a.clip[1]);
    for (uint64_t i = 0; i < a.n_sums; i++) finite = finite && isfinite(a.sums[i]);
    if (!finite && *a.first == 0) *a.first = a.scalars->step;
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

CUSAE_API(note_non_finite)(const cusae_note_non_finite* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return launch(note_non_finite_kernel, 1, 1, 0, stream, *a);
}
