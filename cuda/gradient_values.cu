// gradient_values: the gradient of each listed value from that of the decoder's output.
//
//   lists [B, S]      w_dec [F, D] f32 or bf16      gradient [B, D] f32      value_gradient out [B, S] f32:
//                                                                            the listed places are written
//
//   needs   w_dec of a type of enum cusae_type
//   work    a block owns a row, a warp an entry's dot product
//   moves   4·D bytes an entry, 2·D of bf16
//   exact   f32, fused, a part for each lane's packs and a butterfly; the same bits on every run
#include "pack.cuh"

namespace CUSAE_NS {

template <class T, int N> __global__ void __launch_bounds__(kThreads) gradient_values_kernel(cusae_gradient_values a) {
    const uint64_t row = blockIdx.x;
    const float* const gradient = a.gradient + row * a.d_in;
    for (uint32_t j = warp_index(); j < a.lists.counts[row]; j += kThreads / 32) {
        const uint64_t entry = row * a.lists.stride + j;
        const T* const w = static_cast<const T*>(a.w_dec) + a.lists.indices[entry] * a.d_in;
        float sum = 0;
        for (uint64_t column = lane_index() * N; column < a.d_in; column += 32 * N)
            sum = add_products(sum, load<N>(gradient + column), load<N>(w + column));
        sum = warp_sum(sum);
        if (lane_index() == 0) a.value_gradient[entry] = sum;
    }
}

}  // namespace CUSAE_NS

CUSAE_API(gradient_values)(const cusae_gradient_values* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->type > CUSAE_BF16) return refuse("w_dec is neither f32 nor bf16");
    return with_packs(a->type, a->d_in, [&](auto packs) {
        using Row = decltype(packs);
        return launch(gradient_values_kernel<typename Row::Number, Row::kWidth>, dim3(unsigned(a->rows)), kThreads, 0, stream, *a);
    });
}
