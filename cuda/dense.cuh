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
    template <int N> __device__ __forceinline__ uint32_t operator()(uint64_t, uint64_t, uint64_t, Pack<N>&) const { return 0; }
};

// The gradient of a feature, where that is positive.
struct KeepFeatureGradient : ElementKeep {
    float* out;
    const float* features;
    KeepFeatureGradient(float* out, const float* features) : out(out), features(features) {}
    template <int N> __device__ __forceinline__ uint32_t operator()(uint64_t, uint64_t, uint64_t at, Pack<N>& h) const {
        const Pack<N> feature = load<N>(features + at);
#pragma unroll
        for (int n = 0; n < N; n++) h.at[n] = feature.at[n] > 0.0f ? h.at[n] : 0.0f;
        return 0;
    }
};

// The gradient of some latents' weights.
struct KeepWeightGradient : ElementKeep {
    float* out;
    uint32_t accumulate;
    cusae_norm_gradient norm;
    KeepWeightGradient(float* out, uint32_t accumulate, const cusae_norm_gradient& norm) : out(out), accumulate(accumulate), norm(norm) {}
    // From the latent `first` on.
    KeepWeightGradient from(uint64_t first, uint64_t d_in) const {
        KeepWeightGradient keep = *this;
        keep.out += first * d_in;
        if (norm.norm_gradient) keep.norm = {norm.norm_gradient + first, norm.decoder_norm + first, norm.w_dec + first * d_in};
        return keep;
    }
    template <int N> __device__ __forceinline__ uint32_t operator()(uint64_t latent, uint64_t, uint64_t at, Pack<N>& h) const {
        if (accumulate) add(h, load<N>(out + at));
        if (norm.norm_gradient) {
            // d|w| / dw = w / |w|.
            const float of_norm = norm.norm_gradient[latent], length = norm.decoder_norm[latent];
            if (of_norm != 0.0f && length > 0.0f) add_scaled(h, of_norm / length, load<N>(norm.w_dec + at));
        }
        return 0;
    }
};

// As gemm.cuh calls a Keep.
template <class Keep> struct KeepElement {
    Keep keep;
    uint64_t columns;
    __device__ __forceinline__ void operator()(uint64_t row, uint64_t column, float value) const {
        keep_one(keep, row, column, row * columns + column, value);
    }
};

}  // namespace CUSAE_NS
