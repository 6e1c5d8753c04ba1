// activate: an activation function applied to every element in place.
//
//   to [len] f32, in and out
//
//   needs   a function of enum cusae_function
//   work    a thread owns an element
//   moves   8 bytes an element
//   exact   to about 2e-7 of max(|f|, 1); the same bits on every run and on every device
#include "functions.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) activate_kernel(cusae_activate a) {
    const uint64_t i = global_thread();
    if (i < a.len) a.to[i] = activation(a.function, a.to[i]);
}

}  // namespace CUSAE_NS

CUSAE_API(activate)(const cusae_activate* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->function > CUSAE_TANH) return refuse("function is none of the activation functions");
    return launch(activate_kernel, grid_of_threads(a->len), kThreads, 0, stream, *a);
}
