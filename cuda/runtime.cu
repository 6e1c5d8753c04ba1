// runtime.cu: devices, streams, memory, events, graphs and the table. No kernels.
#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "common.cuh"

struct cusae_event { cudaEvent_t handle; };
struct cusae_graph { cudaGraphExec_t handle; };

namespace CUSAE_NS {
namespace {

thread_local const char* refused = "no arguments were refused";

const char* error_text(int status) {
    switch (status) {
        case CUSAE_OK: return "no error";
        case CUSAE_EINVAL: return refused;
        case CUSAE_EINDEX: return "an index is outside its matrix";
        default: return cudaGetErrorString(cudaError_t(status));
    }
}

int device_count(int* count) { return cudaGetDeviceCount(count); }

struct Attribute {
    cudaDeviceAttr which;
    int* to;
};

int attributes(int ordinal, std::initializer_list<Attribute> wanted) {
    for (const auto& [which, to] : wanted)
        if (int error = cudaDeviceGetAttribute(to, which, ordinal)) return error;
    return CUSAE_OK;
}

int device_properties(int ordinal, cusae_device* out) {
    cudaDeviceProp properties;
    if (int error = cudaSetDevice(ordinal)) return error;
    if (int error = cudaGetDeviceProperties(&properties, ordinal)) return error;
    std::memset(out, 0, sizeof *out);
    std::snprintf(out->name, sizeof out->name, "%s", properties.name);
    if (int error = attributes(ordinal, {
            {cudaDevAttrComputeCapabilityMajor, &out->compute_major},
            {cudaDevAttrComputeCapabilityMinor, &out->compute_minor},
            {cudaDevAttrMultiProcessorCount, &out->multiprocessors},
        }))
        return error;
    if (int error = cudaDriverGetVersion(&out->driver_version)) return error;
    if (int error = cudaRuntimeGetVersion(&out->runtime_version)) return error;
    size_t free = 0, total = 0;
    if (int error = cudaMemGetInfo(&free, &total)) return error;
    out->memory_total_bytes = total;
    out->memory_free_bytes = free;
    return CUSAE_OK;
}

int stream_destroy(cusae_stream* stream) {
    int error = cudaSetDevice(stream->ordinal);
    if (stream->handle) {
        const int unfinished = cudaStreamSynchronize(stream->handle), destroyed = cudaStreamDestroy(stream->handle);
        error = error ? error : unfinished ? unfinished : destroyed;
    }
    for (int i = 0; i < stream->n_outgrown; i++) cudaFree(stream->outgrown[i]);
    cudaFree(stream->scratch);
    cudaFreeHost(stream->fault);
    delete stream;
    return error;
}

int stream_create(cusae_stream** out, int ordinal) {
    if (int error = cudaSetDevice(ordinal)) return error;
    cusae_stream* stream = new cusae_stream{};
    stream->ordinal = ordinal;
    void *fault = nullptr, *device_fault = nullptr;
    int major = 0, minor = 0, reads_host = 0;
    int error = cudaStreamCreateWithFlags(&stream->handle, cudaStreamNonBlocking);
    if (!error)
        error = attributes(ordinal, {
            {cudaDevAttrComputeCapabilityMajor, &major},
            {cudaDevAttrComputeCapabilityMinor, &minor},
            {cudaDevAttrMultiProcessorCount, &stream->multiprocessors},
            {cudaDevAttrMaxSharedMemoryPerBlockOptin, &stream->shared_bytes},
            {cudaDevAttrPageableMemoryAccess, &reads_host},
        });
    stream->capability = 10 * major + minor;
    stream->reads_host = reads_host != 0;
    if (!error) error = cudaHostAlloc(&fault, sizeof(cusae_fault), cudaHostAllocMapped);
    if (!error) error = cudaHostGetDevicePointer(&device_fault, fault, 0);
    stream->fault = static_cast<cusae_fault*>(fault);
    stream->device_fault = static_cast<cusae_fault*>(device_fault);
    if (error) {
        stream_destroy(stream);
        return error;
    }
    *stream->fault = cusae_fault{};
    *out = stream;
    return CUSAE_OK;
}

int synchronize(cusae_stream* stream) {
    if (int error = cudaSetDevice(stream->ordinal)) return error;
    if (int error = cudaStreamSynchronize(stream->handle)) return error;
    return stream->fault->kind == CUSAE_FAULT_NONE ? CUSAE_OK : CUSAE_EINDEX;
}

int take_fault(cusae_stream* stream, cusae_fault* out) {
    *out = *stream->fault;
    *stream->fault = cusae_fault{};
    return CUSAE_OK;
}

int memory_allocate(void** out, uint64_t bytes, cusae_stream* stream) {
    if (int error = cudaSetDevice(stream->ordinal)) return error;
    return cudaMalloc(out, bytes);
}

int memory_free(void* memory, cusae_stream* stream) {
    if (int error = cudaSetDevice(stream->ordinal)) return error;
    const int unfinished = cudaStreamSynchronize(stream->handle), freed = cudaFree(memory);
    return unfinished ? unfinished : freed;
}

int copy(void* to, const void* from, uint64_t bytes, cudaMemcpyKind kind, cusae_stream* stream) {
    if (bytes == 0) return CUSAE_OK;
    if (int error = cudaSetDevice(stream->ordinal)) return error;
    return cudaMemcpyAsync(to, from, bytes, kind, stream->handle);
}

// When it returns the source may be used again: what the device reads by itself, which is page-locked memory
// and on some machines any of the host's, is only queued and must be waited for.
int copy_to_device(void* to, const void* from, uint64_t bytes, cusae_stream* stream) {
    if (bytes == 0) return CUSAE_OK;
    if (stream->capturing) return cudaErrorStreamCaptureUnsupported;  // a graph would read the source when it is launched
    if (int error = copy(to, from, bytes, cudaMemcpyHostToDevice, stream)) return error;
    cudaPointerAttributes source;
    if (int error = cudaPointerGetAttributes(&source, from)) return error;
    if (source.type == cudaMemoryTypeUnregistered && !stream->reads_host) return CUSAE_OK;
    return cudaStreamSynchronize(stream->handle);
}

int copy_to_host(void* to, const void* from, uint64_t bytes, cusae_stream* stream) {
    return copy(to, from, bytes, cudaMemcpyDeviceToHost, stream);
}

int copy_on_device(void* to, const void* from, uint64_t bytes, cusae_stream* stream) {
    return copy(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

int event_create(cusae_event** out, cusae_stream* stream) {
    if (int error = cudaSetDevice(stream->ordinal)) return error;
    cudaEvent_t handle;
    if (int error = cudaEventCreate(&handle)) return error;
    *out = new cusae_event{handle};
    return CUSAE_OK;
}

int event_destroy(cusae_event* event) {
    const int error = cudaEventDestroy(event->handle);
    delete event;
    return error;
}

int event_record(cusae_event* event, cusae_stream* stream) { return cudaEventRecord(event->handle, stream->handle); }

int event_elapsed_ms(float* out, cusae_event* from, cusae_event* to) {
    if (int error = cudaEventSynchronize(from->handle)) return error;
    if (int error = cudaEventSynchronize(to->handle)) return error;
    return cudaEventElapsedTime(out, from->handle, to->handle);
}

int capture_begin(cusae_stream* stream) {
    if (int error = cudaSetDevice(stream->ordinal)) return error;
    if (int error = cudaStreamBeginCapture(stream->handle, cudaStreamCaptureModeThreadLocal)) return error;
    stream->capturing = true;
    return CUSAE_OK;
}

int capture_end(cusae_graph** out, cusae_stream* stream) {
    stream->capturing = false;
    cudaGraph_t graph = nullptr;
    if (int error = cudaStreamEndCapture(stream->handle, &graph)) return error;
    cudaGraphExec_t handle = nullptr;
    const int error = cudaGraphInstantiate(&handle, graph, 0);
    cudaGraphDestroy(graph);
    if (error) return error;
    *out = new cusae_graph{handle};
    return CUSAE_OK;
}

int graph_launch(cusae_graph* graph, cusae_stream* stream) {
    if (int error = cudaSetDevice(stream->ordinal)) return error;
    return cudaGraphLaunch(graph->handle, stream->handle);
}

int graph_destroy(cusae_graph* graph) {
    const int error = cudaGraphExecDestroy(graph->handle);
    delete graph;
    return error;
}

}  // namespace

int refuse(const char* sentence) {
    refused = sentence;
    return CUSAE_EINVAL;
}

int memory_set(void* to, int byte, uint64_t bytes, cusae_stream* stream) {
    if (bytes == 0) return CUSAE_OK;
    if (int error = cudaSetDevice(stream->ordinal)) return error;
    return cudaMemsetAsync(to, byte, bytes, stream->handle);
}

int scratch_bytes(cusae_stream* stream, uint64_t bytes, void** out) {
    if (bytes > stream->scratch_bytes) {
        if (stream->capturing) return refuse("scratch memory must grow: run the work once before it is captured");
        // Twice as much as before, so that 48 outgrown pieces are never reached.
        const uint64_t grown = bytes < 2 * stream->scratch_bytes ? 2 * stream->scratch_bytes : bytes;
        void* memory = nullptr;
        if (int error = cudaSetDevice(stream->ordinal)) return error;
        if (int error = cudaMalloc(&memory, grown)) return error;
        if (stream->scratch) stream->outgrown[stream->n_outgrown++] = stream->scratch;
        stream->scratch = memory;
        stream->scratch_bytes = grown;
    }
    *out = stream->scratch;
    return CUSAE_OK;
}

}  // namespace CUSAE_NS

extern "C" const cusae_table* CUSAE_NAME(table)() {
    using namespace CUSAE_NS;
    static const cusae_table table = {
        sizeof(cusae_table), error_text,     device_count, device_properties, stream_create,  stream_destroy,
        synchronize,         take_fault,     memory_allocate, memory_free,    memory_set,     copy_to_device,
        copy_to_host,        copy_on_device, event_create, event_destroy,     event_record,   event_elapsed_ms,
        capture_begin,       capture_end,    graph_launch, graph_destroy,
#define CUSAE_ENTRY(name) CUSAE_NAME(name),
        CUSAE_OPERATIONS(CUSAE_ENTRY)
#undef CUSAE_ENTRY
    };
    return &table;
}
