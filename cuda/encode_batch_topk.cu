// encode_batch_topk: of the pre-activations h of a whole batch the n largest, as lists by row, and the
// running mean of the smallest key selected. Source: SAELens batchtopk_sae.py.
//
//   input [B, D], w_enc [F, D] f32 or bf16      b_enc [F] f32      decoder_norm [F] f32 or NULL: 1
//   lists  out [B, S]: latents ascending, values h; what lies beyond a row's count stays as it was
//   threshold  in and out [1] f64      longest  out [1] u32: entries of the longest row, listed or not
//
//   needs   F <= 4,194,240; 1 <= n <= B·F; n < 2^32
//   work    as encode_lists.cu, with the whole batch in the place of a row: the n-th largest group
//           maximum bounds the n-th largest key, so only groups that reach it are read. Both are found
//           by radix select over all blocks, 11 bits at a time: blocks count digits, one block chooses
//   moves   the product's, 4 bytes a pre-activation out (4·B·F of scratch); then 4·B·F/64 three times,
//           and 256 bytes for each group reached, five times
//   exact   the set that a stable sort by descending key gives: ties go to the smaller row, then the
//           smaller latent. Never selected: NaN and keys that are not positive. Counts are integers;
//           the threshold is f64; the same bits on every run
#include "select.cuh"

