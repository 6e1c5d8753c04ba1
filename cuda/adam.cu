// adam: one step of Adam over one parameter, as torch's; the factors that depend on the step are
// the host's, in device memory.
//
//   parameter, exp_avg, exp_avg_sq  in and out [len] f32      gradient [len] f32      clip [1] f32
//   scalars: step_size, root_correction
//
//   needs   nothing
//   work    a thread owns four elements
//   moves   28 bytes an element
//   exact   one f32 operation after another in the order of the CPU backend: the same bits everywhere
#include "pack.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) adam_kernel(cusae_adam a) {
    in_fours(a.len, [&](auto width, uint64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<N> gradient = load<N>(a.gradient + i);
        Pack<N> p = load<N>(a.parameter + i), m = load<N>(a.exp_avg + i), v = load<N>(a.exp_avg_sq + i);
#pragma unroll
        for (int n = 0; n < N; n++) {
            const float g = gradient.at[n] * a.clip[0];
            m.at[n] = a.beta1 * m.at[n] + a.complement1 * g;
            v.at[n] = a.beta2 * v.at[n] + a.complement2 * (g * g);
            p.at[n] -= a.scalars->step_size * (m.at[n] / (sqrtf(v.at[n]) / a.scalars->root_correction + a.epsilon));
        }
        store(a.parameter + i, p);
        store(a.exp_avg + i, m);
        store(a.exp_avg_sq + i, v);
    });
}

}  // namespace CUSAE_NS

CUSAE_API(adam)(const cusae_adam* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return launch(adam_kernel, grid_of_fours(a->len), kThreads, 0, stream, *a);
}
