// activate: an activation function applied to every element in place.
//
//   to [len] f32, in and out
//
//   needs   a function of enum cusae_function
//   work    a thread owns four elements
//   moves   8 bytes an element
//   exact   to about 2e-7 of max(|f|, 1); the same bits on every run and on every device
#include "functions.cuh"
#include "pack.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) activate_kernel(cusae_activate a) {
    in_fours(a.len, [&](auto width, uint64_t i) {
        Pack<decltype(width)::value> to = load<decltype(width)::value>(a.to + i);
        activate(a.function, to);
        store(a.to + i, to);
    });
}

}  // namespace CUSAE_NS

CUSAE_API(activate)(const cusae_activate* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->function > CUSAE_TANH) return refuse("function is none of the activation functions");
    return launch(activate_kernel, grid_of_fours(a->len), kThreads, 0, stream, *a);
}
