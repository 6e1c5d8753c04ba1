// faults.cu: small kernels, most with one fault that the emulator must see, the others without: each of
// a name that tests/emulator.rs runs as `faults NAME ORDER` and says what must come of it. Printed is
// what the kernel wrote to `out`, or the sentence of the error.
#include <cstdio>

#include "hopper.cuh"

namespace CUSAE_NS {

constexpr unsigned kN = 64;  // threads of a block, unless said otherwise
struct Shared { alignas(16) float at[kN]; };

struct Memory {
    const float* in;  // [2 kN]: 0, 1, 2, ...
    float* out;       // [kN], NaN
    float* single;    // [1]
};

// ---- Barriers ------------------------------------------------------------------------------------------

__global__ void barrier(Memory m) {
    auto& s = shared<Shared>();
    s.at[threadIdx.x] = m.in[threadIdx.x];
    __syncthreads();
    m.out[threadIdx.x] = s.at[kN - 1 - threadIdx.x];
}

__global__ void missing_barrier(Memory m) {
    auto& s = shared<Shared>();
    s.at[threadIdx.x] = m.in[threadIdx.x];
    m.out[threadIdx.x] = s.at[kN - 1 - threadIdx.x];
}

// Each thread needs the one before it alone, which has been there where threads run in order.
__global__ void missing_barrier_in_order(Memory m) {
    auto& s = shared<Shared>();
    s.at[threadIdx.x] = m.in[threadIdx.x];
    m.out[threadIdx.x] = threadIdx.x > 0 ? s.at[threadIdx.x - 1] : 0.0f;
}

// What is read in the first round is overwritten in the second.
__global__ void missing_barrier_before_reuse(Memory m) {
    auto& s = shared<Shared>();
    float sum = 0;
    for (unsigned round = 0; round < 2; round++) {
        s.at[threadIdx.x] = m.in[round * kN + threadIdx.x];
        __syncthreads();
        sum += s.at[kN - 1 - threadIdx.x];
    }
    m.out[threadIdx.x] = sum;
}

__global__ void divergent_barrier(Memory m) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    m.out[threadIdx.x] = 1;
}

// One half waits for the block, the other for lanes of the first.
__global__ void deadlock(Memory m) {
    if (threadIdx.x % 2 == 0) __syncthreads();
    m.out[threadIdx.x] = __shfl_sync(kAllLanes, m.in[threadIdx.x], 0);
}

__global__ void barrier_of_those_left(Memory m) {
    if (threadIdx.x >= 32) return;
    auto& s = shared<Shared>();
    s.at[threadIdx.x] = m.in[threadIdx.x];
    __syncthreads();
    m.out[threadIdx.x] = s.at[31 - threadIdx.x];
}

// ---- Shared memory -------------------------------------------------------------------------------------

__global__ void unwritten_shared(Memory m) { m.out[threadIdx.x] = shared<Shared>().at[threadIdx.x]; }

// Of two blocks, the second reads what the first has left in shared memory.
__global__ void shared_of_another_block(Memory m) {
    auto& s = shared<Shared>();
    if (blockIdx.x > 0) m.out[threadIdx.x] = s.at[threadIdx.x];
    s.at[threadIdx.x] = 1;
}

__global__ void write_behind_shared(Memory m) {
    shared<Shared>().at[threadIdx.x + 1] = 1;
    m.out[threadIdx.x] = 1;
}

__global__ void write_before_shared(Memory m) {
    (shared<Shared>().at + threadIdx.x)[-1] = 1;
    m.out[threadIdx.x] = 1;
}

__global__ void read_behind_shared(Memory m) { m.out[threadIdx.x] = shared<Shared>().at[threadIdx.x + kN]; }

// ---- Global memory -------------------------------------------------------------------------------------

