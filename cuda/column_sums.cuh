// column_sums.cuh: sums down the columns of a matrix, in f32 and in an order that only the shape decides.
//
// A block adds 128 rows of 32 columns, eight rows at a time; then a thread adds the blocks of its
// column. What is added is said by a functor, term(row, column), which is called once for each pair.
#pragma once
#include "common.cuh"

namespace CUSAE_NS {

constexpr uint64_t kColumnRows = 128;
struct ColumnShared { float partial[8][32]; };

inline uint64_t column_chunks(uint64_t rows) { return ceil_div(rows, kColumnRows); }

template <class Term>
__global__ void __launch_bounds__(kThreads) column_sums_kernel(Term term, uint64_t rows, uint64_t columns, float* chunk_sums) {
    auto& s = shared<ColumnShared>();
    const uint64_t column = uint64_t(blockIdx.x) * 32 + lane_index();
    const uint64_t first = blockIdx.y * kColumnRows, last = min(first + kColumnRows, rows);
    float sum = 0;
    if (column < columns)
        for (uint64_t row = first + warp_index(); row < last; row += 8) sum += term(row, column);
    s.partial[warp_index()][lane_index()] = sum;
    __syncthreads();  // all eight parts of a column are there
    if (warp_index() > 0 || column >= columns) return;
    for (int part = 1; part < 8; part++) sum += s.partial[part][lane_index()];
    chunk_sums[blockIdx.y * columns + column] = sum;
}

// A matrix as it is.
struct MatrixTerm {
    const float* matrix;
    uint64_t columns;
    __device__ float operator()(uint64_t row, uint64_t column) const { return matrix[row * columns + column]; }
};

inline int refuse_rows(uint64_t rows) {
    return column_chunks(rows) > 65535 ? refuse("there are more than 8,388,480 rows") : CUSAE_OK;
}

// Queues the sums of all chunks of rows: chunk_sums [column_chunks(rows), columns].
template <class Term>
int column_sums(Term term, uint64_t rows, uint64_t columns, float* chunk_sums, cusae_stream* stream) {
    if (int error = refuse_rows(rows)) return error;
    const dim3 grid(unsigned(ceil_div(columns, 32)), unsigned(column_chunks(rows)));
    return launch(column_sums_kernel<Term>, grid, kThreads, sizeof(ColumnShared), stream, term, rows, columns, chunk_sums);
}

// The sum of a column's chunks, in order.
__device__ __forceinline__ float sum_of_chunks(const float* chunk_sums, uint64_t chunks, uint64_t columns, uint64_t column) {
    float sum = 0;
    for (uint64_t chunk = 0; chunk < chunks; chunk++) sum += chunk_sums[chunk * columns + column];
    return sum;
}

}  // namespace CUSAE_NS
