// pack.cuh: neighbouring numbers of a matrix's row as one: 16-byte loads and stores where the width is
// a multiple of 4, of 8 where numbers are bf16; one by one elsewhere. Every buffer starts on a multiple of
// 16 bytes.
#pragma once
#include "common.cuh"

namespace CUSAE_NS {

template <int N> struct alignas(N < 4 ? 4 * N : 16) Pack { float at[N]; };

template <int N> __device__ __forceinline__ Pack<N> load(const float* from) { return *reinterpret_cast<const Pack<N>*>(from); }
// The same of bf16, as floats.
template <int N> __device__ __forceinline__ Pack<N> load(const bf16* from) {
    struct alignas(2 * N) Rounded { bf16 at[N]; };
    const Rounded rounded = *reinterpret_cast<const Rounded*>(from);
    Pack<N> pack;
#pragma unroll
    for (int n = 0; n < N; n++) pack.at[n] = __bfloat162float(rounded.at[n]);
    return pack;
}
template <int N> __device__ __forceinline__ void store(float* to, const Pack<N>& pack) { *reinterpret_cast<Pack<N>*>(to) = pack; }

// Rounded to bf16.
template <int N> __device__ __forceinline__ void store(bf16* to, const Pack<N>& pack) {
    struct alignas(2 * N) Rounded { bf16 at[N]; } rounded;
#pragma unroll
    for (int n = 0; n < N; n++) rounded.at[n] = __float2bfloat16_rn(pack.at[n]);
    *reinterpret_cast<Rounded*>(to) = rounded;
}

// The same to global memory, for what has stood in registers: of that the compiler may store number after number.
template <int N> __device__ __forceinline__ void store_global(float* to, const Pack<N>& pack) {
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int n = 0; n < N; n += 4) store_four(to + n, pack.at[n], pack.at[n + 1], pack.at[n + 2], pack.at[n + 3]);
    } else {
        store(to, pack);
    }
}

template <int N> __device__ __forceinline__ Pack<N> filled(float value) {
    Pack<N> pack;
#pragma unroll
    for (int n = 0; n < N; n++) pack.at[n] = value;
    return pack;
}

// Some columns of a vector, or the same number for each where there is none.
template <int N> __device__ __forceinline__ Pack<N> load_or(const float* vector, uint64_t column, float otherwise) {
    return vector ? load<N>(vector + column) : filled<N>(otherwise);
}

// to += factor from.
template <int N> __device__ __forceinline__ void add_scaled(Pack<N>& to, float factor, const Pack<N>& from) {
#pragma unroll
    for (int n = 0; n < N; n++) to.at[n] = fmaf(factor, from.at[n], to.at[n]);
}

// to += from.
template <int N> __device__ __forceinline__ void add(Pack<N>& to, const Pack<N>& from) {
#pragma unroll
    for (int n = 0; n < N; n++) to.at[n] += from.at[n];
}

template <int N> __device__ __forceinline__ Pack<N> scaled(Pack<N> pack, float factor) {
#pragma unroll
    for (int n = 0; n < N; n++) pack.at[n] *= factor;
    return pack;
}

// sum + a · b, one after another.
template <int N> __device__ __forceinline__ float add_products(float sum, const Pack<N>& a, const Pack<N>& b) {
#pragma unroll
    for (int n = 0; n < N; n++) sum = fmaf(a.at[n], b.at[n], sum);
    return sum;
}

// f(x) for the numbers of a row that are this lane's: each 32nd pack.
template <int N, class F> __device__ __forceinline__ void for_each_of_lane(const float* row, uint64_t width, F f) {
    for (uint64_t i = lane_index() * N; i < width; i += 32 * N) {
        const Pack<N> values = load<N>(row + i);
#pragma unroll
        for (int n = 0; n < N; n++) f(values.at[n]);
    }
}

// A vector of `len`, four elements a thread: f(Width<4>, i), and what is left f(Width<1>, i) by the last thread.
template <int N> struct Width { static constexpr int value = N; };
template <class F> __device__ __forceinline__ void in_fours(uint64_t len, F f) {
    uint64_t i = 4 * global_thread();
    if (i + 4 <= len) return f(Width<4>{}, i);
    for (; i < len; i++) f(Width<1>{}, i);
}
inline dim3 grid_of_fours(uint64_t len) { return grid_of_threads(ceil_div(len, 4)); }

// The width of the packs for a row of `width`.
inline int pack_width(uint64_t width) { return width % 4 == 0 ? 4 : 1; }

// f(Packs<T, N>{}) where rows of `width` hold numbers T of a type of enum cusae_type, N of them a pack.
template <class T, int N> struct Packs {
    using Number = T;
    static constexpr int kWidth = N;
};
template <class F> int with_packs(uint32_t type, uint64_t width, F f) {
    if (type == CUSAE_BF16) return width % 8 == 0 ? f(Packs<bf16, 8>{}) : f(Packs<bf16, 1>{});
    return pack_width(width) == 4 ? f(Packs<float, 4>{}) : f(Packs<float, 1>{});
}

// Threads of a block that owns a row: one for each pack of it, within limits.
inline unsigned threads_for_row(uint64_t width, unsigned least, uint64_t pack) {
    const uint64_t wanted = ceil_div(ceil_div(width, pack), 32) * 32;
    return unsigned(wanted < least ? least : wanted > kThreads ? kThreads : wanted);
}
inline unsigned threads_for_row(uint64_t width, unsigned least) { return threads_for_row(width, least, uint64_t(pack_width(width))); }

}  // namespace CUSAE_NS
