// sums.cuh: f64 sums over many f32 values, for sum and clip_scale.
//
// A block adds a part of 65,536 values, then one block adds the parts. Which thread adds what is
// decided by the number of values alone, so the same values give the same bits on every run.
#pragma once
#include "common.cuh"

namespace CUSAE_NS {

constexpr uint64_t kPart = 1 << 16;
struct SumShared { double partial[32]; };

template <bool kSquares>
__global__ void __launch_bounds__(kThreads) partial_sums_kernel(const float* values, uint64_t len, double* parts) {
    const uint64_t first = blockIdx.x * kPart, last = min(first + kPart, len);
    double sum = 0;
    for (uint64_t i = first + threadIdx.x; i < last; i += kThreads) {
        const double value = double(values[i]);
        sum += kSquares ? value * value : value;
    }
    sum = block_sum(sum, shared<SumShared>().partial);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// Σ of the parts, for one block: every thread gets it.
__device__ __forceinline__ double sum_of_parts(const double* parts, uint64_t n) {
    double sum = 0;
    for (uint64_t i = threadIdx.x; i < n; i += kThreads) sum += parts[i];
    return block_sum(sum, shared<SumShared>().partial);
}

// Queues the parts of `len` values; there are ceil_div(len, kPart).
template <bool kSquares> int partial_sums(const float* values, uint64_t len, double* parts, cusae_stream* stream) {
    const dim3 grid(unsigned(ceil_div(len, kPart)));
    return launch(partial_sums_kernel<kSquares>, grid, kThreads, sizeof(SumShared), stream, values, len, parts);
}

}  // namespace CUSAE_NS
