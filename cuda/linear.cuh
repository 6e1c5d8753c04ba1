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
    __device__ __forceinline__ Kept operator()(uint64_t at, uint64_t column, float value) const {
        if (bias) value += bias[column];
        value = activation(function, value);
        return {residual ? value + residual[at] : value, 0};
    }
    __device__ __forceinline__ void group(uint64_t, unsigned, uint32_t) const {}
};

}  // namespace CUSAE_NS
