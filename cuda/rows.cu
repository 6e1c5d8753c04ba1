// gather_rows, scatter_rows: rows of one matrix, chosen by index, into another.
//
//   gather_rows    to[i, :] = from[rows[i], :]
//   scatter_rows   to[to_rows[i], :] = from[from_rows[i], :], all to_rows different
//
//   needs   nothing
//   work    a warp owns a row, a lane packs of it
//   moves   8 bytes an element
//   exact   copies. An index outside its matrix is reported at the next synchronisation; the row
//           gathered there is NaN, the row scattered there goes nowhere
#include "pack.cuh"

namespace CUSAE_NS {

template <int N> __global__ void __launch_bounds__(kThreads) gather_rows_kernel(cusae_gather_rows a, cusae_fault* fault) {
    const uint64_t i = global_warp();
    if (i >= a.n) return;
    const uint32_t row = a.rows[i];
    const bool there = index_fits(fault, CUSAE_FAULT_GATHER_SOURCE, row, a.from_rows);
    for (uint64_t c = lane_index() * N; c < a.columns; c += 32 * N)
        store(a.to + i * a.columns + c, there ? load<N>(a.from + row * a.columns + c) : filled<N>(not_a_number()));
}

template <int N> __global__ void __launch_bounds__(kThreads) scatter_rows_kernel(cusae_scatter_rows a, cusae_fault* fault) {
    const uint64_t i = global_warp();
    if (i >= a.n) return;
    const uint32_t from = a.from_rows[i], to = a.to_rows[i];
    if (!index_fits(fault, CUSAE_FAULT_SCATTER_SOURCE, from, a.from_limit)) return;
    if (!index_fits(fault, CUSAE_FAULT_SCATTER_DESTINATION, to, a.to_limit)) return;
    for (uint64_t c = lane_index() * N; c < a.columns; c += 32 * N) store(a.to + to * a.columns + c, load<N>(a.from + from * a.columns + c));
}

}  // namespace CUSAE_NS

CUSAE_API(gather_rows)(const cusae_gather_rows* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const auto kernel = pack_width(a->columns) == 4 ? gather_rows_kernel<4> : gather_rows_kernel<1>;
    return launch(kernel, grid_of_warps(a->n), kThreads, 0, stream, *a, stream->device_fault);
}

CUSAE_API(scatter_rows)(const cusae_scatter_rows* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const auto kernel = pack_width(a->columns) == 4 ? scatter_rows_kernel<4> : scatter_rows_kernel<1>;
    return launch(kernel, grid_of_warps(a->n), kThreads, 0, stream, *a, stream->device_fault);
}
