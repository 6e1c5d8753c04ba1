// hopper.cuh: what only Hopper (sm_90a) has, one wrapper per instruction as in device.cuh: clusters, mbarriers, tiles
// that TMA copies, products of a warpgroup. For files *_sm90.cu alone.
#pragma once
#include "common.cuh"
#if defined(__CUDACC__)
#include <cuda.h>
#endif

namespace CUSAE_NS {

// ---- Blocks that run together: a cluster -----------------------------------------------------------------

__device__ __forceinline__ unsigned cluster_rank() {
#if defined(__CUDACC__)
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#else
    return unsigned(emu::self->current->block->rank);
#endif
}

// All threads of all blocks of the cluster meet, and what each wrote to shared memory is there for the others.
__device__ __forceinline__ void cluster_sync() {
#if defined(__CUDACC__)
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    emu::sync_cluster();
#endif
}

// ---- Barriers in shared memory ---------------------------------------------------------------------------

// A barrier's phase ends when `arrivals` have arrived and all bytes that were announced are there.
// Before others use it: mbarrier_inits_are_visible, then cluster_sync.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, unsigned arrivals) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#else
    *barrier = uint64_t(arrivals) << 47 | uint64_t(arrivals) << 32;
#endif
}

__device__ __forceinline__ void mbarrier_inits_are_visible() {
#if defined(__CUDACC__)
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Arrives at the barrier that a block of the cluster has at this place of its shared memory.
__device__ __forceinline__ void mbarrier_arrive_at(uint64_t* barrier, unsigned rank) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n.reg .b32 remote;\n"
        "mapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(shared_address(barrier)), "r"(rank) : "memory");
#else
    emu::mbarrier_is_there(emu::in_block(barrier, rank));
    emu::mbarrier_update(emu::in_block(barrier, rank), 1, 0);
#endif
}

// Arrives, and announces bytes that copies will bring.
__device__ __forceinline__ void mbarrier_arrive_and_expect(uint64_t* barrier, unsigned bytes) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
#else
    emu::mbarrier_update(barrier, 0, int32_t(bytes));
    emu::mbarrier_update(barrier, 1, 0);
#endif
}

// Waits for the end of a phase, of which the first has parity 0, the next one 1, and so on.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, unsigned parity) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n.reg .pred done;\nWAIT_%=:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra WAIT_%=;\n}" ::"r"(shared_address(barrier)), "r"(parity) : "memory");
#else
    emu::wait_until([&] { return unsigned(*barrier >> 63) != parity; });
#endif
}

// ---- Tiles of a matrix, by TMA ---------------------------------------------------------------------------

constexpr unsigned kTileDepth = 64;  // elements in a line of a tile: 128 bytes

// A bf16 matrix [lines, depth], and how many lines of it a copy takes.
struct TensorMap {
#if defined(__CUDACC__)
    CUtensorMap map;
#else
    const bf16* data;
    uint64_t lines, depth, box_lines;
#endif
};

// Needs depth % 8 == 0, depth > 0, 0 < lines < 2^31, box_lines <= 256, data on a multiple of 16 bytes. The driver
// makes it; it is asked for by name, so that the program starts without one.
inline int tensor_map(TensorMap* out, const bf16* data, uint64_t lines, uint64_t depth, unsigned box_lines) {
#if defined(__CUDACC__)
    static void* encode = nullptr;
    if (!encode) {
        cudaDriverEntryPointQueryResult found;
        if (int error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found))
            return error;
        if (found != cudaDriverEntryPointSuccess) return cudaErrorCallRequiresNewerDriver;
    }
    const cuuint64_t size[] = {depth, lines}, stride[] = {depth * sizeof(bf16)};
    const cuuint32_t box[] = {kTileDepth, box_lines}, step[] = {1, 1};
    const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode)(
        &out->map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bf16*>(data), size, stride, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return int(result);  // the runtime's errors have the driver's numbers
#else
    if (depth % 8 || !depth || !lines || box_lines > 256 || uintptr_t(data) % 16) return cudaErrorInvalidValue;
    *out = {data, lines, depth, box_lines};
    return CUSAE_OK;
#endif
}

#if !defined(__CUDACC__)
// What TMA does, for a block of the cluster.
inline void emu_copy_tile(void* to, const TensorMap& from, uint64_t* barrier, uint64_t first_line, uint64_t first_k, unsigned rank) {
    if (shared_address(to) % 1024) emu::fail("TMA: the destination is not on a multiple of 1,024 bytes");
    std::vector<bf16> box(from.box_lines * kTileDepth, bf16{0});
    for (uint64_t l = 0; l < from.box_lines; l++)
        for (uint64_t k = 0; k < kTileDepth; k++)
            if (first_line + l < from.lines && first_k + k < from.depth)
                box[l * kTileDepth + ((k / 8) ^ (l % 8)) * 8 + k % 8] = from.data[(first_line + l) * from.depth + first_k + k];
    emu::async_copy(emu::in_block(to, rank), box.data(), box.size() * sizeof(bf16), box.size() * sizeof(bf16), emu::in_block(barrier, rank));
}
#endif

// Starts copying the lines from first_line on, elements first_k..: zeros beyond the matrix. In shared memory
// 16 bytes number c of line l are at c ^ l % 8 of the line. What arrives is told to the barrier.
__device__ __forceinline__ void copy_tile(void* to, const TensorMap& from, uint64_t* barrier, uint64_t first_line, uint64_t first_k) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(to)),
        "l"(&from.map), "r"(shared_address(barrier)), "r"(int(first_k)), "r"(int(first_line))
        : "memory");
