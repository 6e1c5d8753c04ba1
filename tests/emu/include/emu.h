// emu.h: runs CUDA kernels on the CPU, for tests only.
//
// A block is a set of fibers on one OS thread; a fiber runs until it must wait. What a GPU leaves
// open is decided against the kernel: threads run in an order drawn from a seed, all alike where it is
// odd and one warp far ahead of the others where it is even; shared memory
// starts as NaN, an asynchronous copy poisons its destination and arrives as late as it may. So a
// missing barrier or wait gives wrong numbers or a reported deadlock here, not luck.
//
// It does not see: the memory model (fibers are sequentially consistent), registers, time,
// rounding inside tensor cores, and legality of instructions, which only nvcc knows.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emu {

// ---- Fibers --------------------------------------------------------------------------------------

#if defined(__x86_64__)
struct Context { void* stack_pointer; };
// Saves the callee-saved registers on the old stack, adopts the new one, restores, returns.
extern "C" void emu_swap(void** save, void* load);
__asm__(".text\n.weak emu_swap\n.type emu_swap,@function\nemu_swap:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
inline void swap(Context& from, Context& to) { emu_swap(&from.stack_pointer, to.stack_pointer); }
inline void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + size) - 1;  // rsp % 16 == 8 at entry, as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
    context.stack_pointer = top;
}
#else
struct Context { ucontext_t context; };
inline void swap(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
inline void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
    getcontext(&context.context);
    context.context.uc_stack.ss_sp = stack;
    context.context.uc_stack.ss_size = size;
    context.context.uc_link = nullptr;
    makecontext(&context.context, entry, 0);
}
#endif

constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kGuardBytes = 64, kSharedAlign = 1024;
// What lies around memory: as a float a signalling NaN, which arithmetic makes a quiet one, and large as an
// index, so that reading it shows, too.
inline unsigned char guard_byte(size_t i) { return (0x7f8badbdu >> (8 * (i % 4))) & 0xff; }
inline void guard(unsigned char* from, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) from[i] = guard_byte(i);
}
// The first byte that is not what guard() has left, `bytes` if there is none.
inline size_t first_unguarded(const unsigned char* from, size_t bytes) {
    size_t i = 0;
    while (i < bytes && from[i] == guard_byte(i)) i++;
    return i;
}

struct Block;

// A warpgroup's product as a lane has it: what it adds to, and what of.
struct Product {
    float* d;
    int columns;
    uint64_t a, b;  // descriptors
    int group;
};

struct Fiber {
    Context context;
    char* stack = nullptr;
    uint3 thread{};
    int flat = 0;  // thread number in the block
    Block* block = nullptr;
    bool started = false, done = false;
    int copy_groups = 0;                // cp.async groups committed
    std::vector<Product> products;      // of its warpgroup that nobody has waited for
    int product_groups = 0;             // wgmma groups committed
    bool (*poll)(void*) = nullptr;      // what it waits for, where nobody wakes it
    void* poll_argument = nullptr;
    void* fake_stack = nullptr;         // AddressSanitizer's
};

struct Barrier {
    const char* file = nullptr;
    int line = 0;
    std::vector<Fiber*> waiting;
};

// A warp-wide operation: every lane deposits its operands, the last one computes for all.
struct Rendezvous {
    uint32_t mask = 0;
    int operation = 0, arrived = 0, lanes = 0;
    void* operands[128];
    Fiber* waiting[128];
    Rendezvous() {}  // the arrays stay as they are: this is made for every shuffle
};

struct AsyncCopy {
    void* to;
    std::vector<unsigned char> bytes;
    uint64_t* mbarrier;  // null: cp.async
    int group;
    Fiber* owner;
};

struct Block {
    uint3 index{};
    int rank = 0, alive = 0;
    unsigned char* shared = nullptr;
    Barrier barriers[16];
    std::vector<std::vector<Rendezvous>> warps;  // those not complete yet; then those of warpgroups
    std::vector<AsyncCopy> copies;
};

struct Launch {
    dim3 grid, block;
    size_t shared_bytes;
    unsigned cluster;
    void (*run)(void*);
    void* arguments;
};

