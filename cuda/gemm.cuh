// gemm.cuh: the product of two f32 matrices, c[i, j] = Σ_k a(i, k) b(j, k), one tile of c per block.
//
// What it gives, from the outside in:
//
//   gemm(a, b, depth, epilogue, stream)    a whole product; epilogue(i, j, value) is called once for
//                                          every element, by the thread that has it
//   gemm_tile(shared, a, b, depth, first_row, first_column, product)
//                                          inside a kernel of kGemmThreads threads: the tile of c that
//                                          starts there, 8 x 8 elements in each thread's registers;
//                                          product[i][j] is row gemm_row<a's layout>(i), column
//                                          gemm_column<b's layout>(j) of the tile. May be called again
//                                          and again with the same shared memory
//
// An operand is an Operand<layout>: `outer` vectors of length `depth`, each one row of c's rows (a) or
// columns (b), and `stride` elements from one line of the matrix to the next:
//
//   Layout::OuterK   [outer, depth], k contiguous: x [B, D], w_enc [F, D] as b, w_u [V, D]
//   Layout::KOuter   [depth, outer], outer contiguous: w [d_input, d_output] as b, x transposed as a
//
// `rows`, where not NULL, picks the lines of an OuterK operand: vector i is line rows[i] of `data`.
//
// The lanes 8 n .. 8 n + 7 of a warp hold the same rows of a tile: gemm_row_max, gemm_row_sum reduce over
// them. Vectors beyond an operand's end count as zeros.
//
//   exact   products are added with fmaf in the order of k, starting from 0, whatever the tile, the
//           grid or the layout: the same bits for the same vectors everywhere
//   work    tiles of 128 x 64 x 16; three stages of cp.async in flight, 16 bytes a copy where every line
//           starts on a multiple of 16 bytes and is a multiple of 4 long, plain loads where not
//   moves   every tile of c reads 128 + 64 vectors; neighbouring blocks share the vectors of b
#pragma once
#include "common.cuh"

