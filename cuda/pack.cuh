// pack.cuh: neighbouring floats of a matrix's row as one: 16-byte loads and stores where the width is
// a multiple of 4, single floats elsewhere.
#pragma once
#include "common.cuh"

namespace CUSAE_NS {

template <int N> struct alignas(4 * N) Pack { float at[N]; };

template <int N> __device__ __forceinline__ Pack<N> load(const float* from) { return *reinterpret_cast<const Pack<N>*>(from); }
template <int N> __device__ __forceinline__ void store(float* to, const Pack<N>& pack) { *reinterpret_cast<Pack<N>*>(to) = pack; }

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

// The width of the packs for a row of `width`.
inline int pack_width(uint64_t width) { return width % 4 == 0 ? 4 : 1; }

// Threads of a block that owns a row: one for each pack of it, within limits.
inline unsigned threads_for_row(uint64_t width, unsigned least) {
    const uint64_t wanted = ceil_div(ceil_div(width, uint64_t(pack_width(width))), 32) * 32;
    return unsigned(wanted < least ? least : wanted > kThreads ? kThreads : wanted);
}

}  // namespace CUSAE_NS