// One OS thread's world: the blocks of one cluster and their fibers.
struct Machine {
    const Launch* launch = nullptr;
    Context home;
    Fiber* current = nullptr;
    std::vector<Block> blocks;
    std::vector<Fiber> fibers;
    std::vector<Fiber*> ready, polling;
    std::vector<char*> free_stacks;
    std::vector<unsigned char> shared;
    Barrier cluster_barrier;
    size_t alive = 0;
    uint64_t random = 0;      // 0: threads in order
    bool runs_ahead = false;  // who was woken last goes on, so that a warp leaves the others behind
    std::string failure;

    size_t below(size_t n) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        return (random >> 33) % n;
    }
};
inline constinit thread_local Machine* self = nullptr;

#if defined(__SANITIZE_ADDRESS__)
inline constinit thread_local const void* home_bottom = nullptr;
inline constinit thread_local size_t home_size = 0;
#endif

// Leaves the fiber; somebody must have noted whom to wake.
inline void suspend() {
    Fiber& fiber = *self->current;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fiber.fake_stack, home_bottom, home_size);
#endif
    swap(fiber.context, self->home);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &home_bottom, &home_size);
#endif
}

// Ends the launch with a sentence; the other fibers are abandoned where they stand.
inline void fail(const std::string& what) {
    Machine& m = *self;
    char where[160];
    const uint3 block = m.current->block->index, thread = m.current->thread;
    std::snprintf(where, sizeof where, " (block %u,%u,%u thread %u,%u,%u; %zu of %zu threads alive)", block.x,
                  block.y, block.z, thread.x, thread.y, thread.z, m.alive, m.fibers.size());
    m.failure = what + where;
    for (;;) suspend();
}

inline void wake(Fiber* fiber) { self->ready.push_back(fiber); }

inline void release(Barrier& barrier) {
    for (Fiber* fiber : barrier.waiting) wake(fiber);
    barrier.waiting.clear();
}

// Waits for something that nobody announces: an mbarrier.
template <class P> void wait_until(P holds) {
    if (holds()) return;
    Fiber* fiber = self->current;
    fiber->poll = [](void* argument) { return (*static_cast<P*>(argument))(); };
    fiber->poll_argument = &holds;
    self->polling.push_back(fiber);
    suspend();
}

inline void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &home_bottom, &home_size);
#endif
    Machine& m = *self;
    Fiber& fiber = *m.current;
    m.launch->run(m.launch->arguments);
    fiber.done = true;
    m.alive--;
    Block& block = *fiber.block;
    block.alive--;
    // Threads that have left no longer take part in __syncthreads.
    Barrier& all = block.barriers[0];
    if (block.alive && int(all.waiting.size()) == block.alive) release(all);
    suspend();
    std::abort();
}

// ---- mbarriers and asynchronous copies -------------------------------------------------------------

// An mbarrier's word: bits 0..31 outstanding bytes, 32..46 pending arrivals, 47..61 count, 63 phase.
// As shared memory starts, all bits are set.
inline void mbarrier_is_there(const uint64_t* barrier) {
    if (*barrier == ~uint64_t(0)) fail("nobody has initialised this mbarrier yet");
}

inline void mbarrier_update(uint64_t* barrier, int arrivals, int32_t bytes) {
    const int count = *barrier >> 47 & 0x7fff;
    const int32_t outstanding = int32_t(uint32_t(*barrier)) + bytes;
    int pending = int(*barrier >> 32 & 0x7fff) - arrivals;
    uint64_t phase = *barrier >> 63;
    if (pending == 0 && outstanding == 0) {
        phase ^= 1;
        pending = count;
    }
    *barrier = phase << 63 | uint64_t(count) << 47 | uint64_t(pending & 0x7fff) << 32 | uint32_t(outstanding);
}

// Where another block of the cluster has what is here in this block's shared memory.
template <class T> inline T* in_block(T* here, unsigned rank) {
    if (rank >= self->blocks.size()) fail("the cluster has no block of this rank");
    if (!self->blocks[rank].alive) fail("a block of the cluster has left, and its shared memory with it");
    const ptrdiff_t offset = reinterpret_cast<unsigned char*>(here) - self->current->block->shared;
    return reinterpret_cast<T*>(self->blocks[rank].shared + offset);
}

