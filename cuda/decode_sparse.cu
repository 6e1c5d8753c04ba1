// decode_sparse: lists of features through the decoder, the reconstruction's error, its gradient, and
// the gradient of every listed value.
//
//   lists [B, S]      w_dec [F, D] f32 or bf16      b_dec [D], row_scale, row_shift [B] f32 or NULL
//   target [B, D] f32      reconstruction out [B, D] f32 or NULL      gradient out [B, D] f32
//   n_dead [1] u32 or NULL: AuxK's factor on the gradient, min(n_dead / full_dead, 1), is 1
//   squared_error out [B] f32      value_gradient out [B, S] f32 or NULL: the listed places are written
//
//   needs   D >= 1; full_dead >= 1 with n_dead; w_dec of a type of enum cusae_type
//   work    a block owns a row: a thread owns columns and adds the listed rows of w_dec to them in
//           registers; then a warp owns an entry's dot product
//   moves   4·D bytes an entry, 2·D of bf16, once: the rows wait for their dot products in shared
//           memory, as many as fit in 96 KiB (32 of width 768, 64 of bf16), the others are read again;
//           12·D a row; nothing where n_dead is 0
//   exact   sums over the entries in their order, fused, in f32; the squared error in f64; the same
//           bits on every run
#include "decoder.cuh"

namespace CUSAE_NS {

constexpr uint64_t kCacheBytes = 96 << 10;  // with DecodeShared within the 99 KiB of compute capability 8.6
struct DecodeShared { double partial[32]; };  // the cached rows follow

// y += value w for the entries [first, last) of a row, in some columns; keeps w in `cached` where given.
template <class T, int N, bool kKeep>
__device__ __forceinline__ void add_entries(const cusae_decode_sparse& a, uint64_t row, uint32_t first, uint32_t last, uint64_t column, T* cached, Pack<N>& y) {
    const uint64_t width = a.decoder.d_in, start = row * a.lists.stride;
    const T* const w_dec = static_cast<const T*>(a.decoder.w_dec);
#pragma unroll 4
    for (uint32_t j = first; j < last; j++) {
        const Pack<N> w = load<N>(w_dec + a.lists.indices[start + j] * width + column);
        if (kKeep) store(cached + j * width + column, w);
        add_scaled(y, a.lists.values[start + j], w);
    }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads) decode_sparse_kernel(cusae_decode_sparse a, uint32_t n_cached) {
    auto& s = shared<DecodeShared>();
    T* const cached = reinterpret_cast<T*>(&s + 1);
    const uint64_t row = blockIdx.x, width = a.decoder.d_in;
    float gradient_scale = a.decoder.gradient_scale;
    if (a.n_dead) {
        if (*a.n_dead == 0) return;
        gradient_scale *= fminf(float(*a.n_dead) / float(a.full_dead), 1.0f);
    }
    const uint32_t count = a.lists.counts[row], kept = min(count, n_cached);
    double squares = 0;
    for (uint64_t column = threadIdx.x * N; column < width; column += blockDim.x * N) {
        Pack<N> y{};
        if (a.decoder.b_dec) y = load<N>(a.decoder.b_dec + column);
        add_entries<T, N, true>(a, row, 0, kept, column, cached, y);
        add_entries<T, N, false>(a, row, kept, count, column, static_cast<T*>(nullptr), y);
        squares += finish_columns(a.decoder, gradient_scale, row, column, y);
    }
    squares = block_sum(squares, s.partial);
    if (threadIdx.x == 0) a.decoder.squared_error[row] = float(squares);
    if (!a.value_gradient) return;
    // Since the barriers of block_sum the whole row of the gradient and all cached rows are there.
    const float* const gradient = a.decoder.gradient + row * width;
    const T* const w_dec = static_cast<const T*>(a.decoder.w_dec);
    for (uint32_t j = warp_index(); j < count; j += blockDim.x / 32) {
        const uint64_t entry = row * a.lists.stride + j;
        const T* const w = j < kept ? cached + j * width : w_dec + a.lists.indices[entry] * width;
        float sum = 0;
        for (uint64_t column = lane_index() * N; column < width; column += 32 * N)
            sum = add_products(sum, load<N>(gradient + column), load<N>(w + column));
        sum = warp_sum(sum);
        if (lane_index() == 0) a.value_gradient[entry] = sum;
    }
}

}  // namespace CUSAE_NS

CUSAE_API(decode_sparse)(const cusae_decode_sparse* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const uint64_t width = a->decoder.d_in;
    if (width == 0) return refuse("d_in is 0");
    if (a->decoder.w_dec_type > CUSAE_BF16) return refuse("w_dec is neither f32 nor bf16");
    if (a->n_dead && a->full_dead == 0) return refuse("AuxK's weight is full with 0 dead latents");
    return with_packs(a->decoder.w_dec_type, width, [&](auto packs) {
        using Row = decltype(packs);
        using T = typename Row::Number;
        const uint64_t room = a->value_gradient ? kCacheBytes / (width * sizeof(T)) : 0;
        const uint32_t n_cached = uint32_t(a->lists.stride < room ? a->lists.stride : room);
        const size_t shared_bytes = sizeof(DecodeShared) + n_cached * width * sizeof(T);
        const dim3 grid(unsigned(a->decoder.rows));
        return launch(decode_sparse_kernel<T, Row::kWidth>, grid, threads_for_row(width, 64, Row::kWidth), shared_bytes, stream, *a, n_cached);
    });
}
