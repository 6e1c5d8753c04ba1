// linear.cuh: what linear does with each element of its product.
#pragma once
#include "functions.cuh"
#include "keep.cuh"

namespace CUSAE_NS {

struct KeepLinear {
    float* out;
    const float *bias, *residual;  // NULL: none
    uint32_t function;
    static __device__ __forceinline__ uint32_t combine(uint32_t a, uint32_t) { return a; }
    template <int N> __device__ __forceinline__ uint32_t operator()(uint64_t, uint64_t column, uint64_t at, Pack<N>& h) const {
        if (bias) add(h, load<N>(bias + column));
        activate(function, h);
        if (residual) add(h, load<N>(residual + at));
        return 0;
    }
    __device__ __forceinline__ void group(uint64_t, unsigned, uint32_t) const {}
};

}  // namespace CUSAE_NS
