// jumprelu.cuh: the window of the straight-through estimators. Source: SAELens jumprelu_sae.py, rectangle.
#pragma once
#include "common.cuh"

namespace CUSAE_NS {

__device__ __forceinline__ bool in_window(float h, float threshold, float bandwidth) {
    const float x = (h - threshold) / bandwidth;
    return x > -0.5f && x < 0.5f;
}

}  // namespace CUSAE_NS
