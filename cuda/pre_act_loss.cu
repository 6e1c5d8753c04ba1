// pre_act_loss: the pre-activation loss of dead latents, sum_b ReLU(threshold - h) n, and its gradients.
// Source: SAELens jumprelu_sae.py: calculate_pre_act_loss, after Anthropic's update of January 2025.
//
//   input [B, D], w_enc, w_dec [F, D], b_enc, threshold, decoder_norm [F] f32      dead [F] u32, of which the first n_dead [1] u32 count
//   out.w_enc, out.w_dec [F, D], out.b_enc, threshold_gradient in and out [F] f32: added to
//   loss out [F] f32: summed over the batch; 0 for latents that are not dead
//
//   needs   F <= 4,194,240; operands in f32
//   work    the encoder's product of the dead latents leaves ReLU(threshold - h); then a block owns a
//           latent, and a thread columns of its rows
//   moves   the product's, 4·B·n_dead of a scratch of 4·B·F out and in, 4·B·D for each latent from L2
//   exact   sums in ascending b, f32 for w_enc, f64 for the loss; the same bits on every run
#include "encode.cuh"

namespace CUSAE_NS {

struct KeepBelow {
    EncoderRows encoder;
    const float* threshold;
    float* out;  // [rows, F], of which the first n_dead columns are written
    static __device__ __forceinline__ uint32_t combine(uint32_t a, uint32_t) { return a; }
    __device__ __forceinline__ uint32_t operator()(uint64_t, uint64_t column, uint64_t, Pack<1>& h) const {
        const float distance = threshold[encoder.latent(column)] - h.at[0];
        h.at[0] = distance > 0.0f ? distance : 0.0f;
        return 0;
    }
    __device__ __forceinline__ void group(uint64_t, unsigned, uint32_t) const {}
};

struct PreActShared { double partial[32]; };

__global__ void __launch_bounds__(kThreads) pre_act_loss_kernel(cusae_pre_act_loss a, const float* below) {
    auto& s = shared<PreActShared>();
    if (blockIdx.x >= *a.n_dead) return;
    const uint64_t latent = a.dead[blockIdx.x], width = a.encoder.d_in, stride = a.encoder.d_sae;
    const float* const input = static_cast<const float*>(a.encoder.input);
    const float n = a.decoder_norm[latent], factor = a.coefficient * a.gradient_scale;
    double loss = 0, rows = 0;
    for (uint64_t row = threadIdx.x; row < a.encoder.rows; row += kThreads) {
        const float distance = below[row * stride + blockIdx.x];
        loss += double(distance);
        rows += distance > 0.0f;
    }
    loss = block_sum(loss, s.partial);
    rows = block_sum(rows, s.partial);
    const float of_norm = factor * float(loss);
    for (uint64_t column = threadIdx.x; column < width; column += kThreads) {
        float sum = 0;
        for (uint64_t row = 0; row < a.encoder.rows; row++)
            if (below[row * stride + blockIdx.x] > 0.0f) sum += input[row * width + column];
        const uint64_t at = latent * width + column;
        a.out.w_enc[at] += -factor * n * sum;
        if (of_norm != 0.0f && n > 0.0f) a.out.w_dec[at] += of_norm / n * a.w_dec[at];
    }
    if (threadIdx.x > 0) return;
    a.out.b_enc[latent] -= factor * n * float(rows);
    a.threshold_gradient[latent] += factor * n * float(rows);
    a.loss[latent] = a.coefficient * n * float(loss);
}

}  // namespace CUSAE_NS

CUSAE_API(pre_act_loss)(const cusae_pre_act_loss* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->encoder.type != CUSAE_F32) return refuse("the operands are not f32");
    EncoderRows encoder = rows_of(a->encoder);
    encoder.latents = a->dead;
    encoder.chosen = a->n_dead;
    float* below = nullptr;
    if (int error = scratch(stream, a->encoder.rows * a->encoder.d_sae, &below)) return error;
    if (int error = encode_f32(encoder, KeepBelow{encoder, a->threshold, below}, stream)) return error;
    if (int error = memory_set(a->loss, 0, a->encoder.d_sae * sizeof(float), stream)) return error;
    return launch(pre_act_loss_kernel, dim3(unsigned(a->encoder.d_sae)), kThreads, sizeof(PreActShared), stream, *a, below);
}
