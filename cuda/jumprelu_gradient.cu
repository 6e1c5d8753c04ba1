// jumprelu_gradient: JumpReLU's sparsity term and straight-through gradients, entry by entry. Source:
// SAELens jumprelu_sae.py, after Rajamanoharan et al. 2024 (arXiv 2407.14435).
//
//   lists [B, S]      pre_activations [B, S] f32      threshold, decoder_norm [F] f32
//   scalars: coefficient      value_gradient in and out [B, S] f32      threshold_gradient, norm_gradient out [B, S] f32
//   active out [B] u32      loss out [B] f32      of the lists the listed places are read and written
//
//   needs   bandwidth > 0; a sparsity of CUSAE_SPARSITY_...
//   work    a warp owns a row
//   moves   36 bytes an entry
//   exact   the tanh sum in f64, strided parts and a butterfly; the rest f32; the same bits on every run
#include "jumprelu.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) jumprelu_gradient_kernel(cusae_jumprelu_gradient a) {
    const uint64_t row = global_warp();
    if (row >= a.rows) return;
    const uint64_t first = row * a.lists.stride, last = first + a.lists.counts[row];
    const bool tanh_term = a.sparsity == CUSAE_SPARSITY_TANH;
    uint32_t active = 0;
    double tanh_sum = 0;
    for (uint64_t i = first + lane_index(); i < last; i += 32) {
        const uint32_t latent = a.lists.indices[i];
        active += a.pre_activations[i] > a.threshold[latent];
        if (tanh_term) tanh_sum += double(tanhf(a.parameter * (a.lists.values[i] * a.decoder_norm[latent])));
    }
    active = warp_sum(active);
    tanh_sum = warp_sum(tanh_sum);
    // The term, and its derivative with respect to each active latent's step.
    float term = float(active), of_step = 1.0f;
    if (tanh_term) {
        term = float(tanh_sum);
        of_step = 0.0f;
    } else if (a.sparsity == CUSAE_SPARSITY_QUADRATIC) {
        const float away = float(active) - a.parameter;
        term = 2.0f / a.parameter * away * away;
        of_step = 4.0f / a.parameter * away;
    }
    const float coefficient = a.scalars->coefficient, factor = coefficient * a.gradient_scale;
    if (lane_index() == 0) {
        a.active[row] = active;
        a.loss[row] = coefficient * term;
    }
    for (uint64_t i = first + lane_index(); i < last; i += 32) {
        const uint32_t latent = a.lists.indices[i];
        const float h = a.pre_activations[i], threshold = a.threshold[latent];
        const float f = a.lists.values[i], n = a.decoder_norm[latent];
        const float tanh = tanh_term ? tanhf(a.parameter * (f * n)) : 0.0f;
        const float slope = tanh_term ? a.parameter * (1.0f - tanh * tanh) : 0.0f;
        const float gradient = a.value_gradient[i] + factor * slope * n;
        float estimate = 0.0f;
        if (in_window(h, threshold, a.bandwidth)) estimate = threshold / a.bandwidth * gradient + 1.0f / a.bandwidth * (factor * of_step);
        const float passed = h > threshold ? gradient : 0.0f;
        a.norm_gradient[i] = factor * slope * f;
        a.threshold_gradient[i] = -estimate;
        a.value_gradient[i] = a.ste_to_input ? passed + estimate : passed;
    }
}

}  // namespace CUSAE_NS

CUSAE_API(jumprelu_gradient)(const cusae_jumprelu_gradient* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (!(a->bandwidth > 0.0f)) return refuse("the bandwidth is not greater than 0");
    if (a->sparsity > CUSAE_SPARSITY_QUADRATIC) return refuse("there is no such sparsity");
    return launch(jumprelu_gradient_kernel, grid_of_warps(a->rows), kThreads, 0, stream, *a);
}
