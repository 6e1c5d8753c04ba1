// cuda_runtime.h of the emulator: the part of CUDA's language and of its runtime that cuda/ uses.
//
// A stream only queues; its work is done when somebody waits for it, so a host that reads too early
// reads old memory. Device number n runs threads in the order of seed n % 8, 0 meaning in order; devices from 8
// on have compute capability 8.0 and read all of the host's memory by themselves, those before them have 9.0 and
// read of it what is page-locked.
#pragma once
#include <chrono>
#include <cmath>
#include <csignal>
#include <functional>
#include <map>

#include <unistd.h>

#include "emu.h"

// ---- The language ----------------------------------------------------------------------------------

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#define threadIdx (::emu::self->current->thread)
#define blockIdx (::emu::self->current->block->index)
#define blockDim (::emu::self->launch->block)
#define gridDim (::emu::self->launch->grid)

#define __syncthreads() ::emu::sync_block(__FILE__, __LINE__)
inline void __syncwarp(unsigned mask = 0xffffffffu) { emu::exchange(mask, 0, 0, emu::lane()); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> T __shfl_sync(unsigned mask, T value, int source) { return emu::exchange(mask, value, 1, source & 31); }
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    return emu::exchange(mask, value, 2, (emu::lane() ^ lanes) & 31);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by) {
    const int source = emu::lane() + int(by);
    return emu::exchange(mask, value, 3, source < 32 ? source : emu::lane());
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by) {
    const int source = emu::lane() - int(by);
    return emu::exchange(mask, value, 5, source >= 0 ? source : emu::lane());
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return emu::ballot(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return emu::ballot(mask, predicate != 0) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return emu::ballot(mask, predicate == 0) == 0; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)(a) * b >> 64);
}
template <class To, class From> To emu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float x) { return emu_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emu_bits<float>(x); }
inline int __float_as_int(float x) { return emu_bits<int>(x); }
inline float __int_as_float(int x) { return emu_bits<float>(x); }
template <class T> T __ldg(const T* from) { return *from; }
using std::isfinite;
using std::max;
using std::min;