__global__ void unwritten_memory(Memory m) { m.out[threadIdx.x] = m.out[threadIdx.x]; }
__global__ void write_behind_memory(Memory m) { m.out[threadIdx.x + 1] = 1; }
__global__ void write_before_memory(Memory m) { m.out[int(threadIdx.x) - 1] = 1; }
// Behind memory that does not end on a multiple of 16 bytes.
__global__ void write_close_behind_memory(Memory m) {
    if (threadIdx.x == 0) m.single[1] = 1;
}
__global__ void read_before_memory(Memory m) { m.out[threadIdx.x] = m.in[int(threadIdx.x) - 1]; }
__global__ void read_behind_memory(Memory m) { m.out[threadIdx.x] = m.in[threadIdx.x + kN + 1]; }

// Of two blocks, the second needs the first.
__global__ void block_that_needs_another(Memory m) {
    float& first = m.out[0];
    if (threadIdx.x > 0) return;
    if (blockIdx.x == 0) first = 1;
    else m.out[1] = first;
}

// ---- cp.async ------------------------------------------------------------------------------------------

// Four floats of each of the first 16 threads.
__device__ void copy_in(const Memory& m, unsigned from) {
    if (threadIdx.x < kN / 4) cp_async16(&shared<Shared>().at[threadIdx.x * 4], m.in + from + threadIdx.x * 4, true);
}

__global__ void copy(Memory m) {
    copy_in(m, 0);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    m.out[threadIdx.x] = shared<Shared>().at[kN - 1 - threadIdx.x];
}

__global__ void copy_without_wait(Memory m) {
    copy_in(m, 0);
    cp_async_commit();
    __syncthreads();
    m.out[threadIdx.x] = shared<Shared>().at[kN - 1 - threadIdx.x];
}

__global__ void copy_without_commit(Memory m) {
    copy_in(m, 0);
    cp_async_wait<0>();
    __syncthreads();
    m.out[threadIdx.x] = shared<Shared>().at[kN - 1 - threadIdx.x];
}

__global__ void copy_without_barrier(Memory m) {
    copy_in(m, 0);
    cp_async_commit();
    cp_async_wait<0>();
    m.out[threadIdx.x] = shared<Shared>().at[kN - 1 - threadIdx.x];
}

struct TwoShared { Shared of[2]; };

// Two groups, of which the wait leaves the newer one on its way.
__global__ void copy_of_the_newer_group(Memory m) {
    auto& s = shared<TwoShared>();
    for (unsigned group = 0; group < 2; group++) {
        if (threadIdx.x < kN / 4) cp_async16(&s.of[group].at[threadIdx.x * 4], m.in + group * kN + threadIdx.x * 4, true);
        cp_async_commit();
    }
    cp_async_wait<1>();
    __syncthreads();
    m.out[threadIdx.x] = s.of[threadIdx.x % 2].at[threadIdx.x];
}

__global__ void copy_of_nothing(Memory m) {
    if (threadIdx.x < kN / 4) cp_async16(&shared<Shared>().at[threadIdx.x * 4], m.in, threadIdx.x % 2 == 0);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    m.out[threadIdx.x] = shared<Shared>().at[threadIdx.x];
}

__global__ void copy_to_odd_places(Memory m) { cp_async16(&shared<Shared>().at[1], m.in, true); }
__global__ void copy_from_odd_places(Memory m) { cp_async16(&shared<Shared>().at[0], m.in + 1, true); }

// ---- Warps ---------------------------------------------------------------------------------------------

__global__ void shuffle(Memory m) { m.out[threadIdx.x] = __shfl_xor_sync(kAllLanes, m.in[threadIdx.x], 1); }

__global__ void shuffle_of_a_half(Memory m) {
    if (threadIdx.x % 32 >= 16) return;
    m.out[threadIdx.x] = __shfl_xor_sync(0xffffu, m.in[threadIdx.x], 1);
}

__global__ void shuffle_from_outside_its_mask(Memory m) {
    if (threadIdx.x % 32 >= 16) return;
    m.out[threadIdx.x] = __shfl_xor_sync(0xffffu, m.in[threadIdx.x], 16);
}

__global__ void lane_outside_its_mask(Memory m) { m.out[threadIdx.x] = __shfl_sync(0xffffu, m.in[threadIdx.x], 0); }

__global__ void lanes_that_have_left(Memory m) {
    if (threadIdx.x % 32 >= 16) return;
    m.out[threadIdx.x] = __shfl_xor_sync(kAllLanes, m.in[threadIdx.x], 1);
}

