// row_variance: the squared distance of every row to the batch's mean row.
//
//   x [B, D] f32      variance  out [B] f32
//
//   needs   nothing
//   work    column sums of chunks of 128 rows, a block per chunk and 32 columns; their sum in order
//           of chunks; then a warp owns a row
//   moves   8 bytes an element, most of the second half from L2
//   exact   sums in f64, in an order that only the shape decides; the same bits on every run
#include "common.cuh"

namespace CUSAE_NS {

constexpr unsigned kChunkRows = 128;
struct ColumnSumsShared { double partial[8][32]; };

// chunk_sums[chunk, column] = Σ of the chunk's rows.
__global__ void __launch_bounds__(kThreads) column_sums_kernel(const float* x, uint64_t rows, uint64_t columns, double* chunk_sums) {
    auto& s = shared<ColumnSumsShared>();
    const uint64_t column = uint64_t(blockIdx.x) * 32 + lane_index();
    const uint64_t first = uint64_t(blockIdx.y) * kChunkRows, last = min(first + kChunkRows, rows);
    double sum = 0;
    if (column < columns)
        for (uint64_t row = first + warp_index(); row < last; row += 8) sum += double(x[row * columns + column]);
    s.partial[warp_index()][lane_index()] = sum;
    __syncthreads();  // all eight parts of a column are there
    if (warp_index() > 0 || column >= columns) return;
    for (int part = 1; part < 8; part++) sum += s.partial[part][lane_index()];
    chunk_sums[blockIdx.y * columns + column] = sum;
}

// mean[column], from the sums of the chunks in order.
__global__ void __launch_bounds__(kThreads) column_means_kernel(const double* chunk_sums, uint64_t chunks, uint64_t columns, uint64_t rows, double* mean) {
    const uint64_t column = global_thread();
    if (column >= columns) return;
    double sum = 0;
    for (uint64_t chunk = 0; chunk < chunks; chunk++) sum += chunk_sums[chunk * columns + column];
    mean[column] = sum / double(rows);
}

__global__ void __launch_bounds__(kThreads) row_variance_kernel(cusae_row_variance a, const double* mean) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    double squares = 0;
    for (uint64_t i = lane_index(); i < a.d_in; i += 32) {
        const double distance = double(a.x[row * a.d_in + i]) - mean[i];
        squares += distance * distance;
    }
    squares = warp_sum(squares);
    if (lane_index() == 0) a.variance[row] = float(squares);
}

}  // namespace CUSAE_NS

CUSAE_API(row_variance)(const cusae_row_variance* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const uint64_t chunks = ceil_div(a->rows, kChunkRows);
    if (chunks > 65535) return refuse("there are more than 8,388,480 rows");
    double* mean = nullptr;
    if (int error = scratch(stream, (chunks + 1) * a->d_in, &mean)) return error;
    double* chunk_sums = mean + a->d_in;
    const dim3 grid(unsigned(ceil_div(a->d_in, 32)), unsigned(chunks));
    if (int error = launch(column_sums_kernel, grid, kThreads, sizeof(ColumnSumsShared), stream, a->x, a->rows, a->d_in, chunk_sums)) return error;
    if (int error = launch(column_means_kernel, grid_of_threads(a->d_in), kThreads, 0, stream, chunk_sums, chunks, a->d_in, a->rows, mean)) return error;
    return launch(row_variance_kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a, mean);
}
