// find_dead, update_firing: which latents fire, how often, and since when not.
//
//   update_firing  offsets [F + 1] u32 of lists by latent, or features [B, F] f32; beside offsets entries
//                  and values [B, S], where an entry whose value is 0 is not active
//                  fired_count, since_fired  in and out [F] u32
//   find_dead      since_fired [F] u32      dead  out [F] u32, ascending      n_dead  out [1] u32
//
//   needs   update_firing: one of offsets and features, not both
//   work    a thread per latent, with values a warp; dense features: a block per 32 latents; find_dead: one block
//   moves   20 bytes a latent, 4·B·F where dense
//   exact   integers
#include "common.cuh"

namespace CUSAE_NS {

__device__ __forceinline__ void note_firing(const cusae_update_firing& a, uint64_t latent, uint32_t fired) {
    a.fired_count[latent] += fired;
    a.since_fired[latent] = fired > 0 ? 0 : a.since_fired[latent] + 1;
}

__global__ void __launch_bounds__(kThreads) update_firing_lists_kernel(cusae_update_firing a) {
    const uint64_t latent = global_thread();
    if (latent < a.d_sae) note_firing(a, latent, a.offsets[latent + 1] - a.offsets[latent]);
}

__global__ void __launch_bounds__(kThreads) update_firing_values_kernel(cusae_update_firing a) {
    const uint64_t latent = global_warp();
    if (latent >= a.d_sae) return;
    const uint32_t last = a.offsets[latent + 1];
    uint32_t fired = 0;
    for (uint64_t i = a.offsets[latent] + lane_index(); i < last; i += 32) fired += a.values[a.entries[i]] != 0.0f;
    fired = warp_sum(fired);
    if (lane_index() == 0) note_firing(a, latent, fired);
}

struct FiringShared { uint32_t fired[8][32]; };

__global__ void __launch_bounds__(kThreads) update_firing_dense_kernel(cusae_update_firing a) {
    auto& s = shared<FiringShared>();
    const uint64_t latent = uint64_t(blockIdx.x) * 32 + lane_index();
    uint32_t fired = 0;
    if (latent < a.d_sae)
        for (uint64_t row = warp_index(); row < a.rows; row += 8) fired += a.features[row * a.d_sae + latent] != 0.0f;
    s.fired[warp_index()][lane_index()] = fired;
    __syncthreads();  // all eight parts of a latent's count are there
    if (warp_index() > 0 || latent >= a.d_sae) return;
    for (int part = 1; part < 8; part++) fired += s.fired[part][lane_index()];
    note_firing(a, latent, fired);
}

struct FindDeadShared { uint32_t partial[32]; };

__global__ void __launch_bounds__(1024) find_dead_kernel(cusae_find_dead a) {
    auto& s = shared<FindDeadShared>();
    uint32_t found = 0;  // in the tiles before
    for (uint64_t first = a.first; first < a.last; first += blockDim.x) {
        const uint64_t latent = first + threadIdx.x;
        const bool dead = latent < a.last && a.since_fired[latent] > a.window;
        uint32_t in_tile;
        const uint32_t before = block_exclusive_sum(uint32_t(dead), s.partial, in_tile);
        if (dead) a.dead[found + before] = uint32_t(latent);
        found += in_tile;
    }
    if (threadIdx.x == 0) *a.n_dead = found;
}

}  // namespace CUSAE_NS

CUSAE_API(update_firing)(const cusae_update_firing* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->offsets && a->features) return refuse("it takes either offsets or features, not both");
    if (!a->offsets && !a->features && a->rows > 0) return refuse("it takes either offsets or features");
    if (a->offsets && a->values) return launch(update_firing_values_kernel, grid_of_warps(a->d_sae), kThreads, 0, stream, *a);
    if (a->offsets) return launch(update_firing_lists_kernel, grid_of_threads(a->d_sae), kThreads, 0, stream, *a);
    const dim3 grid(unsigned(ceil_div(a->d_sae, 32)));
    return launch(update_firing_dense_kernel, grid, kThreads, sizeof(FiringShared), stream, *a);
}

CUSAE_API(find_dead)(const cusae_find_dead* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return launch(find_dead_kernel, 1, 1024, sizeof(FindDeadShared), stream, *a);
}
