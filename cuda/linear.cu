// linear: a matrix product with bias, activation function and residual applied before it is written.
//
//   x [rows, d_input] f32 or bf16      w [d_input, d_output] f32, or [d_output, d_input] where transposed
//   bias [d_output] f32 or NULL      residual [rows, d_output] f32 or NULL
//   out  out [rows, d_output] f32
//
//   needs   a function of enum cusae_function; w of x's type, transposed where that is bf16;
//           d_output <= 4,194,240
//   work    gemm.cuh: a block owns 128 rows x 64 columns; bf16 as gemm_bf16.cuh
//   moves   4·(d_input/64 + d_input/128) bytes an element of out through L2, 4 out, 4 in for a residual
//   exact   as gemm.cuh: the sum in the order of d_input; then each step rounds once; bf16 as gemm_bf16.cuh
#include "gemm.cuh"
#include "gemm_bf16.cuh"
#include "linear.cuh"

namespace CUSAE_NS {

// As gemm.cuh calls it.
struct LinearEpilogue {
    KeepLinear keep;
    uint64_t d_output;
    __device__ __forceinline__ void operator()(uint64_t row, uint64_t column, float value) const {
        keep_one(keep, row, column, row * d_output + column, value);
    }
};

}  // namespace CUSAE_NS

CUSAE_API(linear)(const cusae_linear* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->function > CUSAE_TANH) return refuse("function is none of the activation functions");
    if (a->type > CUSAE_BF16) return refuse("the operands are neither f32 nor bf16");
    const KeepLinear keep{a->out, a->bias, a->residual, a->function};
    if (a->type == CUSAE_BF16) {
        if (!a->w_is_transposed) return refuse("bf16 weights are not transposed");
        if (int error = refuse_columns(a->d_output)) return error;
        const bf16 *x = static_cast<const bf16*>(a->x), *w = static_cast<const bf16*>(a->w);
        return gemm_bf16({x, w, nullptr, a->rows, a->d_output, a->d_input, nullptr, nullptr}, keep, stream);
    }
    const float *values = static_cast<const float*>(a->x), *w = static_cast<const float*>(a->w);
    const Operand<Layout::OuterK> x{values, a->rows, a->d_input};
    const LinearEpilogue epilogue{keep, a->d_output};
    if (a->w_is_transposed)
        return gemm(x, Operand<Layout::OuterK>{w, a->d_output, a->d_input}, a->d_input, epilogue, stream);
    return gemm(x, Operand<Layout::KOuter>{w, a->d_output, a->d_output}, a->d_input, epilogue, stream);
}
