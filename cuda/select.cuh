// select.cuh: selection among the pre-activations of rows. The encoder's product leaves h and the largest
// key of every group of 64 latents; a block then walks a row, leaving out groups that hold nothing it wants.
#pragma once
#include "encode.cuh"

namespace CUSAE_NS {

// Keys in the order of floats as integers; 0: never selected. What is selected has the value h.
struct KeyOrder {
    const float* decoder_norm;  // NULL: 1
    float above;                // keys must exceed it
    bool magnitude;             // keys are magnitudes
    // What the key of a latent, of N from `latent` on, depends on beside h.
    template <int N> __device__ __forceinline__ Pack<N> of(uint64_t latent) const { return load_or<N>(decoder_norm, latent, 1.0f); }
    // What is not a number is never the largest.
    template <int N> __device__ __forceinline__ uint32_t largest_key(const Pack<N>& h, const Pack<N>& norms) const {
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < N; n++) {
            const float key = h.at[n] * norms.at[n];
            largest = fmaxf(largest, magnitude ? fabsf(key) : key);
        }
        if (!(largest > above)) return 0;
        const uint32_t bits = __float_as_uint(largest + 0.0f);  // -0 becomes 0
        return bits >> 31 ? ~bits : bits | 0x80000000u;
    }
    __device__ __forceinline__ uint32_t operator()(float h, uint64_t latent) const { return largest_key(Pack<1>{h}, of<1>(latent)); }
    __device__ __forceinline__ float value(float h, uint64_t) const { return h; }
};

// A chunk of rows between the product and the selection.
template <class Order> struct Chunk {
    EncoderRows encoder;
    Order order;
    float* h;          // [rows, n_latents]
    uint32_t* maxima;  // [rows, groups]
    uint64_t groups;
    cusae_lists lists;  // of the chunk's first row on
    float* pre_activations;  // likewise; NULL: not wanted
    uint32_t* longest;       // NULL: not wanted
    uint32_t k;              // 0: no limit
    // Groups that have latents.
    __device__ __forceinline__ uint64_t used_groups() const { return ceil_div(encoder.count(), kGroup); }
};

template <class Order> struct KeepGroupMaxima {
    Chunk<Order> a;
    float* out;  // a.h
    static __device__ __forceinline__ uint32_t combine(uint32_t a, uint32_t b) { return max(a, b); }
    template <int N> __device__ __forceinline__ uint32_t operator()(uint64_t, uint64_t column, uint64_t, Pack<N>& h) const {
        return a.order.largest_key(h, a.order.template of<N>(N == 1 ? a.encoder.latent(column) : column));
    }
    __device__ __forceinline__ void group(uint64_t row, unsigned group, uint32_t maximum) const {
        a.maxima[row * a.groups + group] = maximum;
    }
};

// Queues the product of a chunk.
template <class Order> int encode_chunk(const Chunk<Order>& chunk, cusae_stream* stream) {
    return encode(chunk.encoder, KeepGroupMaxima<Order>{chunk, chunk.h}, stream);
}

// ---- Selection in a row, by a block --------------------------------------------------------------------

constexpr unsigned kWarps = kThreads / 32;
constexpr unsigned kDigitBits = 11, kBins = 1 << kDigitBits, kOwnBins = kBins / kThreads;

struct SelectShared {
    uint32_t bins[kBins], partial[32];
    uint32_t digit, in_digit, wanted;
    uint32_t above[kWarps], ties[kWarps];  // of each warp's latents
};

// Which keys are selected: those above `threshold`, and the first `ties` of those equal to it.
struct Cut {
    uint32_t threshold, ties;
    __device__ __forceinline__ uint32_t least() const { return ties > 0 ? threshold : threshold + 1; }
};

// Counts of the keys with one more digit, from the largest down: where the `wanted`-th is, goes to
// s.digit, how many have that digit to s.in_digit, and how many of them are wanted to s.wanted.
// Returns how many keys were counted; if fewer than wanted, nothing else is said.
__device__ __forceinline__ uint32_t find_digit(SelectShared& s, uint32_t wanted) {
    const unsigned first = kBins - 1 - threadIdx.x * kOwnBins;  // of this thread's bins, downwards
    uint32_t own = 0, total;
    for (unsigned i = 0; i < kOwnBins; i++) own += s.bins[first - i];
    uint32_t before = block_exclusive_sum(own, s.partial, total);
    if (before < wanted && wanted <= before + own) {
        unsigned digit = first;
        while (before + s.bins[digit] < wanted) before += s.bins[digit--];
        s.digit = digit;
        s.in_digit = s.bins[digit];
        s.wanted = wanted - before;
    }
    __syncthreads();  // the digit is known to all, and the bins may be used again
    return total;
}

