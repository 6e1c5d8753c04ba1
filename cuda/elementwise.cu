// add, scale, round_bf16, fill: element by element.
//
//   add    to[i] += from[i]            moves 12 bytes an element
//   scale  to[i] = factor * from[i]    moves 8
//   round_bf16  to[i] = from[i]        moves 6
//   fill   to[i] = pattern             moves 2, 4, 8 or 16
//
//   work    a thread owns four elements; fill: 16 bytes
//   needs   fill: elements of 2, 4, 8 or 16 bytes
//   exact   one f32 operation, or one rounding: the same bits everywhere
#include "round.cuh"

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

// `pattern` again and again, 16 bytes at a time; the last thread writes what is left, 2 bytes at a time.
__global__ void __launch_bounds__(kThreads) fill_kernel(uint16_t* to, uint4 pattern, uint64_t halves) {
    uint64_t i = 8 * global_thread();
    if (i + 8 <= halves) {
        *reinterpret_cast<uint4*>(to + i) = pattern;
        return;
    }
    const uint32_t words[4] = {pattern.x, pattern.y, pattern.z, pattern.w};
    for (; i < halves; i++) to[i] = uint16_t(words[i % 8 / 2] >> (i % 2 * 16));
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
    return round_to_bf16(a->from, a->len, reinterpret_cast<bf16*>(a->to), stream);
}

CUSAE_API(fill)(const cusae_fill* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    const uint32_t bytes = a->element_bytes;
    if (bytes != 2 && bytes != 4 && bytes != 8 && bytes != 16) return refuse("elements have neither 2, 4, 8 nor 16 bytes");
    uint64_t low = a->pattern[0], high = a->pattern[1];
    if (bytes == 2) low = (low & 0xffff) * 0x0001000100010001;
    if (bytes == 4) low = (low & 0xffffffff) * 0x0000000100000001;
    if (bytes < 16) high = low;
    const uint4 pattern{uint32_t(low), uint32_t(low >> 32), uint32_t(high), uint32_t(high >> 32)};
    const uint64_t halves = a->len * (bytes / 2);
    return launch(fill_kernel, grid_of_threads(ceil_div(halves, 8)), kThreads, 0, stream, static_cast<uint16_t*>(a->to), pattern, halves);
}