// Blocks run on several OS threads, so these are real atomics.
inline unsigned atomicAdd(unsigned* at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline unsigned atomicOr(unsigned* at, unsigned value) { return __atomic_fetch_or(at, value, __ATOMIC_RELAXED); }
inline unsigned atomicExch(unsigned* at, unsigned value) { return __atomic_exchange_n(at, value, __ATOMIC_RELAXED); }
inline unsigned atomicCAS(unsigned* at, unsigned expected, unsigned value) {
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
inline unsigned atomicMax(unsigned* at, unsigned value) {
    unsigned old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
inline unsigned atomicMin(unsigned* at, unsigned value) {
    unsigned old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (old > value && !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}

// ---- The runtime -----------------------------------------------------------------------------------

using cudaError_t = int;
constexpr int cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2,
              cudaErrorInvalidConfiguration = 9, cudaErrorInvalidDevice = 101, cudaErrorIllegalAddress = 700,
              cudaErrorLaunchFailure = 719, cudaErrorStreamCaptureUnsupported = 900, cudaErrorStreamCaptureInvalidated = 901,
              cudaErrorInvalidClusterSize = 912;

namespace emu {

constexpr int kDevices = 16, kOrders = 8;

// What this thread has asked of the runtime: see src/lib.rs.
struct Calls { uint64_t launches, graph_launches, waits, copies_from_host, copies_to_host, allocations, frees; };
inline thread_local Calls calls{};

// While this thread only counts, launches are noted and nothing is done: memory is an address alone,
// and devices have an H200's multiprocessors.
struct Launched { uint32_t grid[3], threads; uint64_t shared_bytes; };
inline thread_local bool counting = false;
inline thread_local std::vector<Launched> launched;

struct Stream {
    uint64_t order = 0;
    std::vector<std::function<int()>> queue;
    bool reads_host = false, capturing = false, capture_failed = false;
    int error = 0;  // sticky, as a CUDA context's
};
inline thread_local Stream* capturing = nullptr;  // this thread's, while it records
struct Graph { std::vector<std::function<int()>> work; };
struct Event {
    std::chrono::steady_clock::time_point time;
    Stream* stream = nullptr;
};

struct Allocation {
    void* pages;
    size_t mapped_bytes, bytes, padded;  // padded to whole 16 bytes
};
inline std::mutex memory_mutex;
inline std::map<const void*, Allocation> memory;    // by its start
inline std::map<const void*, size_t> page_locked;   // bytes of the host's memory, by its start
inline std::map<const void*, size_t> shared_asked;  // bytes of shared memory that cudaFuncSetAttribute allows a kernel
inline thread_local int device = 0;
inline std::mutex failure_mutex;
inline std::string last_failure;

inline size_t bytes_of(const Allocation& it) { return it.bytes; }
inline size_t bytes_of(size_t bytes) { return bytes; }

// Whether one of these pieces of memory has all the bytes from `at` on.
template <class M> bool has(const M& pieces, const void* at, size_t bytes) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    auto piece = pieces.upper_bound(at);
    if (piece == pieces.begin()) return false;
    --piece;
    const size_t before = size_t(static_cast<const char*>(at) - static_cast<const char*>(piece->first));
    return before + bytes <= bytes_of(piece->second);
}

// What cannot be recorded takes the recording down.
inline int not_while_capturing(Stream& stream) {
    stream.capture_failed = true;
    return cudaErrorStreamCaptureUnsupported;
}

inline int run_queue(Stream& stream) {
    if (stream.capturing) return not_while_capturing(stream);
    std::vector<std::function<int()>> work;
    work.swap(stream.queue);
    for (auto& step : work)
        if (!stream.error) stream.error = step();
    return stream.error;
}

}  // namespace emu

using cudaStream_t = emu::Stream*;
using cudaEvent_t = emu::Event*;
using cudaGraph_t = emu::Graph*;
using cudaGraphExec_t = emu::Graph*;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaDeviceAttr {
    cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor, cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrPageableMemoryAccess,
};
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
struct cudaPointerAttributes { cudaMemoryType type; };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
constexpr unsigned cudaStreamNonBlocking = 1, cudaHostAllocMapped = 2;
struct cudaDeviceProp { char name[256]; size_t totalGlobalMem; };
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct { struct { unsigned x, y, z; } clusterDim; } val;
};
struct cudaLaunchConfig_t {
    dim3 grid, block;  // CUDA's names for these two are macros here
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

inline const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaErrorInvalidValue: return "invalid argument";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInvalidConfiguration: return "invalid configuration argument";
        case cudaErrorInvalidClusterSize: return "invalid cluster size";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        case cudaErrorIllegalAddress: return "memory was written outside an allocation";
        case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
        case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
        case cudaErrorLaunchFailure: {
            static thread_local std::string text;
            std::lock_guard<std::mutex> lock(emu::failure_mutex);
            return (text = emu::last_failure).c_str();
        }
        default: return "no error of the emulator's";
    }
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = emu::kDevices, cudaSuccess; }
inline cudaError_t cudaSetDevice(int ordinal) {
    if (ordinal < 0 || ordinal >= emu::kDevices) return cudaErrorInvalidDevice;
    return emu::device = ordinal, cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int ordinal) {
    std::snprintf(out->name, sizeof out->name, "emulator, thread order %d", ordinal % emu::kOrders);
    out->totalGlobalMem = size_t(1) << 30;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* out, cudaDeviceAttr attribute, int ordinal) {
    const bool hopper = ordinal < emu::kOrders;
    const int values[] = {hopper ? 9 : 8, 0, emu::counting ? 132 : 2, 227 << 10, !hopper};
    return *out = values[attribute], cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* out) { return *out = 13000, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* out) { return *out = 13000, cudaSuccess; }
inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return *free = *total = size_t(1) << 30, cudaSuccess; }

