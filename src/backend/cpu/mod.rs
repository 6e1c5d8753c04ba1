//! The CPU backend: what users without a GPU run, and the oracle that every kernel is tested
//! against. One file per operation; rayon over rows or latents in chunks whose borders do not
//! depend on the number of threads, or leave no trace (encoders'), so that the same inputs give the same bits on any
//! machine size.

mod adam;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
mod attention;
mod clip;
mod decode;
mod embed;
mod encode;
mod encode_batch_topk;
mod estimate;
mod firing;
mod fixed;
mod functions;
mod gated;
pub(crate) mod gemm;
#[cfg(target_arch = "x86_64")]
mod gemm_amx;
mod ghost;
mod gradient;
mod jumprelu;
mod layer_norm;
mod linear;
mod lists;
mod matrix;
mod pages;
mod prepare;
mod reduce;
mod sample;
pub(crate) mod simd;
mod sparsity;
mod transpose;
mod unembed;

use super::*;
use crate::machine;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;
use std::time::Instant;

/// The CPU of this machine. All threads of rayon's pool are used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl<T: Element> Buffer for Vec<T> {
    fn len(&self) -> usize {
        Vec::len(self)
    }
}

/// Checks the arguments, then runs the operation.
macro_rules! operations {
    ($($name:ident: $args:ident => $run:path,)*) => {
        $(fn $name(&self, op: $args<'_, Self>) -> Result<()> {
            op.check()?;
            $run(op)
        })*
    };
}

impl Backend for Cpu {
    type Buffer<T: Element> = Vec<T>;
    type Recording = ();

    fn describe(&self) -> String {
        format!("CPU, {} threads", rayon::current_num_threads())
    }

    fn memory(&self) -> Option<Memory> {
        machine::memory()
    }

    /// Threads of the pool that have nothing to do take parts of either one's work.
    fn is_shared(&self) -> bool {
        true
    }

    /// Where they stay in the caches of a small machine.
    fn writes_gradients(&self, len: usize) -> bool {
        len * size_of::<f32>() <= 4 << 20
    }

    fn zeros<T: Element>(&self, len: usize) -> Result<Vec<T>> {
        Ok(bytemuck::zeroed_vec(len))
    }

    fn upload<T: Element>(&self, data: &[T]) -> Result<Vec<T>> {
        /// Elements that a thread copies at least: of fewer it is woken for nothing.
        const ELEMENTS: usize = 1 << 18;
        let mut buffer = pages::with_capacity(data.len());
        if data.len() > ELEMENTS {
            // New memory comes page by page, with a wait for each.
            data.par_iter().copied().with_min_len(ELEMENTS).collect_into_vec(&mut buffer);
        } else {
            buffer.extend_from_slice(data);
        }
        Ok(buffer)
    }