__global__ void two_operations(Memory m) {
    if (threadIdx.x % 2 == 0) m.out[threadIdx.x] = __shfl_sync(kAllLanes, m.in[threadIdx.x], 0);
    else m.out[threadIdx.x] = float(__ballot_sync(kAllLanes, 1));
}

// Through memory, and the lanes of a warp do not run in step.
__global__ void missing_syncwarp(Memory m) {
    auto& s = shared<Shared>();
    s.at[threadIdx.x] = m.in[threadIdx.x];
    m.out[threadIdx.x] = s.at[threadIdx.x ^ 1];
}

__global__ void matrix_from_odd_places(Memory m) {
    uint32_t to[4];
    ldmatrix_x4(to, &shared<Shared>().at[1]);
    m.out[threadIdx.x] = float(to[0]);
}

// ---- Products of a warpgroup -------------------------------------------------------------------------------

struct alignas(1024) Tiles { bf16 a[64 * kTileDepth], b[192 * kTileDepth]; };

// Twos times ones, of which kFlipped changes the first tile's descriptor.
template <uint64_t kFlipped> __global__ void product(Memory m) {
    auto& s = shared<Tiles>();
    for (unsigned i = threadIdx.x; i < 64 * kTileDepth; i += 128) s.a[i] = __float2bfloat16_rn(2);
    for (unsigned i = threadIdx.x; i < 192 * kTileDepth; i += 128) s.b[i] = __float2bfloat16_rn(1);
    __syncthreads();
    float d[3][32] = {};
    wgmma_fence();
    wgmma_m64n192k16(d, tile_descriptor(s.a, 0) ^ kFlipped, tile_descriptor(s.b, 0));
    wgmma_commit();
    wgmma_wait<0>(d);
    if (threadIdx.x < kN) m.out[threadIdx.x] = d[2][31];
}

__global__ void nothing(Memory m) { m.out[threadIdx.x % kN] = 0; }

// ---- Clusters ------------------------------------------------------------------------------------------

struct ClusterShared { uint64_t barrier; };

// Two blocks of one thread each: one arrives at the other's barrier, which waits for it and arrives at the one's; that
// may have left.
template <bool stays> __global__ void arrivals(Memory m) {
    auto& s = shared<ClusterShared>();
    const unsigned rank = cluster_rank();
    mbarrier_init(&s.barrier, 1);
    mbarrier_inits_are_visible();
    cluster_sync();
    if (rank == 0) mbarrier_wait(&s.barrier, 0);
    mbarrier_arrive_at(&s.barrier, 1 - rank);
    if (rank == 1 && stays) mbarrier_wait(&s.barrier, 0);
    m.out[rank] = float(rank);
    if (stays) cluster_sync();
}

// Of a block that has not made it.
__global__ void arrival_at_no_barrier(Memory m) {
    auto& s = shared<ClusterShared>();
    if (cluster_rank() == 0) mbarrier_arrive_at(&s.barrier, 1);
    cluster_sync();
    m.out[cluster_rank()] = 0;
}

// ---- The program ---------------------------------------------------------------------------------------

struct Case {
    const char* name;
    void (*kernel)(Memory);
    dim3 grid = 1, block = kN;
    size_t shared_bytes = sizeof(Shared);
    unsigned cluster = 1;
};

