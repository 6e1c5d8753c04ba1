// gradient_sparse: the gradients of both weight matrices and of b_enc, latent by latent.
//
//   lists [B, S] by row      by_latent: offsets [F + 1], entries      pre_gradient [B, S] f32
//   gradient, input [B, D] f32 or bf16
//   norm_gradient [B, S], decoder_norm [F], w_dec [F, D] f32; norm_gradient NULL: no such term
//   out.w_enc, out.w_dec [F, D], out.b_enc [F] f32: written, or with accumulate in and out; with
//   only_listed rows of latents without entries stay as they were
//
//   needs   D >= 1; B·S <= 2^32 - 1; gradient and input of one type
//   work    a block per latent: see gradient_sparse.cuh
//   moves   8·D bytes an entry, of bf16 4·D, from L2 when the batch fits; 8·D a latent out; scratch of at most
//           1,024 pieces of 8·D
//   exact   f32, fused, in ascending b: the entries before the first whole piece, then piece by piece,
//           then the others; what is accumulated to and the norm's term come last; the same bits on
//           every run
#include "gradient_sparse.cuh"

namespace CUSAE_NS {

template <class T, int N> __global__ void __launch_bounds__(kThreads) gradient_sparse_kernel(Listed<T> a, Pieces pieces, cusae_norm_gradient norm, cusae_weight_gradients out) {
    const uint64_t latent = blockIdx.x;
    const bool has_entries = a.by_latent.offsets[latent] < a.by_latent.offsets[latent + 1];
    if ((out.accumulate || out.only_listed) && !has_entries) return;
    for (uint64_t column = threadIdx.x * N; column < a.d_in; column += blockDim.x * N) {
        const uint64_t at = latent * a.d_in + column;
        LatentSums<N> sums = sums_of_latent<N>(a, pieces, latent, column);
        if (out.accumulate) {
            add(sums.w_dec, load<N>(out.w_dec + at));
            add(sums.w_enc, load<N>(out.w_enc + at));
            sums.b_enc += column == 0 ? out.b_enc[latent] : 0.0f;
        }
        if (norm.norm_gradient) add_norm_term(sums, load<N>(norm.w_dec + at), norm.decoder_norm[latent]);
        store(out.w_dec + at, sums.w_dec);
        store(out.w_enc + at, sums.w_enc);
        if (column == 0) out.b_enc[latent] = sums.b_enc;
    }
}

template <class T, int N> int gradient_sparse(const cusae_gradient_sparse& a, cusae_stream* stream) {
    const T *gradient = static_cast<const T*>(a.gradient), *input = static_cast<const T*>(a.input);
    const Listed<T> listed{a.lists, a.by_latent, a.pre_gradient, gradient, input, a.norm.norm_gradient, a.rows, a.d_in, a.d_sae};
    Pieces pieces;
    if (int error = piece_sums<N>(listed, &pieces, stream)) return error;
    const dim3 grid(unsigned(a.d_sae));
    return launch(gradient_sparse_kernel<T, N>, grid, threads_for_row(a.d_in, 32, N), 0, stream, listed, pieces, a.norm, a.out);
}

}  // namespace CUSAE_NS

CUSAE_API(gradient_sparse)(const cusae_gradient_sparse* a, cusae_stream* stream) {
    using namespace CUSAE_NS;
    if (int error = refuse_listed(a->lists, a->rows, a->d_in, a->type)) return error;
    return with_packs(a->type, a->d_in, [&](auto packs) {
        using P = decltype(packs);
        return gradient_sparse<typename P::Number, P::kWidth>(*a, stream);
    });
}
