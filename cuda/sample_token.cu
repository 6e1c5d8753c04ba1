// sample_token: the next token of every row, drawn from the likeliest.
//
//   logits [rows, V] f32      tokens  out [rows] u32, V where no logit is above -infinity
//
//   needs   1 <= V <= 2^23, temperature >= 0, 0 < top_p <= 1
//   work    a block owns a row. A token's likelihood e^(score - largest), score = logit / temperature,
//           is taken as a whole number of 2^-40: sums are exact, whatever their order. The top_k-th
//           largest score, and the score at which the least likely tokens add up to 1 - top_p, are
//           found by radix select, 8 bits at a time; then a thread adds up a share of the tokens, and
//           the one whose share the random number falls into looks for the token
//   moves   a row is read once for each of up to 8 digits, and 4 times more, mostly through L2
//   exact   NaN counts as -infinity, 0 and -0 tie; of tokens that tie at the border of top_p the smaller
//           are kept, all that tie at top_k's. Random numbers as in src/random.rs. The same bits as on
//           the CPU, on every run
#include "functions.cuh"

namespace CUSAE_NS {

using Mass = unsigned long long;  // uint64_t, by the name that atomicAdd knows

constexpr unsigned kMassBins = 256;  // one for each thread of the block
constexpr float kMassOfLargest = 1099511627776.0f;  // 2^40
constexpr uint32_t kSamplingStream = 4;  // Stream::Sampling

struct SampleShared {
    Mass bins[kMassBins], partial[32];
    uint32_t ties_partial[32];
    uint32_t largest, digit;
    Mass below, at;
};

// Scores of a row as integers in the same order.
struct Scores {
    const float* logits;
    uint64_t d_vocab;
    float temperature;

    __device__ __forceinline__ uint32_t key(uint64_t token) const {
        const float logit = logits[token];
        const float score = (temperature == 0 ? logit : logit / temperature) + 0.0f;  // -0 becomes 0
        const uint32_t bits = __float_as_uint(score == score ? score : -INFINITY);
        return bits >> 31 ? ~bits : bits | 0x80000000u;
    }
    static __device__ __forceinline__ float score(uint32_t key) {
        return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
    }
    static __device__ __forceinline__ Mass likelihood(uint32_t key, uint32_t largest) {
        const float relative = key == largest ? 1.0f : exponential(score(key) - score(largest));
        return Mass(relative * kMassOfLargest);
    }
};

constexpr uint32_t kNoScore = 0x007fffffu;  // the key of -infinity

// Which tokens are kept: those above `threshold`, and the first `ties` of those equal to it.
struct Kept {
    uint32_t threshold, ties;
};

// The key at which the masses of all keys in ascending order add up to more than `limit`, which all
// together exceed. s.below gets the mass of the keys before it, s.at that of its own.
template <class MassOf>
__device__ __forceinline__ uint32_t key_at(SampleShared& s, const Scores& scores, Mass limit, const MassOf& mass_of) {
    uint32_t prefix = 0;
    Mass below = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        s.bins[threadIdx.x] = 0;
        __syncthreads();  // the bins are empty before anybody adds
        for (uint64_t token = threadIdx.x; token < scores.d_vocab; token += kThreads) {
            const uint32_t key = scores.key(token);
            if (key >> shift >> 8 == prefix) atomicAdd(&s.bins[key >> shift & 255], mass_of(key));
        }
        __syncthreads();  // the sums are complete
        Mass total;
        const Mass own = s.bins[threadIdx.x], before = below + block_exclusive_sum(own, s.partial, total);
        if (before <= limit && limit < before + own) {
            s.digit = threadIdx.x;
            s.below = before;
            s.at = own;
        }
        __syncthreads();  // the digit is known to all, and the bins may be used again
        prefix = prefix << 8 | s.digit;
        below = s.below;
    }
    return prefix;
}

template <class MassOf> __device__ __forceinline__ Mass sum_of(SampleShared& s, const Scores& scores, const MassOf& mass_of) {
    Mass sum = 0;
    for (uint64_t token = threadIdx.x; token < scores.d_vocab; token += kThreads) sum += mass_of(scores.key(token));
    return block_sum(sum, s.partial);
}