const Case kCases[] = {
#define CASE(name, ...) {#name, name __VA_OPT__(,) __VA_ARGS__}
    CASE(barrier), CASE(missing_barrier), CASE(missing_barrier_in_order), CASE(missing_barrier_before_reuse),
    CASE(divergent_barrier), CASE(deadlock), CASE(barrier_of_those_left),
    CASE(unwritten_shared), CASE(shared_of_another_block, 2), CASE(write_before_shared),
    CASE(write_behind_shared), CASE(read_behind_shared),
    CASE(unwritten_memory), CASE(write_behind_memory), CASE(write_close_behind_memory),
    CASE(write_before_memory), CASE(read_before_memory), CASE(read_behind_memory),
    CASE(block_that_needs_another, 2),
    CASE(copy), CASE(copy_without_wait), CASE(copy_without_commit), CASE(copy_without_barrier),
    CASE(copy_of_the_newer_group, 1, kN, sizeof(TwoShared)), CASE(copy_of_nothing), CASE(copy_to_odd_places),
    CASE(copy_from_odd_places),
    CASE(shuffle), CASE(shuffle_of_a_half), CASE(shuffle_from_outside_its_mask), CASE(lane_outside_its_mask),
    CASE(lanes_that_have_left), CASE(two_operations), CASE(missing_syncwarp), CASE(matrix_from_odd_places),
    {"product", product<0>, 1, 128, sizeof(Tiles)}, {"product_of_another_swizzle", product<uint64_t(1) << 63>, 1, 128, sizeof(Tiles)},
    {"product_from_a_base_offset", product<uint64_t(1) << 49>, 1, 128, sizeof(Tiles)},
    {"product_along_lines", product<uint64_t(2) << 16>, 1, 128, sizeof(Tiles)},
    {"full_block", nothing, 1, 1024}, {"too_many_threads", nothing, 1, {1024, 2}}, {"no_threads", nothing, 1, {64, 0}},
    {"all_shared", nothing, 1, kN, 227 << 10}, {"too_much_shared", nothing, 1, kN, (227 << 10) + 1},
    {"high_grid", nothing, {1, 65535}, 1}, {"too_high_grid", nothing, {1, 65536}, 1}, {"too_deep_grid", nothing, {1, 1, 65536}, 1},
    {"too_deep_block", nothing, 1, {1, 1, 65}},
    {"cluster", arrivals<true>, 2, 1, sizeof(ClusterShared), 2}, {"left_cluster", arrivals<false>, 2, 1, sizeof(ClusterShared), 2},
    {"half_a_cluster", nothing, 3, 1, 0, 2}, {"arrival_at_no_barrier", arrival_at_no_barrier, 2, 1, sizeof(ClusterShared), 2},
#undef CASE
};

int run(const Case& it, int order, cusae_stream& stream) {
    Memory m;
    float in[2 * kN], out[kN];
    for (unsigned i = 0; i < 2 * kN; i++) in[i] = float(i);
    stream.ordinal = order;
    void *device_in, *device_out, *device_single;
    cudaSetDevice(order);
    cudaStreamCreateWithFlags(&stream.handle, cudaStreamNonBlocking);
    cudaMalloc(&device_in, sizeof in);
    cudaMalloc(&device_out, sizeof out);
    cudaMalloc(&device_single, sizeof(float));
    m = {static_cast<float*>(device_in), static_cast<float*>(device_out), static_cast<float*>(device_single)};
    cudaMemcpyAsync(device_in, in, sizeof in, cudaMemcpyHostToDevice, stream.handle);
    if (int error = launch_clusters(it.cluster, it.kernel, it.grid, it.block, it.shared_bytes, &stream, m)) return error;
    cudaMemcpyAsync(out, device_out, sizeof out, cudaMemcpyDeviceToHost, stream.handle);
    if (int error = cudaStreamSynchronize(stream.handle)) return error;
    for (unsigned i = 0; i < kN; i++) std::printf(i ? " %g" : "%g", double(out[i]));
    std::puts("");
    std::fflush(stdout);
    cudaFree(device_in);
    cudaFree(device_out);
    cudaFree(device_single);
    return 0;
}

// More than 48 KiB of shared memory, for which cudaFuncSetAttribute has not asked.
int run_without_asking(cusae_stream& stream) {
    cudaStreamCreateWithFlags(&stream.handle, cudaStreamNonBlocking);
    const cudaLaunchConfig_t config{1, kN, (48 << 10) + 1, stream.handle, nullptr, 0};
    return cudaLaunchKernelEx(&config, nothing, Memory{});
}

// More shared memory than the launch before, which has asked for all that there is.
int run_after_asking(cusae_stream& stream) {
    cudaStreamCreateWithFlags(&stream.handle, cudaStreamNonBlocking);
    if (int error = launch(shuffle, 1, kN, (48 << 10) + 1, &stream, Memory{})) return error;
    const cudaLaunchConfig_t config{1, kN, 227 << 10, stream.handle, nullptr, 0};
    if (int error = cudaLaunchKernelEx(&config, shuffle, Memory{})) return error;
    std::puts("launched");
    return 0;
}

