// gemm_sm90: the products of gemm_bf16.cuh on Hopper: the same contract.
//
//   needs   what `gemm_sm90_takes` says: compute capability 9.0; depth > 0, a multiple of 8 (TMA's lines
//           start on multiples of 16 bytes); all of b's lines; rows, columns < 2^31
//   work    one block on every multiprocessor walks the tiles of 128 x 192, 64 elements of k at a time, rows
//           first: neighbours share the lines of b. One warp has TMA fill a ring of four stages; two
//           warpgroups, 64 rows each, multiply by wgmma.m64n192k16 what is there. The ring runs on over
//           the tiles: while one warpgroup is busy with its elements, the next tile is being copied, and
//           the other may still multiply. Where the tiles of rows are even in number, blocks walk in
//           clusters of two, a tile above the other, and each copies half of the lines of b to both
//   moves   128 + 192 vectors for each tile of c, in clusters 128 + 96; c once
//   exact   as gemm_bf16.cuh
#include "dense.cuh"
#include "hopper.cuh"
#include "jumprelu.cuh"
#include "linear.cuh"
#include "select.cuh"

namespace CUSAE_NS {

constexpr unsigned kTileRows = 128, kTileColumns = 192, kTileStages = 4, kWarpgroups = 2;
constexpr unsigned kConsumers = kWarpgroups * 128, kHopperThreads = kConsumers + 32;
constexpr unsigned kCluster = 2;  // blocks that share the lines of b

struct alignas(1024) HopperShared {
    bf16 a[kTileStages][kTileRows * kTileDepth], b[kTileStages][kTileColumns * kTileDepth];
    uint64_t full[kTileStages], empty[kTileStages];
};

// A place in the ring of stages: which, and the parity of its round.
struct Stage {
    unsigned at = 0, parity = 0;
    __device__ __forceinline__ void advance() {
        if (++at < kTileStages) return;
        at = 0;
        parity ^= 1;
    }
};

// The tiles, of clusters: `ranks` tiles above one another, 1 or 2. The host has counted them.
struct Walk {
    uint64_t rows, tiles;  // clusters' tiles above one another; in all
    unsigned ranks;
    // visit(first_row, first_column) for each tile of this block, one after the other.
    template <class F> __device__ __forceinline__ void for_each(F visit) const {
        const unsigned shift = ranks - 1;
        for (uint64_t tile = blockIdx.x >> shift; tile < tiles; tile += gridDim.x >> shift)
            visit((tile % rows * ranks + cluster_rank()) * kTileRows, tile / rows * kTileColumns);
    }
};

// Keeps the ring full, one thread.
__device__ __forceinline__ void produce(HopperShared& s, const TensorMap& a, const TensorMap& b, const Walk& walk, unsigned steps) {
    const unsigned part = walk.ranks > 1 ? kTileColumns / kCluster * cluster_rank() : 0;  // of the lines of b, from this one on
    Stage stage;
    walk.for_each([&](uint64_t first_row, uint64_t first_column) {
        for (unsigned step = 0; step < steps; step++, stage.advance()) {
            const uint64_t k = uint64_t(step) * kTileDepth;
            mbarrier_wait(&s.empty[stage.at], stage.parity ^ 1);  // the first round's stages are empty
            mbarrier_arrive_and_expect(&s.full[stage.at], (kTileRows + kTileColumns) * kTileDepth * sizeof(bf16));
            copy_tile(s.a[stage.at], a, &s.full[stage.at], first_row, k);
            if (walk.ranks > 1) {
                copy_tile_to_all<kCluster>(s.b[stage.at] + part * kTileDepth, b, &s.full[stage.at], first_column + part, k);
            } else {
                copy_tile(s.b[stage.at], b, &s.full[stage.at], first_column, k);
            }
        }
    });
    // Nobody leaves to whom arrivals may still come.
    for (unsigned i = 0; i < kTileStages; i++, stage.advance()) mbarrier_wait(&s.empty[stage.at], stage.parity ^ 1);
}

// Multiplies what is in the ring, and keeps it: eight warps.
template <class Keep>
__device__ __forceinline__ void consume(HopperShared& s, const Bf16Product& product, const Keep& keep, const Walk& walk, unsigned steps,
                                        unsigned warp) {
    const unsigned warpgroup = warp / 4;
    Stage stage;
    walk.for_each([&](uint64_t first_row, uint64_t first_column) {
        float strips[3][32];
#pragma unroll
        for (unsigned i = 0; i < 96; i++) strips[i / 32][i % 32] = 0;
        for (unsigned step = 0; step < steps; step++, stage.advance()) {
            mbarrier_wait(&s.full[stage.at], stage.parity);
            wgmma_fence();
#pragma unroll
            for (unsigned k = 0; k < kTileDepth; k += 16)
                wgmma_m64n192k16(strips, tile_descriptor(s.a[stage.at] + warpgroup * 64 * kTileDepth, k), tile_descriptor(s.b[stage.at], k));
            wgmma_commit();
            wgmma_wait<0>(strips);  // the other warpgroup multiplies meanwhile
            // Whoever copies into this stage is told that it is read.
            if (lane_index() < walk.ranks) mbarrier_arrive_at(&s.empty[stage.at], lane_index());
        }
#pragma unroll
        for (unsigned i = 0; i < 3; i++)
            keep_strip(strips[i], product, keep, product.columns, first_row + warp * 16, first_column + i * kGroup);
    });
}

template <class Keep>
__global__ void __launch_bounds__(kHopperThreads) gemm_sm90_kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                                                                  Bf16Product product, Walk walk, Keep keep) {
    auto& s = shared<HopperShared>();
    const unsigned steps = unsigned(ceil_div(product.depth, kTileDepth));
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < kTileStages; i++) {
            mbarrier_init(&s.full[i], 1);
            mbarrier_init(&s.empty[i], walk.ranks * kConsumers / 32);
        }
        mbarrier_inits_are_visible();
    }
    cluster_sync();  // the barriers are there for all
    // From a lane of the warp, so that the compiler knows that a warp stays together.
    const unsigned warp = __shfl_sync(kAllLanes, warp_index(), 0);
    if (warp == kConsumers / 32) {
        if (lane_index() == 0) produce(s, a, b, walk, steps);
        return;
    }
    consume(s, product, keep, walk, steps, warp);
}