namespace CUSAE_NS {

// A radix select on its way, in the device's memory.
struct Search {
    uint32_t bins[kBins];
    uint32_t prefix, wanted;
    uint32_t least;     // keys below are not counted
    uint32_t done;      // the cut is known
    Cut cut;            // valid when done
    uint32_t smallest;  // of the selected keys; all ones: none is selected
    uint32_t longest;   // entries of the longest row
};

struct Digit {
    int shift, bits;
};

__global__ void __launch_bounds__(kThreads) start_search_kernel(Search* search, uint32_t wanted, bool after_maxima) {
    const uint32_t least = after_maxima ? search->cut.least() : 1;
    for (unsigned i = threadIdx.x; i < kBins; i += kThreads) search->bins[i] = 0;
    if (threadIdx.x > 0) return;
    search->prefix = 0;
    search->wanted = wanted;
    search->least = least;
    search->done = 0;
    search->smallest = ~0u;
    search->longest = 0;
}

// Counts a key's digit, in the block's own bins.
__device__ __forceinline__ void count_digit(SelectShared& s, const Search& search, Digit digit, uint32_t key) {
    if (key >= search.least && key >> digit.shift >> digit.bits == search.prefix)
        atomicAdd(&s.bins[key >> digit.shift & ((1u << digit.bits) - 1)], 1u);
}

__device__ __forceinline__ void empty_bins(SelectShared& s) {
    for (unsigned i = threadIdx.x; i < kBins; i += kThreads) s.bins[i] = 0;
    __syncthreads();  // the bins are empty before anybody counts
}

__device__ __forceinline__ void add_bins(SelectShared& s, Search* search) {
    __syncthreads();  // the block's counts are complete
    for (unsigned i = threadIdx.x; i < kBins; i += kThreads)
        if (s.bins[i] > 0) atomicAdd(&search->bins[i], s.bins[i]);
}

__global__ void __launch_bounds__(kThreads) count_maxima_kernel(Chunk<KeyOrder> a, Search* search, Digit digit) {
    if (search->done) return;
    auto& s = shared<SelectShared>();
    empty_bins(s);
    const uint64_t step = uint64_t(gridDim.x) * kThreads, n = a.encoder.rows * a.groups;
    for (uint64_t i = global_thread(); i < n; i += step) count_digit(s, *search, digit, a.maxima[i]);
    add_bins(s, search);
}

__global__ void __launch_bounds__(kThreads) count_keys_kernel(Chunk<KeyOrder> a, Search* search, Digit digit) {
    if (search->done) return;
    auto& s = shared<SelectShared>();
    empty_bins(s);
    walk(a, blockIdx.x, search->least, [&](uint64_t, float, uint32_t key) { count_digit(s, *search, digit, key); });
    add_bins(s, search);
}

// One more digit is known; the bins are empty again.
__global__ void __launch_bounds__(kThreads) choose_digit_kernel(Search* search, Digit digit) {
    if (search->done) return;
    auto& s = shared<SelectShared>();
    for (unsigned i = threadIdx.x; i < kBins; i += kThreads) {
        s.bins[i] = search->bins[i];
        search->bins[i] = 0;
    }
    __syncthreads();  // the counts are here
    const uint32_t wanted = search->wanted;
    const bool all = find_digit(s, wanted) <= wanted;  // only for the first digit
    if (threadIdx.x > 0) return;
    const uint32_t prefix = search->prefix << digit.bits | s.digit;
    search->prefix = prefix;
    search->wanted = s.wanted;
    search->done = all || s.in_digit == s.wanted || digit.shift == 0;
    if (all) search->cut = {search->least - 1, 0};
    else if (s.in_digit == s.wanted) search->cut = {(prefix << digit.shift) - 1, 0};
    else search->cut = {prefix, s.wanted};
}

// How many keys of a row tie with the last one selected, and the smallest key that is selected.
__global__ void __launch_bounds__(kThreads) count_ties_kernel(Chunk<KeyOrder> a, Search* search, uint32_t* ties_of_row) {
    auto& s = shared<SelectShared>();
    const Cut cut = search->cut;
    uint32_t ties = 0, smallest = ~0u;
    walk(a, blockIdx.x, cut.least(), [&](uint64_t, float, uint32_t key) {
        ties += key == cut.threshold;
        if (key > 0) smallest = min(smallest, key);
    });
    ties = block_sum(ties, s.partial);
    if (smallest != ~0u) atomicMin(&search->smallest, smallest);
    if (threadIdx.x == 0) ties_of_row[blockIdx.x] = ties;
}

// From the ties of every row to how many of them are selected: the first ones of the batch.
__global__ void __launch_bounds__(1024) share_ties_kernel(const Search* search, uint32_t* ties_of_row, uint64_t rows) {
    auto& s = shared<SelectShared>();
    uint32_t before_tile = 0;
    for (uint64_t first = 0; first < rows; first += blockDim.x) {
        const uint64_t row = first + threadIdx.x;
        const uint32_t own = row < rows ? ties_of_row[row] : 0;
        uint32_t in_tile;
        const uint32_t before = before_tile + block_exclusive_sum(own, s.partial, in_tile);
        if (row < rows) ties_of_row[row] = before < search->cut.ties ? min(own, search->cut.ties - before) : 0;
        before_tile += in_tile;
    }
}

__global__ void __launch_bounds__(kThreads) list_kernel(Chunk<KeyOrder> a, const Search* search, const uint32_t* ties_of_row) {
    list(shared<SelectShared>(), a, blockIdx.x, {search->cut.threshold, ties_of_row[blockIdx.x]});
}

// The key that KeyOrder has made of a positive number.
__device__ __forceinline__ float key_value(uint32_t key) { return __uint_as_float(key & 0x7fffffffu); }

__global__ void update_threshold_kernel(const Search* search, double* threshold, double lr, uint32_t* longest, uint64_t stride) {
    *longest = search->longest;
    if (search->longest <= stride && search->smallest != ~0u)
        *threshold = (1.0 - lr) * *threshold + lr * double(key_value(search->smallest));
}

// Finds the cut of the `wanted` largest keys; `count` queues a kernel that counts one digit.
template <class Count> int search_cut(Search* search, uint32_t wanted, bool after_maxima, cusae_stream* stream, Count count) {
    if (int error = launch(start_search_kernel, 1, kThreads, 0, stream, search, wanted, after_maxima)) return error;
    for (int shift = 32; shift > 0;) {
        const int bits = shift < int(kDigitBits) ? shift : int(kDigitBits);
        shift -= bits;
        if (int error = count(Digit{shift, bits})) return error;
        if (int error = launch(choose_digit_kernel, 1, kThreads, sizeof(SelectShared), stream, search, Digit{shift, bits})) return error;
    }
    return CUSAE_OK;
}

static int select_in_batch(const cusae_encode_batch_topk& a, const Chunk<KeyOrder>& chunk, Search* search, uint32_t* ties, cusae_stream* stream) {
    const dim3 rows(unsigned(a.encoder.rows)), of_maxima(1024);
    const auto of_keys = [&](auto kernel, auto... arguments) {
        return launch(kernel, rows, kThreads, sizeof(SelectShared), stream, chunk, search, arguments...);
    };
    const uint32_t n = uint32_t(a.n);
    if (int error = search_cut(search, n, false, stream, [&](Digit digit) {
            return launch(count_maxima_kernel, of_maxima, kThreads, sizeof(SelectShared), stream, chunk, search, digit);
        }))
        return error;
    if (int error = search_cut(search, n, true, stream, [&](Digit digit) { return of_keys(count_keys_kernel, digit); })) return error;
    if (int error = of_keys(count_ties_kernel, ties)) return error;
    if (int error = launch(share_ties_kernel, 1, 1024, sizeof(SelectShared), stream, search, ties, a.encoder.rows)) return error;
    if (int error = of_keys(list_kernel, ties)) return error;
    return launch(update_threshold_kernel, 1, 1, 0, stream, search, a.threshold, a.threshold_lr, a.longest, a.lists.stride);
}

}  // namespace CUSAE_NS

CUSAE_API(encode_batch_topk)(const cusae_encode_batch_topk* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const EncoderRows encoder = rows_of(a->encoder);
    if (a->n < 1 || a->n > encoder.rows * encoder.n_latents) return refuse("n is not between 1 and rows times d_sae");
    if (a->n > 0xffffffffull) return refuse("n does not fit 32 bits");
    const uint64_t groups = ceil_div(encoder.n_latents, kGroup), words = sizeof(Search) / sizeof(uint32_t);
    float* h = nullptr;  // first, since products are stored 16 bytes at a time
    if (int error = scratch(stream, encoder.rows * (encoder.n_latents + groups + 1) + words, &h)) return error;
    uint32_t* const maxima = reinterpret_cast<uint32_t*>(h + encoder.rows * encoder.n_latents);
    uint32_t* const ties = maxima + encoder.rows * groups;
    Search* const search = reinterpret_cast<Search*>(ties + encoder.rows);
    const KeyOrder order{a->decoder_norm, 0.0f, false};
    const Chunk<KeyOrder> chunk{encoder, order, h, maxima, groups, a->lists, nullptr, &search->longest, 0};
    if (int error = encode_chunk(chunk, stream)) return error;
    return select_in_batch(*a, chunk, search, ties, stream);
}