// The cut that selects the k largest of the keys that are at least `least` (> 0). `for_each(f)` calls
// f(key) for this thread's keys, any number of times.
template <class ForEach> __device__ __forceinline__ Cut cut_after(SelectShared& s, uint32_t k, uint32_t least, ForEach for_each) {
    uint32_t prefix = 0, wanted = k;
    int shift = 32;
    do {
        const int bits = min(int(kDigitBits), shift);
        shift -= bits;
        for (unsigned i = threadIdx.x; i < kBins; i += kThreads) s.bins[i] = 0;
        __syncthreads();  // the bins are empty before anybody counts
        for_each([&](uint32_t key) {
            if (key >= least && key >> shift >> bits == prefix) atomicAdd(&s.bins[key >> shift & ((1u << bits) - 1)], 1u);
        });
        __syncthreads();  // the counts are complete
        if (find_digit(s, wanted) <= wanted) return {least - 1, 0};  // only the first time
        prefix = prefix << bits | s.digit;
        wanted = s.wanted;
        // All that have this digit: smaller keys were counted too, so none of these is below `least`.
        if (s.in_digit == wanted) return {(prefix << shift) - 1, 0};
    } while (shift > 0);
    return {prefix, wanted};
}

// Visits a warp's share of a row's latents, ascending, 32 at a time and leaving out groups without a
// key of at least `least`: visit(column, h, key), where the key is 0 for one that is less.
template <class Order, class Visit> __device__ __forceinline__ void walk(const Chunk<Order>& a, uint64_t row, uint32_t least, Visit visit) {
    const uint32_t* maxima = a.maxima + row * a.groups;
    const float* h = a.h + row * a.encoder.n_latents;
    const uint64_t n_latents = a.encoder.count(), groups = a.used_groups();
    const uint64_t end = groups * (warp_index() + 1) / kWarps;
    for (uint64_t first = groups * warp_index() / kWarps; first < end; first += 32) {
        const uint64_t own = first + lane_index();
        unsigned reached = __ballot_sync(kAllLanes, own < end && maxima[own] >= least);
        for (; reached; reached &= reached - 1) {
            const uint64_t group = first + unsigned(__ffs(int(reached)) - 1);
            for (unsigned part = 0; part < kGroup; part += 32) {
                const uint64_t column = group * kGroup + part + lane_index();
                const bool exists = column < n_latents;
                const float value = exists ? h[column] : 0.0f;
                const uint32_t key = exists ? a.order(value, a.encoder.latent(column)) : 0;
                visit(column, value, key >= least ? key : 0);
            }
        }
    }
}

// Lists what the cut selects.
template <class Order> __device__ __forceinline__ void list(SelectShared& s, const Chunk<Order>& a, uint64_t row, Cut cut) {
    const auto lanes_above = [&](uint32_t key) { return __ballot_sync(kAllLanes, key > cut.threshold); };
    const auto lanes_tied = [&](uint32_t key) { return __ballot_sync(kAllLanes, key == cut.threshold); };
    uint32_t above = 0, ties = 0;
    walk(a, row, cut.least(), [&](uint64_t, float, uint32_t key) {
        above += unsigned(__popc(lanes_above(key)));
        ties += unsigned(__popc(lanes_tied(key)));
    });
    if (lane_index() == 0) {
        s.above[warp_index()] = above;
        s.ties[warp_index()] = ties;
    }
    __syncthreads();  // every warp's counts are there
    above = ties = 0;
    for (unsigned warp = 0; warp < warp_index(); warp++) {
        above += s.above[warp];
        ties += s.ties[warp];
    }
    const uint64_t start = row * a.lists.stride;
    const unsigned before = (1u << lane_index()) - 1;
    walk(a, row, cut.least(), [&](uint64_t column, float value, uint32_t key) {
        const unsigned above_here = lanes_above(key), ties_here = lanes_tied(key);
        const uint32_t ties_before = ties + unsigned(__popc(ties_here & before));
        const uint64_t slot = above + unsigned(__popc(above_here & before)) + min(ties_before, cut.ties);
        const bool selected = key > cut.threshold || ((ties_here >> lane_index() & 1) && ties_before < cut.ties);
        if (selected && slot < a.lists.stride) {
            const uint64_t latent = a.encoder.latent(column);
            a.lists.indices[start + slot] = uint32_t(latent);
            a.lists.values[start + slot] = a.order.value(value, latent);
            if (a.pre_activations) a.pre_activations[start + slot] = value;
        }
        above += unsigned(__popc(above_here));
        ties += unsigned(__popc(ties_here));
    });
    if (threadIdx.x == kThreads - 1) {  // the last warp has counted the whole row
        const uint32_t entries = above + min(ties, cut.ties);
        a.lists.counts[row] = uint32_t(min(uint64_t(entries), a.lists.stride));
        if (a.longest) atomicMax(a.longest, entries);
    }
}

}  // namespace CUSAE_NS