// Memory that is not the device's, by each function that takes some.
int run_on_memory_of_the_host(cusae_stream& stream) {
    float host[2] = {}, *const nowhere = nullptr;
    void* memory;
    cudaStreamCreateWithFlags(&stream.handle, cudaStreamNonBlocking);
    cudaMalloc(&memory, sizeof(float));
    std::printf("%d", cudaMemsetAsync(host, 0, sizeof(float), stream.handle));
    std::printf(" %d", cudaMemcpyAsync(host, host + 1, sizeof(float), cudaMemcpyHostToDevice, stream.handle));
    std::printf(" %d", cudaMemcpyAsync(host, host + 1, sizeof(float), cudaMemcpyDeviceToHost, stream.handle));
    std::printf(" %d", cudaMemcpyAsync(host, host + 1, sizeof(float), cudaMemcpyDeviceToDevice, stream.handle));
    std::printf(" %d", cudaMemsetAsync(memory, 0, 2 * sizeof(float), stream.handle));
    std::printf(" %d\n", cudaMemsetAsync(nowhere, 0, 0, stream.handle));
    return 0;
}

// The host looks at what it has asked for before it waits.
int run_without_waiting(cusae_stream& stream) {
    float out = -1;
    void* memory;
    cudaStreamCreateWithFlags(&stream.handle, cudaStreamNonBlocking);
    cudaMalloc(&memory, sizeof out);
    cudaMemsetAsync(memory, 0, sizeof out, stream.handle);
    cudaMemcpyAsync(&out, memory, sizeof out, cudaMemcpyDeviceToHost, stream.handle);
    std::printf("%g, ", double(out));
    const int error = cudaStreamSynchronize(stream.handle);
    std::printf("then %g\n", double(out));
    return error;
}

// A wait while work is recorded, which takes the recording down.
int run_wait_in_capture(cusae_stream& stream) {
    cudaGraph_t graph;
    cudaStreamCreateWithFlags(&stream.handle, cudaStreamNonBlocking);
    cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal);
    std::printf("%s; ", cudaGetErrorString(cudaStreamSynchronize(stream.handle)));
    return cudaStreamEndCapture(stream.handle, &graph);
}

// What a runtime does not do while this thread records.
int run_in_capture(cusae_stream& stream, bool allocates) {
    float number = 0;
    cudaGraph_t graph;
    void *memory, *more;
    cudaStreamCreateWithFlags(&stream.handle, cudaStreamNonBlocking);
    cudaMalloc(&memory, sizeof number);
    cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal);
    const int error = allocates ? cudaMalloc(&more, sizeof number)
                                : cudaMemcpyAsync(memory, &number, sizeof number, cudaMemcpyHostToDevice, stream.handle);
    std::printf("%s; ", cudaGetErrorString(error));
    return cudaStreamEndCapture(stream.handle, &graph);
}

int run(const std::string& name, int order) {
    cusae_stream stream{};
    stream.shared_bytes = 227 << 10;
    if (name == "shared_asked_for") return run_after_asking(stream);
    if (name == "memory_of_the_host") return run_on_memory_of_the_host(stream);
    if (name == "allocation_in_capture") return run_in_capture(stream, true);
    if (name == "copy_in_capture") return run_in_capture(stream, false);
    if (name == "shared_not_asked_for") return run_without_asking(stream);
    if (name == "read_too_early") return run_without_waiting(stream);
    if (name == "wait_in_capture") return run_wait_in_capture(stream);
    for (const Case& it : kCases)
        if (name == it.name) return run(it, order, stream);
    std::fprintf(stderr, "there is no case %s\n", name.c_str());
    return 1;
}

}  // namespace CUSAE_NS

int main(int, char** argv) {
    if (int error = CUSAE_NS::run(argv[1], std::atoi(argv[2]))) std::puts(cudaGetErrorString(error));
}
