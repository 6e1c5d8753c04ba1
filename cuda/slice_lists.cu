// slice_lists: the entries of a range of latents, as lists of their own.
//
//   lists [B, S]      out [B, S]: latents ascending; what lies beyond a row's count stays as it was
//
//   needs   one stride for both
//   work    a warp owns a row
//   moves   4 bytes an entry, 12 more for one in the range
//   exact   copies
#include "common.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) slice_lists_kernel(cusae_slice_lists a) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    const uint64_t start = row * a.lists.stride, count = a.lists.counts[row];
    uint32_t kept = 0;
    for (uint64_t tile = 0; tile < count; tile += 32) {
        const uint64_t own = tile + lane_index();
        const uint32_t latent = own < count ? a.lists.indices[start + own] : 0;
        const bool keep = own < count && latent >= a.first && latent < a.last;
        const unsigned kept_here = __ballot_sync(kAllLanes, keep);
        const uint64_t slot = start + kept + unsigned(__popc(kept_here & ((1u << lane_index()) - 1)));
        if (keep) {
            a.out.indices[slot] = latent;
            a.out.values[slot] = a.lists.values[start + own];
        }
        kept += unsigned(__popc(kept_here));
    }
    if (lane_index() == 0) a.out.counts[row] = kept;
}

}  // namespace CUSAE_NS

CUSAE_API(slice_lists)(const cusae_slice_lists* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->lists.stride != a->out.stride) return refuse("the stride is not that of the slice");
    return launch(slice_lists_kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a);
}
