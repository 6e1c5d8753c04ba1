// keep.cuh: what becomes of a product's elements as long as they are in registers. A Keep has
//
//   out                           [rows, columns] f32, where elements go; on a multiple of 16 bytes
//   keep(row, column, at, h)      puts into a Pack<N>& h of a row's neighbours what is stored from out[at] on,
//                                 at = row * columns + column, and gives a number; N is 4 where packs stay
//                                 together in out, and vectors of `columns` start on multiples of 16 bytes; or 1
//   Keep::combine(a, b)           what the numbers of two packs of a group make, from 0 on; its order must not
//                                 matter
//   keep.group(row, group, n)     is called once for every group of a row, 64 columns, with its number
#pragma once
#include "pack.cuh"

namespace CUSAE_NS {

constexpr unsigned kGroup = 64;  // columns of a group

// Keeps a single element.
template <class Keep> __device__ __forceinline__ uint32_t keep_one(const Keep& keep, uint64_t row, uint64_t column, uint64_t at, float h) {
    Pack<1> one{h};
    const uint32_t number = keep(row, column, at, one);
    keep.out[at] = one.at[0];
    return number;
}

}  // namespace CUSAE_NS
