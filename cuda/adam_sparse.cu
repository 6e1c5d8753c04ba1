// adam_sparse: one step of Adam over W_enc and W_dec, whose gradients are summed from lists where they are
// used and never stored, and the new norms of the decoder's rows.
// gradient_squares: the pass before it that a limit on the norm of all gradients needs.
//
//   of: lists, by_latent, pre_gradient, gradient, input (f32 or bf16) as in gradient_sparse; norm_gradient [B, S] f32 or
//   NULL: no such term; stored_w_enc, stored_w_dec [F, D] f32, stored_offsets [F + 1] u32 or NULL: nothing
//   is stored; rows of latents i with stored_offsets[i] < stored_offsets[i + 1] are added
//   gradient_squares: w_dec [F, D], decoder_norm [F] f32      b_enc  out [F] f32, in where a row is stored
//   squares  out [F] f64
//   adam_sparse: parameters, exp_avg, exp_avg_sq of both  in and out [F, D] f32
//   decoder_norm  in and out [F] f32      clip [1] f32      scalars: step_size, root_correction
//
//   needs   D >= 1; B·S <= 2^32 - 1; gradient and input of one type
//   work    a block per latent: see gradient_sparse.cuh. What Adam reads is asked for before the entries
//           are walked
//   moves   gradient_squares: 8·D bytes an entry, of bf16 4·D, from L2 when the batch fits. adam_sparse: the same, and
//           48·D a latent of parameters and moments in and out, the least that there is: 906 MB for
//           F 24,576 and D 768. Both: 8·D for a stored row; scratch of at most 1,024 pieces of 8·D
//   exact   the gradient's bits are gradient_sparse's with accumulate onto the stored rows; Adam's, for
//           that gradient, are adam's. Squares and norms: f64 in a fixed order, the same bits on every run
#include "gradient_sparse.cuh"

