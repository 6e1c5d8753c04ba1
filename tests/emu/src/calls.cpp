// What a thread has asked of the emulator's runtime, for tests that count it.
#include "cuda_runtime.h"

extern "C" emu::Calls cusae_emu_calls() { return emu::calls; }