namespace emu {

// Device memory starts as NaN and is fenced on both sides: before it lies a guard, behind it, after up to
// 15 bytes of one, a page that nobody may touch.
constexpr size_t kPage = 4096, kGuardBefore = 256;

inline unsigned char* fenced_memory(size_t bytes, Allocation& out) {
    const size_t padded = (bytes + 15) / 16 * 16, used = (kGuardBefore + padded + kPage - 1) / kPage * kPage;
    void* const pages = mmap(nullptr, used + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return nullptr;
    unsigned char *end = static_cast<unsigned char*>(pages) + used, *start = end - padded;
    mprotect(end, kPage, PROT_NONE);
    guard(start - kGuardBefore, kGuardBefore);
    std::memset(start, 0xff, bytes);
    guard(start + bytes, padded - bytes);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(start - kGuardBefore, kGuardBefore);
    __asan_poison_memory_region(start + bytes, padded - bytes + kPage);
#endif
    out = {pages, used + kPage, bytes, padded};
    return start;
}

inline void free_fenced(unsigned char* start, const Allocation& it) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(it.pages, it.mapped_bytes);
#endif
    const size_t before = first_unguarded(start - kGuardBefore, kGuardBefore);
    const size_t after = first_unguarded(start + it.bytes, it.padded - it.bytes);
    if (before < kGuardBefore || after < it.padded - it.bytes) {
        const ptrdiff_t first = before < kGuardBefore ? ptrdiff_t(before) - ptrdiff_t(kGuardBefore) : ptrdiff_t(it.bytes + after);
        std::fprintf(stderr, "emu: memory was written %td bytes from the start of an allocation of %zu bytes\n", first, it.bytes);
        std::abort();
    }
    munmap(it.pages, it.mapped_bytes);
}

// Says what a segmentation fault is likely to be, then lets it happen.
inline void explain_segmentation_faults() {
    static const auto before = std::signal(SIGSEGV, [](int) {
        constexpr char kText[] = "emu: a kernel has left its memory, or a thread its stack; scripts/test_sanitized.sh says where\n";
        if (write(2, kText, sizeof kText - 1) >= 0) std::signal(SIGSEGV, SIG_DFL);
    });
    (void)before;
}

}  // namespace emu

inline cudaError_t cudaMalloc(void** out, size_t bytes) {
    if (emu::capturing) return emu::not_while_capturing(*emu::capturing);
    emu::calls.allocations++;
    if (emu::counting) return *out = reinterpret_cast<void*>(uintptr_t(1) << 40), cudaSuccess;
#if !defined(__SANITIZE_ADDRESS__)
    emu::explain_segmentation_faults();
#endif
    emu::Allocation allocation;
    if (!(*out = emu::fenced_memory(bytes, allocation))) return cudaErrorMemoryAllocation;
    std::lock_guard<std::mutex> lock(emu::memory_mutex);
    emu::memory[*out] = allocation;
    return cudaSuccess;
}
inline cudaError_t cudaFree(void* at) {
    if (!at) return cudaSuccess;
    emu::calls.frees++;
    if (emu::counting) return cudaSuccess;
    std::lock_guard<std::mutex> lock(emu::memory_mutex);
    const auto found = emu::memory.find(at);
    if (found == emu::memory.end()) return cudaErrorInvalidValue;
    emu::free_fenced(static_cast<unsigned char*>(at), found->second);
    emu::memory.erase(found);
    return cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) {
    if (!(*out = std::calloc(1, bytes))) return cudaErrorMemoryAllocation;
    std::lock_guard<std::mutex> lock(emu::memory_mutex);
    return emu::page_locked[*out] = bytes, cudaSuccess;
}
inline cudaError_t cudaHostGetDevicePointer(void** out, void* host, unsigned) { return *out = host, cudaSuccess; }
inline cudaError_t cudaFreeHost(void* host) {
    std::lock_guard<std::mutex> lock(emu::memory_mutex);
    return emu::page_locked.erase(host), std::free(host), cudaSuccess;
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* at) {
    out->type = emu::has(emu::page_locked, at, 1) ? cudaMemoryTypeHost
                : emu::has(emu::memory, at, 1)    ? cudaMemoryTypeDevice
                                                  : cudaMemoryTypeUnregistered;
    return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
    *out = new emu::Stream;
    (*out)->order = uint64_t(emu::device % emu::kOrders);
    (*out)->reads_host = emu::device >= emu::kOrders;
    return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return emu::calls.waits++, emu::run_queue(*stream); }
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const int error = emu::run_queue(*stream);
    delete stream;
    return error;
}
// CUDA takes a null pointer where there are no bytes; memset and memcpy do not.
inline cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t stream) {
    if (bytes == 0 || emu::counting) return cudaSuccess;
    if (!emu::has(emu::memory, to, bytes)) return cudaErrorInvalidValue;
    stream->queue.push_back([=] { return std::memset(to, byte, bytes), cudaSuccess; });
    return cudaSuccess;
}
// Between two places of the device one may be the host's: callers of the C interface have no other for an emulated one.
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (bytes == 0 || emu::counting) return cudaSuccess;
    const bool to_device = emu::has(emu::memory, to, bytes), from_device = emu::has(emu::memory, from, bytes);
    if (!(kind == cudaMemcpyHostToDevice ? to_device : kind == cudaMemcpyDeviceToHost ? from_device : to_device || from_device))
        return cudaErrorInvalidValue;
    const void* const host = kind == cudaMemcpyDeviceToHost ? to : from;
    const bool pageable = kind != cudaMemcpyDeviceToDevice && !emu::has(emu::page_locked, host, bytes);
    if (pageable && stream->capturing) return emu::not_while_capturing(*stream);
    emu::calls.copies_from_host += kind == cudaMemcpyHostToDevice;
    emu::calls.copies_to_host += kind == cudaMemcpyDeviceToHost;
    if (kind == cudaMemcpyHostToDevice && pageable && !stream->reads_host) {  // the source may change as soon as this returns
        const auto* begin = static_cast<const unsigned char*>(from);
        std::vector<unsigned char> copy(begin, begin + bytes);
        stream->queue.push_back([to, copy] { return std::memcpy(to, copy.data(), copy.size()), cudaSuccess; });
    } else {
        stream->queue.push_back([=] { return std::memcpy(to, from, bytes), cudaSuccess; });
    }
    return cudaSuccess;
}

