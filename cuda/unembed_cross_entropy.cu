// unembed_cross_entropy: the loss of every row, its logits made and forgotten tile by tile.
//
//   x [rows, D] f32      w_u [V, D] f32      b_u [V] f32 or NULL      targets [rows] u32
//   loss  out [rows] f32, in nats
//
//   needs   V >= 1; a target outside the vocabulary is reported at the next synchronisation, and its
//           loss is NaN
//   work    a block owns 128 rows and 4,096 tokens: logits as in gemm.cuh, a running maximum and sum in
//           each thread; then a thread joins the parts of a row
//   moves   w_u once for every 128 rows, through L2; 8 bytes a row and part out and in
//   exact   logits as in gemm.cuh; sums of e^logit in f32 within a part, in f64 across parts, in the
//           order of tokens; the same bits on every run, whatever the number of rows
#include "unembed.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kGemmThreads, 3) cross_entropy_parts_kernel(cusae_unembed_cross_entropy a, LogSumExp* parts,
                                                                           float* target_logits) {
    const uint64_t first_row = uint64_t(blockIdx.x) * kGemmRows;
    LogSumExp sums[kMicro];
    for_each_tile(a.d_vocab, [&](uint64_t first_token) {
        float logits[kMicro][kMicro];
        logits_tile(shared<LogitsShared>(), a.x, a, first_row, first_token, logits);
        const unsigned count = tokens_of_thread(first_token, a.d_vocab);
#pragma unroll
        for (unsigned i = 0; i < kMicro; i++) {
            sums[i].add(logits[i], count);
            const uint64_t row = first_row + gemm_row<Layout::OuterK>(i);
            const uint64_t target = row < a.rows ? a.targets[row] : a.d_vocab;
#pragma unroll
            for (unsigned j = 0; j < kMicro; j++)
                if (j < count && first_token + gemm_column<Layout::OuterK>(j) == target) target_logits[row] = logits[i][j];
        }
    });
#pragma unroll
    for (unsigned i = 0; i < kMicro; i++) {
        sums[i].join_row();
        const uint64_t row = first_row + gemm_row<Layout::OuterK>(i);
        if (row < a.rows && threadIdx.x % kGemmColumnThreads == 0) parts[blockIdx.y * a.rows + row] = sums[i];
    }
}

__global__ void __launch_bounds__(kThreads) cross_entropy_kernel(cusae_unembed_cross_entropy a, uint64_t n_parts,
                                                                 const LogSumExp* parts, const float* target_logits,
                                                                 cusae_fault* fault) {
    const uint64_t row = global_thread();
    if (row >= a.rows) return;
    const bool known = index_fits(fault, CUSAE_FAULT_UNEMBED_TARGET, a.targets[row], a.d_vocab);
    const double all = log_sum_exp(n_parts, [&](uint64_t part) { return parts[part * a.rows + row]; });
    a.loss[row] = known ? float(all - target_logits[row]) : not_a_number();
}

}  // namespace CUSAE_NS

CUSAE_API(unembed_cross_entropy)(const cusae_unembed_cross_entropy* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->d_vocab == 0) return refuse("d_vocab is 0");
    const uint64_t n_parts = parts_of(a->d_vocab);
    LogSumExp* parts;
    if (int error = scratch(stream, (n_parts + 1) * a->rows, &parts)) return error;
    auto* target_logits = reinterpret_cast<float*>(parts + n_parts * a->rows);
    const dim3 grid(unsigned(ceil_div(a->rows, kGemmRows)), unsigned(n_parts));
    if (int error = launch(cross_entropy_parts_kernel, grid, kGemmThreads, sizeof(LogitsShared), stream, *a, parts, target_logits))
        return error;
    return launch(cross_entropy_kernel, grid_of_threads(a->rows), kThreads, 0, stream, *a, n_parts, parts, target_logits,
                  stream->device_fault);
}
