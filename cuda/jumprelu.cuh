// jumprelu.cuh: the window of the straight-through estimators, and what an encoder lists. Source: SAELens
// jumprelu_sae.py, rectangle.
#pragma once
#include "pack.cuh"

namespace CUSAE_NS {

// |(h - threshold) / bandwidth| < 1/2, without a division: what is below half the bandwidth by one unit in the last
// place is, divided by it, below 1/2 by half a unit at least, which rounding does not close.
__device__ __forceinline__ bool in_window(float h, float threshold, float bandwidth) {
    return fabsf(h - threshold) < 0.5f * bandwidth;
}

// Lists what is above its threshold; with a bandwidth, what is within half of it too, with the value 0.
struct JumpReluOrder {
    const float* threshold;
    float bandwidth;
    // What the key of a latent, of N from `latent` on, depends on beside h.
    template <int N> __device__ __forceinline__ Pack<N> of(uint64_t latent) const { return load<N>(threshold + latent); }
    template <int N> __device__ __forceinline__ uint32_t largest_key(const Pack<N>& h, const Pack<N>& of_latents) const {
        uint32_t any = 0;
#pragma unroll
        for (int n = 0; n < N; n++) any |= key(h.at[n], of_latents.at[n]);
        return any;
    }
    __device__ __forceinline__ uint32_t key(float h, float of_latent) const {
        if (bandwidth > 0.0f) return h > of_latent || in_window(h, of_latent, bandwidth);
        return h > of_latent && h > 0.0f;
    }
    __device__ __forceinline__ uint32_t operator()(float h, uint64_t latent) const { return key(h, threshold[latent]); }
    __device__ __forceinline__ float value(float h, uint64_t latent) const { return h > threshold[latent] ? h : 0.0f; }
};

}  // namespace CUSAE_NS
