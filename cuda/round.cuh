// round.cuh: f32 matrices rounded to bf16, as they lie.
#pragma once
#include "pack.cuh"

namespace CUSAE_NS {

template <class T> __global__ void __launch_bounds__(kThreads) round_kernel(const float* from, T* to, uint64_t len) {
    in_fours(len, [&](auto width, uint64_t i) { store(to + i, load<decltype(width)::value>(from + i)); });
}

inline int round_to_bf16(const float* from, uint64_t len, bf16* to, cusae_stream* stream) {
    return launch(round_kernel<bf16>, grid_of_fours(len), kThreads, 0, stream, from, to, len);
}

}  // namespace CUSAE_NS
