// device.cuh: what kernels are written in. With hopper.cuh the only file that knows whether nvcc or the
// test emulator compiles them: every PTX instruction in use has one named wrapper, in both versions.
#pragma once
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "api.h"

// Everything but the C functions lives in a namespace of its own build, because tests link both.
#if defined(__CUDACC__)
#define CUSAE_NS cusae_cuda
#define CUSAE_NAME(name) cusae_cuda_##name
#define CUSAE_SCRATCH_LIMIT (512 << 20)
#else
#define CUSAE_NS cusae_emu
#define CUSAE_NAME(name) cusae_emu_##name
#define CUSAE_SCRATCH_LIMIT (emu::counting ? 512 << 20 : 48 << 10)
#endif

// CUSAE_API(scale)(const cusae_scale* a, cusae_stream* stream) { ... } defines an operation.
#define CUSAE_API(name) extern "C" int CUSAE_NAME(name)
#define CUSAE_DECLARE(name) CUSAE_API(name)(const struct cusae_##name* a, cusae_stream* stream);
CUSAE_OPERATIONS(CUSAE_DECLARE)
#undef CUSAE_DECLARE

struct cusae_stream {
    int ordinal;
    int capability;       // of the device, 90 for 9.0
    int multiprocessors;  // likewise
    int shared_bytes;     // likewise, that a block may ask for
    bool reads_host;      // whether the device reads any of the host's memory by itself
    cudaStream_t handle;
    bool capturing;
    cusae_fault* fault;         // in the host's memory
    cusae_fault* device_fault;  // the same, as kernels address it
    void* scratch;
    uint64_t scratch_bytes;
    void* outgrown[48];  // smaller scratch memory of the past: captured graphs may still use it
    int n_outgrown;
};

namespace CUSAE_NS {

using bf16 = __nv_bfloat16;

// Bytes of scratch memory that an operation may take at once where it can work in parts; little in
// the emulator, so that tests see several parts.
inline uint64_t scratch_limit() { return CUSAE_SCRATCH_LIMIT; }

// ---- The host's side -------------------------------------------------------------------------------

// Refuses arguments: what operation, what it needs. Returns CUSAE_EINVAL.
int refuse(const char* sentence);

// Scratch memory for one operation; what it holds is lost with the next operation of the stream.
int scratch_bytes(cusae_stream* stream, uint64_t bytes, void** out);

// Queues `byte` for all of some memory. No bytes are nothing to do, wherever they are.
int memory_set(void* to, int byte, uint64_t bytes, cusae_stream* stream);

// Queues a kernel whose blocks come in clusters of so many, neighbours along x. An empty grid is nothing to do.
template <class... P, class... A>
int launch_clusters(unsigned cluster, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cusae_stream* stream,
                    A... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return CUSAE_OK;
    if (int error = cudaSetDevice(stream->ordinal)) return error;
    if (shared_bytes > (48 << 10)) {
        if (shared_bytes > size_t(stream->shared_bytes)) return cudaErrorInvalidConfiguration;
        // For all that there is: the limit is the kernel's, and other streams and graphs launch it with more.
        const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
        if (int error = cudaFuncSetAttribute(kernel, attribute, stream->shared_bytes)) return error;
    }
    cudaLaunchAttribute of_cluster{};
    of_cluster.id = cudaLaunchAttributeClusterDimension;
    of_cluster.val.clusterDim.x = cluster;
    of_cluster.val.clusterDim.y = of_cluster.val.clusterDim.z = 1;
    const cudaLaunchConfig_t config{grid, block, shared_bytes, stream->handle, &of_cluster, cluster > 1 ? 1u : 0u};
    return cudaLaunchKernelEx(&config, kernel, P(arguments)...);
}

// Queues a kernel.
template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cusae_stream* stream, A... arguments) {
    return launch_clusters(1, kernel, grid, block, shared_bytes, stream, arguments...);
}

// ---- Shared memory ---------------------------------------------------------------------------------

