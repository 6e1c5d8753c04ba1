// row_norms: the L2 norm of every row.
//
//   matrix [rows, columns] f32      norms  out [rows] f32
//
//   needs   nothing
//   work    a warp owns a row
//   moves   4 bytes an element
//   exact   f64 sums over each lane's packs, then a butterfly; the same bits on every run
#include "pack.cuh"

namespace CUSAE_NS {

template <int N> __global__ void __launch_bounds__(kThreads) row_norms_kernel(cusae_row_norms a) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    double squares = 0;
    for_each_of_lane<N>(a.matrix + row * a.columns, a.columns, [&](float value) { squares += double(value) * double(value); });
    squares = warp_sum(squares);
    if (lane_index() == 0) a.norms[row] = float(sqrt(squares));
}

}  // namespace CUSAE_NS

CUSAE_API(row_norms)(const cusae_row_norms* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const auto kernel = pack_width(a->columns) == 4 ? row_norms_kernel<4> : row_norms_kernel<1>;
    return launch(kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a);
}
