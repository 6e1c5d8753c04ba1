// common.cuh: small things that many kernels share. All reductions have a fixed order, so the same
// inputs give the same bits on every run; there are no atomics on floating-point numbers anywhere.
//
// The files are compiled with -fmad=false: a product and a sum are fused only where fmaf is written,
// so that the emulator's bits are the GPU's.
#pragma once
#include "device.cuh"

namespace CUSAE_NS {

constexpr unsigned kAllLanes = 0xffffffffu;

__host__ __device__ constexpr uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// Scratch memory for `count` of T.
template <class T> int scratch(cusae_stream* stream, uint64_t count, T** out) {
    void* bytes = nullptr;
    const int error = scratch_bytes(stream, count * sizeof(T), &bytes);
    *out = static_cast<T*>(bytes);
    return error;
}

// Refuses what no encoder takes, before anything is done for it.
inline int refuse_encoder(const cusae_encoder& a) {
    if (a.type > CUSAE_BF16) return refuse("the operands are neither f32 nor bf16");
    if (a.d_sae > 65535 * 64) return refuse("an encoder has more than 4194240 latents");
    return CUSAE_OK;
}

// ---- Where a thread stands ---------------------------------------------------------------------------

__device__ __forceinline__ unsigned lane_index() { return threadIdx.x % 32; }
__device__ __forceinline__ unsigned warp_index() { return threadIdx.x / 32; }
// The number of this thread, or of this thread's warp, in the whole grid of a one-dimensional launch.
__device__ __forceinline__ uint64_t global_thread() { return uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ uint64_t global_warp() { return global_thread() / 32; }

constexpr unsigned kThreads = 256;  // of a block, where nothing speaks for another number
// Grids with one thread, or one warp, for each of n things.
inline dim3 grid_of_threads(uint64_t n) { return dim3(unsigned(ceil_div(n, kThreads))); }
inline dim3 grid_of_warps(uint64_t n) { return dim3(unsigned(ceil_div(n, kThreads / 32))); }

// ---- Reductions ----------------------------------------------------------------------------------------

// Σ over the lanes of a whole warp, by a butterfly: every lane gets the same bits.
template <class T> __device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
    return value;
}

// Σ over a whole block, for every thread. `partial` [32] is in shared memory.
template <class T> __device__ __forceinline__ T block_sum(T value, T* partial) {
    value = warp_sum(value);
    __syncthreads();  // an earlier use of `partial` has been read by all
    if (lane_index() == 0) partial[warp_index()] = value;
    __syncthreads();  // partial[] is complete before anybody reads it
    const unsigned warps = (blockDim.x + 31) / 32;
    return warp_sum(lane_index() < warps ? partial[lane_index()] : T(0));
}

// How much the threads before this one hold, in order of threads; `total` gets the whole sum.
// `partial` [32] is in shared memory.
template <class T> __device__ __forceinline__ T block_exclusive_sum(T value, T* partial, T& total) {
    const auto inclusive_in_warp = [](T sum) {
#pragma unroll
        for (unsigned by = 1; by < 32; by *= 2) {
            const T before = __shfl_up_sync(kAllLanes, sum, by);
            if (lane_index() >= by) sum += before;
        }
        return sum;
    };
    const unsigned warps = (blockDim.x + 31) / 32;
    const T inclusive = inclusive_in_warp(value);
    __syncthreads();  // an earlier use of `partial` has been read by all
    if (lane_index() == 31) partial[warp_index()] = inclusive;
    __syncthreads();  // partial[] is complete before anybody reads it
    const T of_warps = inclusive_in_warp(lane_index() < warps ? partial[lane_index()] : T(0));
    total = __shfl_sync(kAllLanes, of_warps, 31);
    const T before_warp = __shfl_sync(kAllLanes, of_warps, (warp_index() + 31) % 32);
    return inclusive - value + (warp_index() == 0 ? T(0) : before_warp);
}

// ---- Indices that come from outside --------------------------------------------------------------------

// Whether index < limit. Where it is not, the first such index is kept for the host to report.
__device__ __forceinline__ bool index_fits(cusae_fault* fault, uint32_t kind, uint32_t index, uint64_t limit) {
    if (index < limit) return true;
    if (atomicCAS(&fault->kind, 0u, kind) == 0u) {
        fault->index = index;
        fault->limit = uint32_t(limit);
    }
    return false;
}

__device__ __forceinline__ float not_a_number() { return __uint_as_float(0x7fc00000u); }

// ---- Random numbers --------------------------------------------------------------------------------------

// Philox 4x32-10, the same bits as src/random.rs. Source: Salmon et al., "Parallel random numbers:
// as easy as 1, 2, 3" (SC 2011).
__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key = make_uint2(key.x + 0x9E3779B9u, key.y + 0xBB67AE85u);
    }
    return counter;
}

}  // namespace CUSAE_NS
