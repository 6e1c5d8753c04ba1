// jumprelu.cuh: the window of the straight-through estimators, and what an encoder lists. Source: SAELens
// jumprelu_sae.py, rectangle.
#pragma once
#include "common.cuh"

namespace CUSAE_NS {

__device__ __forceinline__ bool in_window(float h, float threshold, float bandwidth) {
    const float x = (h - threshold) / bandwidth;
    return x > -0.5f && x < 0.5f;
}

// Lists what is above its threshold; with a bandwidth, what is within half of it too, with the value 0.
struct JumpReluOrder {
    const float* threshold;
    float bandwidth;
    __device__ __forceinline__ uint32_t operator()(float h, uint64_t latent) const {
        const float of_latent = threshold[latent];
        if (bandwidth > 0.0f) return h > of_latent || in_window(h, of_latent, bandwidth);
        return h > of_latent && h > 0.0f;
    }
    __device__ __forceinline__ float value(float h, uint64_t latent) const { return h > threshold[latent] ? h : 0.0f; }
};

}  // namespace CUSAE_NS
