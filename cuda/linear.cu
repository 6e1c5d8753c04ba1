// linear: a matrix product with bias, activation function and residual applied before it is written.
//
//   x [rows, d_input] f32      w [d_input, d_output] f32, or [d_output, d_input] where transposed
//   bias [d_output] f32 or NULL      residual [rows, d_output] f32 or NULL
//   out  out [rows, d_output] f32
//
//   needs   a function of enum cusae_function; d_output <= 4,194,240
//   work    gemm.cuh: a block owns 128 rows x 64 columns
//   moves   4·(d_input/64 + d_input/128) bytes an element of out through L2, 4 out, 4 in for a residual
//   exact   as gemm.cuh: the sum in the order of d_input; then each step rounds once
#include "functions.cuh"
#include "gemm.cuh"

namespace CUSAE_NS {

struct LinearEpilogue {
    const float *bias, *residual;
    float* out;
    uint64_t d_output;
    uint32_t function;
    __device__ __forceinline__ void operator()(uint64_t row, uint64_t column, float value) const {
        const uint64_t at = row * d_output + column;
        if (bias) value += bias[column];
        value = activation(function, value);
        out[at] = residual ? value + residual[at] : value;
    }
};

}  // namespace CUSAE_NS

CUSAE_API(linear)(const cusae_linear* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (a->function > CUSAE_TANH) return refuse("function is none of the activation functions");
    const Operand<Layout::OuterK> x{a->x, a->rows, a->d_input};
    const LinearEpilogue epilogue{a->bias, a->residual, a->out, a->d_output, a->function};
    if (a->w_is_transposed)
        return gemm(x, Operand<Layout::OuterK>{a->w, a->d_output, a->d_input}, a->d_input, epilogue, stream);
    return gemm(x, Operand<Layout::KOuter>{a->w, a->d_output, a->d_output}, a->d_input, epilogue, stream);
}
