// unembed_kl_divergence: how far the predictions of one run are from those of another, row by row,
// the logits of both made and forgotten tile by tile.
//
//   x, y [rows, D] f32      w_u [V, D] f32      b_u [V] f32 or NULL      kl  out [rows] f32, in nats
//
//   needs   V >= 1
//   work    a block owns 128 rows and 4,096 tokens: both runs' logits as in gemm.cuh, and in each thread
//           running sums of e^x, e^y and e^x (x - y); then a thread joins the parts of a row. With
//           p = softmax(x): KL = Σ p (x - y) - log Σ e^x + log Σ e^y
//   moves   w_u twice for every 128 rows, through L2; 20 bytes a row and part out and in
//   exact   logits as in gemm.cuh; sums in f32 within a part, in f64 across parts, in the order of
//           tokens; the same bits on every run, whatever the number of rows
#include "unembed.cuh"

namespace CUSAE_NS {

// What is kept of some of a row's logits x and y.
struct Divergence {
    LogSumExp x, y;
    float difference = 0;  // Σ e^(x - largest x) (x - y)
};

struct DivergenceShared {
    LogitsShared logits;
    Divergence sums[kMicro][kGemmThreads];  // each thread's own: too many for registers
};

__global__ void __launch_bounds__(kGemmThreads) kl_divergence_parts_kernel(cusae_unembed_kl_divergence a, Divergence* parts) {
    DivergenceShared& shared = CUSAE_NS::shared<DivergenceShared>();
    const uint64_t first_row = uint64_t(blockIdx.x) * kGemmRows;
    for (unsigned i = 0; i < kMicro; i++) shared.sums[i][threadIdx.x] = Divergence();
    for_each_tile(a.d_vocab, [&](uint64_t first_token) {
        float x[kMicro][kMicro], y[kMicro][kMicro];
        logits_tile(shared.logits, a.x, a, first_row, first_token, x);
        logits_tile(shared.logits, a.y, a, first_row, first_token, y);
        const unsigned count = tokens_of_thread(first_token, a.d_vocab);
#pragma unroll
        for (unsigned i = 0; i < kMicro; i++) {
            Divergence sums = shared.sums[i][threadIdx.x];
            sums.y.add(y[i], count);
            sums.difference *= sums.x.add(x[i], count);
            // Of tokens that do not exist both logits are 0.
#pragma unroll
            for (unsigned j = 0; j < kMicro; j++)
                sums.difference = fmaf(exponential(x[i][j] - sums.x.largest), x[i][j] - y[i][j], sums.difference);
            shared.sums[i][threadIdx.x] = sums;
        }
    });
    for (unsigned i = 0; i < kMicro; i++) {
        Divergence sums = shared.sums[i][threadIdx.x];
        sums.y.join_row();
        sums.difference = gemm_row_sum(sums.difference * sums.x.join_row());
        const uint64_t row = first_row + gemm_row<Layout::OuterK>(i);
        if (row < a.rows && threadIdx.x % kGemmColumnThreads == 0) parts[blockIdx.y * a.rows + row] = sums;
    }
}

__global__ void __launch_bounds__(kThreads) kl_divergence_kernel(cusae_unembed_kl_divergence a, uint64_t n_parts,
                                                                 const Divergence* parts) {
    const uint64_t row = global_thread();
    if (row >= a.rows) return;
    const auto x = [&](uint64_t part) { return parts[part * a.rows + row].x; };
    const auto y = [&](uint64_t part) { return parts[part * a.rows + row].y; };
    const double all_x = log_sum_exp(n_parts, x), all_y = log_sum_exp(n_parts, y);
    double difference = 0;  // Σ p (x - y)
    for (uint64_t part = 0; part < n_parts; part++)
        difference += parts[part * a.rows + row].difference * exp(double(x(part).largest) - all_x);
    a.kl[row] = float(difference - all_x + all_y);
}

}  // namespace CUSAE_NS

CUSAE_API(unembed_kl_divergence)(const cusae_unembed_kl_divergence* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->d_vocab == 0) return refuse("d_vocab is 0");
    const uint64_t n_parts = parts_of(a->d_vocab);
    Divergence* parts;
    if (int error = scratch(stream, n_parts * a->rows, &parts)) return error;
    const dim3 grid(unsigned(ceil_div(a->rows, kGemmRows)), unsigned(n_parts));
    if (int error = launch(kl_divergence_parts_kernel, grid, kGemmThreads, sizeof(DivergenceShared), stream, *a, parts))
        return error;
    return launch(kl_divergence_kernel, grid_of_threads(a->rows), kThreads, 0, stream, *a, n_parts, parts);
}
