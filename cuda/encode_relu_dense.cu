// encode_relu_dense: features = max(input · w_encᵀ + b_enc, 0), all of them.
//
//   input [B, D], w_enc [F, D] f32 or bf16      b_enc [F] f32
//   features  out [B, F] f32; a NaN stays one      counts  out [B] u32: positive features
//
//   needs   F <= 4,194,240
//   work    gemm.cuh: a block owns 128 rows x 64 latents; bf16 as gemm_bf16.cuh
//   moves   4·(D/64 + D/128) bytes a feature through L2, 4 out
//   exact   as gemm.cuh, then b_enc; counts are integer atomics, whose sum has no order: the same bits
//           on every run
#include "encode.cuh"

CUSAE_API(encode_relu_dense)(const cusae_encode_relu_dense* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (int error = refuse_encoder(a->encoder.type, a->encoder.d_sae)) return error;
    if (int error = memory_set(a->counts, 0, a->encoder.rows * sizeof(uint32_t), stream)) return error;
    return encode(rows_of(a->encoder), KeepRectified{a->features, a->counts}, stream);
}