inline cudaError_t cudaEventCreate(cudaEvent_t* out) { return *out = new emu::Event, cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event->stream = stream;
    stream->queue.push_back([event] { return event->time = std::chrono::steady_clock::now(), cudaSuccess; });
    return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    emu::calls.waits++;
    return event->stream ? emu::run_queue(*event->stream) : cudaSuccess;
}
inline cudaError_t cudaEventElapsedTime(float* out, cudaEvent_t from, cudaEvent_t to) {
    return *out = std::chrono::duration<float, std::milli>(to->time - from->time).count(), cudaSuccess;
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    const int error = emu::run_queue(*stream);
    stream->capturing = true;
    stream->capture_failed = false;
    emu::capturing = stream;
    return error;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
    std::vector<std::function<int()>> work;
    work.swap(stream->queue);
    stream->capturing = false;
    emu::capturing = nullptr;
    if (stream->capture_failed) return cudaErrorStreamCaptureInvalidated;
    *out = new emu::Graph{work};
    return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
    return *out = new emu::Graph(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    emu::calls.graph_launches++;
    stream->queue.insert(stream->queue.end(), graph->work.begin(), graph->work.end());
    return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }

template <class K> cudaError_t cudaFuncSetAttribute(K kernel, cudaFuncAttribute, int bytes) {
    std::lock_guard<std::mutex> lock(emu::memory_mutex);
    emu::shared_asked[reinterpret_cast<const void*>(kernel)] = size_t(bytes);
    return cudaSuccess;
}
namespace emu {
// Up to 48 KiB a kernel has without asking.
inline bool shared_allowed(const void* kernel, size_t bytes) {
    if (bytes <= (48 << 10)) return true;
    std::lock_guard<std::mutex> lock(memory_mutex);
    const auto found = shared_asked.find(kernel);
    return bytes <= (227 << 10) && found != shared_asked.end() && bytes <= found->second;
}
}  // namespace emu
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A... arguments) {
    const dim3 grid = config->grid, block = config->block;
    const size_t shared_bytes = config->dynamicSmemBytes;
    const unsigned threads = block.x * block.y * block.z;
    if (!threads || threads > 1024 || block.z > 64 || grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu)
        return cudaErrorInvalidConfiguration;
    if (!emu::shared_allowed(reinterpret_cast<const void*>(kernel), shared_bytes)) return cudaErrorInvalidConfiguration;
    const unsigned cluster = config->numAttrs ? config->attrs->val.clusterDim.x : 1;
    if (!cluster || cluster > 8 || grid.x % cluster) return cudaErrorInvalidClusterSize;
    const uint64_t order = config->stream->order;
    emu::calls.launches++;
    if (emu::counting) {
        emu::launched.push_back({{grid.x, grid.y, grid.z}, threads, shared_bytes});
        return cudaSuccess;
    }
    config->stream->queue.push_back([=] {
        std::tuple<P...> packed(arguments...);
        struct Call { void (*kernel)(P...); std::tuple<P...>* arguments; } call{kernel, &packed};
        const auto apply = [](void* c) {
            const Call& call = *static_cast<Call*>(c);
            std::apply(call.kernel, *call.arguments);
        };
        const std::string failure = emu::run({grid, block, shared_bytes, cluster, apply, &call}, order);
        if (failure.empty()) return cudaSuccess;
        std::lock_guard<std::mutex> lock(emu::failure_mutex);
        emu::last_failure = "emulator: " + failure;
        return cudaErrorLaunchFailure;
    });
    return cudaSuccess;
}
