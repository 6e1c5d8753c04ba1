// round_transposed.cuh: f32 matrices rounded to bf16 and transposed: so come operands of gemm_bf16.cuh to have k
// contiguous.
#pragma once
#include <cstring>

#include "pack.cuh"

namespace CUSAE_NS {

constexpr unsigned kRoundTile = 64;  // rows and columns of a block's tile
// Lines are 65 apart: 8 numbers of a column in 4 lines that a warp reads at once meet no bank more than twice.
struct RoundShared { float tile[kRoundTile][kRoundTile + 1]; };

// Rounded, 16 bytes at once: the compiler would store number after number.
__device__ __forceinline__ void store_rounded(bf16* to, const Pack<8>& pack) {
    bf16 rounded[8];
#pragma unroll
    for (int n = 0; n < 8; n++) rounded[n] = __float2bfloat16_rn(pack.at[n]);
    float words[4];
    memcpy(words, rounded, sizeof(words));
    store_four(reinterpret_cast<float*>(to), words[0], words[1], words[2], words[3]);
}
__device__ __forceinline__ void store_rounded(bf16* to, const Pack<1>& pack) { store(to, pack); }

// to[column, row] = from[row, column], kIn columns and kOut rows at a time.
template <int kIn, int kOut>
__global__ void __launch_bounds__(kThreads) round_transposed_kernel(const float* from, uint64_t rows, uint64_t columns, uint64_t stride, bf16* to) {
    auto& s = shared<RoundShared>();
    const uint64_t first_row = uint64_t(blockIdx.x) * kRoundTile, first_column = uint64_t(blockIdx.y) * kRoundTile;
    constexpr unsigned kPacksIn = kRoundTile / kIn, kPacksOut = kRoundTile / kOut;
    for (unsigned i = threadIdx.x; i < kRoundTile * kPacksIn; i += kThreads) {
        const unsigned row = i / kPacksIn, column = i % kPacksIn * kIn;
        if (first_row + row >= rows || first_column + column >= columns) continue;
        const Pack<kIn> pack = load<kIn>(from + (first_row + row) * stride + first_column + column);
#pragma unroll
        for (int n = 0; n < kIn; n++) s.tile[row][column + n] = pack.at[n];
    }
    __syncthreads();  // the tile is complete before anybody reads its columns
    for (unsigned i = threadIdx.x; i < kRoundTile * kPacksOut; i += kThreads) {
        const unsigned column = i / kPacksOut, row = i % kPacksOut * kOut;
        if (first_row + row >= rows || first_column + column >= columns) continue;
        Pack<kOut> pack;
#pragma unroll
        for (int n = 0; n < kOut; n++) pack.at[n] = s.tile[row + n][column];
        store_rounded(to + (first_column + column) * rows + first_row + row, pack);
    }
}

// Queues to [columns, rows] from `columns` columns of lines that are `stride` apart: at most 4,194,240.
inline int round_transposed(const float* from, uint64_t rows, uint64_t columns, uint64_t stride, bf16* to, cusae_stream* stream) {
    const dim3 grid(unsigned(ceil_div(rows, kRoundTile)), unsigned(ceil_div(columns, kRoundTile)));
    const auto kernel = (columns | stride) % 4 == 0 && rows % 8 == 0 ? round_transposed_kernel<4, 8> : round_transposed_kernel<1, 1>;
    return launch(kernel, grid, kThreads, sizeof(RoundShared), stream, from, rows, columns, stride, to);
}

// Lines of an operand that are rounded at once, so many bytes each: all, or as many whole tiles of products as
// scratch_limit() allows, at least one.
inline uint64_t lines_at_once(uint64_t lines, uint64_t bytes_of_line) {
    const uint64_t fit = scratch_limit() / max(bytes_of_line, uint64_t(1)), tile = 128;
    return min(lines, max(fit / tile * tile, tile));
}

}  // namespace CUSAE_NS