// A block's shared memory, always dynamic, as one struct. What it holds at first is undefined.
template <class T> __device__ __forceinline__ T& shared() {
#if defined(__CUDACC__)
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    return *reinterpret_cast<T*>(shared_memory);
#else
    return *reinterpret_cast<T*>(emu::self->current->block->shared);
#endif
}

// The address of shared memory as PTX instructions take it.
__device__ __forceinline__ uint32_t shared_address(const void* in_shared) {
#if defined(__CUDACC__)
    return uint32_t(__cvta_generic_to_shared(in_shared));
#else
    return uint32_t(static_cast<const unsigned char*>(in_shared) - emu::self->current->block->shared);
#endif
}

// ---- 16 bytes to global memory at once, where the compiler would store four floats -----------------

__device__ __forceinline__ void store_four(float* to, float a, float b, float c, float d) {
#if defined(__CUDACC__)
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
#else
    if (uintptr_t(to) % 16) emu::fail("st.global.v4: the address is not a multiple of 16");
    to[0] = a, to[1] = b, to[2] = c, to[3] = d;
#endif
}

// ---- cp.async: 16 bytes from global to shared memory, zeros where not valid ------------------------

__device__ __forceinline__ void cp_async16(void* to, const void* from, bool valid) {
#if defined(__CUDACC__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
#else
    if (uintptr_t(to) % 16 || (valid && uintptr_t(from) % 16)) emu::fail("cp.async: an address is not a multiple of 16");
    emu::async_copy(to, from, 16, valid ? 16 : 0, nullptr);
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDACC__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emu::self->current->copy_groups++;
#endif
}

// Waits until at most N of this thread's committed groups are still under way.
template <int N> __device__ __forceinline__ void cp_async_wait() {
#if defined(__CUDACC__)
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#else
    emu::copy_wait(N);
#endif
}

// ---- Tensor cores of a warp --------------------------------------------------------------------------

// ldmatrix.x4: four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of
// matrix l / 8, and gets elements (l / 4, l % 4 * 2 ..+1) of each.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&to)[4], const void* row) {
#if defined(__CUDACC__)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    if (uintptr_t(row) % 16) emu::fail("ldmatrix: a row's address is not a multiple of 16");
    struct Operands { uint32_t* to; const void* row; } mine{to, row};
    emu::warp_collective(~0u, 10, &mine, [](void** lanes) {
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                const void* from = static_cast<Operands*>(lanes[i * 8 + lane / 4])->row;
                std::memcpy(&static_cast<Operands*>(lanes[lane])->to[i], static_cast<const char*>(from) + lane % 4 * 4, 4);
            }
    });
#endif
}

// mma.sync.m16n8k16: d[16, 8] f32 += a[16, 16] bf16 (row-major) * b[16, 8] bf16 (column-major).
// Fragments as in the PTX ISA, "Matrix fragments for mma.m16n8k16".
__device__ __forceinline__ void mma_m16n8k16(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDACC__)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    struct Operands { float* d; const uint32_t* a; uint32_t b[2]; } mine{d, a, {b0, b1}};
    emu::warp_collective(~0u, 11, &mine, [](void** lanes) {
        float A[16][16], B[8][16];
        const auto half = [](uint32_t word, int which) { return __bfloat162float({uint16_t(word >> (16 * which))}); };
        for (int lane = 0; lane < 32; lane++) {
            const Operands& o = *static_cast<Operands*>(lanes[lane]);
            const int group = lane / 4, pair = lane % 4 * 2;
            for (int i = 0; i < 4; i++)
                for (int h = 0; h < 2; h++) A[group + i % 2 * 8][pair + h + i / 2 * 8] = half(o.a[i], h);
            for (int i = 0; i < 2; i++)
                for (int h = 0; h < 2; h++) B[group][pair + h + i * 8] = half(o.b[i], h);
        }
        for (int lane = 0; lane < 32; lane++) {
            float* d = static_cast<Operands*>(lanes[lane])->d;
            for (int i = 0; i < 4; i++) {
                const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
                for (int k = 0; k < 16; k++) d[i] += A[row][k] * B[column][k];
            }
        }
    });
#endif
}

}  // namespace CUSAE_NS
