// sum_by_latent: the sum of one number per entry, latent by latent.
//
//   values [B, S] f32      by_latent: offsets [F + 1], entries      out [F] f32
//
//   needs   nothing
//   work    a warp owns a latent
//   moves   8 bytes an entry, 4 a latent
//   exact   f32, 32 strided parts and a butterfly; the same bits on every run
#include "common.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) sum_by_latent_kernel(cusae_sum_by_latent a) {
    const uint64_t latent = global_warp();
    if (latent >= a.d_sae) return;
    const uint32_t last = a.by_latent.offsets[latent + 1];
    float sum = 0;
    for (uint64_t i = a.by_latent.offsets[latent] + lane_index(); i < last; i += 32) sum += a.values[a.by_latent.entries[i]];
    sum = warp_sum(sum);
    if (lane_index() == 0) a.out[latent] = sum;
}

}  // namespace CUSAE_NS

CUSAE_API(sum_by_latent)(const cusae_sum_by_latent* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return launch(sum_by_latent_kernel, grid_of_warps(a->d_sae), kThreads, 0, stream, *a);
}
