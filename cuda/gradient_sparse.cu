// gradient_sparse: the gradients of both weight matrices and of b_enc, latent by latent.
//
//   lists [B, S] by row      by_latent: offsets [F + 1], entries      pre_gradient [B, S] f32
//   gradient, input [B, D] f32
//   norm_gradient [B, S], decoder_norm [F], w_dec [F, D] f32; norm_gradient NULL: no such term
//   out.w_enc, out.w_dec [F, D], out.b_enc [F] f32: written, or with accumulate in and out
//
//   needs   D >= 1; B·S <= 2^32 - 1; by_latent is the transpose of lists
//   work    a block owns a latent and a thread columns of both its rows, and walks its entries. All
//           entries stand in one array, ordered by latent: what of it lies in pieces of fixed length
//           that a single latent fills, other blocks have added before, a block to a piece. So a block
//           walks less than two pieces itself, and a latent active on every token is no straggler.
//   moves   8·D bytes an entry, from L2 when the batch fits; 8·D a latent out; scratch of at most
//           1,024 pieces of 8·D
//   exact   f32, fused, in ascending b: the entries before the first whole piece, then piece by piece,
//           then the others; what is accumulated to and the norm's term come last; the same bits on
//           every run
#include "pack.cuh"

namespace CUSAE_NS {

constexpr uint64_t kLeastPiece = 128, kMostPieces = 1024;

// Sums of whole pieces: rows [pieces, 2, D] of w_dec and w_enc, scalars [pieces, 2].
struct Pieces {
    uint64_t len;
    float *rows, *scalars;
};

// Of some columns of a latent.
template <int N> struct LatentSums {
    Pack<N> w_dec{}, w_enc{};
    float b_enc = 0, norm = 0;
};

// Adds the entries [first, last).
template <int N>
__device__ __forceinline__ void walk(const cusae_gradient_sparse& a, uint64_t first, uint64_t last, uint64_t column, LatentSums<N>& sums) {
    const uint32_t stride = uint32_t(a.lists.stride);
#pragma unroll 4
    for (uint64_t i = first; i < last; i++) {
        const uint32_t entry = a.by_latent.entries[i];
        const uint64_t at = entry / stride * a.d_in + column;
        const float pre_gradient = a.pre_gradient[entry];
        add_scaled(sums.w_dec, a.lists.values[entry], load<N>(a.gradient + at));
        add_scaled(sums.w_enc, pre_gradient, load<N>(a.input + at));
        sums.b_enc += pre_gradient;
        if (a.norm.norm_gradient) sums.norm += a.norm.norm_gradient[entry];
    }
}

// Adds what piece_sums_kernel has written.
template <int N>
__device__ __forceinline__ void add_piece(const Pieces& pieces, uint64_t piece, uint64_t width, uint64_t column, LatentSums<N>& sums) {
    const float* const rows = pieces.rows + piece * 2 * width + column;
    add(sums.w_dec, load<N>(rows));
    add(sums.w_enc, load<N>(rows + width));
    sums.b_enc += pieces.scalars[2 * piece];
    sums.norm += pieces.scalars[2 * piece + 1];
}

// The sums of the piece, where one latent fills it.
template <int N> __global__ void __launch_bounds__(kThreads) piece_sums_kernel(cusae_gradient_sparse a, Pieces pieces) {
    const uint64_t piece = blockIdx.x, first = piece * pieces.len, last = first + pieces.len;
    const uint32_t* const offsets = a.by_latent.offsets;
    if (last > offsets[a.d_sae]) return;
    const uint32_t latent = a.lists.indices[a.by_latent.entries[first]];
    if (offsets[latent + 1] < last) return;
    for (uint64_t column = threadIdx.x * N; column < a.d_in; column += blockDim.x * N) {
        LatentSums<N> sums;
        walk(a, first, last, column, sums);
        float* const rows = pieces.rows + piece * 2 * a.d_in + column;
        store(rows, sums.w_dec);
        store(rows + a.d_in, sums.w_enc);
        if (column > 0) continue;
        pieces.scalars[2 * piece] = sums.b_enc;
        pieces.scalars[2 * piece + 1] = sums.norm;
    }
}

template <int N>
__device__ __forceinline__ void write_columns(const cusae_gradient_sparse& a, uint64_t latent, uint64_t column, LatentSums<N>& sums) {
    const uint64_t at = latent * a.d_in + column;
    if (a.out.accumulate) {
        add(sums.w_dec, load<N>(a.out.w_dec + at));
        add(sums.w_enc, load<N>(a.out.w_enc + at));
        sums.b_enc += column == 0 ? a.out.b_enc[latent] : 0.0f;
    }
    // d|w| / dw = w / |w|.
    if (a.norm.norm_gradient && sums.norm != 0.0f && a.norm.decoder_norm[latent] > 0.0f)
        add_scaled(sums.w_dec, sums.norm / a.norm.decoder_norm[latent], load<N>(a.norm.w_dec + at));
    store(a.out.w_dec + at, sums.w_dec);
    store(a.out.w_enc + at, sums.w_enc);
    if (column == 0) a.out.b_enc[latent] = sums.b_enc;
}

template <int N> __global__ void __launch_bounds__(kThreads) gradient_sparse_kernel(cusae_gradient_sparse a, Pieces pieces) {
    const uint64_t latent = blockIdx.x, first = a.by_latent.offsets[latent], last = a.by_latent.offsets[latent + 1];
    if (a.out.accumulate && first == last) return;
    // Whole pieces lie from entry `inner` to entry `outer`; where there are none, both are the same.
    const uint64_t inner = min(ceil_div(first, pieces.len) * pieces.len, last);
    const uint64_t outer = max(last / pieces.len * pieces.len, inner);
    for (uint64_t column = threadIdx.x * N; column < a.d_in; column += blockDim.x * N) {
        LatentSums<N> sums;
        walk(a, first, inner, column, sums);
        for (uint64_t piece = inner / pieces.len; piece < outer / pieces.len; piece++) add_piece(pieces, piece, a.d_in, column, sums);
        walk(a, outer, last, column, sums);
        write_columns(a, latent, column, sums);
    }
}

template <int N> int gradient_sparse(const cusae_gradient_sparse& a, cusae_stream* stream) {
    const uint64_t places = a.rows * a.lists.stride, least = ceil_div(places, kMostPieces);
    Pieces pieces{least < kLeastPiece ? kLeastPiece : least, nullptr, nullptr};
    const uint64_t n = places / pieces.len;
    if (int error = scratch(stream, n * (2 * a.d_in + 2), &pieces.rows)) return error;
    pieces.scalars = pieces.rows + n * 2 * a.d_in;
    const unsigned threads = threads_for_row(a.d_in, 32);
    if (int error = launch(piece_sums_kernel<N>, dim3(unsigned(n)), threads, 0, stream, a, pieces)) return error;
    return launch(gradient_sparse_kernel<N>, dim3(unsigned(a.d_sae)), threads, 0, stream, a, pieces);
}

}  // namespace CUSAE_NS

CUSAE_API(gradient_sparse)(const cusae_gradient_sparse* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->d_in == 0) return refuse("d_in is 0");
    if (a->rows * a->lists.stride > 0xffffffffull) return refuse("rows times stride does not fit 32 bits");
    return pack_width(a->d_in) == 4 ? gradient_sparse<4>(*a, stream) : gradient_sparse<1>(*a, stream);
}
