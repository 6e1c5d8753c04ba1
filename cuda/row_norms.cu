// row_norms: the L2 norm of every row.
//
//   matrix [rows, columns] f32      norms  out [rows] f32
//
//   needs   nothing
//   work    a warp owns a row
//   moves   4 bytes an element
//   exact   f64 sums over 32 strided parts, then a butterfly; the same bits on every run
#include "common.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) row_norms_kernel(cusae_row_norms a) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    double squares = 0;
    for (uint64_t i = lane_index(); i < a.columns; i += 32) {
        const double value = double(a.matrix[row * a.columns + i]);
        squares += value * value;
    }
    squares = warp_sum(squares);
    if (lane_index() == 0) a.norms[row] = float(sqrt(squares));
}

}  // namespace CUSAE_NS

CUSAE_API(row_norms)(const cusae_row_norms* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return launch(row_norms_kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a);
}