namespace CUSAE_NS {

enum class Layout { OuterK, KOuter };

template <Layout layout> struct Operand {
    const float* data;
    uint64_t outer;   // vectors
    uint64_t stride;  // elements from line to line
    const uint32_t* rows = nullptr;
};

constexpr unsigned kGemmRows = 128, kGemmColumns = 64, kGemmDepth = 16;  // of a tile
constexpr unsigned kGemmStages = 3;
constexpr unsigned kMicro = 8;  // a thread has kMicro x kMicro elements of the product
constexpr unsigned kGemmRowThreads = kGemmRows / kMicro, kGemmColumnThreads = kGemmColumns / kMicro;
constexpr unsigned kGemmThreads = kGemmRowThreads * kGemmColumnThreads;

// ---- One operand's tile ------------------------------------------------------------------------------

// `outer` vectors of kGemmDepth elements, in the operand's own layout, so that 16 bytes stay together.
// Lines of 16 elements are 20 apart: then 8 lanes that read 16 bytes of 8 lines meet no bank twice.
template <Layout layout, unsigned outer> struct OperandTile {
    static constexpr bool kOuterK = layout == Layout::OuterK;
    static constexpr unsigned kLines = kOuterK ? outer : kGemmDepth, kLength = kOuterK ? kGemmDepth : outer;
    static constexpr unsigned kStride = kOuterK ? kLength + 4 : kLength;
    alignas(16) float values[kLines * kStride];
};

// Which of a tile's vectors is the `i`-th of the thread with number `thread` along them.
template <Layout layout, unsigned outer> __device__ __forceinline__ unsigned vector_of_tile(unsigned thread, unsigned i) {
    if (layout == Layout::OuterK) return thread + i * (outer / kMicro);
    return i / 4 * (outer / 2) + thread * 4 + i % 4;
}

// Starts loading the elements first_k.. of the vectors first_outer.., a multiple of 4.
template <Layout layout, unsigned outer>
__device__ __forceinline__ void load_operand(OperandTile<layout, outer>& to, const Operand<layout>& from, uint64_t depth,
                                             uint64_t first_outer, uint64_t first_k) {
    using Tile = OperandTile<layout, outer>;
    const uint64_t lines = Tile::kOuterK ? from.outer : depth, length = Tile::kOuterK ? depth : from.outer;
    const uint64_t first_line = Tile::kOuterK ? first_outer : first_k, first = Tile::kOuterK ? first_k : first_outer;
    const bool aligned = (from.stride | length) % 4 == 0 && uintptr_t(from.data) % 16 == 0;
    constexpr unsigned kChunks = Tile::kLength / 4;
#pragma unroll 1
    for (unsigned i = threadIdx.x; i < Tile::kLines * kChunks; i += kGemmThreads) {
        const uint64_t line = first_line + i / kChunks, at = first + i % kChunks * 4;
        float* destination = &to.values[i / kChunks * Tile::kStride + i % kChunks * 4];
        const float* source = from.data;
        if (line < lines) source += (Tile::kOuterK && from.rows ? from.rows[line] : line) * from.stride + at;
        if (aligned) {
            cp_async16(destination, source, line < lines && at < length);
        } else {
            for (unsigned j = 0; j < 4; j++) destination[j] = line < lines && at + j < length ? source[j] : 0.0f;
        }
    }
}

// A thread's kMicro vectors, elements k..k + 4.
template <Layout layout, unsigned outer>
__device__ __forceinline__ void load_fragment(float (&to)[kMicro][4], const OperandTile<layout, outer>& tile,
                                              unsigned thread, unsigned k) {
    using Tile = OperandTile<layout, outer>;
    const auto four = [&](unsigned line, unsigned at) {
        return *reinterpret_cast<const float4*>(&tile.values[line * Tile::kStride + at]);
    };
    if (Tile::kOuterK) {
#pragma unroll
        for (unsigned i = 0; i < kMicro; i++) {
            const float4 values = four(vector_of_tile<layout, outer>(thread, i), k);
            to[i][0] = values.x, to[i][1] = values.y, to[i][2] = values.z, to[i][3] = values.w;
        }
    } else {
#pragma unroll
        for (unsigned j = 0; j < 4; j++)
#pragma unroll
            for (unsigned i = 0; i < kMicro; i += 4) {
                const float4 values = four(k + j, vector_of_tile<layout, outer>(thread, i));
                to[i][j] = values.x, to[i + 1][j] = values.y, to[i + 2][j] = values.z, to[i + 3][j] = values.w;
            }
    }
}

// ---- A tile of the product -----------------------------------------------------------------------------

template <Layout a_layout, Layout b_layout> struct GemmShared {
    OperandTile<a_layout, kGemmRows> a[kGemmStages];
    OperandTile<b_layout, kGemmColumns> b[kGemmStages];
};

template <Layout a_layout> __device__ __forceinline__ unsigned gemm_row(unsigned i) {
    return vector_of_tile<a_layout, kGemmRows>(threadIdx.x / kGemmColumnThreads, i);
}
template <Layout b_layout> __device__ __forceinline__ unsigned gemm_column(unsigned j) {
    return vector_of_tile<b_layout, kGemmColumns>(threadIdx.x % kGemmColumnThreads, j);
}

// Adds the products of kGemmDepth elements of all vectors, which are in shared memory for all to read.
template <Layout a_layout, Layout b_layout>
__device__ __forceinline__ void multiply_tiles(const OperandTile<a_layout, kGemmRows>& a,
                                               const OperandTile<b_layout, kGemmColumns>& b,
                                               float (&product)[kMicro][kMicro]) {
#pragma unroll 2
    for (unsigned k = 0; k < kGemmDepth; k += 4) {
        float a_values[kMicro][4], b_values[kMicro][4];
        load_fragment(a_values, a, threadIdx.x / kGemmColumnThreads, k);
        load_fragment(b_values, b, threadIdx.x % kGemmColumnThreads, k);
#pragma unroll
        for (unsigned in_four = 0; in_four < 4; in_four++)
#pragma unroll
            for (unsigned i = 0; i < kMicro; i++)
#pragma unroll
                for (unsigned j = 0; j < kMicro; j++)
                    product[i][j] = fmaf(a_values[i][in_four], b_values[j][in_four], product[i][j]);
    }
}

// The largest value, the sum, of the 8 lanes that hold a row: every one gets the same bits.
__device__ __forceinline__ float gemm_row_max(float value) {
#pragma unroll
    for (int lanes = kGemmColumnThreads / 2; lanes > 0; lanes /= 2) {
        const float other = __shfl_xor_sync(kAllLanes, value, lanes);
        value = other > value ? other : value;
    }
    return value;
}
__device__ __forceinline__ float gemm_row_sum(float value) {
#pragma unroll
    for (int lanes = kGemmColumnThreads / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
    return value;
}

template <Layout a_layout, Layout b_layout>
__device__ __forceinline__ void gemm_tile(GemmShared<a_layout, b_layout>& shared, const Operand<a_layout>& a,
                                          const Operand<b_layout>& b, uint64_t depth, uint64_t first_row,
                                          uint64_t first_column, float (&product)[kMicro][kMicro]) {
#pragma unroll
    for (unsigned i = 0; i < kMicro; i++)
#pragma unroll
        for (unsigned j = 0; j < kMicro; j++) product[i][j] = 0;

    const unsigned steps = unsigned(ceil_div(depth, kGemmDepth));
    const auto load = [&](unsigned step) {
        if (step < steps) {
            load_operand(shared.a[step % kGemmStages], a, depth, first_row, uint64_t(step) * kGemmDepth);
            load_operand(shared.b[step % kGemmStages], b, depth, first_column, uint64_t(step) * kGemmDepth);
        }
        cp_async_commit();  // without copies too, so that the number of groups tells the step
    };
    __syncthreads();  // the tile before this one has been read by all
    for (unsigned step = 0; step < kGemmStages - 1; step++) load(step);
    for (unsigned step = 0; step < steps; step++) {
        cp_async_wait<kGemmStages - 2>();
        __syncthreads();  // this step's stage is there for all, and the last step's has been read by all
        load(step + kGemmStages - 1);
        multiply_tiles(shared.a[step % kGemmStages], shared.b[step % kGemmStages], product);
    }
}

// ---- A whole product -----------------------------------------------------------------------------------

template <Layout a_layout, Layout b_layout, class Epilogue>
__global__ void __launch_bounds__(kGemmThreads) gemm_kernel(Operand<a_layout> a, Operand<b_layout> b, uint64_t depth,
                                                            Epilogue epilogue) {
    const uint64_t first_row = uint64_t(blockIdx.x) * kGemmRows, first_column = uint64_t(blockIdx.y) * kGemmColumns;
    float product[kMicro][kMicro];
    gemm_tile(shared<GemmShared<a_layout, b_layout>>(), a, b, depth, first_row, first_column, product);
#pragma unroll
    for (unsigned i = 0; i < kMicro; i++)
#pragma unroll
        for (unsigned j = 0; j < kMicro; j++) {
            const uint64_t row = first_row + gemm_row<a_layout>(i), column = first_column + gemm_column<b_layout>(j);
            if (row < a.outer && column < b.outer) epilogue(row, column, product[i][j]);
        }
}

// Refuses more than 65,535 tiles of columns.
inline int refuse_columns(uint64_t columns) {
    return ceil_div(columns, kGemmColumns) > 65535 ? refuse("a product has more than 4194240 columns") : CUSAE_OK;
}

// Queues a whole product, of at most 4,194,240 columns.
template <Layout a_layout, Layout b_layout, class Epilogue>
int gemm(const Operand<a_layout>& a, const Operand<b_layout>& b, uint64_t depth, const Epilogue& epilogue,
         cusae_stream* stream) {
    if (int error = refuse_columns(b.outer)) return error;
    const dim3 grid(unsigned(ceil_div(a.outer, kGemmRows)), unsigned(ceil_div(b.outer, kGemmColumns)));
    const size_t bytes = sizeof(GemmShared<a_layout, b_layout>);
    return launch(gemm_kernel<a_layout, b_layout, Epilogue>, grid, kGemmThreads, bytes, stream, a, b, depth, epilogue);
}

}  // namespace CUSAE_NS
