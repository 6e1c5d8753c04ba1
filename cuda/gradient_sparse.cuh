// gradient_sparse.cuh: sums over a latent's entries, for those who store them and those who use them at once.
//
// A block owns a latent and a thread columns of both its rows, and walks its entries. All entries stand in
// one array, ordered by latent: what of it lies in pieces of fixed length that a single latent fills, other
// blocks have added before, a block to a piece. So a block walks less than two pieces itself, and a latent
// active on every token is no straggler.
#pragma once
#include "pack.cuh"

namespace CUSAE_NS {

constexpr uint64_t kLeastPiece = 128, kMostPieces = 1024;

// What is summed; rows hold numbers T.
template <class T> struct Listed {
    cusae_lists lists;
    cusae_latent_lists by_latent;
    const float* pre_gradient;
    const T *gradient, *input;
    const float* norm_gradient;
    uint64_t rows, d_in, d_sae;
};

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
template <int N, class T>
__device__ __forceinline__ void walk(const Listed<T>& a, uint64_t first, uint64_t last, uint64_t column, LatentSums<N>& sums) {
    const uint32_t stride = uint32_t(a.lists.stride);
#pragma unroll 4
    for (uint64_t i = first; i < last; i++) {
        const uint32_t entry = a.by_latent.entries[i];
        const uint64_t at = entry / stride * a.d_in + column;
        const float pre_gradient = a.pre_gradient[entry];
        add_scaled(sums.w_dec, a.lists.values[entry], load<N>(a.gradient + at));
        add_scaled(sums.w_enc, pre_gradient, load<N>(a.input + at));
        sums.b_enc += pre_gradient;
        if (a.norm_gradient) sums.norm += a.norm_gradient[entry];
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
template <class T, int N> __global__ void __launch_bounds__(kThreads) piece_sums_kernel(Listed<T> a, Pieces pieces) {
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

// All entries of a latent: those before the first whole piece, then piece by piece, then the others.
template <int N, class T>
__device__ __forceinline__ LatentSums<N> sums_of_latent(const Listed<T>& a, const Pieces& pieces, uint64_t latent, uint64_t column) {
    const uint64_t first = a.by_latent.offsets[latent], last = a.by_latent.offsets[latent + 1];
    // Whole pieces lie from entry `inner` to entry `outer`; where there are none, both are the same.
    const uint64_t inner = min(ceil_div(first, pieces.len) * pieces.len, last);
    const uint64_t outer = max(last / pieces.len * pieces.len, inner);
    LatentSums<N> sums;
    walk(a, first, inner, column, sums);
    for (uint64_t piece = inner / pieces.len; piece < outer / pieces.len; piece++) add_piece(pieces, piece, a.d_in, column, sums);
    walk(a, outer, last, column, sums);
    return sums;
}

// Adds the term of the decoder row's norm, d|w| / dw = w / |w|.
template <int N>
__device__ __forceinline__ void add_norm_term(LatentSums<N>& sums, const Pack<N>& w_dec, float norm) {
    if (sums.norm != 0.0f && norm > 0.0f) add_scaled(sums.w_dec, sums.norm / norm, w_dec);
}

// ---- The host's side -----------------------------------------------------------------------------------

inline int refuse_listed(const cusae_lists& lists, uint64_t rows, uint64_t d_in, uint32_t type) {
    if (type > CUSAE_BF16) return refuse("the operands are neither f32 nor bf16");
    if (d_in == 0) return refuse("d_in is 0");
    if (rows * lists.stride > 0xffffffffull) return refuse("rows times stride does not fit 32 bits");
    return CUSAE_OK;
}

// Queues the sums of all pieces.
template <int N, class T> int piece_sums(const Listed<T>& a, Pieces* pieces, cusae_stream* stream) {
    const uint64_t places = a.rows * a.lists.stride, least = ceil_div(places, kMostPieces);
    *pieces = {least < kLeastPiece ? kLeastPiece : least, nullptr, nullptr};
    const uint64_t n = places / pieces->len;
    if (int error = scratch(stream, n * (2 * a.d_in + 2), &pieces->rows)) return error;
    pieces->scalars = pieces->rows + n * 2 * a.d_in;
    return launch(piece_sums_kernel<T, N>, dim3(unsigned(n)), threads_for_row(a.d_in, 32, N), 0, stream, a, *pieces);
}

}  // namespace CUSAE_NS
