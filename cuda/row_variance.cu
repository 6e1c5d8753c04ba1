// row_variance: the squared distance of every row to the batch's mean row.
//
//   x [B, D] f32      variance  out [B] f32
//
//   needs   nothing
//   work    column sums of chunks of 128 rows, a block per chunk and 32 packs of columns; their sum in
//           order of chunks; then a warp owns a row
//   moves   8 bytes an element, most of the second half from L2
//   exact   sums in f64, in an order that only the shape decides; the same bits on every run
#include "pack.cuh"

namespace CUSAE_NS {

constexpr unsigned kChunkRows = 128;
template <int N> struct ColumnSumsShared { double partial[8][N][32]; };

// chunk_sums[chunk, column] = Σ of the chunk's rows.
template <int N>
__global__ void __launch_bounds__(kThreads) column_sums_kernel(const float* x, uint64_t rows, uint64_t columns, double* chunk_sums) {
    auto& s = shared<ColumnSumsShared<N>>();
    const uint64_t column = (uint64_t(blockIdx.x) * 32 + lane_index()) * N;
    const uint64_t first = uint64_t(blockIdx.y) * kChunkRows, last = min(first + kChunkRows, rows);
    double sums[N] = {};
    if (column < columns)
        for (uint64_t row = first + warp_index(); row < last; row += 8) {
            const Pack<N> values = load<N>(x + row * columns + column);
#pragma unroll
            for (int n = 0; n < N; n++) sums[n] += double(values.at[n]);
        }
#pragma unroll
    for (int n = 0; n < N; n++) s.partial[warp_index()][n][lane_index()] = sums[n];
    __syncthreads();  // all eight parts of a column are there
    if (warp_index() > 0 || column >= columns) return;
#pragma unroll
    for (int n = 0; n < N; n++) {
        for (int part = 1; part < 8; part++) sums[n] += s.partial[part][n][lane_index()];
        chunk_sums[blockIdx.y * columns + column + n] = sums[n];
    }
}

// mean[column], from the sums of the chunks in order.
__global__ void __launch_bounds__(kThreads) column_means_kernel(const double* chunk_sums, uint64_t chunks, uint64_t columns, uint64_t rows, double* mean) {
    const uint64_t column = global_thread();
    if (column >= columns) return;
    double sum = 0;
    for (uint64_t chunk = 0; chunk < chunks; chunk++) sum += chunk_sums[chunk * columns + column];
    mean[column] = sum / double(rows);
}

template <int N> __global__ void __launch_bounds__(kThreads) row_variance_kernel(cusae_row_variance a, const double* mean) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    double squares = 0;
    for (uint64_t i = lane_index() * N; i < a.d_in; i += 32 * N) {
        const Pack<N> values = load<N>(a.x + row * a.d_in + i);
#pragma unroll
        for (int n = 0; n < N; n++) {
            const double distance = double(values.at[n]) - mean[i + n];
            squares += distance * distance;
        }
    }
    squares = warp_sum(squares);
    if (lane_index() == 0) a.variance[row] = float(squares);
}

template <int N> int row_variance(const cusae_row_variance& a, cusae_stream* stream) {
    const uint64_t chunks = ceil_div(a.rows, kChunkRows);
    if (chunks > 65535) return refuse("there are more than 8,388,480 rows");
    double* mean = nullptr;
    if (int error = scratch(stream, (chunks + 1) * a.d_in, &mean)) return error;
    double* chunk_sums = mean + a.d_in;
    const dim3 grid(unsigned(ceil_div(a.d_in, uint64_t(32 * N))), unsigned(chunks));
    if (int error = launch(column_sums_kernel<N>, grid, kThreads, sizeof(ColumnSumsShared<N>), stream, a.x, a.rows, a.d_in, chunk_sums)) return error;
    if (int error = launch(column_means_kernel, grid_of_threads(a.d_in), kThreads, 0, stream, chunk_sums, chunks, a.d_in, a.rows, mean)) return error;
    return launch(row_variance_kernel<N>, grid_of_warps(a.rows), kThreads, 0, stream, a, mean);
}

}  // namespace CUSAE_NS

CUSAE_API(row_variance)(const cusae_row_variance* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return pack_width(a->d_in) == 4 ? row_variance<4>(*a, stream) : row_variance<1>(*a, stream);
}
