// gemm_bf16.cuh: the product of two bf16 matrices with f32 sums, c[i, j] = Σ_k a[i, k] b[j, k] + bias[j],
// both with k contiguous; what becomes of c's elements is said by a Keep (keep.cuh).
//
//   gemm_bf16(product, keep, stream)    on Hopper by gemm_sm90.cu where that can, else by the kernel here
//
//   work    the kernel here runs on sm_80 and newer: a block of 8 warps owns 128 rows x 128 columns, a
//           warp 32 x 64 of them, by mma.m16n8k16; four stages of cp.async, 32 elements of k each, in
//           flight, 16 bytes a copy where the depth is a multiple of 8, plain loads where not
//   moves   128 + 128 vectors for each tile of c; c once, 16 bytes a store where columns is a multiple of 4 and no edge is near
//   exact   products are exact; a tensor core adds 16 of them (gemm_sm90.cu: 16 too) to a sum in an order
//           and with a rounding of its own: the same bits on every run, other bits on another kind of GPU
#pragma once
#include "keep.cuh"

namespace CUSAE_NS {

struct Bf16Product {
    const bf16 *a, *b;          // [rows, depth], [columns or more, depth]
    const float* bias;          // [columns or more]; NULL: none
    uint64_t rows, columns, depth;
    const uint32_t* chosen;     // NULL: all; else the lines of b and bias that are the columns
    const uint32_t* n_chosen;   // how many; `columns` is a bound then, and out's width
    __device__ __forceinline__ uint64_t count() const { return n_chosen ? min(uint64_t(*n_chosen), columns) : columns; }
    __device__ __forceinline__ uint64_t line(uint64_t column) const { return chosen ? chosen[column] : column; }
};

// ---- What a warp does with its elements ------------------------------------------------------------------

// A warp's 16 rows x 64 columns as mma.m16n8k16 and wgmma leave them: strip[4 n + i] of a lane is row
// lane / 4 + i / 2 * 8, column 8 n + lane % 4 * 2 + i % 2. Lanes in pairs exchange what they have, so
// that each has four neighbours at a time: even lanes of the upper row, odd ones of the lower.
__device__ __forceinline__ Pack<4> neighbours(const float (&strip)[32], unsigned n) {
    const bool odd = lane_index() % 2;
    const float received0 = __shfl_xor_sync(kAllLanes, odd ? strip[n] : strip[n + 2], 1);
    const float received1 = __shfl_xor_sync(kAllLanes, odd ? strip[n + 1] : strip[n + 3], 1);
    if (odd) return {received0, received1, strip[n + 2], strip[n + 3]};
    return {strip[n], strip[n + 1], received0, received1};
}

// Adds the bias, and stores what the Keep makes of it.
template <int N, class Keep>
__device__ __forceinline__ uint32_t keep_pack(const Bf16Product& a, const Keep& keep, uint64_t row, uint64_t column, Pack<N> h) {
    const uint64_t at = row * a.columns + column;
    if (a.bias) add(h, load<N>(a.bias + (N == 1 ? a.line(column) : column)));
    const uint32_t number = keep(row, column, at, h);
    store(keep.out + at, h);
    return number;
}

// What becomes of a warp's elements: of a strip without an edge pack after pack, so that no question stands between
// their loads; of another one element by element.
template <class Keep>
__device__ __forceinline__ void keep_strip(const float (&strip)[32], const Bf16Product& a, const Keep& keep, uint64_t columns,
                                           uint64_t first_row, uint64_t first_column) {
    const bool whole = a.columns % 4 == 0 && !a.chosen && first_row + 16 <= a.rows && first_column + kGroup <= columns;
    const uint64_t row = first_row + lane_index() / 4 + lane_index() % 2 * 8, column = first_column + lane_index() % 4 / 2 * 4;
    uint32_t number = 0;
    if (whole) {
#pragma unroll
        for (unsigned n = 0; n < 32; n += 4)
            number = Keep::combine(number, keep_pack(a, keep, row, column + 2 * n, neighbours(strip, n)));
    } else {
#pragma unroll
        for (unsigned n = 0; n < 32; n += 4) {
            Pack<4> four = neighbours(strip, n);
#pragma unroll 1
            for (uint64_t i = column + 2 * n; i < column + 2 * n + 4; i++) {
                if (row < a.rows && i < columns) number = Keep::combine(number, keep_pack(a, keep, row, i, Pack<1>{four.at[0]}));
                four = {four.at[1], four.at[2], four.at[3], 0.0f};
            }
        }
    }
    number = Keep::combine(number, __shfl_xor_sync(kAllLanes, number, 2));
    if (row < a.rows && first_column < columns && lane_index() % 4 < 2) keep.group(row, unsigned(first_column / kGroup), number);
}

// ---- The portable kernel -----------------------------------------------------------------------------------

constexpr unsigned kMmaRows = 128, kMmaColumns = 128, kMmaDepth = 32, kMmaStages = 4;  // of a tile
constexpr unsigned kWarpRows = 32;  // of a warp, in two strips

// Lines are 80 bytes apart: 16 bytes of 8 of them, which ldmatrix reads at once, meet no bank twice.
struct MmaLines { alignas(16) bf16 values[kMmaRows][kMmaDepth + 8]; };
struct MmaShared { MmaLines a[kMmaStages], b[kMmaStages]; };
static_assert(kMmaRows == kMmaColumns, "a and b have tiles of one shape");

// Starts loading the elements first_k.. of 128 lines from `first` on; line(i) is where the i-th is.
template <class Line>
__device__ __forceinline__ void load_lines(MmaLines& to, const bf16* from, uint64_t lines, uint64_t depth, uint64_t first,
                                           uint64_t first_k, Line line) {
    constexpr unsigned kChunks = kMmaDepth / 8;
    const bool aligned = depth % 8 == 0;
#pragma unroll
    for (unsigned i = threadIdx.x; i < kMmaRows * kChunks; i += kThreads) {
        const uint64_t vector = first + i / kChunks, k = first_k + i % kChunks * 8;
        bf16* const destination = &to.values[i / kChunks][i % kChunks * 8];
        const bool exists = vector < lines;
        const bf16* const source = from + (exists ? line(vector) * depth + k : 0);
        if (aligned) {
            cp_async16(destination, source, exists && k < depth);
        } else {
            for (unsigned j = 0; j < 8; j++) destination[j] = exists && k + j < depth ? source[j] : __float2bfloat16_rn(0.0f);
        }
    }
}

// Adds the products of kMmaDepth elements of all vectors, which are in shared memory for all to read.
__device__ __forceinline__ void multiply_lines(const MmaLines& a, const MmaLines& b, float (&strips)[2][32]) {
    const unsigned lane = lane_index(), row = warp_index() / 2 * kWarpRows, column = warp_index() % 2 * kGroup;
#pragma unroll
    for (unsigned k = 0; k < kMmaDepth; k += 16) {
        uint32_t a_values[2][4], b_values[4];
        for (unsigned strip = 0; strip < 2; strip++)
            ldmatrix_x4(a_values[strip], &a.values[row + strip * 16 + lane % 16][k + lane / 16 * 8]);
#pragma unroll
        for (unsigned n = 0; n < 4; n++) {  // 16 columns each
            ldmatrix_x4(b_values, &b.values[column + n * 16 + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
#pragma unroll
            for (unsigned strip = 0; strip < 2; strip++) {
                mma_m16n8k16(&strips[strip][n * 8], a_values[strip], b_values[0], b_values[1]);
                mma_m16n8k16(&strips[strip][n * 8 + 4], a_values[strip], b_values[2], b_values[3]);
            }
        }
    }
}

template <class Keep> __global__ void __launch_bounds__(kThreads) gemm_bf16_kernel(Bf16Product product, Keep keep) {
    auto& s = shared<MmaShared>();
    const uint64_t first_row = uint64_t(blockIdx.x) * kMmaRows, first_column = uint64_t(blockIdx.y) * kMmaColumns;
    const uint64_t columns = product.count();
    if (first_column >= columns) return;
    float strips[2][32];
#pragma unroll
    for (unsigned i = 0; i < 64; i++) strips[i / 32][i % 32] = 0;

    const unsigned steps = unsigned(ceil_div(product.depth, kMmaDepth));
    const auto load = [&](unsigned step) {
        if (step < steps) {
            const uint64_t k = uint64_t(step) * kMmaDepth;
            load_lines(s.a[step % kMmaStages], product.a, product.rows, product.depth, first_row, k, [](uint64_t row) { return row; });
            load_lines(s.b[step % kMmaStages], product.b, columns, product.depth, first_column, k,
                       [&](uint64_t column) { return product.line(column); });
        }
        cp_async_commit();  // without copies too, so that the number of groups tells the step
    };
    for (unsigned step = 0; step < kMmaStages - 1; step++) load(step);
    for (unsigned step = 0; step < steps; step++) {
        cp_async_wait<kMmaStages - 2>();
        __syncthreads();  // this step's stage is there for all, and the last step's has been read by all
        load(step + kMmaStages - 1);
        multiply_lines(s.a[step % kMmaStages], s.b[step % kMmaStages], strips);
    }
#pragma unroll
    for (unsigned strip = 0; strip < 2; strip++)
        keep_strip(strips[strip], product, keep, columns, first_row + warp_index() / 2 * kWarpRows + strip * 16,
                   first_column + warp_index() % 2 * kGroup);
}

// In gemm_sm90.cu, for the Keeps that are used with it.
template <class Keep> int gemm_sm90(const Bf16Product& product, const Keep& keep, cusae_stream* stream);

inline bool gemm_sm90_takes(const Bf16Product& product, const cusae_stream* stream) {
    const uint64_t limit = uint64_t(1) << 31;
    return stream->capability == 90 && product.depth > 0 && product.depth % 8 == 0 && !product.chosen && product.rows < limit &&
           product.columns < limit;
}

// Queues a product, of at most 4,194,240 columns.
template <class Keep> int gemm_bf16(const Bf16Product& product, const Keep& keep, cusae_stream* stream) {
    if (gemm_sm90_takes(product, stream)) return gemm_sm90(product, keep, stream);
    const dim3 grid(unsigned(ceil_div(product.rows, kMmaRows)), unsigned(ceil_div(product.columns, kMmaColumns)));
    return launch(gemm_bf16_kernel<Keep>, grid, kThreads, sizeof(MmaShared), stream, product, keep);
}

}  // namespace CUSAE_NS