inline void async_copy(void* to, const void* from, size_t bytes, size_t valid, uint64_t* mbarrier) {
    Fiber* fiber = self->current;
    AsyncCopy copy{to, std::vector<unsigned char>(bytes, 0), mbarrier, fiber->copy_groups, fiber};
    if (valid) std::memcpy(copy.bytes.data(), from, valid);
    if (mbarrier) mbarrier_is_there(mbarrier);
    std::memset(to, 0xff, bytes);
    fiber->block->copies.push_back(std::move(copy));
}

inline void deliver(Block& block, size_t which) {
    AsyncCopy copy = std::move(block.copies[which]);
    block.copies.erase(block.copies.begin() + ptrdiff_t(which));
    std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
    if (copy.mbarrier) mbarrier_update(copy.mbarrier, 0, -int32_t(copy.bytes.size()));
}

// cp.async.wait_group: all but the newest `keep` groups of this thread arrive.
inline void copy_wait(int keep) {
    Fiber* fiber = self->current;
    Block& block = *fiber->block;
    for (size_t i = 0; i < block.copies.size();) {
        const AsyncCopy& copy = block.copies[i];
        const bool due = !copy.mbarrier && copy.owner == fiber && copy.group < fiber->copy_groups - keep;
        if (due) deliver(block, i);
        else i++;
    }
}

// A bulk copy arrives only when no thread can go on without it.
inline bool deliver_any() {
    Machine& m = *self;
    std::vector<std::pair<Block*, size_t>> candidates;
    for (Block& block : m.blocks)
        for (size_t i = 0; i < block.copies.size(); i++)
            if (block.copies[i].mbarrier) candidates.push_back({&block, i});
    if (candidates.empty()) return false;
    const auto [block, which] = candidates[m.random ? m.below(candidates.size()) : 0];
    deliver(*block, which);
    return true;
}

// ---- The scheduler ---------------------------------------------------------------------------------

inline void poll_all() {
    Machine& m = *self;
    std::erase_if(m.polling, [&](Fiber* fiber) {
        const bool holds = fiber->poll(fiber->poll_argument);
        if (holds) wake(fiber);
        return holds;
    });
}

inline std::string deadlock_report(const Machine& m) {
    std::string report = "deadlock: no thread can run";
    const auto add = [&](const Block& block, size_t waiting, int of, const std::string& at) {
        report += "; block " + std::to_string(block.index.x) + " has " + std::to_string(waiting) + " of " +
                  std::to_string(of) + at;
    };
    for (const Block& block : m.blocks) {
        for (const Barrier& barrier : block.barriers)
            if (!barrier.waiting.empty())
                add(block, barrier.waiting.size(), block.alive,
                    std::string(" threads at ") + barrier.file + ":" + std::to_string(barrier.line));
        for (size_t warp = 0; warp < block.warps.size(); warp++)
            for (const Rendezvous& open : block.warps[warp])
                add(block, size_t(open.arrived), open.lanes, " lanes at an operation of warp " + std::to_string(warp));
    }
    return report;
}

inline void give_stack(Machine& m, Fiber& fiber) {
    if (m.free_stacks.empty()) {
        void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED || mprotect(stack, 4096, PROT_NONE)) {
            std::fputs("emu: no memory for a fiber's stack\n", stderr);
            std::abort();
        }
        m.free_stacks.push_back(static_cast<char*>(stack));
    }
    fiber.stack = m.free_stacks.back();
    m.free_stacks.pop_back();
    // Tops at equal offsets would share cache sets.
    const size_t colour = uintptr_t(fiber.stack) / kStackBytes % 61 * 128;
    prepare(fiber.context, fiber.stack, kStackBytes - colour, fiber_main);
    fiber.started = true;
}

inline void resume(Machine& m, Fiber& fiber) {
    if (!fiber.started) give_stack(m, fiber);
    m.current = &fiber;
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack;
    __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, kStackBytes);
#endif
    swap(m.home, fiber.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
    if (fiber.done) {
        m.free_stacks.push_back(fiber.stack);
        fiber.stack = nullptr;
    }
}

// Takes one of the threads that can run, which are those from `head` on.
inline Fiber* take_ready(Machine& m, size_t& head) {
    const size_t last = m.ready.size() - 1;
    if (m.runs_ahead && m.below(16) > 0) {
        Fiber* fiber = m.ready[last];
        m.ready.pop_back();
        return fiber;
    }
    if (m.random) std::swap(m.ready[head], m.ready[head + m.below(last + 1 - head)]);
    return m.ready[head++];
}

