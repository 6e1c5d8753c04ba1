// dense.cuh: what the dense decoder and the dense gradients do with each element of their products; Keeps, see
// keep.cuh.
#pragma once
#include "keep.cuh"

namespace CUSAE_NS {

// What a Keep has that looks at elements only.
struct ElementKeep {
    static __device__ __forceinline__ uint32_t combine(uint32_t a, uint32_t) { return a; }
    __device__ __forceinline__ void group(uint64_t, unsigned, uint32_t) const {}
};

// The decoder's output as it is.
struct KeepOutput : ElementKeep {
    float* out;
    explicit KeepOutput(float* out) : out(out) {}
    __device__ __forceinline__ Kept operator()(uint64_t, uint64_t, float value) const { return {value, 0}; }
};

// The gradient of a feature, where that is positive.
struct KeepFeatureGradient : ElementKeep {
    float* out;
    const float* features;
    KeepFeatureGradient(float* out, const float* features) : out(out), features(features) {}
    __device__ __forceinline__ Kept operator()(uint64_t at, uint64_t, float value) const {
        return {features[at] > 0.0f ? value : 0.0f, 0};
    }
};

// The gradient of some latents' weights.
struct KeepWeightGradient : ElementKeep {
    float* out;
    uint64_t d_in;
    uint32_t accumulate;
    cusae_norm_gradient norm;
    KeepWeightGradient(float* out, uint64_t d_in, uint32_t accumulate, const cusae_norm_gradient& norm)
        : out(out), d_in(d_in), accumulate(accumulate), norm(norm) {}
    // From the latent `first` on.
    KeepWeightGradient from(uint64_t first) const {
        KeepWeightGradient keep = *this;
        keep.out += first * d_in;
        if (norm.norm_gradient) keep.norm = {norm.norm_gradient + first, norm.decoder_norm + first, norm.w_dec + first * d_in};
        return keep;
    }
    __device__ __forceinline__ Kept operator()(uint64_t at, uint64_t column, float value) const {
        if (accumulate) value += out[at];
        if (norm.norm_gradient) {
            // d|w| / dw = w / |w|.
            const uint64_t latent = (at - column) / d_in;
            const float of_norm = norm.norm_gradient[latent], length = norm.decoder_norm[latent];
            if (of_norm != 0.0f && length > 0.0f) value = fmaf(of_norm / length, norm.w_dec[at], value);
        }
        return {value, 0};
    }
};

// As gemm.cuh calls a Keep.
template <class Keep> struct KeepElement {
    Keep keep;
    uint64_t columns;
    __device__ __forceinline__ void operator()(uint64_t row, uint64_t column, float value) const {
        const uint64_t at = row * columns + column;
        keep.out[at] = keep(at, column, value).value;
    }
};

}  // namespace CUSAE_NS
