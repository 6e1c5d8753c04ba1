// sum: one number from many, in f64.
//
//   values [len] f32      out [1] f64
//
//   needs   nothing
//   work    a block per 65,536 values, then one block
//   moves   4 bytes a value
//   exact   f64 in a fixed order; the same bits on every run
#include "sums.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) total_kernel(const double* parts, uint64_t n, double* out) {
    const double sum = sum_of_parts(parts, n);
    if (threadIdx.x == 0) *out = sum;
}

}  // namespace CUSAE_NS

CUSAE_API(sum)(const cusae_sum* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const uint64_t n = ceil_div(a->len, kPart);
    double* parts = nullptr;
    if (int error = scratch(stream, n, &parts)) return error;
    if (int error = partial_sums<false>(a->values, a->len, parts, stream)) return error;
    return launch(total_kernel, 1, kThreads, sizeof(SumShared), stream, parts, n, a->out);
}