inline void run_fibers(Machine& m) {
    for (size_t head = 0; m.alive && m.failure.empty();) {
        if (m.random && m.below(4) == 0) poll_all();
        if (head == m.ready.size()) {
            m.ready.clear();
            head = 0;
            poll_all();
            if (m.ready.empty() && !deliver_any()) m.failure = deadlock_report(m);
            continue;
        }
        resume(m, *take_ready(m, head));
    }
    for (Fiber& fiber : m.fibers)
        if (fiber.stack) {  // abandoned after a failure
            m.free_stacks.push_back(fiber.stack);
            fiber.stack = nullptr;
        }
    m.ready.clear();
    m.polling.clear();
}

inline void run_cluster(Machine& m, unsigned first) {
    const Launch& launch = *m.launch;
    const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
    m.blocks.resize(launch.cluster);
    m.fibers.resize(threads * launch.cluster);
    m.alive = m.fibers.size();
    m.failure.clear();
    m.cluster_barrier.waiting.clear();

    // A fence before every block's memory, as long as its alignment, and a short one behind it.
    const size_t stride = kSharedAlign + (launch.shared_bytes + kGuardBytes + kSharedAlign - 1) / kSharedAlign * kSharedAlign;
    m.shared.resize(stride * launch.cluster + kSharedAlign);
    unsigned char* shared = m.shared.data() + (-uintptr_t(m.shared.data()) & (kSharedAlign - 1));
    std::memset(shared, 0xff, stride * launch.cluster);
    for (unsigned rank = 0; rank < launch.cluster; rank++) {
        Block& block = m.blocks[rank];
        const unsigned i = first + rank;
        block.index = {i % launch.grid.x, i / launch.grid.x % launch.grid.y, i / launch.grid.x / launch.grid.y};
        block.rank = int(rank);
        block.alive = int(threads);
        block.shared = shared + rank * stride + kSharedAlign;
        block.copies.clear();
        block.warps.resize((threads + 31) / 32 + (threads + 127) / 128);
        for (auto& open : block.warps) open.clear();
        for (Barrier& barrier : block.barriers) barrier.waiting.clear();
        guard(block.shared - kSharedAlign, kSharedAlign);
        guard(block.shared + launch.shared_bytes, kGuardBytes);
#if defined(__SANITIZE_ADDRESS__)
        __asan_poison_memory_region(block.shared - kSharedAlign, kSharedAlign);
        __asan_poison_memory_region(block.shared + launch.shared_bytes, kGuardBytes);
#endif
    }
    for (size_t i = 0; i < m.fibers.size(); i++) {
        Fiber& fiber = m.fibers[i];
        const unsigned t = unsigned(i) % threads;
        fiber.thread = {t % launch.block.x, t / launch.block.x % launch.block.y, t / launch.block.x / launch.block.y};
        fiber.flat = int(t);
        fiber.block = &m.blocks[i / threads];
        fiber.started = fiber.done = false;
        fiber.copy_groups = fiber.product_groups = 0;
        fiber.products.clear();
        m.ready.push_back(&fiber);
    }
    run_fibers(m);
    for (Block& block : m.blocks) {
        unsigned char *before = block.shared - kSharedAlign, *behind = block.shared + launch.shared_bytes;
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(before, kSharedAlign);
        __asan_unpoison_memory_region(behind, kGuardBytes);
#endif
        if (first_unguarded(before, kSharedAlign) < kSharedAlign)
            m.failure = "a block wrote before the beginning of its shared memory";
        if (first_unguarded(behind, kGuardBytes) < kGuardBytes)
            m.failure = "a block wrote past the end of its shared memory";
    }
}

