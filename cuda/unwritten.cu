// unwritten.cu: operations of the contract that have no kernel yet. They refuse; whoever writes the
// kernel removes the line here.
#include "device.cuh"

#define UNWRITTEN(name) \
    CUSAE_API(name)(const cusae_##name*, cusae_stream*) { return CUSAE_EUNWRITTEN; }

UNWRITTEN(attention)
UNWRITTEN(attention_pattern)
UNWRITTEN(attention_mix)
UNWRITTEN(unembed_cross_entropy)
UNWRITTEN(unembed_kl_divergence)
