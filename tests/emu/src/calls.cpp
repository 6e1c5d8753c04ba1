// What a thread has asked of the emulator's runtime, for tests that count it.
#include "cuda_runtime.h"

extern "C" emu::Calls cusae_emu_calls() { return emu::calls; }

extern "C" void cusae_emu_count_only(bool counting) {
    emu::counting = counting;
    emu::launched.clear();
}

// The host's memory from `at` on is page-locked from now on; 0 bytes: no longer.
extern "C" void cusae_emu_lock_pages(const void* at, size_t bytes) {
    std::lock_guard<std::mutex> lock(emu::memory_mutex);
    if (bytes) emu::page_locked[at] = bytes;
    else emu::page_locked.erase(at);
}

// The number of launches noted; `out`, where given, gets as many.
extern "C" size_t cusae_emu_launched(emu::Launched* out) {
    if (out) std::copy(emu::launched.begin(), emu::launched.end(), out);
    return emu::launched.size();
}
