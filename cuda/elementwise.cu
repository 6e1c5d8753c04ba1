// add, scale, round_bf16, fill: element by element.
//
//   add    to[i] += from[i]            moves 12 bytes an element
//   scale  to[i] = factor * from[i]    moves 8
//   round_bf16  to[i] = from[i]        moves 6
//   fill   to[i] = pattern             moves 2, 4, 8 or 16
//
//   work    a thread owns four elements; fill: one
//   needs   fill: elements of 2, 4, 8 or 16 bytes
//   exact   one f32 operation, or one rounding: the same bits everywhere
#include "pack.cuh"

namespace CUSAE_NS {

__global__ void __launch_bounds__(kThreads) add_kernel(cusae_add a) {
    in_fours(a.len, [&](auto width, uint64_t i) {
        constexpr int N = decltype(width)::value;
        Pack<N> to = load<N>(a.to + i);
        add(to, load<N>(a.from + i));
        store(a.to + i, to);
    });
}

__global__ void __launch_bounds__(kThreads) scale_kernel(cusae_scale a) {
    in_fours(a.len, [&](auto width, uint64_t i) {
        constexpr int N = decltype(width)::value;
        store(a.to + i, scaled(load<N>(a.from + i), a.factor));
    });
}

__global__ void __launch_bounds__(kThreads) round_bf16_kernel(const float* from, bf16* to, uint64_t len) {
    in_fours(len, [&](auto width, uint64_t i) {
        constexpr int N = decltype(width)::value;
        struct alignas(2 * N) Rounded { bf16 at[N]; } rounded;
        const Pack<N> values = load<N>(from + i);
#pragma unroll
        for (int n = 0; n < N; n++) rounded.at[n] = __float2bfloat16_rn(values.at[n]);
        *reinterpret_cast<Rounded*>(to + i) = rounded;
    });
}

template <class T> __global__ void __launch_bounds__(kThreads) fill_kernel(T* to, T pattern, uint64_t len) {
    const uint64_t i = global_thread();
    if (i < len) to[i] = pattern;
}

}  // namespace CUSAE_NS

CUSAE_API(add)(const cusae_add* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return launch(add_kernel, grid_of_fours(a->len), kThreads, 0, stream, *a);
}

CUSAE_API(scale)(const cusae_scale* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    return launch(scale_kernel, grid_of_fours(a->len), kThreads, 0, stream, *a);
}

CUSAE_API(round_bf16)(const cusae_round_bf16* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    bf16* const to = reinterpret_cast<bf16*>(a->to);
    return launch(round_bf16_kernel, grid_of_fours(a->len), kThreads, 0, stream, a->from, to, a->len);
}

CUSAE_API(fill)(const cusae_fill* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const dim3 grid = grid_of_threads(a->len);
    const uint64_t low = a->pattern[0], high = a->pattern[1];
    if (a->element_bytes == 2)
        return launch(fill_kernel<uint16_t>, grid, kThreads, 0, stream, static_cast<uint16_t*>(a->to),
                      uint16_t(low), a->len);
    if (a->element_bytes == 4)
        return launch(fill_kernel<uint32_t>, grid, kThreads, 0, stream, static_cast<uint32_t*>(a->to),
                      uint32_t(low), a->len);
    if (a->element_bytes == 8)
        return launch(fill_kernel<uint64_t>, grid, kThreads, 0, stream, static_cast<uint64_t*>(a->to), low, a->len);
    if (a->element_bytes == 16)
        return launch(fill_kernel<uint4>, grid, kThreads, 0, stream, static_cast<uint4*>(a->to),
                      uint4{uint32_t(low), uint32_t(low >> 32), uint32_t(high), uint32_t(high >> 32)}, a->len);
    return refuse("elements have neither 2, 4, 8 nor 16 bytes");
}
