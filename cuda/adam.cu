// adam: one step of Adam over one parameter, as torch's; the factors that depend on the step are
// the host's, in device memory.
//
//   parameter, exp_avg, exp_avg_sq  in and out [len] f32      gradient [len] f32      clip [1] f32
//   scalars: step_size, root_correction
//
//   needs   nothing
//   work    a thread owns an element
//   moves   28 bytes an element
//   exact   one f32 operation after another in the order of the CPU backend: the same bits everywhere
#include "common.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) adam_kernel(cusae_adam a) {
    const uint64_t i = global_thread();
    if (i >= a.len) return;
    const float g = a.gradient[i] * a.clip[0];
    const float m = a.beta1 * a.exp_avg[i] + a.complement1 * g;
    const float v = a.beta2 * a.exp_avg_sq[i] + a.complement2 * (g * g);
    a.exp_avg[i] = m;
    a.exp_avg_sq[i] = v;
    a.parameter[i] -= a.scalars->step_size * (m / (sqrtf(v) / a.scalars->root_correction + a.epsilon));
}

}  // namespace CUSAE_NS

CUSAE_API(adam)(const cusae_adam* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return launch(adam_kernel, grid_of_threads(a->len), kThreads, 0, stream, *a);
}
