// functions.cuh: e^x, tanh, erf and the activation functions in f32, step by step as in
// src/backend/cpu/functions.rs, which gives the sources of the coefficients. Nothing here comes from a
// mathematical library, so GPU and emulator give the same bits. Not a number stays not a number.
#pragma once
#include "pack.cuh"

namespace CUSAE_NS {

// Horner's rule, highest power first.
template <int n> __device__ __forceinline__ float polynomial(float x, const float (&coefficients)[n]) {
    float sum = coefficients[0];
#pragma unroll
    for (int i = 1; i < n; i++) sum = fmaf(sum, x, coefficients[i]);
    return sum;
}

// e^x to 2e-7 relative; arguments beyond [-87.3, 88.3] are taken as those (1e-38 and 2e38).
// x = n ln 2 + r with |r| <= ln 2 / 2, e^x = 2^n e^r.
__device__ __forceinline__ float exponential(float x) {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
    constexpr float kRound = 12582912.0f;
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.3f ? 88.3f : x;
    const float rounded = fmaf(x, 1.44269504f, kRound), n = rounded - kRound;
    const float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, x));
    const float tail = polynomial(
        r, {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0e-1f});
    const float two_to_n = __uint_as_float((__float_as_uint(rounded) - __float_as_uint(kRound) + 127u) << 23);
    return (fmaf(tail, r * r, r) + 1.0f) * two_to_n;
}

__device__ __forceinline__ float hyperbolic_tangent(float x) {
    const float square = x * x;
    const float near = fmaf(
        polynomial(square, {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f}) *
            square,
        x, x);
    const float far = copysignf(1.0f - 2.0f / (exponential(2.0f * fabsf(x)) + 1.0f), x);
    return fabsf(x) < 0.625f ? near : far;
}

__device__ __forceinline__ float error_function(float x) {
    const float near = fmaf(
        polynomial(x * x, {-5.967617e-4f, 4.9911942e-3f, -2.6768135e-2f, 1.12819925e-1f, -3.7612534e-1f, 1.28379167e-1f}), x, x);
    // Beyond 4, 1 - erf is below half a unit in the last place of 1.
    const float size = fabsf(x) > 4.0f ? 4.0f : fabsf(x);
    const float exponent = fmaf(polynomial(size, {-1.7285347e-5f, 3.831972e-4f, -3.8839644e-3f, 2.4254622e-2f,
                                                  -1.0677788e-1f, -6.348467e-1f, -1.28717512e-1f}),
                                size, -size);
    const float far = copysignf(1.0f - exponential(exponent), x);
    return fabsf(x) > 0.92773438f ? far : near;
}

__device__ __forceinline__ float times_sigmoid(float x, float y) { return x / (1.0f + exponential(-y)); }

// One of enum cusae_function to each of a pack.
template <int N> __device__ __forceinline__ void activate(uint32_t function, Pack<N>& pack) {
    const auto each = [&](auto of) {
#pragma unroll
        for (int n = 0; n < N; n++) pack.at[n] = of(pack.at[n]);
    };
    switch (function) {
        case CUSAE_RELU: return each([](float x) { return x < 0.0f ? 0.0f : x; });
        // 0.5 (1 + tanh u) is the logistic function of 2u.
        case CUSAE_GELU_TANH: return each([](float x) { return times_sigmoid(x, 1.595769f * fmaf(0.044715f * x * x, x, x)); });
        case CUSAE_GELU_ERF: return each([](float x) { return x * fmaf(0.5f, error_function(x * 0.70710678f), 0.5f); });
        case CUSAE_SILU: return each([](float x) { return times_sigmoid(x, x); });
        case CUSAE_QUICK_GELU: return each([](float x) { return times_sigmoid(x, 1.702f * x); });
        case CUSAE_TANH: return each([](float x) { return hyperbolic_tangent(x); });
    }
}

}  // namespace CUSAE_NS