template <class Keep> int gemm_sm90(const Bf16Product& product, const Keep& keep, cusae_stream* stream) {
    if (product.rows == 0 || product.columns == 0) return CUSAE_OK;
    if (int error = cudaSetDevice(stream->ordinal)) return error;  // the driver makes maps in the thread's context
    const uint64_t row_tiles = ceil_div(product.rows, kTileRows);
    const unsigned ranks = row_tiles % kCluster == 0 && stream->multiprocessors >= int(kCluster) ? kCluster : 1;
    const Walk walk{row_tiles / ranks, row_tiles / ranks * ceil_div(product.columns, kTileColumns), ranks};
    TensorMap a, b;
    if (int error = tensor_map(&a, product.a, product.rows, product.depth, kTileRows)) return error;
    if (int error = tensor_map(&b, product.b, product.columns, product.depth, kTileColumns / ranks)) return error;
    const dim3 grid(unsigned(min(walk.tiles, uint64_t(stream->multiprocessors) / ranks)) * ranks);
    return launch_clusters(ranks, gemm_sm90_kernel<Keep>, grid, kHopperThreads, sizeof(HopperShared), stream, a, b, product, walk, keep);
}

template int gemm_sm90(const Bf16Product&, const KeepGroupMaxima<KeyOrder>&, cusae_stream*);
template int gemm_sm90(const Bf16Product&, const KeepGroupMaxima<JumpReluOrder>&, cusae_stream*);
template int gemm_sm90(const Bf16Product&, const KeepRectified&, cusae_stream*);
template int gemm_sm90(const Bf16Product&, const KeepLinear&, cusae_stream*);
template int gemm_sm90(const Bf16Product&, const KeepOutput&, cusae_stream*);
template int gemm_sm90(const Bf16Product&, const KeepFeatureGradient&, cusae_stream*);
template int gemm_sm90(const Bf16Product&, const KeepWeightGradient&, cusae_stream*);

}  // namespace CUSAE_NS