// Which tokens top_k and top_p leave.
__device__ __forceinline__ Kept kept_tokens(SampleShared& s, const Scores& scores, const cusae_sample_token& a, uint32_t largest) {
    Kept kept{kNoScore + 1, ~0u};
    if (a.temperature == 0) return {largest, 1};
    if (a.top_k != 0 && a.top_k < a.d_vocab)
        kept.threshold = key_at(s, scores, Mass(a.d_vocab - a.top_k), [](uint32_t) { return Mass(1); });
    if (a.top_p == 1.0f) return kept;
    const uint32_t least = kept.threshold;
    const auto mass_of = [=](uint32_t key) { return key >= least ? Scores::likelihood(key, largest) : Mass(0); };
    const Mass total = sum_of(s, scores, mass_of);
    const Mass left_out = min(Mass((1.0 - double(a.top_p)) * double(total)), total - 1);
    const uint32_t border = key_at(s, scores, left_out, mass_of);
    const Mass each = Scores::likelihood(border, largest);
    return {border, uint32_t(s.at / each - (left_out - s.below) / each)};
}

// The token at which the likelihoods of the kept tokens, in their order, add up to more than a random
// number below their sum.
__device__ __forceinline__ void draw(SampleShared& s, const Scores& scores, const cusae_sample_token& a, uint32_t largest,
                                     Kept kept) {
    const uint64_t share = ceil_div(a.d_vocab, kThreads);
    const uint64_t first = threadIdx.x * share, end = min(first + share, a.d_vocab);
    uint32_t tied = 0, all_tied;
    for (uint64_t token = first; token < end; token++) tied += scores.key(token) == kept.threshold;
    const uint32_t ties_before = block_exclusive_sum(tied, s.ties_partial, all_tied);
    // Calls visit(token, likelihood) for this thread's tokens until it says that it has seen enough.
    const auto for_each = [&](const auto& visit) {
        uint32_t rank = ties_before;
        for (uint64_t token = first; token < end; token++) {
            const uint32_t key = scores.key(token);
            const bool keeps = key > kept.threshold || (key == kept.threshold && rank++ < kept.ties);
            if (keeps && visit(token, Scores::likelihood(key, largest))) return;
        }
    };
    Mass own = 0, total;
    for_each([&](uint64_t, Mass mass) { return own += mass, false; });
    Mass before = block_exclusive_sum(own, s.partial, total);
    const uint64_t row = blockIdx.x;
    const uint4 random = philox(make_uint4(uint32_t(a.step), uint32_t(a.step >> 32), kSamplingStream, uint32_t(row)),
                                make_uint2(uint32_t(a.seed), uint32_t(a.seed >> 32)));
    const Mass at = __umul64hi(Mass(random.x) << 32 | random.y, total);
    if (at < before || before + own <= at) return;
    for_each([&](uint64_t token, Mass mass) {
        before += mass;
        if (before <= at) return false;
        a.tokens[row] = uint32_t(token);
        return true;
    });
}

__global__ void __launch_bounds__(kThreads, 1) sample_token_kernel(cusae_sample_token a) {
    SampleShared& s = shared<SampleShared>();
    const Scores scores{a.logits + blockIdx.x * a.d_vocab, a.d_vocab, a.temperature};
    if (threadIdx.x == 0) s.largest = kNoScore;
    __syncthreads();  // `largest` may be raised
    uint32_t own = kNoScore;
    for (uint64_t token = threadIdx.x; token < a.d_vocab; token += kThreads) own = max(own, scores.key(token));
    atomicMax(&s.largest, own);
    __syncthreads();  // `largest` is complete
    const uint32_t largest = s.largest;
    if (largest == kNoScore) {
        if (threadIdx.x == 0) a.tokens[blockIdx.x] = uint32_t(a.d_vocab);
        return;
    }
    draw(s, scores, a, largest, kept_tokens(s, scores, a, largest));
}

}  // namespace CUSAE_NS

CUSAE_API(sample_token)(const cusae_sample_token* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->d_vocab == 0 || a->d_vocab > (1 << 23)) return refuse("d_vocab is not between 1 and 8388608");
    if (!(a->temperature >= 0)) return refuse("temperature is less than 0");
    if (!(a->top_p > 0 && a->top_p <= 1)) return refuse("top_p is not above 0 and at most 1");
    return launch(sample_token_kernel, dim3(unsigned(a->rows)), kThreads, sizeof(SampleShared), stream, *a);
}