// Runs a whole grid. Returns what went wrong, empty if nothing did.
inline std::string run(const Launch& launch, uint64_t order) {
    static std::mutex mutex;
    static std::vector<Machine*> idle;  // kept between launches, with their stacks
    const unsigned blocks = launch.grid.x * launch.grid.y * launch.grid.z, clusters = blocks / launch.cluster;
    std::atomic<unsigned> next{0};
    std::string failure;
    auto worker = [&] {
        Machine* machine = nullptr;
        {
            std::lock_guard<std::mutex> lock(mutex);
            if (!idle.empty()) {
                machine = idle.back();
                idle.pop_back();
            }
        }
        if (!machine) machine = new Machine;
        machine->launch = &launch;
        self = machine;
        for (unsigned i; (i = next++) < clusters;) {
            // Blocks too come in an order of the seed's: forwards, backwards.
            const unsigned cluster = order % 2 ? clusters - 1 - i : i;
            machine->random = order ? order * 0x9E3779B97F4A7C15ull + cluster + 1 : 0;
            machine->runs_ahead = order && order % 2 == 0;
            run_cluster(*machine, cluster * launch.cluster);
            if (!machine->failure.empty()) {
                next = clusters;
                std::lock_guard<std::mutex> lock(mutex);
                failure = machine->failure;
            }
        }
        self = nullptr;
        std::lock_guard<std::mutex> lock(mutex);
        idle.push_back(machine);
    };
    const uint64_t threads = uint64_t(blocks) * launch.block.x * launch.block.y * launch.block.z;
    const unsigned workers = threads < 8192 ? 1 : std::min(std::thread::hardware_concurrency(), clusters);
    std::vector<std::thread> others;
    for (unsigned i = 1; i < workers; i++) others.emplace_back(worker);
    worker();
    for (std::thread& other : others) other.join();
    return failure;
}

// ---- Barriers and warp operations ------------------------------------------------------------------

// bar.sync: `threads` is 0 for all that are alive.
inline void sync_block(const char* file, int line, int id = 0, int threads = 0) {
    Block& block = *self->current->block;
    Barrier& barrier = block.barriers[id];
    if (barrier.waiting.empty()) {
        barrier.file = file;
        barrier.line = line;
    } else if (id == 0 && (barrier.line != line || std::strcmp(barrier.file, file))) {
        fail(std::string("threads of one block met at two different __syncthreads(): ") + barrier.file + ":" +
             std::to_string(barrier.line) + " and " + file + ":" + std::to_string(line));
    }
    if (int(barrier.waiting.size()) + 1 == (threads ? threads : block.alive)) return release(barrier);
    barrier.waiting.push_back(self->current);
    suspend();
}

inline void sync_cluster() {
    Barrier& barrier = self->cluster_barrier;
    if (barrier.waiting.size() + 1 == self->alive) return release(barrier);
    barrier.waiting.push_back(self->current);
    suspend();
}

// All `lanes` of `mask` deposit a pointer to their operands; the last one runs compute(operands).
template <class F>
void collective(std::vector<Rendezvous>& open, int lane, int lanes, uint32_t mask, int operation, void* operands, F compute) {
    auto r = std::find_if(open.begin(), open.end(), [&](const Rendezvous& r) { return r.mask == mask; });
    if (r == open.end()) {
        open.emplace_back();
        r = open.end() - 1;
        r->mask = mask;
        r->operation = operation;
        r->lanes = lanes;
    }
    if (r->operation != operation) fail("lanes of one warp met at two different warp operations");
    r->operands[lane] = operands;
    if (r->arrived + 1 < lanes) {
        r->waiting[r->arrived++] = self->current;
        return suspend();
    }
    compute(r->operands);
    for (int i = 0; i < r->arrived; i++) wake(r->waiting[i]);
    open.erase(r);
}

template <class F> void warp_collective(uint32_t mask, int operation, void* operands, F compute) {
    Fiber& fiber = *self->current;
    const int lane = fiber.flat % 32;
    if (!(mask >> lane & 1)) fail("a lane takes part in a warp operation whose mask leaves it out");
    collective(fiber.block->warps[size_t(fiber.flat) / 32], lane, __builtin_popcount(mask), mask, operation, operands, compute);
}

// A shuffle: every lane gives a value and gets the value of the lane it names.
template <class T> T exchange(uint32_t mask, T value, int operation, int source) {
    struct Slot { T in, out; int source; } slot{value, value, source};
    warp_collective(mask, operation, &slot, [mask](void** in) {
        for (int lane = 0; lane < 32; lane++)
            if (mask >> lane & 1) {
                Slot& to = *static_cast<Slot*>(in[lane]);
                // A lane outside the mask gives nothing that can be relied on.
                if (mask >> to.source & 1) to.out = static_cast<Slot*>(in[to.source])->in;
                else std::memset(&to.out, 0xff, sizeof(T));
            }
    });
    return slot.out;
}