#else
    emu_copy_tile(to, from, barrier, first_line, first_k, emu::self->current->block->rank);
#endif
}

// The same to all blocks of a cluster of `ranks`, read once: in each to the same place, and told to the barrier at the
// same place.
template <unsigned ranks>
__device__ __forceinline__ void copy_tile_to_all(void* to, const TensorMap& from, uint64_t* barrier, uint64_t first_line, uint64_t first_k) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
        "l"(&from.map), "r"(shared_address(barrier)), "r"(int(first_k)), "r"(int(first_line)), "h"(uint16_t((1u << ranks) - 1))
        : "memory");
#else
    for (unsigned rank = 0; rank < ranks; rank++) emu_copy_tile(to, from, barrier, first_line, first_k, rank);
#endif
}

// ---- Products of a warpgroup, four warps -----------------------------------------------------------------

// How wgmma is told of a tile as copy_tile leaves it, from element `k` of its lines on: PTX ISA, "Matrix
// descriptor": 8 lines are 1,024 bytes, swizzled by 128.
__device__ __forceinline__ uint64_t tile_descriptor(const bf16* tile, unsigned k) {
    const uint64_t address = shared_address(tile + k);
    return (address & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

// Registers written before are the next products' to use.
__device__ __forceinline__ void wgmma_fence() {
#if defined(__CUDACC__)
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Ends a group of products.
__device__ __forceinline__ void wgmma_commit() {
#if defined(__CUDACC__)
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    emu::self->current->product_groups++;
#endif
}

// Waits until at most N of the groups are still under way. Nothing that reads d may move before it.
template <int N> __device__ __forceinline__ void wgmma_wait([[maybe_unused]] float (&d)[3][32]) {
#if defined(__CUDACC__)
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#pragma unroll
    for (unsigned i = 0; i < 96; i++) asm volatile("" : "+f"(d[i / 32][i % 32]));
#else
    emu::products_wait(N);
#endif
}

// Starts d[64, 192] f32 += a[64, 16] b[192, 16]T, bf16, tiles by their descriptors. Warp w of the warpgroup gets
// the rows from 16 w on, d[n / 64] of them as keep_strip in gemm_bf16.cuh has them.
__device__ __forceinline__ void wgmma_m64n192k16(float (&d)[3][32], uint64_t a, uint64_t b) {
#if defined(__CUDACC__)
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
        "%96, %97, 1, 1, 1, 0, 0;"
        : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[0][4]), "+f"(d[0][5]),
          "+f"(d[0][6]), "+f"(d[0][7]), "+f"(d[0][8]), "+f"(d[0][9]), "+f"(d[0][10]), "+f"(d[0][11]),
          "+f"(d[0][12]), "+f"(d[0][13]), "+f"(d[0][14]), "+f"(d[0][15]), "+f"(d[0][16]), "+f"(d[0][17]),
          "+f"(d[0][18]), "+f"(d[0][19]), "+f"(d[0][20]), "+f"(d[0][21]), "+f"(d[0][22]), "+f"(d[0][23]),
          "+f"(d[0][24]), "+f"(d[0][25]), "+f"(d[0][26]), "+f"(d[0][27]), "+f"(d[0][28]), "+f"(d[0][29]),
          "+f"(d[0][30]), "+f"(d[0][31]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),
          "+f"(d[1][4]), "+f"(d[1][5]), "+f"(d[1][6]), "+f"(d[1][7]), "+f"(d[1][8]), "+f"(d[1][9]),
          "+f"(d[1][10]), "+f"(d[1][11]), "+f"(d[1][12]), "+f"(d[1][13]), "+f"(d[1][14]), "+f"(d[1][15]),
          "+f"(d[1][16]), "+f"(d[1][17]), "+f"(d[1][18]), "+f"(d[1][19]), "+f"(d[1][20]), "+f"(d[1][21]),
          "+f"(d[1][22]), "+f"(d[1][23]), "+f"(d[1][24]), "+f"(d[1][25]), "+f"(d[1][26]), "+f"(d[1][27]),
          "+f"(d[1][28]), "+f"(d[1][29]), "+f"(d[1][30]), "+f"(d[1][31]), "+f"(d[2][0]), "+f"(d[2][1]),
          "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[2][4]), "+f"(d[2][5]), "+f"(d[2][6]), "+f"(d[2][7]),
          "+f"(d[2][8]), "+f"(d[2][9]), "+f"(d[2][10]), "+f"(d[2][11]), "+f"(d[2][12]), "+f"(d[2][13]),
          "+f"(d[2][14]), "+f"(d[2][15]), "+f"(d[2][16]), "+f"(d[2][17]), "+f"(d[2][18]), "+f"(d[2][19]),
          "+f"(d[2][20]), "+f"(d[2][21]), "+f"(d[2][22]), "+f"(d[2][23]), "+f"(d[2][24]), "+f"(d[2][25]),
          "+f"(d[2][26]), "+f"(d[2][27]), "+f"(d[2][28]), "+f"(d[2][29]), "+f"(d[2][30]), "+f"(d[2][31])
        : "l"(a), "l"(b));
#else
    emu::start_product(&d[0][0], 192, a, b);
#endif
}

}  // namespace CUSAE_NS
