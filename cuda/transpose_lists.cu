// transpose_lists: lists by row into lists by latent, a stable counting sort.
//
//   lists [B, S] by row, a latent at most once in a row
//   offsets  out [F + 1] u32      entries  out [B·S] u32: b·S + j, ascending for each latent
//
//   needs   B·S <= 2^32 - 1
//   work    count (integer atomics, whose result has no order) and scan; place each entry somewhere in
//           its latent's segment; sort every segment: a warp ranks up to 32 entries, a block takes a
//           longer segment through a window of rows, since a row occurs in it at most once
//   moves   about 20 bytes an entry and 16 a latent
//   exact   integers; the same bits everywhere
#include "common.cuh"

namespace CUSAE_NS {

// A thread per place in the lists: entry b·S + j, where j is below the row's count.
__device__ __forceinline__ bool is_entry(const cusae_transpose_lists& a, uint64_t place) {
    return place < a.rows * a.lists.stride && place % a.lists.stride < a.lists.counts[place / a.lists.stride];
}

__global__ void __launch_bounds__(kThreads) count_latents_kernel(cusae_transpose_lists a, uint32_t* counts) {
    const uint64_t place = global_thread();
    if (is_entry(a, place)) atomicAdd(&counts[a.lists.indices[place]], 1u);
}

struct ScanShared { uint32_t partial[32]; };

// offsets = exclusive sums of counts; counts become cursors at the start of each segment.
__global__ void __launch_bounds__(1024) scan_latents_kernel(cusae_transpose_lists a, uint32_t* counts) {
    auto& s = shared<ScanShared>();
    uint32_t sum = 0;  // of the tiles before
    for (uint64_t first = 0; first < a.d_sae; first += blockDim.x) {
        const uint64_t latent = first + threadIdx.x;
        uint32_t in_tile;
        const uint32_t count = latent < a.d_sae ? counts[latent] : 0;
        const uint32_t start = sum + block_exclusive_sum(count, s.partial, in_tile);
        if (latent < a.d_sae) {
            a.by_latent.offsets[latent] = start;
            counts[latent] = start;
        }
        sum += in_tile;
    }
    if (threadIdx.x == 0) a.by_latent.offsets[a.d_sae] = sum;
}

__global__ void __launch_bounds__(kThreads) place_entries_kernel(cusae_transpose_lists a, uint32_t* cursors, uint32_t* unsorted) {
    const uint64_t place = global_thread();
    if (is_entry(a, place)) unsorted[atomicAdd(&cursors[a.lists.indices[place]], 1u)] = uint32_t(place);
}

constexpr unsigned kWindow = 4096;  // rows
constexpr uint32_t kNoEntry = 0xffffffffu;
struct SortShared { uint32_t partial[32], window[kWindow]; };

// A segment of any length, by a whole block: its entries go to the slot of their row, and leave in
// order of slots.
__device__ __forceinline__ void sort_long_segment(SortShared& s, const cusae_transpose_lists& a, const uint32_t* unsorted, uint32_t* sorted, uint32_t n) {
    constexpr unsigned kOwn = kWindow / kThreads;  // slots of a thread, next to each other
    uint32_t done = 0;
    for (uint64_t first = 0; first < a.rows && done < n; first += kWindow) {
        for (unsigned i = 0; i < kOwn; i++) s.window[threadIdx.x * kOwn + i] = kNoEntry;
        __syncthreads();  // the window is empty before anybody fills it
        for (uint32_t i = threadIdx.x; i < n; i += kThreads) {
            const uint64_t row = unsorted[i] / a.lists.stride;
            if (row >= first && row < first + kWindow) s.window[row - first] = unsorted[i];
        }
        __syncthreads();  // the window is complete before it is read
        uint32_t own = 0, in_window;
        for (unsigned i = 0; i < kOwn; i++) own += s.window[threadIdx.x * kOwn + i] != kNoEntry;
        uint32_t at = done + block_exclusive_sum(own, s.partial, in_window);
        for (unsigned i = 0; i < kOwn; i++) {
            const uint32_t entry = s.window[threadIdx.x * kOwn + i];
            if (entry != kNoEntry) sorted[at++] = entry;
        }
        done += in_window;
    }
}

__global__ void __launch_bounds__(kThreads) sort_segments_kernel(cusae_transpose_lists a, const uint32_t* unsorted) {
    auto& s = shared<SortShared>();
    const uint32_t* offsets = a.by_latent.offsets;
    const uint64_t first = uint64_t(blockIdx.x) * (kThreads / 32), last = min(first + kThreads / 32, a.d_sae);
    const uint64_t latent = first + warp_index();
    if (latent < last && offsets[latent + 1] - offsets[latent] <= 32) {
        const uint32_t start = offsets[latent], n = offsets[latent + 1] - start;
        const uint32_t entry = lane_index() < n ? unsorted[start + lane_index()] : kNoEntry;
        uint32_t smaller = 0;
        for (uint32_t i = 0; i < n; i++) smaller += __shfl_sync(kAllLanes, entry, int(i)) < entry;
        if (lane_index() < n) a.by_latent.entries[start + smaller] = entry;
    }
    for (uint64_t i = first; i < last; i++) {
        const uint32_t start = offsets[i], n = offsets[i + 1] - start;
        if (n > 32) sort_long_segment(s, a, unsorted + start, a.by_latent.entries + start, n);
    }
}

}  // namespace CUSAE_NS

CUSAE_API(transpose_lists)(const cusae_transpose_lists* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const uint64_t places = a->rows * a->lists.stride;
    if (places > 0xffffffffull) return refuse("rows times stride does not fit 32 bits");
    uint32_t* counts = nullptr;
    if (int error = scratch(stream, a->d_sae + places, &counts)) return error;
    uint32_t* unsorted = counts + a->d_sae;
    const dim3 grid = grid_of_threads(places);
    if (int error = memory_set(counts, 0, a->d_sae * sizeof(uint32_t), stream)) return error;
    if (int error = launch(count_latents_kernel, grid, kThreads, 0, stream, *a, counts)) return error;
    if (int error = launch(scan_latents_kernel, 1, 1024, sizeof(ScanShared), stream, *a, counts)) return error;
    if (int error = launch(place_entries_kernel, grid, kThreads, 0, stream, *a, counts, unsorted)) return error;
    return launch(sort_segments_kernel, grid_of_warps(a->d_sae), kThreads, sizeof(SortShared), stream, *a, unsorted);
}