// A vote: every lane gets the lanes whose predicate holds.
inline uint32_t ballot(uint32_t mask, bool predicate) {
    struct Slot { bool in; uint32_t out; } slot{predicate, 0};
    warp_collective(mask, 4, &slot, [mask](void** in) {
        uint32_t votes = 0;
        for (int lane = 0; lane < 32; lane++)
            if ((mask >> lane & 1) && static_cast<Slot*>(in[lane])->in) votes |= 1u << lane;
        for (int lane = 0; lane < 32; lane++)
            if (mask >> lane & 1) static_cast<Slot*>(in[lane])->out = votes;
    });
    return slot.out;
}

// ---- Products of a warpgroup (wgmma) ------------------------------------------------------------------
//
// They are done as late as may be: when their lanes wait for them.

// Ends the launch where a descriptor does not say of a tile what tile_element takes for granted.
inline void check_descriptor(uint64_t descriptor) {
    const uint64_t along_lines = descriptor >> 16 & 0x3fff, base_offset = descriptor >> 49 & 7, swizzle = descriptor >> 62;
    if (along_lines != 1 || base_offset != 0 || swizzle != 1) fail("wgmma: a tile's lines are not swizzled by 128 bytes");
}

inline void start_product(float* d, int columns, uint64_t a, uint64_t b) {
    check_descriptor(a);
    check_descriptor(b);
    Fiber& fiber = *self->current;
    fiber.products.push_back({d, columns, a, b, fiber.product_groups});
}

// Element k of a line of a tile, whose lines have 128 bytes swizzled by 128, by its descriptor.
inline float tile_element(const Block& block, uint64_t descriptor, int line, int k) {
    const size_t start = (descriptor & 0x3fff) << 4, eight_lines = (descriptor >> 32 & 0x3fff) << 4;
    size_t at = start + size_t(line) / 8 * eight_lines + size_t(line) % 8 * 128 + size_t(k) * 2;
    at ^= (at >> 7 & 7) << 4;
    uint16_t half;
    std::memcpy(&half, block.shared + at, 2);
    const uint32_t bits = uint32_t(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// The oldest product of a warpgroup's lanes: d[64, columns] += a[64, 16] b[columns, 16]T.
inline void multiply(const Block& block, void** lanes) {
    const Product first = static_cast<Fiber*>(lanes[0])->products.front();
    float a[64][16], b[256][16];
    for (int k = 0; k < 16; k++) {
        for (int line = 0; line < 64; line++) a[line][k] = tile_element(block, first.a, line, k);
        for (int line = 0; line < first.columns; line++) b[line][k] = tile_element(block, first.b, line, k);
    }
    for (int lane = 0; lane < 128; lane++) {
        Fiber& fiber = *static_cast<Fiber*>(lanes[lane]);
        if (fiber.products.empty()) fail("lanes of one warpgroup wait for different products");
        const Product mine = fiber.products.front();
        if (mine.a != first.a || mine.b != first.b) fail("lanes of one warpgroup wait for different products");
        for (int i = 0; i < first.columns / 2; i++) {
            const int row = lane / 32 * 16 + lane % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
            for (int k = 0; k < 16; k++) mine.d[i] += a[row][k] * b[column][k];
        }
        fiber.products.erase(fiber.products.begin());
    }
}

// wgmma.wait_group: all but the newest `keep` groups are done.
inline void products_wait(int keep) {
    Fiber& fiber = *self->current;
    Block& block = *fiber.block;
    const dim3 size = self->launch->block;
    const size_t warps = (size_t(size.x) * size.y * size.z + 31) / 32;
    collective(block.warps[warps + size_t(fiber.flat) / 128], fiber.flat % 128, 128, ~0u, 12, &fiber, [&](void** lanes) {
        const Fiber& first = *static_cast<Fiber*>(lanes[0]);
        while (!first.products.empty() && first.products.front().group < first.product_groups - keep) multiply(block, lanes);
    });
}

inline int lane() { return self->current->flat % 32; }

}  // namespace emu
