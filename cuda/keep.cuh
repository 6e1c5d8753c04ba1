// keep.cuh: what becomes of a product's elements as long as they are in registers. A Keep has
//
//   out                           [rows, columns] f32, where elements go; on a multiple of 16 bytes
//   keep(at, column, h)           gives a Kept: what is stored at out[at], at = row * columns + column,
//                                 in the place of h, and a number
//   Keep::combine(a, b)           what the numbers of two elements of a group make, from 0 on; its order
//                                 must not matter
//   keep.group(row, group, n)     is called once for every group of a row, 64 columns, with its number
#pragma once
#include "common.cuh"

namespace CUSAE_NS {

constexpr unsigned kGroup = 64;  // columns of a group

struct Kept {
    float value;
    uint32_t number;
};

}  // namespace CUSAE_NS