namespace CUSAE_NS {

struct SquareShared { double partial[32]; };

template <int N> __device__ __forceinline__ double sum_of_squares(const Pack<N>& pack) {
    double sum = 0;
#pragma unroll
    for (int n = 0; n < N; n++) sum += double(pack.at[n]) * double(pack.at[n]);
    return sum;
}

template <class T> Listed<T> listed(const cusae_listed_gradient& a) {
    const T *gradient = static_cast<const T*>(a.gradient), *input = static_cast<const T*>(a.input);
    return {a.lists, a.by_latent, a.pre_gradient, gradient, input, a.norm_gradient, a.rows, a.d_in, a.d_sae};
}

// Rows that are stored of other sums.
struct Stored {
    const float *w_enc, *w_dec;
    const uint32_t* offsets;
    __device__ __forceinline__ bool has(uint64_t latent) const { return offsets && offsets[latent] < offsets[latent + 1]; }
};

inline Stored stored(const cusae_listed_gradient& a) { return {a.stored_w_enc, a.stored_w_dec, a.stored_offsets}; }

// The gradient of some columns of a latent, without the norm's term.
template <int N, class T>
__device__ __forceinline__ LatentSums<N> gradient_of(const Listed<T>& a, const Pieces& pieces, const Stored& stored, uint64_t latent,
                                                     uint64_t column) {
    LatentSums<N> sums = sums_of_latent<N>(a, pieces, latent, column);
    if (stored.has(latent)) {
        add(sums.w_dec, load<N>(stored.w_dec + latent * a.d_in + column));
        add(sums.w_enc, load<N>(stored.w_enc + latent * a.d_in + column));
    }
    return sums;
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads) gradient_squares_kernel(Listed<T> a, Pieces pieces, Stored stored, const float* w_dec,
                                                                    const float* decoder_norm, float* b_enc, double* squares) {
    const uint64_t latent = blockIdx.x;
    double sum = 0;
    for (uint64_t column = threadIdx.x * N; column < a.d_in; column += blockDim.x * N) {
        LatentSums<N> sums = gradient_of<N>(a, pieces, stored, latent, column);
        if (a.norm_gradient) add_norm_term(sums, load<N>(w_dec + latent * a.d_in + column), decoder_norm[latent]);
        sum += sum_of_squares(sums.w_enc) + sum_of_squares(sums.w_dec);
        if (column == 0) b_enc[latent] = sums.b_enc + (stored.has(latent) ? b_enc[latent] : 0.0f);
    }
    sum = block_sum(sum, shared<SquareShared>().partial);
    if (threadIdx.x == 0) squares[latent] = sum;
}

// A matrix of parameters, and some columns of one of its rows.
template <int N> struct Columns {
    Pack<N> p, m, v;
    __device__ __forceinline__ void take(const cusae_adam_state& state, uint64_t at) {
        p = load<N>(state.parameter + at);
        m = load<N>(state.exp_avg + at);
        v = load<N>(state.exp_avg_sq + at);
    }
    __device__ __forceinline__ void step(const cusae_adam_sparse& a, const Pack<N>& gradient) {
        const float step_size = a.scalars->step_size, root_correction = a.scalars->root_correction, clip = a.clip[0];
#pragma unroll
        for (int n = 0; n < N; n++) {
            const float g = gradient.at[n] * clip;
            m.at[n] = a.beta1 * m.at[n] + a.complement1 * g;
            v.at[n] = a.beta2 * v.at[n] + a.complement2 * (g * g);
            p.at[n] -= step_size * (m.at[n] / (sqrtf(v.at[n]) / root_correction + a.epsilon));
        }
    }
    __device__ __forceinline__ void put(const cusae_adam_state& state, uint64_t at) const {
        store_global(state.parameter + at, p);
        store_global(state.exp_avg + at, m);
        store_global(state.exp_avg_sq + at, v);
    }
};

template <class T, int N>
__global__ void __launch_bounds__(kThreads) adam_sparse_kernel(Listed<T> listed, Pieces pieces, Stored stored, cusae_adam_sparse a) {
    const uint64_t latent = blockIdx.x;
    const float norm = a.decoder_norm[latent];
    double squares = 0;
    for (uint64_t column = threadIdx.x * N; column < listed.d_in; column += blockDim.x * N) {
        const uint64_t at = latent * listed.d_in + column;
        Columns<N> enc, dec;
        enc.take(a.w_enc, at);
        dec.take(a.w_dec, at);
        LatentSums<N> sums = gradient_of<N>(listed, pieces, stored, latent, column);
        add_norm_term(sums, dec.p, norm);
        enc.step(a, sums.w_enc);
        dec.step(a, sums.w_dec);
        enc.put(a.w_enc, at);
        dec.put(a.w_dec, at);
        squares += sum_of_squares(dec.p);
    }
    squares = block_sum(squares, shared<SquareShared>().partial);  // every thread has read the old norm
    if (threadIdx.x == 0) a.decoder_norm[latent] = float(sqrt(squares));
}

template <class T, int N> int gradient_squares(const cusae_gradient_squares& a, cusae_stream* stream) {
    const Listed<T> of = listed<T>(a.of);
    Pieces pieces;
    if (int error = piece_sums<N>(of, &pieces, stream)) return error;
    const unsigned threads = threads_for_row(of.d_in, 32, N);
    return launch(gradient_squares_kernel<T, N>, dim3(unsigned(of.d_sae)), threads, sizeof(SquareShared), stream, of, pieces, stored(a.of),
                  a.w_dec, a.decoder_norm, a.b_enc, a.squares);
}

template <class T, int N> int adam_sparse(const cusae_adam_sparse& a, cusae_stream* stream) {
    const Listed<T> of = listed<T>(a.of);
    Pieces pieces;
    if (int error = piece_sums<N>(of, &pieces, stream)) return error;
    const unsigned threads = threads_for_row(of.d_in, 32, N);
    return launch(adam_sparse_kernel<T, N>, dim3(unsigned(of.d_sae)), threads, sizeof(SquareShared), stream, of, pieces, stored(a.of), a);
}

}  // namespace CUSAE_NS

CUSAE_API(gradient_squares)(const cusae_gradient_squares* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (int error = refuse_listed(a->of.lists, a->of.rows, a->of.d_in, a->of.type)) return error;
    return with_packs(a->of.type, a->of.d_in, [&](auto packs) {
        using P = decltype(packs);
        return gradient_squares<typename P::Number, P::kWidth>(*a, stream);
    });
}

CUSAE_API(adam_sparse)(const cusae_adam_sparse* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (int error = refuse_listed(a->of.lists, a->of.rows, a->of.d_in, a->of.type)) return error;
    return with_packs(a->of.type, a->of.d_in, [&](auto packs) {
        using P = decltype(packs);
        return adam_sparse<typename P::Number, P::kWidth>(*a, stream);
    });
}