    fn on_host<'a, T: Element>(&self, buffer: &'a Vec<T>) -> Result<Cow<'a, [T]>> {
        Ok(Cow::Borrowed(buffer))
    }

    fn write<T: Element>(&self, to: &mut Vec<T>, offset: usize, data: &[T]) -> Result<()> {
        need("write", "buffer", to.len(), offset + data.len())?;
        to[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn read<T: Element>(&self, from: &Vec<T>, offset: usize, data: &mut [T]) -> Result<()> {
        need("read", "buffer", from.len(), offset + data.len())?;
        data.copy_from_slice(&from[offset..offset + data.len()]);
        Ok(())
    }

    unsafe fn copy_from_address<T: Element>(&self, from: *const T, to: &mut Vec<T>, len: usize) -> Result<()> {
        need("copy", "destination", to.len(), len)?;
        // SAFETY: the caller promises that so many can be read.
        to[..len].copy_from_slice(unsafe { std::slice::from_raw_parts(from, len) });
        Ok(())
    }

    unsafe fn copy_to_address<T: Element>(&self, from: &Vec<T>, to: *mut T, len: usize) -> Result<()> {
        need("copy", "source", from.len(), len)?;
        // SAFETY: the caller promises that so many can be written.
        unsafe { std::slice::from_raw_parts_mut(to, len) }.copy_from_slice(&from[..len]);
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn copy<T: Element>(
        &self,
        from: &Vec<T>,
        from_offset: usize,
        to: &mut Vec<T>,
        to_offset: usize,
        len: usize,
    ) -> Result<()> {
        need("copy", "source", from.len(), from_offset + len)?;
        need("copy", "destination", to.len(), to_offset + len)?;
        to[to_offset..to_offset + len].copy_from_slice(&from[from_offset..from_offset + len]);
        Ok(())
    }

    fn fill<T: Element>(&self, buffer: &mut Vec<T>, value: T) -> Result<()> {
        buffer.fill(value);
        Ok(())
    }

    fn repeat(&self, (): &mut (), work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        work()
    }

    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    }

    operations! {
        embed: Embed => embed::run,
        layer_norm: LayerNorm => layer_norm::run,
        linear: Linear => linear::run,
        activate: Activate => linear::activate,
        attention: Attention => attention::run,
        attention_pattern: AttentionPattern => attention::pattern,
        attention_mix: AttentionMix => attention::mix,
        add: Add => embed::add,
        unembed_cross_entropy: UnembedCrossEntropy => unembed::cross_entropy,
        unembed_kl_divergence: UnembedKlDivergence => unembed::kl_divergence,
        sample_token: SampleToken => sample::run,
        gather_rows: GatherRows => prepare::gather_rows,
        scatter_rows: ScatterRows => prepare::scatter_rows,
        prepare_input: PrepareInput => prepare::run,
        encode_topk: EncodeTopk => encode::topk,
        encode_relu: EncodeRelu => encode::relu,
        encode_batch_topk: EncodeBatchTopk => encode_batch_topk::run,
        encode_jumprelu: EncodeJumpRelu => jumprelu::encode,
        encode_relu_dense: EncodeReluDense => encode::relu_dense,
        encode_dead_topk: EncodeDeadTopk => encode::dead_topk,
        decode_sparse: DecodeSparse => decode::sparse,
        decode_dense: DecodeDense => decode::dense,
        sparsity_lp: SparsityLp => sparsity::lists,
        sparsity_lp_dense: SparsityLpDense => sparsity::dense,
        transpose_lists: TransposeLists => transpose::run,
        jumprelu_gradient: JumpReluGradient => jumprelu::gradient,
        pre_act_loss: PreActLoss => jumprelu::pre_act_loss,
        gate: Gate => gated::run,
        gate_gradient: GateGradient => gated::gradient,
        slice_lists: SliceLists => lists::slice,
        sum_by_latent: SumByLatent => lists::sum_by_latent,
        gradient_values: GradientValues => decode::gradient_values,
        gradient_sparse: GradientSparse => gradient::sparse,
        gradient_squares: GradientSquares => gradient::squares,
        gradient_dense: GradientDense => gradient::dense,
        gradient_b_dec: GradientBDec => gradient::b_dec,
        clip_scale: ClipScale => clip::run,
        adam: Adam => adam::run,
        adam_sparse: AdamSparse => adam::sparse,
        row_norms: RowNorms => reduce::row_norms,
        row_variance: RowVariance => reduce::row_variance,
        scale: Scale => reduce::scale,
        round_bf16: RoundBf16 => matrix::round,
        find_dead: FindDead => firing::find_dead,
        update_firing: UpdateFiring => firing::run,
        note_non_finite: NoteNonFinite => clip::note_non_finite,
        sum: Sum => reduce::sum,
        exponential: Exponential => ghost::exponential,
        ghost_error: GhostError => ghost::error,
    }
}

/// A range in order, so much at a time.
fn pieces(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(most).map(move |first| first..range.end.min(first + most))
}
