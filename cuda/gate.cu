// gate, gate_gradient: what the open gates of the gated architecture let through. Source: SAELens
// gated_sae.py, after Rajamanoharan et al. 2024 (arXiv 2404.16014).
//
//   gates, features [B, S] lists with the same counts and latents      b_gate, b_mag, r_mag [F] f32
//   gate           features out: counts, and the listed places; rectify 0 or 1, whether values below 0 become 0
//   gate_gradient  value_gradient in and out [B, S] f32; b_mag_gradient, r_mag_gradient out [B, S] f32:
//                  the listed places
//
//   needs   one stride for both
//   work    a warp owns a row
//   moves   28 and 40 bytes an entry
//   exact   f32, e^r rounded from f64; the same bits on every run
#include "common.cuh"

namespace CUSAE_NS {

__device__ __forceinline__ float gain(float r_mag) { return float(exp(double(r_mag))); }

__global__ void __launch_bounds__(kThreads) gate_kernel(cusae_gate a) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    const uint32_t count = a.gates.counts[row];
    if (lane_index() == 0) a.features.counts[row] = count;
    for (uint64_t i = row * a.gates.stride + lane_index(); i < row * a.gates.stride + count; i += 32) {
        const uint32_t latent = a.gates.indices[i];
        const float u = a.gates.values[i] - a.b_gate[latent], magnitude = gain(a.r_mag[latent]) * u + a.b_mag[latent];
        a.features.indices[i] = latent;
        a.features.values[i] = magnitude > 0.0f || !a.rectify ? magnitude : 0.0f;
    }
}

__global__ void __launch_bounds__(kThreads) gate_gradient_kernel(cusae_gate_gradient a) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    const uint64_t first = row * a.gates.stride, last = first + a.gates.counts[row];
    for (uint64_t i = first + lane_index(); i < last; i += 32) {
        const uint32_t latent = a.gates.indices[i];
        const float of_magnitude = a.features.values[i] > 0.0f ? a.value_gradient[i] : 0.0f, gained = gain(a.r_mag[latent]);
        a.b_mag_gradient[i] = of_magnitude;
        a.r_mag_gradient[i] = of_magnitude * gained * (a.gates.values[i] - a.b_gate[latent]);
        a.value_gradient[i] = of_magnitude * gained;
    }
}

}  // namespace CUSAE_NS

CUSAE_API(gate)(const cusae_gate* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->gates.stride != a->features.stride) return refuse("the gates' stride is not the features'");
    return launch(gate_kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a);
}

CUSAE_API(gate_gradient)(const cusae_gate_gradient* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->gates.stride != a->features.stride) return refuse("the gates' stride is not the features'");
    return launch(gate_gradient_kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a);
}
